"""A described machine as files: its topology with every assumption as a comment, and a scenario to start from."""

from __future__ import annotations

from typing import Any

from sim.adapters.lookup import Library
from sim.adapters.nvidia_topology import Described
from sim.adapters.yaml_text import comment, flow

#: The starter's model is the first that fits with its weights in FP16 and a fifth of the memory left for the KV cache.
_MODELS = ("llama-2-70b", "llama-2-13b", "llama-3-8b", "tinyllama-1.1b")
_ROOM = 0.8


def topology_text(described: Described, origin: str) -> str:
    """The topology file. ``origin`` is what it was made from, as the user knows it."""
    lines = ["# yaml-language-server: $schema=../docs/topology.schema.json"]
    whence = f"One machine, made by sim init from {described.source} ({origin})."
    lines += comment(f"{whence} What that does not say is assumed:")
    for sentence in described.assumed:
        lines += comment(sentence, "# - ", "#   ")
    for key, value in described.data.items():
        if isinstance(value, list) and key == "nodes":
            lines += ["nodes:", *(line for node in value for line in _node(node))]
        elif isinstance(value, list):
            lines += [f"{key}:", *(f"  - {flow(entry)}" for entry in value)]
        else:
            lines.append(f"{key}: {flow(value)}")
    return "\n".join(lines) + "\n"


def scenario_text(described: Described, name: str) -> str:
    """A scenario that serves a model which fits on the machine, for ``sim check`` and ``sim run``."""
    count = len(described.gpus)
    tp = next(degree for degree in (8, 4, 2, 1) if count % degree == 0)
    room = _ROOM * tp * min(Library().gpu(gpu).usable_memory for gpu in described.gpus)
    model = next((model for model in _MODELS if 2 * Library().model(model).parameters <= room), _MODELS[-1])
    plan: dict[str, Any] = {"tp": tp} | ({"dp": count // tp} if tp < count else {})
    load = {"closed_loop": {"clients": 8 * (count // tp)}, "prompt_tokens": 512, "output_tokens": 128, "requests": 200}
    gpus = f"{count} GPUs" if count > 1 else "one GPU"
    lines = ["# yaml-language-server: $schema=../docs/scenario.schema.json"]
    start = f"A start, made by sim init: a model that fits on {gpus} of ../topologies/{name}.yaml."
    lines += comment(f"{start} Change model, plan and load.")
    lines += [
        f"name: {flow(name)}",
        f"about: {model} in FP16 on {gpus} of one machine.",
        f"cluster: {{topology: ../topologies/{name}.yaml}}",
        f"model: {model}",
        "stack: vllm",
        "jobs:",
        "  - name: chat",
        "    kind: serving",
        "    precision: {weights: fp16, kv: fp16}",
        f"    plan: {flow(plan)}",
        "    batching: {policy: continuous}",
        f"    load: {flow(load)}",
        "    objectives: {ttft_p99: 5 s, tpot_p99: 100 ms}",
        "seed: 0",
    ]
    return "\n".join(lines) + "\n"


def _node(node: dict[str, Any]) -> list[str]:
    lines = [f"{key}: {flow(value)}" for key, value in node.items()]
    return [f"{'  - ' if n == 0 else '    '}{line}" for n, line in enumerate(lines)]
