"""Scenarios from plain values, and playing them.

Tests write a scenario as the mapping a user would write in YAML, so that a test sees what users see. The toy
cluster has round numbers (1 TB/s, 100 TFLOPS) and a model that fits in one's head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sim.adapters.resolve import Resolved, resolve, resolve_file
from sim.adapters.yaml_source import parse_yaml
from sim.jobs.play import Detail
from sim.results.schema import JobResult, Result
from sim.run import Outcome, run_recorded

ROOT = Path(__file__).parents[1]
SCENARIOS = ROOT / "scenarios"
SHIPPED = sorted(path.stem for path in SCENARIOS.glob("*.yaml"))

#: 16 layers of width 1024: 8 (d^2 terms) ... 12.58 M weights a layer with a plain MLP of 4096.
TOY_MODEL = {
    "name": "toy", "layers": 16, "hidden": 1024, "heads": 8, "kv_heads": 8, "head_dim": 128,
    "intermediate": 4096, "vocabulary": 1000, "gated": False, "tied_embeddings": True, "context": 1_000_000,
}  # fmt: skip
TOY_GPU = {
    "name": "toy", "vendor": "nvidia", "architecture": "toy", "memory": "10 GB", "usable_memory": "10 GB",
    "memory_bandwidth": "1 TB/s", "flops": {"fp16": "100 TFLOPS"}, "tdp": "100 W", "idle_power": "10 W",
    "pcie": "pcie4-x16",
}  # fmt: skip
#: Four servers with eight A100, and a training job on them for 30 days, as files of their own.
FOUR_SERVERS = """\
name: servers
nodes:
  - name: server
    count: 4
    gpus: [{type: a100-sxm-80gb, count: 8}]
    sockets: 2
    socket_link: upi
    nvlink: {link: nvlink3, layout: switch}
    nics: [{link: infiniband-hdr, per_gpu: true}]
"""
FAILING = """\
name: failing
cluster: {topology: servers.yaml}
model: llama-2-7b
stack: generic
jobs:
  - name: pretrain
    kind: training
    plan: {tp: 8, dp: 4}
    batch: {global: 128, micro: 1, sequence: 4096}
    checkpoint: {every: auto, blocking: 30 s}
    recovery: {time: 10 min}
    run: {duration: 30 days}
"""


def topology(name: str) -> dict[str, Any]:
    """The cluster of a shipped topology."""
    return {"topology": f"../topologies/{name}.yaml"}


def desktops(count: int, gpu: str = "toy", link: str = "toy-net") -> dict[str, Any]:
    """A cluster of desktops with one GPU each on one switch."""
    node = {"name": "desktop", "count": count, "gpus": [{"type": gpu}], "nics": [{"link": link}]}
    return {"topology": {"name": "desktops", "nodes": [node]}}


def scenario(cluster: Mapping[str, Any], *jobs: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    """A scenario; each of ``jobs`` is a job's keys without the obvious ones."""
    named = [{"name": f"job{i}", "kind": "serving", **job} for i, job in enumerate(jobs)]
    return {"name": "test", "cluster": dict(cluster), "model": "llama-2-70b", "stack": "vllm", "jobs": named} | keys


def toy(
    job: Mapping[str, Any],
    *,
    gpus: int = 1,
    stack: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    gpu: Mapping[str, Any] | None = None,
    link: Mapping[str, Any] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """The toy model on toy desktops, datasheet arithmetic unless ``stack`` says more."""
    net = {"kind": "ethernet", "bandwidth": "1 GB/s", "latency": "1 ms", "message_overhead": "0.5 ms"}
    define = {
        "models": {"toy": TOY_MODEL | dict(model or {})},
        "gpus": {"toy": TOY_GPU | dict(gpu or {})},
        "stacks": {"toy": {"like": "ideal", **(stack or {})}},
        "links": {"toy-net": net | dict(link or {})},
    }
    return scenario(desktops(gpus), job, model="toy", stack="toy", define=define, **keys)


def resolved(described: Mapping[str, Any]) -> Resolved:
    """A scenario with every name looked up; paths count from the folder of the shipped scenarios."""
    return resolve(parse_yaml(yaml.safe_dump(dict(described), sort_keys=False), "test.yaml"), SCENARIOS)


def simulate(described: Mapping[str, Any], detail: Detail = "auto") -> Outcome:
    """One simulation without the re-runs that look for what binds."""
    return run_recorded(resolved(described), detail=detail, effects=False)


def shipped(name: str, *overrides: str) -> Resolved:
    """A shipped scenario with ``--set`` overrides."""
    return resolve_file(SCENARIOS / f"{name}.yaml", overrides)


@cache
def played(name: str) -> Outcome:
    """A shipped scenario as it stands, played once for all tests."""
    return run_recorded(shipped(name), effects=False)


def only(result: Result) -> JobResult:
    """The single job's result."""
    (job,) = result.jobs
    return job


def tokens_per_s(outcome: Outcome) -> float:
    """Output tokens a second of the single job."""
    return only(outcome.result).metrics.output_tokens_per_s


def differences(a: Any, b: Any, relative: float, absolute: float, path: str = "") -> Iterator[str]:
    """Where two JSON values differ by more than the tolerances."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                yield f"{path}.{key}: only on one side"
            else:
                yield from differences(a[key], b[key], relative, absolute, f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{path}: {len(a)} and {len(b)} entries"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, relative, absolute, f"{path}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        if not math.isclose(a, b, rel_tol=relative, abs_tol=absolute):
            yield f"{path}: {a!r} and {b!r}"
    elif a != b:
        yield f"{path}: {a!r} and {b!r}"
