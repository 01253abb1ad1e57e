"""Replicas that come and go with the load.

Every so often the requests of the job, running and waiting, are counted: as many replicas are wanted as there are
shares of ``requests`` in them, between ``min`` and all. More are started at once, and take requests after ``start_up``.
One goes when for ``cool_down`` fewer were wanted: it takes no request from then on, and is off, its KV cache lost, when
the last of its own is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from math import ceil

import simpy

from sim.engine.clock import INSTANT, Clock
from sim.jobs.serving.balancing import Balancer
from sim.spec.scenario import Autoscale


class Fleet:
    """Which replicas of a job take requests. ``spells`` are (replica, started, off) in which one was paid for, and
    ``started`` counts those that were started after the first."""

    def __init__(self, clock: Clock, spec: Autoscale, balancer: Balancer, replicas: int) -> None:
        self.clock, self.spec, self.balancer = clock, spec, balancer
        self.replicas, self.started = replicas, 0
        #: By replica that is on when it takes requests.
        self.ready = dict.fromkeys(range(spec.min), 0.0)
        self.spells: list[tuple[int, float, float]] = []
        self._since = dict.fromkeys(range(spec.min), 0.0)
        self._leaving: set[int] = set()
        self._wanted: deque[tuple[float, int]] = deque()

    def open(self) -> list[int]:
        """The replicas that take requests now."""
        now = self.clock.now + INSTANT
        return [k for k, ready in self.ready.items() if ready <= now and k not in self._leaving]

    def check(self) -> Generator[simpy.Event, object, None]:
        """Count requests every so often; ends when it is interrupted."""
        while True:
            yield self.clock.timeout(self.spec.every)
            self._decide()

    def _decide(self) -> None:
        spec, now = self.spec, self.clock.now
        for k in [k for k in self._leaving if self.balancer.load(k) == 0]:
            self._leaving.remove(k)
            self._off(k)
        asked = sum(self.balancer.load(k) for k in self.ready)
        wanted = min(self.replicas, max(spec.min, ceil(asked / spec.requests)))
        self._wanted.append((now, wanted))
        while self._wanted[0][0] < now - spec.cool_down - INSTANT:
            self._wanted.popleft()
        on = [k for k in self.ready if k not in self._leaving]
        for k in [k for k in self.ready if k in self._leaving][: max(0, wanted - len(on))]:
            self._leaving.remove(k)  # it is still there
            on.append(k)
        for k in [k for k in range(self.replicas) if k not in self.ready][: max(0, wanted - len(on))]:
            self.ready[k], self._since[k] = now + spec.start_up, now
            self.started += 1
            on.append(k)
        # Those that were started last go first.
        calm = now - self._wanted[0][0] >= spec.cool_down - spec.every - INSTANT
        most = max(number for _, number in self._wanted) if calm else len(on)
        for k in sorted(on, key=lambda k: (self._since[k], k), reverse=True)[: max(0, len(on) - most)]:
            self._leaving.add(k)
            if self.balancer.load(k) == 0:
                self._leaving.remove(k)
                self._off(k)

    def _off(self, k: int) -> None:
        del self.ready[k]
        self.spells.append((k, self._since.pop(k), self.clock.now))
        if (cache := self.balancer.schedulers[k].cache) is not None:
            cache.clear()

    def off(self, replicas: set[int], end: float) -> list[tuple[float, float]]:
        """The spells until ``end`` in which none of these replicas was on."""
        on = [(since, min(off, end)) for k, since, off in self.spells if k in replicas and since < end]
        on += [(since, end) for k, since in self._since.items() if k in replicas and since < end]
        found, reached = [], 0.0
        for since, until in sorted(on):
            if since > reached:
                found.append((reached, since))
            reached = max(reached, until)
        return [*found, (reached, end)] if reached < end else found

    def paid(self, end: float) -> float:
        """Replica-seconds until ``end`` that were paid for."""
        away = sum(until - since for k in range(self.replicas) for since, until in self.off({k}, end))
        return self.replicas * end - away
