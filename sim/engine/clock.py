"""The clock: SimPy's environment, which also counts its events and refuses to end in a deadlock.

SimPy spends its time on heap entries, so their number is what a run reports. When no event is left while
a process still waits, something waits for something that can never come: that is loud.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import simpy

from sim.errors import RunError

#: Instants closer than this are the same instant (floating point leaves 1e-12 of noise in a long run).
INSTANT = 1e-9


class Clock(simpy.Environment):
    """Simulated time in seconds from 0."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.events = 0
        #: called every 4,096 events, for progress bars; it must not change anything
        self.beat: Callable[[], None] | None = None
        self._watched: list[tuple[simpy.Process, str]] = []

    def schedule(self, event: simpy.Event, priority: Any = 1, delay: float = 0) -> None:
        """Count and schedule an event."""
        self.events += 1
        if self.beat is not None and not self.events & 4095:
            self.beat()
        super().schedule(event, priority, delay)

    def first(self, delay: float) -> simpy.Event:
        """An event in ``delay`` seconds, before all others of that instant that are not such ones."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        self.schedule(event, priority=simpy.events.URGENT, delay=max(0.0, delay))
        return event

    def watch(self, process: simpy.Process, waits_for: str) -> simpy.Process:
        """Remember a process that must have ended when no event is left."""
        self._watched.append((process, waits_for))
        return process

    def play(self) -> None:
        """Run until nothing is left to happen. Raises RunError if a watched process still waits."""
        self.run()
        stuck = [what for process, what in self._watched if process.is_alive]
        if stuck:
            raise RunError(f"deadlock at {self.now:.6f} s: no event is left, yet {'; '.join(stuck)}")
