"""The journal of a sweep: one line of JSON for each finished point, on disk before the next is asked for.

Lines are keyed by the content of what was simulated, so the journal outlives a killed sweep, a changed list of
values and a changed scenario: whatever is asked for again is found, the rest is not used. A last line that was
cut short is dropped when the journal is opened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sim.errors import RunError
from sim.study.sweep_points import Answer


class Journal:
    """Answers by key, in a file of one writer at a time."""

    def __init__(self, path: Path, fresh: bool = False) -> None:
        """Open or begin the journal; ``fresh`` forgets what it holds. Raises RunError if another sweep writes it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            _lock(self._file, path)
            if fresh:
                self._file.truncate(0)
            self.answers: dict[str, Answer] = self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> dict[str, Answer]:
        self._file.seek(0)
        raw = self._file.read()
        whole = raw.rfind(b"\n") + 1
        self._file.truncate(whole)
        found: dict[str, Answer] = {}
        for line in raw[:whole].splitlines():
            try:
                entry = json.loads(line)
                key, answer = entry["key"], entry["answer"]
            except (ValueError, KeyError, TypeError):
                continue  # damaged: the point is simulated again
            if isinstance(key, str) and isinstance(answer, dict):
                found[key] = answer
        return found

    def add(self, entries: Iterable[tuple[str, Answer]]) -> None:
        """Put finished points on disk."""
        lines = []
        for key, answer in entries:
            self.answers[key] = answer
            lines.append(json.dumps({"key": key, "answer": answer}) + "\n")
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def _lock(file: BinaryIO, path: Path) -> None:
    """Held until the file is closed, or its process is gone. Nothing where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunError(f"{path}: another sweep is writing here; give one of them another --out") from None
