"""Measured training rows as cases: the time of a step, or tokens/s per GPU where a table has no step time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from sim.study.validate.cases import TRAINING, Case, Knobs
from sim.study.validate.tables import MeasuredRow
from sim.study.validate.training_mapping import STEP_TIME, Mapped, Unmapped, is_mixture, map_row

GIB: Final = 1024.0**3
#: Knobs of a plan whose absence means 1.
DEGREES: Final = ("tp", "pp", "dp", "vpp", "cp")


def training_case(row: MeasuredRow) -> Case:
    """The row with its scenario, or the reason why it has none."""
    found = map_row(row)
    case = Case(row.table, row.id, TRAINING, row.source, row.quality, is_mixture(row))
    if isinstance(found, Unmapped):
        return replace(case, reason=found.reason)
    return replace(
        case, group=f"{found.gpu} / {found.stack} / {found.kind}", metric=found.metric, unit=found.unit,
        measured=found.measured, scenario=found.scenario, play="training", memory_measured=_memory(row),
        assumptions=found.assumptions, knobs=_knobs(found),
    )  # fmt: skip


def _memory(row: MeasuredRow) -> float | None:
    """Measured bytes of the peak GPU; tables print GiB, some of them as the sum over GPUs."""
    if row.mem_gb is None:
        return None
    gpus = row.n_gpus if "SUM over GPUs" in row.notes and row.n_gpus else 1
    return row.mem_gb * GIB / gpus


def _knobs(found: Mapped) -> Knobs:
    """Degrees of parallelism, micro-batch, sharding and recomputation may differ; the rest must be the same."""
    scenario = found.scenario
    (job,) = scenario["jobs"]
    plan, batch = job["plan"], job["batch"]
    knobs = {knob: plan.get(knob, 1) for knob in DEGREES} | {
        "micro_batch": batch["micro"], "zero": [plan.get("zero", 0), plan.get("shard", "all")],
        "recompute": plan.get("recompute", "none"),
    }  # fmt: skip
    (model,) = scenario["define"]["models"].values()
    shape = {key: value for key, value in model.items() if key not in ("name", "source", "context")}
    others = {key: plan.get(key) for key in ("ep", "expert_capacity", "offload", "overlap")}
    rest = [found.gpu, found.stack, shape, batch["sequence"], job["precision"], job.get("finetune"), others]
    work = found.tokens / found.gpus if found.metric == STEP_TIME else 0.0
    return Knobs(knobs, json.dumps(rest, sort_keys=True), found.gpus, batch["global"], work)
