"""When a purchase has paid for itself, over the share of hours in which somebody pays for it."""

from __future__ import annotations

from typing import Final

from sim.report.figures.common import (
    BLUE,
    Figure,
    Names,
    Trace,
    axis,
    clean,
    layout,
    line,
    log_heights,
    sentence,
    table,
)
from sim.report.figures.use import LEGEND
from sim.report.values import NEVER, write
from sim.results.schema import Cost, JobResult, Result
from sim.units import format_percent

_HOVER: Final = "%{x:.0%} of all hours<br>%{fullData.name}: %{y:.3g} months<extra></extra>"


def payback_figure(result: Result) -> Figure | None:
    """Months over occupancy, a line a job, with the bounds of prices where there is one job; where this run is."""
    jobs = [job for job in result.jobs if job.cost is not None and any(p.months for p in job.cost.payback_curve)]
    if not jobs:
        return None
    names, traces, rows = Names(), list[Trace](), list[tuple[str, ...]]()
    for index, job in enumerate(jobs):
        assert job.cost is not None
        lead = "" if len(jobs) == 1 else f"{names(job.name)}, "
        traces += _lines(index, lead, job.cost, single=len(jobs) == 1)
        rows += [
            (job.name, format_percent(p.occupancy), *(_months(m) for m in (p.months, p.best, p.worst)))
            for p in job.cost.payback_curve
        ]
    takeaway = " ".join(_takeaway(job, single=len(jobs) == 1) for job in jobs)
    return Figure(
        id="payback",
        title="Payback over occupancy",
        takeaway=takeaway,
        alt="Falling lines of months over the share of hours that are paid for. " + takeaway,
        traces=traces,
        layout=layout(
            xaxis=axis("share of hours that are paid for", tickformat=".0%", range=[0, 1.03]),
            yaxis=axis("months until paid back", **log_heights(traces)),
            showlegend=True,
            legend=LEGEND,
        ),
        columns=("job", "occupancy", "payback", "at the best prices", "at the worst prices"),
        rows=table(rows),
        note="No line: never at that occupancy. Income and running costs stay as they are today.",
        height=340,
    )


def _lines(index: int, lead: str, cost: Cost, *, single: bool) -> list[Trace]:
    """A job's curve, its bounds, and the occupancy that is stated."""
    curve = cost.payback_curve
    kinds = [("payback", [p.months for p in curve])]
    if single and any(p.best != p.worst for p in curve):
        kinds += [("at the best prices", [p.best for p in curve]), ("at the worst prices", [p.worst for p in curve])]
    made: list[Trace] = [
        {
            "type": "scatter", "mode": "lines", "name": clean(f"{lead}{name}"), "x": [p.occupancy for p in curve],
            "y": months, "line": line(index + place), "hovertemplate": _HOVER,
        }
        for place, (name, months) in enumerate(kinds)
    ]  # fmt: skip
    if cost.payback_months:
        made.append({
            "type": "scatter", "mode": "markers", "name": clean(f"{lead}as stated"), "x": [cost.occupancy],
            "y": [cost.payback_months], "marker": {"size": 11, "color": BLUE}, "hovertemplate": _HOVER,
        })  # fmt: skip
    return made


def _takeaway(job: JobResult, *, single: bool) -> str:
    """The stated occupancy against all hours, and where it stops paying."""
    cost = job.cost
    assert cost is not None
    lead = "" if single else f"{job.name}: "
    all_hours = f"{_months(cost.payback_curve[-1].months)} if all hours are paid for"
    stated = f"paid back in {_months(cost.payback_months)}" if cost.payback_months else "never paid back"
    said = f"{lead}{stated} at {format_percent(cost.occupancy or 0.0)} of hours, {all_hours}"
    if cost.occupancy == 1.0:
        said = f"{lead}{stated} if all hours are paid for"
    lost = [p.occupancy for p in cost.payback_curve if p.months is None]
    return sentence(f"{said}, never at {format_percent(lost[-1])} or less." if lost else f"{said}.")


def _months(months: float | None) -> str:
    return NEVER if months is None else write("payback_months", months)
