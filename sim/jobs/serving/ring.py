"""A pipelined replica on the fast path: passes walked through the stages without an event each.

Allowed when nothing can slow the replica's transfers (checked beforehand: on every link the caps of all flows
that use it fit into its capacity together), so hops and collectives take their closed forms. Micro-batches
differ, and nobody overtakes in a pipeline, so the ring is simulated and not averaged: each pass follows the
max-plus recursion

    start = max(arrival, stage free)
    sent  = max(stage done, sender free) + bytes / cap;   sender free = sent + overhead
    arrival at the next stage = sent + overhead + latency

and SimPy sees an event where a batch's composition changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from sim.engine.clock import Clock
from sim.engine.timeline import KINDS
from sim.jobs.serving.batching import Batch, Slot
from sim.jobs.serving.replica import Hop, Replica, split_gap
from sim.laws.step import Pass

INF = float("inf")
Story = Generator[object, object, None]
SEND = KINDS.index("send")
# Passes whose intervals wait in lists before they are binned together.
BUFFERED = 2048


class _Way:
    """Hops with the same numbers: one message's size and times serve them all."""

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.sizes: list[float] = []

    def message(self, batch: Batch) -> tuple[float, float]:
        """(seconds on the wire, seconds from the sender's release to the arrival) of a batch's message."""
        size = self.hop.size(batch)
        self.sizes.append(size)
        return size / self.hop.cap, self.hop.delay(size)


class _Ring:
    """The pipeline's state between passes: when each stage and each sender is free, and what is under way.

    Sums over passes are kept here, by stage, and handed to the tracks in blocks: a pass through eight stages
    has to cost microseconds.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        stages = replica.stages
        n = len(stages)
        self.free, self.link_free = [0.0] * n, [0.0] * n
        self.bubble, self.moved, self.waited = [0.0] * n, [0.0] * n, [0.0] * n
        self.idle_since: float | None = 0.0
        self.ready: deque[tuple[float, float, Slot]] = deque()
        self.asleep: list[Slot] = list(replica.slots)
        self.moving: deque[tuple[float, float, Slot, Batch]] = deque()
        laws = {id(stage.law): stage.law for stage in stages}
        self.laws = list(laws.values())
        index = {key: i for i, key in enumerate(laws)}
        self.law_of = [index[id(stage.law)] for stage in stages]
        self.sums = [[0.0] * 6 for _ in self.laws]
        self.hops: list[Hop] = [stage.hop for stage in stages if stage.hop is not None]
        ways = {self._numbers(hop): _Way(hop) for hop in self.hops}
        self.ways = list(ways.values())
        order = list(ways)
        self.way_of = [order.index(self._numbers(hop)) for hop in self.hops]
        self.groups = [i for i, stage in enumerate(stages) if stage.collectives is not None]
        self.begins: list[list[float]] = [[] for _ in stages]
        self.ends: list[list[float]] = [[] for _ in stages]
        self.outs: list[list[float]] = [[] for _ in stages]
        self.sents: list[list[float]] = [[] for _ in stages]
        self.notes: tuple[list[int], ...] = ([], [], [], [])

    @staticmethod
    def _numbers(hop: Hop) -> tuple[object, ...]:
        return (hop.bytes_per_token, hop.bytes_per_sequence, hop.cap, hop.latency, hop.overhead, hop.gather)

    def wake(self, now: float) -> None:
        """As many sleeping slots as requests wait look again whether there is something to do."""
        scheduler = self.replica.scheduler
        wanted = scheduler.take(now) if not scheduler.blocked else 0
        for slot in self.asleep[:wanted]:
            self.ready.append((now, 0.0, slot))
        del self.asleep[:wanted]

    def send(self, slot: Slot, batch: Batch, start: float, transit: float) -> None:
        """Walk one pass through the stages (max-plus) and put its return into ``moving``."""
        idle = 0.0
        if self.idle_since is not None:
            idle, self.idle_since = start - self.idle_since, None
        costs = [law.cost(batch.decoding, batch.context, batch.chunks) for law in self.laws]
        for sums, cost in zip(self.sums, costs, strict=True):
            for k in range(6):
                sums[k] += cost[k]
        totals = [cost.total for cost in costs]
        messages = [way.message(batch) for way in self.ways]
        free, link_free = self.free, self.link_free
        arrival = start
        for i, law in enumerate(self.law_of):
            begin = free[i]
            if arrival > begin:
                waiting, moving, bubble = split_gap(arrival - begin, idle, transit)
                self.waited[i] += waiting
                self.moved[i] += moving
                self.bubble[i] += bubble
                begin = arrival
            end = free[i] = begin + totals[law]
            out = link_free[i]
            if end > out:
                out = end
            way = self.way_of[i]
            wire, delay = messages[way]
            sent = out + wire
            overhead = self.hops[i].overhead
            link_free[i] = sent + overhead
            arrival = sent + overhead + delay
            transit = arrival - end
            self.begins[i].append(begin)
            self.ends[i].append(end)
            self.outs[i].append(out)
            self.sents[i].append(sent)
        for i in self.groups:
            track = self.replica.stages[i].collectives
            assert track is not None
            track.record(self.begins[i][-1], self.ends[i][-1], costs[self.law_of[i]].wire)
        kinds, batches, tokens, slots = self.notes
        kinds.append(KINDS.index(batch.kind))
        batches.append(batch.sequences)
        tokens.append(batch.tokens)
        slots.append(slot.number)
        if len(kinds) >= BUFFERED:
            self.flush()
        tally = self.replica.tally
        tally.passed(batch, start, arrival)
        first = costs[self.law_of[0]]
        tally.phase(batch.kind, first.flops, first.bytes, first.busy)
        self.moving.append((arrival, transit, slot, batch))

    def flush(self) -> None:
        """Bin the buffered intervals."""
        for i, stage in enumerate(self.replica.stages):
            begins, ends = self.begins[i], self.ends[i]
            stage.track.bins.add_many(begins, ends, [b - a for a, b in zip(begins, ends, strict=True)])
            hop, sizes = self.hops[i], self.ways[self.way_of[i]].sizes
            hop.track.bytes += sum(sizes)
            hop.track.bins.add_many(self.outs[i], self.sents[i], sizes)
            stage.track.spans.extend(begins, ends, *self.notes)
            kinds, *rest = self.notes
            hop.track.spans.extend(self.outs[i], self.sents[i], [SEND] * len(kinds), *rest)
            for buffer in (begins, ends, self.outs[i], self.sents[i]):
                buffer.clear()
        for way in self.ways:
            way.sizes.clear()
        for note in self.notes:
            note.clear()

    def close(self, now: float) -> None:
        """Hand everything to the tracks."""
        self.flush()
        for i, stage in enumerate(self.replica.stages):
            compute, memory, launch, communication, flops, nbytes = self.sums[self.law_of[i]]
            track = stage.track
            track.work(Pass(compute, memory, launch, communication, flops, nbytes, 0.0), 1, stage.link)
            track.passes = self.replica.tally.passes
            track.waiting += self.waited[i]
            track.bubble += self.bubble[i]
            if self.moved[i]:
                track.wait(self.hops[i - 1].kind, self.moved[i])
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
            scheduler.passed(slot, batch, now)
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
            tally.held(slot, now)
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
