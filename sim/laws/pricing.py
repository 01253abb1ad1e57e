"""Money and power: what an hour of the cluster costs, and what a token costs from it.

    power     = pue * sum over GPUs and hosts of [ idle + (busy - idle) * utilisation ]
    USD/hour  = capital's hour + power * price of electricity + hosting      (bought)
              = rent                                                         (rented)
    capital's hour, over n years at interest i:
        (capital - resale / (1+i)^n) * i / (1 - (1+i)^-n) / 8760;   without interest (capital - resale) / (8760 n)
    USD/Mtok  = USD/hour / (tokens per hour) * 1e6

Utilisation is the share of time a GPU computes or communicates; nameplate power is an upper bound (measured
8 x A100 servers drew a median of 2.5 kW and a maximum of 6.6 kW, AcmeTrace).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from sim.spec.economics import Between, CapitalItem, CostSpec, Hosting, Price, Rental

HOUR = 3600.0
YEAR = 365 * 24 * HOUR


class Span(NamedTuple):
    """A price, and the bounds it lies in."""

    low: float
    mid: float
    high: float


class Counts(NamedTuple):
    """What a cluster has that is paid for by the piece."""

    gpus: int
    nodes: int
    switches: int


@dataclass(frozen=True, slots=True)
class PowerDraw:
    """One kind of consumer: ``count`` units, watts idle and busy, and the share of time they were busy."""

    name: str
    count: float
    idle: float
    busy: float
    utilisation: float

    @property
    def watts(self) -> float:
        """Mean power of all units."""
        return self.count * (self.idle + (self.busy - self.idle) * self.utilisation)


@dataclass(frozen=True, slots=True)
class HourlyCost:
    """USD an hour by part, and the electrical power behind it (W); ``span``: the total within the bounds of prices."""

    parts: dict[str, float]
    power: float
    capital: float | None
    span: Span

    @property
    def total(self) -> float:
        """USD an hour."""
        return sum(self.parts.values())


def cluster_power(spec: CostSpec, draws: Sequence[PowerDraw]) -> float:
    """Mean watts at the meter. A stated power of the whole cluster replaces the parts."""
    if spec.power is not None:
        gpus = [d for d in draws if d.count]
        weight = sum(d.count * d.busy for d in gpus)
        share = sum(d.count * d.busy * d.utilisation for d in gpus) / weight if weight else 0.0
        return spec.pue * (spec.power.idle + (spec.power.busy - spec.power.idle) * share)
    return spec.pue * sum(d.watts for d in draws)


def capital_of(spec: CostSpec, counts: Counts, prices: Mapping[str, Price]) -> Span | None:
    """USD paid for the cluster, or None if it is rented. ``prices`` are the catalogue's, by id."""
    if spec.capital is None:
        return None
    if not isinstance(spec.capital, tuple):
        return Span(spec.capital, spec.capital, spec.capital)
    number = {"cluster": 1, "node": counts.nodes, "gpu": counts.gpus, "switch": counts.switches}
    items = [(item.count * number[item.per], _unit_price(item, prices)) for item in spec.capital]
    return Span(*(sum(count * price[end] for count, price in items) for end in range(3)))


def _unit_price(item: CapitalItem, prices: Mapping[str, Price]) -> Span:
    if item.price is not None:
        return span_of(prices[item.price])
    if isinstance(item.unit_price, Between):
        return Span(item.unit_price.low, (item.unit_price.low + item.unit_price.high) / 2, item.unit_price.high)
    assert item.unit_price is not None
    return Span(item.unit_price, item.unit_price, item.unit_price)


def span_of(price: Price) -> Span:
    """A catalogue price with its bounds, where it has any."""
    assert price.usd is not None
    low = price.usd if price.usd_low is None else price.usd_low
    high = price.usd if price.usd_high is None else price.usd_high
    return Span(min(low, price.usd), price.usd, max(high, price.usd))


def hourly_capital(capital: float, spec: CostSpec) -> float:
    """USD an hour for a purchase: what it loses, and interest on what is tied up (capital recovery)."""
    years = spec.amortisation / YEAR
    if spec.interest == 0.0:
        return capital * (1.0 - spec.resale) / (spec.amortisation / HOUR)
    growth: float = (1.0 + spec.interest) ** years
    return capital * (1.0 - spec.resale / growth) * spec.interest / (1.0 - 1.0 / growth) / (YEAR / HOUR)


def hourly_cost(
    spec: CostSpec, draws: Sequence[PowerDraw], counts: Counts, prices: Mapping[str, Price]
) -> HourlyCost:
    """Cost of the cluster's hour at the utilisation in ``draws``. ``prices`` are the catalogue's, by id."""
    power = cluster_power(spec, draws)
    if spec.rental is not None:
        rent = _rent(spec.rental, counts, prices)
        return HourlyCost({"rent": rent.mid}, power, None, rent)
    capital = capital_of(spec, counts, prices)
    assert capital is not None
    parts = {"capital": hourly_capital(capital.mid, spec)}
    included = isinstance(spec.hosting, Hosting) and spec.hosting.power_included
    if not included:
        parts["electricity"] = power / 1000 * (spec.electricity or 0.0)
    if (hosting := _hosting(spec, draws, counts)) > 0.0:
        parts["hosting"] = hosting
    rest = sum(parts.values()) - parts["capital"]
    span = Span(*(rest + hourly_capital(price, spec) for price in capital))
    return HourlyCost(parts, power, capital.mid, span)


def _rent(rental: Rental, counts: Counts, prices: Mapping[str, Price]) -> Span:
    if rental.cluster is not None:
        return Span(rental.cluster, rental.cluster, rental.cluster)
    if rental.per_gpu is not None:
        each = Span(rental.per_gpu, rental.per_gpu, rental.per_gpu)
    else:
        assert rental.price is not None
        each = span_of(prices[rental.price])
    return Span(*(end * counts.gpus for end in each))


def _hosting(spec: CostSpec, draws: Sequence[PowerDraw], counts: Counts) -> float:
    """USD an hour of the place that the machines stand in."""
    hosting = spec.hosting
    if not isinstance(hosting, Hosting):
        return hosting
    if hosting.per_rack is not None:
        assert hosting.nodes_per_rack is not None
        return hosting.per_rack * ceil(counts.nodes / hosting.nodes_per_rack)
    assert hosting.per_kw is not None
    most = spec.power.busy if spec.power is not None else sum(d.count * d.busy for d in draws)
    return hosting.per_kw * most / 1000


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float | None:
    """Cost of a million tokens, or None without tokens."""
    return usd_per_hour / (tokens_per_s * HOUR) * 1e6 if tokens_per_s > 0 else None
