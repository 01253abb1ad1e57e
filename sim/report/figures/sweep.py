"""The figures of a sweep: Pareto fronts, what each axis moves, and a metric along one axis or over two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sim.report.figures.common import (
    BLUE,
    GREY,
    MAX_POINTS,
    ORANGE,
    RED,
    SYMBOLS,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    clean,
    fill,
    layout,
    line,
    log_scale,
    rows_height,
    some,
    table,
    thinned,
)
from sim.report.sweep_words import COLUMNS, axis_name, figure_text, setting
from sim.report.values import joined, named, write
from sim.study.sweep_schema import AxisEffect, Map, ParetoFront, SweepPoint, SweepStudy

UNITS: Final = {
    "output_tokens_per_s": "tokens/s",
    "tokens_per_s": "tokens/s trained on",
    "tokens_per_s_per_user": "tokens/s that one user sees",
    "usd_per_million_tokens": "USD per million tokens",
    "usd_per_hour": "USD per hour",
    "ttft_s.p50": "seconds to the first token (p50)",
    "tpot_s.p50": "seconds a token (p50)",
    "step_time_s": "seconds a step",
}
"""What an axis of a figure counts."""
MOST_CELLS: Final = 400
"""Cells of a heat map that carry their number."""
LIGHT: Final = 0.45
"""From this share of its range on, Cividis is light enough for dark letters."""
STATES: Final = {"stable": "circle", "saturated": "diamond", "overloaded": "x", "disrupted": "cross"}


def sweep_figures(study: SweepStudy) -> dict[str, list[Figure]]:
    """Figures by section of the page."""
    moves = [_tornado(study, name, effects) for name, effects in study.sensitivity.items()]
    if len(study.axes) == 1:
        over = [_along(study, name, effects[0]) for name, effects in study.sensitivity.items() if effects]
        moves = []
    else:
        over = [_map(study, name, found) for name, found in study.heat_map.items()]
    made: dict[str, Sequence[Figure | None]] = {
        "front": [_front(study, number, front) for number, front in enumerate(study.pareto)],
        "moves": moves,
        "over": over,
    }
    return {section: [figure for figure in figures if figure] for section, figures in made.items()}


def _unit(name: str) -> str:
    return UNITS.get(name, COLUMNS.get(name, name))


def _title(name: str) -> str:
    metric, _, part = name.partition(".")
    return f"{named(metric)}, {part}" if part else named(metric)


# -- fronts -------------------------------------------------------------------------------------------------


def _front(study: SweepStudy, number: int, front: ParetoFront) -> Figure | None:
    """All points by cost and value, and the line of those that none beats in both."""
    points = [p for p in study.points if None not in (p.metrics.get(front.cost), p.metrics.get(front.value))]
    if len(points) < 2 or not front.points:
        return None
    by_number = {p.point: p for p in points}
    best = [by_number[n] for n in front.points if n in by_number]
    shown, unbeaten = thinned(points, MAX_POINTS), set(front.points)
    hover = "point %{customdata}<extra>%{fullData.name}</extra>"

    def drawn(chosen: Sequence[SweepPoint], **more: object) -> Trace:
        words = [
            clean(f"{p.point}: {setting(study, p)}; {write(front.value, p.metrics[front.value])}, "
                  f"{write(front.cost, p.metrics[front.cost])}", 200)
            for p in chosen
        ]  # fmt: skip
        x, y = ([p.metrics[key] for p in chosen] for key in (front.value, front.cost))
        return {"type": "scatter", "x": x, "y": y, "customdata": words, "hovertemplate": hover, **more}

    traces: list[Trace] = []
    for place, state in enumerate(dict.fromkeys(p.state or "stable" for p in shown)):
        symbol = STATES.get(state, SYMBOLS[place % len(SYMBOLS)])
        mine = [p for p in shown if (p.state or "stable") == state]
        marker = {"symbol": symbol, "size": 9, "color": RED if state in ("overloaded", "disrupted") else GREY}
        traces.append(drawn(mine, mode="markers", name=state, marker=marker))
    traces.append(drawn(
        best, mode="lines+markers", name="Pareto front", line=line(0), marker={"color": BLUE, "size": 10},
    ))  # fmt: skip
    low, high = best[0], best[-1]
    ends = [f"{write(front.cost, p.metrics[front.cost])} for {write(front.value, p.metrics[front.value])} "
            f"({setting(study, p)})" for p in (low, high)]  # fmt: skip
    takeaway = (
        f"One point beats all others in both: {ends[0]}." if len(best) == 1
        else f"No point beats these {len(best):,} in both, from {ends[0]} to {ends[1]}."
    )  # fmt: skip
    costs = [float(p.metrics[front.cost] or 0.0) for p in shown]
    scale = log_scale(costs) if min(costs) > 0 and max(costs) > 5 * min(costs) else {}
    return Figure(
        id=f"front-{number}",
        title=f"{_title(front.cost)} over {_title(front.value).lower()}",
        takeaway=takeaway,
        alt=f"Points of {_unit(front.cost)} over {_unit(front.value)}, and the line of those that none beats in both.",
        traces=traces,
        layout=layout(
            xaxis=axis(_unit(front.value), rangemode="tozero"),
            yaxis=axis(_unit(front.cost), **(scale or {"rangemode": "tozero"})),
            showlegend=True,
        ),
        columns=("point", "setting", COLUMNS[front.value], COLUMNS[front.cost], "on the front"),
        rows=table(
            (str(p.point), setting(study, p), figure_text(front.value, p.metrics[front.value]),
             figure_text(front.cost, p.metrics[front.cost]), "yes" if p.point in unbeaten else "")
            for p in [*best, *(p for p in points if p.point not in unbeaten)]
        ),
        height=420,
        note=some(len(shown), len(points), "points"),
    )  # fmt: skip


# -- what moves a metric ------------------------------------------------------------------------------------


def _tornado(study: SweepStudy, name: str, effects: Sequence[AxisEffect]) -> Figure | None:
    """A bar for each axis from the lowest to the highest mean, the longest first."""
    if not effects or effects[0].range <= 0:
        return None
    label = Names()
    ends = [
        clean(" to ".join(f"{figure_text(name, end.mean)} at {end.value}" for end in (e.low, e.high)), 120)
        for e in effects
    ]
    trace: Trace = {
        "type": "bar", "orientation": "h", "name": clean(COLUMNS.get(name, name)), "showlegend": False,
        "y": [label(axis_name(study, e.axis)) for e in effects], "base": [e.low.mean for e in effects],
        "x": [e.range for e in effects], "customdata": ends, "marker": fill(0, ORANGE if "usd" in name else BLUE),
        "hovertemplate": "%{y}<br>%{customdata}<extra></extra>",
    }  # fmt: skip
    first = effects[0]
    small = [axis_name(study, e.axis) for e in effects[1:] if e.range < 0.05 * first.range]
    much = f"move{'s' if len(small) == 1 else ''} it by less than a twentieth of that"
    rest = f" {joined(small)} {much}." if small else ""
    uneven = [axis_name(study, e.axis) for e in effects if not e.balanced]
    return Figure(
        id=f"moves-{_id(name)}",
        title=f"What moves {_title(name)[:1].lower()}{_title(name)[1:]}",
        takeaway=f"{axis_name(study, first.axis)} most: {ends[0]}, all else averaged.{rest}",
        alt=f"Bars of {_unit(name)}, from the lowest to the highest mean of each axis. Longest: {ends[0]}.",
        traces=[trace],
        layout=layout(xaxis=axis(_unit(name)), yaxis=categories(), bargap=0.35, showlegend=False),
        columns=("axis", "value", f"mean {COLUMNS[name]}", "points"),
        rows=table(
            (axis_name(study, e.axis), level.value, figure_text(name, level.mean), f"{level.points:,}")
            for e in effects
            for level in e.levels
        ),
        height=rows_height(len(effects), 44, 90),
        note=f"Unbalanced, for the other settings differ: {joined(uneven)}." if uneven else "",
        half=True,
    )  # fmt: skip


def _id(name: str) -> str:
    return name.replace(".", "-").replace("_", "-")


def _along(study: SweepStudy, name: str, effect: AxisEffect) -> Figure | None:
    """A metric along the only axis."""
    if effect.range <= 0:
        return None
    label = Names()
    values = [label(level.value) for level in effect.levels]
    what = axis_name(study, effect.axis)
    trace: Trace = {
        "type": "scatter", "mode": "lines+markers", "name": clean(COLUMNS[name]), "x": values,
        "y": [level.mean for level in effect.levels], "line": line(0), "marker": {"size": 9},
        "hovertemplate": "%{x}<br>%{y:.4g}<extra></extra>",
    }  # fmt: skip
    ends = " to ".join(
        f"{write(name.partition('.')[0], e.mean)} at {what} {e.value}" for e in (effect.low, effect.high)
    )
    return Figure(
        id=f"along-{_id(name)}",
        title=_title(name),
        takeaway=f"From {ends}.",
        alt=f"A line of {_unit(name)} over {what}, from {ends}.",
        traces=[trace],
        layout=layout(
            xaxis=axis(clean(what), type="category"), yaxis=axis(_unit(name), rangemode="tozero"), showlegend=False
        ),
        columns=(what, COLUMNS[name], "points"),
        rows=table((x.value, figure_text(name, x.mean), f"{x.points:,}") for x in effect.levels),
        height=300,
        half=True,
    )  # fmt: skip


def _map(study: SweepStudy, name: str, found: Map) -> Figure | None:
    """A metric over two axes."""
    cells = [(row, col) for row in range(len(found.row_values)) for col in range(len(found.column_values))]
    known = [(value, at) for at in cells if (value := found.cells[at[0]][at[1]]) is not None]
    if not known:
        return None
    down, across = axis_name(study, found.rows), axis_name(study, found.columns)
    rows, columns = Names(), Names()
    words = [[figure_text(name, cell) for cell in row] for row in found.cells]
    trace: Trace = {
        "type": "heatmap", "x": [columns(v) for v in found.column_values], "y": [rows(v) for v in found.row_values],
        "z": found.cells, "colorscale": "Cividis", "name": clean(COLUMNS[name]), "showscale": True,
        "xgap": 1, "ygap": 1, "colorbar": {"thickness": 12}, "hoverongaps": False, "customdata": words,
        "hovertemplate": f"{clean(down)} %{{y}}, {clean(across)} %{{x}}<br>%{{customdata}}<extra></extra>",
    }  # fmt: skip
    high, low = max(known), min(known)
    span = high[0] - low[0]
    letters = ["#000" if span and (value - low[0]) / span > LIGHT else "#fff" for value, _ in known]
    written: Trace = {
        "type": "scatter", "mode": "text", "hoverinfo": "skip", "showlegend": False,
        "x": [trace["x"][col] for _, (_, col) in known], "y": [trace["y"][row] for _, (row, _) in known],
        "text": [words[row][col] for _, (row, col) in known],
        "textfont": {"size": 12, "color": letters},
        "meta": {"need": 60 * len(found.column_values), "otherwise": "none"},
    }  # fmt: skip

    def told(cell: tuple[float, tuple[int, int]]) -> str:
        value, (row, col) = cell
        where = f"{down} {found.row_values[row]} and {across} {found.column_values[col]}"
        return f"{write(name.partition('.')[0], value)} at {where}"

    missing = len(cells) - len(known)
    return Figure(
        id=f"map-{_id(name)}",
        title=_title(name),
        takeaway=f"From {told(low)} to {told(high)}.",
        alt=f"Heat map of {_unit(name)} over {down} and {across}, from {told(low)} to {told(high)}.",
        traces=[trace, written] if len(cells) <= MOST_CELLS else [trace],
        layout=layout(
            xaxis=axis(clean(across), type="category", showgrid=False),
            yaxis=axis(clean(down), type="category", autorange="reversed", showgrid=False),
        ),
        columns=(down, across, COLUMNS[name]),
        rows=table((found.row_values[r], found.column_values[c], words[r][c]) for r, c in cells),
        height=rows_height(len(found.row_values), 44, 120),
        note=f"Without a colour: {missing:,} points that failed." if missing else "",
        half=len(found.column_values) <= 6,
    )  # fmt: skip
