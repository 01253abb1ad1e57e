"""The matrix that ``nvidia-smi topo -m`` prints -> a machine.

A cell names the farthest thing that the way between two devices crosses (the legend of the tool):

    PIX  at most one PCIe bridge            -> below one PCIe switch
    PXB  several bridges, no host bridge    -> below one PCIe switch, through switches of their own where PIX says so
    PHB  a PCIe host bridge                 -> the CPU socket
    NODE host bridges of one NUMA node      -> the CPU socket (taken as PHB)
    SYS  the link between NUMA nodes        -> from socket to socket
    NV#  # bonded NVLinks                   -> NVLink; the way over PCIe is not told

The classes nest, so that devices form a tree: those joined by PIX are one group, those joined by PXB hold such
groups, and so on up to NUMA nodes. A matrix that is no tree is refused. Where NV# hides the way of two GPUs over
PCIe, the network cards they share and the NUMA Affinity column tell it; where nothing does, they are on one socket.
Some servers print SYS between all root ports (NVIDIA/go-gpuallocator#17): GPUs of one NUMA Affinity are on one socket
all the same.

Text around the matrix may stay: the legend, the lines of ``nvidia-smi -L`` (they name the GPUs), terminal codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, takewhile

from sim.adapters.nvidia_machine import MAX_CARDS, MAX_GPUS, Device, Machine, refuse
from sim.adapters.nvidia_names import by_name
from sim.errors import did_you_mean

#: How far each class goes; SOC is SYS of drivers before 2017.
LEVELS = {"PIX": 1, "PXB": 2, "PHB": 3, "NODE": 4, "SYS": 5, "SOC": 5}
_NODE, _SYS = LEVELS["NODE"], LEVELS["SYS"]

# The underlined header; of text that was pasted the escape character itself is often lost.
_CODES = re.compile(r"(?:\x1b|\^\[|␛)?\[[0-9;]*m")
_GPU, _NVLINK = re.compile(r"GPU\d+"), re.compile(r"NV(\d{1,3})")
_LISTED = re.compile(r"GPU\s+(\d+(?:,\d+)*):\s*(.+?)\s*(?:\(UUID:.*)?")
_LEGEND = re.compile(r"(NIC\d+):\s*(\S+)")
_HELP = "expected what nvidia-smi topo -m prints, from the line that names the columns"


@dataclass(slots=True)
class _Matrix:
    """Cells by the pair of names, and what else the text says."""

    file: str
    names: list[str] = field(default_factory=list)
    extra: int = 0
    header: int = 0
    numa: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    affinity: dict[str, str] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)
    legend: dict[str, str] = field(default_factory=dict)
    mig: bool = False

    @property
    def gpus(self) -> list[str]:
        return [name for name in self.names if _GPU.fullmatch(name)]

    def cell(self, a: str, b: str) -> str | None:
        """The class of a pair; rows of cards may be missing."""
        return self.cells.get((a, b)) or self.cells.get((b, a))

    def level(self, a: str, b: str) -> int | None:
        """How far the way over PCIe goes; None where it is not told."""
        return LEVELS.get(self.cell(a, b) or "")


def parse_matrix(text: str, file: str) -> Machine:
    """The machine that prints this text; InputError where it is no such matrix or contradicts itself."""
    matrix = _read(text, file)
    _check(matrix)
    home, sockets = _sockets(matrix)
    chains = _chains(matrix)
    devices = [
        Device(
            matrix.legend.get(name, name),
            home[name],
            chains[name],
            models=by_name(matrix.called[name]) if name in matrix.called else (),
            called=matrix.called.get(name, ""),
            line=matrix.lines.get(name),
        )
        for name in matrix.names
    ]
    count = len(matrix.gpus)
    nvlinks = {}
    for (i, a), (j, b) in combinations(enumerate(matrix.gpus), 2):
        bonded = _NVLINK.fullmatch(matrix.cell(a, b) or "")
        if bonded:
            nvlinks[i, j] = int(bonded[1])
    return Machine(
        file=file,
        kind="nvidia-smi topo -m",
        gpus=tuple(devices[:count]),
        cards=tuple(devices[count:]),
        sockets=sockets,
        nvlinks=nvlinks,
        notes=tuple(_notes(matrix, home, sockets)),
    )


def _notes(matrix: _Matrix, home: dict[str, int], sockets: tuple[str, ...]) -> Iterator[str]:
    """What the text says and the topology does not, or what it says in two ways."""
    if matrix.mig:
        yield "GPUs are split into MIG instances, which are not modelled: each GPU is taken whole."
    gpus = [name for name in matrix.gpus if matrix.numa.get(name)]
    if any(home[a] == home[b] and matrix.level(a, b) == _SYS for a, b in combinations(gpus, 2)):
        yield "SYS stands between GPUs of one NUMA node: taken for NODE, as their affinity says."
    used = dict.fromkeys(home[name] for name in matrix.gpus)
    named = [sockets[number] for number in used if sockets[number]]
    if len(set(named)) < len(named):
        yield (
            "SYS stands between GPUs that name the same CPUs: the firmware may not tell where they are. Each group has "
            "a socket of its own here; correct that if you know better."
        )


# ---- Reading


def _read(text: str, file: str) -> _Matrix:
    matrix = _Matrix(file)
    for number, line in enumerate(text.splitlines(), 1):
        words = _CODES.sub("", line).split()
        if words:
            _take(matrix, number, words)
    if not matrix.names:
        refuse(file, None, f"holds no matrix of GPUs: {_HELP}")
    return matrix


def _take(matrix: _Matrix, number: int, words: list[str]) -> None:
    """One line of the text, whatever it is."""
    line = " ".join(words)
    if _is_header(words):
        if matrix.names:
            message = f"a second matrix (the first is on line {matrix.header}): one machine's topo -m, and only that"
            refuse(matrix.file, number, message)
        _take_header(matrix, number, line)
    elif words[0] in matrix.names:
        _take_row(matrix, number, words)
    elif _GPU.fullmatch(words[0]) and matrix.names:
        refuse(matrix.file, number, f"row {words[0]} has no column", did_you_mean(words[0], matrix.names))
    elif _GPU.fullmatch(words[0]):
        refuse(matrix.file, number, f"a row without the line that names the columns above it: {_HELP}")
    elif listed := _LISTED.fullmatch(line):
        matrix.called.update({f"GPU{index}": listed[2] for index in listed[1].split(",")})
    elif words[0] == "MIG":
        matrix.mig = True
    elif named := _LEGEND.fullmatch(line):
        matrix.legend[named[1]] = named[2]


def _is_header(words: list[str]) -> bool:
    """A line of columns: GPU0, then another device, a column on affinity or nothing; a row goes on with a class."""
    second = words[1] if len(words) > 1 else "CPU"
    return _GPU.fullmatch(words[0]) is not None and (
        second in ("CPU", "NUMA") or re.fullmatch(r"(GPU|NIC)\d+|[a-z][\w.-]*", second) is not None
    )


def _is_class(cell: str) -> bool:
    return cell == "X" or cell in LEVELS or _NVLINK.fullmatch(cell) is not None


def _take_header(matrix: _Matrix, number: int, line: str) -> None:
    matrix.names = list(takewhile(lambda word: word not in ("CPU", "NUMA", "GPU"), line.split()))
    matrix.header, matrix.extra = number, len(re.findall(r"CPU Affinity|NUMA Affinity|GPU NUMA ID", line))
    gpus = len(matrix.gpus)
    if any(_GPU.fullmatch(name) is None for name in matrix.names[:gpus]):
        refuse(matrix.file, number, "columns of GPUs and of network cards are mixed up")
    if gpus > MAX_GPUS:
        refuse(matrix.file, number, f"{gpus} GPUs in one machine, at most {MAX_GPUS}")
    if len(matrix.names) - gpus > MAX_CARDS:
        refuse(matrix.file, number, f"more than {MAX_CARDS} network cards in one machine")
    for name in matrix.names:
        if matrix.names.count(name) > 1:
            refuse(matrix.file, number, f"two columns are called {name}")


def _take_row(matrix: _Matrix, number: int, words: list[str]) -> None:
    name, cells = words[0], words[1 : 1 + len(matrix.names)]
    if name in matrix.lines:
        refuse(matrix.file, number, f"a second row {name} (the first is on line {matrix.lines[name]})")
    matrix.lines[name] = number
    for other, cell in zip(matrix.names, cells, strict=False):
        if not _is_class(cell):
            known = [*LEVELS, "X", "NV4"]
            message = f"{name} to {other}: '{cell[:20]}' is no class of connection (X, NV#, PIX, PXB, PHB, NODE, SYS)"
            refuse(matrix.file, number, message, did_you_mean(cell, known))
        matrix.cells[name, other] = cell
    if len(cells) < len(matrix.names):
        refuse(matrix.file, number, f"row {name} has {len(cells)} classes for {len(matrix.names)} columns")
    rest = words[1 + len(matrix.names) :]
    if _GPU.fullmatch(name):  # CPU Affinity, NUMA Affinity, GPU NUMA ID; a blank one leaves the others unclear
        known = rest[1:2] if len(rest) == matrix.extra and len(rest) > 1 else []
        processors = rest[:1] if rest and re.fullmatch(r"[\d,-]+", rest[0]) else []
        numa = [word for word in known if re.fullmatch(r"[\d,-]+", word)]
        matrix.affinity[name] = f"NUMA node {numa[0]}" if numa else f"CPUs {processors[0]}" if processors else ""
        matrix.numa[name] = numa[0] if numa and numa[0].isdigit() else ""


def _check(matrix: _Matrix) -> None:
    """Every GPU has a row, both halves agree, and X stands on the diagonal alone."""
    for name in matrix.gpus:
        if name not in matrix.lines:
            refuse(matrix.file, matrix.header, f"column {name} has no row")
    for (a, b), cell in matrix.cells.items():
        if (cell == "X") != (a == b):
            message = f"{a} to {b} is '{cell}': X stands where a device meets itself, and only there"
            refuse(matrix.file, matrix.lines[a], message)
        back = matrix.cells.get((b, a), cell)
        if back != cell:
            message = f"{a} to {b} is {cell}, but line {matrix.lines[b]} says {back}"
            refuse(matrix.file, matrix.lines[a], message)
        if _NVLINK.fullmatch(cell) and not (_GPU.fullmatch(a) and _GPU.fullmatch(b)):
            refuse(matrix.file, matrix.lines[a], f"{a} to {b} is {cell}: NVLink joins GPUs")
    for name in matrix.called:
        if name not in matrix.names:
            refuse(matrix.file, None, f"{name.replace('GPU', 'GPU ')} is listed, but the matrix has no {name}")


# ---- From classes to a tree


def _groups(matrix: _Matrix, level: int) -> list[list[str]]:
    """Devices joined by classes up to ``level``, in the order of the columns; refuses what does not nest."""
    group = {name: {name} for name in matrix.names}
    for a, b in combinations(matrix.names, 2):
        near = matrix.level(a, b)
        if near is not None and near <= level and group[a] is not group[b]:
            merged = group[a] | group[b]
            group.update(dict.fromkeys(merged, merged))
    found = [sorted(members, key=matrix.names.index) for members in _distinct(group)]
    for members in found:
        for a, b in combinations(members, 2):
            far = matrix.level(a, b)
            if far is not None and far > level:
                through = next(n for n, place in LEVELS.items() if place == level)
                message = f"{a} to {b} is {matrix.cell(a, b)}, yet both reach a third device by {through} or nearer"
                refuse(matrix.file, matrix.lines.get(a), f"{message}: no tree of PCIe is like that")
    return found


def _distinct(group: dict[str, set[str]]) -> Iterator[set[str]]:
    seen: list[set[str]] = []
    for members in group.values():
        if not any(members is other for other in seen):
            seen.append(members)
            yield members


def _chains(matrix: _Matrix) -> dict[str, tuple[str, ...]]:
    """The PCIe switches above each device: a group of PXB that holds one of PIX is a switch above a switch."""
    chains: dict[str, tuple[str, ...]] = dict.fromkeys(matrix.names, ())
    inner = [members for members in _groups(matrix, LEVELS["PIX"]) if len(members) > 1]
    outer = [members for members in _groups(matrix, LEVELS["PXB"]) if len(members) > 1]
    for number, members in enumerate(group for group in outer if group not in inner):
        chains.update(dict.fromkeys(members, (f"outer{number}",)))
    for number, members in enumerate(inner):
        chains.update({name: (*chains[name], f"inner{number}") for name in members})
    return chains


def _sockets(matrix: _Matrix) -> tuple[dict[str, int], tuple[str, ...]]:
    """Each device's socket, and the sockets' names: groups within NODE, merged where nothing holds them apart."""
    merged: list[list[str]] = []
    for members in _groups(matrix, _NODE):
        near = next((other for other in merged if _one_socket(matrix, members, other)), None)
        if near is None:
            merged.append(list(members))
        else:
            near += members
    home = {name: number for number, members in enumerate(merged) for name in members}
    return home, tuple(_first(matrix.affinity, members) for members in merged)


def _one_socket(matrix: _Matrix, members: list[str], other: list[str]) -> bool:
    """NUMA nodes decide where both are known; else SYS, or CPUs that differ, hold the groups apart."""
    ours, theirs = _first(matrix.numa, members), _first(matrix.numa, other)
    if ours and theirs:
        return ours == theirs
    apart = any(matrix.level(a, b) == _SYS for a in members for b in other)
    ours, theirs = _first(matrix.affinity, members), _first(matrix.affinity, other)
    return not apart and (not ours or not theirs or ours == theirs)


def _first(stated: dict[str, str], members: list[str]) -> str:
    """What the first of the devices that is told something is told; empty if none is."""
    return next((stated[name] for name in members if stated.get(name)), "")
