"""A replica without pipeline on the fast path: many equal passes as one event.

Allowed when nothing can slow the replica's collectives (see :mod:`ring`). Between two changes of its batch the
passes differ only in their contexts, which grow by one token a sequence and pass, so k passes take

    k * first + growth * k (k - 1) / 2          first: the first pass, growth: decoding * seconds per token

and are one event. An arrival is met at the end of the pass it falls into.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from sim.engine.clock import INSTANT, Clock
from sim.engine.timeline import KINDS, Run
from sim.jobs.serving.batching import Batch, Slot
from sim.jobs.serving.replica import Replica, Stage
from sim.laws.step import Pass

INF = float("inf")
DECODE = KINDS.index("decode")
# Runs that wait to be booked together.
BUFFERED = 4096
Story = Generator[object, object, None]


def play_single(clock: Clock, replica: Replica) -> Story:
    """The life of a replica on one stage."""
    (stage,) = replica.stages
    scheduler, tally, law = replica.scheduler, replica.tally, stage.law
    (slot,) = replica.slots
    book = _Book(replica, stage)
    while True:
        now = clock.now
        batch = scheduler.form(slot, now)
        tally.formed(now, scheduler.blocked)
        if batch is None:
            until = scheduler.feed.next_time()
            if until == INF:
                break
            stage.track.waiting += until - now
            yield clock.timeout(until - now)
        elif batch.chunks or law.eager:
            cost = law.cost(batch.decoding, batch.context, batch.chunks)
            seconds = cost.total
            book.add(now, batch, Run(seconds, 0.0, 1), cost)
            yield clock.timeout(seconds)
            scheduler.advance(slot, batch, clock.now)
        else:
            base = law.base(batch.decoding, batch.decoding)
            run = _run(replica, stage, slot, batch, base, now)
            book.add(now, batch, run, base)
            yield clock.timeout(run.begun(run.passes))
            scheduler.advance(slot, batch, clock.now, run.passes)
    book.flush()
    replica.close([clock.now], clock.now)


def _run(replica: Replica, stage: Stage, slot: Slot, batch: Batch, base: Pass, now: float) -> Run:
    """As many equal decode passes as nothing disturbs."""
    scheduler, law = replica.scheduler, stage.law
    first = base.compute + base.memory + base.launch + base.communication
    first += law.decode_launch + batch.context * law.decode_slope
    growth = batch.decoding * law.decode_slope
    k = 1 if scheduler.pushed_out else slot.passes_to_next_end()
    if k > 1:
        k = scheduler.run_length(slot, k)
        if k > 1 and not scheduler.waiting and scheduler.running < scheduler.limits.max_sequences:
            until = scheduler.feed.next_time() - now - INSTANT
            if until < k * first + growth * (k * (k - 1) / 2):
                k = min(k, Run(first, growth, k).passes_until(until))
        scheduler.extend(slot, k)
    return Run(first, growth, k)


class _Book:
    """Keeps runs in a list and books them by the thousand: all sums are linear in passes and contexts."""

    def __init__(self, replica: Replica, stage: Stage) -> None:
        self.replica, self.stage = replica, stage
        #: start, end, kind, sequences, decoding, tokens cached in the first pass, more a pass, run, cost
        self.rows: list[tuple[float, float, int, int, int, int, int, Run, Pass]] = []

    def add(self, start: float, batch: Batch, run: Run, cost: Pass) -> None:
        """Passes of ``batch``; ``cost`` leaves out the KV reads of decode-only passes, which are linear."""
        kind, rise = (KINDS.index(batch.kind), 0) if batch.chunks else (DECODE, batch.decoding)
        end = start + run.begun(run.passes)
        sequences = batch.sequences
        self.stage.track.spans.add(KINDS[kind], start, end, sequences, batch.tokens, 0)
        self.rows.append((start, end, kind, sequences, batch.decoding, batch.cached, rise, run, cost))
        if len(self.rows) >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Hand the sums to the tracks."""
        rows, law = self.rows, self.stage.law
        if not rows:
            return
        begun, done, *columns, runs, costs = zip(*rows, strict=True)
        starts, ends = np.array(begun), np.array(done)
        kinds, sequences, decoding, levels, rises = (np.array(column, dtype=float) for column in columns)
        first, growth, k = np.array(runs, dtype=float).T
        compute, memory, launch, comm, flops, nbytes, wire = np.array(costs).T
        # Decode-only passes (those that rise) read the KV cache on top of their base cost.
        linear = (rises > 0) & (not law.eager)
        pairs = k * (k - 1) / 2
        contexts = np.where(linear, k * levels + rises * pairs, 0.0)
        passes = np.where(linear, k, 0.0)
        memory = k * memory + contexts * law.decode_slope
        launch = k * launch + passes * law.decode_launch
        flops = k * flops + contexts * law.decode_flops
        nbytes = k * nbytes + contexts * law.decode_bytes
        track, tally = self.stage.track, self.replica.tally
        sums = (k * compute, memory, launch, k * comm, flops, nbytes)
        track.work(Pass._make([*(float(x.sum()) for x in sums), 0.0]), 1, self.stage.link)
        track.passes += int(k.sum()) - 1
        seconds = ends - starts
        self.replica.scheduler.gaps.add_runs(first, growth, k.astype(np.int64), decoding.astype(np.int64))
        track.bins.add_many(starts, ends, seconds)
        busy = k * compute + memory + launch
        for number in np.unique(kinds).astype(int).tolist():
            mine = kinds == number
            tally.phase(KINDS[number], *(float(x[mine].sum()) for x in (flops, nbytes, busy)))
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
        start, _, _, _, _, level, rise, run, _ = self.rows[i]
        self.replica.tally.cached.add_level(start, run, level, rise)

    def _split_wire(self, i: int) -> None:
        start, *_, run, cost = self.rows[i]
        assert self.stage.collectives is not None
        self.stage.collectives.bins.add_run(start, run, cost.wire)
