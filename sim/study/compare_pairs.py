"""Differences over pairs of runs: which metrics grow with a cluster, which way is better, and what is sure.

Runs with the same seed draw the same requests (common random numbers), so that the noise they share cancels in their
difference: its interval is Student's t over the pairs (Law and Kelton, Simulation Modeling and Analysis, s10.2 and
s11.2). The relative difference is the ratio of the two means; its interval is that of the residuals
x - (mean x / mean b) b over the mean of b (Cochran, Sampling Techniques, s6.4), which is exact where every x is the
same multiple of its b.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from sim.results.intervals import t_interval
from sim.study.compare_schema import Difference, Estimate, Verdict

ROUNDING: Final = 1e-9
"""Relative difference of two numbers that are the same but for rounding."""

EXTENSIVE: Final = frozenset({
    "output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "goodput_requests_per_s", "tokens_per_s",
    "samples_per_s", "goodput_tokens_per_s", "usd_per_hour", "capital_usd", "income_usd_per_hour",
    "running_usd_per_hour", "power_w", "gpus",
})  # fmt: skip
"""Metrics that are k times as large for k copies of a cluster with its load; all others stay as they are."""
BETTER: Final[dict[str, int]] = {
    **dict.fromkeys((
        "output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "goodput_requests_per_s", "slo_attainment",
        "tokens_per_s_per_user", "availability", "tokens_per_usd", "tokens_per_s", "tokens_per_s_per_gpu",
        "samples_per_s", "mfu", "ettr", "ettr_expected", "goodput_tokens_per_s", "mtbf_s", "income_usd_per_hour",
    ), 1),
    **dict.fromkeys((
        "ttft_s", "tpot_s", "inter_token_s", "latency_s", "queue_s", "rejected_requests", "kv_blocked_fraction",
        "preemptions", "recomputed_tokens", "failures", "outages", "outage_s", "restarted_requests",
        "failed_requests", "lost_tokens", "lost_kv_tokens", "usd_per_hour", "usd_per_million_tokens", "capital_usd",
        "running_usd_per_hour", "payback_months", "power_w", "kwh_per_million_tokens", "gpu_s_per_million_tokens",
        "step_time_s", "bubble_fraction", "exposed_communication_s", "exposed_communication_fraction", "optimizer_s",
        "recompute_fraction",
        "days_to_target", "gpu_hours_to_target", "usd_to_target", "kwh_to_target", "staleness_mean",
        "staleness_max", "lost_work_s", "recovery_s", "checkpoint_blocking_s", "checkpoint_persist_s",
    ), -1),
}  # fmt: skip
"""1: more is better, -1: less is; what is not listed has no better side."""


def difference(name: str, mine: Sequence[float], base: Sequence[float]) -> Difference:
    """A metric of a scenario less the baseline's, run by run; a sequence of one stands for all runs of the other.

    The interval is Student's t over the pairs; a difference between two runs that nothing random touches is exact.
    """
    pairs = max(len(mine), len(base))
    a, b = ([*values] * (pairs // len(values)) for values in (mine, base))
    gaps = [0.0 if math.isclose(x, y, rel_tol=ROUNDING) else x - y for x, y in zip(a, b, strict=True)]
    absolute = estimate(gaps)
    mean, centre = sum(a) / pairs, sum(b) / pairs
    same = {"mean": 0.0} if math.isclose(mean, centre, rel_tol=ROUNDING) else {}
    absolute = absolute.model_copy(update=same)
    relative = None
    if centre:
        ratio = mean / centre
        relative = estimate([ratio - 1 + (x - ratio * y) / centre for x, y in zip(a, b, strict=True)])
        relative = relative.model_copy(update=same)
    return Difference(absolute=absolute, relative=relative, verdict=_verdict(name, absolute))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95% interval (Student's t); of equal values the interval is the value."""
    if len({*values}) == 1:
        low = high = None if len(values) == 1 else values[0]
        return Estimate(mean=values[0], low=low, high=high)
    interval = t_interval(values)
    low, high = interval or (None, None)
    return Estimate(mean=sum(values) / len(values), low=low, high=high)


def _verdict(name: str, gap: Estimate) -> Verdict:
    unclear = gap.mean == 0 if gap.low is None or gap.high is None else gap.low <= 0 <= gap.high
    if unclear:
        return "no clear difference"
    side = BETTER.get(metric_of(name), 0)
    if not side:
        return "differs"
    return "better" if gap.mean * side > 0 else "worse"


def metric_of(path: str) -> str:
    """The metric of a path: ``ttft_s`` of ``jobs.0.ttft_s.p50``."""
    parts = path.split(".")
    return parts[2] if parts[0] == "jobs" else parts[0]


def waterfall(mine: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    """By bucket, what a scenario has more than the baseline; it adds up to the difference of the two."""
    return {bucket: mine.get(bucket, 0.0) - base.get(bucket, 0.0) for bucket in {**base, **mine}}
