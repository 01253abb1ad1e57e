"""``sim init``: a starter scenario, or a copy of a shipped one with its topology."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sim.cli.schema import schema_of
from sim.errors import InputError, Problem, did_you_mean

STARTER = "4090_pp_home"


@click.command("init")
@click.argument("name", default=STARTER)
@click.option("--list", "listing", is_flag=True, help="List the shipped scenarios and topologies.")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder to copy into (default: here); scenarios/, topologies/ and docs/ are made in it.")
@click.option("--force", is_flag=True, help="Overwrite files that are already there.")  # fmt: skip
def command(name: str, listing: bool, folder: Path, force: bool) -> None:
    """Copy out the shipped scenario NAME (default: 4090_pp_home), its topology, and their schemas for editors."""
    from sim.catalog import shipped

    scenarios = {p.stem: p for p in shipped("scenarios")}
    scenarios |= {f"article/{p.stem}": p for p in shipped("scenarios/article")}
    topologies = {p.stem: p for p in shipped("topologies")}
    if listing:
        click.echo("scenarios")
        for stem, path in sorted(scenarios.items()):
            click.echo(f"  {stem:28} {_about(path)}")
        click.echo("topologies")
        for stem, path in sorted(topologies.items()):
            click.echo(f"  {stem:28} {_about(path)}")
        return
    wanted = name.removesuffix(".yaml").removeprefix("scenarios/")
    if wanted not in scenarios:
        close = did_you_mean(wanted, scenarios)
        raise InputError([Problem("", None, None, "", f"there is no shipped scenario '{wanted}'", close)])
    source = scenarios[wanted].read_text(encoding="utf-8")
    copies = [(folder / "scenarios" / f"{wanted}.yaml", source)]
    copies += [
        (folder / "topologies" / f"{stem}.yaml", path.read_text(encoding="utf-8"))
        for stem, path in topologies.items() if f"topologies/{stem}.yaml" in source
    ]  # fmt: skip
    # Shipped files name their schema for editors: put it where they look.
    copies += [
        (folder / "docs" / f"{kind}.schema.json", json.dumps(schema_of(kind), indent=1) + "\n")
        for kind in ("scenario", "topology")
    ]
    _copy(copies, force)
    click.echo(f"next: sim run {copies[0][0]}")


def _copy(copies: list[tuple[Path, str]], force: bool) -> None:
    from sim.cli.common import write_file

    there = [path for path, text in copies if path.exists() and path.read_bytes() != text.encode()]
    if there and not force:
        message = "is already there (--force overwrites it)"
        raise InputError([Problem(str(path), None, None, "", message, None) for path in there])
    for path, text in copies:
        write_file(path, text)
        click.echo(f"wrote {path}")


def _about(path: Path) -> str:
    """The scenario's or topology's own first sentence."""
    from sim.adapters.yaml_source import load_yaml

    data = load_yaml(path).data
    text = " ".join(str(data.get("about", "")).split())
    return text if len(text) <= 90 else text[:87] + "..."
