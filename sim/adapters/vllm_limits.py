"""What a vLLM server takes where its arguments say nothing: limits by the memory and name of its GPUs, and a cache.

vLLM V1, ``EngineArgs.get_batch_defaults`` (vllm/engine/arg_utils.py up to 0.27) in the context of an API server: GPUs
of 70 GiB and more that are no A100 - on which large passes were found to cost throughput - get 1,024 sequences and
8,192 tokens a pass, all others 256 and 2,048. (From 0.28 on, GPUs of 160 GiB and more get 16,384 tokens; the
catalogue's stack is 0.19.) It has values of its own for TPUs and for CPUs, which no GPU of the catalogue is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sim.spec.hardware import Gpu

GIB: Final = 2.0**30
LARGE_FROM: Final = 70 * GIB
VENDORS: Final = ("nvidia", "amd")
#: Cards that a driver shows as several GPUs.
DIES: Final[Mapping[str, int]] = {"mi250x": 2}


class Limits(NamedTuple):
    """Sequences that run at once, and tokens of one pass."""

    sequences: int
    tokens: int


LARGE: Final = Limits(1024, 8192)
SMALL: Final = Limits(256, 2048)


def is_large(gpu: Gpu) -> bool:
    """Whether vLLM takes its large limits on a GPU."""
    return gpu.usable_memory / DIES.get(gpu.id, 1) >= LARGE_FROM and "a100" not in gpu.id and gpu.vendor in VENDORS


def with_defaults(job: dict[str, Any], gpus: Iterable[Gpu], context: int) -> list[str]:
    """Put what the ``batching`` of a job lacks into it; what was put there and why, a sentence each.

    ``context``: tokens of the longest request. Of different GPUs the small limits are taken if any has them: which of
    them vLLM asks is not known here.
    """
    known = list(gpus)
    large = bool(known) and all(map(is_large, known))
    limits = LARGE if large else SMALL
    names = " and ".join(dict.fromkeys(gpu.id for gpu in known)) or "no GPU"
    why = f"not given: vLLM's default on {names} ({'70 GiB or more, no A100' if large else 'under 70 GiB, or an A100'})"
    said, batching = [], job["batching"]
    given = batching.get("max_sequences")
    if "max_batched_tokens" not in batching:
        tokens = max(context, limits.tokens) if batching["policy"] == "prefill_first" else limits.tokens
        batching["max_batched_tokens"] = min(tokens, (given or limits.sequences) * context)
        said.append(f"--max-num-batched-tokens {why}: jobs.0.batching.max_batched_tokens")
    if given is None:
        batching["max_sequences"] = min(limits.sequences, batching["max_batched_tokens"])
        said.append(f"--max-num-seqs {why}: jobs.0.batching.max_sequences")
    if "prefix_caching" not in batching and "adapters" not in job:
        batching["prefix_caching"] = True
        said.append("--enable-prefix-caching not given: on by default in V1: jobs.0.batching.prefix_caching")
    return said
