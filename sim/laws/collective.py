"""How long collectives take: a measured two-branch alpha-beta law on one fabric, phases across nodes.

Symbols. n members; S the size in bytes (all_gather: what each ends with; reduce_scatter, all_reduce,
all_to_all, broadcast, send_recv: what each starts with); s steps of the algorithm; w bytes on the wire per
member.

    all_reduce                    s = 2(n-1)   w = 2 (n-1)/n S       ring: reduce-scatter, then all-gather
    all_gather, reduce_scatter    s = n-1      w = (n-1)/n S
    all_to_all                    s = n-1      w = (n-1)/n S
    broadcast                     s = n-1      w = S                 pipelined ring
    send_recv                     s = 1        w = S

One fabric: the better of a low-latency and a bulk protocol,

    t = min(alpha + s step + w/B1,  alpha' + s step' + w/B2)

with B2 that of the switch (NVLS) for an all-reduce among more than 4, and with B1,
B2 measured shares of the member's link, but never more than the graph leaves the ring: a shared uplink, a
socket link or host memory binds by itself.

Across k nodes of g members each (docs/model.md): the same within the node, and
every member exchanges its 1/g over the cards, V = 2 (k-1)/k S/g for an all-reduce,

    small:  t = alpha + s(g) step + w(g)/B1 + A + s(k) L + V/Bn              one phase after the other
    bulk:   t = alpha' + s(g) step' + A + s(k) L + max(w(g)/B2, V/Bn)       phases overlap, chunk by chunk

A starts the network phase, L is a hop's latency and message overhead, Bn a member's share of the cards. A
tree between the nodes takes 2 ceil(log2 k) steps instead of 2(k-1) for V = 2 S/g (double binary tree).
Within a node the measured constants already hold the library's own choice of algorithm, so 'best' adds a
tree between nodes only. Every form is affine in S: t is the least of a few (fixed seconds, seconds per byte).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, log2
from typing import NamedTuple

from sim.errors import InputError, Problem, did_you_mean
from sim.laws.topology_group import GroupSite, Loads
from sim.laws.topology_parts import merged
from sim.spec.hardware import Fabric

IN_SWITCH_FROM = 5  # members from which the switch reduces (stas00: only all-reduce, n > 4)


class Shape(NamedTuple):
    """Steps and wire bytes per byte of size, for n members."""

    steps: Callable[[int], int]
    wire: Callable[[int], float]


RINGS: Mapping[str, Shape] = {
    "all_reduce": Shape(lambda n: 2 * (n - 1), lambda n: 2 * (n - 1) / n),
    "all_gather": Shape(lambda n: n - 1, lambda n: (n - 1) / n),
    "reduce_scatter": Shape(lambda n: n - 1, lambda n: (n - 1) / n),
    "all_to_all": Shape(lambda n: n - 1, lambda n: (n - 1) / n),
    "broadcast": Shape(lambda n: n - 1, lambda n: 1.0 if n > 1 else 0.0),
    "send_recv": Shape(lambda n: min(1, n - 1), lambda n: 1.0 if n > 1 else 0.0),
}
TREES: Mapping[str, Shape] = {
    "all_reduce": Shape(lambda n: 2 * ceil(log2(n)), lambda n: 2.0 if n > 1 else 0.0),
    "broadcast": Shape(lambda n: ceil(log2(n)), lambda n: 1.0 if n > 1 else 0.0),
}
ALGORITHMS = ("best", "ring", "tree", "in_switch", "hierarchical")


@dataclass(frozen=True, slots=True)
class InterNode:
    """The phase between nodes: ``nodes`` of them, ``alpha`` to start, ``step`` per hop (s), ``bandwidth`` the
    B/s of the cards one member gets when all do the same."""

    nodes: int
    alpha: float
    step: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class CollectiveParameters:
    """All a collective's time depends on but its size. Seconds and B/s.

    ``n`` members in all. ``alpha``, ``step``, ``bandwidth`` are the low-latency branch on one node,
    ``bulk_*`` the other, ``in_switch_bandwidth`` replaces the latter's where the switch reduces;
    ``exchange_bandwidth`` bounds all_to_all. With ``one_copy`` an all-reduce moves S bytes per member (an
    assumption made on paper). ``link_load``: (link, crossings) per unit of wire rate w/t of one member.
    """

    n: int
    alpha: float
    step: float
    bandwidth: float
    bulk_alpha: float
    bulk_step: float
    bulk_bandwidth: float
    in_switch_bandwidth: float | None = None
    exchange_bandwidth: float = inf
    inter: InterNode | None = None
    one_copy: bool = False
    link_load: Loads = ()

    @property
    def per_node(self) -> int:
        """Members that share a node (1 where the flat ring crosses nodes)."""
        return self.n // self.inter.nodes if self.inter else self.n


class CollectiveFlow(NamedTuple):
    """A collective as one coupled flow: after ``latency`` s, ``size`` bytes at no more than ``cap`` B/s, each
    byte crossing ``links`` (id, weight). Alone it takes latency + size/cap = its closed form."""

    latency: float
    size: float
    cap: float
    links: Loads


def collective_parameters(
    site: GroupSite,
    fabrics: Sequence[Fabric],
    libraries: Sequence[str],
    datasheet: bool = False,
    *,
    one_copy: bool = False,
    latency: float | None = None,
    exchange_cap: float | None = None,
) -> CollectiveParameters:
    """The parameters of collectives in a group.

    Picks the fabric by kind, architecture (one without serves all) and the order of ``libraries``. With
    ``datasheet`` nothing but raw rates of the graph counts. Assumptions: ``one_copy`` (S bytes per member),
    ``latency`` (the fixed seconds of every collective, replacing alphas and steps). ``exchange_cap`` is
    ``Topology.exchange_cap(group)``, wanted for all_to_all; without it that is bounded as a ring.

    Raises InputError when no fabric is known for the group's kind.
    """
    if site.kind != "network":
        found = _on_node(site, fabrics, libraries, datasheet)
    else:
        found = _on_node(site.inner, fabrics, libraries, datasheet)
        found = replace(found, inter=_between_nodes(site, fabric_for(site, fabrics, libraries), datasheet))
    if latency is not None:
        found = replace(found, alpha=latency, bulk_alpha=latency, step=0.0, bulk_step=0.0)
        if found.inter is not None:
            found = replace(found, inter=replace(found.inter, alpha=0.0, step=0.0))
    exchange = inf if exchange_cap is None else exchange_cap
    load = _link_load(site)
    return replace(found, n=site.n, one_copy=one_copy, exchange_bandwidth=exchange, link_load=load)


def _on_node(
    site: GroupSite | None, fabrics: Sequence[Fabric], libraries: Sequence[str], datasheet: bool
) -> CollectiveParameters:
    """The laws of one node's members; a lone one (None: nobody shares its node) needs no time."""
    if site is None or site.n == 1:
        return CollectiveParameters(1, 0.0, 0.0, inf, 0.0, 0.0, inf)
    if datasheet:
        rate = min(site.member_bandwidth, site.ring_cap)
        return CollectiveParameters(site.n, 0.0, 0.0, rate, 0.0, 0.0, rate)
    fabric = fabric_for(site, fabrics, libraries)
    if fabric is None:
        raise InputError([_no_fabric(site, libraries)])
    in_switch = None
    if fabric.in_switch is not None and site.n >= IN_SWITCH_FROM:
        # In the switch S goes up and S comes down, where a ring moves 2(n-1)/n S each way.
        graph = site.ring_cap * 2 * (site.n - 1) / site.n
        in_switch = min(fabric.in_switch * site.member_bandwidth, graph)
    table = fabric.bulk_efficiency
    if site.crosses_sockets and fabric.cross_efficiency is not None:
        table = fabric.cross_efficiency
    return CollectiveParameters(
        n=site.n,
        alpha=fabric.alpha,
        step=fabric.step,
        bandwidth=min(fabric.efficiency * site.member_bandwidth, site.ring_cap),
        bulk_alpha=fabric.bulk_alpha,
        bulk_step=fabric.bulk_step,
        bulk_bandwidth=min(_share(table, site.n) * site.member_bandwidth, site.ring_cap),
        in_switch_bandwidth=in_switch,
    )


def _between_nodes(site: GroupSite, fabric: Fabric | None, datasheet: bool) -> InterNode:
    """The phase between nodes. Unequal nodes (per_node 0) are one flat ring of all members.

    The cables' own latency, overhead and efficiency stand in the graph; a fabric of kind ``network`` adds the
    library's start, and the least time of a step and the share of a card that were measured with it.
    """
    members = max(1, site.per_node)
    rings = site.n // members
    if datasheet or fabric is None:
        return InterNode(rings, 0.0, site.latency + site.overhead, site.ring_cap)
    share = _share(fabric.bulk_efficiency, rings) * site.member_bandwidth * site.network_cards / members
    step = max(fabric.step, site.latency + site.overhead)
    return InterNode(rings, fabric.alpha, step, min(share, site.ring_cap))


def fabric_for(site: GroupSite, fabrics: Sequence[Fabric], libraries: Sequence[str]) -> Fabric | None:
    """The fabric of the group's kind: its architecture's before one for all, in the order of libraries."""
    for architecture in dict.fromkeys((site.architecture, None)):
        for library in libraries:
            for fabric in fabrics:
                if (fabric.kind, fabric.library, fabric.architecture) == (site.kind, library, architecture):
                    return fabric
    return None


def _no_fabric(site: GroupSite, libraries: Sequence[str]) -> Problem:
    among = f"{site.n} {site.architecture or 'mixed'} GPUs ({site.kind}, library {' or '.join(libraries)})"
    message = f"no constants for collectives among {among}: define a fabric, or use the stack 'ideal'"
    return Problem(None, None, None, "define.fabrics", message)


def _share(table: Mapping[int, float], n: int) -> float:
    """The achieved share for n members: that of the next larger size measured, or of the largest."""
    return table[min((size for size in table if size >= n), default=max(table))]


def _link_load(site: GroupSite) -> Loads:
    """Crossings per unit of wire rate w/t, w = 2(n-1)/n S, of the all-reduce done as a ring of rings."""
    if site.kind != "network" or site.n == 1:
        return site.ring_links
    g = max(1, site.per_node)
    k = site.n // g
    whole = (site.n - 1) / site.n
    inner = ((link, weight * (g - 1) / g / whole) for link, weight in site.inner_links)
    outer = ((link, weight * (k - 1) / k / g / whole) for link, weight in site.ring_links)
    return merged((*inner, *outer))


class _Piece(NamedTuple):
    fixed: float
    slope: float
    in_switch: bool = False


def wire_bytes(op: str, n: int, size_bytes: float) -> float:
    """Bytes each of n members sends for a collective of ``size_bytes``, as a ring. ValueError: unknown op."""
    return _shape(op).wire(_members(n)) * size_bytes


def steps(op: str, n: int, algorithm: str = "ring") -> int:
    """Steps of a collective among n members, as a ``ring`` or ``tree``; 2 ``in_switch`` (up and down)."""
    if algorithm == "in_switch":
        return 2 if n > 1 else 0
    return _shape(op, algorithm).steps(_members(n))


def collective_seconds(
    op: str, size_bytes: float, parameters: CollectiveParameters, algorithm: str = "best"
) -> float:
    """Seconds of one collective of ``size_bytes`` alone on its links; one member needs none.

    Raises ValueError for an unknown op or algorithm, one that the group cannot do, or a negative size.
    """
    if not size_bytes >= 0.0:
        raise ValueError(f"size must be >= 0 bytes, got {size_bytes!r}")
    return min(p.fixed + p.slope * size_bytes for p in _pieces(op, parameters, algorithm))


def pieces(op: str, parameters: CollectiveParameters, algorithm: str = "best") -> list[tuple[float, float]]:
    """The collective's time as the least of (fixed s, s per byte of size), without those never the least."""
    found = sorted({(p.fixed, p.slope) for p in _pieces(op, parameters, algorithm)})
    kept: list[tuple[float, float]] = []
    for fixed, slope in found:
        if not kept or slope < kept[-1][1]:
            kept.append((fixed, slope))
    return kept


def all_reduce_pieces(parameters: CollectiveParameters) -> list[tuple[float, float]]:
    """:func:`pieces` of an all-reduce, for loops that evaluate it often."""
    return pieces("all_reduce", parameters)


def collective_flow(
    op: str, size_bytes: float, parameters: CollectiveParameters, algorithm: str = "best"
) -> CollectiveFlow:
    """The collective as one coupled flow, to share links with others (branch chosen as if alone)."""
    best = min(_pieces(op, parameters, algorithm), key=lambda p: p.fixed + p.slope * size_bytes)
    wire = _wire(op, parameters, parameters.n) * size_bytes
    links = parameters.link_load
    if best.in_switch and not parameters.inter and not parameters.one_copy:
        n = parameters.n
        links = tuple((link, weight * n / (2 * (n - 1))) for link, weight in links)
    cap = wire / (best.slope * size_bytes) if best.slope * size_bytes > 0 else inf
    return CollectiveFlow(best.fixed, wire, cap, links)


def _pieces(op: str, p: CollectiveParameters, algorithm: str) -> list[_Piece]:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown algorithm '{algorithm}', one of {', '.join(ALGORITHMS)}")
    _shape(op)
    if p.n == 1:
        return [_Piece(0.0, 0.0)]
    return _one_node(op, p, algorithm) if p.inter is None else _many_nodes(op, p, p.inter, algorithm)


def _one_node(op: str, p: CollectiveParameters, algorithm: str) -> list[_Piece]:
    """Pieces among the members of one node, low-latency branch first."""
    n = p.per_node
    ring = _shape(op, "tree" if algorithm == "tree" else "ring")
    s, w = ring.steps(n), ring.wire(n) if algorithm == "tree" else _wire(op, p, n)
    exchange = p.exchange_bandwidth if op == "all_to_all" else inf
    found = [
        _Piece(p.alpha + s * p.step, w / min(p.bandwidth, exchange)),
        _Piece(p.bulk_alpha + s * p.bulk_step, w / min(p.bulk_bandwidth, exchange)),
    ]
    if algorithm == "tree":
        return found
    reduces = op == "all_reduce" and p.in_switch_bandwidth is not None
    if algorithm == "in_switch" and not reduces:
        raise ValueError(f"the switch does not do {op} among these {n} GPUs")
    if p.in_switch_bandwidth is not None and reduces and algorithm != "ring":
        found.append(_Piece(found[1].fixed, w / p.in_switch_bandwidth, in_switch=True))
    return found[2:] if algorithm == "in_switch" else found


def _many_nodes(op: str, p: CollectiveParameters, inter: InterNode, algorithm: str) -> list[_Piece]:
    """Pieces of the hierarchical form (or one flat ring), the same within the node as on one node."""
    k, g = inter.nodes, p.per_node
    if algorithm == "ring":
        return _flat_ring(op, p, inter)
    inner = [_Piece(p.alpha, 0.0), _Piece(p.bulk_alpha, 0.0)]
    if g > 1 and op != "send_recv":
        inner = _one_node(op, p, algorithm if algorithm == "in_switch" else "best")
    if op == "all_to_all":  # pairs within the node take their own way: (g-1)/n of the size, not (g-1)/g
        inner = [piece._replace(slope=piece.slope / k) for piece in inner]
    found = []
    for way in ("tree",) if algorithm == "tree" else ("ring", "tree") if algorithm == "best" else ("ring",):
        if way == "tree" and op not in TREES:
            if algorithm == "tree":
                _shape(op, "tree")
            continue
        start = inter.alpha + _shape(op, way).steps(k) * inter.step
        slope = _volume(op, p, k, g, way) / inter.bandwidth
        least = _wire(op, p, p.n) / p.exchange_bandwidth if op == "all_to_all" else 0.0
        for number, piece in enumerate(inner):
            in_turn = number == 0 and algorithm != "in_switch"  # the low-latency branch does not overlap
            both = piece.slope + slope if in_turn else max(piece.slope, slope)
            found.append(_Piece(piece.fixed + start, max(both, least), piece.in_switch))
    return found


def _flat_ring(op: str, p: CollectiveParameters, inter: InterNode) -> list[_Piece]:
    """One ring through all members, as many channels as cards: each step waits for its slowest hop."""
    s, w = _shape(op).steps(p.n), _wire(op, p, p.n)
    cards = inter.bandwidth * p.per_node
    branches = ((p.alpha, p.step, p.bandwidth), (p.bulk_alpha, p.bulk_step, p.bulk_bandwidth))
    return [
        _Piece(alpha + inter.alpha + s * max(step, inter.step), w / min(bandwidth, cards))
        for alpha, step, bandwidth in branches
    ]


def _volume(op: str, p: CollectiveParameters, k: int, g: int, way: str) -> float:
    """Bytes one member sends between nodes per byte of size."""
    if op in ("all_to_all", "send_recv"):
        return _shape(op).wire(k)
    return (TREES[op].wire(k) if way == "tree" else _wire(op, p, k)) / g


def _wire(op: str, p: CollectiveParameters, n: int) -> float:
    """Wire bytes per byte of size under the parameters' assumption."""
    return 1.0 if p.one_copy and op == "all_reduce" and n > 1 else _shape(op).wire(n)


def _shape(op: str, algorithm: str = "ring") -> Shape:
    if op not in RINGS:
        hint = did_you_mean(op, RINGS)
        raise ValueError(f"unknown collective '{op}'" + (f", did you mean '{hint}'?" if hint else ""))
    if algorithm == "tree" and op not in TREES:
        raise ValueError(f"{op} is not done as a tree")
    if algorithm not in ("ring", "tree"):
        raise ValueError(f"unknown algorithm '{algorithm}', one of ring, tree, in_switch")
    return (TREES if algorithm == "tree" else RINGS)[op]


def _members(n: int) -> int:
    if n < 1:
        raise ValueError(f"a collective has at least one member, got {n}")
    return n
