"""Recorded requests: when each arrived, how long its prompt was and how long the answer.

Four formats are read, each told apart by its first line:

- azure: CSV ``TIMESTAMP,ContextTokens,GeneratedTokens``, timestamps such as ``2023-11-16 18:15:46.6805900``
- mooncake: one JSON object a line, ``timestamp`` in milliseconds, ``input_length``, ``output_length``, and
  ``hash_ids``: a number for each block of 512 tokens that stands for it and all before it
- burstgpt: CSV ``Timestamp,Request tokens,Response tokens``, in seconds; no response token: the request failed
- vidur: CSV ``arrived_at,num_prefill_tokens,num_decode_tokens``, in seconds

Columns may come in any order and others are ignored. A request without a token to read or to write cannot be
replayed: it is skipped, and counted. Anything else that is odd is refused: a bent trace bends every result.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError, Problem, did_you_mean

MAX_BYTES = 500_000_000
MAX_LINE = 1_000_000
MAX_ROWS = 10_000_000
MAX_TOKENS = 1_000_000_000
MAX_SECONDS = 1e11
HASHED_TOKENS = 512
MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True, eq=False)
class RequestTrace:
    """Requests in the order they arrive, the first at 0 s; request i is (arrival[i], prompt[i], output[i])."""

    arrival: NDArray[np.float64]
    """Seconds, ascending."""
    prompt: NDArray[np.int64]
    """Tokens."""
    output: NDArray[np.int64]
    """Tokens."""
    skipped: int
    """Rows of the file that no request was made of."""
    source: str
    blocks: tuple[tuple[int, ...], ...] | None = None
    """Of each prompt the hashes of its blocks, which stand for all tokens up to their end; None where not known."""
    block_tokens: int = HASHED_TOKENS
    """Tokens of such a block."""

    def first(self, n: int) -> RequestTrace:
        """The first n requests (all, if there are fewer)."""
        blocks = self.blocks[:n] if self.blocks is not None else None
        return replace(self, arrival=self.arrival[:n], prompt=self.prompt[:n], output=self.output[:n], blocks=blocks)

    def cycled(self, n: int) -> RequestTrace:
        """n requests: these, again and again in order; each round starts when the one before has ended, and has prompts
        that no other round has."""
        size = len(self.arrival)
        if n <= size:
            return self.first(n)
        index = np.arange(n)
        span = self.arrival[-1] - self.arrival[0]
        return replace(
            self,
            arrival=self.arrival[index % size] + span * (index // size),
            prompt=self.prompt[index % size],
            output=self.output[index % size],
            blocks=None if self.blocks is None else _repeated(self.blocks, -(-n // size))[:n],
        )


def _repeated(blocks: tuple[tuple[int, ...], ...], times: int) -> tuple[tuple[int, ...], ...]:
    """The hashes of so many rounds of prompts, none of which is in two rounds."""
    span = 1 + max((max(numbers, default=0) for numbers in blocks), default=0)
    return tuple(tuple(number + k * span for number in numbers) for k in range(times) for numbers in blocks)


def read_trace(
    path: Path, format: str = "auto", *, limit: int | None = None, time_scale: float = 1.0
) -> RequestTrace:
    """The requests in the file at ``path``; raises InputError for anything that is not a sound trace.

    ``limit`` reads the first rows of the file only, those skipped included. ``time_scale`` stretches the
    recorded times: 2 halves the rate.
    """
    file = str(path)
    if format not in ("auto", *_FORMATS):
        raise _refusal(file, f"unknown trace format {_quoted(format)}", did_you_mean(format, ("auto", *_FORMATS)))
    if limit is not None and limit < 1:
        raise _refusal(file, f"limit must be at least 1, not {limit}")
    if not (math.isfinite(time_scale) and time_scale > 0):
        raise _refusal(file, f"time_scale must be above 0, not {time_scale:g}")
    try:
        _check(path)
        with open(path, "rb") as handle:
            columns = _Rows(file, limit).read(_lines(handle, file), format)
    except (OSError, ValueError) as error:
        raise _refusal(file, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    seconds = np.array(columns.seconds, dtype=np.float64)
    order = np.argsort(seconds, kind="stable")
    arrival = (seconds[order] - seconds[order[0]]) * time_scale
    prompt, output = (np.array(tokens, dtype=np.int64)[order] for tokens in (columns.prompt, columns.output))
    for values in (arrival, prompt, output):
        values.setflags(write=False)
    blocks = tuple(columns.blocks[i] for i in order) if any(columns.blocks) else None
    return RequestTrace(arrival, prompt, output, columns.skipped, f"{path.name} ({columns.format})", blocks)


# ---- The file


def _refusal(file: str, message: str, suggestion: str | None = None, line: int | None = None) -> InputError:
    return InputError([Problem(file, line, None, None, message, suggestion)])


def _quoted(text: object) -> str:
    """A text of the file as an error shows it: short, and without control characters."""
    shown = str(text)
    return ascii(shown if len(shown) <= 40 else shown[:37] + "...")


def _check(path: Path) -> None:
    """Refuse what is not a file of a size that can be a trace."""
    file = str(path)
    if path.is_dir():
        raise _refusal(file, "is a folder, not a trace file")
    if not path.exists():
        raise _refusal(file, "no such trace file", _near(path))
    if not path.is_file():
        raise _refusal(file, "is a device or pipe, not a trace file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise _refusal(file, f"larger than {MAX_BYTES // 10**6} MB: cut the trace into parts")
    if not size:
        raise _refusal(file, "the trace file is empty")


def _near(path: Path) -> str | None:
    """A file of nearly that name in the same folder."""
    try:
        entries = itertools.islice(path.parent.iterdir(), 2000)
        return did_you_mean(path.name, sorted(entry.name for entry in entries if entry.is_file()))
    except OSError:
        return None


def _lines(handle: BinaryIO, file: str) -> Iterator[str]:
    """The file's lines as text, one at a time."""
    for number in itertools.count(1):
        raw = handle.readline(MAX_LINE + 1)
        if not raw:
            return
        if number == 1 and raw.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
            raise _refusal(file, "is a compressed file: unpack it first")
        if b"\0" in raw:
            raise _refusal(file, "is not text: it has a NUL byte", line=number)
        if len(raw) > MAX_LINE:
            raise _refusal(file, f"a line of more than {MAX_LINE:,} bytes", line=number)
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise _refusal(file, f"is not UTF-8 text (byte 0x{byte:02x})", line=number) from None


# ---- Values


class _BadError(Exception):
    """What is wrong with one value."""


_CLOCK = re.compile(r"[ T](\d\d):(\d\d):(\d\d(?:\.\d{1,12})?)(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][+-]?\d{1,3})?", re.ASCII)


def _timestamps() -> Callable[[Any], float]:
    """A reader of dates and times: seconds since midnight of the first day it is shown.

    Counted from so near, a double keeps all seven digits of a fraction.
    """
    days: dict[str, float] = {}
    first = 0

    def day(text: str) -> float:
        nonlocal first
        try:
            number = date.fromisoformat(text).toordinal()
        except ValueError:
            raise _BadError(f"must be a time such as 2023-11-16 18:15:46.68, not {_quoted(text)}") from None
        first = first or number
        return (number - first) * 86400.0

    def seconds(text: Any) -> float:
        clock = _CLOCK.fullmatch(text, 10)
        if clock is None:
            raise _BadError(f"must be a time such as 2023-11-16 18:15:46.68, not {_quoted(text)}")
        if (start := days.get(text[:10])) is None:
            start = days[text[:10]] = day(text[:10])
        hour, minute, second, sign, *zone = clock.groups()
        hours, minutes = int(hour), int(minute)
        if hours > 23 or minutes > 59 or float(second) >= 61:  # 60 is a leap second
            raise _BadError(f"there is no such time: {_quoted(text)}")
        if sign:
            ahead = int(zone[0]) * 3600 + int(zone[1]) * 60
            start -= ahead if sign == "+" else -ahead
        return start + hours * 3600 + minutes * 60 + float(second)

    return seconds


def _number(value: Any) -> float:
    """A finite number, from text or from JSON."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise _BadError(f"must be a number, not {_quoted(value) if value else 'empty'}")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _BadError(f"must be a number, not {_quoted(value)}")
    if not -1e18 < value < 1e18:  # also false of NaN
        raise _BadError("must be a finite number of sensible size")
    return float(value)


def _seconds(value: Any) -> float:
    seconds = _number(value)
    if not 0 <= seconds <= MAX_SECONDS:
        raise _BadError(f"must be between 0 and {MAX_SECONDS:g} s, not {seconds:g}")
    return seconds


def _milliseconds(value: Any) -> float:
    return _seconds(_number(value) / 1000.0)


def _tokens(value: Any) -> int:
    """A whole number of tokens; ``374.0`` is one too, as table software writes it."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    tokens = _number(value)
    if tokens < 0:
        raise _BadError(f"must not be negative: {tokens:g}")
    if tokens > MAX_TOKENS:
        raise _BadError(f"must be at most {MAX_TOKENS:,} tokens, not {tokens:g}")
    if not tokens.is_integer():
        raise _BadError(f"must be a whole number, not {tokens:g}")
    return int(tokens)


def _hashes(value: Any, tokens: int) -> tuple[int, ...]:
    """The hashes of a prompt's blocks: one for each ``HASHED_TOKENS`` of its tokens, or none."""
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, int) for x in value):
        raise _BadError(f"must be a list of whole numbers, not {_quoted(value)}")
    if any(not 0 <= x < 2**62 for x in value):
        raise _BadError("must be from 0 to 2^62")
    if len(value) > -(-tokens // HASHED_TOKENS):
        raise _BadError(f"has {len(value)} blocks of {HASHED_TOKENS} tokens, the prompt has {tokens} tokens")
    return tuple(value)


# ---- Rows


class _Format(NamedTuple):
    time: str
    prompt: str
    output: str
    clock: Callable[[], Callable[[Any], float]]
    """Makes the reader of the time column (it may keep a memory of the file)."""

    @property
    def names(self) -> tuple[str, str, str]:
        return self.time, self.prompt, self.output


_FORMATS = {
    "azure": _Format("TIMESTAMP", "ContextTokens", "GeneratedTokens", _timestamps),
    "mooncake": _Format("timestamp", "input_length", "output_length", lambda: _milliseconds),
    "burstgpt": _Format("Timestamp", "Request tokens", "Response tokens", lambda: _seconds),
    "vidur": _Format("arrived_at", "num_prefill_tokens", "num_decode_tokens", lambda: _seconds),
}


@dataclass(slots=True)
class _Columns:
    format: str
    seconds: array[float] = field(default_factory=lambda: array("d"))
    prompt: array[int] = field(default_factory=lambda: array("q"))
    output: array[int] = field(default_factory=lambda: array("q"))
    skipped: int = 0
    blocks: list[tuple[int, ...]] = field(default_factory=list)


Row = tuple[int, Any, Any, Any, Any]
"""Line number, time, prompt tokens, output tokens and hashes of the prompt's blocks, as written."""


class _Rows:
    """Reads rows into columns and gathers what is wrong with them."""

    def __init__(self, file: str, limit: int | None) -> None:
        self.file, self.limit = file, limit
        self.problems: list[Problem] = []

    def read(self, lines: Iterator[str], format: str) -> _Columns:
        """All rows as columns, or InputError."""
        start, line = next(((i, line) for i, line in enumerate(lines, 1) if line.strip()), (0, ""))
        if not start:
            raise _refusal(self.file, "the trace file is empty")
        name = self.format_of(line, start) if format == "auto" else format
        rows = self.objects if name == "mooncake" else self.cells
        columns = self.columns(name, rows(itertools.chain([line], lines), start, _FORMATS[name]))
        if self.problems:
            raise InputError(self.problems)
        if not columns.seconds:
            why = f": all {columns.skipped:,} rows are of 0 tokens" if columns.skipped else ""
            raise _refusal(self.file, f"the trace has no request{why}")
        return columns

    def format_of(self, line: str, number: int) -> str:
        """The format that the first line shows."""
        if line.lstrip().startswith("{"):
            return "mooncake"
        header = {cell.strip().casefold() for cell in line.split(",")}
        header |= {cell.strip('"') for cell in header}
        for name, format in _FORMATS.items():
            if name != "mooncake" and header >= {column.casefold() for column in format.names}:
                return name
        known = "; ".join(f"{name}: {', '.join(format.names)}" for name, format in _FORMATS.items())
        message = f"the first line {_quoted(line.strip())} is of no trace format that is known ({known})"
        raise _refusal(self.file, message, line=number)

    def fault(self, line: int, column: str | None, message: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem(self.file, line, None, column, message, suggestion))
        if len(self.problems) >= MAX_PROBLEMS:
            raise InputError(self.problems)

    def columns(self, name: str, rows: Iterator[Row]) -> _Columns:
        """Each row's values checked and put into its columns."""
        found = _Columns(name)
        clock = _FORMATS[name].clock()
        for count, (line, time, prompt, output, hashes) in enumerate(itertools.islice(rows, self.limit), 1):
            if count > MAX_ROWS:
                raise _refusal(self.file, f"more than {MAX_ROWS:,} rows: set a limit")
            try:
                seconds, read, written = clock(time), _tokens(prompt), _tokens(output)
            except (_BadError, TypeError):
                self.explain(line, _FORMATS[name], clock, (time, prompt, output))
                continue
            if read and written:
                try:
                    blocks = _hashes(hashes, read) if hashes is not None else ()
                except _BadError as error:
                    self.fault(line, "hash_ids", str(error))
                    continue
            if read and written:
                found.seconds.append(seconds)
                found.prompt.append(read)
                found.output.append(written)
                found.blocks.append(blocks)
            else:
                found.skipped += 1
        return found

    def explain(self, line: int, format: _Format, clock: Callable[[Any], float], values: tuple[Any, ...]) -> None:
        """Every fault of a row, each with its column."""
        readers: tuple[Callable[[Any], float], ...] = (clock, _tokens, _tokens)
        for name, reader, value in zip(format.names, readers, values, strict=True):
            if value is None:
                self.fault(line, name, "is missing")
                continue
            try:
                reader(value)
            except _BadError as error:
                self.fault(line, name, str(error))

    def cells(self, lines: Iterator[str], start: int, format: _Format) -> Iterator[Row]:
        """The rows of a CSV file with a header; what a short row lacks is None."""
        reader = csv.reader(lines)
        try:
            header = next(reader)
            time, prompt, output = self.places(header, start, format)
            last = max(time, prompt, output)
            for cells in reader:
                number = reader.line_num + start - 1
                if len(cells) > last:
                    yield number, cells[time].strip(), cells[prompt].strip(), cells[output].strip(), None
                elif any(cell.strip() for cell in cells):
                    known = dict(enumerate(cells))
                    yield number, known.get(time), known.get(prompt), known.get(output), None
        except csv.Error as error:
            raise _refusal(self.file, f"not valid CSV: {error}", line=reader.line_num + start - 1) from None

    def places(self, header: list[str], start: int, format: _Format) -> list[int]:
        """Where the format's three columns stand."""
        names = [cell.strip() for cell in header]
        folded = [name.casefold() for name in names]
        for wanted in format.names:
            if folded.count(wanted.casefold()) > 1:
                self.fault(start, wanted, "the column is given twice")
            elif wanted.casefold() not in folded:
                near = did_you_mean(wanted, names)
                self.fault(start, wanted, "no such column" + (f"; the nearest is {_quoted(near)}" if near else ""))
        if self.problems:
            raise InputError(self.problems)
        return [folded.index(wanted.casefold()) for wanted in format.names]

    def objects(self, lines: Iterator[str], start: int, format: _Format) -> Iterator[Row]:
        """The rows of a file with a JSON object on each line; a key that is not there gives None."""
        for number, line in enumerate(lines, start):
            if not line.strip():
                continue
            row: Mapping[str, Any] | None = None
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                self.fault(number, None, f"not valid JSON: {error.msg} at column {error.colno}")
            except (ValueError, RecursionError):
                self.fault(number, None, "not valid JSON: a number too long, or nested too deep")
            else:
                if isinstance(row, dict):
                    columns = (row.get(column) for column in (*format.names, "hash_ids"))
                    yield number, *columns  # type: ignore[misc]
                else:
                    self.fault(number, None, "must be a JSON object with " + ", ".join(format.names))
