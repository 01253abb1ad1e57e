"""Laying a serving job on GPUs: which GPUs form each stage, how many layers it holds, what memory is left.

Replicas come one after another, stages within a replica, tensor ranks innermost, so that a tensor group
takes neighbours. ``balanced`` gives every stage layers in proportion to its GPUs' memory bandwidth (decode
reads all weights each pass), within its memory; the output head counts as the layers it is worth. Of a mixture's
layers the first ones, which have no experts, stay on the first stage and count as what they are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sim.errors import InfeasibleError
from sim.laws.memory import StageMemory, layer_bytes, stage_memory, tokens_that_fit
from sim.spec.hardware import Gpu
from sim.spec.plan import KV_BYTES, WEIGHT_BYTES, ServingPlan, ServingPrecision
from sim.spec.stack import Stack
from sim.spec.transformer import Transformer
from sim.units import format_bytes


@dataclass(frozen=True, slots=True)
class StageLayout:
    """One pipeline stage: its GPUs, its layers, and the memory of each GPU type in it. ``mixture`` of the layers have
    experts."""

    number: int
    gpus: tuple[int, ...]
    layers: int
    first: bool
    last: bool
    memory: dict[str, StageMemory]
    mixture: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """A job on its GPUs: replicas of stages, and the tokens of KV cache each replica holds (none without a cache)."""

    replicas: tuple[tuple[StageLayout, ...], ...]
    tokens: tuple[int, ...]

    @property
    def gpus(self) -> tuple[int, ...]:
        """All GPUs of the job."""
        return tuple(g for replica in self.replicas for stage in replica for g in stage.gpus)


def place(plan: ServingPlan, taken: set[int], available: int, job: str) -> tuple[int, ...]:
    """The GPUs of a plan in rank order: its own placement, or the first ones that no earlier job took.

    Raises InfeasibleError when the cluster lacks them.
    """
    if plan.placement is not None:
        wrong = [g for g in plan.placement if g >= available]
        if wrong:
            raise InfeasibleError(
                f"job {job}: placement names GPU {wrong[0]}, the cluster has GPUs 0 to {available - 1}"
            )
        clash = [g for g in plan.placement if g in taken]
        if clash:
            raise InfeasibleError(f"job {job}: GPU {clash[0]} already belongs to another job")
        return plan.placement
    free = [g for g in range(available) if g not in taken]
    if plan.gpus > len(free):
        left = f"{len(free)} left of {available}" if taken else f"{available}"
        raise InfeasibleError(
            f"job {job}: tp {plan.tp} x pp {plan.pp} x dp {plan.dp} takes {plan.gpus} GPUs, "
            f"the cluster has {left}"
        )
    return tuple(free[: plan.gpus])


def lay_out(
    job: str,
    model: Transformer,
    stack: Stack,
    plan: ServingPlan,
    precision: ServingPrecision,
    gpus: Sequence[int],
    gpu_of: Callable[[int], Gpu],
    *,
    scale: float = 1.0,
    unchecked: bool = False,
    kv_cache: bool = True,
) -> Layout:
    """Stages and memory of ``job`` on ``gpus`` (in rank order).

    Raises InfeasibleError with the budget when the plan does not divide the model or does not fit.
    ``unchecked`` leaves the KV capacity out of the question (an assumption that reports show); weights must fit.
    Without a ``kv_cache`` no tokens are held, and what stands beside them must fit.
    """
    _check_shape(job, model, plan)
    replicas, tokens = [], []
    size = plan.tp * plan.pp
    for r in range(plan.dp):
        ranks = gpus[r * size : (r + 1) * size]
        groups = [tuple(ranks[s * plan.tp : (s + 1) * plan.tp]) for s in range(plan.pp)]
        types = [{g: gpu_of(g) for g in group} for group in groups]
        layers = _layers(job, model, stack, plan, precision, [list(t.values()) for t in types], scale)
        stages = tuple(
            StageLayout(
                number=s,
                gpus=groups[s],
                layers=layers[s],
                first=s == 0,
                last=s == plan.pp - 1,
                memory={
                    gpu.id: _memory(model, stack, plan, precision, gpu, layers[s], s, scale, mixed)
                    for gpu in types[s].values()
                },
                mixture=mixed,
            )
            for s, mixed in enumerate(mixture_layers(model, layers))
        )
        block = stack.memory.block_tokens
        held = [m for stage in stages for m in stage.memory.values()]
        fit = tokens_that_fit(held) // block * block
        full = fit <= 0 if kv_cache else any(m.kv_budget < 0 for m in held)
        if (full and not unchecked) or not _weights_fit(stages):
            raise InfeasibleError(
                f"job {job}: {model.id} with {precision.weights} weights does not fit: {_advice(stages)}",
                budget_rows(stages),
            )
        replicas.append(stages)
        tokens.append(fit if kv_cache else 0)
    return Layout(tuple(replicas), tuple(tokens))


def _weights_fit(stages: Sequence[StageLayout]) -> bool:
    held = (m for stage in stages for m in stage.memory.values())
    return all(m.weights + m.embeddings <= m.capacity for m in held)


def _memory(
    model: Transformer,
    stack: Stack,
    plan: ServingPlan,
    precision: ServingPrecision,
    gpu: Gpu,
    layers: int,
    stage: int,
    scale: float,
    mixture: int,
) -> StageMemory:
    return stage_memory(
        model,
        stack.memory,
        gpu.usable_memory,
        layers=layers,
        tp=plan.tp,
        first=stage == 0,
        last=stage == plan.pp - 1,
        weight_bytes=WEIGHT_BYTES[precision.weights],
        kv_bytes=KV_BYTES[precision.kv],
        scale=scale,
        mixture=mixture,
        ep=plan.ep,
        data=plan.attention == "data",
    )


def mixture_layers(model: Transformer, layers: Sequence[int]) -> tuple[int, ...]:
    """How many of each stage's layers have experts: all that come after the first ``dense_layers``."""
    ends = list(accumulate(layers))
    plain = [model.layers - model.mixture_layers] * len(ends)
    return tuple(max(0, end - max(end - n, first)) for n, end, first in zip(layers, ends, plain, strict=True))


def _check_shape(job: str, model: Transformer, plan: ServingPlan) -> None:
    _check_heads(job, model, plan.slices)
    if plan.ep > 1 and model.experts % plan.ep:
        near = max(n for n in range(1, plan.ep) if model.experts % n == 0)
        raise InfeasibleError(
            f"job {job}: ep {plan.ep} does not divide the {model.experts} experts of {model.id}; "
            f"the nearest below that does is {near}"
        )
    if plan.pp > model.layers:
        raise InfeasibleError(f"job {job}: pp {plan.pp} is more stages than the {model.layers} layers of {model.id}")
    if not isinstance(plan.layers, str) and sum(plan.layers) != model.layers:
        raise InfeasibleError(
            f"job {job}: the stages hold {sum(plan.layers)} layers together, {model.id} has {model.layers}"
        )


def _check_heads(job: str, model: Transformer, tp: int) -> None:
    """Whether ``tp`` ranks can slice the model's attention."""
    if model.heads % tp:
        fits = [t for t in range(1, model.heads + 1) if model.heads % t == 0]
        near = min(fits, key=lambda t: (abs(t - tp), t))
        raise InfeasibleError(
            f"job {job}: tp {tp} does not divide the {model.heads} attention heads of {model.id}; "
            f"the nearest that does is {near}"
        )
    if tp > model.kv_heads and tp % model.kv_heads:
        raise InfeasibleError(f"job {job}: tp {tp} is not a multiple of the {model.kv_heads} KV heads of {model.id}")
    if tp < model.kv_heads and model.kv_heads % tp:
        raise InfeasibleError(f"job {job}: tp {tp} does not divide the {model.kv_heads} KV heads of {model.id}")


def _layers(
    job: str,
    model: Transformer,
    stack: Stack,
    plan: ServingPlan,
    precision: ServingPrecision,
    groups: Sequence[Sequence[Gpu]],
    scale: float,
) -> tuple[int, ...]:
    """Layers of each stage."""
    if not isinstance(plan.layers, str):
        return plan.layers
    whole, rest = divmod(model.layers, plan.pp)
    if plan.layers == "even":
        return tuple(whole + (1 if s < rest else 0) for s in range(plan.pp))
    speed = [min(g.memory_bandwidth for g in group) for group in groups]
    most = [
        max(
            (n for n in range(1, model.layers + 1) if _room(model, stack, plan, precision, group, n, s, scale) > 0),
            default=1,
        )
        for s, group in enumerate(groups)
    ]
    if sum(most) < model.layers:
        most = [model.layers] * plan.pp
    layers = [1] * plan.pp
    extra = [0.0] * plan.pp
    head = 2.0 * model.embedding_parameters
    if model.experts:
        plain, mixed = layer_bytes(model, 1, 1, WEIGHT_BYTES[precision.weights])
        extra[-1] = head / mixed
        first = max(1, model.dense_layers)
        if first + plan.pp - 1 <= model.layers:
            layers[0], extra[0] = first, extra[0] + model.dense_layers * (plain / mixed - 1.0)
    else:
        extra[-1] = head / (WEIGHT_BYTES[precision.weights] * model.layer_parameters)
    for _ in range(model.layers - sum(layers)):
        open_stages = [s for s in range(plan.pp) if layers[s] < most[s]]
        best = min(open_stages, key=lambda s: ((layers[s] + 1 + extra[s]) / speed[s], s))
        layers[best] += 1
    return tuple(layers)


def _room(
    model: Transformer,
    stack: Stack,
    plan: ServingPlan,
    precision: ServingPrecision,
    group: Sequence[Gpu],
    layers: int,
    stage: int,
    scale: float,
) -> float:
    mixed = min(layers, model.mixture_layers) if stage else max(0, layers - (model.layers - model.mixture_layers))
    return min(_memory(model, stack, plan, precision, g, layers, stage, scale, mixed).kv_budget for g in group)


def _advice(stages: Sequence[StageLayout]) -> str:
    """What is missing on the poorest GPU, in one clause."""
    worst = min((m for s in stages for m in s.memory.values()), key=lambda m: m.kv_budget)
    need = worst.weights + worst.embeddings + worst.reserve
    if worst.kv_budget > 0:
        return "what is left holds no block of KV cache"
    return (
        f"a GPU needs {format_bytes(need)} for weights and runtime, "
        f"{format_bytes(worst.capacity - worst.kept_back)} of {format_bytes(worst.capacity)} may be used; "
        "more GPUs (tp, pp), or fewer bytes a weight, would help"
    )


def check_shortest(job: str, model: Transformer, layout: Layout, shortest: int, *, unchecked: bool = False) -> None:
    """Raise InfeasibleError when not even the shortest request, of ``shortest`` tokens, could be served."""
    if shortest > model.context:
        raise InfeasibleError(
            f"job {job}: the shortest request has {shortest} tokens, {model.id} reads at most {model.context}"
        )
    if shortest > max(layout.tokens) and not unchecked:
        raise InfeasibleError(
            f"job {job}: the shortest request has {shortest} tokens, "
            f"the KV cache of a replica holds {max(layout.tokens)}",
            budget_rows(layout.replicas[0]),
        )


def budget_rows(stages: Sequence[StageLayout]) -> list[tuple[str, ...]]:
    """A table of the memory budget, a row a stage and GPU type, header first."""
    rows: list[tuple[str, ...]] = [
        ("stage", "gpu", "layers", "capacity", "weights", "embeddings", "runtime", "kept back", "left for KV")
    ]
    for stage in stages:
        for gpu, m in stage.memory.items():
            values = (m.capacity, m.weights + m.beside, m.embeddings, m.reserve, m.kept_back)
            left = f"-{format_bytes(-m.kv_budget)}" if m.kv_budget < 0 else format_bytes(m.kv_budget)
            rows.append((str(stage.number), gpu, str(stage.layers), *map(format_bytes, values), left))
    return rows
