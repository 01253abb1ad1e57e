"""``sim show``: the report again, from result.json alone."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sim.cli.common import write_file


@click.command("show")
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the window of spans in the document as a Chrome trace.")
@click.option("--json", "as_json", is_flag=True, help="Print the document as JSON.")
def command(result: Path, html: Path | None, trace: Path | None, as_json: bool) -> None:
    """Print the verdict in RESULT (a result.json, or its folder), and draw its page again with --html."""
    from sim.report.load import load_result

    found = load_result(result / "result.json" if result.is_dir() else result)
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
