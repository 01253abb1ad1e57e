"""A replica without a KV cache: nothing is held from one pass to the next.

Each pass computes whole contexts again, the prompt and the tokens so far of every sequence that rides in it, as a
prompt is computed. So a sequence that decodes is a prompt that is a token longer in each pass, and what a pass takes
(:meth:`sim.laws.step.StageLaw.anew`) is no law of the sum of contexts alone: every pass is played by itself. No blocks
of KV cache are short and nobody is pushed out; what bounds a batch is the number of its sequences.

A request of a prompt of p tokens that generates o has passes of p, p + 1, ..., p + o - 1 tokens,

    o p + o (o - 1) / 2    in all, of which p + o - 1 are computed for the first time, the others again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.jobs.serving.batching import Limits, Policy, Scheduler
from sim.jobs.serving.requests import Feed, RequestTable
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Chunk, Pass, StageLaw, Whole


class WholeBatch(Batch):
    """What rides in a pass without a KV cache: of ``decoding`` sequences all that was said, and whole prompts."""

    __slots__ = ("whole",)

    def __init__(self, whole: Whole, decoding: int, pieces: Sequence[tuple[int, int]]) -> None:
        super().__init__(0, 0, [Chunk(whole.tokens, 0)], pieces)  # nothing of it is there: all is a prompt's piece
        self.whole, self.decoding, self.sequences, self.cached = whole, decoding, whole.number, 0

    def cost(self, law: StageLaw) -> Pass:
        """What the pass costs on a GPU of one stage."""
        return law.anew(self.whole)


class UncachedScheduler(Scheduler):
    """The queue and the slots of a replica without a KV cache."""

    def __init__(self, table: RequestTable, feed: Feed, limits: Limits, policy: Policy, cache: None = None) -> None:
        super().__init__(table, feed, limits, policy._replace(plain=False), cache)
        #: Tokens of the largest pass.
        self.largest = 0

    def batch(self, slot: Slot, *, decode: bool = True) -> Batch | None:
        decoding, tokens, squares = (slot.decoding, slot.context, slot.squares) if decode else (0, 0, 0)
        for _, prompt in self._pieces:
            tokens += prompt
            squares += prompt * prompt
        if not tokens:
            return None
        pieces = self._pieces
        if tokens > self.largest:
            self.largest = tokens

        def each() -> list[int]:
            return [*(self._contexts(slot) if decode else ()), *(prompt for _, prompt in pieces)]

        return WholeBatch(Whole(decoding + len(pieces), tokens, squares, each), decoding, pieces)

    def _contexts(self, slot: Slot) -> list[int]:
        """Tokens of each sequence of a slot that decodes."""
        prompt, passes = self.table.prompt, slot.passes
        return [prompt[r] + passes - base for r, base in slot.base.items()]

    def doubled(self, slot: Slot) -> int:
        return slot.context  # none of it is in a cache

    def advance(self, slot: Slot, batch: Batch, now: float, passes: int = 1) -> None:
        table = self.table
        if batch.decoding:  # (c + 1)^2 of each
            slot.squares += 2 * slot.context + slot.decoding
        # Of who had tokens before all but the last one were computed before.
        new = batch.decoding + sum(1 if table.generated[r] else tokens for r, tokens in batch.pieces)
        table.recomputed += batch.tokens - new
        super().advance(slot, batch, now, passes)

    def _decode(self, slot: Slot, r: int) -> None:
        super()._decode(slot, r)
        slot.squares += (self.table.prompt[r] + self.table.generated[r]) ** 2

    def _stop_decoding(self, slot: Slot, r: int, context: int) -> None:
        super()._stop_decoding(slot, r, context)
        slot.squares -= context**2

    def evict(self, now: float) -> list[int]:
        before = self.table.lost_kv
        held = super().evict(now)
        self.table.lost_kv = before  # there was no cache to lose
        return held
