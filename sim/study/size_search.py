"""The search for a size, best bound first.

Every design is checked by its laws: memory, and bounds that no simulation of it can beat. Those that remain are taken
best bound first. A design's bound is replaced by its simulated value. Once that comes first it is confirmed by longer
runs of several seeds (:mod:`~sim.study.size_confirm`), which may make it worse. A confirmed value that comes first is
an answer: no other design, simulated or not, can be better. The search ends when ``TOP`` answers and the best of every
kind of machine are known; the rest cannot be better and is not simulated, or not confirmed. So the answers are those
that simulating and confirming every design would give, whatever the number of workers.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from sim.study.executors import Hear, OpenExecutor
from sim.study.size_check import Checked, Checker
from sim.study.size_confirm import confirm_design
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


@dataclass(frozen=True, slots=True)
class Lost:
    """A design that does not do what is asked with so many ``units``; ``over``: how many times what is asked it is."""

    design: Design
    units: int
    why: Why
    reason: str
    over: float = inf


class Interrupted(KeyboardInterrupt):
    """The user had enough; ``search`` is as far as it came."""

    def __init__(self, search: Search) -> None:
        self.search = search
        super().__init__()


@dataclass(slots=True)
class Search:
    """What is known while the search goes on, and when it is over."""

    study: Study
    queue: list[Item] = field(default_factory=list)
    answers: list[Item] = field(default_factory=list)
    """Designs that no other can beat, in order."""
    rest: list[Item] = field(default_factory=list)
    """Designs that came after these: simulated, or by their bounds alone."""
    lost: list[Lost] = field(default_factory=list)
    by_laws: int = 0
    """Of those that are lost: how many fit, and were never simulated."""
    runs: int = 0
    _values: dict[int, float] = field(default_factory=dict)
    """Of what was simulated and does what is asked, by the design's number."""

    @property
    def sign(self) -> float:
        """What makes the goal's values smaller as they are better."""
        return -1.0 if self.study.question.goal == "throughput" else 1.0

    @property
    def misfits(self) -> int:
        """Designs that do not fit."""
        return sum(lost.why == "does not fit" for lost in self.lost)

    @property
    def found(self) -> list[Item]:
        """Everything that was simulated and does what is asked as far as is known, the best first."""
        return sorted([*self.answers, *(item for item in (*self.queue, *self.rest) if item.played is not None)])

    def machine(self, design: Design) -> str:
        """The kind of machine of a design."""
        return self.study.space.offers[design.offer].machine.id

    def ceiling(self, item: Item) -> float:
        """The value above which a design is neither among the first ``TOP`` nor the best of its machine."""
        designs, machine = self.study.space.designs, self.machine(item.design)
        others = {number: value for number, value in self._values.items() if number != item.number}
        best = min((v for number, v in others.items() if self.machine(designs[number]) == machine), default=inf)
        return max(sorted(others.values())[TOP - 1] if len(others) >= TOP else inf, best)

    def check_all(self, hear: Hear | None) -> None:
        """Queue every design that its laws leave."""
        designs = self.study.space.designs
        checker = Checker(self.study.space, self.study.question)
        for number, design in enumerate(designs):
            checked = checker.check(design)
            if checked.lost is None:
                self.queue.append(Item(self.sign * checked.best, -checked.promise, number, design, checked))
            else:
                units = checked.most if checked.lost == "too many nodes" else checked.least
                self.lost.append(Lost(design, units, checked.lost, checked.reason, checked.over))
                self.by_laws += checked.lost != "does not fit"
            if hear is not None and number % 100 == 0:
                hear(f"laws: {number} of {len(designs)}", number / len(designs))
        heapq.heapify(self.queue)

    def take(self) -> list[Item]:
        """The next designs to simulate, or to confirm; answers that come before them are put down on the way."""
        batch: list[Item] = []
        while self.queue and len(batch) < WIDTH:
            ahead = self.queue[0].played
            if batch and (ahead is None) != (batch[0].played is None):
                break  # what is simulated now may come before it
            if batch and ahead is not None and ahead.settled:
                break
            first = heapq.heappop(self.queue)
            if first.played is not None and first.played.settled and (self.answers or first.played.long):
                self.answers.append(first)
            elif first.key <= self.ceiling(first):
                batch.append(first)
            else:
                self.rest.append(first)
        return batch

    def note(self, item: Item, played: Played) -> None:
        """Put down what a simulation said."""
        self.runs += played.runs
        known = self._values.pop(item.number, None)
        if played.lost == "costs more":
            # It takes more units than that, whose price is a better bound.
            checked = replace(item.checked, least=played.units + 1, best=played.value)
            heapq.heappush(self.queue, replace(item, key=self.sign * played.value, checked=checked, played=None))
        elif played.lost is not None:
            self.lost.append(Lost(item.design, played.units, played.lost, played.reason, played.over))
        else:
            value = self.sign * played.value
            self._values[item.number] = value
            heapq.heappush(self.queue, replace(item, key=value, promise=-inf, played=played))
        if known is None or self._values.get(item.number, inf) <= known:
            return
        # What came after a value that has become worse, or is gone, may come before it now.
        back = [other for other in self.rest if other.key <= self.ceiling(other)]
        self.rest = [other for other in self.rest if other not in back]
        for other in back:
            heapq.heappush(self.queue, other)


def search(study: Study, open_executor: OpenExecutor, hear: Hear | None = None) -> Search:
    """Search the whole space. Raises Interrupted, with what is known, where the user interrupts it."""
    found = Search(study)
    try:
        found.check_all(hear)
        total, done = len(found.queue), 0
        with open_executor() as (executor, slots):
            mapped = map if slots == 1 else executor.map
            while batch := found.take():
                spaces, designs = zip(*(only(study.space, item.design) for item in batch), strict=True)
                checked, ceilings = [item.checked for item in batch], [found.ceiling(item) for item in batch]
                asked = [study.question] * len(batch)
                if batch[0].played is None:
                    played = mapped(play_design, spaces, designs, asked, checked, ceilings)
                    done += len(batch)
                else:
                    so_far = [item.played for item in batch]
                    long = [not found.answers and i == 0 for i in range(len(batch))]
                    played = mapped(confirm_design, spaces, designs, asked, checked, so_far, ceilings, long)
                for item, answer in zip(batch, played, strict=True):
                    found.note(item, answer)
                if hear is not None:
                    what = "designs" if batch[0].played is None else "confirming designs"
                    hear(f"{what}: {done} of {total} at most", min(1.0, done / total))
    except KeyboardInterrupt:
        raise Interrupted(found) from None
    return found
