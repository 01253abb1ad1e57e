"""Hourly cost and power in closed form, and the reference article's bills."""

from __future__ import annotations

from typing import Any

import pytest

from sim.laws.pricing import PowerDraw, capital_of, cluster_power, hourly_cost, usd_per_million_tokens
from sim.spec.economics import CostSpec, Price


def bought(**keys: Any) -> CostSpec:
    facts = {"capital": "20000 USD", "amortisation": "3 years", "electricity": "0.10 USD/kWh"}
    return CostSpec.model_validate(facts | keys)


def gpus(utilisation: float, count: float = 8) -> PowerDraw:
    return PowerDraw("gpu", count, 50.0, 450.0, utilisation)


def test_power_runs_from_idle_to_busy() -> None:
    assert gpus(0.0).watts == 400
    assert gpus(1.0).watts == 3600
    assert gpus(0.25).watts == 8 * 150
    hosts = PowerDraw("hosts", 1, 480, 960, 0.5)
    assert cluster_power(bought(pue=1.5), [gpus(0.5), hosts]) == pytest.approx(1.5 * (8 * 250 + 720))


def test_stated_power_replaces_the_parts_weighted_by_what_they_could_draw() -> None:
    spec = bought(power={"idle": "1 kW", "busy": "5 kW"}, pue=1.2)
    hosts = PowerDraw("hosts", 1, 0, 400, 0.0)
    share = 3600 * 0.5 / 4000
    assert cluster_power(spec, [gpus(0.5), hosts]) == pytest.approx(1.2 * (1000 + 4000 * share))
    assert cluster_power(spec, [gpus(0.0)]) == pytest.approx(1200)
    assert cluster_power(spec, [gpus(1.0)]) == pytest.approx(6000)


def test_bought_cluster_pays_capital_electricity_and_hosting() -> None:
    hour = hourly_cost(bought(hosting="365 USD/month"), [gpus(1.0)], 8, None)
    assert hour.parts == pytest.approx({"capital": 20000 / 26280, "electricity": 0.36, "hosting": 0.5})
    assert hour.total == pytest.approx(20000 / 26280 + 0.86)
    assert (hour.capital, hour.power) == (20000, 3600)
    assert list(hourly_cost(bought(), [gpus(1.0)], 8, None).parts) == ["capital", "electricity"]


@pytest.mark.parametrize(
    ("rental", "per_hour"), [({"per_gpu": "1.29 USD/h"}, 8 * 1.29), ({"cluster": "20 USD/h"}, 20.0),
                             ({"price": "listed"}, 8 * 2.5)],
)  # fmt: skip
def test_rent_is_all_there_is(rental: dict[str, str], per_hour: float) -> None:
    listed = Price(id="listed", item="GPU", kind="rental", unit="USD/GPU-h", usd=2.5, as_of="2026", source="test")
    hour = hourly_cost(CostSpec.model_validate({"rental": rental}), [gpus(1.0)], 8, listed)
    assert hour.parts == {"rent": pytest.approx(per_hour)}
    assert hour.capital is None
    assert hour.power == 3600  # still drawn, and reported


def test_cost_per_token() -> None:
    assert usd_per_million_tokens(3.6, 1000) == pytest.approx(1.0)
    assert usd_per_million_tokens(3.6, 0.0) is None


# ---- REFERENCE_ARTICLE rows


def bill(capital: float, kilowatts: float, machines_in_a_rack: int) -> dict[str, float]:
    """The article's machine: three years, 0.1 USD/kWh, a rack at 1,500 USD for a month of 720 h."""
    hosting = 1500 / 720 / machines_in_a_rack
    power = {"idle": f"{kilowatts} kW", "busy": f"{kilowatts} kW"}
    spec = bought(capital=f"{capital} USD", power=power, hosting=f"{hosting} USD/h")
    return hourly_cost(spec, [gpus(1.0)], 8, None).parts


def test_8x4090_server_costs_two_and_a_half_dollars_an_hour() -> None:
    parts = bill(40000, 5, 4)
    assert parts["capital"] == pytest.approx(1.522, abs=0.001)  # CST-13
    assert parts["electricity"] == pytest.approx(0.5)  # CST-15
    assert parts["hosting"] == pytest.approx(0.521, abs=0.001)  # CST-16
    assert sum(parts.values()) == pytest.approx(2.54, abs=0.01)  # CST-17: 2.52 from rounded parts
    assert sum(round(part, 1) for part in parts.values()) == pytest.approx(2.5)


def test_8xh100_server_costs_thirteen_and_a_half_dollars_an_hour() -> None:
    parts = bill(300000, 10, 2)
    assert parts["capital"] == pytest.approx(11.4155, abs=1e-4)  # CST-22
    assert parts["electricity"] == pytest.approx(1.0)  # CST-23
    assert parts["hosting"] == pytest.approx(1.0417, abs=1e-4)  # CST-24
    assert sum(parts.values()) == pytest.approx(13.46, abs=0.01)  # CST-25: 13.4 from rounded parts


def test_home_design_is_20350_dollars_item_by_item() -> None:
    """HOM-07: eight GPUs, eight cards, half a switch, eight desktops."""
    items = [
        {"what": "RTX 4090", "count": 8, "unit_price": "1600 USD"},
        {"what": "10 GbE card", "count": 8, "unit_price": "150 USD"},
        {"what": "half a switch", "unit_price": "750 USD"},
        {"what": "desktop", "count": 8, "unit_price": "700 USD"},
    ]
    spec = bought(capital=items)
    assert capital_of(spec) == 20350
    assert hourly_cost(spec, [gpus(1.0)], 8, None).parts["capital"] == pytest.approx(0.774, abs=0.001)
