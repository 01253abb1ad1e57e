"""Which scenario is cheapest at which speed per user, from curves of cost over speed.

A scenario can give a user at least v tokens/s at the least cost of its curve at v or above; between two points of a
curve, cost is taken to follow speed linearly. All these costs are linear between two neighbouring speeds of any
point, so that who is cheapest changes only there or where two of these lines cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sim.study.compare_schema import Cheapest, CurvePoint

Corner = tuple[float, float]


def envelope(curve: Sequence[CurvePoint]) -> list[Corner]:
    """(speed, USD/Mtok) by rising speed, each cost no more than any at a higher speed."""
    points = sorted(
        (p.tokens_per_s_per_user, p.usd_per_million_tokens)
        for p in curve
        if p.tokens_per_s_per_user is not None and p.usd_per_million_tokens is not None
    )
    corners: list[Corner] = []
    for speed, usd in reversed(points):
        least = min(usd, corners[-1][1]) if corners else usd
        if not corners or speed < corners[-1][0]:
            corners.append((speed, least))
    return corners[::-1]


def cost_at(corners: Sequence[Corner], speed: float) -> float | None:
    """The least USD/Mtok at which a user sees at least ``speed``; None where the scenario is never that fast."""
    if not corners or speed > corners[-1][0]:
        return None
    if speed <= corners[0][0]:
        return corners[0][1]
    for (v0, c0), (v1, c1) in pairwise(corners):
        if v0 <= speed <= v1:
            return c0 + (c1 - c0) * (speed - v0) / (v1 - v0)
    return corners[-1][1]


def cheapest(curves: Sequence[Sequence[CurvePoint]]) -> list[Cheapest]:
    """Stretches of speed per user from 0 on, and who is cheapest there; of equals the first. Empty without costs."""
    envelopes = [envelope(curve) for curve in curves]
    speeds = sorted({0.0, *(speed for corners in envelopes for speed, _ in corners)})
    found: list[Cheapest] = []
    for a, b in pairwise(speeds):
        cuts = sorted({a, b, *_crossings(envelopes, a, b)})
        for begin, end in pairwise(cuts):
            middle = (begin + end) / 2
            offers = [(c, i) for i, corners in enumerate(envelopes) if (c := cost_at(corners, middle)) is not None]
            if not offers:
                continue
            _, best = min(offers)
            first, last = _ends(envelopes[best], begin, end)
            if found and found[-1].scenario == best:
                found[-1] = found[-1].model_copy(update={"to_speed": end, "to_usd": last})
            else:
                found.append(
                    Cheapest(scenario=best, from_speed=begin, to_speed=end, from_usd=first, to_usd=last)
                )
    return found


def _ends(corners: Sequence[Corner], begin: float, end: float) -> tuple[float, float]:
    first, last = cost_at(corners, begin), cost_at(corners, end)
    assert first is not None
    assert last is not None
    return first, last


def _crossings(envelopes: Sequence[Sequence[Corner]], a: float, b: float) -> list[float]:
    """Where two costs are equal between two speeds within which all are linear."""
    lines = []
    for corners in envelopes:
        # Just above a: at a itself a slower scenario may still be in the race.
        inner, last = cost_at(corners, (a + b) / 2), cost_at(corners, b)
        if inner is not None and last is not None:
            lines.append((2 * inner - last, last))
    found = []
    for i, (p0, p1) in enumerate(lines):
        for q0, q1 in lines[i + 1 :]:
            before, after = p0 - q0, p1 - q1
            if before * after < 0:
                found.append(a + (b - a) * before / (before - after))
    return found
