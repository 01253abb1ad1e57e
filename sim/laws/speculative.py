"""Speculative decoding: what a token of each sequence costs where a draft guesses k and one pass checks them.

With guesses right with probability a, whatever the others, a pass of the model yields (Leviathan et al. 2023)

    E = 1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)

tokens of a sequence: the guesses before the first wrong one, and one of its own. Everything else here counts *token
steps*, in which each decoding sequence has one token more. So in the mean a step is 1/E of a real pass, which carries
E steps' pieces of prompts. With nd decoding sequences whose contexts sum to S, beside c tokens of n prompts,

    step   = [ T(nd (k+1) + E c, nd (k+1) + E n, S)  +  D(nd + E c, nd + E n, S)  +  (k-1) D(nd, nd, S) ] / E

with T(tokens, rows of logits, contexts) a pass of the model and D one of the draft, which reads its own KV cache. The
k+1 queries of a sequence read the model's cache once. A pass without decoding sequences is what it is elsewhere, and
one of the draft over the same prompts. What the engine spends on a pass it spends once for all of them, and what it
spends on a sequence on each row of logits.

A step stays linear in the sum of contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.laws.step import Chunk, Pass, Passes, StageLaw, StageShape


class SpeculativeLaw(StageLaw):
    """The time of token steps of a model on one stage; ``draft`` is the shape of the model that guesses, if any."""

    def __init__(self, shape: StageShape, guesses: int, kept: float, draft: StageShape | None) -> None:
        super().__init__(shape)
        self.guesses, self.kept = guesses, kept
        self._model = StageLaw(shape)
        self._draft = StageLaw(replace(draft, host_per_pass=0.0)) if draft is not None and guesses else None
        self._steps: dict[tuple[int, int, int], Pass] = {}
        for name in ("decode_slope", "decode_launch", "decode_bytes"):
            own = getattr(self._model, name)
            setattr(self, name, (own + guesses * getattr(self._draft, name, 0.0)) / kept)
        flops = self._model.decode_flops * (guesses + 1)
        self.decode_flops = (flops + guesses * getattr(self._draft, "decode_flops", 0.0)) / kept

    def weights_read(self, tokens: int) -> float:
        """Bytes of the layers' weights that a step of so many sequences reads, the draft's among them."""
        nbytes = self._model.weights_read(tokens * (self.guesses + 1))
        if self._draft is not None:
            nbytes += self.guesses * self._draft.weights_read(tokens)
        return nbytes / self.kept

    def _base(self, tokens: int, sequences: int) -> Pass:
        """A step of ``sequences`` beside prompts of the other tokens, of which none ends: the least it can take."""
        if sequences:
            return self._step(sequences, tokens - sequences, 0)
        cost = self._model.base(round(self.kept * tokens), 0)
        return Pass._make(value / self.kept for value in cost)

    def _step(self, decoding: int, tokens: int, prompts: int) -> Pass:
        """A step without attention: so many sequences decode beside ``tokens`` tokens of ``prompts`` prompts."""
        key = (decoding, tokens, prompts)
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = self._worked_out(*key)
        return found

    def _worked_out(self, decoding: int, tokens: int, prompts: int) -> Pass:
        draft = self._draft
        if not decoding:
            alone = self._model.base(tokens, prompts)
            return alone if draft is None else _sum(alone, draft.base(tokens, prompts))
        more, rows = round(self.kept * tokens), round(self.kept * prompts)
        checked = decoding * (self.guesses + 1)
        cost = self._model.base(checked + more, checked + rows)
        if draft is not None:
            cost = _sum(cost, draft.base(decoding + more, decoding + rows))
            others = draft.base(decoding, decoding)
            cost = _sum(cost, Pass._make((self.guesses - 1) * value for value in others))
        return Pass._make(value / self.kept for value in cost)

    def collective_flow(self, cost: Pass) -> tuple[float, float, float]:
        """A step's collectives as one flow that alone takes their time: (bytes, fixed seconds, bytes/s).

        The rate is that of a pass of the model with so many bytes; what several passes take beyond that is fixed.
        """
        _, _, rate = self._model.collective_flow(cost)
        rate = max(rate, cost.wire / cost.communication)
        return cost.wire, cost.communication - cost.wire / rate, rate

    def prefill(
        self, chunks: Sequence[Chunk], flops: float = 0.0, nbytes: float = 0.0
    ) -> tuple[float, float, float, float, float]:
        """Prefill attention, of the draft as well: (compute, memory, launch seconds, FLOP, bytes)."""
        own = super().prefill(chunks, flops, nbytes)
        if self._draft is None:
            return own
        compute, memory, launch, flops, nbytes = map(sum, zip(own, self._draft.prefill(chunks), strict=True))
        return compute, memory, launch, flops, nbytes

    def cost(self, decoding: int, context: int, chunks: Sequence[Chunk] = ()) -> Pass:
        """One step: ``decoding`` sequences whose contexts sum to ``context`` tokens, and pieces of prompts."""
        base = self._step(decoding, sum(chunk[0] for chunk in chunks), len(chunks))
        return self._with_attention(base, decoding, context, chunks)

    def costs(self, passes: Passes) -> NDArray[np.float64]:
        """The same for many steps: a row each, with the columns of Pass."""
        columns = (passes.decoding, passes.context, passes.piece, passes.past)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return np.array([self.cost(d, s, [Chunk(c, past)] if c else ()) for d, s, c, past in rows])


def _sum(a: Pass, b: Pass) -> Pass:
    return Pass._make(x + y for x, y in zip(a, b, strict=True))
