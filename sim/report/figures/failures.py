"""The figures of a study of failures; each is a function from the study to a Figure or None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from sim.report.failures_text import BUCKETS, percent, points, setting
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
    Names,
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
from sim.report.values import DAY
from sim.study.failures_schema import FailureStudy, PointResult, Quantiles
from sim.units import format_count, format_percent, format_seconds

MAX_BARS: Final = 40
"""Points of a figure with a row each."""
MAX_LINES: Final = 8
"""Points of a figure with a line each."""

#: Bucket -> pattern and colour; in bars in this order.
LOST: Final[dict[str, tuple[int, str]]] = {
    "redone": (0, RED), "checkpoint": (1, BLUE), "degraded": (2, YELLOW), "detection": (3, PURPLE),
    "restart": (4, ORANGE), "down": (5, GREY), "stalled": (6, TEAL), "startup": (7, SKY), "shrink": (8, LILAC),
    "grow": (9, TAN), "migrate": (1, PURPLE),
}  # fmt: skip


def failure_figures(study: FailureStudy) -> dict[str, list[Figure]]:
    """Figures by section of the page; a section without data is an empty list."""
    made: dict[str, list[Figure | None]] = {
        "goodput": [goodput_figure(study), size_figure(study)],
        "lost": [lost_figure(study)],
        "map": [map_figure(study)],
        "completion": [completion_figure(study)],
        "spares": [spares_figure(study)],
        "sample": [sample_figure(study)],
    }
    return {section: [figure for figure in figures if figure] for section, figures in made.items()}


def _lived(study: FailureStudy) -> list[PointResult]:
    return [point for point in study.points if point.failed is None and point.goodput is not None]


def _labels(shown: Sequence[PointResult], study: FailureStudy) -> list[str]:
    """A short name for each point, different where points are."""
    label = Names()
    return [label(_short(point, study)) for point in shown]


def _short(point: PointResult, study: FailureStudy) -> str:
    every = "never" if point.interval_s is None else format_seconds(point.interval_s)
    words = {
        "nodes": f"{point.nodes:,} n", "mtbf": point.mtbf, "policy": point.policy,
        "checkpoint": "auto" if point.checkpoint == "auto" else every,
    }  # fmt: skip
    return ", ".join(words[name] for name in study.axes) or "as given"


def _alike(study: FailureStudy) -> list[PointResult]:
    """The points of the first best's size and time between failures, which differ in what one can choose."""
    lived = _lived(study)
    first = study.points[study.bests[0]] if study.bests else lived[0]
    return [point for point in lived if point.nodes == first.nodes and point.mtbf == first.mtbf]


# -- goodput ------------------------------------------------------------------------------------------------


def goodput_figure(study: FailureStudy) -> Figure | None:
    """A dot a point with its interval, and Daly's law beside it."""
    lived = _lived(study)
    shown = lived[:MAX_BARS]
    labels = _labels(shown, study)
    means = [p.goodput.mean * 100 if p.goodput else 0.0 for p in shown]
    low = [p.goodput.low if p.goodput else None for p in shown]
    high = [p.goodput.high if p.goodput else None for p in shown]
    dots: Trace = {
        "type": "scatter", "mode": "markers", "name": "simulated, 95%", "y": labels, "x": means,
        "marker": {"color": BLUE, "size": 10, "symbol": "circle"},
        "error_x": {
            "type": "data", "symmetric": False, "color": BLUE, "thickness": 2,
            "array": [(h * 100 - m) if h is not None else 0.0 for h, m in zip(high, means, strict=True)],
            "arrayminus": [(m - lo * 100) if lo is not None else 0.0 for lo, m in zip(low, means, strict=True)],
        },
        "hovertemplate": "%{y}<br>goodput %{x:.2f}%<extra></extra>",
    }  # fmt: skip
    traces = [dots]
    daly = [(label, p.goodput_daly) for label, p in zip(labels, shown, strict=True) if p.goodput_daly is not None]
    if daly:
        traces.append({
            "type": "scatter", "mode": "markers", "name": "Daly's law, restart", "y": [label for label, _ in daly],
            "x": [value * 100 for _, value in daly],
            "marker": {"color": RED, "size": 12, "symbol": "line-ns-open", "line": {"width": 3}},
            "hovertemplate": "%{y}<br>Daly %{x:.2f}%<extra></extra>",
        })  # fmt: skip
    return Figure(
        id="goodput",
        title="Goodput of each setting",
        takeaway=_goodput_takeaway(lived, study),
        alt=f"Dots of goodput in percent with 95% intervals for {len(shown)} settings.",
        traces=traces,
        layout=layout(xaxis=axis("goodput (% of wall time)"), yaxis=categories()),
        columns=("setting", "goodput", "behind the best", "Daly", "MTBF of job", "failures", "tokens/s"),
        rows=table(
            (
                p.setting, percent(p.goodput) if p.goodput else "", points(p.behind) if p.behind else "–",
                "–" if p.goodput_daly is None else format_percent(p.goodput_daly),
                "–" if p.job_mtbf_s is None else format_seconds(p.job_mtbf_s),
                format_count(p.failures.mean) if p.failures else "", format_count(p.tokens_per_s or 0.0),
            )
            for p in lived
        ),
        height=rows_height(len(shown), 30, 120),
        note=some(len(shown), len(lived), "settings"),
    )  # fmt: skip


def _goodput_takeaway(lived: Sequence[PointResult], study: FailureStudy) -> str:
    best = max(lived, key=lambda p: p.goodput.mean if p.goodput else 0.0)
    worst = min(lived, key=lambda p: p.goodput.mean if p.goodput else 0.0)
    assert best.goodput is not None
    assert worst.goodput is not None
    if best is worst:
        daly = "" if best.goodput_daly is None else f"; Daly's law says {best.goodput_daly:.1%}"
        return f"{percent(best.goodput)} of the time is progress{daly}."
    return (
        f"From {percent(worst.goodput)} with {setting(worst, study)} to {percent(best.goodput)} with "
        f"{setting(best, study)}."
    )


def size_figure(study: FailureStudy) -> Figure | None:
    """Goodput against nodes, a line for each setting of the others."""
    if "nodes" not in study.axes:
        return None
    lived = _lived(study)
    others = study.model_copy(update={"axes": [name for name in study.axes if name != "nodes"]})
    lines: dict[str, list[PointResult]] = {}
    for point in lived:
        name = _short(point, others) if others.axes else "simulated"
        lines.setdefault(name, []).append(point)
    label, traces = Names(), []
    for index, (name, own) in enumerate(list(lines.items())[:MAX_LINES]):
        own = sorted(own, key=lambda p: p.nodes)
        traces.append(_size_line(index, label(name), own))
    first = sorted(next(iter(lines.values())), key=lambda p: p.nodes)
    if all(p.goodput_daly is not None for p in first):
        traces.append({
            "type": "scatter", "mode": "lines", "name": "Daly's law, restart", "x": [p.nodes for p in first],
            "y": [(p.goodput_daly or 0.0) * 100 for p in first], "line": {"color": GREY, "dash": "dot", "width": 2},
            "hovertemplate": "%{x} nodes<br>Daly %{y:.2f}%<extra></extra>",
        })  # fmt: skip
    small, large = first[0], first[-1]
    assert small.goodput is not None
    assert large.goodput is not None
    ticks = sorted({p.nodes for p in lived})
    return Figure(
        id="size",
        title="Goodput against size",
        takeaway=f"From {small.nodes:,} to {large.nodes:,} nodes goodput goes from {percent(small.goodput)} to "
        f"{percent(large.goodput)}: more nodes fail more often.",
        alt=f"Lines of goodput against nodes, from {small.nodes} to {large.nodes}.",
        traces=traces,
        layout=layout(
            xaxis=axis("nodes", type="log", tickvals=ticks, ticktext=[f"{n:,}" for n in ticks]),
            yaxis=axis("goodput (%)"),
        ),
        columns=("nodes", "GPUs", "setting", "goodput", "tokens/s"),
        rows=table(
            (f"{p.nodes:,}", f"{p.gpus:,}", p.setting, percent(p.goodput) if p.goodput else "",
             format_count(p.tokens_per_s or 0.0))
            for p in lived
        ),
        note=some(min(len(lines), MAX_LINES), len(lines), "settings"),
    )  # fmt: skip


def _size_line(index: int, name: str, own: Sequence[PointResult]) -> Trace:
    means = [p.goodput.mean * 100 if p.goodput else 0.0 for p in own]
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": [p.nodes for p in own], "y": means,
        "line": line(index), "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
        "error_y": {
            "type": "data", "thickness": 1.5,
            "array": [
                p.goodput.high * 100 - m if p.goodput and p.goodput.high is not None else 0.0
                for p, m in zip(own, means, strict=True)
            ],
        },
        "hovertemplate": "%{x} nodes<br>%{fullData.name}: %{y:.2f}%<extra></extra>",
    }  # fmt: skip


# -- where time went ----------------------------------------------------------------------------------------


def lost_figure(study: FailureStudy) -> Figure | None:
    """Stacked bars of what was not progress, as shares of wall time."""
    lived = _lived(study)
    shown = lived[:MAX_BARS]
    labels = _labels(shown, study)
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


def _apart(values: Sequence[float]) -> list[float]:
    """Those of rising values whose labels do not meet on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or value / kept[-1] > 1.35:
            kept.append(value)
    return kept


def map_figure(study: FailureStudy) -> Figure | None:
    """Goodput over interval and time between failures, with the laws' lines and the best cell of each row."""
    found = study.map
    if found is None:
        return None
    across = [math.log10(value) for value in found.intervals_s]
    down = [math.log10(row.mtbf_s) for row in found.rows]
    edge = across[0] - 0.1, across[-1] + 0.1
    cells = [[100 * value for value in row.goodput] for row in found.rows]
    heat: Trace = {
        "type": "heatmap", "x": across, "y": down, "z": cells, "colorscale": "Cividis", "name": "goodput",
        "colorbar": {"title": {"text": "goodput (%)"}, "thickness": 12}, "showlegend": False,
        "customdata": [[f"{format_seconds(value)}, MTBF {format_seconds(row.mtbf_s)}" for value in found.intervals_s]
                       for row in found.rows],
        "hovertemplate": "every %{customdata}<br>goodput %{z:.2f}%<extra></extra>",
    }  # fmt: skip

    def law(name: str, values: Sequence[float], dash: str, colour: str) -> Trace:
        inside = [(math.log10(x), y) for x, y in zip(values, down, strict=True) if edge[0] <= math.log10(x) <= edge[1]]
        return {
            "type": "scatter", "mode": "lines", "name": name, "x": [x for x, _ in inside], "y": [y for _, y in inside],
            "line": {"color": colour, "dash": dash, "width": 3}, "hovertemplate": f"{name}<extra></extra>",
        }  # fmt: skip

    best: Trace = {
        "type": "scatter", "mode": "markers", "name": "best simulated", "x": [across[row.best] for row in found.rows],
        "y": down, "marker": {"symbol": "diamond", "size": 12, "color": "#fff", "line": {"color": "#000", "width": 2}},
        "hovertemplate": "best simulated<extra></extra>",
    }  # fmt: skip
    ticks = _apart(found.intervals_s)
    base = next((row for row in found.rows if math.isclose(row.factor, 1.0)), found.rows[0])
    of = study.points[found.point]
    return Figure(
        id="map",
        title="Goodput over interval and MTBF",
        takeaway=f"At {format_seconds(base.mtbf_s)} between failures of the job Young's law says to save every "
        f"{format_seconds(base.young_s)}, Daly's {format_seconds(base.daly_s)}; of the intervals simulated "
        f"{format_seconds(found.intervals_s[base.best])} is best, with {base.goodput[base.best]:.1%}.",
        alt="Heat map of goodput over checkpoint interval and mean time between failures, with the lines of Young and "
        "Daly and the best simulated interval of each row.",
        traces=[
            heat, law("Young", [row.young_s for row in found.rows], "dot", PURPLE),
            law("Daly", [row.daly_s for row in found.rows], "solid", RED), best,
        ],
        layout=layout(
            xaxis=axis("work between checkpoints", range=list(edge), tickvals=[math.log10(v) for v in ticks],
                       ticktext=[format_seconds(v) for v in ticks], showgrid=False),
            yaxis=axis("MTBF of the job", tickvals=down, showgrid=False,
                       ticktext=[format_seconds(row.mtbf_s) for row in found.rows]),
        ),
        columns=("MTBF of the job", "interval", "goodput", "Young", "Daly"),
        rows=table(
            (format_seconds(row.mtbf_s), format_seconds(value), f"{row.goodput[i]:.2%}{' (best)' * (i == row.best)}",
             format_seconds(row.young_s), format_seconds(row.daly_s))
            for row in found.rows
            for i, value in enumerate(found.intervals_s)
        ),
        height=400,
        note=f"{of.nodes:,} nodes, policy {of.policy}; {found.seeds} lives a cell over a long run, the same faults in "
        "every cell of a row. Around the best, neighbours may differ by less than their error.",
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
    lived = _lived(study)
    shown = _alike(study)[:MAX_LINES]
    labels = _labels(shown, study)
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
    lived = [point for point in _lived(study) if point.spares is not None]
    shown: list[PointResult] = []
    for point in _one_of_each_size(lived, study):
        alike = any(p.spares == point.spares and p.nodes == point.nodes for p in shown)
        if not alike and len(shown) < MAX_LINES:
            shown.append(point)
    if not any(any(point.spares_used) for point in lived):
        return None
    labels = _labels(shown, study)
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
    chosen = _alike(study)
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
