"""What the job costs by the hour, and what the purchase is made of."""

from __future__ import annotations

from sim.report.figures.common import (
    Figure,
    Names,
    Trace,
    axis,
    categories,
    clean,
    fill,
    layout,
    rows_height,
    sentence,
    table,
)
from sim.report.values import joined, shares, target_facts, write
from sim.results.schema import JobResult, Result, TrainingMetrics
from sim.units import format_percent, format_usd


def cost_figure(result: Result) -> Figure | None:
    """USD per hour by what it pays for, a bar a job."""
    costs = {job.name: job.cost for job in result.jobs if job.cost and job.cost.breakdown_usd_per_hour}
    if not costs:
        return None
    jobs = {job.name: job for job in result.jobs}
    aims = any(isinstance(j.metrics, TrainingMetrics) and j.metrics.usd_to_target is not None for j in result.jobs)
    names = Names()
    labels = [names(name) for name in costs]
    parts = list(dict.fromkeys(part for cost in costs.values() for part in cost.breakdown_usd_per_hour))
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": clean(part),
            "y": labels,
            "x": [cost.breakdown_usd_per_hour.get(part, 0.0) for cost in costs.values()],
            "marker": fill(index),
            "hovertemplate": "%{y}<br>%{fullData.name}: %{x:.4~g} USD/h<extra></extra>",
        }
        for index, part in enumerate(parts)
    ]
    return Figure(
        id="cost",
        title="Cost per hour by what it pays for",
        takeaway=_cost_takeaway(result),
        alt="Stacked bars of cost per hour: " + _cost_takeaway(result),
        traces=traces,
        layout=layout(
            barmode="stack",
            xaxis=axis("USD per hour", rangemode="tozero"),
            yaxis=categories(),
            showlegend=True,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        ),
        columns=("job", "part", "USD per hour", "share", *(["to the target"] if aims else [])),
        rows=table(
            (
                *(name, part, format_usd(cost.breakdown_usd_per_hour[part]), format_percent(share)),
                *([_of_target(jobs[name], share)] if aims else []),
            )
            for name, cost in costs.items()
            for part, share in shares(cost.breakdown_usd_per_hour).items()
        ),
        height=rows_height(len(costs), 40, 130),
    )


def purchase_figure(result: Result) -> Figure | None:
    """USD of the purchase by what was bought, a bar an item."""
    jobs = [job for job in result.jobs if job.cost is not None and len(job.cost.capital_items_usd) > 1]
    if not jobs:
        return None
    items: dict[str, float] = {}
    for job in jobs:
        assert job.cost is not None
        for what, usd in job.cost.capital_items_usd.items():
            items[what] = items.get(what, 0.0) + usd
    names, parts = Names(), shares(items)
    first, share = next(iter(parts.items()))
    rest = format_percent(1.0 - share)
    takeaway = f"{sentence(first)} is {format_percent(share)} of {format_usd(sum(items.values()))}, all else {rest}."
    return Figure(
        id="purchase",
        title="What the purchase is made of",
        takeaway=takeaway,
        alt="Bars of what was paid for each item. " + takeaway,
        traces=[
            {
                "type": "bar", "orientation": "h", "y": [names(what) for what in parts],
                "x": [items[what] for what in parts], "marker": fill(0),
                "hovertemplate": "%{y}: %{x:,.0f} USD<extra></extra>",
            }
        ],
        layout=layout(xaxis=axis("USD", rangemode="tozero"), yaxis=categories(), showlegend=False),
        columns=("item", "USD", "share"),
        rows=table((what, format_usd(items[what]), format_percent(part)) for what, part in parts.items()),
        height=rows_height(len(parts), 34, 90),
    )  # fmt: skip


def _cost_takeaway(result: Result) -> str:
    sentences = []
    for job in result.jobs:
        if job.cost and (parts := shares(job.cost.breakdown_usd_per_hour)):
            largest = next(iter(parts))
            per_token = write("usd_per_million_tokens", job.cost.usd_per_million_tokens)
            full = job.cost.saturation
            which = "trained on" if job.kind == "training" else "at this load"
            less = write("usd_per_million_tokens", full.usd_per_million_tokens) if full else ""
            then = f", {less} at saturation" if full else ""
            sentences.append(
                f"{job.name} costs {write('usd_per_hour', job.cost.usd_per_hour)}, "
                f"{format_percent(parts[largest])} of it {largest}: {per_token} {which}{then}."
            )
            sentences += _target(result, job)
    return " ".join(sentences)


def _target(result: Result, job: JobResult) -> list[str]:
    m = job.metrics
    if not isinstance(m, TrainingMetrics) or m.usd_to_target is None:
        return []
    what = f"training on {write('target_tokens', m.target_tokens)}"
    return [f"{sentence(what)} takes {joined(target_facts(result, m))}."]


def _of_target(job: JobResult, share: float) -> str:
    """A part's money until the target is reached."""
    usd = getattr(job.metrics, "usd_to_target", None)
    return "–" if usd is None else write("usd_to_target", usd * share)
