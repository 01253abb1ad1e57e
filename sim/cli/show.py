"""``sim show``: the report again, from result.json, comparison.json, sweep.json, size.json or failures.json alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from sim.cli.common import write_file
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.report.load import Document

NAMES = ("result.json", "comparison.json", "sweep.json", "size.json", "failures.json")


class Renderer(NamedTuple):
    """How a document is told: for a terminal, and as a page."""

    what: str
    text: Callable[[bool], str]
    page: Callable[[], str]


@click.command("show")
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the window of spans in a result as a Chrome trace.")
@click.option("--json", "as_json", is_flag=True, help="Print the document as JSON.")  # fmt: skip
def command(result: Path, html: Path | None, trace: Path | None, as_json: bool) -> None:
    """Print the answer in RESULT (a result.json, comparison.json, sweep.json, size.json or failures.json, or its
    folder); draw its page again with --html."""
    from sim.report.load import load_document
    from sim.results.schema import Result

    path = _file(result)
    found = load_document(path)
    renderer = _renderer(found)
    if trace is not None and not isinstance(found, Result):
        message = f"a {renderer.what} has no spans: --trace needs a result.json"
        raise InputError([Problem(str(path), None, None, None, message)])
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        colour = sys.stdout.isatty()
        click.echo(renderer.text(colour), nl=False, color=colour)
    if html is not None:
        write_file(html, renderer.page())
        click.echo(f"report      {html}", err=as_json)
    if trace is not None and isinstance(found, Result):
        from sim.report.trace import result_trace

        write_file(trace, result_trace(found))
        click.echo(f"trace       {trace}", err=as_json)


def _file(given: Path) -> Path:
    """The document: the file itself, or the one in a folder."""
    if not given.is_dir():
        return given
    return next((given / name for name in NAMES if (given / name).exists()), given / NAMES[0])


def _renderer(found: Document) -> Renderer:
    """What draws a document; only what is needed is imported."""
    from sim.report.screen import screen
    from sim.results.schema import Result
    from sim.study.compare_schema import Comparison
    from sim.study.size_schema import Sizing
    from sim.study.sweep_schema import SweepStudy

    if isinstance(found, Result):
        from sim.report.page import render_html
        from sim.report.terminal import WIDTH, render_text

        return Renderer(
            "run", lambda colour: render_text(found, screen().width(WIDTH), colour), lambda: render_html(found)
        )
    if isinstance(found, Comparison):
        from sim.report.compare_page import render_comparison_html
        from sim.report.compare_text import render_comparison

        return Renderer(
            "comparison",
            lambda colour: render_comparison(found, colour, screen()),
            lambda: render_comparison_html(found),
        )
    if isinstance(found, SweepStudy):
        from sim.report.sweep_page import render_sweep_html
        from sim.report.sweep_text import render_sweep

        return Renderer(
            "sweep", lambda colour: render_sweep(found, colour, screen=screen()), lambda: render_sweep_html(found)
        )
    if isinstance(found, Sizing):
        from sim.report.size_page import render_size_html
        from sim.report.size_text import render_size

        return Renderer("size", lambda colour: render_size(found, colour, screen()), lambda: render_size_html(found))
    from sim.report.failures_page import render_failures_html
    from sim.report.failures_text import render_failures

    return Renderer(
        "study of failures",
        lambda colour: render_failures(found, colour, screen()),
        lambda: render_failures_html(found),
    )
