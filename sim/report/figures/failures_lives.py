"""The figures of the lives in a study of failures: where time went, when the work is done, spares in use, one life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sim.report.failures_text import BUCKETS, setting
from sim.report.figures.common import (
    BLUE,
    GREEN,
    GREY,
    LILAC,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SYMBOLS,
    TAN,
    TEAL,
    YELLOW,
    Figure,
    Trace,
    axis,
    categories,
    clean,
    fill,
    layout,
    line,
    rows_height,
    sentence,
    some,
    table,
    thinned,
)
from sim.report.figures.failures_points import MAX_BARS, MAX_LINES, alike_points, labels_of, lived_points
from sim.report.values import DAY
from sim.study.failures_schema import FailureStudy, PointResult, Quantiles
from sim.units import format_count, format_percent, format_seconds

#: Bucket -> pattern and colour; in bars in this order.
LOST: Final[dict[str, tuple[int, str]]] = {
    "redone": (0, RED), "checkpoint": (1, BLUE), "degraded": (2, YELLOW), "detection": (3, PURPLE),
    "restart": (4, ORANGE), "down": (5, GREY), "stalled": (6, TEAL), "startup": (7, SKY), "shrink": (8, LILAC),
    "grow": (9, TAN), "migrate": (1, PURPLE),
}  # fmt: skip


# -- where time went ----------------------------------------------------------------------------------------


def lost_figure(study: FailureStudy) -> Figure | None:
    """Stacked bars of what was not progress, as shares of wall time."""
    lived = lived_points(study)
    shown = lived[:MAX_BARS]
    labels = labels_of(shown, study)
    buckets = [b for b in LOST if any(p.seconds.get(b, 0.0) > 0.0 for p in shown)]
    if not buckets:
        return None
    traces: list[Trace] = [
        {
            "type": "bar", "orientation": "h", "name": clean(sentence(BUCKETS[bucket])), "y": labels,
            "x": [100 * p.seconds.get(bucket, 0.0) / sum(p.seconds.values()) for p in shown],
            "marker": fill(*LOST[bucket]),
            "hovertemplate": "%{y}<br>%{fullData.name}: %{x:.2f}%<extra></extra>",
        }
        for bucket in buckets
    ]  # fmt: skip
    first = study.points[study.bests[0]] if study.bests else shown[0]
    lost = {b: s for b, s in first.seconds.items() if b != "progress"}
    largest = max(lost, key=lambda b: lost[b], default="")
    takeaway = "Nothing is lost." if not lost else (
        f"{sentence(setting(first, study))}: most goes to {BUCKETS.get(largest, largest)}: "
        f"{format_percent(lost[largest] / sum(first.seconds.values()))} of the time, "
        f"{format_seconds(lost[largest])} of a life."
    )  # fmt: skip
    return Figure(
        id="lost",
        title="What was not progress",
        takeaway=takeaway,
        alt=f"Stacked bars of lost time by cause for {len(shown)} settings.",
        traces=traces,
        layout=layout(barmode="stack", bargap=0.35, xaxis=axis("% of wall time", rangemode="tozero"),
                      yaxis=categories()),
        columns=("setting", "what", "of wall time", "in a life"),
        rows=table(
            (p.setting, BUCKETS.get(b, b), format_percent(s / sum(p.seconds.values())), format_seconds(s))
            for p in lived
            for b, s in p.seconds.items()
        ),
        height=rows_height(len(shown), 30, 150),
        note=some(len(shown), len(lived), "settings"),
    )  # fmt: skip


# -- distributions ------------------------------------------------------------------------------------------


def _steps(values: Sequence[float], index: int, name: str, hover: str, lives: int) -> Trace:
    """The share of lives with at most each value."""
    ranked = sorted(values)
    drawn = thinned([(value, (i + 1) / lives) for i, value in enumerate(ranked)], 400)
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": [x for x, _ in drawn], "y": [100 * y for _, y in drawn],
        "line": {**line(index), "shape": "hv"}, "hovertemplate": f"%{{y:.0f}}% of lives: {hover}<extra></extra>",
    }  # fmt: skip


def completion_figure(study: FailureStudy) -> Figure | None:
    """When lives are done; or, where the clock ends them, how much they have done."""
    lived = lived_points(study)
    shown = alike_points(study)[:MAX_LINES]
    labels = labels_of(shown, study)
    by_time = study.duration_s is None
    traces = []
    for index, (point, label) in enumerate(zip(shown, labels, strict=True)):
        if by_time:
            values = [end / DAY for end in point.completions_s if end is not None]
        else:
            rate = study.duration_s / point.step_s * point.tokens_per_step / 1e9  # type: ignore[operator]
            values = [goodput * rate for goodput in point.goodputs]
        if values:
            traces.append(_steps(values, index, label, "%{x:.4g} days" if by_time else "%{x:.4g}B tokens",
                                 len(point.goodputs)))  # fmt: skip
    first = study.points[study.bests[0]] if study.bests else shown[0]
    names = ("p10", "p50", "p90", "p99")
    return Figure(
        id="completion",
        title="When the work is done" if by_time else f"Work done in {format_seconds(study.duration_s or 0.0)}",
        takeaway=_completion_takeaway(first, study, by_time),
        alt=f"Cumulative distributions over lives for {len(shown)} settings.",
        traces=traces,
        layout=layout(xaxis=axis("days" if by_time else "tokens (billions)"),
                      yaxis=axis("% of lives", range=[0, 101])),
        columns=("setting", *names),
        rows=table((p.setting, *_cells(p.completion_s if by_time else p.tokens, by_time)) for p in lived),
        note=_of_one_size(shown, lived),
    )  # fmt: skip


def _of_one_size(shown: Sequence[PointResult], lived: Sequence[PointResult]) -> str:
    if len(shown) == len(lived):
        return ""
    return f"{shown[0].nodes:,} nodes, MTBF {shown[0].mtbf}; the other settings are in the table."


def _cells(found: Quantiles | None, by_time: bool) -> list[str]:
    if found is None:
        return ["–"] * 4
    values = (found.p10, found.p50, found.p90, found.p99)
    return ["never" if v is None else format_seconds(v) if by_time else format_count(v) for v in values]


def _completion_takeaway(point: PointResult, study: FailureStudy, by_time: bool) -> str:
    found = point.completion_s if by_time else point.tokens
    if found is None:
        return "Not known."
    cells = _cells(found, by_time)
    if by_time:
        least = "" if point.useful_s is None else f"; undisturbed work takes {format_seconds(point.useful_s)}"
        said = f"half of the lives are done after {cells[1]}, nine of ten after {cells[2]}{least}"
    else:
        said = f"half of the lives train on {cells[1]} tokens, nine of ten on at least {cells[0]}"
    return f"{sentence(setting(point, study))}: {said}."


def spares_figure(study: FailureStudy) -> Figure | None:
    """How many spares were enough at once."""
    lived = [point for point in lived_points(study) if point.spares is not None]
    shown: list[PointResult] = []
    for point in _one_of_each_size(lived, study):
        alike = any(p.spares == point.spares and p.nodes == point.nodes for p in shown)
        if not alike and len(shown) < MAX_LINES:
            shown.append(point)
    if not any(any(point.spares_used) for point in lived):
        return None
    labels = labels_of(shown, study)
    traces: list[Trace] = []
    for index, (point, label) in enumerate(zip(shown, labels, strict=True)):
        used, lives = point.spares_used, len(point.spares_used)
        counts = thinned(range(max(used) + 1), 400)
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": label, "x": counts,
            "y": [100 * sum(value <= count for value in used) / lives for count in counts],
            "line": {**line(index), "shape": "hv"}, "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6},
            "hovertemplate": "%{x} spares are enough in %{y:.1f}% of lives<extra></extra>",
        })  # fmt: skip
    first = next((study.points[n] for n in study.bests if study.points[n].spares), lived[0])
    needed = first.spares.p99 if first.spares and first.spares.p99 is not None else 0.0
    half = first.spares.p50 if first.spares and first.spares.p50 is not None else 0.0
    return Figure(
        id="spares",
        title="Spare nodes in use at once",
        takeaway=f"{sentence(setting(first, study))}: {needed:,.0f} spare nodes are enough in 99 of 100 lives, "
        f"{half:,.0f} in half of them.",
        alt="Share of lives in which so many spare nodes were enough.",
        traces=traces,
        layout=layout(xaxis=axis("spare nodes", rangemode="tozero"), yaxis=axis("% of lives", range=[0, 101])),
        columns=("setting", "p50", "p90", "p99"),
        rows=table(
            (p.setting, *("–" if v is None else f"{v:,.0f}" for v in (p.spares.p50, p.spares.p90, p.spares.p99)))
            for p in lived
            if p.spares is not None
        ),
        note="Spares in use at once, at most, in each life, had there been enough of them. Settings with the same "
        "needs share a line; policy wait uses none.",
    )  # fmt: skip


def _one_of_each_size(lived: Sequence[PointResult], study: FailureStudy) -> list[PointResult]:
    """What can be chosen at the first best's size, and its setting at all others."""
    chosen = alike_points(study)
    first = next((study.points[n] for n in study.bests if study.points[n].spares), lived[0])
    same = [p for p in lived if (p.checkpoint, p.policy) == (first.checkpoint, first.policy) and p not in chosen]
    return [first, *same, *(p for p in chosen if p is not first and p.spares is not None)]


def sample_figure(study: FailureStudy) -> Figure | None:
    """What one life did when, a row a kind."""
    sample = study.sample
    if sample is None or not sample.stretches:
        return None
    kinds = list(dict.fromkeys(kind for kind, _, _ in sample.stretches))
    order = sorted(kinds, key=lambda kind: (kind != "work", list(BUCKETS).index(kind) if kind in BUCKETS else 99))
    traces: list[Trace] = []
    for kind in order:
        own = [(start, end) for k, start, end in sample.stretches if k == kind]
        name = clean(sentence("work and saving" if kind == "work" else BUCKETS.get(kind, kind)))
        traces.append({
            "type": "bar", "orientation": "h", "name": name, "y": [name] * len(own),
            "base": [start / DAY for start, _ in own], "x": [(end - start) / DAY for start, end in own],
            "marker": _marker(kind), "showlegend": False,
            "customdata": [format_seconds(end - start) for start, end in own],
            "hovertemplate": "%{fullData.name}<br>from day %{base:.3f}, %{customdata}<extra></extra>",
        })  # fmt: skip
    last = sample.stretches[-1][2]
    point = study.points[sample.point]
    cut = "" if sample.complete else f" The first {format_seconds(last)} are drawn."
    return Figure(
        id="sample",
        title="One life, moment by moment",
        takeaway=f"The life in the middle by goodput of {setting(point, study)} (seed {sample.seed}): "
        f"{sample.failures:,} failures in {format_seconds(sample.end_s)}, goodput {sample.goodput:.1%}.",
        alt=f"Gantt chart of one life of {format_seconds(sample.end_s)} with a row for each kind of time.",
        traces=traces,
        layout=layout(
            barmode="overlay", bargap=0.3, dragmode="zoom",
            xaxis=axis("days", fixedrange=False, range=[0, last / DAY]), yaxis=categories(),
        ),
        columns=("what", "from", "for"),
        rows=table(
            ("work and saving" if kind == "work" else BUCKETS.get(kind, kind), format_seconds(start),
             format_seconds(end - start))
            for kind, start, end in sample.stretches
        ),
        height=rows_height(len(order), 34, 110),
        note="Drag sideways to zoom; double-click to see all." + cut,
    )  # fmt: skip


def _marker(kind: str) -> dict[str, Any]:
    """A bar with an edge, so that the shortest can be seen."""
    index, colour = LOST.get(kind, (0, GREEN))
    return fill(index, colour) | {"line": {"width": 1, "color": colour}}
