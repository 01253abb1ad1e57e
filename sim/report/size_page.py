"""The HTML page of a size: a single file without a network, drawn from the document alone."""

from __future__ import annotations

from typing import Final

import yaml

from sim.report.figures.size import size_figures
from sim.report.frame import render_page
from sim.report.size_words import (
    METHOD,
    answer_columns,
    answer_row,
    coverage_line,
    expected,
    loss_rows,
    machine_rows,
    note_lines,
    sentences,
    worth,
)
from sim.study.size_schema import TOP, Sizing

SECTIONS: Final = {
    "machines": ("By machine", "What each kind of machine costs, or does, at its best."),
    "designs": ("Cost and speed", "Every design that was simulated and does what is asked."),
}
"""Sections that hold figures: id to heading and what it shows."""


def render_size_html(s: Sizing) -> str:
    """The page as text."""
    return render_page(
        "size.html.j2",
        s.version,
        SECTIONS,
        size_figures(s),
        s=s,
        sentences=sentences(s),
        facts=[
            ("best", worth(s, s.answers[0].value)), ("measure", s.measure), ("model", s.model),
            ("designs", f"{s.coverage.designs:,}"), ("simulations", f"{s.coverage.runs:,}"), ("version", s.version),
        ],
        expected=expected(s),
        columns=answer_columns(s),
        rows=[answer_row(s, i) for i in range(min(TOP, len(s.answers)))],
        machines=machine_rows(s),
        losses=loss_rows(s),
        notes=[*note_lines(s), coverage_line(s), METHOD],
        yaml=winner_yaml(s),
        command=str(s.run_info.get("command") or f"sim size {s.name}.yaml"),
    )  # fmt: skip


def winner_yaml(s: Sizing) -> str:
    """The winner as a scenario that ``sim run`` takes."""
    text: str = yaml.safe_dump(s.scenario, sort_keys=False, allow_unicode=True, width=100)
    return text
