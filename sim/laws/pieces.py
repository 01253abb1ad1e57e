"""What a cluster has that is bought by the piece: GPUs, nodes, network cards, ports, switches.

A port is an end of a cable in a network switch: one for each card of a node that hangs on a switch, two for each
cable between switches. Cables that join two nodes directly are in no switch.
"""

from __future__ import annotations

from sim.laws.pricing import Counts
from sim.laws.topology_build import cards_of
from sim.spec.topology import TopologySpec


def pieces_of(spec: TopologySpec) -> Counts:
    """What of ``spec`` can be paid for by the piece."""
    cards, ports = _of_a_graph(spec) if spec.explicit else _of_nodes(spec)
    return Counts(spec.gpus, spec.node_count, spec.switch_count, cards, ports)


def _of_nodes(spec: TopologySpec) -> tuple[int, int]:
    """Cards and ports of the short form."""
    plan = spec.network
    cards = sum(node.count * len(cards_of(spec, node)) for node in spec.nodes)
    ports = cards if spec.switch_count else 0
    ports += 2 * sum(uplink.count for uplink in plan.uplinks)
    if plan.leaf_spine is not None and spec.switch_count > 1:
        ports += 2 * plan.leaf_spine.uplinks * (spec.switch_count - 1)
    return cards, ports


def _of_a_graph(spec: TopologySpec) -> tuple[int, int]:
    """Cards and ports of the explicit form; two edges that lead there and back are one cable."""
    kinds = {vertex.name: vertex.kind for vertex in spec.vertices}
    cables = {frozenset((edge.source, edge.target)) for edge in spec.edges}
    ports = sum(kinds.get(end) == "switch" for cable in cables for end in cable)
    return sum(kind == "nic" for kind in kinds.values()), ports
