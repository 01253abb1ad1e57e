"""Roofline: how long an operation takes from its arithmetic, its bytes and the kernel that runs it.

    t = t0 + [ (FLOP / (ec * P))^p + (bytes / (em * BW))^p ]^(1/p)

``t0`` is the launch, ``ec`` and ``em`` the achieved fractions of the dense peak ``P`` and of the memory
bandwidth ``BW``; ``p`` = 2.5 rounds the knee as measured kernels do, ``p = max`` is the textbook roofline.
Three constants a GPU reproduce 22,000 measured matrix products to 3-7% median (aiconfigurator 0.12.0,
docs/accuracy.md); tile quantisation adds less than a point and is left out.

A law returns where the time goes: the launch to launch, the rest wholly to the larger of arithmetic and
memory, so that buckets add up to time.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.hardware import Gpu, KernelConstants
from sim.spec.plan import HEAD_BYTES, PACKED
from sim.spec.stack import Stack

INFINITE = float("inf")
#: Rounding an activation to 8 bits moves this many bytes: a pass that finds the largest reads 16 bits, another reads
#: them again and writes 8.
ROUNDED_BYTES = 5.0
#: Outputs that a rounded activation goes into, as in a layer of an 8B model (218M weights on 26.6k inputs); in a rank
#: of a larger model in a tensor group 5k to 16k.
OUTPUTS = 8192.0


@dataclass(frozen=True, slots=True)
class KernelRates:
    """What one GPU's kernels reach under one stack: FLOP/s, bytes/s and launch seconds.

    ``matmul`` is the rate of the weight precision's path, ``matmul_16`` that of the 16-bit output head,
    ``prefill`` that of prefill attention; ``weights``, ``decode``, ``prefill_memory`` and ``elementwise``
    are memory rates; ``head_weight`` the bytes of a weight of the output head; ``shared_groups`` the query heads
    per KV head whose decode attention reads the cache once (None: any). ``peak`` and ``bandwidth`` are the
    datasheet's, for utilisation.
    """

    peak: float
    bandwidth: float
    matmul: float
    matmul_16: float
    prefill: float
    weights: float
    decode: float
    prefill_memory: float
    elementwise: float
    matmul_launch: float
    decode_launch: float
    prefill_launch: float
    elementwise_launch: float
    exponent: float
    head_weight: float = 2.0
    shared_groups: tuple[int, ...] | None = None

    def knee(self, arithmetic: float, memory: float) -> float:
        """Seconds of an operation whose arithmetic and memory alone would take these times."""
        p = self.exponent
        larger, smaller = (arithmetic, memory) if arithmetic > memory else (memory, arithmetic)
        if p == INFINITE or larger <= 0.0:
            return larger
        return float(larger * (1.0 + (smaller / larger) ** p) ** (1.0 / p))


def matmul_peak(gpu: Gpu, weights: str) -> tuple[float, str]:
    """Dense peak of the path that multiplies weights of this format, and which efficiency applies (16, 8, 4).

    A card without the format multiplies in 16 bits after unpacking: weight-only quantisation saves bytes,
    not arithmetic. INT4 weights (GPTQ, AWQ) and those of llama.cpp always do.
    """
    flops = gpu.flops
    if weights == "fp8" and flops.fp8:
        return flops.fp8, "8"
    if weights == "int8" and flops.int8:
        return flops.int8, "8"
    if weights == "fp4" and flops.fp4:
        return flops.fp4, "4"
    return peak_16(gpu), "16"


def peak_16(gpu: Gpu) -> float:
    """Dense 16-bit peak with FP32 accumulation."""
    return gpu.flops.fp16


def kernel_rates(
    gpu: Gpu,
    stack: Stack,
    kernels: KernelConstants,
    weights: str,
    *,
    flops: float | None = None,
    memory_bandwidth: float | None = None,
    rounds: bool = True,
) -> KernelRates:
    """Rates of ``gpu`` under ``stack`` for ``weights``; ``flops`` and ``memory_bandwidth`` override the sheet.

    ``kernels`` are the GPU's measured constants (or the median of the measured GPUs where it has none). Where products
    are of 8 bits, an engine ``rounds`` the activations, whose time is in the rate of the products.
    """
    bandwidth = memory_bandwidth or gpu.memory_bandwidth
    peak, width = matmul_peak(gpu, weights)
    peak16 = peak_16(gpu)
    if flops is not None:
        peak = peak16 = flops
    head = HEAD_BYTES.get(weights, 2.0)
    exponent = INFINITE if stack.roofline_exponent == "max" else float(stack.roofline_exponent)
    if stack.kernels == "datasheet":
        return KernelRates(
            peak=peak,
            bandwidth=bandwidth,
            matmul=peak,
            matmul_16=peak16,
            prefill=peak16,
            weights=bandwidth,
            decode=bandwidth,
            prefill_memory=bandwidth,
            elementwise=bandwidth,
            matmul_launch=0.0,
            decode_launch=0.0,
            prefill_launch=0.0,
            elementwise_launch=0.0,
            exponent=exponent,
            head_weight=head,
        )
    k, on = kernels, stack.factors(gpu.id, packed=weights in PACKED)
    fraction = {"16": k.gemm_compute_16, "8": k.gemm_compute_8, "4": k.gemm_compute_4}[width]
    matmul, elementwise = peak * fraction * on.compute, bandwidth * k.elementwise_memory
    if width == "8" and rounds:
        matmul = 1.0 / (1.0 / matmul + ROUNDED_BYTES / (2.0 * OUTPUTS * elementwise))
    return KernelRates(
        peak=peak,
        bandwidth=bandwidth,
        matmul=matmul,
        matmul_16=peak16 * k.gemm_compute_16,
        prefill=peak16 * k.prefill_compute * on.prefill,
        weights=bandwidth * k.gemm_memory * on.memory,
        decode=bandwidth * k.decode_memory * on.attention,
        prefill_memory=bandwidth * k.prefill_memory,
        elementwise=elementwise,
        matmul_launch=k.gemm_launch * on.launch,
        decode_launch=k.decode_launch * on.launch,
        prefill_launch=k.prefill_launch * on.launch,
        elementwise_launch=k.elementwise_launch * on.launch,
        exponent=exponent,
        head_weight=head,
        shared_groups=stack.shared_groups,
    )
