"""How far predictions are from measurements, and whether they move the same way.

Errors are predicted / measured - 1 of what a row measures. Of a set: the median and the 90th percentile of their
absolute values (between two values: linear), and the bias, the median with its sign (of speed, where times and rates
meet).

Directions: two runs of one table that differ in one knob alone. Of training, degrees of parallelism trade against dp,
which is not counted then; dp itself is a knob between runs of different numbers of GPUs that are otherwise alike, at
the same global batch or at the same one per data-parallel rank. The pair agrees if both move the same way. Pairs
measured closer than ``CLOSE`` say nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import floor
from typing import Any, Final

from sim.study.validate.cases import TIMES, Knobs
from sim.study.validate.schema import Direction, Errors, Row

CLOSE: Final = 0.02


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which a ``share`` of at least one value lies, linear in between."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(errors: Sequence[float]) -> Errors | None:
    """The errors in four numbers; None without any."""
    if not errors:
        return None
    sizes = [abs(error) for error in errors]
    return Errors(
        n=len(errors), median_abs_error=statistics.median(sizes), p90_abs_error=quantile(sizes, 0.9),
        bias=statistics.median(errors),
    )  # fmt: skip


def told(rows: Iterable[Row]) -> Errors | None:
    """The errors of the counted rows among these."""
    known = [(row.error, row.unit in TIMES) for row in rows if row.counted and row.error is not None]
    found = summary([error for error, _ in known])
    if found is None or len({time for _, time in known}) == 1:
        return found
    speed = [1 / (1 + error) - 1 if time else error for error, time in known]
    return found.model_copy(update={"bias": statistics.median(speed)})


@dataclass(frozen=True, slots=True)
class Run:
    """A predicted run, with what tells it from others."""

    knobs: Knobs
    measured: float
    predicted: float


def directions(runs: Iterable[Run]) -> tuple[Direction, ...]:
    """Agreement by knob over all pairs among ``runs`` of one table, knobs without a pair left out."""
    known = list(runs)
    names = dict.fromkeys(knob for run in known for knob in run.knobs.knobs)
    counts = {knob: [0, 0] for knob in names}
    for knob, first, second in [*_at_equal_gpus(known, tuple(names)), *_scaling(known)]:
        change = first.measured / second.measured - 1
        if abs(change) < CLOSE:
            continue
        counts[knob][0] += 1
        counts[knob][1] += (first.predicted - second.predicted) * change > 0
    return tuple(
        Direction(knob=knob, pairs=n, agree=agree, share=agree / n) for knob, (n, agree) in counts.items() if n
    )


def _pairs(runs: Sequence[Run], keys: Sequence[Any]) -> Iterable[tuple[Run, Run]]:
    """Pairs of equal key."""
    alike: dict[Any, list[Run]] = {}
    for run, key in zip(runs, keys, strict=True):
        alike.setdefault(key, []).append(run)
    return (pair for group in alike.values() for pair in combinations(group, 2))


def _at_equal_gpus(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, Run, Run]]:
    found = []
    for first, second in _pairs(runs, [(run.knobs.alike, run.knobs.gpus, run.knobs.batch) for run in runs]):
        one, other = first.knobs.knobs, second.knobs.knobs
        changed = [knob for knob in names if knob != "dp" and one.get(knob) != other.get(knob)]
        if len(changed) == 1:
            found.append((changed[0], first, second))
    return found


def _scaling(runs: Sequence[Run]) -> list[tuple[str, Run, Run]]:
    """Pairs that differ in dp."""
    scaled = [run for run in runs if "dp" in run.knobs.knobs]
    found = []
    for first, second in _pairs(scaled, [(run.knobs.alike, _but_dp(run)) for run in scaled]):
        one, other = first.knobs.knobs["dp"], second.knobs.knobs["dp"]
        batches = first.knobs.batch, second.knobs.batch
        if one != other and (batches[0] == batches[1] or batches[0] * other == batches[1] * one):
            found.append(("dp", first, second))
    return found


def _but_dp(run: Run) -> str:
    return json.dumps({key: value for key, value in run.knobs.knobs.items() if key != "dp"}, sort_keys=True)
