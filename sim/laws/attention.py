"""One rank's share of a layer's attention: its weights, its part of the cache, what a token of context costs.

*Grouped-query attention* keeps a key and a value of ``kv_heads`` heads for each token; ranks of a tensor group split
the heads, and repeat those of the cache where there are fewer than ranks. For nh and kv heads of a rank

    weights = h (nh + 2 kv) hd + nh hd h     cache = 2 kv hd elements a token     decode = 4 nh hd FLOP a token

*Latent attention* (MLA; DeepSeek-V2, arXiv:2405.04434) keeps one latent of c elements and one rotary key of r for all
heads: every rank holds it whole. With query latents of q elements, keys of n + r and values of v a head

    weights = h q + q nh (n + r) + h (c + r) + c nh (n + v) + nh v h      the ways down (h q, h (c + r)) on every rank
    cache   = c + r elements a token
    decode  = 2 nh (2 c + r) FLOP a token      absorbed: the way up is multiplied into query and output, not the cache
    prefill = 2 nh (n + r + v) FLOP a pair     expanded: keys and values of all heads; cached tokens are expanded
              + 2 c nh (n + v) FLOP a cached token     again for every piece of a prompt

Absorbed decode reads c + r elements for 2 nh (2 c + r) FLOP, 240 FLOP a byte for 128 heads in 16 bits, near the ratio
of an H100's rates: it takes knee(FLOP / rate of prefill attention, bytes / rate of decode attention).
"""

from __future__ import annotations

from typing import NamedTuple

from sim.laws.roofline import KernelRates
from sim.spec.transformer import Transformer


class AttentionShare(NamedTuple):
    """Attention of one layer on one of ``tp`` ranks.

    ``weights`` are parameters; ``moved`` elements a token that its matrix products read and write besides the layer's
    input and output; ``cached`` elements of KV cache a token; ``query`` and ``key`` the widths that prefill attention
    reads and writes, half of (key + value) each; ``decode_flops`` FLOP a token of context; ``expanded`` FLOP to have a
    cached token's keys and values again; ``products`` and ``passes`` the launches of matrix products and of elementwise
    kernels beyond those of grouped-query attention.
    """

    weights: float
    moved: float
    cached: float
    query: float
    key: float
    decode_flops: float
    expanded: float = 0.0
    products: int = 0
    passes: int = 0


def attention_share(model: Transformer, tp: int) -> AttentionShare:
    """What one of ``tp`` ranks has of a layer's attention."""
    heads = model.heads / tp
    if model.latent:
        return _latent(model, heads)
    query, key = heads * model.head_dim, max(model.kv_heads / tp, 1.0) * model.head_dim
    weights = model.hidden * (query + 2 * key) + query * model.hidden
    return AttentionShare(weights, 2 * query + 2 * key, 2 * key, query, key, 4 * query)


def _latent(model: Transformer, heads: float) -> AttentionShare:
    h, c, q = model.hidden, model.kv_lora_rank or 0, model.q_lora_rank or 0
    rotary, plain, value = model.qk_rope_head_dim or 0, model.qk_nope_head_dim or 0, model.v_head_dim or 0
    key = plain + rotary
    asks = h * q + q * heads * key if q else h * heads * key
    weights = asks + h * (c + rotary) + c * heads * (plain + value) + heads * value * h
    moved = 2 * q + heads * key + (c + rotary) + c + heads * (plain + value) + heads * value
    width = heads * (key + value) / 2
    return AttentionShare(
        weights, moved, c + rotary, width, width,
        decode_flops=2 * heads * (2 * c + rotary), expanded=2 * c * heads * (plain + value),
        # Down and up for queries (one way where they have no latent), the two ways up of the cache, the output: three
        # more than one way in and one out (two without query latents). The latents are normed, by a kernel each.
        products=3 if q else 2, passes=2 if q else 1,
    )  # fmt: skip


def decode_seconds(share: AttentionShare, rates: KernelRates, nbytes: float, reads: int) -> tuple[float, bool]:
    """Seconds of decode attention a token of context in a layer whose cache takes ``nbytes`` for it and is read
    ``reads`` times; and whether arithmetic, not memory, takes them. Grouped queries are too few to compute long."""
    memory = nbytes * reads / rates.decode
    if not share.expanded:
        return memory, False
    arithmetic = share.decode_flops / rates.prefill
    return rates.knee(arithmetic, memory), arithmetic > memory
