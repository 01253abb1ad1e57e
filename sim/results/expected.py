"""How far off a job's numbers may be: the measured error of the nearest group that was validated.

Groups are those of ``sim validate`` on all measured tables (catalogue, ``validation_errors.csv``): a GPU, a stack, and
what was measured how. Of serving that is throughput, time to first token or time per token, of how the model is split
(one GPU, tensor ranks, stages; all in one server) under a load of one stream or of many requests at once, models with
experts apart. Of training it is the time of a step, by how much of the model is trained.

A job that is alike in everything has its group's error, if at least ``LEAST`` rows were measured. Any other is
*unvalidated*: of the groups with its load, and its GPU or its engine (of training: with its kind of training, and its
GPU or framework), that with most in common is named, and in what it is alike and in what not; of equals the one with
the larger error. Any other group says nothing of the job, and none is named. A job on several kinds of GPUs goes by the
kind with most of them. Models and formats are not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple

from sim import catalog
from sim.results.schema import ErrorOf, ExpectedError
from sim.spec.plan import ServingPlan
from sim.spec.scenario import ServingJob
from sim.spec.training import TrainingJob
from sim.spec.transformer import Transformer

#: Fewest rows of a group that says what to expect.
LEAST: Final = 3
#: What no measured replica does: its GPUs are in one server.
ACROSS: Final = "network between nodes"
#: Loads: one request at a time, or many.
ALONE, MANY = "one stream", "many requests"
#: What ends the kinds of serving groups whose models have experts.
EXPERTS: Final = ", experts"
#: How much of a model a training group trains.
TRAINED: Final = ("pretrain", "pretrain-moe", "sft", "lora", "qlora")
#: What a serving group measures, by the head of its kind; kernels, memory and limits on latency are left out.
SERVED: Final[dict[str, tuple[ErrorOf, str]]] = {
    "offline": ("throughput", MANY), "static batch": ("throughput", MANY), "closed loop": ("throughput", MANY),
    "one stream, decode": ("throughput", ALONE), "closed loop, TTFT": ("TTFT", MANY), "TTFT alone": ("TTFT", ALONE),
    "closed loop, time between tokens": ("TPOT", MANY), "static batch, TPOT": ("TPOT", MANY),
}  # fmt: skip


class Likeness(NamedTuple):
    """What is compared of a job or a group. ``kind``: of training. ``rhythm``: how the load comes, which decides among
    equals."""

    gpu: str
    stack: str
    of: ErrorOf
    split: str = ""
    load: str = ""
    experts: bool = False
    kind: str = ""
    rhythm: str = ""


def served_like(job: ServingJob, model: Transformer, gpus: Iterable[str], stack: str, of: ErrorOf) -> Likeness:
    """What is compared of a serving job."""
    load, batching = job.load, job.batching
    clients = None if load.closed_loop is None else load.closed_loop.clients
    alone = (batching.batch_size or batching.max_sequences) == 1 or (clients is not None and clients <= job.plan.dp)
    rhythm = "static batch" if batching.batch_size else "offline" if load.all_at_once else "closed loop"
    return Likeness(
        _most(gpus), stack, of, split_of(job.plan), ALONE if alone else MANY, bool(model.experts), rhythm=rhythm
    )  # fmt: skip


def trained_like(job: TrainingJob, model: Transformer, gpus: Iterable[str], stack: str) -> Likeness:
    """What is compared of a training job."""
    return Likeness(_most(gpus), stack, "step time", kind=training_kind(job, model))


def split_of(plan: ServingPlan) -> str:
    """How a model is split over GPUs."""
    return "pp" if plan.pp > 1 else "tp" if plan.tp > 1 else "one GPU"


def training_kind(job: TrainingJob, model: Transformer) -> str:
    """How much of a model is trained."""
    if job.finetune is None:
        return "pretrain-moe" if model.experts else "pretrain"
    return "qlora" if job.finetune.base in ("nf4", "int8") else "lora"


def expected_error(job: Likeness, never: Sequence[str] = ()) -> ExpectedError | None:
    """The error to expect; None where nothing near was measured. ``never``: what no measured group is alike in."""
    near = [found for group, error in _groups() if (found := _compared(job, group, error, never)) is not None]
    return max(near, key=lambda pair: pair[0])[1] if near else None


def _compared(
    job: Likeness, group: Likeness, error: ExpectedError, never: Sequence[str]
) -> tuple[tuple[float, ...], ExpectedError] | None:
    """How near a group is, most telling first, and its error as that of the job; None if it is not near."""
    if job.of != group.of:
        return None
    gpu, version = job.gpu == group.gpu, job.stack == group.stack
    engine = version or _family(job.stack) == _family(group.stack)
    trains, split = bool(job.kind), job.split == group.split
    how = job.kind == group.kind if trains else job.load == group.load
    if not how or not (gpu or engine):
        return None
    parts = {"GPU": gpu, "framework" if trains else "engine": engine, "kind of training" if trains else "load": how}
    if engine and not version:
        parts["version"] = False
    if not trains:
        parts["split over GPUs"] = split
        if split and job.split != "one GPU" and ACROSS not in never:
            parts["link"] = gpu  # both in one server: of the same card, as good as the same link
        if job.experts != group.experts:
            parts["experts"] = False
    parts |= dict.fromkeys(never, False)
    found = error.model_copy(update={
        "validated": all(parts.values()),
        "alike": [name for name, same in parts.items() if same],
        "unlike": [name for name, same in parts.items() if not same],
    })  # fmt: skip
    alike = job.experts == group.experts
    rank = (alike, sum(parts.values()), gpu, version, split, job.rhythm == group.rhythm, error.median)
    return tuple(map(float, rank)), found


def _most(gpus: Iterable[str]) -> str:
    """The kind of most of these GPUs."""
    types = list(gpus)
    return max(dict.fromkeys(types), key=types.count)


def _family(stack: str) -> str:
    """A stack without its version: "trtllm-0.14" is a "trtllm"."""
    return re.sub(r"-[0-9].*$", "", stack)


@cache
def _groups() -> tuple[tuple[Likeness, ExpectedError], ...]:
    """The validated groups that say what to expect."""
    found = []
    for row in catalog.validation_errors():
        gpu, stack, name = row["group"].split(" / ")
        like = Likeness(gpu, stack, "step time", kind=name) if name in TRAINED else _served(gpu, stack, name)
        if like is None or int(row["rows"]) < LEAST:
            continue
        error = ExpectedError(
            of=like.of, group=row["group"], rows=int(row["rows"]), median=float(row["median"]), p90=float(row["p90"]),
            bias=float(row["bias"]), validated=True,
        )  # fmt: skip
        found.append((like, error))
    return tuple(found)


def _served(gpu: str, stack: str, name: str) -> Likeness | None:
    """What a group of whole servings is like; None of any other."""
    head, experts = name.removesuffix(EXPERTS), name.endswith(EXPERTS)
    split = next((degree for degree in ("tp", "pp") if head.endswith(f", {degree}")), "one GPU")
    head = head.removesuffix(f", {split}")
    if head not in SERVED:
        return None
    of, load = SERVED[head]
    return Likeness(gpu, stack, of, split, load, experts, rhythm=head.partition(",")[0])
