"""GPUs, links and collective fabrics as data: datasheet numbers beside measured kernel constants.

A datasheet gives peaks; kernels reach a fraction of them after a launch time. The constants are those of
the roofline law in :mod:`sim.laws.roofline`, each physical, per (GPU, software generation), with a source.
Rates are dense (never with structured sparsity) and links count one direction.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.base import Name, Prose, Spec
from sim.units import Bandwidth, Bytes, BytesPerSecond, FlopRate, Fraction, Seconds, Watts

Positive = Annotated[float, Field(gt=0, le=10)]
SomeShare = Annotated[Fraction, Field(gt=0)]
SomeRate = Annotated[FlopRate, Field(gt=0)]
Origin = Literal["measured", "copied", "judged", "datasheet"]
LinkKind = Literal[
    "nvlink", "pcie", "socket", "memory", "ethernet", "roce", "infiniband", "thunderbolt", "internet"
]


class KernelConstants(Spec):
    """Achieved fractions of the datasheet and launch times of one GPU's kernels.

    Symbols of docs/model.md: ec (16/8/4 bit), em, t0 for matrix products; ema, t0a for decode
    attention; ecp, t0p, x for prefill attention (x lumps softmax and rescaling work and may exceed 1).
    Elementwise kernels (norms, rotary, activation) were measured at 0.8 of bandwidth and 2 us each; ``quantise_launch``
    is the launch of a kernel that only rounds activations to 8 bits, as tables of products time it (engines fuse it).
    """

    gemm_compute_16: SomeShare
    gemm_compute_8: SomeShare
    gemm_compute_4: SomeShare
    gemm_memory: SomeShare
    gemm_launch: Seconds
    decode_memory: SomeShare
    decode_launch: Seconds
    prefill_compute: SomeShare
    prefill_launch: Seconds
    prefill_memory: Positive
    elementwise_memory: SomeShare = 0.8
    elementwise_launch: Seconds = 2e-6
    quantise_launch: Seconds = 2e-6
    origin: Origin
    source: Prose
    fitted_error: Prose | None = None


class Flops(Spec):
    """Dense peak rates by precision. ``fp16`` accumulates in FP32; ``fp16_fp16acc`` in FP16.

    GeForce cards halve FP16 and BF16 when accumulating in FP32 (RTX 4090: 165.2, not 330.3).
    """

    fp16: SomeRate
    bf16: SomeRate | None = None
    fp16_fp16acc: SomeRate | None = None
    fp8: SomeRate | None = None
    int8: SomeRate | None = None
    fp4: SomeRate | None = None
    tf32: SomeRate | None = None
    fp32: SomeRate | None = None


class GpuPower(Spec):
    """What a GPU draws while it works: ``running``, and more for each TB/s that its memory moves and each TFLOPS it
    computes, never above its ``tdp``."""

    running: Watts
    per_tb_per_s: Watts
    per_tflops: Watts
    origin: Origin
    source: Prose
    fitted_error: Prose | None = None


class Gpu(Spec):
    """One accelerator. ``usable_memory`` is what the driver shows a program, ``memory`` the box's number;
    ``datacenter``: whether the driver's licence allows data centres."""

    id: Name
    name: Prose
    vendor: Name
    architecture: Name
    memory: Annotated[Bytes, Field(gt=0)]
    usable_memory: Annotated[Bytes, Field(gt=0)]
    memory_bandwidth: Annotated[BytesPerSecond, Field(gt=0)]
    flops: Flops
    tdp: Watts
    idle_power: Watts
    scale_up: Bandwidth | None = None
    scale_up_domain: Annotated[int, Field(ge=1)] = 1
    pcie: Name | None = None
    p2p: bool = True
    datacenter: bool = True
    kernels: KernelConstants | None = None
    power: GpuPower | None = None
    source: Prose
    sources: dict[str, Prose] = Field(default_factory=dict)
    notes: Prose = ""

    @model_validator(mode="after")
    def _ordered(self) -> Gpu:
        if self.idle_power > self.tdp:
            raise ValueError("idle_power is above tdp")
        return self

    def working_watts(self, bytes_per_s: float, flops: float) -> float:
        """Watts while it works at mean rates; the board power where nothing more is known of it."""
        if self.power is None:
            return self.tdp
        drawn = self.power.running + self.power.per_tb_per_s * bytes_per_s / 1e12 + self.power.per_tflops * flops / 1e12
        return min(self.tdp, drawn)


class LinkType(Spec):
    """One kind of cable or bus.

    ``bandwidth`` is the raw rate of one direction; ``efficiency`` the share a large message gets;
    ``latency`` one way; ``message_overhead`` the software time per message, which blocks the sender.
    ``download``: the rate from a switch to the node, where a line to the internet has another than up.
    """

    id: Name
    kind: LinkKind
    bandwidth: Annotated[Bandwidth, Field(gt=0)]
    download: Annotated[Bandwidth, Field(gt=0)] | None = None
    efficiency: SomeShare = 1.0
    latency: Seconds = 0.0
    message_overhead: Seconds = 0.0
    source: Prose
    origin: Origin = "datasheet"
    notes: Prose = ""

    @property
    def rates(self) -> tuple[float, ...]:
        """Its raw rates: one, or that up and that down."""
        return (self.bandwidth,) if self.download is None else (self.bandwidth, self.download)


FabricKind = Literal["nvlink", "pcie", "staged", "network"]


class Fabric(Spec):
    """Measured constants of collectives among GPUs that sit on one fabric (two-branch alpha-beta law).

    time = min(alpha + s*step + w/(efficiency*B), bulk_alpha + s*bulk_step + w/(bulk_efficiency(n)*B)) with
    s ring steps, w wire bytes per GPU and B the raw rate of the member's link into the fabric, or the share
    that the graph leaves it. The first branch is the low-latency protocol, the second the bulk one.
    ``bulk_efficiency`` maps group sizes to the achieved share; sizes between are taken from the next larger.
    ``cross_efficiency`` replaces it where the group spans two sockets; ``in_switch`` is the all-reduce done
    by the switch (NVLS), used for n > 4.
    """

    id: Name
    kind: FabricKind
    architecture: Name | None = None
    library: Name
    alpha: Seconds
    step: Seconds
    efficiency: Positive
    bulk_alpha: Seconds
    bulk_step: Seconds
    bulk_efficiency: dict[int, Positive]
    cross_efficiency: dict[int, Positive] | None = None
    in_switch: Positive | None = None
    origin: Origin
    source: Prose
    fitted_error: Prose | None = None
