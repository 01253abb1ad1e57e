"""Requests and where they come from.

A ``RequestTable`` holds one row a request: what it asks for, and the instants of its life. A feed hands
request numbers to one replica: an open feed has its arrivals fixed beforehand, a closed one has clients who
send their next request once the last was answered. Both can say when the next request comes, so a replica
can play many identical passes as one event and still meet every arrival.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from sim.engine.clock import INSTANT
from sim.jobs.serving.prompts import rests

INF = float("inf")


class RequestTable:
    """Requests by number. Times are in seconds; NaN where it has not happened.

    ``length`` is the number of tokens the engine generates, at least ``output`` (a static batch generates
    until its longest answer is done). ``restarts`` counts replicas that died under a request, ``failed`` has the
    instants of those given up then; ``lost_kv`` are the tokens whose KV cache died with its replica. ``parts`` are
    (request, first token, last token, tokens) that came before a replica died, ``resumed`` (first token, tokens before
    it) of those that went on since. ``priority`` is a number a request where they differ, higher ones first. ``follow``
    has the next request of a conversation, and the seconds before it; ``found`` tokens of a prompt that were in the
    cache; ``tenant`` whose request it is, by number.
    """

    __slots__ = (
        "arrival", "failed", "finish", "first", "follow", "found", "generated", "length", "lost_kv", "output",
        "parts", "paused", "preempted", "priority", "prompt", "recomputed", "rejected", "replica", "restarts",
        "resumed", "scheduled", "tenant",
    )  # fmt: skip

    def __init__(self, prompt: Sequence[int], output: Sequence[int], arrival: Sequence[float]) -> None:
        n = len(prompt)
        nan = float("nan")
        self.prompt, self.output, self.length = list(prompt), list(output), list(output)
        self.arrival = list(arrival) if arrival else [nan] * n
        self.scheduled, self.first, self.finish = [nan] * n, [nan] * n, [nan] * n
        self.generated = [0] * n
        self.replica = [-1] * n
        self.preempted = [0] * n
        self.priority: list[int] | None = None
        self.tenant: list[int] | None = None
        self.follow: dict[int, tuple[int, float]] = {}
        self.found: dict[int, int] = {}
        self.paused: dict[int, float] = {}
        self.recomputed = 0
        self.rejected: list[int] = []
        self.restarts = [0] * n
        self.failed: dict[int, float] = {}
        self.lost_kv = 0
        self.parts: list[tuple[int, float, float, int]] = []
        self.resumed: dict[int, tuple[float, int]] = {}

    def stopped(self, r: int, generated: int, at: float) -> None:
        """The replica of a request died that had ``generated`` tokens, the last of them ``at``."""
        start, before = self.resumed.pop(r, (self.first[r], 0))
        self.generated[r], self.paused[r] = generated, at
        self.parts.append((r, start, at, generated - before))

    def break_off(self, r: int, at: float) -> None:
        """A request was refused, or given up: so are those that were to follow it, for they repeat all of it."""
        for lost in rests(self.follow, r):
            self.arrival[lost], self.replica[lost] = at, self.replica[r]
            if r in self.failed:
                self.failed[lost] = at
            else:
                self.rejected.append(lost)

    def __len__(self) -> int:
        return len(self.prompt)


class Feed(ABC):
    """Requests for one replica. ``fits`` says whether a request can be served at all."""

    def __init__(self, table: RequestTable, replica: int, fits: Callable[[int], bool]) -> None:
        self.table, self.replica, self.fits = table, replica, fits
        #: Wakes a replica that is told of requests.
        self.poke: Callable[[], None] | None = None

    @property
    def sent(self) -> bool:
        """Whether somebody sends requests to the replica at the instant they come, and not before."""
        return False

    @property
    def told(self) -> bool:
        """Whether requests come at instants that nobody knows ahead, so that the replica must be told of them."""
        return False

    def stir(self) -> None:
        """Something has come up that the replica may wait for."""
        if self.poke is not None:
            self.poke()

    @property
    def over(self) -> bool:
        """Whether nobody will come any more, once those who came are answered."""
        return self.next_time() == INF

    def admitted(self, request: int) -> None:  # noqa: B027 (most feeds do not care)
        """A request of this replica was let in."""

    @abstractmethod
    def next_time(self) -> float:
        """When the next request comes, as far as is known now; infinity if none is on its way."""

    def expects(self) -> bool:
        """Whether a request is on its way to this replica."""
        return self.next_time() < INF

    @abstractmethod
    def take(self, now: float, waiting: deque[int]) -> None:
        """Append the requests that have come by ``now`` to ``waiting``; refuse those that cannot fit."""

    def finished(self, request: int, now: float) -> None:  # noqa: B027 (an open feed does not care)
        """A request of this replica was answered (or refused)."""


class OpenFeed(Feed):
    """Requests that come at their own times, whatever the cluster does."""

    def __init__(
        self, table: RequestTable, replica: int, fits: Callable[[int], bool], mine: Sequence[int]
    ) -> None:
        super().__init__(table, replica, fits)
        self._mine, self._next = mine, 0
        self._upcoming = table.arrival[mine[0]] if mine else INF

    def next_time(self) -> float:
        return self._upcoming

    def take(self, now: float, waiting: deque[int]) -> None:
        if self._upcoming > now + INSTANT:
            return
        table, mine, i = self.table, self._mine, self._next
        while i < len(mine) and table.arrival[mine[i]] <= now + INSTANT:
            r = mine[i]
            table.replica[r] = self.replica
            if self.fits(r):
                waiting.append(r)
            else:
                table.rejected.append(r)
            i += 1
        self._next = i
        self._upcoming = table.arrival[mine[i]] if i < len(mine) else INF


class Tickets:
    """Hands out the requests that open something to all closed feeds of a job, until they run out."""

    def __init__(self, openings: Sequence[int]) -> None:
        self.openings, self.given = openings, 0

    def draw(self) -> int | None:
        """The next request, or None."""
        if self.given >= len(self.openings):
            return None
        self.given += 1
        return self.openings[self.given - 1]


class TurnFeed(Feed):
    """Requests that come at instants of which only the next are known: they follow from answers.

    Who ``opens`` comes by himself, at an instant known beforehand.
    """

    def __init__(
        self, table: RequestTable, replica: int, fits: Callable[[int], bool], opens: Sequence[int] = ()
    ) -> None:
        super().__init__(table, replica, fits)
        self._due: list[tuple[float, int]] = []
        for r in opens:
            self._send(r, table.arrival[r])

    def _send(self, r: int, at: float) -> bool:
        """A request comes at ``at``; whether it fits. Who cannot be served is told so at that instant, however late the
        replica looks."""
        table = self.table
        table.arrival[r], table.replica[r] = at, self.replica
        if self.fits(r):
            heappush(self._due, (at, r))
            return True
        table.rejected.append(r)
        table.break_off(r, at)
        return False

    def next_time(self) -> float:
        return self._due[0][0] if self._due else INF

    def take(self, now: float, waiting: deque[int]) -> None:
        due = self._due
        while due and due[0][0] <= now + INSTANT:
            waiting.append(heappop(due)[1])

    def finished(self, request: int, now: float) -> None:
        after = self.table.follow.get(request)
        if after is None:
            self._over(now)
        elif not self._send(after[0], now + after[1]):
            self._over(now + after[1])

    def _over(self, now: float) -> None:
        """A conversation is over, or a request that was none."""


class ClosedFeed(TurnFeed):
    """Clients who come at ``starts``, each waits for its answer, thinks, and sends the next request."""

    def __init__(
        self,
        table: RequestTable,
        replica: int,
        fits: Callable[[int], bool],
        tickets: Tickets,
        starts: Sequence[float],
        think_time: float,
    ) -> None:
        super().__init__(table, replica, fits)
        self._tickets, self._think = tickets, think_time
        for start in starts:
            self._call(start)

    def _call(self, at: float) -> None:
        while (r := self._tickets.draw()) is not None and not self._send(r, at):
            at += self._think

    def _over(self, now: float) -> None:
        self._call(now + self._think)
