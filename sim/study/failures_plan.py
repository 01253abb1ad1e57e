"""What a study of failures is to live: its points as scenarios, each prepared, the step of each size played once.

A run that would never end is given up after ``GIVEN_UP`` times the time it takes undisturbed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from sim.adapters.resolve import Resolved
from sim.errors import InfeasibleError
from sim.jobs.reliability.effects import Terms
from sim.jobs.reliability.replicas import Prepared, prepare
from sim.study.executors import Hear
from sim.study.failures_points import Axes, Point, at, check, with_length

GIVEN_UP: Final = 20.0
"""Times its undisturbed length after which a run without a duration is given up."""
ENOUGH_SPARES: Final = 1e6
"""Stands for spares without a limit, so that those in use can be counted."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A point with its scenario; ``prepared`` None: it cannot be, for the ``reason``."""

    point: Point
    resolved: Resolved
    prepared: Prepared | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A study ready to run."""

    resolved: Resolved
    axes: Axes
    settings: tuple[Setting, ...]
    seeds: range


def plan_study(
    resolved: Resolved, axes: Axes, seeds: int, duration: float | None = None, hear: Hear | None = None
) -> Plan:
    """Every point prepared; the step of each size is played once.

    Raises InputError for axes the scenario does not have, InfeasibleError where no point can be.
    """
    check(resolved, axes)
    resolved = with_length(resolved, duration)
    points = axes.points()
    settings: list[Setting] = []
    played: dict[int | None, Prepared] = {}
    for number, point in enumerate(points):
        if hear is not None:
            hear("preparing points", number / len(points))
        scenario = at(resolved, point)
        try:
            prepared = prepare_job(scenario, played.get(point.nodes))
        except InfeasibleError as error:
            if len(points) == 1:
                raise
            settings.append(Setting(point, scenario, None, str(error).splitlines()[0]))
            continue
        played.setdefault(point.nodes, prepared)
        settings.append(Setting(point, scenario, prepared))
    if not played:
        raise InfeasibleError("\n".join(dict.fromkeys(setting.reason for setting in settings)))
    first = resolved.scenario.seed
    return Plan(resolved, axes, tuple(settings), range(first, first + seeds))


def prepare_job(resolved: Resolved, like: Prepared | None) -> Prepared:
    """The job of a scenario, with an end and with spares that can be counted."""
    prepared = prepare(resolved, like)
    terms = prepared.terms
    update: dict[str, Any] = {}
    if terms.spares == math.inf:
        update["spares"] = ENOUGH_SPARES
    if terms.horizon == math.inf:
        update["horizon"] = GIVEN_UP * terms.total
    return with_terms(prepared, replace(terms, **update))


def with_terms(prepared: Prepared, terms: Terms) -> Prepared:
    """The same job under other terms."""
    return replace(prepared, reliability=replace(prepared.reliability, terms=terms))
