"""A pipelined replica on the fast path: passes walked through the stages without an event each.

Allowed when nothing can slow the replica's transfers (checked beforehand: on every link the caps of all flows
that use it fit into its capacity together), so hops and collectives take their closed forms. Micro-batches
differ, and nobody overtakes in a pipeline, so the ring is simulated and not averaged: each pass follows the
max-plus recursion

    start = max(arrival, stage free)
    sent  = max(stage done, sender free) + bytes / cap;   sender free = sent + overhead
    arrival at the next stage = sent + overhead + latency

and SimPy sees an event where a batch's composition changes. In a replica that fails each piece of work begins at the
speed that its stage and its link have then; an outage cuts off the passes under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.clock import Clock
from sim.engine.timeline import KINDS
from sim.jobs.serving.batching import Batch, Slot
from sim.jobs.serving.replica import CUT_OFF, DEGRADED, STALLED, Hop, Replica, split_gap
from sim.laws.step import Pass

INF = float("inf")
Floats = NDArray[Any]
Story = Generator[object, object, None]
SEND = KINDS.index("send")
# Passes whose intervals wait in lists before they are binned together.
BUFFERED = 2048


class _Slow(NamedTuple):
    """What a pass through slow stages and links took, stage by stage: when its work ended, the seconds of its message,
    and the seconds it stalled, computed longer and talked longer."""

    ends: list[float]
    wires: list[float]
    stalled: list[float]
    degraded: list[float]
    talked: list[float]


class _Pass(NamedTuple):
    """One pass as it is kept until it is booked; ``times`` are (begin, sent) of each stage in turn."""

    start: float
    back: float
    transit: float
    idle: float
    kind: int
    sequences: int
    tokens: int
    slot: int
    cached: int
    costs: tuple[Pass, ...]
    wires: tuple[float, ...]
    sizes: tuple[float, ...]
    times: list[float]
    slow: _Slow | None


class _Ring:
    """The pipeline's state between passes: when each stage and each sender is free, and what is under way.

    A pass through eight stages has to cost microseconds: only what the recursion needs is computed at once,
    the rest is booked by the thousand.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        stages = replica.stages
        n = len(stages)
        self.free, self.link_free = [0.0] * n, [0.0] * n
        self.booked = np.zeros(n)
        self.idle_since: float | None = 0.0
        self.ready: deque[tuple[float, float, Slot]] = deque()
        self.asleep: list[Slot] = list(replica.slots)
        self.moving: deque[tuple[float, float, Slot, Batch]] = deque()
        # Stages with the same law, and hops with the same numbers, are worked out once a pass.
        laws = {id(stage.law): stage.law for stage in stages}
        self.laws = list(laws.values())
        self.law_of = [list(laws).index(id(stage.law)) for stage in stages]
        self.hops: list[Hop] = [stage.hop for stage in stages if stage.hop is not None]
        ways = {_numbers(hop): hop for hop in self.hops}
        self.ways = list(ways.values())
        self.way_of = [list(ways).index(_numbers(hop)) for hop in self.hops]
        overheads = [hop.overhead for hop in self.hops]
        self.plan = tuple(zip(range(n), self.law_of, self.way_of, overheads, strict=True))
        self.passes: list[_Pass] = []
        self.messages: dict[tuple[int, int], tuple[tuple[float, ...], tuple[float, ...], list[float]]] = {}

    def wake(self, now: float) -> None:
        """As many sleeping slots as requests wait look again whether there is something to do."""
        scheduler = self.replica.scheduler
        waiting = scheduler.take(now)
        wanted = 0 if scheduler.blocked else waiting
        for slot in self.asleep[:wanted]:
            self.ready.append((now, 0.0, slot))
        del self.asleep[:wanted]

    def send(self, slot: Slot, batch: Batch, start: float, transit: float) -> None:
        """Walk one pass through the stages (max-plus) and put its return into ``moving``."""
        idle = 0.0
        if self.idle_since is not None:
            idle, self.idle_since = start - self.idle_since, None
        decoding, context, chunks = batch.decoding, batch.context, batch.chunks
        costs = tuple([law.cost(decoding, context, chunks) for law in self.laws])
        totals = [cost.total for cost in costs]
        key = (batch.tokens, batch.sequences)
        found = self.messages.get(key)
        if found is None:
            found = self.messages[key] = self._messages(batch)
        sizes, wires, delays = found
        before = (self.free.copy(), self.link_free.copy()) if self.replica.health is not None else None
        free, link_free = self.free, self.link_free
        times: list[float] = []
        arrival, end, slow = start, 0.0, None
        for i, law, way, overhead in self.plan:
            begin = free[i]
            if arrival > begin:
                begin = arrival
            end = free[i] = begin + totals[law]
            out = link_free[i]
            if end > out:
                out = end
            sent = out + wires[way]
            released = link_free[i] = sent + overhead
            arrival = released + delays[way]
            times.append(begin)
            times.append(sent)
        if before is not None and self.replica.health is not None and not self.replica.health.quiet(arrival):
            self.free, self.link_free = before
            slow, times = self._walk(start, costs, wires, delays)
            end, arrival = slow.ends[-1], times[-1] + self.plan[-1][3] + delays[self.plan[-1][2]]
        kind = KINDS.index(batch.kind)
        self.passes.append(
            _Pass(
                start, arrival, transit, idle, kind, batch.sequences, batch.tokens, slot.number, batch.cached,
                costs, wires, sizes, times, slow,
            )
        )  # fmt: skip
        self.moving.append((arrival, arrival - end, slot, batch))
        if len(self.passes) >= BUFFERED + len(self.moving):
            self.book()

    def _messages(self, batch: Batch) -> tuple[tuple[float, ...], tuple[float, ...], list[float]]:
        """Bytes of each kind of hop's message, seconds on the wire, and from the sender's release to the arrival."""
        sizes = tuple([hop.size(batch) for hop in self.ways])
        wires = tuple([size / hop.cap for size, hop in zip(sizes, self.ways, strict=True)])
        return sizes, wires, [hop.delay(size) for size, hop in zip(sizes, self.ways, strict=True)]

    def _walk(
        self, start: float, costs: tuple[Pass, ...], wires: tuple[float, ...], delays: list[float]
    ) -> tuple[_Slow, list[float]]:
        """The same recursion where stages and links have a speed of their own at every instant."""
        replica, free, link_free, arrival = self.replica, self.free, self.link_free, start
        health, slow = replica.health, _Slow([], [], [], [], [])
        times: list[float] = []
        assert health is not None
        for i, law, way, overhead in self.plan:
            stage, hop, cost, ready = replica.stages[i], self.hops[i], costs[law], max(arrival, free[i])
            begin, factor = health.begin(i, ready)
            talk = stage.talk(cost, health, begin)
            end = free[i] = begin + cost.busy * factor + talk
            wire = wires[way] * (health.link(hop.ends, end) if hop.ends else 1.0)
            sent = max(link_free[i], end) + wire
            link_free[i] = sent + overhead
            arrival = link_free[i] + delays[way]
            times += (begin, sent)
            slow.ends.append(end)
            slow.wires.append(wire)
            slow.stalled.append(begin - ready)
            slow.degraded.append(cost.busy * (factor - 1.0))
            slow.talked.append(talk - cost.communication)
        return slow, times

    def _at_speed(self, kept: _Pass) -> _Slow:
        """The same of a pass that nothing slowed."""
        n = len(self.plan)
        ends = [kept.times[2 * i] + kept.costs[law].total for i, law, _, _ in self.plan]
        return _Slow(ends, [kept.wires[way] for _, _, way, _ in self.plan], [0.0] * n, [0.0] * n, [0.0] * n)

    def book(self) -> None:
        """Hand the passes kept so far to the tracks; of a replica that fails those that are back."""
        under_way = len(self.moving) if self.replica.health is not None else 0
        done = self.passes[: len(self.passes) - under_way]
        if not done:
            return
        del self.passes[: len(done)]
        *columns, slow = zip(*done, strict=True)
        starts, backs, transit, idle, kinds, sequences, tokens, slots, cached, costs, wires, sizes, times = (
            np.array(column) for column in columns
        )
        begins, sents = times[:, 0::2], times[:, 1::2]
        totals = costs[:, :, :4].sum(axis=2)
        wires = wires[:, self.way_of]
        if not any(slow):
            ends, reached = begins + totals[:, self.law_of], begins
        else:
            slows = [kept.slow or self._at_speed(kept) for kept in done]
            ends, wires, stalled, degraded, talked = (np.array(column) for column in zip(*slows, strict=True))
            reached = begins - stalled
            for i, stage in enumerate(self.replica.stages):
                self.replica.other(stage, STALLED, float(stalled[:, i].sum()))
                self.replica.other(stage, DEGRADED, float(degraded[:, i].sum()))
                if (seconds := float(talked[:, i].sum())) > 0.0:
                    stage.track.wait(stage.link, seconds)
        self._book_gaps(reached, ends, transit, idle)
        notes = [column.tolist() for column in (kinds, sequences, tokens, slots)]
        send = [[SEND] * len(starts), *notes[1:]]
        for i, stage in enumerate(self.replica.stages):
            mine = costs[:, self.law_of[i]]
            track, hop, way = stage.track, self.hops[i], self.way_of[i]
            track.work(Pass._make(mine.sum(axis=0).tolist()), 1, stage.link)
            track.passes += len(starts) - 1
            track.bins.add_many(begins[:, i], ends[:, i], ends[:, i] - begins[:, i])
            track.spans.extend(begins[:, i].tolist(), ends[:, i].tolist(), *notes)
            if stage.collectives is not None:
                stage.collectives.bytes += float(mine[:, 6].sum())
                stage.collectives.bins.add_many(begins[:, i], ends[:, i], mine[:, 6])
            outs = sents[:, i] - wires[:, i]
            hop.track.bytes += float(sizes[:, way].sum())
            hop.track.bins.add_many(outs, sents[:, i], sizes[:, way])
            hop.track.spans.extend(outs.tolist(), sents[:, i].tolist(), *send)
        self._tally(starts, backs, kinds, sequences, cached, costs[:, self.law_of[0]])

    def _book_gaps(self, begins: Floats, ends: Floats, transit: Floats, idle: Floats) -> None:
        """What each stage did between its passes (the rule of :func:`split_gap`)."""
        before = np.vstack((self.booked, ends[:-1]))
        gaps = np.maximum(begins - before, 0.0)
        self.booked = ends[-1]
        waiting = np.minimum(gaps, idle[:, None])
        # A stage that waited began when its batch arrived: it had been on its way since the stage before was done.
        moving = np.hstack((transit[:, None], begins[:, 1:] - ends[:, :-1]))
        moving = np.minimum(moving, gaps - waiting)
        bubbles = gaps - waiting - moving
        for i, stage in enumerate(self.replica.stages):
            stage.track.waiting += float(waiting[:, i].sum())
            stage.track.bubble += float(bubbles[:, i].sum())
            if (seconds := float(moving[:, i].sum())) > 0.0:
                stage.track.wait(self.hops[i - 1].kind, seconds)

    def _tally(
        self, starts: Floats, backs: Floats, kinds: Floats, sequences: Floats, cached: Floats, costs: Floats
    ) -> None:
        tally, seconds = self.replica.tally, backs - starts
        tally.passes += len(starts)
        tally.pass_seconds += float(seconds.sum())
        tally.sequence_seconds += float((sequences * seconds).sum())
        tally.running.add_many(starts, backs, sequences * seconds)
        tally.cached.add_many(starts, backs, cached * seconds)
        for number in np.unique(kinds).tolist():
            flops, nbytes, busy = (costs[kinds == number][:, columns].sum() for columns in ([4], [5], [0, 1, 2]))
            tally.phase(KINDS[number], float(flops), float(nbytes), float(busy))

    def cut(self, at: float) -> None:
        """The replica dies: book what its passes under way had done by then, stage by stage, and forget them."""
        self.book()
        replica = self.replica
        idle = [at - self.idle_since if self.idle_since is not None else 0.0] * len(replica.stages)
        for kept, (_, _, slot, batch) in zip(self.passes, self.moving, strict=True):
            transit, slow = kept.transit, kept.slow or self._at_speed(kept)
            for i, stage in enumerate(replica.stages):
                begin, end, sent = kept.times[2 * i], slow.ends[i], kept.times[2 * i + 1]
                reached = begin - slow.stalled[i]
                if reached >= at:
                    idle[i] += kept.idle
                    continue
                waiting, moving, bubble = split_gap(max(0.0, reached - self.booked[i]), kept.idle, transit)
                stage.track.waiting += waiting
                stage.track.bubble += bubble
                if moving > 0.0:
                    stage.track.wait(self.hops[i - 1].kind, moving)
                replica.other(stage, STALLED, min(begin, at) - reached)
                self.booked[i] = min(end, at)
                if begin < at:
                    self._book_cut(i, kept, slow, slot, batch, at)
                if i + 1 < len(replica.stages):
                    transit = kept.times[2 * i + 2] - slow.stalled[i + 1] - end
                hop, size = self.hops[i], kept.sizes[self.way_of[i]]
                if sent + hop.overhead + hop.delay(size) <= at:
                    hop.track.record(sent - slow.wires[i], sent, size)
                    hop.track.spans.add("send", sent - slow.wires[i], sent, kept.sequences, kept.tokens, slot.number)
            replica.tally.cut(batch, kept.start, at)
        for stage, booked, unseen in zip(replica.stages, self.booked, idle, strict=True):
            waiting, _, bubble = split_gap(at - booked, unseen, 0.0)
            stage.track.waiting += waiting
            stage.track.bubble += bubble
        for slot in replica.slots:
            if not any(slot is other for _, _, other, _ in self.moving):
                replica.tally.held(slot, at)
        self.passes.clear()
        self.moving.clear()
        self.ready.clear()

    def _book_cut(self, i: int, kept: _Pass, slow: _Slow, slot: Slot, batch: Batch, at: float) -> None:
        """A stage's part of a pass that is cut off: work if it was done, else lost."""
        replica, stage, begin = self.replica, self.replica.stages[i], kept.times[2 * i]
        cost = kept.costs[self.law_of[i]]
        end = min(slow.ends[i], at)
        stage.track.bins.add(begin, end, end - begin)
        stage.track.spans.add(batch.kind, begin, end, kept.sequences, kept.tokens, slot.number)
        if slow.ends[i] > at:
            replica.other(stage, CUT_OFF, end - begin)
            return
        stage.track.work(cost, 1, stage.link)
        replica.other(stage, DEGRADED, slow.degraded[i])
        if slow.talked[i] > 0.0:
            stage.track.wait(stage.link, slow.talked[i])
        if stage.collectives is not None:
            stage.collectives.record(begin, end, cost.wire)
        if i == 0:
            replica.tally.phase(batch.kind, cost.flops, cost.bytes, cost.busy)

    def resume(self, now: float) -> None:
        """Up again, and empty."""
        n = len(self.replica.stages)
        self.free, self.link_free, self.booked = [now] * n, [now] * n, np.full(n, now)
        self.idle_since = now
        self.asleep = list(self.replica.slots)

    def close(self, now: float) -> None:
        """Book what is left; the rest until ``now`` the stages waited for the last batches."""
        self.book()
        self.replica.close(self.free, now, now - self.idle_since if self.idle_since is not None else 0.0)


def _numbers(hop: Hop) -> tuple[object, ...]:
    return (hop.bytes_per_token, hop.bytes_per_sequence, hop.cap, hop.latency, hop.overhead, hop.gather)


def play_ring(clock: Clock, replica: Replica) -> Story:
    """The life of a pipelined replica. Local time runs ahead of the clock only between changes of a batch."""
    ring, scheduler, tally = _Ring(replica), replica.scheduler, replica.tally
    now = 0.0
    while True:
        back = ring.moving[0][0] if ring.moving else INF
        due = max(ring.ready[0][0], ring.free[0]) if ring.ready else INF
        new = scheduler.feed.next_time() if ring.asleep else INF
        at = min(back, due, new)
        if replica.health is not None:
            if replica.feed.over:
                now = clock.now
                break
            now, disturbed = yield from _amid_failures(clock, ring, at, now)
            if disturbed:
                continue
        elif at == INF:
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


def _amid_failures(clock: Clock, ring: _Ring, at: float, now: float) -> Generator[Any, Any, tuple[float, bool]]:
    """What comes before the replica's next event ``at``: its local time after that, and whether there was anything.

    Local time stops for an outage, and wherever requests of another replica may come.
    """
    replica = ring.replica
    health, feed = replica.health, replica.feed
    assert health is not None
    outage = health.down(max(at, now) if at < INF else clock.now)
    stop = feed.handover()
    if outage is not None and outage.start <= stop:
        yield from feed.rest(outage.start)
        if feed.over:
            return clock.now, True
        ring.cut(outage.start)
        up = yield from replica.sit_out(clock, outage)
        ring.resume(up)
        return up, True
    if at == INF:
        stop = min(stop, health.until())
    if stop > at:
        return now, False
    if stop > clock.now:
        yield from feed.rest(stop)
    else:
        yield from feed.synchronise()
    return now, True


def _changes(slot: Slot, batch: Batch) -> bool:
    """Whether the end of this pass lets a sequence come or go."""
    return bool(batch.chunks) or bool(slot.ends and slot.ends[0][0] <= slot.passes + 1)
