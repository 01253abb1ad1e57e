"""A sweep as plain text: the points, what is best, what each axis moves, and what failed.

Of many points those on a Pareto front are shown, the rest is in points.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sim.report.screen import FILE, Screen, bold, printable
from sim.report.sweep_words import COLUMNS, axis_name, failures, figure_text, headings, short, table_head, table_row
from sim.study.sweep_schema import AxisEffect, Map, SweepStudy

SHOWN: Final = 50
"""Of more points than this, only the best are shown."""
CELLS: Final = 12
"""A heat map of more columns than this is left to the page and to sweep.json."""
BAR: Final = 24
"""Columns of the longest bar of a tornado."""
MOVED: Final = ("output_tokens_per_s", "tokens_per_s", "usd_per_million_tokens")
"""Figures of which it is told what moves them."""


def render_sweep(
    study: SweepStudy, colour: bool = False, stored: int = 0, simulated: int = 0, screen: Screen = FILE
) -> str:
    """The sweep for a terminal; no escape codes unless ``colour``. ``stored`` of its simulations were on disk."""
    failed = sum(point.failed is not None for point in study.points)
    head = screen.prose(_headline(study, failed, stored, simulated))
    parts = list[str]()
    best = sorted({number for front in study.pareto for number in front.points})
    many = len(study.points) > SHOWN
    every = [point.point for point in study.points]
    shown = (best or every[:SHOWN]) if many else every
    parts.append(_points(study, shown[:SHOWN], screen))
    if many:
        what = "points on a Pareto front" if best else "points"
        parts[-1] += f"\n{min(len(shown), SHOWN)} {what} of {len(study.points):,}; all are in points.csv"
    for front in study.pareto:
        if front.points:
            numbers = ", ".join(map(str, front.points))
            what = f"Pareto front, {COLUMNS[front.value]} against {COLUMNS[front.cost]}: points {numbers}"
            parts.append(screen.prose(what))
    for name in MOVED:
        parts += [_tornado(study, name, study.sensitivity.get(name, []), screen)]
        found = study.heat_map.get(name)
        if found is not None and len(found.column_values) <= CELLS and not many:
            parts += [_map(study, name, found, screen)]
    why = failures(study)
    told = (screen.prose(printable(line), None, "  ", "    ") for line in why)
    parts.append("\n".join(["Failed", *told]) if why else "")
    lines = "\n\n".join([bold(head, colour), *(part for part in parts if part)]).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _headline(study: SweepStudy, failed: int, stored: int, simulated: int) -> str:
    names = short(study.paths)
    facts = [f"{study.scenario}: {len(study.points):,} points ({' x '.join(names[path] for path in study.paths)})"]
    if study.seeds > 1:
        facts.append(f"{study.seeds} seeds, means")
    if failed:
        facts.append(f"{failed:,} failed")
    if stored:
        facts.append(f"{stored:,} of {stored + simulated:,} simulations were on disk")
    return printable(" - ".join(facts))


def _points(study: SweepStudy, numbers: Sequence[int], screen: Screen) -> str:
    wanted, metrics = set(numbers), headings(study)
    lines = [table_row(study, point, metrics) for point in study.points if point.point in wanted]
    return "\n".join(screen.table([table_head(study), *lines], left=(-1,), keys=1 + len(study.paths)))


def _tornado(study: SweepStudy, name: str, found: Sequence[AxisEffect], screen: Screen) -> str:
    """What each axis moves, the longest bar first."""
    if not found:
        return ""
    widest = max(effect.range for effect in found)
    lines = []
    for effect in found:
        bar = "#" * round(BAR * effect.range / widest) if widest else ""
        ends = (f"{figure_text(name, end.mean)} at {end.value}" for end in (effect.low, effect.high))
        note = "" if effect.balanced else "  (unbalanced: the others differ)"
        lines.append([axis_name(study, effect.axis), " to ".join(ends) + note, bar])
    rows = screen.table(lines, left=range(3), indent="  ", heads=0)
    return "\n".join([screen.prose(f"What moves {COLUMNS[name]}, all else averaged"), *rows])


def _map(study: SweepStudy, name: str, found: Map, screen: Screen) -> str:
    """A metric over two axes as a table."""
    if all(cell is None for row in found.cells for cell in row):
        return ""
    down, across = axis_name(study, found.rows), axis_name(study, found.columns)
    lines = [[f"{down} \\ {across}", *found.column_values]]
    lines += [[value, *(figure_text(name, cell) for cell in row)]
              for value, row in zip(found.row_values, found.cells, strict=True)]  # fmt: skip
    return "\n".join([COLUMNS[name], *screen.table(lines)])
