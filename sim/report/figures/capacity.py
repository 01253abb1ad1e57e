"""What was tried to find the most within the objectives: how near to its limit each percentile came."""

from __future__ import annotations

from sim.report.figures.common import GREY, PALETTE, Figure, Trace, axis, layout, line, sentence, table
from sim.results.schema import JobResult, Result, Tried
from sim.study.capacity import amount, told
from sim.units import format_count, format_percent, format_seconds


def capacity_figures(result: Result) -> list[Figure]:
    """One for each job whose capacity was sought at several rates, or with several numbers of clients."""
    return [figure for number, job in enumerate(result.jobs) if (figure := _figure(number, job, len(result.jobs) == 1))]


def longest(tried: list[Tried]) -> list[Tried]:
    """Of each load what the longest runs said, from the least load to the most."""
    found: dict[float, Tried] = {}
    for one in tried:
        if one.measured_s and one.requests >= getattr(found.get(amount(one)), "requests", 0):
            found[amount(one)] = one
    return [found[at] for at in sorted(found)]


def _figure(number: int, job: JobResult, single: bool) -> Figure | None:
    if job.capacity is None or len(points := longest(job.capacity.tried)) < 2:
        return None
    limits = {str(row["name"]): float(row["limit_s"]) for row in job.objectives}
    what = "requests a second" if points[0].clients is None else "clients"
    most = max(t.requests for t in points)
    traces: list[Trace] = []
    for index, (name, limit) in enumerate(limits.items()):
        mine = [t for t in points if name in t.measured_s]
        long = [t for t in mine if t.clients is not None or t.requests == most]
        short = [t for t in mine if t not in long]
        for some, mode, open_ in ((long, "lines+markers", ""), (short, "markers", "-open")):
            if some:
                traces.append({
                    "type": "scatter", "mode": mode, "name": name.replace("_", " ") + (", short runs" if open_ else ""),
                    "x": [amount(t) for t in some], "y": [max(t.measured_s[name]) / limit for t in some],
                    "line": line(index),
                    "marker": {
                        "size": 9, "symbol": [("circle" if t.met else "x") + open_ for t in some],
                        "color": PALETTE[index % len(PALETTE)],
                    },
                    "hovertemplate": "%{x:.4g}: %{y:.0%} of the limit<extra>%{fullData.name}</extra>",
                })  # fmt: skip
    ends = [amount(points[0]), amount(points[-1])]
    traces.append({
        "type": "scatter", "mode": "lines", "name": "limit", "x": ends, "y": [1.0, 1.0],
        "line": {"color": GREY, "dash": "dot", "width": 3}, "hoverinfo": "skip",
    })  # fmt: skip
    return Figure(
        id="capacity" if single else f"capacity-{number + 1}",
        title="Latency over load" if single else f"Latency over load: {job.name}",
        takeaway=sentence(f"{told(job.capacity)}."),
        alt=f"Lines of each limited percentile, as a share of its limit, over {what}; {len(points)} loads were tried.",
        traces=traces,
        layout=layout(xaxis=axis(what), yaxis=axis("share of the limit", tickformat=".0%", rangemode="tozero")),
        columns=(what, "within", *(name.replace("_", " ") for name in limits), "runs", "requests of each"),
        rows=table(
            (
                format_count(amount(t)), "yes" if t.met else "no",
                *(_cell(t.measured_s.get(name), limit) for name, limit in limits.items()),
                len(t.seeds), f"{t.requests:,}",
            )
            for t in points
        ),
        note="A cross: not within the objectives. Each point is the worst of its runs; a load that one of them misses "
        "is not played with further seeds.",
        height=300,
    )  # fmt: skip


def _cell(values: list[float] | None, limit: float) -> str:
    if not values:
        return "–"
    return f"{format_seconds(max(values))} ({format_percent(max(values) / limit)})"
