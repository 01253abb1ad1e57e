"""The memory of a draft model or of adapters beside a model that is laid out, and the plans they fit.

Taken from what was left for the KV cache. A draft's weights and tables lie on the GPUs of the only stage, and its keys
and values beside the model's: a token takes both. Adapters lie with the layers they belong to.
"""

from __future__ import annotations

from dataclasses import replace

from sim.adapters.resolve import ResolvedServing
from sim.errors import InfeasibleError
from sim.laws.adapter_weights import adapter_bytes
from sim.laws.layout import Layout, StageLayout, budget_rows
from sim.laws.memory import StageMemory, stage_memory, tokens_that_fit
from sim.spec.plan import KV_BYTES, WEIGHT_BYTES
from sim.spec.stack import StackMemory
from sim.spec.transformer import Transformer
from sim.units import format_bytes


def with_extras(job: ResolvedServing, layout: Layout, *, unchecked: bool) -> Layout:
    """The layout of a job with what runs beside its model. Raises InfeasibleError where that does not go or fit."""
    spec = job.spec
    if spec.speculative is None and spec.adapters is None:
        return layout
    _check(job)
    block, replicas, tokens, cached = job.stack.memory.block_tokens, [], [], spec.batching.kv_cache
    for stages in layout.replicas:
        more = tuple(replace(s, memory={g: _memory(job, s, m) for g, m in s.memory.items()}) for s in stages)
        held = [m for stage in more for m in stage.memory.values()]
        fit = tokens_that_fit(held) // block * block if cached else 0
        short = fit <= 0 if cached else any(m.kv_budget < 0 for m in held)
        full = any(m.weights + m.embeddings + m.beside > m.capacity for m in held)
        if (short and not unchecked) or full:
            what = "a draft model" if spec.speculative is not None else f"{_slots(job)} adapters"
            size = format_bytes(max(m.beside for m in held))
            raise InfeasibleError(
                f"job {spec.name}: {job.model.id} does not fit beside {what} ({size} a GPU): what is left "
                + ("holds no block of KV cache" if cached else "is less than the runtime takes"),
                budget_rows(more),
            )
        replicas.append(more)
        tokens.append(fit)
    return Layout(tuple(replicas), tuple(tokens))


def draft_tp(job: ResolvedServing) -> int:
    """GPUs that a draft's layers are sliced over."""
    assert job.spec.speculative is not None
    return job.spec.speculative.tp or job.spec.plan.tp


def _slots(job: ResolvedServing) -> int:
    assert job.spec.adapters is not None
    return job.spec.adapters.slots


def _memory(job: ResolvedServing, stage: StageLayout, memory: StageMemory) -> StageMemory:
    """The budget of a GPU with what lies beside the model."""
    spec, rule = job.spec, job.stack.memory
    if spec.adapters is not None:
        each = adapter_bytes(job.model, spec.adapters, stage.layers, spec.plan.tp)
        return _less(memory, rule, each * spec.adapters.slots, 0.0)
    assert spec.speculative is not None
    if job.draft is None:
        return memory
    draft = stage_memory(
        job.draft,
        rule,
        memory.capacity,
        layers=job.draft.layers,
        tp=draft_tp(job),
        first=True,
        last=True,
        weight_bytes=WEIGHT_BYTES[spec.speculative.weights],
        kv_bytes=KV_BYTES[spec.precision.kv],
    )
    return _less(memory, rule, draft.weights + draft.embeddings, draft.kv_per_token)


def _less(memory: StageMemory, rule: StackMemory, size: float, kv_per_token: float) -> StageMemory:
    """The budget with ``size`` bytes taken from it, and more for each token."""
    kept_back, budget = memory.kept_back, memory.kv_budget - size
    if rule.rule == "of_free":
        free = memory.capacity - memory.weights - memory.embeddings - memory.reserve - size
        kept_back, budget = (1 - rule.fraction) * max(free, 0.0), free * rule.fraction
    per_token = memory.kv_per_token + kv_per_token
    return replace(memory, beside=size, kept_back=kept_back, kv_budget=budget, kv_per_token=per_token)


def _check(job: ResolvedServing) -> None:
    """Whether the plan and the limits go with it."""
    spec, plan = job.spec, job.spec.plan
    if plan.attention == "data":
        what = "adapters" if spec.speculative is None else "a draft"
        raise InfeasibleError(
            f"job {spec.name}: {what} beside ranks with sequences of their own (plan.attention: data) are not "
            "modelled: slice attention"
        )
    if spec.speculative is not None:
        if plan.pp > 1:
            raise InfeasibleError(
                f"job {spec.name}: speculative decoding is modelled on one stage, the plan has pp {plan.pp}: "
                "engines let a pipeline's stages wait for the draft. Use tp"
            )
        if job.draft is not None:
            _check_draft(job, job.draft)
    if spec.adapters is not None and spec.adapters.slots < spec.adapters.count:
        running = spec.batching.batch_size or spec.batching.max_sequences or job.stack.max_sequences
        if running > spec.adapters.slots:
            raise InfeasibleError(
                f"job {spec.name}: {running} sequences may run at once and each may want an adapter of its own, "
                f"{spec.adapters.slots} are resident: set batching.max_sequences to {spec.adapters.slots} or less"
            )


def _check_draft(job: ResolvedServing, draft: Transformer) -> None:
    name, plan, tp = job.spec.name, job.spec.plan, draft_tp(job)
    if tp not in (1, plan.tp):
        raise InfeasibleError(f"job {name}: a draft is whole on each GPU (tp 1) or sliced as the model (tp {plan.tp})")
    kv_fits = tp % draft.kv_heads == 0 or draft.kv_heads % tp == 0
    if draft.heads % tp or not kv_fits:
        raise InfeasibleError(
            f"job {name}: tp {tp} does not divide the {draft.heads} attention heads ({draft.kv_heads} of keys and "
            f"values) of the draft {draft.id}: set speculative.tp to 1"
        )
