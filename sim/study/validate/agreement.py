"""How far predictions are from measurements, and whether they move the same way.

Errors are predicted / measured - 1 of a step's time. Of a set: the median and the 90th percentile of their absolute
values (between two values: linear), and the bias, the median with its sign.

Directions: two runs of one table that differ in one knob alone, with the same model, GPU type, number of GPUs,
sequence, batch and formats. Degrees of parallelism trade against dp, which is not counted then; dp itself is a knob
between runs of different numbers of GPUs that are otherwise alike, at the same global batch or at the same one per
data-parallel rank. The pair agrees if tokens/s per GPU move the same way in both. Pairs measured closer than ``CLOSE``
say nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import floor
from typing import Any, Final

from sim.study.validate.training_mapping import Mapped

CLOSE: Final = 0.02
KNOBS: Final = ("tp", "pp", "dp", "micro_batch", "zero", "recompute", "vpp", "cp")


@dataclass(frozen=True, slots=True)
class Summary:
    """Errors of ``n`` rows as fractions."""

    n: int
    median_abs_error: float
    p90_abs_error: float
    bias: float


@dataclass(frozen=True, slots=True)
class Direction:
    """Pairs that differ in ``knob`` alone, how many of them agree, and their share."""

    knob: str
    pairs: int
    agree: int
    share: float


def summary(errors: Sequence[float]) -> Summary | None:
    """The errors in four numbers; None without any."""
    if not errors:
        return None
    sizes = sorted(abs(error) for error in errors)
    return Summary(len(errors), statistics.median(sizes), _quantile(sizes, 0.9), statistics.median(errors))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Run:
    """A mapped row with its measured and predicted step, s."""

    mapped: Mapped
    measured: float
    predicted: float


def directions(runs: Iterable[Run]) -> tuple[Direction, ...]:
    """Agreement by knob over all pairs among ``runs`` of one table, knobs without a pair left out."""
    counts = {knob: [0, 0] for knob in KNOBS}
    facts = [_Facts.of(run) for run in runs]
    for knob, first, second in [*_at_equal_gpus(facts), *_scaling(facts)]:
        change = first.measured / second.measured - 1
        if abs(change) < CLOSE:
            continue
        counts[knob][0] += 1
        counts[knob][1] += (first.predicted - second.predicted) * change > 0
    return tuple(Direction(knob, n, agree, agree / n) for knob, (n, agree) in counts.items() if n)


@dataclass(frozen=True, slots=True)
class _Facts:
    """A run by what tells it from others: tokens/s per GPU, its knobs, and everything else."""

    measured: float
    predicted: float
    knobs: dict[str, Any]
    gpus: int
    batch: int
    rest: str

    @classmethod
    def of(cls, run: Run) -> _Facts:
        mapped = run.mapped
        scenario, tokens = mapped.scenario, mapped.tokens / mapped.gpus
        (job,) = scenario["jobs"]
        plan, batch = job["plan"], job["batch"]
        knobs = {knob: plan.get(knob, 1) for knob in ("tp", "pp", "dp", "vpp", "cp")} | {
            "micro_batch": batch["micro"], "zero": [plan.get("zero", 0), plan.get("shard", "all")],
            "recompute": plan.get("recompute", "none"),
        }  # fmt: skip
        (model,) = scenario["define"]["models"].values()
        shape = {key: value for key, value in model.items() if key not in ("name", "source", "context")}
        others = {key: plan.get(key) for key in ("ep", "expert_capacity", "offload", "overlap")}
        rest = [mapped.gpu, mapped.stack, shape, batch["sequence"], job["precision"], job.get("finetune"), others]
        text = json.dumps(rest, sort_keys=True)
        return cls(tokens / run.measured, tokens / run.predicted, knobs, mapped.gpus, batch["global"], text)

    def but(self, *knobs: str) -> str:
        """All knobs but these, as one word."""
        return json.dumps({key: value for key, value in self.knobs.items() if key not in knobs}, sort_keys=True)


def _pairs(facts: Sequence[_Facts], keys: Sequence[Any]) -> Iterable[tuple[_Facts, _Facts]]:
    """Pairs of equal key."""
    alike: dict[Any, list[_Facts]] = {}
    for fact, key in zip(facts, keys, strict=True):
        alike.setdefault(key, []).append(fact)
    return (pair for group in alike.values() for pair in combinations(group, 2))


def _at_equal_gpus(facts: Sequence[_Facts]) -> list[tuple[str, _Facts, _Facts]]:
    found = []
    for first, second in _pairs(facts, [(fact.rest, fact.gpus, fact.batch) for fact in facts]):
        changed = [knob for knob in KNOBS if knob != "dp" and first.knobs[knob] != second.knobs[knob]]
        if len(changed) == 1:
            found.append((changed[0], first, second))
    return found


def _scaling(facts: Sequence[_Facts]) -> list[tuple[str, _Facts, _Facts]]:
    found = []
    for first, second in _pairs(facts, [(fact.rest, fact.but("dp")) for fact in facts]):
        one, other = first.knobs["dp"], second.knobs["dp"]
        same_batch = first.batch == second.batch or first.batch * other == second.batch * one
        if one != other and same_batch:
            found.append(("dp", first, second))
    return found
