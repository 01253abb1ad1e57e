"""``sim calibrate``: constants of a (GPU, stack) or of a GPU from tables, of the card at hand, or of a link."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import progress, settle, write_file

if TYPE_CHECKING:
    from sim.study.calibrate.schema import Calibration


@click.command("calibrate")
@click.argument("tables", nargs=-1, metavar="[TABLE.csv ...]", type=click.Path(path_type=Path))
@click.option("--gpu-name", "gpu_name", metavar="GPU", help="GPU of the catalogue whose rows are taken.")
@click.option("--stack", metavar="STACK",
              help="Serving stack whose factors on this GPU are fitted; without it the GPU's kernels are.")
@click.option("--software", metavar="NAME", help="Of tables of kernels: rows of this software only, e.g. vllm.")
@click.option("--folds", type=click.IntRange(2, 100), default=5, show_default=True,
              help="Parts in which rows are left out to cross-validate.")
@click.option("--gpu", "card", is_flag=True, help="Measure this machine's card with PyTorch, then fit its constants.")
@click.option("--peer", metavar="HOST[:PORT]", help="Measure the link to a host on which --listen runs.")
@click.option("--listen", metavar="PORT", type=click.IntRange(0, 65535),
              help="Answer one --peer on this port, then end.")
@click.option("--name", metavar="NAME", help="Name of the entry and its files.  [default: what was calibrated]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
              help="Folder for reports; this writes OUT/calibrate/NAME.yaml and NAME.json.")
@click.option("--no-report", is_flag=True, help="Print the answer only, write nothing.")  # fmt: skip
def command(
    tables: tuple[Path, ...], gpu_name: str | None, stack: str | None, software: str | None, folds: int, card: bool,
    peer: str | None, listen: int | None, name: str | None, as_json: bool, out: Path, no_report: bool,
) -> None:  # fmt: skip
    """Fit the constants of one (GPU, stack), or of a GPU, to measured TABLES and write them as a catalogue entry with
    their source, their fitted and their cross-validated error; without TABLES to those that are shipped.

    With --gpu the tables are measured here; with --peer the link to another host is.
    """
    _check_mode(tables, gpu_name, stack, software, card, peer, listen)
    named = _name(name)
    folder = None if no_report else out / "calibrate"
    if listen is not None:
        _listen(listen)
    elif peer is not None:
        _link(peer, named, folder, as_json)
    elif card:
        _card(gpu_name, named, folds, folder, as_json)
    else:
        assert gpu_name is not None
        _tables(tables, gpu_name, stack, software, folds, named, folder, as_json)


def _check_mode(
    tables: tuple[Path, ...], gpu_name: str | None, stack: str | None, software: str | None, card: bool,
    peer: str | None, listen: int | None,
) -> None:  # fmt: skip
    """UsageError for options that do not go together."""
    modes = [option for option, given in (("--gpu", card), ("--peer", peer), ("--listen", listen is not None)) if given]
    if len(modes) > 1:
        raise click.UsageError(f"{' and '.join(modes)} measure different things: give one")
    if modes:
        fitting = (("TABLES", tables), ("--stack", stack), ("--software", software),
                   ("--gpu-name", gpu_name if not card else None))  # fmt: skip
        extra = [option for option, given in fitting if given]
        if extra:
            raise click.UsageError(f"{modes[0]} measures: leave {' and '.join(extra)} out")
    elif gpu_name is None:
        raise click.UsageError("name the GPU with --gpu-name (and its engine with --stack), or measure with --gpu")
    if stack is not None and software is not None:
        raise click.UsageError("--software chooses among tables of kernels: leave it out with --stack")


def _name(name: str | None) -> str | None:
    """A name that may be a file's and an entry's."""
    from sim.study.calibrate.errors import named

    return None if name is None else named(name)


def _tables(
    tables: tuple[Path, ...], gpu: str, stack: str | None, software: str | None, folds: int, name: str | None,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    from sim.catalog import validation_folder
    from sim.study.calibrate.kernels import calibrate_kernels
    from sim.study.calibrate.stacks import calibrate_stack
    from sim.study.validate.formats import read_files

    read = read_files(tables or (validation_folder(),))
    settle()
    if stack is None:
        found = calibrate_kernels(read, gpu, software, folds)
        name = name or gpu
    else:
        name = name or f"{stack}-{gpu}"
        with progress() as hear:
            found = calibrate_stack(read, gpu, stack, name, folds, hear)
    _tell(found, name, folder, as_json)


def _card(gpu: str | None, name: str | None, folds: int, folder: Path | None, as_json: bool) -> None:
    """Measure, keep the tables, and fit them."""
    import tempfile

    from sim.adapters.gpu_meter import open_meter
    from sim.adapters.lookup import Library
    from sim.study.calibrate.card import catalogue_id, measured_tables
    from sim.study.calibrate.kernels import calibrate_kernels
    from sim.study.validate.formats import read_files

    meter = open_meter()
    gpu = catalogue_id(meter, gpu)
    Library().gpu(gpu)
    name = name or gpu
    with progress() as hear:
        tables = measured_tables(meter, gpu, hear)
    with tempfile.TemporaryDirectory() as scratch:
        kept = (folder or Path(scratch)) / f"{name}_measured"
        for table, text in tables.items():
            write_file(kept / f"{table}.csv", text)
        found = calibrate_kernels(read_files([kept / f"{table}.csv" for table in tables]), gpu, None, folds)
    _tell(found, name, folder, as_json)


def _listen(port: int) -> None:
    from sim.adapters.link_meter import listen

    listen(port, ready=lambda bound: click.echo(
        f"listening on port {bound}: run sim calibrate --peer HOST:{bound} on the other host", err=True
    ))  # fmt: skip


def _link(peer: str, name: str | None, folder: Path | None, as_json: bool) -> None:
    import json

    from sim.adapters.link_meter import PORT, measure_link
    from sim.report.calibrate_text import render_link
    from sim.study.calibrate.errors import host_and_port
    from sim.study.calibrate.link import link_entry

    host, port = host_and_port(peer, PORT)
    measured = measure_link(host, port)
    name = name or "measured-link"
    entry = link_entry(name, measured)
    path = _write_entry(entry, name, folder, ["Measured by sim calibrate --peer; nics: [{link: NAME}] uses it."])
    if as_json:
        click.echo(json.dumps({**_link_json(measured), "entry": entry}, indent=1))
        return
    click.echo(render_link(measured), nl=False)
    _say(entry, path)


def _link_json(measured: Any) -> dict[str, float]:
    return {
        "latency_s": measured.latency, "bandwidth_there_bytes_per_s": measured.there,
        "bandwidth_back_bytes_per_s": measured.back,
    }  # fmt: skip


def _tell(found: Calibration, name: str, folder: Path | None, as_json: bool) -> None:
    from sim.report.calibrate_text import heading, render_calibration
    from sim.report.screen import screen

    path = _write_entry(found.entry, name, folder, heading(found, name))
    if folder is not None:
        write_file(folder / f"{name}.json", found.model_dump_json(indent=1) + "\n")
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    colour = sys.stdout.isatty()
    click.echo(render_calibration(found, colour=colour, screen=screen()), nl=False, color=colour)
    _say(found.entry, path)


def _write_entry(entry: dict[str, Any], name: str, folder: Path | None, comments: list[str]) -> Path | None:
    from sim.study.calibrate.entry import entry_text

    if folder is None:
        return None
    path = folder / f"{name}.yaml"
    write_file(path, entry_text(entry, comments))
    return path


def _say(entry: dict[str, Any], path: Path | None) -> None:
    """Where the entry is; without a file, the entry."""
    from sim.study.calibrate.entry import entry_text

    click.echo(f"\n{entry_text(entry, [])}" if path is None else f"\nentry       {path}", nl=path is not None)
