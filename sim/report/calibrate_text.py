"""A calibration for a terminal: what was fitted to how many rows, the constants, and the errors beside the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sim.adapters.link_meter import LinkMeasured
from sim.report.screen import FILE, Screen, bold, styled
from sim.report.validate_text import errors, percent
from sim.report.values import joined
from sim.study.calibrate.schema import Calibration, ConstantFound, PartErrors
from sim.units import format_bandwidth, format_seconds

#: Names of constants that are seconds, by how they end.
SECONDS: Final = ("_launch", "host_per_step", "host_per_sequence", "alpha", "step")


def render_calibration(found: Calibration, colour: bool = False, screen: Screen = FILE) -> str:
    """The answer, a block for each part, the rows that are only tested, and the tables."""
    parts = [bold(screen.prose(answer(found)), colour), *(_part(part, screen) for part in found.parts)]
    if found.tested:
        rows = [("rows", "before: median", "p90", "after: median", "p90", "only tested")]
        for tested in found.tested:
            old, new = errors(tested.catalogue), errors(tested.fitted)
            rows.append((new[0], old[1], old[2], new[1], new[2], tested.reason))
        parts.append(_table(rows, screen))
    sources = [(f"{table.rows:,}", f"{table.name}  sha256 {table.sha256[:16]}") for table in found.tables]
    parts.append(_table([("rows", "from"), *sources], screen))
    lines = "\n\n".join(parts).splitlines()
    return "\n".join(styled(line, colour) for line in lines) + "\n"


def answer(found: Calibration) -> str:
    """What was fitted to what, and how well rows left out are told."""
    fitted = sum(constant.fitted for part in found.parts for constant in part.constants)
    rows = sum(part.rows for part in found.parts)
    pair = found.gpu if found.stack is None else f"{found.gpu} / {found.stack}"
    told = [
        f"{part.name} {percent(part.cross_validated.median_abs_error)} / {percent(part.cross_validated.p90_abs_error)}"
        for part in found.parts
    ]
    return (
        f"{pair}: {fitted} constant{'' if fitted == 1 else 's'} fitted to {rows:,} rows. Median / 90th percentile of "
        f"the error of rows left out: {'; '.join(told)}."
    )


def heading(found: Calibration, name: str) -> list[str]:
    """Comments above an entry: how to use it."""
    if found.stack is None:
        return [f"Constants of {found.gpu} by sim calibrate: put define: into a scenario, or this under its define:."]
    return [
        f"Constants of {found.gpu} / {found.stack} by sim calibrate: put define: into a scenario, and stack: {name}.",
    ]


def render_link(measured: LinkMeasured) -> str:
    """Latency and bandwidth each way."""
    there, back = format_bandwidth(measured.there), format_bandwidth(measured.back)
    return (
        f"latency     {format_seconds(measured.latency)} one way, software included\n"
        f"bandwidth   {there} there, {back} back (one TCP stream)\n"
    )


def _table(rows: Sequence[Sequence[str]], screen: Screen) -> str:
    return "\n".join(screen.table(rows, left=(-1,)))


def _part(part: PartErrors, screen: Screen) -> str:
    """Errors of one part, and its constants."""
    bare = "the GPU's kernels alone" if part.name.startswith("servings") else "medians of all GPUs"
    rows = [
        ("median", "p90", "bias", f"{part.name}: {part.rows:,} rows in {part.groups} groups"),
        *([] if part.name.startswith("collectives") else [(*errors(part.bare)[1:], bare)]),
        (*errors(part.catalogue)[1:], "as in the catalogue"),
        (*errors(part.fitted)[1:], "fitted"),
        (*errors(part.cross_validated)[1:], f"left out, {part.folds} folds by {part.held_out}"),
    ]
    constants = [_constant(constant) for constant in part.constants if constant.fitted]
    left = [constant.name for constant in part.constants if not constant.fitted]
    lines = [_table(rows, screen)]
    if constants:
        lines.append(_table([("before", "now", "constant"), *constants], screen))
    if left:
        lines.append(screen.prose(f"left as they were, rows do not tell them: {joined(left)}"))
    return "\n".join(lines)


def _constant(constant: ConstantFound) -> tuple[str, str, str]:
    told = constant.name + (f" ({constant.reason})" if constant.reason else "")
    return (_value(constant, constant.before), _value(constant, constant.value), told)


def _value(constant: ConstantFound, value: float) -> str:
    return format_seconds(value) if constant.name.endswith(SECONDS) else f"{value:.4g}"
