"""A sweep as plain text: the points, what is best, what each axis moves, and what failed.

Lines of points are not broken: a table wider than the terminal is easier to read than a broken one. Of many points
those on a Pareto front are shown, the rest is in points.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Final

from sim.report.values import BOLD, RESET, aligned, printable, write
from sim.study.sweep import Sweep
from sim.study.sweep_analysis import FRONTS, HeatMap, Sensitivity, column, front, heat_map, sensitivities
from sim.study.sweep_axes import text

SHOWN: Final = 50
"""Of more points than this, only the best are shown."""
CELLS: Final = 12
"""A heat map of more columns than this is left to sweep.json."""
BAR: Final = 24
"""Columns of the longest bar of a tornado."""
COLUMNS: Final = {
    "output_tokens_per_s": "tok/s",
    "tokens_per_s_per_user": "tok/s/user",
    "ttft_s.p50": "TTFT p50",
    "tpot_s.p50": "TPOT p50",
    "usd_per_million_tokens": "USD/Mtok",
    "usd_per_hour": "USD/h",
    "slo_attainment": "objectives",
    "availability": "up",
    "failed_requests": "given up",
    "tokens_per_s": "tok/s trained",
    "ettr": "progress",
    "step_time_s": "step",
    "mfu": "MFU",
    "memory_peak_bytes": "memory",
}
"""Figures of the table, and their names in a heading."""
_UNITS: Final = (" tok/s", "/Mtok", "/h", " USD")


def render_sweep(sweep: Sweep, colour: bool = False) -> str:
    """The sweep for a terminal; no escape codes unless ``colour``."""
    design, outcomes = sweep.study.design, sweep.outcomes
    metrics = [outcome.metrics for outcome in outcomes]
    failed = [i for i, outcome in enumerate(outcomes) if outcome.failed]
    parts = [_headline(sweep, len(failed))]
    fronts = [front(metrics, *names) for names in FRONTS]
    best = sorted({i for f in fronts for i in f.points})
    many = len(outcomes) > SHOWN
    shown = (best or list(range(SHOWN))) if many else list(range(len(outcomes)))
    parts.append(_points(sweep, shown[:SHOWN]))
    if many:
        what = "points on a Pareto front" if best else "points"
        parts[-1] += f"\n{min(len(shown), SHOWN)} {what} of {len(outcomes):,}; all are in points.csv"
    for found in fronts:
        if found.points:
            numbers = ", ".join(str(i + 1) for i in found.points)
            parts.append(f"Pareto front, {COLUMNS[found.value]} against {COLUMNS[found.cost]}: points {numbers}")
    for name in ("output_tokens_per_s", "tokens_per_s", "usd_per_million_tokens"):
        values = column(metrics, name)
        parts += [_tornado(name, sensitivities(design, values))]
        found_map = heat_map(design, values)
        if found_map is not None and len(found_map.column_values) <= CELLS and not many:
            parts += [_map(name, found_map)]
    parts.append(_failures(sweep, failed))
    lines = "\n\n".join(part for part in parts if part).splitlines()
    if colour:
        lines[0] = f"{BOLD}{lines[0]}{RESET}"
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _headline(sweep: Sweep, failed: int) -> str:
    study = sweep.study
    axes = " x ".join(_short(study.design.paths)[path] for path in study.design.paths)
    facts = [f"{study.scenario}: {len(sweep.outcomes):,} points ({axes})"]
    if study.seeds > 1:
        facts.append(f"{study.seeds} seeds, means")
    if failed:
        facts.append(f"{failed:,} failed")
    if sweep.stored:
        facts.append(f"{sweep.stored:,} of {sweep.stored + sweep.simulated:,} simulations were on disk")
    return printable(" - ".join(facts))


def _short(paths: Sequence[str]) -> dict[str, str]:
    """Each path by as few of its last steps as tell it from the others."""
    found = {}
    for path in paths:
        steps = path.split(".")
        for count in range(1, len(steps) + 1):
            name = ".".join(steps[-count:])
            if sum(other == name or other.endswith(f".{name}") for other in paths) == 1:
                break
        found[path] = name
    return found


def _points(sweep: Sweep, numbers: Sequence[int]) -> str:
    design = sweep.study.design
    names = _short(design.paths)
    metrics = [k for k in COLUMNS if k != "usd_per_hour" and any(o.metrics.get(k) is not None for o in sweep.outcomes)]
    lines = [["point", *(names[p] for p in design.paths), *(COLUMNS[k] for k in metrics), "state"]]
    for i in numbers:
        outcome = sweep.outcomes[i]
        figures = [_figure(k, outcome.metrics.get(k)) for k in metrics]
        lines.append([str(i + 1), *map(text, design.points[i]), *figures, outcome.state or str(outcome.failed)])
    return aligned(lines, last_left=True)


def _figure(name: str, value: float | None) -> str:
    """A figure without the unit that stands in the heading."""
    if value is None:
        return "-"
    written = write(name.partition(".")[0], value)
    if name in COLUMNS and not name.startswith(("ttft", "tpot")):
        for unit in _UNITS:
            written = written.removesuffix(unit)
    return written


def _tornado(name: str, found: Sequence[Sensitivity]) -> str:
    """What each axis moves, the longest bar first."""
    if not found:
        return ""
    widest = max(s.range for s in found)
    short = _short([path for s in found for path in s.axis.split(" + ")])
    lines = []
    for s in found:
        bar = "#" * round(BAR * s.range / widest) if widest else ""
        axis = " + ".join(short[path] for path in s.axis.split(" + "))
        ends = (f"{_figure(name, end.mean)} at {end.value}" for end in (s.low, s.high))
        note = "" if s.balanced else "  (unbalanced: the others differ)"
        lines.append([axis, " to ".join(ends) + note, bar])
    widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
    rows = (f"  {a.ljust(widths[0])}  {t.ljust(widths[1])}  {b}" for a, t, b in lines)
    return "\n".join([f"What moves {COLUMNS[name]}, all else averaged", *map(printable, rows)])


def _map(name: str, found: HeatMap) -> str:
    """A metric over two axes as a table."""
    if all(cell is None for row in found.cells for cell in row):
        return ""
    short = _short([path for axis in (found.rows, found.columns) for path in axis.split(" + ")])
    down, across = (" + ".join(short[path] for path in axis.split(" + ")) for axis in (found.rows, found.columns))
    lines = [[f"{down} \\ {across}", *found.column_values]]
    lines += [[value, *(_figure(name, cell) for cell in row)]
              for value, row in zip(found.row_values, found.cells, strict=True)]  # fmt: skip
    return f"{COLUMNS[name]}\n{aligned(lines)}"


def _failures(sweep: Sweep, failed: Sequence[int]) -> str:
    """Each reason once, with the points it stopped."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for i in failed:
        outcome = sweep.outcomes[i]
        reasons.setdefault((str(outcome.failed), str(outcome.reason)), []).append(i + 1)

    def line(why: tuple[str, str], points: list[int]) -> str:
        some = ", ".join(map(str, points[:8])) + (f" and {len(points) - 8:,} more" if len(points) > 8 else "")
        return printable(f"  {why[0]}: {why[1]} (point{'s' if len(points) > 1 else ''} {some})")

    return "\n".join(["Failed", *starmap(line, reasons.items())]) if reasons else ""
