"""One pass of a pipeline stage: its time, and where the time goes, from the batch that rides on it.

A pass carries ``nd`` decoding sequences, one token each, and pieces of prompts. For ``M`` tokens in all,
one layer of a rank in a tensor group of ``tp`` costs (docs/model.md)

    dense     = 4 t0 + knee( 2 M NK / rate , (wb NK + act) / BW' )        the layer's matrix products
    decode    = t0a + (sum of contexts) * 2 kv hd kvb / BW_a              reads of the KV cache, linear
    prefill   = t0p + sum[ 4 c (past + c/2) nh hd / rate_p + bytes / BW_p ]
    elementwise = 4 t_e + (16 M h + 6 M ff/tp) / BW_e
    collectives = 2 allreduce(tp, 2 M h)

with NK the layer's weights on the rank and act the activations it moves. The last stage adds the output
head, every stage the host's time per pass and per sequence. ``mixed_attention_penalty`` stretches decode
attention that shares a pass with a prompt; eager stacks wait for the host if it launches layers too slowly.

Everything but the KV reads depends only on (tokens, sequences): it is memoised, and the KV reads are linear
in the sum of contexts, so k identical passes have a closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.laws.attention import attention_share, decode_seconds
from sim.laws.experts import MixtureLaw
from sim.laws.roofline import KernelRates
from sim.spec.transformer import Transformer

#: Passes of which a law keeps what it computed, a third of a kilobyte each.
REMEMBERED = 1 << 18


class Pass(NamedTuple):
    """One GPU's part of one pass: seconds by cause, FLOP and bytes done, bytes sent per rank in collectives."""

    compute: float
    memory: float
    launch: float
    communication: float
    flops: float
    bytes: float
    wire: float

    @property
    def busy(self) -> float:
        """Seconds of work, without the collectives."""
        return self.compute + self.memory + self.launch

    @property
    def total(self) -> float:
        """Seconds of the whole pass, collectives included."""
        return self.compute + self.memory + self.launch + self.communication


class Exchange(NamedTuple):
    """Collectives of a pass besides the all-reduces: how many, of how many bytes a token of the pass, the bytes each
    rank sends per byte, and their (fixed seconds, seconds per byte), of which the smallest counts; ``rings``: whether
    they go around a ring, or from all to all."""

    number: float
    per_token: float
    wire_per_byte: float
    pieces: tuple[tuple[float, float], ...]
    rings: bool = True


class Chunk(NamedTuple):
    """A piece of a prompt in a pass: ``tokens`` after ``past`` tokens that are already cached."""

    tokens: int
    past: int


class Whole(NamedTuple):
    """Sequences of which a pass computes all tokens from the first one on: how many they are, their tokens, the sum of
    the squares of these, and what gives them one by one."""

    number: int
    tokens: int
    squares: int
    each: Callable[[], Sequence[int]]


@dataclass(frozen=True, slots=True)
class StageShape:
    """What a stage's law depends on. ``pieces`` are (fixed seconds, seconds per byte) of an all-reduce, of
    which the smallest counts; ``wire_per_byte`` the bytes each rank sends per byte reduced. ``scale``
    multiplies weights, to replay arithmetic with a round parameter count. ``mixture`` of the layers have experts,
    spread over ``ep`` ranks of which the fullest has ``expert_load`` times the mean tokens; their ``exchanges`` stand
    in for the all-reduces of those layers. ``data``: each rank has sequences of its own, and all weights whole but the
    routed experts' (:mod:`sim.laws.step_data`). ``kv_reads_free`` and ``attention_free`` replay arithmetic that leaves
    reads of the cache, or attention over prompts, out."""

    model: Transformer
    rates: KernelRates
    layers: int
    tp: int
    head: bool
    weight_bytes: float
    kv_bytes: float
    pieces: tuple[tuple[float, float], ...]
    wire_per_byte: float
    host_per_pass: float
    host_per_sequence: float
    host_per_layer: float
    mixed_penalty: float
    on_chip: bool
    kv_reads_free: bool
    scale: float
    mixture: int = 0
    ep: int = 1
    expert_load: float = 1.0
    exchanges: tuple[Exchange, ...] = ()
    data: bool = False
    attention_free: bool = False

    @property
    def slices(self) -> int:
        """Ranks over which attention, plain MLPs and the output head are sliced."""
        return 1 if self.data else self.tp


class StageLaw:
    """The time of passes through one stage. Equal shapes should share one law: it remembers what it computed."""

    def __init__(self, shape: StageShape) -> None:
        self.shape = shape
        m = shape.model
        attention = self._attention = attention_share(m, shape.slices)
        self._query, self._key, self._expanded = attention.query, attention.key, attention.expanded
        if shape.attention_free:
            self._query = self._key = self._expanded = 0.0
        #: weights of a dense layer on one rank
        self.layer_weights = (
            attention.weights + (3 if m.gated else 2) * m.hidden * m.intermediate / shape.slices
        ) * shape.scale
        self._experts = self._mixture_law() if shape.mixture else None
        self._dense = shape.layers - shape.mixture
        self._reductions = 2.0 * (self._dense if shape.exchanges else shape.layers)
        self._head = m.hidden * m.vocabulary / shape.slices * shape.scale
        self._memo: dict[tuple[int, int], Pass] = {}
        read = 0.0 if shape.kv_reads_free else attention.cached * shape.kv_bytes
        #: bytes of KV cache read per token of context, over the stage's layers
        self.decode_bytes = shape.layers * read
        # Without a kernel for its groups each query head reads the cache.
        shared, group = shape.rates.shared_groups, m.heads // m.kv_heads
        reads = 1 if shared is None or group in shared else group
        whole = attention._replace(decode_flops=shape.layers * attention.decode_flops)
        #: seconds per token of context, and whether arithmetic takes them, not memory
        self.decode_slope, self.decode_computes = decode_seconds(whole, shape.rates, self.decode_bytes, reads)
        #: launches of decode attention, in seconds a pass
        self.decode_launch = shape.layers * shape.rates.decode_launch
        #: FLOP of decode attention per token of context
        self.decode_flops = whole.decode_flops
        #: whether a pass can wait for something else than its kernels, which breaks the linearity in context
        self.eager = shape.host_per_layer > 0

    def base(self, tokens: int, sequences: int) -> Pass:
        """Everything of a pass but attention: matrix products, elementwise work, collectives, head, host."""
        key = (tokens, sequences)
        found = self._memo.get(key)
        if found is None:
            if len(self._memo) >= REMEMBERED:  # where contexts are computed anew no two passes need be alike
                self._memo.clear()
            found = self._memo[key] = self._base(tokens, sequences)
        return found

    def _base(self, tokens: int, sequences: int) -> Pass:
        return self._work(tokens, sequences, tokens, None, tokens)

    def _work(self, tokens: int, sequences: int, routed: int, own: int | None, sent: float) -> Pass:
        """A pass of a rank with so many tokens and sequences. Experts meet the ``routed`` tokens, the router and shared
        experts of a rank its ``own`` (an even share if None); exchanges are as large as of ``sent`` tokens."""
        s, r, m = self.shape, self.shape.rates, self.shape.model
        compute = memory = launch = flops = nbytes = 0.0
        if self._dense:
            compute, memory, launch, flops, nbytes = self._plain(tokens, self._dense)
        if self._experts is not None:
            more = self._mixed(self._experts, tokens, routed, own)
            compute, memory, launch = compute + more[0], memory + more[1], launch + more[2]
            flops, nbytes = flops + more[3], nbytes + more[4]
        if s.head:
            head_flops, head_bytes = 2.0 * sequences * self._head, r.head_weight * self._head
            hc, hm = head_flops / r.matmul_16, head_bytes / r.weights
            head = r.knee(hc, hm)
            compute, memory = (compute + head, memory) if hc > hm else (compute, memory + head)
            launch += r.matmul_launch
            flops, nbytes = flops + head_flops, nbytes + head_bytes
        launch += s.host_per_pass + s.host_per_sequence * sequences
        reduced = 2.0 * tokens * m.hidden
        each = min((fixed + reduced * slope for fixed, slope in s.pieces), default=0.0)
        communication, wire = self._reductions * each, self._reductions * reduced * s.wire_per_byte
        for exchange in s.exchanges:
            size = sent * exchange.per_token
            communication += exchange.number * min(fixed + size * slope for fixed, slope in exchange.pieces)
            wire += exchange.number * size * exchange.wire_per_byte
        return Pass(compute, memory, launch, communication, flops, nbytes, wire)

    def _plain(self, tokens: int, layers: int) -> tuple[float, float, float, float, float]:
        """Layers with one MLP: (compute, memory, launch seconds, FLOP, bytes)."""
        s, r, m, attention = self.shape, self.shape.rates, self.shape.model, self._attention
        ff = m.intermediate / s.slices
        matrices = 3 if m.gated else 2
        arithmetic = 2.0 * tokens * self.layer_weights
        widths = 4 * m.hidden + attention.moved + matrices * ff
        moved = s.weight_bytes * self.layer_weights + (0.0 if s.on_chip else 2.0 * tokens * widths)
        tc, tm = arithmetic / r.matmul, moved / r.weights
        dense = r.knee(tc, tm) * layers
        element_bytes = 0.0 if s.on_chip else 16.0 * tokens * m.hidden + 6.0 * tokens * ff
        compute, memory = (dense, 0.0) if tc > tm else (0.0, dense)
        memory += layers * element_bytes / r.elementwise
        launch = layers * ((4 if m.gated else 3) + attention.products) * r.matmul_launch
        launch += layers * (4 + attention.passes) * r.elementwise_launch
        return compute, memory, launch, layers * arithmetic, layers * (moved + element_bytes)

    def _mixed(
        self, experts: MixtureLaw, tokens: int, routed: int, own: int | None
    ) -> tuple[float, float, float, float, float]:
        """The stage's layers with experts, which are read as far as a token of the pass meets them."""
        s, r, m, attention = self.shape, self.shape.rates, self.shape.model, self._attention
        weights = attention.weights * s.scale
        arithmetic = 2.0 * tokens * weights
        moved = s.weight_bytes * weights + (0.0 if s.on_chip else 2.0 * tokens * (2 * m.hidden + attention.moved))
        tc, tm = arithmetic / r.matmul, moved / r.weights
        products = r.knee(tc, tm)
        compute, memory = (products, 0.0) if tc > tm else (0.0, products)
        element_bytes = 0.0 if s.on_chip else 16.0 * tokens * m.hidden
        work = experts.work(routed, own)
        launch = ((2 if m.gated else 1) + attention.products) * r.matmul_launch
        launch += (4 + attention.passes) * r.elementwise_launch
        one = (
            compute + work.compute, memory + element_bytes / r.elementwise + work.memory, launch + work.launch,
            arithmetic + work.flops, moved + element_bytes + work.bytes,
        )  # fmt: skip
        compute, memory, launch, flops, nbytes = (s.mixture * part for part in one)
        return compute, memory, launch, flops, nbytes

    def _mixture_law(self) -> MixtureLaw:
        s = self.shape
        return MixtureLaw(
            s.model, s.rates, tp=s.tp, ep=s.ep, load=s.expert_load, weight_bytes=s.weight_bytes, on_chip=s.on_chip,
            scale=s.scale,
        )  # fmt: skip

    def weights_read(self, tokens: int) -> float:
        """Bytes of the layers' weights that a pass of so many tokens reads: of experts those that a token meets."""
        s = self.shape
        nbytes = self._dense * s.weight_bytes * self.layer_weights
        if self._experts is not None:
            attention = s.weight_bytes * self._attention.weights * s.scale
            nbytes += s.mixture * (attention + self._experts.work(tokens).weights)
        return nbytes

    def collective_flow(self, cost: Pass) -> tuple[float, float, float]:
        """A pass's collectives as one flow that alone takes their time: (bytes, fixed seconds, bytes/s)."""
        s = self.shape
        if s.exchanges:
            return self._exchanged(cost)
        count = self._reductions
        reduced = cost.wire / (count * s.wire_per_byte)
        fixed, slope = min(s.pieces, key=lambda piece: piece[0] + reduced * piece[1])
        return cost.wire, count * fixed, s.wire_per_byte / slope

    def _exchanged(self, cost: Pass) -> tuple[float, float, float]:
        """The same where collectives are of several kinds: all grow with the tokens, which the bytes tell."""
        s = self.shape
        reduce = Exchange(self._reductions, 2.0 * s.model.hidden, s.wire_per_byte, s.pieces)
        kinds = [kind for kind in (reduce, *s.exchanges) if kind.number and kind.pieces]
        tokens = cost.wire / sum(kind.number * kind.per_token * kind.wire_per_byte for kind in kinds)
        fixed = seconds = 0.0
        for kind in kinds:
            size = tokens * kind.per_token
            start, slope = min(kind.pieces, key=lambda piece: piece[0] + size * piece[1])
            fixed, seconds = fixed + kind.number * start, seconds + kind.number * size * slope
        return cost.wire, fixed, cost.wire / seconds

    def prefill(
        self, chunks: Sequence[Chunk], flops: float = 0.0, nbytes: float = 0.0
    ) -> tuple[float, float, float, float, float]:
        """Prefill attention of a pass, beside other ``flops`` and bytes of it a layer: (compute, memory, launch
        seconds, FLOP, bytes)."""
        s, r = self.shape, self.shape.rates
        for c, past in chunks:
            flops += 4.0 * c * (past + c / 2) * self._query
            nbytes += 2.0 * (2 * c * self._query + 2 * (c + past) * self._key)
        if self._expanded:
            flops += sum(past for _, past in chunks) * self._expanded
        if s.on_chip:
            nbytes = 0.0
        flops, nbytes = flops * s.layers, nbytes * s.layers
        tc, tm = flops / r.prefill, nbytes / r.prefill_memory
        launch = s.layers * r.prefill_launch
        # The two times add up (measured: the kernel does not overlap them); the larger one owns the sum.
        return (tc + tm, 0.0, launch, flops, nbytes) if tc > tm else (0.0, tc + tm, launch, flops, nbytes)

    def cost(self, decoding: int, context: int, chunks: Sequence[Chunk] = ()) -> Pass:
        """One pass: ``decoding`` sequences whose contexts sum to ``context`` tokens, and pieces of prompts."""
        tokens = decoding
        for chunk in chunks:
            tokens += chunk[0]
        return self._with_attention(self.base(tokens, decoding + len(chunks)), decoding, context, chunks)

    def _with_attention(self, base: Pass, decoding: int, context: int, chunks: Sequence[Chunk]) -> Pass:
        """A pass of which ``base`` is all but attention."""
        compute, memory, launch, communication, flops, nbytes, wire = base
        if decoding:
            penalty = self.shape.mixed_penalty if chunks else 1.0
            if self.decode_computes:
                compute += context * self.decode_slope * penalty
            else:
                memory += context * self.decode_slope * penalty
            launch += self.decode_launch * penalty
            flops += context * self.decode_flops
            nbytes += context * self.decode_bytes
        if chunks:
            pc, pm, pl, pf, pb = self.prefill(chunks)
            compute, memory, launch = compute + pc, memory + pm, launch + pl
            flops, nbytes = flops + pf, nbytes + pb
        if self.eager:
            launch += self._launching(compute + memory + launch + communication, decoding + len(chunks))
        return Pass(compute, memory, launch, communication, flops, nbytes, wire)

    def _launching(self, seconds: float, sequences: int) -> float:
        """Seconds for which a pass of so many ``seconds`` waits on top for the host, which launches layer by layer."""
        s = self.shape
        on_gpu = seconds - (s.host_per_pass + s.host_per_sequence * sequences)
        return max(0.0, s.layers * s.host_per_layer - on_gpu)

    def anew(self, whole: Whole) -> Pass:
        """One pass that computes whole contexts c, of which nothing is cached: what it takes with each as a prompt.

        Attention is over sum c^2 / 2 pairs of tokens, as of prompts, and only each last token has logits.
        """
        compute, memory, launch, communication, flops, nbytes, wire = self.base(whole.tokens, whole.number)
        read = 4.0 * whole.tokens * (self._query + self._key)
        pc, pm, pl, pf, pb = self.prefill((), 2.0 * whole.squares * self._query, read)
        compute, memory, launch = compute + pc, memory + pm, launch + pl
        if self.eager:
            launch += self._launching(compute + memory + launch + communication, whole.number)
        return Pass(compute, memory, launch, communication, flops + pf, nbytes + pb, wire)

    def costs(self, passes: Passes) -> NDArray[np.float64]:
        """The same, to the last bit, for many passes: a row each, with the columns of Pass.

        Not for eager laws, by which any pass can wait for something else than its kernels.
        """
        s, r, context = self.shape, self.shape.rates, passes.context
        rows = np.array([self.base(*batch) for batch in passes.batches])[passes.which]
        pieces = passes.piece > 0
        penalty = np.where(pieces, s.mixed_penalty, 1.0)
        rows[:, 0 if self.decode_computes else 1] += context * self.decode_slope * penalty
        rows[:, 2] += np.where(passes.decoding > 0, self.decode_launch * penalty, 0.0)
        rows[:, 4] += context * self.decode_flops
        rows[:, 5] += context * self.decode_bytes
        if pieces.any():
            c, past = passes.piece[pieces], passes.past[pieces]
            flops = 4.0 * c * (past + c / 2) * self._query
            if self._expanded:
                flops = flops + past * self._expanded
            flops = flops * s.layers
            nbytes = 2.0 * (2 * c * self._query + 2 * (c + past) * self._key) * s.layers
            if s.on_chip:
                nbytes = np.zeros(len(c))
            tc, tm = flops / r.prefill, nbytes / r.prefill_memory
            for column, more in (
                (0, np.where(tc > tm, tc + tm, 0.0)), (1, np.where(tc > tm, 0.0, tc + tm)),
                (2, s.layers * r.prefill_launch), (4, flops), (5, nbytes),
            ):  # fmt: skip
                rows[pieces, column] += more
        return rows


class Passes:
    """Many passes: how many sequences decode in each, the sum of their contexts, and the piece of one prompt beside
    them, if any: its tokens, and those before it.

    ``tokens`` and ``sequences`` count all of a pass; ``batches`` are the different pairs of the two, ``which`` tells of
    each pass the one that it is.
    """

    def __init__(
        self, decoding: NDArray[Any], context: NDArray[Any], piece: NDArray[Any], past: NDArray[Any]
    ) -> None:
        self.decoding, self.context, self.piece, self.past = decoding, context, piece, past
        self.tokens, self.sequences = decoding + piece, decoding + (piece > 0)
        most = int(self.sequences.max()) + 1
        keys, self.which = np.unique(self.tokens * most + self.sequences, return_inverse=True)
        self.batches: list[tuple[int, int]] = [divmod(key, most) for key in keys.tolist()]
