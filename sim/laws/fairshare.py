"""Weighted max-min fair sharing of links among flows, with a rate cap on each flow.

Model. Flow f runs at one rate x_f (bytes/s) along its whole route. It never exceeds its own cap, and on each
link l of its route it takes x_f * w_fl of the capacity C_l. The weight w_fl is how many copies of the flow's
bytes cross the link: 1 on a plain route, 2 where data are staged through the same host memory bus, 3 where a
ring collective crosses one uplink three times.

    x_f <= cap_f            for every flow f
    sum_f x_f w_fl <= C_l   for every link l

Among all such rates the max-min fair ones are those where no x_f can grow without shrinking some x_g <= x_f.
They are unique, and known by a bottleneck test: each flow is at its cap, or crosses a saturated link on which
no other flow is faster.

Assumption. The flows are fluid and the links share equally at once: no packets, no losses, no slow start, no
round-trip bias.

Method. Progressive filling: the rates of all unfrozen flows rise together as one level. A link with capacity
R_l not yet taken by frozen flows and weight W_l of unfrozen ones saturates at level R_l / W_l; the lowest cap
or saturation level comes next and freezes its flows there. Because freezing a flow at or below the level of a
link never lowers that level, a heap with lazy refresh finds the next link in O(E log L).

Source. D. Bertsekas and R. Gallager, Data Networks, 2nd ed., section 6.5.2 (max-min flow control). SimGrid's
LMM solver (src/kernel/lmm/maxmin.cpp) is the well-known implementation.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

# A cap above the fair share by rounding only (0.1 against 0.3 / 3) counts as met.
_SAME = 1.0 + 1e-14


class FlowDemand(NamedTuple):
    """What one flow asks for: a rate cap in bytes/s (may be `inf`) and its (link id, weight) pairs.

    The weights are dimensionless and positive; a link named twice counts with the sum of its weights. Weights
    on one link may differ by up to about 1e6; beyond that rounding shows in the rates.
    """

    cap: float
    links: tuple[tuple[int, float], ...]


class _Link:
    """A link while the level rises: capacity left (bytes/s), weight and number of its unfrozen flows."""

    __slots__ = ("left", "open", "users", "weight")

    def __init__(self, capacity: float) -> None:
        self.left = capacity
        self.weight = 0.0
        self.open = 0
        self.users: list[int] = []

    def level(self) -> float:
        """The common rate (bytes/s) of the unfrozen flows at which this link saturates."""
        return self.left / self.weight if self.left > 0.0 else 0.0


def max_min_rates(
    capacities: Mapping[int, float] | Sequence[float], flows: Sequence[FlowDemand]
) -> list[float]:
    """Return the max-min fair rate of each flow in bytes/s, in the order of `flows`.

    `capacities` maps a link id to its capacity in bytes/s (>= 0); only the links that flows use are read. A
    flow at its cap has exactly `cap`; a flow alone has exactly min(cap, C_l / w). A flow without links gets
    its cap, even `inf`.

    Raises ValueError for a negative or NaN cap or capacity and for a weight that is not positive and finite,
    KeyError or IndexError for a link that `capacities` does not have.
    """
    links = _incidence(capacities, flows)
    rates = [-1.0] * len(flows)
    by_cap = sorted(range(len(flows)), key=lambda i: flows[i].cap)
    heap = [(link.level(), number, link) for number, link in links.items()]
    heapq.heapify(heap)
    for i in by_cap:
        cap = flows[i].cap
        # Every link that saturates below the lowest open cap comes first; it may freeze flow i itself.
        while rates[i] < 0.0:
            level, link = _next_link(heap)
            if link is None or cap <= level * _SAME:
                _freeze(i, cap, rates, flows, links)
            else:
                for user in link.users:
                    if rates[user] < 0.0:
                        _freeze(user, level, rates, flows, links)
    return rates


def _incidence(
    capacities: Mapping[int, float] | Sequence[float], flows: Sequence[FlowDemand]
) -> dict[int, _Link]:
    """Check the inputs and return the links in use, each with its flows."""
    links: dict[int, _Link] = {}
    for i, flow in enumerate(flows):
        if not flow.cap >= 0.0:
            raise ValueError(f"flow {i}: cap must be >= 0 bytes/s, got {flow.cap!r}")
        for number, weight in flow.links:
            if not 0.0 < weight < inf:
                raise ValueError(f"flow {i}: weight on link {number} must be positive, got {weight!r}")
            link = links.get(number)
            if link is None:
                capacity = capacities[number]
                if not capacity >= 0.0:
                    raise ValueError(f"link {number}: capacity must be >= 0 bytes/s, got {capacity!r}")
                link = links[number] = _Link(capacity)
            link.weight += weight
            link.open += 1
            link.users.append(i)
    return links


def _next_link(heap: list[tuple[float, int, _Link]]) -> tuple[float, _Link | None]:
    """Return the link with unfrozen flows that saturates first, and its level; refresh stale heap entries."""
    while heap:
        level, number, link = heap[0]
        if link.open == 0:
            heapq.heappop(heap)
            continue
        current = link.level()
        if current == level:
            return level, link
        heapq.heapreplace(heap, (current, number, link))
    return inf, None


def _freeze(
    i: int, rate: float, rates: list[float], flows: Sequence[FlowDemand], links: dict[int, _Link]
) -> None:
    """Fix flow i at `rate` and take its share out of its links."""
    rates[i] = rate
    for number, weight in flows[i].links:
        link = links[number]
        link.open -= 1
        if link.open and rate < inf:
            link.left -= rate * weight
            link.weight -= weight


def link_components(flows: Sequence[FlowDemand]) -> list[list[int]]:
    """Group the flow indices so that flows which share a link, directly or through others, are together.

    Rates in one group do not depend on any other group. Groups come in the order of their first flow, indices
    rise within a group; a flow without links is a group of its own.
    """
    users: dict[int, list[int]] = {}
    for i, flow in enumerate(flows):
        for number, _ in flow.links:
            users.setdefault(number, []).append(i)
    groups: list[list[int]] = []
    grouped = [False] * len(flows)
    for first in range(len(flows)):
        if grouped[first]:
            continue
        grouped[first] = True
        group = [first]
        for i in group:  # grows while we walk it
            for number, _ in flows[i].links:
                for user in users.pop(number, ()):
                    if not grouped[user]:
                        grouped[user] = True
                        group.append(user)
        group.sort()
        groups.append(group)
    return groups
