"""How a model is laid on GPUs: tensor, pipeline and replica degrees, layers per stage, and where ranks sit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.base import Count, Spec

WeightFormat = Literal["fp16", "bf16", "fp8", "int8", "int4", "int3", "int2", "fp4", "q4_k_m"]
KvFormat = Literal["fp16", "bf16", "fp8", "int8"]

# Bytes a weight takes, with the scales of its group: fp4 is NVFP4 (a byte of scale per 16 weights), int4, int3 and int2
# are GPTQ/AWQ with groups of 128 (an fp16 scale and a zero point of as many bits per group), q4_k_m is llama.cpp's
# mixture of 4- and 6-bit blocks: Llama 3's files of 4.58 GiB (8B) and 39.59 GiB (70B), less the token table (Q4_K) and
# the output head (Q6_K), both come to 4.80 bits a weight.
WEIGHT_BYTES: dict[str, float] = {
    "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": (4 + 20 / 128) / 8, "int3": (3 + 19 / 128) / 8,
    "int2": (2 + 18 / 128) / 8, "fp4": 0.5625,
    "q4_k_m": 4.8 / 8,
}  # fmt: skip
#: Bytes of a weight of the output head where they are not 2 (Q6_K: 16 scales and one of 16 bits for 256 weights).
HEAD_BYTES: dict[str, float] = {"q4_k_m": 6.5625 / 8}
#: Formats that are unpacked to 16 bits before they are multiplied.
PACKED = ("int4", "int3", "int2", "q4_k_m")
KV_BYTES: dict[str, float] = {"fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0}


class ServingPrecision(Spec):
    """Number formats. Activations travel in 16 bits; the output head stays in 16 bits (q4_k_m: 6.6)."""

    weights: WeightFormat = "fp16"
    kv: KvFormat = "fp16"


class ServingPlan(Spec):
    """Degrees of one serving job; it takes ``tp * pp * dp`` GPUs.

    A tensor group slices a mixture's experts (``ep`` 1), or spreads them whole over its ranks (``ep`` as ``tp``), the
    fullest of which has ``expert_imbalance`` times the mean tokens. With ``attention`` ``data`` each rank has sequences
    of its own, and all weights whole but those of the routed experts.

    ``layers`` gives the layers of each pipeline stage, or how to find them: ``even`` (a remainder goes to
    the first stages), or ``balanced`` (by each stage's speed, within its memory). ``placement`` lists the
    GPUs by their number in the topology, tensor ranks innermost, then stages, then replicas.
    ``micro_batches`` is how many batches travel the pipeline at once.
    """

    tp: Count = 1
    pp: Count = 1
    dp: Count = 1
    ep: Count = 1
    attention: Literal["tensor", "data"] = "tensor"
    expert_imbalance: Annotated[float, Field(ge=1, le=1000)] = 1.0
    micro_batches: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    layers: Literal["even", "balanced"] | tuple[Annotated[int, Field(ge=1, le=2000)], ...] = "even"
    placement: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    @property
    def slices(self) -> int:
        """Ranks over which attention, plain MLPs, token table and output head are sliced."""
        return 1 if self.attention == "data" else self.tp

    @property
    def gpus(self) -> int:
        """GPUs the plan takes."""
        return self.tp * self.pp * self.dp

    @model_validator(mode="after")
    def _consistent(self) -> ServingPlan:
        if not isinstance(self.layers, str) and len(self.layers) != self.pp:
            raise ValueError(f"layers lists {len(self.layers)} stages, pp is {self.pp}")
        if self.ep not in (1, self.tp):
            raise ValueError(f"ep spreads experts over all ranks of a tensor group: it is {self.tp} (tp) or 1")
        if self.attention == "data" and self.ep == 1:
            raise ValueError("attention: data needs experts that are spread: ep as tp, above 1 (else take dp)")
        if self.expert_imbalance > 1 and self.ep == 1:
            raise ValueError("expert_imbalance tells of ranks that hold different experts: it needs ep as tp, above 1")
        if self.expert_imbalance > self.ep:
            raise ValueError(f"expert_imbalance is at most {self.ep} (ep): one rank has all tokens then")
        if self.micro_batches is not None and self.pp == 1 and self.micro_batches > 1:
            raise ValueError("micro_batches needs a pipeline: pp is 1")
        if self.placement is not None:
            if len(self.placement) != self.gpus:
                raise ValueError(f"placement lists {len(self.placement)} GPUs, the plan takes {self.gpus}")
            if len(set(self.placement)) != len(self.placement):
                raise ValueError("placement names a GPU twice")
        return self
