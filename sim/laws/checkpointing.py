"""When to save and what failures cost: Young's and Daly's laws of checkpoint and restart.

A job of useful work saves every ``tau`` seconds of it, which takes ``C`` seconds more. Failures come at random with
mean time ``M`` between them, also while it saves and while it recovers, which takes ``R`` seconds and starts again
when it is hit. The expected wall time of one interval, exact for exponential failures:

    W(tau) = M e^(R/M) (e^((tau + C)/M) - 1)             Daly 2006, eq. 13 and appendix
    efficiency = tau / W(tau)                            share of wall time that ends up as progress

    Young 1974   tau = sqrt(2 C M)
    Daly 2006    tau = sqrt(2 C M) (1 + sqrt(C/2M)/3 + (C/2M)/9) - C      for C < 2M, else M

Sources: J. W. Young, CACM 17(9), 1974; J. T. Daly, Future Generation Computer Systems 22, 2006.
"""

from __future__ import annotations

from math import exp, expm1, inf, sqrt


def young_interval(save: float, mtbf: float) -> float:
    """Seconds of work between checkpoints of ``save`` s, first order in save/mtbf."""
    return sqrt(2.0 * save * mtbf)


def daly_interval(save: float, mtbf: float) -> float:
    """The same to higher order."""
    if save >= 2.0 * mtbf:
        return mtbf
    x = save / (2.0 * mtbf)
    return sqrt(2.0 * save * mtbf) * (1.0 + sqrt(x) / 3.0 + x / 9.0) - save


def expected_wall(work: float, save: float, recovery: float, mtbf: float) -> float:
    """Expected seconds until ``work`` seconds are done and saved, failures everywhere. ValueError: mtbf <= 0."""
    if mtbf <= 0.0:
        raise ValueError(f"the mean time between failures must be above 0, got {mtbf!r}")
    try:
        return mtbf * exp(recovery / mtbf) * expm1((work + save) / mtbf)
    except OverflowError:
        return inf  # no checkpoint is ever reached


def efficiency(interval: float, save: float, recovery: float, mtbf: float | None) -> float:
    """Share of wall time that ends up as progress; ``mtbf`` None: nothing fails."""
    if mtbf is None:
        return interval / (interval + save) if interval + save > 0.0 else 1.0
    return interval / expected_wall(interval, save, recovery, mtbf)
