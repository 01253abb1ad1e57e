"""The figures of a size; each is a function from the document to a Figure or None."""

from __future__ import annotations

from typing import Final

from sim.report.figures.common import (
    BLUE,
    GREY,
    PALETTE,
    SYMBOLS,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    fill,
    layout,
    rows_height,
    table,
)
from sim.report.size_words import design, settings, worth
from sim.report.values import write
from sim.study.size_schema import Answer, Sizing

SLOW: Final = {True: ("tpot_s.p50", "TPOT p50 (s)"), False: ("days_to_target", "days to finish")}
"""By whether it serves: the metric of slowness, and its axis."""


def size_figures(s: Sizing) -> dict[str, list[Figure]]:
    """Figures by section of the page; a section without data is an empty list."""
    made = {"machines": [machine_figure(s)], "designs": [front_figure(s)]}
    return {section: [figure for figure in figures if figure] for section, figures in made.items()}


def machine_figure(s: Sizing) -> Figure | None:
    """The best of each kind of machine as bars."""
    best = [(row.machine, s.answers[row.answer]) for row in s.best_by_machine if row.answer is not None]
    label = Names()
    winner = best[0][0]
    return Figure(
        id="machines",
        title="The best of each kind of machine",
        takeaway=f"{winner}: {worth(s, best[0][1].value)}"
        + (f"; {best[1][0]}: {worth(s, best[1][1].value)}." if len(best) > 1 else "."),
        alt=f"Bars of {s.measure} for {len(best)} kinds of machines.",
        traces=[{
            "type": "bar", "orientation": "h", "x": [a.value for _, a in best], "y": [label(name) for name, _ in best],
            "marker": fill(0, BLUE), "text": [design(a) for _, a in best], "textposition": "none",
            "hovertemplate": "%{text}: %{x:.4g}<extra></extra>",
        }],
        layout=layout(xaxis=axis(s.measure, rangemode="tozero"), yaxis=categories(), showlegend=False),
        columns=("machine", s.measure, "design", "settings"),
        rows=table((name, worth(s, a.value), design(a), settings(s, a)) for name, a in best),
        height=rows_height(len(best)),
    )  # fmt: skip


def _money(s: Sizing, a: Answer) -> float:
    return a.usd_per_hour if s.serves else a.metrics.get("usd_to_target", a.usd_per_hour)


def front_figure(s: Sizing) -> Figure | None:
    """Cost over slowness for every design that does what is asked: a symbol a machine, a line along the front."""
    metric, what = SLOW[s.serves]
    label, traces = Names(), list[Trace]()
    machines = list(dict.fromkeys(a.machine for a in s.answers))
    for i, machine in enumerate(machines):
        mine = [a for a in s.answers if a.machine == machine and metric in a.metrics]
        if mine:
            traces.append({
                "type": "scatter", "mode": "markers", "name": label(machine), "x": [a.metrics[metric] for a in mine],
                "y": [_money(s, a) for a in mine], "text": [design(a) for a in mine],
                "marker": {"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9, "color": PALETTE[i % len(PALETTE)]},
                "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
            })  # fmt: skip
    front = [s.answers[i] for i in s.front if metric in s.answers[i].metrics]
    if not traces:
        return None
    traces.append({
        "type": "scatter", "mode": "lines", "name": "nothing beats these", "x": [a.metrics[metric] for a in front],
        "y": [_money(s, a) for a in front], "line": {"color": GREY, "width": 2, "shape": "hv"}, "hoverinfo": "skip",
    })  # fmt: skip
    cost = "USD an hour" if s.serves else "USD to finish"
    return Figure(
        id="front",
        title="Cost over speed, of every design that was simulated and does what is asked",
        takeaway=f"{len(front)} of {len(s.answers)} designs are not beaten in both cost and speed. Designs that "
        "could not be among the first, or the best of their machine, were not simulated and are not here.",
        alt=f"Points of {cost} over {what} for {len(s.answers)} designs of {len(machines)} kinds of machines.",
        traces=traces,
        layout=layout(xaxis=axis(what, rangemode="tozero"), yaxis=axis(cost, rangemode="tozero")),
        columns=("design", "settings", cost, what, "tok/s"),
        rows=table(
            (
                design(a), settings(s, a), write("usd_per_hour" if s.serves else "capital_usd", _money(s, a)),
                f"{a.metrics[metric]:.4g}" if metric in a.metrics else "",
                write("output_tokens_per_s", a.metrics.get("output_tokens_per_s", a.metrics.get("tokens_per_s"))),
            )
            for a in s.answers
        ),
        height=420,
    )  # fmt: skip
