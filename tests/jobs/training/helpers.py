"""Training scenarios from plain values: toy cards with round numbers, and real servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.jobs.play import Detail, Recording, play

from ...helpers import TOY_GPU, TOY_MODEL, resolved

FREE = "1e6 GB/s"


def servers(gpu: str, nodes: int, nvlink: str, nic: str, gpus: int = 8, **node: Any) -> dict[str, Any]:
    """Equal servers of NVLink'd GPUs with a card beside each."""
    described = {
        "name": "server", "count": nodes, "gpus": [{"type": gpu, "count": gpus}], "nvlink": {"link": nvlink},
        "nics": [{"link": nic, "per_gpu": True}], **node,
    }  # fmt: skip
    return {"topology": {"name": "servers", "nodes": [described]}}


def desktops(*gpus: str, link: str = "ethernet-10g") -> dict[str, Any]:
    """Desktops with one GPU each on one switch; one template a GPU where they differ."""
    if len(set(gpus)) == 1:
        nodes = [{"name": "d", "count": len(gpus), "gpus": [{"type": gpus[0]}], "nics": [{"link": link}]}]
    else:
        nodes = [{"name": f"d{i}", "gpus": [{"type": g}], "nics": [{"link": link}]} for i, g in enumerate(gpus)]
    return {"topology": {"name": "desktops", "nodes": nodes, "network": {"switches": [{"name": "switch"}]}}}


def training(
    cluster: Mapping[str, Any], plan: Mapping[str, Any], batch: tuple[int, int, int], *, model: str = "llama-3-8b",
    stack: str = "nemo-2025", define: Mapping[str, Any] | None = None, assume: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None, **job: Any,
) -> dict[str, Any]:  # fmt: skip
    """A scenario with one training job; ``batch`` is (global, micro, sequence). Memory is told, not checked."""
    described = {
        "name": "j", "kind": "training", "plan": dict(plan),
        "batch": {"global": batch[0], "micro": batch[1], "sequence": batch[2]}, **job,
    }  # fmt: skip
    return {
        "name": "test", "cluster": dict(cluster), "model": model, "stack": stack, "jobs": [described],
        "define": dict(define or {}), "assume": {"memory": "unchecked", **(assume or {})},
        **({"cost": dict(cost)} if cost else {}),
    }  # fmt: skip


def toy(
    plan: Mapping[str, Any], batch: tuple[int, int, int], *, gpus: int, link: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None, stack: Mapping[str, Any] | None = None, **job: Any,
) -> dict[str, Any]:  # fmt: skip
    """Datasheet arithmetic on toy desktops: 100 TFLOPS and 1 TB/s, hops that cost nothing unless ``link`` says more.

    The model has 16 layers of 12.58 M weights and a vocabulary of one token, so that stages are equal; attention is
    free, so that a pass takes 2 FLOP a weight and token.
    """
    define = {
        "models": {"toy": TOY_MODEL | {"vocabulary": 1} | dict(model or {})},
        "gpus": {"toy": TOY_GPU}, "links": {
            "toy-net": {"kind": "infiniband", "bandwidth": FREE, **(link or {})},
            "toy-bus": {"kind": "pcie", "bandwidth": FREE},
        },
        "training_stacks": {"toy": {"like": "ideal", **(stack or {})}},
    }  # fmt: skip
    node = {"name": "d", "count": gpus, "gpus": [{"type": "toy"}], "pcie": {"link": "toy-bus"},
            "nics": [{"link": "toy-net"}]}  # fmt: skip
    cluster = {"topology": {"name": "toys", "nodes": [node]}}
    return training(
        cluster, plan, batch, model="toy", stack="toy", define=define, assume={"attention": "free"}, **job
    )  # fmt: skip


def played(described: Mapping[str, Any], detail: Detail = "auto") -> Recording:
    """One run of it."""
    return play(resolved(described), detail)


def step_time(described: Mapping[str, Any], detail: Detail = "auto") -> float:
    """Seconds of a step."""
    return played(described, detail).training[0].step.seconds
