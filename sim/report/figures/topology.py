"""The cluster as a drawing: switches above, GPUs below, links coloured and widened by their load.

The load is the peak; of a run that only trains it is the mean, since a training job's traffic is recorded evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sim.report.figures.common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    Figure,
    Trace,
    axis,
    clean,
    layout,
    some,
    table,
)
from sim.report.figures.placing import Drawing, Edge, Vertex, place, vertices_of
from sim.results.schema import Result
from sim.units import format_percent

MAX_VERTICES: Final = 400
MAX_EDGES: Final = 600
MAX_LABELS: Final = 16
"""Labels of one kind; of more, hovering tells the name."""
LABELLED: Final = ("switch", "gpu")
LETTER: Final = 6.5
"""Pixels of a letter of a label."""

STYLES: Final[dict[str, tuple[str, str]]] = {
    "switch": ("square", PURPLE),
    "nic": ("triangle-up", ORANGE),
    "socket": ("hexagon", SKY),
    "memory": ("diamond", YELLOW),
    "cpu": ("hexagon", SKY),
    "host_memory": ("diamond", YELLOW),
    "pcie-switch": ("square-cross", PURPLE),
    "nvswitch": ("square-x", BLUE),
    "gpu": ("circle", GREEN),
}
LOADS: Final = (
    (0.0, 0.2, "#8FA3B5", 1.5),
    (0.2, 0.4, SKY, 2.5),
    (0.4, 0.6, BLUE, 4.0),
    (0.6, 0.8, ORANGE, 5.5),
    (0.8, float("inf"), RED, 7.5),
)
"""Peak load from, to, colour, width."""


def topology_figure(result: Result) -> Figure | None:
    """The drawing, or None where the Result holds no topology."""
    everything = vertices_of(result.topology)
    vertices = dict(list(everything.items())[:MAX_VERTICES])
    which = "peak" if any(job.kind == "serving" for job in result.jobs) else "mean"
    edges = _edges(result, vertices, which)
    drawing = place(vertices, edges)
    if not drawing.places:
        return None
    sentence = _takeaway(vertices, edges, which)
    return Figure(
        id="topology",
        title="The cluster and its busiest links",
        takeaway=sentence,
        alt=f"Drawing of {len(drawing.places)} parts and {len(edges)} links. {sentence}",
        traces=[
            *_edge_traces(edges, drawing, which),
            _midpoints(edges, drawing),
            *_vertex_traces(vertices, drawing),
            *_frame_labels(drawing),
        ],
        layout=_layout(drawing),
        columns=("from", "to", "links", f"{which} load"),
        rows=table(
            (_full(vertices, e.source), _full(vertices, e.target), ", ".join(e.names), _percent(e.load))
            for e in edges
        ),
        height=round(120 + 75 * (1 + max(y for _, y in drawing.places.values()))),
        note=some(len(vertices), len(everything), "parts of the cluster"),
    )


def _edges(result: Result, vertices: Mapping[str, Vertex], which: str) -> list[Edge]:
    """Edges with the peak or mean load of their links' classes, by name, else by the kind of link."""
    by_name = {
        link.name: link.utilisation_peak if which == "peak" else link.utilisation_mean for link in result.links
    }  # fmt: skip
    kinds: dict[str, float] = {}
    for link in result.links:
        kinds[link.kind] = max(kinds.get(link.kind, 0.0), by_name[link.name])
    found = []
    edges = result.topology.get("edges")
    for item in edges if isinstance(edges, list) else ():
        if not isinstance(item, dict):
            continue
        source, target = str(item.get("source")), str(item.get("target"))
        links, kind = item.get("links"), item.get("kind")
        names = tuple(name for name in links if isinstance(name, str)) if isinstance(links, list) else ()
        loads = [by_name[name] for name in names if name in by_name]
        known = max(loads, default=kinds.get(str(kind)) if not names else None)
        if source in vertices and target in vertices:
            found.append(Edge(source, target, names or ((str(kind),) if kind else ()), known))
    return found[:MAX_EDGES]


def _full(vertices: Mapping[str, Vertex], id_: str) -> str:
    vertex = vertices[id_]
    frame = vertices.get(vertex.parent or "")
    return f"{frame.label} {vertex.label}" if frame else vertex.label


def _percent(load: float | None) -> str:
    return "not used" if load is None else format_percent(load)


def _takeaway(vertices: Mapping[str, Vertex], edges: Sequence[Edge], which: str) -> str:
    loaded = [edge for edge in edges if edge.load]
    if not loaded:
        gpus = sum(v.kind == "gpu" for v in vertices.values())
        return f"{gpus} GPUs are drawn; no link carried anything."
    hottest = max(loaded, key=lambda edge: edge.load or 0.0)
    ends = f"{_full(vertices, hottest.source)} – {_full(vertices, hottest.target)}"
    equal = sum(edge.load == hottest.load for edge in loaded) - 1
    like = f" (and {equal} like it)" if equal else ""
    when = "at the peak" if which == "peak" else "on average"
    return f"The busiest link is {ends}{like}: {_percent(hottest.load)} of its bandwidth {when}."


def _layout(drawing: Drawing) -> dict[str, Any]:
    xs = [x for x, _ in drawing.places.values()]
    edges = [*xs, *(x for _, left, right, _ in drawing.frames for x in (left, right))]
    room = max(0.5, (max(edges) - min(edges)) * 0.03)
    low = -0.95 if drawing.frames else -0.6
    frames = [
        {
            "type": "rect",
            "layer": "below",
            "x0": left,
            "x1": right,
            "y0": -0.5,
            "y1": top + 0.35,
            "line": {"color": "rgba(128,134,142,0.55)", "width": 1},
            "fillcolor": "rgba(128,134,142,0.07)",
        }
        for _, left, right, top in drawing.frames
    ]
    return layout(
        xaxis=axis(visible=False, range=[min(edges) - room, max(edges) + room]),
        yaxis=axis(visible=False, range=[low, max(y for _, y in drawing.places.values()) + 0.5]),
        hovermode="closest",
        shapes=frames,
    )


def _edge_traces(edges: Sequence[Edge], drawing: Drawing, which: str) -> list[Trace]:
    """A trace a class of load; unused links are dashed."""
    unused = [edge for edge in edges if edge.load is None]
    traces = [_strokes("not used", unused, drawing, {"color": GREY, "width": 1, "dash": "dot"})]
    for low, high, colour, width in LOADS:
        own = [edge for edge in edges if edge.load is not None and low <= edge.load < high]
        name = f"{low * 100:.0f}–{high:.0%} {which} load" if high < 1 else f"{low:.0%} or more"
        traces.append(_strokes(name, own, drawing, {"color": colour, "width": width}))
    return [trace for trace in traces if trace["x"]]


def _strokes(name: str, edges: Sequence[Edge], drawing: Drawing, style: dict[str, Any]) -> Trace:
    x: list[float | None] = []
    y: list[float | None] = []
    for edge in edges:
        (x0, y0), (x1, y1) = drawing.places[edge.source], drawing.places[edge.target]
        x += [x0, x1, None]
        y += [y0, y1, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": style,
        "hoverinfo": "skip",
    }


def _midpoints(edges: Sequence[Edge], drawing: Drawing) -> Trace:
    """Invisible points that tell a link's load on hover."""
    ends = [(drawing.places[edge.source], drawing.places[edge.target]) for edge in edges]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "links",
        "showlegend": False,
        "x": [(first[0] + second[0]) / 2 for first, second in ends],
        "y": [(first[1] + second[1]) / 2 for first, second in ends],
        "marker": {"size": 16, "opacity": 0},
        "customdata": [f"{clean(', '.join(edge.names))}: {_percent(edge.load)}" for edge in edges],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _vertex_traces(vertices: Mapping[str, Vertex], drawing: Drawing) -> list[Trace]:
    placed = [vertices[id_] for id_ in drawing.places]
    traces = []
    for kind in dict.fromkeys(v.kind for v in placed):
        own = [v for v in placed if v.kind == kind]
        labels = [clean(v.label, 18) for v in own]
        symbol, colour = STYLES.get(kind, ("star-diamond", SKY))
        trace: Trace = {
            "type": "scatter",
            "mode": "markers",
            "name": clean(kind.replace("_", " ")),
            "x": [drawing.places[v.id][0] for v in own],
            "y": [drawing.places[v.id][1] for v in own],
            "text": labels,
            "customdata": [clean(_full(vertices, v.id)) for v in own],
            "textposition": "top center" if kind == "switch" else "bottom center",
            "textfont": {"size": 11},
            "marker": {"symbol": symbol, "size": 13, "color": colour, "line": {"width": 1}},
            "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
            "cliponaxis": False,
        }
        if kind in LABELLED and len(own) <= MAX_LABELS:
            trace |= {"mode": "markers+text", "meta": _room(labels, "markers")}
        traces.append(trace)
    return traces


def _room(labels: Sequence[str], otherwise: str) -> dict[str, Any]:
    """How many pixels the labels need side by side, and the mode of the trace where there are fewer."""
    return {"need": round(len(labels) * (max(map(len, labels)) * LETTER + 10)), "otherwise": otherwise}


def _frame_labels(drawing: Drawing) -> list[Trace]:
    labels = [clean(label, 18) for label, _, _, _ in drawing.frames]
    if not labels or len(labels) > MAX_LABELS:
        return []
    return [
        {
            "type": "scatter",
            "mode": "text",
            "name": "nodes",
            "showlegend": False,
            "x": [(left + right) / 2 for _, left, right, _ in drawing.frames],
            "y": [-0.72] * len(labels),
            "text": labels,
            "textfont": {"size": 11},
            "hoverinfo": "skip",
            "meta": _room(labels, "none"),
        }
    ]
