"""Robust fits of a few physical constants to measured times, whatever law tells the times.

Every constant either slows (a launch, the host's time: seconds grow with it) or speeds (a share of a rate: seconds fall
with it). In *slowness* u - the value itself, or one over it - the time of any run is homogeneous and nearly linear: a
run is a sum of launches, of bytes over rates and of FLOP over rates, each in proportion to one u, but for the rounded
knee between arithmetic and memory. So a fit goes in steps (Gauss-Newton): at u0 the times are taken as

    T(u) = T(u0) + sum_j dT/du_j (u_j - u0_j),

of which the best u within the bounds is found for the loss below, and the next step starts there.

Loss: the sum of soft-L1 of ln(predicted / measured) / ``NOISE``, so that rows far off, which a law does not tell, do
not decide. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError, Problem

Floats = NDArray[np.float64]
#: Values of all constants, and the numbers of rows -> seconds of these rows.
Seconds = Callable[[Sequence[float], Sequence[int]], Floats]

#: Logarithmic error up to which a row counts in full.
NOISE: Final = 0.05
#: Most steps of one fit; it ends before where a step changes nothing.
STEPS: Final = 8
CLOSE: Final = 1e-3
#: How far a constant is moved to see what rows feel of it: a share of itself, or of its scale.
NUDGE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant and its physical bounds. ``slows``: seconds grow with it. ``scale`` is the size of one that may be 0.

    ``start`` is what it stays at where rows do not tell it.
    """

    name: str
    start: float
    low: float
    high: float
    slows: bool = False
    scale: float = 1.0

    def slowness(self, value: float) -> float:
        """u of a value."""
        return value / self.scale if self.slows else self.scale / value

    def value(self, slowness: float) -> float:
        """The value of u."""
        return slowness * self.scale if self.slows else self.scale / slowness

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest u."""
        ends = self.slowness(self.low), self.slowness(self.high)
        return min(ends), max(ends)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be fitted: ``measured`` seconds a row, a law that tells them, and the constants that it has."""

    constants: tuple[Constant, ...]
    measured: Floats
    seconds: Seconds

    @property
    def start(self) -> Floats:
        """u of every constant where the fit begins: inside its bounds."""
        return np.array([float(np.clip(c.slowness(c.start), *c.bounds)) for c in self.constants])

    def values(self, u: Floats) -> tuple[float, ...]:
        """The constants."""
        return tuple(c.value(float(x)) for c, x in zip(self.constants, u, strict=True))

    def times(self, u: Floats, rows: Sequence[int]) -> Floats:
        """Seconds of some rows."""
        return self.seconds(self.values(u), rows)

    def errors(self, u: Floats, rows: Sequence[int]) -> Floats:
        """Logarithms of predicted / measured seconds."""
        return np.asarray(np.log(self.times(u, rows) / self.measured[list(rows)]))


@dataclass(frozen=True, slots=True)
class Tangent:
    """The times of all rows near ``at``: ``seconds`` there, and ``slopes`` (rows x constants) by u."""

    at: Floats
    seconds: Floats
    slopes: Floats

    def times(self, u: Floats, rows: Sequence[int]) -> Floats:
        """Seconds of some rows, as the tangent has them."""
        chosen = list(rows)
        return np.maximum(self.seconds[chosen] + self.slopes[chosen] @ (u - self.at), 1e-12)

    @property
    def felt(self) -> Floats:
        """The share of each row's time (rows x constants) that is in proportion to each constant's u; of a constant
        that is 0, what its scale would add."""
        return self.slopes * np.where(self.at > 0, self.at, 1.0) / self.seconds[:, None]


def tangent(task: Task, u: Floats, rows: Sequence[int], which: Sequence[int]) -> Tangent:
    """The tangent at ``u``: only of these rows and constants, zero elsewhere."""
    chosen = list(rows)
    n = len(task.measured)
    seconds, slopes = np.ones(n), np.zeros((n, len(u)))
    seconds[chosen] = task.times(u, rows)
    for j in which:
        low, high = task.constants[j].bounds
        step = NUDGE * max(float(u[j]), 0.1)
        moved = u.copy()
        moved[j] += step if u[j] + step <= high else -step
        moved[j] = max(low, moved[j])
        slopes[chosen, j] = (task.times(moved, rows) - seconds[chosen]) / (moved[j] - u[j])
    return Tangent(u.copy(), seconds, slopes)


def best_on(task: Task, line: Tangent, begin: Floats, rows: Sequence[int], which: Sequence[int]) -> Floats:
    """The best u for some rows on a tangent, within the bounds; constants that are not asked for stay."""
    solve = _solver()
    chosen, moved = list(rows), list(which)
    if not moved:
        return begin.copy()
    measured = task.measured[chosen]
    slopes = line.slopes[np.ix_(chosen, moved)]
    fixed = line.seconds[chosen] + line.slopes[chosen] @ (begin - line.at) - slopes @ begin[moved]
    low, high = (np.array(ends) for ends in zip(*(task.constants[j].bounds for j in moved), strict=True))

    def times(x: Floats) -> Floats:
        return np.maximum(fixed + slopes @ x, 1e-12)

    found = solve(
        lambda x: np.log(times(x) / measured) / NOISE,
        np.clip(begin[moved], low + 1e-9 * (high - low), high - 1e-9 * (high - low)),
        jac=lambda x: slopes / times(x)[:, None] / NOISE,
        bounds=(low, high), loss="soft_l1", x_scale=np.maximum(np.abs(begin[moved]), 0.1), xtol=1e-10, ftol=1e-10,
        max_nfev=200,
    )  # fmt: skip
    u = begin.copy()
    u[moved] = found.x
    return u


def best(task: Task, rows: Sequence[int], which: Sequence[int], first: Tangent | None = None) -> Floats:
    """The best u for some rows by the law itself, begun at the constants' own values.

    ``first`` is the tangent there of all rows and constants, where it is known.
    """
    u = task.start
    if not which:
        return u
    line = first or tangent(task, u, rows, which)
    loss = _loss(task.errors(u, rows))
    for _ in range(STEPS):
        ahead = best_on(task, line, u, rows, which)
        for _ in range(5):
            new = _loss(task.errors(ahead, rows))
            if new <= loss:
                break
            ahead = (u + ahead) / 2
        else:
            return u
        moved = float(np.max(np.abs(ahead - u) / np.maximum(np.abs(u), 0.1)))
        gained = loss - new
        u, loss = ahead, new
        if moved < CLOSE or gained <= 1e-3 * loss:
            return u
        line = tangent(task, u, rows, which)
    return u


def _loss(errors: Floats) -> float:
    return float(np.sum(np.sqrt(1.0 + (errors / NOISE) ** 2) - 1.0))


def _solver() -> Any:
    """SciPy's bounded least squares. InputError where SciPy is not installed."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        message = "needs SciPy: pip install 'gpu-cluster-sim[calibrate]'"
        raise InputError([Problem("sim calibrate", None, None, None, message)]) from None
    return least_squares
