"""A comparison as plain text: the answer in sentences, what differs, every main metric, and when which one pays.

The page says the same sentences (:mod:`sim.report.compare_words`), and shows all metrics.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

from sim.report.compare_answer import (
    LOADS,
    MOST_SAID,
    SPEED,
    answer,
    break_even_lines,
    break_even_table,
    load_table,
    speed_sentences,
)
from sim.report.compare_words import (
    EQUAL,
    METHOD,
    banner_lines,
    copies_lines,
    metric_rows,
    run_lines,
    signed,
    title,
    warning_lines,
    waterfall_steps,
)
from sim.report.values import BOLD, RESET, printable, styled
from sim.study.compare_schema import Comparison, Pair

WIDTH: Final = 110
"""Columns of a terminal."""
MOST_SETTINGS: Final = 40
"""Lines of the configuration in a terminal."""


def render_comparison(c: Comparison, colour: bool = False) -> str:
    """The comparison for a terminal; no escape codes unless ``colour``."""
    parts = [_wrapped(_head(c)), _answer(c, colour), _failed(c), _loads(c), _settings(c)]
    parts += [_pair(c, pair) for pair in c.pairs]
    parts += [_titled("Speed and cost", [*speed_sentences(c), *([SPEED] if c.cheapest else [])])]
    parts += [_break_even(c), _waterfalls(c)]
    notes = [*(f"warning: {line}" for line in warning_lines(c)), *banner_lines(c), *copies_lines(c), *run_lines(c)]
    parts += [_titled("Notes", [*notes, METHOD if c.pairs else ""])]
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(styled(line, colour) for line in lines) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    """Lines that fit the terminal; the lines after the first stand under it."""
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent and "    ") if text else ""


def _titled(title: str, lines: Iterable[str]) -> str:
    told = [_wrapped(line, "  ") for line in lines if line]
    return "\n".join([title, *told]) if told else ""


# -- blocks -------------------------------------------------------------------------------------------------


def _head(c: Comparison) -> str:
    equal = f", at equal {EQUAL[c.at_equal]}" if c.at_equal else ""
    return f"{title(c)}{equal}"


def _answer(c: Comparison, colour: bool) -> str:
    lines = _wrapped(" ".join(answer(c))).splitlines()
    return "\n".join(f"{BOLD}{line}{RESET}" if colour else line for line in lines)


def _failed(c: Comparison) -> str:
    told = []
    for part in c.scenarios:
        if part.failed is not None:
            told.append(f"{part.name} {'does not fit' if part.failed == 'infeasible' else 'failed'}:")
            told += [f"  {line}" for line in (part.reason or "").splitlines()]
    return "\n".join(told)


def _settings(c: Comparison) -> str:
    """Keys that differ, the constants that follow from them left out."""
    told = [s for s in c.settings if not s.detail]
    shown = told[:MOST_SETTINGS]
    if not shown:
        return "Configuration\n  no key that a scenario sets differs"
    room = max(14, (WIDTH - 44) // len(c.scenarios) - 2)
    rows = [["", "", *(_short(part.name, room) for part in c.scenarios)]]
    group = ""
    for s in shown:
        rows.append([s.group if s.group != group else "", s.key, *(value or "-" for value in s.values)])
        group = s.group
    lines = ["Configuration", *_cells(rows, [12, 28, *[room] * len(c.scenarios)])]
    rest = len(c.settings) - len(shown)
    if rest:
        lines.append(f"  and {rest:,} more, constants of devices and software among them, in comparison.json")
    return "\n".join(lines)


def _loads(c: Comparison) -> str:
    """Which to buy for which demand and speed per user."""
    speeds = len({found.tokens_per_s_per_user for found in c.by_load})
    if not speeds:
        return ""
    room = max(14, (WIDTH - 16) // speeds - 2)
    columns, rows = load_table(c, lambda name: _short(name, room))
    table = _cells([columns, *rows], [12, *[room] * (len(columns) - 1)])
    return "\n".join(["Which to buy", *table, _wrapped(LOADS, "  ")])


def _break_even(c: Comparison) -> str:
    columns, rows = break_even_table(c)
    lines = _titled("Break-even", break_even_lines(c))
    if not rows:
        return lines
    room = max(12, (WIDTH - 20) // (len(columns) - 1) - 2)
    table = _cells([columns, *rows], [18, *[room] * (len(columns) - 1)])
    return "\n".join(["Break-even", *table, *lines.splitlines()[1:]])


def _cells(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Lines of a table whose cells are wrapped to ``widths``."""
    found = []
    for row in rows:
        split = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        found += [list(line) for line in zip_longest(*split, fillvalue="")]
    return _left(found)


def _pair(c: Comparison, pair: Pair) -> str:
    base, mine = c.scenarios[c.baseline], c.scenarios[pair.scenario]
    rows = [["", _short(base.name, 18), _short(mine.name, 18), "difference", "relative", ""]]
    rows += metric_rows(c, pair, every=False)
    return "\n".join([f"{mine.name} against {base.name}", *_left(rows, 1)])


def _waterfalls(c: Comparison) -> str:
    lines = []
    for pair in c.pairs:
        steps = waterfall_steps(pair)[:MOST_SAID]
        if c.split_by is None or not steps:
            continue
        total = sum(pair.waterfall.values())
        told = ", ".join(f"{bucket} {signed(c.split_by, value)}" for bucket, value in steps)
        lines.append(f"{c.scenarios[pair.scenario].name} {signed(c.split_by, total)}: {told}")
    return _titled("Where the difference comes from (by what GPU time went to)", lines)


def _short(name: str, room: int) -> str:
    """A name without its middle: beginnings and ends tell names apart."""
    tail = (room - 1) // 2
    return name if len(name) <= room else f"{name[: room - 1 - tail]}…{name[-tail:]}"


def _left(rows: Sequence[Sequence[str]], right: int = 0) -> list[str]:
    """Lines of a table with two blanks before it; cells to the left, or all but the first to the right."""
    cleaned = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*cleaned, strict=True)]
    last = len(widths) - 1
    return [
        "  " + "  ".join(c.rjust(w) if right and 0 < i < last else c.ljust(w)
                          for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cleaned
    ]  # fmt: skip
