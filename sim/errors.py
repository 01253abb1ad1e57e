"""What can go wrong, said so that the user can put it right.

Four kinds of failure, each with the exit code the command line returns. An input error carries every problem
found, one line each, in the form `file:line:col: path: message, did you mean 'x'?`. All errors can be
pickled, because runs are sent to worker processes and their failures come back.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


class SimError(Exception):
    """A failure the user can act on; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class RunError(SimError):
    """The simulation itself failed."""

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input. Parts that are unknown are None and are left out of the text."""

    file: str | None
    line: int | None
    column: int | None
    path: str | None
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = [self.file] if self.file else []
        if self.line is not None:
            place.append(str(self.line))
            if self.column is not None:
                place.append(str(self.column))
        hint = f", did you mean '{self.suggestion}'?" if self.suggestion else ""
        parts = [":".join(place), self.path or "", self.message + hint]
        return _one_line(": ".join(part for part in parts if part))


class InputError(SimError):
    """The user's input is wrong; `problems` holds all that was found, in the order found."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class InfeasibleError(SimError):
    """The configuration cannot exist (memory, ranks, links); `budget` is the table that shows why."""

    exit_code: ClassVar[int] = 3

    def __init__(
        self,
        message: str,
        budget: Sequence[tuple[str, ...]] = (),
        header: tuple[str, ...] | None = None,
    ) -> None:
        self.message = message
        self.budget = list(budget)
        self.header = header
        super().__init__(message, self.budget, header)

    def __str__(self) -> str:
        rows = ([self.header] if self.header else []) + self.budget
        return "\n".join([self.message, *_aligned(rows)])


class ObjectiveMissed(SimError):  # noqa: N818 (it is an outcome, not a fault)
    """The run went well but an objective the user stated was not met."""

    exit_code: ClassVar[int] = 4


def _one_line(text: str) -> str:
    """The text with line breaks, terminal codes and the like written as escapes: it may quote a stranger's file.

    Bytes of the command line that are not UTF-8 (surrogates) stay: standard error escapes them itself.
    """
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else repr(c)[1:-1] for c in text)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as text: first column to the left, the others (figures) to the right."""
    columns = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(columns)]
    lines = []
    for row in rows:
        cells = [cell.rjust(widths[i]) if i else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _bare(word: str) -> str:
    """Only what carries an identifier's identity: 'RTX 4090', 'rtx-4090' and 'rtx4090' are the same."""
    return re.sub(r"[\W_]+", "", word.casefold()) or word.casefold()


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate the user most likely meant by `word`, or None when nothing comes close.

    Spelling variants (case, blanks, hyphens) come first, then one that differs by a letter or two of many, then
    a candidate that contains the word or is contained in it, then the closest by difflib. Among equals the one
    listed first wins.
    """
    if len(word) > 200:  # difflib is quadratic, and nobody misspells a name at such length
        return None
    wanted = _bare(word)
    bare = {candidate: _bare(candidate) for candidate in candidates}
    same = [candidate for candidate, name in bare.items() if name == wanted]
    if same:
        return word if word in same else same[0]
    long = [c for c, name in bare.items() if min(len(name), len(wanted)) >= 4]
    inside = [c for c in long if bare[c] in wanted or wanted in bare[c]]
    # Two letters of which one is right ('GX' for 'GB') score 0.5; longer words must agree in more.
    cutoff = 0.5 if len(wanted) <= 3 else 0.6
    scores = {c: difflib.SequenceMatcher(None, name, wanted, autojunk=False).ratio() for c, name in bare.items()}
    best = max(scores, key=lambda c: scores[c], default=None)
    if inside and best is not None and scores[best] < 0.95:
        return max(inside, key=lambda c: scores[c])
    return None if best is None or scores[best] < cutoff else best
