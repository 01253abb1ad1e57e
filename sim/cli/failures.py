"""``sim failures``: many lives of a training job among failures, by size, rate, checkpoints and policy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import load, progress, said, scenario_options, settle, workers_of, write_file

if TYPE_CHECKING:
    from sim.study.failures_schema import FailureStudy

PRELOAD = ("sim.study.failures_lives",)


@click.command("failures")
@scenario_options
@click.option("--nodes", metavar="N,N", help="Sizes of the job; replicas and global batch grow with them.")
@click.option("--mtbf", metavar="xF,TIME", help="Times between failures: factors on the scenario's own (x0.5: twice "
              "as many), or times of one GPU (50000 h), which replace its faults.")
@click.option("--checkpoint", metavar="auto,TIME", help="Work between checkpoints: auto (Daly's optimum) or a time.")
@click.option("--policy", metavar="NAME,NAME", help="restart, wait, elastic or migrate.")
@click.option("--duration", metavar="TIME", help="Live this long, whatever the work: '30 days'.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=100, show_default=True,
              help="Lives of each point; the same number meets the same faults at every point.")
@click.option("-j", "--jobs", "workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
              help="Folder for reports; this writes OUT/<scenario's name>-failures/.")
@click.option("--no-report", is_flag=True, help="Print the answer only, write nothing.")  # fmt: skip
def command(
    scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool, nodes: str | None, mtbf: str | None,
    checkpoint: str | None, policy: str | None, duration: str | None, seeds: int, workers: int, out: Path,
    no_report: bool,
) -> None:  # fmt: skip
    """Live SCENARIO's training job through failures many times, and say what each setting makes of them.

    Lists are separated by commas; every combination is a point. Writes OUT/<name>-failures/{index.html,failures.json}.
    """
    from sim.study.failures import run_study
    from sim.study.failures_plan import plan_study
    from sim.study.failures_points import read_axes, read_duration

    axes, length = read_axes(nodes, mtbf, checkpoint, policy), read_duration(duration)
    resolved = load(scenario, overrides, seed)
    settle()
    with progress() as hear:
        plan = plan_study(resolved, axes, seeds, length, hear)
        study = run_study(plan, workers_of(workers, PRELOAD), hear)
    study = study.model_copy(update={"run_info": {"command": said("failures", scenario)}})
    folder = None if no_report else out / f"{study.scenario}-failures"
    if folder is not None:
        _write(study, folder)
    _print(study, as_json, folder)


def _write(study: FailureStudy, folder: Path) -> None:
    from sim.report.failures_page import render_failures_html

    page = render_failures_html(study)
    write_file(folder / "failures.json", study.model_dump_json(indent=1))
    write_file(folder / "index.html", page)


def _print(study: FailureStudy, as_json: bool, folder: Path | None) -> None:
    if as_json:
        click.echo(study.model_dump_json(indent=1))
        return
    from sim.report.failures_text import render_failures
    from sim.report.screen import screen

    colour = sys.stdout.isatty()
    click.echo(render_failures(study, colour=colour, screen=screen()), nl=False, color=colour)
    if folder is not None:
        click.echo(f"\nreport      {folder / 'index.html'}")
