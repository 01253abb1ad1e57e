"""Measured training steps against predicted ones, as the Markdown tables of docs/accuracy.md.

    python benchmarks/training_tables.py FOLDER [-j 2] [--worst 12] [--least 5]

FOLDER holds the project's measured tables (measured.csv, vtrain_single.csv, vtrain_multi.csv), which are not shipped.
Every row is mapped to the scenario a user would write for it, or the reason why not is told; memory is told, not
checked. Errors are predicted / measured - 1 of a step's time.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

from sim.study.validate.agreement import KNOBS, Summary, summary
from sim.study.validate.predict import predict
from sim.study.validate.runner import Comparison, RowResult, compare
from sim.study.validate.tables import read_folder


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table and an empty line."""
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |" if cells[0] != "---" else f"|{'|'.join(cells)}|")
    print()


def cells(found: Summary | None) -> list[str]:
    """n, median / 90th percentile, bias."""
    if found is None:
        return ["0", "–", "–"]
    size = f"{100 * found.median_abs_error:.1f} / {100 * found.p90_abs_error:.1f}%"
    return [str(found.n), size, f"{100 * found.bias:+.1f}%"]


def errors(rows: Iterable[RowResult]) -> Summary | None:
    """The errors of a step's time."""
    return summary([row.error for row in rows if row.error is not None and row.counted])


def of_memory(rows: Iterable[RowResult]) -> Summary | None:
    """The errors of memory."""
    return summary([row.memory_error for row in rows if row.memory_error is not None])


def specified(rows: Iterable[RowResult]) -> list[RowResult]:
    """Fully specified rows of dense models."""
    return [row for row in rows if row.quality == "A" and not row.mixture]


def steps(comparison: Comparison) -> None:
    """Step times by table."""
    head = ("table", "specified, dense: rows", "mapped", "median / p90", "bias", "all counted: rows", "median / p90",
            "bias")  # fmt: skip
    lines = []
    for name in [*comparison.tables, "all"]:
        rows = [row for row in comparison.rows if name in (row.table, "all")]
        good = specified(rows)
        first, whole = cells(errors(good)), cells(errors(rows))
        if errors(rows) is None:
            continue
        lines.append([f"`{name}`", str(len(good)), str(sum(row.mapped for row in good)), *first[1:], *whole])
    table(head, lines)


def memory(comparison: Comparison) -> None:
    """Memory by table, and runs predicted not to fit."""
    lines = []
    for name in [*comparison.tables, "all"]:
        rows = [row for row in comparison.rows if name in (row.table, "all")]
        told = [row for row in rows if row.fits is not None]
        unfit = sum(row.fits is False for row in told)
        if of_memory(rows) is not None or unfit:
            lines.append([f"`{name}`", *cells(of_memory(rows)), f"{unfit} of {len(told)}"])
    table(("table", "rows with memory", "median / p90", "bias", "predicted not to fit"), lines)


def agreement(comparison: Comparison) -> None:
    """Pairs that differ in one knob, and how many move the same way."""
    totals = {knob: [0, 0] for knob in KNOBS}
    for result in comparison.tables.values():
        for direction in result.directions:
            totals[direction.knob][0] += direction.pairs
            totals[direction.knob][1] += direction.agree
    lines = [[f"`{knob}`", str(n), f"{agree / n:.0%}"] for knob, (n, agree) in totals.items() if n]
    table(("knob", "pairs", "same direction"), lines)


def groups(comparison: Comparison, least: int) -> None:
    """Step times by GPU, stack and kind of training, where there are at least so many rows."""
    found = sorted((name, errors) for name, errors in comparison.groups.items() if errors.n >= least)
    table(("GPU / stack / kind", "rows", "median / p90", "bias"), [[name, *cells(errors)] for name, errors in found])


def worst(comparison: Comparison, number: int) -> None:
    """The specified dense rows that are farthest off."""
    rows = sorted((r for r in specified(comparison.rows) if r.error is not None), key=lambda r: -abs(r.error or 0.0))
    table(("row", "GPU / stack / kind", "error", "assumed"), [
        [row.id, row.group or "", f"{100 * (row.error or 0.0):+.0f}%", "; ".join(row.assumptions) or "–"]
        for row in rows[:number]
    ])  # fmt: skip


def unmapped(comparison: Comparison) -> None:
    """Why rows have no prediction."""
    reasons = Counter((row.reason or "") for row in comparison.rows if row.predicted is None)
    table(("rows without a prediction", "reason"), [[str(n), reason] for reason, n in reasons.most_common()])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-j", type=int, default=1, help="processes")
    parser.add_argument("--worst", type=int, default=12, help="rows listed that are farthest off")
    parser.add_argument("--least", type=int, default=5, help="rows of a group of GPU, stack and kind to be listed")
    args = parser.parse_args()
    rows = read_folder(args.folder)

    def hear(done: int, of: int) -> None:
        if done % 100 == 0:
            print(f"{done} of {of}", file=sys.stderr)

    pool: Executor | None = ProcessPoolExecutor(args.j) if args.j > 1 else None
    try:
        comparison = compare(rows, predict, hear, pool)
    finally:
        if pool is not None:
            pool.shutdown()
    steps(comparison)
    memory(comparison)
    agreement(comparison)
    groups(comparison, args.least)
    worst(comparison, args.worst)
    unmapped(comparison)


if __name__ == "__main__":
    main()
