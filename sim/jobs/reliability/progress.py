"""Progress of a training run between events: work, checkpoints on their way, and what a failure leaves.

Useful seconds are seconds of undisturbed training. A run works for ``interval`` of them, stands still for ``blocking``
s while it takes a checkpoint, and goes on while that is written for ``persist`` s more, in which work takes
``slowdown`` times as long (they share links). Only then is it durable: a failure falls back to the last durable one.
The next checkpoint waits for the one before it. ``speed`` below 1 is a run on degraded or fewer GPUs.

Everything between two events is arithmetic: whole cycles of work and saving are counted, not played. Time that passes
in pieces gives the same, which is the twin in the tests.

Each second is in one bucket: progress (work that was never done before), redone (work lost to a failure), checkpoint
(saving, waiting for the last one, and what writing slows), degraded (what lower speed costs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, inf

TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Saving:
    """How a run saves. ``interval`` in useful seconds (inf: never), the others in seconds."""

    interval: float
    blocking: float = 0.0
    persist: float = 0.0
    slowdown: float = 1.0
    keep: int = 4


@dataclass(slots=True)
class Progress:
    """Where a run stands. ``done``: useful seconds in memory; ``durable``: those of saved states, oldest first."""

    saving: Saving
    total: float = inf
    speed: float = 1.0
    done: float = 0.0
    high: float = 0.0
    since: float = 0.0
    saving_left: float = 0.0
    persist_left: float = 0.0
    persisting: float | None = None
    durable: list[float] = field(default_factory=lambda: [0.0])
    checkpoints: int = 0
    buckets: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether all work is done."""
        return self.done >= self.total - TINY

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

    def fall_back(self, copies: int = 1) -> float:
        """A failure: what is in memory is gone, the ``copies``-th newest durable checkpoint counts.

        Useful seconds that are lost.
        """
        place = max(0, len(self.durable) - copies)
        target = self.durable[place]
        del self.durable[place + 1 :]
        lost = self.done - target
        self.done, self.since, self.saving_left, self.persist_left, self.persisting = target, 0.0, 0.0, 0.0, None
        return lost

    def time_to_save(self) -> float:
        """Seconds of standing still until a checkpoint out of turn is durable, after the one that is being written."""
        return self.persist_left + (self.saving_left or self.saving.blocking) + self.saving.persist

    def save_now(self) -> None:
        """A checkpoint out of turn, durable at once; whoever asks for it books :meth:`time_to_save`."""
        if self.persisting is not None:
            self._keep([self.persisting])
        self.persisting, self.persist_left, self.saving_left, self.since = None, 0.0, 0.0, 0.0
        self.checkpoints += 1
        self._keep([self.done])

    def book(self, bucket: str, seconds: float) -> None:
        """Seconds that went elsewhere."""
        self.buckets[bucket] = self.buckets.get(bucket, 0.0) + seconds

    # ---- time passing

    def _rate(self) -> float:
        """Useful seconds a second."""
        return self.speed / (self.saving.slowdown if self.persisting is not None else 1.0)

    def _piece(self, most: float) -> float:
        """Time until the next change of state, at most ``most``."""
        if self.saving_left > 0.0:
            return self._save(min(most, self.saving_left))
        left = self.saving.interval - self.since
        if left <= TINY * max(1.0, self.saving.interval) < inf:
            if self.persisting is not None:  # the next checkpoint waits for the one before it
                return self._wait(min(most, self.persist_left))
            self.saving_left = self.saving.blocking
            self.since = 0.0
            if not self.saving_left:
                self._taken()
            return 0.0
        rate = self._rate()
        if rate <= 0.0:
            return self._stand(most)
        step = min(most, left / rate, (self.total - self.done) / rate)
        if self.persisting is not None:
            step = min(step, self.persist_left)
        return self._work(step, rate)

    def _save(self, seconds: float) -> float:
        self.book("checkpoint", seconds)
        self.saving_left -= seconds
        if self.saving_left <= TINY * self.saving.blocking:
            self.saving_left = 0.0
            self._taken()
        return seconds

    def _taken(self) -> None:
        """The state is copied: it is written from now on, or durable at once."""
        self.checkpoints += 1
        if self.saving.persist > 0.0:
            self.persisting, self.persist_left = self.done, self.saving.persist
        else:
            self._keep([self.done])

    def _keep(self, states: Sequence[float]) -> None:
        self.durable += states
        del self.durable[: -self.saving.keep]

    def _written(self, seconds: float) -> None:
        if self.persisting is None:
            return
        self.persist_left -= seconds
        if self.persist_left <= TINY * self.saving.persist:
            self._keep([self.persisting])
            self.persisting, self.persist_left = None, 0.0

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
        self.since += useful
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
        """Whole cycles of work and saving at once, where a cycle has just begun; 0 where none fits."""
        s = self.saving
        begun = self.persisting is not None and self.persist_left == s.persist
        aligned = self.since == 0.0 and self.saving_left == 0.0 and (begun or (s.persist == 0.0))
        if not aligned or s.interval == inf or self.speed <= 0.0 or (s.persist == 0.0 and self.persisting is not None):
            return 0.0
        slow = min(s.persist, s.interval * s.slowdown / self.speed)  # seconds of work beside the writing
        useful_slow = slow * self.speed / s.slowdown
        work = slow + (s.interval - useful_slow) / self.speed
        wait = max(0.0, s.persist - slow)
        cycle = work + wait + s.blocking
        left = (self.total - self.done) / s.interval if self.total < inf else inf
        many = min(most / cycle, left)
        if many == inf:
            raise ValueError("a run without an end cannot be played to its end")
        n = floor(many * (1 - 1e-12)) - 1
        if n < 1:
            return 0.0
        first = self.done
        self._count(n * s.interval)
        self.book("degraded", n * work * (1.0 - self.speed))
        self.book("checkpoint", n * (slow * self.speed - useful_slow + wait + s.blocking))
        self.checkpoints += n
        taken = [first + (i + 1) * s.interval for i in range(max(0, n - s.keep - 1), n)]
        if s.persist > 0.0:
            if self.persisting is not None:
                self._keep([self.persisting])
            self._keep(taken[:-1])
            self.persisting, self.persist_left = taken[-1], s.persist
        else:
            self._keep(taken)
        return n * cycle
