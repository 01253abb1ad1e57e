"""The clock counts its events and refuses to end while something waits in vain; GPUs do one thing at a time."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import simpy

from sim.engine.clock import Clock
from sim.engine.devices import Device
from sim.errors import RunError

Process = Generator[simpy.Event, Any, None]


def sleeper(clock: Clock, times: int) -> Process:
    for _ in range(times):
        yield clock.timeout(1.0)


def test_events_are_counted_and_the_beat_changes_nothing() -> None:
    quiet, loud, beats = Clock(), Clock(), []
    loud.beat = lambda: beats.append(loud.events)
    for clock in (quiet, loud):
        clock.watch(clock.process(sleeper(clock, 10_000)), "it sleeps")
        clock.play()
    assert quiet.events == loud.events >= 10_000
    assert quiet.now == loud.now == 10_000.0
    assert beats == [4096, 8192]


def test_a_deadlock_says_who_waits_for_what() -> None:
    clock = Clock()

    def stuck() -> Process:
        yield clock.timeout(2.5)
        yield clock.event()

    clock.watch(clock.process(stuck()), "replica chat.r0 waits for a batch to return")
    clock.watch(clock.process(sleeper(clock, 1)), "this one ends")
    with pytest.raises(RunError, match=r"^deadlock at 2\.500000 s: .*replica chat\.r0 waits for a batch to return$"):
        clock.play()


def test_streams_of_a_gpu_are_first_come_first_served_and_overlap_each_other() -> None:
    clock = Clock()
    device = Device(clock, "gpu")
    done: dict[str, float] = {}

    def note(name: str, event: simpy.Event) -> None:
        event.callbacks.append(lambda _: done.setdefault(name, clock.now))

    note("a", device.compute(1.0))
    note("b", device.compute(2.0))
    note("message", device.communicate(clock.timeout(2.5)))
    note("past", device.communicate(clock.timeout(0.5)))
    clock.play()
    assert done == {"a": 1.0, "b": 3.0, "message": 2.5, "past": 2.5}
