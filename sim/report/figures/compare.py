"""The figures of a comparison; each is a function from the document to a Figure or None."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from sim.laws.breakeven import CostByUse
from sim.report.compare_answer import speed_sentences, stretches_text
from sim.report.compare_words import signed, waterfall_steps, write_metric
from sim.report.figures.common import (
    BLUE,
    GREEN,
    GREY,
    RED,
    SYMBOLS,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    clean,
    layout,
    line,
    log_heights,
    rows_height,
    sentence,
    table,
)
from sim.report.values import NONE, write
from sim.study.compare_demand import hourly
from sim.study.compare_schema import Comparison, CurvePoint, Pair
from sim.units import format_percent

USES: Final = tuple(n / 50 for n in range(1, 51))
"""Utilisations that are drawn."""
MOST_STEPS: Final = 9
"""Buckets of a waterfall; the rest is taken together."""
MOST_ENDS: Final = 4
"""Lines whose ends a sentence tells; of more, the highest and the lowest."""
HALF_FROM: Final = 3
"""So many waterfalls and more stand two in a row."""
STEPS_DRAWN: Final = 400
"""Points of a line of cost over demand."""


def compare_figures(c: Comparison) -> dict[str, list[Figure]]:
    """Figures by section of the page; a section without data is an empty list."""
    made: dict[str, list[Figure | None]] = {
        "speed": [pareto_figure(c), *load_figures(c)],
        "break-even": [use_figure(c), demand_figure(c)],
        "difference": [waterfall_figure(c, pair) for pair in c.pairs],
    }
    return {section: [figure for figure in figures if figure] for section, figures in made.items()}


def _usd(value: float | None) -> str:
    return write("usd_per_million_tokens", value)


def _rate(value: float | None) -> str:
    return write("output_tokens_per_s", value)


# -- speed and cost -----------------------------------------------------------------------------------------


def pareto_figure(c: Comparison) -> Figure | None:
    """Cost over speed per user: a line a scenario, rings around what nothing beats; without costs, GPU time."""
    priced = bool(c.front)
    label, traces, rows = Names(), [], []
    for i, part in enumerate(c.scenarios):
        gpus = part.gpus / part.factor

        def height(point: CurvePoint, gpus: float = gpus) -> float | None:
            if priced:
                return point.usd_per_million_tokens
            return gpus / point.tokens_per_s * 1e6 if point.tokens_per_s else None

        points = [p for p in part.curve if p.tokens_per_s_per_user and height(p)]
        if points:
            traces.append(_line(
                i, label(part.name), [p.tokens_per_s_per_user or 0.0 for p in points], [height(p) for p in points],
                "%{x:.3g} tok/s per user<br>%{fullData.name}, %{text} clients: %{y:.3g}",
                [f"{p.clients:,}" for p in points],
            ))  # fmt: skip
        rows += [
            (part.name, f"{p.clients:,}", _rate(p.tokens_per_s), _rate(p.tokens_per_s_per_user),
             write("ttft_s", p.ttft_p50_s), _usd(p.usd_per_million_tokens))
            for p in part.curve
        ]  # fmt: skip
    if not traces:
        return None
    if priced:
        front = [c.scenarios[f.scenario].curve[f.point] for f in c.front]
        traces.append({
            "type": "scatter", "mode": "markers", "name": "nothing beats these",
            "x": [p.tokens_per_s_per_user for p in front], "y": [p.usd_per_million_tokens for p in front],
            "marker": {"symbol": "circle-open", "size": 15, "color": GREY, "line": {"width": 2}},
            "hoverinfo": "skip",
        })  # fmt: skip
    what = "USD per million tokens" if priced else "GPU-seconds per million tokens"
    return Figure(
        id="pareto",
        title="Cost of a token over speed per user" if priced else "GPU time of a token over speed per user",
        takeaway=" ".join(speed_sentences(c)) or "No costs are stated: GPU time stands for them.",
        alt=f"Lines of {what} over tokens per second that one user sees, for {len(traces) - priced} scenarios.",
        traces=traces,
        layout=layout(
            xaxis=axis("tokens/s that one user sees", rangemode="tozero"), yaxis=axis(what, **log_heights(traces)),
        ),
        columns=("scenario", "clients", "tokens/s", "tokens/s per user", "TTFT p50", "USD/Mtok"),
        rows=table(rows),
        height=420,
    )  # fmt: skip


def _line(index: int, name: str, x: list[float], y: list[float | None], hover: str, text: list[str]) -> Trace:
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "text": text, "line": line(index),
        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8}, "hovertemplate": f"{hover}<extra></extra>",
    }  # fmt: skip


def load_figures(c: Comparison) -> list[Figure]:
    """Throughput and time to first token over clients."""
    return [
        figure
        for figure in (
            _over_clients(c, "throughput", "Throughput over clients", "tokens/s", lambda p: p.tokens_per_s),
            _over_clients(c, "ttft", "Time to first token over clients", "TTFT p50 (s)", lambda p: p.ttft_p50_s),
        )
        if figure
    ]


def _over_clients(
    c: Comparison, id_: str, title: str, what: str, value: Callable[[CurvePoint], float | None]
) -> Figure | None:
    label, traces, rows = Names(), [], []
    key = "output_tokens_per_s" if id_ == "throughput" else "ttft_s"
    for i, part in enumerate(c.scenarios):
        points = [p for p in part.curve if value(p)]
        if points:
            traces.append(_line(
                i, label(part.name), [float(p.clients) for p in points], [value(p) for p in points],
                "%{x} clients<br>%{fullData.name}: %{text}", [write(key, value(p)) for p in points],
            ))  # fmt: skip
        rows += [(part.name, f"{p.clients:,}", write(key, value(p))) for p in points]
    if not traces:
        return None
    ends = [(part.name, part.curve[-1]) for part in c.scenarios if part.curve]
    if len(ends) > MOST_ENDS:
        ends = [pick(ends, key=lambda end: value(end[1]) or 0.0) for pick in (max, min)]
    told = "; ".join(f"{name} {write(key, value(point))} with {point.clients:,} clients" for name, point in ends)
    told += "" if len(ends) == len(traces) else ", and the others between"
    most = max(x for trace in traces for x in trace["x"])
    ticks = [4**n for n in range(8) if 4**n <= most * 1.2]
    return Figure(
        id=id_,
        title=title,
        takeaway=f"With a quarter more clients than fit: {told}.",
        alt=f"Lines of {what} over the number of clients.",
        traces=traces,
        layout=layout(
            xaxis=axis("clients who never pause", type="log", tickvals=ticks, ticktext=[f"{t:,}" for t in ticks]),
            yaxis=axis(what, **log_heights(traces)),
        ),
        columns=("scenario", "clients", what),
        rows=table(rows),
        height=340,
        half=True,
    )


# -- break-even ---------------------------------------------------------------------------------------------


def _costs(c: Comparison) -> list[tuple[int, str, CostByUse]]:
    return [
        (i, p.name, CostByUse(p.use.fixed_usd_per_hour, p.use.used_usd_per_hour, p.use.tokens_per_s))
        for i, p in enumerate(c.scenarios)
        if p.use is not None
    ]


def use_figure(c: Comparison) -> Figure | None:
    """Cost of a token over utilisation, and the API's price."""
    costs = _costs(c)
    if not costs:
        return None
    label, traces, rows = Names(), [], []
    for i, name, cost in costs:
        values = [cost.usd_per_million_tokens(use) for use in USES]
        traces.append({
            "type": "scatter", "mode": "lines", "name": label(name), "x": list(USES), "y": values, "line": line(i),
            "hovertemplate": "%{x:.0%} of saturation<br>%{fullData.name}: %{y:.3g} USD/Mtok<extra></extra>",
        })  # fmt: skip
        rows += [(name, format_percent(use), _rate(use * cost.tokens_per_s), _usd(cost.usd_per_million_tokens(use)))
                 for use in (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)]  # fmt: skip
    price = c.api_usd_per_million_tokens
    if price is not None:
        traces.append({
            "type": "scatter", "mode": "lines", "name": "API", "x": [USES[0], 1.0], "y": [price, price],
            "line": {"color": GREY, "dash": "dot", "width": 3},
            "hovertemplate": "API: %{y:.3g} USD/Mtok<extra></extra>",
        })  # fmt: skip
        rows.append(("API", "any", NONE, _usd(price)))
    told = []
    for use in (0.1, 0.5, 1.0):
        _, name, cost = min(costs, key=lambda item: item[2].usd_per_million_tokens(use) or math.inf)
        told.append(f"at {format_percent(use)} {name} ({_usd(cost.usd_per_million_tokens(use))})")
    return Figure(
        id="use",
        title="Cost of a token over utilisation",
        takeaway=f"Cheapest {', '.join(told)}, each at that share of its own saturation.",
        alt="Falling lines of USD per million tokens over the share of saturated throughput that is asked for.",
        traces=traces,
        layout=layout(
            xaxis=axis("share of its own saturated throughput", tickformat=".0%", range=[0, 1.01]),
            yaxis=axis("USD per million tokens", **log_heights(traces)),
        ),
        columns=("scenario", "utilisation", "tokens/s", "USD/Mtok"),
        rows=table(rows),
        height=420,
    )


def demand_figure(c: Comparison) -> Figure | None:
    """Cost of an hour over demand, met by whole copies."""
    costs = _costs(c)
    if len(costs) < 2:
        return None
    most = max(cost.tokens_per_s for *_, cost in costs)
    demands = [most * n / STEPS_DRAWN for n in range(1, STEPS_DRAWN + 1)]

    label = Names()
    traces: list[Trace] = [
        {
            "type": "scatter", "mode": "lines", "name": label(name), "x": demands,
            "y": [hourly(cost, demand) for demand in demands], "line": line(i),
            "hovertemplate": "%{x:.4g} tok/s<br>%{fullData.name}: %{y:.4g} USD/h<extra></extra>",
        }
        for i, name, cost in costs
    ]  # fmt: skip
    return Figure(
        id="demand",
        title="Cost of an hour over demand",
        takeaway=f"Cheapest with whole copies: {stretches_text(c, c.by_demand)}.",
        alt="Lines of USD per hour over the demand in tokens per second, with a step for each further copy.",
        traces=traces,
        layout=layout(
            xaxis=axis("demand (tokens/s)", rangemode="tozero"), yaxis=axis("USD per hour", rangemode="tozero")
        ),
        columns=("scenario", "from", "to", "copies at the end"),
        rows=table(
            (c.scenarios[s.scenario].name, _rate(s.from_tokens_per_s), _rate(s.to_tokens_per_s), f"{s.copies:,}")
            for s in c.by_demand
        ),
        height=420,
    )


# -- where the difference comes from ------------------------------------------------------------------------


def waterfall_figure(c: Comparison, pair: Pair) -> Figure | None:
    """From the baseline's cost of a token to the scenario's, by what GPU time went to."""
    steps = waterfall_steps(pair)
    if not steps or c.split_by is None:
        return None
    what = c.split_by
    base, mine = c.scenarios[c.baseline], c.scenarios[pair.scenario]
    start, end = sum(base.split.values()), sum(mine.split.values())
    shown = steps[:MOST_STEPS]
    rest = sum(value for _, value in steps[MOST_STEPS:])
    if rest:
        shown = [*shown, ("all else", rest)]
    label = Names()
    unit = "USD per million tokens" if what == "usd_per_million_tokens" else "GPU-seconds per million tokens"
    trace: Trace = {
        "type": "waterfall", "orientation": "h", "showlegend": False, "name": clean(mine.name),
        "measure": ["absolute", *["relative"] * len(shown), "total"],
        "y": [label(base.name), *(label(sentence(bucket)) for bucket, _ in shown), label(mine.name)],
        "x": [start, *(value for _, value in shown), end],
        "text": [_plain(start), *(f"{_plain(value, sign=True)}" for _, value in shown), _plain(end)],
        "textposition": "auto", "insidetextanchor": "middle",
        "increasing": {"marker": {"color": RED}}, "decreasing": {"marker": {"color": GREEN}},
        "totals": {"marker": {"color": BLUE}}, "connector": {"line": {"color": GREY, "width": 1}},
        "hovertemplate": f"%{{y}}<br>%{{text}} {unit}<extra></extra>",
    }  # fmt: skip
    most = [f"{bucket} {signed(what, value)}" for bucket, value in shown[:2]]
    return Figure(
        id=f"waterfall-{pair.scenario}",
        title=f"{mine.name} against {base.name}",
        takeaway=f"From {write_metric(what, start)} to {write_metric(what, end)}: most is {' and '.join(most)}.",
        alt=f"Waterfall of {unit} from {base.name} to {mine.name}, by what GPU time went to.",
        traces=[trace],
        layout=layout(xaxis=axis(unit, range=_reach(start, shown, end)), yaxis=categories(), showlegend=False),
        columns=("what GPU time went to", base.name, mine.name, "difference"),
        rows=table(
            [
                *((bucket, *(write_metric(what, part.split.get(bucket, 0.0)) for part in (base, mine)),
                   signed(what, value)) for bucket, value in steps),
                ("all", write_metric(what, start), write_metric(what, end), signed(what, end - start)),
            ]
        ),
        height=rows_height(len(shown) + 2, 32, 90),
        half=len(c.pairs) >= HALF_FROM,
    )  # fmt: skip


def _plain(value: float, sign: bool = False) -> str:
    """Three significant figures without a unit, which the axis has."""
    text = f"{abs(value):.3g}" if abs(value) < 1000 else f"{abs(value):,.0f}"
    return f"{'−' if value < 0 else '+'}{text}" if sign else text


def _reach(start: float, steps: Sequence[tuple[str, float]], end: float) -> list[float]:
    """An axis that has room for the bars and for the figures beside them."""
    levels = [start]
    for _, value in steps:
        levels.append(levels[-1] + value)
    low, high = min(0.0, *levels), max(*levels, end)
    return [low - 0.15 * (high - low) if low < 0 else 0.0, high + 0.35 * (high - low)]
