"""Which points a sweep visits: every combination (grid), lists in step (zip), or draws (random).

A dimension is what moves on its own: one axis of the grid, all lists of the zip, or one drawn axis. Points come
in one order, the last dimension fastest, so that a sweep has the same rows whoever runs it.

Draws: a list is drawn from uniformly; a range uniformly, or uniformly in the logarithm (``scale: log``), to six
significant digits. The same point is not drawn twice, so lists alone may give fewer points than asked for.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sim.adapters.validation import validate
from sim.adapters.yaml_source import Place, Source, parse_yaml
from sim.errors import InputError, Problem
from sim.spec.scenario import SweepRandom, SweepRange, SweepSpec

MAX_POINTS: Final = 1_000_000
"""More points than this are a slip of the pen."""
TRIES: Final = 50
"""Draws for each sample, before what is left counts as repeats."""

_NUMBER = re.compile(r"\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*(.*?)\s*")

Values = tuple[Any, ...]
Places = dict[tuple[str, str], Place]
"""Where the value of a path was written, by path and the value's text."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """Paths that move together; ``drawn`` at random, or all their values in turn."""

    paths: tuple[str, ...]
    drawn: bool

    @property
    def name(self) -> str:
        """The paths, joined where more than one moves."""
        return " + ".join(self.paths)


@dataclass(frozen=True, slots=True)
class Design:
    """The points of a sweep: for each a value of every path."""

    paths: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    points: tuple[Values, ...]

    def levels(self, dimension: Dimension) -> list[Values]:
        """The dimension's values at each point."""
        columns = [self.paths.index(path) for path in dimension.paths]
        return [tuple(point[c] for c in columns) for point in self.points]


def text(value: Any) -> str:
    """A value as it would be written after ``path=``."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def design_of(spec: SweepSpec) -> Design:
    """Every point of ``spec``, in order. Raises InputError for ranges that cannot be drawn from."""
    grid = [[(value,) for value in values] for values in spec.grid.values()]
    blocks: list[list[Values]] = list(grid)
    dimensions = [Dimension((path,), drawn=False) for path in spec.grid]
    paths = list(spec.grid)
    if spec.zip:
        blocks.append(list(zip(*spec.zip.values(), strict=True)))
        dimensions.append(Dimension(tuple(spec.zip), drawn=False))
        paths += spec.zip
    drawn = _draws(spec.random) if spec.random else None
    if drawn is not None and spec.random is not None:
        blocks.append(drawn)
        dimensions += [Dimension((path,), drawn=True) for path in spec.random.axes]
        paths += spec.random.axes
    count = math.prod(len(block) for block in blocks)
    if count > MAX_POINTS:
        raise InputError([Problem(None, None, None, "sweep", f"{count:,} points are more than {MAX_POINTS:,}")])
    points = tuple(tuple(itertools.chain(*parts)) for parts in itertools.product(*blocks))
    return Design(tuple(paths), tuple(dimensions), points)


# -- draws --------------------------------------------------------------------------------------------------


def _draws(spec: SweepRandom) -> list[Values]:
    """Different points in the order drawn."""
    problems: list[Problem] = []
    draws = []
    for path, axis in spec.axes.items():
        try:
            draws.append(_Draw.of(axis) if isinstance(axis, SweepRange) else axis)
        except ValueError as error:
            problems.append(Problem(None, None, None, f"sweep.random.axes.{path}", str(error)))
    if problems:
        raise InputError(problems)
    generator = np.random.default_rng(spec.seed)
    found: dict[str, Values] = {}
    for _ in range(TRIES * spec.samples):
        point = tuple(d(generator) if isinstance(d, _Draw) else d[int(generator.integers(len(d)))] for d in draws)
        found.setdefault(json.dumps(point), point)
        if len(found) == spec.samples:
            break
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Draw:
    """Numbers between two ends, written with the ends' unit."""

    low: float
    high: float
    unit: str
    whole: bool
    log: bool

    @staticmethod
    def of(spec: SweepRange) -> _Draw:
        """Raises ValueError if the ends are not numbers of one unit in order."""
        (low, unit), (high, other) = (_quantity(end) for end in (spec.min, spec.max))
        if unit != other:
            raise ValueError(f"min and max must be in one unit, not '{unit}' and '{other}'")
        if low > high:
            raise ValueError("min is above max")
        if spec.scale == "log" and low <= 0:
            raise ValueError("scale log needs a min above zero")
        whole = isinstance(spec.min, int) and isinstance(spec.max, int)
        return _Draw(low, high, unit, whole, spec.scale == "log")

    def __call__(self, generator: np.random.Generator) -> Any:
        share = float(generator.random())
        if self.whole and not self.log:
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        value = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        if self.whole:
            return min(int(self.high), max(int(self.low), round(value)))
        rounded = min(self.high, max(self.low, float(f"{value:.6g}")))
        return f"{rounded:g} {self.unit}" if self.unit else rounded


def _quantity(end: float | str) -> tuple[float, str]:
    """A number and its unit as written."""
    found = _NUMBER.fullmatch(end) if isinstance(end, str) else None
    if isinstance(end, str) and found is None:
        raise ValueError(f"'{end}' is not a number with a unit: write it like 10 Gbps")
    number, unit = (float(found[1]), found[2]) if found else (float(end), "")
    if not math.isfinite(number):
        raise ValueError(f"{end} is not a number to draw from")
    return number, unit


def number_of(value: Any) -> float | None:
    """The number in a value such as 8 or "2.5 Gbps", to put drawn values in order."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return _quantity(value)[0]
    except ValueError:
        return None


# -- what the user wrote ------------------------------------------------------------------------------------


def from_options(vary: Sequence[str], zipped: bool = False, samples: int | None = None, seed: int = 0) -> SweepSpec:
    """``--vary path=a,b,c`` options as a sweep. Values are YAML: units, quotes, lists and mappings work.

    Raises InputError with all that is wrong with them.
    """
    axes: dict[str, Any] = {}
    problems = []
    for option in vary:
        label = f"--vary {option}"
        try:
            path, values = _option(option, label)
            if path in axes:
                raise InputError([Problem(label, None, None, path, "is varied twice: put all values in one option")])
            axes[path] = values
        except InputError as error:
            problems += [Problem(label, None, None, None, p.message, p.suggestion) for p in error.problems]
    if problems:
        raise InputError(problems)
    if samples is not None:
        data: dict[str, Any] = {"random": {"samples": samples, "seed": seed, "axes": {
            path: values[0] if _is_range(values) else values for path, values in axes.items()}}}  # fmt: skip
    else:
        data = {"zip" if zipped else "grid": axes}
    return validate(SweepSpec, Source(data, {}, "--vary"))


def _is_range(values: list[Any]) -> bool:
    return len(values) == 1 and isinstance(values[0], dict) and {"min", "max"} <= values[0].keys()


def _option(option: str, label: str) -> tuple[str, list[Any]]:
    path, equals, right = option.partition("=")
    if not equals or not path.strip() or not right.strip():
        raise InputError([Problem(label, None, None, None,
                                  "must be written path=value,value, for example jobs.0.plan.pp=4,8")])  # fmt: skip
    values = parse_yaml(f"[{right}]", label).data
    return path.strip(), values


def places_of(spec: SweepSpec, source: Source | None) -> Places:
    """Where each value was written: at its line of the scenario, or in the option (``source`` None)."""
    found: Places = {}
    random = spec.random.axes if spec.random else {}
    parts: Iterator[tuple[tuple[str, ...], str, Any]] = itertools.chain(
        ((("grid",), path, values) for path, values in spec.grid.items()),
        ((("zip",), path, values) for path, values in spec.zip.items()),
        ((("random", "axes"), path, values) for path, values in random.items()),
    )
    for block, path, values in parts:
        for i, value in enumerate(() if isinstance(values, SweepRange) else values):
            place = Place(f"--vary {path}={text(value)}", None, None)
            if source is not None:
                place = source.place(("sweep", *block, path, i))
            found.setdefault((path, text(value)), place)
    return found
