"""Distributions of latency over the measured requests."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from sim.report.figures.common import Figure, Trace, axis, clean, fill, layout, line, table, thinned
from sim.report.values import joined, named, write
from sim.results.schema import Result, Spread

STEP: Final = "step_time_s"
BINS: Final = 24
Points = list[tuple[float, float]]


def latency_figures(result: Result) -> list[Figure]:
    """A figure a measure, a line a job."""
    keys = list(dict.fromkeys(key for job in result.jobs for key in job.cdf if key != STEP))
    figures = [_figure(result, index, key) for index, key in enumerate(keys)]
    figures.append(_step_times(result))
    return [figure for figure in figures if figure is not None]


def _figure(result: Result, index: int, key: str) -> Figure | None:
    curves = {job.name: _points(job.cdf.get(key, [])) for job in result.jobs}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    name = named(key)
    sentence = _takeaway(result, key)
    return Figure(
        id=f"latency-{index}",
        title=name,
        takeaway=sentence,
        alt=f"Cumulative distribution of {name.lower()} for {joined(list(curves))}. {sentence}",
        traces=[_trace(number, job, points) for number, (job, points) in enumerate(curves.items())],
        layout=layout(
            xaxis=axis("seconds", nticks=6),
            yaxis=axis("requests at or below", tickformat=".0%", range=[0, 1.02]),
            showlegend=len(curves) > 1,
            hovermode="closest",
        ),
        columns=("job", "share of requests", "at or below"),
        rows=table(
            (job, f"{share:.1%}", write(key, value))
            for job, points in curves.items()
            for value, share in thinned(points, 40)
        ),
        height=260,
        half=True,
    )


def _step_times(result: Result) -> Figure | None:
    """A histogram of the steps of training jobs whose steps differ."""
    curves = {job.name: points for job in result.jobs if len(points := _points(job.cdf.get(STEP, []))) > 1}
    if not curves:
        return None
    low = min(points[0][0] for points in curves.values())
    high = max(points[-1][0] for points in curves.values())
    width = (high - low) / BINS or 1e-3 * high
    edges = [low + width * n for n in range(BINS + 1)]
    shares = {name: [_at(points, b) - _at(points, a) for a, b in pairwise(edges)] for name, points in curves.items()}
    for name, points in curves.items():
        shares[name][0] += _at(points, low)
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    ends = "; ".join(
        f"{name}: {write(STEP, points[0][0])} to {write(STEP, points[-1][0])}, half within "
        f"{write(STEP, next(v for v, share in points if share >= 0.5))}"
        for name, points in curves.items()
    )
    return Figure(
        id="step-times",
        title="Step times",
        takeaway=f"Steps differ, for other jobs slow them. {ends}.",
        alt=f"Histogram of the seconds that steps took. {ends}.",
        traces=[
            {"type": "bar", "name": clean(name), "x": middles, "y": values, "width": [0.9 * width] * BINS,
             "marker": fill(n), "hovertemplate": "%{y:.1%} about %{x:.4~s}s<extra>%{fullData.name}</extra>"}
            for n, (name, values) in enumerate(shares.items())
        ],
        layout=layout(
            barmode="overlay", xaxis=axis("seconds a step", nticks=6), yaxis=axis("share of steps", tickformat=".0%"),
            showlegend=len(curves) > 1,
        ),
        columns=("job", "from", "to", "share of steps"),
        rows=table(
            (name, write(STEP, a), write(STEP, b), f"{share:.1%}")
            for name, values in shares.items()
            for (a, b), share in zip(pairwise(edges), values, strict=True)
        ),
        height=260,
    )  # fmt: skip


def _at(points: Points, value: float) -> float:
    """The share at or below a value."""
    return max((share for seconds, share in points if seconds <= value * (1 + 1e-12)), default=0.0)


def _points(rows: list[list[float]]) -> Points:
    """[[seconds, share], ...], at most 2,000."""
    return [(row[0], row[1]) for row in thinned([row for row in rows if len(row) == 2])]


def _trace(number: int, job: str, points: Points) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": clean(job),
        "x": [value for value, _ in points],
        "y": [share for _, share in points],
        "line": line(number) | {"shape": "hv"},
        "hovertemplate": "%{y:.1%} within %{x:.4~s}s<extra>%{fullData.name}</extra>",
    }


def _takeaway(result: Result, key: str) -> str:
    sentences = []
    for job in result.jobs:
        spread = getattr(job.metrics, key, None)
        if isinstance(spread, Spread):
            who = f"{job.name}: half" if len(result.jobs) > 1 else "Half"
            sentences.append(f"{who} within {write(key, spread.p50)}, 99% within {write(key, spread.p99)}.")
    return " ".join(sentences) or "The curve shows what share of requests stayed at or below a time."
