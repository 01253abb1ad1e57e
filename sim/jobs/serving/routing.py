"""Sending the requests of one job to its replicas, and again where a replica dies.

A request goes to its own replica: requests take turns, and a client stays with one. While that is known to be down,
or has announced that it goes, it goes to the others in turn. Under another policy than *sticky* it goes to the one of
those that are up which the policy chooses (:mod:`balancing`). What happens to the requests that a dead replica held is
the job's ``failover``:

- *retry*: once the outage is known they are sent to replicas that are up, or wait for the first that is;
- *wait*: they, and all that come for it, wait for their own replica;
- *fail*: they are given up once the outage is known, and so is whoever comes while no replica is up. A client who was
  given up calls again when the first one is.

A request that is sent again keeps the tokens its user has got: its prompt and these are computed once more. Requests
that come before the outage is known share the fate of those that the replica held.

Replicas that are played with few events must know how far they may go without looking. Requests come to them at
instants that are known ahead, but for those sent again: these come when an outage is known, which is known ahead too
(:attr:`Incidents.handovers`). Where neither holds (clients who move between replicas), every replica is played event by
event and is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from heapq import heappop, heappush

import simpy

from sim.engine.clock import INSTANT, Clock
from sim.jobs.serving.balancing import Balancer
from sim.jobs.serving.incidents import Incidents, Outage
from sim.jobs.serving.requests import INF, Feed, RequestTable, Tickets
from sim.spec.reliability import Failover


class Router:
    """The requests of a job whose replicas fail. ``over`` happens when none is left."""

    def __init__(
        self, clock: Clock, table: RequestTable, incidents: Incidents, failover: Failover,
        tickets: Tickets | None = None, think_time: float = 0.0, balancer: Balancer | None = None,
    ) -> None:  # fmt: skip
        self.clock, self.table, self.incidents, self.failover = clock, table, incidents, failover
        self.feeds: list[RoutedFeed] = []
        self.over: simpy.Event = clock.event()
        self.moved: simpy.Event = clock.event()
        self.open = self.turn = 0
        self.home = [0] * len(table)
        self.held: dict[tuple[int, int], list[int]] = {}
        self._tickets, self._think, self.balancer = tickets, think_time, balancer

    @property
    def told(self) -> bool:
        """Whether requests come to a replica at instants that nobody knows ahead."""
        answers = self._tickets is not None or bool(self.table.follow)
        return self.balancer is not None or (answers and self.failover != "wait" and len(self.feeds) > 1)

    @property
    def hands_over(self) -> bool:
        """Whether requests of a dead replica go to others."""
        return self.failover == "retry" and len(self.feeds) > 1

    def feed(self, replica: int, fits: Callable[[int], bool]) -> RoutedFeed:
        """The feed of the next replica."""
        self.feeds.append(RoutedFeed(self, self.table, replica, fits))
        return self.feeds[-1]

    # ---- requests

    def draw(self, at: float, home: int) -> None:
        """A client sends the next request, if there is one."""
        assert self._tickets is not None
        r = self._tickets.draw()
        if r is not None:
            self.table.arrival[r] = at
            self.send(r, at, home, home)

    def send(self, r: int, at: float, home: int, near: int) -> None:
        """A request comes at ``at``; ``near`` is the replica that its client was with last."""
        self.open += 1
        self.home[r] = home
        if self.balancer is None:
            self._route(r, at, near)
        else:  # what replicas are doing then is known then
            self.clock.process(self._then(r, at, near))

    def _then(self, r: int, at: float, near: int) -> Generator[simpy.Event, object, None]:
        yield self.clock.first(at - self.clock.now)
        self._route(r, at, near)

    def settle(self, r: int, now: float) -> None:
        """A request was answered, refused or given up."""
        after = self.table.follow.get(r)
        if after is not None and self.table.finish[r] == self.table.finish[r]:
            at = self.table.arrival[after[0]] = now + after[1]
            self.send(after[0], at, self.home[r], self.table.replica[r])
        else:
            self._over(r, now)
        self.open -= 1
        if self.open == 0 and not self.over.triggered:
            self.over.succeed()

    def _over(self, r: int, now: float) -> None:
        """A conversation is over, or broken off: who waits for its end calls again."""
        self.table.break_off(r, now)
        if self._tickets is not None:
            at = now + self._think
            if self.failover == "fail" and not self._up(at):  # nobody calls again at once where nobody answers
                at = max(at, self._first_back(at)[0])
            r_next = self._tickets.draw()
            if r_next is not None:
                self.table.arrival[r_next] = at
                self.send(r_next, at, self.home[r], self.table.replica[r])

    def _up(self, at: float) -> list[int]:
        """Replicas that serve; those whose machines have announced that they go only where there are no others."""
        for leaving in (False, True):
            if found := [k for k in range(len(self.feeds)) if self.incidents.seems_up(k, at, leaving=leaving)]:
                return found
        return []

    def _first_back(self, at: float) -> tuple[float, int]:
        """When the first replica is up again, and which."""
        return min((self.incidents.back_at(k, at), k) for k in range(len(self.feeds)))

    def _route(self, r: int, at: float, near: int) -> None:
        home = self.home[r]
        if self.balancer is not None and (up := self._up(at)):
            self.feeds[self.balancer.choose(r, up)].put(at, r)
            return
        if self.failover == "wait" or self.incidents.seems_up(home, at):
            self._put(home, at, r)
            return
        up = self._up(at)
        if not up and self.failover == "fail":
            self._give_up(r, at, (home, self.incidents.outage_at(home, at)))
        elif not up:
            self._put(self._first_back(at)[1], at, r)
        elif near in up:
            self._put(near, at, r)
        else:
            self._put(up[self.turn % len(up)], at, r)
            self.turn += 1

    def _put(self, replica: int, at: float, r: int) -> None:
        """A request goes to this replica, whatever the others are doing."""
        if self.balancer is not None:
            self.balancer.choose(r, [replica])
        self.feeds[replica].put(at, r)

    def _give_up(self, r: int, at: float, outage: tuple[int, int]) -> None:
        self.table.failed[r] = at
        self.incidents.given_up[outage] = self.incidents.given_up.get(outage, 0) + 1
        if at > self.clock.now:
            self.clock.process(self._later(at - self.clock.now, lambda: self.settle(r, at)))
        else:
            self.settle(r, at)

    # ---- outages

    def lost(self, replica: int, number: int, outage: Outage, held: list[int]) -> None:
        """A replica went down with these requests."""
        if self.balancer is not None:
            for r in held:
                self.balancer.left_queue(r)
        if self.failover == "wait":
            for r in held:
                self._put(replica, outage.start, r)
            return
        self.held[replica, number] = held
        if outage.known > self.clock.now:
            wait = outage.known - self.clock.now
            self.clock.process(self._later(wait, lambda: self._dispatch(replica, number, outage.known)))
        else:
            self._dispatch(replica, number, outage.known)

    def _later(self, seconds: float, what: Callable[[], None]) -> Generator[simpy.Event, object, None]:
        yield self.clock.timeout(seconds)
        what()

    def _dispatch(self, replica: int, number: int, known: float) -> None:
        """The outage is known: its requests go elsewhere, or are given up."""
        held = sorted(self.held.pop((replica, number)) + self.feeds[replica].recall(known))
        handovers = self.incidents.handovers
        handovers.remove((known, replica, number))
        handovers.sort()
        for r in held:
            if self.failover == "fail":
                self._give_up(r, known, (replica, number))
            else:
                self._route(r, known, replica)
        moved, self.moved = self.moved, self.clock.event()
        moved.succeed()


class RoutedFeed(Feed):
    """Requests that a router sends to one replica."""

    def __init__(self, router: Router, table: RequestTable, replica: int, fits: Callable[[int], bool]) -> None:
        super().__init__(table, replica, fits)
        self.router = router
        self._due: list[tuple[float, int]] = []

    @property
    def told(self) -> bool:
        return self.router.told

    @property
    def over(self) -> bool:
        """Whether no request of the job is left."""
        return self.router.over.triggered

    def put(self, at: float, r: int) -> None:
        """A request comes to this replica at ``at``."""
        self.table.replica[r] = self.replica
        heappush(self._due, (at, r))
        self.stir()

    def recall(self, before: float) -> list[int]:
        """Take back those that came before then and were not let in."""
        taken = []
        while self._due and self._due[0][0] < before:
            taken.append(heappop(self._due)[1])
            self._seen(taken[-1])
        return taken

    def _seen(self, r: int, *, queued: bool = False) -> None:
        """A request has come to the replica's queue, or is gone."""
        if (balancer := self.router.balancer) is not None:
            balancer.seen(self.replica)
            if not queued:
                balancer.left_queue(r)

    def admitted(self, request: int) -> None:
        if self.router.balancer is not None:
            self.router.balancer.left_queue(request)

    def next_time(self) -> float:
        return self._due[0][0] if self._due else INF

    def handover(self) -> float:
        """The next instant at which requests of another replica may come here, for a story that is not told."""
        router = self.router
        if self.poke is not None or not router.hands_over:
            return INF
        known = router.incidents.handovers
        return min(known[0][0] if known else INF, router.incidents.clear)

    def synchronise(self) -> Generator[simpy.Event, object, None]:
        """Let what is known by now be handed over."""
        router = self.router
        while self.poke is None and router.hands_over and not self.over:
            router.incidents.reach(router.clock.now)
            known = router.incidents.handovers
            if not known or known[0][0] > router.clock.now + INSTANT:
                return
            yield simpy.AnyOf(router.clock, [router.moved, router.over])

    def rest(self, until: float) -> Generator[simpy.Event, object, None]:
        """Nothing to do until then, or until no request of the job is left."""
        router = self.router
        events = [router.over]
        if until < INF:
            events.append(router.clock.timeout(max(0.0, until - router.clock.now)))
        yield simpy.AnyOf(router.clock, events)

    def take(self, now: float, waiting: deque[int]) -> None:
        due, table = self._due, self.table
        while due and due[0][0] <= now + INSTANT:
            at, r = heappop(due)
            fits = self.fits(r)
            self._seen(r, queued=fits)
            if fits:
                waiting.append(r)
            else:
                table.rejected.append(r)
                self.router.settle(r, max(now, at))

    def finished(self, request: int, now: float) -> None:
        self.router.settle(request, now)
