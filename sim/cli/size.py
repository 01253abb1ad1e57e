"""``sim size``: the cheapest hardware for a load, or the best that a budget buys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import progress, said, scenario_options, settle, workers_of, write_file

if TYPE_CHECKING:
    from sim.study.size_question import Study
    from sim.study.size_schema import Sizing

PRELOAD = ("sim.study.size",)


@click.command("size")
@scenario_options
@click.option("--vary", "vary", metavar="A.B=V,V", multiple=True,
              help="Values of a key to choose from, e.g. --vary jobs.0.precision.weights=fp16,int4. May be repeated; "
                   "replaces the file's size.vary.")
@click.option("-j", "--jobs", "workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes. The answer is the same with any number.")
@click.option("--executor", metavar="NAME",
              help="serial, processes or dask://HOST:PORT.  [default: processes with -j, else serial]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
              help="Folder for reports; this writes OUT/<name>-size/.")
@click.option("--no-report", is_flag=True, help="Print the answer only, write nothing.")  # fmt: skip
def command(
    scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool, vary: tuple[str, ...], workers: int,
    executor: str | None, out: Path, no_report: bool,
) -> None:  # fmt: skip
    """Search machines, networks and layouts for the cheapest that carries SCENARIO's load within its objectives.

    Its size block names the goal, the budget and what to choose from. Writes
    OUT/<name>-size/{index.html,size.json,winner.yaml}. Interrupted, it tells the best so far.
    """
    from sim.errors import InfeasibleError
    from sim.report.size_words import nothing
    from sim.study.size import size
    from sim.study.size_document import so_far
    from sim.study.size_question import prepare
    from sim.study.size_search import Interrupted
    from sim.study.sweep_axes import from_options

    axes = dict(from_options(vary).grid) if vary else {}
    study = prepare(scenario, overrides, seed, axes)
    if study.base.scenario.size is None:
        _say_default(study)
    settle()
    try:
        with progress() as hear:
            found = size(study, workers_of(workers, PRELOAD, executor), hear)
    except Interrupted as stopped:
        click.echo(so_far(stopped.search), err=True)
        raise
    found = found.model_copy(update={"run_info": {"command": said("size", scenario)}})
    if not found.answers:
        if as_json:
            click.echo(found.model_dump_json(indent=1))
        raise InfeasibleError(nothing(found))
    folder = None if no_report else out / f"{found.name}-size"
    if folder is not None:
        _write(found, folder)
    _print(found, as_json, folder)


def _say_default(study: Study) -> None:
    """What is looked for where the scenario does not say it: on standard error, before a search that may take long."""
    machines = {offer.machine.id for offer in study.space.offers}
    click.echo(
        f"{study.base.scenario.name} has no size block: the cheapest of all {len(machines)} machines known, on every "
        f"network, is looked for, {len(study.space.designs):,} designs at most (size: {{machines: [...], throughput: "
        "...} narrows it; sim catalog machine)", err=True,
    )  # fmt: skip


def _write(found: Sizing, folder: Path) -> None:
    from sim.report.size_page import render_size_html, winner_yaml

    page = render_size_html(found)
    write_file(folder / "size.json", found.model_dump_json(indent=1))
    write_file(folder / "winner.yaml", winner_yaml(found))
    write_file(folder / "index.html", page)


def _print(found: Sizing, as_json: bool, folder: Path | None) -> None:
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    from sim.report.screen import screen
    from sim.report.size_text import render_size

    colour = sys.stdout.isatty()
    click.echo(render_size(found, colour=colour, screen=screen()), nl=False, color=colour)
    if folder is not None:
        click.echo(f"\nreport      {folder / 'index.html'}\nthe winner  {folder / 'winner.yaml'}")
