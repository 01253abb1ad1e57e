"""What a cluster costs: bought, powered and hosted, or rented. Prices carry a date and a source."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from sim.spec.base import Count, Name, Prose, Spec
from sim.spec.workload import Rate
from sim.units import Fraction, PerSecond, Seconds, Usd, UsdPerHour, UsdPerKwh, UsdPerMillionTokens, Watts


class Price(Spec):
    """A catalogue price: what was asked for an item, by whom, when."""

    id: Name
    item: Prose
    kind: Prose
    provider: Prose = ""
    terms: Prose = ""
    unit: Prose
    usd: Annotated[float, Field(ge=0)] | None = None
    usd_low: Annotated[float, Field(ge=0)] | None = None
    usd_high: Annotated[float, Field(ge=0)] | None = None
    as_of: Prose
    source: Prose
    notes: Prose = ""


class Between(Spec):
    """A price that is known within bounds; the middle counts, the bounds are carried along."""

    low: Usd
    high: Usd

    @model_validator(mode="after")
    def _ordered(self) -> Between:
        return _in_order(self)


class HourlyBetween(Spec):
    """A price of an hour within bounds, as the market's at another time of the day or year."""

    low: UsdPerHour
    high: UsdPerHour

    @model_validator(mode="after")
    def _ordered(self) -> HourlyBetween:
        return _in_order(self)


class EnergyBetween(Spec):
    """A price of energy within bounds."""

    low: UsdPerKwh
    high: UsdPerKwh

    @model_validator(mode="after")
    def _ordered(self) -> EnergyBetween:
        return _in_order(self)


Bounds = TypeVar("Bounds", Between, HourlyBetween, EnergyBetween)


def _in_order(bounds: Bounds) -> Bounds:
    if bounds.low > bounds.high:
        raise ValueError("low is above high")
    return bounds


class CapitalItem(Spec):
    """One line of a purchase: ``count`` of it for the ``cluster``, or for each of its nodes, GPUs, network cards,
    ports of switches that a cable is in, switches, or racks of ``nodes_per_rack`` nodes.

    Its price is stated, or that of a catalogue entry.
    """

    what: Prose
    count: Annotated[float, Field(gt=0, le=1e7)] = 1.0
    per: Literal["cluster", "node", "gpu", "nic", "port", "switch", "rack"] = "cluster"
    nodes_per_rack: Count | None = None
    unit_price: Usd | Between | None = None
    price: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> CapitalItem:
        if (self.unit_price is None) == (self.price is None):
            raise ValueError("give either unit_price or price (a catalogue id)")
        if (self.per == "rack") != (self.nodes_per_rack is not None):
            raise ValueError("nodes_per_rack belongs to per: rack, which needs it")
        return self


class Hosting(Spec):
    """A place in a data centre, by the kilowatt that the machines draw at most (stated, or a catalogue price), or by
    the rack. Where power is in the price (``power_included``), electricity is not paid for."""

    per_kw: UsdPerHour | None = None
    price: Name | None = None
    per_rack: UsdPerHour | None = None
    nodes_per_rack: Count | None = None
    power_included: bool = False

    @model_validator(mode="after")
    def _one(self) -> Hosting:
        if sum(x is not None for x in (self.per_kw, self.price, self.per_rack)) != 1:
            raise ValueError("give exactly one of per_kw, price (a catalogue id), per_rack")
        if (self.per_rack is None) != (self.nodes_per_rack is None):
            raise ValueError("nodes_per_rack belongs to per_rack, which needs it")
        return self


class Power(Spec):
    """Electrical power of the whole cluster, replacing what the GPUs' and hosts' figures add up to."""

    idle: Watts
    busy: Watts

    @model_validator(mode="after")
    def _ordered(self) -> Power:
        if self.idle > self.busy:
            raise ValueError("idle power is above busy power")
        return self


Terms = Literal["on_demand", "reserved", "spot"]


class Rental(Spec):
    """Rent instead of purchase. Give one of: per GPU, for the whole cluster, or a catalogue price id.

    ``terms``: *on_demand* is paid while it is held, and can be handed back; *reserved* is paid for all of its ``term``,
    used or not, a share of that ``upfront``; *spot* can be taken away (``faults``), and is not paid for while it is
    gone. ``share``: of the cluster's GPUs, where several rents make up one cluster.
    """

    per_gpu: UsdPerHour | HourlyBetween | None = None
    cluster: UsdPerHour | None = None
    price: Name | None = None
    terms: Terms = "on_demand"
    term: Annotated[Seconds, Field(gt=0)] | None = None
    upfront: Fraction = 0.0
    share: Annotated[Fraction, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Rental:
        if sum(x is not None for x in (self.per_gpu, self.cluster, self.price)) != 1:
            raise ValueError("give exactly one of per_gpu, cluster, price")
        if (self.terms == "reserved") != (self.term is not None):
            raise ValueError("term (for how long it is reserved) belongs to terms: reserved, which needs it")
        if self.upfront and self.terms != "reserved":
            raise ValueError("upfront belongs to terms: reserved")
        return self


class Demand(Spec):
    """Requests that come in a swing between ``valley`` and ``peak``, as a cosine over the day, and whole copies of the
    cluster that answer them, each loaded to ``target_utilisation`` of its saturation at most.

    The cluster's own terms are those of the base. ``burst``: rent of a copy that stands only while it is needed.
    """

    peak: Rate
    valley: PerSecond
    target_utilisation: Annotated[Fraction, Field(gt=0)] = 1.0
    burst: Rental | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Demand:
        if self.valley > self.peak:
            raise ValueError("the valley rate is above the peak rate")
        if self.burst is not None and self.burst.terms == "reserved":
            raise ValueError("burst is rented by the hour: terms on_demand or spot, not reserved")
        if self.burst is not None and self.burst.share is not None:
            raise ValueError("share belongs to a cluster of several rents: leave it out of burst")
        return self


class Income(Spec):
    """What a bought cluster earns in ``occupancy`` of all hours: rent for each GPU (stated, or a catalogue price by the
    GPU-hour), or its generated ``tokens``, sold at ``api_price``."""

    per_gpu: Annotated[UsdPerHour, Field(gt=0)] | HourlyBetween | None = None
    price: Name | None = None
    tokens: Literal["api_price"] | None = None
    occupancy: Annotated[Fraction, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _one(self) -> Income:
        if sum(x is not None for x in (self.per_gpu, self.price, self.tokens)) != 1:
            raise ValueError("give exactly one of per_gpu, price (a catalogue id), tokens")
        return self


class CostSpec(Spec):
    """Money. ``capital`` is a sum or a list of items; ``hosting`` and ``electricity`` run on top of it. After
    ``amortisation`` a share of it is left (``resale``); ``interest`` is what money costs a year.

    Power is idle + (busy - idle) * utilisation for each GPU, plus each host's own, times ``pue``.
    With ``rental`` nothing else is charged: electricity and hosting are the landlord's. Several rents, each with its
    ``share``, make up one cluster. ``demand``: what a day of peak and valley costs; left out, that of a diurnal load.
    ``api_price``: what somebody else asks for generated tokens, to compare with. ``income``: what is earned with what
    was bought, until it has paid for itself.
    """

    capital: Usd | Annotated[tuple[CapitalItem, ...], Field(min_length=1)] | None = None
    amortisation: Seconds = 3 * 365 * 86400.0
    resale: Annotated[Fraction, Field(lt=1)] = 0.0
    interest: Annotated[Fraction, Field(le=1)] = 0.0
    electricity: UsdPerKwh | EnergyBetween | None = None
    pue: Annotated[float, Field(ge=1, le=5)] = 1.0
    power: Power | None = None
    hosting: UsdPerHour | Hosting = 0.0
    rental: Rental | Annotated[tuple[Rental, ...], Field(min_length=2, max_length=20)] | None = None
    demand: Demand | None = None
    api_price: Annotated[UsdPerMillionTokens, Field(gt=0)] | None = None
    income: Income | None = None
    prices_as_of: Prose = ""

    @property
    def rents(self) -> tuple[Rental, ...]:
        """What is rented, one or several; empty if the cluster is bought."""
        if self.rental is None:
            return ()
        return self.rental if isinstance(self.rental, tuple) else (self.rental,)

    @model_validator(mode="after")
    def _bought_or_rented(self) -> CostSpec:
        if self.capital is None and self.rental is None:
            beside = " beside electricity" if self.electricity is not None else ""
            raise ValueError(f"say what the cluster costs{beside}: capital (bought) or rental (power is in the rent)")
        if self.capital is not None and self.rental is not None:
            raise ValueError("give either capital (bought) or rental")
        if self.rental is not None:
            self._check_rents()
        paid = isinstance(self.hosting, Hosting) and self.hosting.power_included
        if self.capital is not None and self.electricity is None and not paid:
            raise ValueError("electricity is missing: a bought cluster pays for power, e.g. 0.10 USD/kWh")
        if paid and self.electricity is not None:
            raise ValueError("power is in the price of hosting (power_included): leave electricity out")
        if self.amortisation <= 0:
            raise ValueError("amortisation must be longer than 0")
        if self.income is not None and self.income.tokens is not None and self.api_price is None:
            raise ValueError("income from tokens needs api_price: what a token is sold for")
        return self

    def _check_rents(self) -> None:
        """What goes with rent."""
        if self.electricity is not None or self.hosting or self.power:
            raise ValueError("a rental price includes electricity and hosting: leave them out")
        if self.resale:
            raise ValueError("resale belongs to capital: what is rented is not owned")
        if self.income is not None:
            raise ValueError("income pays back what was bought: a cluster that is rented has no payback, give capital")
        if self.interest and not any(rent.upfront for rent in self.rents):
            raise ValueError("interest belongs to capital, or to rent that is paid upfront")
        shares = [rent.share for rent in self.rents]
        if not isinstance(self.rental, tuple):
            if shares != [None]:
                raise ValueError("share belongs to a cluster of several rents, given as a list")
            return
        if any(share is None for share in shares) or abs(sum(share or 0.0 for share in shares) - 1.0) > 1e-9:
            raise ValueError("of several rents each needs its share of the GPUs; together they make 100%")
        if any(rent.cluster is not None for rent in self.rents):
            raise ValueError("cluster is the rent of all of it: price parts by per_gpu or price")
