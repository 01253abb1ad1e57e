"""From what a scenario says of faults and recovery to the incidents of a serving job."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.errors import InfeasibleError
from sim.jobs.reliability.effects import Effect
from sim.jobs.reliability.faults import Failure, failures
from sim.jobs.reliability.terms import bounded, drawn, mtbf_of, recovery_phases, units_among
from sim.jobs.serving.incidents import Incidents, Kind, Places, Pool
from sim.laws.layout import Layout
from sim.laws.topology import Topology
from sim.laws.training.saving import card_rate
from sim.spec.reliability import FaultClass, Unit

UNITS: tuple[Unit, ...] = ("gpu", "node", "link", "switch", "job")


def incidents_of(
    resolved: Resolved, job: ResolvedServing, topology: Topology, layout: Layout, seed: np.random.SeedSequence
) -> Incidents | None:
    """What befalls the job's replicas; None where nothing fails. Two streams of ``seed``: faults, durations."""
    faults = resolved.scenario.faults
    if faults is None:
        return None
    drawing, durations = seed.spawn(2)
    places = Places(topology, layout, recorded=resolved.fault_trace is not None)
    loads = {replaced: load_seconds(topology, layout, replaced=replaced) for replaced in (False, True)}
    kinds = {c.name: _kind(c, job, loads[_replaces(c)]) for c in resolved.faults}
    stream: Iterator[Failure]
    if resolved.fault_trace is not None:
        stream = iter([Failure(time, name, unit) for time, name, unit in resolved.fault_trace])
    else:
        units = units_among(resolved, {per: places.count(per) for per in UNITS})
        advice = "a replica is hit again before it has recovered; fewer faults, or a shorter recovery"
        stream = bounded(failures([u for u in units if u.rate > 0.0], drawing), advice)
    pool = Pool(inf if faults.spares is None else float(faults.spares), drawn(faults.repair))
    startup, recorded = job.spec.recovery.startup or 0.0, len(resolved.fault_trace or ())
    return Incidents(stream, kinds, places, pool, np.random.default_rng(durations), startup, recorded)


def outlook(
    resolved: Resolved, job: ResolvedServing, topology: Topology, layout: Layout
) -> dict[str, float | str | None]:
    """What is known of a job's failures before anything is simulated: mean seconds between faults that stop a replica,
    seconds until the weights are loaded again (on the same nodes, and on new ones), and what becomes of requests."""
    places = Places(topology, layout)
    mtbf = mtbf_of(resolved, units_among(resolved, {per: places.count(per) for per in UNITS}))
    return {
        "mtbf_s": mtbf if mtbf < inf else None, "load_s": load_seconds(topology, layout, replaced=False),
        "load_on_new_nodes_s": load_seconds(topology, layout, replaced=True), "failover": job.spec.failover,
    }  # fmt: skip


def _replaces(c: FaultClass) -> bool:
    return c.repair and c.per != "job"


def _kind(c: FaultClass, job: ResolvedServing, load: float) -> Kind:
    recovery, plan = job.spec.recovery, job.spec.plan
    connect = recovery.connect + recovery.connect_per_rank * plan.tp * plan.pp
    times = recovery_phases(c, recovery, connect)
    if recovery.time is None and recovery.load is None:
        times.append(("restart", load))
    phases = tuple((bucket, drawn(time)) for bucket, time in times)
    effect = Effect(
        kind="save and stop" if c.planned else c.effect, phases=phases, factor=c.factor, seconds=drawn(c.lasts),
        timeout=c.timeout if c.timeout is not None else inf,
    )  # fmt: skip
    detects = not c.planned and c.notice is None and c.effect != "stall" and recovery.time is None
    return Kind(c.per, effect, _replaces(c), c.notice, detects)


def load_seconds(topology: Topology, layout: Layout, *, replaced: bool) -> float:
    """Seconds until a replica's weights are on its GPUs: from host memory over PCIe, all GPUs of a node at once; to a
    node that was ``replaced`` over its network cards first, if that takes longer. The slowest replica counts."""
    slowest = 0.0
    for replica in layout.replicas:
        links: dict[int, float] = {}
        nodes: dict[int, tuple[int, float]] = {}
        for stage in replica:
            for gpu in stage.gpus:
                memory = stage.memory[topology.gpus[gpu].gpu]
                size = memory.weights + memory.embeddings
                try:
                    way = topology.host_way(gpu, "memory", "gpu")
                except InfeasibleError:  # a node without host memory in its drawing
                    way = ()
                for link, weight in way:
                    links[link] = links.get(link, 0.0) + size * weight
                node = topology.gpus[gpu].node
                nodes[node] = gpu, nodes.get(node, (gpu, 0.0))[1] + size
        slowest = max([slowest, *(size / topology.capacity(link) for link, size in links.items())])
        if replaced:
            slowest = max([slowest, *(size / card_rate(topology, gpu) for gpu, size in nodes.values())])
    return slowest
