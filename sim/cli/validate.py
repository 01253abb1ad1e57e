"""``sim validate``: predicted against measured, row by row, with the error by table and by group."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import progress, settle, workers_of, write_file

if TYPE_CHECKING:
    from sim.study.validate.schema import Validation

PRELOAD = ("sim.study.validate.runner",)


@click.command("validate")
@click.argument("tables", nargs=-1, metavar="[TABLE.csv ...]", type=click.Path(path_type=Path))
@click.option("-j", "--jobs", "workers", type=click.IntRange(1, 256), default=None,
              help="Processes.  [default: as many as there are cores]")
@click.option("--worst", type=click.IntRange(0, 1000), default=10, show_default=True,
              help="Rows listed that are farthest off, at most two of a group.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")
@click.option("--csv", "as_csv", is_flag=True, help="Print every row as CSV and nothing else.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
              help="Folder for reports; this writes OUT/validate/.")
@click.option("--no-report", is_flag=True, help="Print the answer only, write nothing.")  # fmt: skip
def command(
    tables: tuple[Path, ...], workers: int | None, worst: int, as_json: bool, as_csv: bool, out: Path, no_report: bool
) -> None:  # fmt: skip
    """Simulate every row of measured TABLES and compare; without any, of the tables that are shipped.

    A table is a CSV file in a documented format (docs/validation.md), or a folder of them. Writes
    OUT/validate/{index.html,validation.json,rows.csv}.
    """
    from sim.catalog import validation_folder
    from sim.study.validate.formats import read_tables
    from sim.study.validate.runner import compare

    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, not both")
    cases = read_tables(tables or (validation_folder(),))
    settle()
    played = sum(case.scenario is not None for case in cases)
    workers = min(workers or _cores(), max(1, played // 20))
    with progress() as hear, workers_of(workers, PRELOAD)() as (pool, _):
        found = compare(cases, lambda done, of: hear("simulating measured rows", done / of), pool)
    folder = None if no_report else out / "validate"
    if folder is not None:
        _write(found, folder, shlex.join(["sim", "validate", *map(str, tables)]))
    _print(found, worst, as_json, as_csv, folder)


def _cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(found: Validation, folder: Path, command: str) -> None:
    from sim.report.validate_page import render_validation_html
    from sim.report.validate_text import rows_csv

    write_file(folder / "validation.json", found.model_dump_json())
    write_file(folder / "rows.csv", rows_csv(found.rows))
    write_file(folder / "index.html", render_validation_html(found, command))


def _print(found: Validation, worst: int, as_json: bool, as_csv: bool, folder: Path | None) -> None:
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    from sim.report.screen import screen
    from sim.report.validate_text import render_validation, rows_csv

    if as_csv:
        click.echo(rows_csv(found.rows), nl=False)
        return
    colour = sys.stdout.isatty()
    click.echo(render_validation(found, worst, colour=colour, screen=screen()), nl=False, color=colour)
    if folder is not None:
        click.echo(f"\nreport      {folder / 'index.html'}")
