"""Break-even in closed form, and against the sums it stands for at every demand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.laws.breakeven import (
    CostByUse,
    break_even_demand,
    break_even_full,
    break_even_price,
    cheapest_by_demand,
)

#: 9 USD/h whatever is asked, 3 more when full; a million tokens an hour.
OWN = CostByUse(9.0, 3.0, 1e6 / 3600)
COSTS = st.builds(
    CostByUse, st.floats(0.1, 20.0), st.one_of(st.just(0.0), st.floats(0.01, 5.0)), st.floats(10.0, 1000.0)
)


def hour(cost: CostByUse, demand: float) -> float:
    """USD/h of whole copies that meet a demand."""
    return max(1, math.ceil(demand / cost.tokens_per_s - 1e-9)) * cost.fixed + cost.used * demand / cost.tokens_per_s


def test_the_cost_of_a_token_over_use() -> None:
    assert OWN.usd_per_million_tokens(1.0) == pytest.approx(12.0)
    assert OWN.usd_per_million_tokens(0.5) == pytest.approx((9 + 1.5) / 0.5)
    assert OWN.usd_per_million_tokens(0.0) is None


def test_a_price_is_met_where_cost_by_use_says_so() -> None:
    # 9 + 3 u = 24 u
    use = break_even_price(OWN, 24.0)
    assert use == pytest.approx(9 / 21)
    assert OWN.usd_per_million_tokens(9 / 21) == pytest.approx(24.0)


def test_without_electricity_it_is_cost_over_worth() -> None:
    rented = CostByUse(9.0, 0.0, 1e6 / 3600)
    assert break_even_price(rented, 24.0) == pytest.approx(9 / 24)  # USD/h over (saturated Mtok/h x price)


@pytest.mark.parametrize("price", [11.9, 3.0, 2.0])
def test_a_price_below_full_use_is_never_met(price: float) -> None:
    assert break_even_price(OWN, price) is None


def test_a_cluster_is_as_cheap_as_itself_when_full() -> None:
    assert break_even_full(OWN, OWN) == 1.0
    assert break_even_demand(OWN, OWN) == 0.0


def test_buying_against_renting_in_hours_a_day() -> None:
    bought, rented = CostByUse(6.0, 1.0, 500.0), CostByUse(13.0, 0.0, 500.0)
    use = break_even_full(bought, rented)
    assert use is not None
    # A day bought: 24 h of 6 USD and 1 more for each hour of use; rented: 13 for each hour of use.
    hours = 24 * use
    assert 24 * 6 + hours * 1 == pytest.approx(hours * 13)


def test_a_large_cluster_beats_many_small_ones_from_a_demand_on() -> None:
    large, small = CostByUse(10.0, 0.0, 1000.0), CostByUse(1.5, 0.0, 100.0)
    # Six small ones cost 9, seven 10.5: the seventh is needed above 600.
    assert break_even_demand(large, small) == pytest.approx(600.0)
    assert break_even_demand(small, large) == 0.0
    assert break_even_demand(CostByUse(16.0, 0.0, 1000.0), small) is None
    assert cheapest_by_demand([large, small]) == [(1, 6, 0.0, 600.0), (0, 1, 600.0, 1000.0)]


@given(COSTS, COSTS)
def test_from_the_demand_on_one_costs_no_more(own: CostByUse, other: CostByUse) -> None:
    demands = [own.tokens_per_s * n / 500 for n in range(1, 501)]
    dearer = [d for d in demands if hour(own, d) > hour(other, d) * (1 + 1e-9)]
    found = break_even_demand(own, other)
    if found is None:
        assert dearer
        assert dearer[-1] == demands[-1]
    else:
        assert all(d <= found * (1 + 1e-9) for d in dearer)


@given(st.lists(COSTS, min_size=2, max_size=4))
def test_the_cheapest_of_a_demand_is_cheapest(costs: list[CostByUse]) -> None:
    stretches = cheapest_by_demand(costs)
    most = max(cost.tokens_per_s for cost in costs)
    assert stretches[0][2] == 0.0
    assert stretches[-1][3] == pytest.approx(most)
    for (*_, end), (*_, begin, _) in pairwise(stretches):
        assert end == pytest.approx(begin)
    for best, copies, begin, end in stretches:
        middle = (begin + end) / 2
        assert hour(costs[best], middle) <= min(hour(cost, middle) for cost in costs) * (1 + 1e-6)
        assert copies == max(1, math.ceil(end / costs[best].tokens_per_s - 1e-6))
