"""The roofline: its limits, its knee, and which peak multiplies which weights."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.laws.roofline import KernelRates, kernel_rates, matmul_peak

LIBRARY = Library()
SECONDS = st.floats(1e-9, 1e3)
EXPONENTS = st.floats(1.0, 50.0)


def rates(gpu: str = "rtx4090", stack: str = "generic", weights: str = "fp16", **keys: float) -> KernelRates:
    card = LIBRARY.gpu(gpu)
    kernels = card.kernels or LIBRARY.default_kernels()
    return kernel_rates(card, LIBRARY.stack(stack), kernels, weights, **keys)


def knee(p: float, arithmetic: float, memory: float) -> float:
    return replace(rates(), exponent=p).knee(arithmetic, memory)


@given(SECONDS, SECONDS, EXPONENTS)
def test_knee_is_the_p_norm_between_max_and_sum(a: float, m: float, p: float) -> None:
    t = knee(p, a, m)
    assert max(a, m) <= t <= (a + m) * (1 + 1e-12)
    assert isclose(t, knee(p, m, a))
    larger = max(a, m)
    assert isclose(t, larger * ((a / larger) ** p + (m / larger) ** p) ** (1 / p), rel_tol=1e-12)


@given(SECONDS, SECONDS, EXPONENTS, st.floats(1.001, 10))
def test_knee_never_falls_when_a_side_grows_or_the_corner_sharpens(a: float, m: float, p: float, f: float) -> None:
    assert knee(p, a * f, m) >= knee(p, a, m)
    assert knee(p, a, m * f) >= knee(p, a, m)
    assert knee(p * f, a, m) <= knee(p, a, m) * (1 + 1e-12)


@pytest.mark.parametrize("p", [1.0, 2.5, 100.0, inf])
def test_one_side_alone_is_its_own_time(p: float) -> None:
    assert knee(p, 3.0, 0.0) == knee(p, 0.0, 3.0) == 3.0
    assert knee(p, 0.0, 0.0) == 0.0


def test_equal_sides_cost_a_root_of_two_and_max_costs_nothing() -> None:
    assert knee(2.5, 1.0, 1.0) == pytest.approx(2 ** (1 / 2.5))
    assert knee(1.0, 2.0, 3.0) == pytest.approx(5.0)
    assert knee(inf, 2.0, 3.0) == 3.0


def test_stack_ideal_is_the_datasheet() -> None:
    r = rates("h100-sxm", "ideal")
    assert (r.matmul, r.matmul_16, r.prefill, r.peak) == (989e12,) * 4
    assert (r.weights, r.decode, r.prefill_memory, r.elementwise, r.bandwidth) == (3350e9,) * 5
    assert r.matmul_launch == r.decode_launch == r.prefill_launch == r.elementwise_launch == 0.0
    assert r.exponent == inf


def test_measured_rates_are_the_sheet_times_kernel_constants_times_the_stack() -> None:
    card, k = LIBRARY.gpu("a100-sxm-80gb"), LIBRARY.gpu("a100-sxm-80gb").kernels
    stack = LIBRARY.stack("lmdeploy-0.1")
    assert k is not None
    r = rates("a100-sxm-80gb", "lmdeploy-0.1")
    assert r.matmul == pytest.approx(312e12 * k.gemm_compute_16 * stack.compute_scale)
    assert r.matmul_16 == pytest.approx(312e12 * k.gemm_compute_16)
    assert r.prefill == pytest.approx(312e12 * k.prefill_compute)
    assert r.weights == pytest.approx(card.memory_bandwidth * k.gemm_memory * stack.memory_scale)
    assert r.decode == pytest.approx(card.memory_bandwidth * k.decode_memory * stack.attention_scale)
    assert r.prefill_memory == pytest.approx(card.memory_bandwidth * k.prefill_memory)
    assert r.elementwise == pytest.approx(card.memory_bandwidth * 0.8)
    assert (r.matmul_launch, r.decode_launch, r.prefill_launch, r.elementwise_launch) == (
        k.gemm_launch, k.decode_launch, k.prefill_launch, 2e-6,
    )  # fmt: skip
    assert r.exponent == 2.5


def test_overrides_replace_the_sheet_before_the_efficiencies() -> None:
    plain = rates("rtx4090", "ideal", flops=330e12, memory_bandwidth=1e12)
    assert (plain.matmul, plain.prefill, plain.weights, plain.peak) == (330e12, 330e12, 1e12, 330e12)
    measured = rates("rtx4090", "generic", flops=330e12)
    assert measured.matmul == pytest.approx(330e12 * 0.965)


@pytest.mark.parametrize(
    ("gpu", "weights", "peak", "width"),
    [
        ("h100-sxm", "fp16", 989e12, "16"),
        ("h100-sxm", "fp8", 1979e12, "8"),
        ("h100-sxm", "int8", 1979e12, "8"),
        ("h100-sxm", "fp4", 989e12, "16"),  # Hopper has no 4-bit arithmetic
        ("h100-sxm", "int4", 989e12, "16"),  # weight-only: unpacked to 16 bits
        ("a100-sxm-80gb", "fp8", 312e12, "16"),  # Ampere has no FP8
        ("a100-sxm-80gb", "int8", 624e12, "8"),
        ("rtx4090", "fp16", 165.2e12, "16"),  # GeForce halves FP16 with FP32 accumulation
        ("rtx4090", "fp8", 330.3e12, "8"),
    ],
)
def test_peak_is_that_of_the_weights_path_or_16_bits(gpu: str, weights: str, peak: float, width: str) -> None:
    assert matmul_peak(LIBRARY.gpu(gpu), weights) == (peak, width)


def test_fp4_has_its_own_path_on_blackwell() -> None:
    card = LIBRARY.gpu("b200-sxm")
    assert card.flops.fp4 is not None
    assert matmul_peak(card, "fp4") == (card.flops.fp4, "4")
    k = card.kernels
    assert k is not None
    assert rates("b200-sxm", weights="fp4").matmul == pytest.approx(card.flops.fp4 * k.gemm_compute_4)


def test_a_stack_states_what_it_reaches_on_one_gpu() -> None:
    stack = LIBRARY.stack("llama.cpp")
    own = stack.gpus["rtx4090"]
    plain, card = rates("rtx4090", "generic"), rates("rtx4090", "llama.cpp")
    assert own.memory_scale is not None
    assert own.packed_memory_scale is not None
    assert own.launch_scale is not None
    assert card.weights == pytest.approx(plain.weights * own.memory_scale)
    assert card.matmul_launch == pytest.approx(plain.matmul_launch * own.launch_scale)
    assert rates("rtx4090", "llama.cpp", "int4").weights == pytest.approx(plain.weights * own.packed_memory_scale)
    # A card that is not listed has the stack's own factors, packed or not.
    other = rates("h200-sxm", "llama.cpp")
    assert other.decode == pytest.approx(rates("h200-sxm", "generic").decode * stack.attention_scale)
    assert rates("h200-sxm", "llama.cpp", "int4").weights == other.weights


@pytest.mark.parametrize("gpu", sorted(LIBRARY.stack("llama.cpp").gpus))
def test_no_fitted_card_reads_faster_than_its_datasheet(gpu: str) -> None:
    for weights in ("fp16", "q4_k_m"):
        found = rates(gpu, "llama.cpp", weights)
        assert max(found.weights, found.decode) <= found.bandwidth
