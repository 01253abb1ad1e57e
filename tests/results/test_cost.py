"""Money of a run: bounds of prices carried to a token, its use, peak and valley, spot, and the note on licences."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from sim.adapters.lookup import Library
from sim.errors import InputError
from sim.report.figures import figures_of
from sim.report.terminal import render_text
from sim.run import run_recorded
from sim.units import format_percent

from ..helpers import only, played, resolved, shipped, simulate, topology, toy

LOAD = {"deterministic": {"rate": "5 req/s"}, "requests": 60, "prompt_tokens": 200, "output_tokens": 50}
BOUGHT = {"capital": "1000 USD", "electricity": "0 USD/kWh"}


def priced(**cost: Any) -> dict[str, Any]:
    return toy({"load": LOAD}, gpus=1, cost=BOUGHT | cost)


def test_bounds_of_a_price_are_bounds_of_a_token():
    item = {"what": "card", "per": "gpu", "unit_price": {"low": "500 USD", "high": "1500 USD"}}
    result = simulate(priced(capital=[item])).result
    cost = only(result).cost
    low, high = cost.usd_per_million_tokens_range
    assert cost.usd_per_million_tokens == pytest.approx((low + high) / 2)
    assert high == pytest.approx(3 * low)  # no electricity, no hosting: capital is all there is
    assert "by prices)" in render_text(result)


def test_a_price_without_bounds_has_no_range():
    cost = only(simulate(priced()).result).cost
    assert cost.usd_per_million_tokens_range is None
    assert "by prices" not in render_text(simulate(priced()).result)


@pytest.mark.parametrize(("hosting", "warned"), [("0 USD/h", False), ("1 USD/h", True)])
def test_geforce_in_a_data_centre_is_noted(hosting: str, warned: bool):
    described = toy({"load": LOAD}, cost=BOUGHT | {"hosting": hosting})
    described |= {"cluster": topology("desktop_1x4090"), "model": "tinyllama-1.1b", "stack": "vllm"}
    found = [line for line in simulate(described).result.verdict.warnings if "data centres" in line]
    assert len(found) == warned


def test_an_api_is_told_beside_the_cost_of_a_token():
    cost = only(simulate(priced()).result).cost
    assert (cost.api_usd_per_million_tokens, cost.api_price_ratio) == (None, None)
    asked = 3 * cost.usd_per_million_tokens
    result = run_recorded(resolved(priced(api_price=f"{asked!r} USD/Mtok"))).result
    found = only(result).cost
    assert found.api_price_ratio == pytest.approx(3)
    assert "(3 times the cost at this load)" in " ".join(render_text(result).split())
    use = found.saturation.usd_per_million_tokens / asked  # electricity is free: half the use, twice the cost
    figure = next(f for f in figures_of(result)["cost"] if f.id == "cost-use")
    assert f"dearer from {format_percent(use)} of saturation on" in figure.takeaway
    line = next(trace for trace in figure.traces if trace["name"] == "API")
    assert line["y"] == [asked, asked]
    cheap = run_recorded(resolved(priced(api_price="0.000001 USD/Mtok"))).result
    figure = next(f for f in figures_of(cheap)["cost"] if f.id == "cost-use")
    assert "no dearer even than a full cluster" in figure.takeaway


def test_what_a_purchase_is_made_of_is_told_and_drawn():
    items = [{"what": "card", "per": "gpu", "unit_price": "600 USD"}, {"what": "case", "unit_price": "400 USD"}]
    result = simulate(priced(capital=items)).result
    assert only(result).cost.capital_items_usd == {"card": 600, "case": 400}
    assert "purchase 1,000 USD (card 60%, case 40%)" in " ".join(render_text(result).split())
    figure = next(f for f in figures_of(result)["cost"] if f.id == "purchase")
    assert figure.traces[0]["x"] == [600, 400]
    assert figure.takeaway == "Card is 60% of 1,000 USD, all else 40%."
    assert all(f.id != "purchase" for f in figures_of(simulate(priced()).result)["cost"])


@pytest.mark.parametrize("price", ["colo-us", "hosting-rack-2023", "hosting-miner-2023"])
def test_a_place_at_a_price_of_the_catalogue(price: str):
    """Of whatever the machine draws at most; a price by something else is refused."""
    bill = only(simulate(priced(hosting={"price": price})).result).cost.breakdown_usd_per_hour
    most = 0.100 + 0.120  # the toy GPU's and a desktop's kilowatts
    assert bill["hosting"] == pytest.approx(catalog_price(price) / 730 * most)
    with pytest.raises(InputError, match="priced in USD/kWh, not by the kilowatt and month"):
        simulate(priced(hosting={"price": "reference-elec"}))


def catalog_price(name: str) -> float:
    usd = Library().price(name).usd
    assert usd is not None
    return usd


# ---- over its use


def test_reserved_and_by_use_differ_by_the_time_without_work():
    cost = only(simulate(priced()).result).cost  # electricity is free: all of it runs on
    assert cost.fixed_usd_per_hour == pytest.approx(cost.usd_per_hour)
    result = simulate(priced()).result
    waiting = result.ledger["waiting for work"] / sum(result.ledger.values())
    assert 0.1 < waiting < 0.99
    by_use = cost.usd_per_million_tokens_by_use
    assert by_use == pytest.approx(cost.usd_per_million_tokens * (1 - waiting))


def test_the_curve_ends_at_saturation_and_halves_with_twice_the_use():
    described = priced(electricity={"low": "0 USD/kWh", "high": "2 USD/kWh"})
    cost = only(run_recorded(resolved(described)).result).cost
    uses = {round(point.utilisation, 2): point for point in cost.curve}
    full = uses[1.0]
    assert full.usd_per_million_tokens == pytest.approx(cost.saturation.usd_per_million_tokens)
    assert [full.low, full.high] == pytest.approx(cost.saturation.usd_per_million_tokens_range)
    # What is paid for use (u) and for standing (1/u): from 50 to 100% only the latter halves.
    standing = 2 * (uses[0.5].usd_per_million_tokens - full.usd_per_million_tokens) / 2
    assert uses[0.25].usd_per_million_tokens == pytest.approx(full.usd_per_million_tokens + 3 * standing)
    assert all(point.low < point.usd_per_million_tokens < point.high for point in cost.curve)
    prices = [point.usd_per_million_tokens for point in cost.curve]
    assert prices == sorted(prices, reverse=True)


def test_a_training_run_is_its_own_saturation():
    cost = only(played("ring_8x4090").result).cost
    assert cost.saturation is None
    assert cost.curve[-1].usd_per_million_tokens == pytest.approx(cost.usd_per_million_tokens)
    assert cost.curve[0].usd_per_million_tokens > 10 * cost.usd_per_million_tokens


# ---- peak and valley


def test_a_demand_is_met_by_copies_of_the_cluster():
    demand = {"peak": "5000 req/s", "valley": "500 req/s", "burst": {"per_gpu": "0.1 USD/h"}}
    cost = only(run_recorded(resolved(priced(demand=demand))).result).cost
    swing, full = cost.swing, cost.saturation
    assert swing.peak_tokens_per_s == pytest.approx(5000 * 50)  # answers of 50 tokens
    assert swing.copies_at_peak == math.ceil(5000 * 50 / full.output_tokens_per_s)
    assert swing.utilisation == pytest.approx(2750 * 50 / swing.copies_at_peak / full.output_tokens_per_s)
    stands = swing.plans[-1]
    assert (stands.base, stands.burst) == (swing.copies_at_peak, 0)
    # CST-33: what stands for the peak costs the ideal over its utilisation.
    assert stands.usd_per_million_tokens == pytest.approx(full.usd_per_million_tokens / swing.utilisation)
    best = swing.plans[swing.best]
    assert 0 < best.base < swing.copies_at_peak
    assert best.usd_per_million_tokens < min(stands.usd_per_million_tokens, swing.plans[0].usd_per_million_tokens)
    assert all(plan.base + plan.burst == swing.copies_at_peak for plan in swing.plans)


def test_a_diurnal_load_is_its_own_demand_and_what_is_rented_by_the_hour_is_given_back():
    load = {k: v for k, v in LOAD.items() if k != "deterministic"}
    load |= {"diurnal": {"peak": "900 req/s", "valley": "100 req/s", "period": "1 s"}}
    described = toy({"load": load}, cost={"rental": {"per_gpu": "1 USD/h"}})
    swing = only(run_recorded(resolved(described)).result).cost.swing
    assert swing.peak_tokens_per_s == pytest.approx(9 * swing.valley_tokens_per_s)
    assert (swing.plans[swing.best].base, swing.best) == (0, 0)
    described["cost"]["rental"] |= {"terms": "reserved", "term": "1 year"}
    swing = only(run_recorded(resolved(described)).result).cost.swing
    assert [plan.burst for plan in swing.plans] == [0]  # it is paid for, used or not
    assert "all day cost" in render_text(run_recorded(resolved(described)).result)


def test_a_demand_is_that_of_one_serving_job():
    described = toy({"load": LOAD}, cost=BOUGHT | {"demand": {"peak": "2 req/s", "valley": "1 req/s"}})
    described["jobs"] = [described["jobs"][0], described["jobs"][0] | {"name": "other"}]
    with pytest.raises(InputError, match="only job"):
        resolved(described)


# ---- spot


def test_spot_machines_are_not_paid_for_while_they_are_gone():
    """One of two machines goes after 4 s and is there again 6 s later."""
    faults = {
        "classes": [{"name": "preemption", "per": "node", "mtbf": "1000 h"}], "spares": 0, "repair": "6 s",
        "trace": [{"time": "4 s", "name": "preemption", "unit": 1}],
    }  # fmt: skip
    recovery = {"time": "1 s"}
    described = toy({"plan": {"dp": 2}, "load": LOAD, "recovery": recovery}, gpus=2, faults=faults)
    described["cost"] = {"rental": {"per_gpu": "1 USD/h", "terms": "spot"}}
    result = simulate(described).result
    cost = only(result).cost
    end = result.simulated_s
    assert cost.billed_fraction == pytest.approx(1 - 6 / (2 * end), rel=1e-6)
    assert cost.usd_per_hour == pytest.approx(2 * cost.billed_fraction)
    described["cost"]["rental"]["terms"] = "on_demand"
    kept = only(simulate(described).result).cost
    assert (kept.billed_fraction, kept.usd_per_hour) == (None, 2.0)


# ---- what training to a target costs


def test_money_to_finish_with_failures_is_that_of_the_days_it_takes_with_them():
    result = played("spot_training").result
    m, cost = only(result).metrics, only(result).cost
    assert m.failures > 100
    days = m.target_tokens / m.goodput_tokens_per_s / 86400
    assert m.days_to_target == pytest.approx(days)
    assert m.usd_to_target == pytest.approx(days * 24 * cost.usd_per_hour)
    calm = only(run_recorded(shipped("spot_training", "faults.scale=0.001"), effects=False).result)
    assert calm.metrics.usd_to_target < 0.96 * m.usd_to_target
    assert 0.98 < cost.billed_fraction < 1.0


def test_a_reservation_that_outlasts_the_training_is_told():
    rental = {"per_gpu": "1 USD/h", "terms": "reserved", "term": "1 year"}
    found = run_recorded(shipped("spot_training", f"cost.rental={json.dumps(rental)}"), effects=False).result
    assert only(found).cost.committed_usd == pytest.approx(128 * 8760)
    assert any("reserved for" in line for line in found.verdict.warnings)
    assert "1.12M USD reserved, used or not" in render_text(found)


def test_idle_gpus_are_warned_of_and_their_money_named() -> None:
    load = {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 20, "requests": 1}
    cost = {"capital": "4000 USD", "electricity": "0.10 USD/kWh"}
    (line,) = simulate(toy({"load": load}, gpus=4, cost=cost)).result.verdict.warnings
    assert line.startswith("3 of the cluster's 4 GPUs have no job; money and power are those of all 4")
    assert simulate(toy({"load": load}, cost=cost)).result.verdict.warnings == []
