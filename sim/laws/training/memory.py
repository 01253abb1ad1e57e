"""Training memory: bytes on one GPU of a pipeline stage, by part, at the worst moment of a step.

Parameters on the rank (:func:`sim.laws.training.stage.held_by`) cost bytes of weight, gradient and optimizer (with
Adam in mixed precision 2 + 2 + 12), each over the ranks that ZeRO shards it on: the optimizer from 1, gradients from
2, weights at 3. A pipeline sums gradients over its micro-batches before it scatters them, so there ZeRO-2 and 3 hold
whole gradients, and ZeRO-3 keeps the weights it gathered.

A token keeps in a layer, in 16 bits (twice that in 32), with sph = tp under sequence parallelism else 1:

    A = (8h [+ 2h dropout masks] [+ 8h unfused norms])/sph + (2(2a + 2kv)hd + ffn (4 | 6 gated | 8 gated, unfused))/tp
        + core,   core = 4a/tp of fused attention | 5 a s/tp of unfused, its masks included
    a mixture's ffn is that of the experts a token meets, and each of them adds 4h/sph: its input and its output

    none A | selective A - core | operators 4h/sph + (2a hd + (a + 2kv)hd + (mats - 1)ffn)/tp | full 2h/sph a layer
    every: k-th layers 2h/sph, the others A | group: 2h/sph a group | from_input: 2h/sph a chunk

times the micro-batch's tokens s micro/cp, and the (micro-batch, chunk) pairs in flight. The layers in hand in the
backward pass add what is computed again of them, and 0.3 A of gradients between their operations. The loss takes 14 B
a logit in its own backward pass, on the last stage, of one micro-batch whatever pp is. Loss and layers take their
turn, so the larger of the two counts.

An update in mixed precision reads gradients in FP32: 16-bit ones are copied (4 B each, sharded as the optimizer)
when activations are gone, and count as far as they exceed these. Buffers: two buckets of gradients on their way; with
ZeRO-3 or parameters offloaded prefetch + 1 gathered layers, the gathered token table and head, a layer's gradients.

The textbook (the ``ideal`` stack) is Korthikanti et al. 2022, arXiv:2205.05198: A = 10h/sph + 24h/tp + 5 a s/tp, logits
once in FP32, what is kept and nothing in hand.

Bytes are counted by hand, none is fitted; but the 14 B and what operators keep were settled with torchtitan's table in
sight. Read an overflow with a band of 15%. Not counted: fragmentation, KV gathered along cp, dropout within LoRA, what
a delayed W of zb-h1 still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

from sim.errors import InfeasibleError
from sim.laws.training.layer import adapter_parameters
from sim.laws.training.stage import Chunk, held_by
from sim.spec.training import (
    BASE_BYTES,
    Finetune,
    RecomputeEvery,
    RecomputeGroup,
    TrainingJob,
    TrainingPlan,
    UserSchedule,
)
from sim.spec.training_stack import TrainingStack
from sim.spec.transformer import Transformer
from sim.units import format_bytes

#: Bytes a logit takes while the loss is computed: itself 2, its log-softmax 4, and the gradients of both steps 4 + 4.
LOGIT_BYTES = 14.0
#: The textbook's: the logit in FP32.
TEXTBOOK_LOGIT_BYTES = 4.0
#: Gradients between the operations of a layer in its backward pass, as a share of what the layer keeps.
BETWEEN = 0.3
#: PyTorch DDP's bucket of gradients (bucket_cap_mb); one fills while another is sent.
BUCKET = 25 * 1024.0**2

PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "communication buffers", "runtime")


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one GPU of a stage by part (:data:`PARTS`), and what is offloaded, by tier: ``host``, ``nvme``."""

    capacity: float
    parts: dict[str, float]
    host: dict[str, float]

    @property
    def used(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def free(self) -> float:
        """What is left of the capacity; below 0 what is missing."""
        return self.capacity - self.used

    @property
    def fits(self) -> bool:
        """Whether the parts fit the capacity."""
        return self.free >= 0.0

    def budget(self) -> dict[str, float]:
        """The parts and, last, what is unused."""
        return {**self.parts, "unused": max(0.0, self.free)}


# ---- model states


class States(NamedTuple):
    """Bytes a GPU answers for, wherever they are kept."""

    parameters: float
    gradients: float
    optimizer: float


def shards(plan: TrainingPlan, node_ranks: int) -> tuple[int, int]:
    """Ranks that one copy of dense parameters, and of a rank's experts, is sharded over when ZeRO shards it."""
    data = plan.dp * plan.cp
    dense = data if plan.shard == "all" else min(data, node_ranks)
    return dense, max(1, dense // plan.ep)


def trained_parameters(model: Transformer, finetune: Finetune | None) -> float:
    """Parameters with gradients of the whole model: all of them, or those that ``finetune`` adds."""
    if finetune is None:
        return float(model.parameters)
    if finetune.method == "prompt":
        return float(finetune.rank * model.hidden)
    return model.layers * adapter_parameters(model, finetune)


def model_states(
    model: Transformer, spec: TrainingJob, chunks: Sequence[Chunk], *, node_ranks: int = 1, scale: float = 1.0
) -> States:
    """Weights, gradients and optimizer of one rank of a stage; ``node_ranks`` data ranks share its node.

    Of a frozen model the layers are kept in the base's format, token table and head in 16 bits.
    """
    plan, precision = spec.plan, spec.precision
    held = held_by(model, spec, chunks, scale)
    dense_ranks, expert_ranks = shards(plan, node_ranks)

    def over(dense: float, expert: float, sharded: bool) -> float:
        return dense / dense_ranks + expert / expert_ranks if sharded else dense + expert

    zero, wb = plan.zero, precision.weight_bytes
    if spec.finetune is None:
        parameters = wb * over(held.dense, held.expert, zero == 3)
    else:
        tables, base = _tables(model, plan, chunks) * scale, BASE_BYTES[spec.finetune.base]
        frozen = 2.0 * tables + base * (held.dense - tables)
        parameters = over(frozen + wb * held.trained_dense, base * held.expert, zero == 3)
    trained = held.trained_dense, held.trained_expert
    gradients = precision.gradient_bytes * over(*trained, zero >= 2 and plan.pp == 1)
    optimizer = precision.state_bytes(spec.optimizer) * over(*trained, zero >= 1)
    return States(parameters, gradients, 0.0 if plan.parameter_server else optimizer)


def _tables(model: Transformer, plan: TrainingPlan, chunks: Sequence[Chunk]) -> float:
    """Parameters of token table, positions and head on a rank."""
    first, last = any(c.first for c in chunks), any(c.last for c in chunks)
    tables = int(first) + int(last) - int(model.tied_embeddings and first and last)
    positions = model.context * model.hidden if model.learned_positions and first else 0
    return tables * model.embedding_parameters / plan.tp + positions


# ---- activations


class TokenBytes(NamedTuple):
    """Bytes a token keeps in one layer on one rank: all of it, attention's core, and what other methods keep."""

    whole: float
    core: float
    operators: float
    entry: float

    def kept(self, method: str) -> float:
        """What a recomputation method keeps of it."""
        return {"none": self.whole, "selective": self.whole - self.core, "operators": self.operators}.get(
            method, self.entry
        )


def token_bytes(model: Transformer, spec: TrainingJob, stack: TrainingStack, *, mixture: bool = False) -> TokenBytes:
    """The activations of a token in a layer (the module's A); ``mixture`` for one with experts."""
    plan, h, tp = spec.plan, model.hidden, spec.plan.tp
    split = tp if plan.sequence_parallel else 1
    q, kv = model.heads / tp * model.head_dim, max(model.kv_heads / tp, 1.0) * model.head_dim
    width, routed = model.intermediate / tp, 0.0
    if mixture:
        routed = model.experts_per_token * plan.expert_load
        width = (model.expert_intermediate or model.intermediate) / tp * (routed + model.shared_experts)
    scores = 5.0 * model.heads / tp * spec.batch.sequence
    exchanged = 4.0 * h / split * routed
    operators = 4 * h / split + 2 * q + (q + 2 * kv) + (model.matrices - 1) * width + exchanged
    if stack.activations == "on_chip":
        core = scores
        whole = 10 * h / split + (8 * h + (4 * width * tp if mixture else 16 * h)) / tp + exchanged + core
    else:
        core = 4.0 * model.heads / tp if stack.attention == "flash" else scores
        norms = 8.0 + (2.0 if stack.attention == "unfused" else 0.0) + (0.0 if stack.fused_norms else 8.0)
        each = 4.0 if not model.gated else 6.0 if stack.fused_norms else 8.0
        whole = norms * h / split + 2 * (2 * q + 2 * kv) + each * width + exchanged + core
    wide = 2.0 if spec.precision.wide else 1.0
    return TokenBytes(wide * whole, wide * core, wide * min(operators, whole - core), wide * 2 * h / split)


def kept_bytes(plan: TrainingPlan, layers: Sequence[TokenBytes]) -> float:
    """Bytes a token keeps in a chunk of layers from its forward to its backward pass."""
    method = plan.recompute
    if isinstance(method, RecomputeEvery):
        return sum(t.entry if n % method.every == 0 else t.whole for n, t in enumerate(layers, 1))
    if isinstance(method, RecomputeGroup):
        return layers[0].entry * ceil(len(layers) / method.group) if layers else 0.0
    if method == "from_input":
        return layers[0].entry if layers else 0.0
    return sum(t.kept(method) for t in layers)


def in_hand_bytes(plan: TrainingPlan, layers: Sequence[TokenBytes]) -> float:
    """Bytes a token adds in a chunk while its largest layer (or group) is computed again and passed backward."""
    if not layers:
        return 0.0
    method, largest, span = plan.recompute, max(layers), 1
    kept = largest.kept(method) if isinstance(method, str) else largest.entry
    if isinstance(method, RecomputeEvery) and method.every > len(layers):
        kept = largest.whole
    if isinstance(method, RecomputeGroup):
        span = min(method.group, len(layers))
    return (span + BETWEEN) * largest.whole - kept


# ---- what travels


def buffer_bytes(
    model: Transformer, spec: TrainingJob, chunks: Sequence[Chunk], *, node_ranks: int = 1, scale: float = 1.0
) -> float:
    """Bytes of gathered parameters and of gradients under way."""
    plan, precision = spec.plan, spec.precision
    sharded = plan.zero == 3 and shards(plan, node_ranks)[0] > 1
    leaves = plan.offload.parameters != "gpu"
    bucket = plan.bucket or BUCKET
    if sharded and plan.pp > 1 and not leaves:
        whole = model_states(model, _unsharded(spec), chunks, scale=scale).parameters
        own = model_states(model, spec, chunks, node_ranks=node_ranks, scale=scale).parameters
        return whole - own + 2 * bucket
    if sharded or leaves:
        weights, gradients = _layer_bytes(model, spec, chunks, shards(plan, node_ranks)[1] > 1 or leaves, scale)
        tables = (precision.weight_bytes if spec.finetune is None else 2.0) * _tables(model, plan, chunks) * scale
        return weights * min(plan.prefetch + 1, sum(c.layers for c in chunks)) + tables + gradients
    if plan.dp * plan.cp == 1 and plan.offload.optimizer == "gpu":
        return 0.0
    held = held_by(model, spec, chunks, scale)
    return 2 * min(bucket, precision.gradient_bytes * held.trained)


def _layer_bytes(
    model: Transformer, spec: TrainingJob, chunks: Sequence[Chunk], experts: bool, scale: float
) -> tuple[float, float]:
    """Weights and gradients of the largest layer, its experts among them if they are gathered too."""
    mixture = any(c.mixture for c in chunks)
    held = held_by(model, spec, [Chunk(int(not mixture), int(mixture), False, False)], scale)
    precision = spec.precision
    base = precision.weight_bytes if spec.finetune is None else BASE_BYTES[spec.finetune.base]
    weights = base * (held.dense + (held.expert if experts else 0.0))
    if spec.finetune is not None:
        weights += precision.weight_bytes * held.trained_dense
    return weights, precision.gradient_bytes * (held.trained_dense + (held.trained_expert if experts else 0.0))


def _unsharded(spec: TrainingJob) -> TrainingJob:
    return spec.model_copy(update={"plan": spec.plan.model_copy(update={"zero": 0})})


# ---- a stage


def stage_memory(
    model: Transformer, spec: TrainingJob, stack: TrainingStack, capacity: float, *,
    chunks: Sequence[Chunk], in_flight: float, node_ranks: int = 1, scale: float = 1.0,
) -> TrainingMemory:  # fmt: skip
    """Memory of one GPU, of ``capacity`` bytes, of the stage that holds ``chunks``.

    ``in_flight``: (micro-batch, chunk) pairs whose activations it keeps at most
    (:func:`sim.laws.training.schedule.in_flight`); ``node_ranks``: data-parallel ranks within its node.
    """
    plan = spec.plan
    textbook = stack.activations == "on_chip"
    states = model_states(model, spec, chunks, node_ranks=node_ranks, scale=scale)
    activations, swapped, logits = _live(model, spec, stack, chunks, in_flight)
    parts = dict.fromkeys(PARTS, 0.0)
    host: dict[str, float] = {}

    def put(part: str, nbytes: float, tier: str) -> None:
        if tier == "gpu":
            parts[part] += nbytes
        elif nbytes:
            host[tier] = host.get(tier, 0.0) + nbytes

    put("parameters", states.parameters, plan.offload.parameters)
    put("gradients", states.gradients, plan.offload.optimizer)
    put("optimizer", states.optimizer, plan.offload.optimizer)
    put("activations", swapped, "host")
    parts["activations"], parts["logits"] = activations, logits
    parts["parameters"] += _unpacked(model, spec)
    if not textbook and plan.offload.optimizer == "gpu":
        parts["gradients"] += max(0.0, _update_copy(model, spec, chunks, node_ranks, scale) - activations - logits)
    parts["communication buffers"] = buffer_bytes(model, spec, chunks, node_ranks=node_ranks, scale=scale)
    parts["runtime"] = stack.reserve
    return TrainingMemory(capacity, parts, host)


def _live(
    model: Transformer, spec: TrainingJob, stack: TrainingStack, chunks: Sequence[Chunk], in_flight: float
) -> tuple[float, float, float]:
    """Activations on the GPU, those swapped to the host, and logits, in bytes.

    Swapping keeps two layers at hand: one in use, one on its way.
    """
    plan = spec.plan
    textbook = stack.activations == "on_chip"
    kinds = [token_bytes(model, spec, stack, mixture=mixture) for mixture in (False, True)]
    layers = [[kinds[0]] * c.dense + [kinds[1]] * c.mixture for c in chunks]
    tokens = spec.batch.micro * spec.batch.sequence / plan.cp
    stored = in_flight * tokens * sum(kept_bytes(plan, chunk) for chunk in layers) / max(1, len(layers))
    hand = 0.0 if textbook else tokens * max((in_hand_bytes(plan, chunk) for chunk in layers), default=0.0)
    swapped = 0.0
    if plan.offload.activations == "host":
        largest = max((kept_bytes(plan, [t]) for chunk in layers for t in chunk), default=0.0)
        swapped = max(0.0, stored - 2 * tokens * largest)
    logits = 0.0
    if any(c.last for c in chunks):
        each = TEXTBOOK_LOGIT_BYTES if textbook else LOGIT_BYTES
        logits = each * tokens * model.vocabulary / plan.tp
    return stored - swapped + max(0.0, hand - logits), swapped, logits


def _unpacked(model: Transformer, spec: TrainingJob) -> float:
    """A quantised base unpacks one matrix at a time to 16 bits."""
    if spec.finetune is None or spec.finetune.base not in ("nf4", "int8"):
        return 0.0
    return 2.0 * model.hidden * max(model.intermediate, model.heads * model.head_dim) / spec.plan.tp


def _update_copy(
    model: Transformer, spec: TrainingJob, chunks: Sequence[Chunk], node_ranks: int, scale: float
) -> float:
    """FP32 copies of 16-bit gradients that an update of master weights needs."""
    precision, plan = spec.precision, spec.plan
    if not precision.master_bytes or precision.gradient_bytes >= 4.0 or plan.parameter_server is not None:
        return 0.0
    held = held_by(model, spec, chunks, scale)
    dense, expert = shards(plan, node_ranks) if plan.zero else (1, 1)
    return 4.0 * (held.trained_dense / dense + held.trained_expert / expert)


# ---- what would fit


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a job after which it fits, and the bytes it then takes of the fullest GPU."""

    what: str
    spec: TrainingJob
    used: float
    capacity: float

    def __str__(self) -> str:
        return f"{self.what} would fit ({format_bytes(self.used)} of {format_bytes(self.capacity)})"


def least_change(spec: TrainingJob, peak: Callable[[TrainingJob], tuple[float, float]]) -> Change | None:
    """The first change of :func:`changes` after which ``spec`` fits, None if none does.

    ``peak`` gives the bytes used of the fullest GPU and its capacity; what it refuses with InfeasibleError (a degree
    that does not divide the model) is no way out.
    """
    for keys in changes(spec):
        changed = _changed(spec, keys)
        try:
            used, capacity = peak(changed)
        except InfeasibleError:
            continue
        if used <= capacity:
            words = (f"{k}: {str(v).lower() if isinstance(v, bool) else v}" for k, v in keys.items())
            return Change(", ".join(words), changed, used, capacity)
    return None


Keys = dict[str, Any]


def changes(spec: TrainingJob) -> Iterator[Keys]:
    """Changes that lower memory and leave the training what it is, the least first: ``micro``, or keys of the plan.

    Recomputation, sharding, smaller micro-batches, the optimizer (or frozen weights) on the host, then replicas traded
    for tensor ranks and stages, then several at once. The number of GPUs and the global batch stay.
    """
    plan = spec.plan
    sequence = [{"sequence_parallel": True}] if plan.tp > 1 and not plan.sequence_parallel else []
    recompute = [{"recompute": method} for method in _deeper(plan)]
    shardable = plan.dp * plan.cp > 1 and plan.parameter_server is None
    zero = [{"zero": stage} for stage in range(plan.zero + 1, 4)] if shardable else []
    micro = [{"micro": n} for n in range(spec.batch.micro // 2, 0, -1) if spec.batch.micro % n == 0]
    # Of a frozen model the weights are what is large, of others the optimizer's states.
    what = "optimizer" if spec.finetune is None else "parameters"
    offload = [{"offload": f"{{{what}: host}}"}] if getattr(plan.offload, what) == "gpu" else []
    kinds: list[list[Keys]] = [sequence, recompute, zero, micro, offload]
    for kind in kinds:
        yield from kind
    yield from _traded(spec)
    together: Keys = {}
    for kind in (recompute, micro, zero, offload):
        together |= kind[-1] if kind else {}
        if len(together) > 1 and kind:
            yield dict(together)


def _changed(spec: TrainingJob, keys: Keys) -> TrainingJob:
    plan: Keys = {key: value for key, value in keys.items() if key not in ("micro", "offload")}
    if "offload" in keys:
        what = "optimizer" if "optimizer" in keys["offload"] else "parameters"
        plan["offload"] = spec.plan.offload.model_copy(update={what: "host"})
    batch = {"micro": keys.get("micro", spec.batch.micro)}
    return spec.model_copy(
        update={"plan": spec.plan.model_copy(update=plan), "batch": spec.batch.model_copy(update=batch)}
    )


def _deeper(plan: TrainingPlan) -> list[str]:
    """Recomputation that keeps less than the plan's."""
    if isinstance(plan.recompute, RecomputeEvery):
        return ["full"]
    further = {"none": ["selective", "full"], "selective": ["full"], "operators": ["full"]}
    return further.get(plan.recompute, []) if isinstance(plan.recompute, str) else []


def _traded(spec: TrainingJob) -> Iterator[Keys]:
    """Replicas given up for tensor ranks, or for stages, on the same GPUs."""
    plan = spec.plan
    if plan.parameter_server is not None or plan.placement is not None:
        return
    even = isinstance(plan.layers, str) and not isinstance(plan.schedule, UserSchedule)
    for axis in ("tp", "pp") if even else ("tp",):
        factor = 2
        while plan.dp % factor == 0 and (plan.dp // factor * plan.cp) % plan.ep == 0:
            yield {axis: getattr(plan, axis) * factor, "dp": plan.dp // factor}
            factor *= 2
