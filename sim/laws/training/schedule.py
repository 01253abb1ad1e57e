"""Pipeline schedules: in which order each stage runs its operations.

A pipeline has ``p`` stages, a step ``m`` micro-batches, a stage ``v`` chunks of layers. Chunk c of stage s is virtual
stage k = c p + s of p v. What an operation needs before it may run:

    F  forward              F of virtual stage k - 1, same micro-batch
    B  backward             B of virtual stage k + 1; on the last virtual stage its own F
    W  weight gradients     its own B

B is the backward pass of inputs and weights. Where an order has W operations, B is that of the inputs alone.

Schedules, with the (micro-batch, chunk) pairs whose activations stage s keeps at most (``in_flight``):

    gpipe        all F, then all B                            m v
    1f1b         p - s - 1 F ahead, then F and B in turn      min(m, p - s)
    interleaved  2 (p - s - 1) + (v - 1) p F ahead            that + 1, at most m v (m a multiple of p, v > 1)
    zb-h1        1F1B, W of micro-batch i - s after B of i    min(m, p - s), and min(m, s + 1) between B and W

Interleaving walks micro-batches in groups of p, each through all chunks of a stage before the next group. If p does
not divide m, the last group is smaller: the order is that of a full group, whose absent members are left out. Leaving
micro-batches out of an order that works cannot deadlock it, while Megatron's counts applied to the small group can.
One chunk needs no groups: interleaved with v = 1 is 1F1B, as in Megatron.

Sources. GPipe: Huang et al. 2019, arXiv:1811.06965 (here B in the order of F, as Megatron's figure draws it).
1F1B (PipeDream-flush) and interleaved: Narayanan et al. 2021, arXiv:2104.04473, section 2.2. ZB-H1: Qi et al. 2023,
arXiv:2401.10241, section 2.1: W starts s micro-batches late on stage s, so that F without W never exceeds p anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Op(NamedTuple):
    """One operation of a stage: ``kind`` F, B or W, of micro-batch ``micro`` through the stage's ``chunk``."""

    kind: str
    micro: int
    chunk: int = 0

    def __str__(self) -> str:
        """As users write it: F3, and F3.1 in chunk 1."""
        return f"{self.kind}{self.micro}" + (f".{self.chunk}" if self.chunk else "")


#: One tuple of operations a stage.
Order = tuple[tuple[Op, ...], ...]


# ---- the schedules


def gpipe(p: int, m: int, v: int = 1) -> Order:
    """All forward passes, chunk after chunk, then all backward passes, the last chunk first."""
    _check_sizes(p, m, v)
    forward = [op for chunk in range(v) for op in _ops("F", m, chunk)]
    backward = [op for chunk in reversed(range(v)) for op in _ops("B", m, chunk)]
    return (tuple(forward + backward),) * p


def one_f_one_b(p: int, m: int, v: int = 1) -> Order:
    """PipeDream-flush. ValueError if v is not 1: with chunks it is ``interleaved``."""
    _check_sizes(p, m, v)
    _check_one_chunk("1f1b", v)
    forward, backward = _ops("F", m), _ops("B", m)
    return tuple(tuple(_in_turn(forward, backward, p - s - 1)) for s in range(p))


def interleaved(p: int, m: int, v: int) -> Order:
    """Megatron's interleaved 1F1B."""
    _check_sizes(p, m, v)
    if v == 1:
        return one_f_one_b(p, m)
    groups = range(0, m, p)
    full = range(v)
    forward = [Op("F", i, c) for first in groups for c in full for i in range(first, first + p)]
    backward = [Op("B", i, c) for first in groups for c in reversed(full) for i in range(first, first + p)]
    order = tuple(_in_turn(forward, backward, 2 * (p - s - 1) + (v - 1) * p) for s in range(p))
    if m % p == 0:
        return tuple(map(tuple, order))
    return tuple(tuple(op for op in ops if op.micro < m) for ops in order)


def zb_h1(p: int, m: int, v: int = 1) -> Order:
    """1F1B whose weight gradients wait, s of them on stage s, to fill the cool-down. ValueError if v is not 1."""
    _check_sizes(p, m, v)
    _check_one_chunk("zb-h1", v)
    forward, backward, weight = _ops("F", m), _ops("B", m), _ops("W", m)
    order = []
    for s in range(p):
        ops = []
        for op in _in_turn(forward, backward, p - s - 1):
            ops.append(op)
            if op.kind == "B" and op.micro >= s:
                ops.append(weight[op.micro - s])
        order.append((*ops, *weight[max(0, m - s) :]))
    return tuple(order)


SCHEDULES: dict[str, Callable[[int, int, int], Order]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zb-h1": zb_h1,
}


def stream_warm_up(p: int, s: int) -> int:
    """Forwards that stage s is ahead of its backwards in a pipeline that is never emptied: 2(p-s) - 1.

    A micro-batch takes a slot on each stage down and one on each up; in every slot a stage runs one forward and one
    backward, so that many of its micro-batches are between the two.
    """
    return 2 * (p - s) - 1


def stream(p: int, m: int) -> Order:
    """A steady step of a pipeline that is never emptied: m backwards and m forwards in turn on each stage.

    Forwards run ahead, those of the next step's micro-batches too: their numbers go round.
    """
    return tuple(
        tuple(op for i in range(m) for op in (Op("B", i), Op("F", (i + stream_warm_up(p, s)) % m))) for s in range(p)
    )


def _ops(kind: str, m: int, chunk: int = 0) -> list[Op]:
    """Operations of one kind, in the order of micro-batches. Stages share them: building them is what costs."""
    return [Op(kind, i, chunk) for i in range(m)]


def _in_turn(forward: Sequence[Op], backward: Sequence[Op], ahead: int) -> list[Op]:
    """``ahead`` forward operations, then forward and backward in turn, then the backward ones that are left."""
    ahead = min(ahead, len(forward))
    paired = len(forward) - ahead
    middle = list(forward[:paired]) * 2
    middle[::2] = forward[ahead:]
    middle[1::2] = backward[:paired]
    return [*forward[:ahead], *middle, *backward[paired:]]


def _check_sizes(p: int, m: int, v: int) -> None:
    if min(p, m, v) < 1:
        raise ValueError(f"a pipeline has at least one stage, micro-batch and chunk, got p {p}, m {m}, v {v}")


def _check_one_chunk(name: str, v: int) -> None:
    if v != 1:
        raise ValueError(f"schedule {name} has one chunk a stage, got {v}: use interleaved")


# ---- what an order needs to be one


def check_order(order: Order, p: int, m: int, v: int) -> None:
    """Raise ValueError, one sentence that names stage and operation, unless the order can be run.

    Every stage has one F and one B of each (micro-batch, chunk), F first; either the whole pipeline has the W of each
    after its B, or none has a W; and no stage waits for one that waits for it.
    """
    if len(order) != p:
        raise ValueError(f"the order has {len(order)} stages, the pipeline {p}")
    split = next(((s, op) for s, ops in enumerate(order) for op in ops if op[0] == "W"), None)
    for s, ops in enumerate(order):
        places = _places(s, ops, m, v)
        for chunk in range(v):
            for micro in range(m):
                _check_pair(s, places, micro, chunk, split)
    _check_progress(order, p, v)


def _places(s: int, ops: Sequence[Op], m: int, v: int) -> dict[Op, int]:
    """Where each operation of stage s stands. ValueError for one out of range or given twice."""
    places: dict[Op, int] = {}
    for place, (kind, micro, chunk) in enumerate(ops):
        op = Op(kind, micro, chunk)
        if kind not in ("F", "B", "W"):
            raise ValueError(f"stage {s}: {op} is no operation, its kind must be F, B or W")
        if not 0 <= micro < m:
            raise ValueError(f"stage {s}: {op} is out of range, micro-batches are 0 to {m - 1}")
        if not 0 <= chunk < v:
            raise ValueError(f"stage {s}: {op} is out of range, chunks are 0 to {v - 1}")
        if op in places:
            raise ValueError(f"stage {s}: {op} stands twice")
        places[op] = place
    return places


def _check_pair(s: int, places: dict[Op, int], micro: int, chunk: int, split: tuple[int, Op] | None) -> None:
    """F, B and, if the order is ``split`` (where its first W is), W are there, one after the other."""
    kinds = "FB" if split is None else "FBW"
    before: Op | None = None
    for op in (Op(kind, micro, chunk) for kind in kinds):
        if op not in places:
            why = ""
            if op.kind == "W" and split is not None:
                why = f", while stage {split[0]} has {Op(*split[1])}: give all W or none"
            raise ValueError(f"stage {s}: {op} is missing{why}")
        if before is not None and places[op] < places[before]:
            raise ValueError(f"stage {s}: {op} stands before {before}")
        before = op


def needed(s: int, op: Op, p: int, v: int) -> tuple[int, Op] | None:
    """The operation, and its stage, whose message this one waits for; none where a place in the order says it all."""
    kind, micro, chunk = op
    k = chunk * p + s + {"F": -1, "B": 1, "W": 0}[kind]
    if kind == "W" or not 0 <= k < p * v:
        return None
    return k % p, Op(kind, micro, k // p)


def _check_progress(order: Order, p: int, v: int) -> None:
    """Run the order without a clock, each stage as far as it comes; ValueError if stages wait in a ring."""
    done: set[tuple[int, Op]] = set()
    waiting: dict[tuple[int, Op], int] = {}  # each message has one receiver
    place = [0] * p
    work = list(range(p))
    while work:
        s = work.pop()
        for op in order[s][place[s] :]:
            need = needed(s, op, p, v)
            if need is not None and need not in done:
                waiting[need] = s
                break
            place[s] += 1
            done.add((s, op))
            if (s, op) in waiting:
                work.append(waiting.pop((s, op)))
    if waiting:
        raise ValueError(f"the order deadlocks: {_ring({s: need for need, s in waiting.items()})}")


def _ring(needs: dict[int, tuple[int, Op]]) -> str:
    """The stages that wait for each other, of all that wait: the rest only wait for these."""
    path = [min(needs)]
    while needs[path[-1]][0] not in path:
        path.append(needs[path[-1]][0])
    ring = sorted(path[path.index(needs[path[-1]][0]) :])
    return ", ".join(f"stage {s} waits for {needs[s][1]} of stage {needs[s][0]}" for s in ring)


# ---- what an order keeps alive


def in_flight(order: Order) -> list[int]:
    """By stage, the most (micro-batch, chunk) pairs at a time whose F has run and whose B has not."""
    return [_most(ops, "F", "B") for ops in order]


def weights_in_flight(order: Order) -> list[int]:
    """By stage, the most (micro-batch, chunk) pairs at a time whose B has run and whose W has not; 0 without W."""
    return [_most(ops, "B", "W") if ops and ops[-1][0] == "W" else 0 for ops in order]


def _most(ops: Sequence[Op], opens: str, closes: str) -> int:
    most = now = 0
    for op in ops:
        if op[0] == opens:
            now += 1
            most = max(most, now)
        elif op[0] == closes:
            now -= 1
    return most
