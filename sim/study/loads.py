"""The scenario under another load: another rate, another number of clients, another seed.

Requests keep their lengths and their kind of arrivals (requests that all come at once become independent arrivals; a
trace is played faster or slower). The same random numbers serve every rate, so that a higher one is the same story told
faster.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Final, TypeVar

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.jobs.serving.load import requests_per_arrival
from sim.probe import PROBE, ROUNDS, all_on
from sim.spec.workload import ARRIVALS, Load, Poisson, Tenant

MOST_REQUESTS: Final = 20_000
"""Requests of one run at most, but for ``ROUNDS`` of each client and for all of a trace."""


def seeded(resolved: Resolved, seed: int) -> Resolved:
    """The scenario with another seed."""
    return replace(resolved, scenario=resolved.scenario.model_copy(update={"seed": seed}))


def requests_of(load: Load, clients: int) -> int:
    """Requests of a run with so many clients: as many for each as the load has, ``ROUNDS`` and ``PROBE`` at least."""
    assert load.closed_loop is not None
    asked = ceil(clients * (load.requests or 1) / load.closed_loop.clients)
    return max(PROBE, ROUNDS * clients, min(MOST_REQUESTS, asked))


def with_so_many(resolved: Resolved, number: int, clients: int, requests: int) -> Resolved:
    """The scenario with so many clients of one job's closed loop and so many requests, and all its replicas on."""
    jobs = list(resolved.jobs)
    asked = jobs[number]
    assert isinstance(asked, ResolvedServing)
    job = all_on(asked)
    assert job.spec.load.closed_loop is not None
    loop = job.spec.load.closed_loop.model_copy(update={"clients": clients})
    load = job.spec.load.model_copy(update={"closed_loop": loop, "requests": requests})
    jobs[number] = replace(job, spec=job.spec.model_copy(update={"load": load}))
    return replace(resolved, jobs=tuple(jobs))


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
