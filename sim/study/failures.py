"""A study of failures: many lives of one training job at each setting of size, failures, checkpoints and policy.

Life number s of every point meets the faults of seed s (common random numbers): what differs between two points then
comes from their settings and not from luck, and the interval of a difference is over the pairs.

    goodput (ETTR)   useful seconds never done before / wall seconds
    95% interval     mean +- t s / sqrt(n), Student's t over the n lives
    the best point   the least GPU time for a trained token: GPUs * step / (tokens * goodput)

Times between failures are no choice: points are compared with the best at the same one.

Points are prepared in :mod:`sim.study.failures_plan`, lived in ``failures_lives`` and told in ``failures_statistics``;
the map of times between failures and intervals is in ``failures_map``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

from sim.jobs.reliability.replicas import Prepared, replica
from sim.study.executors import Hear, OpenExecutor
from sim.study.failures_lives import SHELF, Lives, Step, Task, live_all, pieces
from sim.study.failures_map import map_layout, map_of, map_tasks
from sim.study.failures_plan import ENOUGH_SPARES, Plan
from sim.study.failures_points import job_of
from sim.study.failures_schema import FailureStudy, PointResult, Sample
from sim.study.failures_statistics import bests_of, compared, point_result, target_of

STRETCHES: Final = 400
"""Stretches of the sampled life that are kept."""


def run_study(plan: Plan, open_executor: OpenExecutor, hear: Hear | None = None) -> FailureStudy:
    """Live all lives and put the document together. Raises RunError if workers are lost."""
    study = f"{plan.resolved.scenario.name} {id(plan)}"
    SHELF.put(study, {n: s.prepared for n, s in enumerate(plan.settings) if s.prepared is not None})
    layout = map_layout(plan)
    tasks = [*_point_tasks(plan, study, None), *_point_tasks(plan, study, "spares")]
    tasks += map_tasks(plan, study, layout) if layout else []
    with open_executor() as (executor, slots):
        records = live_all(tasks, executor, slots, hear)
    lives: Lives = {}
    for task, found in zip(tasks, records, strict=True):
        lives.setdefault((task.number, task.change), []).extend(found)
    points = [
        point_result(plan, s, lives.get((n, None), []), lives.get((n, "spares"), []))
        for n, s in enumerate(plan.settings)
    ]
    bests = bests_of(points)
    by_mtbf = {points[n].mtbf: points[n] for n in bests}
    points = [compared(point, by_mtbf[point.mtbf]) if point.mtbf in by_mtbf else point for point in points]
    _, job = job_of(plan.resolved)
    axes = {"nodes": plan.axes.nodes, "mtbf": plan.axes.mtbf, "checkpoint": plan.axes.every,
            "policy": plan.axes.policies}  # fmt: skip
    return FailureStudy(
        scenario=plan.resolved.scenario.name, about=plan.resolved.scenario.about, job=job.spec.name,
        model=job.model.id, seed=plan.seeds.start, seeds=len(plan.seeds), duration_s=job.spec.run.duration,
        target_tokens=target_of(job),
        axes=[name for name, values in axes.items() if len(values) > 1], points=points, bests=bests,
        map=map_of(layout, lives) if layout else None, sample=_sample(plan, points, bests),
    )  # fmt: skip


def _point_tasks(plan: Plan, study: str, change: Literal["spares"] | None) -> list[Task]:
    """The points' lives, or those of points with few spares as if they had enough."""
    return [
        Task(study, number, Step.of(setting.prepared), setting.resolved, change, piece)
        for number, setting in enumerate(plan.settings)
        if setting.prepared is not None and (change is None or _short_of_spares(setting.prepared))
        for piece in pieces(plan.seeds)
    ]


def _short_of_spares(prepared: Prepared) -> bool:
    """Whether more spares than there are might be used."""
    return prepared.terms.spares < ENOUGH_SPARES and prepared.terms.policy != "wait"


def _sample(plan: Plan, points: Sequence[PointResult], bests: Sequence[int]) -> Sample | None:
    """Of the first best point the life in the middle by goodput, lived again."""
    if not bests:
        return None
    best = bests[0]
    prepared = plan.settings[best].prepared
    assert prepared is not None
    goodputs = points[best].goodputs
    ranked = sorted(range(len(goodputs)), key=goodputs.__getitem__)
    seed = plan.seeds[ranked[(len(ranked) - 1) // 2]]
    life = replica(prepared, seed)
    merged: list[tuple[str, float, float]] = []
    for kind, start, end in life.stretches:
        if merged and merged[-1][0] == kind and math.isclose(merged[-1][2], start):
            merged[-1] = (kind, merged[-1][1], end)
        else:
            merged.append((kind, start, end))
    return Sample(
        point=best, seed=seed, goodput=life.ettr, end_s=life.end, failures=sum(life.failures.values()),
        complete=len(merged) <= STRETCHES, stretches=merged[:STRETCHES],
    )  # fmt: skip
