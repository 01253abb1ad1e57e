"""A demand that swings over the day, met by copies of a cluster: some all the time, the rest rented while needed.

    D(t)    = m + a cos(2 pi t / day),  m = (peak + valley) / 2,  a = (peak - valley) / 2     tokens/s
    share(x) = share of the day in which D > x = acos((x - m) / a) / pi
    above(x) = mean of max(0, D - x) = [a sin(theta) - (x - m) theta] / pi,  theta = acos((x - m) / a)

A copy takes up to C tokens/s (its saturation T times a target utilisation). Copy k is needed while D > (k - 1) C and
then carries above((k - 1) C) - above(k C) on average. With b copies all the time and the rest by the hour:

    USD/h = b * fixed + used / T * (m - above(b C)) + rent * sum over k > b of share((k - 1) C)

which is the load-duration curve with which power stations are chosen: base load for what runs enough hours a year,
peak load by the hour (Stoft, Power System Economics, 2002, chapter 2.2). Copies are whole, start at once, and burst
copies are as fast as the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.laws.breakeven import CostByUse
from sim.laws.pricing import HOUR, Span

Floats = NDArray[np.float64]

MOST_COPIES = 1_000_000
# Relative error of a quotient: a demand of three copies is met by three.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Swing:
    """Tokens/s between ``valley`` and ``peak``, and copies that take ``each`` tokens/s."""

    peak: float
    valley: float
    each: float

    @property
    def mean(self) -> float:
        """Mean tokens/s of the day."""
        return (self.peak + self.valley) / 2

    @property
    def copies(self) -> int:
        """Copies at the peak."""
        return self.copies_for(self.peak)

    def copies_for(self, tokens_per_s: float) -> int:
        """Whole copies that take so much, one at least."""
        return max(1, math.ceil(tokens_per_s / self.each * (1 - _ROUNDING)))

    def share(self, level: Floats) -> Floats:
        """Share of the day in which the demand is above ``level``."""
        if self.peak == self.valley:
            return (level < self.peak).astype(float)
        found: Floats = np.arccos(np.clip(self._reach(level), -1.0, 1.0)) / math.pi
        return found

    def above(self, level: Floats) -> Floats:
        """What of the demand is above ``level``, tokens/s, mean over the day."""
        if self.peak == self.valley:
            return np.maximum(0.0, self.peak - level)
        amplitude = (self.peak - self.valley) / 2
        theta = np.arccos(np.clip(self._reach(level), -1.0, 1.0))
        found: Floats = (amplitude * np.sin(theta) - (level - self.mean) * theta) / math.pi
        return np.where(level <= self.valley, self.mean - level, np.maximum(0.0, found))

    def _reach(self, level: Floats) -> Floats:
        reach: Floats = (level - self.mean) / ((self.peak - self.valley) / 2)
        return reach


@dataclass(frozen=True, slots=True)
class Met:
    """A demand met with ``base`` copies all the time: copy-hours a day of the rest, and USD/h in the mean."""

    base: int
    burst_hours: float
    usd_per_hour: Span

    def usd_per_million_tokens(self, swing: Swing) -> Span:
        """USD per million tokens of the day."""
        return Span(*(end / (swing.mean * HOUR) * 1e6 for end in self.usd_per_hour))


def met(swing: Swing, own: Sequence[CostByUse], rent: Span | None) -> list[Met]:
    """Every way to meet a demand, by rising number of base copies; without ``rent`` only that of the peak.

    ``own`` is one copy's cost by use at the lowest, the middle and the highest prices, ``rent`` that of a copy by the
    hour.
    """
    most = swing.copies
    levels: Floats = np.arange(most + 1, dtype=np.float64) * swing.each
    needed = swing.share(levels[:-1])
    rented = np.concatenate((np.cumsum(needed[::-1])[::-1], [0.0]))  # copies beyond b, mean over the day
    above = swing.above(levels)
    bases = np.arange(most + 1) if rent is not None else np.array([most])
    ends = []
    for place, cost in enumerate(own):
        hour = bases * cost.fixed + cost.used / cost.tokens_per_s * (swing.mean - above[bases])
        ends.append(hour + (rent[place] * rented[bases] if rent is not None else 0.0))
    return [
        Met(int(base), float(rented[base]) * 24.0, Span(*(float(end[n]) for end in ends)))
        for n, base in enumerate(bases)
    ]


def cheapest(ways: Sequence[Met]) -> int:
    """The number of the cheapest way at the middle prices; of equals that with fewer base copies."""
    return min(range(len(ways)), key=lambda n: (ways[n].usd_per_hour.mid, n))
