"""The lives of a study of failures: tasks that workers live through, and what is kept of each life.

A worker prepares a point once and keeps it for the study's other tasks; the step, which takes long to play, it is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Literal, NamedTuple

from sim.adapters.resolve import Resolved
from sim.errors import RunError
from sim.jobs.reliability.effects import Terms
from sim.jobs.reliability.life import Life
from sim.jobs.reliability.progress import Saving
from sim.jobs.reliability.replicas import Prepared, replica
from sim.jobs.reliability.terms import Reliability
from sim.study.executors import Hear
from sim.study.failures_plan import ENOUGH_SPARES, prepare_job, with_terms

PIECE: Final = 25
"""Lives of one call to a worker at most."""


class Record(NamedTuple):
    """What is kept of a life."""

    goodput: float
    end: float
    finished: bool
    useful: float
    failures: dict[str, int]
    stops: int
    spares: int
    buckets: dict[str, float]
    missing: float = 0.0


class Change(NamedTuple):
    """A cell of the map: the time between failures times ``factor``, and another interval, over ``horizon`` s."""

    factor: float
    interval: float
    horizon: float


class Step(NamedTuple):
    """What a played step leaves, so that workers need not play it: the first fields of a :class:`Prepared`."""

    name: str
    gpus: int
    nodes: int
    seconds: float
    tokens: int
    steps: int
    network_share: float

    @classmethod
    def of(cls, p: Prepared) -> Step:
        """Of a prepared job."""
        return cls(p.name, p.gpus, p.nodes, p.step, p.tokens, p.steps, p.network_share)

    def like(self) -> Prepared:
        """Something to prepare another job from."""
        return Prepared(*self, Reliability(Terms(Saving(math.inf), {}), (), {}, None, math.inf, math.inf))


class Task(NamedTuple):
    """Some lives of a point, or of a cell of the map; "spares": of a point with all the spares it wants."""

    study: str
    number: int
    step: Step
    resolved: Resolved
    change: Change | Literal["spares"] | None
    seeds: tuple[int, ...]


Lives = dict[tuple[int, "Change | Literal['spares'] | None"], list[Record]]


@dataclass(slots=True)
class _Shelf:
    """What a process has prepared for the study it works on."""

    study: str = ""
    points: dict[int, Prepared] = field(default_factory=dict)

    def get(self, task: Task) -> Prepared:
        """A task's point, prepared here once."""
        if self.study != task.study:
            self.study, self.points = task.study, {}
        if task.number not in self.points:
            self.points[task.number] = prepare_job(task.resolved, task.step.like())
        return self.points[task.number]

    def put(self, study: str, points: Mapping[int, Prepared]) -> None:
        """Keep what the parent prepared."""
        self.study, self.points = study, dict(points)


SHELF: Final = _Shelf()


def live_chunk(task: Task) -> list[Record]:
    """Live through some seeds. Runs on a worker."""
    prepared = SHELF.get(task)
    if task.change == "spares":
        prepared = with_terms(prepared, replace(prepared.terms, spares=ENOUGH_SPARES))
    elif task.change is not None:
        prepared = changed(prepared, task.change)
    return [_record(prepared, replica(prepared, seed)) for seed in task.seeds]


def changed(prepared: Prepared, change: Change) -> Prepared:
    """Another rate of all failures and another interval, for a stretch of time instead of an amount of work."""
    found = prepared.reliability
    terms = replace(
        found.terms, saving=replace(found.terms.saving, interval=change.interval), total=math.inf,
        horizon=change.horizon,
    )  # fmt: skip
    units = tuple(replace(u, mtbf=u.mtbf * change.factor) for u in found.units)
    return replace(prepared, reliability=replace(found, terms=terms, units=units, interval=change.interval))


def _record(prepared: Prepared, life: Life) -> Record:
    spares = prepared.terms.spares - life.spares_least
    return Record(
        life.ettr, life.end, life.finished, life.progress.high, dict(life.failures), life.stops,
        int(spares) if spares > 0 else 0, dict(life.buckets), life.missing,
    )  # fmt: skip


def pieces(seeds: Iterable[int]) -> list[tuple[int, ...]]:
    """Seeds in the portions that a worker is handed."""
    rest = iter(seeds)
    return list(iter(lambda: tuple(islice(rest, PIECE)), ()))


def live_all(tasks: Sequence[Task], executor: Executor, slots: int, hear: Hear | None) -> list[list[Record]]:
    """All tasks' lives, in their order."""
    running: dict[Future[list[Record]], int] = {}
    found: list[list[Record]] = [[] for _ in tasks]
    ahead = iter(range(len(tasks)))
    total, done = sum(len(task.seeds) for task in tasks), 0
    try:
        while True:
            for number in islice(ahead, 2 * slots - len(running) if slots > 1 else 1):
                running[executor.submit(live_chunk, tasks[number])] = number
            if not running:
                return found
            finished, _ = wait(running, return_when="FIRST_COMPLETED")
            for future in finished:
                number = running.pop(future)
                found[number] = future.result()
                done += len(tasks[number].seeds)
            if hear is not None:
                hear(f"{done:,} of {total:,} lives", done / total)
    except (BrokenExecutor, CancelledError) as error:
        raise RunError(f"the workers were lost ({type(error).__name__}: {error})") from error
    finally:
        for future in running:
            future.cancel()
