"""The points of a study of failures that a figure draws, and their short names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sim.report.figures.common import Names
from sim.study.failures_schema import FailureStudy, PointResult
from sim.units import format_seconds

MAX_BARS: Final = 40
"""Points of a figure with a row each."""
MAX_LINES: Final = 8
"""Points of a figure with a line each."""


def lived_points(study: FailureStudy) -> list[PointResult]:
    """Those that could be lived."""
    return [point for point in study.points if point.failed is None and point.goodput is not None]


def labels_of(shown: Sequence[PointResult], study: FailureStudy) -> list[str]:
    """A short name for each point, different where points are."""
    label = Names()
    return [label(short_name(point, study)) for point in shown]


def short_name(point: PointResult, study: FailureStudy) -> str:
    """What sets a point apart from the study's others."""
    every = "never" if point.interval_s is None else format_seconds(point.interval_s)
    words = {
        "nodes": f"{point.nodes:,} n", "mtbf": point.mtbf, "policy": point.policy,
        "checkpoint": "auto" if point.checkpoint == "auto" else every,
    }  # fmt: skip
    return ", ".join(words[name] for name in study.axes) or "as given"


def alike_points(study: FailureStudy) -> list[PointResult]:
    """The points of the first best's size and time between failures, which differ in what one can choose."""
    lived = lived_points(study)
    first = study.points[study.bests[0]] if study.bests else lived[0]
    return [point for point in lived if point.nodes == first.nodes and point.mtbf == first.mtbf]
