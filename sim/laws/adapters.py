"""LoRA adapters served side by side: what the two thin matrices beside each of a model's cost a pass.

A matrix of ``in`` columns and ``out`` rows has beside it A (in x r) and B (r x out); a token of a request adds its own
adapter's B A x. All adapters of a pass are multiplied by grouped kernels, two for each group of matrices that read the
same vector (S-LoRA, Punica): q, k and v together, o, gate and up, down. A layer on one rank costs

    2 g t0 + knee( 2 M N / P16 , [ D 2 N + M act ] / BW' )       N = sum over matrices of r (in + out)

with g groups and D the different adapters of a pass of n sequences. Each wants adapter i with p_i ~ 1/i^skew:

    D = sum over i of 1 - (1 - p_i)^n

Where not all are on the GPU, the one wanted longest ago makes room. By Che's approximation a request finds its own
missing with probability

    miss = sum over i of p_i exp(-p_i t),   t from   sum over i of 1 - exp(-p_i t) = resident

and the pass with the beginning of its prompt waits until it is copied from host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sim.laws.adapter_weights import WEIGHT, beside
from sim.laws.step import Chunk, Pass, Passes, StageLaw, StageShape
from sim.spec.extras import Adapters


@lru_cache(maxsize=64)
def popularity(count: int, skew: float) -> NDArray[np.float64]:
    """How likely a request wants each adapter."""
    weights = np.arange(1, count + 1, dtype=float) ** -skew
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def distinct(adapters: Adapters, sequences: int) -> float:
    """Different adapters that so many sequences want, expected."""
    p = popularity(adapters.count, adapters.skew)
    return float(np.sum(-np.expm1(sequences * np.log1p(-p)))) if adapters.count > 1 else float(sequences > 0)


def miss_probability(adapters: Adapters) -> float:
    """How likely a request finds its adapter not on the GPU."""
    p, slots = popularity(adapters.count, adapters.skew), adapters.slots
    if slots >= adapters.count:
        return 0.0
    low, high = 0.0, float(slots)
    while float(np.sum(-np.expm1(-p * high))) < slots:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float(np.sum(-np.expm1(-p * middle))) < slots else (low, middle)
    return float(np.sum(p * np.exp(-p * high)))


class AdapterLaw(StageLaw):
    """The time of passes in which each sequence has an adapter; ``load`` is the seconds to copy one from the host."""

    def __init__(self, shape: StageShape, adapters: Adapters, load: float) -> None:
        super().__init__(shape)
        self.adapters = adapters
        self._beside = beside(shape.model, adapters, shape.tp)
        #: seconds that the beginning of a prompt waits for its adapter
        self.loading = miss_probability(adapters) * load
        self._distinct: dict[int, float] = {}

    def _base(self, tokens: int, sequences: int) -> Pass:
        cost, s, r, beside = super()._base(tokens, sequences), self.shape, self.shape.rates, self._beside
        found = self._distinct.get(sequences)
        if found is None:
            found = self._distinct[sequences] = distinct(self.adapters, sequences)
        arithmetic = 2.0 * tokens * beside.weights
        moved = WEIGHT * found * beside.weights + (0.0 if s.on_chip else tokens * beside.moved)
        tc, tm = arithmetic / r.matmul_16, moved / r.weights
        seconds = s.layers * r.knee(tc, tm)
        return cost._replace(
            compute=cost.compute + (seconds if tc > tm else 0.0),
            memory=cost.memory + (0.0 if tc > tm else seconds),
            launch=cost.launch + s.layers * 2 * beside.groups * r.matmul_launch,
            flops=cost.flops + s.layers * arithmetic,
            bytes=cost.bytes + s.layers * moved,
        )

    def prefill(
        self, chunks: Sequence[Chunk], flops: float = 0.0, nbytes: float = 0.0
    ) -> tuple[float, float, float, float, float]:
        """Prefill attention, and the wait for adapters of prompts that begin, which the memory's time has."""
        compute, memory, launch, flops, nbytes = super().prefill(chunks, flops, nbytes)
        begun = sum(past == 0 for _, past in chunks)
        return compute, memory + begun * self.loading, launch, flops, nbytes

    def costs(self, passes: Passes) -> NDArray[np.float64]:
        """The same for many passes: a row each, with the columns of Pass."""
        if not self.loading:
            return super().costs(passes)
        columns = (passes.decoding, passes.context, passes.piece, passes.past)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return np.array([self.cost(d, s, [Chunk(c, past)] if c else ()) for d, s, c, past in rows])
