"""Offloading: what leaves the GPU between its uses, over which links it goes, and how long that takes.

A byte's way (:data:`~sim.laws.training.layer.HOST_WAYS`) comes from the graph: GPU, its PCIe link, a shared PCIe
switch, the memory of its socket, the node's NVMe drives. All GPUs that a job has on a node march in step, so each gets

    rate = min over the links of its way of capacity / (crossings of all the job's GPUs on the node)

A memory's reads and writes share one rate; what goes on to a drive crosses it twice. With P parameters a rank answers
for (its shard of them under ZeRO), wb, gb and sb bytes of a weight, a gradient and the optimizer's states:

    optimizer    gradients  gb P down, as they are reduced: in every backward pass where each micro-batch's are (ZeRO 2
                            and 3 without a pipeline, or one data rank), which the host adds up; else in the last one
                 update     by the CPU, bound by its memory: (2 sb + 3 gb + wb) P / rate, as the GPU's own would be
                 weights    wb P up; with 16-bit gradients and one micro-batch 4 bytes a parameter cross PCIe in a step
                 nvme       gradients go on to the drives; the update reads sb + gb and writes sb, 28 B a parameter in
                            all with Adam
    parameters   a layer's weights (its shard under ZeRO-3) up before its forward and again before its backward pass,
                 in every micro-batch; after the update the new ones go where they are kept. Token table and head stay
    activations  what a layer keeps goes down beside its forward and comes up beside its backward pass

Of a move beside kernels min(both, [overlap] times the shorter) is hidden. Moves of one GPU take turns, up and down too;
where they meet the ring of a group on a link they take turns with sharded data as well. Of what an update moves as much
hides beside the CPU's work. Moves are booked on the axis ``offload`` over the link that binds. The CPU's update has an
axis of its own, ``cpu update`` over host memory, and is no launch: the GPU stands idle, and faster memory would help.

Not counted: adding gradients up on the host, conversion of gradients to FP32 before they leave (DeepSpeed's way, twice
the bytes: precision.gradients fp32 says so), pageable buffers, one CPU thread instead of all, other jobs on the node,
and an update delayed by a step. Sources: Ren et al. 2021, arXiv:2101.06840 (ZeRO-Offload: volumes, tiles of the update
copied while the next is computed); Rajbhandari et al. 2021, arXiv:2104.07857 (ZeRO-Infinity); DeepSpeed PR 7967 (each
micro-batch's gradients are copied).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from sim.errors import InfeasibleError
from sim.laws.topology import Topology
from sim.laws.topology_group import Loads
from sim.laws.topology_parts import merged
from sim.laws.training.layer import HOST_WAYS, Flow
from sim.laws.training.memory import kept_bytes, token_bytes
from sim.laws.training.ranks import Ranks
from sim.laws.training.stage import Chunk, update_bytes
from sim.spec.training import Offload, TrainingJob
from sim.spec.training_stack import TrainingStack
from sim.spec.transformer import Transformer
from sim.units import format_bytes

#: Tiers, the vertices that hold them, and their words in a refusal.
TIERS = {"host": ("memory", "host memory"), "nvme": ("storage", "nvme")}
EXAMPLES = {
    "host": "a vertex of kind memory, joined to its socket",
    "nvme": "nvme: {capacity: 4 TB, read: 7 GB/s, write: 5 GB/s}",
}


@dataclass(frozen=True, slots=True)
class HostWay:
    """The way of a GPU's bytes in a stage, while all the job's GPUs on its node move theirs.

    ``cap`` is its rate (B/s), ``latency`` in s, ``link`` the kind of link that binds in a reader's words; ``loads`` is
    what a byte of each of those GPUs puts on the links.
    """

    cap: float
    latency: float
    link: str
    loads: Loads


def ways_of(offload: Offload) -> tuple[str, ...]:
    """The ways that a plan's offloading takes."""
    found: dict[str, None] = {}
    if offload.activations == "host":
        found |= {"to host": None, "from host": None}
    if offload.parameters != "gpu":
        found[f"from {offload.parameters}"] = None
        if offload.optimizer == "gpu":
            found[f"to {offload.parameters}"] = None
        elif offload.parameters == "nvme":
            found["nvme write"] = None
    if offload.optimizer != "gpu":
        found |= {f"to {offload.optimizer}": None, "host update": None, "from host": None}
    if offload.optimizer == "nvme":
        found |= {"nvme read": None, "nvme write": None}
    return tuple(found)


class HostNetwork:
    """The ways between a job's GPUs and their hosts, each worked out once.

    ``folds``: the first node of a stage stands for all others.
    """

    def __init__(self, topology: Topology, ranks: Ranks, *, folds: bool) -> None:
        self.topology, self.ranks, self.folds = topology, ranks, folds
        self._ways: dict[tuple[str, int], HostWay] = {}
        self._nodes: dict[int, list[int]] = {}

    def links(self, kind: str, gpu: int) -> Loads:
        """What a byte of one GPU puts on the links."""
        return self.topology.host_way(gpu, *HOST_WAYS[kind])

    def way(self, kind: str, stage: int) -> HostWay:
        """The way of the slowest GPU of a stage."""
        found = self._ways.get((kind, stage))
        if found is None:
            found = self._ways[kind, stage] = min(self._candidates(kind, stage), key=lambda way: way.cap)
        return found

    def _candidates(self, kind: str, stage: int) -> list[HostWay]:
        r = self.ranks
        first = self.topology.gpus[r.at(pp=stage)].node
        nodes = {first: self._on_node(first, r.at(pp=stage))} if self.folds else self._by_node()
        seen: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
        found = []
        for gpus in nodes.values():
            mine = [g for g in gpus if self._stage_of(g) == stage]
            run, _, _ = self.topology.locate(gpus[0])
            locals_ = [tuple(self.topology.locate(g)[2] for g in part) for part in (gpus, mine)]
            key = (run.first_gpu, locals_[0], locals_[1])
            if not mine or key in seen:
                continue
            seen.add(key)
            loads = merged(load for gpu in gpus for load in self.links(kind, gpu))
            found += [self._way(kind, gpu, loads) for gpu in mine]
        return found

    def _way(self, kind: str, gpu: int, loads: Loads) -> HostWay:
        total, own = dict(loads), self.links(kind, gpu)
        shares = {link: self.topology.capacity(link) / total[link] for link, _ in own}
        binds = min(shares, key=lambda link: shares[link])
        latency = sum(self.topology.local_link(link)[0].rate.latency * weight for link, weight in own)
        return HostWay(shares[binds], latency, self._words(binds), loads)

    def _words(self, number: int) -> str:
        link, run, _ = self.topology.local_link(number)
        ends = [run.block.graph.nodes[end]["kind"] for end in (link.source, link.target)] if run is not None else []
        if "storage" in ends:
            return "nvme"
        return "host memory" if "memory" in ends and "gpu" not in ends else str(link.rate.kind)

    def _stage_of(self, gpu: int) -> int | None:
        rank = self.ranks.rank_of(gpu)
        return None if rank is None else self.ranks.coordinate(rank, "pp")

    def _on_node(self, node: int, gpu: int) -> list[int]:
        """The job's GPUs on the node of ``gpu``."""
        run, copy, _ = self.topology.locate(gpu)
        begin = run.first_gpu + copy * len(run.block.gpus)
        window = range(begin, begin + len(run.block.gpus))
        return [g for g in window if self.ranks.rank_of(g) is not None and self.topology.gpus[g].node == node]

    def _by_node(self) -> dict[int, list[int]]:
        if not self._nodes:
            for gpu in self.ranks.gpus:
                self._nodes.setdefault(self.topology.gpus[gpu].node, []).append(gpu)
        return self._nodes


class Offloading:
    """What one rank of a stage moves, as flows on ``ways``; ``crowded`` are kinds of groups that share links with
    them, ``cpu_update`` the share of host memory's rate that an update on the CPU reaches."""

    def __init__(
        self, model: Transformer, job: TrainingJob, stack: TrainingStack, ways: dict[str, HostWay],
        crowded: frozenset[str], cpu_update: float = 1.0,
    ) -> None:  # fmt: skip
        self.share = cpu_update
        self.job, self.tiers, self.ways, self.crowded = job, job.plan.offload, ways, crowded
        plan, batch = job.plan, job.batch
        self.keeps = [token_bytes(model, job, stack, mixture=mixture) for mixture in (False, True)]
        self.tokens = batch.micro * batch.sequence / plan.cp
        #: Whether gradients leave in every micro-batch.
        self.each = plan.pp == 1 and (plan.zero >= 2 or plan.dp * plan.cp == 1)

    def move(self, kind: str, nbytes: float) -> list[Flow]:
        """``nbytes`` on a way; nothing for none."""
        if nbytes <= 0.0:
            return []
        way = self.ways[kind]
        return [Flow(kind, way.latency, nbytes, way.cap)]

    def kept(self, chunk: Chunk, mixture: bool) -> float:
        """Activations that a layer of ``chunk`` leaves for its backward pass, a micro-batch's: where layers differ,
        the mean."""
        method = self.job.plan.recompute
        if isinstance(method, str) and method != "from_input":
            return self.tokens * kept_bytes(self.job.plan, [self.keeps[mixture]])
        layers = [self.keeps[False]] * chunk.dense + [self.keeps[True]] * chunk.mixture
        return self.tokens * kept_bytes(self.job.plan, layers) / len(layers)

    def forward(self, chunk: Chunk, mixture: bool, weights: float) -> list[Flow]:
        """Beside a layer's forward pass; ``weights`` bytes are those of its parameters (or shard)."""
        found = self._weights(weights)
        if self.tiers.activations == "host":
            found += self.move("to host", self.kept(chunk, mixture))
        return found

    def backward(self, chunk: Chunk, mixture: bool, weights: float, gradients: float) -> list[Flow]:
        """Beside its backward pass; ``gradients`` bytes are those of its shard."""
        found = self._weights(weights)
        if self.tiers.activations == "host":
            found += self.move("from host", self.kept(chunk, mixture))
        return found + (self.gradients(gradients) if self.each else [])

    def _weights(self, nbytes: float) -> list[Flow]:
        return [] if self.tiers.parameters == "gpu" else self.move(f"from {self.tiers.parameters}", nbytes)

    def gradients(self, nbytes: float) -> list[Flow]:
        """Gradients on their way to the optimizer."""
        return [] if self.tiers.optimizer == "gpu" else self.move(f"to {self.tiers.optimizer}", nbytes)

    def cpu_update(self, parameters: float) -> list[Flow]:
        """The CPU's update of ``parameters``, as traffic of its memory at the share of the rate that it reaches."""
        if self.tiers.optimizer == "gpu":
            return []
        flows = self.move("host update", update_bytes(self.job) * parameters)
        return [flow._replace(cap=flow.cap * self.share) for flow in flows]

    def update(self, layers: float, tables: float) -> list[Flow]:
        """What an update moves: states and gradients of the rank's parameters in ``layers`` and in ``tables`` from and
        to the drives, then the new weights to where they are kept."""
        tiers, precision, own = self.tiers, self.job.precision, layers + tables
        states, wb = precision.state_bytes(self.job.optimizer), precision.weight_bytes
        found: list[Flow] = []
        if tiers.optimizer == "nvme":
            found += self.move("nvme read", (states + precision.gradient_bytes) * own)
            found += self.move("nvme write", states * own)
        if tiers.optimizer == "gpu":
            return found if tiers.parameters == "gpu" else self.move(f"to {tiers.parameters}", wb * layers)
        if tiers.parameters == "nvme":
            found += self.move("nvme write", wb * layers)
        return found + self.move("from host", wb * (own if tiers.parameters == "gpu" else tables))


# ---- refusals


def check_tiers(spec: TrainingJob, ranks: Ranks, topology: Topology) -> None:
    """Raise InfeasibleError where a plan offloads to what a node lacks."""
    tiers = {what: tier for what, tier in spec.plan.offload.model_dump().items() if tier != "gpu"}
    seen: set[tuple[int, int]] = set()
    for gpu in ranks.gpus if tiers else ():
        run, _, local = topology.locate(gpu)
        if (run.first_gpu, local) in seen:
            continue
        seen.add((run.first_gpu, local))
        for what, tier in tiers.items():
            vertex, word = TIERS[tier]
            if not topology.host_capacity(gpu, vertex)[0]:
                raise InfeasibleError(
                    f"job {spec.name}: plan.offload puts {what} on {word}, but node {topology.gpus[gpu].template} has "
                    f"none: give it one, e.g. {EXAMPLES[tier]}"
                )


def check_capacity(
    spec: TrainingJob, ranks: Ranks, topology: Topology, offloaded: Callable[[int, str], dict[str, float]]
) -> None:
    """Raise InfeasibleError where the GPUs of a node offload more than it holds.

    ``offloaded`` gives bytes by tier of one GPU of a stage and type.
    """
    needs: dict[tuple[int, str], float] = {}
    example: dict[int, int] = {}
    for rank, gpu in enumerate(ranks.gpus) if spec.plan.offload != Offload() else ():
        site = topology.gpus[gpu]
        example.setdefault(site.node, gpu)
        for tier, nbytes in offloaded(ranks.coordinate(rank, "pp"), site.gpu).items():
            needs[site.node, tier] = needs.get((site.node, tier), 0.0) + nbytes
    for (node, tier), need in needs.items():
        vertex, word = TIERS[tier]
        count, capacity = topology.host_capacity(example[node], vertex)
        if need > capacity < inf:
            shares = f" ({count} sockets)" if count > 1 and tier == "host" else ""
            raise InfeasibleError(
                f"job {spec.name}: its GPUs on node {topology.gpus[example[node]].node_name} offload "
                f"{format_bytes(need)} to {word}, which holds {format_bytes(capacity)}{shares}; offload less, take "
                f"more nodes, or state a larger {'host_memory' if tier == 'host' else 'nvme'} capacity"
            )
