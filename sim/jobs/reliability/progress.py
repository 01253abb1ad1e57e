"""Progress of a training run between events: work, checkpoints on their way, and what a failure leaves.

Useful seconds are seconds of undisturbed training. A run works for ``interval`` of them, stands still for ``blocking``
s while it takes a checkpoint, and goes on while that is written for ``persist`` s more, in which work takes
``slowdown`` times as long (they share links). Only then is it durable: a failure falls back to the last durable one.
The next checkpoint waits for the one before it. ``speed`` below 1 is a run on degraded or fewer GPUs.

A run may save to several levels, the first often and cheaply, ``then`` others more rarely. Each has checkpoints of its
own; where two are due at once they are taken one after the other. A failure takes the copies of some levels with it and
falls back to the newest that is left.

Everything between two events is arithmetic: whole cycles of work and saving to the first level are counted, not played.
Time that passes in pieces gives the same, which is the twin in the tests.

Each second is in one bucket: progress (work that was never done before), redone (work lost to a failure), checkpoint
(saving, waiting for the last one, and what writing slows), degraded (what lower speed costs).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import floor, inf, prod

TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Saving:
    """How a run saves. ``interval`` in useful seconds (inf: never), the others in seconds; ``load``: of reading one.

    ``then``: the next level, which outlives more.
    """

    interval: float
    blocking: float = 0.0
    persist: float = 0.0
    slowdown: float = 1.0
    keep: int = 4
    load: float = 0.0
    then: Saving | None = None

    @property
    def levels(self) -> tuple[Saving, ...]:
        """This level and those after it."""
        return (self, *(self.then.levels if self.then is not None else ()))


@dataclass(slots=True)
class Level:
    """Checkpoints of one level. ``since``: useful seconds from the last one; ``durable``: those of saved states, oldest
    first."""

    saving: Saving
    since: float = 0.0
    saving_left: float = 0.0
    persist_left: float = 0.0
    persisting: float | None = None
    durable: list[float] = field(default_factory=lambda: [0.0])

    @property
    def due(self) -> bool:
        """Whether the next checkpoint is to be taken."""
        return self.saving.interval - self.since <= TINY * max(1.0, self.saving.interval) < inf

    @property
    def slowdown(self) -> float:
        """What writing lengthens work by, now."""
        return self.saving.slowdown if self.persisting is not None else 1.0

    @property
    def time_to_save(self) -> float:
        """Seconds of standing still until a checkpoint out of turn is durable; inf: it never saves."""
        if self.saving.interval == inf:
            return inf
        return self.persist_left + (self.saving_left or self.saving.blocking) + self.saving.persist

    def drop(self) -> None:
        """What is on its way is gone."""
        self.saving_left, self.persist_left, self.persisting = 0.0, 0.0, None

    def keep(self, states: Sequence[float]) -> None:
        """States are durable."""
        self.durable += states
        del self.durable[: -self.saving.keep]

    def taken(self, done: float) -> None:
        """A state is copied: it is written from now on, or durable at once."""
        if self.saving.persist > 0.0:
            self.persisting, self.persist_left = done, self.saving.persist
        else:
            self.keep([done])

    def written(self, seconds: float) -> None:
        """Time passes for what is being written."""
        if self.persisting is None:
            return
        self.persist_left -= seconds
        if self.persist_left <= TINY * self.saving.persist:
            self.keep([self.persisting])
            self.persisting, self.persist_left = None, 0.0


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``done``: useful seconds in memory; ``source``: the level that was last fallen back to."""

    saving: Saving
    total: float = inf
    speed: float = 1.0
    done: float = 0.0
    high: float = 0.0
    levels: list[Level] = field(default_factory=list)
    source: int = 0
    checkpoints: int = 0
    buckets: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.levels = [Level(saving) for saving in self.saving.levels]
        self.source = len(self.levels) - 1

    @property
    def finished(self) -> bool:
        """Whether all work is done."""
        return self.done >= self.total - TINY

    @property
    def durable(self) -> list[float]:
        """Useful seconds of all saved states, oldest first."""
        return sorted({done for level in self.levels for done in level.durable})

    def advance(self, seconds: float) -> float:
        """Let time pass, at most until the work is done; the seconds that passed."""
        passed = 0.0
        while seconds - passed > 0.0 and not self.finished:
            jumped = self._jump(seconds - passed)
            if jumped:
                passed += jumped
                continue
            piece = self._piece(seconds - passed)
            if piece == inf:
                raise ValueError("a run without an end cannot be played to its end")
            passed += piece
        return passed

    def fall_back(self, lost: Collection[int] = ()) -> float:
        """A failure: what is in memory is gone, and so are the copies of levels that are ``lost``; the newest one left
        counts. A level's next checkpoint is due its interval after the newest state that it or a later one has.

        Useful seconds that are lost.
        """
        self.forget(lost)
        target = max(level.durable[-1] for level in self.levels)
        having = [n for n, level in enumerate(self.levels) if level.durable[-1] == target]
        self.source = having[0] if target > 0.0 else having[-1]
        newest, gone = 0.0, self.done - target
        for level in reversed(self.levels):
            newest = max(newest, level.durable[-1])
            level.since = target - newest
            level.drop()
        self.done = target
        return gone

    def forget(self, lost: Collection[int]) -> None:
        """Copies of some levels are gone, but not what is in memory."""
        for number in lost:
            self.levels[number].durable = [0.0]
            self.levels[number].persist_left, self.levels[number].persisting = 0.0, None

    def distrust(self, after: float) -> None:
        """Checkpoints of states beyond ``after`` are worthless."""
        for level in self.levels:
            level.durable = [done for done in level.durable if done <= after + TINY] or [0.0]

    def time_to_save(self, lost: Collection[int] = ()) -> float:
        """Seconds of standing still until a checkpoint out of turn is durable where it outlives what takes some levels;
        inf: nowhere. The one that is being written there comes first."""
        return min((self.levels[n].time_to_save for n in self._left(lost)), default=inf)

    def save_now(self, lost: Collection[int] = ()) -> None:
        """A checkpoint out of turn, durable at once; whoever asks for it books :meth:`time_to_save`."""
        level = min((self.levels[n] for n in self._left(lost)), key=lambda level: level.time_to_save)
        if level.persisting is not None:
            level.keep([level.persisting])
        level.drop()
        level.since = 0.0
        self.checkpoints += 1
        level.keep([self.done])

    def _left(self, lost: Collection[int]) -> list[int]:
        return [n for n in range(len(self.levels)) if n not in lost]

    def book(self, bucket: str, seconds: float) -> None:
        """Seconds that went elsewhere."""
        self.buckets[bucket] = self.buckets.get(bucket, 0.0) + seconds

    # ---- time passing

    def _rate(self) -> float:
        """Useful seconds a second; levels that are written at once each take their share of the links."""
        return self.speed / prod(level.slowdown for level in self.levels)

    def _piece(self, most: float) -> float:
        """Time until the next change of state, at most ``most``."""
        for level in self.levels:
            if level.saving_left > 0.0:
                return self._save(level, min(most, level.saving_left))
        for level in self.levels:
            if level.due:
                if level.persisting is not None:  # the next checkpoint waits for the one before it
                    return self._wait(min(most, level.persist_left))
                level.saving_left = level.saving.blocking
                level.since = 0.0
                if not level.saving_left:
                    self._taken(level)
                return 0.0
        rate = self._rate()
        if rate <= 0.0:
            return self._stand(most)
        step = min(most, (self.total - self.done) / rate)
        for level in self.levels:
            step = min(step, (level.saving.interval - level.since) / rate)
            if level.persisting is not None:
                step = min(step, level.persist_left)
        return self._work(step, rate)

    def _save(self, level: Level, seconds: float) -> float:
        self.book("checkpoint", seconds)
        for other in self.levels:
            other.written(seconds)
        level.saving_left -= seconds
        if level.saving_left <= TINY * level.saving.blocking:
            level.saving_left = 0.0
            self._taken(level)
        return seconds

    def _taken(self, level: Level) -> None:
        self.checkpoints += 1
        level.taken(self.done)

    def _written(self, seconds: float) -> None:
        for level in self.levels:
            level.written(seconds)

    def _wait(self, seconds: float) -> float:
        self.book("checkpoint", seconds)
        self._written(seconds)
        return seconds

    def _stand(self, seconds: float) -> float:
        self.book("degraded", seconds)
        self._written(seconds)
        return seconds

    def _work(self, seconds: float, rate: float) -> float:
        useful = seconds * rate
        self._count(useful)
        self.book("degraded", seconds * (1.0 - self.speed))
        self.book("checkpoint", seconds * self.speed - useful)
        for level in self.levels:
            level.since += useful
        self._written(seconds)
        return seconds

    def _count(self, useful: float) -> None:
        """Work done, for the first time or again."""
        again = min(useful, max(0.0, self.high - self.done))
        self.book("redone", again)
        self.book("progress", useful - again)
        self.done += useful
        self.high = max(self.high, self.done)

    def _jump(self, most: float) -> float:
        """Whole cycles of work and saving to the first level at once, where one has just begun and the other levels do
        nothing new meanwhile; 0 where none fits."""
        level, others = self.levels[0], self.levels[1:]
        s = level.saving
        begun = level.persisting is not None and level.persist_left == s.persist
        aligned = level.since == 0.0 and level.saving_left == 0.0 and (begun or (s.persist == 0.0))
        if not aligned or s.interval == inf or self.speed <= 0.0 or (s.persist == 0.0 and level.persisting is not None):
            return 0.0
        if any(other.saving_left > 0.0 or other.due for other in others):
            return 0.0
        beside = prod(other.slowdown for other in others)
        speed = self.speed / beside
        slow = min(s.persist, s.interval * s.slowdown / speed)  # seconds of work beside the writing
        useful_slow = slow * speed / s.slowdown
        work = slow + (s.interval - useful_slow) / speed
        wait = max(0.0, s.persist - slow)
        cycle = work + wait + s.blocking
        many = min(most / cycle, (self.total - self.done) / s.interval if self.total < inf else inf)
        for other in others:
            many = min(many, (other.saving.interval - other.since) / s.interval)
            many = min(many, other.persist_left / cycle if other.persisting is not None else inf)
        if many == inf:
            raise ValueError("a run without an end cannot be played to its end")
        n = floor(many * (1 - 1e-12)) - 1
        if n < 1:
            return 0.0
        first = self.done
        self._count(n * s.interval)
        self.book("degraded", n * work * (1.0 - self.speed))
        slowed = slow * self.speed - useful_slow * beside + (s.interval * (beside - 1.0))
        self.book("checkpoint", n * (slowed + wait + s.blocking))
        self.checkpoints += n
        taken = [first + (i + 1) * s.interval for i in range(max(0, n - s.keep - 1), n)]
        if s.persist > 0.0:
            if level.persisting is not None:
                level.keep([level.persisting])
            level.keep(taken[:-1])
            level.persisting, level.persist_left = taken[-1], s.persist
        else:
            level.keep(taken)
        for other in others:
            other.since += n * s.interval
            other.written(n * cycle)
        return n * cycle
