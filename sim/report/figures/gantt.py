"""A Gantt chart of serving GPUs: what each class of GPUs did in a window of the run (training: ``pipeline``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sim.report.figures.common import (
    BLUE,
    BRICK,
    GREEN,
    MAX_POINTS,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    clean,
    fill,
    layout,
    rows_height,
    some,
    table,
)
from sim.report.values import joined
from sim.results.schema import Incident, Result, Span
from sim.units import format_percent, format_seconds

MAX_DEVICES: Final = 24
FIRST_LOOK: Final = 24
"""Stretches of work a row shows before anyone zooms."""

DOWN: Final = "down"
"""Between a replica's failure and its return."""
STYLES: Final[dict[str, tuple[int, str]]] = {
    "prefill": (1, ORANGE),
    "decode": (0, BLUE),
    "mixed": (3, GREEN),
    "comm": (4, RED),
    DOWN: (6, BRICK),
    "idle": (5, PALE),
    "no kernel": (5, PALE),
}
UNTOLD: Final = "no kernel"
"""Gaps of a run that recorded no communication: idle, or waiting for data."""


def gantt_figure(result: Result) -> Figure | None:
    """One row a device class, one bar a stretch of work, idle time drawn between."""
    window = result.timeline.spans_window_s
    training = {job.name for job in result.jobs if job.kind == "training"}
    others = {device.name for device in result.devices if device.job in training}
    spans = [span for span in result.timeline.spans if span.device not in others]
    if not spans or len(window) != 2 or window[1] <= window[0]:
        return None
    order = {d.name: d.name for d in result.devices} | {s.device: s.device for s in spans}
    active = [name for name in order if any(s.device == name for s in spans)]
    shown = active[:MAX_DEVICES]
    drawn = [span for span in spans if span.device in shown]
    of = f" of {joined([job.name for job in result.jobs if job.kind == 'serving'])}" if training else ""
    rest = "idle" if any(span.kind == "comm" for span in spans) else UNTOLD
    found = [gap for name in shown for gap in gaps(name, rest, drawn, window)]
    drawn += [part for gap in found for part in _cut_by_outages(gap, _outages_of(result, gap.device))]
    end = _first_look(spans, shown, window)
    traces, left_out = _traces(drawn)
    notes = (some(len(shown), len(active), "classes"), left_out)
    return Figure(
        id="gantt",
        title=f"What the GPUs{of} did, moment by moment",
        takeaway=_takeaway(shown, drawn, window),
        alt=f"Gantt chart of {len(shown)} classes of GPUs from {format_seconds(window[0])} to "
        f"{format_seconds(window[1])} of simulated time.",
        traces=traces,
        layout=layout(
            barmode="overlay",
            bargap=0.3,
            dragmode="zoom",
            xaxis=axis("simulated time (s)", fixedrange=False, range=[window[0], end], showgrid=True),
            yaxis=categories(categoryorder="array", categoryarray=_labels(shown)),
        ),
        columns=("GPUs", "work", "start", "end", "sequences", "tokens"),
        rows=_rows(spans),
        height=rows_height(len(shown), 34, 130),
        note=" ".join(filter(None, ("Drag sideways to zoom; double-click to see the whole window.", *notes))),
    )


def _labels(names: Sequence[str]) -> list[str]:
    label = Names()
    return [label(name) for name in names]


def _first_look(spans: list[Span], shown: list[str], window: list[float]) -> float:
    """Where the view ends at first: after some stretches of the first row."""
    ends = sorted(span.end_s for span in spans if span.device == shown[0])
    return ends[FIRST_LOOK] if len(ends) > 2 * FIRST_LOOK else window[1]


def gaps(device: str, kind: str, spans: list[Span], window: list[float]) -> list[Span]:
    """Stretches of the window in which a device class did nothing."""
    at, found = window[0], []
    own = sorted((s for s in spans if s.device == device), key=lambda s: s.start_s)
    ends = [*((s.start_s, s.end_s) for s in own), (window[1], window[1])]
    for start, end in ends:
        if start - at > 1e-9 * (window[1] - window[0]):
            found.append(
                Span(device=device, kind=kind, start_s=at, end_s=start, batch=0, tokens=0, micro_batch=0)
            )
        at = max(at, end)
    return found


def _outages_of(result: Result, device: str) -> list[Incident]:
    """The outages of the replica that a class of GPUs belongs to, in order of time."""
    job = next((d.job for d in result.devices if d.name == device), None)
    named = re.search(r"\.r([0-9]+)(?:\.|$)", device)
    replica = int(named[1]) if named else 0
    return [
        incident
        for one in result.jobs
        if one.name == job
        for incident in sorted(one.incidents, key=lambda i: i.start_s)
        if incident.replica == replica
    ]


def _cut_by_outages(gap: Span, outages: Sequence[Incident]) -> list[Span]:
    """A stretch without work in pieces: down, and what is left."""
    found, at = list[Span](), gap.start_s
    for outage in outages:
        start, end = max(at, outage.start_s), min(gap.end_s, outage.up_s)
        if end <= start:
            continue
        if start > at:
            found.append(gap.model_copy(update={"start_s": at, "end_s": start}))
        found.append(gap.model_copy(update={"kind": DOWN, "start_s": start, "end_s": end}))
        at = end
    return [*found, gap.model_copy(update={"start_s": at})] if at < gap.end_s else found


def _traces(spans: list[Span]) -> tuple[list[Trace], str]:
    """A trace a kind of work, and a note where some of its bars are left out."""
    kinds = list(dict.fromkeys([*STYLES, *(span.kind for span in spans)]))
    label = dict(zip(names := list(dict.fromkeys(s.device for s in spans)), _labels(names), strict=True))
    traces, missing = [], 0
    for index, kind in enumerate(kinds):
        own = sorted((span for span in spans if span.kind == kind), key=lambda s: s.start_s)
        missing += max(0, len(own) - MAX_POINTS)
        if own := own[:MAX_POINTS]:
            traces.append(_trace(kind, own, label, STYLES.get(kind, (index % 8, PURPLE))))
    return traces, f"{missing:,} later stretches are left out." if missing else ""


def _trace(kind: str, spans: list[Span], label: dict[str, str], style: tuple[int, str]) -> Trace:
    when = "%{base:.6~s}s + %{x:.4~s}s"
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "name": clean(kind),
        "y": [label[span.device] for span in spans],
        "base": [span.start_s for span in spans],
        "x": [span.end_s - span.start_s for span in spans],
        "marker": fill(*style),
        "hovertemplate": f"%{{y}}<br>%{{fullData.name}}: {when}<br>%{{customdata}}<extra></extra>",
        "customdata": [f"{s.batch} sequences, {s.tokens} tokens" if s.batch else "" for s in spans],
    }
    if kind == "comm":  # thinner, so that work under it stays visible
        trace["width"] = 0.3
    return trace


def _takeaway(shown: list[str], drawn: list[Span], window: list[float]) -> str:
    length = window[1] - window[0]
    idle = dict.fromkeys(shown, 0.0)
    for span in drawn:
        if span.kind in ("idle", UNTOLD, DOWN):
            idle[span.device] += (span.end_s - span.start_s) / length
    most, least = max(shown, key=lambda n: idle[n]), min(shown, key=lambda n: idle[n])
    where = f"In this window of {format_seconds(length)}"
    if idle[most] < 0.0005:
        return f"{where}, every class of GPUs was at work all the time, collectives included."
    if idle[most] - idle[least] < 0.005:
        return f"{where}, every class of GPUs ran nothing {format_percent(idle[most])} of the time."
    return (
        f"{where}, {most} ran nothing most often ({format_percent(idle[most])}) "
        f"and {least} least ({format_percent(idle[least])})."
    )


def _rows(spans: list[Span]) -> list[tuple[str, ...]]:
    return table(
        (s.device, s.kind, f"{s.start_s:.6f} s", f"{s.end_s:.6f} s", s.batch, s.tokens) for s in spans
    )
