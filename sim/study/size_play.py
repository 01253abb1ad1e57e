"""What simulations say of a design: the fewest units that carry the load within the objectives, or the most that a
budget pays for. Runs on a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from typing import Any, Final

import numpy as np

from sim.adapters.resolve import Resolved
from sim.adapters.traces import RequestTrace
from sim.errors import InfeasibleError, RunError
from sim.jobs.play import play
from sim.probe import answers, saturated
from sim.results.schema import JobResult, ServingMetrics, TrainingMetrics
from sim.spec.sizing import LatencyName
from sim.study.capacity import at_capacity, find_capacity, missed, tried_at
from sim.study.size_check import DAY, Checked, Question, lengths_of
from sim.study.size_schema import Why
from sim.study.size_space import Design, Space
from sim.units import format_percent, format_seconds, format_usd

NEARLY: Final = 0.01
"""Latencies that differ by less are taken for equal: the fewer machines win."""


@dataclass(frozen=True, slots=True)
class Played:
    """What simulations say: the goal's value with so many units and that run's answer, or why the design is lost."""

    units: int
    runs: int
    value: float = 0.0
    answer: JobResult | None = None
    lost: Why | None = None
    reason: str = ""


def play_design(space: Space, design: Design, question: Question, checked: Checked, ceiling: float = inf) -> Played:
    """Simulate the design; ``space`` may hold nothing but what the design is made of.

    A cost above ``ceiling`` is of no interest: what must cost more is not played to the end.
    """
    try:
        if design.training:
            return _train(space, design, question)
        if question.goal == "cost":
            return _fewest(space, design, question, checked, ceiling)
        if question.goal == "latency":
            return _quickest(space, design, question, checked)
        return _most(space, design, question, checked)
    except (InfeasibleError, RunError) as error:
        return Played(checked.least, 1, lost="does not fit", reason=str(error).splitlines()[0])


def _run(space: Space, design: Design, units: int) -> JobResult:
    (found,) = answers(space.resolved(design, units))
    return found


def _fewest(space: Space, design: Design, question: Question, checked: Checked, ceiling: float) -> Played:
    """The fewest units that carry the load within the objectives.

    Units take turns and do not meet, so that one unit with its share of the requests shows what all do: by such
    samples the number is sought, from the least that laws allow upwards, then by bisection. Whole runs have the last
    word: on it, on one less, and on what is given up.
    """
    trial = _Trial(space, design)
    below, units = checked.least - 1, checked.least
    while why := missed(found := trial.sample(units)):
        least = space.idle_usd_per_hour(design, units + 1)
        if units == checked.most or least > ceiling:
            if not (why := missed(trial.whole(units))):
                break
            said = f"with {_in_words(units, design)} {why}"
            if units == checked.most:
                return Played(units, trial.runs, lost="misses an objective", reason=said)
            said = f"{said}; with more it costs {format_usd(least)}/h or more"
            return Played(units, trial.runs, lost="costs more", reason=said)
        below = units
        units = min(checked.most, max(units + 1, ceil(units * _growth(found, question))))
    while units - below > 1:
        middle = (units + below) // 2
        below, units = (middle, units) if missed(trial.sample(middle)) else (below, middle)
    while why := missed(trial.whole(units)):
        if units == checked.most:
            said = f"with {_in_words(units, design)} {why}"
            return Played(units, trial.runs, lost="misses an objective", reason=said)
        units += 1
    while units > checked.least and not missed(trial.whole(units - 1)):
        units -= 1
    found = trial.whole(units)
    assert found.cost is not None
    budget = space.spec.budget_per_hour
    if budget is not None and found.cost.usd_per_hour > budget:
        reason = f"it costs {format_usd(found.cost.usd_per_hour)}/h"
        return Played(units, trial.runs, lost="over budget", reason=reason)
    return Played(units, trial.runs, found.cost.usd_per_hour, found)


def _growth(found: JobResult, question: Question) -> float:
    """How many times the units that missed an objective to try next."""
    if question.rate is None:
        return 2.0
    late = [float(row["measured_s"] / row["limit_s"]) for row in found.objectives if row["measured_s"]]
    return min(2.0, max([1.1, *late]))


class _Trial:
    """Runs of one design with some number of units, each played once."""

    def __init__(self, space: Space, design: Design) -> None:
        self._space, self._design = space, design
        self._known: dict[tuple[int, bool], JobResult] = {}

    @property
    def runs(self) -> int:
        """Simulations so far."""
        return len(self._known)

    def whole(self, units: int) -> JobResult:
        """The answer of so many units under the whole load."""
        return self._played(units, units == 1, self._space.resolved(self._design, units))

    def sample(self, units: int) -> JobResult:
        """The answer of one of so many units: its clients, or the requests whose turn it is."""
        if units == 1 or self._space.resolved(self._design).faults:
            return self.whole(units)
        return self._played(units, True, _share(self._space, self._design, units))

    def _played(self, units: int, sample: bool, resolved: Resolved) -> JobResult:
        key = (units, sample)
        if key not in self._known:
            (self._known[key],) = answers(resolved)
        return self._known[key]


def _share(space: Space, design: Design, units: int) -> Resolved:
    """One unit with what the first of ``units`` gets of the load."""
    resolved, whole = space.resolved(design), space.resolved(design, units)
    job = resolved.serving[0]
    load, every = job.spec.load, design.copies * units
    if load.closed_loop is not None:
        clients = sum(client % every < design.copies for client in range(load.closed_loop.clients))
        loop = load.closed_loop.model_copy(update={"clients": max(1, clients)})
        shared = load.model_copy(update={"closed_loop": loop, "requests": max(1, (load.requests or 1) // units)})
        return replace(resolved, jobs=(replace(job, spec=job.spec.model_copy(update={"load": shared})),))
    drawn = lengths_of(whole)
    if drawn.prompts is not None or drawn.tenant is not None:  # a share of these is no trace of lengths
        return whole
    mine = [r for r in range(len(drawn.prompt)) if r % every < design.copies]
    arrival = np.array([drawn.arrival[r] for r in mine])
    prompt, output = (np.array([column[r] for r in mine]) for column in (drawn.prompt, drawn.output))
    trace = RequestTrace(arrival - arrival[0], prompt, output, 0, "a unit's share")
    return replace(resolved, jobs=(replace(job, trace=trace, lengths=None),))


def _in_words(units: int, design: Design) -> str:
    nodes = units * design.nodes
    return "one machine" if nodes == 1 else f"{nodes} machines"


def _quickest(space: Space, design: Design, question: Question, checked: Checked) -> Played:
    """The least latency that the budget pays for, on the fewest units that have nearly as little."""
    units, found, runs = checked.most, None, 0
    while units >= checked.least:
        found, runs = _run(space, design, units), runs + 1
        budget = space.spec.budget_per_hour
        if budget is None or (found.cost is not None and found.cost.usd_per_hour <= budget):
            break
        units -= 1
    if found is None or units < checked.least:
        return Played(checked.least, runs, lost="over budget", reason="busy GPUs draw more than the budget pays for")
    if why := missed(found):
        return Played(units, runs, lost="misses an objective", reason=f"with {_in_words(units, design)} {why}")
    least, below = _latency(found, question.latency), checked.least - 1
    while units - below > 1:
        middle = (units + below) // 2
        other, runs = _run(space, design, middle), runs + 1
        if missed(other) or _latency(other, question.latency) > least * (1 + NEARLY):
            below = middle
        else:
            units, found = middle, other
    return Played(units, runs, _latency(found, question.latency), found)


def _latency(job: JobResult, name: LatencyName) -> float:
    assert isinstance(job.metrics, ServingMetrics)
    spread = getattr(job.metrics, f"{name}_s")
    return float(spread.p50) if spread.p50 is not None else float("inf")


def _most(space: Space, design: Design, question: Question, checked: Checked) -> Played:
    """The most tokens/s that the budget pays for, within the objectives where there are any."""
    runs, units, budget = 0, checked.most, space.spec.budget_per_hour
    while units > 0:
        resolved = space.resolved(design, units)
        recording = play(resolved, charts=False)
        capacity = None
        if question.limits:
            capacity = find_capacity(resolved, recording, 0)
            runs += len(capacity.tried) + 1
            if capacity.rate is None:
                last = capacity.tried[-1]
                return Played(units, runs, lost="misses an objective", reason=f"{tried_at(last)} {last.why}")
            resolved = at_capacity(resolved, 0, capacity)
        else:
            resolved = saturated(resolved, recording)
        (found,), runs = answers(resolved), runs + 2
        if budget is None or (found.cost is not None and found.cost.usd_per_hour <= budget):
            return Played(units, runs, _tokens(found), found.model_copy(update={"capacity": capacity}))
        units -= 1
    return Played(1, runs, lost="over budget", reason="busy GPUs draw more than the budget pays for")


def _tokens(job: JobResult) -> float:
    assert isinstance(job.metrics, ServingMetrics)
    return job.metrics.output_tokens_per_s


def _train(space: Space, design: Design, question: Question) -> Played:
    found = _run(space, design, 1)
    m, budget = found.metrics, space.spec.budget_per_hour
    if budget is not None and found.cost is not None and found.cost.usd_per_hour > budget:
        return Played(1, 1, lost="over budget", reason=f"it costs {format_usd(found.cost.usd_per_hour)}/h")
    assert isinstance(m, TrainingMetrics)
    if m.days_to_target is None:
        return Played(1, 1, lost="too late", reason="nothing was kept of what it trained")
    if question.deadline is not None and m.days_to_target * DAY > question.deadline:
        told = f"takes {format_seconds(m.days_to_target * DAY)} ({format_percent(m.mfu)} MFU)"
        return Played(1, 1, lost="too late", reason=f"{told}, over {format_seconds(question.deadline)}")
    assert m.usd_to_target is not None
    rate = m.tokens_per_s if m.goodput_tokens_per_s is None else m.goodput_tokens_per_s
    values = {"cost": m.usd_to_target, "latency": m.days_to_target, "throughput": rate}
    return Played(1, 1, values[question.goal], found)


def numbers_of(job: JobResult) -> dict[str, float]:
    """The metrics of a run and its money, by path."""
    found = dict(_numbers(job.metrics.model_dump()))
    if job.cost is not None:
        found |= _numbers({key: value for key, value in job.cost.model_dump().items() if key != "saturation"})
    return found


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found


def only(space: Space, design: Design) -> tuple[Space, Design]:
    """The space of this design alone, to be sent to a worker."""
    alone = replace(design, offer=0, variant=0)
    small = Space(space.spec, (space.offers[design.offer],), (space.variants[design.variant],), (alone,))
    return small, alone
