"""The HTML page of a sweep: a single file without a network, drawn from the document alone."""

from __future__ import annotations

from typing import Final

from sim.report.figures.common import MAX_ROWS
from sim.report.figures.sweep import sweep_figures
from sim.report.frame import render_page
from sim.report.sweep_words import answers, axis_name, command, failures, headings, table_head, table_row
from sim.report.values import named
from sim.study.sweep_schema import SweepStudy

SECTIONS: Final = {
    "front": ("Pareto fronts", "A point on the line is beaten by none in both cost and speed."),
    "moves": ("What moves what", "From the lowest to the highest mean of an axis, all else averaged."),
    "over": ("Over the axes", "Each point, or its mean where a value was seen more than once."),
}
"""Sections that hold figures: id to heading and what it shows."""
LIMITS: Final = (
    "What binds a point is not looked for, and its cost at saturation is not told: run it alone for that.",
    "What a run does not model, its points do not either.",
    "The effect of an axis is a mean over the settings of the others that were tried.",
)


def render_sweep_html(study: SweepStudy) -> str:
    """The page as text."""
    metrics = headings(study)
    return render_page(
        "sweep.html.j2",
        study.version,
        SECTIONS,
        sweep_figures(study),
        study=study,
        sentences=answers(study),
        failed=failures(study),
        facts=_facts(study),
        columns=table_head(study),
        rows=[table_row(study, point, metrics) for point in study.points[:MAX_ROWS]],
        definitions=[(named(name.partition(".")[0]), text) for name, text in _shown(study).items()],
        limits=LIMITS,
        command=command(study),
    )


def _shown(study: SweepStudy) -> dict[str, str]:
    """Definitions of the figures that some point has, once each."""
    known = {name.partition(".")[0] for point in study.points for name, v in point.metrics.items() if v is not None}
    found: dict[str, str] = {}
    for name, text in study.definitions.items():
        metric = name.partition(".")[0]
        if metric in known:
            found.setdefault(metric, text)
    return found


def _facts(study: SweepStudy) -> list[tuple[str, str]]:
    """What kind of sweep this was."""
    failed = sum(point.failed is not None for point in study.points)
    seeds = f"{study.seed} to {study.seed + study.seeds - 1}" if study.seeds > 1 else str(study.seed)
    return [
        ("points", f"{len(study.points):,}"),
        ("axes", ", ".join(axis_name(study, axis.name) for axis in study.axes)),
        *([("failed", f"{failed:,}")] if failed else []),
        ("seeds" if study.seeds > 1 else "seed", seeds),
        ("version", study.version),
    ]
