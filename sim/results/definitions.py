"""What each number means, shown beside it in every report."""

from __future__ import annotations

MONEY: dict[str, str] = {
    "usd_per_million_tokens_by_use": "USD per million tokens if the cluster were paid for only while there is work",
    "fixed_usd_per_hour": "what runs on without work: everything but the electricity above idle power",
    "committed_usd": "rent of what is reserved over its whole term, used or not",
    "billed_fraction": "share of machine time that is paid for: spot machines are not while they are gone, nor those "
    "that are not reserved while they are handed back",
    "api_usd_per_million_tokens": "what an API asks for a million generated tokens (cost.api_price)",
    "api_price_ratio": "that over USD per million tokens: above one, the cluster is cheaper",
    "occupancy": "share of all hours that somebody pays for (cost.income)",
    "income_usd_per_hour": "what is earned in the mean hour: rent of the GPUs, or tokens at an API's price, times the "
    "occupancy (cost.income)",
    "running_usd_per_hour": "electricity and hosting of the mean hour, idle where it is not occupied; not the purchase",
    "payback_months": "months of 730 h until income less running costs has paid for the purchase, and the interest on "
    "what is still owed",
}

METRICS: dict[str, str] = {
    "output_tokens_per_s": "generated tokens per second in the measured window; a request's tokens count "
    "evenly between its first and its last token",
    "total_tokens_per_s": "prompt and generated tokens per second; a prompt counts when its first token is out",
    "requests_per_s": "requests finished in the measured window, per second",
    "completed_requests": "requests finished in the whole run",
    "rejected_requests": "requests refused because prompt and answer exceed the model's context or the KV cache",
    "measured_requests": "requests that arrived in the measured window; latencies are taken over these",
    "ttft_s": "time to first token: from arrival to the end of the pass that finished the prompt, queueing included",
    "tpot_s": "time per output token of a request: (latency - TTFT) / (n - 1), for n > 1 tokens",
    "inter_token_s": "time between consecutive tokens of a request, over all tokens of the run: a prompt that rides "
    "along or a preemption shows here, while TPOT averages over a request (percentiles to 0.25%)",
    "latency_s": "from arrival to the last token",
    "queue_s": "from arrival to the start of the first pass that carried the request",
    "batch_size_mean": "sequences in a pass, averaged over the passes of the run weighted by their time",
    "kv_occupancy_mean": "share of the KV cache that holds tokens, averaged over the measured window",
    "kv_occupancy_peak": "largest share of the KV cache in use, in a bin of the timeline",
    "kv_blocked_fraction": "share of the run in which a request waited only because no KV block was free",
    "utilisation_mean": "share of GPU time of the run spent computing (compute-bound, memory-bound and launches)",
    "slo_attainment": "share of requests that came in the measured window and whose own TTFT, TPOT and latency are "
    "within the objectives; a request that was refused or given up is not",
    "goodput_requests_per_s": "finished requests per second that attained the objectives",
    "tokens_per_s_per_user": "1 / median TPOT: the speed one user sees",
    "preemptions": "times in the run that a sequence gave up its KV blocks and was computed again later",
    "recomputed_tokens": "tokens of the run computed again after a preemption; without a KV cache all of a context but "
    "its newest token, in each pass",
    "failures": "faults that met the job, all effects",
    "failures_by_class": "the same by class",
    "outages": "times in the run that a replica went down",
    "availability": "share of the run that replicas were up, their mean",
    "outage_s": "seconds from a replica's failure until it serves again, mean over outages",
    "restarted_requests": "requests that a replica held when it died, running or waiting",
    "failed_requests": "requests given up because replicas died",
    "lost_tokens": "tokens generated for requests that were then given up",
    "lost_kv_tokens": "tokens whose KV cache died with its replica; those of requests that are sent again are computed "
    "again",
    "prefix_hit_rate": "share of prompt tokens that were in the prefix cache, or stored beside it, when a request was "
    "let in, over the run",
    "fetched_tokens": "of these the tokens whose KV came from host memory or NVMe",
    "kv_transfer_bytes": "bytes of KV cache that went from replicas that compute prompts to those that generate tokens",
    "kv_transfer_s": "seconds from a request's admission to a replica that generates tokens until its KV cache is "
    "there, mean",
    "replicas_mean": "replicas that were on, starting ones included, mean over the run",
    "replicas_started": "times that a replica was started after the first ones",
    "usd_per_hour": "amortised purchase, electricity (at the mean power of the run) and hosting, or rent, per hour",
    "usd_per_million_tokens": "USD per hour divided by the tokens generated per hour of the measured window",
    "tokens_per_usd": "the inverse: generated tokens per dollar",
} | MONEY

TRAINING_METRICS: dict[str, str] = {
    "step_time_s": "seconds from the first forward pass of a step to the first of the next; beside other jobs the mean "
    "over the run",
    "tokens_per_s": "tokens trained on per second: global batch times sequence length over the step's time",
    "tokens_per_s_per_gpu": "the same divided by all GPUs of the job",
    "samples_per_s": "sequences trained on per second",
    "mfu": "model FLOPs utilisation: model FLOPs per token times tokens/s over the dense peak of the training format "
    "(6 FLOP a weight of layers and head and token, causal attention, nothing recomputed; 4 for a frozen weight)",
    "hfu": "hardware FLOPs utilisation: what kernels really compute, recomputation and unfused attention included, "
    "over the same peak",
    "model_flops_per_token": "FLOP a token needs for forward and backward: 6 N + 6 L s a hd, N the active weights of "
    "layers and output head, attention causal",
    "bubble_fraction": "share of GPU time that stages wait for their turn in the pipeline (hops are communication)",
    "exposed_communication_s": "seconds of a step in which a GPU waits for communication, mean over GPUs, by axis",
    "exposed_communication_fraction": "the sum of these over the step's time",
    "sent_bytes_per_gpu": "bytes a GPU sends in a step, hidden or not, by axis (ring volumes)",
    "optimizer_s": "seconds of a step that the update of weights takes, mean over stages",
    "recompute_fraction": "share of kernel time that computes activations again",
    "memory_peak_bytes": "bytes used on the GPU with the least memory left, at the worst moment of a step",
    "memory_peak_fraction": "the same over that GPU's usable memory",
    "utilisation_mean": "share of GPU time of the run spent computing (compute-bound, memory-bound and launches)",
    "micro_batches": "micro-batches a replica runs in a step (gradient accumulation)",
    "global_batch_tokens": "tokens of one step",
    "steps": "steps of the run",
    "tokens": "tokens of the run",
    "target_tokens": "tokens that the days, hours and dollars below are told for (run.target_tokens, or run.tokens)",
    "target_flops": "model FLOPs of the target",
    "days_to_target": "days to train on the target's tokens at this rate; at the goodput where failures or checkpoints "
    "are simulated",
    "gpu_hours_to_target": "the same times the GPUs that train",
    "usd_to_target": "the same at the cost per hour",
    "kwh_to_target": "the same at the mean power",
    "staleness_mean": "updates that a worker's weights lag behind when it begins a step, mean (parameter server)",
    "staleness_max": "the largest lag",
    "ettr": "effective training time ratio: time that the work up to the furthest point takes, each of it once, over "
    "the wall time of the run; saving, work done again, recovery and lower speed are not in it",
    "ettr_expected": "the same by Daly's law from the mean recovery and the rate of failures, where nothing but stops, "
    "restarts and blocking checkpoints plays a part",
    "goodput_tokens_per_s": "tokens a second that count: tokens/s of a step times the effective training time ratio",
    "failures": "faults that met the job, all effects",
    "failures_by_class": "the same by class",
    "mtbf_s": "mean seconds between faults that stop the job, from the rates of all its GPUs, nodes and switches",
    "lost_work_s": "work done since the last durable checkpoint and lost, mean over stops (s of undisturbed training)",
    "recovery_s": "detection, restart and waiting for repair, mean over stops",
    "spares_used": "most nodes away for repair at once, of those that stand by",
    "checkpoints": "checkpoints taken",
    "checkpoint_interval_s": "seconds of undisturbed training between two of them",
    "checkpoint_bytes": "bytes of one: weights and optimizer state of the whole job",
    "checkpoint_blocking_s": "seconds that training stands still for one",
    "checkpoint_persist_s": "seconds that it is then written beside the training, until it is durable",
    "checkpoint_levels": "the same of each level where there are several; the four before this are those of the first",
    "usd_per_hour": "amortised purchase, electricity (at the mean power of the run) and hosting, or rent, per hour",
    "usd_per_million_tokens": "USD per hour divided by the tokens trained on per hour",
    "tokens_per_usd": "the inverse: tokens trained on per dollar",
} | MONEY

LEDGER: dict[str, str] = {
    "compute-bound": "kernels limited by arithmetic",
    "memory-bound": "kernels limited by memory bandwidth",
    "launch and host": "kernel launches and the host's work between kernels",
    "communication": "waiting for data from other GPUs, by kind of link",
    "pipeline bubble": "a stage idle while its batches are at other stages",
    "waiting for slow ranks": "waiting for a slower GPU of the same group or replica",
    "data loading": "waiting for the next batch of data",
    "checkpoint saving": "standing still for checkpoints, and what their writing slows",
    "lost work redone": "work done again that a failure had undone",
    "degraded speed": "what slow GPUs or absent replicas cost",
    "stalled": "held up by a fault that passed",
    "cut off": "passes that a failure ended before they were done",
    "failure detection": "until a failure is noticed and its cause known",
    "restart": "replacing nodes, launching, connecting, loading the checkpoint",
    "waiting for repair": "no spare node was left",
    "elastic resizing": "going on without a replica, and taking it back",
    "migration": "standing still while other nodes take over from those that will go",
    "start-up": "the first launch of the job",
    "waiting for work": "no request to work on, or the job is over",
    "switched off": "replicas that the load does not want",
    "spare": "GPUs that no job uses",
}


def definitions_of(kinds: set[str]) -> dict[str, str]:
    """The definitions that a Result with jobs of these kinds needs; where both kinds have one, both are told."""
    found: dict[str, str] = {}
    for kind, texts in (("serving", METRICS), ("training", TRAINING_METRICS)):
        if kind in kinds:
            for name, text in texts.items():
                known = found.get(name)
                found[name] = text if known in (None, text) else f"serving: {known}; training: {text}"
    return found | LEDGER
