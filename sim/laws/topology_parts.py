"""The values a topology is made of, and the way through one block of it.

A block is one node (held once for all its copies) or one whole explicit graph: a directed networkx multigraph
whose edges carry local link ids. The way between two GPUs is the shortest walk under three rules:

1. GPUs, host memory and storage forward nothing, and no third node does.
2. Fewer and nearer links win: an edge costs 1 (NVLink, memory), 10 (PCIe), 100 (between sockets) or 1000
   (between nodes), and a way over NVLink alone wins outright.
3. A GPU without P2P exchanges PCIe data with host memory only, so a copy between GPUs is a write to the
   memory of the sender's socket and a read from it: whatever lies on both halves is crossed twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import networkx as nx

from sim.errors import InfeasibleError
from sim.spec.hardware import LinkKind

RDMA: frozenset[str] = frozenset({"roce", "infiniband"})
NETWORK: frozenset[str] = RDMA | {"ethernet", "thunderbolt", "internet"}
REMOTENESS: dict[str, int] = {
    "nvlink": 0, "memory": 1, "pcie": 2, "socket": 3,
    "infiniband": 4, "roce": 5, "thunderbolt": 6, "ethernet": 7, "internet": 8,
}  # fmt: skip
COST: dict[str, int] = {"nvlink": 1, "memory": 1, "pcie": 10, "socket": 100, **dict.fromkeys(NETWORK, 1000)}
FORWARDS: frozenset[str] = frozenset({"socket", "pcie-switch", "nvswitch", "nic", "switch"})


class Rate(NamedTuple):
    """What a link can do: raw ``bandwidth`` per direction (B/s), usable share, latency and overhead (s)."""

    kind: LinkKind
    bandwidth: float
    efficiency: float = 1.0
    latency: float = 0.0
    overhead: float = 0.0

    @property
    def capacity(self) -> float:
        """Usable bytes/s."""
        return self.bandwidth * self.efficiency


class LocalLink(NamedTuple):
    """A link of a block, between two of its vertices (an end outside the block is empty)."""

    name: str
    role: str
    source: str
    target: str
    rate: Rate


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One directed link of the cluster. ``capacity`` = ``bandwidth`` * ``efficiency``, B/s; times in s.

    Links of one ``equivalence`` class do the same work in equal nodes. ``src`` and ``dst`` name vertices of
    ``Topology.graph()``.
    """

    id: int
    name: str
    kind: LinkKind
    bandwidth: float
    efficiency: float
    capacity: float
    latency: float
    overhead: float
    equivalence: str
    src: str
    dst: str


@dataclass(frozen=True, slots=True)
class GpuSite:
    """Where a GPU sits: its number, catalogue id, node, and the socket and PCIe root it hangs on.

    ``root`` is the PCIe switch, or the socket where the GPU has a root port of its own. ``local`` counts
    within the node. ``name`` is its vertex in ``Topology.graph()``.
    """

    index: int
    gpu: str
    node: int
    node_name: str
    template: str
    socket: str
    root: str
    local: int
    name: str


@dataclass(frozen=True, slots=True)
class Route:
    """The way of a message from GPU to GPU.

    ``links`` are (link id, weight) in the order met; a weight of 2 means every byte crosses twice. ``cap`` is
    the rate alone (B/s), ``latency`` one way (s), ``overhead`` what a message takes of its sender (s).
    ``kind`` is the most remote kind of link on it. Messages with equal ``queue`` leave in order.
    """

    links: tuple[tuple[int, float], ...]
    cap: float
    latency: float
    overhead: float
    kind: LinkKind
    staged: bool
    queue: str


@dataclass(frozen=True, slots=True)
class LocalGpu:
    """A GPU in its block; ``memory`` is the host memory nearest to it, if there is any."""

    vertex: str
    gpu: str
    node: int
    local: int
    socket: str
    root: str
    p2p: bool
    memory: str | None


@dataclass(frozen=True, slots=True)
class Port:
    """A network card of a template: its vertex and the local ids of its cable's two directions."""

    vertex: str
    out: int
    back: int
    rdma: bool


@dataclass(frozen=True, slots=True)
class Handling:
    """How copies through host memory go (see ``sim.spec.topology.Staging``)."""

    efficiency: float
    latency: float


class Block:
    """One node template, or one explicit graph: vertices, links by local id, GPUs, cards, and the ways.

    A vertex may carry a ``link`` too (a switch's backplane), crossed by all that goes through it.
    """

    def __init__(self, name: str, handling: Handling) -> None:
        self.name = name
        self.handling = handling
        self.graph: Any = nx.MultiDiGraph()
        self.links: list[LocalLink] = []
        self.gpus: list[LocalGpu] = []
        self.ports: list[Port] = []
        self.nodes: list[str] = [name]
        self._paths: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._nvlinks: dict[str, dict[str, tuple[int, ...]]] = {}
        self._nvlink_list: list[tuple[str, str, int | None]] | None = None

    def vertex(self, name: str, kind: str, node: int | None = 0, **facts: Any) -> str:
        """Add a vertex; ``node`` is the local number of the machine it is in, None for switches."""
        self.graph.add_node(name, kind=kind, node=node, **facts)
        return name

    def link(self, role: str, source: str, target: str, rate: Rate) -> int:
        """Add one direction of a link and return its local id. An empty end is outside the block."""
        number = len(self.links)
        name = f"{source}>{target}" if source and target else source + ">" if source else ">" + target
        self.links.append(LocalLink(name, role, source, target, rate))
        if source and target:
            self.edge(source, target, rate.kind, number)
        return number

    def both(self, role: str, a: str, b: str, rate: Rate) -> None:
        """Add a full duplex link."""
        self.link(role, a, b, rate)
        self.link(role, b, a, rate)

    def shared(self, role: str, a: str, memory: str, rate: Rate) -> None:
        """Add a link whose two directions share one rate."""
        self.edge(memory, a, rate.kind, self.link(role, a, memory, rate))

    def edge(self, source: str, target: str, kind: LinkKind, link: int | None) -> None:
        """Add a directed edge; one without a link is never a bottleneck."""
        self.graph.add_edge(source, target, link=link, kind=kind, weight=COST[kind])

    def path(self, *stops: str) -> tuple[int, ...]:
        """Local ids of the links met from stop to stop, in order; InfeasibleError if there is no way."""
        found = self._paths.get(stops)
        if found is None:
            legs = (self._leg(a, b) for a, b in pairwise(stops))
            found = self._paths[stops] = tuple(link for leg in legs for link in leg)
        return found

    def _leg(self, source: str, target: str) -> list[int]:
        view = passable(self.graph, source, target)
        try:
            walk = nx.dijkstra_path(view, source, target)
        except nx.NetworkXNoPath:
            raise InfeasibleError(f"{self.name}: there is no way from {source} to {target}") from None
        links = []
        for a, b in pairwise(walk):
            if "link" in self.graph.nodes[a]:
                links.append(self.graph.nodes[a]["link"])
            best = min(self.graph[a][b].values(), key=lambda edge: edge["weight"])
            if best["link"] is not None:
                links.append(best["link"])
        return links

    def nvlink(self, a: str, b: str) -> tuple[int, ...] | None:
        """The way over NVLink alone, or None."""
        if a not in self._nvlinks:
            self._nvlinks[a] = self._nvlinks_from(a)
        return self._nvlinks[a].get(b)

    def _nvlinks_from(self, a: str) -> dict[str, tuple[int, ...]]:
        """The links from ``a`` to every vertex that NVLink reaches, through switches but not through GPUs."""
        own = [(u, v, link) for u, v, link in self._nvlink_edges() if u == a or self.graph.nodes[u]["kind"] in FORWARDS]
        graph: Any = nx.DiGraph()
        graph.add_weighted_edges_from(own, weight="link")
        ways = nx.single_source_shortest_path(graph, a) if a in graph else {}
        return {
            end: tuple(graph[u][v]["link"] for u, v in pairwise(walk)) for end, walk in ways.items() if end != a
        }

    def _nvlink_edges(self) -> list[tuple[str, str, int | None]]:
        """(source, target, link) of every NVLink, listed once."""
        if self._nvlink_list is None:
            edges = self.graph.edges(data=True)
            self._nvlink_list = [(u, v, facts["link"]) for u, v, facts in edges if facts["kind"] == "nvlink"]
        return self._nvlink_list

    def between(self, i: int, j: int) -> tuple[tuple[int, ...], bool]:
        """The links from local GPU i to local GPU j, and whether the copy is staged in host memory."""
        a, b = self.gpus[i], self.gpus[j]
        straight = self.nvlink(a.vertex, b.vertex)
        if straight is not None:
            return straight, False
        if a.node != b.node:
            return self._across(a, b), False
        if a.p2p and b.p2p:
            return self.path(a.vertex, b.vertex), False
        return self.path(a.vertex, self._memory(a), b.vertex), True

    def _memory(self, gpu: LocalGpu) -> str:
        if gpu.memory is None:
            raise InfeasibleError(f"{self.name}: {gpu.vertex} has no P2P, and its node has no memory vertex")
        return gpu.memory

    def _across(self, a: LocalGpu, b: LocalGpu) -> tuple[int, ...]:
        """Between nodes of an explicit graph: through memory at each end that GPUDirect does not reach."""
        direct = self.path(a.vertex, b.vertex)
        kinds = [self.links[link].rate.kind for link in direct]
        rdma = all(kind in RDMA for kind in kinds if kind in NETWORK)
        stops = [a.vertex, a.memory if not (a.p2p and rdma) else None]
        stops += [b.memory if not (b.p2p and rdma) else None, b.vertex]
        return self.path(*(stop for stop in stops if stop is not None))

    def leave(self, i: int, exit_: str, rdma: bool) -> tuple[int, ...]:
        """The links from local GPU i to the card or socket where its message leaves the node."""
        gpu = self.gpus[i]
        direct = rdma and gpu.p2p
        return self.path(gpu.vertex, exit_) if direct else self.path(gpu.vertex, self._memory(gpu), exit_)

    def arrive(self, i: int, entry: str, rdma: bool) -> tuple[int, ...]:
        """The links from the card or socket where a message enters the node to local GPU i."""
        gpu = self.gpus[i]
        direct = rdma and gpu.p2p
        return self.path(entry, gpu.vertex) if direct else self.path(entry, self._memory(gpu), gpu.vertex)


    def held(self, node: int, kind: str) -> tuple[str, ...]:
        """The ``memory`` or ``storage`` vertices of a machine."""
        return tuple(v for v, facts in self.graph.nodes(data=True) if (facts["kind"], facts["node"]) == (kind, node))

    def host_way(self, i: int, *stops: str) -> tuple[tuple[int, float], ...]:
        """(link, weight) of a byte that local GPU i has moved from stop to stop: the ``gpu`` itself, its ``memory``,
        the ``storage`` of its machine (all drives evenly). ``memory`` alone is a read or write by the CPU.

        Raises InfeasibleError where there is no such memory or storage.
        """
        gpu = self.gpus[i]
        if gpu.memory is None:
            raise InfeasibleError(f"{self.name}: {gpu.vertex} has no host memory near it")
        if stops == ("memory",):
            return ((self.path(gpu.vertex, gpu.memory)[-1], 1.0),)
        drives = self.held(gpu.node, "storage") if "storage" in stops else ("",)
        if not drives:
            raise InfeasibleError(f"{self.name}: the node of {gpu.vertex} has no nvme")
        ways = ({"gpu": gpu.vertex, "memory": gpu.memory, "storage": drive} for drive in drives)
        return merged((link, 1.0 / len(drives)) for way in ways for link in self.path(*(way[stop] for stop in stops)))


def passable(graph: Any, source: str, target: str) -> Any:
    """The part of the graph that a message from ``source`` to ``target`` may use (rule 1)."""
    homes = (None, graph.nodes[source]["node"], graph.nodes[target]["node"])

    def keep(vertex: str) -> bool:
        facts = graph.nodes[vertex]
        return vertex in (source, target) or (facts["kind"] in FORWARDS and facts["node"] in homes)

    return nx.subgraph_view(graph, filter_node=keep)


def merged(loads: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Weights summed by link, in the order first met."""
    total: dict[int, float] = {}
    for link, weight in loads:
        total[link] = total.get(link, 0.0) + weight
    return tuple(total.items())


def bound(loads: Iterable[tuple[int, float]], capacities: Any) -> float:
    """The largest rate at which the loads fit: min over links of capacity / weight, B/s (no link: inf)."""
    return min((capacities(link) / weight for link, weight in loads), default=inf)
