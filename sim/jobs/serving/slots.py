"""Micro-batches of a replica: the sequences in a slot, and what of them rides in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop

from sim.laws.step import Chunk, Pass, StageLaw


class Batch:
    """What rides in one pass. ``pieces`` are (request, tokens) of the prompts behind ``chunks``.

    ``tokens`` and ``sequences`` count all of them; ``cached`` is the tokens whose KV is in use, ``held`` of them beside
    those of sequences that ride (less than none where some share theirs). ``copying`` is the seconds for which KV is
    copied to or from host memory beside it.
    """

    __slots__ = ("cached", "chunks", "context", "copying", "decoding", "pieces", "sequences", "tokens")

    def __init__(
        self, decoding: int, context: int, chunks: Sequence[Chunk] = (), pieces: Sequence[tuple[int, int]] = (),
        held: int = 0, copying: float = 0.0,
    ) -> None:  # fmt: skip
        self.decoding, self.context = decoding, context
        self.chunks, self.pieces, self.copying = chunks, pieces, copying
        tokens, cached = decoding, context + held
        for c, past in chunks:
            tokens += c
            cached += c + past
        self.tokens, self.cached, self.sequences = tokens, cached, decoding + len(chunks)

    @property
    def kind(self) -> str:
        """decode, prefill or mixed."""
        if self.decoding == self.sequences:
            return "decode"
        return "mixed" if self.decoding else "prefill"

    def cost(self, law: StageLaw) -> Pass:
        """What the pass costs on a GPU of one stage. Copies go beside it, layer by layer: it ends no sooner than they
        do."""
        cost = law.cost(self.decoding, self.context, self.chunks)
        if self.copying > (total := cost.total):
            return cost._replace(memory=cost.memory + self.copying - total)
        return cost


class Slot:
    """The sequences of one micro-batch. ``context`` sums the contexts of the next pass's decoding sequences, and
    ``squares`` their squares, where nothing is cached.

    ``base[r]`` is passes - tokens generated: constant while r decodes, so nothing is updated a pass.
    ``returned`` is when the last pass ended, and ``spoke`` when one ended in which they decoded: the last tokens came
    out then, but those of ``fresh`` sequences, which have joined since and not decoded here.
    """

    def __init__(self, number: int, block_tokens: int) -> None:
        self.number = number
        self.passes = 0
        self.returned = 0.0
        self.spoke = 0.0
        self.fresh: dict[int, float] = {}
        self._block_tokens = block_tokens
        self.clear()

    def clear(self) -> None:
        """No sequence is in it."""
        self.decoding = 0
        self.context = 0
        self.squares = 0
        self.members: dict[int, None] = {}
        self.prefills: dict[int, list[int]] = {}
        self.ends: list[tuple[int, int, int]] = []
        self.phases = [0] * self._block_tokens
        self.base: dict[int, int] = {}
        self.fresh.clear()

    def passes_to_next_end(self) -> int:
        """Passes until the first decoding sequence is done; entries of pushed-out sequences are dropped."""
        ends, base = self.ends, self.base
        while base.get(ends[0][2]) != ends[0][1]:
            heappop(ends)
        return ends[0][0] - self.passes
