"""A size as plain text: the question, the answer in sentences, those that came next, and why the others lost."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Final

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
from sim.report.values import BOLD, RESET, aligned, styled
from sim.study.size_schema import TOP, Sizing

WIDTH: Final = 110
"""Columns of a terminal."""


def render_size(s: Sizing, colour: bool = False) -> str:
    """The search for a terminal; no escape codes unless ``colour``."""
    answer = textwrap.fill(" ".join(sentences(s)), WIDTH).splitlines()
    parts = [
        textwrap.fill(s.question, WIDTH),
        "\n".join(f"{BOLD}{line}{RESET}" if colour else line for line in answer),
        _named([("error", expected(s)), *(("warning", line) for line in s.warnings)]),
        _table("Best", [answer_columns(s), *(answer_row(s, i) for i in range(min(TOP, len(s.answers))))]),
        _rows("Best of each kind of machine", machine_rows(s)),
        _rows("Why the others lost", loss_rows(s)),
        _notes([*(f"ASSUMED {line}" for line in s.banners), *note_lines(s), coverage_line(s), METHOD]),
    ]
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(styled(line, colour) for line in lines) + "\n"


def _named(lines: Iterable[tuple[str, str]]) -> str:
    """Lines as ``sim run`` prints them, each with its name."""
    return "\n".join(
        line
        for name, told in lines
        for line in textwrap.wrap(told, WIDTH, initial_indent=name.ljust(12), subsequent_indent=" " * 12)
    )


def _table(title: str, rows: list[list[str]]) -> str:
    return "\n".join([title, *(f"  {line}" for line in aligned(rows).splitlines())])


def _rows(title: str, rows: list[list[str]]) -> str:
    """Rows whose last cell is prose: it wraps under itself."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    told = []
    for row in rows:
        head = "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  "
        told.append(textwrap.fill(row[-1], WIDTH, initial_indent=head, subsequent_indent=" " * len(head)))
    return "\n".join([title, *told])


def _notes(lines: Iterable[str]) -> str:
    told = [textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="    ") for line in lines]
    return "\n".join(["Notes", *told])
