"""``sim explain``: where a number comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import load, scenario_options, settle

if TYPE_CHECKING:
    from sim.study.explain import Explanation

WIDTH = 100
"""Columns of a line, where the terminal has as many."""


@click.command("explain")
@scenario_options
@click.argument("path")
@click.option("--job", "number", type=click.IntRange(0), default=0, show_default=True, help="Which job, from 0.")
def command(
    scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool, path: str, number: int
) -> None:
    """Simulate SCENARIO and derive the number at PATH: formula, inputs, sources.

    PATH is one of the result, such as metrics.tpot_s.p50, metrics.step_time_s or cost.usd_per_million_tokens;
    tpot, ttft, throughput, mfu, step, cost and payback are short for the usual ones.
    """
    import json
    from dataclasses import asdict

    from sim.study.explain import explain

    resolved = load(scenario, overrides, seed)
    settle()
    found = explain(resolved, path, number)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1, ensure_ascii=False))
        return
    click.echo(_text(found), nl=False)


def _text(found: Explanation) -> str:
    """The derivation as a table of lines, sources below each."""
    from sim.report.screen import Screen, screen
    from sim.report.values import NONE, write

    here = screen()
    metric = found.path.split(".")[1]
    lines = [f"{found.path} = {NONE if found.value is None else write(metric, found.value)}"]
    lines.append(here.prose(found.definition, WIDTH, "  ", "  "))
    if not found.steps:
        lines += ["", "It is counted as defined; no formula stands behind it."]
    name = max((len(step.name) for step in found.steps), default=0)
    value = max((len(step.value) for step in found.steps), default=0)
    room = here.width(WIDTH) - name - value - 6
    for step in found.steps:
        told = [step.formula, *([f"[{step.source}]"] if step.source else [])]
        head = f"  {step.name.ljust(name)}  {step.value.rjust(value)}"
        if here.columns is not None and room < 40:  # the formula below the number
            lines += ["", head, *(here.prose(text, WIDTH, "      ", "      ") for text in told)]
            continue
        rows = [row for text in told for row in Screen(max(40, room)).prose(text).splitlines()]
        lines += ["", f"{head}  {rows[0]}", *(" " * (name + value + 6) + row for row in rows[1:])]
    return "\n".join(lines) + "\n"
