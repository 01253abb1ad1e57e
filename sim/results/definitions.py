"""What each number means, shown beside it in every report."""

from __future__ import annotations

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
    "within the objectives; a refused request is not",
    "goodput_requests_per_s": "finished requests per second that attained the objectives",
    "tokens_per_s_per_user": "1 / median TPOT: the speed one user sees",
    "preemptions": "times in the run that a sequence gave up its KV blocks and was computed again later",
    "recomputed_tokens": "tokens of the run computed again after a preemption",
    "usd_per_hour": "amortised purchase, electricity (at the mean power of the run) and hosting, or rent, per hour",
    "usd_per_million_tokens": "USD per hour divided by the tokens generated per hour of the measured window",
    "tokens_per_usd": "the inverse: generated tokens per dollar",
}

LEDGER: dict[str, str] = {
    "compute-bound": "kernels limited by arithmetic",
    "memory-bound": "kernels limited by memory bandwidth",
    "launch and host": "kernel launches and the host's work between kernels",
    "communication": "waiting for data from other GPUs, by kind of link",
    "pipeline bubble": "a stage idle while its batches are at other stages",
    "waiting for work": "no request to work on",
    "spare": "GPUs that no job uses",
}
