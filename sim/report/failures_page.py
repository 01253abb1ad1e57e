"""The HTML page of a study of failures: a single file without a network, drawn from the study alone."""

from __future__ import annotations

from typing import Final

from sim.report.failures_text import (
    BATCH,
    BEHIND,
    BEST,
    DALY,
    GOODPUT,
    answer,
    batches_differ,
    not_possible,
    table_rows,
)
from sim.report.figures.common import MAX_ROWS
from sim.report.figures.failures import failure_figures
from sim.report.frame import render_page
from sim.study.failures_schema import FailureStudy
from sim.units import format_seconds

SECTIONS: Final = {
    "goodput": ("Goodput", GOODPUT),
    "lost": ("Lost time", "Every second of a life is in exactly one part; means over lives."),
    "map": ("When to save", "How often to save, from rare failures to frequent ones, against the laws."),
    "completion": ("Completion", "Over the lives of each setting."),
    "spares": ("Spares", "How many nodes stood in for others at once, at most."),
    "sample": ("A sampled life", "One of the lives behind these numbers."),
}
"""Sections that hold figures: id to heading and what it shows."""

LIMITS: Final = (
    "The step is simulated once and repeats; what slows one step but not the next is not in it.",
    "Failures of different parts are independent: no common cause but the switch or node they share.",
    "Repair takes what the scenario says; repaired nodes fail as new ones do.",
    "Between two events work goes on evenly.",
)


def render_failures_html(study: FailureStudy) -> str:
    """The page as text."""
    rows = table_rows(study)
    return render_page(
        "failures.html.j2",
        study.version,
        SECTIONS,
        failure_figures(study),
        study=study,
        sentence=answer(study),
        facts=_facts(study),
        columns=rows[0],
        rows=rows[1 : MAX_ROWS + 1],
        failed=not_possible(study),
        definitions=(GOODPUT, *((BATCH,) if batches_differ(study) else ()), DALY, BEST, BEHIND),
        limits=LIMITS,
        command=_command(study),
    )


def _command(study: FailureStudy) -> str:
    said = (study.run_info or {}).get("command")
    return said if isinstance(said, str) else f"sim failures {study.scenario}.yaml --seeds {study.seeds}"


def _facts(study: FailureStudy) -> list[tuple[str, str]]:
    """What kind of study this was."""
    lengths = {point.useful_s for point in study.points if point.failed is None}
    length = study.duration_s if study.duration_s is not None else lengths.pop() if len(lengths) == 1 else None
    what = "each life" if study.duration_s is not None else "undisturbed"
    return [
        ("job", f"{study.job} ({study.model})"),
        ("settings", f"{len(study.points):,}"),
        ("lives a setting", f"{study.seeds:,}"),
        ("seeds", f"{study.seed} to {study.seed + study.seeds - 1}"),
        *([(what, format_seconds(length))] if length is not None else []),
        ("version", study.version),
    ]
