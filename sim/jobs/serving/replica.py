"""What one replica of a model is made of: stages with their laws and tracks, hops between them, a scheduler."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from sim.engine.clock import Clock
from sim.engine.timeline import Bins, ChannelTrack, DeviceTrack
from sim.jobs.reliability.effects import BADPUT
from sim.jobs.serving.batching import Scheduler
from sim.jobs.serving.incidents import Health, Outage
from sim.jobs.serving.routing import RoutedFeed
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Pass, StageLaw

#: The ledger's buckets of a replica that comes and goes, and of one that fails.
SWITCHED_OFF = "switched off"
CUT_OFF, DEGRADED, STALLED = "cut off", BADPUT["degraded"], BADPUT["stalled"]


@dataclass(frozen=True, slots=True)
class Hop:
    """How activations get from one stage to the next (or tokens back to the first).

    A message of ``bytes_per_token * tokens`` (return hop: a sequence) holds the sender's ``queue`` for
    bytes / cap + overhead seconds and arrives ``latency`` later. ``gather`` is the all-gather that puts the
    ranks' shares together on the other side, as affine pieces in bytes. ``ends`` are the stages whose network cards
    it takes: none if it stays within a node.
    """

    track: ChannelTrack
    kind: str
    bytes_per_token: float
    bytes_per_sequence: float
    cap: float
    latency: float
    overhead: float
    queue: str
    gather: tuple[tuple[float, float], ...] = ()
    ends: frozenset[int] = frozenset()

    def size(self, tokens: int, sequences: int) -> float:
        """Bytes of one message."""
        return self.bytes_per_token * tokens + self.bytes_per_sequence * sequences

    def delay(self, size: float) -> float:
        """Seconds from the sender's release to the arrival."""
        if not self.gather:
            return self.latency
        return self.latency + min(fixed + size * slope for fixed, slope in self.gather)


@dataclass(frozen=True, slots=True)
class Member:
    """GPUs of one type in a stage's tensor group: their law and their track."""

    law: StageLaw
    track: DeviceTrack
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage. ``link`` names the kind of link its collectives use; ``ends`` is the stage itself if they
    cross nodes, and nothing otherwise."""

    members: tuple[Member, ...]
    link: str
    collectives: ChannelTrack | None
    hop: Hop | None
    ends: frozenset[int] = frozenset()

    @property
    def law(self) -> StageLaw:
        """The law of a stage whose GPUs are all of one type."""
        return self.members[0].law

    @property
    def track(self) -> DeviceTrack:
        """The track of a stage whose GPUs are all of one type."""
        return self.members[0].track

    def talk(self, cost: Pass, health: Health, time: float) -> float:
        """Seconds of a pass's collectives that begins at ``time``: longer over a degraded link."""
        slow = health.link(self.ends, time) if self.ends else 1.0
        if slow == 1.0 or not cost.communication:
            return cost.communication
        size, fixed, rate = self.law.collective_flow(cost)
        return fixed + size * slow / rate


@dataclass(slots=True)
class Tally:
    """Sums over a replica's passes, and its sequences and cached tokens over time.

    ``blocked`` counts seconds in which only KV blocks kept a request out; ``was_blocked`` tells whether one was when a
    batch was formed last.
    """

    sequence_seconds: float = 0.0
    pass_seconds: float = 0.0
    blocked: float = 0.0
    passes: int = 0
    ended: float = 0.0
    running: Bins = field(default_factory=Bins)
    cached: Bins = field(default_factory=Bins)
    _last: float = 0.0
    was_blocked: bool = False
    phases: dict[str, list[float]] = field(default_factory=dict)

    def formed(self, now: float, blocked: bool) -> None:
        """A batch was formed (or found empty) at ``now``."""
        if self.was_blocked:
            self.blocked += now - self._last
        self._last, self.was_blocked = now, blocked

    def held(self, slot: Slot, now: float, doubled: int) -> None:
        """A slot that came back waited until ``now`` for the first stage, its sequences with it."""
        seconds = now - slot.returned
        if slot.members and seconds > 0.0:
            cached = slot.context + sum(past for past, _ in slot.prefills.values()) - doubled
            self.running.add(slot.returned, now, len(slot.members) * seconds)
            self.cached.add(slot.returned, now, cached * seconds)

    def passed(self, batch: Batch, start: float, end: float) -> None:
        """A batch was under way in one pass."""
        seconds = end - start
        self.sequence_seconds += batch.sequences * seconds
        self.pass_seconds += seconds
        self.passes += 1
        self.running.add(start, end, batch.sequences * seconds)
        self.cached.add(start, end, batch.cached * seconds)

    def cut(self, batch: Batch, start: float, end: float) -> None:
        """A batch was under way when its replica died: its sequences and their tokens were held until then."""
        if end > start:
            self.running.add(start, end, batch.sequences * (end - start))
            self.cached.add(start, end, batch.cached * (end - start))

    def phase(self, kind: str, flops: float, nbytes: float, seconds: float) -> None:
        """Work of one phase on the first stage, for the roofline."""
        sums = self.phases.get(kind)
        if sums is None:
            sums = self.phases[kind] = [0.0, 0.0, 0.0]
        sums[0] += flops
        sums[1] += nbytes
        sums[2] += seconds


@dataclass(slots=True)
class Replica:
    """One copy of the model: its stages in order, its scheduler, and what it summed up.

    ``health`` tells what befalls it; None where nothing fails.
    """

    number: int
    stages: tuple[Stage, ...]
    scheduler: Scheduler
    tally: Tally = field(default_factory=Tally)
    health: Health | None = None

    @property
    def slots(self) -> list[Slot]:
        """Its micro-batches."""
        return self.scheduler.slots

    def next_arrival(self) -> float:
        """When the next request comes or may come."""
        feed = self.scheduler.feed
        return feed.next_time() if self.health is None else min(feed.next_time(), self.feed.handover())

    @property
    def feed(self) -> RoutedFeed:
        """The feed of a replica that fails."""
        feed = self.scheduler.feed
        assert isinstance(feed, RoutedFeed)
        return feed

    def close(self, free: list[float], end: float, idle: float = 0.0) -> None:
        """After the last request: each stage's time until ``end`` was bubble, ``idle`` s of it without work."""
        self.tally.ended = end
        for stage, since in zip(self.stages, free, strict=True):
            waiting, _, bubble = split_gap(end - since, idle, 0.0)
            for member in stage.members:
                member.track.waiting += waiting
                member.track.bubble += bubble

    def other(self, stage: Stage, bucket: str, seconds: float) -> None:
        """Book time of a stage's GPUs that the laws do not know."""
        if seconds > 0.0:
            for member in stage.members:
                member.track.other[bucket] = member.track.other.get(bucket, 0.0) + seconds

    def sit_out(self, clock: Clock, outage: Outage) -> Generator[Any, Any, float]:
        """Down from the outage's start until it is over, or until no request of the job is left: that instant.

        All requests leave with the KV cache; passes under way must be booked before.
        """
        health, feed = self.health, self.feed
        assert health is not None
        number = health.number
        self.tally.formed(outage.start, False)
        before = self.scheduler.table.lost_kv
        held = self.scheduler.evict(outage.start)
        health.incidents.losses[self.number, number] = len(held), self.scheduler.table.lost_kv - before
        feed.router.lost(self.number, number, outage, held)
        yield from feed.rest(health.incidents.up(self.number, number))
        outage = health.over()
        end = clock.now if feed.over else outage.up
        for piece in outage.pieces:
            for stage in self.stages:
                self.other(stage, piece.bucket, min(piece.end, end) - piece.start)
        return end


def split_gap(gap: float, idle: float, transit: float) -> tuple[float, float, float]:
    """The ``gap`` before a stage's pass as (waiting for work, communication, pipeline bubble).

    ``idle`` of it the replica had no work; up to ``transit`` of the rest the batch was on its way; what is
    left is bubble.
    """
    if idle > gap:
        idle = gap
    rest = gap - idle
    moving = transit if transit < rest else rest
    return idle, moving, rest - moving


def slowest(costs: list[Pass]) -> float:
    """Seconds that a group's ranks compute until the last is done."""
    return max(cost.busy for cost in costs)
