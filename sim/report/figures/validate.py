"""The figures of a validation: predicted against measured, histograms of errors, and errors by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from sim.report.figures.common import (
    BLUE,
    GREY,
    ORANGE,
    PALETTE,
    SYMBOLS,
    Figure,
    Trace,
    axis,
    categories,
    clean,
    layout,
    rows_height,
    sentence,
    some,
    table,
    thinned,
)
from sim.report.validate_text import percent, signed
from sim.study.validate.cases import FAMILIES
from sim.study.validate.causes import most_rows
from sim.study.validate.schema import Group, Row, Validation
from sim.units import format_count

GPUS: Final = 7
"""GPUs with a colour of their own; the rest share one."""
BAND: Final = 0.2
"""The band drawn about perfect agreement."""
NEAR: Final = 0.1
"""Errors that a histogram counts as near."""
BIN: Final = 0.05
LIMIT: Final = 1.0
"""Width of a bar of a histogram, and the error from which all go into the last one."""
SHOWN: Final = 30
"""Groups with a bar."""
LONGEST: Final = 70
"""Letters of a group's name."""


def validation_figures(found: Validation) -> dict[str, list[Figure]]:
    """Figures by section of the page; a section without data is an empty list."""
    counted = [row for row in found.rows if row.counted and row.measured and row.predicted]
    present = {row.family for row in counted}
    families = [family for family in FAMILIES if family in present]
    scatters: list[Figure] = []
    histograms: list[Figure] = []
    for number, family in enumerate(families):
        rows = [row for row in counted if row.family == family]
        for unit in dict.fromkeys(row.unit for row in rows):
            same = [row for row in rows if row.unit == unit]
            scatters.append(_scatter(f"scatter-{len(scatters)}", family, str(unit), same))
        histograms.append(_histogram(f"errors-{number}", family, rows))
    return {
        "scatter": scatters,
        "histogram": histograms,
        "groups": [_groups(found.groups)] if found.groups else [],
    }


def _scatter(id_: str, family: str, unit: str, rows: Sequence[Row]) -> Figure:
    """Predicted over measured, both on logarithmic axes, a colour a GPU."""
    by_gpu: dict[str, list[Row]] = {}
    for row in rows:
        by_gpu.setdefault((row.group or "").partition(" / ")[0], []).append(row)
    ordered = sorted(by_gpu, key=lambda gpu: (-len(by_gpu[gpu]), gpu))
    named = {gpu: by_gpu[gpu] for gpu in ordered[:GPUS]}
    others = [row for gpu in ordered[GPUS:] for row in by_gpu[gpu]]
    if others:
        named[f"{len(ordered) - GPUS} other GPUs"] = others
    values = [value for row in rows for value in (row.measured, row.predicted) if value]
    ends = [min(values) / 1.3, max(values) * 1.3]
    traces = [_points(number, gpu, members) for number, (gpu, members) in enumerate(named.items())]
    traces += [_line(ends, 1 + band) for band in (0.0, BAND, -BAND)]
    inside = sum(abs(row.error or 0.0) <= BAND for row in rows) / len(rows)
    takeaway = f"{inside:.0%} of {len(rows):,} rows are within {BAND:.0%} of what was measured."
    shown = sum(len(trace["x"]) for trace in traces[: len(named)])
    return Figure(
        id=id_, title=f"{sentence(family)} ({unit})", takeaway=takeaway,
        alt=f"Predicted against measured {unit} of {family}. {takeaway}", traces=traces,
        layout=layout(
            xaxis=axis(f"measured, {unit}", type="log", nticks=6, exponentformat="power"),
            yaxis=axis(f"predicted, {unit}", type="log", nticks=6, exponentformat="power"), hovermode="closest",
            showlegend=True,
        ),
        columns=("row", "group", f"measured, {unit}", "predicted", "error"),
        rows=table(
            (row.id, row.group or "", format_count(row.measured or 0), format_count(row.predicted or 0),
             signed(row.error or 0)) for row in rows
        ),
        height=420, note=some(shown, len(rows), "rows"), half=True,
    )  # fmt: skip


def _points(number: int, gpu: str, rows: Sequence[Row]) -> Trace:
    drawn = thinned(rows, 600)
    colour = PALETTE[number] if number < GPUS else GREY
    return {
        "type": "scatter", "mode": "markers", "name": clean(gpu),
        "x": [row.measured for row in drawn], "y": [row.predicted for row in drawn],
        "customdata": [[clean(row.id), signed(row.error or 0.0)] for row in drawn],
        "marker": {"color": colour, "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 6, "opacity": 0.7},
        "hovertemplate": "%{customdata[0]}: measured %{x:.4~s}, predicted %{y:.4~s} (%{customdata[1]})"
                         "<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _line(ends: Sequence[float], factor: float) -> Trace:
    return {
        "type": "scatter", "mode": "lines", "x": list(ends), "y": [end * factor for end in ends], "showlegend": False,
        "line": {"color": GREY, "width": 1, "dash": "solid" if factor == 1 else "dot"}, "hoverinfo": "skip",
        "name": "equal" if factor == 1 else f"{factor - 1:+.0%}",
    }  # fmt: skip


def _histogram(id_: str, family: str, rows: Sequence[Row]) -> Figure:
    """How many rows are how far off."""
    bins = round(2 * LIMIT / BIN)
    counts = [0] * bins
    for row in rows:
        place = math.floor(((row.error or 0.0) + LIMIT) / BIN)
        counts[min(max(place, 0), bins - 1)] += 1
    middles = [-LIMIT + (number + 0.5) * BIN for number in range(bins)]
    labels = [f"{low - BIN / 2:+.0%} to {low + BIN / 2:+.0%}" for low in middles]
    labels[-1] = f"above {LIMIT - BIN:+.0%}"
    near = sum(abs(row.error or 0.0) <= NEAR for row in rows) / len(rows)
    takeaway = f"{near:.0%} of {len(rows):,} rows are within {NEAR:.0%}."
    return Figure(
        id=id_, title=sentence(family), takeaway=takeaway, alt=f"Histogram of errors of {family}. {takeaway}",
        traces=[{
            "type": "bar", "x": middles, "y": counts, "width": [BIN * 0.95] * bins, "name": family,
            "marker": {"color": [BLUE if abs(middle) < BAND else ORANGE for middle in middles]},
            "customdata": labels, "hovertemplate": "%{customdata}: %{y}<extra></extra>",
        }],
        layout=layout(
            xaxis=axis("predicted / measured - 1", tickformat="+.0%", range=[-LIMIT, LIMIT]), yaxis=axis("rows"),
            showlegend=False, bargap=0,
        ),
        columns=("error", "rows"), rows=table(zip(labels, map(str, counts), strict=True)), height=240, half=True,
    )  # fmt: skip


def _groups(groups: Sequence[Group]) -> Figure:
    """The median error and the bias of the groups of most rows."""
    shown = sorted(most_rows(groups, SHOWN), key=lambda group: group.median_abs_error)
    labels = [clean(group.name, LONGEST) for group in shown]
    far = sum(group.median_abs_error > BAND for group in groups)
    takeaway = f"{far} of {len(groups):,} groups are more than {BAND:.0%} off in the median."
    bars: dict[str, Any] = {"type": "bar", "orientation": "h", "y": labels}
    traces: list[Trace] = [
        {**bars, "x": [group.median_abs_error for group in shown], "name": "median", "marker": {"color": BLUE},
         "customdata": [clean(group.name) for group in shown],
         "hovertemplate": "%{customdata}: median %{x:.1%}<extra></extra>"},
        {"type": "scatter", "mode": "markers", "y": labels, "x": [group.bias for group in shown], "name": "bias",
         "marker": {"color": ORANGE, "symbol": "diamond", "size": 9},
         "customdata": [clean(group.name) for group in shown],
         "hovertemplate": "%{customdata}: bias %{x:+.1%}<extra></extra>"},
    ]  # fmt: skip
    return Figure(
        id="groups", title="Errors by GPU, stack and kind", takeaway=takeaway,
        alt=f"Median error and bias of the groups with most rows. {takeaway}", traces=traces,
        layout=layout(xaxis=axis("error", tickformat="+.0%"), yaxis=categories(), hovermode="closest"),
        columns=("group", "rows", "median", "90th percentile", "bias"),
        rows=table(
            (group.name, f"{group.n:,}", percent(group.median_abs_error), percent(group.p90_abs_error),
             signed(group.bias)) for group in groups
        ),
        height=rows_height(len(shown)), note=some(len(shown), len(groups), "groups"),
    )  # fmt: skip
