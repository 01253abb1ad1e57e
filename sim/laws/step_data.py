"""A pass in which each rank of a tensor group has sequences of its own, and only routed experts are spread.

Data-parallel attention (DeepSeek-V3, arXiv:2412.19437, section 3.4; ``attention_dp`` of engines): a rank holds all
weights whole but those of the routed experts, keeps the cache of its own sequences, and meets the others in two
all-to-alls a layer with experts. Nothing is reduced. Sequences that decode are dealt out evenly; each piece of a prompt
is one rank's, the longest first to the rank with the fewest tokens. All ranks wait for the one with the most tokens,

    tokens = ceil(nd / n) + its pieces,    contexts = (sum of contexts) ceil(nd / n) / nd

and for the fullest rank's experts, which all tokens of the pass meet. FLOP and bytes of a pass are the mean rank's.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.laws.step import Chunk, Pass, StageLaw, StageShape, Whole


class DataLaw(StageLaw):
    """The time of passes that ranks share by sequences, not by slices."""

    def __init__(self, shape: StageShape) -> None:
        super().__init__(shape)
        n = shape.tp
        #: of the mean rank
        self.decode_slope, self.decode_bytes, self.decode_flops = (
            self.decode_slope / n, self.decode_bytes / n, self.decode_flops / n,
        )  # fmt: skip
        self.eager = True  # how full the fullest rank is depends on the batch: every pass is worked out by itself
        self._passes: dict[tuple[int, int, int], Pass] = {}

    def _base(self, tokens: int, sequences: int) -> Pass:
        """Evenly shared out."""
        n = self.shape.tp
        return self._rank(-(-tokens // n), -(-sequences // n), tokens)

    def _rank(self, own: int, sequences: int, tokens: int) -> Pass:
        """Of the fullest rank, with its own tokens and sequences, all but attention."""
        key = (own, sequences, tokens)
        found = self._passes.get(key)
        if found is None:
            # What the fullest rank sends, all ranks wait for.
            sent = max(float(tokens), own * self.shape.tp / self.shape.expert_load)
            found = self._passes[key] = self._work(own, sequences, tokens, own, sent)
        return found

    def cost(self, decoding: int, context: int, chunks: Sequence[Chunk] = ()) -> Pass:
        """One pass: sequences and pieces of prompts shared out over the ranks; the time is the fullest one's."""
        s, n = self.shape, self.shape.tp
        own = -(-decoding // n)
        mine = _fullest(chunks, n)
        tokens = decoding + sum(c for c, _ in chunks)
        base = self._rank(own + sum(c for c, _ in mine), own + len(mine), tokens)
        compute, memory, launch, communication, _, _, wire = base
        even = self.base(tokens, decoding + len(chunks))
        flops, nbytes = even.flops, even.bytes
        if decoding:
            penalty = s.mixed_penalty if chunks else 1.0
            attention = context * self.decode_slope * penalty * (own * n / decoding)
            compute, memory = (compute + attention, memory) if self.decode_computes else (compute, memory + attention)
            launch += self.decode_launch * penalty
            flops, nbytes = flops + context * self.decode_flops, nbytes + context * self.decode_bytes
        if chunks:
            pc, pm, pl, _, _ = self.prefill(mine)
            compute, memory, launch = compute + pc, memory + pm, launch + pl
            _, _, _, pf, pb = self.prefill(chunks)
            flops, nbytes = flops + pf / n, nbytes + pb / n
        launch += self._launching(compute + memory + launch + communication, own + len(mine))
        return Pass(compute, memory, launch, communication, flops, nbytes, wire)

    def anew(self, whole: Whole) -> Pass:
        """One pass of whole contexts, each of them one rank's."""
        return self.cost(0, 0, [Chunk(context, 0) for context in whole.each()])


def _fullest(chunks: Sequence[Chunk], ranks: int) -> list[Chunk]:
    """The pieces of the rank that has the most tokens of them."""
    if len(chunks) <= 1:
        return list(chunks)
    dealt: list[list[Chunk]] = [[] for _ in range(min(ranks, len(chunks)))]
    loads = [0] * len(dealt)
    for chunk in sorted(chunks, key=lambda chunk: -chunk[0]):
        least = loads.index(min(loads))
        dealt[least].append(chunk)
        loads[least] += chunk[0]
    return max(dealt, key=lambda pieces: (sum(c for c, _ in pieces), sum(past for _, past in pieces)))
