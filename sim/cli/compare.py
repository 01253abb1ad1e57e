"""``sim compare``: scenarios side by side, with paired seeds, at equal budget, and when which one pays."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import load, progress, said, settle, workers_of, write_file
from sim.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from sim.adapters.resolve import Resolved
    from sim.study.compare_schema import AtEqual, Comparison

PRELOAD = ("sim.study.compare",)
LONGEST_NAME = 100


@click.command("compare")
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIOS...", type=click.Path(path_type=Path))
@click.option("--set", "overrides", metavar="A.B=VALUE", multiple=True,
              help="Change a value of every scenario, e.g. --set jobs.0.load.requests=400. May be repeated.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="First seed.  [default: the first scenario's]")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=5, show_default=True,
              help="Runs of each scenario; the same seeds for all. Where nothing is random, one run will do.")
@click.option("-j", "--jobs", "workers", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes.")
@click.option("--at-equal", metavar="WHAT",
              help="Scale each scenario to as much as the first has: budget (USD/h), throughput, power or gpus.")
@click.option("--api-price", metavar="PRICE", help="Break-even against an API: '0.9 USD/Mtok' of generated tokens.")
@click.option("--no-curve", is_flag=True, help="Skip the runs over the range of loads, and what follows from them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
              help="Folder for reports; this writes OUT/compare/<names>/.")
@click.option("--no-report", is_flag=True, help="Print the answer only, write nothing.")  # fmt: skip
def command(
    scenarios: tuple[Path, ...], overrides: tuple[str, ...], seed: int | None, seeds: int, workers: int,
    at_equal: str | None, api_price: str | None, no_curve: bool, as_json: bool, out: Path, no_report: bool,
) -> None:  # fmt: skip
    """Compare 2 to 8 SCENARIOS: what differs, every metric, and which is the one to buy for which load.

    The first is the baseline. Writes OUT/compare/<names>/{index.html,comparison.json}.
    """
    from sim.study.compare import FEWEST, MOST, Options, compare

    if not FEWEST <= len(scenarios) <= MOST:
        raise InputError([_problem(f"give {FEWEST} to {MOST} scenarios, not {len(scenarios)}")])
    options = Options(seeds=seeds, at_equal=_equal(at_equal), api_price=_price(api_price), curve=not no_curve)
    resolved = _load_all(scenarios, overrides, seed)
    settle()
    with progress() as hear:
        found = compare(resolved, options, workers_of(workers, PRELOAD), hear)
    found = found.model_copy(update={"run_info": {"command": said("compare", scenarios[0])}})
    folder = None if no_report else out / "compare" / folder_name(found)
    if folder is not None:
        _write(found, folder)
    _print(found, as_json, folder)


def folder_name(comparison: Comparison) -> str:
    """A folder for the scenarios' names, whatever they are; long ones are cut and told apart by a digest."""
    names = "-vs-".join(re.sub(r"[^A-Za-z0-9._+-]", "_", part.name) for part in comparison.scenarios)
    if len(names) <= LONGEST_NAME:
        return names
    return f"{names[: LONGEST_NAME - 9]}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"


def _problem(message: str) -> Problem:
    return Problem(None, None, None, None, message)


def _equal(text: str | None) -> AtEqual | None:
    from typing import get_args

    from sim.study.compare_schema import AtEqual

    known: tuple[AtEqual, ...] = get_args(AtEqual)
    for name in known:
        if text == name:
            return name
    if text is None:
        return None
    message = f"'{text}' is not one of {', '.join(known)}"
    raise InputError([Problem("--at-equal", None, None, None, message, did_you_mean(text, known))])


def _price(text: str | None) -> float | None:
    from sim.units import USD_PER_MILLION_TOKENS, UnitError, parse

    if text is None:
        return None
    try:
        price = parse(text, USD_PER_MILLION_TOKENS)
    except UnitError as error:
        raise InputError([Problem("--api-price", None, None, None, str(error))]) from None
    if price <= 0:
        raise InputError([Problem("--api-price", None, None, None, f"'{text}' must be above zero")])
    return price


def _load_all(scenarios: tuple[Path, ...], overrides: tuple[str, ...], seed: int | None) -> list[Resolved]:
    """Every scenario; what is wrong with any of them is told together."""
    found: list[Resolved] = []
    problems: list[Problem] = []
    for path in scenarios:
        try:
            found.append(load(path, overrides, seed))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return found


def _write(comparison: Comparison, folder: Path) -> None:
    from sim.report.compare_page import render_comparison_html

    page = render_comparison_html(comparison)
    write_file(folder / "comparison.json", comparison.model_dump_json(indent=1))
    write_file(folder / "index.html", page)


def _print(comparison: Comparison, as_json: bool, folder: Path | None) -> None:
    if as_json:
        click.echo(comparison.model_dump_json(indent=1))
        return
    from sim.report.compare_text import render_comparison
    from sim.report.screen import screen

    colour = sys.stdout.isatty()
    click.echo(render_comparison(comparison, colour=colour, screen=screen()), nl=False, color=colour)
    if folder is not None:
        click.echo(f"\nreport      {folder / 'index.html'}")
