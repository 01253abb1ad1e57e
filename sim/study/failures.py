"""A study of failures: many lives of one training job at each setting of size, failures, checkpoints and policy.

Life number s of every point meets the faults of seed s (common random numbers): what differs between two points then
comes from their settings and not from luck, and the interval of a difference is over the pairs.

    goodput (ETTR)   useful seconds never done before / wall seconds
    95% interval     mean +- t s / sqrt(n), Student's t over the n lives
    the best point   the least GPU time for a trained token: GPUs * step / (tokens * goodput)

Times between failures are no choice: points are compared with the best at the same one.

A run that would never end is given up after ``GIVEN_UP`` times the time it takes undisturbed. The map of times between
failures and intervals is about the long run: each of its lives lasts ``MAP_FAILURES`` times the mean time between
failures, whatever the run's own length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from sim.adapters.resolve import Resolved
from sim.errors import InfeasibleError, RunError
from sim.jobs.reliability.effects import Terms
from sim.jobs.reliability.life import Life
from sim.jobs.reliability.progress import Saving
from sim.jobs.reliability.replicas import Prepared, prepare, replica
from sim.jobs.reliability.terms import Reliability
from sim.laws.checkpointing import daly_interval, young_interval
from sim.laws.pieces import pieces_of
from sim.laws.pricing import PowerDraw, hourly_cost
from sim.results.intervals import t_interval
from sim.study.executors import Hear, OpenExecutor
from sim.study.failures_points import Axes, Point, at, check, job_of, with_length
from sim.study.failures_schema import Estimate, FailureMap, FailureStudy, MapRow, PointResult, Quantiles, Sample

GIVEN_UP: Final = 20.0
"""Times its undisturbed length after which a run without a duration is given up."""
ENOUGH_SPARES: Final = 1e6
"""Stands for spares without a limit, so that those in use can be counted."""
MAP_FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times between failures of the map, against the first point's."""
MAP_INTERVALS: Final = (0.25, 0.35, 0.5, 0.71, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Intervals of the map, against Daly's at the first point."""
MAP_SEEDS: Final = 20
MAP_FAILURES: Final = 50.0
PIECE: Final = 25
"""Lives of one call to a worker at most."""
STRETCHES: Final = 400
"""Stretches of the sampled life that are kept."""



# -- before anything lives ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """A point with its scenario; ``prepared`` None: it cannot be, for the ``reason``."""

    point: Point
    resolved: Resolved
    prepared: Prepared | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A study ready to run."""

    resolved: Resolved
    axes: Axes
    settings: tuple[Setting, ...]
    seeds: range


def plan_study(
    resolved: Resolved, axes: Axes, seeds: int, duration: float | None = None, hear: Hear | None = None
) -> Plan:
    """Every point prepared; the step of each size is played once.

    Raises InputError for axes the scenario does not have, InfeasibleError where no point can be.
    """
    check(resolved, axes)
    resolved = with_length(resolved, duration)
    points = axes.points()
    settings: list[Setting] = []
    played: dict[int | None, Prepared] = {}
    for number, point in enumerate(points):
        if hear is not None:
            hear("preparing points", number / len(points))
        scenario = at(resolved, point)
        try:
            prepared = _prepared(scenario, played.get(point.nodes))
        except InfeasibleError as error:
            if len(points) == 1:
                raise
            settings.append(Setting(point, scenario, None, str(error).splitlines()[0]))
            continue
        played.setdefault(point.nodes, prepared)
        settings.append(Setting(point, scenario, prepared))
    if not played:
        raise InfeasibleError("\n".join(dict.fromkeys(setting.reason for setting in settings)))
    first = resolved.scenario.seed
    return Plan(resolved, axes, tuple(settings), range(first, first + seeds))


def _prepared(resolved: Resolved, like: Prepared | None) -> Prepared:
    """The job of a scenario, with an end and with spares that can be counted."""
    prepared = prepare(resolved, like)
    terms = prepared.terms
    update: dict[str, Any] = {}
    if terms.spares == math.inf:
        update["spares"] = ENOUGH_SPARES
    if terms.horizon == math.inf:
        update["horizon"] = GIVEN_UP * terms.total
    return _with_terms(prepared, replace(terms, **update))


def _with_terms(prepared: Prepared, terms: Terms) -> Prepared:
    return replace(prepared, reliability=replace(prepared.reliability, terms=terms))


# -- lives --------------------------------------------------------------------------------------------------


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


Lives = dict[tuple[int, "Change | Literal['spares'] | None"], list[Record]]


class Task(NamedTuple):
    """Some lives of a point, or of a cell of the map; "spares": of a point with all the spares it wants."""

    study: str
    number: int
    step: Step
    resolved: Resolved
    change: Change | Literal["spares"] | None
    seeds: tuple[int, ...]


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
            self.points[task.number] = _prepared(task.resolved, task.step.like())
        return self.points[task.number]

    def put(self, study: str, settings: Sequence[Setting]) -> None:
        """Keep what the parent prepared."""
        self.study = study
        self.points = {n: s.prepared for n, s in enumerate(settings) if s.prepared is not None}


_SHELF: Final = _Shelf()


def live_chunk(task: Task) -> list[Record]:
    """Live through some seeds. Runs on a worker."""
    prepared = _SHELF.get(task)
    if task.change == "spares":
        prepared = _with_terms(prepared, replace(prepared.terms, spares=ENOUGH_SPARES))
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


def run_study(plan: Plan, open_executor: OpenExecutor, hear: Hear | None = None) -> FailureStudy:
    """Live all lives and put the document together. Raises RunError if workers are lost."""
    study = f"{plan.resolved.scenario.name} {id(plan)}"
    _SHELF.put(study, plan.settings)
    layout = _map_layout(plan)
    tasks = [*_point_tasks(plan, study, None), *_point_tasks(plan, study, "spares")]
    tasks += _map_tasks(plan, study, layout) if layout else []
    with open_executor() as (executor, slots):
        records = _live(tasks, executor, slots, hear)
    lives: Lives = {}
    for task, found in zip(tasks, records, strict=True):
        lives.setdefault((task.number, task.change), []).extend(found)
    points = [
        _result(plan, s, lives.get((n, None), []), lives.get((n, "spares"), [])) for n, s in enumerate(plan.settings)
    ]
    bests = _bests(points)
    by_mtbf = {points[n].mtbf: points[n] for n in bests}
    points = [_compared(point, by_mtbf[point.mtbf]) if point.mtbf in by_mtbf else point for point in points]
    _, job = job_of(plan.resolved)
    axes = {"nodes": plan.axes.nodes, "mtbf": plan.axes.mtbf, "checkpoint": plan.axes.every,
            "policy": plan.axes.policies}  # fmt: skip
    return FailureStudy(
        scenario=plan.resolved.scenario.name, about=plan.resolved.scenario.about, job=job.spec.name,
        model=job.model.id, seed=plan.seeds.start, seeds=len(plan.seeds), duration_s=job.spec.run.duration,
        axes=[name for name, values in axes.items() if len(values) > 1], points=points, bests=bests,
        map=_map(layout, lives) if layout else None, sample=_sample(plan, points, bests),
    )  # fmt: skip


def _point_tasks(plan: Plan, study: str, change: Literal["spares"] | None) -> list[Task]:
    """The points' lives, or those of points with few spares as if they had enough."""
    return [
        Task(study, number, Step.of(setting.prepared), setting.resolved, change, piece)
        for number, setting in enumerate(plan.settings)
        if setting.prepared is not None and (change is None or _short_of_spares(setting.prepared))
        for piece in _pieces(plan.seeds)
    ]


def _short_of_spares(prepared: Prepared) -> bool:
    """Whether more spares than there are might be used."""
    return prepared.terms.spares < ENOUGH_SPARES and prepared.terms.policy != "wait"


def _pieces(seeds: Iterable[int]) -> list[tuple[int, ...]]:
    rest = iter(seeds)
    return list(iter(lambda: tuple(islice(rest, PIECE)), ()))


def _live(tasks: Sequence[Task], executor: Executor, slots: int, hear: Hear | None) -> list[list[Record]]:
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


# -- statistics ---------------------------------------------------------------------------------------------


def _estimate(values: Sequence[float]) -> Estimate:
    interval = t_interval(values)
    low, high = interval if interval is not None else (None, None)
    return Estimate(mean=sum(values) / len(values), low=low, high=high)


def _quantiles(values: Sequence[float]) -> Quantiles:
    """By rank, so that a value is one that was lived."""
    ranked = sorted(values)

    def rank(share: float) -> float | None:
        value = ranked[max(0, math.ceil(share * len(ranked) - 1e-9) - 1)]
        return value if value < math.inf else None

    return Quantiles(p10=rank(0.1), p50=rank(0.5), p90=rank(0.9), p99=rank(0.99))


def _result(plan: Plan, setting: Setting, lives: Sequence[Record], supplied: Sequence[Record]) -> PointResult:
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
    goodput = _estimate([life.goodput for life in lives])
    saving = terms.saving
    saves = saving.interval < math.inf
    spares = [] if terms.policy == "wait" else [life.spares for life in supplied or lives]
    return PointResult(
        nodes=prepared.nodes, gpus=prepared.gpus, **_words(setting),
        job_mtbf_s=_finite(prepared.mtbf), interval_s=_finite(prepared.interval),
        blocking_s=saving.blocking if saves else None, persist_s=saving.persist if saves else None,
        useful_s=_finite(prepared.terms.total), step_s=prepared.step,
        tokens_per_step=prepared.tokens, goodput=goodput, goodput_daly=_daly(prepared),
        tokens_per_s=prepared.tokens / prepared.step * goodput.mean,
        failures=_estimate([float(sum(life.failures.values())) for life in lives]),
        failures_by_class={name: sum(life.failures.get(name, 0) for life in lives) / len(lives) for name in classes},
        stops=sum(life.stops for life in lives) / len(lives), seconds=mean,
        wall_s=_estimate([life.end for life in lives]),
        finished=None if by_duration else sum(life.finished for life in lives) / len(lives),
        completion_s=None if by_duration else _quantiles(ends),
        tokens=_quantiles([life.useful / prepared.step * prepared.tokens for life in lives]),
        spares=_quantiles([float(count) for count in spares]) if spares else None,
        usd_per_hour=None if paid is None else sum(paid) / sum(life.end for life in lives) * 3600.0,
        usd=None if paid is None else _estimate(paid),
        goodputs=[life.goodput for life in lives],
        completions_s=[] if by_duration else [_finite(end) for end in ends],
        spares_used=spares,
    )  # fmt: skip


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


def _bests(points: Sequence[PointResult]) -> list[int]:
    """Of each time between failures the point whose tokens take the least GPU time; of equals the first."""
    found = []
    for mtbf in dict.fromkeys(point.mtbf for point in points):
        own = [n for n, point in enumerate(points) if point.mtbf == mtbf]
        best = min(own, key=lambda n: _gpu_seconds_per_token(points[n]))
        if _gpu_seconds_per_token(points[best]) < math.inf:
            found.append(best)
    return found


def _compared(point: PointResult, best: PointResult) -> PointResult:
    """A point with its distance to the best, life by life."""
    if point.failed is not None or point is best:
        return point
    pairs = zip(best.goodputs, point.goodputs, strict=True)
    return point.model_copy(update={"behind": _estimate([a - b for a, b in pairs])})


# -- the map and the sample ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layout:
    """The cells of the map: of which point, at which times between failures, at which intervals."""

    number: int
    prepared: Prepared
    factors: tuple[float, ...]
    intervals: tuple[float, ...]
    horizon: float
    seeds: tuple[int, ...]

    def change(self, factor: float, interval: float) -> Change:
        """A cell."""
        return Change(factor, interval, self.horizon)


def _map_layout(plan: Plan) -> _Layout | None:
    """The map of the first point that restarts after failures (else the first of all), where it saves and what fails
    is drawn."""
    there = [(n, s) for n, s in enumerate(plan.settings) if s.prepared is not None]
    plain = (pair for pair in there if pair[1].prepared is not None and pair[1].prepared.terms.policy != "elastic")
    number, setting = next(plain, there[0])
    prepared = setting.prepared
    assert prepared is not None
    if prepared.interval == math.inf or prepared.mtbf == math.inf or prepared.reliability.recorded is not None:
        return None
    return _Layout(
        number, prepared, _factors(plan, prepared, setting.point.nodes), _intervals(plan, prepared),
        MAP_FAILURES * prepared.mtbf, tuple(plan.seeds[:MAP_SEEDS]),
    )  # fmt: skip


def _factors(plan: Plan, prepared: Prepared, nodes: int | None) -> tuple[float, ...]:
    """The study's own times between failures where there are several, else multiples of the point's."""
    own = {s.prepared.mtbf / prepared.mtbf for s in plan.settings
           if s.prepared is not None and s.point.nodes == nodes and s.prepared.mtbf < math.inf}  # fmt: skip
    return tuple(sorted(own)) if len(own) > 1 else MAP_FACTORS


def _intervals(plan: Plan, prepared: Prepared) -> tuple[float, ...]:
    """Around Daly's, and those that the study names; none shorter than a step."""
    centre = max(daly_interval(max(prepared.saving.blocking, 1e-3), prepared.mtbf), prepared.saving.persist)
    named = [every.value for every in plan.axes.every if every.value != "auto"]
    wanted = [*(centre * factor for factor in MAP_INTERVALS), *named]
    return tuple(sorted({float(f"{max(value, prepared.step):.4g}") for value in wanted}))


def _map_tasks(plan: Plan, study: str, layout: _Layout) -> list[Task]:
    setting, step = plan.settings[layout.number], Step.of(layout.prepared)
    return [
        Task(study, layout.number, step, setting.resolved, layout.change(factor, interval), piece)
        for factor in layout.factors
        for interval in layout.intervals
        for piece in _pieces(layout.seeds)
    ]


def _map(layout: _Layout, lives: Lives) -> FailureMap:
    save = max(layout.prepared.saving.blocking, 1e-3)
    rows = []
    for factor in layout.factors:
        mtbf = layout.prepared.mtbf * factor
        cells = [lives[layout.number, layout.change(factor, interval)] for interval in layout.intervals]
        goodput = [sum(life.goodput for life in cell) / len(cell) for cell in cells]
        rows.append(MapRow(
            mtbf_s=mtbf, factor=factor, goodput=goodput, best=int(np.argmax(goodput)),
            young_s=young_interval(save, mtbf), daly_s=daly_interval(save, mtbf),
        ))  # fmt: skip
    return FailureMap(point=layout.number, seeds=len(layout.seeds), intervals_s=list(layout.intervals), rows=rows)


def _sample(plan: Plan, points: Sequence[PointResult], bests: Sequence[int]) -> Sample | None:
    """Of the first best point the life in the middle by goodput, lived again."""
    if not bests:
        return None
    best = bests[0]
    prepared = plan.settings[best].prepared
    assert prepared is not None
    goodputs = points[best].goodputs
    ranked = sorted(range(len(goodputs)), key=goodputs.__getitem__)
    seed = plan.seeds[ranked[(len(ranked) - 1) // 2]]
    life = replica(prepared, seed)
    merged: list[tuple[str, float, float]] = []
    for kind, start, end in life.stretches:
        if merged and merged[-1][0] == kind and math.isclose(merged[-1][2], start):
            merged[-1] = (kind, merged[-1][1], end)
        else:
            merged.append((kind, start, end))
    return Sample(
        point=best, seed=seed, goodput=life.ettr, end_s=life.end, failures=sum(life.failures.values()),
        complete=len(merged) <= STRETCHES, stretches=merged[:STRETCHES],
    )  # fmt: skip
