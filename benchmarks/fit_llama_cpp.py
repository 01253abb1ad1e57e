"""Fit what llama.cpp reaches on each GPU, from runs of one card alone.

    python benchmarks/fit_llama_cpp.py ../shared/data/truth/inference/measured.csv

Rows: llama-bench of an 8B model on one GPU, decode from an empty context (tgN) and prompts in pieces of 512 (ppN), in
16 bits and in Q4_K_M. Runs over several GPUs and of other models are left out: they are what the fit is tested on.

Law: sim/laws/step.py with seven factors a (GPU, stack), each in place of the stack's: on the memory rate of matrix
products in 16 bits and packed (memory, packed_memory), on that of decode attention (attention), on all launches
(launch), on the arithmetic of matrix products (compute, packed_compute) and of prefill attention (prefill). Decode in
two formats has two intercepts for three of them (both memory rates and the launches), so each is held to a prior: what
was found on one RTX 4090 (memory at 0.92 of bandwidth, packed 0.82, 65 us of launches a layer), and no memory rate may
exceed the bandwidth. Residuals are logarithms, soft-L1. Not imported by the simulator.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from sim.adapters.lookup import Library
from sim.laws.roofline import kernel_rates
from sim.laws.step import Chunk, StageLaw, StageShape
from sim.spec.hardware import KernelConstants
from sim.spec.plan import WEIGHT_BYTES
from sim.spec.stack import StackOnGpu
from sim.study.validate import serving_names as names

LIBRARY = Library()
FACTORS = ("memory_scale", "packed_memory_scale", "attention_scale", "launch_scale", "compute_scale",
           "packed_compute_scale", "prefill_scale")  # fmt: skip
MODEL, CHUNK, NOISE, LEAST = "llama-3-8b", 512, 0.03, 6
#: Shares of bandwidth (16 bits, packed), seconds of launches a layer; the other factors; how far each may go.
SHARES, LAUNCHES = (0.92, 0.82), 65e-6
OTHERS = {"attention_scale": 0.4, "compute_scale": 0.9, "packed_compute_scale": 0.65, "prefill_scale": 0.15}
SPREAD = np.array([0.1, 0.2, 0.7, 0.4, 0.3, 0.4, 1.0])

Row = tuple[str, str, bool, int, float]


def law(gpu_id: str, weights: str, factors: np.ndarray) -> StageLaw:
    """The whole model on one GPU."""
    gpu, stack = LIBRARY.gpu(gpu_id), LIBRARY.stack("llama.cpp")
    own = StackOnGpu(**dict(zip(FACTORS, map(float, factors), strict=True)))
    stack = stack.model_copy(update={"gpus": {gpu_id: own}})
    rates = kernel_rates(gpu, stack, kernels(gpu_id), weights)
    model = LIBRARY.model(MODEL)
    return StageLaw(
        StageShape(
            model=model, rates=rates, layers=model.layers, tp=1, head=True, weight_bytes=WEIGHT_BYTES[weights],
            kv_bytes=2.0, pieces=(), wire_per_byte=0.0, host_per_pass=stack.host_per_step,
            host_per_sequence=stack.host_per_sequence, host_per_layer=0.0, mixed_penalty=1.0, on_chip=False,
            kv_reads_free=False, scale=1.0,
        )
    )


def rate(row: Row, factors: np.ndarray) -> float:
    """Tokens/s of a row."""
    gpu, weights, decode, tokens, _ = row
    found = law(gpu, weights, factors)
    if decode:
        return 1.0 / found.cost(1, (tokens + 1) // 2).total
    chunks = [Chunk(min(CHUNK, tokens - past), past) for past in range(0, tokens, CHUNK)]
    return tokens / sum(found.cost(0, 0, [chunk]).total for chunk in chunks)


def residuals(x: np.ndarray, rows: list[Row]) -> np.ndarray:
    """Logarithms of predicted / measured."""
    return np.array([np.log(rate(row, np.exp(x)) / row[4]) for row in rows])


def prior(gpu_id: str) -> np.ndarray:
    """Logarithms of what the factors are expected to be."""
    k = kernels(gpu_id)
    each = 4 * k.gemm_launch + k.decode_launch + 4 * k.elementwise_launch
    expected = {
        "memory_scale": SHARES[0] / k.gemm_memory, "packed_memory_scale": SHARES[1] / k.gemm_memory,
        "launch_scale": LAUNCHES / each, **OTHERS,
    }  # fmt: skip
    return np.log([expected[name] for name in FACTORS])


def kernels(gpu_id: str) -> KernelConstants:
    """The GPU's, or those of GPUs that nobody measured."""
    return LIBRARY.gpu(gpu_id).kernels or LIBRARY.default_kernels()


def fit(gpu_id: str, rows: list[Row]) -> np.ndarray:
    """The factors' logarithms."""
    expected = prior(gpu_id)
    most = np.log(np.array([1 / kernels(gpu_id).gemm_memory] * 2 + [9.0] * 5))

    def loss(x: np.ndarray) -> np.ndarray:
        return np.concatenate((residuals(x, rows) / NOISE, (x - expected) / SPREAD))

    return least_squares(loss, np.minimum(expected, most - 1e-3), bounds=(np.log(0.02), most), loss="soft_l1").x


def read(path: Path) -> dict[str, list[Row]]:
    """Rows by GPU id."""
    found: dict[str, list[Row]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            gpu = names.GPUS.get(cells["gpu"].replace("\N{NON-BREAKING HYPHEN}", "-"))
            if gpu is None or cells["engine"] != "llama.cpp" or cells["n_gpus"] != "1":
                continue
            if names.MODELS.get(cells["model"]) != MODEL or "llama-bench" not in cells["notes"]:
                continue
            if "OUTLIER" in cells["notes"]:
                continue
            decode = cells["metric"] == "decode_rate"
            weights = "fp16" if cells["weights"] == "fp16" else "q4_k_m"
            tokens = int(cells["osl"] if decode else cells["isl"])
            found[gpu].append((gpu, weights, decode, tokens, float(cells["value"])))
    return found


def main() -> None:
    """Print the catalogue entry's part, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    rows = read(parser.parse_args().table)
    print("gpus:")
    for gpu, group in sorted(rows.items()):
        if len(group) < LEAST:
            continue
        x = fit(gpu, group)
        error = np.abs(np.expm1(residuals(x, group)))
        print(f"  {gpu}:")
        for name, value in zip(FACTORS, np.exp(x), strict=True):
            print(f"    {name}: {value:.3g}")
        packed = {row[1] for row in group}
        print(f"    fitted: [{', '.join(FACTORS)}]")
        print(f"    rows: {len(group)}")
        print(f"    fitted_error: '{np.median(error):.1%}/{np.quantile(error, 0.9):.1%} median/p90"
              f"{'' if len(packed) == 2 else ', one format only'}'")  # fmt: skip


if __name__ == "__main__":
    main()
