"""Which to buy for which load: copies that keep a limit, and the cheapest for a demand and a speed per user."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest

from sim.adapters.resolve import Resolved
from sim.report.compare_answer import answer, load_table, stretches
from sim.report.compare_text import render_comparison
from sim.study.compare import Options, compare
from sim.study.compare_demand import at_speed, by_load, copies_for, costs, fullest, hourly
from sim.study.compare_schema import ByDemand, Comparison, CurvePoint, ScenarioPart, Use
from sim.study.executors import open_executor

from ..helpers import resolved, toy

COST = {"capital": "1000 USD", "amortisation": "1 year", "electricity": "0.1 USD/kWh"}
DEARER = {"capital": "3000 USD", "amortisation": "1 year", "electricity": "0.1 USD/kWh"}
LOAD = {"closed_loop": {"clients": 4}, "prompt_tokens": 50, "output_tokens": 20, "requests": 40}


def point(clients: int, rate: float, speed: float | None, strain: float | None = None, used: float = 0.0) -> CurvePoint:
    return CurvePoint(
        clients=clients, tokens_per_s=rate, tokens_per_s_per_user=speed, ttft_p50_s=None, usd_per_million_tokens=1.0,
        fixed_usd_per_hour=1.0, used_usd_per_hour=used, strain=strain,
    )  # fmt: skip


def part(name: str, *curve: CurvePoint) -> ScenarioPart:
    last = curve[-1]
    use = Use(fixed_usd_per_hour=1.0, used_usd_per_hour=0.0, tokens_per_s=last.tokens_per_s)
    return ScenarioPart(name=name, about="", cluster="", curve=list(curve), use=use)


# -- copies that keep a limit -------------------------------------------------------------------------------


def test_a_copy_is_filled_to_where_the_limit_is_met() -> None:
    curve = [point(1, 10, 10, 0.2, used=0.1), point(4, 40, 8, 0.8, used=0.4), point(8, 60, 5, 1.6, used=0.6)]
    found = fullest(curve, lambda p: p.strain)
    assert found is not None
    # A quarter of the way from 0.8 to 1.6.
    assert (found.tokens_per_s, found.used_usd_per_hour) == pytest.approx((45.0, 0.45))
    assert found.fixed_usd_per_hour == 1.0


def test_a_limit_that_no_load_breaks_leaves_all_and_one_that_every_load_breaks_nothing() -> None:
    curve = [point(1, 10, 10, 0.2), point(4, 40, 8, 0.8)]
    full = fullest(curve, lambda p: p.strain)
    assert full is not None
    assert full.tokens_per_s == 40
    assert fullest([point(1, 10, 10, 1.2), point(4, 40, 8, 3.0)], lambda p: p.strain) is None
    assert fullest([point(1, 10, 10), point(4, 40, 8)], lambda p: p.strain) is None


def test_fewer_tokens_beyond_the_limit_are_no_reason_to_go_there() -> None:
    found = fullest([point(4, 40, 8, 0.8), point(8, 30, 5, 1.2)], lambda p: p.strain)
    assert found is not None
    assert found.tokens_per_s == 40


def test_a_speed_is_a_limit_on_the_time_of_a_token() -> None:
    curve = [point(1, 10, 10.0), point(4, 30, 5.0)]
    found = fullest(curve, at_speed(8.0))
    assert found is not None
    # 1/8 s a token is a quarter of the way from 1/10 to 1/5.
    assert found.tokens_per_s == pytest.approx(15.0)
    assert fullest(curve, at_speed(11.0)) is None


# -- who is cheapest ----------------------------------------------------------------------------------------


def test_the_cheapest_for_a_load_is_found_by_trying_all() -> None:
    small = part("small", point(1, 20, 10.0), point(9, 90, 4.0))
    parts = [small, part("fast", point(1, 60, 60.0), point(9, 500, 20.0))]
    found = by_load(parts)
    assert {row.tokens_per_s_per_user for row in found} == {None, 5.0, 10.0, 20.0, 50.0}
    for row in found:
        v = row.tokens_per_s_per_user
        offers = costs(parts, lambda p, v=v: p.use if v is None else fullest(p.curve, at_speed(v)))  # type: ignore[misc]
        bills = {i: 1.0 * math.ceil(row.tokens_per_s / cost.tokens_per_s - 1e-9) for i, cost in offers.items()}
        assert row.usd_per_hour == min(bills.values())
        assert bills[row.scenario] == row.usd_per_hour
        assert row.copies == bills[row.scenario]
        assert row.usd_per_million_tokens == pytest.approx(row.usd_per_hour / row.tokens_per_s / 3600 * 1e6)
        others = [bill for i, bill in bills.items() if i != row.scenario]
        assert row.next_usd_per_hour == (others[0] if others else None)
    alone = [row for row in found if row.tokens_per_s_per_user in (20.0, 50.0)]
    assert {row.scenario for row in alone} == {1}
    assert {row.next_scenario for row in alone} == {None}


def test_whole_copies_share_a_demand() -> None:
    (cost,) = costs([part("a", point(1, 10, 10.0))], lambda p: p.use).values()
    assert [copies_for(cost, demand) for demand in (1, 10, 10.1, 30)] == [1, 1, 2, 3]
    assert hourly(cost, 30) == pytest.approx(3.0)


def test_short_stretches_go_to_their_neighbours() -> None:
    found = [
        ByDemand(scenario=a, copies=n, from_tokens_per_s=low, to_tokens_per_s=high)
        for a, n, low, high in [(0, 1, 0, 100), (1, 1, 100, 105), (0, 2, 105, 200), (1, 3, 200, 400), (0, 9, 400, 410)]
    ]
    told = [(s.scenario, s.copies, s.end) for s in stretches(found)]
    assert told == [(0, 2, 200), (1, 3, 410)]


# -- played -------------------------------------------------------------------------------------------------


def made(name: str, objectives: dict[str, Any], **keys: Any) -> Resolved:
    job = {"plan": {"pp": 2}, "load": LOAD, "objectives": objectives}
    return resolved(toy(job, gpus=2, cost=COST) | {"name": name} | keys)


def compared(*scenarios: Resolved) -> Comparison:
    return compare(scenarios, Options(seeds=1), partial(open_executor, "serial", 1, ()))


@pytest.fixture(scope="module")
def limited() -> Comparison:
    """A cluster that promises what a quarter of its users could see, the same without a promise, and an idle one."""
    free = compared(made("free", {}), made("other", {}))
    alone, crowded = (free.scenarios[0].curve[i].tokens_per_s_per_user for i in (0, -1))
    assert alone is not None
    assert crowded is not None
    limit = (1 / alone + 1 / crowded) / 2
    never = {"tpot_p99": f"{0.5 / alone:.9f} s"}
    return compared(made("kept", {"tpot_p99": f"{limit:.9f} s"}), made("free", {}), made("never", never))


def test_objectives_leave_less_than_all(limited: Comparison) -> None:
    kept, free, never = limited.scenarios
    assert kept.use is not None
    assert kept.within is not None
    assert 0 < kept.within.tokens_per_s < kept.use.tokens_per_s
    assert kept.within.fixed_usd_per_hour == pytest.approx(kept.use.fixed_usd_per_hour)
    (limit,) = kept.objectives.values()
    inside = [p.tokens_per_s for p in kept.curve if p.strain is not None and p.strain <= 1]
    outside = [p.tokens_per_s for p in kept.curve if p.strain is not None and p.strain > 1]
    assert max(inside) <= kept.within.tokens_per_s <= min(outside)
    for p in kept.curve:  # the median user sees more than the one in a hundred
        assert p.strain is not None
        assert p.tokens_per_s_per_user is not None
        assert p.strain >= 1 / p.tokens_per_s_per_user / limit - 1e-9
    assert (free.within, free.objectives) == (None, {})
    assert never.within is None
    assert never.objectives


def test_the_answer_says_what_objectives_leave(limited: Comparison) -> None:
    assert limited.by_demand_within == []  # only one of the three keeps a promise
    both = compared(made("a", {"tpot_p99": "10 s"}), made("b", {"tpot_p99": "10 s"}))
    assert [s.scenario for s in both.by_demand_within] == [s.scenario for s in both.by_demand] == [0]
    assert any(line.startswith("Each filled only as far as its own objectives allow: a up to") for line in answer(both))
    columns, rows = load_table(both)
    assert columns[:2] == ["demand", "any speed"]
    assert len(rows) == len({row.tokens_per_s for row in both.by_load})
    assert "Which to buy" in render_comparison(both)
