"""What a bought cluster earns, let by the hour or by the tokens it sells, and when that has paid for it."""

from __future__ import annotations

from math import isfinite
from typing import Final, TypedDict

from sim.jobs.play import JobRecording, Recording
from sim.jobs.serving.recording import ServingRecording
from sim.laws.payback import Earnings
from sim.laws.pricing import HOUR, HourlyCost, Span, capital_of, hourly_capital, rent_by_gpu, stated
from sim.results.collect import counts_of
from sim.results.schema import PaybackPoint
from sim.spec.economics import CostSpec

OCCUPANCIES: Final = tuple(step / 20 for step in range(1, 21))
"""Shares of hours for which the payback is told."""


class Earned(TypedDict, total=False):
    """The keys of a job's cost that tell of income; none where none is stated. What is trained is not sold."""

    occupancy: float
    income_usd_per_hour: float
    running_usd_per_hour: float
    payback_months: float | None
    payback_months_range: list[float | None] | None
    payback_curve: list[PaybackPoint]


def earned(
    recording: Recording, job: JobRecording, share: float, tokens_per_s: float, hour: HourlyCost, idle: HourlyCost
) -> Earned:
    """Of a job with its ``share`` of the cluster; ``hour`` and ``idle`` are the cluster's with and without work."""
    spec = recording.resolved.scenario.cost
    if spec is None or spec.income is None:
        return {}
    capital = capital_of(spec, counts_of(recording), recording.resolved.prices)
    assert capital is not None
    if spec.income.tokens is None:
        earns = _times(rent_by_gpu(spec.income, counts_of(recording), recording.resolved.prices), share)
    else:
        assert spec.api_price is not None
        sold = tokens_per_s if isinstance(job, ServingRecording) else 0.0
        earns = _times(stated(spec.api_price), sold * HOUR / 1e6)
    worked, still = (_times(_running(each, capital, spec), share) for each in (hour, idle))
    found, occupancy = Earnings(earns, worked, still, _times(capital, share), spec.interest), spec.income.occupancy
    best, worst = found.bounds(occupancy)
    return {
        "occupancy": occupancy, "income_usd_per_hour": found.income(occupancy).mid,
        "running_usd_per_hour": found.running(occupancy).mid, "payback_months": _known(found.months(occupancy)),
        "payback_months_range": None if best == worst else [_known(best), _known(worst)],
        "payback_curve": [_point(found, occupied) for occupied in OCCUPANCIES],
    }  # fmt: skip


def _point(found: Earnings, occupancy: float) -> PaybackPoint:
    best, worst = (_known(months) for months in found.bounds(occupancy))
    return PaybackPoint(occupancy=occupancy, months=_known(found.months(occupancy)), best=best, worst=worst)


def _running(hour: HourlyCost, capital: Span, spec: CostSpec) -> Span:
    """An hour without what the purchase costs."""
    return Span(*(whole - hourly_capital(paid, spec) for whole, paid in zip(hour.span, capital, strict=True)))


def _times(span: Span, factor: float) -> Span:
    return Span(*(end * factor for end in span))


def _known(months: float) -> float | None:
    return months if isfinite(months) else None
