"""One simulation of a comparison: its numbers as a small picklable value. Runs on a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import InfeasibleError, SimError
from sim.jobs.play import Recording, play
from sim.jobs.serving.recording import ServingRecording
from sim.laws.payback import payback_hours
from sim.laws.pricing import HOURS_A_MONTH
from sim.probe import most_clients, service_time, with_clients
from sim.results.assemble import assemble, job_results
from sim.results.collect import device_classes, draws_of
from sim.results.cost import cluster_by_use
from sim.results.schema import Cost, JobResult, Result, ServingMetrics
from sim.study.compare_demand import GIVEN_UP
from sim.study.compare_schema import CurvePoint, Job, Use


@dataclass(frozen=True, slots=True)
class Run:
    """One run: metrics by path; of several jobs each job's own under ``jobs.N.``, and money and power together.

    ``tokens_per_s`` of all jobs (None where some serve and some train); ``ledger`` in shares of GPU time; ``most`` is
    a quarter more clients than a single serving job holds, ``service_s`` how long it serves one.
    """

    result: Result
    jobs: tuple[Job, ...]
    metrics: dict[str, float]
    tokens_per_s: float | None
    ledger: dict[str, float]
    use: Use | None
    most: int | None
    service_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no run."""

    kind: str
    reason: str


def play_run(resolved: Resolved) -> Run | Failure:
    """Play a scenario as it is."""
    try:
        recording = play(resolved)
    except SimError as error:
        return Failure("infeasible" if isinstance(error, InfeasibleError) else "error", str(error))
    result = assemble(recording, [], {})
    tokens = _tokens(result.jobs)
    seconds = sum(result.ledger.values())
    one = recording.jobs[0] if len(recording.jobs) == 1 else None
    serving = one if isinstance(one, ServingRecording) else None
    return Run(
        result=_light(result),
        jobs=tuple(
            Job(name=j.name, kind=j.kind, model=j.model, stack=j.stack, plan=j.plan, gpus=j.gpus, state=j.state)
            for j in result.jobs
        ),
        metrics=_metrics(result, recording, tokens),
        tokens_per_s=tokens,
        ledger={bucket: part / seconds for bucket, part in result.ledger.items()} if seconds else {},
        use=_use(recording, tokens),
        most=None if serving is None else most_clients(serving),
        service_s=0.0 if serving is None else service_time(serving),
    )


def play_point(resolved: Resolved, clients: int, ramp: float) -> CurvePoint | None:
    """The only job of a scenario, which serves, under ``clients`` who never pause; None where that is no run."""
    (job,) = resolved.jobs
    assert isinstance(job, ResolvedServing)
    try:
        recording = play(replace(resolved, jobs=(with_clients(job, clients, ramp),)), charts=False)
    except SimError:
        return None
    (found,) = job_results(recording, device_classes(recording))[0]
    use = _use(recording, _tokens([found]))
    return point_of(clients, found, use)


def point_of(clients: int, job: JobResult, use: Use | None) -> CurvePoint:
    """A serving job's run as a point of its curve."""
    m = job.metrics
    assert isinstance(m, ServingMetrics)
    return CurvePoint(
        clients=clients,
        tokens_per_s=m.output_tokens_per_s,
        tokens_per_s_per_user=m.tokens_per_s_per_user,
        ttft_p50_s=m.ttft_s.p50,
        usd_per_million_tokens=job.cost.usd_per_million_tokens if job.cost else None,
        fixed_usd_per_hour=use.fixed_usd_per_hour if use else None,
        used_usd_per_hour=use.used_usd_per_hour if use else None,
        strain=strain_of(job),
    )


def strain_of(job: JobResult) -> float | None:
    """The largest share that an objective takes of its limit; None without objectives."""
    shares = [
        GIVEN_UP if row["measured_s"] is None else row["measured_s"] / row["limit_s"]
        for row in job.objectives
        if row["limit_s"]
    ]
    return max(shares, default=None)


def _light(result: Result) -> Result:
    """A result without what only its own page draws."""
    bare = result.timeline.model_copy(update={"devices": {}, "links": {}, "jobs": {}, "spans": []})
    empty: dict[str, object] = {"topology": {}, "roofline": [], "devices": [], "assumptions": []}
    return result.model_copy(update={"timeline": bare, **empty})


def _tokens(jobs: Sequence[JobResult]) -> float | None:
    """Tokens a second of all jobs: answered, or trained on and kept; None where jobs of both kinds run."""
    if len({job.kind for job in jobs}) > 1:
        return None
    total = 0.0
    for job in jobs:
        m = job.metrics
        if isinstance(m, ServingMetrics):
            total += m.output_tokens_per_s
        else:
            total += m.tokens_per_s if m.goodput_tokens_per_s is None else m.goodput_tokens_per_s
    return total


def _metrics(result: Result, recording: Recording, tokens: float | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, job in enumerate(result.jobs):
        prefix = "" if len(result.jobs) == 1 else f"jobs.{number}."
        found |= {f"{prefix}{name}": value for name, value in _numbers(job.metrics.model_dump())}
    costs = [job.cost for job in result.jobs if job.cost is not None]
    if costs:
        hour = sum(cost.usd_per_hour for cost in costs)
        found["usd_per_hour"] = hour
        if tokens and hour:
            found["usd_per_million_tokens"] = hour / (tokens * 3600) * 1e6
            found["tokens_per_usd"] = tokens * 3600 / hour
        if all(cost.capital_usd is not None for cost in costs):
            found["capital_usd"] = sum(cost.capital_usd or 0.0 for cost in costs)
        found |= _earned(costs, recording)
        power = sum(cost.power_w or 0.0 for cost in costs)
    else:
        power = sum(draw.watts for draw in draws_of(recording, device_classes(recording)))
    found["power_w"] = power
    if tokens:
        found["kwh_per_million_tokens"] = power / 1000 / (tokens * 3600) * 1e6
        found["gpu_s_per_million_tokens"] = result.gpus / tokens * 1e6
    found["gpus"] = float(result.gpus)
    return found


def _earned(costs: Sequence[Cost], recording: Recording) -> dict[str, float]:
    """Income and running costs of all jobs, and the months in which they pay for the cluster, if they ever do."""
    spec = recording.resolved.scenario.cost
    if spec is None or spec.income is None:
        return {}
    income, running, capital = (
        sum(getattr(cost, key) for cost in costs)
        for key in ("income_usd_per_hour", "running_usd_per_hour", "capital_usd")
    )
    months = payback_hours(capital, income - running, spec.interest) / HOURS_A_MONTH
    found = {"income_usd_per_hour": income, "running_usd_per_hour": running}
    return found | ({"payback_months": months} if math.isfinite(months) else {})


def _numbers(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)


def _use(recording: Recording, tokens: float | None) -> Use | None:
    """Hourly cost at idle power, and what this run draws on top; None without a stated cost or tokens."""
    costs = cluster_by_use(recording, tokens or 0.0, device_classes(recording))
    if not costs:
        return None
    _, cost, _ = costs
    return Use(fixed_usd_per_hour=cost.fixed, used_usd_per_hour=cost.used, tokens_per_s=cost.tokens_per_s)
