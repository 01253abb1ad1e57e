"""What one replica of a model is made of: stages with their laws and tracks, hops between them, a scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.engine.timeline import Bins, ChannelTrack, DeviceTrack
from sim.jobs.serving.batching import Batch, Scheduler, Slot
from sim.laws.step import Pass, StageLaw


@dataclass(frozen=True, slots=True)
class Hop:
    """How activations get from one stage to the next (or tokens back to the first).

    A message of ``bytes_per_token * tokens`` (return hop: a sequence) holds the sender's ``queue`` for
    bytes / cap + overhead seconds and arrives ``latency`` later. ``gather`` is the all-gather that puts the
    ranks' shares together on the other side, as affine pieces in bytes.
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

    def size(self, batch: Batch) -> float:
        """Bytes of one message."""
        return self.bytes_per_token * batch.tokens + self.bytes_per_sequence * batch.sequences

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
    """One pipeline stage. ``link`` names the kind of link its collectives use."""

    members: tuple[Member, ...]
    link: str
    collectives: ChannelTrack | None
    hop: Hop | None

    @property
    def law(self) -> StageLaw:
        """The law of a stage whose GPUs are all of one type."""
        return self.members[0].law

    @property
    def track(self) -> DeviceTrack:
        """The track of a stage whose GPUs are all of one type."""
        return self.members[0].track


@dataclass(slots=True)
class Tally:
    """Sums over a replica's passes, and its sequences and cached tokens over time.

    ``blocked`` counts seconds in which only KV blocks kept a request out.
    """

    sequence_seconds: float = 0.0
    pass_seconds: float = 0.0
    blocked: float = 0.0
    passes: int = 0
    ended: float = 0.0
    running: Bins = field(default_factory=Bins)
    cached: Bins = field(default_factory=Bins)
    _last: float = 0.0
    _was_blocked: bool = False
    phases: dict[str, list[float]] = field(default_factory=dict)

    def formed(self, now: float, blocked: bool) -> None:
        """A batch was formed (or found empty) at ``now``."""
        if self._was_blocked:
            self.blocked += now - self._last
        self._last, self._was_blocked = now, blocked

    def held(self, slot: Slot, now: float) -> None:
        """A slot that came back waited until ``now`` for the first stage, its sequences with it."""
        seconds = now - slot.returned
        if slot.members and seconds > 0.0:
            cached = slot.context + sum(past for past, _ in slot.prefills.values())
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
    """One copy of the model: its stages in order, its scheduler, and what it summed up."""

    number: int
    stages: tuple[Stage, ...]
    scheduler: Scheduler
    tally: Tally = field(default_factory=Tally)

    @property
    def slots(self) -> list[Slot]:
        """Its micro-batches."""
        return self.scheduler.slots

    def close(self, free: list[float], end: float) -> None:
        """After the last request: each stage's time until ``end`` was bubble."""
        self.tally.ended = end
        for stage, since in zip(self.stages, free, strict=True):
            for member in stage.members:
                member.track.bubble += end - since


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
