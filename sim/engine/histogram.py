"""A histogram of durations that costs the same for a thousand values and for a billion.

Bins are half a percent wide (geometric), so percentiles are right to a quarter of a percent; the mean is
exact. A run of passes whose durations grow evenly is added at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, exp, floor, log

from sim.engine.timeline import Run

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

    def add_run(self, run: Run, times: int) -> None:
        """Count the duration of every pass of ``run`` ``times`` times."""
        if run.first <= 0.0:
            return
        index = floor(log(run.first) / STEP)
        done = 0
        while done < run.passes:
            edge = exp((index + 1) * STEP)
            below = run.passes if run.growth <= 0.0 else ceil((edge - run.first) / run.growth)
            upto = min(run.passes, max(done, below))
            if upto > done:
                self.counts[index] = self.counts.get(index, 0) + (upto - done) * times
            done = upto
            index += 1
        self.number += run.passes * times
        self.total += run.begun(run.passes) * times


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
