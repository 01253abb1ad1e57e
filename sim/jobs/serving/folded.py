"""The fast path: one representative a stage, many equal passes as one event.

Allowed when nothing can slow a replica's transfers (checked beforehand: on every link the caps of all flows
that use it fit into its capacity together), so hops and collectives take their closed forms. Two tellers:

``play_single``: a replica without pipeline. Between two changes of its batch the passes differ only in
their context, which grows by one token a sequence and pass, so k passes take

    k * first + growth * k (k - 1) / 2          first: the first pass, growth: decoding * seconds per token

and are one event. An arrival is met at the end of the pass it falls into.

``play_ring``: a pipeline whose micro-batches differ. Each pass is walked through the stages by the max-plus
recursion start = max(arrival, stage free), link free = max(stage done, link free) + occupancy; SimPy sees
an event where a batch's composition changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from sim.engine.clock import INSTANT, Clock
from sim.engine.timeline import Bins, DeviceTrack, Run
from sim.jobs.serving.batching import Batch, Slot
from sim.jobs.serving.replica import Hop, Replica, Stage, settle_gap
from sim.laws.step import Pass

INF = float("inf")
Story = Generator[object, object, None]


def play_single(clock: Clock, replica: Replica) -> Story:
    """The life of a replica on one stage."""
    (stage,) = replica.stages
    scheduler, tally, law, track = replica.scheduler, replica.tally, stage.law, stage.track
    (slot,) = replica.slots
    while True:
        now = clock.now
        batch = scheduler.form(slot, now)
        tally.formed(now, scheduler.blocked)
        if batch is None:
            until = scheduler.feed.next_time()
            if until == INF:
                break
            track.waiting += until - now
            yield clock.timeout(until - now)
            continue
        if batch.chunks or law.eager:
            cost = law.cost(batch.decoding, batch.context, batch.chunks)
            seconds = cost.total
            _record_pass(replica, stage, batch, cost, now)
            yield clock.timeout(seconds)
            scheduler.advance(slot, batch, clock.now)
        else:
            k, seconds = _run(replica, stage, slot, batch, now)
            yield clock.timeout(seconds)
            scheduler.advance(slot, batch, clock.now, k)
    replica.close([clock.now], clock.now)


def _record_pass(replica: Replica, stage: Stage, batch: Batch, cost: Pass, start: float) -> None:
    """Book one pass of a single stage."""
    end = start + cost.total
    stage.track.work(cost, 1, stage.link)
    stage.track.bins.add(start, end, end - start)
    stage.track.span(batch.kind, start, end, batch.sequences, batch.tokens, 0)
    if stage.collectives is not None:
        stage.collectives.record(start, end, cost.wire)
    replica.tally.passed(batch, start, end)
    replica.tally.phase(batch.kind, cost.flops, cost.bytes, cost.busy)


def _run(replica: Replica, stage: Stage, slot: Slot, batch: Batch, now: float) -> tuple[int, float]:
    """As many equal decode passes as nothing disturbs; records them and returns (passes, seconds)."""
    scheduler, law = replica.scheduler, stage.law
    nd = batch.decoding
    base = law.base(nd, nd)
    first = base.compute + base.memory + base.launch + base.communication
    first += law.decode_launch + batch.context * law.decode_slope
    run = Run(first, nd * law.decode_slope, 1 if scheduler.pushed_out else slot.passes_to_next_end())
    if run.count > 1:
        k = scheduler.run_length(slot, run.count)
        if k > 1 and not scheduler.waiting and scheduler.running < scheduler.limits.max_sequences:
            until = scheduler.feed.next_time() - now - INSTANT
            if until < run.begun(k):
                k = min(k, run.passes_until(until))
        scheduler.extend(slot, k)
        run = Run(first, run.growth, k)
    _record_run(replica, stage, batch, base, run, now)
    return run.count, run.begun(run.count)


def _record_run(replica: Replica, stage: Stage, batch: Batch, base: Pass, run: Run, now: float) -> None:
    """Book a run of decode passes at once: all is linear in the sum of contexts."""
    law, track = stage.law, stage.track
    nd, k = batch.decoding, run.count
    contexts = k * batch.context + nd * (k * (k - 1) / 2)
    seconds = run.begun(k)
    flops = k * base.flops + contexts * law.decode_flops
    nbytes = k * base.bytes + contexts * law.decode_bytes
    track.compute += k * base.compute
    track.memory += k * base.memory + contexts * law.decode_slope
    track.launch += k * (base.launch + law.decode_launch)
    track.flops += flops
    track.bytes += nbytes
    end = now + seconds
    track.bins.add(now, end, seconds)
    track.span("decode", now, end, nd, nd, 0)
    if base.communication:
        track.wait(stage.link, k * base.communication)
    if stage.collectives is not None:
        stage.collectives.bytes += k * base.wire
        stage.collectives.bins.add_run(now, run, base.wire)
    replica.tally.ran(batch, now, run)
    replica.tally.phase("decode", flops, nbytes, seconds - k * base.communication)


class _Ring:
    """The pipeline's state between passes: when each stage and each sender is free, and what is under way."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        n = len(replica.stages)
        self.free = [0.0] * n
        self.link_free = [0.0] * n
        self.idle_seen = [0.0] * n
        self.idle_total = 0.0
        self.idle_since: float | None = 0.0
        self.ready: deque[tuple[float, float, Slot]] = deque()
        self.asleep: list[Slot] = list(replica.slots)
        self.moving: deque[tuple[float, float, Slot, Batch]] = deque()
        laws = {id(stage.law): stage.law for stage in replica.stages}
        self.laws = list(laws.values())
        index = {key: i for i, key in enumerate(laws)}
        self.law_of = [index[id(stage.law)] for stage in replica.stages]
        self.sums = [[0.0] * 6 for _ in self.laws]
        self.bins: list[Bins] = [stage.track.bins for stage in replica.stages]
        self.tracks: list[DeviceTrack] = [stage.track for stage in replica.stages]
        self.hops: list[Hop] = [stage.hop for stage in replica.stages if stage.hop is not None]

    def wake(self, now: float) -> None:
        """Sleeping slots look again whether there is something to do."""
        for slot in self.asleep:
            self.ready.append((now, 0.0, slot))
        self.asleep.clear()

    def send(self, slot: Slot, batch: Batch, start: float, transit: float) -> None:
        """Walk one pass through the stages (max-plus) and put its return into ``moving``."""
        if self.idle_since is not None:
            self.idle_total += start - self.idle_since
            self.idle_since = None
        costs = [law.cost(batch.decoding, batch.context, batch.chunks) for law in self.laws]
        for sums, c in zip(self.sums, costs, strict=True):
            sums[0] += c.compute
            sums[1] += c.memory
            sums[2] += c.launch
            sums[3] += c.communication
            sums[4] += c.flops
            sums[5] += c.bytes
        totals = [c.total for c in costs]
        stages, idle_total, kind = self.replica.stages, self.idle_total, batch.kind
        link = self.hops[-1].kind
        arrival = start
        for i, stage in enumerate(stages):
            free = self.free[i]
            begin = arrival if arrival > free else free
            if begin > free:
                settle_gap(stage, begin - free, idle_total - self.idle_seen[i], transit, link)
            self.idle_seen[i] = idle_total
            end = begin + totals[self.law_of[i]]
            self.free[i] = end
            self.bins[i].add(begin, end, end - begin)
            self.tracks[i].span(kind, begin, end, batch.sequences, batch.tokens, slot.number)
            if stage.collectives is not None:
                stage.collectives.record(begin, end, costs[self.law_of[i]].wire)
            hop = self.hops[i]
            size = hop.size(batch)
            out = self.link_free[i]
            if end > out:
                out = end
            sent = out + size / hop.cap
            hop.track.record(out, sent, size)
            self.link_free[i] = sent + hop.overhead
            arrival = sent + hop.overhead + hop.delay(size)
            transit, link = arrival - end, hop.kind
        tally = self.replica.tally
        tally.passed(batch, start, arrival)
        first = costs[self.law_of[0]]
        tally.phase(kind, first.flops, first.bytes, first.busy)
        self.moving.append((arrival, transit, slot, batch))

    def close(self, now: float) -> None:
        """Hand the sums over passes to the tracks."""
        for i, stage in enumerate(self.replica.stages):
            compute, memory, launch, communication, flops, nbytes = self.sums[self.law_of[i]]
            self.tracks[i].work(Pass(compute, memory, launch, communication, flops, nbytes, 0.0), 1, stage.link)
        self.replica.close(self.free, now)


def play_ring(clock: Clock, replica: Replica) -> Story:
    """The life of a pipelined replica. Local time runs ahead of the clock only between changes of a batch."""
    ring, scheduler, tally = _Ring(replica), replica.scheduler, replica.tally
    now = 0.0
    while True:
        back = ring.moving[0][0] if ring.moving else INF
        due = max(ring.ready[0][0], ring.free[0]) if ring.ready else INF
        new = scheduler.feed.next_time() if ring.asleep else INF
        at = min(back, due, new)
        if at == INF:
            break
        now = at if at > now else now
        if back <= at:
            _, transit, slot, batch = ring.moving.popleft()
            if _changes(slot, batch) and now > clock.now:
                yield clock.timeout(now - clock.now)
            scheduler.advance(slot, batch, now)
            if not ring.moving:
                ring.idle_since = now
            ring.ready.append((now, transit, slot))
            ring.wake(now)
        elif new <= at:
            if now > clock.now:
                yield clock.timeout(now - clock.now)
            ring.wake(now)
        else:
            _, transit, slot = ring.ready.popleft()
            formed = scheduler.form(slot, now)
            tally.formed(now, scheduler.blocked)
            if formed is None:
                ring.asleep.append(slot)
                ring.asleep.sort(key=lambda s: s.number)
            else:
                ring.send(slot, formed, now, transit)
    if now > clock.now:
        yield clock.timeout(now - clock.now)
    ring.close(now)


def _changes(slot: Slot, batch: Batch) -> bool:
    """Whether the end of this pass lets a sequence come or go."""
    return bool(batch.chunks) or bool(slot.ends and slot.ends[0][0] <= slot.passes + 1)
