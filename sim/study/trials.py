"""A load is tried: whether every stated percentile is within its limit, in each of several runs, and will remain so.

A percentile is a number of its own in every run. The 99th of ``ENOUGH`` requests rests on a hundred of them; ``SEEDS``
such runs, of other random numbers each, make three hundred, and a load is carried if all of them are within the limits.

Near saturation (a rate rho of what is answered at most) a queue of independent arrivals and as varied services takes
about 2 / (1 - rho)^2 requests to forget how it began (the time scale of reflected Brownian motion: J. Abate and
W. Whitt, "Transient behavior of regulated Brownian motion", 1987). A run of ten such times tells what lasts: with
``ENOUGH`` requests up to 1 - rho = sqrt(20 / 10,000) = 4.5%. So nothing above ``MOST_LOAD`` is called carried. Where
waits are still ``GROWN`` times as long in the second half of the runs as in the first, they do not last either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.jobs.play import play
from sim.jobs.serving.recording import ServingRecording
from sim.probe import OPEN_ROUNDS
from sim.results.assemble import job_results
from sim.results.collect import device_classes
from sim.results.metrics import Table
from sim.results.schema import JobResult, ServingMetrics, Tried, Window
from sim.study.loads import MOST_REQUESTS, at_rate, seeded
from sim.units import format_percent, format_seconds

SEEDS: Final = 3
ENOUGH: Final = 10_000
MOST_LOAD: Final = 0.95
"""Share of the rate that is answered at most, above which no run is long enough."""
GROWN: Final = 2.0
FEW: Final = 3_000
"""Requests of a run that only looks for where to confirm."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was tried, and the answers of its runs by seed. ``random``: whether they differ at all."""

    tried: Tried
    answers: dict[int, JobResult]
    random: bool = True

    @property
    def worst(self) -> int:
        """The seed of the last run: of those that miss, the one that does."""
        return list(self.answers)[-1]


def tried_with(
    case: Resolved, number: int, seeds: Iterable[int], *, rate: float, clients: int | None = None, steady: bool = False
) -> Trial:
    """Runs of the case with each seed in turn, until one misses an objective or two are the same.

    ``steady``: requests come alike from the first to the last, so that waits that grow will grow on.
    """
    answers: dict[int, JobResult] = {}
    waits, why, random = np.zeros(2), "", True
    for seed in seeds:
        recording = play(seeded(case, seed), charts=False)
        answer = job_results(recording, device_classes(recording))[0][number]
        first = next(iter(answers.values()), None)
        answers[seed] = answer
        if why := missed(answer):
            break
        if first is not None and first.metrics == answer.metrics:
            random = False
            break
        played = recording.jobs[number]
        assert isinstance(played, ServingRecording)
        waits += _halves(played, answer.window)
    if steady and not why and waits[1] > GROWN * waits[0] > 0.0:
        why = f"waits grow: {waits[1] / waits[0]:.1f} times as long in the second half of a run as in the first"
    found = list(answers.values())
    measured: dict[str, list[float]] = {row["name"]: [] for row in found[0].objectives}
    for row in (row for answer in found for row in answer.objectives):
        measured[row["name"]].append(row["measured_s"])
    if clients is not None:
        rate = sum(metrics_of(answer).requests_per_s for answer in found) / len(found)
    asked = metrics_of(found[0])
    tried = Tried(
        rate=rate, clients=clients, met=not why, why=why, requests=asked.completed_requests + asked.rejected_requests,
        seeds=list(answers), measured_s={name: values for name, values in measured.items() if None not in values},
    )  # fmt: skip
    return Trial(tried, answers, random)


def _halves(played: ServingRecording, window: Window) -> np.ndarray:
    """Mean seconds to the first token of the requests that came in each half of the window."""
    table, middle = Table.of(played.table), (window.start_s + window.end_s) / 2
    late = table.first - table.arrival
    parts = [(table.arrival >= window.start_s) & (table.arrival < middle),
             (table.arrival >= middle) & (table.arrival <= window.end_s)]  # fmt: skip
    return np.array([late[part].mean() if part.any() else 0.0 for part in parts])


def missed(job: JobResult) -> str:
    """Why a load is not carried; empty if it is."""
    for row in job.objectives:
        if not row["met"]:
            got = "not measured" if row["measured_s"] is None else format_seconds(row["measured_s"])
            limit = format_seconds(row["limit_s"])
            return f"{row['name'].replace('_', ' ')} is {'just' if got == limit else f'{got},'} over {limit}"
    return f"it is {job.state}" if job.state in ("overloaded", "disrupted") else ""


def answered_at_most(resolved: Resolved, number: int, rate: float, requests: int) -> float:
    """Requests answered a second when they come half as fast again as ``rate``: all of these, or the most there can be.

    Counted from the end of the first fifth to that of the fourth: the first fill the cluster, the last drain it.
    """
    played = play(at_rate(resolved, number, 1.5 * rate, requests), charts=False).jobs[number]
    assert isinstance(played, ServingRecording)
    over = np.sort(Table.of(played.table).finish)
    first, last = len(over) // 5, len(over) * 4 // 5
    return float((last - first) / (over[last] - over[first])) if last > first and over[last] > over[first] else inf


def enough(resolved: Resolved, number: int, held: float) -> int:
    """Requests of a run that confirms, of a job that holds so many at once."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    if job.trace is not None:
        return max(len(job.trace.arrival), ENOUGH)
    return min(MOST_REQUESTS, max(ENOUGH, job.spec.load.requests or 1, int(OPEN_ROUNDS * held)))


def few(resolved: Resolved, number: int, held: float) -> int:
    """Requests of a run that looks for where to confirm: a third of those, or all of a trace."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    recorded = 0 if job.trace is None else len(job.trace.arrival)
    return max(FEW, recorded, enough(resolved, number, held) // 3 if not recorded else 0)


def is_steady(resolved: Resolved, number: int) -> bool:
    """Whether requests come alike from the first to the last, by themselves."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    load = job.spec.load
    swings = load.diurnal is not None or any(tenant.diurnal is not None for tenant in load.tenants)
    return job.trace is None and load.closed_loop is None and not swings


def metrics_of(job: JobResult) -> ServingMetrics:
    """A serving job's numbers."""
    assert isinstance(job.metrics, ServingMetrics)
    return job.metrics


def caveats(resolved: Resolved, number: int, rate: float, requests: int) -> list[str]:
    """What the runs of such a rate cannot tell."""
    job = resolved.jobs[number]
    assert isinstance(job, ResolvedServing)
    told, load = [], job.spec.load
    if job.trace is not None:
        rows = len(job.trace.arrival)
        beyond = max((int(name.rpartition("_p")[2]) for name in job.spec.limits), default=50)
        needed = round(10 / (1 - beyond / 100))
        if rows < needed:
            told.append(
                f"the trace has {rows:,} requests: played over and over they are still no more, and a p{beyond} that "
                f"can be trusted takes {needed:,} or more; this one hangs on the slowest of them"
            )
    tenants = [tenant.diurnal for tenant in load.tenants]
    period = max((swing.period for swing in (load.diurnal, *tenants) if swing is not None), default=0.0)
    lasts = requests / rate if rate else 0.0
    if lasts < period:
        told.append(
            f"runs of {requests:,} requests last {format_seconds(lasts)}, {format_percent(lasts / period)} of the "
            f"{format_seconds(period)} over which the load swings: the capacity is of that part"
        )
    return told
