"""How wide what is written may be: lines and tables that fit the terminal they go to.

A file or a pipe has no width: prose then breaks where the caller says, and tables do not. Of a table that is too wide
the headings break first, then a last column of prose; what is still too wide is told in blocks of columns, one below
the other, each with the first columns. No figure is ever broken.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

NARROWEST: Final = 40
"""Narrower terminals are written to as if they had this many columns."""
PROSE: Final = 24
"""Columns that a last column of prose needs to stand beside the others."""
GAP: Final = "  "
BOLD: Final = "\x1b[1m"
RESET: Final = "\x1b[0m"
_TIE: Final = "\N{NO-BREAK SPACE}"
_TIED: Final = re.compile(
    r"(?<=\d) (?=(?:[kKMGTP]?i?B(?:/s)?|[KMGT]?bit/s|[KMGT]?bps|tok/s|GPU-\w+|USD(?:/\w+)?|[mun]?s|min|h|days|W|kW)\b)"
    r"|(?<=,) (?=[^][]{1,16}\])"
)
"""Blanks that lines do not break at: before a unit, and within an interval."""


def printable(text: str) -> str:
    """Text without control or direction characters: a name in a hand-edited file cannot steer a terminal."""
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)


def tied(text: object) -> str:
    """Text whose numbers stay with their units, and intervals whole, where lines break at blanks."""
    return _TIED.sub(_TIE, str(text))


def styled(line: str, colour: bool) -> str:
    """A line for a terminal, cleaned; one that is bold as a whole stays so with ``colour``."""
    if colour and line.startswith(BOLD):
        return f"{BOLD}{printable(line.removeprefix(BOLD).removesuffix(RESET)).rstrip()}{RESET}"
    return printable(line).rstrip()


def bold(lines: str, colour: bool) -> str:
    """Lines that are bold, each by itself, with ``colour``."""
    return "\n".join(f"{BOLD}{line}{RESET}" for line in lines.splitlines()) if colour else lines


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes; ``columns`` None: a file or a pipe."""

    columns: int | None = None

    def width(self, most: int) -> int:
        """Columns of a line that would have ``most``."""
        return most if self.columns is None else min(self.columns, most)

    def prose(self, text: str, most: int | None = None, indent: str = "", hanging: str = "") -> str:
        """Text in lines of at most ``most`` columns (None: as many as there are), all but the first ``hanging``."""
        if most is None and self.columns is None:
            return indent + text
        if not text:
            return ""
        width = self.columns or 0 if most is None else self.width(most)
        hanging = hanging if len(hanging) <= width // 2 else "  "
        whole = text if self.columns is None else tied(text)
        filled = textwrap.fill(whole, width, initial_indent=indent, subsequent_indent=hanging)
        return filled.replace(_TIE, " ")

    def table(
        self, rows: Sequence[Sequence[str]], left: Collection[int] = (), keys: int = 1, indent: str = "",
        heads: int = 1, most: Sequence[int] | None = None,
    ) -> list[str]:  # fmt: skip
        """Lines of a table: cells to the right, but for the columns in ``left`` (from 0; negative: from the end).

        ``keys``: columns that every block begins with. ``heads``: rows that are headings. ``most``: columns of each
        cell, which goes on in the next line.
        """
        cells = [[printable(cell) for cell in row] for row in rows]
        count = len(cells[0]) if cells else 0
        to_left = {at % count for at in left} if count else set()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        if most is not None:
            widths = list(map(min, widths, most))
        room = None if self.columns is None else self.columns - len(indent)
        if room is None or _across(widths) <= room:
            return _lines(cells, range(count), widths, to_left, indent)
        for at in range(count if most is None else 0):
            words = [word for row in cells[:heads] for word in row[at].split()]
            widths[at] = max(map(len, [*(row[at] for row in cells[heads:]), *words, ""]))
        last = count - 1
        if last in to_left and count > 1 and _across(widths) > room:
            rest = room - _across(widths[:-1]) - len(GAP)
            widths[last] = min(widths[last], rest) if rest >= PROSE else widths[last]
        found: list[str] = []
        for block in _blocks(widths, keys, room):
            narrow = [min(width, max(room - _across(widths[:keys]) - len(GAP), 12)) for width in widths]
            own = [width if at < keys else one for at, (width, one) in enumerate(zip(widths, narrow, strict=True))]
            found += [*([""] if found else []), *_lines(cells, block, own, to_left, indent)]
        return found


FILE: Final = Screen()
"""No terminal."""


def screen() -> Screen:
    """What standard output is: a terminal's width, or the one that COLUMNS asks for."""
    asked = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty() and not (asked.isdecimal() and int(asked)):
        return FILE
    return Screen(max(NARROWEST, shutil.get_terminal_size().columns))


def _across(widths: Sequence[int]) -> int:
    """Columns of a line with all of these."""
    return sum(widths) + len(GAP) * max(0, len(widths) - 1)


def _blocks(widths: Sequence[int], keys: int, room: int) -> list[list[int]]:
    """Columns by block: the keys, and as many of the others as fit beside them, at least one."""
    blocks: list[list[int]] = []
    for at in range(keys, len(widths)):
        if not blocks or _across([widths[i] for i in [*blocks[-1], at]]) > room:
            blocks.append(list(range(keys)))
        blocks[-1].append(at)
    return blocks or [list(range(len(widths)))]


def _lines(
    cells: Sequence[Sequence[str]], columns: Sequence[int], widths: Sequence[int], left: Collection[int], indent: str
) -> list[str]:
    """Rows of some columns; a cell that is wider than its column goes on in the line below."""
    found = []
    for row in cells:
        split = [_broken(row[at], widths[at]) for at in columns]
        for parts in zip_longest(*split, fillvalue=""):
            line = GAP.join(
                part.ljust(widths[at]) if at in left else part.rjust(widths[at])
                for part, at in zip(parts, columns, strict=True)
            )
            found.append(f"{indent}{line}".rstrip())
    return found


def _broken(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    return [part.replace(_TIE, " ") for part in textwrap.wrap(tied(cell), width)] or [""]
