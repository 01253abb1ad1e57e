"""A histogram of durations that costs the same for a thousand values and for a billion.

Bins are half a percent wide (geometric), so percentiles are right to a quarter of a percent; the mean is
exact. Runs of passes whose durations grow evenly are added by the thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, floor, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEP = log(1.005)


class Durations:
    """Counts of positive durations, in seconds."""

    __slots__ = ("counts", "number", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.number = 0
        self.total = 0.0

    def add(self, seconds: float, times: int) -> None:
        """Count ``seconds`` ``times`` times."""
        if seconds <= 0.0:
            return
        index = floor(log(seconds) / STEP)
        self.counts[index] = self.counts.get(index, 0) + times
        self.number += times
        self.total += seconds * times

    def add_many(self, seconds: Floats, times: Ints) -> None:
        """Count many durations, in their order: ``add`` for each."""
        keep = (seconds > 0.0) & (times > 0)
        self._count(seconds[keep], times[keep])
        self.total = float(np.cumsum(np.concatenate(([self.total], (seconds * times)[keep])))[-1])

    def add_runs(self, first: Floats, growth: Floats, passes: Ints, times: Ints) -> None:
        """Count every pass of many runs: pass i of run r lasts first[r] + growth[r] * i, ``times[r]`` times."""
        run = np.repeat(np.arange(len(passes)), passes)
        within = np.arange(len(run)) - np.repeat(np.cumsum(passes) - passes, passes)
        seconds = first[run] + growth[run] * within
        weights = times[run]
        keep = (seconds > 0.0) & (weights > 0)
        seconds, weights = seconds[keep], weights[keep]
        self._count(seconds, weights)
        self.total += float((seconds * weights).sum())

    def _count(self, seconds: Floats, weights: Ints) -> None:
        if not len(seconds):
            return
        indices = np.floor(np.log(seconds) / STEP).astype(np.int64)
        lowest = int(indices.min())
        for i, count in enumerate(np.bincount(indices - lowest, weights=weights).tolist()):
            if count:
                self.counts[lowest + i] = self.counts.get(lowest + i, 0) + int(count)
        self.number += int(weights.sum())


def merged(parts: Iterable[Durations]) -> Durations:
    """All counts together."""
    whole = Durations()
    for part in parts:
        whole.number += part.number
        whole.total += part.total
        for index, count in part.counts.items():
            whole.counts[index] = whole.counts.get(index, 0) + count
    return whole


def percentiles(durations: Durations, points: Sequence[float]) -> list[float] | None:
    """Durations at the given percentiles, or None if nothing was counted."""
    if not durations.number:
        return None
    found: list[float] = []
    seen, wanted = 0, [p / 100 * durations.number for p in points]
    for index in sorted(durations.counts):
        seen += durations.counts[index]
        while len(found) < len(wanted) and seen >= wanted[len(found)]:
            found.append(exp((index + 0.5) * STEP))
    return found
