"""Money of a run: what its hour and its tokens cost, over its use, and for a demand that swings over the day.

Two prices of a token are told. *Reserved*: the cluster is paid for all the time, used or not. *By use*: it is paid for
only while there is work, as if it could be handed back (or lent) whenever nobody asks. At saturation both are one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from sim.jobs.play import JobRecording, Recording
from sim.jobs.serving.recording import ServingRecording
from sim.laws.breakeven import CostByUse
from sim.laws.demand import MOST_COPIES, Met, cheapest, met
from sim.laws.demand import Swing as SwingLaw
from sim.laws.pricing import HourlyCost, hourly_cost, rent_of, usd_per_million_tokens
from sim.laws.pricing import Span as PriceSpan
from sim.results.collect import counts_of, draws_of
from sim.results.earnings import earned
from sim.results.incidents import ended, nodes_missing
from sim.results.schema import Cost, DeviceClass, JobResult, Swing, SwingPlan, UsePoint
from sim.spec.economics import CostSpec, Demand
from sim.spec.hardware import Gpu
from sim.units import format_seconds

USES: Final = tuple(step / 20 for step in range(1, 21))
"""Shares of saturation at which the cost of a token is told."""
DAY: Final = 86_400.0
"""Seconds."""
MOST_PLANS: Final = 100
"""Ways to meet a demand that are told."""
NOT_NUMBERS: Final = {
    "breakdown_usd_per_hour", "capital_items_usd", "usd_per_million_tokens_range", "payback_months_range",
    "payback_curve", "saturation", "curve", "swing",
}  # fmt: skip
"""Keys of a cost that hold bounds or tables, or nothing."""


def cost_of(
    recording: Recording, job: JobRecording, tokens_per_s: float, devices: list[DeviceClass]
) -> Cost | None:
    """The job's share (by GPUs) of the cluster's hourly cost, and what its tokens (answered or trained on) cost."""
    spec = recording.resolved.scenario.cost
    if spec is None:
        return None
    share = _share(recording, job)
    hour, idle = _hours(recording, spec, devices)
    per_hour, fixed = hour.total * share, idle.total * share
    tokens = tokens_per_s
    usd = usd_per_million_tokens(per_hour, tokens)
    power = hour.power * share
    asked = spec.api_price if isinstance(job, ServingRecording) else None
    kept = kept_of(recording)
    worked = fixed * min(1.0, _at_work(job, devices) / kept) + per_hour - fixed if kept else per_hour
    return Cost(
        usd_per_hour=per_hour,
        usd_per_million_tokens=usd,
        tokens_per_usd=1e6 / usd if usd else None,
        usd_per_million_tokens_by_use=usd_per_million_tokens(worked, tokens),
        fixed_usd_per_hour=fixed,
        breakdown_usd_per_hour={part: value * share for part, value in hour.parts.items()},
        capital_usd=None if hour.capital is None else hour.capital * share,
        capital_items_usd={what: usd * share for what, usd in hour.items.items()},
        committed_usd=None if hour.committed is None else hour.committed * share,
        billed_fraction=hour.billed,
        power_w=power,
        kwh_per_million_tokens=power / tokens / 3600 / 1000 * 1e6 if tokens else None,
        usd_per_million_tokens_range=_range(hour.span, share, tokens),
        api_usd_per_million_tokens=asked,
        api_price_ratio=asked / usd if asked is not None and usd else None,
        **earned(recording, job, share, tokens, hour, idle),
    )


def _share(recording: Recording, job: JobRecording) -> float:
    """The job's part of the cluster's cost. GPUs that no job uses still cost money: jobs carry them in proportion."""
    return len(job.gpus) / sum(len(other.gpus) for other in recording.jobs)


def _hours(recording: Recording, spec: CostSpec, devices: list[DeviceClass]) -> tuple[HourlyCost, HourlyCost]:
    """The cluster's hour in this run, and the same without work."""
    counts, prices, present = counts_of(recording), recording.resolved.prices, present_of(recording)
    draws = draws_of(recording, devices)
    still = [replace(draw, utilisation=0.0) for draw in draws]
    kept = kept_of(recording)
    hour, idle = (hourly_cost(spec, drawn, counts, prices, present, kept) for drawn in (draws, still))
    return hour, idle


def present_of(recording: Recording) -> float:
    """Share of machine time that the cluster's machines were there; what is lost and not yet replaced is away."""
    whole = recording.end * recording.resolved.topology.node_count
    if whole <= 0.0:
        return 1.0
    missing = 0.0
    for job in recording.jobs:
        if isinstance(job, ServingRecording):
            missing += nodes_missing(job) * (recording.end / ended(job) if ended(job) > 0.0 else 1.0)
        elif job.life is not None:
            missing += job.life.missing * (recording.end / job.life.end if job.life.end > 0.0 else 1.0)
    return max(0.0, 1.0 - missing / whole)


def kept_of(recording: Recording) -> float:
    """Share of machine time in which machines were not handed back: a node is, while all its replicas are off."""
    whole = recording.end * recording.resolved.topology.node_count
    if whole <= 0.0:
        return 1.0
    back = 0.0
    for job in recording.serving:
        if job.fleet is None:
            continue
        off: dict[int, list[tuple[float, float]]] = {}
        nodes = {recording.topology.gpus[gpu].node for gpu in job.gpus}
        for node in nodes:
            mine = {
                number
                for number, stages in enumerate(job.layout.replicas)
                if any(recording.topology.gpus[gpu].node == node for stage in stages for gpu in stage.gpus)
            }
            off[node] = job.fleet.off(mine, recording.end)
        back += sum(end - start for spells in off.values() for start, end in spells)
    return max(0.0, 1.0 - back / whole)


def _at_work(job: JobRecording, devices: list[DeviceClass]) -> float:
    """Share of the job's GPU time in which there was work."""
    name = job.job.spec.name
    mine = [device for device in devices if device.job == name]
    seconds = sum(sum(device.ledger.values()) for device in mine)
    idle = ("waiting for work", "switched off")
    waiting = sum(device.ledger.get(bucket, 0.0) for device in mine for bucket in idle)
    return 1.0 - waiting / seconds if seconds else 1.0


def _range(span: PriceSpan, share: float, tokens_per_s: float) -> list[float] | None:
    """USD per million tokens at the lowest and the highest prices; None where prices have no bounds."""
    if span.low == span.high or tokens_per_s <= 0.0:
        return None
    return [end * share / (tokens_per_s * 3600.0) * 1e6 for end in (span.low, span.high)]


# -- over its use -------------------------------------------------------------------------------------------


def cluster_by_use(recording: Recording, tokens_per_s: float, devices: list[DeviceClass]) -> list[CostByUse]:
    """The cluster's cost by use at the lowest, the middle and the highest prices, with this run as saturation; [] if no
    cost is stated or nothing came out."""
    spec = recording.resolved.scenario.cost
    if spec is None or tokens_per_s <= 0.0:
        return []
    hour, idle = _hours(recording, spec, devices)
    return [CostByUse(fixed, full - fixed, tokens_per_s) for full, fixed in zip(hour.span, idle.span, strict=True)]


def costs_by_use(
    recording: Recording, job: JobRecording, tokens_per_s: float, devices: list[DeviceClass]
) -> list[CostByUse]:
    """A job's share (by GPUs) of the cluster's costs by use, its tokens alone counted."""
    share = _share(recording, job)
    whole = cluster_by_use(recording, tokens_per_s, devices)
    return [replace(cost, fixed=cost.fixed * share, used=cost.used * share) for cost in whole]


def curve_of(costs: list[CostByUse]) -> list[UsePoint]:
    """What a token costs at each share of saturation, the cluster paid for all the time."""
    points = []
    for use in USES if costs else ():
        low, mid, high = (cost.usd_per_million_tokens(use) for cost in costs)
        if mid is not None:
            points.append(UsePoint(utilisation=use, usd_per_million_tokens=mid, low=low or mid, high=high or mid))
    return points


# -- peak and valley ----------------------------------------------------------------------------------------


def swing_of(recording: Recording, job: ServingRecording, costs: list[CostByUse]) -> Swing | None:
    """A demand that swings, the scenario's or its diurnal load's, met by copies whose saturation is in ``costs``."""
    spec = recording.resolved.scenario.cost
    demand = None if spec is None else demand_of(spec, job)
    if spec is None or demand is None or not costs or len(recording.jobs) > 1 or job.fleet is not None:
        return None
    answered = [o for o, at in zip(job.table.output, job.table.finish, strict=True) if at == at]
    tokens = sum(answered) / len(answered) if answered else 0.0
    saturated = costs[1].tokens_per_s
    law = SwingLaw(demand.peak * tokens, demand.valley * tokens, demand.target_utilisation * saturated)
    if tokens <= 0.0 or law.peak / law.each > MOST_COPIES:
        return None
    ways = met(law, costs, _burst(recording, spec, demand))
    best = cheapest(ways)
    told = _told(len(ways), best)
    return Swing(
        peak_tokens_per_s=law.peak, valley_tokens_per_s=law.valley, mean_tokens_per_s=law.mean,
        copy_tokens_per_s=law.each, copies_at_peak=law.copies, copies_at_valley=law.copies_for(law.valley),
        utilisation=law.mean / (law.copies * saturated), best=told.index(best),
        plans=[_plan(ways[n], law) for n in told],
    )  # fmt: skip


def demand_of(spec: CostSpec, job: ServingRecording) -> Demand | None:
    """The demand that is stated, or that of a diurnal load."""
    daily = job.job.spec.load.diurnal
    if spec.demand is not None or daily is None:
        return spec.demand
    return Demand.model_construct(peak=daily.peak, valley=daily.valley, target_utilisation=1.0, burst=None)


def _burst(recording: Recording, spec: CostSpec, demand: Demand) -> PriceSpan | None:
    """USD/h of a copy that stands only while it is needed; what is itself rented by the hour need not stand."""
    rents = (demand.burst,) if demand.burst is not None else spec.rents
    if not rents or any(rent.terms == "reserved" for rent in rents):
        return None
    counts, prices = counts_of(recording), recording.resolved.prices
    spans = [(rent_of(rent, counts, prices), rent.share or 1.0) for rent in rents]
    return PriceSpan(*(sum(span[end] * share for span, share in spans) for end in range(3)))


def _told(count: int, best: int) -> list[int]:
    """Which of many ways are told: evenly chosen, with the first, the cheapest and the last."""
    if count <= MOST_PLANS:
        return list(range(count))
    return sorted({best, *(round(n * (count - 1) / (MOST_PLANS - 2)) for n in range(MOST_PLANS - 1))})


def _plan(way: Met, law: SwingLaw) -> SwingPlan:
    usd = way.usd_per_million_tokens(law)
    return SwingPlan(
        base=way.base, burst=max(0, law.copies - way.base), burst_hours=way.burst_hours,
        usd_per_hour=way.usd_per_hour.mid, usd_per_million_tokens=usd.mid,
        usd_per_million_tokens_range=None if usd.low == usd.high else [usd.low, usd.high],
    )  # fmt: skip


# -- what to know -------------------------------------------------------------------------------------------


def licence_warnings(spec: CostSpec, gpus: Iterable[Gpu]) -> list[str]:
    """Cards whose driver must not be used where a place in a data centre is paid for."""
    text = "the licence of its driver does not allow data centres, and hosting is paid for (a note, not legal advice)"
    return [f"{gpu.id}: {text}" for gpu in gpus if spec.hosting and not gpu.datacenter]


def idle_warnings(recording: Recording) -> list[str]:
    """GPUs that no job has: they are paid for. Where nodes are to stand by for failures, they are those."""
    used, there = sum(len(job.gpus) for job in recording.jobs), len(recording.topology.gpus)
    faults = recording.resolved.scenario.faults
    if used >= there or (faults is not None and faults.spares):
        return []
    line = f"{there - used:,} of the cluster's {there:,} GPUs have no job"
    if recording.resolved.scenario.cost is not None:
        line += f"; money and power are those of all {there:,}, rates a GPU and GPU-hours of the {used:,} at work"
    return [line]


def money_warnings(recording: Recording, jobs: list[JobResult]) -> list[str]:
    """Cards whose driver must not be used where the cluster pays for a place in a data centre, and what stays reserved
    after the work is done."""
    spec = recording.resolved.scenario.cost
    if spec is None:
        return []
    lines = licence_warnings(spec, recording.resolved.gpus.values())
    term = max((rent.term for rent in spec.rents if rent.term is not None), default=0.0)
    for job in jobs:
        days = getattr(job.metrics, "days_to_target", None)
        if days is not None and days * DAY < term:
            lines.append(
                f"{job.name}: reserved for {format_seconds(term)}, but the target is reached after "
                f"{format_seconds(days * DAY)}: the rest of the reservation is paid too and is not in the cost"
            )
    return lines
