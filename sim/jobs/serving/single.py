"""A replica without pipeline on the fast path: many equal passes as one event.

Allowed when nothing can slow the replica's collectives (see :mod:`ring`). Between two changes of its batch the
passes differ only in their contexts, which grow by one token a sequence and pass, so k passes take

    k * first + growth * k (k - 1) / 2          first: the first pass, growth: decoding * seconds per token

and are one event. An arrival is met at the end of the pass it falls into. A replica that fails is cut off in the
middle of a pass; a run ends before that pass, and where its speed changes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import simpy

from sim.engine.clock import INSTANT, Clock
from sim.engine.timeline import DECODE, KINDS, Run
from sim.jobs.serving.incidents import Health
from sim.jobs.serving.replica import CUT_OFF, DEGRADED, STALLED, Replica, Stage
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Pass

INF = float("inf")
# Runs that wait to be booked together.
BUFFERED = 4096
Story = Generator[object, object, None]
NOBODY: Mapping[int, float] = MappingProxyType({})


class Slowness(NamedTuple):
    """A replica not at its best: kernels take ``compute`` times as long, collectives ``talk`` s more a pass."""

    compute: float
    talk: float


FULL_SPEED = Slowness(1.0, 0.0)


def play_single(clock: Clock, replica: Replica) -> Story:
    """The life of a replica on one stage."""
    (stage,) = replica.stages
    scheduler, tally, law = replica.scheduler, replica.tally, stage.law
    (slot,) = replica.slots
    book = _Book(replica, stage)
    bell = _Bell(clock) if scheduler.feed.told else None
    if bell is not None:
        scheduler.feed.poke = bell.ring
    while True:
        if replica.health is not None:
            if replica.feed.over:
                break
            if (outage := replica.health.down(clock.now)) is not None:
                yield from replica.sit_out(clock, outage)
                continue
            yield from replica.feed.synchronise()
        now = clock.now
        batch = scheduler.form(slot, now)
        tally.formed(now, scheduler.blocked)
        if replica.health is not None:
            yield from _next_amid_failures(clock, replica, book, batch)
        elif bell is not None and not (batch is None and scheduler.feed.over):
            yield from _next_by_the_bell(clock, replica, book, batch, bell)
        elif batch is None:
            until = scheduler.feed.next_time()
            if until == INF or scheduler.feed.told:
                break
            stage.track.waiting += until - now
            yield clock.timeout(until - now)
        elif batch.chunks or law.eager or batch.copying:
            cost = batch.cost(law)
            seconds = cost.total
            book.add(now, batch, Run(seconds, 0.0, 1), cost, late=_late(slot, batch, now), fresh=slot.fresh)
            yield clock.timeout(seconds)
            scheduler.advance(slot, batch, clock.now)
        else:
            base = law.base(batch.decoding, batch.decoding)
            late = _late(slot, batch, now)
            run = _run(replica, stage, slot, batch, base, now, held=late > 0.0)
            book.add(now, batch, run, base, late=late, fresh=slot.fresh)
            yield clock.timeout(run.begun(run.passes))
            scheduler.advance(slot, batch, clock.now, run.passes)
    book.flush()
    replica.close([clock.now], clock.now)


class _Bell:
    """Rings when something has come up for a replica that nobody knew ahead."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.rung = clock, clock.event()

    def ring(self) -> None:
        """Something has come up."""
        if not self.rung.triggered:
            self.rung.succeed()

    def listen(self) -> simpy.Event:
        """What happens when it rings next."""
        self.rung = self.clock.event()
        return self.rung


def _next_by_the_bell(clock: Clock, replica: Replica, book: _Book, batch: Batch | None, bell: _Bell) -> Story:
    """What a replica does next that is told of requests: it waits for them, or plays passes until one comes."""
    (stage,), (slot,), start = replica.stages, replica.slots, clock.now
    scheduler, law, late = replica.scheduler, stage.law, 0.0
    if batch is None:
        yield bell.listen()
        yield clock.timeout(0.0)  # everything else of this instant comes first
        stage.track.waiting += clock.now - start
        return
    late = _late(slot, batch, start)
    if batch.chunks or law.eager or batch.copying:
        cost = batch.cost(law)
        run = Run(cost.total, 0.0, 1)
        yield clock.timeout(cost.total)
    else:
        cost = law.base(batch.decoding, batch.decoding)
        run = _run(replica, stage, slot, batch, cost, start, held=late > 0.0 or bool(slot.fresh))
        done = clock.timeout(run.begun(run.passes))
        if run.passes == 1:
            yield done
        else:
            yield simpy.AnyOf(clock, [done, bell.listen()])
            if not done.processed:
                played = max(1, run.passes_until(clock.now - start - INSTANT))
                scheduler.retract(slot, played, run.passes)
                run = run._replace(passes=played)
                yield clock.timeout(max(0.0, start + run.begun(played) - clock.now))
    book.add(start, batch, run, cost, late=late, fresh=slot.fresh)
    scheduler.advance(slot, batch, clock.now, run.passes)
    if scheduler.feed.next_time() <= clock.now + INSTANT:  # who is answered calls again at once: that comes first
        yield clock.timeout(0.0)


def _next_amid_failures(clock: Clock, replica: Replica, book: _Book, batch: Batch | None) -> Story:
    """What a replica that fails does next: it waits, or plays passes until one is cut off or its speed changes."""
    (stage,), (slot,), health, feed = replica.stages, replica.slots, replica.health, replica.feed
    assert health is not None
    scheduler, law, now = replica.scheduler, stage.law, clock.now
    if batch is None:
        yield from feed.rest(min(replica.next_arrival(), health.until()))
        stage.track.waiting += clock.now - now
        return
    start, slowness = health.begin(0, now)
    late = _late(slot, batch, now)
    if batch.chunks or law.eager or batch.copying:
        cost = batch.cost(law)
        talk = stage.talk(cost, health, start)
        slow = Slowness(slowness, talk - cost.communication)
        run = Run(cost.busy * slowness + talk, 0.0, 1)
        cut = health.down(start + run.first) is not None
    else:
        cost = law.base(batch.decoding, batch.decoding)
        slow = Slowness(slowness, stage.talk(cost, health, start) - cost.communication)
        run = _run(replica, stage, slot, batch, cost, start, slow, held=start > now or late > 0.0)
        cut = run.passes == 0
    if cut:
        outage = health.down(start + run.first)
        assert outage is not None
        end = outage.start
        yield clock.timeout(max(0.0, end - now))
        replica.other(stage, STALLED, min(start, end) - now)
        replica.other(stage, CUT_OFF, end - start)
        replica.tally.cut(batch, now, end)
        if end > start:
            stage.track.bins.add(start, end, end - start)
            book.spans.append((start, end, KINDS.index(batch.kind), batch.sequences, batch.tokens))
        return
    if start > now:
        yield clock.timeout(start - now)
    book.add(clock.now, batch, run, cost, slow, clock.now - now, late, slot.fresh)
    yield clock.timeout(run.begun(run.passes))
    scheduler.advance(slot, batch, clock.now, run.passes)


def _run(
    replica: Replica, stage: Stage, slot: Slot, batch: Batch, base: Pass, now: float, slow: Slowness = FULL_SPEED, *,
    held: bool = False,
) -> Run:  # fmt: skip
    """As many equal decode passes as nothing disturbs; one if it was held up, none if the first would be cut off."""
    scheduler, law = replica.scheduler, stage.law
    first = base.compute + base.memory + base.launch + base.communication
    first += law.decode_launch + batch.context * law.decode_slope
    growth = batch.decoding * law.decode_slope
    if slow is not FULL_SPEED:
        first = (first - base.communication) * slow.compute + base.communication + slow.talk
        growth *= slow.compute
    k = 1 if scheduler.pushed_out or held else slot.passes_to_next_end()
    if k > 1:
        k = scheduler.run_length(slot, k)
        # Nobody passes by those who wait, unless by a higher priority.
        passable = not scheduler.waiting or scheduler.table.priority is not None
        if k > 1 and passable and scheduler.running < scheduler.limits.max_sequences:
            until = replica.next_arrival() - now - INSTANT
            if until < k * first + growth * (k * (k - 1) / 2):
                k = min(k, Run(first, growth, k).passes_until(until))
    if replica.health is not None:
        k = _undisturbed(replica.health, Run(first, growth, k), now)
    if k > 1:
        scheduler.extend(slot, k)
    return Run(first, growth, k)


def _undisturbed(health: Health, run: Run, now: float) -> int:
    """Passes of a run that begin before the speed changes and end before an outage."""
    end = now + run.begun(run.passes)
    outage = health.down(end)
    k = min(run.passes, run.passes_until(health.change(now, end) - now))
    if outage is not None and now + run.begun(k) > outage.start:
        k = min(k, run.passes_within(outage.start - now)) if outage.start > now else 0
    return k


def _late(slot: Slot, batch: Batch, now: float) -> float:
    """Seconds for which the sequences of a batch sat out passes since they had their last tokens."""
    return now - slot.spoke if batch.decoding and slot.spoke < slot.returned else 0.0


class _Book:
    """Keeps runs in a list and books them by the thousand: all sums are linear in passes and contexts."""

    def __init__(self, replica: Replica, stage: Stage) -> None:
        self.replica, self.stage = replica, stage
        #: start, end, stall before, passes sat out before, kind, sequences, those who decode as before, their contexts
        #: and tokens cached at first, more of both a pass, run, cost
        self.rows: list[tuple[float, float, float, float, int, int, int, int, int, int, Run, Pass]] = []
        #: start, end, kind, sequences, tokens of what a chart draws
        self.spans: list[tuple[float, float, int, int, int]] = []

    def add(
        self, start: float, batch: Batch, run: Run, cost: Pass, slow: Slowness = FULL_SPEED, stalled: float = 0.0,
        late: float = 0.0, fresh: Mapping[int, float] = NOBODY,
    ) -> None:  # fmt: skip
        """Passes of ``batch``; one that was ``stalled`` before, or whose sequences sat out passes for ``late`` seconds,
        but the ``fresh`` ones. ``cost`` leaves out the KV reads of decode-only passes, which are linear, unless
        something is copied beside."""
        kind, rise = (DECODE, batch.decoding) if not batch.chunks else (KINDS.index(batch.kind), 0)
        if batch.copying:
            rise = 0
        end = start + run.begun(run.passes)
        sequences = batch.sequences
        self.spans.append((start, end, kind, sequences, batch.tokens))
        spoke = batch.decoding
        if fresh and spoke:
            spoke -= len(fresh)
            for since in fresh.values():
                self.replica.scheduler.gaps.add(end - since, 1)
        levels = (batch.context, batch.cached)
        self.rows.append((start, end, stalled, late, kind, sequences, spoke, *levels, rise, run, cost))
        if stalled:
            self.replica.other(self.stage, STALLED, stalled)
        if slow is not FULL_SPEED:
            talk = run.passes * slow.talk
            lost = (end - start - run.passes * (cost.communication + slow.talk)) * (1.0 - 1.0 / slow.compute)
            self.replica.other(self.stage, DEGRADED, lost)
            if talk > 0.0:
                self.stage.track.wait(self.stage.link, talk)
        if len(self.rows) >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Hand the sums to the tracks."""
        rows, law = self.rows, self.stage.law
        if self.spans:
            when, until, kinds, sequences, tokens = (np.array(column) for column in zip(*self.spans, strict=True))
            self.stage.track.spans.extend(when, until, kinds, sequences, tokens, np.zeros(len(self.spans)))
            self.spans.clear()
        if not rows:
            return
        begun, done, stalls, lates, *columns, runs, costs = zip(*rows, strict=True)
        starts, ends, held = np.array(begun), np.array(done), np.array(stalls)
        kinds, sequences, decoding, reads, levels, rises = (np.array(column, dtype=float) for column in columns)
        first, growth, k = np.array(runs, dtype=float).T
        compute, memory, launch, comm, flops, nbytes, wire = np.array(costs).T
        # Decode-only passes (those that rise) read the KV cache on top of their base cost.
        linear = (rises > 0) & (not law.eager)
        pairs = k * (k - 1) / 2
        contexts = np.where(linear, k * reads + rises * pairs, 0.0)
        passes = np.where(linear, k, 0.0)
        reads = contexts * law.decode_slope
        compute = k * compute + (reads if law.decode_computes else 0.0)
        memory = k * memory + (0.0 if law.decode_computes else reads)
        launch = k * launch + passes * law.decode_launch
        flops = k * flops + contexts * law.decode_flops
        nbytes = k * nbytes + contexts * law.decode_bytes
        track, tally = self.stage.track, self.replica.tally
        sums = (compute, memory, launch, k * comm, flops, nbytes)
        track.work(Pass._make([*(float(x.sum()) for x in sums), 0.0]), 1, self.stage.link)
        track.passes += int(k.sum()) - 1
        seconds = ends - starts
        first = first + held
        gaps = first + np.array(lates)
        self.replica.scheduler.gaps.add_runs(gaps, growth, k.astype(np.int64), decoding.astype(np.int64))
        track.bins.add_many(starts, ends, seconds)
        busy = compute + memory + launch
        for number in np.unique(kinds).astype(int).tolist():
            mine = kinds == number
            tally.phase(KINDS[number], *(float(x[mine].sum()) for x in (flops, nbytes, busy)))
        starts, seconds = starts - held, seconds + held
        tally.sequence_seconds += float((sequences * seconds).sum())
        tally.pass_seconds += float(seconds.sum())
        tally.passes += int(k.sum())
        tally.running.add_many(starts, ends, sequences * seconds)
        squares = pairs * (2 * k - 1) / 3
        cached = k * levels * first + (levels * growth + rises * first) * pairs + rises * growth * squares
        tally.cached.add_many(starts, ends, cached, self._split_cached)
        if self.stage.collectives is not None:
            self.stage.collectives.bytes += float((k * wire).sum())
            self.stage.collectives.bins.add_many(starts, ends, k * wire, self._split_wire)
        rows.clear()

    def _split_cached(self, i: int) -> None:
        start, _, held, _, *_, level, rise, run, _ = self.rows[i]
        self.replica.tally.cached.add_level(start - held, run._replace(first=run.first + held), level, rise)

    def _split_wire(self, i: int) -> None:
        start, *_, run, cost = self.rows[i]
        assert self.stage.collectives is not None
        self.stage.collectives.bins.add_run(start, run, cost.wire)
