"""The most that a cluster carries within its objectives, by bisection: the highest rate of requests or, where clients
wait for their answers (a closed loop), the largest number of them.

Requests keep their lengths and their kind of arrivals; only the rate changes (requests that all come at once become
independent arrivals; a trace is played faster or slower). The same random numbers serve every rate, so that a higher
one is the same story told faster. A rate is carried if every stated percentile is within its limit and requests do not
come faster than they are answered. The search starts a fifth below what the hardware answers when requests never run
out, and ends when the rate is known to ``PRECISION``.

A rate above what can be sustained lets a queue grow, by a wait of (1 - sustained / rate) for each second. Runs are
therefore so long that an excess of ``PRECISION`` would grow a wait as long as the longest limit.

Clients keep their pauses and how many requests each sends. More of them are taken to be slower for each, so that one
number parts those within the objectives from those beyond; it is found to one client, or to ``PRECISION`` above a
hundred. Whom the scheduler has no room for waits, which shows in TTFT and latency. Where only TPOT is limited, and
holds while half of the clients wait, it holds with any number of them, and the search says so instead of going on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, inf
from typing import TypeVar

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import InputError, Problem
from sim.jobs.play import Recording
from sim.jobs.serving.load import requests_per_arrival
from sim.probe import PROBE, ROUNDS, all_on, answers, saturated, shortened
from sim.results.schema import Capacity, JobResult, Result, ServingMetrics, Tried
from sim.spec.workload import ARRIVALS, Load, Poisson, Tenant
from sim.units import format_count, format_seconds, format_usd

PRECISION = 0.02
"""Share of the rate, or of the number of clients, to which it is found."""
MOST_TRIES = 14
"""Rates. Clients are whole, so that their search ends by itself."""
MOST_REQUESTS = 20_000
"""Requests of one run at most, but for ``ROUNDS`` of each client."""
MOST_CLIENTS = 10_000
"""Clients that are tried, unless the scenario itself has more."""


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
    text = "the capacity is the most within the objectives, and this job states none"
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
    above = min((t for t in capacity.tried if not t.met), key=_amount, default=None)
    beyond = "" if above is None else f"; {tried_at(above)} {above.why}"
    if capacity.rate is None:
        last = capacity.tried[-1]
        what = "rate" if last.clients is None else "number of clients"
        return f"no {what} was found within the objectives, down to {_words(last)}{beyond}"
    cost = "" if capacity.usd_per_million_tokens is None else f", {format_usd(capacity.usd_per_million_tokens)}/Mtok"
    tokens = f"{format_count(capacity.output_tokens_per_s or 0.0)} tok/s"
    rate = f"{format_count(capacity.rate)} req/s"
    if capacity.clients is None:
        return f"within the objectives it carries {rate} ({tokens}{cost}){beyond}"
    more = f" and more: {capacity.open_end}" if capacity.open_end else beyond
    return f"within the objectives it carries {_clients(capacity.clients)} ({rate}, {tokens}{cost}){more}"


def _amount(tried: Tried) -> float:
    return tried.rate if tried.clients is None else tried.clients


def _words(tried: Tried) -> str:
    return f"{format_count(tried.rate)} req/s" if tried.clients is None else _clients(tried.clients)


def tried_at(tried: Tried) -> str:
    """ "at 1.21 req/s", or "with 58"."""
    return f"at {_words(tried)}" if tried.clients is None else f"with {_clients(tried.clients)}"


def _clients(number: int) -> str:
    return "one client" if number == 1 else f"{number:,} clients"


def find_capacity(
    resolved: Resolved, recording: Recording, number: int, progress: Callable[[str, float], None] | None = None
) -> Capacity:
    """The most of one job's requests within its objectives: their rate, or how many clients of a closed loop."""
    short = shortened(resolved, recording)
    most = _metrics(answers(saturated(resolved, recording))[number]).requests_per_s
    asked = resolved.jobs[number]
    assert isinstance(asked, ResolvedServing)
    loop = asked.spec.load.closed_loop

    def rated(rate: float) -> tuple[Tried, JobResult]:
        answer = answers(at_rate(short, number, rate, requests_at(short, number, rate)))[number]
        return Tried(rate=rate, met=not missed(answer), why=missed(answer)), answer

    def crowded(clients: float) -> tuple[Tried, JobResult]:
        answer = answers(with_so_many(short, number, int(clients), requests_of(asked.spec.load, int(clients))))[number]
        rate = _metrics(answer).requests_per_s
        return Tried(rate=rate, clients=int(clients), met=not missed(answer), why=missed(answer)), answer

    if loop is None:
        found = _searched(rated, 0.8 * most, _next_rate, progress)
        return _capacity(found.best, most, found.tried)
    bound = max(MOST_CLIENTS, loop.clients)
    patient = all(name.startswith("tpot") for name in asked.spec.limits)
    found = _searched(crowded, loop.clients, partial(_next_clients, bound=bound, patient=patient), progress)
    return _capacity(found.best, most, found.tried, int(found.low) or None, _open_end(found, bound))


def _capacity(
    best: JobResult | None, most: float, tried: list[Tried], clients: int | None = None, open_end: str = ""
) -> Capacity:
    """What was found, with what it gives."""
    within = max((t for t in tried if t.met), key=_amount, default=None)
    return Capacity(
        rate=None if within is None else within.rate, clients=clients, open_end=open_end, saturation=most, tried=tried,
        output_tokens_per_s=None if best is None else _metrics(best).output_tokens_per_s,
        usd_per_million_tokens=None if best is None or best.cost is None else best.cost.usd_per_million_tokens,
    )  # fmt: skip


@dataclass(slots=True)
class _Found:
    """How far a search came: the most that is within the objectives, the least that is not, and what ``low`` gave."""

    low: float = 0.0
    high: float = inf
    best: JobResult | None = None
    tried: list[Tried] = field(default_factory=list)


def _searched(
    trial: Callable[[float], tuple[Tried, JobResult]], first: float, step: Callable[[_Found], float | None],
    progress: Callable[[str, float], None] | None,
) -> _Found:  # fmt: skip
    """Tries from ``first`` on, each where ``step`` says, until it says None."""
    found, amount = _Found(), first
    while True:
        tried, answer = trial(amount)
        found.tried.append(tried)
        if tried.met:
            found.low, found.best = amount, answer
        else:
            found.high = amount
        if progress is not None:
            progress("finding the capacity", min(1.0, len(found.tried) / MOST_TRIES))
        following = step(found)
        if following is None:
            return found
        amount = following


def _next_rate(found: _Found) -> float | None:
    low, high = found.low, found.high
    if len(found.tried) == MOST_TRIES or (low and high - low <= PRECISION * high < inf):
        return None
    return low * 1.25 if high == inf else (low + high) / 2 if low else high / 2


def _next_clients(found: _Found, bound: int, patient: bool) -> float | None:
    """``patient``: nothing limits how long a client waits to be let in."""
    low, high = found.low, found.high
    if high == inf:
        return None if low >= bound or (patient and _crowded(found)) else min(2 * low, bound)
    return None if high - low <= max(1, PRECISION * high) else (low + high) // 2


def _crowded(found: _Found) -> bool:
    """Whether half of the clients wait to be let in, by Little's law: more of them would not change who runs."""
    if found.best is None:
        return False
    m = _metrics(found.best)
    return (m.queue_s.mean or 0.0) * m.requests_per_s >= found.low / 2


def _open_end(found: _Found, bound: int) -> str:
    if found.high < inf:
        return ""
    return "more were not tried" if found.low >= bound else "half of them wait already, which no objective limits"


def _metrics(job: JobResult) -> ServingMetrics:
    assert isinstance(job.metrics, ServingMetrics)
    return job.metrics


def missed(job: JobResult) -> str:
    """Why a rate is not carried; empty if it is."""
    for row in job.objectives:
        if not row["met"]:
            got = "not measured" if row["measured_s"] is None else format_seconds(row["measured_s"])
            limit = format_seconds(row["limit_s"])
            return f"{row['name'].replace('_', ' ')} is {'just' if got == limit else f'{got},'} over {limit}"
    return f"it is {job.state}" if job.state in ("overloaded", "disrupted") else ""


def requests_at(resolved: Resolved, number: int, rate: float) -> int:
    """Requests of a run at a rate, so many that too high a one shows."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    limits = job.spec.limits
    longest = max((limit for name, limit in limits.items() if not name.startswith("tpot")), default=0.0)
    asked = len(job.trace.arrival) if job.trace is not None else job.spec.load.requests or 1
    return max(asked, min(MOST_REQUESTS, ceil(rate * longest / PRECISION)))


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


def at_capacity(resolved: Resolved, number: int, capacity: Capacity) -> Resolved:
    """The scenario with one job's load at its capacity. Raises ValueError where none was found."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    if capacity.rate is None:
        raise ValueError("there is no capacity")
    if capacity.clients is not None:
        return with_so_many(resolved, number, capacity.clients, requests_of(job.spec.load, capacity.clients))
    return at_rate(resolved, number, capacity.rate, requests_at(resolved, number, capacity.rate))


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
