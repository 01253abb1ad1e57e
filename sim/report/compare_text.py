"""A comparison as plain text: the answer in sentences, what differs, every main metric, and when which one pays.

The page says the same sentences (:mod:`sim.report.compare_words`), and shows all metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from sim.report.screen import FILE, Screen, bold, styled
from sim.study.compare_schema import Comparison, Pair

WIDTH: Final = 110
"""Columns of a line of prose."""
MOST_SETTINGS: Final = 40
"""Lines of the configuration in a terminal."""


def render_comparison(c: Comparison, colour: bool = False, screen: Screen = FILE) -> str:
    """The comparison for a terminal; no escape codes unless ``colour``."""
    parts = [screen.prose(_head(c), WIDTH), bold(screen.prose(" ".join(answer(c)), WIDTH), colour)]
    parts += [_failed(c, screen), _loads(c, screen), _settings(c, screen)]
    parts += [_pair(c, pair, screen) for pair in c.pairs]
    parts += [_titled("Speed and cost", [*speed_sentences(c), *([SPEED] if c.cheapest else [])], screen)]
    parts += [_break_even(c, screen), _waterfalls(c, screen)]
    notes = [*(f"warning: {line}" for line in warning_lines(c)), *banner_lines(c), *copies_lines(c), *run_lines(c)]
    parts += [_titled("Notes", [*notes, METHOD if c.pairs else ""], screen)]
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(styled(line, colour) for line in lines) + "\n"


def _titled(title: str, lines: Iterable[str], screen: Screen) -> str:
    told = [screen.prose(line, WIDTH, "  ", "    ") for line in lines if line]
    return "\n".join([title, *told]) if told else ""


# -- blocks -------------------------------------------------------------------------------------------------


def _head(c: Comparison) -> str:
    equal = f", at equal {EQUAL[c.at_equal]}" if c.at_equal else ""
    return f"{title(c)}{equal}"


def _failed(c: Comparison, screen: Screen) -> str:
    told = []
    for part in c.scenarios:
        if part.failed is not None:
            told.append(f"{part.name} {'does not fit' if part.failed == 'infeasible' else 'failed'}:")
            told += [screen.prose(line, None, "  ", "    ") for line in (part.reason or "").splitlines()]
    return "\n".join(told)


def _settings(c: Comparison, screen: Screen) -> str:
    """Keys that differ, the constants that follow from them left out."""
    told = [s for s in c.settings if not s.detail]
    shown = told[:MOST_SETTINGS]
    if not shown:
        return "Configuration\n  no key that a scenario sets differs"
    room = max(14, (screen.width(WIDTH) - 44) // len(c.scenarios) - 2)
    rows = [["", "", *(_short(part.name, room) for part in c.scenarios)]]
    group = ""
    for s in shown:
        rows.append([s.group if s.group != group else "", s.key, *(value or "-" for value in s.values)])
        group = s.group
    lines = ["Configuration", *_cells(rows, [12, 28, *[room] * len(c.scenarios)], screen, keys=2)]
    rest = len(c.settings) - len(shown)
    if rest:
        more = f"and {rest:,} more, constants of devices and software among them, in comparison.json"
        lines.append(screen.prose(more, None, "  ", "    "))
    return "\n".join(lines)


def _loads(c: Comparison, screen: Screen) -> str:
    """Which to buy for which demand and speed per user."""
    speeds = len({found.tokens_per_s_per_user for found in c.by_load})
    if not speeds:
        return ""
    room = max(14, (screen.width(WIDTH) - 16) // speeds - 2)
    columns, rows = load_table(c, lambda name: _short(name, room))
    table = _cells([columns, *rows], [12, *[room] * (len(columns) - 1)], screen)
    return "\n".join(["Which to buy", *table, screen.prose(LOADS, WIDTH, "  ", "    ")])


def _break_even(c: Comparison, screen: Screen) -> str:
    columns, rows = break_even_table(c)
    lines = _titled("Break-even", break_even_lines(c), screen)
    if not rows:
        return lines
    room = max(12, (screen.width(WIDTH) - 20) // (len(columns) - 1) - 2)
    table = _cells([columns, *rows], [18, *[room] * (len(columns) - 1)], screen)
    return "\n".join(["Break-even", *table, *lines.splitlines()[1:]])


def _cells(rows: Sequence[Sequence[str]], widths: Sequence[int], screen: Screen, keys: int = 1) -> list[str]:
    """Lines of a table whose cells are wrapped to ``widths``."""
    return screen.table(rows, left=range(len(widths)), keys=keys, indent="  ", most=widths)


def _pair(c: Comparison, pair: Pair, screen: Screen) -> str:
    base, mine = c.scenarios[c.baseline], c.scenarios[pair.scenario]
    rows = [["", _short(base.name, 18), _short(mine.name, 18), "difference", "relative", ""]]
    rows += metric_rows(c, pair, every=False)
    heading = screen.prose(f"{mine.name} against {base.name}")
    return "\n".join([heading, *screen.table(rows, left=(0, -1), indent="  ")])


def _waterfalls(c: Comparison, screen: Screen) -> str:
    lines = []
    for pair in c.pairs:
        steps = waterfall_steps(pair)[:MOST_SAID]
        if c.split_by is None or not steps:
            continue
        total = sum(pair.waterfall.values())
        told = ", ".join(f"{bucket} {signed(c.split_by, value)}" for bucket, value in steps)
        lines.append(f"{c.scenarios[pair.scenario].name} {signed(c.split_by, total)}: {told}")
    return _titled("Where the difference comes from (by what GPU time went to)", lines, screen)


def _short(name: str, room: int) -> str:
    """A name without its middle: beginnings and ends tell names apart."""
    tail = (room - 1) // 2
    return name if len(name) <= room else f"{name[: room - 1 - tail]}…{name[-tail:]}"
