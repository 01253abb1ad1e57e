"""Fit the two-branch alpha-beta law of `sim.spec.hardware.Fabric` to measured all-reduce tables.

time(n, S) = min(alpha + s*step + w/(efficiency*B), bulk_alpha + s*bulk_step + w/(bulk_efficiency(n)*B)) with
s = 2(n-1) ring steps, w = 2S(n-1)/n wire bytes per GPU and B the raw rate of one direction of the link.
NCCL's two branches are the catalogue's own (KERNELS_AND_NETWORK section 5). For a stack's custom all-reduce
this script fits the low-latency branch and the size from which the stack is on the bulk branch, and keeps
NCCL's bulk branch, because above some size these stacks call NCCL. Constants belong to a (GPU architecture,
library), shared over n. The loss is the mean absolute logarithmic error, so a factor two up or down weighs the
same at every size; the errors printed are |predicted/measured - 1| in per cent, over all sizes and over those
of decoding (at most 4 MB).

Usage: python benchmarks/fit_fabrics.py [path to the shared data folder]
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import minimize

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CATALOG = Path(__file__).resolve().parents[1] / "sim" / "catalog" / "fabrics.yaml"
DECODE_BYTES = 4 << 20

# (table's GPU and library) -> (catalogue's NCCL fabric, raw GB/s of one direction of the link).
CURVES = {
    ("a100_sxm", "vllm"): ("nvlink-ampere-nccl", 300.0),
    ("h100_sxm", "vllm"): ("nvlink-hopper-nccl", 450.0),
    ("a100_sxm", "trtllm"): ("nvlink-ampere-nccl", 300.0),
    ("h100_sxm", "trtllm"): ("nvlink-hopper-nccl", 450.0),
    ("b200_sxm", "trtllm"): ("nvlink-blackwell-nccl", 900.0),
    ("rtx_pro_6000_server", "trtllm"): ("pcie-nccl", 63.0),
}
EXISTING = {  # alpha us, step us, GB/s read by eye, before this fit
    ("a100_sxm", "trtllm"): (4.0, 0.32, 50.0),
    ("h100_sxm", "trtllm"): (2.5, 0.08, 90.0),
    ("b200_sxm", "trtllm"): (5.0, 0.07, 250.0),
}


def measured(data: Path) -> dict[tuple[str, str], list[tuple[int, int, float]]]:
    """(GPU, library) -> (GPUs, bytes, seconds): the faster of a table's two launch modes (graph, eager)."""
    best: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    with open(data / "truth" / "kernels" / "custom_allreduce.csv", newline="") as file:
        for row in csv.DictReader(file):
            curve = best[row["gpu"], row["src"].split("/")[0]]
            key = int(row["num_gpus"]), 2 * int(row["message_size"])
            curve[key] = min(float(row["latency"]) / 1e3, curve.get(key, np.inf))
    return {name: [(n, size, t) for (n, size), t in curve.items()] for name, curve in best.items()}


def bulk(fabric: dict, raw: float, n: np.ndarray, s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """NCCL's bulk branch in seconds, over several sockets where the fabric knows of them."""
    table = fabric.get("cross_efficiency") or fabric["bulk_efficiency"]
    share = np.array([table[int(g)] for g in n])
    if fabric.get("in_switch"):
        share = np.where(n > 4, fabric["in_switch"], share)
    return seconds(fabric["bulk_alpha"]) + s * seconds(fabric["bulk_step"]) + w / (share * raw * 1e9)


def seconds(text: str) -> float:
    """'7.3 us' -> 7.3e-6."""
    return float(text.split()[0]) * 1e-6


def predict(p: np.ndarray, slow: np.ndarray, raw: float, s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The law with low-latency constants p = (alpha us, step us, efficiency)."""
    return np.minimum((p[0] + s * p[1]) * 1e-6 + w / (p[2] * raw * 1e9), slow)


def errors(predicted: np.ndarray, truth: np.ndarray) -> str:
    """Median and 90th percentile of the absolute relative error, in per cent."""
    e = 100 * np.abs(predicted / truth - 1)
    return f"{np.median(e):.1f}/{np.percentile(e, 90):.0f}"


def main() -> None:
    """Print constants and errors, one line per (GPU, library)."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    fabrics = {f["id"]: f for f in yaml.safe_load(CATALOG.read_text())["fabrics"]}
    for name, rows in measured(data).items():
        if name not in CURVES:
            continue
        fabric, raw = CURVES[name]
        n, size, t = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
        s, w = 2 * (n - 1), 2 * size * (n - 1) / n
        slow, decode = bulk(fabrics[fabric], raw, n, s, w), size <= DECODE_BYTES

        def loss(q: np.ndarray, s=s, w=w, t=t, slow=slow, raw=raw, decode=decode) -> float:
            log = np.log(predict(np.exp(q), slow, raw, s, w) / t)
            return float(np.mean(np.abs(log[decode])) + 0.5 * np.sqrt(np.mean(log[decode] ** 2)))

        starts = [np.log([a, l, e]) for a in (2.5, 5.0) for l in (0.02, 0.1, 1.0) for e in (0.1, 0.3, 0.8)]
        best = min((minimize(loss, x, method="Nelder-Mead", options={"maxiter": 4000}) for x in starts),
                   key=lambda r: r.fun)  # fmt: skip
        p = np.exp(best.x)
        print(f"{name[0]} {name[1]}: alpha {p[0]:.2f} us, step {p[1]:.3f} us, efficiency {p[2]:.3f}; median/p90 "
              f"error % <=4 MB {errors(predict(p, slow, raw, s, w)[decode], t[decode])}, all sizes "
              f"{errors(predict(p, slow, raw, s, w), t)}; NCCL alone <=4 MB ", end="")  # fmt: skip
        f = fabrics[fabric]
        nccl = np.array([seconds(f["alpha"]) * 1e6, seconds(f["step"]) * 1e6, f["efficiency"]])
        print(errors(predict(nccl, slow, raw, s, w)[decode], t[decode]), end="")
        if name in EXISTING:
            a, l, b = EXISTING[name]
            eye = predict(np.array([a, l, b / raw]), slow, raw, s, w)
            print(f"; by eye <=4 MB {errors(eye[decode], t[decode])}, all {errors(eye, t)}", end="")
        print()


if __name__ == "__main__":
    main()
