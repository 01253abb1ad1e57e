"""What a machine says of itself -> a topology: ``nvidia-smi topo -m`` or NCCL's topology XML -> YAML with comments.

Neither tells bandwidths in full, so each class of connection is taken for a link of the catalogue, and the file says
which: a GPU's PCIe link is that of its catalogue entry (the XML tells its own), a PCIe switch's uplink is like the
links below it, NUMA nodes are sockets joined by ``upi`` (``xgmi`` where the XML names AMD), NVLinks count times the
rate of one. Host memory and power are those of the shipped topology that is most alike.

A regular machine becomes the short form (one node whose ``count`` can be raised), any other the explicit one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sim.adapters.lookup import Library
from sim.adapters.nvidia_machine import Device, Machine, beside, refuse, slowest, tidied
from sim.adapters.nvidia_matrix import parse_matrix
from sim.adapters.nvidia_nvlink import Bundle, Nvlinks, nvlinks_of
from sim.adapters.nvidia_xml import parse_xml
from sim.errors import did_you_mean

MAX_BYTES = 5_000_000
#: What the short form allows.
MAX_SOCKETS, MAX_CARDS = 8, 64


@dataclass(frozen=True, slots=True)
class Described:
    """A topology as plain data, what was assumed for it (a sentence each), and the GPUs in order."""

    data: dict[str, Any]
    assumed: tuple[str, ...]
    gpus: tuple[str, ...]
    source: str


def read_machine(path: Path) -> Machine:
    """The machine a file describes; InputError if it cannot be read or describes none."""
    file = str(path)
    try:
        with open(path, "rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        folder = path.parent
        near = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        refuse(file, None, "no such file", did_you_mean(path.name, near))
    except (OSError, ValueError) as error:
        refuse(file, None, f"cannot be read ({getattr(error, 'strerror', None) or error})")
    return parse_machine(raw, file)


def parse_machine(raw: bytes, file: str) -> Machine:
    """The machine that a text describes, whichever of the two formats it is in."""
    if len(raw) > MAX_BYTES:
        refuse(file, None, f"larger than {MAX_BYTES // 10**6} MB: that is no topology")
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        refuse(file, None, "is not text in UTF-8")
    if not text.strip():
        refuse(file, None, "the file is empty")
    return parse_xml(text, file) if text.lstrip().startswith("<") else parse_matrix(text, file)


def describe(machine: Machine, name: str, given: Sequence[str] = (), cable: str | None = None) -> Described:
    """The topology of a machine. ``given`` names its GPUs (one for all, or each) and ``cable`` the link of its
    network cards, where the description does not. InputError where a GPU stays unknown."""
    types = _types(machine, given)
    machine, dropped = _with_cards(machine, cable)
    nvlinks = nvlinks_of(machine, types)
    links = _Links(machine, types)
    host, like = _host(machine, types, bool(nvlinks.switches))
    short = _short(machine, types, nvlinks, links)
    count = ", ".join(f"{len(list(group))} {gpu}" for gpu, group in groupby(types))
    head = {"name": name, "about": f"One machine with {count}, as {machine.kind} describes it."}
    if isinstance(short, dict):
        node = {"name": "machine", **short, **host}
        data = {**head, "nodes": [node]}
        form = "For more such machines raise `count` and say what joins them (`nics`, `network`)."
    else:
        data = {**head, **_explicit(machine, types, nvlinks, links, host)}
        form = f"Vertex by vertex, for the short form has no words for this: {short}."
    assumed = [*_assumptions(machine, types, given, nvlinks, links), *dropped, *machine.notes]
    whence = f"as in the shipped {like}.yaml; {machine.kind} tells neither"
    assumed.append(f"Host memory (of each socket) and host power: {whence}.")
    return Described(data, (*assumed, form), types, machine.kind)


# ---- Which GPUs


def _types(machine: Machine, given: Sequence[str]) -> tuple[str, ...]:
    """The catalogue id of each GPU: those given, else those the description allows no doubt about."""
    count = len(machine.gpus)
    if given:
        if len(given) not in (1, count):
            machine.refuse(f"has {count} GPUs, but --gpu names {len(given)}: name one for all of them, or each")
        return tuple(given) if len(given) == count else tuple(given) * count
    for gpu in machine.gpus:
        if len(gpu.models) == 1:
            continue
        if gpu.models:
            few = ", ".join(gpu.models)
            machine.refuse(f"{gpu.name} ({gpu.called}) may be {few}: say which with --gpu", gpu.line, gpu.models[0])
        if gpu.called:
            from sim import catalog

            close = did_you_mean(gpu.called, catalog.names("gpu"))
            message = f"{gpu.name} is '{gpu.called}', which is not in the catalogue: name one with --gpu"
            machine.refuse(message, gpu.line, close)
        message = "does not say which GPUs these are: name them with --gpu, e.g. --gpu rtx4090"
        machine.refuse(f"{message}, or put the lines of nvidia-smi -L into the file")
    return tuple(gpu.models[0] for gpu in machine.gpus)


# ---- Which network cards


def _with_cards(machine: Machine, cable: str | None) -> tuple[Machine, list[str]]:
    """The machine with the cards that carry jobs' traffic, and what is said of the others."""
    if cable and not machine.cards:
        machine.refuse("lists no network cards that --nic could speak of")
    cards = [replace(card, cable=cable or card.cable) for card in machine.cards]
    known = [card for card in cards if card.cable is not None]
    silent = [card.name for card in cards if card.cable is None]
    notes = []
    if silent:
        notes.append(
            f"Network cards {', '.join(silent)} are left out: {machine.kind} does not tell their speed. To have them, "
            "write this file again with --nic, e.g. --nic infiniband-ndr."
        )
    own = beside(tidied(machine, known))
    kept = [known[n] for n in own] or known
    others = [card.name for card in known if card not in kept]
    if others:
        notes.append(f"Network cards {', '.join(others)} are left out: every GPU has another one beside it.")
    if kept:
        kinds = ", ".join(dict.fromkeys(str(card.cable) for card in kept))
        notes.append(f"Network cards: {kinds}, {'as --nic says' if cable else 'from class, name and speed'}.")
    return tidied(machine, kept), notes


# ---- Which links


class _Links:
    """The PCIe link of each GPU and of each switch."""

    def __init__(self, machine: Machine, types: Sequence[str]) -> None:
        self.gpus = [_pcie(machine, gpu, kind) for gpu, kind in zip(machine.gpus, types, strict=True)]
        self.uplinks: dict[str, str] = {}
        for switch, link in machine.uplinks.items():
            below = [own for gpu, own in zip(machine.gpus, self.gpus, strict=True) if switch in gpu.switches]
            found = link or slowest(below) or slowest(card.link for card in machine.cards) or self.gpus[0]
            self.uplinks[switch] = found


def _pcie(machine: Machine, gpu: Device, kind: str) -> str:
    own = Library().gpu(kind).pcie
    if own is None:
        machine.refuse(f"the catalogue names no PCIe link for {kind}", gpu.line)
    return gpu.link if gpu.link is not None and re.fullmatch(r"pcie\d+-x\d+", own) else own


def _host(machine: Machine, types: Sequence[str], switched: bool) -> tuple[dict[str, Any], str]:
    """Memory and power of the shipped machine that is most alike, and its name."""
    from sim import catalog
    from sim.adapters.yaml_source import load_yaml

    if switched:
        newer = Library().gpu(types[0]).architecture in ("hopper", "blackwell")
        like = "dgx_h100_8" if newer else "dgx_a100_8"
    elif len(types) <= 2 and len(machine.sockets) == 1:
        like = "desktop_1x4090" if len(types) == 1 else "desktop_2x4090"
    else:
        like = "server_8x4090_pcie"
    path = next(path for path in catalog.shipped("topologies") if path.stem == like)
    node = load_yaml(path).data["nodes"][0]
    return {"host_memory": node["host_memory"], "host_power": node["host_power"]}, f"topologies/{like}"


# ---- The short form


def _short(machine: Machine, types: Sequence[str], nvlinks: Nvlinks, links: _Links) -> dict[str, Any] | str:
    """The node, or why the short form cannot say it."""
    count, sockets = len(types), len(machine.sockets)
    groups = [{"type": gpu, "count": len(list(group))} for gpu, group in groupby(types)]
    node: dict[str, Any] = {"gpus": groups}
    if [gpu.socket for gpu in machine.gpus] != [n * sockets // count for n in range(count)]:
        return "GPUs do not sit on the sockets in even blocks"
    if sockets > MAX_SOCKETS:
        return f"{sockets} sockets"
    if sockets > 1:
        node |= {"sockets": sockets, "socket_link": machine.socket_link}
    if len(set(links.gpus)) > 1 or len(set(links.uplinks.values())) > 1:
        return "PCIe links differ"
    node["pcie"] = {"link": links.gpus[0]}
    size = _switch_size(machine)
    if size is None:
        return "PCIe switches do not hold neighbours in equal numbers"
    if size:
        node["pcie"] |= {"gpus_per_switch": size, "uplink": next(iter(links.uplinks.values()))}
    joined = _short_nvlink(nvlinks, count)
    if joined is None:
        return "NVLinks are neither one switch nor neighbours in pairs at a rate of the catalogue"
    nics = _short_nics(machine)
    if nics is None:
        return "network cards are neither one beside each GPU nor spread evenly over the sockets"
    return node | joined | nics


def _switch_size(machine: Machine) -> int | None:
    """``gpus_per_switch``; 0 without switches, None where it cannot say how GPUs hang on them."""
    roots = [gpu.switches or (f"own {n}",) for n, gpu in enumerate(machine.gpus)]
    if any(len(device.switches) > 1 for device in (*machine.gpus, *machine.cards)):
        return None
    used = {gpu.switches for gpu in machine.gpus if gpu.switches}
    if set(machine.uplinks) != {switch for switches in used for switch in switches}:
        return None
    if not used:
        return 0
    size = max(roots.count(root) for root in used)
    for socket in range(len(machine.sockets)):
        held = [root for root, gpu in zip(roots, machine.gpus, strict=True) if gpu.socket == socket]
        blocks = [held[n : n + size] for n in range(0, len(held), size)]
        if any(len(set(block)) > 1 for block in blocks) or len({block[0] for block in blocks}) < len(blocks):
            return None
    return size


def _short_nvlink(nvlinks: Nvlinks, count: int) -> dict[str, Any] | None:
    bundles = nvlinks.bundles
    if not bundles:
        return {}
    if len(bundles) > 1 or bundles[0].bandwidth is not None:
        return None
    link = bundles[0].link
    if not nvlinks.pairs and [n for n, _ in nvlinks.switches[0]] == list(range(count)):
        return {"nvlink": {"link": link, "layout": "switch"}}
    neighbours = [(n, n + 1) for n in range(0, count, 2)]
    if not nvlinks.switches and sorted((i, j) for i, j, _ in nvlinks.pairs) == neighbours:
        return {"nvlink": {"link": link, "layout": "pairs"}}
    return None


def _short_nics(machine: Machine) -> dict[str, Any] | None:
    cards, count, sockets = machine.cards, len(machine.cards), len(machine.sockets)
    if not cards:
        return {}
    if len({(card.cable, card.link) for card in cards}) > 1 or count > MAX_CARDS:
        return None
    nic: dict[str, Any] = {"link": cards[0].cable}
    if any(card.switches for card in cards):
        if [card.switches for card in cards] != [gpu.switches for gpu in machine.gpus]:
            return None
        nic["per_gpu"] = True
    elif sorted(card.socket for card in cards) != [n * sockets // count for n in range(count)]:
        return None
    elif count > 1:
        nic["count"] = count
    return {"nics": [nic | ({"pcie": cards[0].link} if cards[0].link else {})]}


# ---- The explicit form


def _explicit(
    machine: Machine, types: Sequence[str], nvlinks: Nvlinks, links: _Links, host: dict[str, Any]
) -> dict[str, Any]:
    node, memory = "machine", host["host_memory"]
    vertices: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []

    def vertex(name: str, kind: str, **facts: Any) -> None:
        vertices.append({"name": name, "kind": kind, **({} if kind == "switch" else {"node": node}), **facts})

    def edge(a: str, b: str, **facts: Any) -> None:
        edges.append({"from": a, "to": b, **facts})

    for n in range(len(machine.sockets)):
        vertex(f"socket{n}", "socket")
        vertex(f"memory{n}", "memory", capacity=memory["capacity"])
        edge(f"socket{n}", f"memory{n}", kind="memory", bandwidth=memory["bandwidth"])
        for other in range(n):
            edge(f"socket{other}", f"socket{n}", link=machine.socket_link)
    names = {switch: f"pcie{n}" for n, switch in enumerate(machine.uplinks)}
    devices = [*machine.gpus, *machine.cards]
    for switch, name in names.items():
        one = next(device for device in devices if switch in device.switches)
        above = one.switches.index(switch) - 1
        vertex(name, "pcie-switch")
        edge(name, names[one.switches[above]] if above >= 0 else f"socket{one.socket}", link=links.uplinks[switch])

    def root(device: Device) -> str:
        return names[device.switches[-1]] if device.switches else f"socket{device.socket}"

    for n, (gpu, kind) in enumerate(zip(machine.gpus, types, strict=True)):
        vertex(f"gpu{n}", "gpu", gpu=kind)
        edge(f"gpu{n}", root(gpu), link=links.gpus[n])
    for n, card in enumerate(machine.cards):
        vertex(f"nic{n}", "nic")
        edge(f"nic{n}", root(card), link=card.link or slowest(links.gpus) or links.gpus[0])
        edge(f"nic{n}", "network", link=card.cable)
    if machine.cards:
        vertex("network", "switch")
    for number, members in enumerate(nvlinks.switches):
        vertex(f"nvswitch{number}", "nvswitch")
        for n, bundle in members:
            edge(f"gpu{n}", f"nvswitch{number}", **_rated(bundle))
    for i, j, bundle in nvlinks.pairs:
        edge(f"gpu{i}", f"gpu{j}", **_rated(bundle))
    return {"host_power": host["host_power"], "vertices": vertices, "edges": edges}


def _rated(bundle: Bundle) -> dict[str, Any]:
    """The link, and the bandwidth where it is not the link type's own."""
    from sim.units import format_bandwidth

    stated = {"bandwidth": format_bandwidth(bundle.bandwidth)} if bundle.bandwidth is not None else {}
    return {"link": bundle.link, **stated}


# ---- What is assumed, in words


def _assumptions(
    machine: Machine, types: Sequence[str], given: Sequence[str], nvlinks: Nvlinks, links: _Links
) -> list[str]:
    """A sentence or two for each kind of connection that the machine has."""
    from sim.units import format_bandwidth

    said = "as --gpu says" if given else f"known by {'their names' if 'smi' in machine.kind else 'PCI device or sm'}"
    found = [f"GPUs: {', '.join(dict.fromkeys(types))}, {said}."]
    stated = any(gpu.link is not None for gpu in machine.gpus)
    whose = "from speed and width of the links" if stated else "the link of the GPU's catalogue entry, at full width"
    found.append(f"PCIe: {', '.join(dict.fromkeys(links.gpus))}, {whose}.")
    if machine.uplinks:
        how = "as described" if stated else "taken to be like the links below it"
        found.append(f"PIX and PXB: devices that share a PCIe switch; its uplink is {how}.")
    if len(types) > 1:
        found.append("PHB and NODE: through the CPU socket, each device or switch on a root port of its own.")
    if len(machine.sockets) > 1:
        names = ", ".join(name or "one not named" for name in machine.sockets)
        found.append(
            f"SYS: {names} are taken for sockets, each pair joined by {machine.socket_link} (judged). Where firmware "
            "splits a socket into several NUMA nodes (NPS, SNC) there are fewer sockets than that."
        )
    for bundle in nvlinks.bundles:
        bonded = "one NVLink" if bundle.count == 1 else f"{bundle.count} NVLinks"
        summed = f" at {format_bandwidth(bundle.bandwidth)}" if bundle.bandwidth is not None else ""
        rate = format_bandwidth(bundle.rate)
        found.append(f"NV{bundle.count}: {bonded} of {rate} a direction, {bundle.link}{summed}.")
    if nvlinks.switches and not machine.to_nvswitch:
        found.append("All of these GPUs reach each other at that count, more than they have links for: NVSwitch.")
    blocked = [gpu for gpu in dict.fromkeys(types) if not Library().gpu(gpu).p2p]
    if blocked:
        found.append(
            f"P2P: stock drivers have none for {', '.join(blocked)}, so that what has no NVLink is copied through host "
            "memory. With a driver that has it add `p2p: true` (to the node, or to each GPU)."
        )
    return found
