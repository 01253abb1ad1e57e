"""A pass whose batch is cut in two halves that take turns, so that collectives hide behind kernels.

While one half's all-reduces are on the wire the other half computes (dual-batch overlap, "double buffering"). Kernels
and wire are each busy with one half at a time, so that with K the kernels' and C the collectives' time of both halves

    pass = max(K, C),    of which max(0, C - K) is waited for

Each half reads the weights itself: where that costs more than it hides, the batch stays whole. The first half's first
kernels and the last half's last all-reduce, one of 160 in an 80-layer model, stand alone and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.laws.step import Chunk, Pass, StageLaw, StageShape, Whole


class HalvedLaw(StageLaw):
    """The time of passes whose halves hide each other's collectives."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__(shape)
        self.eager = True  # the longer of two is not linear in the context: every pass is worked out by itself

    def cost(self, decoding: int, context: int, chunks: Sequence[Chunk] = ()) -> Pass:
        """One pass: sequences and pieces of prompts in two halves, the contexts shared out evenly, or in one."""
        whole = super().cost(decoding, context, chunks)
        if decoding + len(chunks) < 2:
            return whole
        more = (decoding + 1) // 2
        shared = context * more // decoding if decoding else 0
        first = super().cost(more, shared, chunks[1::2])
        second = super().cost(decoding - more, context - shared, chunks[::2])
        both = Pass._make(a + b for a, b in zip(first, second, strict=True))
        halved = both._replace(communication=max(0.0, both.communication - both.busy))
        return halved if halved.total < whole.total else whole

    def anew(self, whole: Whole) -> Pass:
        """One pass of whole contexts, every other one in either half."""
        return self.cost(0, 0, [Chunk(context, 0) for context in whole.each()])

    def collective_flow(self, cost: Pass) -> tuple[float, float, float]:
        """Only what is waited for, as a flow that alone takes just that: (bytes, fixed seconds, bytes/s)."""
        size, fixed, rate = super().collective_flow(cost)
        if math.isclose(fixed + size / rate, cost.communication, rel_tol=1e-12):
            return size, fixed, rate
        _, fixed, rate = super().collective_flow(cost._replace(wire=cost.wire / 2))
        share = cost.communication / (2 * fixed + cost.wire / rate)
        return cost.wire * share, 2 * fixed * share, rate
