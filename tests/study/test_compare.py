"""Comparisons: pairs of runs in closed form, scaling, curves, break-even, and where a difference comes from."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sim.adapters.resolve import Resolved
from sim.errors import InfeasibleError, InputError
from sim.laws.breakeven import CostByUse, break_even_full, break_even_price
from sim.report.compare_answer import answer
from sim.report.compare_text import render_comparison
from sim.report.compare_words import metric_rows
from sim.report.values import write
from sim.results.intervals import t_interval
from sim.study.compare import Options, compare
from sim.study.compare_config import settings
from sim.study.compare_pairs import BETTER, EXTENSIVE, difference, metric_of, waterfall
from sim.study.compare_parts import is_random
from sim.study.compare_schema import Comparison, CurvePoint
from sim.study.compare_speed import cheapest, cost_at, envelope
from sim.study.executors import open_executor

from ..helpers import desktops, resolved, scenario, simulate, toy

FIXED = {
    "plan": {"pp": 2},
    "load": {"closed_loop": {"clients": 4}, "prompt_tokens": 50, "output_tokens": 20, "requests": 40},
}
RAMPED = {**FIXED, "load": {**FIXED["load"], "closed_loop": {"clients": 3, "ramp": "1 s"}}}
LENGTHS = {"lognormal": {"median": 20, "p90": 60}}
DRAWN = {
    "plan": {"pp": 2},
    "load": {"poisson": {"rate": "2 req/s"}, "prompt_tokens": LENGTHS, "output_tokens": LENGTHS, "requests": 60},
}
BUSY = {**DRAWN, "load": {**DRAWN["load"], "poisson": None, "closed_loop": {"clients": 4}}}
COST = {"capital": "1000 USD", "amortisation": "1 year", "electricity": "0.1 USD/kWh"}
TWICE = {"capital": "2000 USD", "amortisation": "1 year", "electricity": "0.2 USD/kWh"}
LIGHT = Options(seeds=4, curve=False)


def made(job: dict[str, Any] = FIXED, name: str = "toy", **keys: Any) -> Resolved:
    return resolved(toy(job, **{"gpus": 2, "cost": COST, **keys}) | {"name": name})


def compared(*scenarios: Resolved, options: Options = LIGHT, workers: int = 1) -> Comparison:
    kind = "serial" if workers == 1 else "processes"
    return compare(scenarios, options, partial(open_executor, kind, workers, ("sim.study.compare",)))


# -- pairs --------------------------------------------------------------------------------------------------


def test_a_difference_is_students_t_over_pairs() -> None:
    mine, base = [3.0, 5.0, 9.0], [1.0, 2.0, 4.0]
    found = difference("output_tokens_per_s", mine, base)
    assert found.absolute.mean == pytest.approx(10 / 3)
    assert [found.absolute.low, found.absolute.high] == t_interval([2.0, 3.0, 5.0])
    assert found.relative is not None
    ratio = 17 / 7
    assert found.relative.mean == pytest.approx(ratio - 1)
    residuals = [(x - ratio * y) / (7 / 3) for x, y in zip(mine, base, strict=True)]
    low, high = t_interval(residuals) or (0.0, 0.0)
    assert found.relative.low == pytest.approx(ratio - 1 + low)
    assert found.relative.high == pytest.approx(ratio - 1 + high)


def test_a_factor_leaves_no_doubt_however_noisy_the_runs() -> None:
    base = [1.0, 50.0, 3.0, 700.0]
    found = difference("usd_per_million_tokens", [2 * x for x in base], base)
    assert found.relative is not None
    assert [found.relative.low, found.relative.mean, found.relative.high] == pytest.approx([1.0, 1.0, 1.0])


def test_an_interval_that_spans_zero_is_no_clear_difference() -> None:
    assert difference("ttft_s.p50", [1.0, 3.0], [2.0, 2.5]).verdict == "no clear difference"
    assert difference("ttft_s.p50", [1.0, 1.1], [2.0, 2.1]).verdict == "better"
    assert difference("mfu", [1.0, 1.1], [2.0, 2.1]).verdict == "worse"
    assert difference("gpus", [1.0], [2.0]).verdict == "differs"


def test_one_run_stands_for_all_where_nothing_is_random() -> None:
    found = difference("output_tokens_per_s", [5.0], [1.0, 2.0, 3.0])
    assert [found.absolute.low, found.absolute.high] == t_interval([4.0, 3.0, 2.0])
    exact = difference("output_tokens_per_s", [5.0], [4.0])
    assert (exact.absolute.mean, exact.absolute.low, exact.verdict) == (1.0, None, "better")


def test_twice_the_price_is_exactly_twice_the_cost() -> None:
    c = compared(made(DRAWN), made(DRAWN, cost=TWICE))
    (pair,) = c.pairs
    assert c.scenarios[0].runs == c.scenarios[1].runs == 4
    hour = pair.metrics["usd_per_million_tokens"]
    assert hour.relative is not None
    assert [hour.relative.low, hour.relative.mean, hour.relative.high] == pytest.approx([1.0, 1.0, 1.0])
    assert hour.verdict == "worse"
    # The same seeds: the requests' story is the same, though each seed's is another.
    speed = c.scenarios[0].metrics["output_tokens_per_s"]
    assert speed.low is not None
    assert speed.low < speed.mean
    assert pair.metrics["output_tokens_per_s"].absolute.mean == 0.0
    assert pair.metrics["output_tokens_per_s"].verdict == "no clear difference"


@pytest.mark.parametrize("job", [FIXED, DRAWN])
def test_a_scenario_does_not_differ_from_itself(job: dict[str, Any]) -> None:
    c = compared(made(job), made(job))
    assert [part.name for part in c.scenarios] == ["toy", "toy (2)"]
    assert c.settings == []
    for name, found in c.pairs[0].metrics.items():
        assert found.verdict == "no clear difference", name
        assert found.absolute.mean == 0.0, name
    assert set(c.pairs[0].waterfall.values()) == {0.0}


def test_what_is_not_random_is_played_once() -> None:
    c = compared(made(FIXED), made(DRAWN))
    assert [(part.runs, part.random) for part in c.scenarios] == [(1, False), (4, True)]
    assert c.pairs[0].metrics["output_tokens_per_s"].absolute.low is not None


@pytest.mark.parametrize("job", [FIXED, RAMPED, DRAWN, BUSY])
def test_runs_depend_on_the_seed_where_it_is_said_and_nowhere_else(job: dict[str, Any]) -> None:
    first, second = (simulate(toy(job, gpus=2) | {"seed": seed}).result.jobs[0].metrics for seed in (0, 1))
    assert (first != second) == is_random(made(job))


def test_seeds_are_the_same_whatever_the_scenarios_say() -> None:
    one = compared(made(DRAWN), made(DRAWN, seed=7))
    assert one.seed == 0
    assert one.pairs[0].metrics["output_tokens_per_s"].absolute.mean == 0.0
    assert one.settings == []


def test_the_order_changes_signs_only() -> None:
    a, b = made(BUSY, "a"), made(BUSY, "b", gpu={"memory_bandwidth": "2 TB/s"})
    there, back = compared(a, b).pairs[0], compared(b, a).pairs[0]
    for name, found in there.metrics.items():
        other = back.metrics[name]
        assert found.absolute.mean == pytest.approx(-other.absolute.mean), name
        if found.absolute.low is not None and other.absolute.high is not None:
            assert found.absolute.low == pytest.approx(-other.absolute.high), name
        swapped = {"better": "worse", "worse": "better"}
        assert swapped.get(found.verdict, found.verdict) == other.verdict, name
    for bucket, value in there.waterfall.items():
        assert value == pytest.approx(-back.waterfall[bucket]), bucket


def test_the_same_document_from_one_process_and_from_two() -> None:
    scenarios = made(DRAWN), made(FIXED, gpu={"memory_bandwidth": "2 TB/s"})
    options = Options(seeds=2, api_price=1.0, at_equal="power")
    one, two = (compared(*scenarios, options=options, workers=n) for n in (1, 2))
    assert one.model_dump_json() == two.model_dump_json()


# -- equal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "metric"),
    [("budget", "usd_per_hour"), ("throughput", "output_tokens_per_s"), ("power", "power_w"), ("gpus", "gpus")],
)
def test_what_is_made_equal_is_equal_and_what_grows_grows_by_k(what: Any, metric: str) -> None:
    a, b = made(BUSY, "a"), made({**BUSY, "plan": {"pp": 4}}, "b", gpus=4, cost=TWICE)
    plain = compared(a, b)
    equal = compared(a, b, options=Options(seeds=4, curve=False, at_equal=what))
    before, after = plain.scenarios[1], equal.scenarios[1]
    assert after.factor == pytest.approx(plain.scenarios[0].metrics[metric].mean / before.metrics[metric].mean)
    assert after.factor != pytest.approx(1.0)
    assert after.metrics[metric].mean == pytest.approx(equal.scenarios[0].metrics[metric].mean)
    assert equal.pairs[0].metrics[metric].absolute.mean == 0.0
    assert equal.scenarios[0].factor == 1.0
    for name, value in before.metrics.items():
        factor = after.factor if metric_of(name) in EXTENSIVE else 1.0
        assert after.metrics[name].mean == pytest.approx(factor * value.mean), name
    assert after.gpus == pytest.approx(4 * after.factor)


def test_copies_earn_and_run_times_k_and_are_paid_back_in_the_same_months() -> None:
    let = {"income": {"per_gpu": "0.5 USD/h", "occupancy": "80%"}}
    a, b = made(BUSY, "a", cost=COST | let), made({**BUSY, "plan": {"pp": 4}}, "b", gpus=4, cost=TWICE | let)
    plain = compared(a, b).scenarios[1]
    equal = compared(a, b, options=Options(seeds=4, curve=False, at_equal="gpus")).scenarios[1]
    assert equal.factor == 0.5
    for name in ("income_usd_per_hour", "running_usd_per_hour", "capital_usd"):
        assert equal.metrics[name].mean == pytest.approx(plain.metrics[name].mean / 2), name
    income, running, capital, months = (
        equal.metrics[name].mean
        for name in ("income_usd_per_hour", "running_usd_per_hour", "capital_usd", "payback_months")
    )
    assert months == pytest.approx(plain.metrics["payback_months"].mean)
    assert months == pytest.approx(capital / (income - running) / 730, rel=1e-3)  # a mean over four runs
    poor = made(BUSY, "poor", cost=COST | {"income": {"per_gpu": "0.001 USD/h"}})
    found = compared(a, poor)
    assert "payback_months" not in found.scenarios[1].metrics
    assert "payback_months" not in found.pairs[0].metrics
    assert "Payback" in render_comparison(compared(a, b))


def test_a_cost_of_a_token_does_not_scale() -> None:
    assert not EXTENSIVE & {"usd_per_million_tokens", "ttft_s", "tokens_per_s_per_user", "mfu", "utilisation_mean"}
    assert BETTER["usd_per_million_tokens"] == -1


@pytest.mark.parametrize("options", [Options(at_equal="budget"), Options(api_price=1.0)])
def test_what_needs_a_cost_says_whose_is_missing(options: Options) -> None:
    with pytest.raises(InputError, match="bare has no cost block"):
        compared(made(), made(name="bare", cost=None), options=options)


# -- curves, break-even -------------------------------------------------------------------------------------


def point(speed: float, usd: float) -> CurvePoint:
    return CurvePoint(
        clients=1, tokens_per_s=1.0, tokens_per_s_per_user=speed, ttft_p50_s=None, usd_per_million_tokens=usd
    )


def test_an_apis_price_is_the_scenarios_unless_another_is_asked_for() -> None:
    stated, other = made(cost=COST | {"api_price": "5 USD/Mtok"}), made(cost=TWICE | {"api_price": "6 USD/Mtok"})
    plain = made(name="plain")
    curved = Options(seeds=1)
    assert compared(stated, plain, options=curved).api_usd_per_million_tokens == 5
    assert compared(stated, plain, options=Options(seeds=1, api_price=7.0)).api_usd_per_million_tokens == 7
    assert compared(stated, plain, options=Options(seeds=1, curve=False)).api_usd_per_million_tokens is None
    assert compared(plain, made(name="too"), options=curved).api_usd_per_million_tokens is None
    with pytest.raises(InputError, match="say which with --api-price"):
        compared(stated, other, options=curved)


def test_the_cheapest_by_speed_changes_where_lines_cross() -> None:
    slow, fast = [point(10, 1.0), point(20, 3.0)], [point(15, 2.5), point(40, 5.0)]
    # slow: 1 + (v - 10) / 5; fast: 2.5 + (v - 15) / 10, which is half dearer at 15 and gains a tenth with each step.
    crossing = 15 + (2.5 - 2.0) / (1 / 5 - 1 / 10)
    first, second = cheapest([slow, fast])
    assert (first.scenario, second.scenario) == (0, 1)
    assert first.to_speed == pytest.approx(crossing)
    assert first.to_usd == pytest.approx(second.from_usd)
    assert (first.from_speed, first.from_usd) == (0.0, 1.0)
    assert (second.to_speed, second.to_usd) == (40, 5.0)


def test_beyond_the_fastest_of_one_only_the_other_is_left() -> None:
    first, second = cheapest([[point(10, 1.0)], [point(30, 2.0)]])
    assert (first.scenario, first.to_speed, second.scenario, second.to_speed) == (0, 10, 1, 30)


def test_a_slower_point_that_is_dearer_counts_for_nothing() -> None:
    corners = envelope([point(5, 9.0), point(10, 1.0), point(20, 3.0)])
    assert corners == [(5, 1.0), (10, 1.0), (20, 3.0)]
    assert cost_at(corners, 15) == pytest.approx(2.0)
    assert cost_at(corners, 21) is None
    assert cheapest([[], []]) == []


@pytest.fixture(scope="module")
def curved() -> Comparison:
    faster = made(FIXED, "faster", gpu={"memory_bandwidth": "2 TB/s", "tdp": "200 W"}, cost=TWICE)
    return compared(made(FIXED, "plain"), faster, options=Options(seeds=2, api_price=5.0))


def test_a_curve_goes_from_one_client_to_more_than_fit(curved: Comparison) -> None:
    for part in curved.scenarios:
        counts = [p.clients for p in part.curve]
        assert counts[0] == 1
        assert counts == sorted(set(counts))
        assert 4 <= len(counts) <= 8
        assert part.curve[-1].tokens_per_s > 4 * part.curve[0].tokens_per_s
        speeds = [p.tokens_per_s_per_user for p in part.curve]
        assert None not in speeds
        assert speeds[0] > speeds[-1]
        assert part.use is not None
        assert part.use.tokens_per_s == max(p.tokens_per_s for p in part.curve)


def test_the_front_is_beaten_by_no_point(curved: Comparison) -> None:
    every = [(p.tokens_per_s_per_user, p.usd_per_million_tokens) for s in curved.scenarios for p in s.curve]
    front = [curved.scenarios[f.scenario].curve[f.point] for f in curved.front]
    assert front
    for p in front:
        speed, usd = p.tokens_per_s_per_user, p.usd_per_million_tokens
        assert not any(v >= speed and c <= usd and (v, c) != (speed, usd) for v, c in every)


def test_idle_power_runs_on_and_busy_power_follows_use(curved: Comparison) -> None:
    use = curved.scenarios[0].use
    assert use is not None
    hosts = 2 * 60.0
    kwh = (2 * 10.0 + hosts) / 1000
    assert use.fixed_usd_per_hour == pytest.approx(1000 / 8760 + 0.1 * kwh)
    assert 0 < use.used_usd_per_hour <= 0.1 * (2 * 90.0 + 2 * 60.0) / 1000


def test_spot_machines_are_not_paid_for_while_they_are_gone_at_any_load() -> None:
    """The cost of a token at a point of a curve is what the point costs by the hour, over its tokens."""
    faults = {
        "classes": [{"name": "preemption", "per": "node", "mtbf": "1000 h"}], "spares": 0, "repair": "6 s",
        "trace": [{"time": "1 ms", "name": "preemption", "unit": 1}],
    }  # fmt: skip
    job = {**FIXED, "plan": {"dp": 2}, "recovery": {"time": "1 s"}}
    spot = {"rental": {"per_gpu": "1 USD/h", "terms": "spot"}}
    part, _ = compared(made(job, cost=spot, faults=faults), made(), options=Options(seeds=1)).scenarios
    assert part.curve
    for p in part.curve:
        assert p.fixed_usd_per_hour is not None
        assert p.fixed_usd_per_hour < 1.9
        assert p.usd_per_million_tokens == pytest.approx(p.fixed_usd_per_hour / p.tokens_per_s / 3600 * 1e6)
    assert part.use is not None
    assert part.use.fixed_usd_per_hour < 1.9


def test_break_even_follows_from_the_costs_by_use(curved: Comparison) -> None:
    costs = [CostByUse(s.use.fixed_usd_per_hour, s.use.used_usd_per_hour, s.use.tokens_per_s)
             for s in curved.scenarios if s.use]  # fmt: skip
    assert [a.utilisation for a in curved.against_api] == [break_even_price(cost, 5.0) for cost in costs]
    assert {(a.scenario, a.other): a.utilisation for a in curved.against} == {
        (0, 1): break_even_full(costs[0], costs[1]), (1, 0): break_even_full(costs[1], costs[0]),
    }  # fmt: skip


def test_buying_wins_from_some_hours_a_day() -> None:
    rent = {"rental": {"cluster": "0.5 USD/h"}}
    c = compared(made(FIXED, "bought"), made(FIXED, "rented", cost=rent), options=Options())
    assert {s.group for s in c.settings} == {"cost"}
    against = next(a for a in c.against if a.scenario == 0)
    use = c.scenarios[0].use
    assert use is not None
    assert against.utilisation == pytest.approx(use.fixed_usd_per_hour / (0.5 - use.used_usd_per_hour))
    assert [part.rented for part in c.scenarios] == [False, True]


def test_a_batch_larger_than_the_clients_is_no_trap() -> None:
    static = {**FIXED, "batching": {"policy": "static", "batch_size": 8}}
    c = compared(made(static), made(FIXED), options=Options(seeds=1))
    assert all(part.curve for part in c.scenarios)


# -- where the difference comes from ------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [COST, None])
def test_a_waterfall_adds_up_to_the_difference(cost: Any) -> None:
    c = compared(made(BUSY, cost=cost), made(BUSY, cost=cost, gpu={"memory_bandwidth": "3 TB/s"}))
    name = "usd_per_million_tokens" if cost else "gpu_s_per_million_tokens"
    assert c.split_by == name
    assert sum(c.pairs[0].waterfall.values()) == pytest.approx(c.pairs[0].metrics[name].absolute.mean)
    for part in c.scenarios:
        assert sum(part.split.values()) == pytest.approx(part.metrics[name].mean)
        assert sum(part.ledger.values()) == pytest.approx(1.0)
    assert waterfall({"a": 1.0}, {"b": 2.0}) == {"b": -2.0, "a": 1.0}


# -- what differs, what cannot be ---------------------------------------------------------------------------


def test_only_what_differs_is_told_with_its_unit() -> None:
    a, b = made(FIXED), made({**FIXED, "plan": {"pp": 4}}, gpus=4, gpu={"memory_bandwidth": "2 TB/s"}, cost=TWICE)
    found = {(s.group, s.key): s.values for s in settings([a, b])}
    assert found["plan", "pp"] == ["2", "4"]
    assert found["cost", "capital"] == ["1,000 USD", "2,000 USD"]
    assert found["cost", "electricity"] == ["0.10 USD/kWh", "0.20 USD/kWh"]
    assert found["hardware", "GPU memory bandwidth"] == ["1 TB/s", "2 TB/s"]
    assert found["hardware", "cluster"] == ["2 x desktop(1 x toy) over toy-net", "4 x desktop(1 x toy) over toy-net"]
    assert not any(group in ("load", "precision", "software", "model") for group, _ in found)


def test_other_loads_are_warned_of() -> None:
    c = compared(made(FIXED), made(DRAWN))
    assert any("the loads differ" in line and "poisson rate" in line for line in c.warnings)
    assert compared(made(FIXED), made(FIXED, cost=TWICE)).warnings == []


def test_what_does_not_fit_is_told_and_stops_nothing() -> None:
    tiny = made(FIXED, "tiny", gpu={"memory": "0.1 GB", "usable_memory": "0.1 GB"})
    c = compared(tiny, made(FIXED, "a"), made(FIXED, "b", cost=TWICE), options=Options(at_equal="budget"))
    assert (c.scenarios[0].failed, c.baseline) == ("infeasible", 1)
    assert "does not fit" in (c.scenarios[0].reason or "")
    assert "left for KV" in (c.scenarios[0].reason or "")
    assert [pair.scenario for pair in c.pairs] == [2]
    assert any("a is the baseline" in line for line in c.warnings)
    with pytest.raises(InfeasibleError, match="does not fit"):
        compared(tiny, tiny)


def trained(dp: int, tokens: float | None = None, **keys: Any) -> Resolved:
    job = {"kind": "training", "plan": {"dp": dp}, "batch": {"global": 64, "micro": 1, "sequence": 2048}}
    if tokens is not None:
        job["run"] = {"target_tokens": tokens}
    return resolved(scenario(desktops(dp, "a100-sxm-80gb", "ethernet-10g"), job, stack="generic", **{
        "model": "tinyllama-1.1b", "cost": COST, "name": f"dp{dp}", **keys,
    }))  # fmt: skip


def test_training_is_compared_by_its_own_metrics() -> None:
    c = compared(trained(2), trained(4))
    (pair,) = c.pairs
    assert pair.metrics["step_time_s"].absolute.mean < 0
    assert pair.metrics["step_time_s"].verdict == "better"
    assert c.scenarios[0].curve == []
    text = " ".join(render_comparison(c).split())
    assert "dp4 is the fastest, dp2 is the cheapest." in text
    assert "a step" in text


def test_training_is_answered_with_days_and_money_and_not_with_a_demand() -> None:
    """One model is trained once: copies of a cluster meet no demand for it."""
    c = compared(trained(2, tokens=1e9), trained(4, tokens=1e9))
    assert (c.by_demand, c.against, c.by_load) == ([], [], [])
    base, mine = c.scenarios
    for part in c.scenarios:
        hours = part.metrics["days_to_target"].mean * 24
        assert part.metrics["usd_to_target"].mean == pytest.approx(hours * part.metrics["usd_per_hour"].mean)
    saved = base.metrics["days_to_target"].mean - mine.metrics["days_to_target"].mean
    more = mine.metrics["usd_to_target"].mean - base.metrics["usd_to_target"].mean
    assert saved > 0
    assert more > 0
    (sentence,) = answer(c)
    assert sentence.startswith("To train on 1B tokens, dp2 takes ")
    assert f"({write('days_to_target', saved)} less and {write('usd_to_target', more)} more)" in sentence
    assert sentence.endswith("dp4 is the fastest, dp2 is the cheapest.")
    text = render_comparison(c)
    assert "demand" not in text
    assert "utilisation is" not in text.lower()
    rows = metric_rows(c, c.pairs[0], every=False)
    assert [row[0] for row in rows[:2]] == ["Time to the target", "Cost of the target"]


def test_one_training_is_as_fast_whatever_number_of_copies_is_as_dear() -> None:
    alone, equal = (compared(trained(2), trained(4), options=Options(at_equal=at)) for at in (None, "budget"))
    assert answer(alone)[0] == answer(equal)[0]


def test_who_misses_its_objectives_is_said_first() -> None:
    def promised(name: str, ttft: str, clients: int) -> Resolved:
        load = {**FIXED["load"], "closed_loop": {"clients": clients}}
        return made({**FIXED, "load": load, "objectives": {"ttft_p99": ttft}}, name=name)

    both = compared(promised("a", "1 us", 4), promised("b", "1 us", 4))
    assert answer(both)[0].startswith("Objectives are kept by neither at ")
    assert [m.name for m in both.scenarios[0].missed] == ["ttft_p99"]
    one = compared(promised("a", "1 us", 4), promised("b", "1 h", 4))
    first = answer(one)[0]
    assert first.startswith("Objectives are kept at ")
    assert "by b; a misses TTFT p99 (" in first
    assert one.scenarios[1].missed == []
    assert "objectives are" not in " ".join(answer(compared(promised("a", "1 h", 4), promised("b", "1 h", 4)))).lower()


def test_several_jobs_have_their_own_metrics_and_a_bill_in_common() -> None:
    second = {**FIXED, "load": {**FIXED["load"], "requests": 20}, "name": "second"}
    described = toy(FIXED, gpus=4, cost=COST)
    described["jobs"] += [{**second, "kind": "serving"}]
    two = resolved(described | {"name": "two"})
    dear = resolved(described | {"name": "dear", "cost": TWICE})
    c = compared(two, dear, options=Options(seeds=1))
    base = c.scenarios[0]
    rates = [base.metrics[f"jobs.{n}.output_tokens_per_s"].mean for n in (0, 1)]
    hour = base.metrics["usd_per_hour"].mean
    assert base.metrics["usd_per_million_tokens"].mean == pytest.approx(hour / (sum(rates) * 3600) * 1e6)
    assert base.metrics["capital_usd"].mean == pytest.approx(1000)
    assert base.curve == []
    assert base.use is None
    assert c.pairs[0].metrics["jobs.1.output_tokens_per_s"].verdict == "no clear difference"
    assert c.pairs[0].metrics["usd_per_hour"].verdict == "worse"
    with pytest.raises(InputError, match=r"toy runs serving, two 2 jobs \(serving, serving\)"):
        compared(two, made())


def test_training_beside_serving_is_compared_job_by_job() -> None:
    described = toy(FIXED, gpus=4, cost=COST)
    trains = {"name": "train", "kind": "training", "model": "tinyllama-1.1b", "stack": "ideal", "plan": {"dp": 2},
              "batch": {"global": 4, "micro": 1, "sequence": 512}, "run": {"steps": 3}}  # fmt: skip
    big = {"memory": "80 GB", "usable_memory": "80 GB"}
    described["jobs"] += [trains]
    described["define"]["gpus"]["toy"] |= big
    described["define"]["stacks"]["toy"] = {"like": "ideal"}
    both = resolved(described | {"name": "both"})
    c = compared(both, both)
    assert c.split_by is None
    assert "usd_per_million_tokens" not in c.scenarios[0].metrics
    assert "jobs.1.mfu" in c.pairs[0].metrics
    assert "better than both in 0 of" in render_comparison(c)
    with pytest.raises(InputError, match="do not add up"):
        compared(both, both, options=Options(at_equal="throughput"))


def test_training_and_serving_have_no_common_ground() -> None:
    with pytest.raises(InputError, match="dp2 runs training, toy serving") as error:
        compared(made(), trained(2))
    assert len(error.value.problems) == 1
    with pytest.raises(InputError, match="one serving job"):
        compared(trained(2), trained(4), options=Options(api_price=1.0))


@pytest.mark.parametrize("count", [1, 9])
def test_two_to_eight(count: int) -> None:
    with pytest.raises(InputError, match="give 2 to 8 scenarios"):
        compared(*[made()] * count)
