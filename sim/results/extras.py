"""What an answer rests on where a draft or adapters run beside the model, or no KV cache does."""

from __future__ import annotations

from collections.abc import Sequence

from sim.jobs.serving.recording import ServingRecording
from sim.laws.adapters import distinct, miss_probability
from sim.results.schema import Assumption
from sim.units import format_bytes, format_percent

SPECULATIVE_NOT_MODELLED = [
    "Speculative decoding: tokens come in bursts, here one by one at the mean rate; acceptance is one number for every "
    "request, place and batch; tokens that are checked count neither against max_batched_tokens nor in the KV cache.",
]
ADAPTERS_NOT_MODELLED = [
    "Adapters: the scheduler does not look at them; grouped kernels reach what dense ones do, whatever the mix; an "
    "adapter that is missing is copied before its prompt, as one piece.",
]
UNCACHED_NOT_MODELLED = [
    "Without a KV cache: the activations of a pass are compared with the memory in a warning, and bound no batch; "
    "contexts of a batch are not padded to the longest.",
]


def left_out_of_extras(jobs: Sequence[ServingRecording]) -> list[str]:
    """What the answer leaves out."""
    found: list[str] = []
    for job in jobs:
        found += SPECULATIVE_NOT_MODELLED if job.job.spec.speculative is not None else []
        found += ADAPTERS_NOT_MODELLED if job.job.spec.adapters is not None else []
        found += UNCACHED_NOT_MODELLED if not job.job.spec.batching.kv_cache else []
    return found


def banners_of_extras(jobs: Sequence[ServingRecording]) -> list[str]:
    """One line for each job whose speed rests on an acceptance that nobody can look up."""
    return [
        f"ACCEPTANCE IS ASSUMED: {format_percent(guesses.acceptance)} of the draft's tokens are right, "
        f"{guesses.kept:.3g} tokens a pass ({job.job.spec.name})"
        for job in jobs
        if (guesses := job.job.spec.speculative) is not None
    ]


def assumed_of_extras(job: ServingRecording) -> list[Assumption]:
    """The draft and its acceptance; the adapters, and how requests are spread over them; that nothing is cached."""
    spec, rows = job.job.spec, list[Assumption]()
    if not spec.batching.kv_cache:
        text = "none: each pass computes the whole context of each of its sequences again"
        rows.append(Assumption(name=f"{spec.name}: KV cache", value=text, origin="user", source="the scenario"))
    held = max(m.beside for stages in job.layout.replicas for stage in stages for m in stage.memory.values())
    if (guesses := spec.speculative) is not None:
        draft = job.job.draft
        by = f"{draft.id} ({guesses.weights}, {format_bytes(held)})" if draft else "n-grams of the context, free"
        text = (
            f"{guesses.tokens} tokens guessed by {by}, each right with {format_percent(guesses.acceptance)}: "
            f"{guesses.kept:.3g} tokens a pass of the model"
        )
        source = "the scenario; tokens a pass by Leviathan et al. 2023 (arXiv:2211.17192)"
        rows.append(Assumption(name=f"{spec.name}: speculative decoding", value=text, origin="user", source=source))
        if draft is not None:
            shape = f"{draft.parameters / 1e9:.2f} B, {draft.layers} layers, {draft.kv_heads} KV heads"
            rows.append(Assumption(name=f"draft {draft.id}", value=shape, origin="published", source=draft.source))
    if (adapters := spec.adapters) is not None:
        batch = 16
        text = (
            f"{adapters.count} of rank {adapters.rank} ({adapters.targets} matrices), wanted as 1/k^{adapters.skew:g}: "
            f"{batch} sequences want {distinct(adapters, batch):.3g}; {adapters.slots} on the GPUs "
            f"({format_bytes(held)}), missed by {format_percent(miss_probability(adapters))} of requests"
        )
        rows.append(Assumption(name=f"{spec.name}: adapters", value=text, origin="user",
                               source="the scenario; misses by Che's approximation of an LRU cache"))  # fmt: skip
    return rows
