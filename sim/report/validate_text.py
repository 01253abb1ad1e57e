"""A validation as plain text: errors by family, table and group, and the rows that are farthest off."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from sim.report.screen import FILE, Screen, bold, printable, styled
from sim.report.values import NONE
from sim.study.validate.agreement import CLOSE
from sim.study.validate.cases import TRAINING
from sim.study.validate.causes import most_rows, why, worst
from sim.study.validate.schema import Errors, Row, Table, Validation
from sim.units import format_count

SHOWN: Final = 40
"""Groups of the table; the rest is in the report."""
ERROR: Final = (
    "Error: predicted / measured - 1 of what the table measures; median and 90th percentile of its size, bias: the "
    "median with its sign (of speed, where times and rates meet)."
)
DIRECTION: Final = (
    f"Same direction: of pairs of a table that differ in one knob and were measured at least {CLOSE:.0%} apart, how "
    "many the prediction moves the same way."
)
COLUMNS: Final = (
    "table", "id", "family", "group", "metric", "unit", "measured", "predicted", "error", "mapped", "counted",
    "quality", "reason", "assumptions", "source",
)  # fmt: skip
"""Columns of the rows as CSV."""


def render_validation(
    found: Validation, worst_rows: int = 10, colour: bool = False, screen: Screen = FILE
) -> str:
    """The validation for a terminal; no escape codes unless ``colour``."""
    shown = most_rows(found.groups, SHOWN)
    left = len(found.groups) - len(shown)
    parts = [
        bold(screen.prose(answer(found)), colour),
        _table("By what is measured", ("rows", "median", "p90", "bias", ""), [
            [*errors(group), group.name] for group in found.families
        ], screen),
        _table("By table", ("mapped", "of", "median", "p90", "bias", "same direction", ""), [
            [f"{table.mapped:,}", f"{table.rows:,}", *errors(table.errors)[1:], directions(table), table.name]
            for table in found.tables
        ], screen),
        _table("By GPU, stack and kind", ("rows", "median", "p90", "bias", ""), [
            [*errors(group), group.name] for group in shown
        ], screen) + (f"\n{left:,} groups of fewer rows are in the report." if left else ""),
        _table("Farthest off", ("measured", "predicted", "error", ""), [
            [*values(row), f"{row.id} ({row.group})"] for row in worst(found.rows, worst_rows)
        ], screen),
        "\n".join(["Rows without a prediction", *(
            screen.prose(reason, None, f"  {n:>5,}  ", " " * 9) for reason, n in reasons(found.rows)
        )]) if any(not row.mapped for row in found.rows) else "",
        screen.prose(ERROR),
    ]  # fmt: skip
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(styled(line, colour).rstrip() for line in lines) + "\n"


def answer(found: Validation) -> str:
    """How many rows, how many of them mapped, and the error of each large family."""
    mapped = sum(row.mapped for row in found.rows)
    families = sorted((group for group in found.families if group.name != TRAINING), key=lambda group: -group.n)[:3]
    said = "; ".join(
        f"{group.name} {percent(group.median_abs_error)} / {percent(group.p90_abs_error)}" for group in families
    )
    told = f" Median / 90th percentile of the error: {said}." if said else ""
    return f"{mapped:,} of {len(found.rows):,} measured rows predicted.{told}"


def percent(value: float) -> str:
    """A size."""
    return f"{100 * value:.1f}%"


def signed(value: float) -> str:
    """An error."""
    return f"{100 * value:+.1f}%"


def errors(found: Errors | None) -> list[str]:
    """n, median, 90th percentile, bias."""
    if found is None:
        return ["0", NONE, NONE, NONE]
    return [f"{found.n:,}", percent(found.median_abs_error), percent(found.p90_abs_error), signed(found.bias)]


def directions(table: Table) -> str:
    """Pairs that differ in one knob, and the share that moves the same way."""
    pairs = sum(direction.pairs for direction in table.directions)
    if not pairs:
        return NONE
    return f"{sum(direction.agree for direction in table.directions) / pairs:.0%} of {pairs:,}"


def values(row: Row) -> list[str]:
    """Measured and predicted with the unit, and the error."""
    if row.measured is None or row.predicted is None or row.error is None:
        return [NONE, NONE, NONE]
    return [f"{format_count(row.measured)} {row.unit}", f"{format_count(row.predicted)} {row.unit}", signed(row.error)]


def reasons(rows: Sequence[Row], most: int = 20) -> list[tuple[str, int]]:
    """Why rows have no prediction, most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        if not row.mapped:
            reason = printable(row.reason or NONE)
            counts[reason] = counts.get(reason, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(n for _, n in ordered[most:])
    return [*ordered[:most], *([("other reasons, each in the rows", rest)] if rest else [])]


def rows_csv(rows: Sequence[Row]) -> str:
    """Every row, errors as fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "why"])
    for row in rows:
        cells = [getattr(row, name) for name in COLUMNS]
        told = ["; ".join(cell) if isinstance(cell, tuple) else "" if cell is None else cell for cell in cells]
        writer.writerow([*told, why(row) if row.mapped else ""])
    return text.getvalue()


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]], screen: Screen) -> str:
    return "\n".join([heading, *screen.table([columns, *rows], left=(-1,))]) if rows else ""
