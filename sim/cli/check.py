"""``sim check``: does it fit, and what would it use? No simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import load, scenario_options

if TYPE_CHECKING:
    from sim.adapters.resolve import Resolved, ResolvedJob
    from sim.laws.layout import Layout
    from sim.laws.topology import Topology


@click.command("check")
@scenario_options
def command(scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool) -> None:
    """Check SCENARIO without simulating: memory per GPU against capacity, plan, routes, assumptions.

    Exit code 2: the input is wrong. Exit code 3: it cannot fit, and the budget shows why.
    """
    from sim.laws.arrange import layouts, topology_of

    resolved = load(scenario, overrides, seed)
    topology = topology_of(resolved)
    found = [_job(resolved, job, layout, topology) for job, layout in
             zip(resolved.jobs, layouts(resolved, topology), strict=True)]  # fmt: skip
    answer = {"scenario": resolved.scenario.name, "cluster": topology.summary(), "gpus": len(topology.gpus),
              "feasible": True, "jobs": found}  # fmt: skip
    if as_json:
        click.echo(json.dumps(answer, indent=1))
        return
    click.echo(f"{resolved.scenario.name} - {topology.summary()}")
    for job in found:
        click.echo(_text(job))
    for line in _assumed(resolved):
        click.echo(f"assumed     {line}")
    click.echo("fits        yes")


def _job(resolved: Resolved, job: ResolvedJob, layout: Layout, topology: Topology) -> dict[str, Any]:
    from sim.laws.layout import check_shortest

    spec = job.spec
    unchecked = resolved.scenario.assume.kv_capacity == "unchecked"
    prompt, output = spec.load.prompt_tokens, spec.load.output_tokens
    if isinstance(prompt, int) and isinstance(output, int):  # drawn lengths are known once they are drawn
        check_shortest(spec.name, job.model, layout, prompt + output, unchecked=unchecked)
    stages: dict[tuple[object, ...], dict[str, Any]] = {}
    for replica, tokens in zip(layout.replicas, layout.tokens, strict=True):
        for stage in replica:
            for gpu, memory in stage.memory.items():
                row = stages.setdefault((stage.number, gpu, stage.layers, tokens), {
                    "stage": stage.number, "gpu": gpu, "gpus": [], "layers": stage.layers,
                    "capacity_bytes": memory.capacity, "parts": memory.parts(max(0, tokens)),
                })  # fmt: skip
                row["gpus"] += [g for g in stage.gpus if topology.gpus[g].gpu == gpu]
    return {
        "name": spec.name, "model": job.model.id, "parameters": job.model.parameters, "stack": job.stack.id,
        "weights": spec.precision.weights, "kv": spec.precision.kv, "tp": spec.plan.tp, "pp": spec.plan.pp,
        "dp": spec.plan.dp, "kv_checked": not unchecked, "kv_tokens_per_replica": max(0, min(layout.tokens)),
        "context": job.model.context, "memory": list(stages.values()), "routes": _routes(layout, topology),
    }  # fmt: skip


def _routes(layout: Layout, topology: Topology) -> list[dict[str, Any]]:
    """The hops of replica 0, and where its tensor groups sit; equal ones once."""
    from sim.units import format_bandwidth, format_seconds

    stages = layout.replicas[0]
    rows: dict[str, dict[str, Any]] = {}
    for i, stage in enumerate(stages):
        if len(stage.gpus) > 1:
            site = topology.site(stage.gpus)
            where = f"{site.kind}, {site.nodes} node{'s' if site.nodes > 1 else ''}"
            text = f"{where}, each member {format_bandwidth(site.member_bandwidth)} a direction"
            rows.setdefault(f"tp: {text}", {"what": f"tp {len(stage.gpus)} of stage {stage.number}", "way": text})
        if len(stages) > 1:
            route = topology.route(stage.gpus[0], stages[(i + 1) % len(stages)].gpus[0])
            text = (
                f"{route.kind}{' through host memory' if route.staged else ''}, {format_bandwidth(route.cap)}, "
                f"latency {format_seconds(route.latency)}, {format_seconds(route.overhead)} a message"
            )
            target = (i + 1) % len(stages)
            rows.setdefault(f"pp: {text}", {"what": f"stage {stage.number} to stage {target}", "way": text})
    return list(rows.values())


def _assumed(resolved: Resolved) -> list[str]:
    assume = resolved.scenario.assume
    given = assume.model_dump(exclude_defaults=True, exclude_none=True)
    return [f"{key}: {value}" for key, value in given.items()]


def _text(job: dict[str, Any]) -> str:
    from sim.units import format_bytes

    lines = [
        f"job         {job['name']}: {job['model']} ({job['parameters'] / 1e9:.2f} B), {job['weights']} weights, "
        f"{job['kv']} KV, tp {job['tp']} pp {job['pp']} dp {job['dp']}, stack {job['stack']}"
    ]
    head = ("stage", "gpu", "layers", "capacity", *job["memory"][0]["parts"])
    rows = [head] + [
        (str(s["stage"]), s["gpu"], str(s["layers"]), format_bytes(s["capacity_bytes"]),
         *(format_bytes(v) for v in s["parts"].values()))
        for s in job["memory"]
    ]  # fmt: skip
    rows = _merged(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines += ["  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    tokens = job["kv_tokens_per_replica"]
    requests = f"{tokens // job['context']} requests of the full {job['context']:,} tokens of context"
    checked = "" if job["kv_checked"] else " (not checked in the run: assumed)"
    least = "at least " if len({s["gpu"] for s in job["memory"]}) > 1 else ""
    lines.append(f"KV cache    {least}{tokens:,} tokens a replica, {requests}{checked}")
    lines += [f"route       {row['what']}: {row['way']}" for row in job["routes"]]
    return "\n".join(lines)


def _merged(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows that differ only in the stage become one, e.g. stages 1-6."""
    out = [rows[0]]
    first = ""
    for row in rows[1:]:
        if out[-1][1:] == row[1:]:
            out[-1] = (f"{first}-{row[0]}", *row[1:])
        else:
            first = row[0]
            out.append(row)
    return out
