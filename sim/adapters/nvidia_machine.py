"""A machine as it describes itself: GPUs and network cards on a tree of PCIe switches, and the NVLinks between GPUs.

Both descriptions that are read come down to this one value: the matrix of ``nvidia-smi topo -m``
(:mod:`sim.adapters.nvidia_matrix`) and NCCL's topology XML (:mod:`sim.adapters.nvidia_xml`). What a description
does not say is None here; :mod:`sim.adapters.nvidia_topology` says what is assumed for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import NoReturn

from sim.adapters.lookup import Library
from sim.errors import InputError, Problem

MAX_GPUS = 64
MAX_CARDS = 512


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or a network card: its socket (by number), and the PCIe switches above it from the socket down.

    ``link`` is its own PCIe link and ``cable`` what a card puts on the network (catalogue ids); ``models`` are the
    catalogue GPUs it may be, ``called`` the words that say so. ``line`` is where it was described.
    """

    name: str
    socket: int
    switches: tuple[str, ...] = ()
    link: str | None = None
    cable: str | None = None
    models: tuple[str, ...] = ()
    called: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine. ``sockets`` are NUMA nodes by name; ``uplinks`` each PCIe switch's link upwards.

    ``nvlinks`` counts the links of a pair (i < j); ``to_nvswitch`` each GPU's links to NVSwitches, where the
    description tells the two apart (a matrix does not).
    """

    file: str
    kind: str
    gpus: tuple[Device, ...]
    cards: tuple[Device, ...]
    sockets: tuple[str, ...]
    uplinks: Mapping[str, str | None] = field(default_factory=dict)
    nvlinks: Mapping[tuple[int, int], int] = field(default_factory=dict)
    to_nvswitch: tuple[int, ...] = ()
    socket_link: str = "upi"
    notes: tuple[str, ...] = ()

    def refuse(self, message: str, line: int | None = None, suggestion: str | None = None) -> NoReturn:
        """Say what is wrong with the description."""
        refuse(self.file, line, message, suggestion)


def refuse(file: str, line: int | None, message: str, suggestion: str | None = None) -> NoReturn:
    """An input error of one line."""
    raise InputError([Problem(file, line, None, None, message, suggestion)])


def tidied(machine: Machine, keep: Iterable[Device] = ()) -> Machine:
    """The machine with these cards only, without switches that join nothing and sockets that hold nothing.

    A switch with one device below it is only a longer way to that device, whose link becomes the slower of the two.
    """
    cards = tuple(keep)
    devices = [*machine.gpus, *cards]
    below: dict[str, set[str]] = {}
    for device in devices:
        for here, child in pairwise((*device.switches, f"device {device.name}")):
            below.setdefault(here, set()).add(child)
    real = {switch for switch, children in below.items() if len(children) > 1}
    held = list(dict.fromkeys(device.socket for device in devices))  # in the order of the GPUs

    def moved(device: Device) -> Device:
        last = max((n for n, switch in enumerate(device.switches) if switch in real), default=-1)
        own = [device.link, *(machine.uplinks.get(switch) for switch in device.switches[last + 1 :])]
        left = tuple(switch for switch in device.switches if switch in real)
        return replace(device, switches=left, socket=held.index(device.socket), link=slowest(own))

    uplinks: dict[str, str | None] = {}
    for device in devices:
        waiting: list[str | None] = []
        for switch in device.switches:  # from the socket down: links of dropped switches narrow the next one's
            waiting.append(machine.uplinks.get(switch))
            if switch in real:
                uplinks[switch] = slowest(waiting)
                waiting = []
    return replace(
        machine,
        gpus=tuple(moved(gpu) for gpu in machine.gpus),
        cards=tuple(moved(card) for card in cards),
        sockets=tuple(machine.sockets[n] for n in held),
        uplinks=uplinks,
    )


def slowest(links: Iterable[str | None]) -> str | None:
    """Of PCIe links by catalogue id the one with the least bandwidth; None where none is known."""
    known = [link for link in links if link is not None]
    return min(known, key=pcie_rate, default=None)


@cache
def pcie_rate(link: str) -> float:
    """Bytes/s of a link type of the catalogue."""
    return Library().link(link).bandwidth


def beside(machine: Machine) -> tuple[int, ...]:
    """For each GPU the number of a network card of its own below the same PCIe switch; nothing if one has none."""
    left = list(range(len(machine.cards)))
    found: list[int] = []
    for gpu in machine.gpus:
        shared = {n: len(set(machine.cards[n].switches) & set(gpu.switches)) for n in left}
        best = max(left, key=lambda n: (shared[n], -n), default=None)
        if best is None or not shared[best]:
            return ()
        left.remove(best)
        found.append(best)
    return tuple(found)
