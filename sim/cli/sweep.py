"""``sim sweep``: one scenario at many values, resumable, on as many workers as there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import progress, scenario_options, settle, workers_of, write_file

if TYPE_CHECKING:
    from sim.study.sweep import Sweep

PRELOAD = ("sim.study.sweep_points",)


@click.command("sweep")
@scenario_options
@click.option("--vary", "vary", metavar="A.B=V,V", multiple=True,
              help="Values for a key, e.g. --vary jobs.0.plan.pp=4,8. May be repeated; replaces the file's sweep.")
@click.option("--zip", "zipped", is_flag=True, help="Take the lists of --vary in step instead of every combination.")
@click.option("--samples", type=click.IntRange(1, 100_000),
              help="Draw this many points from the lists of --vary, or ranges: --vary 'a.b={min: 1 ms, max: 9 ms}'.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True,
              help="Runs of each point with consecutive seeds, the same for all points.")
@click.option("-j", "--jobs", "workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes.")
@click.option("--executor", metavar="NAME",
              help="serial, processes or dask://HOST:PORT.  [default: processes with -j, else serial]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the sweep: what is finished is kept here.  [default: reports/<name>-sweep]")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the points here too.")
@click.option("--parquet", "parquet_file", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the points as parquet (needs polars).")
@click.option("--fresh", is_flag=True, help="Simulate every point again.")  # fmt: skip
def command(
    scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool, vary: tuple[str, ...], zipped: bool,
    samples: int | None, seeds: int, workers: int, executor: str | None, out: Path | None, csv_file: Path | None,
    parquet_file: Path | None, fresh: bool,
) -> int:  # fmt: skip
    """Simulate SCENARIO at every value of --vary, or of its sweep block, and say what each moves.

    Writes OUT/{index.html,points.jsonl,points.csv,sweep.json}. A sweep that was stopped goes on where it was.
    """
    from sim.study.sweep import prepare, run_sweep
    from sim.study.sweep_axes import from_options
    from sim.study.sweep_store import Journal
    from sim.study.sweep_tables import require_parquet

    if (zipped or samples) and not vary:
        raise click.UsageError("--zip and --samples say how to take the values of --vary: give some")
    if zipped and samples:
        raise click.UsageError("--zip and --samples exclude each other")
    if parquet_file is not None:
        require_parquet()
    spec = from_options(vary, zipped, samples) if vary else None
    with progress() as hear:
        study = prepare(scenario, overrides, seed, vary=spec, seeds=seeds, hear=hear)
    settle()
    folder = out or Path("reports") / f"{study.scenario}-sweep"
    with Journal(folder / "points.jsonl", fresh) as journal:
        try:
            with progress() as hear:
                sweep = run_sweep(study, journal, workers_of(workers, PRELOAD, executor), hear)
        except KeyboardInterrupt:
            print(f"what is finished is in {folder}: the same command goes on from there", file=sys.stderr)
            raise
    _write(sweep, folder, csv_file, parquet_file)
    _print(sweep, as_json, folder)
    return _exit_code(sweep)


def _write(sweep: Sweep, folder: Path, csv_file: Path | None, parquet_file: Path | None) -> None:
    from sim.report.sweep_page import render_sweep_html
    from sim.study.sweep_tables import csv_text, document_text, parquet_bytes, study_of

    table = csv_text(sweep)
    page = render_sweep_html(study_of(sweep))
    write_file(folder / "points.csv", table)
    write_file(folder / "sweep.json", document_text(sweep))
    write_file(folder / "index.html", page)
    if csv_file is not None:
        write_file(csv_file, table)
    if parquet_file is not None:
        write_file(parquet_file, parquet_bytes(sweep))


def _print(sweep: Sweep, as_json: bool, folder: Path) -> None:
    if as_json:
        from sim.study.sweep_tables import document_text

        click.echo(document_text(sweep), nl=False)
        return
    from sim.report.screen import screen
    from sim.report.sweep_text import render_sweep
    from sim.study.sweep_tables import study_of

    colour = sys.stdout.isatty()
    click.echo(render_sweep(study_of(sweep), colour, sweep.stored, sweep.simulated, screen()), color=colour)
    click.echo(f"report      {folder / 'index.html'}\npoints      {folder / 'points.csv'}\n"
               f"all of it   {folder / 'sweep.json'}")  # fmt: skip


def _exit_code(sweep: Sweep) -> int:
    """0 if a point has an answer; 3 if all are infeasible, else 1."""
    failed = [outcome.failed for outcome in sweep.outcomes]
    if not all(failed):
        return 0
    return 3 if set(failed) == {"infeasible"} else 1
