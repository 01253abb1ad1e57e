"""From values to a replica that can be played: laws for its stages, hops between them, limits for its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.engine.timeline import Bins, ChannelTrack, DeviceTrack, NoBins
from sim.jobs.serving.batching import Limits, Scheduler
from sim.jobs.serving.coupled import coupled
from sim.jobs.serving.extras import law_beside
from sim.jobs.serving.handover import KvFlow, PromptScheduler, TokenScheduler
from sim.jobs.serving.host_copies import seconds_per_token, slowest_copy, tokens_stored
from sim.jobs.serving.policies import POLICIES
from sim.jobs.serving.prefix_cache import PrefixCache, Store
from sim.jobs.serving.prompts import Prompts
from sim.jobs.serving.replica import Hop, Member, Replica, Stage, Tally
from sim.jobs.serving.requests import Feed, RequestTable
from sim.jobs.serving.uncached import UncachedScheduler
from sim.laws.arrange import parameter_scale
from sim.laws.collective import CollectiveParameters, collective_parameters, pieces, wire_bytes
from sim.laws.experts import dispatched
from sim.laws.layout import Layout, StageLayout
from sim.laws.roofline import kernel_rates
from sim.laws.step import Exchange, StageLaw, StageShape
from sim.laws.step_data import DataLaw
from sim.laws.step_halves import HalvedLaw
from sim.laws.topology import Topology
from sim.laws.topology_parts import merged
from sim.spec.plan import KV_BYTES, WEIGHT_BYTES

TOKEN_ID_BYTES = 4.0
UNBOUNDED = 10**15

Loads = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """What a hop or a group's collectives can ask of the network at most: bytes/s ``cap`` on weighted links."""

    links: Loads
    cap: float
    queue: str | None


class ReplicaBuilder:
    """Builds the replicas of one job; stages of equal shape share their law. Without ``charts`` they keep sums only."""

    def __init__(
        self, resolved: Resolved, job: ResolvedServing, topology: Topology, *, charts: bool = True,
        prompts: Prompts | None = None,
    ) -> None:  # fmt: skip
        self.resolved, self.job, self.topology = resolved, job, topology
        self.charts, self.prompts = charts, prompts
        self.assume = resolved.scenario.assume
        self.scale = parameter_scale(resolved, job)
        self._laws: dict[StageShape, StageLaw] = {}
        self._capacities = topology.capacities()
        self._copying = 0.0

    def limits(self, layout: Layout, number: int) -> Limits:
        """Bounds of replica ``number``, by what its KV cache holds: the scenario's, or else the stack's. Each rank with
        sequences of its own has an engine's bounds to itself."""
        job, stack = self.job.spec, self.job.stack
        tokens, stages = layout.tokens[number], layout.replicas[number]
        b, slots = job.batching, job.plan.micro_batches or job.plan.pp
        if self.assume.kv_capacity == "unchecked" or not b.kv_cache:
            tokens = UNBOUNDED
        blocks = tokens // stack.memory.block_tokens
        ranks = job.plan.tp // job.plan.slices
        max_sequences = (b.max_sequences or stack.max_sequences) * ranks
        max_tokens = (b.max_batched_tokens or stack.max_batched_tokens) * ranks
        if not b.kv_cache:  # whole contexts ride in a pass, however long
            max_tokens = max(max_sequences, b.batch_size or 1) * self.job.model.context
        return Limits(
            max_tokens=max_tokens,
            prefill_chunk=b.prefill_chunk * ranks if b.prefill_chunk else max_tokens,
            max_sequences=max_sequences,
            batch_size=b.batch_size or 1,
            slots=slots,
            reserve=(b.admission or stack.admission) == "reserve" or b.policy == "static",
            block_tokens=stack.memory.block_tokens,
            blocks=blocks,
            watermark=int(stack.memory.watermark * blocks) if blocks < UNBOUNDED // 1000 else 0,
            swap=seconds_per_token(self.topology, stages, "host") if b.preemption == "swap" else None,
            fetch=seconds_per_token(self.topology, stages, b.kv_offload.to) if b.kv_offload is not None else 0.0,
        )

    def build(self, number: int, layout: Layout, table: RequestTable, feed: Feed) -> Replica:
        """Replica ``number`` of the layout."""
        limits = self.limits(layout, number)
        batching, prompts, cache, store = self.job.spec.batching, self.prompts, None, None
        if batching.kv_offload is not None:
            stored = tokens_stored(self.topology, layout.replicas[number], batching.kv_offload)
            store = Store(stored // limits.block_tokens)
        pools = self.job.spec.disaggregate
        if batching.prefix_caching and prompts is not None and (pools is None or number < pools.prefill):
            cache = PrefixCache(prompts.paths, prompts.tails, limits.block_tokens, store)
        kind = self._scheduler_of(number)
        scheduler = kind(table, feed, limits, POLICIES[batching.policy], cache)
        tally = Tally(running=Bins() if self.charts else NoBins())
        return Replica(number, self.stages(number, layout), scheduler, tally)

    def _scheduler_of(self, number: int) -> type[Scheduler]:
        pools = self.job.spec.disaggregate
        if pools is None:
            return Scheduler if self.job.spec.batching.kv_cache else UncachedScheduler
        return PromptScheduler if number < pools.prefill else TokenScheduler

    def stages(self, number: int, layout: Layout) -> tuple[Stage, ...]:
        """The stages of replica ``number``, with their hops."""
        stages = layout.replicas[number]
        if self.job.spec.adapters is not None:  # of which each stage holds its own share
            self._copying = slowest_copy(self.topology, stages, "host", lambda memory: memory.beside)
            self._copying /= self.job.spec.adapters.slots
        built = []
        for i, stage in enumerate(stages):
            following = stages[(i + 1) % len(stages)] if len(stages) > 1 else None
            built.append(self._stage(number, stage, following))
        return tuple(built)

    def _name(self, replica: int, stage: int) -> str:
        job = self.job.spec
        copy = f".r{replica}" if job.plan.dp > 1 else ""
        return f"{job.name}{copy}.s{stage}"

    def _stage(self, replica: int, stage: StageLayout, following: StageLayout | None) -> Stage:
        name = self._name(replica, stage.number)
        parameters = self._collectives(stage.gpus)
        types: dict[str, list[int]] = {}
        for g in stage.gpus:
            types.setdefault(self.topology.gpus[g].gpu, []).append(g)
        members = tuple(
            Member(
                law=self._law(gpu, stage, parameters),
                track=DeviceTrack(
                    name if len(types) == 1 else f"{name}.{gpu}",
                    self.job.spec.name, replica, stage.number, gpu, len(gpus), merge=following is None,
                    charts=self.charts,
                ),
                gpus=tuple(gpus),
            )
            for gpu, gpus in types.items()
        )  # fmt: skip
        link, channel = "", None
        shape = members[0].law.shape
        if parameters is not None and (shape.pieces or shape.exchanges):
            link = self._link(stage.gpus)
            load = self._capped(self._load(stage.gpus, parameters, shape), rate_at_most(shape))
            channel = ChannelTrack(f"{name} collectives", link, load, charts=self.charts)
        hop = None if following is None else self._hop(name, stage, following)
        across = len({self.topology.gpus[g].node for g in stage.gpus}) > 1
        return Stage(members, link, channel, hop, frozenset({stage.number}) if across else frozenset())

    def _link(self, gpus: Sequence[int]) -> str:
        """The kind of link a group's collectives wait for, in a reader's words."""
        kind = self.topology.site(gpus).kind
        if kind == "network":
            return self.topology.route(gpus[0], gpus[-1]).kind
        return "PCIe through host memory" if kind == "staged" else str(kind)

    def _collectives(self, gpus: Sequence[int]) -> CollectiveParameters | None:
        if len(gpus) == 1:
            return None
        return collective_parameters(
            self.topology.site(gpus),
            self.resolved.fabrics,
            self.job.stack.collective_libraries,
            datasheet=self.job.stack.links == "datasheet",
            one_copy=self.assume.tp_volume == "one_copy",
            latency=self.assume.tp_latency,
            exchange_cap=self.topology.exchange_cap(gpus) if self.job.spec.plan.ep > 1 else None,
        )

    def _wire(self, p: CollectiveParameters) -> float:
        return 1.0 if self.assume.tp_volume == "one_copy" else wire_bytes("all_reduce", p.n, 1.0)

    def _law(self, gpu_id: str, stage: StageLayout, p: CollectiveParameters | None) -> StageLaw:
        job, stack, assume = self.job, self.job.stack, self.assume
        gpu = self.resolved.gpus[gpu_id]
        rates = kernel_rates(
            gpu,
            stack,
            self.resolved.kernels(gpu),
            job.spec.precision.weights,
            flops=assume.gpu.flops if assume.gpu else None,
            memory_bandwidth=assume.gpu.memory_bandwidth if assume.gpu else None,
        )
        plan = job.spec.plan
        data, pipelined = plan.attention == "data", plan.pp > 1
        shape = StageShape(
            model=job.model,
            rates=rates,
            layers=stage.layers,
            tp=len(stage.gpus),
            head=stage.last,
            weight_bytes=WEIGHT_BYTES[job.spec.precision.weights],
            kv_bytes=KV_BYTES[job.spec.precision.kv],
            pieces=tuple(pieces("all_reduce", p)) if p and not data else (),
            wire_per_byte=self._wire(p) if p and not data else 0.0,
            host_per_pass=stack.host_per_step + (stack.host_per_pipeline_pass if pipelined else 0.0),
            host_per_sequence=stack.host_per_sequence,
            host_per_layer=stack.host_per_layer,
            mixed_penalty=stack.mixed_attention_penalty,
            on_chip=stack.activations == "on_chip",
            kv_reads_free=assume.kv_reads == "free",
            scale=self.scale,
            mixture=stage.mixture,
            ep=plan.ep,
            expert_load=plan.expert_imbalance,
            exchanges=self._exchanges(stage, p) if p and plan.ep > 1 and stage.mixture else (),
            data=data,
            attention_free=assume.attention == "free",
        )
        more = law_beside(self.resolved, job, gpu, shape, self._copying)
        if more is not None:
            return self._laws.setdefault(shape, more)
        law = HalvedLaw if assume.tp_overlap == "double_buffer" else DataLaw if data else StageLaw
        return self._laws.setdefault(shape, law(shape))

    def _exchanges(self, stage: StageLayout, p: CollectiveParameters) -> tuple[Exchange, ...]:
        """Collectives of layers whose experts are spread: each rank sends its share of the tokens to their experts and
        has the answers back. Where attention is sliced, its all-reduce is cut in two, with these between the halves."""
        model, plan = self.job.model, self.job.spec.plan
        there, back = dispatched(model, plan.ep, plan.expert_imbalance, self.job.spec.precision.weights)
        kinds = [("all_to_all", there), ("all_to_all", back)]
        if plan.attention == "tensor":
            kinds += [("reduce_scatter", 2.0 * model.hidden), ("all_gather", 2.0 * model.hidden)]
        return tuple(
            Exchange(float(stage.mixture), size, wire_bytes(op, p.n, 1.0), tuple(pieces(op, p)), op != "all_to_all")
            for op, size in kinds
        )

    def _load(self, gpus: Sequence[int], p: CollectiveParameters, shape: StageShape) -> Loads:
        """Crossings of links for a byte that each rank of a group sends: of rings, and of all to all as far as it has
        a part in a pass's bytes."""
        if not shape.exchanges:
            return p.link_load
        sizes = {rings: sum(kind.number * kind.per_token * kind.wire_per_byte for kind in shape.exchanges
                            if kind.rings == rings) for rings in (True, False)}  # fmt: skip
        reduced = 4.0 * shape.model.hidden * (shape.layers - shape.mixture) * shape.wire_per_byte
        part = sizes[False] / (sizes[False] + sizes[True] + reduced)
        pairs = [(link, weight * part / (len(gpus) - 1)) for a in gpus for b in gpus if a != b
                 for link, weight in self.topology.route(a, b).links]  # fmt: skip
        return merged((*((link, weight * (1.0 - part)) for link, weight in p.link_load if part < 1.0), *pairs))

    def _hop(self, name: str, stage: StageLayout, following: StageLayout) -> Hop:
        """The coupled flow from one stage's ranks to the next one's: each sends its share of the activations.

        The last stage returns the token numbers to the first, which sits with the engine's scheduler.
        """
        back = stage.last
        pairs = list(zip(stage.gpus, following.gpus, strict=True))
        if back and self.assume.pp_return_hop == "token_ids":
            pairs = pairs[:1]
        flow = coupled(self.topology, self._capacities, pairs)
        across = any(self.topology.gpus[a].node != self.topology.gpus[b].node for a, b in pairs)
        per_token = 2.0 * self.job.model.hidden
        ids_only = back and self.assume.pp_return_hop == "token_ids"
        gather: tuple[tuple[float, float], ...] = ()
        sliced = self.job.spec.plan.slices > 1
        if len(pairs) > 1 and sliced and (p := self._collectives(following.gpus)) is not None:
            gather = tuple(pieces("all_gather", p))
        target, capped = "back" if back else f"s{stage.number + 1}", self._capped(tuple(flow.load.items()), flow.cap)
        return Hop(
            track=ChannelTrack(f"{name} to {target}", flow.kind, capped, charts=self.charts),
            kind=flow.kind,
            bytes_per_token=0.0 if ids_only else per_token,
            bytes_per_sequence=TOKEN_ID_BYTES if ids_only else 0.0,
            cap=flow.cap,
            latency=flow.latency,
            overhead=flow.overhead,
            queue=flow.queue,
            gather=gather,
            ends=frozenset({stage.number, following.number}) if across else frozenset(),
        )

    def hand_over(self, number: int, to: int, layout: Layout) -> tuple[KvFlow, ...]:
        """The flows of a prompt's KV cache from one replica to another, stage by stage."""
        name, found = self.job.spec.name, []
        for here, there in zip(layout.replicas[number], layout.replicas[to], strict=True):
            flow = coupled(self.topology, self._capacities, list(zip(here.gpus, there.gpus, strict=True)))
            links = self._capped(tuple(flow.load.items()), flow.cap)
            track = ChannelTrack(f"{name}.r{number} KV to r{to}", flow.kind, links, charts=self.charts)
            held = sum(here.memory[self.topology.gpus[gpu].gpu].kv_per_token for gpu in here.gpus)
            found.append(KvFlow(track, held, flow.cap, flow.latency, flow.overhead, flow.queue))
        return tuple(found)

    def _capped(self, load: Loads, cap: float) -> Loads:
        """The load with weights cut so that the flow alone, at its cap, never exceeds a link.

        A measured rate may exceed what the link's efficiency for copies allows (in-switch reduction does).
        """
        return tuple((link, min(weight, self._capacities[link] / cap)) for link, weight in load)


def rate_at_most(shape: StageShape) -> float:
    """The most bytes a second each rank of a stage's group sends in its collectives."""
    kinds = ((shape.wire_per_byte, shape.pieces), *((kind.wire_per_byte, kind.pieces) for kind in shape.exchanges))
    return max(wire / slope for wire, found in kinds for _, slope in found)


def flows_of(replica: Replica) -> list[Flow]:
    """The most each of a replica's channels can ask of the network."""
    flows = []
    for stage in replica.stages:
        if stage.collectives is not None:
            flows.append(Flow(stage.collectives.links, rate_at_most(stage.law.shape), None))
        if stage.hop is not None:
            flows.append(Flow(stage.hop.track.links, stage.hop.cap, stage.hop.queue))
    return flows


def contended_links(flows: Sequence[Flow], capacities: Mapping[int, float] | Sequence[float]) -> set[int]:
    """Links on which all flows together could ask for more than the capacity."""
    asked: dict[int, float] = {}
    users: dict[int, int] = {}
    for flow in flows:
        for link, weight in flow.links:
            asked[link] = asked.get(link, 0.0) + flow.cap * weight
            users[link] = users.get(link, 0) + 1
    return {link for link, rate in asked.items() if users[link] > 1 and rate > capacities[link] * (1 + 1e-9)}


def needs_network(replica: Replica, contended: set[int]) -> bool:
    """Whether a replica must be played event by event: a shared sender, a contended link, or mixed GPUs."""
    flows = flows_of(replica)
    queues = [flow.queue for flow in flows if flow.queue is not None]
    shared = len(set(queues)) < len(queues)
    mixed = any(len(stage.members) > 1 for stage in replica.stages)
    return shared or mixed or any(link in contended for flow in flows for link, _ in flow.links)
