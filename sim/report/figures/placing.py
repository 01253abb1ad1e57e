"""Where each part of a cluster stands in its drawing: simple layers, always the same.

A node of the cluster is a frame around its parts; frames stand side by side in the order given. Inside a
frame every kind has a layer and its parts are spread evenly over the frame's width. What stands in no frame
and is no switch gets a place of its own beside them. Switches stand above, one layer for each hop away from
the nodes, centred over what they are tied to and pushed apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

LAYERS: Final = ("gpu", "nvswitch", "pcie-switch", "socket", "storage", "nic")
"""Kinds from the bottom up; unknown kinds stand above them, switches on top."""
BESIDE: Final = {"memory": "socket"}
"""Kinds that share the layer of another, each next to its like."""
SWITCH: Final = "switch"
FRAME_GAP: Final = 0.45

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Vertex:
    """One part of the cluster."""

    id: str
    kind: str
    label: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Edge:
    """A connection; `load` is the highest peak of its links, None where none is known."""

    source: str
    target: str
    names: tuple[str, ...]
    load: float | None


@dataclass(slots=True)
class Drawing:
    """Places of the vertices, and frames as (label, left, right, top)."""

    places: dict[str, Place] = field(default_factory=dict)
    frames: list[tuple[str, float, float, float]] = field(default_factory=list)


def vertices_of(topology: Mapping[str, Any]) -> dict[str, Vertex]:
    """The vertices of a topology; what is not one is left out."""
    found = {}
    nodes = topology.get("nodes")
    for item in nodes if isinstance(nodes, list) else ():
        if isinstance(item, dict) and "id" in item:
            id_, parent = str(item["id"]), item.get("parent")
            kind, label = str(item.get("kind", "other")), str(item.get("label", id_))
            found[id_] = Vertex(id_, kind, label, None if parent is None else str(parent))
    return found


def place(vertices: Mapping[str, Vertex], edges: Sequence[Edge]) -> Drawing:
    """Places everything that is not a frame."""
    tied = _ties(vertices, edges)
    groups = _groups(vertices, tied)
    floating = [v for v in vertices.values() if v.kind == SWITCH and v.parent not in groups]
    kinds = {_row(v) for members in groups.values() for v in members}
    order = [kind for kind in LAYERS if kind in kinds] + sorted(kinds.difference(LAYERS))
    layer = {kind: float(index) for index, kind in enumerate(order)}
    drawing, left = Drawing(), 0.0
    for name, members in groups.items():
        width = _place_group(drawing, members, layer, left)
        if name in vertices and name not in {v.id for v in members}:
            top = max(layer[_row(v)] for v in members)
            drawing.frames.append((vertices[name].label, left, left + width, top))
        left += width + FRAME_GAP
    _place_switches(drawing, floating, tied, float(len(order)))
    return drawing


def _ties(vertices: Mapping[str, Vertex], edges: Sequence[Edge]) -> dict[str, list[str]]:
    tied: dict[str, list[str]] = {id_: [] for id_ in vertices}
    for edge in edges:
        tied[edge.source].append(edge.target)
        tied[edge.target].append(edge.source)
    return tied


def _groups(vertices: Mapping[str, Vertex], tied: Mapping[str, list[str]]) -> dict[str, list[Vertex]]:
    """Members by frame; a vertex without one is its own group, and so is a parent that has links."""
    parents = {v.parent for v in vertices.values() if v.parent in vertices}
    groups: dict[str, list[Vertex]] = {}
    for vertex in vertices.values():
        if vertex.id in parents and not tied[vertex.id]:
            groups.setdefault(vertex.id, [])
        elif vertex.parent in vertices:
            groups.setdefault(str(vertex.parent), []).append(vertex)
        elif vertex.kind != SWITCH:
            groups.setdefault(vertex.id, []).insert(0, vertex)
    return {name: members for name, members in groups.items() if members}


def _row(vertex: Vertex) -> str:
    return BESIDE.get(vertex.kind, vertex.kind)


def _place_group(drawing: Drawing, members: list[Vertex], layer: Mapping[str, float], left: float) -> float:
    rows: dict[str, list[Vertex]] = {}
    for vertex in members:
        rows.setdefault(_row(vertex), []).append(vertex)
    width = float(max(map(len, rows.values())))
    for kind, row in rows.items():
        nth = {v.id: [w.id for w in row if w.kind == v.kind].index(v.id) for v in row}
        for index, vertex in enumerate(sorted(row, key=lambda v: nth[v.id])):
            drawing.places[vertex.id] = (left + (index + 0.5) * width / len(row), layer[kind])
    return width


def _place_switches(
    drawing: Drawing, switches: list[Vertex], tied: Mapping[str, list[str]], base: float
) -> None:
    """Layer by layer away from the nodes; those tied to nothing come last."""
    centre = _mean([x for x, _ in drawing.places.values()])
    waiting, level = list(switches), base
    while waiting:
        ready = [v for v in waiting if any(other in drawing.places for other in tied[v.id])] or waiting
        wanted = {}
        for vertex in ready:
            under = [drawing.places[other][0] for other in tied[vertex.id] if other in drawing.places]
            wanted[vertex.id] = _mean(under, centre)
        for id_, x in _spread(wanted).items():
            drawing.places[id_] = (x, level)
        waiting = [v for v in waiting if v.id not in wanted]
        level += 1


def _mean(values: Sequence[float], otherwise: float = 0.0) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(wanted: Mapping[str, float]) -> dict[str, float]:
    """From left to right at least 1 apart, then moved together to where they wanted to be on average."""
    found: dict[str, float] = {}
    at = float("-inf")
    for id_ in sorted(wanted, key=lambda name: wanted[name]):
        at = found[id_] = max(wanted[id_], at + 1.0)
    shift = _mean([found[id_] - wanted[id_] for id_ in found])
    return {id_: x - shift for id_, x in found.items()}
