"""Memory of one GPU of each stage, by part, against its capacity."""

from __future__ import annotations

from collections.abc import Iterator
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
from sim.report.values import joined, used_parts
from sim.results.schema import MemoryStage, Result
from sim.units import format_bytes, format_percent

MAX_STAGES: Final = 48
TIERS: Final = {"host": "host memory", "nvme": "NVMe"}
"""Where a training job's offloaded parts go."""


def memory_figures(result: Result) -> list[Figure]:
    """A figure for the jobs that serve and one for those that train: their memory has other parts."""
    training = {job.name for job in result.jobs if job.kind == "training"}
    groups = ([s for s in result.memory if s.job not in training], [s for s in result.memory if s.job in training])
    both = all(groups)
    figures = []
    for stages, id_ in zip(groups, ("memory", "memory-training" if both else "memory"), strict=True):
        if stages:
            figures.append(_figure(stages, id_, list(dict.fromkeys(s.job for s in stages)) if both else []))
    return figures


def _figure(everything: list[MemoryStage], id_: str, jobs: list[str]) -> Figure:
    """Stacked bars in GB, a bar a stage, with a mark at the capacity."""
    stages = everything[:MAX_STAGES]
    labels = _labels(stages)
    parts = list(dict.fromkeys(part for stage in stages for part in used_parts(stage)))
    traces = [_bar(index, part, stages, labels) for index, part in enumerate(parts)]
    row = 26 if len(stages) > 8 else 34
    return Figure(
        id=id_,
        title="Memory of one GPU of each stage" + (f" of {joined(jobs)}" if jobs else ""),
        takeaway=_takeaway(everything),
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
            (s.job, s.stage, f"{s.gpu} ×{s.count}", part, format_bytes(size), share)
            for s in everything
            for part, size, share in _budget(s)
        ),
        height=rows_height(len(stages), row, 150),
        note=" ".join(filter(None, (*_tiers(everything), some(len(stages), len(everything), "stages")))),
    )


def _labels(stages: list[MemoryStage]) -> list[str]:
    """A name for each bar, no longer than it takes to tell them apart."""
    jobs, types = {s.job for s in stages}, {s.gpu for s in stages}
    names, seen, labels = Names(), dict[str, int](), []
    for s in stages:
        text = f"{f'{s.job} ' if len(jobs) > 1 else ''}stage {s.stage}"
        count = f" ×{s.count:,}" if s.count > 1 else ""
        text += f" ({s.gpu}{count})" if len(types) > 1 else count
        seen[text] = seen.get(text, 0) + 1
        labels.append(names(text if seen[text] == 1 else f"{text} ({seen[text]})"))
    return labels


def _offloaded(stage: MemoryStage) -> list[tuple[str, float]]:
    return [(f"kept in {TIERS.get(tier, tier)}", size) for tier, size in stage.offloaded.items() if size > 0]


def _tiers(stages: list[MemoryStage]) -> Iterator[str]:
    """What GPUs keep elsewhere, a sentence a job and tier."""
    most: dict[tuple[str, str], float] = {}
    for stage in stages:
        for where, size in _offloaded(stage):
            most[stage.job, where] = max(size, most.get((stage.job, where), 0.0))
    for (job, where), size in most.items():
        yield f"Of {job}, {format_bytes(size)} a GPU (at most) are {where}, outside these bars."


def _budget(stage: MemoryStage) -> Iterator[tuple[str, float, str]]:
    """Parts, their sum and what is kept elsewhere: bytes, and their share of the GPU's capacity."""
    for part, size in [*used_parts(stage).items(), ("total", _used(stage))]:
        yield part, size, _of(size, stage)
    for where, size in _offloaded(stage):
        yield where, size, "–"


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
