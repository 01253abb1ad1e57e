"""From the description of a cluster to the blocks and switches a topology is made of.

A template of the short form becomes one block, however many nodes it stands for; a leaf of the network is a
number per node. An explicit graph becomes one block that holds everything.

The host-to-host latency of a network link type is laid half on each end's cable, in both forms, so that two
hosts on one switch are that far apart; a cable without a switch between carries it whole, and a cable between
switches only what it states itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, Protocol

import networkx as nx

from sim.errors import InfeasibleError, InputError, Problem
from sim.laws.topology_parts import COST, NETWORK, RDMA, Block, Handling, LocalGpu, LocalLink, Port, Rate
from sim.spec.hardware import Gpu, LinkType
from sim.spec.topology import EdgeSpec, NodeSpec, NvmeSpec, Staging, SwitchSpec, TopologySpec, VertexSpec

MAX_PATHS = 64  # equal paths between two leaves over which traffic is spread


class LinkChanges(Protocol):
    """Changes to links between nodes; None leaves a value as it is. B/s and s."""

    @property
    def bandwidth(self) -> float | None: ...
    @property
    def latency(self) -> float | None: ...
    @property
    def message_overhead(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Book:
    """Looks catalogue entries up and turns link types into rates.

    With ``datasheet`` links reach their raw rate at once: efficiency 1, latency and overhead 0. ``changes``
    apply to network links, on top of either.
    """

    gpu: Callable[[str], Gpu]
    link: Callable[[str], LinkType]
    datasheet: bool = False
    changes: LinkChanges | None = None

    def raw(self, link_id: str, down: bool = False) -> Rate:
        """The rate of a catalogue link type as the catalogue has it; ``down``: from a switch to a node."""
        found = self.link(link_id)
        bandwidth = found.download if down and found.download is not None else found.bandwidth
        return Rate(found.kind, bandwidth, found.efficiency, found.latency, found.message_overhead)

    def rate(self, link_id: str, down: bool = False) -> Rate:
        """The rate of a catalogue link type under ``datasheet`` and ``changes``."""
        return self.adjusted(self.raw(link_id, down))

    def adjusted(self, rate: Rate, share: float = 1.0) -> Rate:
        """The rate under ``datasheet`` and ``changes``; it takes the ``share`` of a changed latency."""
        if self.datasheet:
            rate = Rate(rate.kind, rate.bandwidth)
        if self.changes is None or rate.kind not in NETWORK:
            return rate
        latency = self.changes.latency
        wanted: dict[str, Any] = {
            "bandwidth": self.changes.bandwidth,
            "latency": None if latency is None else latency * share,
            "overhead": self.changes.message_overhead,
        }
        return rate._replace(**{key: value for key, value in wanted.items() if value is not None})

    def stated(self, latency: float) -> float:
        """A latency written in the topology file: nothing where links are datasheet ones."""
        return 0.0 if self.datasheet else latency


@dataclass(slots=True)
class Network:
    """The switches: a multigraph of them, the links between them, and the leaf of each node (-1: none).

    ``cables`` maps an ordered pair of nodes to the link of their direct cable, ``backplanes`` a switch to its
    backplane's. Links are numbered from 0 here.
    """

    graph: Any = field(default_factory=nx.MultiDiGraph)
    links: list[LocalLink] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    leaf: list[int] = field(default_factory=list)
    cables: dict[tuple[int, int], int] = field(default_factory=dict)
    backplanes: dict[str, int] = field(default_factory=dict)
    _paths: dict[tuple[int, int], tuple[tuple[int, float], ...]] = field(default_factory=dict)

    def add(self, role: str, source: str, target: str, rate: Rate) -> int:
        """Add a directed link."""
        self.links.append(LocalLink(f"{source}>{target}" if target else source, role, source, target, rate))
        return len(self.links) - 1

    def join(self, a: str, b: str, rate: Rate) -> None:
        """Join two switches in both directions."""
        for source, target in ((a, b), (b, a)):
            link = self.add("switch uplink", source, target, rate)
            self.graph.add_edge(source, target, link=link, kind=rate.kind, weight=1000)

    def path(self, a: int, b: int) -> tuple[tuple[int, float], ...]:
        """(link, weight) from leaf a to b. Equal shortest paths share the traffic evenly (ideal ECMP)."""
        found = self._paths.get((a, b))
        if found is None:
            found = self._paths[a, b] = self._shares(self.names[a], self.names[b])
        return found

    def _shares(self, a: str, b: str) -> tuple[tuple[int, float], ...]:
        try:
            walks = list(islice(nx.all_shortest_paths(self.graph, a, b), MAX_PATHS))
        except nx.NetworkXNoPath:
            raise InfeasibleError(f"there is no way from switch {a} to switch {b}") from None
        shares: dict[int, float] = {}
        for walk in walks:
            for switch in walk:
                if switch in self.backplanes:
                    link = self.backplanes[switch]
                    shares[link] = shares.get(link, 0.0) + 1.0 / len(walks)
            for here, there in pairwise(walk):
                edges = self.graph[here][there].values()
                for edge in edges:
                    share = 1.0 / (len(walks) * len(edges))
                    shares[edge["link"]] = shares.get(edge["link"], 0.0) + share
        return tuple(shares.items())


def build_node(spec: NodeSpec, book: Book, cards: Iterable[tuple[str, bool, str | None]]) -> Block:
    """The block of a template; ``cards`` are (link, beside its own GPU, PCIe link) in order."""
    staging = spec.staging
    block = Block(spec.name, _handling(staging.efficiency, staging.latency, book))
    sockets = [block.vertex(f"socket{n}", "socket") for n in range(spec.sockets)]
    for n, socket in enumerate(sockets):
        memory = block.vertex(f"memory{n}", "memory", capacity=spec.host_memory.capacity)
        block.shared("host memory", socket, memory, Rate("memory", spec.host_memory.bandwidth))
        for other in sockets[:n]:
            block.both("socket link", other, socket, book.rate(spec.socket_link or ""))
    for n, root in enumerate(_roots(spec, block, sockets, book)):
        _add_gpu(spec, block, n, root, book)
    if spec.nvlink is not None:
        _add_nvlink(spec.nvlink.link, spec.nvlink.layout == "switch", block, book)
    _add_cards(list(cards), block, sockets, book)
    if spec.nvme is not None:
        _add_nvme(spec.nvme, block, sockets)
    return block


def _handling(efficiency: float, latency: float, book: Book) -> Handling:
    return Handling(1.0, 0.0) if book.datasheet else Handling(efficiency, latency)


def _roots(spec: NodeSpec, block: Block, sockets: list[str], book: Book) -> list[tuple[str, str]]:
    """(socket, root) of each GPU; makes the PCIe switches."""
    homes = [sockets[n * spec.sockets // spec.gpu_count] for n in range(spec.gpu_count)]
    size = spec.pcie.gpus_per_switch
    if size is None:
        return [(socket, socket) for socket in homes]
    uplink = _pcie_link(spec, spec.gpu_types[0], book, spec.pcie.uplink)
    roots: list[tuple[str, str]] = []
    for socket in sockets:
        for place in range(homes.count(socket)):
            if place % size == 0:
                number = len({root for _, root in roots})
                switch = block.vertex(f"pcie{number}", "pcie-switch")
                block.both("PCIe switch uplink", switch, socket, uplink)
            roots.append((socket, switch))
    return roots


def _pcie_link(spec: NodeSpec, gpu: str, book: Book, own: str | None) -> Rate:
    link = own or spec.pcie.link or book.gpu(gpu).pcie
    if link is None:
        message = f"the catalogue names no PCIe link for {gpu}: give one, e.g. link: pcie4-x16"
        raise InputError([Problem(None, None, None, f"nodes.{spec.name}.pcie", message)])
    return book.rate(link)


def _add_gpu(spec: NodeSpec, block: Block, n: int, place: tuple[str, str], book: Book) -> None:
    gpu = spec.gpu_types[n]
    socket, root = place
    vertex = block.vertex(f"gpu{n}", "gpu", gpu=gpu)
    block.both("GPU PCIe link", vertex, root, _pcie_link(spec, gpu, book, None))
    p2p = book.gpu(gpu).p2p if spec.p2p is None else spec.p2p
    memory = socket.replace("socket", "memory")
    block.gpus.append(LocalGpu(vertex, gpu, 0, n, socket, root, p2p, memory))


def _add_nvlink(link: str, switched: bool, block: Block, book: Book) -> None:
    rate = book.rate(link)
    vertices = [gpu.vertex for gpu in block.gpus]
    if switched:
        switch = block.vertex("nvswitch", "nvswitch")
        for vertex in vertices:
            block.both("NVLink", vertex, switch, rate)
    else:
        for a, b in zip(vertices[::2], vertices[1::2], strict=True):
            block.both("NVLink", a, b, rate)


def _add_cards(
    cards: list[tuple[str, bool, str | None]], block: Block, sockets: list[str], book: Book
) -> None:
    spread = [n for n, (_, beside, _) in enumerate(cards) if not beside]
    beside = [n for n, (_, own, _) in enumerate(cards) if own]
    for n, (link, own, pcie) in enumerate(cards):
        vertex = block.vertex(f"nic{n}", "nic")
        if own:
            home = block.gpus[beside.index(n) % len(block.gpus)].root
        else:
            home = sockets[spread.index(n) * len(sockets) // len(spread)]
        if pcie is not None:
            block.both("network card PCIe link", vertex, home, book.rate(pcie))
        else:
            block.edge(vertex, home, "pcie", None)
            block.edge(home, vertex, "pcie", None)
        up, down = (_halfway(book.rate(link, direction)) for direction in (False, True))
        out = block.link("network card", vertex, "", up)
        role = "network card" if up == down else "network card, down"
        block.ports.append(Port(vertex, out, block.link(role, "", vertex, down), up.kind in RDMA))


def _halfway(rate: Rate) -> Rate:
    """A node's end of a cable to a switch, with half of the latency from host to host."""
    return rate._replace(latency=rate.latency / 2)


def _add_nvme(nvme: NvmeSpec, block: Block, sockets: list[str]) -> None:
    """The node's drives as one: a link for writes and one for reads, the same whichever socket they come from."""
    drives = block.vertex("nvme", "storage", capacity=nvme.capacity)
    write = block.link("NVMe write", sockets[0], drives, Rate("pcie", nvme.write))
    read = block.link("NVMe read", drives, sockets[0], Rate("pcie", nvme.read))
    for socket in sockets[1:]:
        block.edge(socket, drives, "pcie", write)
        block.edge(drives, socket, "pcie", read)


def cards_of(spec: TopologySpec, node: NodeSpec) -> list[tuple[str, bool, str | None]]:
    """The network cards of a template; a lone node keeps those it names, and gets none otherwise."""
    cards: list[tuple[str, bool, str | None]] = []
    for nic in node.nics:
        count = node.gpu_count if nic.per_gpu else nic.count
        cards += [(nic.link, nic.per_gpu, nic.pcie)] * count
    if not cards and spec.network.link is not None and spec.node_count > 1:
        cards = [(spec.network.link, False, None)]
    return cards


def build_network(spec: TopologySpec, book: Book) -> Network:
    """The switches of the short form, their links, and each node's leaf."""
    network = Network()
    switches, leaf = _leaves(spec)
    network.names = [switch.name for switch in switches]
    network.leaf = leaf
    first = next((cards_of(spec, node)[0][0] for node in spec.nodes if cards_of(spec, node)), None)
    kind = book.link(first).kind if first is not None else "ethernet"
    for switch in switches:
        backplane = switch.backplane or spec.network.backplane
        network.graph.add_node(switch.name, kind="switch", node=None)
        if backplane is not None:
            link = network.add("switch backplane", switch.name, "", Rate(kind, backplane))
            network.backplanes[switch.name] = network.graph.nodes[switch.name]["link"] = link
    for a, b, link_id, count, latency in _uplinks(spec, network.names):
        rate = book.rate(link_id)
        stated = book.stated(latency)
        network.join(a, b, rate._replace(bandwidth=rate.bandwidth * count, latency=stated, overhead=0.0))
    _add_cables(spec, network, book)
    return network


def _leaves(spec: TopologySpec) -> tuple[list[SwitchSpec], list[int]]:
    """The switches, and the number of each node's among them."""
    nodes, plan = spec.node_count, spec.network
    if plan.leaf_spine is not None:
        size = plan.leaf_spine.nodes_per_leaf
        leaves = -(-nodes // size)
        names = [f"leaf{n}" for n in range(leaves)] + (["spine"] if leaves > 1 else [])
        return [SwitchSpec(name=name) for name in names], [n // size for n in range(nodes)]
    if not plan.switches:
        if nodes == 1 or (plan.cables and not any(cards_of(spec, node) for node in spec.nodes)):
            return [], [-1] * nodes
        return [SwitchSpec(name="switch")], [0] * nodes
    if len(plan.switches) == 1 and not plan.switches[0].nodes:
        return list(plan.switches), [0] * nodes
    leaf = [-1] * nodes
    for number, switch in enumerate(plan.switches):
        for selector in switch.nodes:
            for node in spec.select(selector) or ():
                leaf[node] = number
    return list(plan.switches), leaf


def _uplinks(spec: TopologySpec, names: list[str]) -> Iterable[tuple[str, str, str, int, float]]:
    plan = spec.network
    for uplink in plan.uplinks:
        yield *uplink.between, uplink.link or plan.link or "", uplink.count, uplink.latency
    if plan.leaf_spine is not None and "spine" in names:
        up = plan.leaf_spine
        for name in names[:-1]:
            yield name, "spine", up.link or plan.link or "", up.uplinks, up.latency


def _add_cables(spec: TopologySpec, network: Network, book: Book) -> None:
    for a, b, link_id in spec.network.cables:
        rate = book.rate(link_id)
        left, right = (spec.select(end) or range(1) for end in (a, b))
        for ends in ((left.start, right.start), (right.start, left.start)):
            source, target = (f"{spec.node_name(end)}/socket0" for end in ends)
            network.cables[ends] = network.add("cable", source, target, rate)


def build_graph(spec: TopologySpec, book: Book) -> tuple[Block, Network]:
    """The one block of an explicit graph, and an empty network."""
    staging = spec.staging or Staging()
    block = Block(spec.name, _handling(staging.efficiency, staging.latency, book))
    block.nodes = list(dict.fromkeys(vertex.node for vertex in spec.vertices if vertex.node is not None))
    numbers = {name: number for number, name in enumerate(block.nodes)}
    kinds = {vertex.name: vertex for vertex in spec.vertices}
    for vertex in spec.vertices:
        facts = {"gpu": vertex.gpu} if vertex.gpu else {}
        node = None if vertex.node is None else numbers[vertex.node]
        block.vertex(vertex.name, vertex.kind, node, capacity=vertex.capacity, **facts)
    for edge in spec.edges:
        _add_edge(edge, kinds, block, book)
    for vertex in spec.vertices:
        if vertex.backplane is not None:
            link = block.link("switch backplane", vertex.name, "", Rate("ethernet", vertex.backplane))
            block.graph.nodes[vertex.name]["link"] = link
        if vertex.gpu is not None and vertex.node is not None:
            _place_gpu(vertex, numbers[vertex.node], block, book)
    return block, Network(leaf=[-1] * len(block.nodes))


def _place_gpu(vertex: VertexSpec, node: int, block: Block, book: Book) -> None:
    """Number a GPU of an explicit graph and find the socket, root and memory nearest to it."""
    near: dict[str, str] = {}
    facts = block.graph.nodes
    aside = ("gpu", "storage", "switch")
    reach = nx.subgraph_view(
        block.graph, filter_node=lambda v: v == vertex.name or facts[v]["kind"] not in aside
    )
    # Dijkstra reaches the nearest first; what lies between nodes costs COST["ethernet"] or more.
    for found in nx.single_source_dijkstra_path_length(reach, vertex.name, cutoff=COST["ethernet"] - 1):
        if facts[found]["node"] == node:
            near.setdefault(facts[found]["kind"], found)
    order = list(near.values())
    socket = near.get("socket", block.nodes[node])
    switch = near.get("pcie-switch")
    behind = switch is not None and (socket not in order or order.index(switch) < order.index(socket))
    gpu = vertex.gpu or ""
    p2p = book.gpu(gpu).p2p if vertex.p2p is None else vertex.p2p
    local = sum(other.node == node for other in block.gpus)
    root = switch if behind and switch is not None else socket
    memory = near.get("memory")
    block.gpus.append(LocalGpu(vertex.name, gpu, node, local, socket, root, p2p, memory))


def _add_edge(edge: EdgeSpec, kinds: dict[str, VertexSpec], block: Block, book: Book) -> None:
    ends = (kinds[edge.source].kind, kinds[edge.target].kind)
    there, back = (_edge_rate(edge, way, book) for way in (ends, ends[::-1]))
    role = f"{edge.link or there.kind} {ends[0]}-{ends[1]}"
    if "memory" in ends:
        a, memory = (edge.source, edge.target) if ends[1] == "memory" else (edge.target, edge.source)
        block.shared(role, a, memory, there)
        return
    block.link(role, edge.source, edge.target, there)
    if edge.both:
        block.link(role if back == there else f"{role}, back", edge.target, edge.source, back)


def _edge_rate(edge: EdgeSpec, ends: tuple[str, str], book: Book) -> Rate:
    """The rate of one direction of an edge between vertices of these kinds."""
    share = (1.0, 0.5, 0.0)[ends.count("switch")]
    down = ends[0] == "switch" != ends[1]
    found = book.raw(edge.link, down) if edge.link is not None else Rate(edge.kind or "pcie", edge.bandwidth or 0.0)
    if found.kind in NETWORK:
        found = found._replace(latency=found.latency * share)
    stated: dict[str, Any] = {
        "bandwidth": edge.bandwidth,
        "efficiency": edge.efficiency,
        "latency": edge.latency,
        "overhead": edge.message_overhead,
    }
    found = found._replace(**{key: value for key, value in stated.items() if value is not None})
    return book.adjusted(found, share)
