"""What a training framework adds to, or takes from, what the GPU's kernels reach: few constants a (GPU, stack).

``ideal`` is datasheet arithmetic. Everything else has the constants of docs/model.md, "Training", each fitted on a
table of measured steps together with all rows of that (GPU, stack), never on one row.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sim.spec.base import Name, Prose, Spec
from sim.spec.hardware import Origin, Positive, SomeShare
from sim.units import Bytes, Fraction, Seconds


class TrainingConstants(Spec):
    """Constants of one (GPU, stack); symbols of docs/model.md in brackets.

    ``matmul_16``, ``matmul_8``: share of the dense peak that matrix products reach [ec, ec8]. ``attention``: that of
    fused attention [ea]. ``elementwise``: passes over memory of work between the matrix products, 1 where all of it is
    fused ideally [ke]. ``host_per_layer``: time in which the host launches one layer [th]. ``tp_exposed``: exposed
    tensor-parallel communication against the law's time [xt]. ``overlap``: share of communication that can hide that
    does [ov]. ``network``: share of the cards' line rate that collectives reach [en]. ``pipeline_exposed``: that of
    hops between stages [xp]. ``step_overhead``: time of a step in which no GPU works [tail].
    ``cast``, ``dequantise``: passes over memory for FP8 casts and for unpacking 4-bit weights [kc, kq].
    ``misaligned``: attention's share where the head width is no multiple of 8 [mis]. ``tp_exposed_8`` replaces
    ``tp_exposed`` in FP8. ``shard_broadcast``: time that each rank of the optimizer's shards adds to a step.
    ``cpu_update``: share of the host memory's bandwidth that an update on the CPU reaches (the default is judged).
    """

    matmul_16: SomeShare
    matmul_8: SomeShare
    attention: SomeShare
    elementwise: Annotated[float, Field(ge=0, le=20)]
    host_per_layer: Seconds
    tp_exposed: Positive
    overlap: Fraction
    network: SomeShare
    pipeline_exposed: Fraction = 1.0
    step_overhead: Seconds
    cast: Annotated[float, Field(ge=0, le=20)] = 1.0
    dequantise: Annotated[float, Field(ge=0, le=20)] = 1.0
    misaligned: SomeShare = 0.3
    tp_exposed_8: Positive | None = None
    shard_broadcast: Seconds = 0.0
    cpu_update: SomeShare = 0.6
    fitted: tuple[Prose, ...] = ()
    rows: Annotated[int, Field(ge=0)] = 0
    fitted_error: Prose | None = None
    notes: Prose = ""


class TrainingStack(Spec):
    """One training framework at one version. ``constants`` serve GPUs that ``gpus`` does not list.

    ``sync_overlap``: whether gradients are reduced while the backward pass still runs. ``zero1_reduce``: how ZeRO-1
    brings gradients together (older ones all-reduce). ``hop``: the least time of a step of a ring between nodes.
    ``reserve``: what the runtime keeps of each GPU.
    """

    id: Name
    version: Prose
    about: Prose = ""
    source: Prose
    origin: Origin
    kernels: Literal["measured", "datasheet"] = "measured"
    links: Literal["measured", "datasheet"] = "measured"
    roofline_exponent: Annotated[float, Field(ge=1, le=100)] | Literal["max"] = 2.5
    activations: Literal["through_memory", "on_chip"] = "through_memory"
    attention: Literal["flash", "unfused"] = "flash"
    fused_norms: bool = True
    sync_overlap: bool = True
    zero1_reduce: Literal["reduce_scatter", "all_reduce"] = "reduce_scatter"
    split_hops: bool = True
    hop: Seconds = 10e-6
    reserve: Bytes = 2 * 1024.0**3
    collective_libraries: tuple[Name, ...] = ("nccl",)
    constants: TrainingConstants
    gpus: dict[Name, TrainingConstants] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _laid_over(cls, data: Any) -> Any:
        """A GPU's entry states only what differs from ``constants``; what was fitted is each entry's own."""
        if not isinstance(data, dict) or not isinstance(data.get("constants"), dict):
            return data
        own = ("fitted", "rows", "fitted_error", "notes")
        common = {k: v for k, v in data["constants"].items() if k not in own}
        gpus = data.get("gpus")
        if not isinstance(gpus, dict):
            return data
        return {**data, "gpus": {k: {**common, **v} if isinstance(v, dict) else v for k, v in gpus.items()}}

    def constants_for(self, gpu: str) -> TrainingConstants:
        """The constants of a GPU by its id: its own, or those for all."""
        return self.gpus.get(gpu, self.constants)
