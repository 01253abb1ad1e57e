"""The cluster's hardware as the user describes it: nodes by the kind, or any graph vertex by vertex.

Two forms, one at a time:

- Short: ``nodes`` (templates x counts) and ``network`` (switches, uplinks, cables). Nothing is repeated for
  the thousandth node, and nothing downstream is either. With several nodes and no ``network``, one
  non-blocking switch joins them.
- Explicit: ``vertices`` and ``edges``, where every GPU, socket, switch and cable is written out. Any graph is
  legal.

Bandwidths count one direction. A link type's latency (``ethernet-10g``) is that from host to host through one
switch; cables between switches add only what they state themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from sim.spec.base import Name, Prose, Spec
from sim.spec.hardware import LinkKind
from sim.units import Bandwidth, Bytes, BytesPerSecond, Fraction, Seconds, Watts

MAX_NODES = 100_000
MAX_GPUS_PER_NODE = 64
MAX_VERTICES = 20_000

SomeBandwidth = Annotated[Bandwidth, Field(gt=0)]
SomeRate = Annotated[BytesPerSecond, Field(gt=0)]
SomeShare = Annotated[Fraction, Field(gt=0)]
NodeCount = Annotated[int, Field(ge=1, le=MAX_NODES, strict=True)]
PerNode = Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE, strict=True)]
VertexKind = Literal["gpu", "socket", "memory", "pcie-switch", "nvswitch", "nic", "switch", "storage"]

_SELECTOR = re.compile(r"(?P<template>.+?)(?:\.(?P<first>\d{1,6})(?:-(?P<last>\d{1,6}))?)?")


def _no_repeats(what: str, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"two of the same {what} name '{repeated[0]}'")


class GpuGroup(Spec):
    """GPUs of one type in a node; they are numbered in the order of the groups."""

    type: Name
    count: PerNode = 1


class PcieSpec(Spec):
    """How a node's GPUs reach their CPU socket.

    ``link`` is each GPU's own link (left out: the type its catalogue entry names). With ``gpus_per_switch``
    that many neighbours share a PCIe switch with one ``uplink``; without it each has its own root port.
    """

    link: Name | None = None
    gpus_per_switch: PerNode | None = None
    uplink: Name | None = None

    @model_validator(mode="after")
    def _uplink_needs_a_switch(self) -> PcieSpec:
        if self.uplink is not None and self.gpus_per_switch is None:
            raise ValueError("uplink belongs to a PCIe switch: give gpus_per_switch too")
        return self


class HostMemory(Spec):
    """Memory of one CPU socket. ``bandwidth`` is what copies get, reads and writes added together; ``capacity``
    binds what training offloads.

    The default is a desktop: two channels of DDR5-5200 give 83 GB/s on paper, copies about 70% of it
    (judged, not measured here).
    """

    capacity: Bytes = 64e9
    bandwidth: SomeRate = 60e9


class NvmeSpec(Spec):
    """The NVMe drives of a node, taken together: where training may offload to.

    ``read`` and ``write`` are what large transfers get. They take turns, the node's GPUs share them, and every
    socket reaches them alike.
    """

    capacity: Annotated[Bytes, Field(gt=0)]
    read: SomeRate
    write: SomeRate


class Staging(Spec):
    """A copy between GPUs through host memory, driven by the CPU, where P2P is off.

    Its halves (device to host, host to device) take turns, so a pair gets half of the link; the latency is
    the middle of the 12-40 us seen with NCCL (NVIDIA/nccl#1530, tinygrad#17; the rate is a judgement).
    """

    efficiency: SomeShare = 0.5
    latency: Seconds = 26e-6


class NvlinkSpec(Spec):
    """NVLink among a node's GPUs: all through a switch, or bridged in pairs (0-1, 2-3, ...)."""

    link: Name
    layout: Literal["switch", "pairs"] = "switch"


class NicSpec(Spec):
    """Network cards that carry the jobs' traffic (leave management ports out).

    ``link`` is the cable; ``per_gpu`` puts one card beside every GPU, under the same PCIe switch or socket;
    otherwise ``count`` cards hang evenly on the sockets. ``pcie`` is the card's own bus, left out where it
    cannot bind. GPUs use the nearest card: GPU i of g uses card i*n//g of n.
    """

    link: Name
    count: PerNode = 1
    per_gpu: bool = False
    pcie: Name | None = None

    @model_validator(mode="after")
    def _one_way_to_count(self) -> NicSpec:
        if self.per_gpu and self.count != 1:
            raise ValueError("per_gpu already says how many: leave count out")
        return self


class HostPower(Spec):
    """What a node draws besides its GPUs: CPU, memory, fans, cards, losses of the supply.

    The default is a desktop that feeds one GPU (judged). Servers draw far more: of the 5 kW of an 8x4090
    server 1.4 kW are not the GPUs', of the 10 kW of an 8xH100 server 4.4 kW (the article's servers).
    """

    idle: Watts = 60.0
    busy: Watts = 120.0

    @model_validator(mode="after")
    def _ordered(self) -> HostPower:
        if self.idle > self.busy:
            raise ValueError("idle power is above busy power")
        return self


class NodeSpec(Spec):
    """``count`` equal nodes, named ``name.0``, ``name.1``, ...

    GPUs, and cards that are not ``per_gpu``, are spread over ``sockets`` in even blocks. ``p2p: false`` sends
    whatever has no NVLink through host memory (left out: each GPU's own ability; stock GeForce has none).
    """

    name: Name
    count: NodeCount = 1
    gpus: Annotated[tuple[GpuGroup, ...], Field(min_length=1, max_length=MAX_GPUS_PER_NODE)]
    sockets: Annotated[int, Field(ge=1, le=8, strict=True)] = 1
    socket_link: Name | None = None
    pcie: PcieSpec = PcieSpec()
    host_memory: HostMemory = HostMemory()
    nvme: NvmeSpec | None = None
    p2p: bool | None = None
    staging: Staging = Staging()
    nvlink: NvlinkSpec | None = None
    nics: Annotated[tuple[NicSpec, ...], Field(max_length=16)] = ()
    host_power: HostPower | None = None

    @property
    def gpu_count(self) -> int:
        """GPUs in one such node."""
        return sum(group.count for group in self.gpus)

    @property
    def gpu_types(self) -> tuple[str, ...]:
        """The catalogue id of each GPU of one such node, in order."""
        return tuple(group.type for group in self.gpus for _ in range(group.count))

    @model_validator(mode="after")
    def _consistent(self) -> NodeSpec:
        if self.gpu_count > MAX_GPUS_PER_NODE:
            raise ValueError(f"{self.gpu_count} GPUs in one node, at most {MAX_GPUS_PER_NODE}")
        if self.sockets > 1 and self.socket_link is None:
            raise ValueError(f"{self.sockets} sockets need a socket_link, e.g. upi")
        if self.sockets == 1 and self.socket_link is not None:
            raise ValueError("socket_link joins sockets, but there is one socket")
        if self.nvlink is not None and self.gpu_count == 1:
            raise ValueError("nvlink joins GPUs, but there is one GPU")
        if self.nvlink is not None and self.nvlink.layout == "pairs" and self.gpu_count % 2:
            raise ValueError(f"nvlink in pairs needs an even number of GPUs, not {self.gpu_count}")
        return self


class SwitchSpec(Spec):
    """A network switch and the nodes on it: ``desktop`` (all of them), ``desktop.3`` or ``desktop.0-3``.

    Without ``nodes`` it is a spine, reached over uplinks only (a single switch takes every node). Without
    ``backplane`` it is non-blocking; with it all traffic through the switch shares that rate.
    """

    name: Name
    nodes: tuple[Name, ...] = ()
    backplane: SomeBandwidth | None = None


class UplinkSpec(Spec):
    """``count`` cables between two switches, bundled into one link."""

    between: tuple[Name, Name]
    link: Name | None = None
    count: PerNode = 1
    latency: Seconds = 0.0


class LeafSpine(Spec):
    """Leaves of ``nodes_per_leaf`` nodes, each with ``uplinks`` cables to one ideally balanced spine."""

    nodes_per_leaf: Annotated[int, Field(ge=1, le=4096, strict=True)]
    uplinks: Annotated[int, Field(ge=1, le=4096, strict=True)]
    link: Name | None = None
    latency: Seconds = 0.0


class NetworkSpec(Spec):
    """What joins the nodes. Left out, one non-blocking switch does.

    ``link`` is the cable of nodes without ``nics`` of their own and of uplinks that name none; ``backplane``
    that of switches that state none. ``cables`` join two nodes directly, ``[desktop.0, desktop.1,
    ethernet-25g]``, each end in a port of its own; traffic of that pair prefers them.
    """

    link: Name | None = None
    backplane: SomeBandwidth | None = None
    switches: Annotated[tuple[SwitchSpec, ...], Field(max_length=10_000)] = ()
    uplinks: Annotated[tuple[UplinkSpec, ...], Field(max_length=50_000)] = ()
    cables: Annotated[tuple[tuple[Name, Name, Name], ...], Field(max_length=10_000)] = ()
    leaf_spine: LeafSpine | None = None

    @model_validator(mode="after")
    def _consistent(self) -> NetworkSpec:
        names = [switch.name for switch in self.switches]
        _no_repeats("switch", names)
        if self.leaf_spine is not None and (self.switches or self.uplinks):
            raise ValueError("leaf_spine makes its own switches and uplinks: give one or the other")
        for number, uplink in enumerate(self.uplinks):
            for end in uplink.between:
                if end not in names:
                    raise ValueError(f"uplinks.{number}: there is no switch '{end}'")
            if uplink.between[0] == uplink.between[1]:
                raise ValueError(f"uplinks.{number}: joins switch '{uplink.between[0]}' to itself")
            if uplink.link is None and self.link is None:
                raise ValueError(f"uplinks.{number}: needs a link, its own or network.link")
        if self.leaf_spine is not None and self.leaf_spine.link is None and self.link is None:
            raise ValueError("leaf_spine needs a link, its own or network.link")
        return self


class VertexSpec(Spec):
    """A vertex of the explicit form. ``gpu`` is the catalogue id of a GPU, ``node`` the machine it is in."""

    name: Name
    kind: VertexKind
    node: Name | None = None
    gpu: Name | None = None
    p2p: bool | None = None
    capacity: Bytes | None = None
    backplane: SomeBandwidth | None = None

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> VertexSpec:
        if (self.kind == "gpu") != (self.gpu is not None):
            raise ValueError("gpu names the type of a vertex of kind gpu, which needs it")
        if self.p2p is not None and self.kind != "gpu":
            raise ValueError("p2p belongs to GPUs")
        if self.capacity is not None and self.kind not in ("memory", "storage"):
            raise ValueError("capacity belongs to memory and storage")
        if self.backplane is not None and self.kind != "switch":
            raise ValueError("backplane belongs to switches")
        if self.node is None and self.kind not in ("switch", "storage"):
            raise ValueError(f"a {self.kind} sits in a node: name it")
        if self.node is not None and self.kind == "switch":
            raise ValueError("a network switch belongs to no node")
        return self


class EdgeSpec(Spec):
    """An edge of the explicit form: a catalogue ``link``, or ``kind`` and ``bandwidth``; stated numbers win.

    Both directions are separate links of the same rate, unless ``both`` is false or an end is memory, whose
    reads and writes share one rate.
    """

    model_config = ConfigDict(populate_by_name=True)

    source: Name = Field(alias="from")
    target: Name = Field(alias="to")
    link: Name | None = None
    kind: LinkKind | None = None
    bandwidth: SomeBandwidth | None = None
    efficiency: SomeShare | None = None
    latency: Seconds | None = None
    message_overhead: Seconds | None = None
    both: bool = True

    @model_validator(mode="after")
    def _known_rate(self) -> EdgeSpec:
        if self.source == self.target:
            raise ValueError(f"joins '{self.source}' to itself")
        if self.link is None and (self.kind is None or self.bandwidth is None):
            raise ValueError("give a catalogue link, or both kind and bandwidth")
        return self


class TopologySpec(Spec):
    """A cluster: the short form (``nodes``, ``network``) or the explicit one (``vertices``, ``edges``)."""

    name: Name
    about: Prose = ""
    nodes: Annotated[tuple[NodeSpec, ...], Field(max_length=256)] = ()
    network: NetworkSpec = NetworkSpec()
    vertices: Annotated[tuple[VertexSpec, ...], Field(max_length=MAX_VERTICES)] = ()
    edges: Annotated[tuple[EdgeSpec, ...], Field(max_length=5 * MAX_VERTICES)] = ()
    staging: Staging | None = None
    host_power: HostPower = HostPower()

    @property
    def explicit(self) -> bool:
        """True for the form with vertices and edges."""
        return bool(self.vertices)

    @property
    def gpus(self) -> int:
        """GPUs in the whole cluster."""
        listed = sum(vertex.kind == "gpu" for vertex in self.vertices)
        return listed + sum(node.count * node.gpu_count for node in self.nodes)

    @property
    def node_count(self) -> int:
        """Nodes in the whole cluster."""
        named = {vertex.node for vertex in self.vertices if vertex.node is not None}
        return len(named) + sum(node.count for node in self.nodes)

    @property
    def switch_count(self) -> int:
        """Switches in the whole cluster; the spine of a leaf-spine network counts as one."""
        plan, nodes = self.network, self.node_count
        if self.explicit:
            return sum(vertex.kind == "switch" for vertex in self.vertices)
        if plan.leaf_spine is not None:
            leaves = -(-nodes // plan.leaf_spine.nodes_per_leaf)
            return leaves + (leaves > 1)
        if plan.switches or nodes == 1 or plan.cables:
            return len(plan.switches)
        return 1

    @property
    def gpu_types(self) -> dict[str, int]:
        """GPUs by catalogue id, in the order first named."""
        types: Counter[str] = Counter()
        for node in self.nodes:
            for group in node.gpus:
                types[group.type] += node.count * group.count
        types.update(vertex.gpu for vertex in self.vertices if vertex.gpu is not None)
        return dict(types)

    @property
    def link_types(self) -> tuple[str, ...]:
        """Every link type named, in the order first named."""
        named: list[str | None] = [self.network.link, *(uplink.link for uplink in self.network.uplinks)]
        named += [cable[2] for cable in self.network.cables]
        named += [self.network.leaf_spine.link] if self.network.leaf_spine else []
        for node in self.nodes:
            named += [node.pcie.link, node.pcie.uplink, node.socket_link]
            named += [node.nvlink.link] if node.nvlink else []
            named += [name for nic in node.nics for name in (nic.link, nic.pcie)]
        named += [edge.link for edge in self.edges]
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def total_host_power(self) -> HostPower:
        """Power of all nodes besides their GPUs, W; the top level's ``host_power`` is each node's default."""
        if self.explicit:
            draws = [(self.node_count, self.host_power)]
        else:
            draws = [(node.count, node.host_power or self.host_power) for node in self.nodes]
        idle, busy = (sum(n * getattr(power, key) for n, power in draws) for key in ("idle", "busy"))
        return HostPower.model_construct(idle=idle, busy=busy)

    def select(self, selector: str) -> range | None:
        """Cluster-wide numbers of ``desktop``, ``desktop.3`` or ``desktop.0-3``; None if there is none."""
        first = 0
        for node in self.nodes:
            chosen = _chosen(selector, node)
            if chosen is not None:
                return range(first + chosen.start, first + chosen.stop)
            first += node.count
        return None

    @model_validator(mode="after")
    def _one_form(self) -> TopologySpec:
        if bool(self.nodes) == bool(self.vertices):
            raise ValueError("describe the cluster either by nodes or by vertices and edges")
        if self.explicit:
            self._check_graph()
            return self
        if self.edges or self.staging is not None:
            raise ValueError("edges and staging at the top level belong to vertices; nodes have their own")
        if self.node_count > MAX_NODES:
            raise ValueError(f"{self.node_count} nodes, at most {MAX_NODES}")
        _no_repeats("node", [node.name for node in self.nodes])
        self._check_attachment()
        self._check_cables()
        self._check_nics()
        return self

    def _check_graph(self) -> None:
        if self.network != NetworkSpec():
            raise ValueError("network belongs to nodes; with vertices the edges are the network")
        names = {vertex.name: vertex for vertex in self.vertices}
        _no_repeats("vertex", [vertex.name for vertex in self.vertices])
        for number, edge in enumerate(self.edges):
            for end in (edge.source, edge.target):
                if end not in names:
                    raise ValueError(f"edges.{number}: there is no vertex '{end}'")
        if not self.gpus:
            raise ValueError("there is no vertex of kind gpu")

    def _check_attachment(self) -> None:
        """Every node hangs on exactly one switch, where switches are listed by their nodes."""
        switches = self.network.switches
        if not switches or (len(switches) == 1 and not switches[0].nodes):
            return
        owner: dict[int, str] = {}
        for switch in switches:
            for selector in switch.nodes:
                chosen = self.select(selector)
                if chosen is None:
                    raise ValueError(f"network: switch '{switch.name}' names no existing node: '{selector}'")
                for node in chosen:
                    if owner.setdefault(node, switch.name) != switch.name:
                        both = f"'{owner[node]}' and '{switch.name}'"
                        raise ValueError(f"network: '{selector}' puts a node on two switches, {both}")
        cabled = {node for a, b, _ in self.network.cables for node in (*self._one(a), *self._one(b))}
        missing = next((n for n in range(self.node_count) if n not in owner and n not in cabled), None)
        if missing is not None:
            raise ValueError(f"network: {self.node_name(missing)} hangs on no switch and on no cable")

    def _check_cables(self) -> None:
        seen: set[tuple[int, ...]] = set()
        for number, (a, b, _) in enumerate(self.network.cables):
            ends = (*self._one(a), *self._one(b))
            for end, text in ((self._one(a), a), (self._one(b), b)):
                if len(end) != 1:
                    raise ValueError(f"network.cables.{number}: '{text}' is not one node, like desktop.0")
            if ends[0] == ends[1]:
                raise ValueError(f"network.cables.{number}: joins '{a}' to itself")
            if tuple(sorted(ends)) in seen:
                raise ValueError(f"network.cables.{number}: '{a}' and '{b}' are joined twice")
            seen.add(tuple(sorted(ends)))

    def _check_nics(self) -> None:
        """With several nodes each needs a network card, unless cables are its only way out."""
        network = self.network
        if self.node_count == 1 or network.link is not None:
            return
        cards_needed = not network.cables or bool(network.switches) or network.leaf_spine is not None
        for node in self.nodes:
            if not node.nics and cards_needed:
                raise ValueError(f"node '{node.name}' has no nics, and there is more than one node")

    def _one(self, selector: str) -> range:
        return self.select(selector) or range(0)

    def node_name(self, number: int) -> str:
        """``desktop.3`` for a cluster-wide node number of the short form."""
        for node in self.nodes:
            if number < node.count:
                return f"{node.name}.{number}"
            number -= node.count
        raise IndexError(number)


def _chosen(selector: str, node: NodeSpec) -> range | None:
    """Which of a template's nodes the selector means, or None."""
    if selector == node.name:
        return range(node.count)
    found = _SELECTOR.fullmatch(selector)
    if found is None or found["template"] != node.name or found["first"] is None:
        return None
    first, last = int(found["first"]), int(found["last"] or found["first"])
    return range(first, last + 1) if first <= last < node.count else None
