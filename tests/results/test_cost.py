"""Money of a run: bounds of prices carried to a token, and the note on licences."""

from __future__ import annotations

from typing import Any

import pytest

from sim.report.terminal import render_text

from ..helpers import only, simulate, topology, toy

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
