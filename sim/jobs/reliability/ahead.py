"""What is due to a training run besides its failures: things that come back, end, are found, or go."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Literal, NamedTuple

from sim.jobs.reliability.effects import Effect

What = Literal["spare", "replicas", "speed", "found", "gone", "move"]


class Due(NamedTuple):
    """Something that is due: a spare or a replica returns, a degradation ends, a corruption is found, a machine goes,
    or what takes its place is ready.

    ``value``: how many replicas, the degradation's factor, the work done when it was corrupted, the machine's number.
    """

    time: float
    number: int
    what: What
    value: float = 1.0
    effect: Effect | None = None


@dataclass(slots=True)
class Ahead:
    """All that is due, in order of time; of one instant what was put there first."""

    heap: list[Due] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    @property
    def time(self) -> float:
        """When the first is due."""
        return self.heap[0].time if self.heap else inf

    def later(self, time: float, what: What, value: float = 1.0, effect: Effect | None = None) -> Due:
        """Something more, with a number of its own."""
        item = Due(time, next(self._numbers), what, value, effect)
        heapq.heappush(self.heap, item)
        return item

    def pop(self) -> Due:
        """Take the first."""
        return heapq.heappop(self.heap)

    def of(self, what: What) -> list[Due]:
        """All of a kind, in no order."""
        return [item for item in self.heap if item.what == what]

    def forget(self, *items: Due) -> None:
        """They will not come due."""
        numbers = {item.number for item in items}
        self.heap = [other for other in self.heap if other.number not in numbers]
        heapq.heapify(self.heap)
