"""The figures of a study of failures; each is a function from the study to a Figure or None. Goodput is drawn here."""

from __future__ import annotations

from collections.abc import Sequence

from sim.report.failures_text import percent, points, setting
from sim.report.figures.common import (
    BLUE,
    GREY,
    RED,
    SYMBOLS,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    layout,
    line,
    rows_height,
    some,
    table,
)
from sim.report.figures.failures_lives import completion_figure, lost_figure, sample_figure, spares_figure
from sim.report.figures.failures_map import map_figure
from sim.report.figures.failures_points import MAX_BARS, MAX_LINES, labels_of, lived_points, short_name
from sim.study.failures_schema import FailureStudy, PointResult
from sim.units import format_count, format_percent, format_seconds


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


def goodput_figure(study: FailureStudy) -> Figure | None:
    """A dot a point with its interval, and Daly's law beside it."""
    lived = lived_points(study)
    shown = lived[:MAX_BARS]
    labels = labels_of(shown, study)
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
    lived = lived_points(study)
    others = study.model_copy(update={"axes": [name for name in study.axes if name != "nodes"]})
    lines: dict[str, list[PointResult]] = {}
    for point in lived:
        name = short_name(point, others) if others.axes else "simulated"
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
