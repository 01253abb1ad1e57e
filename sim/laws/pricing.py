"""Money and power: what an hour of the cluster costs, and what a token costs from it.

    power     = pue * sum over GPUs and hosts of [ idle + (busy - idle) * utilisation ]
    USD/hour  = capital / amortisation + power * price of electricity + hosting      (bought)
              = rent                                                                 (rented)
    USD/Mtok  = USD/hour / (tokens per hour) * 1e6

Utilisation is the share of time a GPU computes or communicates; nameplate power is an upper bound (measured
8 x A100 servers drew a median of 2.5 kW and a maximum of 6.6 kW, AcmeTrace).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.spec.economics import CostSpec, Price

HOUR = 3600.0


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
    """USD an hour by part, and the electrical power behind it (W)."""

    parts: dict[str, float]
    power: float
    capital: float | None

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


def capital_of(spec: CostSpec) -> float | None:
    """USD paid for the cluster, or None if it is rented."""
    if spec.capital is None:
        return None
    if isinstance(spec.capital, tuple):
        return sum(item.count * item.unit_price for item in spec.capital)
    return spec.capital


def hourly_cost(spec: CostSpec, draws: Sequence[PowerDraw], gpus: int, rent: Price | None) -> HourlyCost:
    """Cost of the cluster's hour at the utilisation in ``draws``. ``rent`` is the looked-up rental price."""
    power = cluster_power(spec, draws)
    if spec.rental is not None:
        r = spec.rental
        if r.cluster is not None:
            hourly = r.cluster
        elif r.per_gpu is not None:
            hourly = r.per_gpu * gpus
        else:
            assert rent is not None
            assert rent.usd is not None
            hourly = rent.usd * gpus
        return HourlyCost({"rent": hourly}, power, None)
    capital = capital_of(spec)
    assert capital is not None
    parts = {"capital": capital / (spec.amortisation / HOUR)}
    parts["electricity"] = power / 1000 * (spec.electricity or 0.0)
    if spec.hosting:
        parts["hosting"] = spec.hosting
    return HourlyCost(parts, power, capital)


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float | None:
    """Cost of a million tokens, or None without tokens."""
    return usd_per_hour / (tokens_per_s * HOUR) * 1e6 if tokens_per_s > 0 else None
