"""What a group of GPUs shares: the fabric among them, and the load a ring puts on every link.

A ring visits the members by switch, node, socket and PCIe root, so that each boundary is crossed as seldom as
can be. Its load on a link is how many of its hops cross it (with the route's weights); the graph lets it run
at no more than

    ring_cap = min over links of capacity / load        (B/s of one hop)

Across nodes the ring is the outer phase of a hierarchical collective: with g members in every node, g rings
at once, each through one member of every node, share the cards and uplinks; the rings within the nodes stand
apart in ``inner`` and ``inner_links``. With unequal numbers of members one ring runs through all of them.

An even all-to-all loads a link with 1/(n-1) of a member's rate for each of the pairs that cross it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

from sim.laws.topology_parts import NETWORK, GpuSite, Route, bound, merged

if TYPE_CHECKING:
    from sim.laws.topology import Topology

Loads = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class GroupSite:
    """Shared facts of ``n`` GPUs on ``nodes`` nodes.

    ``per_node``: members in each node, 0 where the nodes differ. ``architecture``: the GPUs', None if mixed.
    ``same_root``: in each node all members hang on one PCIe switch or socket. ``member_bandwidth``: raw rate
    (B/s) of one member's link into the fabric: NVLink, PCIe, or its card. ``ring_links``, ``ring_cap``: see
    the module. ``latency`` (s) is the longest hop's, ``overhead`` (s) the largest per message.

    For groups on several nodes only: ``network_rate`` is the usable B/s of a node's cards together (the least
    over nodes), ``network_cards`` how many those are, ``inner`` the site of the members of the slowest node,
    and ``inner_links`` the load of the rings within all nodes.
    """

    kind: Literal["single", "nvlink", "pcie", "staged", "network"]
    n: int
    nodes: int
    per_node: int
    architecture: str | None
    crosses_sockets: bool
    same_root: bool
    member_bandwidth: float
    ring_links: Loads
    ring_cap: float
    latency: float
    overhead: float
    network_rate: float = 0.0
    network_cards: int = 0
    inner: GroupSite | None = None
    inner_links: Loads = ()


def group_site(topology: Topology, group: tuple[int, ...]) -> GroupSite:
    """The shared facts of the GPUs numbered in ``group`` (see :meth:`sim.laws.topology.Topology.site`)."""
    if not group or len(set(group)) != len(group):
        raise ValueError("a group is one or more GPUs, none of them twice")
    sites = sorted((topology.gpus[gpu] for gpu in group), key=lambda site: _ring_order(topology, site))
    nodes: dict[int, list[GpuSite]] = {}
    for site in sites:
        nodes.setdefault(site.node, []).append(site)
    sizes = {len(members) for members in nodes.values()}
    first, last = sites[0], sites[-1]
    if first.node != last.node and topology.route(last.index, first.index).kind in NETWORK:
        return _across_nodes(topology, nodes, sizes)
    return _within(topology, nodes, sizes, [hop for _, hop in _routes(topology, _ring(sites))])


def _ring_order(topology: Topology, site: GpuSite) -> tuple[int, int, str, str, int]:
    return (topology.network.leaf[site.node], site.node, site.socket, site.root, site.local)


def _ring(members: Sequence[GpuSite]) -> Iterable[tuple[GpuSite, GpuSite]]:
    """The hops of a ring; one member has none."""
    return zip(members, [*members[1:], members[0]], strict=True) if len(members) > 1 else ()


def _routes(topology: Topology, pairs: Iterable[tuple[GpuSite, GpuSite]]) -> list[tuple[int, Route]]:
    """The sender's node and the way of each pair."""
    return [(a.node, topology.route(a.index, b.index)) for a, b in pairs]


def _within(
    topology: Topology, nodes: dict[int, list[GpuSite]], sizes: set[int], hops: list[Route]
) -> GroupSite:
    """A single GPU, or a group joined by NVLink, PCIe or host memory."""
    kind: Literal["single", "nvlink", "pcie", "staged"] = "single"
    if hops:
        kind = "staged" if any(hop.staged for hop in hops) else "pcie"
        kind = "nvlink" if all(hop.kind == "nvlink" for hop in hops) else kind
    loads = merged(load for hop in hops for load in hop.links)
    slowest = [hop for hop in hops if kind == "nvlink" or hop.kind != "nvlink"]
    architecture, crosses_sockets, same_root = _places(topology, nodes)
    return GroupSite(
        kind=kind,
        n=sum(len(members) for members in nodes.values()),
        nodes=len(nodes),
        per_node=min(sizes) if len(sizes) == 1 else 0,
        architecture=architecture,
        crosses_sockets=crosses_sockets,
        same_root=same_root,
        member_bandwidth=_slowest_link(topology, (hop.links[0][0] for hop in slowest)),
        ring_links=loads,
        ring_cap=bound(loads, topology.capacity),
        latency=max((hop.latency for hop in hops), default=0.0),
        overhead=max((hop.overhead for hop in hops), default=0.0),
    )


def _across_nodes(topology: Topology, nodes: dict[int, list[GpuSite]], sizes: set[int]) -> GroupSite:
    """A group whose nodes a network joins."""
    members = list(nodes.values())
    per_node = len(members[0]) if len(sizes) == 1 else 0
    rings = [[node[rank] for node in members] for rank in range(per_node)]
    rings = rings or [[site for node in members for site in node]]
    hops = _routes(topology, (hop for ring in rings for hop in _ring(ring)))
    crossing = [(node, hop) for node, hop in hops if hop.kind in NETWORK]
    cards = _cards(topology, crossing)
    loads = merged(load for _, hop in hops for load in hop.links)
    inner, inner_links = _inner(topology, members) if per_node > 1 else (None, ())
    architecture, crosses_sockets, same_root = _places(topology, nodes)
    return GroupSite(
        kind="network",
        n=sum(len(node) for node in members),
        nodes=len(members),
        per_node=per_node,
        architecture=architecture,
        crosses_sockets=crosses_sockets,
        same_root=same_root,
        member_bandwidth=_slowest_link(topology, (card for found in cards for card in found)),
        ring_links=loads,
        ring_cap=bound(loads, topology.capacity),
        latency=max(hop.latency for _, hop in crossing),
        overhead=max(hop.overhead for _, hop in crossing),
        network_rate=min(sum(topology.capacity(card) for card in found) for found in cards),
        network_cards=min(len(found) for found in cards),
        inner=inner,
        inner_links=inner_links,
    )


def _cards(topology: Topology, crossing: list[tuple[int, Route]]) -> list[dict[int, None]]:
    """The cards (first network links) that each sending node uses."""
    cards: dict[int, dict[int, None]] = {}
    for node, hop in crossing:
        first = next(link for link, _ in hop.links if topology.local_link(link)[0].rate.kind in NETWORK)
        cards.setdefault(node, {})[first] = None
    return list(cards.values())


def _inner(topology: Topology, members: list[list[GpuSite]]) -> tuple[GroupSite, Loads]:
    """The site of the slowest node's members, and the load of all nodes' rings.

    Copies of one template whose members sit alike are looked at once; their links follow by arithmetic.
    """
    known: dict[tuple[int, tuple[int, ...]], tuple[GroupSite, int]] = {}
    loads: list[tuple[int, float]] = []
    for node in members:
        run, copy, _ = topology.locate(node[0].index)
        locals_ = tuple(topology.locate(site.index)[2] for site in node)
        key = (run.first_gpu, locals_)
        if key not in known:
            known[key] = (topology.site([site.index for site in node]), run.base(copy))
        site, base = known[key]
        shift = run.base(copy) - base
        loads += [(link + shift, weight) for link, weight in site.ring_links]
    slowest = min((site for site, _ in known.values()), key=lambda site: site.ring_cap)
    return slowest, merged(loads)


def _places(topology: Topology, nodes: dict[int, list[GpuSite]]) -> tuple[str | None, bool, bool]:
    """The members' common architecture, whether they span sockets, and whether they share a root per node."""
    architectures = {topology.gpu(site.index).architecture for node in nodes.values() for site in node}
    common = architectures.pop() if len(architectures) == 1 else None
    spans = any(len({site.socket for site in node}) > 1 for node in nodes.values())
    return common, spans, all(len({site.root for site in node}) == 1 for node in nodes.values())


def _slowest_link(topology: Topology, links: Iterable[int]) -> float:
    """The least raw rate among links, B/s; inf without any."""
    return min((topology.local_link(link)[0].rate.bandwidth for link in links), default=inf)


def exchange_bound(topology: Topology, group: tuple[int, ...]) -> float:
    """The graph's bound on a member's sending rate in an even all-to-all (B/s); looks at every pair."""
    share = 1.0 / max(1, len(group) - 1)
    pairs = ((a, b) for a in group for b in group if a != b)
    loads = merged((link, weight * share) for a, b in pairs for link, weight in topology.route(a, b).links)
    return bound(loads, topology.capacity)
