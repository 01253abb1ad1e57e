"""NCCL's topology XML (``NCCL_TOPO_DUMP_FILE``) -> a machine.

    <system>
      <cpu numaid vendor>
        <pci class busid device link_speed link_width>
          <gpu dev sm> <nvlink target count tclass>
          <nic> <net name speed>

``pci`` elements nest as bridges do; each one's link is that towards the CPU. The link type taken is the one of the
catalogue nearest in bandwidth (lanes x GT/s, after encoding). An ``nvlink`` whose target is a GPU of the file is a
bridge between the two; one of class 0x0680 ends at an NVSwitch. Links to a CPU (class 0x06 otherwise) and ``c2c`` are
not read. GPUs are known by their PCI device id, else by ``sm``, which may leave several.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from xml.parsers import expat

from sim.adapters.lookup import Library
from sim.adapters.nvidia_machine import MAX_CARDS, MAX_GPUS, Device, Machine, pcie_rate, refuse
from sim.adapters.nvidia_names import by_capability, by_device

MAX_DEPTH = 50

#: GT/s a lane -> the share of it that is data (8b/10b, then 128b/130b; PCIe 6.0's FLIT mode carries 242 of 256 bytes).
_ENCODING = {2.5: 0.8, 5.0: 0.8, 8.0: 128 / 130, 16.0: 128 / 130, 32.0: 128 / 130, 64.0: 242 / 256}
_NVSWITCH = "0x0680"
_INFINIBAND = "0x0207"
#: Names of devices that the kernel's network stack alone drives: NCCL uses sockets on them.
_SOCKET_NAMES = re.compile(r"(eth|en|bond|ib|wl|hsn|team)[a-zA-Z]*\d.*|lo")


@dataclass(slots=True)
class Element:
    """An element of the file and where it starts."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)

    def get(self, name: str) -> str:
        """An attribute, stripped; empty where it is not there."""
        return self.attributes.get(name, "").strip()


def parse_xml(text: str, file: str) -> Machine:
    """The machine of a topology XML; InputError where the text is none."""
    root = _tree(text, file)
    if root.tag != "system":
        message = f"<{root.tag[:20]}> is no NCCL topology: expected <system>, as NCCL_TOPO_DUMP_FILE writes it"
        refuse(file, root.line, message)
    cpus = [child for child in root.children if child.tag == "cpu"]
    hosts = {cpu.get("host_hash") for cpu in cpus}
    if len(hosts) > 1:
        refuse(file, root.line, f"describes {len(hosts)} machines (host_hash): one machine a file")
    found = _Found(file)
    for number, cpu in enumerate(cpus):
        for child in cpu.children:
            found.walk(child, number, ())
    return found.machine(cpus, root.line)


def nearest_pcie(speed: str, width: str) -> str | None:
    """The catalogue's PCIe link nearest to ``16.0 GT/s PCIe`` and ``16`` lanes; None where they say nothing."""
    rate = re.match(r"[0-9]{1,4}(?:\.[0-9]{1,4})?(?![0-9.])", speed)
    lanes = int(width) if re.fullmatch(r"[0-9]{1,3}", width) else 0
    per_lane = float(rate[0]) if rate else 0.0
    if per_lane <= 0 or lanes <= 0:
        return None
    share = _ENCODING.get(per_lane, _ENCODING[8.0])
    wanted = math.log(per_lane * 1e9 / 8 * share * lanes)
    generation = list(_ENCODING).index(per_lane) + 1 if per_lane in _ENCODING else 0
    known = [link for link in Library().names("link") if re.fullmatch(r"pcie\d+-x\d+", link)]

    def distance(link: str) -> tuple[float, bool]:
        away = abs(math.log(pcie_rate(link)) - wanted)
        return round(away, 2), not link.startswith(f"pcie{generation}-")

    return min(known, key=distance)


def nearest_cable(speed: str, kind: str) -> str | None:
    """The catalogue's network link of a kind nearest to a speed in Mbit/s; None where it says nothing."""
    mbps = float(speed) if re.fullmatch(r"[0-9]{1,9}", speed) else 0.0
    if mbps <= 0:
        return None
    library = Library()
    known = [link for link in library.names("link") if library.link(link).kind == kind]
    return min(known, key=lambda link: abs(math.log(library.link(link).bandwidth / (mbps * 1e6 / 8))))


class _Found:
    """What was met on the way through the elements."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.gpus: list[tuple[int, str, Device, list[Element]]] = []
        self.cards: list[Device] = []
        self.uplinks: dict[str, str | None] = {}
        self.notes: list[str] = []

    def walk(self, element: Element, socket: int, switches: tuple[str, ...]) -> None:
        """A child of a cpu or of a pci element."""
        if element.tag == "nic":  # one without a PCI device: a virtual card
            self._cards(element, element, socket, switches, None)
        if element.tag != "pci":
            return
        link = nearest_pcie(element.get("link_speed"), element.get("link_width"))
        inner = [child for child in element.children if child.tag == "pci"]
        name = element.get("busid") or f"line {element.line}"
        if inner:
            if name in self.uplinks:
                refuse(self.file, element.line, f"a second PCI device with busid {name}")
            self.uplinks[name] = link
        for child in element.children:
            if child.tag == "gpu":
                self._gpu(element, child, socket, switches, link)
            elif child.tag == "nic":
                self._cards(element, child, socket, switches, link)
            elif child.tag == "pci":
                self.walk(child, socket, (*switches, name))

    def _gpu(self, pci: Element, gpu: Element, socket: int, switches: tuple[str, ...], link: str | None) -> None:
        number, bus = gpu.get("dev"), pci.get("busid").lower()
        if not re.fullmatch(r"[0-9]{1,4}", number):
            refuse(self.file, gpu.line, f"dev of a gpu must be its number, not '{number[:20]}'")
        if any(int(number) == other for other, *_ in self.gpus):
            refuse(self.file, gpu.line, f"a second gpu with dev {number}: one machine a file")
        if bus and any(bus == other for _, other, *_ in self.gpus):
            refuse(self.file, pci.line, f"a second gpu with busid {bus}")
        sm = gpu.get("sm")
        models = by_device(pci.get("device")) or by_capability(sm)
        called = f"sm {sm}, PCI device {pci.get('device') or 'not given'}"
        device = Device(f"GPU{number}", socket, switches, link, models=models, called=called, line=gpu.line)
        self.gpus.append((int(number), bus, device, [child for child in gpu.children if child.tag == "nvlink"]))

    def _cards(
        self, pci: Element, nic: Element, socket: int, switches: tuple[str, ...], link: str | None
    ) -> None:
        for net in (child for child in nic.children if child.tag == "net"):
            name = net.get("name") or f"card {len(self.cards)}"
            plain = _SOCKET_NAMES.fullmatch(name) is not None
            kind = "ethernet" if plain else "infiniband" if pci.get("class").startswith(_INFINIBAND) else "roce"
            cable = nearest_cable(net.get("speed"), kind)
            self.cards.append(Device(name, socket, switches, link, cable, line=net.line))

    def machine(self, cpus: list[Element], line: int) -> Machine:
        """All of it, GPUs in the order of their numbers."""
        self.gpus.sort(key=lambda entry: entry[0])
        if not self.gpus:
            message = "holds no <gpu>: files that NCCL was given may hold none, one that NCCL_TOPO_DUMP_FILE names does"
            refuse(self.file, line, message)
        if len(self.gpus) > MAX_GPUS:
            refuse(self.file, line, f"{len(self.gpus)} GPUs in one machine, at most {MAX_GPUS}")
        if len(self.cards) > MAX_CARDS:
            refuse(self.file, line, f"more than {MAX_CARDS} network cards in one machine")
        nvlinks, to_switch = self._nvlinks()
        amd = any("AMD" in cpu.get("vendor") for cpu in cpus)
        return Machine(
            file=self.file,
            kind="NCCL topology XML",
            gpus=tuple(device for _, _, device, _ in self.gpus),
            cards=tuple(self.cards),
            sockets=tuple(f"NUMA node {cpu.get('numaid')}" if cpu.get("numaid") else "" for cpu in cpus),
            uplinks=self.uplinks,
            nvlinks=nvlinks,
            to_nvswitch=tuple(to_switch) if any(to_switch) else (),
            socket_link="xgmi" if amd else "upi",
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def _nvlinks(self) -> tuple[dict[tuple[int, int], int], list[int]]:
        """Links of each pair, and of each GPU to NVSwitches."""
        numbers = {bus: n for n, (_, bus, _, _) in enumerate(self.gpus) if bus}
        pairs: dict[tuple[int, int], dict[int, int]] = {}
        to_switch = [0] * len(self.gpus)
        for n, (_, _, device, links) in enumerate(self.gpus):
            for link in links:
                count, peer = link.get("count"), numbers.get(link.get("target").lower())
                if not re.fullmatch(r"[1-9][0-9]{0,2}", count):
                    refuse(self.file, link.line, f"count of an nvlink must be a number of links, not '{count[:20]}'")
                if peer == n:
                    refuse(self.file, link.line, f"an nvlink of {device.name} leads to {device.name} itself")
                if peer is not None:
                    ends = pairs.setdefault((min(n, peer), max(n, peer)), {})
                    ends[n] = ends.get(n, 0) + int(count)
                elif link.get("tclass").startswith(_NVSWITCH):
                    to_switch[n] += int(count)
                else:
                    self.notes.append(f"{device.name}: NVLinks to {link.get('target') or 'nowhere'} are left out.")
        for (i, j), ends in pairs.items():
            if len(set(ends.values())) > 1:
                a, b = (self.gpus[n][2] for n in (i, j))
                message = f"{a.name} has {ends[i]} NVLinks to {b.name}, which has {ends[j]} back"
                refuse(self.file, a.line, message)
        return {pair: next(iter(ends.values())) for pair, ends in pairs.items()}, to_switch


def _tree(text: str, file: str) -> Element:
    """The root element. Entities and document types are refused: a topology needs none, an attack does."""
    parser = expat.ParserCreate()
    above: list[Element] = []
    roots: list[Element] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, parser.CurrentLineNumber)
        if len(above) >= MAX_DEPTH:
            refuse(file, element.line, f"nested more than {MAX_DEPTH} deep")
        (above[-1].children if above else roots).append(element)
        above.append(element)

    def doctype(*_: object) -> None:
        refuse(file, parser.CurrentLineNumber, "document types and entities are not read")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: above.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        refuse(file, error.lineno, f"not valid XML: {expat.errors.messages[error.code]}")
    return roots[0]
