"""When something breaks: streams of faults, one for each class, merged in order of time.

A class counts units (GPUs, hosts, switches, ...), each of which fails by itself. With exponential times to failure all
units together are one Poisson process, so thousands of them cost no more than one. Other laws (Weibull, lognormal) keep
a clock for every unit, renewed after each failure; at time 0 units are in the middle of their lives (as in a cluster
that has run for long), so that the mean rate is the same from the start. ``lemons`` are a share of the units that fail
``factor`` times as often. Every class draws from a stream that its name picks: neither other classes nor how a run
reacts disturb it, so that two policies, or a scenario with one class more, can be compared on the same faults.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from math import gamma, inf, log
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Law = Literal["exponential", "weibull", "lognormal"]
Floats = NDArray[np.float64]
#: Draws taken from a generator at a time.
BLOCK = 512
#: Sets the streams of classes apart from what else is spawned from a seed.
STREAMS = 0xFA017


@dataclass(frozen=True, slots=True)
class Units:
    """A class of things that fail: how many, their mean seconds between failures each, and by which law.

    ``shape`` is Weibull's k (below 1: infant mortality) or the lognormal's sigma.
    """

    name: str
    count: int
    mtbf: float
    law: Law = "exponential"
    shape: float = 1.0
    lemons: float = 0.0
    lemon_factor: float = 1.0

    @property
    def rate(self) -> float:
        """Failures a second of all units in the long run."""
        bad = round(self.lemons * self.count)
        return (self.count - bad + bad * self.lemon_factor) / self.mtbf if self.mtbf < inf else 0.0


class Failure(NamedTuple):
    """One unit of a class fails."""

    time: float
    name: str
    unit: int


def failures(classes: list[Units], seed: np.random.SeedSequence) -> Iterator[Failure]:
    """All failures of all classes from time 0 on, without end, in order of time. The same seed gives the same."""
    each = []
    for place, units in enumerate(classes):
        again = sum(other.name == units.name for other in classes[:place])
        key = (*seed.spawn_key, STREAMS, crc32(units.name.encode()), again)
        each.append(_of(units, np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=key))))
    return heapq.merge(*each)


def _of(units: Units, rng: np.random.Generator) -> Iterator[Failure]:
    if units.count == 0 or units.mtbf == inf:
        return iter(())
    return _poisson(units, rng) if units.law == "exponential" else _renewals(units, rng)


def _poisson(units: Units, rng: np.random.Generator) -> Iterator[Failure]:
    """One process for all units; lemons are drawn as often as they fail."""
    bad = round(units.lemons * units.count)
    weight = bad * units.lemon_factor
    share = weight / (weight + units.count - bad) if weight else 0.0
    now, mean = 0.0, 1.0 / units.rate
    while True:
        for gap, kind, place in zip(rng.exponential(mean, BLOCK), rng.random(BLOCK), rng.random(BLOCK), strict=True):
            now += float(gap)
            if kind < share:
                yield Failure(now, units.name, int(place * bad))
            else:
                yield Failure(now, units.name, bad + int(place * (units.count - bad)))


def _renewals(units: Units, rng: np.random.Generator) -> Iterator[Failure]:
    """A clock for every unit, the lemons first.

    The life under way at time 0 is met in proportion to its length, at an even place of it.
    """
    bad = round(units.lemons * units.count)
    k = sigma = units.shape
    scale = units.mtbf / gamma(1.0 + 1.0 / k) if units.law == "weibull" else log(units.mtbf) - sigma * sigma / 2.0

    def lives(number: int) -> Floats:
        if units.law == "weibull":
            return rng.weibull(k, number) * scale
        return rng.lognormal(scale, sigma, number)

    if units.law == "weibull":
        met: Floats = scale * rng.gamma(1.0 + 1.0 / k, 1.0, units.count) ** (1.0 / k)
    else:
        met = rng.lognormal(scale + sigma * sigma, sigma, units.count)
    first = met * rng.random(units.count)
    first[:bad] /= units.lemon_factor
    clocks = [(float(t), unit) for unit, t in enumerate(first)]
    heapq.heapify(clocks)
    while True:
        for life in lives(BLOCK):
            now, unit = clocks[0]
            yield Failure(now, units.name, unit)
            again = float(life) / (units.lemon_factor if unit < bad else 1.0)
            heapq.heapreplace(clocks, (now + again, unit))
