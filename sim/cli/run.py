"""``sim run``: simulate, print the verdict, write the report."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import load, progress, said, scenario_options, settle, write_file
from sim.errors import ObjectiveMissed

if TYPE_CHECKING:
    from sim.results.schema import Result
    from sim.run import Outcome


@click.command("run")
@scenario_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
              help="Folder for reports; the run writes OUT/<scenario's name>/.")
@click.option("--no-report", is_flag=True, help="Print the answer only, write nothing.")
@click.option("--no-effects", is_flag=True, help="Skip the re-runs that find what does not bind.")
@click.option("--detail", type=click.Choice(["auto", "full"]), default="auto", show_default=True,
              help="full: every GPU stream and every transfer is a process of its own (slow, the same answer).")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True,
              help="Independent runs; intervals are then over them.")
@click.option("-j", "--jobs", "workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes for --seeds and for the re-runs that find what binds.")
@click.option("--find-capacity", is_flag=True,
              help="Also find the highest rate of requests, or of a closed loop the most clients, within the "
                   "objectives (about twenty runs, of three seeds or of --seeds).")
@click.option("--fail-on", type=click.Choice(["objectives", "overload"]), multiple=True,
              help="Exit with 4 if a stated objective is missed, or if the cluster is overloaded.")  # fmt: skip
def command(
    scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool, out: Path, no_report: bool,
    no_effects: bool, detail: str, seeds: int, workers: int, find_capacity: bool, fail_on: tuple[str, ...],
) -> None:  # fmt: skip
    """Simulate SCENARIO, print the verdict and write OUT/<name>/{index.html,result.json,trace.json} and, for serving,
    requests.csv."""
    from concurrent.futures import ProcessPoolExecutor

    from sim.run import run_recorded

    began = time.perf_counter()
    resolved = load(scenario, overrides, seed)
    if find_capacity:
        from sim.study.capacity import require_objectives

        require_objectives(resolved)
    settle()
    with progress() as hear:
        pool = ProcessPoolExecutor(workers) if workers > 1 else None
        try:
            outcome = run_recorded(
                resolved, detail="full" if detail == "full" else "auto", effects=not no_effects, seeds=seeds,
                progress=hear, executor=pool,
            )  # fmt: skip
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        result = outcome.result
        if find_capacity:
            from sim.study.capacity import with_capacity

            result = with_capacity(result, resolved, outcome.recording, hear, seeds)
        result = result.model_copy(update={"run_info": {
            "wall_s": time.perf_counter() - began, "simulation_wall_s": outcome.wall_s,
            "python": platform.python_version(), "machine": platform.machine(), "command": said("run", scenario),
        }})  # fmt: skip
        folder = None if no_report else out / result.scenario
        if folder is not None:
            hear("writing the report", 1.0)
            _write(folder, outcome, result)
    _print(result, as_json, folder)
    _judge(result, fail_on)


def _write(folder: Path, outcome: Outcome, result: Result) -> None:
    """The page, the document and its side tables: all made before the first is written."""
    from sim.report.page import render_html
    from sim.report.trace import chrome_trace
    from sim.results.tables import requests_csv, trace_tables

    tables = trace_tables(outcome.recording, min(job.window.start_s for job in result.jobs))
    files = {
        "result.json": result.model_dump_json(indent=1),
        "trace.json": chrome_trace(tables.tracks, tables.spans, tables.counters),
        "index.html": render_html(result),
    }
    if outcome.recording.serving:
        files["requests.csv"] = requests_csv(outcome.recording)
    for name, content in files.items():
        write_file(folder / name, content)


def _print(result: Result, as_json: bool, folder: Path | None) -> None:
    if as_json:
        click.echo(result.model_dump_json(indent=1))
        return
    from sim.report.screen import screen
    from sim.report.terminal import WIDTH, render_text

    colour = sys.stdout.isatty()
    click.echo(render_text(result, screen().width(WIDTH), colour), nl=False, color=colour)
    if folder is not None:
        click.echo(f"report      {folder / 'index.html'}")


def _judge(result: Result, fail_on: tuple[str, ...]) -> None:
    """Raise ObjectiveMissed where the user asked for it."""
    missed = []
    if "objectives" in fail_on:
        for job in result.jobs:
            missed += [
                f"{job.name}: {o['name']} {o['measured_s']:.4g} s, promised {o['limit_s']:.4g} s"
                if o["measured_s"] is not None else f"{job.name}: {o['name']} was not measured"
                for o in job.objectives if not o["met"]
            ]  # fmt: skip
    if "overload" in fail_on and result.verdict.state == "overloaded":
        missed.append("overloaded: requests come faster than they are answered")
    if missed:
        raise ObjectiveMissed("; ".join(missed))
