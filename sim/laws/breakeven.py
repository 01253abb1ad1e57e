"""When a cluster pays: its hourly cost over how much of it is used, against a price, another cluster, or rent.

    USD/h(u)    = fixed + used * u        u: share of the saturated throughput T that is asked for
    USD/Mtok(u) = USD/h(u) / (u * T * 3600) * 1e6

``fixed`` runs on whether anybody asks or not: amortised capital, hosting, rent, and electricity at idle power.
``used`` is what electricity costs more at saturation than idle; between the two, power is taken to follow u
(the linear power law of ``sim.laws.pricing``; Fan, Weber, Barroso, ISCA 2007).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from sim.laws.pricing import HOUR, usd_per_million_tokens

# Relative error of a few sums and quotients: a cluster against itself pays at exactly full use.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class CostByUse:
    """Hourly cost of one cluster: USD/h that run on, USD/h more at saturation, and tokens/s there."""

    fixed: float
    used: float
    tokens_per_s: float

    def usd_per_hour(self, use: float) -> float:
        """USD/h at a share ``use`` of saturation."""
        return self.fixed + self.used * use

    def usd_per_million_tokens(self, use: float) -> float | None:
        """USD per million tokens at a share ``use`` of saturation; None at 0."""
        return usd_per_million_tokens(self.usd_per_hour(use), use * self.tokens_per_s)


def break_even_price(own: CostByUse, price: float) -> float | None:
    """The share of saturation from which a token of ``own`` costs no more than ``price`` (USD per million tokens).

    u* = fixed / (T * 3600 / 1e6 * price - used); None if even full use is dearer.
    """
    worth = own.tokens_per_s * HOUR / 1e6 * price - own.used
    if worth <= 0:
        return None
    use = own.fixed / worth
    return None if use > 1 + _ROUNDING else min(use, 1.0)


def break_even_full(own: CostByUse, other: CostByUse) -> float | None:
    """The share of saturation from which ``own`` is as cheap a token as ``other`` at full use; None: never.

    That is against as many copies of ``other`` as are kept full, or against one that is paid only while it is used:
    24 u* are the hours a day from which buying beats renting by the hour.
    """
    price = other.usd_per_million_tokens(1.0)
    return None if price is None else break_even_price(own, price)


def break_even_demand(own: CostByUse, other: CostByUse) -> float | None:
    """The demand (tokens/s) from which one ``own`` costs no more than whole copies of ``other``, up to its saturation.

    n = ceil(demand / T_other) copies share the demand, all paid all the time. None if one ``own`` is dearer where it
    is full; 0 if it is never dearer.
    """
    slope = other.used / other.tokens_per_s - own.used / own.tokens_per_s  # USD/h for each token/s, other less own
    copies = max(1, math.ceil(own.tokens_per_s / other.tokens_per_s * (1 - _ROUNDING)))
    if copies * other.fixed - own.fixed + slope * own.tokens_per_s < -_ROUNDING * own.usd_per_hour(1.0):
        return None
    # Saving = n * other.fixed - own.fixed + slope * demand. Where it falls within a step it is least at the step's
    # end, where it rises at its start: go down the steps until one has a loss in it.
    for n in range(copies, 0, -1):
        begin, end = (n - 1) * other.tokens_per_s, min(n * other.tokens_per_s, own.tokens_per_s)
        at = n * other.fixed - own.fixed
        if slope < 0 and at + slope * end < 0 and n < copies:
            return end
        if slope >= 0 and at + slope * begin < 0:
            return min(end, -at / slope) if slope > 0 else end
    return 0.0


def cheapest_by_demand(costs: Sequence[CostByUse]) -> list[tuple[int, int, float, float]]:
    """Who meets a demand cheapest with whole copies, all paid all the time, from 0 to the largest one's saturation.

    (which of ``costs``, its copies at the end, demand from, to in tokens/s), by rising demand; of equals the first.
    Hourly costs are linear in demand between the steps of all, so that the cheapest changes only at a step or where
    two lines cross.
    """
    most = max(cost.tokens_per_s for cost in costs)
    steps = {0.0, most}
    for cost in costs:
        steps |= {n * cost.tokens_per_s for n in range(1, int(most / cost.tokens_per_s) + 1)}
    found: list[tuple[int, int, float, float]] = []
    edges = [edge for edge in sorted(steps) if edge <= most]
    for a, b in pairwise(edges):
        if b - a <= _ROUNDING * most:
            continue
        copies = [max(1, math.ceil((a + b) / 2 / cost.tokens_per_s)) for cost in costs]
        slopes = [cost.used / cost.tokens_per_s for cost in costs]
        heights = [n * cost.fixed for n, cost in zip(copies, costs, strict=True)]
        cuts = {a, b}
        for i, j in combinations(range(len(costs)), 2):
            if slopes[i] != slopes[j]:
                crossing = (heights[j] - heights[i]) / (slopes[i] - slopes[j])
                if a + _ROUNDING * most < crossing < b - _ROUNDING * most:
                    cuts.add(crossing)
        for begin, end in pairwise(sorted(cuts)):
            middle = (begin + end) / 2
            best = min(range(len(costs)), key=lambda i: heights[i] + slopes[i] * middle)
            if found and found[-1][0] == best:
                begin = found.pop()[2]
            found.append((best, copies[best], begin, end))
    return found
