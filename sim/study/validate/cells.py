"""The cells of measured tables as numbers: texts by column, as the csv reader has them.

A *record* keeps every cell that a source leaves open as None, with the prose of number columns aside in ``texts``;
tables of kernels have no such cells, and one that is no number above zero is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from math import isfinite
from typing import Any, TypeVar

from sim.study.validate.cases import Case

T = TypeVar("T")
Cells = Mapping[str, str]
#: A table's name and its rows -> their cases.
Reader = Callable[[str, Sequence[Cells]], list[Case]]


class BadRow(Exception):  # noqa: N818 (an answer to the caller, who knows the file)
    """A row that breaks its table's format: its number, counted from the first row of data, and what is wrong."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def each(make: Callable[[str, int, Cells], Case], first: int = 2) -> Reader:
    """A reader that makes one case a row; ``first`` is the number of the first row."""

    def read(table: str, rows: Sequence[Cells]) -> list[Case]:
        cases = []
        for number, cells in enumerate(rows):
            try:
                cases.append(make(table, number + first, cells))
            except ValueError as error:
                raise BadRow(number, str(error)) from None
            except ZeroDivisionError:
                raise BadRow(number, "a number that others are divided by is 0") from None
        return cases

    return read


def number(cells: Cells, column: str) -> float:
    """A finite number above zero. ValueError, which names the column, for anything else."""
    value = _number(cells[column])
    if value is None or value <= 0:
        raise ValueError(f"{column} is a number above 0, not '{cells[column]}'")
    return value


def whole(cells: Cells, column: str) -> int:
    """A whole number above zero. ValueError, which names the column, for anything else."""
    value = number(cells, column)
    if not value.is_integer():
        raise ValueError(f"{column} is a whole number, not '{cells[column]}'")
    return int(value)


def record(kind: Callable[..., T], cells: Cells) -> T:
    """A dataclass of columns (``str``, or ``int`` or ``float`` or None) and ``texts``; other columns are ignored."""
    words, numbers = _columns(kind)
    known: dict[str, Any] = {name: cells.get(name, "").strip() for name in (*words, *numbers)}
    texts: dict[str, str] = {}
    for name, integer in numbers.items():
        text = known[name]
        value = _number(text)
        known[name] = value if value is None or not integer else int(value) if value.is_integer() else None
        if text and known[name] is None:
            texts[name] = text
    return kind(**known, texts=texts)


@cache
def _columns(kind: Any) -> tuple[tuple[str, ...], dict[str, bool]]:
    """Columns of words, and those of numbers with whether they are whole."""
    types = {f.name: str(f.type) for f in fields(kind)}
    words = tuple(name for name, type_ in types.items() if type_ == "str")
    return words, {name: type_.startswith("int") for name, type_ in types.items() if type_.startswith(("int", "float"))}


def _number(text: str) -> float | None:
    """A finite number; None of prose."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
