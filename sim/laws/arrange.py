"""Arranging a scenario on its cluster: the graph, and every job's GPUs, stages and memory. No clock is needed."""

from __future__ import annotations

from sim.adapters.resolve import Resolved, ResolvedJob
from sim.errors import InfeasibleError
from sim.laws.layout import Layout, lay_out, place
from sim.laws.topology import Topology, build_topology


def parameter_scale(resolved: Resolved, job: ResolvedJob) -> float:
    """Factor on weights that makes what a pass reads equal to an assumed round parameter count."""
    wanted = resolved.scenario.assume.parameters
    if wanted is None:
        return 1.0
    model = job.model
    return wanted / (model.layers * model.layer_parameters + model.embedding_parameters)


def topology_of(resolved: Resolved) -> Topology:
    """The cluster's graph, with the datasheet's links if the stacks say so."""
    modes = {job.stack.links for job in resolved.jobs}
    if len(modes) > 1:
        raise InfeasibleError("jobs with datasheet links (stack ideal) and measured links cannot share a cluster")
    return build_topology(
        resolved.topology,
        gpu=resolved.gpus.__getitem__,
        link=resolved.links.__getitem__,
        datasheet_links=modes == {"datasheet"},
        network_override=resolved.scenario.cluster.network,
    )


def layouts(resolved: Resolved, topology: Topology) -> list[Layout]:
    """Every job on its GPUs. Raises InfeasibleError where a plan does not fit."""
    taken: set[int] = set()
    found = []
    for job in resolved.jobs:
        spec = job.spec
        gpus = place(spec.plan, taken, len(topology.gpus), spec.name)
        taken.update(gpus)
        found.append(
            lay_out(
                spec.name,
                job.model,
                job.stack,
                spec.plan,
                spec.precision,
                gpus,
                lambda g: resolved.gpus[topology.gpus[g].gpu],
                scale=parameter_scale(resolved, job),
                unchecked=resolved.scenario.assume.kv_capacity == "unchecked",
            )
        )
    return found
