"""What the lives of a study of failures say: each point's means and quantiles, the best points, the others behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from sim.adapters.resolve import ResolvedTraining
from sim.jobs.reliability.replicas import Prepared
from sim.laws.pieces import pieces_of
from sim.laws.pricing import PowerDraw, hourly_cost
from sim.results.intervals import possible_interval, t_interval
from sim.study.failures_lives import Record
from sim.study.failures_plan import Plan, Setting
from sim.study.failures_points import job_of
from sim.study.failures_schema import Estimate, PointResult, Quantiles

DAY: Final = 86_400.0


def _estimate(values: Sequence[float], name: str = "") -> Estimate:
    """Mean and interval of what is at least 0, and at most 1 if ``name`` is that of a share."""
    return _within(values, possible_interval(name, values))


def _gap(values: Sequence[float]) -> Estimate:
    """Mean and interval of a difference, which has no bounds."""
    return _within(values, t_interval(values))


def _within(values: Sequence[float], interval: Sequence[float] | None) -> Estimate:
    low, high = interval if interval is not None else (None, None)
    return Estimate(mean=sum(values) / len(values), low=low, high=high)


def quantiles(values: Sequence[float]) -> Quantiles:
    """By rank, so that a value is one that was lived."""
    ranked = sorted(values)

    def rank(share: float) -> float | None:
        value = ranked[max(0, math.ceil(share * len(ranked) - 1e-9) - 1)]
        return value if value < math.inf else None

    return Quantiles(p10=rank(0.1), p50=rank(0.5), p90=rank(0.9), p99=rank(0.99))


def point_result(plan: Plan, setting: Setting, lives: Sequence[Record], supplied: Sequence[Record]) -> PointResult:
    """A point's numbers; ``supplied``: its lives with spares enough, where it has few."""
    prepared, (_, job) = setting.prepared, job_of(setting.resolved)
    if prepared is None:
        gpus = job.spec.plan.gpus
        nodes = setting.point.nodes or math.ceil(gpus / max(1, setting.resolved.topology.gpus)
                                                 * setting.resolved.topology.node_count)  # fmt: skip
        return PointResult(nodes=nodes, gpus=gpus, failed=setting.reason, **_words(setting))
    terms, mean = prepared.terms, _means(lives)
    paid = _usd(plan, prepared, lives)
    ends = [life.end if life.finished else math.inf for life in lives]
    by_duration = terms.total == math.inf
    classes = sorted({name for life in lives for name in life.failures})
    goodput = _estimate([life.goodput for life in lives], "goodput")
    rate, target = prepared.tokens / prepared.step * goodput.mean, target_of(job)
    saving = terms.saving
    saves = saving.interval < math.inf
    spares = [] if terms.policy == "wait" else [life.spares for life in supplied or lives]
    return PointResult(
        nodes=prepared.nodes, gpus=prepared.gpus, **_words(setting),
        job_mtbf_s=_finite(prepared.mtbf), interval_s=_finite(prepared.interval),
        blocking_s=saving.blocking if saves else None, persist_s=saving.persist if saves else None,
        useful_s=_finite(prepared.terms.total), step_s=prepared.step,
        tokens_per_step=prepared.tokens, goodput=goodput, goodput_daly=_daly(prepared),
        tokens_per_s=rate, days_to_target=target / rate / DAY if target and rate > 0.0 else None,
        failures=_estimate([float(sum(life.failures.values())) for life in lives]),
        failures_by_class={name: sum(life.failures.get(name, 0) for life in lives) / len(lives) for name in classes},
        stops=sum(life.stops for life in lives) / len(lives), seconds=mean,
        wall_s=_estimate([life.end for life in lives]),
        finished=None if by_duration else sum(life.finished for life in lives) / len(lives),
        completion_s=None if by_duration else quantiles(ends),
        tokens=quantiles([life.useful / prepared.step * prepared.tokens for life in lives]),
        spares=quantiles([float(count) for count in spares]) if spares else None,
        usd_per_hour=None if paid is None else sum(paid) / sum(life.end for life in lives) * 3600.0,
        usd=None if paid is None else _estimate(paid),
        goodputs=[life.goodput for life in lives],
        completions_s=[] if by_duration else [_finite(end) for end in ends],
        spares_used=spares,
    )  # fmt: skip


def target_of(job: ResolvedTraining) -> float | None:
    """Tokens that the job is to train on: what it says, or what it runs for."""
    run = job.spec.run
    return float(run.target_tokens or run.tokens or 0) or None


def _words(setting: Setting) -> dict[str, Any]:
    """A setting as the user wrote it, or as the scenario has it."""
    _, job = job_of(setting.resolved)
    faults, saves = setting.resolved.scenario.faults, job.spec.checkpoint
    own = "as given" if faults is None or faults.scale == 1.0 else f"x{1.0 / faults.scale:.3g}"
    every = "never"
    if saves is not None:
        every = "auto" if saves.every == "auto" else f"{saves.steps:,} steps" if saves.steps else "as given"
    point = setting.point
    return {
        "mtbf": point.mtbf.text if point.mtbf else own,
        "checkpoint": point.every.text if point.every else every,
        "policy": job.spec.policy,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _means(lives: Sequence[Record]) -> dict[str, float]:
    """Mean seconds by bucket, the largest first."""
    total: dict[str, float] = {}
    for life in lives:
        for bucket, seconds in life.buckets.items():
            total[bucket] = total.get(bucket, 0.0) + seconds
    ranked = sorted(total, key=lambda name: (-total[name], name))
    return {name: total[name] / len(lives) for name in ranked if total[name] > 0.0}


def _daly(prepared: Prepared) -> float | None:
    """Daly's law for the same job with policy restart and spares enough."""
    found = prepared.reliability
    try:
        return replace(found, terms=replace(found.terms, policy="restart", spares=math.inf)).expected()
    except OverflowError:  # a failure strikes long before the first checkpoint
        return 0.0


def _usd(plan: Plan, prepared: Prepared, lives: Sequence[Record]) -> list[float] | None:
    """What each life costs, its GPUs busy all the time; more nodes cost in proportion. Spot nodes that are away are
    not paid for: the rest of an hour's cost runs on without them."""
    spec = plan.resolved.scenario.cost
    if spec is None:
        return None
    topology, host = plan.resolved.topology, plan.resolved.topology.total_host_power
    draws = [PowerDraw("hosts", 1, host.idle, host.busy, 1.0)]
    for name, count in topology.gpu_types.items():
        card = plan.resolved.gpus[name]
        draws.append(PowerDraw(name, count, card.idle_power, card.tdp, 1.0))
    counts, prices = pieces_of(topology), plan.resolved.prices
    rest, whole = (hourly_cost(spec, draws, counts, prices, present).total for present in (0.0, 1.0))
    share = prepared.gpus / sum(job.spec.plan.gpus for job in plan.resolved.jobs)
    return [
        share * (rest * life.end + (whole - rest) * max(0.0, life.end - life.missing / prepared.nodes)) / 3600.0
        for life in lives
    ]


def _gpu_seconds_per_token(point: PointResult) -> float:
    if point.goodput is None or point.goodput.mean <= 0.0:
        return math.inf
    return point.gpus * point.step_s / (point.tokens_per_step * point.goodput.mean)


def bests_of(points: Sequence[PointResult]) -> list[int]:
    """Of each time between failures the point whose tokens take the least GPU time; of equals the first."""
    found = []
    for mtbf in dict.fromkeys(point.mtbf for point in points):
        own = [n for n, point in enumerate(points) if point.mtbf == mtbf]
        best = min(own, key=lambda n: _gpu_seconds_per_token(points[n]))
        if _gpu_seconds_per_token(points[best]) < math.inf:
            found.append(best)
    return found


def compared(point: PointResult, best: PointResult) -> PointResult:
    """A point with its distance to the best, life by life."""
    if point.failed is not None or point is best:
        return point
    pairs = zip(best.goodputs, point.goodputs, strict=True)
    return point.model_copy(update={"behind": _gap([a - b for a, b in pairs])})
