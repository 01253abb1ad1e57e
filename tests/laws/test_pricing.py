"""Hourly cost and power in closed form, and the reference article's bills."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sim.laws.pricing import Counts, PowerDraw, capital_of, cluster_power, hourly_cost, usd_per_million_tokens
from sim.spec.economics import CostSpec, Price

#: Eight GPUs in one machine.
BOX = Counts(8, 1, 0)


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
    hour = hourly_cost(bought(hosting="365 USD/month"), [gpus(1.0)], BOX, {})
    assert hour.parts == pytest.approx({"capital": 20000 / 26280, "electricity": 0.36, "hosting": 0.5})
    assert hour.total == pytest.approx(20000 / 26280 + 0.86)
    assert (hour.capital, hour.power) == (20000, 3600)
    assert list(hourly_cost(bought(), [gpus(1.0)], BOX, {}).parts) == ["capital", "electricity"]


@pytest.mark.parametrize(
    ("rental", "per_hour"), [({"per_gpu": "1.29 USD/h"}, 8 * 1.29), ({"cluster": "20 USD/h"}, 20.0),
                             ({"price": "listed"}, 8 * 2.5)],
)  # fmt: skip
def test_rent_is_all_there_is(rental: dict[str, str], per_hour: float) -> None:
    listed = Price(id="listed", item="GPU", kind="rental", unit="USD/GPU-h", usd=2.5, as_of="2026", source="test")
    hour = hourly_cost(CostSpec.model_validate({"rental": rental}), [gpus(1.0)], BOX, {"listed": listed})
    assert hour.parts == {"rent": pytest.approx(per_hour)}
    assert hour.capital is None
    assert hour.power == 3600  # still drawn, and reported


def test_parts_are_counted_on_the_cluster_and_carry_their_bounds() -> None:
    card = Price(id="card", item="card", kind="capex", unit="USD/unit", usd=1600, usd_low=1500, usd_high=1900,
                 as_of="2026", source="test")  # fmt: skip
    items = [
        {"what": "card", "per": "gpu", "price": "card"},
        {"what": "desktop", "per": "node", "unit_price": {"low": "600 USD", "high": "800 USD"}},
        {"what": "switch", "per": "switch", "count": 0.5, "unit_price": "1000 USD"},
        {"what": "cables", "unit_price": "100 USD"},
        {"what": "network card", "per": "nic", "unit_price": "150 USD"},
        {"what": "switch share", "per": "port", "unit_price": "37.5 USD"},
        {"what": "rack", "per": "rack", "nodes_per_rack": 3, "unit_price": "500 USD"},
    ]
    spec, home = bought(capital=items), Counts(gpus=16, nodes=8, switches=2, nics=10, ports=12)
    rest = 1000 + 100 + 1500 + 450 + 3 * 500  # eight nodes stand in three racks
    assert capital_of(spec, home, {"card": card}) == (
        16 * 1500 + 8 * 600 + rest, 16 * 1600 + 8 * 700 + rest, 16 * 1900 + 8 * 800 + rest
    )  # fmt: skip
    hour = hourly_cost(spec, [gpus(0.5)], home, {"card": card})
    assert hour.span.mid == pytest.approx(hour.total)
    assert hour.span.high - hour.span.low == pytest.approx((16 * 400 + 8 * 200) / 26280)


def test_resale_and_interest_are_capital_recovery() -> None:
    def hour(**keys: Any) -> float:
        return hourly_cost(bought(**keys), [gpus(0.0)], BOX, {}).parts["capital"]

    assert hour(resale="25%") == pytest.approx(0.75 * hour())
    # A loan paid back in three instalments: what is left after each year's interest and payment.
    yearly, owed = hour(interest="8%", resale="20%") * 8760, 20000.0
    for _ in range(3):
        owed = owed * 1.08 - yearly
    assert owed == pytest.approx(0.20 * 20000)
    assert hour(interest="0.0001%") == pytest.approx(hour(), rel=1e-5)


@pytest.mark.parametrize(
    ("hosting", "per_hour"),
    [({"per_kw": "73 USD/month"}, 3.6 * 0.1), ({"per_rack": "730 USD/month", "nodes_per_rack": 4}, 3.0)],
)
def test_a_place_is_paid_by_the_kilowatt_or_the_rack(hosting: dict[str, Any], per_hour: float) -> None:
    counts = Counts(8, 9, 1)
    hour = hourly_cost(bought(hosting=hosting), [gpus(0.0)], counts, {})
    assert hour.parts["hosting"] == pytest.approx(per_hour)
    assert hour.parts["electricity"] > 0
    paid = CostSpec.model_validate({"capital": "1 USD", "hosting": {**hosting, "power_included": True}})
    assert list(hourly_cost(paid, [gpus(0.0)], counts, {}).parts) == ["capital", "hosting"]


def test_a_place_at_a_price_of_the_catalogue_has_its_bounds() -> None:
    """73 USD a kilowatt and month (730 h) are a tenth of a dollar an hour; of eight GPUs that draw 3.6 kW at most."""
    place = Price(
        id="place", item="place", kind="opex", unit="USD/kW-month", usd=73, usd_low=36.5, usd_high=146, as_of="2026",
        source="test",
    )  # fmt: skip
    hour = hourly_cost(bought(hosting={"price": "place"}), [gpus(0.0)], BOX, {"place": place})
    assert hour.parts["hosting"] == pytest.approx(0.36)
    assert hour.span.mid - hour.span.low == pytest.approx(0.18)
    assert hour.span.high - hour.span.mid == pytest.approx(0.36)


def test_a_purchase_is_told_item_by_item() -> None:
    capital = [
        {"what": "card", "per": "gpu", "unit_price": {"low": "100 USD", "high": "300 USD"}},
        {"what": "case", "per": "node", "unit_price": "50 USD"},
        {"what": "card", "count": 2, "unit_price": "25 USD"},
    ]
    hour = hourly_cost(bought(capital=capital), [gpus(0.0)], BOX, {})
    assert hour.items == {"card": 8 * 200 + 50, "case": 50}
    assert sum(hour.items.values()) == hour.capital
    assert hourly_cost(bought(), [gpus(0.0)], BOX, {}).items == {}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"api_price": "0 USD/Mtok"}, "greater than 0"),
        ({"hosting": {"price": "colo-us", "per_kw": "1 USD/h"}}, "give exactly one of per_kw, price"),
        ({"capital": [{"what": "x"}]}, "give either unit_price or price"),
        ({"capital": [{"what": "x", "unit_price": {"low": "2 USD", "high": "1 USD"}}]}, "low is above high"),
        ({"capital": [{"what": "x", "per": "rack", "unit_price": "1 USD"}]}, "nodes_per_rack belongs to per: rack"),
        ({"electricity": {"low": "0.2 USD/kWh", "high": "0.1 USD/kWh"}}, "low is above high"),
        ({"demand": {"peak": "1 req/s", "valley": "2 req/s"}}, "valley rate is above the peak"),
        ({"hosting": {"per_rack": "1 USD/h"}}, "nodes_per_rack belongs to per_rack"),
        ({"hosting": {}}, "give exactly one of per_kw, price"),
        ({"hosting": {"per_kw": "1 USD/h", "power_included": True}}, "leave electricity out"),
        ({"resale": "100%"}, "less than 1"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        bought(**keys)


def test_rent_is_not_owned() -> None:
    with pytest.raises(ValidationError, match="resale belongs to capital"):
        CostSpec.model_validate({"rental": {"per_gpu": "1 USD/h"}, "resale": "10%"})


def rented(*rents: dict[str, Any], **keys: Any) -> CostSpec:
    return CostSpec.model_validate({"rental": list(rents) if len(rents) > 1 else rents[0]} | keys)


def test_what_is_reserved_is_committed_and_what_is_on_the_spot_market_is_paid_while_it_is_there() -> None:
    spot = {"per_gpu": {"low": "0.2 USD/h", "high": "0.6 USD/h"}, "terms": "spot"}
    hour = hourly_cost(rented(spot), [gpus(1.0)], BOX, {}, present=0.75)
    assert hour.parts == {"rent": pytest.approx(8 * 0.4 * 0.75)}
    assert hour.span == pytest.approx((8 * 0.2 * 0.75, 8 * 0.4 * 0.75, 8 * 0.6 * 0.75))
    assert (hour.billed, hour.committed) == (0.75, None)
    held = {"per_gpu": "1 USD/h", "terms": "reserved", "term": "1 year"}
    hour = hourly_cost(rented(held), [gpus(1.0)], BOX, {}, present=0.75)
    assert (hour.total, hour.billed, hour.committed) == (8.0, None, pytest.approx(8 * 8760))
    assert hourly_cost(rented({"per_gpu": "1 USD/h"}), [gpus(1.0)], BOX, {}, present=0.5).total == 8.0


def test_rent_that_is_paid_upfront_costs_interest() -> None:
    held = {"per_gpu": "1 USD/h", "terms": "reserved", "term": "3 years", "upfront": "50%"}
    assert hourly_cost(rented(held), [gpus(1.0)], BOX, {}).total == pytest.approx(8.0)  # money costs nothing
    hour = hourly_cost(rented(held, interest="8%"), [gpus(1.0)], BOX, {}).total
    yearly, owed = (hour - 4.0) * 8760, 4.0 * 3 * 8760  # half by the hour, half as a loan
    for _ in range(3):
        owed = owed * 1.08 - yearly
    assert owed == pytest.approx(0.0, abs=1e-6)


def test_a_cluster_of_several_rents() -> None:
    base = {"per_gpu": "1 USD/h", "terms": "reserved", "term": "1 year", "share": "75%"}
    rest = {"per_gpu": "0.4 USD/h", "terms": "spot", "share": "25%"}
    hour = hourly_cost(rented(base, rest), [gpus(1.0)], BOX, {}, present=0.5)
    assert hour.parts == pytest.approx({"rent, reserved": 6.0, "rent, spot": 0.4})
    assert (hour.billed, hour.committed) == (0.875, pytest.approx(6 * 8760))


@pytest.mark.parametrize(
    ("rents", "says"),
    [
        ([{"per_gpu": "1 USD/h", "terms": "reserved"}], "term .* belongs to terms: reserved"),
        ([{"per_gpu": "1 USD/h", "term": "1 year"}], "term .* belongs to terms: reserved"),
        ([{"per_gpu": "1 USD/h", "upfront": "20%"}], "upfront belongs to terms: reserved"),
        ([{"per_gpu": "1 USD/h", "share": "20%"}], "share belongs to a cluster of several rents"),
        ([{"per_gpu": "1 USD/h"}] * 2, "each needs its share"),
        ([{"per_gpu": "1 USD/h", "share": "50%"}, {"per_gpu": "1 USD/h", "share": "40%"}], "make 100%"),
        ([{"cluster": "1 USD/h", "share": "50%"}, {"per_gpu": "1 USD/h", "share": "50%"}], "price parts by per_gpu"),
    ],
)
def test_rents_that_do_not_fit_are_refused(rents: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        rented(*rents)


def test_interest_needs_something_that_is_paid_ahead() -> None:
    with pytest.raises(ValidationError, match="interest belongs to capital, or to rent that is paid upfront"):
        rented({"per_gpu": "1 USD/h"}, interest="5%")


def test_a_price_of_energy_within_bounds() -> None:
    spec = bought(electricity={"low": "0.10 USD/kWh", "high": "0.30 USD/kWh"})
    hour = hourly_cost(spec, [gpus(1.0)], BOX, {})
    assert hour.parts["electricity"] == pytest.approx(3.6 * 0.2)
    assert hour.span.high - hour.span.low == pytest.approx(3.6 * 0.2)
    assert hour.span.mid == pytest.approx(hour.total)


def test_cost_per_token() -> None:
    assert usd_per_million_tokens(3.6, 1000) == pytest.approx(1.0)
    assert usd_per_million_tokens(3.6, 0.0) is None


# ---- REFERENCE_ARTICLE rows


def bill(capital: float, kilowatts: float, machines_in_a_rack: int) -> dict[str, float]:
    """The article's machine: three years, 0.1 USD/kWh, a rack at 1,500 USD for a month of 720 h."""
    hosting = 1500 / 720 / machines_in_a_rack
    power = {"idle": f"{kilowatts} kW", "busy": f"{kilowatts} kW"}
    spec = bought(capital=f"{capital} USD", power=power, hosting=f"{hosting} USD/h")
    return hourly_cost(spec, [gpus(1.0)], BOX, {}).parts


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
    assert capital_of(spec, BOX, {}) == (20350, 20350, 20350)
    assert hourly_cost(spec, [gpus(1.0)], BOX, {}).parts["capital"] == pytest.approx(0.774, abs=0.001)
