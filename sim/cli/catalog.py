"""``sim catalog``: what is known, with sources."""

from __future__ import annotations

import json
from typing import Any

import click

from sim.errors import InputError, Problem, did_you_mean


@click.command("catalog")
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str | None, name: str | None, as_json: bool) -> None:
    """List what is known: KIND is gpu, link, fabric, model, stack, training-stack, lengths, failure, price,
    machine or network.

    NAME shows one entry whole.
    """
    from sim import catalog

    if kind is None:
        counts = {k: len(catalog.names(k)) for k in catalog.KINDS}
        if as_json:
            click.echo(json.dumps(counts, indent=1))
            return
        for k, n in counts.items():
            click.echo(f"{k:14} {n:4}   sim catalog {k}")
        return
    kind = kind.removesuffix("s") if kind.removesuffix("s") in catalog.KINDS else kind
    if kind not in catalog.KINDS:
        close = did_you_mean(kind, catalog.KINDS)
        message = f"unknown kind '{kind}': it is one of {', '.join(catalog.KINDS)}"
        raise InputError([Problem("", None, None, "", message, close)])
    if name is not None:
        _one(kind, name, as_json)
    else:
        _all(kind, as_json)


def _one(kind: str, name: str, as_json: bool) -> None:
    import yaml

    from sim import catalog

    if name not in catalog.names(kind):
        close = did_you_mean(name, catalog.names(kind))
        raise InputError([Problem("", None, None, "", f"unknown {kind} '{name}'", close)])
    data = catalog.raw(kind, name)
    if as_json:
        click.echo(json.dumps(data, indent=1, default=str))
    else:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
        click.echo(text.rstrip())
        if kind == "failure":
            click.echo("\n".join(_rates(data)))


def _rates(preset: dict[str, Any]) -> list[str]:
    """What each class of a fault preset comes to, as comments below its YAML."""
    rows = [(entry["name"], _per_node_days([entry])) for entry in preset["classes"]]
    rows.append(("all that are not planned", _per_node_days(preset["classes"])))
    width = max(len(name) for name, _ in rows)
    return ["# failures in 1,000 node-days of 8 GPUs", *(f"#   {name.ljust(width)}  {rate}" for name, rate in rows)]


def _per_node_days(classes: list[dict[str, Any]]) -> str:
    """Failures in 1,000 days of a node with 8 GPUs; of several classes those that are not planned."""
    from sim.units import SECONDS, parse

    on_a_node = {"gpu": 8, "node": 1, "link": 1}
    rate = 0.0
    for entry in classes:
        per = entry.get("per", "gpu")
        if per not in on_a_node:
            return "-"
        if len(classes) == 1 or not entry.get("planned", False):
            rate += on_a_node[per] * 1000 * 86_400.0 / parse(entry["mtbf"], SECONDS)
    return f"{rate:.3g}"


def _all(kind: str, as_json: bool) -> None:
    from sim import catalog
    from sim.report.screen import screen

    entries = [catalog.raw(kind, name) for name in catalog.names(kind)]
    if as_json:
        click.echo(json.dumps(entries, indent=1, default=str))
        return
    rows = [COLUMNS[kind], *(tuple(_cell(entry, column) for column in COLUMNS[kind]) for entry in entries)]
    click.echo("\n".join(screen().table(rows, left=range(len(rows[0])))))


#: Columns of each kind's list; a dot goes into a mapping, a mapping itself is shown by its keys.
COLUMNS = {
    "gpu": ("id", "memory", "memory_bandwidth", "flops.fp16", "flops.fp8", "tdp", "scale_up", "kernels.origin"),
    "link": ("id", "kind", "bandwidth", "efficiency", "latency", "message_overhead", "origin"),
    "fabric": ("id", "kind", "library", "alpha", "step", "bulk_alpha", "origin"),
    "model": ("id", "layers", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "context"),
    "stack": ("id", "version", "origin", "fitted_error"),
    "training-stack": ("id", "version", "origin", "gpus"),
    "lengths": ("id", "requests", "arrivals_per_s", "arrivals_cv", "spearman"),
    "failure": ("id", "per_1000_node_days", "classes", "origin", "source"),
    "price": ("id", "usd", "unit", "as_of", "source"),
    "machine": ("id", "node.gpus", "networks", "as_of", "source"),
    "network": ("id", "link", "most_nodes", "as_of", "source"),
}


def _cell(entry: dict[str, Any], column: str) -> str:
    if column == "per_1000_node_days":
        return _per_node_days(entry["classes"])
    value: Any = entry
    for step in column.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = ", ".join(value)
    elif isinstance(value, list):
        value = len(value)
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
