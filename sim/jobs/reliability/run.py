"""A training run among failures, as a process on a clock: it works, saves, is hit, recovers, and goes on.

Events are failures, returns of repaired nodes, and ends of degradations; what lies between two of them is arithmetic
(:mod:`sim.jobs.reliability.progress`), so a run of months costs a few events for each failure.

What a failure does depends on its class: *stop* ends the job on the spot, and work since the last durable checkpoint is
lost (*save and stop*, a planned one, saves first); *notice* tells beforehand: where there is time to save, the job does
and stops, else it works on until the machine goes; *slow* lowers its speed for a while; *stall* holds it up, and stops
it past a timeout; *corrupt* is found later, and takes the run back to a checkpoint from before it, unless another
failure has done so by then.

Recovery is a sequence of phases, each in a bucket of the ledger, drawn anew for every failure. A failure that stops the
job strikes during recovery and start-up too: then it starts over. So does a corruption that is found then. Nothing runs
that another could hold up or corrupt; a planned stop and a machine that will go share the downtime.

Nodes that need repair come from a pool of spares. Once the failure is known (its phases of detection) the run waits for
a node if none is left (*restart*), for the failed node itself, spares or not (*wait*), or goes on without its replicas
(*elastic*): a data-parallel job of dp replicas then runs at (dp - lost)/dp of its speed until a spare is ready or the
node is repaired. It loses no work: the step under way is too short to count. *migrate* moves from machines that tell
beforehand to spares: these are made ready beside the work, then the job stands still while they get the state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from math import ceil, inf

import numpy as np
import simpy

from sim.engine.clock import Clock
from sim.jobs.reliability.ahead import Ahead, Due
from sim.jobs.reliability.effects import Effect, Terms
from sim.jobs.reliability.faults import Failure
from sim.jobs.reliability.life import Life, Stretch
from sim.jobs.reliability.progress import TINY, Progress

#: Kinds of stops that are told of beforehand.
TOLD = ("save and stop", "notice")


class Run:
    """One life under given terms; ``failures`` come in order of time, ``rng`` draws durations."""

    def __init__(self, clock: Clock, terms: Terms, failures: Iterator[Failure], rng: np.random.Generator) -> None:
        self.clock, self.terms, self.rng = clock, terms, rng
        self.failures = failures
        self.next = next(failures, None)
        self.life = Life(Progress(terms.saving, terms.total), spares_least=terms.spares)
        self.ahead = Ahead()
        self.corruptible = any(effect.kind == "corrupt" for effect in terms.effects.values())
        self.spares = 0.0 if terms.policy == "wait" else terms.spares
        self.short: deque[float] = deque()
        self.away = 0
        self.slowness: list[float] = []
        self.told: list[Due] = []
        self.moving: set[int] = set()
        self.along: list[Due] | None = None

    def process(self) -> Generator[simpy.Event, object, Life]:
        """The run from its start-up to its end."""
        yield from self._start()
        while not self._over():
            if self.told:
                yield from self._make_ready(self.told.pop(0))
                continue
            yield from self._work()
            if self._over():
                break
            if self._is_ahead_due():
                yield from self._due(self.ahead.pop())
            elif self.next is not None and self.next.time <= self.clock.now:
                yield from self._hit(self._take())
        self.life.end, self.life.finished = self.clock.now, self.life.progress.finished
        self.life.gone += [(since, inf) for since in self.short]
        return self.life

    # ---- time

    def _over(self) -> bool:
        return self.life.progress.finished or self.clock.now >= self.terms.horizon

    def _until(self) -> float:
        """The next instant at which something can happen."""
        failure = self.next.time if self.next is not None else inf
        return min(failure, self.ahead.time, self.terms.horizon)

    def _is_ahead_due(self) -> bool:
        """Whether what was put ahead is due, and before the next failure."""
        first = self.ahead.time
        return first <= self.clock.now and (self.next is None or first <= self.next.time)

    def _work(self) -> Generator[simpy.Event, object, None]:
        start = self.clock.now
        passed = self.life.progress.advance(max(0.0, self._until() - start))
        if passed > 0.0:
            yield self.clock.timeout(passed)
            self._note("work", start)

    def _pass(self, bucket: str, seconds: float, calm: Callable[[], bool]) -> Generator[simpy.Event, object, bool]:
        """Time without work; False where the horizon or something that is not ``calm`` cuts it short."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            start, until = self.clock.now, min(end, self._until())
            if until > start:
                self.life.progress.book(bucket, until - start)
                yield self.clock.timeout(until - start)
                self._note(bucket, start)
            if self.clock.now >= self.terms.horizon or not calm():
                return False
        return True

    def _pause(self, bucket: str, seconds: float) -> Generator[simpy.Event, object, bool]:
        """The job stands still and keeps its state; False where something stops it, which is then due."""
        return (yield from self._pass(bucket, seconds, lambda: self._settle(alive=True)))

    def _save(self, effect: Effect) -> Generator[simpy.Event, object, bool]:
        """A checkpoint out of turn before a stop, which what else is planned then shares; False where one strikes."""
        saved, _ = yield from self._with_others("checkpoint", self.life.progress.time_to_save(effect.lost))
        if saved:
            self.life.progress.save_now(effect.lost)
        return saved

    def _with_others(self, bucket: str, seconds: float) -> Generator[simpy.Event, object, tuple[bool, list[Due]]]:
        """A pause during which machines that are ready to be moved to wait for its end, and those."""
        self.along = []
        kept = yield from self._pause(bucket, seconds)
        along, self.along = self.along, None
        return kept, along

    def _note(self, kind: str, start: float) -> None:
        self.life.stretches.append(Stretch(kind, start, self.clock.now))

    def _start(self) -> Generator[simpy.Event, object, None]:
        """The start-up, over and over until nothing that would stop the job strikes during it."""
        while not (yield from self._down("startup", self.terms.startup)) and self.clock.now < self.terms.horizon:
            self.life.interrupted_recoveries += 1
            self._lose(self.terms.effects[self._take().name].nodes)
            yield from self._wait_for_nodes()

    # ---- failures

    def _take(self) -> Failure:
        failure, self.next = self.next, next(self.failures, None)
        assert failure is not None
        self.life.failures[failure.name] = self.life.failures.get(failure.name, 0) + 1
        return failure

    def _hit(self, failure: Failure) -> Generator[simpy.Event, object, None]:
        effect = self.terms.effects[failure.name]
        if effect.kind == "slow":
            self._slow(effect)
        elif effect.kind == "corrupt":
            self._corrupt(effect)
        elif effect.kind in TOLD:
            self._tell(effect)
        elif effect.kind == "stall":
            seconds = effect.seconds(self.rng)
            if (yield from self._pause("stalled", min(seconds, effect.timeout))) and seconds > effect.timeout:
                yield from self._stop(effect)
        elif self.terms.policy == "elastic" and effect.nodes and self._can_spare(effect.nodes):
            yield from self._shrink(effect)
        else:
            yield from self._stop(effect)

    def _slow(self, effect: Effect) -> None:
        self.slowness.append(effect.factor)
        self._set_speed()
        self.ahead.later(self.clock.now + effect.seconds(self.rng), "speed", effect.factor)

    def _corrupt(self, effect: Effect) -> None:
        self.ahead.later(self.clock.now + effect.seconds(self.rng), "found", self.life.progress.done, effect)

    def _set_speed(self) -> None:
        """The slowest rank sets the pace; each replica that is away takes its share of the batch with it."""
        slow = max(self.slowness, default=1.0)
        self.life.progress.speed = (self.terms.replicas - self.away) / self.terms.replicas / slow

    def _tell(self, effect: Effect) -> None:
        """A machine will go; what the job makes of that comes when it is at work."""
        last = self.clock.now + effect.notice if effect.kind == "notice" else inf  # what is planned waits
        self.told.append(self.ahead.later(last, "gone", effect=effect))

    def _due(self, item: Due) -> Generator[simpy.Event, object, None]:
        if item.what == "found":
            yield from self._stop(self._found(item))
            return
        if item.what == "gone":
            yield from self._gone(item)
            return
        if item.what == "move":
            yield from self._move(item)
            return
        self._quietly(item)
        if item.what == "replicas":
            yield from self._pause("grow", self.terms.grow)

    def _quietly(self, item: Due) -> None:
        """What comes due and stops nothing."""
        if item.what == "spare":
            self.spares += 1
            if self.short:
                self.life.gone.append((self.short.popleft(), item.time))
        elif item.what == "speed":
            self.slowness.remove(item.value)
        elif item.what == "replicas":
            self.away -= int(item.value)
        self._set_speed()

    def _settle(self, *, alive: bool) -> bool:
        """Take what is due while the job does not work; False where something stops it (it stays due).

        ``alive``: the job stands still, but keeps its state.
        """
        while True:
            if self._is_ahead_due():
                if self.ahead.heap[0].what == "move" and self.along is not None:
                    self.along.append(self.ahead.pop())
                elif self.ahead.heap[0].what in ("found", "gone", "move"):
                    return False
                else:
                    self._quietly(self.ahead.pop())
            elif self.next is not None and self.next.time <= self.clock.now:
                effect = self.terms.effects[self.next.name]
                if effect.kind == "stop":
                    return False
                self._take()
                if effect.kind == "slow":
                    self._slow(effect)
                elif effect.kind == "corrupt" and alive:
                    self._corrupt(effect)
                elif effect.kind in TOLD:
                    if alive:
                        self._tell(effect)
                    else:
                        self._give_up(effect)
            else:
                return True

    # ---- stopping and going on

    def _make_ready(self, gone: Due) -> Generator[simpy.Event, object, None]:
        """A machine will go (what is planned when the job has stopped): move where there is somewhere to, else save and
        stop where that is done by then, else work on, and so without a replica."""
        effect, planned = gone.effect, gone.time == inf
        assert effect is not None
        if self.terms.policy == "elastic" and not planned and effect.nodes and self._can_spare(effect.nodes):
            return
        if self.terms.policy == "migrate" and self._find_place(gone, effect):
            return
        needed = self.life.progress.time_to_save(effect.lost)
        nowhere = planned and needed == inf
        if nowhere or (self.clock.now + needed < gone.time and (yield from self._save(effect))):
            self.ahead.forget(gone)
            yield from self._stop(effect)

    def _find_place(self, gone: Due, effect: Effect) -> bool:
        """Whether there are spares to move to that are ready in time; they are taken."""
        if not effect.nodes or self.spares < effect.nodes:
            return False
        ready = self.clock.now + effect.ready(self.rng)
        if ready + self.terms.move >= gone.time:
            return False
        self._use_spares([ready + self.terms.repair(self.rng) for _ in range(effect.nodes)])
        self.moving.add(gone.number)
        self.ahead.later(ready, "move", gone.number)
        return True

    def _move(self, item: Due) -> Generator[simpy.Event, object, None]:
        """New nodes are ready: stand still while they get the state, and connect; those ready meanwhile come along."""
        moved, along = yield from self._with_others("migrate", self.terms.move)
        if moved:
            numbers = {int(one.value) for one in (item, *along)}
            left = [other for other in self.ahead.heap if other.number in numbers]
            self.ahead.forget(*left)
            self.moving -= numbers
            for gone in left:
                assert gone.effect is not None
                self.life.progress.forget(gone.effect.lost)

    def _gone(self, gone: Due) -> Generator[simpy.Event, object, None]:
        """A machine goes that had told so."""
        self.told = [item for item in self.told if item.number != gone.number]
        assert gone.effect is not None
        if gone.number in self.moving:  # not yet moved, but its place is taken
            self.moving.discard(gone.number)
            self.ahead.forget(*(item for item in self.ahead.of("move") if item.value == gone.number))
            yield from self._stop(gone.effect, replaced=True)
        elif self.terms.policy == "elastic" and gone.effect.nodes and self._can_spare(gone.effect.nodes):
            yield from self._shrink(gone.effect)
        else:
            yield from self._stop(gone.effect)

    def _hand_back(self) -> None:
        """A job that is down gives up the machines that will go, so that it need not stop again for them."""
        leaving = self.ahead.of("gone")
        self.ahead.forget(*leaving, *self.ahead.of("move"))
        for item in leaving:
            assert item.effect is not None
            self._give_up(item.effect, replaced=item.number in self.moving)
        self.told, self.moving = [], set()

    def _stop(self, effect: Effect, *, replaced: bool = False) -> Generator[simpy.Event, object, None]:
        """Back to the last durable state, and through recovery, however often it is hit."""
        self.life.stops += 1
        while True:
            self._give_up(effect, replaced=replaced)
            replaced = False
            self._hand_back()
            if (yield from self._recover(effect)) or self.clock.now >= self.terms.horizon:
                return
            self.life.interrupted_recoveries += 1
            effect = self._found(self.ahead.pop()) if self._is_ahead_due() else self.terms.effects[self._take().name]

    def _give_up(self, effect: Effect, *, replaced: bool = False) -> None:
        """Nodes leave a job that does not run, and take copies with them; ``replaced``: spares were taken for them.

        Back to the last durable state; a corruption from after it is undone, and nobody will find it.
        """
        if not replaced:
            self._lose(effect.nodes)
        self.life.lost += self.life.progress.fall_back(effect.lost)
        done = self.life.progress.done - TINY
        if self.corruptible and (undone := [item for item in self.ahead.of("found") if item.value >= done]):
            self.ahead.forget(*undone)

    def _found(self, item: Due) -> Effect:
        """Checkpoints from after a corruption are worthless; its effect."""
        self.life.progress.distrust(item.value)
        assert item.effect is not None
        return item.effect

    def _recover(self, effect: Effect) -> Generator[simpy.Event, object, bool]:
        """The phases of a recovery, loading last; False where the horizon or what stops the job strikes first.

        Nodes are needed once the failure is known, and (for what broke meanwhile) at the end.
        """
        known = False
        for bucket, time in effect.phases:
            if bucket != "detection" and not known:
                known = True
                if not (yield from self._wait_for_nodes()):
                    return False
            if not (yield from self._down(bucket, time(self.rng))):
                return False
        progress = self.life.progress
        if not (yield from self._down("restart", progress.levels[progress.source].saving.load)):
            return False
        return (yield from self._wait_for_nodes())

    def _wait_for_nodes(self) -> Generator[simpy.Event, object, bool]:
        while self.spares < 0:
            back = min((item.time for item in self.ahead.of("spare")), default=inf)
            if back <= self.clock.now:
                if not self._settle(alive=False):
                    return False
            elif not (yield from self._down("down", back - self.clock.now)):
                return False
        return True

    def _down(self, bucket: str, seconds: float) -> Generator[simpy.Event, object, bool]:
        """The job does not run; False where its recovery has to start over."""
        return (yield from self._pass(bucket, seconds, lambda: self._settle(alive=False)))

    def _lose(self, nodes: int) -> None:
        """Nodes go to repair, spares take their places. An elastic job goes on without what no spare replaces."""
        backs = [self.clock.now + self.terms.repair(self.rng) for _ in range(nodes)]
        missing = backs[int(min(nodes, max(0.0, self.spares))) :]
        if missing and self.terms.policy == "elastic" and self._can_spare(len(missing)):
            self._part_with(len(missing), max(missing))
            self.life.gone += [(self.clock.now, back) for back in missing]
            backs = backs[: -len(missing)]
        self._use_spares(backs)

    def _use_spares(self, backs: list[float]) -> None:
        """As many spares as there are times at which what they replace is back."""
        lacking = min(float(len(backs)), max(0.0, len(backs) - self.spares))
        self.short.extend([self.clock.now] * int(lacking))
        self.spares -= len(backs)
        if self.terms.policy != "wait":
            self.life.spares_least = min(self.life.spares_least, max(0.0, self.spares))
        for back in backs:
            self.ahead.later(back, "spare")

    # ---- elastic

    def _replicas_on(self, nodes: int) -> int:
        return ceil(nodes / max(1.0, self.terms.nodes / self.terms.replicas))

    def _can_spare(self, nodes: int) -> bool:
        """Whether a replica is left without these nodes."""
        return self.away + self._replicas_on(nodes) < self.terms.replicas

    def _part_with(self, nodes: int, until: float) -> None:
        lost = self._replicas_on(nodes)
        self.away += lost
        self._set_speed()
        self.ahead.later(until, "replicas", lost)

    def _shrink(self, effect: Effect) -> Generator[simpy.Event, object, None]:
        """Go on without the replicas that were hit, once that is noticed: the first phase, where it is a detection.

        Spares take their places when they are ready, made so since the notice, where there was one; where there are too
        few, the nodes themselves after repair.
        """
        now = self.clock.now
        self.life.progress.forget(effect.lost)
        times = [time(self.rng) for _, time in effect.phases]
        backs = [now + self.terms.repair(self.rng) for _ in range(effect.nodes)]
        spares = int(min(effect.nodes, max(0.0, self.spares)))
        ready = sum(times) + self.life.progress.saving.load - effect.notice
        self._part_with(effect.nodes, max([now + max(0.0, ready), *backs[spares:]]))
        self.life.gone += [(now, back) for back in backs[spares:]]
        self._use_spares(backs[:spares])
        noticed = times[0] if effect.phases and effect.phases[0][0] == "detection" else 0.0
        if (yield from self._pause("detection", noticed)):
            yield from self._pause("shrink", self.terms.shrink)


def live(terms: Terms, failures: Iterator[Failure], rng: np.random.Generator) -> tuple[Life, int]:
    """One life on a clock of its own, and the events it took."""
    clock = Clock()
    run = Run(clock, terms, failures, rng)
    clock.watch(clock.process(run.process()), "a training run waits for its next event")
    clock.play()
    return run.life, clock.events
