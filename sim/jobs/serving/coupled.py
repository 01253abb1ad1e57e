"""Several GPUs that send to as many others at once, each its share: one flow on the links of all their routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sim.laws.topology import Topology


class Coupled(NamedTuple):
    """A byte of the flow puts ``load`` on links; it runs at ``cap`` bytes/s at most, and arrives ``latency`` s after it
    was sent. ``kind`` of link, the sender's ``overhead`` (s) and ``queue`` are those of the first pair."""

    load: dict[int, float]
    cap: float
    latency: float
    overhead: float
    kind: str
    queue: str


def coupled(topology: Topology, capacities: Sequence[float], pairs: Sequence[tuple[int, int]]) -> Coupled:
    """The flow of (sender, receiver) pairs, all equally large."""
    routes = [topology.route(a, b) for a, b in pairs]
    n = len(routes)
    load: dict[int, float] = {}
    for route in routes:
        for link, weight in route.links:
            load[link] = load.get(link, 0.0) + weight / n
    cap = n * min(route.cap for route in routes)
    for link, weight in load.items():
        cap = min(cap, capacities[link] / weight)
    return Coupled(
        load, cap, max(route.latency for route in routes), max(route.overhead for route in routes), routes[0].kind,
        routes[0].queue,
    )  # fmt: skip
