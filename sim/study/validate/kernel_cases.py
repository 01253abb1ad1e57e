"""Measured kernels and collectives as cases: the laws alone tell them, no scenario is played.

Formats, by their columns (docs/validation.md): matrix products, decode and prefill attention (head width 128, 16-bit KV
cache, one layer), collectives of NCCL and engines' own all-reduce within a node, nccl-tests, and Vidur's collectives.
Kernels have the GPU's own constants, without any engine's factors (stack ``generic``); collectives those of their
library's fabric.

A model streams the weights and the KV cache of all its layers, so the laws know no cache: rows whose operand stays in
the second-level cache between repetitions of a benchmark are set aside, with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import inf
from typing import Any, Final

from sim.laws.collective import CollectiveParameters, collective_parameters, collective_seconds
from sim.laws.roofline import KernelRates, kernel_rates
from sim.laws.step import Chunk, StageLaw, StageShape
from sim.laws.topology import build_topology
from sim.spec.topology import TopologySpec
from sim.spec.transformer import Transformer
from sim.study.validate.cases import COLLECTIVES, DECODE_ATTENTION, GEMM, GEMM_8, PREFILL_ATTENTION, Case
from sim.study.validate.cells import Cells, each, number, whole
from sim.study.validate.common import NVLINKS, SERVER, NoPrediction, catalogue

MICRO: Final = 1e6
HEAD: Final = 128
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
#: Tables of 8-bit products time the quantising of the activations with them: a pass that finds the largest value reads
#: 16 bits each, another reads them again and writes 8. (Engines fuse it with the work before.)
QUANTISE_PASSES: Final = 2
QUANTISE_BYTES: Final = 5.0
FORMATS: Final = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8", "": "bf16"}
OPERATIONS: Final = {"alltoall": "all_to_all"}
#: PCIe of servers without NVLink: P2P across two sockets.
PCIE: Final = {"l40s": "pcie4-x16", "rtxpro6000": "pcie5-x16"}
#: PCIe servers whose measured groups span both sockets (the catalogue's fabric says so of its source).
SPANNING: Final = ("rtxpro6000",)
#: GPUs that tables measured and that are refused, with the reason.
UNKNOWN_WIRING: Final = {"v100": "NVLink of V100 servers is a mesh without a switch, and its wiring is not stated"}

#: A row's group, and its measured and predicted seconds.
Tell = Callable[[Cells], tuple[str, float, float]]


def _case(table: str, line: int, cells: Cells, family: str, tell: Tell) -> Case:
    """The case of one row: ``tell`` gives its group, the measured and the predicted seconds."""
    source = cells.get("framework") or cells.get("src") or cells.get("source") or ""
    bare = Case(table, f"{table}-{line}", family, source)
    try:
        group, measured, predicted = tell(cells)
    except NoPrediction as reason:
        return replace(bare, reason=str(reason))
    return replace(
        bare, group=group, metric="time_us", unit="us", measured=measured * MICRO, predicted=predicted * MICRO
    )


# -- kernels ------------------------------------------------------------------------------------------------


@cache
def _rates(gpu: str, weights: str) -> KernelRates:
    found = catalogue().gpu(gpu)
    return kernel_rates(found, catalogue().stack("generic"), found.kernels or catalogue().default_kernels(), weights)


def _gpu(cells: Cells) -> str:
    name = cells.get("gpu", "")
    if name in UNKNOWN_WIRING:
        raise NoPrediction(UNKNOWN_WIRING[name])
    if name not in GPUS:
        raise NoPrediction(f"GPU {name or '(none stated)'} is not in the catalogue")
    return GPUS[name]


def _software(cells: Cells) -> str:
    return cells.get("framework") or cells.get("src") or "older software"


def gemm_case(table: str, line: int, cells: Cells) -> Case:
    """A matrix product: columns gpu, m, n, k, latency_us; optional framework, dtype, cold."""
    return _case(table, line, cells, GEMM_8 if cells.get("dtype") == "fp8" else GEMM, _gemm)


def _gemm(cells: Cells) -> tuple[str, float, float]:
    gpu = _gpu(cells)
    dtype = cells.get("dtype", "")
    if dtype not in FORMATS:
        raise NoPrediction(f"format {dtype} has no law here")
    if cells.get("cold") == "0":
        raise NoPrediction("its weights stay in the second-level cache: a model streams those of every layer")
    m, n, k = (number(cells, name) for name in "mnk")
    weights = FORMATS[dtype]
    kind = "matrix products in 8 bits" if weights == "fp8" else "matrix products"
    predicted = gemm(gpu, weights, m, n, k, quantised=weights == "fp8")
    return f"{gpu} / {_software(cells)} / {kind}", number(cells, "latency_us") / MICRO, predicted


def gemm(gpu: str, weights: str, m: float, n: float, k: float, *, quantised: bool) -> float:
    """Seconds of a product (m, k) x (k, n) with weights of a format; ``quantised``: with the passes that round its
    activations to it."""
    rates = _rates(gpu, weights)
    width = 1.0 if weights == "fp8" else 2.0
    moved = width * n * k + 2.0 * (m * k + m * n)
    seconds = rates.matmul_launch + rates.knee(2 * m * n * k / rates.matmul, moved / rates.weights)
    if quantised:
        seconds += QUANTISE_PASSES * rates.elementwise_launch + QUANTISE_BYTES * m * k / rates.elementwise
    return seconds


@cache
def _attention(gpu: str, heads: int, kv_heads: int) -> StageLaw:
    """One layer with these heads, alone on a GPU."""
    model = Transformer(
        id="attention", name="attention", layers=1, hidden=heads * HEAD, heads=heads, kv_heads=kv_heads, head_dim=HEAD,
        intermediate=HEAD, vocabulary=HEAD, gated=True, context=10_000_000, source="a kernel table",
    )  # fmt: skip
    return StageLaw(
        StageShape(
            model=model, rates=_rates(gpu, "bf16"), layers=1, tp=1, head=False, weight_bytes=2.0, kv_bytes=2.0,
            pieces=(), wire_per_byte=0.0, host_per_pass=0.0, host_per_sequence=0.0, host_per_layer=0.0,
            mixed_penalty=1.0, on_chip=False, kv_reads_free=False, scale=1.0,
        )
    )


def _shape(cells: Cells) -> tuple[str, StageLaw, int, int, float]:
    gpu = _gpu(cells)
    heads, kv_heads = whole(cells, "num_heads"), whole(cells, "kv")
    if heads % kv_heads:
        raise NoPrediction(f"{heads} heads are no multiple of {kv_heads} KV heads")
    law = _attention(gpu, heads, kv_heads)
    return gpu, law, whole(cells, "batch_size"), whole(cells, "s"), number(cells, "latency_us") / MICRO


def attention_case(table: str, line: int, cells: Cells) -> Case:
    """Attention of a layer whose row says which: column op, decode or prefill."""
    if cells["op"] not in ("decode", "prefill"):
        raise ValueError(f"op is decode or prefill, not '{cells['op']}'")
    return (decode_case if cells["op"] == "decode" else prefill_case)(table, line, cells)


def decode_case(table: str, line: int, cells: Cells) -> Case:
    """Decode attention of a layer: columns gpu, framework, batch_size, s (context), num_heads, kv, latency_us."""
    return _case(table, line, cells, DECODE_ATTENTION, _decode)


def _decode(cells: Cells) -> tuple[str, float, float]:
    gpu, law, batch, context, measured = _shape(cells)
    if batch * context * law.decode_bytes < COLD * CACHES.get(gpu, 0.0):
        raise NoPrediction("its KV cache may stay in the second-level cache: a model reads those of every layer")
    predicted = law.decode_launch + batch * context * law.decode_slope
    return f"{gpu} / {_software(cells)} / decode attention", measured, predicted


def prefill_case(table: str, line: int, cells: Cells) -> Case:
    """Prefill attention of a layer: columns as those of decode attention; s is the prompt."""
    return _case(table, line, cells, PREFILL_ATTENTION, _prefill)


def _prefill(cells: Cells) -> tuple[str, float, float]:
    gpu, law, batch, prompt, measured = _shape(cells)
    compute, memory, launch, _, _ = law.prefill([Chunk(prompt, 0)] * batch)
    return f"{gpu} / {_software(cells)} / prefill attention", measured, compute + memory + launch


# -- collectives --------------------------------------------------------------------------------------------


@cache
def _parameters(gpu: str, members: int, library: str) -> CollectiveParameters:
    """A group in a server of eight GPUs, as servers of this GPU are built."""
    node: dict[str, Any] = {"name": "server", "gpus": [{"type": gpu, "count": SERVER}]}
    if gpu in NVLINKS:
        node["nvlink"] = {"link": NVLINKS[gpu]}
    elif gpu in PCIE:
        node |= {"sockets": 2, "socket_link": "xgmi", "pcie": {"link": PCIE[gpu]}, "p2p": True}
    else:
        raise NoPrediction(f"how servers join {gpu} is not known")
    spec = TopologySpec.model_validate({"name": "server", "nodes": [node]})
    topology = build_topology(spec, gpu=catalogue().gpu, link=catalogue().link)
    apart = SERVER // members if gpu in SPANNING else 1
    group = list(range(0, members * apart, apart))
    libraries = tuple(dict.fromkeys((library, "nccl")))
    return collective_parameters(
        topology.site(group), catalogue().fabrics(), libraries, exchange_cap=topology.exchange_cap(group)
    )


def collective(gpu: str, members: int, size: float, op: str = "all_reduce", library: str = "nccl") -> float:
    """Seconds of a collective of ``size`` bytes in a server. NoPrediction for a group that is none."""
    if not 1 < members <= SERVER:
        raise NoPrediction(f"{members} GPUs are no group within a server of {SERVER}")
    return collective_seconds(op, size, _parameters(gpu, members, library))


def nccl_case(table: str, line: int, cells: Cells) -> Case:
    """A collective of NCCL in a server: columns gpu, nccl, op_name, num_gpus, bytes, latency (ms)."""
    return _case(table, line, cells, COLLECTIVES, _nccl)


def _nccl(cells: Cells) -> tuple[str, float, float]:
    gpu, op = _gpu(cells), OPERATIONS.get(cells["op_name"], cells["op_name"])
    predicted = collective(gpu, whole(cells, "num_gpus"), number(cells, "bytes"), op)
    return f"{gpu} / nccl {cells['nccl']} / collectives", number(cells, "latency") * 1e-3, predicted


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


def _engine(cells: Cells) -> tuple[str, float, float]:
    gpu, engine = _gpu(cells), cells["src"].partition("/")[0]
    predicted = collective(gpu, whole(cells, "num_gpus"), 2.0 * number(cells, "message_size"), library=engine)
    return f"{gpu} / {cells['src']} / all-reduce", number(cells, "latency") * 1e-3, predicted


def nccl_tests_case(table: str, line: int, cells: Cells) -> Case:
    """An all-reduce of nccl-tests in a server: columns gpu, n_gpus, bytes, time_ns_in_place."""
    return _case(table, line, cells, COLLECTIVES, _nccl_tests)


def _nccl_tests(cells: Cells) -> tuple[str, float, float]:
    gpu = _gpu(cells)
    predicted = collective(gpu, whole(cells, "n_gpus"), number(cells, "bytes"))
    return f"{gpu} / nccl-tests / all-reduce", number(cells, "time_ns_in_place") * 1e-9, predicted


def vidur_case(table: str, line: int, cells: Cells) -> Case:
    """Vidur's collectives: columns src (gpu_server_operation), num_workers, devices_per_node, size (bytes), ms."""
    return _case(table, line, cells, COLLECTIVES, _vidur)


def _vidur(cells: Cells) -> tuple[str, float, float]:
    name, each_node = cells["src"], whole(cells, "devices_per_node")
    if "pairwise" in name:
        raise NoPrediction("servers whose GPUs NVLink joins in pairs alone: which pairs a group takes is not stated")
    gpu, op = _gpu({"gpu": name.partition("_")[0]}), name.rpartition("dgx_")[2]
    if whole(cells, "num_workers") > each_node:
        raise NoPrediction("the network between nodes is not stated")
    predicted = collective(gpu, each_node, number(cells, "size"), op)
    return f"{gpu} / vidur / collectives", number(cells, "ms") * 1e-3, predicted
