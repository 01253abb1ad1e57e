"""The search for a size, best bound first.

Every design is checked by its laws: memory, and bounds that no simulation of it can beat. Those that remain are taken
best bound first. A design's bound is replaced by its simulated value, and once that comes first it is an answer: no
other design, simulated or not, can be better. The search ends when ``TOP`` answers and the best of every kind of
machine are known; the rest cannot be better and is not simulated. So the answers are those that simulating every
design would give, whatever the number of workers.
"""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass, field
from math import inf
from typing import Final

from sim.study.executors import Hear, OpenExecutor
from sim.study.size_check import Checked, Checker
from sim.study.size_play import Played, only, play_design
from sim.study.size_question import Study
from sim.study.size_schema import TOP, Why
from sim.study.size_space import Design

WIDTH: Final = 4
"""Designs that are simulated at a time, on however many workers, so that the answer does not depend on them."""


@dataclass(order=True, slots=True)
class Item:
    """A design in the queue by its best possible value (smaller is better), or by its true one."""

    key: float
    promise: float
    number: int
    design: Design = field(compare=False)
    checked: Checked = field(compare=False)
    played: Played | None = field(compare=False, default=None)


@dataclass(slots=True)
class Search:
    """What is known while the search goes on, and when it is over."""

    study: Study
    queue: list[Item] = field(default_factory=list)
    answers: list[Item] = field(default_factory=list)
    """Designs that no other can beat, in order."""
    rest: list[Item] = field(default_factory=list)
    """Designs that came after these: simulated, or by their bounds alone."""
    lost: list[tuple[Design, Why, str]] = field(default_factory=list)
    by_laws: int = 0
    """Of those that are lost: how many fit, and were never simulated."""
    runs: int = 0
    _values: list[float] = field(default_factory=list)
    _best: dict[str, float] = field(default_factory=dict)

    @property
    def sign(self) -> float:
        """What makes the goal's values smaller as they are better."""
        return -1.0 if self.study.question.goal == "throughput" else 1.0

    @property
    def misfits(self) -> int:
        """Designs that do not fit."""
        return sum(why == "does not fit" for _, why, _ in self.lost)

    def machine(self, design: Design) -> str:
        """The kind of machine of a design."""
        return self.study.space.offers[design.offer].machine.id

    def ceiling(self, design: Design) -> float:
        """The value above which a design is neither among the first ``TOP`` nor the best of its machine."""
        last = self._values[TOP - 1] if len(self._values) >= TOP else inf
        return max(last, self._best.get(self.machine(design), inf))

    def check_all(self, hear: Hear | None) -> None:
        """Queue every design that its laws leave."""
        designs = self.study.space.designs
        checker = Checker(self.study.space, self.study.question)
        for number, design in enumerate(designs):
            checked = checker.check(design)
            if checked.lost is None:
                self.queue.append(Item(self.sign * checked.best, -checked.promise, number, design, checked))
            else:
                self.lost.append((design, checked.lost, checked.reason))
                self.by_laws += checked.lost != "does not fit"
            if hear is not None and number % 100 == 0:
                hear(f"laws: {number} of {len(designs)}", number / len(designs))
        heapq.heapify(self.queue)

    def take(self) -> list[Item]:
        """The next designs to simulate; answers that come before them are put down on the way."""
        batch: list[Item] = []
        while self.queue and len(batch) < WIDTH:
            if self.queue[0].played is not None and batch:
                break  # what is simulated now may come before it
            first = heapq.heappop(self.queue)
            if first.played is not None:
                self.answers.append(first)
            elif first.key <= self.ceiling(first.design):
                batch.append(first)
            else:
                self.rest.append(first)
        return batch

    def note(self, item: Item, played: Played) -> None:
        """Put down what a simulation said."""
        self.runs += played.runs
        if played.lost is not None:
            self.lost.append((item.design, played.lost, played.reason))
            return
        value, machine = self.sign * played.value, self.machine(item.design)
        heapq.heappush(self.queue, Item(value, -inf, item.number, item.design, item.checked, played))
        bisect.insort(self._values, value)
        self._best[machine] = min(value, self._best.get(machine, inf))


def search(study: Study, open_executor: OpenExecutor, hear: Hear | None = None) -> Search:
    """Search the whole space."""
    found = Search(study)
    found.check_all(hear)
    total, done = len(found.queue), 0
    with open_executor() as (executor, slots):
        mapped = map if slots == 1 else executor.map
        while batch := found.take():
            spaces, designs = zip(*(only(study.space, item.design) for item in batch), strict=True)
            checked, ceilings = [item.checked for item in batch], [found.ceiling(item.design) for item in batch]
            played = mapped(play_design, spaces, designs, [study.question] * len(batch), checked, ceilings)
            for item, answer in zip(batch, played, strict=True):
                found.note(item, answer)
            done += len(batch)
            if hear is not None:
                hear(f"designs: {done} of {total} at most", done / total)
    return found
