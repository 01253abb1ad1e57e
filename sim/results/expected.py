"""How far off a job's speed may be: the measured error of the nearest group that was validated.

A group is a GPU, a stack and a kind: of training how much of the model is trained, of serving the plan (one GPU, tensor
ranks, stages) at full load, and whether the model has experts. A job whose own group has at least ``LEAST`` measured
rows has its error; any other is *unvalidated*, and the nearest group is named, with experts or without as the job's:
first the same stack on the same GPU, then the same GPU, then the same stack, then the same kind, each time the one with
most rows. The groups' errors are those of ``sim validate`` on all measured tables (catalogue,
``validation_errors.csv``). A job on several kinds of GPUs goes by the kind with most of them. Never validated are
replicas that span nodes, latent attention and experts that are spread: no such serving was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final, NamedTuple

from sim import catalog
from sim.results.schema import ExpectedError
from sim.spec.plan import ServingPlan
from sim.spec.training import TrainingJob
from sim.spec.transformer import Transformer

#: Fewest rows of a group that says what to expect.
LEAST: Final = 3
#: What a serving group measures, of whole servings: more rows decide among them.
SERVED: Final = ("offline", "static batch", "closed loop", "one stream, decode")
#: What ends the kinds of serving groups whose models have experts.
EXPERTS: Final = ", experts"
#: How much of a model a training group trains.
TRAINED: Final = ("pretrain", "pretrain-moe", "sft", "lora", "qlora")


class Measured(NamedTuple):
    """A validated group, by its parts."""

    gpu: str
    stack: str
    kind: str
    error: ExpectedError


def serving_kind(plan: ServingPlan, model: Transformer) -> str:
    """The kind of a serving plan."""
    degree = "pp" if plan.pp > 1 else "tp" if plan.tp > 1 else "one GPU"
    return degree + EXPERTS if model.experts else degree


def training_kind(job: TrainingJob, model: Transformer) -> str:
    """How much of a model is trained."""
    if job.finetune is None:
        return "pretrain-moe" if model.experts else "pretrain"
    return "qlora" if job.finetune.base in ("nf4", "int8") else "lora"


def expected_error(gpus: Iterable[str], stack: str, kind: str, *, never: bool = False) -> ExpectedError | None:
    """The error to expect of a job on these GPUs; None where nothing at all was validated.

    ``never``: nothing of its kind was measured."""
    types = list(gpus)
    gpu = max(dict.fromkeys(types), key=types.count)
    found = [group for group in _groups() if (group.kind in TRAINED) == (kind in TRAINED)]
    alike = [group for group in found if group.kind.endswith(EXPERTS) == kind.endswith(EXPERTS)]
    found = alike or found
    same = [group for group in found if (group.gpu, group.stack, group.kind) == (gpu, stack, kind)]
    if same and not never:
        return same[0].error
    nearest = (
        [g for g in found if (g.gpu, g.stack) == (gpu, stack)],
        [g for g in found if (g.gpu, g.kind) == (gpu, kind)],
        [g for g in found if (g.stack, g.kind) == (stack, kind)],
        [g for g in found if g.kind == kind],
        found,
    )
    for groups in nearest:
        if groups:
            return max(groups, key=lambda group: group.error.rows).error.model_copy(update={"validated": False})
    return None


@cache
def _groups() -> list[Measured]:
    """The validated groups that say what to expect, of each (GPU, stack, kind) that with most rows."""
    best: dict[tuple[str, str, str], Measured] = {}
    for row in catalog.validation_errors():
        gpu, stack, name = row["group"].split(" / ")
        kind = name if name in TRAINED else _served(name)
        if kind is None or int(row["rows"]) < LEAST:
            continue
        error = ExpectedError(
            group=row["group"], rows=int(row["rows"]), median=float(row["median"]), p90=float(row["p90"]),
            bias=float(row["bias"]), validated=True,
        )  # fmt: skip
        known = best.get((gpu, stack, kind))
        if known is None or error.rows > known.error.rows:
            best[gpu, stack, kind] = Measured(gpu, stack, kind, error)
    return list(best.values())


def _served(name: str) -> str | None:
    """The plan's kind of a group of whole servings; None of any other."""
    if name.endswith(EXPERTS):
        kind = _served(name.removesuffix(EXPERTS))
        return None if kind is None else kind + EXPERTS
    for degree in ("tp", "pp"):
        if name.endswith(f", {degree}"):
            return degree if name.removesuffix(f", {degree}") in SERVED else None
    return "one GPU" if name in SERVED else None
