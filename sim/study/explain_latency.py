"""Where a latency comes from: of the mean request, and of those at a percentile.

The mean is a sum of means, and told so. A percentile is not: it is that of single requests, which meet other queues and
other batches than the mean one. So the requests whose rank is near the percentile are taken apart, and how far the
percentile is from the mean is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.jobs.serving.recording import ServingRecording
from sim.results.metrics import Table
from sim.results.schema import ServingMetrics, Spread
from sim.run import Outcome
from sim.units import format_count, format_percent, format_seconds

#: Ranks, in percent to both sides, of the requests that are near a percentile.
NEAR = {"p50": 5.0, "p90": 5.0, "p99": 1.0}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a derivation: what, how it is computed, what comes out, and where the inputs are from."""

    name: str
    formula: str
    value: str
    source: str = ""


def served(outcome: Outcome, number: int) -> tuple[ServingRecording, ServingMetrics]:
    """Recording and numbers of a serving job."""
    job, metrics = outcome.recording.jobs[number], outcome.result.jobs[number].metrics
    assert isinstance(job, ServingRecording)
    assert isinstance(metrics, ServingMetrics)
    return job, metrics


def ttft(outcome: Outcome, number: int) -> list[Step]:
    """Queue and prefill of the mean request."""
    job, _ = served(outcome, number)
    table, window = Table.of(job.table), outcome.result.jobs[number].window
    mine = (table.arrival >= window.start_s) & (table.arrival <= window.end_s)
    queue, prefill = (float(np.mean((b - a)[mine])) if mine.any() else 0.0 for a, b in (
        (table.arrival, table.scheduled), (table.scheduled, table.first)
    ))  # fmt: skip
    limits = job.replicas[0].scheduler.limits
    prompt = float(np.mean(table.prompt[mine])) if mine.any() else 0.0
    chunk = min(limits.prefill_chunk, limits.max_tokens)
    way = f"in pieces of at most {chunk:,}: {max(1.0, prompt / chunk):.3g} passes or more"
    if not job.job.spec.batching.kv_cache:
        way = "in one pass"
    return [
        Step("queue, mean", "from arrival to the first pass that carries the request", format_seconds(queue)),
        Step("prefill, mean", f"{format_count(prompt)} tokens {way}", format_seconds(prefill),
             f"stack {job.job.stack.id}, batching of the scenario"),
        Step("TTFT, mean", "queue + prefill", format_seconds(queue + prefill)),
    ]  # fmt: skip


def at_percentile(outcome: Outcome, number: int, metric: str, part: str) -> list[Step]:
    """How far a percentile of ``metric`` is from the mean that was derived, and what the requests near it met."""
    job, metrics = served(outcome, number)
    spread = getattr(metrics, metric)
    assert isinstance(spread, Spread)
    value, mean = getattr(spread, part), spread.mean
    if part not in NEAR or not mean or value is None:
        return []
    table, window = Table.of(job.table), outcome.result.jobs[number].window
    mine = (table.arrival >= window.start_s) & (table.arrival <= window.end_s)
    apart = value / mean - 1.0
    told = f"{format_percent(abs(apart))} {'more' if apart >= 0 else 'less'} than the mean"
    percentile = Step(
        f"simulated, {part}", f"of single requests, each with its own {'queue' if metric == 'ttft_s' else 'batches'}",
        f"{format_seconds(value)}, {told}",
    )  # fmt: skip
    if metric != "ttft_s" or not mine.any():
        return [percentile]
    near = _near(table.first[mine] - table.arrival[mine], float(part[1:]), NEAR[part])
    parts = {"queue": table.scheduled - table.arrival, "prefill": table.first - table.scheduled}
    whose = f"mean of the {int(near.sum()):,} requests within {NEAR[part]:g}% of ranks around {part}"
    return [
        *(Step(f"{name}, {part}", whose, format_seconds(float(seconds[mine][near].mean())))
          for name, seconds in parts.items()),
        percentile,
    ]  # fmt: skip


def _near(values: NDArray[np.float64], percent: float, reach: float) -> NDArray[np.bool_]:
    """Which values lie around a percentile."""
    low, high = np.percentile(values, [max(0.0, percent - reach), min(100.0, percent + reach)])
    near: NDArray[np.bool_] = (values >= low) & (values <= high)
    return near
