"""What the passes of a pipelined replica were: kept as they are played, booked on the tracks by the thousand.

A pass is kept in a row, and its times on every stage and link in two long arrays. What it cost, how large its messages
were and what the stages did before it follows from these, and is worked out for all rows at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.engine.timeline import KINDS
from sim.jobs.serving.replica import CUT_OFF, DEGRADED, STALLED, Hop, Replica, split_gap
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Pass, Passes, StageLaw

Floats = NDArray[Any]
#: Of each pass its kind by number, its sequences, its tokens and its slot.
Notes = tuple[Floats, Floats, Floats, Floats]
T = TypeVar("T")
DECODE, MIXED, PREFILL, SEND = (KINDS.index(kind) for kind in ("decode", "mixed", "prefill", "send"))
#: Passes that wait before they are booked together.
BUFFERED: Final = 2048


class Slow(NamedTuple):
    """What a pass through slow stages and links took, stage by stage: when its work ended, the seconds of its message,
    and the seconds it stalled, computed longer and talked longer."""

    ends: list[float]
    wires: list[float]
    stalled: list[float]
    degraded: list[float]
    talked: list[float]


class Mixed(NamedTuple):
    """A pass that its row does not tell: its costs by law, its batch in numbers, and when those of its sequences had
    their last tokens that had them elsewhere."""

    costs: list[Pass]
    tokens: int
    sequences: int
    cached: int
    fresh: tuple[float, ...]


#: Numbers in a row.
WIDTH: Final = 11


class RingBook:
    """Keeps the passes of one replica and books them.

    ``rows`` has ``WIDTH`` numbers a pass: when it began and when it was back; when its slot's sequences had their last
    tokens; seconds of the hop before, and without work before; its decoding sequences, the sum of their contexts,
    tokens of a prompt's piece beside them and those before it; its slot; tokens of their contexts that are there for
    others too. ``mixed`` are passes, by the number of the
    row, that are more than that, ``slow`` those that something slowed. ``begins`` and ``sents`` are when each stage in
    turn began with a pass, and when its message was out; the latter only if it is ``sending`` that somebody looks at.
    """

    def __init__(self, replica: Replica, laws: Sequence[StageLaw], law_of: Sequence[int], hops: Sequence[Hop]) -> None:
        self.replica, self.laws, self.law_of, self.hops = replica, laws, law_of, hops
        self.charts = replica.stages[0].track.charts
        self.sending = self.charts or replica.health is not None
        self.rows: list[float] = []
        self.mixed: dict[int, Mixed] = {}
        self.slow: dict[int, Slow] = {}
        self.begins, self.sents = array("d"), array("d")
        self.booked = np.zeros(len(hops))

    @property
    def count(self) -> int:
        """Passes that are kept."""
        return len(self.rows) // WIDTH

    def slowed(self) -> Slow:
        """The times put down last, of a pass without its row yet, do not hold: something slows it. To be filled."""
        n = len(self.hops)
        del self.begins[-n:], self.sents[-n:]
        slow = self.slow[self.count] = Slow([], [], [], [], [])
        return slow

    def resume(self, now: float) -> None:
        """The replica is up again."""
        self.booked = np.full(len(self.hops), now)

    # ---- passes that are back

    def flush(self, under_way: int = 0) -> None:
        """Hand the passes kept so far to the tracks; of a replica that fails all but those ``under_way``."""
        count = self.count - (under_way if self.replica.health is not None else 0)
        if count <= 0:
            return
        n, replica = len(self.hops), self.replica
        columns = np.fromiter(self.rows[: count * WIDTH], float, count * WIDTH).reshape(count, WIDTH).T
        starts, backs, spoke, transit, idle = columns[:5]
        decoding, context, piece, past, slots, doubled = columns[5:].astype(np.int64)
        del self.rows[: count * WIDTH]
        begins = _taken(self.begins, count * n).reshape(count, n).T.copy()
        mixed, self.mixed = _split(self.mixed, count)
        slow, self.slow = _split(self.slow, count)
        passes = Passes(decoding, context, piece, past)
        tokens, sequences, cached = passes.tokens, passes.sequences, context + piece + past - doubled
        odd = list(mixed)
        if odd:
            tokens[odd], sequences[odd], cached[odd] = zip(*[one[1:4] for one in mixed.values()], strict=True)
        costs = [self._costs(number, passes, mixed) for number in range(len(self.laws))]
        totals = [cost[:, :4].sum(axis=1) for cost in costs]
        ends = begins + np.stack([totals[law] for law in self.law_of])
        sizes = [hop.bytes_per_token * tokens + hop.bytes_per_sequence * sequences for hop in self.hops]
        wires = np.stack([size / hop.cap for size, hop in zip(sizes, self.hops, strict=True)])
        reached = begins
        if slow:
            stalled = self._book_slow(slow, ends, wires)
            reached = begins - stalled
        self._book_gaps(reached, ends, transit, idle)
        sums = [Pass._make(cost.sum(axis=0).tolist()) for cost in costs]
        for i, stage in enumerate(replica.stages):
            stage.track.work(sums[self.law_of[i]], 1, stage.link)
            stage.track.passes += count - 1
            self.hops[i].track.bytes += float(sizes[i].sum())
            if stage.collectives is not None:
                stage.collectives.bytes += float(costs[self.law_of[i]][:, 6].sum())
        self._tally(starts, backs, passes, sequences, cached)
        self._book_tokens(backs, spoke, decoding, mixed)
        sents = _taken(self.sents, count * n).reshape(count, n).T.copy() if self.sending else None
        if self.charts and sents is not None:
            kinds = np.where(sequences == decoding, DECODE, np.where(decoding > 0, MIXED, PREFILL))
            self._draw(begins, ends, costs, (kinds, sequences, tokens, slots))
            self._draw_messages(sents - wires, sents, sizes, (np.full(count, SEND), sequences, tokens, slots))
            replica.tally.running.add_many(starts, backs, sequences * (backs - starts))

    def _costs(self, number: int, passes: Passes, mixed: dict[int, Mixed]) -> Floats:
        """Costs of all passes by one law."""
        law = self.laws[number]
        special = [one.costs[number] for one in mixed.values()]  # all passes, where none is told by its row
        if len(special) == len(passes.tokens):
            return np.array(special)
        costs = law.costs(passes)
        if special:
            costs[list(mixed)] = special
        return costs

    def _book_slow(self, slow: dict[int, Slow], ends: Floats, wires: Floats) -> Floats:
        """Put in what slow passes took; seconds they stalled."""
        lost = np.zeros((3, *ends.shape))
        for k, one in slow.items():
            ends[:, k], wires[:, k] = one.ends, one.wires
            lost[:, :, k] = one.stalled, one.degraded, one.talked
        for i, stage in enumerate(self.replica.stages):
            stalled, degraded, talked = (float(x) for x in lost[:, i].sum(axis=1))
            self.replica.other(stage, STALLED, stalled)
            self.replica.other(stage, DEGRADED, degraded)
            if talked > 0.0:
                stage.track.wait(stage.link, talked)
        stalled_all: Floats = lost[0]
        return stalled_all

    def _book_gaps(self, begins: Floats, ends: Floats, transit: Floats, idle: Floats) -> None:
        """What each stage did between its passes (the rule of :func:`split_gap`)."""
        before = np.hstack((self.booked[:, None], ends[:, :-1]))
        gaps = np.maximum(begins - before, 0.0)
        self.booked = ends[:, -1].copy()
        waiting = np.minimum(gaps, idle) if idle.any() else np.zeros((1, 1))
        # A stage that waited began when its batch arrived: it had been on its way since the stage before was done.
        moving = np.vstack((transit, begins[1:] - ends[:-1]))
        moving = np.minimum(moving, gaps - waiting)
        bubbles = gaps - waiting - moving
        for i, stage in enumerate(self.replica.stages):
            if len(waiting) > 1:
                stage.track.waiting += float(waiting[i].sum())
            stage.track.bubble += float(bubbles[i].sum())
            if (seconds := float(moving[i].sum())) > 0.0:
                stage.track.wait(self.hops[i - 1].kind, seconds)

    def _book_tokens(self, backs: Floats, spoke: Floats, decoding: Floats, mixed: dict[int, Mixed]) -> None:
        """Times between tokens."""
        gaps, counts = self.replica.scheduler.gaps, decoding
        fresh = {k: one.fresh for k, one in mixed.items() if one.fresh and decoding[k]}
        if fresh:
            counts = decoding.copy()
            counts[list(fresh)] -= [len(times) for times in fresh.values()]
            for k, times in fresh.items():
                for since in times:
                    gaps.add(float(backs[k]) - since, 1)
        gaps.add_many(backs - spoke, counts)

    def _tally(self, starts: Floats, backs: Floats, passes: Passes, sequences: Floats, cached: Floats) -> None:
        tally, seconds = self.replica.tally, backs - starts
        tally.passes += len(starts)
        tally.pass_seconds += float(seconds.sum())
        tally.sequence_seconds += float((sequences * seconds).sum())
        tally.cached.add_many(starts, backs, cached * seconds)

    def _draw(self, begins: Floats, ends: Floats, costs: list[Floats], notes: Notes) -> None:
        """What stages did when, and the arithmetic of the first."""
        for i, stage in enumerate(self.replica.stages):
            stage.track.bins.add_many(begins[i], ends[i], ends[i] - begins[i])
            stage.track.spans.extend(begins[i], ends[i], *notes)
            if stage.collectives is not None:
                stage.collectives.bins.add_many(begins[i], ends[i], costs[self.law_of[i]][:, 6])
        for number in np.unique(notes[0]).tolist():
            first = costs[self.law_of[0]][notes[0] == number]
            flops, nbytes, busy = (float(first[:, columns].sum()) for columns in ([4], [5], [0, 1, 2]))
            self.replica.tally.phase(KINDS[number], flops, nbytes, busy)

    def _draw_messages(self, outs: Floats, sents: Floats, sizes: list[Floats], notes: Notes) -> None:
        """What links carried when."""
        for hop, out, sent, size in zip(self.hops, outs, sents, sizes, strict=True):
            hop.track.bins.add_many(out, sent, size)
            hop.track.spans.extend(out, sent, *notes)

    # ---- passes that are cut off

    def cut(self, at: float, under_way: list[tuple[Slot, Batch]], idle_at_last: float) -> None:
        """The replica dies: book what its passes under way had done by then, stage by stage, and forget them."""
        self.flush(len(under_way))
        replica, n = self.replica, len(self.hops)
        idle = [idle_at_last] * n
        for k, (slot, batch) in enumerate(under_way):
            start, _, _, transit, unseen = self.rows[k * WIDTH : k * WIDTH + 5]
            costs = [batch.cost(law) for law in self.laws]
            begins, sents = self.begins[k * n : k * n + n], self.sents[k * n : k * n + n]
            sizes = [hop.size(batch.tokens, batch.sequences) for hop in self.hops]
            slow = self.slow.get(k)
            if slow is None:
                ends = [begin + costs[law].total for begin, law in zip(begins, self.law_of, strict=True)]
                wires, nothing = [size / hop.cap for size, hop in zip(sizes, self.hops, strict=True)], [0.0] * n
                slow = Slow(ends, wires, nothing, nothing, nothing)
            for i, stage in enumerate(replica.stages):
                begin, end, sent = begins[i], slow.ends[i], sents[i]
                reached = begin - slow.stalled[i]
                if reached >= at:
                    idle[i] += unseen
                    continue
                waiting, moving, bubble = split_gap(max(0.0, reached - self.booked[i]), unseen, transit)
                stage.track.waiting += waiting
                stage.track.bubble += bubble
                if moving > 0.0:
                    stage.track.wait(self.hops[i - 1].kind, moving)
                replica.other(stage, STALLED, min(begin, at) - reached)
                self.booked[i] = min(end, at)
                if begin < at:
                    self._book_cut(i, begin, costs[self.law_of[i]], slow, slot, batch, at)
                if i + 1 < n:
                    transit = begins[i + 1] - slow.stalled[i + 1] - end
                hop, size, out = self.hops[i], sizes[i], sent - slow.wires[i]
                if sent + hop.overhead + hop.delay(size) <= at:
                    hop.track.record(out, sent, size)
                    hop.track.spans.add("send", out, sent, batch.sequences, batch.tokens, slot.number)
            replica.tally.cut(batch, start, at)
        for stage, booked, unseen in zip(replica.stages, self.booked, idle, strict=True):
            waiting, _, bubble = split_gap(at - booked, unseen, 0.0)
            stage.track.waiting += waiting
            stage.track.bubble += bubble
        for slot in replica.slots:
            if not any(slot is other for other, _ in under_way):
                replica.tally.held(slot, at, replica.scheduler.doubled(slot))
        self.rows.clear()
        self.mixed.clear()
        self.slow.clear()
        del self.begins[:], self.sents[:]

    def _book_cut(
        self, i: int, begin: float, cost: Pass, slow: Slow, slot: Slot, batch: Batch, at: float
    ) -> None:
        """A stage's part of a pass that is cut off: work if it was done, else lost."""
        replica, stage = self.replica, self.replica.stages[i]
        end = min(slow.ends[i], at)
        stage.track.bins.add(begin, end, end - begin)
        stage.track.spans.add(batch.kind, begin, end, batch.sequences, batch.tokens, slot.number)
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


def _split(found: dict[int, T], count: int) -> tuple[dict[int, T], dict[int, T]]:
    """What belongs to the first ``count`` rows, and what to the others, numbered anew."""
    first = {k: one for k, one in found.items() if k < count}
    return first, {k - count: one for k, one in found.items() if k >= count}


def _taken(times: array[float], count: int) -> Floats:
    """The first ``count`` times, which are taken off."""
    found = np.array(times[:count])
    del times[:count]
    return found
