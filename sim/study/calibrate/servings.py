"""Which measured servings the constants of a (GPU, stack) may be fitted to, and what is predicted of them.

Fitted to: runs of a dense model on one GPU that their source states in full (quality A), measured as a rate or as the
time of work: static batches, one stream, clients in a closed loop, all requests at once. Everything else is predicted
before and after and is in no fit: several GPUs, stages over a network and clusters at home; percentiles and times to
first token under load, which are queueing times; rates within limits on latency; mixtures of experts; rows of which
something was assumed.

A run's requests come and go by counts of tokens, not by the clock, so its batches are the same whatever the constants:
its time is a sum of passes, each homogeneous in the constants' slowness, as `fit` wants it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from typing import Any, Final

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing, resolve
from sim.adapters.yaml_source import Source
from sim.errors import SimError
from sim.spec.hardware import Gpu, KernelConstants
from sim.spec.plan import PACKED, WEIGHT_BYTES
from sim.spec.stack import Stack, StackOnGpu
from sim.study.calibrate.fit import Constant, Floats, Task
from sim.study.validate.cases import LOADED, SATURATED, TIMES, TRAINING, Case
from sim.study.validate.predict import PREDICTORS

#: Names of the factors that a stack has on a GPU, and of the host's times.
RATES: Final = (
    "compute_scale", "memory_scale", "attention_scale", "prefill_scale", "packed_compute_scale", "packed_memory_scale",
)  # fmt: skip
FACTORS: Final = (*RATES, "launch_scale")
HOST: Final = ("host_per_step", "host_per_sequence")
#: Least factor on the memory rate of matrix products, which every engine streams, and on other rates.
STREAM, LOW = 0.25, 0.02
#: Launches may take half to ten times the kernels' own; the host at most 50 ms a pass and 1 ms a sequence.
LAUNCHES, PASS, SEQUENCE = (0.5, 10.0), 0.05, 0.001
FULL: Final = "A"
#: Engines that add up products of 16-bit numbers in 16 bits, which GeForce cards do at twice the rate.
SUM_16: Final = ("llama.cpp", "exllamav2")
#: Less of a card's memory left to the KV cache than this, and a few hundred MB of runtime decide how much is served.
ROOM: Final = 0.1

SEVERAL: Final = "several GPUs of one machine"
STAGES: Final = "pipeline stages"
NODES: Final = "several machines"
QUEUEING: Final = "a queueing time, or a rate within limits on latency"
EXPERTS: Final = "mixtures of experts"
CLIFF: Final = f"less than {ROOM:.0%} of the card left to the KV cache, which decides how many are served"
ASSUMED: Final = "something of the run is assumed"
MEMORY: Final = "memory, not time"


@dataclass(frozen=True, slots=True)
class Run:
    """A measured serving ready to be predicted; ``reason`` says why it is only tested, None of one that is fitted to.

    ``key`` tells equal scenarios; ``groups`` say what is alike, from coarse to fine (see ``LEVELS``).
    """

    case: Case
    resolved: Resolved
    key: str
    groups: tuple[str, ...]
    packed: bool
    reason: str | None

    @property
    def time(self) -> bool:
        """Whether what was measured is a time."""
        return self.case.unit in TIMES

    @property
    def seconds(self) -> float:
        """What was measured as a time: of a rate, one over it."""
        assert self.case.measured is not None
        return self.case.measured if self.time else 1.0 / self.case.measured


#: What rows that are left out together have in common, from coarse to fine.
LEVELS: Final = ("model and precision", "model, precision and lengths", "scenario")


def pair_of(case: Case) -> tuple[str, str] | None:
    """(GPU, stack) of a serving row that has a scenario."""
    if case.scenario is None or case.group is None or case.family == TRAINING:
        return None
    gpu, stack, _ = case.group.split(" / ")
    return gpu, stack


def runs_of(cases: Iterable[Case], gpu: str, stack: str) -> list[Run]:
    """The rows of the pair; those that the simulator refuses stay out."""
    found = []
    for case in cases:
        if pair_of(case) != (gpu, stack) or not case.measured:
            continue
        assert case.scenario is not None
        try:
            resolved = resolve(Source(case.scenario, {}, case.scenario["name"]), Path())
        except SimError:
            continue
        found.append(_run(case, case.scenario, resolved))
    return _playable(found)


def _playable(runs: Sequence[Run]) -> list[Run]:
    """Those of which the simulator says something: a run that it refuses has no law to fit."""
    known: dict[str, Mapping[str, float]] = {}
    return [run for run in runs if isfinite(_predicted(run, _stack_of(run), known))]


def _stack_of(run: Run) -> Stack:
    (job,) = run.resolved.serving
    return job.stack


def _run(case: Case, scenario: Mapping[str, Any], resolved: Resolved) -> Run:
    job = scenario["jobs"][0]
    alike = {key: value for key, value in scenario.items() if key not in ("name", "about")}
    key = json.dumps([case.play, alike], sort_keys=True)
    defined = next(iter(scenario["define"]["models"].values()))
    model = json.dumps([{k: v for k, v in defined.items() if k != "context"}, job["precision"]], sort_keys=True)
    lengths = json.dumps([model, job["load"]["prompt_tokens"], job["load"]["output_tokens"]])
    packed = job["precision"]["weights"] in PACKED
    return Run(case, resolved, key, (model, lengths, key), packed, _reason(case, job["plan"], resolved))


def _reason(case: Case, plan: Mapping[str, Any], resolved: Resolved) -> str | None:
    """Why a row is only tested."""
    reasons = (
        (case.nodes > 1, NODES), (plan["pp"] > 1, STAGES), (case.gpus > 1, SEVERAL),
        (case.metric == "memory_peak_bytes", MEMORY),
        (case.play != "serving" or _queues(case), QUEUEING), (case.mixture, EXPERTS), (case.quality != FULL, ASSUMED),
        (_room(case, resolved) < ROOM, CLIFF),
    )  # fmt: skip
    return next((text for holds, text in reasons if holds), None)


def _queues(case: Case) -> bool:
    """Whether a row measures how long requests wait, not how long work takes."""
    metric, kind = case.metric or "", (case.group or "").rpartition(" / ")[2]
    return metric.endswith(("_p50_s", "_p99_s")) or (metric.startswith("ttft") and kind.startswith("closed loop"))


def _room(case: Case, resolved: Resolved) -> float:
    """The share of the card that weights and runtime leave to the KV cache; 1 where the cache limits nothing."""
    (job,) = resolved.jobs
    if not isinstance(job, ResolvedServing) or case.family not in (SATURATED, LOADED):
        return 1.0
    memory = min(gpu.usable_memory for gpu in resolved.gpus.values())
    model, width = job.model, WEIGHT_BYTES[job.spec.precision.weights]
    tables = (1 if model.tied_embeddings else 2) * model.embedding_parameters  # in 16 bits, whatever the weights are in
    weights = (model.parameters - tables) * width + 2.0 * tables
    return (memory - weights - job.stack.memory.reserve) / memory


# -- constants ----------------------------------------------------------------------------------------------


def constants_of(gpu: Gpu, kernels: KernelConstants, stack: Stack, runs: Iterable[Run]) -> tuple[Constant, ...]:
    """What may be fitted, with bounds: no rate may exceed the datasheet's, no time be below zero.

    They begin at the stack's own values for all GPUs, so that a fit does not depend on an earlier one.
    """
    accumulate = max(1.0, (gpu.flops.fp16_fp16acc or 0.0) / gpu.flops.fp16) if stack.id in SUM_16 else 1.0
    most = {
        "compute_scale": accumulate / kernels.gemm_compute_16, "memory_scale": 1.0 / kernels.gemm_memory,
        "attention_scale": 1.0 / kernels.decode_memory, "prefill_scale": accumulate / kernels.prefill_compute,
        "packed_compute_scale": accumulate / kernels.gemm_compute_16, "packed_memory_scale": 1.0 / kernels.gemm_memory,
    }  # fmt: skip
    packed = {run.packed for run in runs}
    names = [name for name in RATES if (True in packed if name.startswith("packed_") else _needed(name, packed))]
    found = [
        Constant(name, _own(stack, name), STREAM if "memory" in name else LOW, min(10.0, most[name])) for name in names
    ]
    found.append(Constant("launch_scale", stack.launch_scale, *LAUNCHES, slows=True))
    found.append(Constant("host_per_step", stack.host_per_step, 0.0, PASS, slows=True, scale=1e-3))
    found.append(Constant("host_per_sequence", stack.host_per_sequence, 0.0, SEQUENCE, slows=True, scale=1e-5))
    return tuple(found)


def _needed(name: str, packed: set[bool]) -> bool:
    """Packed weights have factors of their own on matrix products: without others, the common ones are not needed."""
    return packed != {True} or name not in ("compute_scale", "memory_scale")


def _own(stack: Stack, name: str) -> float:
    found: float = getattr(stack, name.removeprefix("packed_"))
    return found


def with_constants(stack: Stack, gpu: str, values: Mapping[str, float]) -> Stack:
    """The stack with these constants on a GPU, and with the host's times where they are given."""
    factors: dict[str, Any] = {name: value for name, value in values.items() if name in FACTORS}
    host = {name: value for name, value in values.items() if name in HOST}
    return stack.model_copy(update={**host, "gpus": {**stack.gpus, gpu: StackOnGpu(**factors)}})


def bare(stack: Stack, gpu: str) -> Stack:
    """The stack without anything that was fitted: the GPU's kernels alone."""
    return with_constants(stack, gpu, dict.fromkeys(FACTORS, 1.0) | dict.fromkeys(HOST, 0.0))


# -- predictions --------------------------------------------------------------------------------------------


class Player:
    """Predicts rows under any stack, each different (scenario, constants) of a fit once."""

    def __init__(self, runs: Sequence[Run], stack: Stack, gpu: str) -> None:
        self.runs, self.stack, self.gpu = runs, stack, gpu
        self._known: dict[tuple[float, ...], dict[str, Mapping[str, float]]] = {}

    def task(self, constants: tuple[Constant, ...], rows: Sequence[int]) -> Task:
        """The fit of these constants to these rows of ``runs``."""
        names = [constant.name for constant in constants]

        def seconds(values: Sequence[float], which: Sequence[int]) -> Floats:
            stack = with_constants(self.stack, self.gpu, dict(zip(names, values, strict=True)))
            known = self._known.setdefault(tuple(values), {})
            runs = [self.runs[rows[i]] for i in which]
            found = np.array([_predicted(run, stack, known) for run in runs])
            return np.where([run.time for run in runs], found, 1.0 / found)

        return Task(constants, np.array([self.runs[row].seconds for row in rows]), seconds)

    def predictions(self, stack: Stack) -> list[float]:
        """What is predicted of every row, in its own unit; NaN where the simulator refuses it."""
        known: dict[str, Mapping[str, float]] = {}
        return [_predicted(run, stack, known) for run in self.runs]


def _predicted(run: Run, stack: Stack, known: dict[str, Mapping[str, float]]) -> float:
    """``known`` are the metrics under this stack by the scenario's key."""
    if run.key not in known:
        jobs = tuple(
            replace(job, stack=stack) if isinstance(job, ResolvedServing) else job for job in run.resolved.jobs
        )
        try:
            known[run.key] = PREDICTORS[run.case.play](replace(run.resolved, jobs=jobs))
        except SimError:
            known[run.key] = {}
    assert run.case.metric is not None
    value = float(known[run.key].get(run.case.metric, nan)) * run.case.scale
    return value if isfinite(value) and value > 0 else nan
