"""What a cluster costs: bought, powered and hosted, or rented. Prices carry a date and a source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.base import Count, Name, Prose, Spec
from sim.units import Fraction, Seconds, Usd, UsdPerHour, UsdPerKwh, Watts


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
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class CapitalItem(Spec):
    """One line of a purchase: ``count`` of it for the ``cluster``, or for each of its nodes, GPUs or switches.

    Its price is stated, or that of a catalogue entry.
    """

    what: Prose
    count: Annotated[float, Field(gt=0, le=1e7)] = 1.0
    per: Literal["cluster", "node", "gpu", "switch"] = "cluster"
    unit_price: Usd | Between | None = None
    price: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> CapitalItem:
        if (self.unit_price is None) == (self.price is None):
            raise ValueError("give either unit_price or price (a catalogue id)")
        return self


class Hosting(Spec):
    """A place in a data centre, by the kilowatt that the machines draw at most, or by the rack. Where power is in the
    price (``power_included``), electricity is not paid for."""

    per_kw: UsdPerHour | None = None
    per_rack: UsdPerHour | None = None
    nodes_per_rack: Count | None = None
    power_included: bool = False

    @model_validator(mode="after")
    def _one(self) -> Hosting:
        if (self.per_kw is None) == (self.per_rack is None):
            raise ValueError("give either per_kw or per_rack")
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


class Rental(Spec):
    """Rent instead of purchase. Give one of: per GPU, for the whole cluster, or a catalogue price id."""

    per_gpu: UsdPerHour | None = None
    cluster: UsdPerHour | None = None
    price: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Rental:
        if sum(x is not None for x in (self.per_gpu, self.cluster, self.price)) != 1:
            raise ValueError("give exactly one of per_gpu, cluster, price")
        return self


class CostSpec(Spec):
    """Money. ``capital`` is a sum or a list of items; ``hosting`` and ``electricity`` run on top of it. After
    ``amortisation`` a share of it is left (``resale``); ``interest`` is what money costs a year.

    Power is idle + (busy - idle) * utilisation for each GPU, plus each host's own, times ``pue``.
    With ``rental`` nothing else is charged: electricity and hosting are the landlord's.
    """

    capital: Usd | Annotated[tuple[CapitalItem, ...], Field(min_length=1)] | None = None
    amortisation: Seconds = 3 * 365 * 86400.0
    resale: Annotated[Fraction, Field(lt=1)] = 0.0
    interest: Annotated[Fraction, Field(le=1)] = 0.0
    electricity: UsdPerKwh | None = None
    pue: Annotated[float, Field(ge=1, le=5)] = 1.0
    power: Power | None = None
    hosting: UsdPerHour | Hosting = 0.0
    rental: Rental | None = None
    prices_as_of: Prose = ""

    @model_validator(mode="after")
    def _bought_or_rented(self) -> CostSpec:
        if (self.capital is None) == (self.rental is None):
            raise ValueError("give either capital (bought) or rental")
        if self.rental is not None and (self.electricity is not None or self.hosting or self.power):
            raise ValueError("a rental price includes electricity and hosting: leave them out")
        if self.rental is not None and (self.resale or self.interest):
            raise ValueError("resale and interest belong to capital: what is rented is not owned")
        paid = isinstance(self.hosting, Hosting) and self.hosting.power_included
        if self.capital is not None and self.electricity is None and not paid:
            raise ValueError("electricity is missing: a bought cluster pays for power, e.g. 0.10 USD/kWh")
        if paid and self.electricity is not None:
            raise ValueError("power is in the price of hosting (power_included): leave electricity out")
        if self.amortisation <= 0:
            raise ValueError("amortisation must be longer than 0")
        return self
