"""Measured kernels and collectives against the laws alone: which law tells a row, by hand, and what is set aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.adapters.lookup import Library
from sim.study.validate.cases import COLLECTIVES, DECODE_ATTENTION, GEMM, GEMM_8, PREFILL_ATTENTION, Case
from sim.study.validate.formats import read_tables
from sim.study.validate.kernel_cases import (
    decode_case,
    engine_cases,
    gemm_case,
    nccl_case,
    nccl_tests_case,
    prefill_case,
    vidur_case,
)
from sim.study.validate.published_cases import published_case
from sim.study.validate.runner import compare

TRUTH = Path(__file__).parents[3] / "shared" / "data" / "truth" / "kernels"
LIBRARY = Library()


def predicted(case: Case) -> float:
    assert case.predicted is not None, case.reason
    return case.predicted


def test_a_matrix_product_is_the_roofline_with_a_rounded_knee() -> None:
    cells = {"gpu": "h100_sxm", "framework": "trtllm", "dtype": "bfloat16", "m": "256", "n": "4096", "k": "8192",
             "cold": "1", "latency_us": "40"}  # fmt: skip
    found = gemm_case("gemm", 2, cells)
    gpu = LIBRARY.gpu("h100-sxm")
    k = gpu.kernels
    assert k is not None
    compute = 2 * 256 * 4096 * 8192 / (k.gemm_compute_16 * 989e12)
    memory = 2 * (4096 * 8192 + 256 * 8192 + 256 * 4096) / (k.gemm_memory * 3350e9)
    knee = (compute**2.5 + memory**2.5) ** 0.4
    assert predicted(found) == pytest.approx((k.gemm_launch + knee) * 1e6)
    assert (found.family, found.metric, found.unit, found.measured) == (GEMM, "time_us", "us", pytest.approx(40))
    narrow = gemm_case("gemm", 2, cells | {"dtype": "fp8", "m": "1"})
    wide = gemm_case("gemm", 2, cells | {"m": "1"})
    assert narrow.family == GEMM_8
    assert 0.5 * predicted(wide) < predicted(narrow) < predicted(wide)  # half the bytes, and quantising


def test_what_a_cache_may_hold_is_set_aside() -> None:
    cells = {"gpu": "a100_sxm", "m": "1", "n": "1024", "k": "1024", "cold": "0", "latency_us": "5"}
    assert "second-level cache" in (gemm_case("gemm", 2, cells).reason or "")
    attention = {"gpu": "a100_sxm", "framework": "vllm", "batch_size": "1", "s": "1024", "num_heads": "32", "kv": "8",
                 "latency_us": "20"}  # fmt: skip
    assert "second-level cache" in (decode_case("attention", 2, attention).reason or "")
    assert decode_case("attention", 2, attention | {"s": "131072"}).reason is None


def test_decode_attention_reads_the_cache_and_prefill_adds_arithmetic_to_memory() -> None:
    cells = {"gpu": "h100_sxm", "framework": "vllm", "batch_size": "8", "s": "16384", "num_heads": "32", "kv": "8",
             "latency_us": "200"}  # fmt: skip
    k = LIBRARY.gpu("h100-sxm").kernels
    assert k is not None
    decode = decode_case("attention", 2, cells)
    reads = 8 * 16384 * 2 * 8 * 128 * 2
    assert predicted(decode) == pytest.approx((k.decode_launch + reads / (k.decode_memory * 3350e9)) * 1e6)
    assert decode.family == DECODE_ATTENTION
    prompt = prefill_case("attention", 2, cells | {"s": "2048"})
    arithmetic = 8 * 2 * 2048**2 * 32 * 128 / (k.prefill_compute * 989e12)
    moved = 8 * 2 * (2 * 2048 * 32 * 128 + 2 * 2048 * 8 * 128) / (k.prefill_memory * 3350e9)
    assert predicted(prompt) == pytest.approx((k.prefill_launch + arithmetic + moved) * 1e6)
    assert prompt.family == PREFILL_ATTENTION


def test_collectives_have_the_constants_of_their_library() -> None:
    cells = {"gpu": "h100_sxm", "nccl": "2.29.2", "op_name": "all_reduce", "num_gpus": "8", "bytes": "16384",
             "latency": "0.016"}  # fmt: skip
    nccl = nccl_case("nccl", 2, cells)
    own = {"gpu": "h100_sxm", "src": "trtllm/1.0", "num_gpus": "8", "message_size": "8192", "latency": "0.0036"}
    (engine,) = engine_cases("all_reduce", [own])
    fabric = LIBRARY.fabrics()
    low = next(f for f in fabric if f.id == "nccl-nvlink-hopper")
    wire = 2 * 7 / 8 * 16384
    assert predicted(nccl) == pytest.approx((low.alpha + 14 * low.step + wire / (low.efficiency * 450e9)) * 1e6)
    assert nccl.family == engine.family == COLLECTIVES
    assert predicted(engine) < 0.5 * predicted(nccl)  # the engine's own kernel of small messages
    assert (engine.measured, nccl.measured) == (pytest.approx(3.6), pytest.approx(16))


def test_of_a_pair_the_replayed_launch_counts() -> None:
    own = {"gpu": "h100_sxm", "src": "vllm/0.24", "num_gpus": "2", "message_size": "8192"}
    slow, fast = engine_cases("all_reduce", [own | {"latency": "0.02"}, own | {"latency": "0.005"}])
    assert slow.predicted is None
    assert "CUDA graph" in (slow.reason or "")
    assert (fast.reason, fast.measured) == (None, pytest.approx(5))


def test_groups_whose_wiring_or_network_is_not_stated_are_set_aside() -> None:
    cells = {"src": "a100_dgx_all_reduce", "num_workers": "16", "devices_per_node": "8", "size": "2048", "ms": "0.1"}
    assert vidur_case("comm", 2, cells).reason == "the network between nodes is not stated"
    assert vidur_case("comm", 2, cells | {"num_workers": "8"}).reason is None
    assert "in pairs" in (vidur_case("comm", 2, cells | {"src": "a100_pairwise_nvlink_all_reduce"}).reason or "")
    v100 = {"gpu": "v100", "n_gpus": "8", "bytes": "1048576", "time_ns_in_place": "50000"}
    assert "wiring is not stated" in (nccl_tests_case("nccl", 2, v100).reason or "")
    assert "is not in the catalogue" in (nccl_tests_case("nccl", 2, v100 | {"gpu": "tpu"}).reason or "")
    assert vidur_case("comm", 2, cells | {"src": "tpu_dgx_all_reduce"}).reason == "GPU tpu is not in the catalogue"
    for gpus in ("1", "16"):
        reason = nccl_tests_case("nccl", 2, v100 | {"gpu": "h100", "n_gpus": gpus}).reason
        assert reason == f"{gpus} GPUs are no group within a server of 8"


def test_published_points_are_rates() -> None:
    cells = {"kind": "matmul_bf16", "hw": "RTX4090", "config": "8192^3", "metric": "achieved", "value": "160",
             "unit": "TFLOPS"}  # fmt: skip
    found = published_case("published", 2, cells)
    k = LIBRARY.gpu("rtx4090").kernels
    assert k is not None
    assert (found.family, found.unit, found.measured) == (GEMM, "TFLOPS", 160)
    assert 0.9 * 165.2 * k.gemm_compute_16 < predicted(found) < 165.2 * k.gemm_compute_16
    busbw = cells | {"kind": "nccl_busbw", "hw": "8x H200-SXM", "config": "NVLS", "value": "480", "unit": "GB/s"}
    assert 350 < predicted(published_case("published", 3, busbw)) < 450
    for other in ({"hw": "TPU"}, {"config": "a fat one"}, {"kind": "rdma_write"}):
        assert published_case("published", 4, cells | other).reason


@pytest.mark.skipif(not TRUTH.is_dir(), reason=f"{TRUTH} is not here: measured tables are not shipped")
def test_measured_kernels() -> None:
    found = compare(read_tables([TRUTH]))
    bounds = {GEMM: 0.07, DECODE_ATTENTION: 0.09, COLLECTIVES: 0.10, GEMM_8: 0.15, PREFILL_ATTENTION: 0.20}
    for family, median in bounds.items():
        assert found.family(family).n > 1000
        assert found.family(family).median_abs_error <= median, family
    assert all(row.reason for row in found.rows if not row.mapped)
