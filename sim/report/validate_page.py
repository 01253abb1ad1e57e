"""The HTML page of a validation: a single file without a network, drawn from the document alone."""

from __future__ import annotations

from typing import Final

from sim.report.figures.common import MAX_ROWS
from sim.report.figures.validate import BAND, validation_figures
from sim.report.frame import render_page
from sim.report.validate_text import DIRECTION, ERROR, answer, directions, errors, reasons, values
from sim.report.values import NONE
from sim.study.validate.causes import why, worst
from sim.study.validate.schema import Validation

SECTIONS: Final = {
    "scatter": ("Predicted against measured", f"A point a row; on the line both are equal, dotted: {BAND:.0%} off."),
    "histogram": ("Errors", "How many rows are how far off; the last bars hold all that are farther."),
    "groups": ("By GPU, stack and kind", "The groups of most rows."),
}
"""Sections that hold figures: id to heading and what it shows."""
WORST: Final = 40
"""Rows explained."""
HEADS: Final = {
    "families": ("what is measured", "rows", "median", "90th percentile", "bias"),
    "tables": ("table", "rows", "mapped", "counted", "median", "90th percentile", "bias", "same direction"),
    "worst": ("row", "group", "measured", "predicted", "error", "what is known"),
    "reasons": ("rows", "why they have no prediction"),
}
"""Columns of the page's own tables."""


def render_validation_html(found: Validation, command: str) -> str:
    """The page as text; ``command`` is what made it."""
    return render_page(
        "validate.html.j2",
        found.version,
        SECTIONS,
        validation_figures(found),
        sentence=answer(found),
        error=ERROR,
        direction=DIRECTION,
        heads=HEADS,
        families=[(group.name, *errors(group)) for group in found.families],
        tables=[
            (table.name, f"{table.rows:,}", f"{table.mapped:,}", *errors(table.errors), directions(table))
            for table in found.tables
        ],
        worst=[(row.id, row.group or NONE, *values(row), why(row)) for row in worst(found.rows, WORST)],
        reasons=[(f"{n:,}", reason) for reason, n in reasons(found.rows, MAX_ROWS)],
        command=command,
    )
