"""Measured kernels and collectives as cases: the laws alone tell them, no scenario is played.

Formats, by their columns (docs/validation.md): matrix products, decode and prefill attention (head width 128, 16-bit KV
cache, one layer), collectives of NCCL and engines' own all-reduce within a node, nccl-tests, and Vidur's collectives.
Kernels have the GPU's own constants, without any engine's factors; collectives those of their library's fabric.

A model streams the weights and the KV cache of all its layers, so the laws know no cache: rows whose operand stays in
the second-level cache between repetitions of a benchmark are set aside, with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Final

from sim.study.validate.cases import COLLECTIVES, COPIES, DECODE_ATTENTION, GEMM, GEMM_8, PREFILL_ATTENTION, Case
from sim.study.validate.cells import Cells, each, number, whole
from sim.study.validate.common import NoPrediction, catalogue
from sim.study.validate.kernel_laws import Attention, Copy, Exchange, Kernel, Product

MICRO: Final = 1e6
#: GPUs as kernel tables call them -> catalogue id.
GPUS: Final = {
    "a100": "a100-sxm-80gb", "a100_sxm": "a100-sxm-80gb", "a40": "a40", "b200_sxm": "b200-sxm", "gb200": "gb200",
    "h100": "h100-sxm", "h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm", "l40s": "l40s",
    "rtx_pro_6000_server": "rtxpro6000",
}  # fmt: skip
#: Second-level cache, bytes: what a repeated benchmark may find there (datasheets and microbenchmarks).
CACHES: Final = {
    "a100-sxm-80gb": 40e6, "b200-sxm": 126e6, "gb200": 126e6, "h100-sxm": 50e6, "h200-sxm": 50e6, "l40s": 96e6,
    "rtxpro6000": 128e6,
}  # fmt: skip
#: A KV cache this many times the second-level cache comes from memory.
COLD: Final = 1.5
FORMATS: Final = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "": "bf16"}
OPERATIONS: Final = {"alltoall": "all_to_all"}
#: GPUs that tables measured and that are refused, with the reason.
UNKNOWN_WIRING: Final = {"v100": "NVLink of V100 servers is a mesh without a switch, and its wiring is not stated"}

#: A row's group, its measured seconds, and the kernel.
Tell = Callable[[Cells], tuple[str, float, Kernel]]


def _case(table: str, line: int, cells: Cells, family: str, tell: Tell) -> Case:
    """The case of one row."""
    source = cells.get("framework") or cells.get("src") or cells.get("source") or ""
    bare = Case(table, f"{table}-{line}", family, source)
    try:
        group, measured, kernel = tell(cells)
        predicted = kernel.seconds()
    except NoPrediction as reason:
        return replace(bare, reason=str(reason))
    return replace(
        bare, group=group, metric="time_us", unit="us", measured=measured * MICRO, predicted=predicted * MICRO,
        kernel=kernel,
    )  # fmt: skip


# -- kernels ------------------------------------------------------------------------------------------------


def _gpu(cells: Cells) -> str:
    name = cells.get("gpu", "")
    if name in UNKNOWN_WIRING:
        raise NoPrediction(UNKNOWN_WIRING[name])
    if name in GPUS:
        return GPUS[name]
    if name not in catalogue().names("gpu"):
        raise NoPrediction(f"GPU {name or '(none stated)'} is not in the catalogue")
    return name


def _software(cells: Cells) -> str:
    return cells.get("framework") or cells.get("src") or "older software"


def gemm_case(table: str, line: int, cells: Cells) -> Case:
    """A matrix product: columns gpu, m, n, k, latency_us; optional framework, dtype, cold, quantised."""
    return _case(table, line, cells, GEMM_8 if cells.get("dtype") == "fp8" else GEMM, _gemm)


def _gemm(cells: Cells) -> tuple[str, float, Kernel]:
    gpu = _gpu(cells)
    dtype = cells.get("dtype", "")
    if dtype not in FORMATS:
        raise NoPrediction(f"format {dtype} has no law here")
    if cells.get("cold") == "0":
        raise NoPrediction("its weights stay in the second-level cache: a model streams those of every layer")
    m, n, k = (number(cells, name) for name in "mnk")
    weights = FORMATS[dtype]
    kind = "matrix products in 8 bits" if weights == "fp8" else "matrix products"
    kernel = Product(gpu, weights, m, n, k, quantised=weights == "fp8" and cells.get("quantised") != "0")
    return f"{gpu} / {_software(cells)} / {kind}", number(cells, "latency_us") / MICRO, kernel


def _attention(cells: Cells, *, prefill: bool) -> tuple[Attention, float]:
    """The attention, and its measured seconds."""
    gpu = _gpu(cells)
    heads, kv_heads = whole(cells, "num_heads"), whole(cells, "kv")
    if heads % kv_heads:
        raise NoPrediction(f"{heads} heads are no multiple of {kv_heads} KV heads")
    kernel = Attention(gpu, prefill, heads, kv_heads, whole(cells, "batch_size"), whole(cells, "s"))
    return kernel, number(cells, "latency_us") / MICRO


def attention_case(table: str, line: int, cells: Cells) -> Case:
    """Attention of a layer whose row says which: column op, decode or prefill."""
    if cells["op"] not in ("decode", "prefill"):
        raise ValueError(f"op is decode or prefill, not '{cells['op']}'")
    return (decode_case if cells["op"] == "decode" else prefill_case)(table, line, cells)


def decode_case(table: str, line: int, cells: Cells) -> Case:
    """Decode attention of a layer: columns gpu, framework, batch_size, s (context), num_heads, kv, latency_us."""
    return _case(table, line, cells, DECODE_ATTENTION, _decode)


def _decode(cells: Cells) -> tuple[str, float, Kernel]:
    kernel, measured = _attention(cells, prefill=False)
    if kernel.cache_bytes < COLD * CACHES.get(kernel.gpu, 0.0):
        raise NoPrediction("its KV cache may stay in the second-level cache: a model reads those of every layer")
    return f"{kernel.gpu} / {_software(cells)} / decode attention", measured, kernel


def prefill_case(table: str, line: int, cells: Cells) -> Case:
    """Prefill attention of a layer: columns as those of decode attention; s is the prompt."""
    return _case(table, line, cells, PREFILL_ATTENTION, _prefill)


def _prefill(cells: Cells) -> tuple[str, float, Kernel]:
    kernel, measured = _attention(cells, prefill=True)
    return f"{kernel.gpu} / {_software(cells)} / prefill attention", measured, kernel


def copy_case(table: str, line: int, cells: Cells) -> Case:
    """A copy within a card's memory: columns gpu, copied_bytes, latency_us; optional framework."""
    return _case(table, line, cells, COPIES, _copy)


def _copy(cells: Cells) -> tuple[str, float, Kernel]:
    kernel = Copy(_gpu(cells), number(cells, "copied_bytes"))
    return f"{kernel.gpu} / {_software(cells)} / copies", number(cells, "latency_us") / MICRO, kernel


# -- collectives --------------------------------------------------------------------------------------------


def nccl_case(table: str, line: int, cells: Cells) -> Case:
    """A collective of NCCL in a server: columns gpu, nccl, op_name, num_gpus, bytes, latency (ms)."""
    return _case(table, line, cells, COLLECTIVES, _nccl)


def _nccl(cells: Cells) -> tuple[str, float, Kernel]:
    gpu, op = _gpu(cells), OPERATIONS.get(cells["op_name"], cells["op_name"])
    kernel = Exchange(gpu, whole(cells, "num_gpus"), number(cells, "bytes"), op)
    return f"{gpu} / nccl {cells['nccl']} / collectives", number(cells, "latency") * 1e-3, kernel


def engine_cases(table: str, rows: Sequence[Cells]) -> list[Case]:
    """Engines' own all-reduce: columns gpu, src (engine/version), num_gpus, message_size (elements of 2 bytes),
    latency (ms).

    vLLM's come in pairs without a mark, launched from Python and replayed in a CUDA graph. Engines replay: the slower
    one of a pair is set aside.
    """
    cases = each(_engine_case)(table, rows)
    keys = [tuple(cells[name] for name in ("gpu", "src", "num_gpus", "message_size")) for cells in rows]
    fastest: dict[tuple[str, ...], float] = {}
    for key, case in zip(keys, cases, strict=True):
        fastest[key] = min(fastest.get(key, inf), case.measured or inf)
    launched = "launched from Python: engines replay it in a CUDA graph"
    return [
        replace(case, predicted=None, reason=launched) if (case.measured or 0.0) > fastest[key] else case
        for key, case in zip(keys, cases, strict=True)
    ]


def _engine_case(table: str, line: int, cells: Cells) -> Case:
    return _case(table, line, cells, COLLECTIVES, _engine)


def _engine(cells: Cells) -> tuple[str, float, Kernel]:
    gpu, engine = _gpu(cells), cells["src"].partition("/")[0]
    kernel = Exchange(gpu, whole(cells, "num_gpus"), 2.0 * number(cells, "message_size"), library=engine)
    return f"{gpu} / {cells['src']} / all-reduce", number(cells, "latency") * 1e-3, kernel


def nccl_tests_case(table: str, line: int, cells: Cells) -> Case:
    """An all-reduce of nccl-tests in a server: columns gpu, n_gpus, bytes, time_ns_in_place."""
    return _case(table, line, cells, COLLECTIVES, _nccl_tests)


def _nccl_tests(cells: Cells) -> tuple[str, float, Kernel]:
    gpu = _gpu(cells)
    kernel = Exchange(gpu, whole(cells, "n_gpus"), number(cells, "bytes"))
    return f"{gpu} / nccl-tests / all-reduce", number(cells, "time_ns_in_place") * 1e-9, kernel


def vidur_case(table: str, line: int, cells: Cells) -> Case:
    """Vidur's collectives: columns src (gpu_server_operation), num_workers, devices_per_node, size (bytes), ms."""
    return _case(table, line, cells, COLLECTIVES, _vidur)


def _vidur(cells: Cells) -> tuple[str, float, Kernel]:
    name, each_node = cells["src"], whole(cells, "devices_per_node")
    if "pairwise" in name:
        raise NoPrediction("servers whose GPUs NVLink joins in pairs alone: which pairs a group takes is not stated")
    gpu, op = _gpu({"gpu": name.partition("_")[0]}), name.rpartition("dgx_")[2]
    if whole(cells, "num_workers") > each_node:
        raise NoPrediction("the network between nodes is not stated")
    kernel = Exchange(gpu, each_node, number(cells, "size"), op)
    return f"{gpu} / vidur / collectives", number(cells, "ms") * 1e-3, kernel
