"""How long a training step takes to simulate: a deep pipeline, many GPUs, and many layouts.

    python benchmarks/training_layouts.py [--seconds 20]

Four lines: 64 stages by 512 micro-batches, and Llama 3.1 405B on 16,384 GPUs, both with all their spans and the whole
Result; then layouts of LLaMA-3 70B on 16,384 and on 2,048 GPUs, one after another without a Result, as a search would
ask for them: step time and memory of each, whether it fits or not. Numbers belong to the machine they are taken on; the
seconds of the processor leave out what others do on it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sim.adapters.resolve import Resolved, resolve
from sim.adapters.yaml_source import Source
from sim.results.schema import TrainingMetrics
from sim.run import run_recorded
from sim.study.validate.predict import predict

Values = dict[str, Any]
DEEP = {"tp": 8, "pp": 64, "recompute": "full", "sequence_parallel": True}
WIDE = {"tp": 8, "pp": 16, "dp": 128, "zero": 1, "recompute": "full", "sequence_parallel": True}


def scenario(servers: int, model: str, plan: Values, batch: Values) -> Values:
    """A job on ``servers`` servers of eight H100."""
    node = {
        "name": "dgx", "count": servers, "gpus": [{"type": "h100-sxm", "count": 8}], "nvlink": {"link": "nvlink4"},
        "nics": [{"link": "infiniband-ndr", "per_gpu": True}],
    }  # fmt: skip
    job = {
        "name": "pretrain", "kind": "training", "precision": {"compute": "bf16", "gradients": "fp32"},
        "plan": plan, "batch": batch,
    }  # fmt: skip
    return {
        "name": "layout", "cluster": {"topology": {"name": "cluster", "nodes": [node]}}, "model": model,
        "stack": "nemo-2025", "jobs": [job],
    }  # fmt: skip


def resolved(values: Values) -> Resolved:
    """The scenario with every name looked up."""
    return resolve(Source(values, {}, values["name"]), Path())


def timed(name: str, values: Values) -> None:
    """Simulate one scenario, its Result included, and print the seconds."""
    ready = resolved(values)
    began, cpu = time.perf_counter(), time.process_time()
    outcome = run_recorded(ready, effects=False)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    operations = sum(len(stage) for stage in outcome.recording.training[0].build.order)
    metrics = outcome.result.jobs[0].metrics
    assert isinstance(metrics, TrainingMetrics)
    print(f"{name}: {took:.2f} s ({cpu:.2f} s of the processor; {operations:,} operations, "
          f"a step of {metrics.step_time_s:.1f} s)")  # fmt: skip


def layouts(gpus: int) -> Iterator[Values]:
    """Layouts of LLaMA-3 70B, whether they fit or not."""
    axes = itertools.product((1, 2, 4, 8), (1, 4, 8, 16), (1, 2), ("none", "selective", "full"), (0, 1), (1, 2))
    for tp, pp, micro, recompute, zero, vpp in axes:
        if vpp > 1 and pp == 1:
            continue
        dp = gpus // (tp * pp)
        plan = {"tp": tp, "pp": pp, "dp": dp, "vpp": vpp, "zero": zero, "recompute": recompute}
        whole = dp * micro * max(1, 4096 // (dp * micro))
        yield scenario(gpus // 8, "llama-3-70b", plan, {"global": whole, "micro": micro, "sequence": 4096})


def pace(gpus: int, seconds: float) -> None:
    """Ask for layouts for at most ``seconds`` and print how many there are a minute."""
    began, cpu, count, fit = time.perf_counter(), time.process_time(), 0, 0
    for values in layouts(gpus):
        ready = resolved(values)
        fit += predict(ready)["memory_peak_bytes"] <= ready.gpus["h100-sxm"].usable_memory
        count += 1
        if time.perf_counter() - began > seconds:
            break
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{gpus:,} GPUs: {60 * count / took:,.0f} layouts a minute, {60 * count / cpu:,.0f} in a minute of the "
          f"processor ({count} layouts, {fit} of which fit)")  # fmt: skip


def main() -> None:
    """Print four lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each search")
    args = parser.parse_args()
    timed("64 stages x 512 micro-batches", scenario(
        64, "llama-3.1-405b", DEEP, {"global": 512, "micro": 1, "sequence": 8192}))  # fmt: skip
    timed("16,384 GPUs", scenario(
        2048, "llama-3.1-405b", WIDE, {"global": 2048, "micro": 1, "sequence": 8192}))  # fmt: skip
    for gpus in (16_384, 2_048):
        pace(gpus, args.seconds)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
