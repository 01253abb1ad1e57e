"""Where an unknown key was likely meant to stand: under another spelling, a level deeper, or elsewhere in the file."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from sim.errors import did_you_mean

SURE: Final = 0.8
"""Spellings that are as like as this are the same key, whatever stands elsewhere."""
DEEPEST: Final = 5
"""Levels that are looked through."""
MOST: Final = 3
"""Places that are named."""
_NUMBERED: Final = re.compile(r"(.*_p)\d+$")

Members = Callable[[Any], list[Any]]


class KeyHints:
    """Hints for keys of a tree of models. ``members`` tells the types of a union, ``plain`` strips what wraps one."""

    def __init__(self, root: type[BaseModel], members: Members, plain: Callable[[Any], Any]) -> None:
        self.root, self.members, self.plain = root, members, plain

    def of(self, word: str, owner: Any) -> tuple[str, str | None]:
        """What to say of a key that its owner does not have, and the key to suggest."""
        known = list(self._fields(owner))
        near = did_you_mean(word, known)
        percentile = _NUMBERED.match(word)
        alike = [name for name in known if percentile and name.startswith(percentile[1])]
        if len(alike) > 1:
            return f"unknown key: there are {', '.join(alike[:-1])} and {alike[-1]}", None
        if near is not None and SequenceMatcher(None, near, word).ratio() >= SURE:
            return "unknown key", near
        places = list(self._below(word, owner)) or ([] if near else list(self._below(word, self.root)))
        if len(places) == 1:
            return "unknown key", places[0]
        if places:
            more = f" and {len(places) - MOST} more places" if len(places) > MOST else ""
            return f"unknown key here: it belongs in {_or(places[:MOST])}{more}", None
        return "unknown key", near

    def _below(self, word: str, owner: Any) -> Iterator[str]:
        """Paths from ``owner`` to fields of that name, those of the nearest level."""
        queue = deque([("", owner, 0)])
        found: dict[str, None] = {}
        level = DEEPEST
        while queue:
            path, here, depth = queue.popleft()
            if depth > level:
                break
            for name, annotation in self._fields(here).items():
                at = f"{path}.{name}".lstrip(".")
                if depth and name == word:
                    found[at], level = None, min(level, depth)
                for model, step in self._models(annotation):
                    if depth < level:
                        queue.append((f"{at}{step}", model, depth + 1))
        yield from found

    def _fields(self, annotation: Any) -> dict[str, Any]:
        annotation = self.plain(annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return {}
        return {
            f.validation_alias if isinstance(f.validation_alias, str) else name: f.annotation
            for name, f in annotation.model_fields.items()
        }

    def _models(self, annotation: Any) -> Iterator[tuple[Any, str]]:
        """The models that a field can hold, and the step to them: an item's number in a list."""
        for member in self.members(self.plain(annotation)):
            kind = self.plain(member)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind, ""
            elif get_origin(kind) in (list, tuple):
                for argument in get_args(kind)[:1]:
                    for model, step in self._models(argument):
                        yield model, f".0{step}"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
