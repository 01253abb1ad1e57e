"""What the ranks' groups get of the cluster's links when all groups of a kind talk at once.

Training marches in step: all tensor groups reduce together, all stages send together, all data groups sum together.
A link that several groups of one stage cross is therefore shared evenly, and a group's ring runs at no more than

    min over its links of capacity / (load of all groups of its kind and stage)

next to the library's own rates (:mod:`sim.laws.collective`). A collective is as slow as the slowest group of its
stage.

On a regular cluster (equal nodes on one switch, or on the leaves of one spine) one group stands for all: its members in
one node and in another (of another leaf, if it spans leaves) are looked at, together with every other group that has a
member in that node, since the links of all other nodes carry the same. Uplinks of a leaf carry what such a node puts on
them once for every group of the leaf that leaves it. So a group of 2,048 nodes costs no more than one of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sim.laws.collective import CollectiveParameters, collective_parameters
from sim.laws.topology import GroupSite, Route, Topology
from sim.laws.topology_group import Loads
from sim.laws.topology_parts import NETWORK, bound, merged
from sim.laws.training.layer import HOST_WAYS
from sim.laws.training.offload import HostNetwork
from sim.laws.training.ranks import Ranks
from sim.spec.hardware import Fabric, LinkKind
from sim.spec.training_stack import TrainingConstants, TrainingStack

ALONE = CollectiveParameters(1, 0.0, 0.0, float("inf"), 0.0, 0.0, float("inf"))
_NONE: frozenset[str] = frozenset()
#: Groups of a stage looked at where they need not be alike.
MOST_GROUPS = 4096


@dataclass(frozen=True, slots=True)
class GroupWay:
    """A group's collectives: the law's parameters, the kind of link in a reader's words, and what a byte that a
    member sends puts on each link, all groups of the kind and stage together (those looked at)."""

    parameters: CollectiveParameters
    link: str
    kind: str
    loads: Loads = ()


@dataclass(frozen=True, slots=True)
class HopWay:
    """A message from a rank of one stage to its peer in another, while all its neighbours send too.

    ``cap`` is its rate (B/s), ``latency`` and ``overhead`` in s, ``queue`` where messages leave one after another.
    """

    cap: float
    latency: float
    overhead: float
    kind: LinkKind
    staged: bool
    queue: str
    loads: Loads


class GroupNetwork:
    """The ways of one plan's groups, each worked out once.

    With ``alone`` every group and message has its links for itself: for playing them on a network that shares links.
    """

    def __init__(
        self, topology: Topology, ranks: Ranks, fabrics: Sequence[Fabric], stack: TrainingStack,
        constants: TrainingConstants, *, one_copy: bool = False, alone: bool = False,
    ) -> None:  # fmt: skip
        self.topology, self.ranks, self.stack = topology, ranks, stack
        self.one_copy, self.alone = one_copy, alone
        self.fabrics = tuple(_with_network(fabric, constants.network, stack.hop) for fabric in fabrics)
        self.folds = isinstance(ranks.gpus, range) and is_regular(topology)
        self.host = HostNetwork(topology, ranks, folds=self.folds)
        self._ways: dict[tuple[str, int], GroupWay] = {}
        self._hops: dict[tuple[int, int], HopWay] = {}
        self._whole: dict[tuple[str, int], tuple[Loads, Loads]] = {}
        self._on_leaf: dict[tuple[int, int], int] = {}

    def members(self, kind: str, gpu: int) -> tuple[int, ...]:
        """The group of a kind that a GPU belongs to: along an axis, or the part of its data ranks in its node
        (``node``), or those in the same place of every node (``across``); itself alone where it talks to its host."""
        if kind in HOST_WAYS:
            return (gpu,)
        if kind not in ("node", "across"):
            return self.ranks.group_of(kind, gpu)
        nodes: dict[int, list[int]] = {}
        for member in self.ranks.group_of("data", gpu):
            nodes.setdefault(self.topology.gpus[member].node, []).append(member)
        mine = nodes[self.topology.gpus[gpu].node]
        if kind == "node":
            return tuple(mine)
        place = mine.index(gpu)
        return tuple(peers[place] for peers in nodes.values() if place < len(peers))

    # ---- collectives

    def way(self, kind: str, stage: int = 0) -> GroupWay:
        """The way of the slowest group of a kind in a stage, or of its GPUs to their hosts."""
        if kind in HOST_WAYS:
            host = self.host.way(kind, stage)
            return GroupWay(ALONE, host.link, "offload", host.loads)
        key = (kind, 0 if self.apart else stage)
        found = self._ways.get(key)
        if found is None:
            found = self._ways[key] = self._way(*key)
        return found

    def crowded(self, kinds: Iterable[str], stage: int) -> frozenset[str]:
        """Those of ``kinds`` of groups whose rings cross links that ways to the host, also in ``kinds``, do."""
        wanted = list(kinds)
        host = {name for kind in wanted if kind in HOST_WAYS for name in self._classes(kind, stage)}
        return frozenset(k for k in wanted if k not in HOST_WAYS and host & self._classes(k, stage)) if host else _NONE

    def _classes(self, kind: str, stage: int) -> set[str]:
        """The classes of links that a kind uses."""
        return {self.topology.links[link].equivalence for link, _ in self.way(kind, stage).loads}

    @property
    def apart(self) -> bool:
        """Whether groups of different stages have no link in common and sit alike: a stage is whole nodes."""
        if not self.folds or self.ranks.plan.order[-1] != "pp":
            return False
        return self.ranks.strides["pp"] % self.per_node == 0 and self.leaf_nodes == 1

    def _way(self, kind: str, stage: int) -> GroupWay:
        groups = self._groups(kind, stage)
        if len(groups[0]) == 1:
            return GroupWay(ALONE, "", "single")
        ways = [self._of(group, kind, stage) for group in groups]
        return max(ways, key=lambda way: _slowness(way.parameters))

    def _groups(self, kind: str, stage: int) -> list[tuple[int, ...]]:
        """The groups of a stage that need a look: the first where all are alike, else all."""
        first = self.members(kind, self.ranks.at(pp=stage))
        if self.folds and self.even(first):
            return [first]
        seen: dict[tuple[int, ...], None] = {}
        for gpu in self._stage_gpus(stage):
            seen[self.members(kind, gpu)] = None
            if len(seen) >= MOST_GROUPS:
                break
        return list(seen)

    def _stage_gpus(self, stage: int) -> list[int]:
        r = self.ranks
        return [gpu for dp in range(r.sizes["dp"]) for gpu in r.stage(stage, dp)]

    def even(self, group: tuple[int, ...]) -> bool:
        """Whether a group has equally many members in each of its nodes, and fills or divides them."""
        per_node = self.per_node
        counts: dict[int, int] = {}
        for gpu in group:
            counts[gpu // per_node] = counts.get(gpu // per_node, 0) + 1
        sizes = set(counts.values())
        size, whole = self.ranks.sizes["tp"] * self.ranks.sizes["cp"], per_node
        return len(sizes) == 1 and (size % whole == 0 or whole % size == 0)

    def _of(self, group: tuple[int, ...], kind: str, stage: int) -> GroupWay:
        """One group among its siblings."""
        topology = self.topology
        near = self._neighbourhood(group)
        folded = self.folded(group, near)
        site = topology.site(folded)
        outer, inner = self._loads(kind, stage, group, near)
        total = dict(merged((*outer, *inner)))
        cap = _shared(site.ring_links, total, topology)
        within = site.inner
        if within is not None:
            within = replace(within, ring_cap=min(within.ring_cap, _shared(site.inner_links, total, topology)))
        k = len({topology.gpus[g].node for g in group}) if len(folded) < len(group) else site.nodes
        shared = replace(site, n=len(group), nodes=k, ring_cap=min(site.ring_cap, cap), inner=within)
        exchange = topology.exchange_cap(group) if kind == "ep" and site.kind != "network" else None
        parameters = collective_parameters(
            shared, self.fabrics, self.stack.collective_libraries, self.stack.links == "datasheet",
            one_copy=self.one_copy, exchange_cap=exchange,
        )  # fmt: skip
        return GroupWay(parameters, self._words(shared, folded), shared.kind, self.carried(shared, outer, inner))

    def _loads(self, kind: str, stage: int, group: tuple[int, ...], near: range) -> tuple[Loads, Loads]:
        """What the rings of all groups looked at put on links: those between nodes (or all), those within."""
        whole = len(near) == self.topology.node_count and not self.alone
        found = self._whole.get((kind, stage)) if whole else None
        if found is None:
            siblings = self._siblings(kind, stage, group, near)
            sites = [self.topology.site(self.folded(other, near)) for other in siblings]
            outer = merged(load for site in sites for load in site.ring_links)
            if self.folds and not whole and self.leaf_nodes > 1 and not self.alone:
                leaf = self._leaf_of(near.start)
                mine = sum(g // self.per_node in leaf for g in group)
                outer = self._uplinks(outer, self._leaf_ranks(near.start, stage) / mine / len(siblings))
            found = outer, merged(load for site in sites for load in site.inner_links)
            if whole:
                self._whole[kind, stage] = found
        return found

    def carried(self, site: GroupSite, outer: Loads, inner: Loads) -> Loads:
        """Load of all looked-at groups per byte that one member sends, 2(n-1)/n of an all-reduce's size."""
        if site.kind != "network":
            return outer
        g = max(1, site.per_node)
        k, whole = site.n // g, (site.n - 1) / site.n
        within = ((link, weight * (g - 1) / g / whole) for link, weight in inner)
        between = ((link, weight * (k - 1) / k / g / whole) for link, weight in outer)
        return merged((*within, *between))

    def _words(self, site: GroupSite, group: tuple[int, ...]) -> str:
        if site.kind == "network":
            return str(self.topology.route(group[0], group[-1]).kind)
        return "PCIe through host memory" if site.kind == "staged" else str(site.kind)

    # ---- neighbourhoods

    @property
    def leaf_nodes(self) -> int:
        """Nodes on a leaf; 1 where there is but one switch."""
        leaf_spine = self.topology.spec.network.leaf_spine
        return leaf_spine.nodes_per_leaf if leaf_spine is not None else 1

    def _neighbourhood(self, group: tuple[int, ...]) -> range:
        """Nodes whose links are looked at whole: the first member's; all where nothing folds."""
        if not self.folds or not self.even(group):
            return range(self.topology.node_count)
        first = group[0] // self.per_node
        return range(first, first + 1)

    def _leaf_of(self, node: int) -> range:
        """The nodes on a node's leaf."""
        leaf = self.leaf_nodes
        first = node // leaf * leaf
        return range(first, min(first + leaf, self.topology.node_count))

    @property
    def per_node(self) -> int:
        """GPUs of a node, of the first where they differ."""
        return len(self.topology.runs[0].block.gpus)

    def folded(self, group: tuple[int, ...], near: range) -> tuple[int, ...]:
        """The members in the neighbourhood, and those in one node outside it: on another leaf if there is one."""
        if not self.folds or len(near) == self.topology.node_count:
            return group
        per_node = self.per_node
        inside = tuple(g for g in group if g // per_node in near)
        outside = [g for g in group if g // per_node not in near]
        if not outside:
            return inside
        leaf = self._leaf_of(near.start)
        far = [g for g in outside if g // per_node not in leaf] or outside
        node = far[0] // per_node
        return inside + tuple(g for g in far if g // per_node == node)

    def _leaf_ranks(self, node: int, stage: int) -> int:
        """GPUs of a stage on a node's leaf."""
        leaf = self._leaf_of(node)
        key = (leaf.start, stage)
        found = self._on_leaf.get(key)
        if found is None:
            ranks = self.ranks
            window = range(leaf.start * self.per_node, leaf.stop * self.per_node)
            held = (ranks.rank_of(gpu) for gpu in window)
            found = sum(rank is not None and ranks.coordinate(rank, "pp") == stage for rank in held)
            self._on_leaf[key] = found
        return found

    def _uplinks(self, loads: Loads, factor: float) -> Loads:
        """Loads with those of the switches' links multiplied."""
        if factor == 1.0:
            return loads
        return tuple((link, w * factor if self.topology.local_link(link)[1] is None else w) for link, w in loads)

    def _siblings(self, kind: str, stage: int, group: tuple[int, ...], near: range) -> list[tuple[int, ...]]:
        """All groups of the kind and stage with a member in the neighbourhood."""
        if self.alone:
            return [group]
        if self.folds:
            per_node = self.per_node
            gpus: Sequence[int] = range(near.start * per_node, near.stop * per_node)
        else:
            gpus = self._stage_gpus(stage)
        seen = {group: None}
        covered = set(group)
        for gpu in gpus:
            rank = self.ranks.rank_of(gpu)
            if gpu in covered or rank is None or self.ranks.coordinate(rank, "pp") != stage:
                continue
            other = self.members(kind, gpu)
            covered.update(other)
            seen[other] = None
        return list(seen)

    # ---- hops

    def hop(self, source: int, target: int) -> HopWay:
        """The way from stage ``source`` to stage ``target``, the slowest over replicas and ranks."""
        found = self._hops.get((source, target))
        if found is None:
            found = self._hops[source, target] = self._hop(source, target, None)
        return found

    def hop_of(self, source: int, target: int, dp: int) -> HopWay:
        """The same for one replica; where the cluster is regular all are alike."""
        return self.hop(source, target) if self.folds else self._hop(source, target, dp)

    def _hop(self, source: int, target: int, dp: int | None) -> HopWay:
        pairs = self._pairs(source, target)
        routes = {pair: self.topology.route(*pair) for pair in pairs}
        every = merged(load for route in routes.values() for load in route.links)
        if self.folds and self.leaf_nodes > 1:
            node = pairs[0][0] // self.per_node
            every = self._uplinks(every, self._leaf_ranks(node, source) / len(pairs))
        total = dict(every)
        if self.alone:
            total = dict.fromkeys(total, 0.0) | {link: w for route in routes.values() for link, w in route.links}
        mine = pairs if dp is None else [p for p in pairs if p[0] in set(self.ranks.stage(source, dp))]
        slowest = min((routes[p] for p in mine), key=lambda r: (self._rate(r, total), -r.latency))
        rate = self._rate(slowest, total)
        loads = tuple((link, total[link]) for link, _ in slowest.links)
        return HopWay(
            rate, slowest.latency, slowest.overhead, slowest.kind, slowest.staged, slowest.queue, loads
        )  # fmt: skip

    def _rate(self, route: Route, total: dict[int, float]) -> float:
        """The rate of a message while all the others move; staged copies keep the share that is their own."""
        return min(route.cap, bound(((link, total[link]) for link, _ in route.links), self.topology.capacity))

    def _pairs(self, source: int, target: int) -> list[tuple[int, int]]:
        """Sender and receiver of all messages from a stage to another that can share a link."""
        r = self.ranks
        if not self.folds:
            senders = self._stage_gpus(source)
        else:
            near = self._neighbourhood((r.at(pp=source),))
            per_node = self.per_node
            window = range(near.start * per_node, near.stop * per_node)
            held = [(gpu, r.rank_of(gpu)) for gpu in window]
            senders = [gpu for gpu, rank in held if rank is not None and r.coordinate(rank, "pp") == source]
        step = (target - source) * r.strides["pp"]
        found = []
        for gpu in senders:
            rank = r.rank_of(gpu)
            assert rank is not None
            found.append((gpu, r.gpus[rank + step]))
        return found


def is_regular(topology: Topology) -> bool:
    """Whether all nodes are equal and hang alike on one non-blocking switch, or on the leaves of one spine."""
    spec = topology.spec
    if spec.explicit or len(topology.runs) != 1 or spec.network.cables:
        return False
    network = spec.network
    if network.leaf_spine is not None:  # a last leaf that is not full is no busier than the others
        return network.backplane is None
    return len(network.switches) <= 1 and network.backplane is None and all(
        switch.backplane is None for switch in network.switches
    )  # fmt: skip


def _with_network(fabric: Fabric, share: float, hop: float) -> Fabric:
    """A fabric with the stack's share of the cards between nodes and its least time of a ring's step."""
    if fabric.kind != "network":
        return fabric
    return fabric.model_copy(update={
        "bulk_efficiency": dict.fromkeys(fabric.bulk_efficiency, share), "step": max(fabric.step, hop),
    })  # fmt: skip


def _shared(links: Loads, total: dict[int, float], topology: Topology) -> float:
    return bound(((link, total[link]) for link, weight in links if weight > 0), topology.capacity)


def _slowness(p: CollectiveParameters) -> tuple[float, float]:
    between = p.inter.bandwidth if p.inter else float("inf")
    return (-min(p.bulk_bandwidth, between), p.bulk_alpha + p.bulk_step * p.n + (p.inter.step if p.inter else 0.0))


def crosses_nodes(kind: str) -> bool:
    """Whether a kind of link joins nodes."""
    return kind in NETWORK
