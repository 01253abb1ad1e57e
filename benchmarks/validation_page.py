r"""Fill the tables of docs/validation.md from a validation, so that the page cannot drift from the simulator.

    sim validate FOLDER/training FOLDER/inference FOLDER/kernels --out /tmp/validation
    python benchmarks/validation_page.py /tmp/validation/validate/validation.json docs/validation.md \
        --errors sim/catalog/validation_errors.csv

FOLDER holds the project's whole measured tables, which are not shipped. What stands between `<!-- NAME -->` and
`<!-- end -->` is replaced by the table of that name; the rest of the page is left as it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from sim.report.validate_text import directions, errors, percent, reasons, values
from sim.study.validate.agreement import summary, told
from sim.study.validate.cases import DECODE, LOADED, PREFILL, SATURATED, TRAINING
from sim.study.validate.causes import why, worst
from sim.study.validate.schema import Row, Validation

LEAST: Final = 8
"""Rows of a group to be listed."""
WORST: Final = 40
"""Rows explained."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def families(found: Validation) -> str:
    """By what is measured."""
    head = ("what is measured", "rows", "median", "90th percentile", "bias")
    return table(head, [(group.name, *errors(group)) for group in found.families])


def tables(found: Validation) -> str:
    """By table."""
    head = ("table", "rows", "mapped", "counted", "median", "90th percentile", "bias", "same direction")
    lines = [
        (f"`{t.name}`", f"{t.rows:,}", f"{t.mapped:,}", *errors(t.errors), directions(t)) for t in found.tables
    ]
    return table(head, lines)


def specified(found: Validation) -> str:
    """Fully specified dense training rows by table."""
    head = ("table", "specified, dense", "mapped", "median", "90th percentile", "bias")
    lines = []
    for t in found.tables:
        rows = [row for row in found.rows if row.table == t.name and row.family == TRAINING and row.specified]
        if rows:
            lines.append((f"`{t.name}`", str(len(rows)), str(t.specified_mapped), *errors(told(rows))[1:]))
    return table(head, lines)


def groups(found: Validation) -> str:
    """By GPU, stack and kind, where there are enough rows."""
    head = ("GPU / stack / kind", "rows", "median", "90th percentile", "bias")
    return table(head, [(group.name, *errors(group)) for group in found.groups if group.n >= LEAST])


def knobs(found: Validation) -> str:
    """Pairs that differ in one knob, and how many move the same way."""
    totals: dict[tuple[str, str], list[int]] = {}
    served = {row.table for row in found.rows if row.family != TRAINING}
    for t in found.tables:
        for direction in t.directions:
            kind = "serving" if t.name in served else "training"
            pairs = totals.setdefault((kind, direction.knob), [0, 0])
            pairs[0] += direction.pairs
            pairs[1] += direction.agree
    lines = [(kind, f"`{knob}`", f"{n:,}", f"{agree / n:.0%}") for (kind, knob), (n, agree) in sorted(totals.items())]
    return table(("", "knob", "pairs", "same direction"), lines)


def memory(found: Validation) -> str:
    """Memory of training by table, and runs predicted not to fit."""
    lines = []
    trained = [row for row in found.rows if row.fits is not None]
    for name in [*dict.fromkeys(row.table for row in trained), "all"]:
        rows = [row for row in trained if name in (row.table, "all")]
        known = summary([row.memory_error for row in rows if row.counted and row.memory_error is not None])
        unfit = sum(row.fits is False for row in rows)
        if known is not None or unfit:
            lines.append((f"`{name}`" if name != "all" else "**all**", *errors(known), f"{unfit} of {len(rows)}"))
    head = ("table", "rows with memory", "median", "90th percentile", "bias", "predicted not to fit")
    return table(head, lines)


def farthest(found: Validation) -> str:
    """The rows farthest off, with what is known about them."""
    head = ("row", "GPU / stack / kind", "measured", "predicted", "error", "what is known")
    lines = [(f"`{row.id}`", row.group or "", *values(row), why(row)) for row in worst(found.rows, WORST)]
    return table(head, lines)


def unmapped(found: Validation) -> str:
    """Why rows have no prediction."""
    return table(("rows", "why they have no prediction"), [(f"{n:,}", text) for text, n in reasons(found.rows, 30)])


def far(found: Validation) -> str:
    """How many rows of each family are far off."""

    def share(rows: Sequence[Row], size: float) -> str:
        return percent(sum(abs(row.error or 0.0) <= size for row in rows) / len(rows))

    lines = []
    for group in found.families:
        rows = [row for row in found.rows if row.family == group.name and row.counted and not row.mixture]
        if rows:
            lines.append((group.name, share(rows, 0.05), share(rows, 0.10), share(rows, 0.20), share(rows, 0.50)))
    return table(("what is measured", "within 5%", "10%", "20%", "50%"), lines)


def catalogue(found: Validation) -> str:
    """The error of each group of whole runs, as the catalogue has it: kernels and collectives left out."""
    runs = {row.group for row in found.rows if row.family in (TRAINING, DECODE, SATURATED, LOADED, PREFILL)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "rows", "median", "p90", "bias"))
    for g in found.groups:
        if g.name in runs:
            writer.writerow((g.name, g.n, *(f"{x:.4f}" for x in (g.median_abs_error, g.p90_abs_error, g.bias))))
    return text.getvalue()


PARTS: Final[dict[str, Callable[[Validation], str]]] = {
    "families": families, "far": far, "specified": specified, "tables": tables, "groups": groups, "knobs": knobs,
    "memory": memory, "worst": farthest, "unmapped": unmapped,
}  # fmt: skip


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("validation", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--errors", type=Path, help="also write the groups' errors here, for the catalogue")
    args = parser.parse_args()
    found = Validation.model_validate_json(args.validation.read_text(encoding="utf-8"))
    text = args.page.read_text(encoding="utf-8")
    for name, make in PARTS.items():
        part = f"<!-- {name} -->\n{make(found)}\n<!-- end -->"
        text, times = re.subn(rf"<!-- {name} -->.*?<!-- end -->", lambda _, part=part: part, text, flags=re.DOTALL)
        if not times:
            parser.error(f"{args.page} has no part <!-- {name} -->")
    args.page.write_text(text, encoding="utf-8")
    if args.errors is not None:
        args.errors.write_text(catalogue(found), encoding="utf-8")


if __name__ == "__main__":
    main()
