"""A demand that swings: its load-duration curve, and the cheapest mix of copies, by hand and by adding up the day."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.laws.breakeven import CostByUse
from sim.laws.demand import Swing, cheapest, met
from sim.laws.pricing import Span, usd_per_million_tokens

INSTANTS = np.arange(200_000) / 200_000


def of_the_day(swing: Swing) -> np.ndarray:
    """The demand at many instants."""
    return swing.mean + (swing.peak - swing.valley) / 2 * np.cos(2 * math.pi * INSTANTS)


def alike(cost: CostByUse) -> list[CostByUse]:
    return [cost] * 3


def sure(price: float) -> Span:
    return Span(price, price, price)


@pytest.mark.parametrize("level", [0.0, 50.0, 100.0, 130.0, 250.0, 399.0, 400.0, 500.0])
def test_the_curve_is_that_of_the_cosine(level: float) -> None:
    swing = Swing(400.0, 100.0, 50.0)
    demand, at = of_the_day(swing), np.array([level])
    assert swing.share(at)[0] == pytest.approx((demand > level).mean(), abs=2e-3)
    assert swing.above(at)[0] == pytest.approx(np.maximum(0.0, demand - level).mean(), rel=1e-4, abs=1e-4)


def test_what_stands_for_the_peak_burns_money_in_the_valley() -> None:
    """CST-33: idle machines cost on; a token costs its ideal over the utilisation (electricity left aside)."""
    cost = CostByUse(10.0, 0.0, 1000.0)
    swing = Swing(700.0, 100.0, 1000.0)
    (way,) = met(swing, alike(cost), None)
    assert swing.mean / 1000.0 == 0.4
    ideal = usd_per_million_tokens(10.0, 1000.0)
    assert way.usd_per_million_tokens(swing).mid == pytest.approx(ideal / 0.4)
    assert (way.base, way.burst_hours) == (1, 0.0)


@given(
    st.floats(10, 5000), st.floats(0, 1), st.floats(30, 700), st.floats(0, 5), st.floats(0.01, 2), st.floats(0.1, 20)
)
def test_every_mix_costs_what_the_day_adds_up_to(
    peak: float, low: float, each: float, used: float, fixed: float, rent: float
) -> None:
    swing = Swing(peak, peak * low, each)
    cost = CostByUse(fixed, used, each / 0.8)
    ways = met(swing, alike(cost), sure(rent))
    demand = of_the_day(swing)[::20]
    assert [way.base for way in ways] == list(range(swing.copies + 1))
    for way in ways[:: max(1, len(ways) // 4)]:
        running = np.ceil(demand / each * (1 - 1e-9))
        beyond = np.maximum(0, running - way.base)
        own = np.minimum(demand, way.base * each).mean()
        hour = way.base * fixed + used * own / cost.tokens_per_s + rent * beyond.mean()
        assert way.usd_per_hour.mid == pytest.approx(hour, rel=5e-3, abs=5e-3)
        assert way.burst_hours == pytest.approx(24 * beyond.mean(), rel=5e-3, abs=0.05)
    best = ways[cheapest(ways)].usd_per_hour.mid
    assert best <= min(ways[0].usd_per_hour.mid, ways[-1].usd_per_hour.mid)


def test_a_copy_stands_where_it_is_needed_longer_than_its_price_in_rent() -> None:
    """The screening rule of power stations: base while rent times the share of the day is more than its own hour."""
    swing, rent, fixed = Swing(1000.0, 0.0, 10.0), 3.0, 1.0
    ways = met(swing, alike(CostByUse(fixed, 0.0, 10.0)), sure(rent))
    needed = swing.share(np.arange(100) * 10.0)
    assert ways[cheapest(ways)].base == int((rent * needed > fixed).sum())


@pytest.mark.parametrize(("rent", "base"), [(0.9, 0), (1.1, 3)])
def test_a_demand_that_never_changes_is_met_one_way(rent: float, base: int) -> None:
    swing = Swing(30.0, 30.0, 10.0)
    ways = met(swing, alike(CostByUse(1.0, 0.0, 10.0)), sure(rent))
    assert (swing.copies, ways[cheapest(ways)].base) == (3, base)
    assert ways[0].usd_per_hour.mid == pytest.approx(3 * rent)


def test_bounds_of_prices_are_bounds_of_each_mix() -> None:
    own = [CostByUse(fixed, 0.0, 10.0) for fixed in (1.0, 2.0, 3.0)]
    ways = met(Swing(20.0, 20.0, 10.0), own, Span(1.0, 4.0, 9.0))
    assert [way.usd_per_hour for way in ways] == [(2, 8, 18), (2, 6, 12), (2, 4, 6)]
