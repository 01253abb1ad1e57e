"""Arranging a scenario on its cluster: the graph, and every job's GPUs, stages and memory. No clock is needed."""

from __future__ import annotations

from sim.adapters.resolve import Resolved, ResolvedServing, ResolvedTraining
from sim.errors import InfeasibleError
from sim.laws.layout import Layout, lay_out, place
from sim.laws.layout_extras import with_extras
from sim.laws.topology import Topology, build_topology
from sim.laws.training.layout import TrainingLayout, lay_out_training


def parameter_scale(resolved: Resolved, job: ResolvedServing) -> float:
    """Factor on weights that makes what a pass reads equal to an assumed round parameter count."""
    wanted = resolved.scenario.assume.parameters
    if wanted is None:
        return 1.0
    model = job.model
    plain = (model.layers - model.mixture_layers) * model.layer_parameters
    mixed = model.mixture_layers * model.mixture_layer_parameters
    return wanted / (plain + mixed + model.embedding_parameters)


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


def layouts(resolved: Resolved, topology: Topology) -> list[Layout | TrainingLayout]:
    """Every job on its GPUs. Raises InfeasibleError where a plan does not fit."""
    taken: set[int] = set()
    found: list[Layout | TrainingLayout] = []
    unchecked = resolved.scenario.assume.kv_capacity == "unchecked"
    for job in resolved.jobs:
        if isinstance(job, ResolvedTraining):
            trained = lay_out_training(
                job.spec, job.model, job.stack, topology, taken, lambda g: resolved.gpus[g],
                unchecked=resolved.scenario.assume.memory == "unchecked",
                parameters=resolved.scenario.assume.parameters,
            )  # fmt: skip
            taken.update(trained.gpus)
            found.append(trained)
            continue
        spec = job.spec
        gpus = place(spec.plan, taken, len(topology.gpus), spec.name)
        taken.update(gpus)
        layout = lay_out(
            spec.name,
            job.model,
            job.stack,
            spec.plan,
            spec.precision,
            gpus,
            lambda g: resolved.gpus[topology.gpus[g].gpu],
            scale=parameter_scale(resolved, job),
            unchecked=unchecked,
            kv_cache=spec.batching.kv_cache,
        )
        found.append(with_extras(job, layout, unchecked=unchecked))
    return found
