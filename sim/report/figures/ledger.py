"""Where the GPU time went: every GPU-second of the run in exactly one bucket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sim.report.figures.common import (
    BLUE,
    BRICK,
    GREEN,
    GREY,
    LILAC,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    SKY,
    TAN,
    TEAL,
    YELLOW,
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
from sim.report.values import of_jobs, shares
from sim.results.schema import Result
from sim.units import format_percent, format_seconds

MAX_DEVICES: Final = 32

STYLES: Final[dict[str, tuple[int, str]]] = {
    "compute-bound": (0, BLUE),
    "memory-bound": (1, SKY),
    "launch and host": (2, YELLOW),
    "communication": (3, RED),
    "pipeline bubble": (4, PURPLE),
    "waiting for slow ranks": (2, LILAC),
    "data loading": (7, TAN),
    "checkpoint saving": (3, TEAL),
    "lost work redone": (1, BRICK),
    "degraded speed": (2, TAN),
    "stalled": (4, ORANGE),
    "failure detection": (6, ORANGE),
    "restart": (7, RED),
    "waiting for repair": (5, BRICK),
    "elastic resizing": (6, LILAC),
    "migration": (1, PALE),
    "start-up": (2, GREEN),
    "waiting for work": (5, GREY),
    "switched off": (3, PALE),
    "spare": (6, PALE),
}
"""Pattern and colour of a bucket; "communication" also stands for its kinds of link."""
_MORE_LINKS: Final = ((3, RED), (7, ORANGE), (2, ORANGE), (1, GREEN), (6, GREEN))
_AXES: Final = {"tp": RED, "dp": ORANGE, "pp": GREEN, "cp": BRICK, "ep": TEAL}
_OF_LINK: Final = (3, 1, 6, 2, 7, 4)
"""Patterns of an axis's links, in turn from one of the axis's own ("communication: tp over nvlink")."""


def ledger_figure(result: Result) -> Figure | None:
    """Stacked horizontal bars: all GPUs that jobs use, then each class of GPUs."""
    total = shares(of_jobs(result.ledger))
    if not total:
        return None
    devices = result.devices[:MAX_DEVICES]
    names = Names()
    bars: list[tuple[str, Mapping[str, float]]] = [(names(_whole(result)), total)]
    bars += [(names(f"{d.name} ×{d.count}"), shares(d.ledger)) for d in devices]
    return Figure(
        id="ledger",
        title="Share of GPU time",
        takeaway=_takeaway(total),
        alt="Stacked bars of GPU time by what it was spent on: "
        + ", ".join(f"{name} {format_percent(part)}" for name, part in total.items()),
        traces=_traces(result.ledger, bars),
        layout=layout(
            barmode="stack",
            bargap=0.35,
            xaxis=axis("share of GPU time", tickformat=".0%", range=[0, 1.001], dtick=0.2),
            yaxis=categories(),
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        ),
        columns=("GPUs", "bucket", "share", "GPU time"),
        rows=_rows(result),
        height=rows_height(len(bars), 34, 150),
        note=some(len(devices), len(result.devices), "classes"),
    )


def _whole(result: Result) -> str:
    """What the first bar is of."""
    return "GPUs of jobs" if result.ledger.get("spare") else "All GPUs"


def _takeaway(total: dict[str, float]) -> str:
    (name, part), *rest = total.items()
    then = f", then {rest[0][0]} ({format_percent(rest[0][1])})" if rest else ""
    working = sum(total.get(bucket, 0.0) for bucket in ("compute-bound", "memory-bound"))
    most = f"Most GPU time went to {name} ({format_percent(part)}){then}"
    return f"{most}; arithmetic and memory took {format_percent(working)} of the time."


def _traces(ledger: Mapping[str, float], bars: list[tuple[str, Mapping[str, float]]]) -> list[Trace]:
    styles = _styles(ledger)
    return [
        {
            "type": "bar",
            "orientation": "h",
            "name": clean(bucket),
            "y": [label for label, _ in bars],
            "x": [parts.get(bucket, 0.0) for _, parts in bars],
            "marker": fill(*styles[bucket]),
            "hovertemplate": "%{y}<br>%{fullData.name}: %{x:.1%}<extra></extra>",
        }
        for bucket in styles
        if any(parts.get(bucket) for _, parts in bars)
    ]


def _styles(ledger: Mapping[str, float]) -> dict[str, tuple[int, str]]:
    """Pattern and colour of each bucket, working time first."""
    known = list(STYLES)
    links = [name for name in ledger if name not in STYLES and _axis(name) is None]
    order = sorted(ledger, key=lambda n: known.index(n) if n in known else known.index("communication"))
    styles = {name: STYLES[name] for name in order if name in STYLES}
    styles |= {name: _MORE_LINKS[at % len(_MORE_LINKS)] for at, name in enumerate(links)}
    for name in order:
        if (axis_ := _axis(name)) is not None:
            at = list(_AXES).index(axis_)
            looks = [(shape, _AXES[axis_]) for shape in (*_OF_LINK[at:], *_OF_LINK[:at])]
            styles[name] = next((look for look in looks if look not in styles.values()), looks[0])
    return {name: styles[name] for name in order}


def _axis(bucket: str) -> str | None:
    """The axis of parallelism that a bucket of communication belongs to."""
    kind, _, rest = bucket.partition(": ")
    name = rest.partition(" over ")[0]
    return name if kind == "communication" and name in _AXES else None


def _rows(result: Result) -> list[tuple[str, ...]]:
    whole = "of jobs" if result.ledger.get("spare") else "all"
    entries = [(whole, of_jobs(result.ledger)), *((device.name, device.ledger) for device in result.devices)]
    return table(
        (name, bucket, format_percent(part), format_seconds(ledger[bucket]))
        for name, ledger in entries
        for bucket, part in shares(ledger).items()
    )
