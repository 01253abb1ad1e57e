"""Which constants rows tell, and how wrong rows are that were left out: cross-validation by groups of rows.

Rows of one group (the same model and precision, say) are left out together: nothing of a row that is tested has been
seen by the fit. Groups are dealt to folds, the largest first, each to the fold of fewest rows.

Constants come in one by one, each time the one with which rows left out are told best; one that makes the mean size of
their logarithmic error less than ``LEAST`` smaller, or less than ``SHARE`` of it, is not taken, or given up again once
others are there: it stays as it was. Nor is one taken that would have to go to a bound: such rows show something else
than this constant. (Choosing works on tangents, see `fit`; what was chosen is fitted by the law itself.) The errors of
rows left out are told by constants that were chosen and fitted without them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sim.study.calibrate.fit import Constant, Floats, Tangent, Task, best, best_on, tangent

LEAST: Final = 0.0005
SHARE: Final = 0.03
#: Most constants of a pair.
MOST: Final = 8
#: A constant with less of a row's time than this is not felt by it.
FELT: Final = 0.01
#: Times that the tangent is taken anew for choosing.
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What a fit gave: the constants' values, which of them were ``fitted``, how much of each row's time was in
    proportion to each where the fit began (``felt``), and the values that each row left out was told by."""

    values: tuple[float, ...]
    fitted: tuple[int, ...]
    felt: Floats
    held_out: tuple[tuple[float, ...], ...]
    folds: int


def dealt(groups: Sequence[Hashable], folds: int) -> list[list[int]]:
    """Numbers of rows by fold; as many folds as there are groups, at most ``folds``."""
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    found: list[list[int]] = [[] for _ in range(min(folds, len(members)))]
    for rows in sorted(members.values(), key=lambda rows: -len(rows)):
        min(found, key=len).extend(rows)
    return [sorted(rows) for rows in found]


def calibrated(
    task: Task, groups: Sequence[Hashable], folds: int, first: Tangent | None = None,
    hear: Callable[[float], None] = lambda _: None,
) -> Found:  # fmt: skip
    """The constants that all rows give, and for each row those that were found without its fold.

    ``hear`` is told the share that is done.
    """
    everything, every = range(len(task.measured)), range(len(task.constants))
    first = first or tangent(task, task.start, everything, every)
    u, fitted = _chosen(task, list(everything), groups, folds, first, ROUNDS)
    held_out: dict[int, tuple[float, ...]] = {}
    parts = dealt(groups, folds)
    for done, left_out in enumerate(parts, start=1):
        hear(done / (len(parts) + 1))
        rows = [row for row in everything if row not in set(left_out)]
        values = task.values(_chosen(task, rows, groups, folds, first, ROUNDS - 1)[0])
        held_out |= dict.fromkeys(left_out, values)
    values = task.values(u)
    return Found(values, tuple(fitted), first.felt, tuple(held_out[row] for row in everything), len(parts))


def _chosen(
    task: Task, rows: list[int], groups: Sequence[Hashable], folds: int, first: Tangent, rounds: int
) -> tuple[Floats, list[int]]:
    """u and the constants taken, by these rows alone."""
    line, seen = first, []
    for _ in range(rounds):
        which = _told(task, rows, groups, folds, line)
        if which in seen:
            break
        u = best(task, rows, which, first)
        seen.append(which)
        if len(seen) < rounds:
            line = tangent(task, u, rows, range(len(task.constants)))
    return u, seen[-1]


def _told(task: Task, rows: list[int], groups: Sequence[Hashable], folds: int, line: Tangent) -> list[int]:
    """The constants that rows left out are told better with, on a tangent; in the order of the task."""
    parts = [[rows[i] for i in part] for part in dealt([groups[row] for row in rows], folds)]
    tests = [(part, [row for row in rows if row not in set(part)]) for part in parts]
    most = min(MOST, len(rows) // 2)
    candidates = [j for j in range(len(task.constants)) if float(np.max(line.felt[rows, j], initial=0.0)) >= FELT]
    if len(tests) < 2:
        return []
    taken: list[int] = []
    known = _score(task, line, tests, taken)
    while len(taken) < most:
        scores = {j: _score(task, line, tests, [*taken, j]) for j in candidates if j not in taken}
        better = [j for j in scores if known - scores[j] >= max(LEAST, SHARE * known)]
        ordered = sorted(better, key=lambda j: scores[j])
        ahead = next((j for j in ordered if _inside(task, line, rows, [*taken, j])), None)
        if ahead is None:
            break
        taken.append(ahead)
        known = scores[ahead]
    return sorted(_without_proxies(task, line, tests, taken, known))


def _without_proxies(
    task: Task, line: Tangent, tests: Sequence[tuple[list[int], list[int]]], taken: list[int], known: float
) -> list[int]:  # fmt: skip
    """Without those that only stood for others that came later: rows left out are told as well without them."""
    while taken:
        scores = {j: _score(task, line, tests, [other for other in taken if other != j]) for j in taken}
        least = min(scores, key=lambda j: scores[j])
        if scores[least] - known >= max(LEAST, SHARE * known):
            return taken
        taken = [other for other in taken if other != least]
        known = scores[least]
    return taken


def _inside(task: Task, line: Tangent, rows: Sequence[int], which: Sequence[int]) -> bool:
    """Whether the best constants on a tangent are within their bounds, not at one."""
    u = best_on(task, line, task.start, rows, which)
    return not any(at_bound(task.constants[j], task.constants[j].value(float(u[j]))) for j in which)


def at_bound(constant: Constant, value: float) -> bool:
    """Whether a constant is at one of its bounds, where rows ask for more than physics allows; 0 is none."""
    close = 0.002 * value
    return value >= constant.high - close or (value <= constant.low + close and constant.low > 0)


def _score(task: Task, line: Tangent, tests: Sequence[tuple[list[int], list[int]]], which: Sequence[int]) -> float:
    """Mean size of the logarithmic error of rows left out."""
    sizes = []
    for left_out, rows in tests:
        u = best_on(task, line, task.start, rows, which)
        sizes.append(np.abs(np.log(line.times(u, left_out) / task.measured[left_out])))
    return float(np.mean(np.concatenate(sizes)))
