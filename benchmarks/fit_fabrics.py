"""Fit the low-latency branch of inference engines' own all-reduce kernels, per GPU architecture and engine.

    python benchmarks/fit_fabrics.py ../shared/data/truth/kernels/custom_allreduce.csv

Law (sim/laws/collective.py), s = 2(n-1) ring steps and w = 2(n-1)/n * size wire bytes:

    t = min(alpha + s * step + w / (efficiency * B), bulk branch)

The bulk branch is NCCL's, already in the catalogue; only sizes up to 1 MB, where engines use their own kernel,
are fitted. vLLM's rows come in pairs, launched eagerly and (the faster) replayed in a CUDA graph: engines with
graphs get the latter, so the smaller of a pair is taken. Relative errors, soft-L1 loss. Not imported by the
simulator.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

# Raw rate of a member's link into the fabric, bytes/s a direction.
LINK = {"h100_sxm": 450e9, "h200_sxm": 450e9, "a100_sxm": 300e9, "b200_sxm": 900e9, "l40s": 31.5e9,
        "rtx_pro_6000_server": 63e9}  # fmt: skip
LARGEST = 1 << 20


def main() -> None:
    """Print constants and errors for each (GPU, engine)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    args = parser.parse_args()
    points: dict[tuple[str, str], dict[tuple[int, float], float]] = defaultdict(dict)
    with args.table.open() as file:
        for row in csv.DictReader(file):
            size = 2.0 * float(row["message_size"])
            if size <= LARGEST:
                table, key = points[row["gpu"], row["src"]], (int(row["num_gpus"]), size)
                table[key] = min(table.get(key, float("inf")), float(row["latency"]) * 1e-3)
    for (gpu, source), table in sorted(points.items()):
        rows = [(n, size, seconds) for (n, size), seconds in table.items()]
        n, size, seconds = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
        steps, wire = 2 * (n - 1), 2 * (n - 1) / n * size

        def law(x: np.ndarray, steps: np.ndarray = steps, wire: np.ndarray = wire) -> np.ndarray:
            return np.exp(x[0]) + steps * np.exp(x[1]) + wire / np.exp(x[2])

        def loss(x: np.ndarray, seconds: np.ndarray = seconds) -> np.ndarray:
            return law(x) / seconds - 1

        start = np.log([5e-6, 0.3e-6, 0.3 * LINK[gpu]])
        fit = least_squares(loss, start, loss="soft_l1", f_scale=0.1)
        errors = np.abs(loss(fit.x))
        alpha, step, rate = np.exp(fit.x)
        print(
            f"{gpu:22} {source:18} alpha {alpha * 1e6:6.2f} us  step {step * 1e6:6.3f} us  efficiency "
            f"{rate / LINK[gpu]:.4f}  error {np.median(errors):.1%}/{np.quantile(errors, 0.9):.1%}  n={len(rows)}"
        )


if __name__ == "__main__":
    main()
