"""One simulation: play it, find out what binds, put the Result together.

``run(resolved) -> Result`` returns a value and writes nothing; ``run_recorded`` also hands back the recording,
from which side tables are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

from pydantic import BaseModel

from sim import probe
from sim.adapters.resolve import Resolved
from sim.jobs.play import Detail, Recording, play
from sim.results.assemble import assemble
from sim.results.intervals import across_seeds
from sim.results.schema import Result

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, the recording behind its side tables, and the wall seconds the simulation itself took."""

    result: Result
    recording: Recording
    wall_s: float


def run(resolved: Resolved, *, detail: Detail = "auto", effects: bool = True, seeds: int = 1) -> Result:
    """Simulate ``resolved`` and say what binds it (see :func:`run_recorded`)."""
    return run_recorded(resolved, detail=detail, effects=effects, seeds=seeds).result


def run_recorded(
    resolved: Resolved,
    *,
    detail: Detail = "auto",
    effects: bool = True,
    seeds: int = 1,
    progress: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Simulate ``resolved``, say what binds it (unless ``effects`` is off), and keep the recording.

    ``seeds`` > 1 adds runs with the following seeds: numbers are then means over them, with intervals. Re-runs
    go to ``executor``, if one is given. Raises InfeasibleError when a plan does not fit and RunError when the
    simulation cannot end.
    """
    hear = (lambda share: progress("simulating", share)) if progress else None
    began = perf_counter()
    recording = play(resolved, detail, hear)
    wall = perf_counter() - began
    found = probe.effects(resolved, recording, progress, executor) if effects else []
    result = assemble(recording, found, describe(resolved))
    if effects:
        result = probe.with_saturation(result, resolved, recording)
    if seeds > 1:
        result = _with_seeds(result, resolved, seeds, executor)
    return Outcome(result, recording, wall)


def describe(resolved: Resolved) -> dict[str, Any]:
    """The scenario with every name looked up, in SI units, as JSON values."""
    dump = {"mode": "json", "exclude_none": True}
    return {
        **resolved.scenario.model_dump(mode="json", exclude_none=True, exclude={"define"}),
        "resolved": {
            "topology": resolved.topology.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "gpus": {k: v.model_dump(**dump) for k, v in resolved.gpus.items()},  # type: ignore[arg-type]
            "models": {j.spec.name: j.model.model_dump(**dump) for j in resolved.jobs},  # type: ignore[arg-type]
            "stacks": {j.spec.name: j.stack.model_dump(**dump) for j in resolved.jobs},  # type: ignore[arg-type]
        },
    }


def _seeded(resolved: Resolved, offset: int) -> Resolved:
    scenario = resolved.scenario
    return replace(resolved, scenario=scenario.model_copy(update={"seed": scenario.seed + offset}))


def _with_seeds(result: Result, resolved: Resolved, seeds: int, executor: Executor | None) -> Result:
    """Replace numbers and intervals by those over ``seeds`` independent runs."""
    others = [_seeded(resolved, i) for i in range(1, seeds)]
    runs = list((executor.map if executor else map)(probe.answers, others))
    pairs = [pair for found in runs for pair in zip(found, result.jobs, strict=True)]
    if all(answer.metrics == mine.metrics for answer, mine in pairs):
        method = f"{result.intervals_method}; nothing in this load is random: all {seeds} seeds give the same run"
        return result.model_copy(update={"intervals_method": method})
    intervals: dict[str, list[float]] = {}
    jobs = []
    for i, mine in enumerate(result.jobs):
        all_metrics = [mine.metrics, *(found[i].metrics for found in runs)]
        for name, interval in across_seeds(all_metrics).items():
            intervals[f"jobs.{i}.metrics.{name}"] = interval
            if len(result.jobs) == 1:
                intervals[f"metrics.{name}"] = interval
        update: dict[str, Any] = {"metrics": _mean(all_metrics)}
        costs = [c for c in [mine.cost, *(found[i].cost for found in runs)] if c is not None]
        if mine.cost is not None:
            over_use = {"saturation": mine.cost.saturation, "curve": mine.cost.curve, "swing": mine.cost.swing}
            plain = [cost.model_copy(update=dict.fromkeys(over_use) | {"curve": []}) for cost in costs]
            update["cost"] = _mean(plain).model_copy(update=over_use)
        jobs.append(mine.model_copy(update=update))
    last = result.seed + seeds - 1
    single = jobs[0] if len(jobs) == 1 else None
    return result.model_copy(update={
        "jobs": jobs,
        "metrics": single.metrics if single else None,
        "cost": single.cost if single else None,
        "intervals": intervals,
        "intervals_method": f"95%, Student's t over {seeds} runs with seeds {result.seed} to {last}; numbers are their "
        f"means, figures show seed {result.seed}",
    })  # fmt: skip


def _mean(parts: Sequence[Model]) -> Model:
    """A model whose numbers are the means of the parts' (counts rounded); what is not a number is the first's."""

    def average(values: list[Any]) -> Any:
        first = values[0]
        if any(value is None for value in values):
            return first
        if isinstance(first, list):
            return [average(list(entries)) for entries in zip(*values, strict=True)]
        if isinstance(first, dict):
            return {key: average([value.get(key) for value in values]) for key in first}
        if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
            return first
        mean = sum(values) / len(values)
        return round(mean) if isinstance(first, int) else mean

    return type(parts[0]).model_validate(average([part.model_dump() for part in parts]))
