"""How long a checkpoint takes to write and to load, over the job's real links.

    bytes       trained weights and their optimizer state (Adam in mixed precision: 2 + 12 a parameter), no gradients
    sharded     every GPU writes 1/GPUs of them; else the GPUs of one data-parallel replica write all
    away        rate = min(store's write rate, cards of the writing nodes);  nvme: the writing nodes' drives
    sync        stands still for bytes / rate
    async       stands still while each GPU copies its part to host memory, then bytes / rate beside the work
    memory      the same, to the memory of a peer node over the cards; nothing leaves the cluster
    load        one replica's bytes are read at min(store's read rate, cards), the others get them from it

Writing beside the work takes its share of the cards. The stretch of a step that waits for the network then takes
1/(1 - x) times as long, x the share of the cards' rate that writing takes, at most a half (max-min between the two).
Source: docs/model.md, "Checkpoints"; MegaScale (arXiv:2402.15627) for one reader a replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from sim.errors import InfeasibleError
from sim.laws.topology import Topology
from sim.laws.topology_parts import Block
from sim.laws.training.groups import GroupNetwork
from sim.laws.training.ranks import Ranks
from sim.laws.training.stage import chunks_of, held_by
from sim.spec.reliability import Checkpoint, Storage
from sim.spec.training import TrainingJob
from sim.spec.transformer import Transformer


@dataclass(frozen=True, slots=True)
class SavingTimes:
    """A checkpoint: its bytes, seconds that work stands still, seconds of writing after that, what a step's network
    time is stretched by meanwhile, and seconds of loading one."""

    size: float
    blocking: float
    persist: float
    stretch: float
    load: float


def checkpoint_bytes(
    model: Transformer, job: TrainingJob, scale: float = 1.0, checkpoint: Checkpoint | None = None
) -> float:
    """Bytes of the whole job's state: trained weights, their master copies and optimizer state."""
    checkpoint = checkpoint or job.checkpoint
    stated = checkpoint.bytes_per_parameter if checkpoint is not None else None
    precision, plan = job.precision, job.plan
    each = stated or precision.weight_bytes + precision.state_bytes(job.optimizer)
    trained = 0.0
    for chunks in chunks_of(model, plan):
        held = held_by(model, job, chunks, scale)
        trained += plan.tp * (held.trained_dense + plan.ep * held.trained_expert)
    return each * trained


def nodes_of(topology: Topology, gpus: Sequence[int]) -> Sequence[int]:
    """The nodes that hold these GPUs, by number."""
    if isinstance(gpus, range) and len(topology.runs) == 1 and len(topology.runs[0].block.nodes) == 1:
        per_node = len(topology.runs[0].block.gpus)
        return range(gpus[0] // per_node, gpus[-1] // per_node + 1)
    return sorted({topology.gpus[gpu].node for gpu in gpus})


def saving_times(
    model: Transformer, job: TrainingJob, ranks: Ranks, topology: Topology, network: GroupNetwork, scale: float = 1.0,
    checkpoint: Checkpoint | None = None,
) -> SavingTimes:  # fmt: skip
    """Times of the job's checkpoints, of one of their levels (left out: the first).

    Raises InfeasibleError for a place that there is not.
    """
    checkpoint = checkpoint or job.checkpoint
    assert checkpoint is not None
    size = checkpoint_bytes(model, job, scale, checkpoint)
    nodes = len(nodes_of(topology, ranks.gpus))
    replica = job.plan.tp * job.plan.pp * job.plan.cp
    writers = nodes if checkpoint.sharded else max(1, ceil(replica * nodes / len(ranks.gpus)))
    cards = card_rate(topology, ranks.gpus[0])
    if checkpoint.mode == "memory" and nodes == 1:
        raise InfeasibleError(f"job {job.name}: checkpoints go to a peer node's memory, but the job is on one node")
    write, read = _rates(checkpoint, topology, ranks, writers, cards, job.name)
    seconds = size / write if write < inf else 0.0
    gpus = len(ranks.gpus) if checkpoint.sharded else replica
    copy = size / gpus / network.host.way("to host", 0).cap if checkpoint.mode != "sync" else 0.0
    blocking, persist = (seconds, 0.0) if checkpoint.mode == "sync" else (copy, seconds)
    if checkpoint.blocking is not None:
        blocking = checkpoint.blocking
        persist = persist if checkpoint.to is not None or checkpoint.mode == "memory" else 0.0
    if checkpoint.persist is not None:
        persist = checkpoint.persist
    share = 0.0
    if persist > 0.0 and cards < inf and checkpoint.to != "nvme":
        share = min(0.5, size / writers / persist / cards)
    return SavingTimes(size, blocking, persist, 1.0 / (1.0 - share), size / read if read < inf else 0.0)


def moving_time(
    model: Transformer, job: TrainingJob, ranks: Ranks, topology: Topology, scale: float = 1.0
) -> float:
    """Seconds in which a node's state gets to another node over its cards: what its GPUs hold of trained weights and
    optimizer state, the mean over stages (ZeRO 1 and 2 shard the state, 3 both)."""
    plan, precision = job.plan, job.precision
    shards = plan.dp * plan.cp
    weight = precision.weight_bytes / (shards if plan.zero == 3 else 1)
    state = precision.state_bytes(job.optimizer) / (shards if plan.zero else 1)
    stages = chunks_of(model, plan)
    held = [held_by(model, job, chunks, scale) for chunks in stages]
    each = (weight + state) * sum(h.trained_dense + h.trained_expert for h in held) / len(held)
    gpus = ceil(len(ranks.gpus) / len(nodes_of(topology, ranks.gpus)))
    return each * gpus / card_rate(topology, ranks.gpus[0])


def _rates(
    checkpoint: Checkpoint, topology: Topology, ranks: Ranks, writers: int, cards: float, job: str
) -> tuple[float, float]:
    """Bytes/s of writing and of reading, all nodes together."""
    away = writers * cards
    if isinstance(checkpoint.to, Storage):
        read = checkpoint.to.read or checkpoint.to.write
        return min(checkpoint.to.write, away), min(read, away)
    if checkpoint.to == "nvme":
        run, _, local = topology.locate(ranks.gpus[0])
        block = run.block
        drives = block.held(block.gpus[local].node, "storage")
        if not drives:
            raise InfeasibleError(f"job {job}: checkpoints go to nvme, but the nodes have none (nodes.nvme)")
        rates = [_drive(block, drive) for drive in drives]
        return writers * sum(w for w, _ in rates), writers * sum(r for _, r in rates)
    return away, away  # a peer's memory


def _drive(block: Block, drive: str) -> tuple[float, float]:
    """Rates at which a drive is written and read."""
    graph, links = block.graph, block.links
    into = [links[d["link"]].rate.capacity for _, _, d in graph.in_edges(drive, data=True) if d["link"] is not None]
    out = [links[d["link"]].rate.capacity for _, _, d in graph.out_edges(drive, data=True) if d["link"] is not None]
    return min(into, default=inf), min(out, default=inf)


def card_rate(topology: Topology, gpu: int) -> float:
    """Usable bytes/s of all network cards of a GPU's node together; inf where it has none (one node alone)."""
    run, _, local = topology.locate(gpu)
    block = run.block
    node = block.gpus[local].node
    mine = [port for port in block.ports if block.graph.nodes[port.vertex]["node"] == node]
    rates = [block.links[port.out].rate.capacity for port in mine]
    return sum(rates) if rates else inf
