"""A run that says when its cluster has paid for itself: let, or its tokens sold; in words, drawn, derived, compared."""

from __future__ import annotations

from typing import Any

import pytest

from sim.errors import InputError
from sim.report.figures import figures_of
from sim.report.page import render_html
from sim.report.terminal import render_text
from sim.report.values import rows
from sim.results.schema import Cost
from sim.run import run_recorded
from sim.study.explain import explain

from ..helpers import only, resolved, shipped, simulate, toy

LOAD = {"deterministic": {"rate": "5 req/s"}, "requests": 60, "prompt_tokens": 200, "output_tokens": 50}
BOUGHT = {"capital": "7300 USD", "electricity": "0.10 USD/kWh", "hosting": "0.05 USD/h"}
RENT = 30000 / (7 * 720)
"""USD an hour of the article's H100."""


def let(income: dict[str, Any], *, gpus: int = 1, **cost: Any) -> dict[str, Any]:
    return toy({"load": LOAD}, gpus=gpus, cost=BOUGHT | {"income": income} | cost)


def cost_of(described: dict[str, Any]) -> Cost:
    cost = only(simulate(described).result).cost
    assert cost is not None
    return cost


def told(described: dict[str, Any]) -> str:
    return " ".join(render_text(simulate(described).result).split())


@pytest.mark.parametrize(("rent", "months"), [(RENT, 7), (RENT / 2, 14)])
def test_the_articles_h100(rent: float, months: int):
    """Seven months of 720 h for 30,000 USD, let all the time and at no cost; twice as many at half the rent."""
    income = f"cost={{capital: 30000 USD, electricity: 0 USD/kWh, income: {{per_gpu: {rent} USD/h}}}}"
    h100 = "cluster.topology.nodes.0.gpus.0.type=h100-sxm", "assume.gpu=null"
    cost = only(run_recorded(shipped("article/single_gpu_train", *h100, income), effects=False).result).cost
    assert cost.payback_months * 730 / 720 == pytest.approx(months)
    assert (cost.income_usd_per_hour, cost.running_usd_per_hour) == (pytest.approx(rent), 0.0)


def test_running_costs_are_the_runs_while_it_is_let_and_idle_otherwise():
    always, half = (cost_of(let({"per_gpu": "1 USD/h", "occupancy": share})) for share in (1.0, 0.5))
    working = always.usd_per_hour - always.breakdown_usd_per_hour["capital"]
    idle = always.fixed_usd_per_hour - always.breakdown_usd_per_hour["capital"]
    assert 0.05 < idle < working
    assert always.running_usd_per_hour == pytest.approx(working)
    assert half.running_usd_per_hour == pytest.approx((working + idle) / 2)
    assert half.income_usd_per_hour == pytest.approx(0.5)
    assert half.payback_months == pytest.approx(7300 / (0.5 - (working + idle) / 2) / 730)
    curve = {point.occupancy: point.months for point in half.payback_curve}
    assert curve[0.5] == pytest.approx(half.payback_months)
    assert curve[1.0] == pytest.approx(always.payback_months)


def test_tokens_are_sold_at_what_an_api_asks():
    cost = cost_of(let({"tokens": "api_price", "occupancy": "25%"}, api_price="4000 USD/Mtok"))
    tokens = 1e6 / cost.usd_per_million_tokens * cost.usd_per_hour / 3600
    assert cost.income_usd_per_hour == pytest.approx(0.25 * tokens * 3600 * 4000e-6)
    assert cost.payback_months == pytest.approx(7300 / (cost.income_usd_per_hour - cost.running_usd_per_hour) / 730)


def test_jobs_share_rent_by_gpus_and_who_trains_sells_no_tokens():
    few = "jobs.1.load.requests=20", "jobs.0.run.steps=2", "cost.api_price=1000 USD/Mtok"
    training, serving = costs_of_two(*few, "cost.income={per_gpu: 1 USD/h}")
    assert training.income_usd_per_hour == serving.income_usd_per_hour == pytest.approx(4)
    assert training.payback_months == pytest.approx(serving.payback_months)
    training, serving = costs_of_two(*few, "cost.income={tokens: api_price}")
    assert (training.income_usd_per_hour, training.payback_months) == (0.0, None)
    assert serving.payback_months == pytest.approx(
        12000 / (serving.income_usd_per_hour - serving.running_usd_per_hour) / 730
    )


def costs_of_two(*overrides: str) -> list[Cost]:
    jobs = run_recorded(shipped("training_beside_serving", *overrides), effects=False).result.jobs
    assert [job.cost.capital_usd for job in jobs] == [12000, 12000]
    return [job.cost for job in jobs]


def test_it_is_told_in_words_cards_rows_and_a_figure():
    described = let({"per_gpu": {"low": "0.04 USD/h", "high": "1 USD/h"}, "occupancy": "80%"})
    result = simulate(described).result
    cost = only(result).cost
    best, worst = cost.payback_months_range
    assert best < cost.payback_months
    assert worst is None
    text = told(described)
    assert f"paid back in {cost.payback_months:.3g} months ({best:.3g} to never by prices): " in text
    assert "USD/h earned" in text
    figure = next(f for f in figures_of(result)["cost"] if f.id == "payback")
    assert f"Paid back in {cost.payback_months:.3g} months at 80% of hours" in figure.takeaway
    assert [trace["name"] for trace in figure.traces] == [
        "payback", "at the best prices", "at the worst prices", "as stated"
    ]  # fmt: skip
    assert {row.key: row.value for row in rows(result, only(result))}["payback_months"].endswith(" months")
    page = render_html(result)
    assert "Payback over occupancy" in page
    assert "until income less running costs has paid for the purchase" in page


def test_never_is_said():
    poor = let({"per_gpu": "0.01 USD/h"})
    cost = cost_of(poor)
    assert (cost.payback_months, cost.payback_months_range) == (None, None)
    assert "never paid back: 0.01 USD/h earned, 0.0586" in told(poor)
    result = simulate(poor).result
    assert {row.key: row.value for row in rows(result, only(result))}["payback_months"] == "never"
    assert all(f.id != "payback" for f in figures_of(result)["cost"])
    owing = let({"per_gpu": "0.15 USD/h"}, interest="90%")
    assert "which leaves no more than the interest on the purchase" in told(owing)
    steps = {step.name: step.value for step in explain(resolved(owing), "payback").steps}
    assert steps["payback"] == "never"


def test_without_income_nothing_is_said_of_it():
    plain = toy({"load": LOAD}, cost=BOUGHT)
    cost = cost_of(plain)
    assert (cost.payback_months, cost.income_usd_per_hour, cost.payback_curve) == (None, None, [])
    assert "paid back" not in told(plain)
    result = simulate(plain).result
    assert not {"payback_months", "income_usd_per_hour", "occupancy"} & {row.key for row in rows(result, only(result))}
    (step,) = explain(resolved(plain), "cost.payback_months").steps
    assert "give cost.income" in step.formula


def test_it_is_derived_line_by_line():
    found = explain(resolved(let({"per_gpu": "1 USD/h", "occupancy": "90%"}, interest="5%")), "payback")
    assert [step.name for step in found.steps] == ["income", "running costs", "left", "purchase", "payback"]
    assert found.steps[0].value == "0.90 USD/h"
    assert found.steps[-1].value == f"{found.value:.3g} months"


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        ({"rental": {"per_gpu": "1 USD/h"}, "income": {"per_gpu": "2 USD/h"}}, "rented has no payback, give capital"),
        (BOUGHT | {"income": {"occupancy": 0.5}}, "give exactly one of per_gpu, price"),
        (BOUGHT | {"income": {"per_gpu": "1 USD/h", "tokens": "api_price"}}, "give exactly one of per_gpu, price"),
        (BOUGHT | {"income": {"tokens": "api_price"}}, "income from tokens needs api_price"),
        (BOUGHT | {"income": {"per_gpu": "1 USD/h", "occupancy": 0}}, "greater than 0"),
        (BOUGHT | {"income": {"price": "colo-us"}}, "priced in USD/kW-month, not by the GPU-hour"),
    ],
)
def test_what_earns_nothing_is_refused_in_one_line(cost: dict[str, Any], says: str):
    with pytest.raises(InputError, match=says) as error:
        resolved(toy({"load": LOAD}, cost=cost))
    assert len(str(error.value).splitlines()) == 1


def test_who_only_trains_has_no_tokens_to_sell():
    tokens = "cost={capital: 1 USD, electricity: 0 USD/kWh, api_price: 1 USD/Mtok, income: {tokens: api_price}}"
    with pytest.raises(InputError, match="no job serves, give per_gpu or price"):
        shipped("article/single_gpu_train", tokens)


def test_rent_at_a_price_of_the_catalogue_is_that_price_with_its_bounds():
    listed = cost_of(let({"price": "lambda-h100-sxm-on-demand"}))
    assert listed.income_usd_per_hour == pytest.approx(3.99)
