"""``sim check``: does it fit, and what would it use? No simulation."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.cli.common import load, scenario_options

if TYPE_CHECKING:
    from sim.adapters.resolve import Resolved, ResolvedServing, ResolvedTraining
    from sim.laws.layout import Layout
    from sim.laws.topology import Topology
    from sim.laws.training.groups import GroupNetwork
    from sim.laws.training.layout import TrainingLayout
    from sim.report.screen import Screen
    from sim.spec.training import TrainingPlan


@click.command("check")
@scenario_options
def command(scenario: Path, overrides: tuple[str, ...], seed: int | None, as_json: bool) -> None:
    """Check SCENARIO without simulating: memory per GPU against capacity, plan, routes, assumptions.

    Exit code 2: the input is wrong. Exit code 3: it cannot fit, and the budget shows why.
    """
    from sim.laws.arrange import layouts, topology_of
    from sim.laws.layout import Layout

    resolved = load(scenario, overrides, seed)
    topology = topology_of(resolved)
    found = []
    for job, layout in zip(resolved.jobs, layouts(resolved, topology), strict=True):
        if isinstance(layout, Layout):
            found.append(_job(resolved, job, layout, topology))  # type: ignore[arg-type]
        else:
            found.append(_training_job(resolved, job, layout, topology))  # type: ignore[arg-type]
    idle = len(topology.gpus) - sum(map(_gpus_of, found))
    answer = {"scenario": resolved.scenario.name, "cluster": topology.summary(), "gpus": len(topology.gpus),
              "idle_gpus": idle, "feasible": True, "jobs": found}  # fmt: skip
    if as_json:
        click.echo(json.dumps(answer, indent=1))
        return
    from sim.report.screen import screen

    here = screen()
    lines = [f"{resolved.scenario.name} - {topology.summary()}"]
    for row in found:
        lines += _training_lines(row, here) if row["kind"] == "training" else _lines(row, here)
    lines += [f"assumed     {line}" for line in _assumed(resolved)]
    if idle:
        lines.append(f"idle        {idle:,} of the {len(topology.gpus):,} GPUs have no job; all of them are paid for")
    # Tables fit already; labelled lines go on below what they say.
    told = [line if line.startswith(" ") else here.prose(line, None, "", " " * 12) for line in lines]
    click.echo("\n".join([*told, "fits        yes"]))


def _gpus_of(job: dict[str, Any]) -> int:
    """GPUs that a job has."""
    if job["kind"] == "training":
        return int(job["gpus"])
    return len({gpu for stage in job["memory"] for gpu in stage["gpus"]})


def _job(resolved: Resolved, job: ResolvedServing, layout: Layout, topology: Topology) -> dict[str, Any]:
    from sim.jobs.serving.host_copies import check_stores
    from sim.laws.layout import check_shortest

    spec = job.spec
    check_stores(spec, topology, layout)
    unchecked = resolved.scenario.assume.kv_capacity == "unchecked"
    prompt, output = spec.load.prompt_tokens, spec.load.output_tokens
    if isinstance(prompt, int) and isinstance(output, int):  # drawn lengths are known once they are drawn
        unlimited = unchecked or not spec.batching.kv_cache
        check_shortest(spec.name, job.model, layout, prompt + output, unchecked=unlimited)
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
        "name": spec.name, "kind": "serving", "model": job.model.id, "parameters": job.model.parameters,
        "active_parameters": job.model.active_parameters,
        "stack": job.stack.id, "weights": spec.precision.weights, "kv": spec.precision.kv, "tp": spec.plan.tp,
        "pp": spec.plan.pp, "dp": spec.plan.dp, "ep": spec.plan.ep, "attention": spec.plan.attention,
        "kv_cache": spec.batching.kv_cache, "kv_checked": not unchecked,
        "kv_tokens_per_replica": max(0, min(layout.tokens)),
        "context": job.model.context, "memory": list(stages.values()), "routes": _routes(layout, topology),
        "reliability": _outlook(resolved, job, layout, topology),
    }  # fmt: skip


def _outlook(
    resolved: Resolved, job: ResolvedServing, layout: Layout, topology: Topology
) -> dict[str, float | str | None] | None:
    """What is known of a serving job's failures; None where nothing fails."""
    if resolved.scenario.faults is None:
        return None
    from sim.jobs.serving.reliability import outlook

    return outlook(resolved, job, topology, layout)


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


def _training_job(
    resolved: Resolved, job: ResolvedTraining, layout: TrainingLayout, topology: Topology
) -> dict[str, Any]:
    """Memory by stage and part, the ways of each axis, and what would have to change where little is left."""
    from sim.laws.training.groups import GroupNetwork
    from sim.laws.training.layout import micro_batches_of

    spec = job.spec
    first = topology.gpus[layout.ranks.gpus[0]].gpu
    network = GroupNetwork(topology, layout.ranks, resolved.fabrics, job.stack, job.stack.constants_for(first))
    stages = [
        {
            "stage": stage.number, "gpu": gpu, "gpus": stage.counts[gpu], "layers": stage.layers,
            "in_flight": stage.in_flight, "capacity_bytes": memory.capacity, "parts": memory.budget(),
            "offloaded": memory.host,
        }
        for stage in layout.stages
        for gpu, memory in stage.memory.items()
    ]  # fmt: skip
    plan = spec.plan
    return {
        "name": spec.name, "kind": "training", "model": job.model.id, "parameters": job.model.parameters,
        "stack": job.stack.id, "compute": spec.precision.compute, "optimizer": spec.optimizer,
        "plan": plan.model_dump(mode="json", exclude_defaults=True), "gpus": plan.gpus, "micro_batches":
        micro_batches_of(spec), "global_batch_tokens": spec.batch.whole * spec.batch.sequence,
        "memory_checked": resolved.scenario.assume.memory == "checked", "memory_peak_bytes": layout.fullest.used,
        "memory": stages, "routes": _training_routes(spec.plan, network),
        "reliability": _reliability(resolved, job, layout, topology, network),
    }  # fmt: skip


def _reliability(
    resolved: Resolved, job: ResolvedTraining, layout: TrainingLayout, topology: Topology, network: GroupNetwork
) -> dict[str, float | None] | None:
    """How often the job stops, and what a checkpoint takes; None where nothing fails and nothing is saved."""
    if resolved.scenario.faults is None and job.spec.checkpoint is None:
        return None
    from sim.jobs.reliability.terms import mtbf_of, units_of

    mtbf = mtbf_of(resolved, units_of(resolved, topology, layout.gpus))
    known: dict[str, float | None] = {"mtbf_s": mtbf if mtbf < inf else None}
    if job.spec.checkpoint is not None:
        from sim.laws.training.saving import saving_times

        scale = job.model.scale_to(resolved.scenario.assume.parameters)
        for number, level in enumerate(job.spec.checkpoint.levels):
            saving = saving_times(job.model, job.spec, layout.ranks, topology, network, scale, level)
            name = f"checkpoint_{number + 1}" if number else "checkpoint"
            known |= {
                f"{name}_bytes": saving.size, f"{name}_blocking_s": saving.blocking,
                f"{name}_persist_s": saving.persist, f"{name}_load_s": saving.load,
            }  # fmt: skip
    return known


def _training_routes(plan: TrainingPlan, network: GroupNetwork) -> list[dict[str, Any]]:
    """How each axis with more than one member talks, on the first stage."""
    from sim.units import format_bandwidth, format_seconds

    rows = []
    kinds = [("tp", plan.tp), ("cp", plan.cp), ("ep", plan.ep), ("data", plan.dp * plan.cp)]
    for kind, size in kinds:
        if size > 1 and not (kind == "data" and plan.parameter_server is not None):
            way = network.way(kind)
            p = way.parameters
            inside = f"{format_bandwidth(p.bulk_bandwidth)} a member" if p.per_node > 1 else ""
            between = f"{format_bandwidth(p.inter.bandwidth)} a member between {p.inter.nodes} nodes" if p.inter else ""
            name = "dp" if kind == "data" else kind
            text = ", ".join(x for x in (way.link, inside, between) if x)
            rows.append({"what": f"{name} {size}", "way": text})
    if plan.pp > 1:
        hop = network.hop(0, 1)
        link = f"{hop.kind}{' through host memory' if hop.staged else ''}"
        rate, latency = format_bandwidth(hop.cap), format_seconds(hop.latency)
        rows.append({"what": "stage 0 to stage 1", "way": f"{link}, {rate} a rank, latency {latency}"})
    return rows


def _training_lines(job: dict[str, Any], here: Screen) -> list[str]:
    from sim.units import format_bytes, format_percent

    degrees = " ".join(f"{k} {v}" for k, v in job["plan"].items() if not isinstance(v, (dict, list))) or "1 GPU"
    lines = [
        f"job         {job['name']}: training {job['model']} ({job['parameters'] / 1e9:.2f} B) in {job['compute']}, "
        f"{degrees}, {job['gpus']:,} GPUs, stack {job['stack']}",
        f"batch       {job['global_batch_tokens']:,} tokens a step, {job['micro_batches']} micro-batches a replica",
    ]
    shown = [part for part in job["memory"][0]["parts"] if any(s["parts"][part] for s in job["memory"])]
    head = ("stage", "gpu", "layers", "in flight", "capacity", *shown)
    rows = [head] + [
        (str(s["stage"]), s["gpu"], str(s["layers"]), str(s["in_flight"]), format_bytes(s["capacity_bytes"]),
         *(format_bytes(s["parts"][part]) for part in shown))
        for s in job["memory"]
    ]  # fmt: skip
    lines += here.table(_merged(rows), keys=2, indent="  ")
    tiers: dict[str, float] = {}
    for s in job["memory"]:
        for tier, size in s["offloaded"].items():
            tiers[tier] = max(size, tiers.get(tier, 0.0))
    lines += [f"offloaded   up to {format_bytes(size)} a GPU to {tier}" for tier, size in tiers.items()]
    fullest = max(job["memory"], key=lambda s: job["memory_peak_bytes"] / s["capacity_bytes"])
    share = job["memory_peak_bytes"] / fullest["capacity_bytes"]
    checked = "" if job["memory_checked"] else " (not checked in the run: assumed)"
    lines.append(f"peak        {format_bytes(job['memory_peak_bytes'])}, {format_percent(share)} of a GPU{checked}")
    lines += [f"route       {row['what']}: {row['way']}" for row in job["routes"]]
    return lines + _reliability_text(job["reliability"] or {})


def _reliability_text(found: dict[str, float | None]) -> list[str]:
    from sim.units import format_bytes, format_seconds

    lines = []
    if (mtbf := found.get("mtbf_s")) is not None:
        lines.append(f"failures    one stop every {format_seconds(mtbf)} expected")
    parts = (("standing still for", "blocking"), ("then written in", "persist"), ("loaded in", "load"))
    for level in [key.removesuffix("_bytes") for key in found if key.endswith("_bytes")]:
        times = [f"{words} {format_seconds(found[f'{level}_{name}_s'] or 0.0)}" for words, name in parts
                 if found[f"{level}_{name}_s"]]  # fmt: skip
        lines.append(f"checkpoint  {', '.join([format_bytes(found[f'{level}_bytes'] or 0.0), *times])}")
    return lines


def _assumed(resolved: Resolved) -> list[str]:
    assume = resolved.scenario.assume
    given = assume.model_dump(exclude_defaults=True, exclude_none=True)
    return [f"{key}: {value}" for key, value in given.items()]


def _lines(job: dict[str, Any], here: Screen) -> list[str]:
    from sim.units import format_bytes

    met = job["active_parameters"]
    active = f", {met / 1e9:.2f} B met by a token" if met < job["parameters"] else ""
    spread = f" ep {job['ep']}" if job["ep"] > 1 else ""
    spread += " attention data" if job["attention"] == "data" else ""
    kv = job["kv"] if job["kv_cache"] else "no"
    lines = [
        f"job         {job['name']}: {job['model']} ({job['parameters'] / 1e9:.2f} B{active}), "
        f"{job['weights']} weights, {kv} KV, tp {job['tp']} pp {job['pp']} dp {job['dp']}{spread}, "
        f"stack {job['stack']}"
    ]
    head = ("stage", "gpu", "layers", "capacity", *job["memory"][0]["parts"])
    rows = [head] + [
        (str(s["stage"]), s["gpu"], str(s["layers"]), format_bytes(s["capacity_bytes"]),
         *(format_bytes(v) for v in s["parts"].values()))
        for s in job["memory"]
    ]  # fmt: skip
    lines += here.table(_merged(rows), keys=2, indent="  ")
    lines.append(f"KV cache    {_cache_text(job)}")
    lines += [f"route       {row['what']}: {row['way']}" for row in job["routes"]]
    return lines + _outlook_text(job["reliability"] or {})


def _cache_text(job: dict[str, Any]) -> str:
    """What a replica's KV cache holds."""
    if not job["kv_cache"]:
        return "none (batching.kv_cache): nothing is held between passes, each computes whole contexts again"
    tokens = job["kv_tokens_per_replica"]
    requests = f"{tokens // job['context']} requests of the full {job['context']:,} tokens of context"
    checked = "" if job["kv_checked"] else " (not checked in the run: assumed)"
    least = "at least " if len({s["gpu"] for s in job["memory"]}) > 1 else ""
    return f"{least}{tokens:,} tokens a replica, {requests}{checked}"


def _outlook_text(found: dict[str, Any]) -> list[str]:
    """What is known of a serving job's failures, as lines."""
    from sim.units import format_seconds

    if not found:
        return []
    often = f"one outage every {format_seconds(found['mtbf_s'])} expected, " if found["mtbf_s"] else ""
    again, anew = format_seconds(found["load_s"]), format_seconds(found["load_on_new_nodes_s"])
    return [f"failures    {often}weights load in {again}, on new nodes in {anew}; failover {found['failover']}"]


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
