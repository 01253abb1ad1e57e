"""``sim show``: the report again, from result.json or comparison.json alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import write_file
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    from sim.study.compare_schema import Comparison

NAMES = ("result.json", "comparison.json")


@click.command("show")
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the window of spans in a result as a Chrome trace.")
@click.option("--json", "as_json", is_flag=True, help="Print the document as JSON.")  # fmt: skip
def command(result: Path, html: Path | None, trace: Path | None, as_json: bool) -> None:
    """Print the answer in RESULT (a result.json or comparison.json, or its folder); draw its page again with --html."""
    from sim.report.load import load_document
    from sim.results.schema import Result

    path = _file(result)
    found = load_document(path)
    if not isinstance(found, Result):
        _show_comparison(found, path, html, trace, as_json)
        return
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        from sim.report.terminal import render_text

        click.echo(render_text(found, colour=sys.stdout.isatty()), nl=False, color=sys.stdout.isatty())
    if html is not None:
        from sim.report.page import render_html

        write_file(html, render_html(found))
        click.echo(f"report      {html}", err=as_json)
    if trace is not None:
        from sim.report.trace import result_trace

        write_file(trace, result_trace(found))
        click.echo(f"trace       {trace}", err=as_json)


def _file(given: Path) -> Path:
    """The document: the file itself, or the one in a folder."""
    if not given.is_dir():
        return given
    return next((given / name for name in NAMES if (given / name).exists()), given / NAMES[0])


def _show_comparison(
    found: Comparison, path: Path, html: Path | None, trace: Path | None, as_json: bool
) -> None:
    if trace is not None:
        message = "a comparison has no spans: --trace needs a result.json"
        raise InputError([Problem(str(path), None, None, None, message)])
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        from sim.report.compare_text import render_comparison

        click.echo(render_comparison(found, colour=sys.stdout.isatty()), nl=False, color=sys.stdout.isatty())
    if html is not None:
        from sim.report.compare_page import render_comparison_html

        write_file(html, render_comparison_html(found))
        click.echo(f"report      {html}", err=as_json)
