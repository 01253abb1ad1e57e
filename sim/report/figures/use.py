"""What a token costs over how much of the cluster is used, and over a day of peak and valley."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from sim.report.cost_words import USD, bounds, day_usd, plan_words, swing_range
from sim.report.figures.common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    SKY,
    Figure,
    Names,
    Trace,
    axis,
    clean,
    layout,
    line,
    log_heights,
    table,
)
from sim.report.values import write
from sim.results.schema import Cost, JobResult, Result, Swing
from sim.units import format_count, format_percent

BAND: Final = "rgba(0,114,178,0.18)"
"""Between the bounds of prices."""
HOURS: Final = 96
"""Instants of a day that are drawn."""
LEGEND: Final = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
ABOVE: Final = (
    "Lines take power above idle to follow the tokens. At low load small batches keep GPUs busy for few tokens: such a "
    "run lies above its line."
)
_HOVER: Final = "%{x:.0%} of saturation<br>%{fullData.name}: %{y:.3g} USD/Mtok<extra></extra>"


def use_figure(result: Result) -> Figure | None:
    """USD per million tokens over utilisation: reserved, and by use; where this run is."""
    jobs = [job for job in result.jobs if job.cost is not None and job.cost.curve]
    if not jobs:
        return None
    names, traces, rows = Names(), list[Trace](), list[tuple[str, ...]]()
    single = len(jobs) == 1
    for index, job in enumerate(jobs):
        assert job.cost is not None
        lead = "" if single else f"{names(job.name)}, "
        traces += _lines(index, lead, job, single=single)
        full = write(USD, job.cost.curve[-1].usd_per_million_tokens)
        rows += [
            (job.name, format_percent(p.utilisation), write(USD, p.usd_per_million_tokens), full, _ends(p.low, p.high))
            for p in job.cost.curve
        ]
    apis = _apis(jobs)
    traces += [
        {"type": "scatter", "mode": "lines", "name": "API", "x": [0.0, 1.0], "y": [usd, usd],
         "line": {"color": GREY, "dash": "dot", "width": 3}, "hovertemplate": "API: %{y:.3g} USD/Mtok<extra></extra>"}
        for usd in apis
    ]  # fmt: skip
    rows += [("API", "any", write(USD, usd), "–", "–") for usd in apis]
    takeaway = " ".join([*(_takeaway(job, single) for job in jobs), *_against_api(jobs, single)])
    return Figure(
        id="cost-use",
        title="Cost of a token over utilisation",
        takeaway=takeaway,
        alt="Falling lines of USD per million tokens over the share of saturation that is asked for. " + takeaway,
        traces=traces,
        layout=layout(
            xaxis=axis("share of saturated tokens/s", tickformat=".0%", range=[0, 1.03]),
            yaxis=axis("USD per million tokens", **log_heights(traces)),
            showlegend=True,
            legend=LEGEND,
        ),
        columns=("job", "utilisation", "reserved", "by use", "reserved, by prices"),
        rows=table(rows),
        note=ABOVE if _above(jobs) else "",
        height=380,
    )


def _apis(jobs: Sequence[JobResult]) -> list[float]:
    """What an API asks, where that is stated."""
    stated = [job.cost.api_usd_per_million_tokens for job in jobs if job.cost is not None]
    return list(dict.fromkeys(usd for usd in stated if usd is not None))


def _against_api(jobs: Sequence[JobResult], single: bool) -> Iterator[str]:
    """From which use on each job's cluster is no dearer than the API."""
    for job in jobs:
        cost = job.cost
        if cost is None or cost.api_usd_per_million_tokens is None:
            continue
        asked = cost.api_usd_per_million_tokens
        first, full = cost.curve[0], cost.curve[-1].usd_per_million_tokens
        standing = (first.usd_per_million_tokens - full) / (1.0 / first.utilisation - 1.0)  # cost = used + standing / u
        asks = f"{'An API' if single else f'{job.name}: an API'} at {write(USD, asked)} is"
        if asked <= full:
            yield f"{asks} no dearer even than a full cluster."
        else:
            use = standing / (asked - full + standing)
            yield f"{asks} dearer from {format_percent(use)} of saturation on."


def _ends(low: float, high: float) -> str:
    return "–" if low == high else f"{write(USD, low)} to {write(USD, high)}"


def _lines(index: int, lead: str, job: JobResult, *, single: bool) -> list[Trace]:
    """A job's curves and the points of this run."""
    cost = job.cost
    assert cost is not None
    x = [p.utilisation for p in cost.curve]
    full = cost.curve[-1].usd_per_million_tokens
    made: list[Trace] = []
    if single and any(p.low != p.high for p in cost.curve):
        made += _band("reserved, within the bounds of prices", x, [(p.low, p.high) for p in cost.curve])
    made.append({
        "type": "scatter", "mode": "lines", "name": clean(f"{lead}reserved"), "x": x,
        "y": [p.usd_per_million_tokens for p in cost.curve], "line": line(2 * index), "hovertemplate": _HOVER,
    })  # fmt: skip
    made.append({
        "type": "scatter", "mode": "lines", "name": clean(f"{lead}by use"), "x": [x[0], 1.0], "y": [full, full],
        "line": line(2 * index + 1), "hovertemplate": _HOVER,
    })  # fmt: skip
    here = _use_here(job)
    if here is not None and cost.usd_per_million_tokens is not None:
        spots = [(cost.usd_per_million_tokens, "reserved, this load", "circle")]
        if cost.usd_per_million_tokens_by_use is not None:
            spots.append((cost.usd_per_million_tokens_by_use, "by use, this load", "diamond-open"))
        made += [
            {"type": "scatter", "mode": "markers", "name": clean(f"{lead}{name}"), "x": [here], "y": [usd],
             "marker": {"color": ORANGE, "symbol": sign, "size": 11, "line": {"width": 2, "color": ORANGE}},
             "hovertemplate": _HOVER}
            for usd, name, sign in spots
        ]  # fmt: skip
    return made


def _band(name: str, x: Sequence[float], ranges: Sequence[Sequence[float]]) -> list[Trace]:
    """An area between the lowest and the highest of ``ranges``."""
    edge = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    low, high = ([ends[n] for ends in ranges] for n in (0, 1))
    return [
        {**edge, "name": "lowest prices", "y": low, "showlegend": False},
        {**edge, "name": name, "y": high, "fill": "tonexty", "fillcolor": BAND},
    ]


def _use_here(job: JobResult) -> float | None:
    """The share of saturation that this run asked for."""
    cost = job.cost
    tokens = getattr(job.metrics, "output_tokens_per_s", None)
    if cost is None or cost.saturation is None or not tokens or not cost.saturation.output_tokens_per_s:
        return None
    return min(1.0, float(tokens) / cost.saturation.output_tokens_per_s)


def _above(jobs: list[JobResult]) -> bool:
    """Whether a run costs clearly more than its curve says there."""
    for job in jobs:
        here, cost = _use_here(job), job.cost
        if here is not None and cost is not None and cost.usd_per_million_tokens:
            near = [p.usd_per_million_tokens for p in cost.curve if p.utilisation <= here]
            if near and cost.usd_per_million_tokens > 1.05 * near[-1]:
                return True
    return False


def _takeaway(job: JobResult, single: bool) -> str:
    cost = job.cost
    assert cost is not None
    at = {round(p.utilisation, 2): p.usd_per_million_tokens for p in cost.curve}
    who = "" if single else f"{job.name}: "
    told = ", ".join(f"{write(USD, at[use])} at {format_percent(use)}" for use in (0.1, 0.5, 1.0) if use in at)
    here = _use_here(job)
    where = "" if here is None else f" This load asks for {format_percent(here)} of saturation."
    return f"{who}Paid for all the time, a million tokens cost {told} of saturation.{where}".replace(
        "/Mtok at", " at"
    )


# -- a day --------------------------------------------------------------------------------------------------


def _swings(result: Result) -> tuple[Cost, Swing] | None:
    return next(((job.cost, job.cost.swing) for job in result.jobs if job.cost and job.cost.swing), None)


def mix_figure(result: Result) -> Figure | None:
    """USD per million tokens over the number of copies that stand all day."""
    found = _swings(result)
    if found is None or len(found[1].plans) < 2:
        return None
    swing = found[1]
    best, plans = swing.plans[swing.best], swing.plans
    bases = [plan.base for plan in plans]
    ranges = [p.usd_per_million_tokens_range or [p.usd_per_million_tokens] * 2 for p in plans]
    hover = "%{x} copies all day<br>%{y:.3g} USD/Mtok<extra></extra>"
    traces: list[Trace] = []
    if any(low != high for low, high in ranges):
        traces += _band("within the bounds of prices", bases, ranges)
    traces += [
        {"type": "scatter", "mode": "lines", "name": "a day's cost", "x": bases,
         "y": [p.usd_per_million_tokens for p in plans], "line": line(0), "hovertemplate": hover},
        {"type": "scatter", "mode": "markers", "name": "cheapest", "x": [best.base], "y": [best.usd_per_million_tokens],
         "marker": {"color": GREEN, "symbol": "star", "size": 14}, "hovertemplate": hover},
    ]  # fmt: skip
    takeaway = (
        f"Cheapest: {plan_words(best)}, {write(USD, best.usd_per_million_tokens)}"
        f"{bounds(best.usd_per_million_tokens_range)}, {day_usd(best)}."
    )
    return Figure(
        id="day-mix",
        title="How many copies to keep all day",
        takeaway=takeaway,
        alt="A line of USD per million tokens of a day over the copies that stand all day. " + takeaway,
        traces=traces,
        layout=layout(
            xaxis=axis("copies that stand all day", rangemode="tozero"),
            yaxis=axis("USD per million tokens", rangemode="tozero"),
            showlegend=True,
            legend=LEGEND,
        ),
        columns=("all day", "by the hour at peak", "copy-hours a day by the hour", "USD/Mtok", "by prices", "a day"),
        rows=table(
            (f"{p.base:,}", f"{p.burst:,}", format_count(p.burst_hours), write(USD, p.usd_per_million_tokens),
             _ends(*(p.usd_per_million_tokens_range or (0.0, 0.0))), day_usd(p))
            for p in plans
        ),
        height=340,
        half=True,
    )  # fmt: skip


def day_figure(result: Result) -> Figure | None:
    """The demand of a day, and who answers it."""
    found = _swings(result)
    if found is None:
        return None
    swing = found[1]
    best = swing.plans[swing.best]
    times = [24.0 * n / HOURS for n in range(HOURS + 1)]
    swing_of = (swing.peak_tokens_per_s - swing.valley_tokens_per_s) / 2
    demand = [swing.mean_tokens_per_s - swing_of * math.cos(2 * math.pi * t / 24) for t in times]
    held = best.base * swing.copy_tokens_per_s
    base = [min(d, held) for d in demand]
    hover = "%{fullData.name}: %{y:.4~s} tok/s at hour %{x:.1f}<extra></extra>"
    area = {"type": "scatter", "mode": "lines", "x": times, "hovertemplate": hover}
    traces: list[Trace] = []
    if best.base:
        traces.append({**area, "name": "copies all day", "y": base, "stackgroup": "day",
                       "line": {"width": 0.5, "color": BLUE}, "fillcolor": SKY})  # fmt: skip
    if best.burst:
        traces.append({**area, "name": "by the hour", "y": [d - b for d, b in zip(demand, base, strict=True)],
                       "stackgroup": "day", "line": {"width": 0.5, "color": ORANGE}, "fillcolor": ORANGE})  # fmt: skip
    if best.base:
        traces.append({**area, "name": "what copies all day can take", "x": [0, 24], "y": [held, held],
                       "line": {"color": GREY, "dash": "dash", "width": 2}, "fillcolor": PALE})  # fmt: skip
    takeaway = (
        f"The demand goes from {swing_range(swing)}: {swing.copies_at_valley:,} to {swing.copies_at_peak:,} copies of "
        f"the cluster. Copies for the peak that stand all day are {format_percent(swing.utilisation)} used."
    )
    return Figure(
        id="day",
        title="A day of peak and valley",
        takeaway=takeaway,
        alt="Areas of tokens per second over 24 hours, by who answers. " + takeaway,
        traces=traces,
        layout=layout(
            xaxis=axis("hours from the valley", range=[0, 24], dtick=6), yaxis=axis("tokens/s", rangemode="tozero"),
            showlegend=True,
            legend=LEGEND,
        ),
        columns=("hours from the valley", "demand", "by copies all day", "by the hour"),
        rows=table(
            (f"{t:g}", *(f"{format_count(v)} tok/s" for v in (d, b, d - b)))
            for t, d, b in list(zip(times, demand, base, strict=True))[::4]
        ),
        height=340,
        half=len(swing.plans) > 1,
    )  # fmt: skip
