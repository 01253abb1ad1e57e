"""The document of a sweep: what ``sim sweep --json`` prints, and the text and the page are drawn from.

Later versions add keys and never rename them; a reader refuses a newer ``schema_version`` than its own.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION: Final = 1
Value = str | int | float | bool | None | list[Any] | dict[str, Any]


class Part(BaseModel):
    """A frozen piece of the document."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Axis(Part):
    """Keys that move together; ``drawn`` at random, or all their values in turn."""

    paths: list[str]
    drawn: bool

    @property
    def name(self) -> str:
        """The keys, joined where more than one moves."""
        return " + ".join(self.paths)


class SweepPoint(Part):
    """One point, counted from 1: the value of each key, and its figures or why there are none.

    ``metrics`` of all jobs together, ``intervals`` over seeds, ``jobs``: every number of each.
    """

    point: int
    values: dict[str, Value]
    state: str | None
    failed: str | None
    reason: str | None
    metrics: dict[str, float | None]
    intervals: dict[str, list[float]]
    jobs: dict[str, dict[str, Any]]


class ParetoFront(Part):
    """The points that none beats in both ``cost`` (better low) and ``value`` (better high), by rising cost."""

    cost: str
    value: str
    points: list[int]


class Level(Part):
    """One value of an axis, or a quarter of a drawn one: the metric's mean over ``points`` points."""

    value: str
    mean: float
    points: int


class AxisEffect(Part):
    """What one axis moves, all else averaged. ``balanced``: each value was seen with the same settings of others."""

    axis: str
    low: Level
    high: Level
    levels: list[Level]
    balanced: bool
    range: float


class Map(Part):
    """A metric over two axes; None where the point failed."""

    rows: str
    columns: str
    row_values: list[str]
    column_values: list[str]
    cells: list[list[float | None]]


class SweepStudy(Part):
    """The whole sweep. ``sensitivity`` and ``heat_map`` by metric."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["sweep"] = "sweep"
    scenario: str
    version: str
    seed: int
    seeds: int
    axes: list[Axis]
    points: list[SweepPoint]
    pareto: list[ParetoFront]
    sensitivity: dict[str, list[AxisEffect]]
    heat_map: dict[str, Map]
    definitions: dict[str, str]

    @property
    def paths(self) -> list[str]:
        """The keys that vary, in order."""
        return [path for axis in self.axes for path in axis.paths]
