"""What every figure is made of: data for plotly as plain dicts, a sentence, and a table of the same data.

Colours are Okabe and Ito's palette (jfly.uni-koeln.de/color), which people with any common colour blindness
can tell apart; a pattern, dash, symbol or width always repeats what the colour says. Names come from users
and plotly reads a little HTML in labels, so names are escaped on the way in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sim.report.screen import printable

MAX_POINTS: Final = 2000
"""Points of one trace."""
MAX_ROWS: Final = 200
"""Rows of a data table."""
MAX_NAME: Final = 30
"""Letters of a name on an axis."""

BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
RED, PURPLE, YELLOW, GREY = "#D55E00", "#CC79A7", "#F0E442", "#9AA0A6"
BRICK, TEAL, LILAC, TAN = "#882255", "#44AA99", "#B9A3D0", "#C2A878"
"""Further ones where eight are not enough; their patterns tell them from their neighbours."""
PALE: Final = "rgba(128,134,142,0.35)"
"""Time without work: quiet on white and on black."""

PALETTE: Final = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW, GREY)
PATTERNS: Final = ("", "/", "\\", "x", "-", ".", "|", "+")
DASHES: Final = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS: Final = ("circle", "diamond", "square", "triangle-up", "x", "star", "cross", "triangle-down")

_INSTANTS: Final = ("base", "range")
"""Keys whose values may be close together and far from zero."""

Trace = dict[str, Any]
Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawing: what plotly draws, what it says in words, and its data."""

    id: str
    title: str
    takeaway: str
    alt: str
    traces: list[Trace]
    layout: dict[str, Any]
    columns: tuple[str, ...]
    rows: Rows
    height: int = 320
    note: str = ""
    half: bool = False

    @property
    def shown(self) -> Rows:
        """The rows of the data table that are printed."""
        return self.rows[:MAX_ROWS]

    @property
    def types(self) -> list[str]:
        """The trace types asked for, in order."""
        return [trace["type"] for trace in self.traces]


@dataclass(slots=True)
class Names:
    """Names as axis labels: escaped, short, and still different where the names differ."""

    taken: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        if name not in self.taken:
            label = base = clean(name, MAX_NAME)
            number = 2
            while label in self.taken.values():
                label, number = f"{base} ({number})", number + 1
            self.taken[name] = label
        return self.taken[name]


def clean(text: str, limit: int = 80) -> str:
    """Text that plotly shows as it stands: no tags, no entities, no control characters."""
    shown = printable(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def drawn(figures: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    """What the page's program draws, by the figure's id."""
    return {
        figure.id: {"data": tidy(figure.traces), "layout": tidy(figure.layout)}
        for group in figures.values()
        for figure in group
    }


def tidy(value: Any, digits: int = 5) -> Any:
    """JSON for the page: five significant figures (instants all twelve), nothing infinite."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: tidy(item, 12 if key in _INSTANTS else digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(item, digits) for item in value]
    return value


def binned(values: Sequence[float], limit: int) -> tuple[list[float], int]:
    """At most `limit` means of equally many neighbours each, and how many went into one."""
    size = max(1, math.ceil(len(values) / limit))
    return [mean(values[at : at + size]) for at in range(0, len(values), size)], size


def mean(values: Sequence[float]) -> float:
    """The average of the finite values, 0 where there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else 0.0


def thinned(points: Sequence[Any], limit: int = MAX_POINTS) -> list[Any]:
    """At most `limit` of the points, evenly chosen, with the first and the last."""
    if len(points) <= limit:
        return list(points)
    last = len(points) - 1
    return [points[round(index * last / (limit - 1))] for index in range(limit)]


def layout(**changes: Any) -> dict[str, Any]:
    """The look all figures share; axes and margins can be overridden."""
    base: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
        "margin": {"l": 8, "r": 24, "t": 8, "b": 8, "autoexpand": True},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "hoverlabel": {"align": "left", "namelength": -1},
        "dragmode": False,
        "uirevision": "kept",
    }
    return base | changes


def axis(title: str = "", **changes: Any) -> dict[str, Any]:
    """An axis that makes room for its own labels."""
    made: dict[str, Any] = {"automargin": True, "zeroline": False, "fixedrange": True}
    made |= {"ticks": "", "ticklabelstandoff": 4}
    if title:
        made["title"] = {"text": title, "standoff": 10, "font": {"size": 12}}
    return made | changes


def log_scale(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis with labels at 1, 2 and 5 times powers of ten within the values; those above zero count."""
    known = [value for value in values if value > 0]
    low, high = min(known, default=1.0), max(known, default=1.0)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    inside = [t for t in ticks if low / 1.5 <= t <= high * 1.5]
    if len(inside) > 8:
        inside = [t for t in inside if f"{t:e}".startswith("1")]
    return {"type": "log", "tickvals": inside, "ticktext": [f"{t:,.12g}" for t in inside]}


def log_heights(traces: Iterable[Trace]) -> dict[str, Any]:
    """The same for all that lines are drawn through."""
    return log_scale(value for trace in traces for value in trace["y"] if value)


def categories(**changes: Any) -> dict[str, Any]:
    """A vertical axis of names, the first at the top; never read as numbers or dates."""
    style: dict[str, Any] = {
        "type": "category",
        "autorange": "reversed",
        "showgrid": False,
        "ticklabelstandoff": 6,
    }
    return axis(**(style | changes))


def fill(index: int, colour: str | None = None) -> dict[str, Any]:
    """The marker of a bar: a colour and its own pattern; the pairs differ for the first 64 indices."""
    shape = PATTERNS[(index + index // len(PALETTE)) % len(PATTERNS)]
    made: dict[str, Any] = {"color": colour or PALETTE[index % len(PALETTE)], "line": {"width": 0}}
    if shape:
        dark = {"shape": shape, "fillmode": "overlay", "fgcolor": "#000", "fgopacity": 0.35, "size": 7}
        made["pattern"] = dark | {"solidity": 0.22}
    return made


def line(index: int) -> dict[str, Any]:
    """A line's colour and its own dash."""
    return {"color": PALETTE[index % len(PALETTE)], "dash": DASHES[index % len(DASHES)], "width": 2}


def table(rows: Iterable[Sequence[object]]) -> Rows:
    """Rows of text, one more than is printed at most: the last tells that there are more."""
    made: Rows = []
    for row in rows:
        if len(made) > MAX_ROWS:
            break
        made.append(tuple(printable(str(cell)) for cell in row))
    return made


def rows_height(count: int, row: int = 30, frame: int = 110) -> int:
    """Pixels for `count` horizontal rows."""
    return frame + row * max(count, 1)


def some(count: int, total: int, what: str) -> str:
    """A note where not everything is drawn."""
    return f"{count:,} of {total:,} {what} are drawn." if count < total else ""


def sentence(text: str) -> str:
    """Text with a capital at its start; the rest stays as it is."""
    return text[:1].upper() + text[1:]
