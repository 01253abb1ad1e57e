"""What one design can do: first by its laws, then by simulation. Runs on a worker.

``check`` needs no clock: whether the model fits, what no simulation of it can beat, how many units the load takes at
least. ``play_design`` simulates: the fewest units that carry the load within the objectives, or the most that a budget
pays for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf, isfinite
from typing import Any, Final

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing, ResolvedTraining
from sim.errors import InfeasibleError, InputError, RunError
from sim.jobs.play import ServingRecording, play
from sim.jobs.serving.bounds import Bounds, Lengths, bounds_of
from sim.jobs.serving.load import DrawnLoad, draw_load
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout
from sim.laws.training.flops import model_flops_per_token
from sim.probe import answers, saturated
from sim.results.assemble import job_results
from sim.results.collect import device_classes
from sim.results.schema import JobResult, ServingMetrics, TrainingMetrics
from sim.spec.sizing import Goal, LatencyName
from sim.study.capacity import find_capacity, missed
from sim.study.size_schema import Why
from sim.study.size_space import Design, Space
from sim.units import format_count, format_percent, format_seconds, format_usd

DAY: Final = 86_400.0
NEARLY: Final = 0.01
"""Latencies that differ by less are taken for equal: the fewer machines win."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a design must do. ``rate``: requests/s of an open load, None where clients or a trace set their own pace."""

    goal: Goal
    latency: LatencyName
    limits: Mapping[str, float]
    rate: float | None
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What laws say: units from ``least`` to ``most``, and the goal's value at best; or why the design is lost.

    ``promise``: of designs that are equal so far the larger is the more promising.
    """

    least: int
    most: int
    best: float
    lost: Why | None = None
    reason: str = ""
    promise: float = 0.0


@dataclass(frozen=True, slots=True)
class Played:
    """What simulations say: the goal's value with so many units and that run's answer, or why the design is lost."""

    units: int
    runs: int
    value: float = 0.0
    answer: JobResult | None = None
    lost: Why | None = None
    reason: str = ""


def lengths_of(resolved: Resolved) -> DrawnLoad:
    """The requests that a run of the scenario's only job draws."""
    job = resolved.jobs[0]
    assert isinstance(job, ResolvedServing)
    (seed,) = np.random.SeedSequence(resolved.scenario.seed).spawn(1)
    return draw_load(job.spec.load, job.trace, job.lengths, seed)


# -- laws ---------------------------------------------------------------------------------------------------


class Checker:
    """Checks designs of one space by their laws."""

    def __init__(self, space: Space, question: Question) -> None:
        self.space, self.question = space, question

    @cached_property
    def _asked(self) -> Lengths:
        drawn = lengths_of(self.space.variants[0].resolved)
        return Lengths(drawn.prompt, drawn.output)

    def check(self, design: Design) -> Checked:
        """What laws say of the design."""
        space = self.space
        most = space.most_units(design)
        if most < 1:
            rented = space.capital(design, 1) is None and space.spec.budget is not None
            told = "it is rented, and the budget is for buying (state budget_per_hour)" if rented else "one costs more"
            return Checked(1, 0, 0.0, "over budget", told)
        resolved = space.resolved(design)
        try:
            topology = topology_of(resolved)
            (layout,) = layouts(resolved, topology)
        except InfeasibleError as error:
            return Checked(1, most, 0.0, "does not fit", str(error).splitlines()[0])
        except InputError as error:
            return Checked(1, most, 0.0, "does not fit", error.problems[0].message)
        job = resolved.jobs[0]
        if isinstance(job, ResolvedTraining):
            return self._training(design, resolved, job)
        assert isinstance(layout, Layout)
        try:
            bounds = bounds_of(resolved, job, topology, layout, self._asked)
        except InfeasibleError as error:
            return Checked(1, most, 0.0, "does not fit", str(error).splitlines()[0])
        return self._serving(design, bounds, most)

    def _serving(self, design: Design, bounds: Bounds, most: int) -> Checked:
        question, per_unit = self.question, bounds.requests_per_s * design.copies
        late = self._least_latencies(bounds)
        for name, limit in question.limits.items():
            measure, _, percentile = name.rpartition("_p")
            least = float(np.percentile(late[measure], float(percentile), method="lower"))
            if least > limit:
                said = f"{name.replace('_', ' ')} is {format_seconds(least)} or more"
                told = f"{said} even alone, over {format_seconds(limit)}"
                return Checked(1, most, 0.0, "misses an objective", told)
        units = 1
        if question.rate is not None and question.goal != "throughput":
            units = max(1, ceil(question.rate / per_unit * (1 - 1e-9)))
            if units > most:
                told = (
                    f"{most} {'unit' if most == 1 else 'units'} answer {format_count(per_unit * most)} req/s at most, "
                    f"of {format_count(question.rate)}"
                )
                limit_is_nodes = most == self.space.spec.most_nodes // design.nodes
                return Checked(units, most, 0.0, "too many nodes" if limit_is_nodes else "over budget", told)
        if question.goal == "cost":
            best = self.space.idle_usd_per_hour(design, units)
        elif question.goal == "latency":
            best = float(np.median(late[question.latency]))
        else:
            best = per_unit * most * sum(self._asked.output) / len(self._asked.output)
        return Checked(units, most, best, promise=per_unit / self.space.idle_usd_per_hour(design, 1))

    def _least_latencies(self, bounds: Bounds) -> dict[str, Any]:
        """Seconds each request takes at least, by measure."""
        known: dict[int, float] = {}
        for prompt in self._asked.prompt:
            if prompt not in known:
                known[prompt] = bounds.ttft(prompt)
        first = np.array([known[prompt] for prompt in self._asked.prompt])
        rest = bounds.tpot * (np.array(self._asked.output) - 1)
        return {"ttft": first, "tpot": np.full(len(first), bounds.tpot), "latency": first + rest}

    def _training(self, design: Design, resolved: Resolved, job: ResolvedTraining) -> Checked:
        spec, assume = job.spec, resolved.scenario.assume
        tokens = float(spec.run.target_tokens or spec.run.tokens or 0)
        flops = model_flops_per_token(
            job.model, spec.batch.sequence, spec.finetune, assume.parameters, attention_free=True
        )  # fmt: skip
        seconds = tokens * flops / _peak(resolved, job)
        deadline = self.question.deadline
        if deadline is not None and seconds > deadline:
            told = f"takes {format_seconds(seconds)} even at its peak FLOP/s, over {format_seconds(deadline)}"
            return Checked(1, 1, 0.0, "too late", told)
        usd = self.space.idle_usd_per_hour(design, 1) * seconds / 3600
        values = {"cost": usd, "latency": seconds / DAY, "throughput": tokens / seconds}
        return Checked(1, 1, values[self.question.goal])


def _peak(resolved: Resolved, job: ResolvedTraining) -> float:
    """FLOP/s that all GPUs have on paper, in the fastest format that the job may multiply in."""
    assumed, total = resolved.scenario.assume.gpu, 0.0
    for name, count in resolved.topology.gpu_types.items():
        sheet = resolved.gpus[name].flops.model_dump()
        formats = [key for key in sheet if key.startswith(("fp16", "bf16", "tf32", "fp32"))]
        formats += ["fp8"] if job.spec.precision.compute == "fp8" else []
        peak = max(sheet[key] or 0.0 for key in formats)
        total += count * (assumed.flops if assumed is not None and assumed.flops else peak)
    return total


# -- simulations --------------------------------------------------------------------------------------------


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
    except InfeasibleError as error:
        return Played(checked.least, 1, lost="does not fit", reason=str(error).splitlines()[0])


def _run(space: Space, design: Design, units: int) -> JobResult:
    (found,) = answers(space.resolved(design, units))
    return found


def _achieved(job: JobResult) -> float:
    assert isinstance(job.metrics, ServingMetrics)
    return job.metrics.requests_per_s


def _fewest(space: Space, design: Design, question: Question, checked: Checked, ceiling: float) -> Played:
    """The fewest units that carry the load within the objectives.

    From the least that laws allow upwards, by what was answered against what was asked; then bisection.
    """
    below, units, runs = checked.least - 1, checked.least, 0
    while True:
        found, runs = _run(space, design, units), runs + 1
        why = missed(found)
        if not why:
            break
        if units == checked.most:
            said = _in_words(units, design)
            return Played(units, runs, lost="misses an objective", reason=f"with {said} {why}")
        below = units
        least = space.idle_usd_per_hour(design, units + 1)
        if least > ceiling:
            said = f"with {_in_words(units, design)} {why}; with more it costs {format_usd(least)}/h or more"
            return Played(units, runs, lost="costs more", reason=said)
        grown = 1.25 if question.rate is not None else 2.0
        if question.rate is not None and found.state == "overloaded":
            grown = min(4.0, max(1.05, question.rate / _achieved(found)))
        units = min(checked.most, max(units + 1, ceil(units * grown)))
    while units - below > 1:
        middle = (units + below) // 2
        other, runs = _run(space, design, middle), runs + 1
        if missed(other):
            below = middle
        else:
            units, found = middle, other
    assert found.cost is not None
    budget = space.spec.budget_per_hour
    if budget is not None and found.cost.usd_per_hour > budget:
        return Played(units, runs, lost="over budget", reason=f"it costs {found.cost.usd_per_hour:.2f} USD/h")
    return Played(units, runs, found.cost.usd_per_hour, found)


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
    resolved = space.resolved(design, checked.most)
    recording = play(resolved)
    (job,) = recording.jobs
    assert isinstance(job, ServingRecording)
    if not question.limits:
        (found,) = answers(saturated(resolved, recording))
        return Played(checked.most, 2, _tokens(found), found)
    capacity = find_capacity(resolved, recording, 0)
    if capacity.rate is None or capacity.output_tokens_per_s is None:
        last = capacity.tried[-1]
        reason = f"at {format_count(last.rate)} req/s {last.why}"
        return Played(checked.most, len(capacity.tried) + 2, lost="misses an objective", reason=reason)
    (found,), _ = job_results(recording, device_classes(recording))
    found = found.model_copy(update={"capacity": capacity})
    return Played(checked.most, len(capacity.tried) + 2, capacity.output_tokens_per_s, found)


def _tokens(job: JobResult) -> float:
    assert isinstance(job.metrics, ServingMetrics)
    return job.metrics.output_tokens_per_s


def _train(space: Space, design: Design, question: Question) -> Played:
    try:
        found = _run(space, design, 1)
    except RunError as error:
        return Played(1, 1, lost="does not fit", reason=str(error).splitlines()[0])
    m = found.metrics
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
