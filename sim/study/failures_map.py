"""The map of a study of failures: goodput over times between failures and intervals, with the laws' best intervals.

It is about the long run: each of its lives lasts ``FAILURES`` times the mean time between failures, whatever the run's
own length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from sim.jobs.reliability.replicas import Prepared
from sim.laws.checkpointing import daly_interval, young_interval
from sim.study.failures_lives import Change, Lives, Step, Task, pieces
from sim.study.failures_plan import Plan
from sim.study.failures_schema import FailureMap, MapRow

FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times between failures, against the first point's."""
INTERVALS: Final = (0.25, 0.35, 0.5, 0.71, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Intervals, against Daly's at the first point."""
SEEDS: Final = 20
FAILURES: Final = 50.0


@dataclass(frozen=True, slots=True)
class Layout:
    """The cells of the map: of which point, at which times between failures, at which intervals."""

    number: int
    prepared: Prepared
    factors: tuple[float, ...]
    intervals: tuple[float, ...]
    horizon: float
    seeds: tuple[int, ...]

    def change(self, factor: float, interval: float) -> Change:
        """A cell."""
        return Change(factor, interval, self.horizon)


def map_layout(plan: Plan) -> Layout | None:
    """The map of the first point that restarts after failures (else the first of all), where it saves and what fails
    is drawn."""
    there = [(n, s) for n, s in enumerate(plan.settings) if s.prepared is not None]
    plain = (pair for pair in there if pair[1].prepared is not None and pair[1].prepared.terms.policy != "elastic")
    number, setting = next(plain, there[0])
    prepared = setting.prepared
    assert prepared is not None
    if prepared.interval == math.inf or prepared.mtbf == math.inf or prepared.reliability.recorded is not None:
        return None
    return Layout(
        number, prepared, _factors(plan, prepared, setting.point.nodes), _intervals(plan, prepared),
        FAILURES * prepared.mtbf, tuple(plan.seeds[:SEEDS]),
    )  # fmt: skip


def _factors(plan: Plan, prepared: Prepared, nodes: int | None) -> tuple[float, ...]:
    """The study's own times between failures where there are several, else multiples of the point's."""
    own = {s.prepared.mtbf / prepared.mtbf for s in plan.settings
           if s.prepared is not None and s.point.nodes == nodes and s.prepared.mtbf < math.inf}  # fmt: skip
    return tuple(sorted(own)) if len(own) > 1 else FACTORS


def _intervals(plan: Plan, prepared: Prepared) -> tuple[float, ...]:
    """Around Daly's, and those that the study names; none shorter than a step."""
    centre = max(daly_interval(max(prepared.saving.blocking, 1e-3), prepared.mtbf), prepared.saving.persist)
    named = [every.value for every in plan.axes.every if every.value != "auto"]
    wanted = [*(centre * factor for factor in INTERVALS), *named]
    return tuple(sorted({float(f"{max(value, prepared.step):.4g}") for value in wanted}))


def map_tasks(plan: Plan, study: str, layout: Layout) -> list[Task]:
    """The lives of all cells."""
    setting, step = plan.settings[layout.number], Step.of(layout.prepared)
    return [
        Task(study, layout.number, step, setting.resolved, layout.change(factor, interval), piece)
        for factor in layout.factors
        for interval in layout.intervals
        for piece in pieces(layout.seeds)
    ]


def map_of(layout: Layout, lives: Lives) -> FailureMap:
    """The mean goodput of each cell, once its lives are lived."""
    save = max(layout.prepared.saving.blocking, 1e-3)
    rows = []
    for factor in layout.factors:
        mtbf = layout.prepared.mtbf * factor
        cells = [lives[layout.number, layout.change(factor, interval)] for interval in layout.intervals]
        goodput = [sum(life.goodput for life in cell) / len(cell) for cell in cells]
        rows.append(MapRow(
            mtbf_s=mtbf, factor=factor, goodput=goodput, best=int(np.argmax(goodput)),
            young_s=young_interval(save, mtbf), daly_s=daly_interval(save, mtbf),
        ))  # fmt: skip
    return FailureMap(point=layout.number, seeds=len(layout.seeds), intervals_s=list(layout.intervals), rows=rows)
