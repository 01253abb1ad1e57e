"""A sweep: one scenario at many values of some of its keys, each point on disk as soon as it is known.

Every point is resolved before the first is played, so that wrong values are all reported at once. A point whose
values are each fine elsewhere but not together (a plan that does not fit, a policy without its size) is a result:
it is recorded with its reason. What was played before is read from the journal. The rest goes through an
executor in pieces of at most a quarter of a second, and comes back in the order of the points whoever played it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Final

from sim.adapters.validation import validate
from sim.adapters.yaml_source import Source, apply_overrides, load_yaml
from sim.errors import InputError, Problem, RunError
from sim.spec.scenario import SweepSpec
from sim.study.executors import Hear, OpenExecutor
from sim.study.sweep_axes import Design, Places, design_of, places_of, text
from sim.study.sweep_metrics import Outcome, outcome_of
from sim.study.sweep_points import Answer, PointResolver, Task, answer_chunk, edition, tasks_of
from sim.study.sweep_store import Journal
from sim.units import format_seconds

PIECE_S: Final = 0.25
"""A call to a worker is meant to take no longer than this, so that little is lost with a killed sweep."""
MOST: Final = 64
"""Points of one call at most."""



@dataclass(frozen=True, slots=True)
class Study:
    """A sweep ready to run: its points, and for each the simulations it needs or why it is none."""

    scenario: str
    seed: int
    seeds: int
    design: Design
    tasks: tuple[tuple[Task, ...], ...]
    refused: Mapping[int, str]
    """Points that cannot be described: their number and the reason."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every point's outcome, in order. ``simulated`` and ``stored`` count simulations, and stand outside results."""

    study: Study
    outcomes: tuple[Outcome, ...]
    simulated: int
    stored: int


# -- before anything runs -----------------------------------------------------------------------------------


def prepare(
    path: str | Path,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    *,
    vary: SweepSpec | None = None,
    seeds: int = 1,
    hear: Hear | None = None,
) -> Study:
    """Read a scenario and resolve every point: ``vary``, or the scenario's own ``sweep`` block.

    Raises InputError with every wrong value of every axis.
    """
    settings = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    source = apply_overrides(load_yaml(path), settings)
    spec = vary or _own(source)
    design = design_of(spec)
    if any(path.partition(".")[0].strip() == "sweep" for path in design.paths):
        raise InputError([Problem(None, None, None, "sweep", "a sweep cannot vary itself")])
    places = places_of(spec, None if vary else source)
    resolver = PointResolver(source, Path(path).parent)
    tasks: list[tuple[Task, ...]] = []
    refused: dict[int, tuple[Problem, ...]] = {}
    name, first = "", 0
    for number, point in enumerate(design.points):
        if hear is not None:
            hear("reading points", number / len(design.points))
        try:
            resolved, digest = resolver.resolve(_settings(design.paths, point))
        except InputError as error:
            refused[number] = error.problems
            tasks.append(())
            continue
        name, first = resolved.scenario.name, resolved.scenario.seed if "seed" not in design.paths else 0
        tasks.append(tuple(tasks_of(resolved, digest, seeds)))
    _refuse_wrong_values(design, refused, resolver, places)
    reasons = {number: _reason(problems) for number, problems in refused.items()}
    return Study(name, first, seeds, design, tuple(tasks), reasons)


def _own(source: Source) -> SweepSpec:
    """The scenario's ``sweep`` block."""
    if not isinstance(source.data, dict) or source.data.get("sweep") is None:
        message = "nothing varies: give --vary path=a,b,c or a sweep block in the scenario"
        raise InputError([Problem(source.file, None, None, None, message)])
    return validate(SweepSpec, source, base_path=("sweep",))


def _settings(paths: Sequence[str], point: Sequence[Any]) -> list[str]:
    """Values as ``--set`` takes them: JSON is YAML in which nothing is misread."""
    return [f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in zip(paths, point, strict=True)]


def _refuse_wrong_values(
    design: Design, refused: Mapping[int, Sequence[Problem]], resolver: PointResolver, places: Places
) -> None:
    """Raise InputError if no point can be described, or if a value is wrong by itself wherever it is used."""
    if not refused:
        return
    found: list[Problem] = []
    always = _without_axes(resolver)
    for column, path in enumerate(design.paths):
        used: dict[str, list[int]] = {}
        for number, point in enumerate(design.points):
            used.setdefault(json.dumps(point[column]), []).append(number)
        for value, numbers in used.items():
            if all(number in refused for number in numbers):
                found += _alone(resolver, path, json.loads(value), refused[numbers[0]], always)
    if not found and len(refused) == len(design.points):
        found = [problem for problems in refused.values() for problem in problems]
    if found:
        labels = _labels(design)
        raise InputError(list(dict.fromkeys(_placed(problem, labels, places) for problem in found)))


def _without_axes(resolver: PointResolver) -> tuple[Problem, ...]:
    """What is wrong with the scenario itself."""
    try:
        resolver.resolve([])
    except InputError as error:
        return error.problems
    return ()


def _alone(
    resolver: PointResolver, path: str, value: Any, seen: Sequence[Problem], always: Sequence[Problem]
) -> list[Problem]:
    """What is wrong with a value without the others; nothing if it is only wrong together with them."""
    (setting,) = _settings([path], [value])
    label = f"--set {setting}"
    try:
        resolver.resolve([setting])
    except InputError as error:
        cause = f" (with {path}={text(value)})"
        return [
            p if p.file == label or p in always else replace(p, message=p.message + cause)
            for p in error.problems
            if p.file == label or p in seen
        ]
    return []


def _labels(design: Design) -> dict[str, tuple[str, str]]:
    """The label under which an override complains -> its axis and its value."""
    found = {}
    for point in design.points:
        for path, value, setting in zip(design.paths, point, _settings(design.paths, point), strict=True):
            found[f"--set {setting}"] = path, text(value)
    return found


def _placed(problem: Problem, labels: Mapping[str, tuple[str, str]], places: Places) -> Problem:
    """The problem at the place where the user wrote the value."""
    axis = labels.get(problem.file or "")
    if axis is None:
        return problem
    place = places.get(axis)
    if place is None:  # a drawn value
        return replace(problem, file=f"{axis[0]}={axis[1]}")
    return replace(problem, file=place.file, line=place.line, column=place.column)


def _reason(problems: Sequence[Problem]) -> str:
    """Why a point is none, without places: they are the same for all points."""
    return "; ".join(dict.fromkeys(str(replace(p, file=None, line=None, column=None)) for p in problems))


# -- running ------------------------------------------------------------------------------------------------


def run_sweep(study: Study, journal: Journal, open_executor: OpenExecutor, hear: Hear | None = None) -> Sweep:
    """Play what the journal does not hold, and put every point's outcome together.

    Raises RunError if the workers are lost; what was finished is in the journal by then.
    """
    wanted = {task.key: task for tasks in study.tasks for task in tasks}
    missing = [task for key, task in wanted.items() if key not in journal.answers]
    transient: dict[str, Answer] = {}
    if missing:
        with open_executor() as (executor, slots):
            transient = _play(missing, journal, executor, slots, hear, len(wanted))
    known = {**journal.answers, **transient}
    outcomes = []
    for number, tasks in enumerate(study.tasks):
        if number in study.refused:
            answers: list[Answer] = [{"failed": "invalid", "reason": study.refused[number]}]
        else:
            answers = [known[task.key] for task in tasks]
        outcomes.append(outcome_of(answers))
    return Sweep(study, tuple(outcomes), len(missing), len(wanted) - len(missing))


def _play(
    tasks: Sequence[Task], journal: Journal, executor: Executor, slots: int, hear: Hear | None, total: int
) -> dict[str, Answer]:
    """Play all tasks. Answers go to the journal, but for defects of the simulator, which are tried again."""
    groups = deque(_groups(tasks))
    running: dict[Future[tuple[float, list[list[Answer]]]], list[list[Task]]] = {}
    progress = _Progress(hear, len(tasks), total)
    transient: dict[str, Answer] = {}
    size = 1
    try:
        while groups or running:
            while groups and len(running) < 2 * slots:
                chunk = _take(groups, size)
                work = [[task.resolved for task in group] for group in chunk]
                running[executor.submit(answer_chunk, edition(), work)] = chunk
                if slots == 1 and all(future.done() for future in running):
                    break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                chunk = running.pop(future)
                seconds, answers = future.result()
                pairs = [
                    (task.key, answer)
                    for group, found in zip(chunk, answers, strict=True)
                    for task, answer in zip(group, found, strict=True)
                ]
                journal.add(pair for pair in pairs if pair[1].get("failed") != "internal error")
                transient |= {key: answer for key, answer in pairs if answer.get("failed") == "internal error"}
                size = max(1, min(MOST, int(len(pairs) * PIECE_S / max(seconds, 1e-9))))
                progress.add(pairs)
    except (BrokenExecutor, CancelledError, OSError, ImportError) as error:
        done_so_far = f"{len(tasks) - progress.left:,} of {len(tasks):,} simulations are on disk"
        raise RunError(f"the workers were lost ({type(error).__name__}: {error}); {done_so_far}: "
                       "the same command goes on from there") from error  # fmt: skip
    finally:
        for future in running:
            future.cancel()
    return transient


def _groups(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks that share a story, at most ``MOST`` together, in the order of their first."""
    stories: dict[str, list[Task]] = {}
    for task in tasks:
        stories.setdefault(task.story, []).append(task)
    groups = []
    for story in stories.values():
        rest = iter(story)
        while group := list(islice(rest, MOST)):
            groups.append(group)
    return groups


def _take(groups: deque[list[Task]], size: int) -> list[list[Task]]:
    """The next groups, about ``size`` tasks together."""
    chunk = [groups.popleft()]
    while groups and sum(map(len, chunk)) + len(groups[0]) <= size:
        chunk.append(groups.popleft())
    return chunk


class _Progress:
    """Says how far the sweep is and how long it will take at the pace so far."""

    def __init__(self, hear: Hear | None, count: int, total: int) -> None:
        self._hear, self._count, self._total = hear, count, total
        self.left = count
        self._failed = 0
        self._began = monotonic()

    def add(self, pairs: Sequence[tuple[str, Answer]]) -> None:
        """Some more are finished."""
        self.left -= len(pairs)
        self._failed += sum("failed" in answer for _, answer in pairs)
        if self._hear is None:
            return
        done = self._count - self.left
        rest = (monotonic() - self._began) / done * self.left
        facts = [f"{self._total - self.left:,} of {self._total:,} simulations"]
        if self._failed:
            facts.append(f"{self._failed:,} failed")
        facts.append(f"about {format_seconds(round(rest))} left")
        self._hear(", ".join(facts), 1 - self.left / self._total)
