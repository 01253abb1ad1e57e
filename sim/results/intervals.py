"""95% confidence intervals: batch means within one run, or replicas with different seeds.

Batch means: the measured window is cut into ten equal parts; if each is longer than the correlations
within, their means are nearly independent and  mean +- t * s / sqrt(10)  covers the long-run mean
(Law and Kelton, Simulation Modeling and Analysis, s9.5). Replicas are independent by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt

import numpy as np

from sim.results.metrics import Table
from sim.results.schema import ServingMetrics, TrainingMetrics, Window

BATCHES = 10
SPEED = "output_tokens_per_s"

# 97.5% points of Student's t by degrees of freedom; beyond 30 the normal's is within 2%.
_T = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
]  # fmt: skip


def t_interval(values: Sequence[float]) -> list[float] | None:
    """[low, high] of the mean of independent values at 95%; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    deviation = sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = (_T[n - 2] if n - 2 < len(_T) else 1.96) * deviation / sqrt(n)
    return [mean - half, mean + half]


#: Numbers that are shares: no interval of theirs ends above 1.
SHARES = frozenset((
    "kv_occupancy_mean", "kv_occupancy_peak", "kv_blocked_fraction", "utilisation_mean", "slo_attainment", "mfu", "hfu",
    "availability", "prefix_hit_rate", "billed_fraction", "bubble_fraction", "exposed_communication_fraction",
    "recompute_fraction", "ettr", "goodput",
))  # fmt: skip


def possible_interval(name: str, values: Sequence[float]) -> list[float] | None:
    """:func:`t_interval`, cut off at what the number cannot be: below 0 where nothing is, of a share above 1.

    Student's interval is symmetric and knows no bounds; near one it reaches over. What is cut off holds no value, so
    the rest covers the mean as often.
    """
    found = t_interval(values)
    if found is None:
        return None
    low, high = found
    if min(values) >= 0.0:
        low = max(0.0, low)
    if name.partition(".")[0] in SHARES and max(values) <= 1.0:
        high = min(1.0, high)
    return [low, high]


def batch_means(table: Table, window: Window) -> dict[str, list[float]]:
    """Intervals of one run's throughput and of the mean and median latencies, by metric path."""
    edges = np.linspace(window.start_s, window.end_s, BATCHES + 1)
    pairs = list(pairwise(float(edge) for edge in edges))
    if window.end_s <= window.start_s:
        return {}
    found: dict[str, list[float] | None] = {
        SPEED: possible_interval(SPEED, [table.output_tokens(a, b) / (b - a) for a, b in pairs]),
    }
    columns = {
        "ttft_s": table.first - table.arrival,
        "tpot_s": table.tpot,
        "latency_s": table.finish - table.arrival,
    }
    inside = (table.arrival >= window.start_s) & (table.arrival <= window.end_s)
    for name, values in columns.items():
        parts = [x for x in np.array_split(values[inside & ~np.isnan(values)], BATCHES) if len(x)]
        if len(parts) == BATCHES:
            found[f"{name}.mean"] = possible_interval(name, [float(x.mean()) for x in parts])
            found[f"{name}.p50"] = possible_interval(name, [float(np.median(x)) for x in parts])
    return {name: interval for name, interval in found.items() if interval is not None}


def across_seeds(runs: Sequence[ServingMetrics | TrainingMetrics]) -> dict[str, list[float]]:
    """Intervals of every number over independent runs, by metric path; of training those that differ at all."""
    columns: dict[str, list[float]] = {}
    for run in runs:
        for name, value in _numbers(run.model_dump()):
            columns.setdefault(name, []).append(value)
    fixed = {name for name, values in columns.items() if isinstance(runs[0], TrainingMetrics) and len({*values}) == 1}
    whole = {name: values for name, values in columns.items() if len(values) == len(runs) and name not in fixed}
    found = {name: possible_interval(name, values) for name, values in whole.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _numbers(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            rows.append((f"{prefix}{name}", float(value)))
    return rows
