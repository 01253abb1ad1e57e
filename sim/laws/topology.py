"""The cluster as a graph that is never written out: templates x counts, ways, and shared facts of groups.

A node template's graph and its ways are held once. Global link ids follow by arithmetic: a node's links are
``base + node * links_per_template + local id``, then come the switches' links. So a cluster of 16,384 GPUs
holds a few dozen vertices, and the hot loop sees integers only.

Model of a way. PCIe, NVLink and cables are full duplex, each direction a link of its own; a socket's memory
is one link for reads and writes together. Without P2P a copy is a write to host memory and a read from it,
so memory has weight 2 and a shared PCIe uplink is crossed up and down. Between nodes a message goes GPU -
(host memory, unless GPUDirect over RoCE or InfiniBand reaches the GPU) - card - switches - card - ... - GPU.

    rate alone = min over links of capacity / weight;  staged between GPUs: memory as it is, all other links
                 times the staging efficiency (the two halves of a copy take turns)
    latency    = sum over links, plus the staging latency
    overhead   = message overhead of the sender's network link, or of its own first link

Assumption: fluid links, shortest ways, equal ways between switches shared ideally.
Source: docs/model.md; NVIDIA/nccl#1309 on GeForce cards and the doubled uplink.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar, overload

from sim.errors import InfeasibleError
from sim.laws import topology_draw
from sim.laws.topology_build import (
    Book,
    LinkChanges,
    Network,
    build_graph,
    build_network,
    build_node,
    cards_of,
)
from sim.laws.topology_group import GroupSite, exchange_bound, group_site
from sim.laws.topology_parts import (
    NETWORK,
    REMOTENESS,
    Block,
    GpuSite,
    LinkInfo,
    LocalLink,
    Route,
    merged,
)
from sim.spec.hardware import Gpu, LinkKind, LinkType
from sim.spec.topology import TopologySpec

__all__ = ["GpuSite", "GroupSite", "LinkInfo", "Route", "Topology", "build_topology"]

T = TypeVar("T")


class Listing(Sequence[T], Generic[T]):
    """A sequence whose members are made when asked for."""

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._length = length
        self._make = make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._make(index % self._length)

    def __iter__(self) -> Iterator[T]:
        return (self._make(i) for i in range(self._length))


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` copies of a block, and where their numbers start."""

    block: Block
    count: int
    first_gpu: int
    first_node: int
    first_link: int

    def base(self, copy: int) -> int:
        """The global id of link 0 of a copy."""
        return self.first_link + copy * len(self.block.links)


class Topology:
    """A cluster: its GPUs, links and ways. Built by :func:`build_topology`; GPUs and links go by number."""

    def __init__(self, spec: TopologySpec, blocks: Sequence[tuple[Block, int]], network: Network) -> None:
        self.spec = spec
        self.network = network
        self.runs: list[Run] = []
        gpus = nodes = links = 0
        for block, count in blocks:
            self.runs.append(Run(block, count, gpus, nodes, links))
            gpus += count * len(block.gpus)
            nodes += count * len(block.nodes)
            links += count * len(block.links)
        self._network_base = links
        self._starts = [run.first_gpu for run in self.runs]
        self._link_starts = [run.first_link for run in self.runs]
        self._gpu_facts: dict[str, Gpu] = {}
        self._routes: dict[tuple[int, int], Route] = {}
        self._sites: dict[tuple[int, ...], GroupSite] = {}
        self.node_count = nodes
        self.link_count = links + len(network.links)
        self.gpus: Sequence[GpuSite] = Listing(gpus, self._site_of)
        self.links: Sequence[LinkInfo] = Listing(self.link_count, self._link_info)

    @property
    def vertices_held(self) -> int:
        """Vertices in memory, however many the whole graph has."""
        return sum(len(run.block.graph) for run in self.runs) + len(self.network.graph)

    def gpu(self, index: int) -> Gpu:
        """The catalogue entry of a GPU by its number."""
        run, _, local = self.locate(index)
        return self._gpu_facts[run.block.gpus[local].gpu]

    def locate(self, gpu: int) -> tuple[Run, int, int]:
        """The run, the copy within it and the number within the block of a GPU."""
        if not 0 <= gpu < len(self.gpus):
            raise IndexError(f"there is no GPU {gpu}: the cluster has {len(self.gpus)}")
        run = self.runs[bisect_right(self._starts, gpu) - 1]
        copy, local = divmod(gpu - run.first_gpu, len(run.block.gpus))
        return run, copy, local

    def prefix(self, run: Run, copy: int) -> str:
        """What a copy's vertex names start with in :meth:`graph`; nothing in an explicit graph."""
        return "" if self.spec.explicit else f"{run.block.name}.{copy}/"

    def _site_of(self, index: int) -> GpuSite:
        run, copy, number = self.locate(index)
        gpu, prefix = run.block.gpus[number], self.prefix(run, copy)
        node_name = run.block.nodes[gpu.node] if self.spec.explicit else prefix.rstrip("/")
        template = node_name if self.spec.explicit else run.block.name
        node = run.first_node + copy * len(run.block.nodes) + gpu.node
        socket, root, name = (prefix + vertex for vertex in (gpu.socket, gpu.root, gpu.vertex))
        return GpuSite(index, gpu.gpu, node, node_name, template, socket, root, gpu.local, name)

    def local_link(self, number: int) -> tuple[LocalLink, Run | None, int]:
        """A link as its block has it, with the run and copy; no run for the switches' links."""
        if number >= self._network_base:
            return self.network.links[number - self._network_base], None, 0
        run = self.runs[bisect_right(self._link_starts, number) - 1]
        copy, local = divmod(number - run.first_link, len(run.block.links))
        return run.block.links[local], run, copy

    def _link_info(self, number: int) -> LinkInfo:
        link, run, copy = self.local_link(number)
        prefix = "" if run is None else self.prefix(run, copy)
        source, target = self._ends(link, run, copy)
        rate = link.rate
        return LinkInfo(
            id=number,
            name=prefix + link.name,
            kind=rate.kind,
            bandwidth=rate.bandwidth,
            efficiency=rate.efficiency,
            capacity=rate.capacity,
            latency=rate.latency,
            overhead=rate.overhead,
            equivalence=link.role if run is None else f"{run.block.name} {link.role}",
            src=source,
            dst=target,
        )

    def _ends(self, link: LocalLink, run: Run | None, copy: int) -> tuple[str, str]:
        """Vertex names of both ends: a card's cable ends at its node's switch, a backplane at its own."""
        if run is None:
            return link.source, link.target or link.source
        prefix = self.prefix(run, copy)
        leaf = self.leaf_name(run.first_node + copy) if not self.spec.explicit else ""
        source = prefix + link.source if link.source else leaf
        target = prefix + link.target if link.target else leaf or source
        return source, target

    def leaf_name(self, node: int) -> str:
        """The switch a node hangs on, or nothing."""
        leaf = self.network.leaf[node]
        return self.network.names[leaf] if leaf >= 0 else ""

    def capacity(self, link: int) -> float:
        """Usable bytes/s of a link."""
        return self.local_link(link)[0].rate.capacity

    def capacities(self) -> list[float]:
        """Usable bytes/s by link id."""
        found: list[float] = []
        for run in self.runs:
            found += [link.rate.capacity for link in run.block.links] * run.count
        return found + [link.rate.capacity for link in self.network.links]

    def route(self, src: int, dst: int) -> Route:
        """The way from GPU ``src`` to GPU ``dst``; cached. A GPU reaches itself at once, over no link.

        Raises IndexError for a GPU that does not exist, InfeasibleError where nothing joins the two.
        """
        found = self._routes.get((src, dst))
        if found is None:
            found = self._routes[src, dst] = self._route(src, dst)
        return found

    def _route(self, src: int, dst: int) -> Route:
        run, copy, i = self.locate(src)
        other, copy2, j = self.locate(dst)
        if src == dst:
            return Route((), inf, 0.0, 0.0, "memory", False, self.gpus[src].name)
        if run is not other or copy != copy2:
            return self._network_route((run, copy, i), (other, copy2, j))
        links, staged = run.block.between(i, j)
        base = run.base(copy)
        return self._finish(src, [(base + link, 1.0) for link in links], run.block if staged else None)

    def _network_route(self, start: tuple[Run, int, int], end: tuple[Run, int, int]) -> Route:
        (run, copy, i), (other, copy2, j) = start, end
        nodes = (run.first_node + copy, other.first_node + copy2)
        cable = self.network.cables.get(nodes)
        middle: list[tuple[int, float]]
        if cable is not None:
            rdma = self.network.links[cable].rate.kind in ("roce", "infiniband")
            out = run.block.leave(i, "socket0", rdma)
            back = other.block.arrive(j, "socket0", rdma)
            middle = [(self._network_base + cable, 1.0)]
        else:
            leaves = (self.network.leaf[nodes[0]], self.network.leaf[nodes[1]])
            if min(leaves) < 0 or not (run.block.ports and other.block.ports):
                raise InfeasibleError(
                    f"{self.spec.name}: no switch or cable joins {self.spec.node_name(nodes[0])} "
                    f"and {self.spec.node_name(nodes[1])}"
                )
            near, far = _port(run.block, i), _port(other.block, j)
            out = (*run.block.leave(i, near.vertex, near.rdma), near.out)
            back = (far.back, *other.block.arrive(j, far.vertex, far.rdma))
            middle = [(self._network_base + link, w) for link, w in self.network.path(*leaves)]
        loads = [(run.base(copy) + link, 1.0) for link in out] + middle
        loads += [(other.base(copy2) + link, 1.0) for link in back]
        return self._finish(run.first_gpu + copy * len(run.block.gpus) + i, loads, None)

    def _finish(self, src: int, loads: list[tuple[int, float]], staged: Block | None) -> Route:
        """Sum up a way; ``staged`` is the block whose host memory holds the copy."""
        links = merged(loads)
        met = [(self.local_link(link)[0], link, weight) for link, weight in links]
        kinds: list[LinkKind] = [link.rate.kind for link, _, _ in met]
        latency = sum(link.rate.latency * weight for link, _, weight in met)
        cap = min((link.rate.capacity / weight for link, _, weight in met), default=inf)
        if staged is not None:
            latency += staged.handling.latency
            others = (x.rate.capacity / weight for x, _, weight in met if x.rate.kind != "memory")
            cap = min(cap, staged.handling.efficiency * min(others, default=inf))
        first = next((n for n, (link, _, _) in enumerate(met) if link.rate.kind in NETWORK), 0)
        overhead = met[first][0].rate.overhead if met else 0.0
        exit_ = self._link_info(met[first][1]).src if met and first else "own link"
        queue = f"{self.gpus[src].name}>{exit_}"
        kind: LinkKind = max(kinds, key=lambda kind: REMOTENESS[kind]) if kinds else "memory"
        return Route(links, cap, latency, overhead, kind, staged is not None, queue)

    def host_way(self, gpu: int, *stops: str) -> tuple[tuple[int, float], ...]:
        """(link, weight) from stop to stop of a GPU's host: ``gpu``, ``memory``, ``storage``; ``memory`` alone is a
        read or write by the CPU. InfeasibleError where the node has none.
        """
        run, copy, local = self.locate(gpu)
        return tuple((run.base(copy) + link, weight) for link, weight in run.block.host_way(local, *stops))

    def host_capacity(self, gpu: int, kind: str) -> tuple[int, float]:
        """How many vertices of ``memory`` or ``storage`` a GPU's node has, and their bytes; inf where one states
        none."""
        run, _, local = self.locate(gpu)
        held = run.block.held(run.block.gpus[local].node, kind)
        stated = [run.block.graph.nodes[vertex].get("capacity") for vertex in held]
        return len(held), sum(inf if size is None else float(size) for size in stated)

    def site(self, group: Sequence[int]) -> GroupSite:
        """What a group of GPUs shares, for the laws of collectives; cached.

        Raises ValueError for an empty group or a GPU named twice, and what :meth:`route` raises.
        """
        key = tuple(group)
        found = self._sites.get(key)
        if found is None:
            found = self._sites[key] = group_site(self, key)
        return found

    def exchange_cap(self, group: Sequence[int]) -> float:
        """The graph's bound on the rate (B/s) at which each member sends, when all send to all evenly."""
        return exchange_bound(self, tuple(group))

    def graph(self) -> Any:
        """The full networkx MultiDiGraph: vertices with kind, node, gpu; edges with link id, kind, bandwidth,
        latency, capacity and weight (what shortest ways are measured in)."""
        return topology_draw.full_graph(self)

    def summary(self) -> str:
        """One line: ``8 x desktop(1 x rtx4090) over ethernet-10g``."""
        return topology_draw.summary(self.spec)

    def drawing(self, most: int = 16) -> dict[str, list[dict[str, Any]]]:
        """Nodes and edges to draw; equal nodes are folded into one where there are more than ``most``."""
        return topology_draw.drawing(self, most)


def _port(block: Block, gpu: int) -> Any:
    """The card nearest to a GPU: cards and GPUs are spread over the sockets in the same even blocks."""
    return block.ports[gpu * len(block.ports) // len(block.gpus)]


def build_topology(
    spec: TopologySpec,
    gpu: Callable[[str], Gpu],
    link: Callable[[str], LinkType],
    datasheet_links: bool = False,
    network_override: LinkChanges | None = None,
) -> Topology:
    """Build the topology of a described cluster.

    ``gpu`` and ``link`` look catalogue entries up and raise what they like for an unknown id. With
    ``datasheet_links`` every link has efficiency 1 and no latency or overhead (stack ``ideal``).
    ``network_override`` (bandwidth, latency from host to host, message_overhead; None keeps) changes the
    links between nodes, on top of either.
    """
    book = Book(gpu, link, datasheet_links, network_override)
    blocks: list[tuple[Block, int]]
    if spec.explicit:
        block, network = build_graph(spec, book)
        blocks = [(block, 1)]
    else:
        blocks = [(build_node(node, book, cards_of(spec, node)), node.count) for node in spec.nodes]
        network = build_network(spec, book)
    topology = Topology(spec, blocks, network)
    topology._gpu_facts.update({name: gpu(name) for name in spec.gpu_types})
    return topology
