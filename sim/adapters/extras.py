"""What a draft, adapters, and a replica without a KV cache ask of the rest of a job, whatever its plan."""

from __future__ import annotations

from collections.abc import Iterator

from sim.adapters.yaml_source import KeyPath
from sim.spec.plan import KV_BYTES
from sim.spec.scenario import Assume, ServingJob
from sim.spec.stack import Stack
from sim.spec.transformer import Transformer


def contradictions(
    spec: ServingJob, assume: Assume, model: Transformer, draft: Transformer | None, stack: Stack
) -> Iterator[tuple[KeyPath, str]]:
    """Keys of the job that do not go with a draft, with adapters or without a KV cache, and why."""
    if not spec.batching.kv_cache:
        yield from _without_a_cache(spec)
    for key in ("speculative", "adapters"):
        if getattr(spec, key) is not None and assume.tp_overlap == "double_buffer":
            yield (key,), "assume.tp_overlap: double_buffer cuts plain passes in halves: leave one of the two out"
    if spec.speculative is not None:
        yield from _of_a_draft(model, draft, stack)
    if spec.adapters is not None:
        if spec.adapters.targets == "all" and model.experts:
            yield ("adapters", "targets"), f"adapters of experts, which {model.id} has, are not modelled: attention"
        if model.latent:
            yield ("adapters",), f"adapters of latent attention, which {model.id} has, are not modelled"


def _of_a_draft(model: Transformer, draft: Transformer | None, stack: Stack) -> Iterator[tuple[KeyPath, str]]:
    if stack.host_per_layer:
        yield ("speculative",), f"stack {stack.id} launches layer by layer and does not decode speculatively"
    if model.latent:
        text = f"latent attention of several queries at once, to check tokens of {model.id}, is not modelled"
        yield ("speculative",), text
    where: KeyPath = ("speculative", "draft")
    if draft is None:
        return
    if draft.experts or draft.latent:
        what = "is a mixture of experts" if draft.experts else "has latent attention"
        yield where, f"{draft.id} {what}, which does not draft"
    if draft.vocabulary != model.vocabulary:
        yield where, f"{draft.id} has {draft.vocabulary:,} tokens, {model.id} has {model.vocabulary:,} others"


def _without_a_cache(spec: ServingJob) -> Iterator[tuple[KeyPath, str]]:
    """What tells of a KV cache, or needs one, where nothing is kept from one pass to the next."""
    b, kv = spec.batching, "batching.kv_cache is false"
    whole = f"{kv}: each pass computes whole contexts, however long; bound the batch by max_sequences or batch_size"
    ways: list[tuple[KeyPath, bool, str]] = [
        (("batching", "prefix_caching"), b.prefix_caching, f"{kv}: no prompt is kept for others"),
        (("batching", "admission"), b.admission is not None, f"{kv}: there are no blocks to set aside or run out of"),
        (("batching", "preemption"), b.preemption == "swap", f"{kv}: there is nothing to copy to the host"),
        (("batching", "max_batched_tokens"), b.max_batched_tokens is not None, whole),
        (("batching", "prefill_chunk"), b.prefill_chunk is not None, whole),
        (("precision", "kv"), KV_BYTES[spec.precision.kv] != 2.0, f"{kv}: keys and values live within a pass, in fp16"),
        (("router",), spec.router == "kv_aware", f"{kv}: no replica has any of a prompt: take another router"),
        (("disaggregate",), spec.disaggregate is not None, f"{kv}: a replica has no prompts to hand over"),
        (("speculative",), spec.speculative is not None, f"{kv}: guesses are checked behind cached tokens"),
        (
            ("adapters", "resident"), spec.adapters is not None and spec.adapters.slots < spec.adapters.count,
            f"{kv}: every pass begins its prompts anew, and would wait for adapters each time: leave resident out",
        ),
    ]  # fmt: skip
    yield from ((path, text) for path, clashes, text in ways if clashes)
