"""How long a pipeline schedule takes, and where each stage's time goes.

Model. A stage runs its operations in the order of the schedule, one at a time; it starts the next when the last has
ended and the message it needs (sim.laws.training.schedule) has arrived:

    start(op)  = max(end of the stage's previous op, arrival of its message)        end = start + seconds
    leave      = max(end, time the queue is free)       the queue is free again at leave + send
    arrival    = leave + send + latency                 transit = arrival - end

This is a max-plus recurrence over the operations, solved once through. Sends are asynchronous: they never hold up
computing. Messages in one queue leave one after another in order of time, those of the same instant the lower stage
first; without a queue they do not hinder each other. Every B takes the seconds of both inputs and weights, unless the
order has W operations: then B takes those of the inputs and W those of the weights.

A stage's time up to the makespan is busy + bubble + hop_wait. Of the gap before an operation, the one before its first
included, hop_wait is min(gap, transit of the message it waited for), time in the queue included; the rest, and what
follows its last operation, is bubble.

Closed forms for equal stages: f, b, w seconds of a stage (all its chunks) per micro-batch, b of inputs and weights but
for ZB-H1, and without hops.

    GPipe, 1F1B    makespan = (m + p-1)(f + b)
    interleaved    makespan = m (f + b) + (p-1)(f + b)/v              p divides m; else up to the next multiple's
    ZB-H1          makespan = m (f + b + w) + (p-1)(f + b) - (min(m, p) - 1) min(f, b, w)

The last is the paper's (p-1)(f + b - w) of bubble for m >= p and w no longer than f and b. 1F1B with hops of c seconds
one way, none of which waits in a queue:

    makespan = (m + p-1)(f + b) + 2 c (n - floor(n/p)),  n = m + p - 2

It grows by p (f + b) + 2 c (p-1) every p micro-batches, whatever c is: the slowest ring of the recurrence is F down all
stages, B back, and stage 0 that starts micro-batch i + p after B of i. One micro-batch of every p adds no hop, the
others two each.

Papers give the bubble in two ways. Megatron's *ratio* (p-1)/(v m) is over the ideal time m (f + b), the *fraction*
(p-1)/(v m + p-1) is over the whole time. Here it is always the fraction.

Sources. Narayanan et al. 2021, arXiv:2104.04473, section 2.2; Qi et al. 2023, arXiv:2401.10241, section 2.1. The closed
forms with hops and for small m are our own, held to the recurrence by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from sim.laws.training.schedule import Op, Order, stream_warm_up

# In an inbox, in place of an arrival: not sent yet, and not sent yet while the receiver stands still for it.
_UNSENT, _AWAITED = -1.0, -2.0
_NO_QUEUE = -1


@dataclass(frozen=True, slots=True)
class Hop:
    """A message's way: it holds the sender's ``queue`` for ``send`` seconds (bytes / rate + overhead) and arrives
    ``latency`` later. Hops with equal queues share one, whatever their stage and direction; None does not queue."""

    send: float
    latency: float
    queue: Hashable = None

    def __post_init__(self) -> None:
        if not (0.0 <= self.send < inf and 0.0 <= self.latency < inf):
            raise ValueError(f"a hop takes finite seconds >= 0, got send {self.send!r}, latency {self.latency!r}")


@dataclass(frozen=True, slots=True)
class PipelineTimes:
    """Seconds of a stage's chunk per micro-batch, [stage][chunk]: forward, backward of inputs, of weights.

    ``forward_hops[s]`` leads from stage s to (s+1) mod p, ``backward_hops[s]`` to (s-1) mod p; both have p entries,
    the ones around the end serve only chunks. Raises ValueError for sizes that disagree or seconds below 0.
    """

    forward: Sequence[Sequence[float]]
    backward: Sequence[Sequence[float]]
    weight: Sequence[Sequence[float]]
    forward_hops: Sequence[Hop]
    backward_hops: Sequence[Hop]

    def __post_init__(self) -> None:
        p, v = self.stages, self.chunks
        if not (p and v):
            raise ValueError("forward has no stage or no chunk")
        for name, table in (("forward", self.forward), ("backward", self.backward), ("weight", self.weight)):
            if len(table) != p or any(len(row) != v for row in table):
                raise ValueError(f"{name} must have {p} stages of {v} chunks each, as forward's first has")
            if not all(0.0 <= seconds < inf for row in table for seconds in row):
                raise ValueError(f"{name} takes finite seconds >= 0")
        for name, hops in (("forward_hops", self.forward_hops), ("backward_hops", self.backward_hops)):
            if len(hops) != p:
                raise ValueError(f"{name} has {len(hops)} entries, there are {p} stages")

    @property
    def stages(self) -> int:
        """p."""
        return len(self.forward)

    @property
    def chunks(self) -> int:
        """v."""
        return len(self.forward[0]) if self.forward else 0


class Sends(NamedTuple):
    """When a stage's messages in one direction held its queue, in the order they left."""

    starts: list[float]
    ends: list[float]


@dataclass(frozen=True, slots=True)
class Timing:
    """A schedule's times in seconds, everything by stage; ``starts[s]`` and ``ends[s]`` line up with ``order[s]``.

    busy + bubble + hop_wait = makespan on each stage.
    """

    makespan: float
    starts: list[list[float]]
    ends: list[list[float]]
    busy: list[float]
    bubble: list[float]
    hop_wait: list[float]
    forward_sends: list[Sends]
    backward_sends: list[Sends]


def time_schedule(order: Order, times: PipelineTimes) -> Timing:
    """Time a schedule. The order must satisfy ``check_order``; one that deadlocks raises ValueError."""
    p = times.stages
    if len(order) != p:
        raise ValueError(f"the order has {len(order)} stages, the times {p}")
    play = _Play(order, times)
    play.run()
    makespan = max(ends[-1] for ends in play.ends)
    bubble = [gap + (makespan - ends[-1]) for gap, ends in zip(play.bubble, play.ends, strict=True)]
    forward = [_sends(play.leaves["F"][s], times.forward_hops[s]) for s in range(p)]
    backward = [_sends(play.leaves["B"][s], times.backward_hops[s]) for s in range(p)]
    return Timing(makespan, play.starts, play.ends, play.busy, bubble, play.hop_wait, forward, backward)


def time_stream(p: int, m: int, play: Callable[[Order], Timing]) -> Timing:
    """A steady step of m micro-batches in a pipeline that is never emptied (order: :func:`schedule.stream`).

    ``play`` times a long run (:func:`time_schedule` with the stage's times), of which a window of m backwards a stage
    is taken, late enough for the filling to be over; each stage's window starts at its own 0.
    """
    fill = 2 * p + 2
    count = fill + 2 * m + 2 * p
    order = tuple(_streaming(p, s, count) for s in range(p))
    long = play(order)
    starts, ends, busy = [], [], []
    for s in range(p):
        first = order[s].index(Op("B", fill))
        window = slice(first, first + 2 * m)
        begin = long.starts[s][first]
        starts.append([t - begin for t in long.starts[s][window]])
        ends.append([t - begin for t in long.ends[s][window]])
        busy.append(sum(e - b for b, e in zip(starts[s], ends[s], strict=True)))
    first, last = (order[0].index(Op("B", number)) for number in (fill, fill + m))
    period = max(long.starts[0][last] - long.starts[0][first], *busy)
    idle = [period - seconds for seconds in busy]
    none = [Sends([], []) for _ in range(p)]
    return Timing(period, starts, ends, busy, idle, [0.0] * p, none, none)


def _streaming(p: int, s: int, count: int) -> tuple[Op, ...]:
    """``count`` micro-batches on stage s, forwards as far ahead as a stream keeps them."""
    ahead = min(count, stream_warm_up(p, s))
    ops = [Op("F", i) for i in range(ahead)]
    for i in range(count):
        ops.append(Op("B", i))
        if ahead + i < count:
            ops.append(Op("F", ahead + i))
    return tuple(ops)


def bubble_fraction(timing: Timing) -> float:
    """Share of the makespan that stages stand still, mean over them: bubbles and exposed hops."""
    idle = sum(timing.bubble) + sum(timing.hop_wait)
    return idle / (len(timing.busy) * timing.makespan) if timing.makespan else 0.0


def flush_bubble_fraction(p: int, m: int, v: int = 1) -> float:
    """``bubble_fraction`` of equal stages and free hops: GPipe and 1F1B, and interleaved if p divides m."""
    return (p - 1) / (v * m + p - 1)


def period_with_hops(f: float, b: float, c: float, p: int) -> float:
    """Seconds per micro-batch of 1F1B with equal stages, c seconds from the end of an operation to the arrival.

    Exact as the mean over any p micro-batches in a row, for every c and p, if no message waits in a queue (no send
    longer than f or b is enough).
    """
    return f + b + 2.0 * c * (p - 1) / p


def _sends(leaves: list[float], hop: Hop) -> Sends:
    send = hop.send
    return Sends(leaves, [leave + send for leave in leaves])


# ---- the recurrence


class _Mailbox(NamedTuple):
    """Messages of one kind into one virtual stage, by micro-batch: when they arrive, how long they were under way."""

    arrivals: list[float]
    transits: list[float]


class _Lane(NamedTuple):
    """Operations of one kind in one chunk of a stage: their seconds, what they wait for, where their messages go.

    ``inbox`` None waits for nothing, ``outbox`` None sends nothing; ``leaves`` collects when messages leave.
    """

    seconds: float
    inbox: _Mailbox | None
    outbox: _Mailbox | None
    receiver: int
    send: float
    latency: float
    queue: int
    leaves: list[float]


class _Play:
    """The recurrence under way. Each stage is a generator that runs on until the message it needs is not sent yet."""

    def __init__(self, order: Order, times: PipelineTimes) -> None:
        p, v = times.stages, times.chunks
        # In an order with W operations each stage ends with one: even the last B has its W behind it.
        self.split = order[0][-1][0] == "W"
        m = len(order[0]) // ((3 if self.split else 2) * v)
        self.order, self.times = order, times
        self.starts: list[list[float]] = [[] for _ in range(p)]
        self.ends: list[list[float]] = [[] for _ in range(p)]
        self.leaves: dict[str, list[list[float]]] = {kind: [[] for _ in range(p)] for kind in "FB"}
        self.bubble, self.hop_wait = [0.0] * p, [0.0] * p
        self.busy = [m * (sum(times.forward[s]) + sum(times.backward[s]) + sum(times.weight[s])) for s in range(p)]
        self.mail = {kind: [_Mailbox([_UNSENT] * m, [0.0] * m) for _ in range(p * v)] for kind in "FB"}
        self.woken: list[int] = []
        self.queues: dict[Hashable, int] = {}
        self.free: list[float] = []
        self.shared = False

    def run(self) -> None:
        """Run all stages to their ends."""
        p, v = self.times.stages, self.times.chunks
        self.shared = self._number_queues()
        lanes = [{kind: [self._lane(kind, s, c) for c in range(v)] for kind in "FB"} for s in range(p)]
        stages = [self._stage(s, lanes[s]["F"], lanes[s]["B"]) for s in range(p)]
        if self.shared:
            self._in_step(stages)
        else:
            # Without shared queues a stage depends on others by its messages alone: the order of work is free.
            self.woken.extend(range(p))
            while self.woken:
                next(stages[self.woken.pop()], None)
        if any(len(ends) < len(ops) for ends, ops in zip(self.ends, self.order, strict=True)):
            raise ValueError("the order deadlocks: check_order says where")

    def _in_step(self, stages: list[Generator[float | None, None, None]]) -> None:
        """Resume the stages in order of time, so that shared queues take messages in that order."""
        heap = [(0.0, s) for s in range(len(stages))]
        while heap:
            now, s = heappop(heap)
            end = next(stages[s], None)
            if end is not None:
                heappush(heap, (end, s))
            while self.woken:
                heappush(heap, (now, self.woken.pop()))

    def _number_queues(self) -> bool:
        """Number the queues in use from 0; say whether two stages share one."""
        p, v = self.times.stages, self.times.chunks
        users: dict[Hashable, set[int]] = {}
        for s in range(p):
            if v > 1 or s < p - 1:
                users.setdefault(self.times.forward_hops[s].queue, set()).add(s)
            if v > 1 or s > 0:
                users.setdefault(self.times.backward_hops[s].queue, set()).add(s)
        users.pop(None, None)
        self.queues = {queue: number for number, queue in enumerate(users)}
        self.free = [0.0] * len(users)
        return any(len(stages) > 1 for stages in users.values())

    def _lane(self, kind: str, s: int, chunk: int) -> _Lane:
        t, p, v = self.times, self.times.stages, self.times.chunks
        k, step = chunk * p + s, 1 if kind == "F" else -1
        seconds = t.forward[s][chunk] if kind == "F" else t.backward[s][chunk]
        if kind == "B" and not self.split:
            seconds += t.weight[s][chunk]
        hop = (t.forward_hops if kind == "F" else t.backward_hops)[s]
        mail = self.mail[kind]
        return _Lane(
            seconds,
            mail[k] if 0 <= k - step < p * v else None,
            mail[k + step] if 0 <= k + step < p * v else None,
            (s + step) % p,
            hop.send,
            hop.latency,
            self.queues.get(hop.queue, _NO_QUEUE),
            self.leaves[kind][s],
        )

    def _stage(self, s: int, forward: list[_Lane], backward: list[_Lane]) -> Generator[float | None, None, None]:
        """One stage's operations. Yields None to wait for a message, and where queues are shared, each end of an
        operation, to be resumed at that time. Everything of a large schedule's cost is in this loop."""
        starts, ends, free, woken, shared = self.starts[s], self.ends[s], self.free, self.woken, self.shared
        weight = self.times.weight[s]
        now = bubble = hop_wait = 0.0
        for kind, micro, chunk in self.order[s]:
            if kind == "W":
                starts.append(now)
                now += weight[chunk]
                ends.append(now)
                continue
            lane = forward[chunk] if kind == "F" else backward[chunk]
            seconds, inbox, outbox, receiver, send, latency, queue, leaves = lane
            if inbox is not None:
                arrivals, transits = inbox
                arrival = arrivals[micro]
                if arrival < 0.0:
                    arrivals[micro] = _AWAITED
                    yield None
                    arrival = arrivals[micro]
                if arrival > now:
                    gap, transit = arrival - now, transits[micro]
                    if gap > transit:
                        bubble += gap - transit
                        gap = transit
                    hop_wait += gap
                    now = arrival
            starts.append(now)
            now += seconds
            ends.append(now)
            if outbox is not None:
                if shared:
                    yield now
                leave = now
                if queue != _NO_QUEUE:
                    if free[queue] > now:
                        leave = free[queue]
                    free[queue] = leave + send
                leaves.append(leave)
                arrivals, transits = outbox
                if arrivals[micro] == _AWAITED:
                    woken.append(receiver)
                arrivals[micro] = arrival = leave + send + latency
                transits[micro] = arrival - now
        self.bubble[s], self.hop_wait[s] = bubble, hop_wait
