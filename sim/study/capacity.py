"""The highest rate of requests that a cluster carries within its objectives, by bisection.

Requests keep their lengths and their kind of arrivals; only the rate changes (clients of a closed loop, and requests
that all come at once, become independent arrivals; a trace is played faster or slower). The same random numbers serve
every rate, so that a higher one is the same story told faster. A rate is carried if every stated percentile is within
its limit and requests do not come faster than they are answered. The search starts a fifth below what the hardware
answers when requests never run out, and ends when the rate is known to ``PRECISION``.

A rate above what can be sustained lets a queue grow, by a wait of (1 - sustained / rate) for each second. Runs are
therefore so long that an excess of ``PRECISION`` would grow a wait as long as the longest limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, inf
from typing import TypeVar

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import InputError, Problem
from sim.jobs.play import Recording
from sim.jobs.serving.load import requests_per_arrival
from sim.probe import all_on, answers, saturated, shortened
from sim.results.schema import Capacity, JobResult, Result, ServingMetrics, Tried
from sim.spec.workload import ARRIVALS, Load, Poisson, Tenant
from sim.units import format_count, format_seconds, format_usd

PRECISION = 0.02
"""Share of the rate to which it is found."""
MOST_TRIES = 14
MOST_REQUESTS = 20_000
"""Requests of one run at most."""


def with_capacity(
    result: Result, resolved: Resolved, recording: Recording, progress: Callable[[str, float], None] | None = None
) -> Result:
    """The same with each serving job's capacity, found while the other jobs do what they do.

    Raises InputError for a serving job without objectives: anything would be within them.
    """
    require_objectives(resolved)
    jobs = list(result.jobs)
    for number, job in enumerate(resolved.jobs):
        if isinstance(job, ResolvedServing):
            capacity = find_capacity(resolved, recording, number, progress)
            jobs[number] = jobs[number].model_copy(
                update={"capacity": capacity, "notes": [*jobs[number].notes, told(capacity)]}
            )
    return result.model_copy(update={"jobs": jobs})


def require_objectives(resolved: Resolved) -> None:
    """Raise InputError where a capacity could not be found: no job serves, or one that does states no objectives."""
    text = "the capacity is the highest rate within the objectives, and this job states none"
    problems = [
        Problem("", None, None, f"jobs.{number}.objectives", text)
        for number, job in enumerate(resolved.jobs)
        if isinstance(job, ResolvedServing) and not job.spec.limits
    ]
    if not any(isinstance(job, ResolvedServing) for job in resolved.jobs):
        problems.append(Problem("", None, None, "jobs", "no job serves requests, so there is no capacity to find"))
    if problems:
        raise InputError(problems)


def told(capacity: Capacity) -> str:
    """A capacity in a sentence."""
    above = min((t for t in capacity.tried if not t.met), key=lambda t: t.rate, default=None)
    beyond = f"; at {format_count(above.rate)} req/s {above.why}" if above is not None else ""
    if capacity.rate is None:
        return f"no rate was found within the objectives, down to {format_count(capacity.tried[-1].rate)} req/s{beyond}"
    cost = "" if capacity.usd_per_million_tokens is None else f", {format_usd(capacity.usd_per_million_tokens)}/Mtok"
    return (
        f"within the objectives it carries {format_count(capacity.rate)} req/s "
        f"({format_count(capacity.output_tokens_per_s or 0.0)} tok/s{cost}){beyond}"
    )


def find_capacity(
    resolved: Resolved, recording: Recording, number: int, progress: Callable[[str, float], None] | None = None
) -> Capacity:
    """The highest rate of one job's requests within its objectives."""
    short = shortened(resolved, recording)
    most = _metrics(answers(saturated(resolved, recording))[number]).requests_per_s
    low, high = 0.0, inf
    best: JobResult | None = None
    tried: list[Tried] = []
    rate = 0.8 * most
    while len(tried) < MOST_TRIES and (low == 0.0 or high == inf or high - low > PRECISION * high):
        answer = answers(at_rate(short, number, rate, requests_at(short, number, rate)))[number]
        why = missed(answer)
        tried.append(Tried(rate=rate, met=not why, why=why))
        if why:
            high = rate
        else:
            low, best = rate, answer
        rate = low * 1.25 if high == inf else (low + high) / 2 if low else high / 2
        if progress is not None:
            progress("finding the capacity", len(tried) / MOST_TRIES)
    metrics = None if best is None else _metrics(best)
    return Capacity(
        rate=low or None, saturation=most, tried=tried,
        output_tokens_per_s=None if metrics is None else metrics.output_tokens_per_s,
        usd_per_million_tokens=None if best is None or best.cost is None else best.cost.usd_per_million_tokens,
    )  # fmt: skip


def _metrics(job: JobResult) -> ServingMetrics:
    assert isinstance(job.metrics, ServingMetrics)
    return job.metrics


def missed(job: JobResult) -> str:
    """Why a rate is not carried; empty if it is."""
    for row in job.objectives:
        if not row["met"]:
            got = "not measured" if row["measured_s"] is None else format_seconds(row["measured_s"])
            return f"{row['name'].replace('_', ' ')} is {got}, over {format_seconds(row['limit_s'])}"
    return f"it is {job.state}" if job.state in ("overloaded", "disrupted") else ""


def requests_at(resolved: Resolved, number: int, rate: float) -> int:
    """Requests of a run at a rate, so many that too high a one shows."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    limits = job.spec.limits
    longest = max((limit for name, limit in limits.items() if not name.startswith("tpot")), default=0.0)
    asked = len(job.trace.arrival) if job.trace is not None else job.spec.load.requests or 1
    return max(asked, min(MOST_REQUESTS, ceil(rate * longest / PRECISION)))


def at_rate(resolved: Resolved, number: int, rate: float, requests: int) -> Resolved:
    """The scenario with so many requests of one job, at a mean ``rate`` (req/s), and all its replicas on."""
    jobs = list(resolved.jobs)
    asked_of = jobs[number]
    assert isinstance(asked_of, ResolvedServing)
    job = all_on(asked_of)
    load = job.spec.load
    if job.trace is not None and load.trace is not None:
        trace = job.trace.cycled(requests)
        span = float(trace.arrival[-1] - trace.arrival[0])
        factor = len(trace.arrival) / span / rate if span > 0.0 else 1.0
        jobs[number] = replace(job, trace=replace(trace, arrival=trace.arrival * factor))
    else:
        asked = load_at(load, rate / requests_per_arrival(load)).model_copy(update={"requests": requests})
        jobs[number] = replace(job, spec=job.spec.model_copy(update={"load": asked}))
    return replace(resolved, jobs=tuple(jobs))


def load_at(load: Load, rate: float) -> Load:
    """The same requests at another mean rate."""
    if load.tenants:
        factor = rate / sum(mean_rate(tenant) for tenant in load.tenants)
        scaled = [_scaled(tenant, mean_rate(tenant) * factor) for tenant in load.tenants]
        return load.model_copy(update={"tenants": tuple(scaled)})
    return _scaled(load, rate)


def mean_rate(load: Load | Tenant) -> float:
    """Mean arrivals a second of independent arrivals."""
    if load.diurnal is not None:
        return (load.diurnal.peak + load.diurnal.valley) / 2.0
    rated = load.poisson or load.gamma or load.deterministic
    assert rated is not None
    return float(rated.rate)


L = TypeVar("L", Load, Tenant)


def _scaled(load: L, rate: float) -> L:
    for kind in ("poisson", "gamma", "deterministic"):
        if (arrivals := getattr(load, kind)) is not None:
            return load.model_copy(update={kind: arrivals.model_copy(update={"rate": rate})})
    if load.diurnal is not None:
        factor = rate / mean_rate(load)
        swing = {end: getattr(load.diurnal, end) * factor for end in ("peak", "valley")}
        return load.model_copy(update={"diurnal": load.diurnal.model_copy(update=swing)})
    arrivals = Poisson.model_construct(rate=rate)
    return load.model_copy(update={**dict.fromkeys(ARRIVALS), "poisson": arrivals})
