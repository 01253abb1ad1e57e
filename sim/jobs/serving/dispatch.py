"""Sending requests to replicas by what these are doing, where none of them fails.

A request is sent at the instant it comes, before anything else of that instant. Where all instants are known ahead,
replicas may play on to the next of them whoever it goes to; where requests follow from answers, replicas are told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from heapq import heappop, heappush

import simpy

from sim.engine.clock import INSTANT, Clock
from sim.jobs.serving.balancing import Balancer
from sim.jobs.serving.batching import Scheduler
from sim.jobs.serving.fleet import Fleet
from sim.jobs.serving.handover import Handover, PromptScheduler, TokenScheduler
from sim.jobs.serving.requests import INF, Feed, RequestTable, Tickets


class Dispatcher:
    """The requests of a job on their way to its replicas. ``told``: some of them follow from answers."""

    def __init__(
        self, clock: Clock, table: RequestTable, balancer: Balancer, tickets: Tickets | None, think_time: float,
        handover: Handover | None = None, prefill: int = 0, fleet: Fleet | None = None,
    ) -> None:  # fmt: skip
        self.clock, self.table, self.balancer, self.handover = clock, table, balancer, handover
        self.feeds: list[DispatchedFeed] = []
        self.told = tickets is not None or bool(table.follow) or handover is not None
        self.prefill, self.fleet = prefill, fleet
        self._watch = clock.process(self._check(fleet)) if fleet is not None else None
        #: Chooses who generates the tokens behind a prompt that others computed.
        self.second = Balancer("least_loaded", table)
        self.open = 0
        self._due: list[tuple[float, int]] = []
        self._tickets, self._think = tickets, think_time
        #: When it looks next who has come.
        self._next = INF

    def feed(self, replica: int, fits: Callable[[int], bool]) -> DispatchedFeed:
        """The feed of the next replica."""
        self.feeds.append(DispatchedFeed(self, self.table, replica, fits))
        return self.feeds[-1]

    @staticmethod
    def _check(fleet: Fleet) -> Generator[simpy.Event, object, None]:
        with suppress(simpy.Interrupt):
            yield from fleet.check()

    def _open(self) -> Sequence[int]:
        """The replicas that requests may go to."""
        return self.fleet.open() if self.fleet is not None else range(len(self.balancer.schedulers))

    def join(self, scheduler: Scheduler) -> None:
        """The next replica, which has its feed."""
        number = len(self.balancer.schedulers) + len(self.second.schedulers)
        if self.handover is None:
            self.balancer.join(scheduler)
            return
        handover = self.handover
        handover.schedulers.append(scheduler)
        if isinstance(scheduler, PromptScheduler):
            self.balancer.join(scheduler)
            scheduler.hand_over = lambda r: self._hand_over(r, number)
        elif isinstance(scheduler, TokenScheduler):
            self.second.join(scheduler)
            scheduler.fetch = lambda r: handover.fetch(r, number)

    def _hand_over(self, r: int, home: int) -> None:
        assert self.handover is not None
        self.handover.holds(r, home)
        among = [k for k, feed in enumerate(self.feeds[self.prefill :]) if feed.fits(r)]
        self.feeds[self.prefill + self.second.choose(r, among)].put(r)

    def chose(self, replica: int) -> tuple[Balancer, int]:
        """Who chose a replica, and by which number it knows it."""
        if self.handover is None or replica < self.prefill:
            return self.balancer, replica
        return self.second, replica - self.prefill

    def send(self, r: int, at: float) -> None:
        """A request comes at ``at``."""
        self.table.arrival[r] = at
        self.open += 1
        heappush(self._due, (at, r))
        self._look(at)

    def call(self, at: float) -> None:
        """A client sends the next request, if there is one."""
        assert self._tickets is not None
        r = self._tickets.draw()
        if r is not None:
            self.send(r, at)

    def next_time(self) -> float:
        """When the next request comes, as far as is known."""
        return self._due[0][0] if self._due else INF

    def _look(self, at: float) -> None:
        """Send on who has come at ``at``, before anything else of that instant."""
        if at < self._next:
            self._next = at
            come = self.clock.first(at - self.clock.now)
            assert come.callbacks is not None
            come.callbacks.append(self._send_on)

    def _send_on(self, _come: simpy.Event) -> None:
        """Send each request on that has come."""
        due, reached = self._due, self.clock.now + INSTANT
        if self._next <= reached:
            self._next = INF
        while due and due[0][0] <= reached:
            _, r = heappop(due)
            self.feeds[self.balancer.choose(r, self._open())].put(r)
        if due:
            self._look(due[0][0])
        else:
            self._nobody_else()

    def _nobody_else(self) -> None:
        """Nobody is on the way any more: who waits for a batch to fill up need not."""
        for feed, scheduler in zip(self.feeds, self.balancer.schedulers, strict=False):
            if scheduler.waiting and not scheduler.policy.joins:
                feed.stir()

    def settle(self, r: int, now: float, *, answered: bool) -> None:
        """A request was answered, or refused with all that were to follow it."""
        self.open -= 1
        after = self.table.follow.get(r)
        if after is not None and answered:
            self.send(after[0], now + after[1])
            return
        self.table.break_off(r, now)
        if self._tickets is not None:
            self.call(now + self._think)
        if not self.open and self._watch is not None:
            self._watch.interrupt()
        if not self.open and self.told:
            for feed in self.feeds:
                feed.stir()


class DispatchedFeed(Feed):
    """Requests that a dispatcher sends to one replica."""

    def __init__(
        self, dispatcher: Dispatcher, table: RequestTable, replica: int, fits: Callable[[int], bool]
    ) -> None:
        super().__init__(table, replica, fits)
        self.dispatcher = dispatcher
        self._come: deque[int] = deque()

    def put(self, r: int) -> None:
        """A request has come to this replica."""
        self.table.replica[r] = self.replica
        self._come.append(r)
        self.stir()

    def next_time(self) -> float:
        if self._come:
            return self.table.arrival[self._come[0]]
        return self.dispatcher.next_time() if self.replica < (self.dispatcher.prefill or INF) else INF

    @property
    def sent(self) -> bool:
        return True

    @property
    def told(self) -> bool:
        return self.dispatcher.told

    @property
    def over(self) -> bool:
        return not self.dispatcher.open if self.told else self.next_time() == INF

    def take(self, now: float, waiting: deque[int]) -> None:
        come, (balancer, mine) = self._come, self.dispatcher.chose(self.replica)
        while come:
            r = come.popleft()
            balancer.seen(mine)
            if self.fits(r):
                waiting.append(r)
                continue
            balancer.left_queue(r)
            self.table.rejected.append(r)
            self.dispatcher.settle(r, now, answered=False)

    def admitted(self, request: int) -> None:
        self.dispatcher.chose(self.replica)[0].left_queue(request)

    def finished(self, request: int, now: float) -> None:
        self.dispatcher.settle(request, now, answered=True)

