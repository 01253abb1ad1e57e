"""A pipelined replica on the fast path: passes walked through the stages without an event each.

Allowed when nothing can slow the replica's transfers (checked beforehand: on every link the caps of all flows
that use it fit into its capacity together), so hops and collectives take their closed forms. Micro-batches
differ, and nobody overtakes in a pipeline, so the ring is simulated and not averaged: each pass follows the
max-plus recursion

    start = max(arrival, stage free)
    sent  = max(stage done, sender free) + bytes / cap;   sender free = sent + overhead
    arrival at the next stage = sent + overhead + latency

and SimPy sees an event where a sequence comes or goes. In between, a micro-batch's next pass is known from its last:
the same sequences with a token more each, and the next piece of a prompt. Such passes are played in a loop that forms
no batches (:meth:`_Ring.cruise`). In a replica that fails each piece of work begins at the speed that its stage and its
link have then; an outage cuts off the passes under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from sim.engine.clock import INSTANT, Clock
from sim.jobs.serving.replica import Hop, Replica
from sim.jobs.serving.ring_book import BUFFERED, WIDTH, Mixed, RingBook
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Chunk, Pass

INF = float("inf")
Story = Generator[object, object, None]
#: Stages in a row with one law and one kind of hop: their numbers, and that of their prefill attention; seconds of
#: compute, of memory without the KV cache, for a token of context and how many times that beside a prompt, of launches
#: and of collectives; of a message the seconds on the wire, then until its sender is free, then until it is there.
Leg = tuple[range, int, float, float, float, float, float, float, float, float, float]


class _Ring:
    """The pipeline's state between passes: when each stage and each sender is free, and what is under way.

    A pass through eight stages has to cost microseconds: only what the recursion needs is computed at once,
    the rest is booked by the thousand.

    ``ready`` has micro-batches that are back: (when, seconds of the last hop, slot). ``moving`` has those under way, in
    the order of their return: (arrival, seconds of the last hop, slot, tokens of a prompt's piece, batch); the batch is
    None where the slot itself tells it: all that decode in it, and that piece of its first prompt.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        stages = replica.stages
        n = len(stages)
        self.free, self.link_free = [0.0] * n, [0.0] * n
        self.idle_since: float | None = 0.0
        self.ready: deque[tuple[float, float, Slot]] = deque()
        self.asleep: list[Slot] = list(replica.slots)
        self.moving: deque[tuple[float, float, Slot, int, Batch | None]] = deque()
        # Stages with the same law, and hops with the same numbers, are worked out once a pass.
        laws = {id(stage.law): stage.law for stage in stages}
        self.laws = list(laws.values())
        law_of = [list(laws).index(id(stage.law)) for stage in stages]
        self.hops: list[Hop] = [stage.hop for stage in stages if stage.hop is not None]
        self.alike = _runs([(law, _numbers(hop)) for law, hop in zip(law_of, self.hops, strict=True)])
        self.law_of = law_of
        self.book = RingBook(replica, self.laws, law_of, self.hops)
        self.plain = replica.scheduler.policy.plain and not any(law.eager for law in self.laws)
        # The output head makes another law, and the same attention.
        attention = {replace(law.shape, head=False): law for law in self.laws}
        self.prefills = list(attention.values())
        self.prefill_of = [list(attention).index(replace(law.shape, head=False)) for law in self.laws]
        self.legs: dict[tuple[int, int], tuple[Leg, ...]] = {}

    # ---- one batch at a time

    def wake(self, now: float) -> None:
        """As many sleeping slots as requests wait look again whether there is something to do."""
        scheduler = self.replica.scheduler
        waiting = scheduler.take(now)
        wanted = 0 if scheduler.blocked else waiting
        for slot in self.asleep[:wanted]:
            self.ready.append((now, 0.0, slot))
        del self.asleep[:wanted]

    def send(self, slot: Slot, batch: Batch, start: float, transit: float) -> None:
        """Walk one pass through the stages and put its return into ``moving``."""
        costs = [batch.cost(law) for law in self.laws]
        piece, past = told_by_slot(slot, batch) if self.plain and not batch.copying else (None, 0)
        told = piece is not None
        if not told:
            self.book.mixed[self.book.count] = Mixed(
                costs, batch.tokens, batch.sequences, batch.cached, tuple(slot.fresh.values())
            )
        before = (self.free.copy(), self.link_free.copy()) if self.replica.health is not None else None
        end, arrival = self._at_speed(start, batch, costs)
        if before is not None and self._disturbed(arrival):
            end, arrival = self._slowed(start, batch, costs, *before)
        idle = 0.0
        if self.idle_since is not None:
            idle, self.idle_since = start - self.idle_since, None
        self.book.rows += (
            start, arrival, slot.spoke, transit, idle, batch.decoding, batch.context, piece or 0, past, slot.number,
            self.replica.scheduler.doubled(slot),
        )
        self.moving.append((arrival, arrival - end, slot, piece or 0, None if told else batch))
        if self.book.count >= BUFFERED + len(self.moving):
            self.book.flush(len(self.moving))

    def _messages(self, batch: Batch) -> list[tuple[range, int, float, float, float]]:
        """Stages in runs of equals, with their law, and of their messages the seconds on the wire, then until the
        sender is free, then until they are there."""
        found = []
        for stages in self.alike:
            hop = self.hops[stages.start]
            size = hop.size(batch.tokens, batch.sequences)
            found.append((stages, self.law_of[stages.start], size / hop.cap, hop.overhead, hop.delay(size)))
        return found

    def _at_speed(self, start: float, batch: Batch, costs: Sequence[Pass]) -> tuple[float, float]:
        """The recursion where nothing slows stages or links: when the last stage is done, and when the pass is back."""
        free, link_free, arrival, end = self.free, self.link_free, start, start
        for stages, law, wire, overhead, delay in self._messages(batch):
            total = costs[law].total
            for i in stages:
                begin = max(arrival, free[i])
                end = free[i] = begin + total
                sent = max(link_free[i], end) + wire
                link_free[i] = sent + overhead
                arrival = link_free[i] + delay
                self.book.begins.append(begin)
                if self.book.sending:
                    self.book.sents.append(sent)
        return end, arrival

    def _slowed(
        self, start: float, batch: Batch, costs: Sequence[Pass], free: list[float], link_free: list[float]
    ) -> tuple[float, float]:
        """The same where stages and links have a speed of their own at every instant, from what was free before."""
        replica, health, arrival, end = self.replica, self.replica.health, start, start
        self.free, self.link_free = free, link_free
        slow = self.book.slowed()
        assert health is not None
        for stages, law, wire, overhead, delay in self._messages(batch):
            cost = costs[law]
            for i in stages:
                stage, hop, ready = replica.stages[i], self.hops[i], max(arrival, free[i])
                begin, factor = health.begin(i, ready)
                talk = stage.talk(cost, health, begin)
                end = free[i] = begin + cost.busy * factor + talk
                longer = wire * (health.link(hop.ends, end) if hop.ends else 1.0)
                sent = max(link_free[i], end) + longer
                link_free[i] = sent + overhead
                arrival = link_free[i] + delay
                self.book.begins.append(begin)
                self.book.sents.append(sent)
                slow.ends.append(end)
                slow.wires.append(longer)
                slow.stalled.append(begin - ready)
                slow.degraded.append(cost.busy * (factor - 1.0))
                slow.talked.append(talk - cost.communication)
        return end, arrival

    def _disturbed(self, until: float) -> bool:
        """Whether anything may be slow until then."""
        return self.replica.health is not None and not self.replica.health.quiet(until)

    def back(self) -> tuple[Slot, Batch, float]:
        """Take the first pass off ``moving``: its slot, its batch (also where only the slot tells it), its last hop."""
        _, transit, slot, piece, batch = self.moving.popleft()
        return slot, batch or batch_of(slot, piece), transit

    # ---- many passes in which nobody comes or goes

    def cruise(self, now: float, calm: float) -> float:
        """Play passes in which nobody comes or goes, until another is due or it is ``calm``: the instant reached.

        They are told by their slots, so no batch is formed, and nothing is looked up that cannot have changed. The
        recursion is that of ``_at_speed``, written out like all steps of the loop: one call more in each pass makes a
        simulation of the flagship 2.5% longer.
        """
        scheduler, tally, book, health = self.replica.scheduler, self.replica.tally, self.book, self.replica.health
        ready, moving, waiting, legs_of = self.ready, self.moving, scheduler.waiting, self.legs
        if not self.plain or (self.asleep and waiting):
            return now
        edge = min(calm, scheduler.feed.next_time()) - 2 * INSTANT
        block = scheduler.limits.block_tokens if not scheduler.limits.reserve else 0
        free, link_free, rows, began = self.free, self.link_free, book.rows, book.begins.append
        went = book.sents.append if book.sending else None
        none, shut, cache = [(0.0, 0.0)] * len(self.prefills), False, scheduler.cache
        while True:
            # Who is next: a micro-batch that is back starts when the first stage is free,
            due = INF
            if ready:
                due, transit, slot = ready[0]
                if free[0] > due:
                    due = free[0]
            # unless another is back by then: it has a token more, or the next piece of its prompt behind it.
            if moving and moving[0][0] <= due:
                back, transit, slot, piece, batch = moving[0]
                if back >= edge or batch is not None or (slot.decoding and slot.ends[0][0] <= slot.passes + 1):
                    break
                if piece:
                    state = next(iter(slot.prefills.values()))
                    if state[0] + piece == state[1]:
                        break
                    state[0] += piece
                moving.popleft()
                now = slot.returned = slot.spoke = back
                slot.passes += 1
                slot.context += slot.decoding
                if not moving:
                    self.idle_since = now
                ready.append((now, transit, slot))
                if due < INF:
                    continue
                due = free[0] if free[0] > now else now
                if moving and moving[0][0] <= due:
                    continue
            if due >= edge:
                break
            # What it takes along: blocks for its new tokens, a piece of a prompt; and nobody who waits may join it.
            decoding, piece, past, need = slot.decoding, 0, 0, 0
            if block and decoding:
                need = slot.phases[(1 - slot.passes) % block]
                if need > scheduler.free:
                    break
                scheduler.free -= need
            if slot.prefills:
                piece, past = scheduler.next_piece(slot)
            unknown = not piece if slot.prefills else not decoding
            if unknown or (waiting and not shut and scheduler.lets_in(slot, scheduler.budget(slot) - piece)):
                scheduler.free += need
                break
            if waiting and not shut:
                shut = scheduler.blocked and not scheduler.admissible()  # nothing frees blocks here
            # It goes.
            ready.popleft()
            now = due
            if now > slot.returned:
                tally.held(slot, now, scheduler.doubled(slot))
            if scheduler.blocked or tally.was_blocked:
                tally.formed(now, scheduler.blocked)
            # Through the stages.
            context = slot.context
            legs = legs_of.get((decoding, piece)) or self._legs(decoding, piece)
            prefill = [law.prefill([Chunk(piece, past)])[:2] for law in self.prefills] if piece else none
            before = (free.copy(), link_free.copy()) if health is not None else None
            arrival = end = now
            for stages, attention, compute, memory, slope, times, launch, talk, wire, overhead, delay in legs:
                more, read = prefill[attention]
                total = compute + more + (memory + context * slope * times + read) + launch + talk
                for i in stages:
                    begin = free[i]
                    if arrival > begin:
                        begin = arrival
                    free[i] = end = begin + total
                    out = link_free[i]
                    if end > out:
                        out = end
                    sent = out + wire
                    link_free[i] = released = sent + overhead
                    arrival = released + delay
                    began(begin)
                    if went is not None:
                        went(sent)
            # Something was slow meanwhile: once more, at the speed of every instant.
            if before is not None and self._disturbed(arrival):
                formed = batch_of(slot, piece)
                costs = [law.cost(decoding, context, formed.chunks) for law in self.laws]
                end, arrival = self._slowed(now, formed, costs, *before)
                free, link_free = before
            # Into the book, and under way.
            shared = scheduler.doubled(slot) if cache is not None else 0
            idle = 0.0
            if self.idle_since is not None:
                idle, self.idle_since = now - self.idle_since, None
            rows += (now, arrival, slot.spoke, transit, idle, decoding, context, piece, past, slot.number, shared)
            moving.append((arrival, arrival - end, slot, piece, None))
            if len(rows) >= WIDTH * (BUFFERED + len(moving)):
                book.flush(len(moving))
        return now

    def _legs(self, decoding: int, piece: int) -> tuple[Leg, ...]:
        """What passes take in which so many sequences decode beside a piece of a prompt, but for contexts."""
        legs: list[Leg] = []
        batch = Batch(decoding, 0, [Chunk(piece, 0)] if piece else [])
        for stages, number, wire, overhead, delay in self._messages(batch):
            law = self.laws[number]
            base = law.base(decoding + piece, decoding + (piece > 0))
            times = law.shape.mixed_penalty if piece else 1.0
            launch = base.launch + (law.decode_launch * times if decoding else 0.0)
            if piece:
                launch += law.prefill([Chunk(piece, 0)])[2]
            legs.append(
                (stages, self.prefill_of[number], base.compute, base.memory, law.decode_slope, times, launch,
                 base.communication, wire, overhead, delay)
            )  # fmt: skip
        found = self.legs[decoding, piece] = tuple(legs)
        return found

    # ---- ends

    def cut(self, at: float) -> None:
        """The replica dies: its passes under way are booked as far as they got, and forgotten."""
        under_way = [(slot, batch or batch_of(slot, piece)) for _, _, slot, piece, batch in self.moving]
        self.book.cut(at, under_way, at - self.idle_since if self.idle_since is not None else 0.0)
        self.moving.clear()
        self.ready.clear()

    def resume(self, now: float) -> None:
        """Up again, and empty."""
        n = len(self.replica.stages)
        self.free, self.link_free = [now] * n, [now] * n
        self.book.resume(now)
        self.idle_since = now
        self.asleep = list(self.replica.slots)

    def close(self, now: float) -> None:
        """Book what is left; the rest until ``now`` the stages waited for the last batches."""
        self.book.flush()
        self.replica.close(self.free, now, now - self.idle_since if self.idle_since is not None else 0.0)


def batch_of(slot: Slot, piece: int) -> Batch:
    """The batch of a slot whose sequences decode, beside a ``piece`` of its first prompt."""
    if not piece:
        return Batch(slot.decoding, slot.context)
    r, (past, _) = next(iter(slot.prefills.items()))
    return Batch(slot.decoding, slot.context, [Chunk(piece, past)], [(r, piece)])


def told_by_slot(slot: Slot, batch: Batch) -> tuple[int | None, int]:
    """The piece of the slot's first prompt that rides in a batch (0 if none does) and the tokens before it; None if the
    batch is not told by that."""
    if not batch.pieces:
        return 0, 0
    if len(batch.pieces) > 1 or batch.pieces[0][0] != next(iter(slot.prefills)):
        return None, 0
    return batch.chunks[0]


def _numbers(hop: Hop) -> tuple[object, ...]:
    return (hop.bytes_per_token, hop.bytes_per_sequence, hop.cap, hop.latency, hop.overhead, hop.gather)


def _runs(values: Sequence[object]) -> list[range]:
    """Where equal values stand in a row."""
    starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return [range(a, b) for a, b in pairwise([*starts, len(values)])]


def play_ring(clock: Clock, replica: Replica) -> Story:
    """The life of a pipelined replica. Local time runs ahead of the clock only between changes of a batch."""
    ring, scheduler, tally = _Ring(replica), replica.scheduler, replica.tally
    now = 0.0
    while True:
        if replica.health is None or not replica.feed.over:
            now = ring.cruise(now, _calm(replica))
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
            slot, batch, transit = ring.back()
            if scheduler.changes(slot, batch) and now > clock.now:
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
            if scheduler.feed.sent and now > clock.now and scheduler.feed.next_time() <= now + INSTANT:
                yield clock.timeout(now - clock.now)  # let whoever comes by then be sent
            _, transit, slot = ring.ready.popleft()
            tally.held(slot, now, scheduler.doubled(slot))
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


def _calm(replica: Replica) -> float:
    """Until then nothing befalls the replica, and no request of another one comes."""
    return INF if replica.health is None else min(replica.health.until(), replica.feed.handover())


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
