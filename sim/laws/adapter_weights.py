"""What a LoRA adapter weighs: two thin matrices beside each of a layer's.

A matrix of ``in`` columns and ``out`` rows has beside it A (in x r) and B (r x out). Of tensor-parallel ranks each has
its share of B of a matrix that is cut by rows and of A of one cut by columns, and the other of the two whole (vLLM's
way unless ``fully_sharded_loras``). Adapters are in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.extras import Adapters
from sim.spec.transformer import Transformer

#: Bytes of a weight of an adapter, and of an element of what stands between its two matrices.
WEIGHT, BETWEEN = 2.0, 4.0


@dataclass(frozen=True, slots=True)
class Beside:
    """A layer's adapters on one rank, of one adapter: groups of matrices, weights, and bytes a token moves."""

    groups: int
    weights: float
    moved: float


def beside(model: Transformer, adapters: Adapters, tp: int) -> Beside:
    """What stands beside a layer's matrices on one of ``tp`` ranks."""
    h, r = model.hidden, adapters.rank
    heads, kv = model.heads * model.head_dim / tp, max(model.kv_heads / tp, 1.0) * model.head_dim
    ff = model.intermediate / tp
    # Groups by the vector they read: its width on the rank, and the widths they add to.
    groups: list[tuple[float, tuple[float, ...]]] = [(h, (heads, kv, kv)), (heads, (h,))]
    if adapters.targets == "all":
        groups += [(h, (ff,) * (model.matrices - 1)), (ff, (h,))]
    weights = moved = 0.0
    for width, outs in groups:
        weights += r * (len(outs) * width + sum(outs))
        # Read the vector, write and read what is between, add to the outputs (read and write).
        moved += 2.0 * width + 2 * BETWEEN * r * len(outs) + 4.0 * sum(outs)
    return Beside(len(groups), weights, moved)


def adapter_bytes(model: Transformer, adapters: Adapters, layers: int, tp: int) -> float:
    """Bytes of one adapter on one rank of a stage of ``layers`` layers."""
    return WEIGHT * layers * beside(model, adapters, tp).weights
