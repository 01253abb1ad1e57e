"""What leaves the GPUs for host memory or a drive, or comes from there: over which links, and how fast.

All GPUs of a stage copy their share at once, so that each gets

    rate = min over the links of its way of capacity / (crossings of all the stage's GPUs on its node)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.errors import InfeasibleError
from sim.laws.layout import Layout, StageLayout
from sim.laws.memory import StageMemory
from sim.laws.topology import Topology
from sim.laws.topology_parts import merged
from sim.spec.scenario import KvOffload, ServingJob
from sim.units import format_bytes

#: Where KV may go, and the stops of its way back.
WAYS = {"host": ("memory", "gpu"), "nvme": ("storage", "memory", "gpu")}
#: The vertex that holds it.
HOLDS = {"host": "memory", "nvme": "storage"}


def seconds_per_token(topology: Topology, stages: Sequence[StageLayout], tier: str) -> float:
    """Seconds in which every stage has a token's KV back from ``tier``."""
    return slowest_copy(topology, stages, tier, lambda memory: memory.kv_per_token)


def slowest_copy(
    topology: Topology, stages: Sequence[StageLayout], tier: str, size: Callable[[StageMemory], float]
) -> float:
    """Seconds in which every GPU has so many bytes from ``tier``: those of the slowest. Raises InfeasibleError where a
    node has no such tier."""
    slowest = 0.0
    for stage in stages:
        nodes: dict[int, list[int]] = {}
        for gpu in stage.gpus:
            nodes.setdefault(topology.gpus[gpu].node, []).append(gpu)
        for gpus in nodes.values():
            ways = {gpu: topology.host_way(gpu, *WAYS[tier]) for gpu in gpus}
            total = dict(merged(load for way in ways.values() for load in way))
            for gpu, way in ways.items():
                rate = min(topology.capacity(link) / total[link] for link, _ in way)
                slowest = max(slowest, size(stage.memory[topology.gpus[gpu].gpu]) / rate)
    return slowest


def bytes_per_token(stages: Sequence[StageLayout], topology: Topology) -> float:
    """Bytes of a token's KV on all GPUs of a replica."""
    return sum(stage.memory[topology.gpus[gpu].gpu].kv_per_token for stage in stages for gpu in stage.gpus)


def tokens_stored(topology: Topology, stages: Sequence[StageLayout], offload: KvOffload) -> int:
    """Tokens whose KV a replica's tier holds."""
    return int(offload.capacity // bytes_per_token(stages, topology))


def check_stores(spec: ServingJob, topology: Topology, layout: Layout) -> None:
    """Raise InfeasibleError where nodes have no room for what a job's replicas keep, each an even part on its nodes."""
    offload, pools = spec.batching.kv_offload, spec.disaggregate
    if offload is None:
        return
    asked: dict[int, float] = {}
    seen: dict[int, int] = {}
    for stages in layout.replicas[: pools.prefill if pools else None]:
        seconds_per_token(topology, stages, offload.to)  # there must be a way back
        nodes = {topology.gpus[gpu].node: gpu for stage in stages for gpu in stage.gpus}
        seen |= nodes
        for node in nodes:
            asked[node] = asked.get(node, 0.0) + offload.capacity / len(nodes)
    for node, gpu in seen.items():
        there = topology.host_capacity(gpu, HOLDS[offload.to])[1]
        if asked[node] > there:
            raise InfeasibleError(
                f"job {spec.name}: kv_offload keeps {format_bytes(offload.capacity)} for a replica and "
                f"{format_bytes(asked[node])} on a node, whose {HOLDS[offload.to]} holds {format_bytes(there)}"
            )
