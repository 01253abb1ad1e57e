"""The heat map of a study of failures: goodput over interval and time between failures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.report.figures.common import PURPLE, RED, Figure, Trace, axis, layout, table
from sim.study.failures_schema import FailureStudy
from sim.units import format_seconds


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


def _apart(values: Sequence[float]) -> list[float]:
    """Those of rising values whose labels do not meet on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or value / kept[-1] > 1.35:
            kept.append(value)
    return kept
