"""Pipeline times against closed forms, a plain fixed point of the recurrence, and small systems by hand.

Whole numbers of seconds keep the closed forms exact in floats, so most of these ask for equality.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.laws.training.pipeline import (
    Hop,
    PipelineTimes,
    bubble_fraction,
    flush_bubble_fraction,
    period_with_hops,
    time_schedule,
)
from sim.laws.training.schedule import SCHEDULES, Op, Order, gpipe, interleaved, one_f_one_b, zb_h1

FREE = Hop(0.0, 0.0)
WHOLE = st.integers(1, 50).map(float)
SIZES = {"p": st.integers(1, 8), "m": st.integers(1, 24)}


def equal(p: int, f: float, b: float, w: float = 0.0, v: int = 1, hop: Hop = FREE) -> PipelineTimes:
    """p equal stages; f, b, w are of one chunk."""
    return PipelineTimes([[f] * v] * p, [[b] * v] * p, [[w] * v] * p, [hop] * p, [hop] * p)


def makespan(order: Order, times: PipelineTimes) -> float:
    return time_schedule(order, times).makespan


# ---- the bubble, hops free


@given(f=WHOLE, b=WHOLE, **SIZES)
def test_gpipe_and_1f1b_have_the_flush_bubble(p: int, m: int, f: float, b: float) -> None:
    """(p-1)/(m+p-1) of the time, on every stage, however long backward is compared with forward."""
    for schedule in (gpipe, one_f_one_b):
        timing = time_schedule(schedule(p, m, 1), equal(p, f, b))
        assert timing.makespan == (m + p - 1) * (f + b)
        assert timing.bubble == [(p - 1) * (f + b)] * p
        assert timing.hop_wait == [0.0] * p
        assert bubble_fraction(timing) == pytest.approx(flush_bubble_fraction(p, m), rel=1e-14)


def test_backward_twice_as_long_by_hand() -> None:
    """p = 2, m = 2, f = 1, b = 2: stage 0 runs F F . B . B, stage 1 . F B F B ."""
    timing = time_schedule(one_f_one_b(2, 2), equal(2, 1.0, 2.0))
    assert timing.starts == [[0.0, 1.0, 4.0, 7.0], [1.0, 2.0, 4.0, 5.0]]
    assert timing.ends == [[1.0, 2.0, 6.0, 9.0], [2.0, 4.0, 5.0, 7.0]]
    assert bubble_fraction(timing) == 1 / 3


@given(f=WHOLE, b=WHOLE, p=st.integers(2, 8), groups=st.integers(1, 4), v=st.integers(2, 4))
def test_interleaving_divides_the_bubble_by_v(p: int, groups: int, v: int, f: float, b: float) -> None:
    m = groups * p
    bubble = time_schedule(interleaved(p, m, v), equal(p, f, b, v=v)).bubble
    assert [v * seconds for seconds in bubble] == time_schedule(one_f_one_b(p, m), equal(p, v * f, v * b)).bubble
    fraction = bubble_fraction(time_schedule(interleaved(p, m, v), equal(p, f, b, v=v)))
    assert fraction == pytest.approx(flush_bubble_fraction(p, m, v), rel=1e-14)


@given(f=WHOLE, b=WHOLE, p=st.integers(2, 8), m=st.integers(1, 24), v=st.integers(2, 4))
def test_a_small_last_group_takes_no_longer_than_a_full_one(p: int, m: int, v: int, f: float, b: float) -> None:
    full = makespan(interleaved(p, -(-m // p) * p, v), equal(p, f, b, v=v))
    assert m * v * (f + b) + (p - 1) * (f + b) <= makespan(interleaved(p, m, v), equal(p, f, b, v=v)) <= full


@given(f=WHOLE, b=WHOLE, w=WHOLE, **SIZES)
def test_zb_h1_fills_the_bubble_with_weights(p: int, m: int, f: float, b: float, w: float) -> None:
    """(p-1)(f+b-w) for m >= p and w <= f, b; a shorter pass bounds what W can fill, and so do few micro-batches."""
    timing = time_schedule(zb_h1(p, m), equal(p, f, b, w))
    bubble = (p - 1) * (f + b) - (min(m, p) - 1) * min(f, b, w)
    assert timing.bubble == [bubble] * p
    if m >= p and w <= min(f, b):
        assert bubble == (p - 1) * (f + b - w)
    # The same work without the split: a third of 1F1B's bubble is left where f = b = w.
    whole = time_schedule(one_f_one_b(p, m), equal(p, f, b, w))
    assert whole.busy == timing.busy
    assert whole.bubble == [(p - 1) * (f + b + w)] * p


# ---- hops


@given(f=WHOLE, b=WHOLE, c=st.integers(0, 500).map(float), **SIZES)
def test_1f1b_with_hops_has_a_closed_form(p: int, m: int, f: float, b: float, c: float) -> None:
    """Exact for hops shorter and longer than the passes; what is popular, 2 c (p-1) once, holds for m <= 2 only."""
    hops = m + p - 2
    expected = (m + p - 1) * (f + b) + 2 * c * (hops - hops // p)
    assert makespan(one_f_one_b(p, m), equal(p, f, b, hop=Hop(0.0, c))) == expected
    once = (m + p - 1) * (f + b) + 2 * c * (p - 1)
    assert (expected > once) == (c > 0 and p > 1 and m > 2)


@given(f=WHOLE, b=WHOLE, c=st.integers(0, 500).map(float), turns=st.integers(1, 3), **SIZES)
def test_1f1b_with_hops_has_its_period(p: int, m: int, f: float, b: float, c: float, turns: int) -> None:
    """Exactly f + b + 2 c (p-1)/p over p micro-batches, from the first on."""
    times, more = equal(p, f, b, hop=Hop(0.0, c)), turns * p
    grown = makespan(one_f_one_b(p, m + more), times) - makespan(one_f_one_b(p, m), times)
    assert grown == turns * (p * (f + b) + 2 * c * (p - 1))
    assert grown / more == pytest.approx(period_with_hops(f, b, c, p), rel=1e-14)


@given(p=st.integers(2, 8), m=st.integers(1, 24), share=st.floats(0, 1))
def test_sends_no_longer_than_a_pass_do_not_wait(p: int, m: int, share: float) -> None:
    """One queue a stage for both directions: its operations end min(f, b) apart or more, so no message waits."""
    send = 3.0 * share
    queued = PipelineTimes([[3.0]] * p, [[5.0]] * p, [[0.0]] * p, *[[Hop(send, 2.0, s) for s in range(p)]] * 2)
    plain = equal(p, 3.0, 5.0, hop=Hop(0.0, send + 2.0))
    assert makespan(one_f_one_b(p, m), queued) == pytest.approx(makespan(one_f_one_b(p, m), plain), rel=1e-13)


def test_a_send_longer_than_a_pass_waits_in_a_shared_queue() -> None:
    """p = 4, f = 4, b = 8, send = 12: F and B on one queue have a longer period than the 30 s without waiting."""

    def grown(queues: Sequence[Sequence[Hashable]]) -> float:
        hops = [[Hop(12.0, 0.0, queue) for queue in row] for row in queues]
        times = PipelineTimes([[4.0]] * 4, [[8.0]] * 4, [[0.0]] * 4, *hops)
        return (makespan(one_f_one_b(4, 320), times) - makespan(one_f_one_b(4, 200), times)) / 120

    stages = range(4)
    assert grown([[("F", s) for s in stages], [("B", s) for s in stages]]) == period_with_hops(4.0, 8.0, 12.0, 4)
    assert grown([stages, stages]) == pytest.approx(92 / 3, rel=1e-12)


def test_unequal_hops_go_by_the_slowest_ring() -> None:
    """c = 6 between stages 0 and 1, none to stage 2: f + b + 2c/2 = 14 of the two rather than f + b + 2c/3 of all."""
    far, near = Hop(0.0, 6.0), Hop(0.0, 0.0)
    times = PipelineTimes([[4.0]] * 3, [[4.0]] * 3, [[0.0]] * 3, [far, near, near], [near, far, near])
    grown = makespan(one_f_one_b(3, 96), times) - makespan(one_f_one_b(3, 36), times)
    assert grown / 60 == 14.0


def test_the_gap_before_an_operation_is_hop_wait_up_to_the_transit() -> None:
    """p = 2, m = 1, f = 2, b = 3, hops of 1 s held and 4 s of latency: 2 + 5 + 5 + 5 + 3 = 20 s."""
    timing = time_schedule(one_f_one_b(2, 1), equal(2, 2.0, 3.0, hop=Hop(1.0, 4.0)))
    assert timing.starts == [[0.0, 17.0], [7.0, 9.0]]
    assert timing.makespan == 20.0
    assert timing.busy == [5.0, 5.0]
    # Stage 0 waits 15 s, 5 of them for the way of B; stage 1 7 s, 5 of them for the way of F, and 8 s at the end.
    assert timing.hop_wait == [5.0, 5.0]
    assert timing.bubble == [10.0, 10.0]
    assert timing.forward_sends[0] == ([2.0], [3.0])
    assert timing.backward_sends[1] == ([12.0], [13.0])
    assert timing.forward_sends[1] == timing.backward_sends[0] == ([], [])
    assert bubble_fraction(timing) == 0.75


def test_messages_in_one_queue_leave_one_after_another() -> None:
    """GPipe, p = 2, f = 1, send = 3: F's of stage 0 end at 1, 2, 3 and leave at 1, 4, 7; each waits longer."""
    queue = Hop(3.0, 0.5, "nic")
    timing = time_schedule(gpipe(2, 3), PipelineTimes([[1.0]] * 2, [[1.0]] * 2, [[0.0]] * 2, [queue] * 2, [FREE] * 2))
    assert timing.forward_sends[0] == ([1.0, 4.0, 7.0], [4.0, 7.0, 10.0])
    assert timing.starts[1][:3] == [4.5, 7.5, 10.5]
    # 3.5 s of the first gap are the hop's; the others are whole hops, time in the queue included: 2 + 2 s.
    assert timing.hop_wait[1] == 3.5 + 2.0 + 2.0
    alone = PipelineTimes([[1.0]] * 2, [[1.0]] * 2, [[0.0]] * 2, [Hop(3.0, 0.5)] * 2, [FREE] * 2)
    assert time_schedule(gpipe(2, 3), alone).forward_sends[0] == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])


def test_b_waits_behind_f_in_the_queue_of_its_stage() -> None:
    """1F1B, p = 3, m = 2, f = b = 1; stage 1 sends F for 5 s and B for 1 s, on one queue."""
    forward = [FREE, Hop(5.0, 0.0, "nic"), FREE]
    times = PipelineTimes([[1.0]] * 3, [[1.0]] * 3, [[0.0]] * 3, forward, [FREE, Hop(1.0, 0.0, "nic"), FREE])
    timing = time_schedule(one_f_one_b(3, 2), times)
    # F of stage 1 end at 2 and 3, leave at 2 and 7; B of 0 arrives from stage 2 at 9, is done at 10, leaves at 12.
    assert timing.forward_sends[1] == ([2.0, 7.0], [7.0, 12.0])
    assert timing.ends[1][2] == 10.0
    assert timing.backward_sends[1].starts == [12.0, 15.0]
    # Stage 0 is done with F at 2. B of 0 is under way from 10 to 13, 2 s of it in the queue; B of 1 from 15 to 16.
    assert timing.starts[0][2:] == [13.0, 16.0]
    assert timing.hop_wait[0] == 3.0 + 1.0
    assert timing.bubble[0] == 8.0 + 1.0


def test_chunks_go_round_by_the_hops_at_the_ends() -> None:
    """GPipe, p = 2, m = 2, v = 2, f = b = 1: only the hops from stage 1 on to 0 and from 0 back to 1 take time, 4 s."""
    forward, backward = [FREE, Hop(4.0, 0.0, "on")], [Hop(4.0, 0.0, "back"), FREE]
    passes = [[1.0, 1.0]] * 2
    timing = time_schedule(gpipe(2, 2, 2), PipelineTimes(passes, passes, [[0.0, 0.0]] * 2, forward, backward))
    assert timing.starts[0] == [0.0, 1.0, 6.0, 10.0, 13.0, 14.0, 19.0, 23.0]
    assert timing.starts[1] == [1.0, 2.0, 7.0, 11.0, 12.0, 13.0, 18.0, 22.0]
    # The second message waits for the first: it ends at 3 (15) and leaves at 6 (18). The last chunks send nothing.
    assert timing.forward_sends[1] == ([2.0, 6.0], [6.0, 10.0])
    assert timing.backward_sends[0] == ([14.0, 18.0], [18.0, 22.0])


def test_stages_that_share_a_queue_are_served_in_order_of_time() -> None:
    """GPipe, p = 4, m = 3, stage 0 slow (10 s), the others 1 s; stages 0 and 2 send F for 5 s each on one card."""
    card = Hop(5.0, 0.0, "card")
    forward, backward = [[10.0], [1.0], [1.0], [1.0]], [[1.0]] * 4
    timing = time_schedule(
        gpipe(4, 3), PipelineTimes(forward, backward, [[0.0]] * 4, [card, FREE, card, FREE], [FREE] * 4)
    )
    # They end at 10, 17, 20, 29, 30 and 41, by turns stage 0's and stage 2's: each keeps the next waiting till it left.
    assert timing.ends[0][:3] == [10.0, 20.0, 30.0]
    assert timing.ends[2][:3] == [17.0, 29.0, 41.0]
    assert timing.forward_sends[0].starts == [10.0, 22.0, 34.0]
    assert timing.forward_sends[2].starts == [17.0, 29.0, 41.0]


def test_messages_of_one_instant_leave_by_stage() -> None:
    """GPipe, p = 4, m = 3, f = 1: F2 of stage 0 and F0 of stage 2 end at 3; they share a card, stage 2's for 4 s."""
    card, instant = Hop(4.0, 0.0, "card"), Hop(0.0, 0.0, "card")
    times = PipelineTimes([[1.0]] * 4, [[1.0]] * 4, [[0.0]] * 4, [instant, FREE, card, FREE], [FREE] * 4)
    timing = time_schedule(gpipe(4, 3), times)
    assert timing.ends[0][2] == timing.ends[2][0] == 3.0
    assert timing.forward_sends[0].starts == [1.0, 2.0, 3.0]
    assert timing.forward_sends[2].starts == [3.0, 7.0, 11.0]


# ---- uneven stages


@given(data=st.data(), p=st.integers(1, 6), m=st.integers(1, 60))
def test_the_slowest_stage_sets_the_pace(data: st.DataObject, p: int, m: int) -> None:
    """Hops free: 1F1B takes f + b of the slowest stage a micro-batch, and one pass more to fill and drain at most."""
    f = data.draw(st.lists(WHOLE, min_size=p, max_size=p))
    b = data.draw(st.lists(WHOLE, min_size=p, max_size=p))
    times = PipelineTimes([[x] for x in f], [[x] for x in b], [[0.0]] * p, [FREE] * p, [FREE] * p)
    once, slowest = sum(f) + sum(b), max(map(sum, zip(f, b, strict=True)))
    # GPipe's two halves have each their own slowest stage.
    assert makespan(gpipe(p, m), times) == (m - 1) * (max(f) + max(b)) + once
    assert m * slowest <= makespan(one_f_one_b(p, m), times) <= m * slowest + once


# ---- weight gradients, split and whole


def test_b_includes_weights_unless_they_stand_alone() -> None:
    times = equal(1, 1.0, 2.0, 4.0)
    assert time_schedule(one_f_one_b(1, 1), times).ends == [[1.0, 7.0]]
    assert time_schedule(zb_h1(1, 1), times).ends == [[1.0, 3.0, 7.0]]


# ---- against a plain evaluation


def needed(s: int, op: Op, p: int, v: int) -> tuple[int, Op] | None:
    """The message an operation waits for, by virtual stage k."""
    k = op.chunk * p + s
    if op.kind == "F" and k > 0:
        return (k - 1) % p, Op("F", op.micro, (k - 1) // p)
    if op.kind == "B" and k < p * v - 1:
        return (k + 1) % p, Op("B", op.micro, (k + 1) // p)
    return None


def seconds_of(s: int, op: Op, times: PipelineTimes, split: bool) -> float:
    if op.kind == "F":
        return times.forward[s][op.chunk]
    if op.kind == "W":
        return times.weight[s][op.chunk]
    return times.backward[s][op.chunk] + (0.0 if split else times.weight[s][op.chunk])


def hop_of(s: int, op: Op, times: PipelineTimes) -> Hop | None:
    """The hop an operation's message takes; none at the ends of the virtual pipeline, nor for W."""
    k, last = op.chunk * times.stages + s, times.stages * times.chunks - 1
    if op.kind == "F":
        return times.forward_hops[s] if k < last else None
    return times.backward_hops[s] if op.kind == "B" and k > 0 else None


class Plain:
    """The recurrence by repetition: all starts 0, then all equations again and again until nothing moves.

    Queues of one stage only, which take messages in the order of its operations.
    """

    def __init__(self, order: Order, times: PipelineTimes) -> None:
        p, v = times.stages, times.chunks
        split = any(op.kind == "W" for op in order[0])
        self.start = {(s, op): 0.0 for s in range(p) for op in order[s]}
        self.end, self.arrival = dict(self.start), dict(self.start)
        moved = True
        while moved:
            moved = False
            for s in range(p):
                clock = 0.0
                free: dict[Hashable, float] = {}
                for op in order[s]:
                    need = needed(s, op, p, v)
                    start = max(clock, self.arrival[need] if need else 0.0)
                    clock = start + seconds_of(s, op, times, split)
                    arrival = clock
                    hop = hop_of(s, op, times)
                    if hop is not None:
                        leave = clock if hop.queue is None else max(clock, free.get(hop.queue, 0.0))
                        free[hop.queue] = leave + hop.send
                        arrival = leave + hop.send + hop.latency
                    moved |= (start, arrival) != (self.start[s, op], self.arrival[s, op])
                    self.start[s, op], self.end[s, op], self.arrival[s, op] = start, clock, arrival


class Chronicle:
    """The same in order of time: of all operations that can start, the one that ends first runs and sends."""

    def __init__(self, order: Order, times: PipelineTimes) -> None:
        p, v = times.stages, times.chunks
        split = any(op.kind == "W" for op in order[0])
        self.start: dict[tuple[int, Op], float] = {}
        self.end: dict[tuple[int, Op], float] = {}
        self.arrival: dict[tuple[int, Op], float] = {}
        free: dict[Hashable, float] = {}
        clock, place = [0.0] * p, [0] * p
        while any(place[s] < len(order[s]) for s in range(p)):
            ready = []
            for s in range(p):
                if place[s] < len(order[s]):
                    op = order[s][place[s]]
                    need = needed(s, op, p, v)
                    if need is None or need in self.arrival:
                        start = max(clock[s], self.arrival[need] if need else 0.0)
                        ready.append((start + seconds_of(s, op, times, split), s, start, op))
            end, s, start, op = min(ready)
            self.start[s, op], self.end[s, op] = start, end
            clock[s], place[s] = end, place[s] + 1
            hop = hop_of(s, op, times)
            if hop is not None:
                leave = end if hop.queue is None else max(end, free.get(hop.queue, 0.0))
                free[hop.queue] = leave + hop.send
                self.arrival[s, op] = leave + hop.send + hop.latency


@st.composite
def cases(draw: st.DrawFn, across_stages: bool) -> tuple[Order, PipelineTimes]:
    """A schedule of uneven stages and hops, some of them queued, and if ``across_stages`` by several stages at once."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    p, m = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    v = draw(st.integers(1, 3)) if name in ("gpipe", "interleaved") and p > 1 else 1
    # Both: whole numbers make ties, the others none.
    seconds = draw(st.sampled_from([st.integers(0, 4).map(float), st.floats(0, 10)]))

    def table() -> list[list[float]]:
        return [draw(st.lists(seconds, min_size=v, max_size=v)) for _ in range(p)]

    def hops(direction: str) -> list[Hop]:
        found = []
        for s in range(p):
            names: list[Hashable] = [None, (s, direction), s] + ["card", "other"] * across_stages
            found.append(Hop(draw(seconds), draw(seconds), draw(st.sampled_from(names))))
        return found

    return SCHEDULES[name](p, m, v), PipelineTimes(table(), table(), table(), hops("F"), hops("B"))


def check_against(plain: Plain | Chronicle, order: Order, times: PipelineTimes) -> None:
    """Every start and end, the split of every stage's time, and when messages leave."""
    timing = time_schedule(order, times)
    makespan = max(plain.end.values())
    assert timing.makespan == pytest.approx(makespan, rel=1e-12)
    for s, ops in enumerate(order):
        assert timing.starts[s] == pytest.approx([plain.start[s, op] for op in ops], rel=1e-12, abs=1e-12)
        assert timing.ends[s] == pytest.approx([plain.end[s, op] for op in ops], rel=1e-12, abs=1e-12)
        clock = bubble = hop_wait = busy = 0.0
        for op in ops:
            gap, need = plain.start[s, op] - clock, needed(s, op, times.stages, times.chunks)
            exposed = min(gap, plain.arrival[need] - plain.end[need]) if need else 0.0
            bubble, hop_wait = bubble + gap - exposed, hop_wait + exposed
            busy += plain.end[s, op] - plain.start[s, op]
            clock = plain.end[s, op]
        expected = [busy, bubble + makespan - clock, hop_wait]
        measured = [timing.busy[s], timing.bubble[s], timing.hop_wait[s]]
        assert measured == pytest.approx(expected, rel=1e-12, abs=1e-11)
        assert sum(measured) == pytest.approx(timing.makespan, rel=1e-12, abs=1e-12)
        for kind, sends in (("F", timing.forward_sends[s]), ("B", timing.backward_sends[s])):
            sent = [(hop, plain.arrival[s, op]) for op in ops if op.kind == kind and (hop := hop_of(s, op, times))]
            assert sends.ends == pytest.approx([at - hop.latency for hop, at in sent], rel=1e-12, abs=1e-12)
            assert [b - a for a, b in zip(*sends, strict=True)] == pytest.approx([h.send for h, _ in sent], abs=1e-11)


@settings(max_examples=400)
@given(case=cases(across_stages=False))
def test_equals_the_fixed_point(case: tuple[Order, PipelineTimes]) -> None:
    check_against(Plain(*case), *case)


@settings(max_examples=400)
@given(case=cases(across_stages=True))
def test_equals_the_chronicle_where_stages_share_queues(case: tuple[Order, PipelineTimes]) -> None:
    check_against(Chronicle(*case), *case)


# ---- what is refused


def test_a_deadlock_is_loud() -> None:
    order = ((Op("F", 0), Op("B", 0), Op("F", 1), Op("B", 1)), (Op("F", 0), Op("F", 1), Op("B", 0), Op("B", 1)))
    with pytest.raises(ValueError, match="the order deadlocks"):
        time_schedule(order, equal(2, 1.0, 1.0))


@pytest.mark.parametrize("seconds", [-1.0, inf, float("nan")])
def test_seconds_are_finite_and_not_negative(seconds: float) -> None:
    with pytest.raises(ValueError, match="a hop takes finite seconds"):
        Hop(seconds, 0.0)
    with pytest.raises(ValueError, match="a hop takes finite seconds"):
        Hop(0.0, seconds)
    with pytest.raises(ValueError, match="backward takes finite seconds"):
        PipelineTimes([[1.0]], [[seconds]], [[1.0]], [FREE], [FREE])


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="weight must have 2 stages of 1 chunks"):
        PipelineTimes([[1.0]] * 2, [[1.0]] * 2, [[1.0]], [FREE] * 2, [FREE] * 2)
    with pytest.raises(ValueError, match="backward_hops has 1 entries, there are 2 stages"):
        PipelineTimes([[1.0]] * 2, [[1.0]] * 2, [[1.0]] * 2, [FREE] * 2, [FREE])
    with pytest.raises(ValueError, match="no stage or no chunk"):
        PipelineTimes([], [], [], [], [])
    with pytest.raises(ValueError, match="the order has 3 stages, the times 2"):
        time_schedule(one_f_one_b(3, 2), equal(2, 1.0, 1.0))
