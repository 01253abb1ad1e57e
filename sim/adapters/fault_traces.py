"""Recorded faults: a CSV of when which unit of which class failed, for replay.

Columns ``time`` (seconds from the start, or text with a unit such as ``3 h``), ``class`` (a name, or nothing: any), and
optionally ``unit`` (its number, 0 where left out). Rows may stand in any order, other columns are ignored.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sim.errors import InputError, Problem
from sim.units import SECONDS, parse

MAX_ROWS = 1_000_000
MAX_PROBLEMS = 20
MAX_SECONDS = 1e12
#: What a class may be called (sim.spec.base.Name).
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")

Fault = tuple[float, str, int]


def read_fault_trace(path: Path) -> tuple[Fault, ...]:
    """(time, class, unit) in order of time. Raises InputError with every bad line (at most 20)."""
    if not path.is_file():
        raise InputError([Problem(str(path), None, None, None, "no such fault trace", None)])
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return tuple(sorted(_read(str(path), file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = f"cannot be read as a CSV of faults ({error})"
        raise InputError([Problem(str(path), None, None, None, what, None)]) from None


def _read(name: str, lines: Iterator[str]) -> list[Fault]:
    reader = csv.DictReader(lines, skipinitialspace=True)
    reader.fieldnames = [(column or "").strip().lower() for column in reader.fieldnames or ()]
    missing = sorted({"time", "class"} - set(reader.fieldnames))
    if missing:
        raise InputError([Problem(name, 1, None, None, f"lacks the column {' and '.join(missing)}", None)])
    found: list[Fault] = []
    problems: list[Problem] = []
    for row in reader:
        try:
            found.append(_fault(row))
        except ValueError as error:
            problems.append(Problem(name, reader.line_num, None, None, f"not a fault: {error}", None))
        if len(found) > MAX_ROWS:
            problems.append(Problem(name, reader.line_num, None, None, f"more than {MAX_ROWS:,} faults", None))
        if len(found) > MAX_ROWS or len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise InputError(problems)
    return found


def _fault(row: Mapping[str, str | None]) -> Fault:
    time, kind, unit = ((row.get(column) or "").strip() for column in ("time", "class", "unit"))
    if kind and not NAME.fullmatch(kind):
        raise ValueError(f"class {_short(kind)} is not letters, digits and . _ + - (at most 80)")
    if unit and not (unit.isascii() and unit.isdigit() and len(unit) < 10):
        raise ValueError(f"unit {_short(unit)} is not a number of a unit (0, 1, ...)")
    return _time(time), kind or "any", int(unit or 0)


def _time(text: str) -> float:
    if not text:
        raise ValueError("it has no time")
    try:
        value = float(text)
    except ValueError:
        value = parse(text, SECONDS)
    if not (math.isfinite(value) and 0.0 <= value < MAX_SECONDS):
        raise ValueError(f"{_short(text)} is not a time from the start")
    return value


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:37] + "...")
