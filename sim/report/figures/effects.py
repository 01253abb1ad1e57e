"""What one better resource would change: throughput, cost and latency of each re-run against this run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from sim.report.figures.common import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Figure,
    Names,
    Trace,
    axis,
    categories,
    fill,
    layout,
    rows_height,
    sentence,
    table,
)
from sim.report.values import joined, write
from sim.results.schema import Effect, Result

LEAST_SHOWN = 0.05
"""Where no change is larger, the axis of changes ends here."""
LITTLE = 0.01
"""A change below this does not count as binding in the sentence, and a measure that nothing changes more is not drawn
beside those that something does."""
Columns = Mapping[str, list[float | None]]
"""By measure, the change that each improvement makes."""


def effects_figure(result: Result) -> Figure | None:
    """A tornado: for each improved resource the change of throughput, of cost per token, of TTFT and of TPOT, those
    that anything changes."""
    effects = sorted(
        (effect for effect in result.verdict.effects if math.isfinite(effect.relative)),
        key=lambda effect: -_largest(_changes(effect)),
    )[:30]
    if not effects:
        return None
    names = Names()
    labels = [names(f"{e.resource}: {e.change}") for e in effects]
    what = _tokens(result)
    columns = {name: [getattr(e, key) for e in effects] for name, key in _measures(what).items()}
    known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    moved = {name: values for name, values in known.items() if _largest(values) >= LITTLE}
    colours = dict(zip(columns, (BLUE, ORANGE, GREEN, PURPLE), strict=True))
    traces = [
        _change(list(columns).index(name), name, colours[name], labels, values)
        for name, values in (moved or known).items()
    ]
    serves = any(job.kind == "serving" for job in result.jobs)
    latencies = ("TTFT p50 by", "TPOT p50 by") if serves else ()
    takeaway = _takeaway(effects, what, known, moved)
    return Figure(
        id="effects",
        title="What one better resource would change",
        takeaway=takeaway,
        alt="Bars of relative change per improved resource. " + takeaway,
        traces=traces,
        layout=layout(
            barmode="group",
            bargap=0.3,
            xaxis=axis(
                "change against this run", tickformat="+.1~%", zeroline=True, zerolinewidth=2,
                **_least_range(known),
            ),
            yaxis=categories(),
            showlegend=True,
        ),
        columns=("resource", "change", what, "by", "cost per token by", *latencies),
        rows=table(
            (
                *(e.resource, e.change, write("output_tokens_per_s", e.output_tokens_per_s)),
                *(_signed(value) for value in (e.relative, e.usd_per_million_tokens_relative)),
                *(_signed(value) for value in (e.ttft_p50_relative, e.tpot_p50_relative) if latencies),
            )
            for e in effects
        ),
        height=rows_height(len(effects), 24 + 14 * max(2, len(traces)), 120),
    )  # fmt: skip


def _measures(what: str) -> dict[str, str]:
    """What an improvement may change, and where that stands."""
    return {
        what: "relative", "cost per token": "usd_per_million_tokens_relative", "TTFT p50": "ttft_p50_relative",
        "TPOT p50": "tpot_p50_relative",
    }  # fmt: skip


def _changes(effect: Effect) -> list[float | None]:
    """By how much an improvement changes each measure."""
    return [getattr(effect, key) for key in _measures("").values()]


def _largest(values: Iterable[float | None]) -> float:
    return max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)


def _least_range(columns: Columns) -> dict[str, list[float]]:
    """An axis no narrower than this, so that changes of nothing look like nothing."""
    small = max(map(_largest, columns.values())) < LEAST_SHOWN
    return {"range": [-LEAST_SHOWN, LEAST_SHOWN]} if small else {}


def _tokens(result: Result) -> str:
    """What is counted: tokens generated, tokens trained on, or both together."""
    kinds = {job.kind for job in result.jobs}
    if "training" not in kinds:
        return "throughput"
    return "tokens/s generated and trained on" if "serving" in kinds else "tokens/s of training"


def _signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "n/a"
    return "0.0%" if abs(value) < 0.0005 else f"{value:+.1%}".replace("-", "−")


def _change(index: int, name: str, colour: str, labels: list[str], values: list[float | None]) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": labels,
        "x": values,
        "marker": fill(index, colour),
        "hovertemplate": "%{y}<br>%{fullData.name}: %{x:+.1%}<extra></extra>",
    }


def _takeaway(effects: list[Effect], what: str, known: Columns, moved: Columns) -> str:
    if not moved:
        most = max(map(_largest, known.values()))
        within = f"more than {most:.1%}" if most >= 0.0005 else "as much as 0.1%"
        told = joined([_the(name) for name in known]).replace(" and ", " or ")
        return f"No single resource tried changes {told} by {within}."
    name = what if what in moved else max(moved, key=lambda name: _largest(moved[name]))
    values = moved[name]
    first = max(range(len(effects)), key=lambda n: abs(values[n] or 0.0))
    resource = f"{sentence(effects[first].resource)} ({effects[first].change})"
    found = [f"{resource} changes {_the(name)} most: {_signed(values[first])}."]
    small = [e.resource for e in effects if _largest(_changes(e)) < LITTLE]
    if small:
        found.append(f"{sentence(joined(small))} would change nothing by as much as 1%.")
    if what not in moved:
        found.append(f"Nothing changes {_the(what)} by as much as 1%.")
    return " ".join(found)


def _the(name: str) -> str:
    """A measure within a sentence."""
    return name if name.startswith("T") else f"the {name}"
