"""Memory of one GPU of each stage, by part, against its capacity."""

from __future__ import annotations

from typing import Final

from sim.report.figures.common import (
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
from sim.report.values import used_parts
from sim.results.schema import MemoryStage, Result
from sim.units import format_bytes, format_percent

MAX_STAGES: Final = 48


def memory_figure(result: Result) -> Figure | None:
    """Stacked bars in GB, a bar a stage, with a mark at the capacity."""
    if not result.memory:
        return None
    stages = result.memory[:MAX_STAGES]
    names = Names()
    labels = [names(f"{s.job} {s.stage} ({s.gpu} ×{s.count})") for s in stages]
    parts = list(dict.fromkeys(part for stage in stages for part in used_parts(stage)))
    traces = [_bar(index, part, stages, labels) for index, part in enumerate(parts)]
    row = 26 if len(stages) > 8 else 34
    return Figure(
        id="memory",
        title="Memory of one GPU of each stage",
        takeaway=_takeaway(result.memory),
        alt=f"Stacked bars of memory by part for {len(stages)} stages against the capacity of their GPU.",
        traces=[*traces, _capacity(stages, labels, row)],
        layout=layout(
            barmode="stack",
            bargap=0.35,
            xaxis=axis("GB (10⁹ bytes)", rangemode="tozero"),
            yaxis=categories(),
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        ),
        columns=("job", "stage", "GPU", "part", "bytes", "of capacity"),
        rows=table(
            (s.job, s.stage, f"{s.gpu} ×{s.count}", part, format_bytes(size), _of(size, s))
            for s in result.memory
            for part, size in [*used_parts(s).items(), ("total", _used(s))]
        ),
        height=rows_height(len(stages), row, 150),
        note=some(len(stages), len(result.memory), "stages"),
    )


def _used(stage: MemoryStage) -> float:
    return sum(used_parts(stage).values())


def _of(size: float, stage: MemoryStage) -> str:
    return format_percent(size / stage.capacity_bytes) if stage.capacity_bytes else "n/a"


def _bar(index: int, part: str, stages: list[MemoryStage], labels: list[str]) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": clean(part),
        "y": labels,
        "x": [stage.parts.get(part, 0.0) / 1e9 for stage in stages],
        "marker": fill(index),
        "hovertemplate": "%{y}<br>%{fullData.name}: %{x:.2f} GB<extra></extra>",
    }


def _capacity(stages: list[MemoryStage], labels: list[str], row: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "capacity",
        "y": labels,
        "x": [stage.capacity_bytes / 1e9 for stage in stages],
        "marker": {"symbol": "line-ns-open", "size": row - 6, "color": RED, "line": {"width": 3}},
        "hovertemplate": "%{y}<br>capacity: %{x:.2f} GB<extra></extra>",
    }


def _takeaway(stages: list[MemoryStage]) -> str:
    def share(stage: MemoryStage) -> float:
        return _used(stage) / stage.capacity_bytes if stage.capacity_bytes else 0.0

    fullest = max(stages, key=share)
    used, parts = _used(fullest), used_parts(fullest)
    free = fullest.capacity_bytes - used
    largest = max(parts, key=lambda part: parts[part], default="nothing")
    rest = f"{format_bytes(free)} free" if free >= 0 else f"{format_bytes(-free)} too much"
    return (
        f"The fullest is stage {fullest.stage} of {fullest.job}: {format_bytes(used)} of "
        f"{format_bytes(fullest.capacity_bytes)} ({format_percent(share(fullest))}, {rest}), "
        f"most of it {largest}."
    )
