"""The software's efficiency profile: what an engine adds to, or takes from, what the GPU's kernels reach.

``ideal`` is datasheet arithmetic: peak rates, no launch, no latency, activations kept on chip.
Everything else uses the GPU's measured kernel constants and these few host constants, each with the
version it belongs to, its source and its fitted error. Engine version alone moves results by 10-30%.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from sim.spec.base import Name, Prose, Spec
from sim.spec.hardware import Origin, Positive
from sim.units import Bytes, Fraction, Seconds


class StackMemory(Spec):
    """How an engine finds its KV budget.

    ``of_total``: fraction*HBM - weights - reserve (vLLM); ``of_free``: fraction*(HBM - weights - reserve)
    (TensorRT-LLM). Admission keeps ``watermark`` of the blocks free for sequences that already run.
    """

    rule: Literal["of_total", "of_free"]
    fraction: Fraction
    reserve: Bytes
    block_tokens: Annotated[int, Field(ge=1, le=4096)] = 16
    watermark: Fraction = 0.01


class Factors(NamedTuple):
    """On the rates of matrix products, of their memory, of decode and of prefill attention, and on launches."""

    compute: float
    memory: float
    attention: float
    prefill: float
    launch: float


class StackOnGpu(Spec):
    """Factors of one (GPU, stack), each in place of the stack's own of that name.

    ``packed_compute_scale`` and ``packed_memory_scale`` are those of weights that are unpacked before they are
    multiplied (int4, int3, int2, q4_k_m); ``prefill_scale`` is on the arithmetic rate of prefill attention,
    ``launch_scale`` on the launches of all kernels. ``fitted`` lists what was fitted, on how many ``rows``; the rest is
    the stack's.
    """

    compute_scale: Positive | None = None
    memory_scale: Positive | None = None
    attention_scale: Positive | None = None
    prefill_scale: Positive | None = None
    launch_scale: Positive | None = None
    packed_compute_scale: Positive | None = None
    packed_memory_scale: Positive | None = None
    fitted: tuple[Name, ...] = ()
    rows: Annotated[int, Field(ge=0)] = 0
    fitted_error: Prose | None = None
    notes: Prose = ""


class Stack(Spec):
    """One serving engine at one version. ``gpus`` has what was fitted to its runs on one GPU.

    ``shared_groups``: query heads per KV head for which decode attention has a kernel that reads the cache once for
    all of them (None: for any); without one each query head reads it for itself.
    """

    id: Name
    version: Prose
    about: Prose = ""
    source: Prose
    origin: Origin
    fitted_error: Prose | None = None
    kernels: Literal["measured", "datasheet"] = "measured"
    links: Literal["measured", "datasheet"] = "measured"
    roofline_exponent: Annotated[float, Field(ge=1, le=100)] | Literal["max"] = 2.5
    activations: Literal["through_memory", "on_chip"] = "through_memory"
    compute_scale: Positive = 1.0
    memory_scale: Positive = 1.0
    attention_scale: Positive = 1.0
    prefill_scale: Positive = 1.0
    launch_scale: Positive = 1.0
    mixed_attention_penalty: Positive = 1.0
    shared_groups: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    host_per_step: Seconds = 0.0
    host_per_sequence: Seconds = 0.0
    host_per_layer: Seconds = 0.0
    host_per_pipeline_pass: Seconds = 0.0
    collective_libraries: tuple[Name, ...] = ("nccl",)
    memory: StackMemory
    admission: Literal["preempt", "reserve"]
    max_sequences: Annotated[int, Field(ge=1, le=1_000_000)]
    max_batched_tokens: Annotated[int, Field(ge=1, le=10_000_000)]
    gpus: dict[Name, StackOnGpu] = Field(default_factory=dict)

    def factors(self, gpu: str, *, packed: bool) -> Factors:
        """The factors that apply on a GPU, by its id; ``packed`` weights are unpacked before they are multiplied."""
        own = self.gpus.get(gpu, StackOnGpu())

        def of(name: str) -> float:
            value = getattr(own, name)
            found: float = getattr(self, name) if value is None else value
            return found

        compute, memory = of("compute_scale"), of("memory_scale")
        if packed:
            compute = own.packed_compute_scale or compute
            memory = own.packed_memory_scale or memory
        return Factors(compute, memory, of("attention_scale"), of("prefill_scale"), of("launch_scale"))
