"""Which scenario is the one to buy for which load: demand, speed per user, promises about latency.

A copy of a cluster that must keep a limit (so many tokens/s for each user, or its objectives) is not filled beyond
it. Of its curve, played from one client to more than fit, counts what comes before the limit; between the last load
within it and the first beyond, tokens/s and electricity follow what is limited linearly. With that in place of the
saturated throughput, the costs of :mod:`sim.laws.breakeven` hold for a cluster that keeps its limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from sim.laws.breakeven import (
    CostByUse,
    break_even_demand,
    break_even_full,
    break_even_price,
    cheapest_by_demand,
)
from sim.study.compare_schema import Against, AgainstApi, ByDemand, ByLoad, CurvePoint, ScenarioPart, Use

GIVEN_UP: Final = 1e9
"""Strain of an objective that requests which were given up miss."""
FEWEST: Final = 2
"""Scenarios with costs, for one to be cheaper."""
SPEEDS, DEMANDS = (1.0, 2.0, 5.0), (1.0, 3.0)
"""Steps of a power of ten in speed per user and in demand."""
MOST_SPEEDS: Final = 6
LEAST_DEMAND, MOST_DEMAND = 0.2, 4.0
"""Demands that are asked: from this share of the smallest copy's tokens/s to so many times the largest's."""

Strain = Callable[[CurvePoint], float | None]


def fullest(curve: Sequence[CurvePoint], strain: Strain) -> Use | None:
    """One copy as full as it may be: the most tokens/s with ``strain`` at 1 or below; None: not even alone, or no cost.

    Points for which ``strain`` is None are passed over.
    """
    rated = [(use, value) for p in curve if (use := use_of(p)) is not None and (value := strain(p)) is not None]
    found = [use for use, value in rated if value <= 1.0]
    for (a, below), (b, above) in pairwise(rated):
        if below <= 1.0 < above:
            share = (1.0 - below) / (above - below)
            found.append(Use(**{
                name: value + share * (getattr(b, name) - value) for name, value in a.model_dump().items()
            }))  # fmt: skip
    return max(found, key=lambda use: use.tokens_per_s, default=None)


def use_of(point: CurvePoint) -> Use | None:
    """A point of a curve as full use; None without a cost."""
    if point.fixed_usd_per_hour is None or point.used_usd_per_hour is None:
        return None
    return Use(
        fixed_usd_per_hour=point.fixed_usd_per_hour, used_usd_per_hour=point.used_usd_per_hour,
        tokens_per_s=point.tokens_per_s,
    )  # fmt: skip


def at_speed(speed: float) -> Strain:
    """The strain of a promise of ``speed`` tokens/s to the median user."""

    def strain(point: CurvePoint) -> float | None:
        seen = point.tokens_per_s_per_user
        return speed / seen if seen else None

    return strain


# -- what follows from costs by use -------------------------------------------------------------------------


def costs(parts: Sequence[ScenarioPart], pick: Callable[[ScenarioPart], Use | None]) -> dict[int, CostByUse]:
    """Cost by use of the scenarios that have one."""
    return {i: _cost(use) for i, part in enumerate(parts) if (use := pick(part)) is not None}


def _cost(use: Use) -> CostByUse:
    return CostByUse(use.fixed_usd_per_hour, use.used_usd_per_hour, use.tokens_per_s)


def against_api(parts: Sequence[ScenarioPart], price: float | None) -> list[AgainstApi]:
    """From which use on each is as cheap as the API."""
    if price is None:
        return []
    known = costs(parts, lambda part: part.use)
    return [AgainstApi(scenario=i, utilisation=break_even_price(own, price)) for i, own in known.items()]


def against(parts: Sequence[ScenarioPart]) -> list[Against]:
    """Every ordered pair of scenarios of which the cost by use is known."""
    known = costs(parts, lambda part: part.use)
    return [
        Against(
            scenario=i, other=j, utilisation=break_even_full(own, other),
            demand_tokens_per_s=break_even_demand(own, other),
        )
        for i, own in known.items()
        for j, other in known.items()
        if i != j
    ]  # fmt: skip


def by_demand(parts: Sequence[ScenarioPart], pick: Callable[[ScenarioPart], Use | None]) -> list[ByDemand]:
    """Who meets a steady demand cheapest with whole copies, each as full as ``pick`` says."""
    known = costs(parts, pick)
    if len(known) < FEWEST:
        return []
    names = list(known)
    return [
        ByDemand(scenario=names[at], copies=copies, from_tokens_per_s=begin, to_tokens_per_s=end)
        for at, copies, begin, end in cheapest_by_demand(list(known.values()))
    ]


def by_load(parts: Sequence[ScenarioPart]) -> list[ByLoad]:
    """The cheapest for round demands and speeds per user, and the one that comes next; empty without two curves."""
    full = costs(parts, lambda part: part.use)
    curves = [part for part in parts if part.curve and part.use is not None]
    if len(curves) < FEWEST:
        return []
    rates = [cost.tokens_per_s for cost in full.values()]
    demands = list(_round(DEMANDS, LEAST_DEMAND * min(rates), MOST_DEMAND * max(rates)))
    seen = [p.tokens_per_s_per_user for part in curves for p in part.curve if p.tokens_per_s_per_user]
    speeds = list(_round(SPEEDS, min(seen), max(seen)))[-MOST_SPEEDS + 1 :] if seen else []
    found = []
    for speed in (None, *speeds):
        offers = full if speed is None else costs(parts, lambda p, v=speed: fullest(p.curve, at_speed(v)))  # type: ignore[misc]
        found += [_cheapest(offers, demand, speed) for demand in demands if offers]
    return found


def _round(steps: Sequence[float], low: float, high: float) -> Iterable[float]:
    """Round numbers between two bounds, by rising size."""
    if not 0 < low <= high:
        return
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (x for step in steps if low <= (x := step * 10.0**power) <= high)


def _cheapest(offers: dict[int, CostByUse], demand: float, speed: float | None) -> ByLoad:
    """Whole copies, all paid all the time, that share the demand; of equals the first."""
    bills = sorted((hourly(cost, demand), n, i) for n, (i, cost) in enumerate(offers.items()))
    hour, _, best = bills[0]
    second = bills[1] if len(bills) > 1 else None
    return ByLoad(
        tokens_per_s=demand,
        tokens_per_s_per_user=speed,
        scenario=best,
        copies=copies_for(offers[best], demand),
        usd_per_hour=hour,
        usd_per_million_tokens=hour / (demand * 3600) * 1e6,
        next_scenario=second[2] if second else None,
        next_usd_per_hour=second[0] if second else None,
    )


def copies_for(cost: CostByUse, demand: float) -> int:
    """Whole copies that meet a demand."""
    return max(1, math.ceil(demand / cost.tokens_per_s * (1 - 1e-9)))


def hourly(cost: CostByUse, demand: float) -> float:
    """USD/h of whole copies that share a demand."""
    return copies_for(cost, demand) * cost.fixed + cost.used * demand / cost.tokens_per_s
