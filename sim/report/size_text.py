"""A size as plain text: the question, the answer in sentences, those that came next, and why the others lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sim.report.screen import FILE, Screen, bold, styled
from sim.report.size_words import (
    METHOD,
    answer_columns,
    answer_row,
    coverage_line,
    expected,
    loss_rows,
    machine_rows,
    note_lines,
    sentences,
)
from sim.study.size_schema import TOP, Sizing

WIDTH: Final = 110
"""Columns of a line of prose."""


def render_size(s: Sizing, colour: bool = False, screen: Screen = FILE) -> str:
    """The search for a terminal; no escape codes unless ``colour``."""
    best = [answer_columns(s), *(answer_row(s, i) for i in range(min(TOP, len(s.answers))))]
    parts = [
        screen.prose(s.question, WIDTH),
        bold(screen.prose(" ".join(sentences(s)), WIDTH), colour),
        "\n".join(_named([*(("error", line) for line in expected(s)), *(("warning", w) for w in s.warnings)], screen)),
        "\n".join(["Best", *screen.table(best, indent="  ")]),
        _rows("Best of each kind of machine", machine_rows(s), screen),
        _rows("Why the others lost", loss_rows(s), screen),
        _notes([*(f"ASSUMED {line}" for line in s.banners), *note_lines(s), coverage_line(s), METHOD], screen),
    ]
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(styled(line, colour) for line in lines) + "\n"


def _named(lines: Iterable[tuple[str, str]], screen: Screen) -> list[str]:
    """Lines as ``sim run`` prints them, each with its name."""
    return [screen.prose(told, WIDTH, name.ljust(12), " " * 12) for name, told in lines]


def _rows(title: str, rows: list[list[str]], screen: Screen) -> str:
    """Rows whose last cell is prose: it wraps under itself."""
    if not rows:
        return ""
    told = Screen(screen.width(WIDTH)).table(rows, left=range(len(rows[0])), indent="  ", heads=0)
    return "\n".join([title, *told])


def _notes(lines: Iterable[str], screen: Screen) -> str:
    told = [screen.prose(line, WIDTH, "  ", "    ") for line in lines]
    return "\n".join(["Notes", *told])
