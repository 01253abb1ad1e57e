"""Checkpoint writes as flows: from every writing node's cards to the store, or to the memory of the next node.

Each of the writers sends its part, bytes / writers. Its flow is spread over the node's cards by their rates; a store is
one more link, of the rate it takes in all. Alone the last part is written after

    bytes / min(store's rate, writers * cards)                     (sim.laws.training.saving, which has the whole law)

and among other flows by max-min. A time that the scenario states is a cap on the flows: it is what writing takes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from sim.engine.network import Network, Transfer
from sim.laws.topology import Topology
from sim.laws.topology_group import Loads
from sim.laws.training.ranks import Ranks
from sim.laws.training.saving import SavingTimes, nodes_of
from sim.spec.reliability import Storage
from sim.spec.training import TrainingJob


@dataclass(frozen=True, slots=True)
class Part:
    """What one node writes of a checkpoint: ``size`` bytes over ``links``, at ``cap`` B/s at most."""

    node: int
    links: Loads
    size: float
    cap: float


@dataclass(frozen=True, slots=True)
class Writing:
    """A job's checkpoints: seconds that work stands still before anything moves, what moves then (nothing where only
    its time is known), for how long if nothing moves, and whether work waits for it."""

    pause: float
    parts: tuple[Part, ...]
    seconds: float
    waits: bool

    def start(self, network: Network) -> list[Transfer]:
        """Put all parts on the network."""
        return [
            network.transfer(part.size, links=part.links, cap=part.cap, label=f"checkpoint of node {part.node}")
            for part in self.parts
        ]


def writing_of(
    job: TrainingJob, saving: SavingTimes, ranks: Ranks, topology: Topology, store: int | None
) -> Writing:
    """The job's checkpoints as flows; ``store`` is the link of its storage, where it has one."""
    checkpoint = job.checkpoint
    assert checkpoint is not None
    sync = checkpoint.mode == "sync"
    stated = checkpoint.blocking if sync else checkpoint.persist
    moves = isinstance(checkpoint.to, Storage) or (not sync and checkpoint.to is None)
    seconds = saving.blocking if sync else saving.persist
    parts: tuple[Part, ...] = ()
    if moves and seconds > 0.0:
        parts = _parts(job, saving.size, ranks, topology, store, None if stated is None else seconds)
    return Writing(0.0 if sync else saving.blocking, parts, seconds, sync)


def _parts(
    job: TrainingJob, size: float, ranks: Ranks, topology: Topology, store: int | None, stated: float | None
) -> tuple[Part, ...]:
    checkpoint, plan = job.checkpoint, job.plan
    assert checkpoint is not None
    nodes = list(nodes_of(topology, ranks.gpus))
    replica = plan.tp * plan.pp * plan.cp
    writers = len(nodes) if checkpoint.sharded else max(1, ceil(replica * len(nodes) / len(ranks.gpus)))
    first = {topology.gpus[gpu].node: gpu for gpu in reversed(ranks.gpus)}
    part = size / writers
    found = []
    for place, node in enumerate(nodes[:writers]):
        links = cards_of(topology, first[node], back=False)
        if checkpoint.mode == "memory":
            links += cards_of(topology, first[nodes[(place + 1) % len(nodes)]], back=True)
        if store is not None:
            links += ((store, 1.0),)
        found.append(Part(node, links, part, inf if stated is None else part / stated))
    return tuple(found)


def cards_of(topology: Topology, gpu: int, *, back: bool) -> Loads:
    """What a byte that leaves (or comes ``back`` to) a GPU's node puts on each of its cards, spread by their rates."""
    run, copy, local = topology.locate(gpu)
    block, base = run.block, run.base(copy)
    node = block.gpus[local].node
    mine = [port for port in block.ports if block.graph.nodes[port.vertex]["node"] == node]
    links = [port.back if back else port.out for port in mine]
    rates = [block.links[link].rate.capacity for link in links]
    whole = sum(rates)
    return tuple((base + link, rate / whole) for link, rate in zip(links, rates, strict=True))
