"""What a draft and adapters ask of the rest of a job, whatever its plan."""

from __future__ import annotations

from collections.abc import Iterator

from sim.adapters.yaml_source import KeyPath
from sim.spec.scenario import Assume, ServingJob
from sim.spec.stack import Stack
from sim.spec.transformer import Transformer


def contradictions(
    spec: ServingJob, assume: Assume, model: Transformer, draft: Transformer | None, stack: Stack
) -> Iterator[tuple[KeyPath, str]]:
    """Keys of the job that do not go with a draft or with adapters, and why."""
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
