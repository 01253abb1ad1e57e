"""The verdict: is it stable, what binds, what does not, and what to beware of.

State, over the time in which requests come, its first tenth left out (closed loops: the measured window).
*Overloaded*: fewer than 95% of the arrivals were answered and the queue grew. *Disrupted*: an outage of replicas fell
into it, and left more than a hundredth of the requests unanswered, or a queue as too much load would. *Saturated*: a
request waited to be let in for more than half of the time, though the GPUs had work for four fifths of it. *Stable*
otherwise.

What binds is read off the ledger and ranked by what relieving it was found to give; what does not bind is found
by running again with one resource improved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.jobs.play import Recording
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.serving.uncached import UncachedScheduler
from sim.jobs.training.run import TrainingRecording
from sim.laws.memory import pass_bytes
from sim.laws.topology_parts import NETWORK
from sim.results.incidents import ended
from sim.results.metrics import Table, sums_at
from sim.results.schema import Effect, Incident, ServingMetrics, State, TrainingMetrics, Verdict, Window
from sim.units import format_bytes, format_count, format_percent, format_seconds

#: Share of requests given up above which a run is disrupted.
LOST = 0.01
# A change below this share is no change.
NOTHING = 0.01
#: Error of the memory model that a reader should keep in mind.
MEMORY_BAND = 0.10
#: Tokens of the largest steps of published runs (Llama 3.1 405B: 16 M).
LARGE_BATCH_TOKENS = 16_777_216
#: Share of peak that no published training run exceeds (shared data: anything above is suspect).
IMPLAUSIBLE = 0.85
IDLE = ("waiting for work", "switched off", "spare")
BINDS = {
    "compute-bound": "GPU arithmetic",
    "memory-bound": "HBM bandwidth",
    "launch and host": "kernel launches and the host",
    "pipeline bubble": "pipeline bubbles",
    "waiting for slow ranks": "slow ranks",
    "data loading": "data loading",
    "checkpoint saving": "checkpoint saving",
    "lost work redone": "work lost to failures",
    "degraded speed": "degraded speed",
    "stalled": "stalls",
    "cut off": "passes cut off by failures",
    "elastic resizing": "resizing the job",
    "migration": "moves to other nodes",
    "start-up": "start-up",
    "failure detection": "failure detection",
    "restart": "restarts",
    "waiting for repair": "repair of nodes",
}
#: The improvement of what a GPU waits for between kernels: their launches, the engine's or the framework's own time.
HOST = "launches and host time"
# What binds -> the improvement that would relieve it. Training names the axis too: "network: tp over nvlink".
RELIEF = {
    "KV memory": "memory capacity", "GPU arithmetic": "GPU arithmetic", "HBM bandwidth": "memory bandwidth",
    "kernel launches and the host": HOST, "network: nvlink": "nvlink bandwidth",
    "work lost to failures": "failures", "restarts": "recovery time", "failure detection": "recovery time",
    "network: pcie": "pcie bandwidth", "network: PCIe": "pcie bandwidth", "network: ethernet": "network bandwidth",
}  # fmt: skip


def state_of(table: Table, window: Window, closed: bool, idle: float) -> State:
    """Stable, saturated or overloaded (the rules are the module's); ``idle``: share of time without work."""
    a, b = window.start_s, window.end_s
    if not len(table):
        return "overloaded"
    if not closed:
        a, b = float(table.arrival[len(table) // 10]), float(table.arrival[-1])
        if b <= a:
            return "saturated"
    came = float(((table.arrival > a) & (table.arrival <= b)).sum())
    left = float(((table.finish > a) & (table.finish <= b)).sum())
    edges = np.array([a, b])
    waiting = sums_at(edges, table.arrival, table.scheduled, np.ones(len(table)))
    grew = float(waiting[1] - waiting[0])
    if not closed and came and left < 0.95 * came and grew > max(5.0, 0.02 * came):
        return "overloaded"
    if idle < 0.2 and _covered(table, a, b) > 0.5 * (b - a):
        return "saturated"
    return "stable"


def disrupted(state: State, incidents: Sequence[Incident], metrics: ServingMetrics, window: Window) -> State:
    """The same, or *disrupted* where outages, not the load, explain it."""
    met = any(one.start_s < window.end_s and one.up_s > window.start_s for one in incidents)
    asked = metrics.completed_requests + (metrics.failed_requests or 0)
    lost = (metrics.failed_requests or 0) > LOST * asked
    return "disrupted" if met and (state != "stable" or lost) else state


def _covered(table: Table, a: float, b: float) -> float:
    """Seconds of [a, b] in which some request waited to be let in."""
    start, end = np.clip(table.arrival, a, b), np.clip(table.scheduled, a, b)
    order = np.argsort(start, kind="stable")
    covered, reached = 0.0, a
    for s, e in zip(start[order], end[order], strict=True):
        if e > reached:
            covered += e - max(s, reached)
            reached = e
    return float(covered)


def binding(ledger: dict[str, float], metrics: list[ServingMetrics], states: list[State]) -> list[str]:
    """What binds, most first: memory for KV where requests wait for it, then the ledger's larger buckets."""
    found = []
    blocked = max((m.kv_blocked_fraction for m in metrics), default=0.0)
    if blocked > 0.3:
        found.append(f"KV memory (requests wait for it {format_percent(blocked)} of the time)")
    total = sum(v for k, v in ledger.items() if k != "spare")
    waiting = ledger.get("waiting for work", 0.0)
    if total and waiting / total > 0.5 and "overloaded" not in states:
        found.append(f"the load (GPUs wait for work {format_percent(waiting / total)} of the time)")
    busy = sorted(((v, k) for k, v in ledger.items() if k not in IDLE), reverse=True)
    working = sum(v for v, _ in busy)
    for seconds, bucket in busy:
        if working and seconds / working >= 0.15:
            found.append(f"{_name(bucket)} ({format_percent(seconds / total)} of GPU time)")
    return found or ["nothing: no GPU worked"]


def ranked(binds: list[str], effects: list[Effect], shares: dict[str, float] | None = None) -> list[str]:
    """The same, those first whose relief was found to help most, which is told; one that does not help alone says so.

    ``shares`` of GPU time rank those whose relief was not tried.
    """
    found_by = {e.resource: e for e in effects}
    found = []
    half = {name: share / (2.0 - share) for name, share in (shares or {}).items()}
    for line in binds:
        relief = next((better for name, better in RELIEF.items() if line.startswith(name)), "") or _relief_of_axis(line)
        effect = found_by.get(relief)
        if effect is None:  # nothing was tried: what half of its time would give
            gain, told = next((value for name, value in half.items() if line.startswith(name)), 0.0), line
        else:
            gain, told = _gain(effect), _with_gain(line, effect)
        found.append((gain, told))
    return [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _gain(effect: Effect) -> float:
    """What an improvement gives: more tokens/s, or less time a token."""
    return max(effect.relative, -(effect.tpot_p50_relative or 0.0))


def _with_gain(line: str, effect: Effect) -> str:
    """What binds with what its relief gives: "HBM bandwidth (50% of GPU time; memory bandwidth x2: +40.0% tok/s)"."""
    if _is_nothing(effect):
        return f"{line}, though {effect.resource} {effect.change} alone changes nothing"
    gain, tpot = _gain(effect), effect.tpot_p50_relative or 0.0
    what = f"{_signed(tpot)} TPOT" if gain > effect.relative else f"{_signed(effect.relative)} tok/s"
    return f"{line.removesuffix(')')}; {effect.resource} {effect.change}: {what})"


def _relief_of_axis(line: str) -> str:
    """The improvement of the link that an axis talks over."""
    kinds = {"nvlink": "nvlink bandwidth", "pcie": "pcie bandwidth", "PCIe": "pcie bandwidth"}
    kinds |= dict.fromkeys(NETWORK, "network bandwidth")
    _, over, link = line.partition(" over ")
    return kinds.get(link.split(" ")[0], "") if line.startswith("network: ") and over else ""


def _shares(ledger: dict[str, float]) -> dict[str, float]:
    """Share of the jobs' GPU time of everything that can bind, under the name it is told by."""
    total = sum(v for k, v in ledger.items() if k != "spare")
    return {_name(bucket): seconds / total for bucket, seconds in ledger.items() if total and bucket not in IDLE}


def _name(bucket: str) -> str:
    """A bucket of the ledger as something that binds."""
    if bucket.startswith("communication"):
        return "network: " + bucket.removeprefix("communication").removeprefix(": ")
    return BINDS.get(bucket, bucket)


def _is_nothing(effect: Effect) -> bool:
    changes = [effect.relative, effect.ttft_p50_relative or 0.0, effect.tpot_p50_relative or 0.0]
    return all(abs(c) < NOTHING for c in changes)


def not_binding(effects: list[Effect]) -> list[str]:
    """One line for each improvement that changes neither throughput nor latency by a percent."""
    return [
        f"{e.resource} {e.change} changes tok/s by {_signed(e.relative)}"
        + ("" if e.tpot_p50_relative is None else f", TPOT by {_signed(e.tpot_p50_relative)}")
        for e in effects
        if _is_nothing(e)
    ]


def _signed(change: float) -> str:
    return "less than 0.1%" if abs(change) < 0.001 else f"{100 * change:+.1f}%"


def warnings_of(recording: Recording, jobs: list[tuple[ServingRecording, ServingMetrics, State]]) -> list[str]:
    """What a reader should know before trusting the numbers."""
    lines = []
    unchecked = recording.resolved.scenario.assume.kv_capacity == "unchecked"
    for job, metrics, state in jobs:
        spec = job.job.spec
        tight = min(
            max(0.0, m.kv_budget) / m.capacity for r in job.layout.replicas for s in r for m in s.memory.values()
        )
        if not spec.batching.kv_cache:
            lines += _crowded(job)
        elif tight < 0.1 and not unchecked:
            lines.append(
                f"{spec.name}: the KV cache has {format_percent(tight)} of a GPU's memory; an error of 1 GB in what "
                "the engine keeps back moves the batch by a lot"
            )
        if job.too_long:
            lines.append(
                f"{spec.name}: {job.too_long:,} of {len(job.table):,} requests exceed the {job.job.model.context:,} "
                f"tokens of context of {job.job.model.id} and are rejected"
            )
        if metrics.failed_requests:
            lines.append(
                f"{spec.name}: {metrics.failed_requests:,} of {len(job.table):,} requests were given up: replicas died "
                f"({metrics.lost_tokens or 0:,} tokens of their answers were out)"
            )
        if job.cut:
            lines.append(
                f"{spec.name}: {job.cut:,} of {len(job.table):,} prompts are cut so that prompt and answer fit the "
                f"{job.job.model.context:,} tokens of context"
            )
        others = metrics.rejected_requests - job.too_long
        if others > 0:
            lines.append(f"{spec.name}: {others:,} requests are larger than the whole KV cache and are rejected")
        if state == "overloaded":
            lines.append(
                f"{spec.name}: overloaded: requests come {_ratio(job, metrics)} as fast as they are answered; "
                "latencies grow with the length of the run and say nothing else"
            )
        if state == "disrupted":
            lines.append(
                f"{spec.name}: outages left a queue or requests unanswered; latencies hang on when they fell, and what "
                "the load alone does is told by the same run without faults"
            )
        if unmet := _unmet(job):
            lines.append(unmet)
        if spec.plan.pp >= 4:
            lines.append(f"{spec.name}: pipelines of four and more stages are not validated for decode-heavy loads")
        chunk = spec.batching.prefill_chunk or spec.batching.max_batched_tokens or job.job.stack.max_batched_tokens
        slow = [s.hop for r in job.replicas for s in r.stages if s.hop and s.hop.cap <= 0.13e9]
        if slow and chunk > 128 and spec.batching.kv_cache:
            lines.append(
                f"{spec.name}: prompts travel in pieces of up to {chunk} tokens over at most 1 Gbit/s; pieces of "
                "32-128 (batching.prefill_chunk) keep them from blocking the pipeline"
            )
        if any(s.link == "PCIe through host memory" for r in job.replicas for s in r.stages):
            lines.append(
                f"{spec.name}: tensor parallelism without P2P goes through host memory; its bandwidth is a judgement "
                "(4-12 GB/s), not a measurement"
            )
    return lines


def _crowded(job: ServingRecording) -> list[str]:
    """Passes without a KV cache that work on more than the memory beside the weights holds."""
    schedulers = [r.scheduler for r in job.replicas]
    largest = max(s.largest for s in schedulers if isinstance(s, UncachedScheduler))
    plan = job.job.spec.plan
    need = pass_bytes(job.job.model, plan.slices, largest) * plan.slices / plan.tp
    room = min(m.kv_budget + m.reserve for r in job.layout.replicas for s in r for m in s.memory.values())
    if need <= room:
        return []
    return [
        f"{job.name}: a pass of {largest:,} tokens works on {format_bytes(need)} of activations a GPU, "
        f"{format_bytes(max(0.0, room))} are left beside the weights: an engine would run out of memory "
        "(batching.max_sequences bounds a pass)"
    ]


def _unmet(job: ServingRecording) -> str:
    """Recorded faults that met no replica."""
    if job.incidents is None or not job.incidents.recorded:
        return ""
    met, all_ = sum(time <= ended(job) for time, _ in job.incidents.met), job.incidents.recorded
    if met == all_:
        return ""
    return (
        f"{job.name}: {all_ - met:,} of {all_:,} recorded faults met no replica: they came after the last answer, or "
        "struck what the job does not use"
    )


def _ratio(job: ServingRecording, metrics: ServingMetrics) -> str:
    table = Table.of(job.table)
    span = float(table.arrival.max() - table.arrival.min()) if len(table) else 0.0
    rate = len(table) / span if span > 0 else 0.0
    return f"{rate / metrics.requests_per_s:.1f} times" if metrics.requests_per_s else "much"


def training_warnings(job: TrainingRecording, metrics: TrainingMetrics, *, unchecked: bool = False) -> list[str]:
    """What a reader of a training job's numbers should know; ``unchecked``: memory is out of the question."""
    spec, lines = job.job.spec, []
    if 1.0 - metrics.memory_peak_fraction < MEMORY_BAND and not unchecked:
        left = max(0.0, 1.0 - metrics.memory_peak_fraction)
        lines.append(
            f"{job.name}: {format_percent(left)} of a GPU's memory is left; the memory model is good to about "
            f"{format_percent(MEMORY_BAND)}, so it may not fit"
        )
    stages = spec.plan.pp * spec.plan.vpp
    if spec.plan.pp > 1 and metrics.micro_batches < spec.plan.pp:
        lines.append(
            f"{job.name}: {metrics.micro_batches} micro-batches do not fill {stages} pipeline stages: the global batch "
            f"is below pp x dp x micro = {spec.plan.pp * spec.plan.dp * spec.batch.micro}"
        )
    if metrics.global_batch_tokens > LARGE_BATCH_TOKENS:
        lines.append(
            f"{job.name}: a step of {format_count(metrics.global_batch_tokens)} tokens is more than the "
            f"{format_count(LARGE_BATCH_TOKENS)} that published runs use: more steps might learn more"
        )
    if metrics.mfu > IMPLAUSIBLE and job.job.stack.id != "ideal":
        lines.append(f"{job.name}: {format_percent(metrics.mfu)} of peak is more than anyone has measured")
    plan = spec.plan
    if job.ignored:
        lines.append(
            f"{job.name}: it shares links with {' and '.join(job.ignored)}, but its steps are taken to have them for "
            "themselves, as those of jobs among failures and of streamed pipelines are"
        )
    if plan.parameter_server is not None and plan.parameter_server.staleness != 0:
        lines.append(f"{job.name}: workers use stale weights; what that does to convergence is not modelled")
    helpless = job.reliability.without_checkpoint() if job.reliability is not None else []
    if helpless and spec.policy != "elastic":
        lines.append(
            f"{job.name}: no checkpoint outlives {', '.join(helpless)}: each time the run begins anew; save to a store "
            "too (checkpoint.then)"
        )
    return lines


def verdict_of(
    states: list[State], ledger: dict[str, float], metrics: list[ServingMetrics], trained: list[TrainingMetrics],
    effects: list[Effect], warn: list[str],
) -> Verdict:  # fmt: skip
    """The answer in a few lines."""
    order: list[State] = ["stable", "saturated", "overloaded", "disrupted"]
    state = max(states, key=order.index)
    binds = ranked(binding(ledger, metrics, states), effects, _shares(ledger))
    facts = []
    if metrics:
        facts.append(f"{state} at {format_count(sum(m.requests_per_s for m in metrics))} req/s")
    up = [m.availability for m in metrics if m.availability is not None]
    facts += [f"replicas are up {format_percent(share)} of the time" for share in up]
    for t in trained:
        facts.append(f"a step takes {format_seconds(t.step_time_s)} (MFU {format_percent(t.mfu)})")
        if t.ettr is not None:
            facts.append(f"{format_percent(t.ettr)} of the time is progress")
    sentence = f"{', '.join(facts)}; bound by {', then '.join(binds[:2])}"
    return Verdict(
        state=state,
        sentence=sentence,
        bottleneck=binds[0],
        binding=binds,
        not_binding=not_binding(effects),
        effects=effects,
        warnings=warn,
    )
