"""GPUs as SimPy processes: a compute stream and a communication stream, each doing one thing after another.

A piece of compute takes its seconds; a piece of communication lasts until its transfer is done. Streams are
first come, first served, as on the card.
"""

from __future__ import annotations

from collections.abc import Generator

import simpy

from sim.engine.clock import Clock


class Device:
    """One GPU. ``compute`` and ``communicate`` return events that succeed when the piece is done."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock, self.name = clock, name
        self._compute: simpy.Store = simpy.Store(clock)
        self._communicate: simpy.Store = simpy.Store(clock)
        clock.process(self._compute_stream())
        clock.process(self._communication_stream())

    def compute(self, seconds: float) -> simpy.Event:
        """Queue ``seconds`` of kernels."""
        done = self.clock.event()
        self._compute.put((seconds, done))
        return done

    def communicate(self, transfer: simpy.Event) -> simpy.Event:
        """Queue the wait for ``transfer``."""
        done = self.clock.event()
        self._communicate.put((transfer, done))
        return done

    def _compute_stream(self) -> Generator[simpy.Event, tuple[float, simpy.Event], None]:
        while True:
            seconds, done = yield self._compute.get()
            yield self.clock.timeout(seconds)
            done.succeed()

    def _communication_stream(self) -> Generator[simpy.Event, tuple[simpy.Event, simpy.Event], None]:
        while True:
            transfer, done = yield self._communicate.get()
            if not transfer.processed:
                yield transfer
            done.succeed()
