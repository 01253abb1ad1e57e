"""Distributions of latency over the measured requests."""

from __future__ import annotations

from sim.report.figures.common import Figure, Trace, axis, clean, joined, layout, line, table, thinned
from sim.report.values import named, write
from sim.results.schema import Result, Spread

Points = list[tuple[float, float]]


def latency_figures(result: Result) -> list[Figure]:
    """A figure a measure, a line a job."""
    keys = list(dict.fromkeys(key for job in result.jobs for key in job.cdf))
    figures = (_figure(result, index, key) for index, key in enumerate(keys))
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
