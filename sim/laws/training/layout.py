"""Laying a training job on GPUs: ranks, divisions that must come out even, and memory against capacity.

Parameter servers count as a stage after the last. A server keeps its slice of what is trained: weights, the sum of
gradients (in FP32 too where the update needs that), the optimizer, and a bucket of gradients on its way from each
worker. Workers whose exchange moves beside the next step's kernels (staleness above 0) hold gradients and weights
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from sim.errors import InfeasibleError
from sim.laws.topology import Topology
from sim.laws.training.memory import BUCKET, PARTS, Change, TrainingMemory, least_change, stage_memory
from sim.laws.training.offload import check_capacity, check_tiers
from sim.laws.training.ranks import Ranks, place_ranks
from sim.laws.training.schedule import SCHEDULES, Op, Order, check_order, in_flight, stream, stream_warm_up
from sim.laws.training.stage import Chunk, chunks_of, held_by, layers_of
from sim.spec.hardware import Gpu
from sim.spec.training import TrainingJob, UserSchedule
from sim.spec.training_stack import TrainingStack
from sim.spec.transformer import Transformer
from sim.units import format_bytes

#: Error of the memory model, as a share of the capacity: docs/accuracy.md.
BAND = 0.15
#: More micro-batches than this keep no more activations of a stage alive than this many do (not GPipe's).
ENOUGH = 4
#: Parameter servers looked at for a way out where a slice does not fit.
MOST_SERVERS = 1024


@dataclass(frozen=True, slots=True)
class StageMemory:
    """A stage's layers, GPUs by type, and the memory of one GPU of each type; ``servers``: of parameter servers."""

    number: int
    layers: int
    in_flight: int
    counts: dict[str, int]
    memory: dict[str, TrainingMemory]
    servers: bool = False


@dataclass(frozen=True, slots=True)
class TrainingLayout:
    """A training job on its GPUs."""

    ranks: Ranks
    stages: tuple[StageMemory, ...]

    @property
    def gpus(self) -> Sequence[int]:
        """All GPUs of the job, those of parameter servers last."""
        return [*self.ranks.gpus, *self.ranks.servers] if self.ranks.servers else self.ranks.gpus

    @property
    def fullest(self) -> TrainingMemory:
        """The memory of the GPU with the least left."""
        return min((m for stage in self.stages for m in stage.memory.values()), key=lambda m: m.free)


def micro_batches_of(spec: TrainingJob) -> int:
    """Micro-batches a replica runs in a step. InfeasibleError where the batch does not divide."""
    batch, dp = spec.batch, spec.plan.dp
    each = dp * batch.micro
    if batch.whole % each:
        lower, upper = batch.whole // each * each, (batch.whole // each + 1) * each
        near = f"{upper}" if lower == 0 else f"{lower} or {upper}"
        raise InfeasibleError(
            f"job {spec.name}: a global batch of {batch.whole} sequences is not a multiple of dp {dp} x micro "
            f"{batch.micro} = {each}; {near} would be"
        )
    return batch.whole // each


def order_of(spec: TrainingJob, micro_batches: int) -> Order:
    """The operations of each stage. InfeasibleError for a user's order that cannot run."""
    plan = spec.plan
    if isinstance(plan.schedule, UserSchedule):
        order = tuple(tuple(Op(*op) for op in stage) for stage in plan.schedule.operations)
        try:
            check_order(order, plan.pp, micro_batches, plan.vpp)
        except ValueError as error:
            raise InfeasibleError(f"job {spec.name}: schedule: {error}") from None
        return order
    if plan.schedule_name == "stream":
        return stream(plan.pp, micro_batches)
    return SCHEDULES[plan.schedule_name](plan.pp, micro_batches, plan.vpp)


def lay_out_training(
    spec: TrainingJob, model: Transformer, stack: TrainingStack, topology: Topology, taken: set[int],
    gpu_of: Callable[[str], Gpu], *, unchecked: bool = False, parameters: float | None = None,
) -> TrainingLayout:  # fmt: skip
    """Ranks and memory of a job on the GPUs that no earlier job took.

    Raises InfeasibleError with the budget, and the least change that would fit, when a degree does not divide the
    model, the cluster lacks GPUs, or a stage or what it offloads does not fit. ``unchecked`` leaves memory out of the
    question; ``parameters`` is an assumed count that the model's weights are scaled to.
    """
    check_shape(spec, model)
    ranks = place_ranks(spec.plan, taken, len(topology.gpus), spec.name)
    check_tiers(spec, ranks, topology)
    scale = model.scale_to(parameters)
    node_ranks = _data_ranks_in_a_node(spec, ranks, topology)
    stages = _stages(spec, model, stack, ranks, topology, gpu_of, node_ranks, scale)
    layout = TrainingLayout(ranks, stages)
    if layout.fullest.free < 0 and not unchecked:
        raise InfeasibleError(_does_not_fit(spec, model, stack, layout, topology, gpu_of, scale), budget_rows(layout))
    if not unchecked:
        check_capacity(spec, ranks, topology, lambda stage, gpu: stages[stage].memory[gpu].host)
    return layout


def _stages(
    spec: TrainingJob, model: Transformer, stack: TrainingStack, ranks: Ranks, topology: Topology,
    gpu_of: Callable[[str], Gpu], node_ranks: int, scale: float,
) -> tuple[StageMemory, ...]:  # fmt: skip
    chunks = chunks_of(model, spec.plan)
    alive = activations_in_flight(spec, micro_batches_of(spec))
    found = []
    for number in range(spec.plan.pp):
        counts = _types(spec, ranks, topology, number)
        memory = {
            name: stage_memory(
                model, spec, stack, gpu_of(name).usable_memory, chunks=chunks[number], in_flight=alive[number],
                node_ranks=node_ranks, scale=scale,
            )
            for name in counts
        }  # fmt: skip
        if spec.plan.parameter_server is not None and spec.plan.parameter_server.staleness != 0:
            memory = {name: _with_exchange(m, model, spec, chunks[number], scale) for name, m in memory.items()}
        layers = sum(chunk.layers for chunk in chunks[number])
        found.append(StageMemory(number, layers, alive[number], counts, memory))
    if ranks.servers:
        types = [topology.gpus[gpu].gpu for gpu in ranks.servers]
        counts = {name: types.count(name) for name in dict.fromkeys(types)}
        memory = {
            name: _server_memory(model, spec, stack, gpu_of(name).usable_memory, len(types), chunks[0], scale)
            for name in counts
        }  # fmt: skip
        found.append(StageMemory(spec.plan.pp, 0, 0, counts, memory, servers=True))
    return tuple(found)


def _with_exchange(
    memory: TrainingMemory, model: Transformer, spec: TrainingJob, chunks: Sequence[Chunk], scale: float
) -> TrainingMemory:
    """A worker's memory with the gradients that leave, and the weights that come, beside the next step's kernels."""
    each = spec.precision.gradient_bytes + spec.precision.weight_bytes
    moving = each * held_by(model, spec, chunks, scale).trained
    parts = {**memory.parts, "communication buffers": memory.parts["communication buffers"] + moving}
    return TrainingMemory(memory.capacity, parts, memory.host)


def _server_memory(
    model: Transformer, spec: TrainingJob, stack: TrainingStack, capacity: float, servers: int,
    chunks: Sequence[Chunk], scale: float,
) -> TrainingMemory:  # fmt: skip
    """Memory of one of ``servers`` parameter servers on a GPU of ``capacity`` bytes."""
    precision, own = spec.precision, held_by(model, spec, chunks, scale).trained / servers
    narrow = precision.master_bytes > 0 and precision.gradient_bytes < 4.0 and stack.activations != "on_chip"
    parts = dict.fromkeys(PARTS, 0.0) | {
        "parameters": precision.weight_bytes * own,
        "gradients": (precision.gradient_bytes + (4.0 if narrow else 0.0)) * own,
        "optimizer": precision.state_bytes(spec.optimizer) * own,
        "communication buffers": spec.plan.dp * min(spec.plan.bucket or BUCKET, precision.gradient_bytes * own),
        "runtime": stack.reserve,
    }
    return TrainingMemory(capacity, parts, {})


def _types(spec: TrainingJob, ranks: Ranks, topology: Topology, stage: int) -> dict[str, int]:
    """GPUs of a stage over all replicas, by type."""
    types = topology.spec.gpu_types
    plan = spec.plan
    if len(types) == 1:
        return {topology.gpus[ranks.gpus[0]].gpu: plan.tp * plan.cp * plan.dp}
    counts: dict[str, int] = {}
    for dp in range(plan.dp):
        for gpu in ranks.stage(stage, dp):
            name = topology.gpus[gpu].gpu
            counts[name] = counts.get(name, 0) + 1
    return counts


def _data_ranks_in_a_node(spec: TrainingJob, ranks: Ranks, topology: Topology) -> int:
    """Data-parallel ranks of the first rank's node that hold the same stage and tensor slice."""
    if spec.plan.shard == "all":
        return 1
    node = topology.gpus[ranks.gpus[0]].node
    return sum(topology.gpus[g].node == node for g in ranks.group_of("data", ranks.gpus[0]))


def activations_in_flight(spec: TrainingJob, micro_batches: int) -> list[int]:
    """(micro-batch, chunk) pairs whose activations each stage keeps at most.

    GPipe keeps all; the other schedules no more of a thousand micro-batches than of a few rounds.
    """
    plan = spec.plan
    if plan.schedule_name == "gpipe":
        return [micro_batches * plan.vpp] * plan.pp
    if plan.schedule_name == "stream":
        return [stream_warm_up(plan.pp, stage) for stage in range(plan.pp)]
    if isinstance(plan.schedule, UserSchedule):
        return in_flight(order_of(spec, micro_batches))
    rounds = ENOUGH * plan.pp
    few = micro_batches if micro_batches <= rounds else rounds + micro_batches % plan.pp
    return in_flight(order_of(spec, few))


# ---- refusals


def check_shape(spec: TrainingJob, model: Transformer) -> None:
    """Raise InfeasibleError where a degree does not divide what it cuts."""
    plan, job = spec.plan, spec.name
    if model.heads % plan.tp:
        fits = [t for t in range(1, model.heads + 1) if model.heads % t == 0]
        near = min(fits, key=lambda t: (abs(t - plan.tp), t))
        raise InfeasibleError(
            f"job {job}: tp {plan.tp} does not divide the {model.heads} attention heads of {model.id}; the nearest "
            f"that does is {near}"
        )
    if plan.tp > model.kv_heads and plan.tp % model.kv_heads:
        raise InfeasibleError(
            f"job {job}: tp {plan.tp} is not a multiple of the {model.kv_heads} KV heads of {model.id}"
        )
    chunks = plan.pp * plan.vpp
    if chunks > model.layers + 2:  # the token table and the output head may stand alone
        raise InfeasibleError(
            f"job {job}: pp {plan.pp} x vpp {plan.vpp} is more parts than the {model.layers} layers, table and head of "
            f"{model.id}"
        )
    if spec.batch.sequence % plan.cp:
        raise InfeasibleError(f"job {job}: cp {plan.cp} does not divide a sequence of {spec.batch.sequence} tokens")
    if plan.sequence_parallel and spec.batch.sequence // plan.cp % plan.tp:
        raise InfeasibleError(
            f"job {job}: sequence parallelism over tp {plan.tp} does not divide the {spec.batch.sequence // plan.cp} "
            "tokens a rank holds of a sequence"
        )
    if plan.ep > 1 and not model.experts:
        raise InfeasibleError(f"job {job}: ep {plan.ep} spreads experts, {model.id} has none")
    if model.experts % plan.ep:
        raise InfeasibleError(f"job {job}: ep {plan.ep} does not divide the {model.experts} experts of {model.id}")
    if plan.parameter_server is not None and (plan.offload.optimizer, plan.offload.parameters) != ("gpu", "gpu"):
        raise InfeasibleError(
            f"job {job}: parameter servers keep the optimizer, and workers exchange weights on their GPUs: of offload "
            "only activations goes with them"
        )
    try:
        layers_of(model, plan)
    except ValueError as error:
        raise InfeasibleError(f"job {job}: {error}") from None
    if spec.batch.sequence > model.context:
        raise InfeasibleError(
            f"job {job}: sequences of {spec.batch.sequence} tokens, {model.id} reads at most {model.context}"
        )


def _does_not_fit(
    spec: TrainingJob, model: Transformer, stack: TrainingStack, layout: TrainingLayout, topology: Topology,
    gpu_of: Callable[[str], Gpu], scale: float,
) -> str:  # fmt: skip
    worst = layout.fullest
    stage = next(s for s in layout.stages for m in s.memory.values() if m is worst)
    largest = max(worst.parts, key=lambda part: worst.parts[part])
    where = "a parameter server" if stage.servers else f"a GPU of stage {stage.number}"
    text = (
        f"job {spec.name}: {model.id} does not fit: {where} needs {format_bytes(worst.used)} of "
        f"{format_bytes(worst.capacity)} (most of it {largest}, {format_bytes(worst.parts[largest])})"
    )
    if worst.used <= (1.0 + BAND) * worst.capacity:
        text += f", which is within the memory model's error of {BAND:.0%} (assume.memory: unchecked plays it anyway)"
    if stage.servers:
        number = _enough_servers(spec, model, stack, worst.capacity, scale)
        return f"{text}; {f'servers: {number} would fit' if number else 'no number of servers is enough'}"
    change = least_fitting_change(spec, model, stack, topology, gpu_of, scale)
    if change is not None:
        return f"{text}; {change}"
    need = sum(sum(m.parts.values()) - m.parts["runtime"] for s in layout.stages for m in s.memory.values())
    smallest = min(m.capacity - m.parts["runtime"] for s in layout.stages for m in s.memory.values())
    cards = ceil(need * spec.plan.tp * spec.plan.cp / smallest) if smallest > 0 else 0
    return f"{text}; no recomputation, sharding, offloading or smaller micro-batch is enough: one replica's parts " \
           f"alone fill {cards} such GPUs"  # fmt: skip


def _enough_servers(
    spec: TrainingJob, model: Transformer, stack: TrainingStack, capacity: float, scale: float
) -> int | None:
    """The smallest number of parameter servers whose slices fit, None where none does."""
    chunks = chunks_of(model, spec.plan)[0]
    numbers = range(1, MOST_SERVERS + 1)
    return next(
        (n for n in numbers if _server_memory(model, spec, stack, capacity, n, chunks, scale).fits), None
    )  # fmt: skip


def least_fitting_change(
    spec: TrainingJob, model: Transformer, stack: TrainingStack, topology: Topology, gpu_of: Callable[[str], Gpu],
    scale: float = 1.0,
) -> Change | None:  # fmt: skip
    """The least change of the plan after which the job fits the same GPUs."""

    def peak(changed: TrainingJob) -> tuple[float, float]:
        check_shape(changed, model)
        ranks = place_ranks(changed.plan, set(), len(topology.gpus), changed.name)
        check_tiers(changed, ranks, topology)
        node_ranks = _data_ranks_in_a_node(changed, ranks, topology)
        stages = _stages(changed, model, stack, ranks, topology, gpu_of, node_ranks, scale)
        check_capacity(changed, ranks, topology, lambda stage, gpu: stages[stage].memory[gpu].host)
        fullest = TrainingLayout(ranks, stages).fullest
        return fullest.used, fullest.capacity

    return least_change(spec, peak)


def budget_rows(layout: TrainingLayout) -> list[tuple[str, ...]]:
    """A table of the memory budget, a row a stage and GPU type, header first."""
    rows: list[tuple[str, ...]] = []
    for stage in layout.stages:
        for gpu, m in stage.memory.items():
            if not rows:
                rows.append(("stage", "gpu", "layers", "capacity", *m.parts, "left"))
            left = f"-{format_bytes(-m.free)}" if m.free < 0 else format_bytes(m.free)
            cells = (format_bytes(value) for value in m.parts.values())
            rows.append((str(stage.number), gpu, str(stage.layers), format_bytes(m.capacity), *cells, left))
    return rows
