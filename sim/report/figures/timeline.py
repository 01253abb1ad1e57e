"""The run over time: GPUs and links in use, queues, batches and KV memory.

A few series are lines; many are a heat map, a row each, because more than four lines cross each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sim.report.figures.common import (
    MAX_POINTS,
    RED,
    Figure,
    Names,
    Trace,
    axis,
    binned,
    categories,
    clean,
    layout,
    line,
    mean,
    rows_height,
    sentence,
    some,
    table,
)
from sim.report.values import DAY
from sim.results.schema import Incident, Result
from sim.units import format_count, format_percent, format_seconds

MAX_LINES: Final = 4
MAX_HEAT_ROWS: Final = 64
HEAT_CELLS: Final = 24_000
LINE_POINTS: Final = 1000
PANEL_NAMES: Final = {
    "waiting": "waiting requests",
    "running": "running requests",
    "kv_occupancy": "KV cache in use",
    "output_tokens_per_s": "tokens per second",
    "up": "replicas up",
    "training": "at work",
    "recovery": "coming back",
    "down": "waiting for repair",
}
AT_WORK: Final = {
    "serving": "Serving, a GPU is at work from the start of a pass to its end, collectives and launches included; its "
    "utilisation leaves collectives out, and what arithmetic and memory took also launches.",
    "training": "Training, a GPU is at work while it computes or launches: its utilisation, collectives left out.",
}
"""By kind of job, what the share of work over time is, against those told elsewhere on the page."""
_TABLE_BINS: Final = 20
MAX_BANDS: Final = 100
LONG_RUN: Final = 3 * DAY
"""Runs that last longer have their time axes in days."""


def device_figure(result: Result) -> Figure | None:
    """Share of time that each class of GPUs was at work."""
    note = " ".join(AT_WORK[kind] for kind in AT_WORK if any(job.kind == kind for job in result.jobs))
    return _shares_figure(result, result.timeline.devices, "devices", "GPUs over time", "at work", note)


def link_figure(result: Result) -> Figure | None:
    """Utilisation of each class of links over time."""
    trains = any(job.kind == "training" for job in result.jobs)
    note = "Of a training job's many steps the mean is drawn, over the time that it works." if trains else ""
    return _shares_figure(result, result.timeline.links, "links", "Links over time", "in use", note)


def job_figures(result: Result) -> list[Figure]:
    """A figure a job: its series, one above the other."""
    made = []
    for index, (job, series) in enumerate(result.timeline.jobs.items()):
        kept = {name: values for name, values in series.items() if values}
        if kept:
            made.append(_job_figure(result, index, job, kept))
    return made


def _shares_figure(
    result: Result, series: Mapping[str, Sequence[float]], id_: str, title: str, verb: str, note: str = ""
) -> Figure | None:
    kept = {name: values for name, values in series.items() if values}
    if not kept:
        return None
    few = len(kept) <= MAX_LINES
    names = dict(list(kept.items())[:MAX_HEAT_ROWS])
    make = _lines if few else _heat
    unit = _unit(result)
    traces, changes, size = make(names, result.timeline.bin_s / unit.seconds, verb, unit.symbol)
    averages = {name: mean(values) for name, values in kept.items()}
    bins = _bin_note(size, result.timeline.bin_s)
    notes = (note, some(len(names), len(kept), "classes"), bins, _band_note(result, framed=not few))
    return Figure(
        id=id_,
        title=title,
        takeaway=_shares_takeaway(averages, kept, verb),
        alt=f"{title}: mean share {verb} of "
        + ", ".join(f"{name} {format_percent(value)}" for name, value in list(averages.items())[:20]),
        traces=traces,
        layout=layout(xaxis=_time(unit), shapes=_bands(result, unit, framed=not few), **changes),
        columns=("class", "from", "to", f"mean share {verb}"),
        rows=_share_rows(kept, result.timeline.bin_s),
        height=300 if few else rows_height(len(names), 26, 110),
        note=" ".join(filter(None, notes)),
    )


def _outages(result: Result, job: str | None) -> list[Incident]:
    """The outages of a job, or of all."""
    return [incident for one in result.jobs if job in (None, one.name) for incident in one.incidents]


def _stops(result: Result, job: str | None) -> list[tuple[float, float]]:
    """Stretches in which a training job was down or coming back for most of a bin, from its series."""
    width, found = result.timeline.bin_s, list[tuple[float, float]]()
    for name, series in result.timeline.jobs.items():
        parts = [series[key] for key in ("recovery", "down") if series.get(key)]
        if job not in (None, name) or "training" not in series or not parts:
            continue
        for at, shares in enumerate(zip(*parts, strict=False)):
            if sum(shares) <= 0.5:
                continue
            if found and found[-1][1] == at * width:
                found[-1] = (found[-1][0], (at + 1) * width)
            else:
                found.append((at * width, (at + 1) * width))
    return found


def _down(result: Result, job: str | None) -> list[tuple[float, float]]:
    return [*((one.start_s, one.up_s) for one in _outages(result, job)), *_stops(result, job)]


def _bands(result: Result, unit: _Unit, job: str | None = None, *, framed: bool = False) -> list[dict[str, Any]]:
    """A band for each stretch that a replica or a training job was down: shaded, or over a heat map ``framed``."""
    look: dict[str, Any] = {"layer": "below", "line": {"width": 0}, "fillcolor": RED, "opacity": 0.15}
    if framed:
        look = {"layer": "above", "line": {"width": 1.5, "color": RED, "dash": "dot"}}
    return [
        {"type": "rect", "xref": "x", "x0": start / unit.seconds, "x1": end / unit.seconds, "yref": "paper", "y0": 0,
         "y1": 1, **look}
        for start, end in _down(result, job)[:MAX_BANDS]
    ]  # fmt: skip


def _band_note(result: Result, job: str | None = None, *, framed: bool = False) -> str:
    found = len(_down(result, job))
    if not found:
        return ""
    who = "a replica is down" if _outages(result, job) else "training is down or coming back for most of a bin"
    return f"{'Framed' if framed else 'Shaded'}: {who}." + (f" The first {MAX_BANDS}." if found > MAX_BANDS else "")


class _Unit(NamedTuple):
    seconds: float
    symbol: str
    name: str


def _unit(result: Result) -> _Unit:
    """What the time axis counts in: seconds, or days where a run is long."""
    return _Unit(DAY, "d", "days") if result.simulated_s > LONG_RUN else _Unit(1.0, "s", "s")


def _time(unit: _Unit, **changes: Any) -> dict[str, Any]:
    return axis(f"simulated time ({unit.name})", fixedrange=False, **changes)


def _lines(
    series: Mapping[str, Sequence[float]], step: float, verb: str, unit: str
) -> tuple[list[Trace], dict[str, Any], int]:
    traces, size = [], 1
    for index, (name, values) in enumerate(series.items()):
        points, size = binned(values, LINE_POINTS)
        trace = _line_trace(name, points, step * size, index)
        trace["hovertemplate"] = f"%{{x:.4~s}}{unit}: %{{y:.1%}}<extra>%{{fullData.name}}</extra>"
        traces.append(trace)
    y = axis(f"share {verb}", tickformat=".0%", range=[0, 1.02])
    return traces, {"yaxis": y, "hovermode": "closest", "showlegend": True, "dragmode": "zoom"}, size


def _line_trace(name: str, points: Sequence[float], step: float, index: int) -> Trace:
    """Steps would hide each other; a point stands in the middle of its bin."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": clean(name),
        "x": [(at + 0.5) * step for at in range(len(points))],
        "y": list(points),
        "line": line(index),
    }


def _heat(
    series: Mapping[str, Sequence[float]], step: float, verb: str, unit: str
) -> tuple[list[Trace], dict[str, Any], int]:
    limit = min(MAX_POINTS, HEAT_CELLS // len(series), 300)
    label = Names()
    columns = max(map(len, series.values()))
    size = max(1, math.ceil(columns / limit))
    heights = [binned(values, math.ceil(len(values) / size))[0] for values in series.values()]
    trace: Trace = {
        "type": "heatmap",
        "z": heights,
        "y": [label(name) for name in series],
        "x0": 0.5 * step * size,
        "dx": step * size,
        "zmin": 0,
        "zmax": _top(heights),
        "colorscale": "Cividis",
        "ygap": 2,
        "colorbar": {
            "tickformat": ".0%",
            "thickness": 10,
            "outlinewidth": 0,
            "title": {"text": verb, "font": {"size": 12}},
        },
        "hovertemplate": f"%{{y}}<br>%{{x:.4~s}}{unit}: %{{z:.1%}}<extra></extra>",
    }
    return [trace], {"yaxis": categories(), "dragmode": "zoom"}, size


def _top(heights: Sequence[Sequence[float]]) -> float:
    """The end of the colour scale: the next tenth above the highest value."""
    peak = max(max(values) for values in heights)
    return min(1.0, max(0.1, math.ceil(peak * 10) / 10))


def _shares_takeaway(averages: Mapping[str, float], series: Mapping[str, Sequence[float]], verb: str) -> str:
    most = max(averages, key=lambda name: averages[name])
    least = min(averages, key=lambda name: averages[name])
    peak = max(series[most])
    if most == least:
        return f"{most} was {verb} {format_percent(averages[most])} of the time on average."
    if averages[most] - averages[least] < 0.01:
        return f"All classes were about equally {verb}: {format_percent(averages[most])} on average."
    top = f", {format_percent(peak)} at its peak" if peak - averages[most] >= 0.01 else ""
    return (
        f"{most} was {verb} most: {format_percent(averages[most])} on average{top}; "
        f"{least} least, {format_percent(averages[least])}."
    )


def _bin_note(size: int, step: float) -> str:
    return f"Each point is the mean of {size} bins ({format_seconds(size * step)})." if size > 1 else ""


def _share_rows(series: Mapping[str, Sequence[float]], step: float) -> list[tuple[str, ...]]:
    """The series in coarser bins: twenty a class."""
    return table(
        (name, *map(format_seconds, (at * step * size, (at + 1) * step * size)), format_percent(value))
        for name, values in series.items()
        for points, size in [binned(values, _TABLE_BINS)]
        for at, value in enumerate(points)
    )


def _job_figure(result: Result, number: int, job: str, series: Mapping[str, Sequence[float]]) -> Figure:
    unit = _unit(result)
    traces, changes = _panels(series, result.timeline.bin_s / unit.seconds, unit.symbol)
    peaks = {name: max(values) for name, values in series.items()}
    averages = {name: mean(values) for name, values in series.items()}
    words = [
        f"{_panel(n)} {_amount(averages[n], peaks[n])} on average, {_amount(peaks[n], peaks[n])} in the fullest bin"
        for n in series
    ]
    bins = f"Points are means of bins of {format_seconds(result.timeline.bin_s)} or more: less than the most at once."
    return Figure(
        id=f"job-{number}",
        title=f"{'Training and recovery' if 'training' in series else 'Queue, batch and KV cache'} over time: {job}",
        takeaway=sentence("; ".join(words)) + ".",
        alt=f"Panels over simulated time for job {job}: " + "; ".join(words),
        traces=traces,
        layout=layout(
            xaxis=_time(unit, anchor=traces[-1]["yaxis"]), showlegend=False, dragmode="zoom",
            shapes=_bands(result, unit, job), **changes,
        ),
        columns=("series", "from", "mean"),
        rows=_job_rows(series, result.timeline.bin_s),
        height=80 + 130 * len(series),
        note=" ".join(filter(None, (bins, _band_note(result, job)))),
    )


def _panel(name: str) -> str:
    return PANEL_NAMES.get(name, name.replace("_", " "))


def _amount(value: float, peak: float) -> str:
    return format_percent(value) if peak <= 1 else format_count(value)


def _panels(series: Mapping[str, Sequence[float]], step: float, unit: str) -> tuple[list[Trace], dict[str, Any]]:
    """One vertical axis a series, stacked from the top, on a common time."""
    traces: list[Trace] = []
    changes: dict[str, Any] = {}
    part = 1 / len(series)
    for index, (name, values) in enumerate(series.items()):
        points, size = binned(values, LINE_POINTS)
        suffix = "" if index == 0 else str(index + 1)
        trace = _line_trace(name, points, step * size, index)
        trace["line"]["dash"] = "solid"
        trace |= {"yaxis": f"y{suffix}", "fill": "tozeroy", "name": clean(_panel(name))}
        trace["hovertemplate"] = f"%{{x:.4~s}}{unit}: %{{y:.4~g}}<extra>%{{fullData.name}}</extra>"
        traces.append(trace)
        top = 1 - index * part
        format_ = ".0%" if max(values) <= 1 else "~s"
        changes[f"yaxis{suffix}"] = axis(
            clean(_panel(name), 24),
            domain=[top - part * 0.8, top],
            tickformat=format_,
            rangemode="tozero",
            nticks=4,
        )
    return traces, changes


def _job_rows(series: Mapping[str, Sequence[float]], step: float) -> list[tuple[str, ...]]:
    return table(
        (_panel(name), format_seconds(at * step * size), _amount(value, max(values)))
        for name, values in series.items()
        for points, size in [binned(values, 60)]
        for at, value in enumerate(points)
    )
