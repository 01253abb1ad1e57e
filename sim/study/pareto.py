"""The Pareto front: what is not beaten by anything in both respects at once.

One point beats another if it costs no more and gives no less, and is better in one of the two. Points that are
equal in both do not beat each other. Sorted by cost, the front is where the best value so far rises: O(n log n).
"""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that are not beaten, by rising cost (lower is better) and value (higher is better)."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i], i))
    front: list[int] = []
    for i in order:
        best = front[-1] if front else None
        if best is None or values[i] > values[best] or (costs[i], values[i]) == (costs[best], values[best]):
            front.append(i)
    return front
