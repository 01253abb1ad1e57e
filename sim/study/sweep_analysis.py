"""What a sweep says: the Pareto fronts, what each axis moves, and a heat map of two axes.

Sensitivity (the bars of a tornado): the mean of a metric at each value of an axis, all else averaged, and the
range of these means. Where points failed, an average over what is left would compare different things; so means
are taken over those settings of the other axes at which every value of the axis gave an answer (every value that
gave one anywhere). A drawn axis has no such settings: its means are over all points, by quarters of its numbers
where it has many.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sim.study.pareto import pareto_front
from sim.study.sweep_axes import Design, Dimension, Values, number_of, text

SENSITIVE: Final = (
    "output_tokens_per_s", "usd_per_million_tokens", "ttft_s.p50", "tpot_s.p50", "tokens_per_s", "step_time_s",
)  # fmt: skip
"""Metrics whose sensitivity is reported."""
FRONTS: Final = (
    ("usd_per_million_tokens", "tokens_per_s_per_user"),
    ("usd_per_hour", "output_tokens_per_s"),
    ("usd_per_hour", "tokens_per_s"),
)
"""Cost, which is better low, and value, which is better high."""
MANY: Final = 8
"""A drawn axis of more numbers than this is reported by quarters."""

Metric = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Front:
    """The points that nothing beats in both respects, by rising cost."""

    cost: str
    value: str
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """One value of an axis, or a quarter of a drawn one: the metric's mean over ``points`` points."""

    value: str
    mean: float
    points: int


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one axis moves. ``balanced``: each value was seen with the same settings of the others."""

    axis: str
    low: Level
    high: Level
    levels: tuple[Level, ...]
    balanced: bool

    @property
    def range(self) -> float:
        """From the lowest mean to the highest."""
        return self.high.mean - self.low.mean


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A metric over two axes; None where the point failed."""

    rows: str
    columns: str
    row_values: tuple[str, ...]
    column_values: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]


def front(metrics: Sequence[Mapping[str, float | None]], cost: str, value: str) -> Front:
    """The Pareto front over the points that have both numbers."""
    pairs = [(i, c, v) for i, m in enumerate(metrics)
             if (c := m.get(cost)) is not None and (v := m.get(value)) is not None]  # fmt: skip
    best = pareto_front([c for _, c, _ in pairs], [v for _, _, v in pairs])
    return Front(cost, value, tuple(pairs[i][0] for i in best))


def sensitivities(design: Design, values: Metric) -> list[Sensitivity]:
    """What each axis moves, the largest range first; an axis with one value, or with no answers, moves nothing."""
    found = [_sensitivity(design, d, values) for d in design.dimensions]
    return sorted((s for s in found if s is not None), key=lambda s: -s.range)


def _sensitivity(design: Design, dimension: Dimension, values: Metric) -> Sensitivity | None:
    own = [_name(level) for level in _binned(dimension, design.levels(dimension))]
    known = [i for i, value in enumerate(values) if value is not None]
    names = list(dict.fromkeys(own[i] for i in known))
    kept = [] if dimension.drawn else _balanced(design, dimension, own, known, names)
    balanced = bool(kept)
    kept = kept or known
    levels = []
    for name in names:
        mine = [v for i in kept if own[i] == name and (v := values[i]) is not None]
        levels.append(Level(name, sum(mine) / len(mine), len(mine)))
    if len(levels) < 2:
        return None
    low, high = min(levels, key=lambda x: x.mean), max(levels, key=lambda x: x.mean)
    return Sensitivity(dimension.name, low, high, tuple(levels), balanced)


def _balanced(
    design: Design, dimension: Dimension, own: Sequence[str], known: Sequence[int], names: Sequence[str]
) -> list[int]:
    """Points at those settings of the others where every value of the axis has an answer."""
    others = [c for c, path in enumerate(design.paths) if path not in dimension.paths]
    blocks: dict[str, list[int]] = {}
    for i in known:
        blocks.setdefault(json.dumps([design.points[i][c] for c in others]), []).append(i)
    return sorted(i for block in blocks.values() if {own[i] for i in block} == set(names) for i in block)


def _name(level: Values) -> str:
    return ", ".join(text(value) for value in level)


def _binned(dimension: Dimension, levels: list[Values]) -> list[Values]:
    """A drawn axis of many numbers as four quarters of equally many points."""
    if not dimension.drawn or len(set(map(_name, levels))) <= MANY:
        return levels
    numbers = [number_of(level[0]) for level in levels]
    ranked = sorted((number, i) for i, number in enumerate(numbers) if number is not None)
    if len(ranked) < len(levels):
        return levels
    binned = list(levels)
    for quarter in range(4):
        part = ranked[quarter * len(ranked) // 4 : (quarter + 1) * len(ranked) // 4]
        first, last = (text(levels[part[end][1]][0]) for end in (0, -1))
        for _, i in part:
            binned[i] = (first if first == last else f"{first}..{last}",)
    return binned


def heat_map(design: Design, values: Metric) -> HeatMap | None:
    """The metric over two axes that are not drawn; None for any other sweep."""
    if len(design.dimensions) != 2 or any(d.drawn for d in design.dimensions):
        return None
    down, across = ([_name(level) for level in design.levels(d)] for d in design.dimensions)
    at = dict(zip(zip(down, across, strict=True), values, strict=True))
    rows, columns = tuple(dict.fromkeys(down)), tuple(dict.fromkeys(across))
    first, second = design.dimensions
    return HeatMap(first.name, second.name, rows, columns, tuple(tuple(at[r, c] for c in columns) for r in rows))


def column(metrics: Sequence[Mapping[str, float | None]], name: str) -> list[float | None]:
    """One metric of every point."""
    return [m.get(name) for m in metrics]
