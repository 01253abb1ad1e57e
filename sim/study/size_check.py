"""What laws say of a design, without a clock: whether the model fits, what no simulation of it can beat, and how many
units the load takes at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf
from typing import Final

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing, ResolvedTraining
from sim.errors import InfeasibleError, InputError
from sim.jobs.serving.bounds import Bounds, Lengths, bounds_of
from sim.jobs.serving.load import DrawnLoad, draw_load
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout
from sim.laws.training.flops import model_flops_per_token
from sim.spec.sizing import Goal, LatencyName
from sim.study.size_schema import Why
from sim.study.size_space import Design, Space
from sim.units import format_count, format_seconds, format_usd

DAY: Final = 86_400.0
SUSTAINED: Final = 0.8
"""Share of the rate that must be answered at least. A run is overloaded with less than 0.95 of it; the rest is for runs
that are too short to show what lasts."""
WINDOW: Final = 1.1
"""How much more a measured window may count than what lasts: the last tokens of answers that began before it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a design must do. ``rate``: requests/s that come by themselves, None where clients, a trace or a swing over
    the day set the pace."""

    goal: Goal
    latency: LatencyName
    limits: Mapping[str, float]
    rate: float | None
    deadline: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What laws say: units from ``least`` to ``most``, and the goal's value at best; or why the design is lost.

    ``promise``: of designs that are equal so far the larger is the more promising. ``over``: how many times what is
    asked for a lost one is, as far as that is known.
    """

    least: int
    most: int
    best: float
    lost: Why | None = None
    reason: str = ""
    promise: float = 0.0
    over: float = inf


def lengths_of(resolved: Resolved) -> DrawnLoad:
    """The requests that a run of the scenario's only job draws."""
    job = resolved.jobs[0]
    assert isinstance(job, ResolvedServing)
    (seed,) = np.random.SeedSequence(resolved.scenario.seed).spawn(1)
    return draw_load(job.spec.load, job.trace, job.lengths, job.model.context, seed, job.of_tenants)


class Checker:
    """Checks designs of one space by their laws."""

    def __init__(self, space: Space, question: Question) -> None:
        self.space, self.question = space, question

    @cached_property
    def _asked(self) -> Lengths:
        resolved = self.space.variants[0].resolved
        drawn = lengths_of(resolved)
        if drawn.prompts is not None and resolved.serving[0].spec.batching.prefix_caching:
            return Lengths([1] * len(drawn.prompt), drawn.output)  # all but the last token may be in the cache
        return Lengths(drawn.prompt, drawn.output)

    def check(self, design: Design) -> Checked:
        """What laws say of the design."""
        space = self.space
        most = space.most_units(design)
        if most < 1:
            return Checked(1, 0, 0.0, "over budget", *_too_dear(space, design))
        resolved = space.resolved(design)
        try:
            topology = topology_of(resolved)
            (layout,) = layouts(resolved, topology)
            job = resolved.jobs[0]
            if isinstance(job, ResolvedTraining):
                return self._training(design, resolved, job)
            assert isinstance(layout, Layout)
            # Replicas differ where machines hold GPUs of several types.
            several = design.copies if len(resolved.topology.gpu_types) > 1 else 1
            found = [bounds_of(resolved, job, topology, layout, self._asked, number) for number in range(several)]
        except InfeasibleError as error:
            return Checked(1, most, 0.0, "does not fit", str(error).splitlines()[0])
        except InputError as error:
            return Checked(1, most, 0.0, "does not fit", error.problems[0].message)
        return self._serving(design, resolved, found, most)

    def _serving(self, design: Design, resolved: Resolved, found: Sequence[Bounds], most: int) -> Checked:
        question, each = self.question, design.copies / len(found)
        per_unit = each * sum(bounds.requests_per_s for bounds in found)
        late = self._least_latencies(found)
        for name, limit in question.limits.items():
            # Any request may be in the measured part of a run: only what none can do is ruled out.
            least = late[name.rpartition("_p")[0]]
            if least > limit or per_unit == 0.0:
                if least <= limit:
                    told = "no batch, not even of one request, keeps the limit on tpot p99"
                    return Checked(1, most, 0.0, "misses an objective", told)
                said = f"{name.replace('_', ' ')} is {format_seconds(least)} or more"
                told = f"{said} even alone, over {format_seconds(limit)}"
                return Checked(1, most, 0.0, "misses an objective", told, over=least / limit)
        units = 1
        if question.rate is not None and question.goal != "throughput":
            units = max(1, ceil(question.rate * SUSTAINED / per_unit))
            if units > most:
                told = (
                    f"{most} {'unit' if most == 1 else 'units'} answer {format_count(per_unit * most)} req/s at most, "
                    f"of {format_count(question.rate)}"
                )
                over = units / most
                if most == self.space.spec.most_nodes // design.nodes:
                    return Checked(units, most, 0.0, "too many nodes", told, over=over)
                told = f"{told}; {units} cost {price_of(self.space, design, units)}"
                return Checked(units, most, 0.0, "over budget", told, over=over)
        idle = self.space.idle_usd_per_hour(design, units)
        if question.goal == "cost":
            # Spot machines that faults take away are not paid for meanwhile.
            best = 0.0 if resolved.faults and self.space.spot(design) else idle
        elif question.goal == "latency":
            best = late[question.latency]
        else:
            best = each * sum(bounds.tokens_per_s for bounds in found) * most * WINDOW
        return Checked(units, most, best, promise=per_unit * units / idle if idle else per_unit)

    def _least_latencies(self, found: Sequence[Bounds]) -> dict[str, float]:
        """Seconds that the quickest of all requests takes at least, by measure."""
        quickest = dict[int, int]()
        for prompt, output in zip(self._asked.prompt, self._asked.output, strict=True):
            quickest[prompt] = min(output, quickest.get(prompt, output))
        tpot = min(bounds.tpot for bounds in found)
        first = {prompt: min(bounds.ttft(prompt) for bounds in found) for prompt in quickest}
        latency = min(first[prompt] + (output - 1) * tpot for prompt, output in quickest.items())
        return {"ttft": min(first.values()), "tpot": tpot, "latency": latency}

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
            return Checked(1, 1, 0.0, "too late", told, over=seconds / deadline)
        usd = self.space.idle_usd_per_hour(design, 1) * seconds / 3600
        values = {"cost": usd, "latency": seconds / DAY, "throughput": tokens / seconds}
        return Checked(1, 1, values[self.question.goal])


def price_of(space: Space, design: Design, units: int) -> str:
    """What so many units cost: to buy, where the budget is for that, or an hour."""
    capital = space.capital(design, units)
    if space.spec.budget is not None and capital is not None:
        return format_usd(capital)
    return f"{format_usd(space.idle_usd_per_hour(design, units))}/h"


def _too_dear(space: Space, design: Design) -> tuple[str, float, float]:
    """What one unit costs that is over the budget in words, no promise, and how many times the budget it is."""
    spec, capital, hour = space.spec, space.capital(design, 1), space.idle_usd_per_hour(design, 1)
    if spec.budget is not None:
        if capital is None:
            return "it is rented, and the budget is for buying (state budget_per_hour)", 0.0, inf
        if capital > spec.budget:
            return f"one costs {format_usd(capital)}, over {format_usd(spec.budget)}", 0.0, capital / spec.budget
    assert spec.budget_per_hour is not None
    told = f"one costs {format_usd(hour)}/h or more, over {format_usd(spec.budget_per_hour)}/h"
    return told, 0.0, hour / spec.budget_per_hour


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
