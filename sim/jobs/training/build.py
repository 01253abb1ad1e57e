"""From values to a training step that can be played: replicas in classes, stages, passes, ways and hops.

Data-parallel replicas whose stages have equal GPUs, at equal speed and at the end of equal hops, play the same step:
one stands for all of them. A slow GPU, a card of another type or a longer way unfolds its replica into a class of
its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from sim.adapters.resolve import Resolved, ResolvedTraining
from sim.errors import InfeasibleError
from sim.laws.collective import pieces
from sim.laws.topology import Topology
from sim.laws.training.groups import GroupNetwork, HopWay, crosses_nodes
from sim.laws.training.layer import HOST_WAYS, LayerLaw, Rates, rates_of
from sim.laws.training.layout import micro_batches_of, order_of
from sim.laws.training.offload import HostWay, Offloading, ways_of
from sim.laws.training.pipeline import Hop, PipelineTimes
from sim.laws.training.ranks import Ranks
from sim.laws.training.schedule import Order
from sim.laws.training.stage import Chunk, ChunkPasses, StageLaw, Sync, chunks_of

#: Kinds of groups a pass or a step may talk in, and the axis they are booked under.
AXIS_OF = {
    "tp": "tp", "cp": "cp", "ep": "ep", "data": "dp", "node": "dp", "across": "dp", "expert_data": "dp", "pp": "pp",
    **dict.fromkeys(HOST_WAYS, "offload"), "host update": "cpu update",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """GPUs of one type and speed in a stage, and their passes. ``count`` of them are in one replica.

    ``recomputed``: seconds a micro-batch in which kernels compute what was computed before.
    """

    gpu: str
    factor: float
    count: int
    rates: Rates
    passes: tuple[ChunkPasses, ...]
    sync: Sync
    recomputed: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A pipeline stage of a class of replicas. ``gpus`` are those of the class's first replica.

    ``lead`` is the slowest member, which the others wait for; ``links`` the kind of link by kind of group.
    """

    number: int
    gpus: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    members: tuple[Member, ...]
    links: dict[str, str]

    @property
    def lead(self) -> Member:
        """The member whose passes take longest."""
        return max(self.members, key=lambda m: sum(p.forward.seconds + p.backward.seconds for p in m.passes))


@dataclass(frozen=True, slots=True)
class Send:
    """A hop between two stages: ``size`` bytes a rank, of which stages wait for ``exposed``, at ``cap`` B/s; software
    and way in s."""

    size: float
    exposed: float
    cap: float
    overhead: float
    latency: float
    link: str
    queue: Hashable
    way: HopWay

    @property
    def hop(self) -> Hop:
        """As the pipeline's law wants it."""
        return Hop(self.exposed / self.cap + self.overhead, self.latency, self.queue)


NO_HOP = Hop(0.0, 0.0, None)


@dataclass(frozen=True, slots=True)
class ReplicaClass:
    """``count`` replicas that play the same; ``dp`` is the first of them, ``replicas`` all."""

    dp: int
    replicas: tuple[int, ...] | range
    stages: tuple[Stage, ...]
    forward: tuple[Send | None, ...]
    backward: tuple[Send | None, ...]

    @property
    def count(self) -> int:
        """Replicas of the class."""
        return len(self.replicas)

    def times(self) -> PipelineTimes:
        """What the pipeline's law needs: the lead member's passes and the hops."""
        leads = [stage.lead for stage in self.stages]
        return PipelineTimes(
            forward=[[p.forward.seconds for p in m.passes] for m in leads],
            backward=[[p.backward.seconds for p in m.passes] for m in leads],
            weight=[[p.weight.seconds for p in m.passes] for m in leads],
            forward_hops=[send.hop if send else NO_HOP for send in self.forward],
            backward_hops=[send.hop if send else NO_HOP for send in self.backward],
        )


@dataclass(frozen=True, slots=True)
class TrainingBuild:
    """A job ready to play: its ranks and network, the schedule, and its classes of replicas."""

    job: ResolvedTraining
    ranks: Ranks
    network: GroupNetwork
    order: Order
    micro_batches: int
    classes: tuple[ReplicaClass, ...]
    slow: dict[int, float]
    step_overhead: float

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.spec.name


class Builder:
    """Builds one job on its ranks; equal stages on equal GPUs share their law (``alone``: see GroupNetwork)."""

    def __init__(
        self, resolved: Resolved, job: ResolvedTraining, topology: Topology, ranks: Ranks, *, alone: bool = False
    ) -> None:
        self.resolved, self.job, self.topology, self.ranks = resolved, job, topology, ranks
        assume = resolved.scenario.assume
        self.one_copy, self.attention_free = assume.tp_volume == "one_copy", assume.attention == "free"
        first = topology.gpus[ranks.gpus[0]].gpu
        self.constants = job.stack.constants_for(first)
        self.network = GroupNetwork(
            topology, ranks, resolved.fabrics, job.stack, self.constants, one_copy=self.one_copy, alone=alone
        )  # fmt: skip
        self.micro_batches = micro_batches_of(job.spec)
        self.slow = {s.gpu: s.factor for s in job.spec.slow}
        self.scale = job.model.scale_to(assume.parameters)
        self._members: dict[tuple[object, ...], Member] = {}

    def build(self) -> TrainingBuild:
        """The job, ready to play."""
        plan = self.job.spec.plan
        for gpu in self.slow:
            if self.ranks.rank_of(gpu) is None:
                raise InfeasibleError(f"job {self.job.spec.name}: slow GPU {gpu} is none of the job's")
        order = order_of(self.job.spec, self.micro_batches)
        chunks = chunks_of(self.job.model, plan)
        classes = self._classes(chunks)
        return TrainingBuild(
            self.job, self.ranks, self.network, order, self.micro_batches, tuple(classes), self.slow,
            self.constants.step_overhead,
        )  # fmt: skip

    def _classes(self, chunks: list[list[Chunk]]) -> list[ReplicaClass]:
        """Replicas by what they are made of."""
        plan = self.job.spec.plan
        alike = self.network.folds and not self.slow and len(self.topology.spec.gpu_types) == 1
        if alike:
            return [self._class(0, range(plan.dp), chunks)]
        found: dict[tuple[object, ...], list[int]] = {}
        for dp in range(plan.dp):
            found.setdefault(self._signature(dp), []).append(dp)
        return [self._class(members[0], tuple(members), chunks) for members in found.values()]

    def _signature(self, dp: int) -> tuple[object, ...]:
        """What tells replicas apart: GPU types and speeds of each stage, and its hops."""
        plan = self.job.spec.plan
        parts: list[object] = []
        for stage in range(plan.pp):
            gpus = self.ranks.stage(stage, dp)
            parts.append(tuple(sorted((self.topology.gpus[g].gpu, self.slow.get(g, 1.0)) for g in gpus)))
            if plan.pp > 1:
                for other in ((stage + 1) % plan.pp, (stage - 1) % plan.pp):
                    way = self.network.hop_of(stage, other, dp)
                    parts.append((way.cap, way.latency, way.overhead, way.kind))
        return tuple(parts)

    def _class(self, dp: int, replicas: tuple[int, ...] | range, chunks: list[list[Chunk]]) -> ReplicaClass:
        plan = self.job.spec.plan
        stages = tuple(self._stage(number, dp, chunks[number]) for number in range(plan.pp))
        forward: list[Send | None] = [None] * plan.pp
        backward: list[Send | None] = [None] * plan.pp
        if plan.pp > 1:
            wraps = plan.vpp > 1
            for s in range(plan.pp):
                if s < plan.pp - 1 or wraps:
                    forward[s] = self._send(s, (s + 1) % plan.pp, dp)
                if s > 0 or wraps:
                    backward[s] = self._send(s, (s - 1) % plan.pp, dp)
        return ReplicaClass(dp, replicas, stages, tuple(forward), tuple(backward))

    # ---- stages

    def kinds(self, stage: int) -> dict[str, str]:
        """The link of each kind of group with more than one member in a stage."""
        plan = self.job.spec.plan
        wanted = [kind for kind in ("tp", "cp") if getattr(plan, kind) > 1]
        wanted += ["ep"] if plan.ep > 1 else []
        wanted += self._data_kinds()
        return {kind: self.network.way(kind, stage).link for kind in wanted}

    def _data_kinds(self) -> list[str]:
        plan = self.job.spec.plan
        data = plan.cp * plan.dp
        if data == 1 or plan.parameter_server is not None:
            return []
        kinds = ["data"]
        if plan.shard == "node" and plan.zero:
            kinds += ["node", "across"]
        if self.job.model.experts:
            kinds += ["expert_data"]
        return kinds

    def _stage(self, number: int, dp: int, chunks: list[Chunk]) -> Stage:
        gpus = self.ranks.stage(number, dp)
        types: dict[tuple[str, float], int] = {}
        for gpu in gpus:
            key = (self.topology.gpus[gpu].gpu, self.slow.get(gpu, 1.0))
            types[key] = types.get(key, 0) + 1
        members = []
        for (name, factor), count in types.items():
            members.append(self.member(name, factor, number, tuple(chunks), count))
        links = self.kinds(number) | {kind: way.link for kind, way in self._host_ways(number).items()}
        return Stage(number, gpus, tuple(chunks), tuple(members), links)

    def _host_ways(self, stage: int) -> dict[str, HostWay]:
        """The ways to the host that the plan's offloading takes."""
        return {kind: self.network.host.way(kind, stage) for kind in ways_of(self.job.spec.plan.offload)}

    def _offloading(self, host: dict[str, HostWay], stage: int, share: float) -> Offloading | None:
        if not host:
            return None
        meets = self.network.crowded([*self.kinds(stage), *host], stage)
        return Offloading(self.job.model, self.job.spec, self.job.stack, host, meets, share)

    def member(
        self, gpu: str, factor: float, stage: int, chunks: tuple[Chunk, ...], count: int
    ) -> Member:
        """``count`` GPUs of a kind that are ``factor`` times as slow, on a stage; equal ones share their laws."""
        ways = {kind: self.network.way(kind, stage) for kind in self.kinds(stage)}
        host = self._host_ways(stage)
        talks = tuple((kind, way.parameters) for kind, way in ways.items())
        key = (gpu, factor, count, chunks, talks, tuple((way.cap, way.latency) for way in host.values()))
        found = self._members.get(key)
        if found is None:
            card, assume = self.resolved.gpus[gpu], self.resolved.scenario.assume.gpu
            spec = self.job.spec
            rates = rates_of(
                card, self.job.stack, self.resolved.kernels(card), spec.precision.compute,
                flops=assume.flops if assume else None,
                memory_bandwidth=assume.memory_bandwidth if assume else None,
            )  # fmt: skip
            law = LayerLaw(
                self.job.model, spec, self.job.stack, self.job.stack.constants_for(gpu), rates,
                {kind: way.parameters for kind, way in ways.items()}, ways["tp"].kind if "tp" in ways else "",
                self.micro_batches, self.scale, attention_free=self.attention_free,
            )  # fmt: skip
            data = {k: w.parameters for k, w in ways.items() if AXIS_OF[k] == "dp" and w.parameters.n > 1}
            share = self.job.stack.constants_for(gpu).cpu_update
            stage_law = StageLaw(law, chunks, data, self._offloading(host, stage, share))
            passes = tuple(_slowed(p, factor) for p in stage_law.passes())
            found = self._members[key] = Member(
                gpu, factor, count, rates, passes, stage_law.sync(passes), stage_law.recomputed() * factor
            )  # fmt: skip
        return found

    # ---- hops

    def _send(self, source: int, target: int, dp: int) -> Send:
        spec, stack, model = self.job.spec, self.job.stack, self.job.model
        plan = spec.plan
        way = self.network.hop_of(source, target, dp)
        width = 4.0 if spec.precision.wide else 2.0
        whole = spec.batch.micro * spec.batch.sequence / plan.cp * model.hidden * width
        split = plan.tp > 1 and (stack.split_hops or plan.sequence_parallel)
        size = whole / plan.tp if split else whole
        latency, overhead, cap = way.latency, way.overhead, way.cap
        if crosses_nodes(way.kind):
            links = (self.topology.local_link(link)[0].rate for link, _ in way.loads)
            raw = min(rate.bandwidth for rate in links if rate.kind == way.kind)
            cap = min(cap, raw * self.constants.network)
        if split and not plan.sequence_parallel:
            parameters = self.network.way("tp", target).parameters
            latency += min(fixed + slope * whole for fixed, slope in pieces("all_gather", parameters))
        share = self.constants.pipeline_exposed
        link = "PCIe through host memory" if way.staged else str(way.kind)
        return Send(size, size * share, cap, overhead * share, latency * share, link, way.queue, way)


def _slowed(passes: ChunkPasses, factor: float) -> ChunkPasses:
    """The passes of a GPU whose kernels take ``factor`` times as long."""
    if factor == 1.0:
        return passes
    return ChunkPasses(*(
        replace(p, work=p.work.slowed(factor)) for p in (passes.forward, passes.backward, passes.weight)
    ))  # fmt: skip
