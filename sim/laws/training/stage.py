"""A pipeline stage of a training job: its layers, the time of its passes, and what it does once a step.

Layers that stages do not divide evenly: the output head and the token table cost time and memory too, so the last
and the first chunk are the ones that get a layer less (the recipes of 126 layers on 16 stages do the same).

Sharded data parallelism communicates within the passes: ZeRO-3 gathers a layer's weights before its forward and
backward pass and scatters its gradients after it (three times the weights' bytes a step, against twice for plain
data parallelism), ZeRO-2 scatters gradients only. With pipelines weights are gathered once a step, not once a
micro-batch, unless they are offloaded. Of communication beside kernels min(both, [overlap] times the shorter) is
hidden. What is offloaded (:mod:`sim.laws.training.offload`) moves beside the same kernels.

What is left after the last backward pass (:func:`sync`):

    reduce   all-reduce of gb P bytes (ZeRO 0), reduce-scatter (ZeRO 1); hidden beside the last micro-batch's backward
             pass as far as [overlap] goes, but never the part of the last layer, whose gradients come last
    update   the optimizer's traffic: states read and written, gradients read twice and written, weights written; on
             the CPU where the optimizer is offloaded, and what goes to and fro then
    gather   all-gather of the new weights (ZeRO 1 and 2), hidden beside the first micro-batch's forward pass
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from sim.laws.collective import CollectiveParameters
from sim.laws.training.layer import (
    HOST_WAYS,
    IDLE,
    Flow,
    LayerLaw,
    LayerPasses,
    Pass,
    Work,
    adapter_parameters,
    flow_of,
    total,
)
from sim.spec.training import BASE_BYTES, RecomputeEvery, RecomputeGroup, TrainingJob, TrainingPlan, UserSchedule
from sim.spec.transformer import Transformer

if TYPE_CHECKING:
    from sim.laws.training.offload import Offloading


@dataclass(frozen=True, slots=True)
class Chunk:
    """Layers of a virtual stage: plain ones, those with experts, and whether table and head are with them."""

    dense: int
    mixture: int
    first: bool
    last: bool

    @property
    def layers(self) -> int:
        """All layers."""
        return self.dense + self.mixture


def layers_of(model: Transformer, plan: TrainingPlan) -> tuple[int, ...]:
    """Layers of each of the pp * vpp chunks in order of the model. ValueError if the plan's do not add up."""
    chunks = plan.pp * plan.vpp
    if not isinstance(plan.layers, str):
        if sum(plan.layers) != model.layers:
            raise ValueError(f"the stages hold {sum(plan.layers)} layers together, {model.id} has {model.layers}")
        return plan.layers
    whole, rest = divmod(model.layers, chunks)
    counts = [whole + 1] * chunks if rest else [whole] * chunks
    for turn in range(chunks - rest if rest else 0):
        counts[chunks - 1 - turn // 2 if turn % 2 == 0 else turn // 2] -= 1
    return tuple(counts)


def chunks_of(model: Transformer, plan: TrainingPlan) -> list[list[Chunk]]:
    """The chunks of each stage: chunk c of stage s is virtual stage c * pp + s."""
    counts = layers_of(model, plan)
    stages: list[list[Chunk]] = [[] for _ in range(plan.pp)]
    begin = 0
    plain = model.layers - model.mixture_layers
    for number, count in enumerate(counts):
        dense = max(0, min(count, plain - begin))
        stages[number % plan.pp].append(Chunk(dense, count - dense, number == 0, number == len(counts) - 1))
        begin += count
    return stages


@dataclass(frozen=True, slots=True)
class ChunkPasses:
    """What a micro-batch takes on a chunk: forward, backward of the inputs (recomputation first), of the weights."""

    forward: Pass
    backward: Pass
    weight: Pass


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters on one rank of a stage: ``dense`` summed over data ranks, ``expert`` over the ranks of its experts;
    ``trained_*`` those with gradients."""

    dense: float
    expert: float
    trained_dense: float
    trained_expert: float

    @property
    def trained(self) -> float:
        """All of those with gradients."""
        return self.trained_dense + self.trained_expert


def held_by(model: Transformer, job: TrainingJob, chunks: Sequence[Chunk], scale: float = 1.0) -> Held:
    """Parameters of a stage on one rank: layers / tp, experts / ep, the table on the first, the head on the last."""
    plan, m = job.plan, model
    attention = m.hidden * (m.heads + 2 * max(m.kv_heads, plan.tp)) * m.head_dim + m.heads * m.head_dim * m.hidden
    dense = expert = 0.0
    for chunk in chunks:
        dense += chunk.dense * (attention + m.mlp_parameters) / plan.tp
        dense += chunk.mixture * (attention / plan.tp + m.hidden * m.experts)
        dense += chunk.mixture * m.shared_experts * m.expert_parameters / plan.tp
        expert += chunk.mixture * m.experts * m.expert_parameters / plan.tp / plan.ep
    tables = [c.first for c in chunks].count(True) + [c.last for c in chunks].count(True)
    if m.tied_embeddings and tables == 2:
        tables = 1
    dense += tables * m.embedding_parameters / plan.tp
    if m.learned_positions and any(c.first for c in chunks):
        dense += m.context * m.hidden
    dense, expert = dense * scale, expert * scale
    if job.finetune is None:
        return Held(dense, expert, dense, expert)
    adapters = adapter_parameters(m, job.finetune) * sum(c.layers for c in chunks) / plan.tp
    if job.finetune.method == "prompt" and any(c.first for c in chunks):
        adapters = float(job.finetune.rank * m.hidden)
    return Held(dense, expert, adapters, 0.0)


class StageLaw:
    """The passes of a stage's chunks, and its work once a step, on one kind of GPU."""

    def __init__(
        self, law: LayerLaw, chunks: Sequence[Chunk], data: dict[str, CollectiveParameters],
        offload: Offloading | None = None,
    ) -> None:  # fmt: skip
        self.law, self.chunks, self.data, self.offload = law, tuple(chunks), data, offload
        self.model, self.job = law.model, law.job
        self.held = held_by(law.model, law.job, chunks, law.scale)
        tables = [Chunk(0, 0, chunk.first, chunk.last) for chunk in chunks]
        self.in_tables = held_by(law.model, law.job, tables, law.scale).trained_dense
        self._layers: dict[tuple[Chunk, bool], LayerPasses] = {}
        plan = law.job.plan
        hides = plan.overlap and plan.prefetch > 0
        self.overlap = law.c.overlap if hides else 0.0

    def passes(self) -> list[ChunkPasses]:
        """The passes of each chunk for one micro-batch."""
        return [self._chunk(chunk) for chunk in self.chunks]

    def _chunk(self, chunk: Chunk) -> ChunkPasses:
        forward: list[Pass] = []
        backward: list[Pass] = []
        weight: list[Pass] = []
        for mixture, count in ((False, chunk.dense), (True, chunk.mixture)):
            if not count:
                continue
            layer = self._layer(chunk, mixture)
            forward.append(layer.forward.times(count))
            backward.append(layer.backward.times(count))
            backward.append(self._recompute(layer, count))
            weight.append(layer.weight.times(count))
        if chunk.first or chunk.last:
            for passes, part in zip((forward, backward, weight), self._tables(chunk), strict=True):
                passes.append(part)
        return ChunkPasses(total(forward), total(backward), total(weight))

    def _tables(self, chunk: Chunk) -> tuple[Pass, Pass, Pass]:
        """The output head, and what sharding adds for it and for the token table."""
        forward, backward, weight = self.law.head() if chunk.last else (IDLE, IDLE, IDLE)
        amount = held_by(self.model, self.job, [Chunk(0, 0, chunk.first, chunk.last)], self.law.scale).dense
        gather, scatter = self._sharing((amount, 0.0), 2.0 if self.job.precision.weight_bytes == 2.0 else 4.0)
        if not gather and not scatter:
            return forward, backward, weight
        stays = self.job.plan.pp > 1 and self.job.plan.offload.parameters == "gpu"
        room = backward.seconds + (0.0 if self._splits else weight.seconds)
        beside = self._hidden(room, [*([] if stays else gather), *scatter])
        return (
            Pass(forward.work, (*forward.flows, *self._hidden(forward.seconds, gather))),
            Pass(backward.work, (*backward.flows, *beside)),
            weight,
        )

    def _layer(self, chunk: Chunk, mixture: bool) -> LayerPasses:
        """A layer of a chunk with what sharding and offloading add to it."""
        found = self._layers.get((chunk, mixture))
        if found is None:
            found = self._layers[chunk, mixture] = self._sharded(self.law.layer(mixture), chunk, mixture)
        return found

    def _recompute(self, layer: LayerPasses, count: int) -> Pass:
        """What recomputation adds to the backward pass of ``count`` layers."""
        method = self.job.plan.recompute
        if isinstance(method, RecomputeEvery):
            return self.law_forward(layer).times(count // method.every)
        if isinstance(method, RecomputeGroup):
            return self.law_forward(layer).times(count)
        if method == "from_input":
            return self.law_forward(layer).times(count * (count + 1) / 2)
        return layer.recompute.times(count)

    def law_forward(self, layer: LayerPasses) -> Pass:
        """A layer's forward pass without what sharding and offloading add: recomputation finds the weights there."""
        flows = tuple(flow for flow in layer.forward.flows if flow.kind not in self.data and flow.kind not in HOST_WAYS)
        return Pass(layer.forward.work, flows)

    def recomputed(self) -> float:
        """Kernel seconds of a micro-batch that compute again."""
        again = 0.0
        for chunk in self.chunks:
            for mixture, count in ((False, chunk.dense), (True, chunk.mixture)):
                if count:
                    again += self._recompute(self._layer(chunk, mixture), count).work.seconds
        return again

    # ---- sharding and offloading within the passes

    def _sharded(self, layer: LayerPasses, chunk: Chunk, mixture: bool) -> LayerPasses:
        plan = self.job.plan
        gather, scatter = self._collectives(mixture)
        down, up = self._moves(chunk, mixture)
        if not (gather or scatter or down or up):
            return layer
        stays = plan.pp > 1 and plan.offload.parameters == "gpu"
        again = [] if stays else gather
        forward = self._beside(layer.forward, [layer.forward], gather, down)
        # Recomputation, inputs and weights all run beside the backward pass's communication.
        kernels = [layer.backward, layer.recompute, *([] if self._splits else [layer.weight])]
        backward = self._beside(layer.backward, kernels, [*again, *scatter], up)
        return LayerPasses(forward, backward, layer.weight, layer.recompute)

    @property
    def _splits(self) -> bool:
        """Whether gradients of the weights are operations of their own, elsewhere in the schedule."""
        schedule = self.job.plan.schedule
        if isinstance(schedule, UserSchedule):
            return any(word.startswith("W") for word in schedule.order[0])
        return self.job.plan.schedule_name == "zb-h1"

    def _amounts(self, mixture: bool) -> tuple[float, float]:
        """Weights of a layer on one rank: those all data ranks hold, and those of its experts."""
        experts, plan = 0.0, self.job.plan
        if mixture:
            experts = self.model.experts * self.model.expert_parameters / plan.tp / plan.ep * self.law.scale
        return self.law.parameters(mixture) - experts, experts

    @property
    def _base(self) -> float:
        """Bytes of a layer's weight as it is kept."""
        if self.job.finetune is None:
            return self.job.precision.weight_bytes
        return BASE_BYTES[self.job.finetune.base]

    def _collectives(self, mixture: bool) -> tuple[list[Flow], list[Flow]]:
        """Gathering a layer's weights and scattering its gradients."""
        return self._sharing(self._amounts(mixture), self._base)

    def _sharing(self, amounts: tuple[float, float], base: float) -> tuple[list[Flow], list[Flow]]:
        """Gathering weights of ``base`` bytes, (dense, experts'), and scattering their gradients."""
        job, plan = self.job, self.job.plan
        gather: list[Flow] = []
        scatter: list[Flow] = []
        if plan.zero < 2 or not self.data:
            return gather, scatter
        kind = "node" if plan.shard == "node" else "data"
        rounds = self.law.micro_batches if plan.pp > 1 else 1
        gathers = rounds if plan.offload.parameters == "gpu" else 1
        for amount, group in zip(amounts, (kind, "expert_data"), strict=True):
            if not amount or group not in self.data:
                continue
            if plan.zero == 3:
                gather.append(self._flow(group, "all_gather", base * amount).times(1 / gathers))
            if job.finetune is None:
                size = job.precision.gradient_bytes * amount
                scatter.append(self._flow(group, "reduce_scatter", size).times(1 / rounds))
        return gather, scatter

    def _moves(self, chunk: Chunk, mixture: bool) -> tuple[list[Flow], list[Flow]]:
        """What goes between a layer and its host, forward and backward."""
        if self.offload is None:
            return [], []
        amounts, zero = self._amounts(mixture), self.job.plan.zero
        weights = self._base * (self._own(*amounts) if zero == 3 else sum(amounts))
        trained = amounts
        if self.job.finetune is not None:
            trained = adapter_parameters(self.model, self.job.finetune) / self.job.plan.tp, 0.0
        gradients = self.job.precision.gradient_bytes * self._own(*trained)
        return self.offload.forward(chunk, mixture, weights), self.offload.backward(chunk, mixture, weights, gradients)

    def _beside(self, work: Pass, kernels: Sequence[Pass], talks: list[Flow], moves: list[Flow]) -> Pass:
        """``work`` and what communicates beside ``kernels``: those that meet on a link take turns, and moves that
        meet the layer's own collectives keep to the kernels' time."""
        room = sum(part.seconds for part in kernels)
        if not moves or self.offload is None:
            return Pass(work.work, (*work.flows, *self._hidden(room, talks)))
        meets = self.offload.crowded & {"tp", "cp", "ep"}
        own = sum(part.work.seconds for part in kernels) if meets else room
        lanes = [(own, [*talks, *moves])] if self._meets else [(room, talks), (own, moves)]
        beside = [flow for seconds, lane in lanes for flow in self._hidden(seconds, lane)]
        return Pass(work.work, (*work.flows, *beside))

    def _hidden(self, room: float, flows: list[Flow]) -> list[Flow]:
        return _overlapped(flows, room, self.overlap)

    def _flow(self, kind: str, op: str, size: float, algorithm: str = "best") -> Flow:
        return flow_of(kind, op, size, self.data[kind], algorithm)

    # ---- once a step

    def sync(self, passes: Sequence[ChunkPasses]) -> Sync:
        """Reduction of gradients, update of weights, gathering them again."""
        job, plan, c = self.job, self.job.plan, self.law.c
        held, bytes_ = self.held, job.precision.gradient_bytes
        groups = [("node" if plan.shard == "node" and plan.zero else "data", held.trained_dense)]
        groups += [("expert_data", held.trained_expert)] if held.trained_expert else []
        reduce_, gather = [], []
        for kind, amount in groups:
            if kind not in self.data or not amount:
                continue
            reduce_ += self._reduction(kind, bytes_ * amount)
            if plan.zero in (1, 2):
                gather.append(self._flow(kind, "all_gather", job.precision.weight_bytes * amount, plan.collective))
        overlap = c.overlap if plan.overlap and self.law.stack.sync_overlap else 0.0
        forward = self._window([p.forward for p in passes])
        taken = moving(forward) if self._meets else 0.0
        return Sync(
            reduce=self._reduced(reduce_, self._window([d for p in passes for d in (p.backward, p.weight)]), overlap),
            update=self._updates(),
            gather=_hide(gather, overlap * (forward.seconds - taken), 0.0),
            fixed=c.shard_broadcast * self._shards() if plan.zero else 0.0,
        )

    @property
    def _meets(self) -> bool:
        """Whether rings of data ranks cross links that lead to the host."""
        return self.offload is not None and bool(self.offload.crowded & self.data.keys())

    def _reduced(self, talks: list[Flow], window: Pass, overlap: float) -> Pass:
        """Reduction, and gradients that leave, beside the passes of ``window``; moves of these keep their ways."""
        moves, late = self._gradients(), 1.0 / max(1, sum(chunk.layers for chunk in self.chunks))
        free = overlap * (window.seconds - moving(window))
        if self._meets:
            return _hide([*talks, *moves], free, late)
        return _hide(talks, overlap * window.seconds, late).plus(_hide(moves, free, late))

    def _gradients(self) -> list[Flow]:
        """Gradients that leave the GPU once a step: all, or those of the tables where layers' left in every pass."""
        if self.offload is None:
            return []
        layers, tables = self._trained()
        late = tables if self.offload.each else layers + tables
        return self.offload.gradients(self.job.precision.gradient_bytes * late)

    def _updates(self) -> Pass:
        """The update of the weights, on the GPU or on the CPU, and what moves between them."""
        work = self._update()
        if self.offload is None:
            return Pass(work)
        layers, tables = self._trained()
        computed = self.offload.cpu_update(layers + tables)
        overlap = self.law.c.overlap if self.job.plan.overlap else 0.0
        seconds = work.seconds + sum(flow.seconds for flow in computed)
        return Pass(work, (*computed, *_overlapped(self.offload.update(layers, tables), seconds, overlap)))

    def _trained(self) -> tuple[float, float]:
        """Parameters this rank updates: those of its layers, and those of its tables."""
        layers = self._own(self.held.trained_dense - self.in_tables, self.held.trained_expert)
        return layers, self._own(self.in_tables, 0.0)

    def _own(self, dense: float, expert: float) -> float:
        """A rank's shard of what it holds."""
        shards = self._shards()
        return dense / shards + expert / max(1, shards // self.job.plan.ep)

    def _window(self, passes: Sequence[Pass]) -> Pass:
        """The passes that gradients can hide beside: the last micro-batch's, with chunks of a whole round."""
        plan = self.job.plan
        return total(passes).times(plan.pp * (1 - 1 / plan.vpp) if plan.vpp > 1 else 1.0)

    def _reduction(self, kind: str, size: float) -> list[Flow]:
        plan, stack = self.job.plan, self.law.stack
        bucketed = plan.bucket and plan.zero == 0
        found: list[Flow] = []
        if plan.zero == 0 or (plan.zero == 1 and plan.shard == "all" and stack.zero1_reduce == "all_reduce"):
            if bucketed and plan.bucket is not None:
                number = max(1, ceil(size / plan.bucket))
                found.append(self._flow(kind, "all_reduce", size / number, plan.collective).times(number))
            else:
                found.append(self._flow(kind, "all_reduce", size, plan.collective))
        elif plan.zero == 1:
            found.append(self._flow(kind, "reduce_scatter", size))
        if plan.shard == "node" and plan.zero and "across" in self.data:
            found.append(self._flow("across", "all_reduce", size / max(1, self.data["node"].n), plan.collective))
        return found

    def _shards(self) -> int:
        plan = self.job.plan
        if not plan.zero:
            return 1
        kind = "node" if plan.shard == "node" else "data"
        return self.data[kind].n if kind in self.data else 1

    def _update(self) -> Work:
        """The optimizer's traffic on this rank: states read and written, gradients read twice and written, weights."""
        job, rates = self.job, self.law.rates
        if rates.on_chip or job.plan.offload.optimizer != "gpu":
            return Work()
        return rates.move(update_bytes(job) * self._own(self.held.trained_dense, self.held.trained_expert))


def update_bytes(job: TrainingJob) -> float:
    """Memory traffic of a parameter's update: states read and written, gradients read twice and written, the weight."""
    precision = job.precision
    return 2 * precision.state_bytes(job.optimizer) + 3 * precision.gradient_bytes + precision.weight_bytes


@dataclass(frozen=True, slots=True)
class Sync:
    """A stage's work after its last pass: reduction, update, gathering; ``fixed`` seconds of the framework."""

    reduce: Pass
    update: Pass
    gather: Pass
    fixed: float

    @property
    def seconds(self) -> float:
        """Seconds exposed."""
        return self.reduce.seconds + self.update.seconds + self.gather.seconds + self.fixed


def _overlapped(flows: list[Flow], room: float, overlap: float) -> list[Flow]:
    """Flows beside work of ``room`` seconds: of both, ``overlap`` times the shorter is hidden."""
    seconds = sum(flow.seconds for flow in flows)
    if seconds <= 0.0:
        return flows
    share = overlap * min(room, seconds) / seconds
    return [flow._replace(hidden=share) for flow in flows]


def moving(passes: Pass) -> float:
    """Seconds in which a GPU's ways to its host are taken."""
    return sum(flow.seconds for flow in passes.flows if flow.kind in HOST_WAYS)


def _hide(flows: list[Flow], room: float, late: float) -> Pass:
    """Flows of which up to ``room`` seconds are hidden, but never the share ``late`` of them."""
    seconds = sum(flow.seconds for flow in flows)
    if seconds <= 0.0:
        return IDLE
    share = min(max(0.0, room) / seconds, 1.0 - late)
    return Pass(Work(), tuple(flow._replace(hidden=share) for flow in flows))
