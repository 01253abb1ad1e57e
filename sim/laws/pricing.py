"""Money and power: what an hour of the cluster costs, and what a token costs from it.

    power     = pue * sum over GPUs and hosts of [ idle + (busy - idle) * utilisation ]
    USD/hour  = capital's hour + power * price of electricity + hosting      (bought)
              = rent * the share of time that it is there                    (rented; below 1 for spot only)
    capital's hour, over n years at interest i:
        (capital - resale / (1+i)^n) * i / (1 - (1+i)^-n) / 8760;   without interest (capital - resale) / (8760 n)
    reserved rent, of which a share a is paid upfront for n years:  (1 - a) * rent + capital's hour of a * rent * n
    USD/Mtok  = USD/hour / (tokens per hour) * 1e6

Utilisation is the share of time a GPU computes or communicates; nameplate power is an upper bound (measured
8 x A100 servers drew a median of 2.5 kW and a maximum of 6.6 kW, AcmeTrace).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple, Protocol

from sim.spec.economics import CapitalItem, CostSpec, Hosting, Income, Price, Rental

HOUR = 3600.0
YEAR = 365 * 24 * HOUR
HOURS_A_MONTH = 730.0


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
    nics: int = 0
    ports: int = 0


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
    """USD an hour by part, and the electrical power behind it (W); ``span``: the total within the bounds of prices.

    ``items``: what the purchase is made of, USD; empty where it is one sum, or rented. ``committed``: USD that will be
    paid for what is reserved, used or not. ``billed``: share of rented time that was paid for, None where nothing is on
    the spot market and nothing was handed back.
    """

    parts: dict[str, float]
    power: float
    capital: float | None
    span: Span
    committed: float | None = None
    billed: float | None = None
    items: dict[str, float] = field(default_factory=dict)

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
    paid = [_paid(item, counts, prices) for item in spec.capital]
    return Span(*(sum(price[end] for price in paid) for end in range(3)))


def items_of(spec: CostSpec, counts: Counts, prices: Mapping[str, Price]) -> dict[str, float]:
    """USD paid for each thing that is listed, in order; {} where the purchase is one sum, or the cluster rented."""
    found: dict[str, float] = {}
    for item in spec.capital if isinstance(spec.capital, tuple) else ():
        found[item.what] = found.get(item.what, 0.0) + _paid(item, counts, prices).mid
    return found


def _paid(item: CapitalItem, counts: Counts, prices: Mapping[str, Price]) -> Span:
    """USD for all of an item."""
    number = item.count * _number(item, counts)
    return Span(*(number * end for end in _unit_price(item, prices)))


def _number(item: CapitalItem, counts: Counts) -> int:
    """How many of what the item is counted by."""
    if item.per == "rack":
        return ceil(counts.nodes / (item.nodes_per_rack or 1))
    return {
        "cluster": 1, "node": counts.nodes, "gpu": counts.gpus, "nic": counts.nics, "port": counts.ports,
        "switch": counts.switches,
    }[item.per]  # fmt: skip


def _unit_price(item: CapitalItem, prices: Mapping[str, Price]) -> Span:
    if item.price is not None:
        return span_of(prices[item.price])
    assert item.unit_price is not None
    return stated(item.unit_price)


class Bounded(Protocol):
    """A price within bounds, of whatever unit."""

    @property
    def low(self) -> float:
        """At least."""

    @property
    def high(self) -> float:
        """At most."""


def stated(price: float | Bounded) -> Span:
    """A price as it is stated, with its bounds where it has any."""
    if isinstance(price, (int, float)):
        return Span(price, price, price)
    return Span(price.low, (price.low + price.high) / 2, price.high)


def span_of(price: Price) -> Span:
    """A catalogue price with its bounds, where it has any."""
    assert price.usd is not None
    low = price.usd if price.usd_low is None else price.usd_low
    high = price.usd if price.usd_high is None else price.usd_high
    return Span(min(low, price.usd), price.usd, max(high, price.usd))


def hourly_capital(capital: float, spec: CostSpec) -> float:
    """USD an hour for a purchase: what it loses, and interest on what is tied up (capital recovery)."""
    return _recovered(capital, spec.amortisation, spec.interest, spec.resale)


def _recovered(paid: float, seconds: float, interest: float, resale: float = 0.0) -> float:
    """USD an hour over ``seconds`` that pay off what is ``paid`` at their start, and the interest on it."""
    if interest == 0.0:
        return paid * (1.0 - resale) / (seconds / HOUR)
    growth: float = (1.0 + interest) ** (seconds / YEAR)
    return paid * (1.0 - resale / growth) * interest / (1.0 - 1.0 / growth) / (YEAR / HOUR)


def hourly_cost(
    spec: CostSpec, draws: Sequence[PowerDraw], counts: Counts, prices: Mapping[str, Price], present: float = 1.0,
    kept: float = 1.0,
) -> HourlyCost:  # fmt: skip
    """Cost of the cluster's hour at the utilisation in ``draws``. ``prices`` are the catalogue's, by id; ``present`` is
    the share of machine time that the cluster's machines were there, which is what spot ones are paid for; ``kept`` the
    share in which they were not handed back, which is what those that are not reserved are paid for."""
    power = cluster_power(spec, draws)
    if spec.rental is not None:
        return _rented(spec, power, counts, prices, present, kept)
    capital = capital_of(spec, counts, prices)
    assert capital is not None
    parts = {"capital": hourly_capital(capital.mid, spec)}
    span = [hourly_capital(price, spec) for price in capital]
    included = isinstance(spec.hosting, Hosting) and spec.hosting.power_included
    if not included:
        energy = stated(spec.electricity or 0.0)
        parts["electricity"] = power / 1000 * energy.mid
        span = [part + power / 1000 * price for part, price in zip(span, energy, strict=True)]
    hosting = _hosting(spec, draws, counts, prices)
    if hosting.mid > 0.0:
        parts["hosting"] = hosting.mid
    total = Span(*(part + place for part, place in zip(span, hosting, strict=True)))
    return HourlyCost(parts, power, capital.mid, total, items=items_of(spec, counts, prices))


def _rented(
    spec: CostSpec, power: float, counts: Counts, prices: Mapping[str, Price], present: float, kept: float
) -> HourlyCost:
    """The rent of a cluster, on whatever terms its parts are."""
    parts: dict[str, float] = {}
    low = high = committed = billed = 0.0
    for rental in spec.rents:
        rate, share = rent_of(rental, counts, prices), rental.share or 1.0
        name = f"rent, {rental.terms.replace('_', ' ')}" if isinstance(spec.rental, tuple) else "rent"
        paid = (present if rental.terms == "spot" else 1.0) * (1.0 if rental.terms == "reserved" else kept)
        factor = share * paid
        if rental.upfront:
            assert rental.term is not None
            hours = rental.term / HOUR
            factor *= 1.0 - rental.upfront + _recovered(rental.upfront * hours, rental.term, spec.interest)
        parts[name] = parts.get(name, 0.0) + rate.mid * factor
        low, high, billed = low + rate.low * factor, high + rate.high * factor, billed + share * paid
        if rental.term is not None:
            committed += rate.mid * share * rental.term / HOUR
    varies = kept < 1.0 or any(rental.terms == "spot" for rental in spec.rents)
    return HourlyCost(
        parts, power, None, Span(low, sum(parts.values()), high), committed or None, billed if varies else None
    )


def rent_of(rental: Rental, counts: Counts, prices: Mapping[str, Price]) -> Span:
    """USD an hour for all of a cluster at the price of ``rental``."""
    if rental.cluster is not None:
        return stated(rental.cluster)
    return rent_by_gpu(rental, counts, prices)


def rent_by_gpu(let: Rental | Income, counts: Counts, prices: Mapping[str, Price]) -> Span:
    """USD an hour for all GPUs of a cluster, each at the stated rent or that of the catalogue: paid, or earned."""
    if let.per_gpu is not None:
        each = stated(let.per_gpu)
    else:
        assert let.price is not None
        each = span_of(prices[let.price])
    return Span(*(end * counts.gpus for end in each))


def _hosting(spec: CostSpec, draws: Sequence[PowerDraw], counts: Counts, prices: Mapping[str, Price]) -> Span:
    """USD an hour of the place that the machines stand in."""
    hosting = spec.hosting
    if not isinstance(hosting, Hosting):
        return stated(hosting)
    if hosting.per_rack is not None:
        assert hosting.nodes_per_rack is not None
        return stated(hosting.per_rack * ceil(counts.nodes / hosting.nodes_per_rack))
    most = (spec.power.busy if spec.power is not None else sum(d.count * d.busy for d in draws)) / 1000
    if hosting.per_kw is not None:
        return stated(hosting.per_kw * most)
    assert hosting.price is not None
    return Span(*(month / HOURS_A_MONTH * most for month in span_of(prices[hosting.price])))


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float | None:
    """Cost of a million tokens, or None without tokens."""
    return usd_per_hour / (tokens_per_s * HOUR) * 1e6 if tokens_per_s > 0 else None
