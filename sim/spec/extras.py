"""What an engine runs beside a served model: a draft that guesses its next tokens, adapters that change it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.base import Spec
from sim.spec.plan import WeightFormat
from sim.units import Fraction

#: The draft that costs nothing: continuations that stand in the prompt or in the answer so far.
NGRAM = "ngram"


class Speculative(Spec):
    """Speculative decoding: ``draft`` guesses ``tokens`` tokens, and the model checks them in one pass.

    Each guess is right with probability ``acceptance``, whatever the others; those before the first wrong one are kept,
    and one token more. ``draft`` is a model (catalogue id or path of a config.json) with ``weights`` of its own and
    sliced over ``tp`` GPUs (left out: as many as the model; 1: whole on each), or ``ngram``.
    """

    tokens: Annotated[int, Field(ge=0, le=64, strict=True)]
    acceptance: Fraction
    draft: Annotated[str, Field(min_length=1, max_length=400)]
    weights: WeightFormat = "fp16"
    tp: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None

    @property
    def model(self) -> str | None:
        """The draft model's name; None where no model drafts."""
        return None if self.draft == NGRAM else self.draft

    @property
    def kept(self) -> float:
        """Tokens a pass of the model yields on average: 1 + a + ... + a^k."""
        return sum(self.acceptance**i for i in range(self.tokens + 1))

    @model_validator(mode="after")
    def _ngram_has_no_weights(self) -> Speculative:
        if self.model is None and (given := self.model_fields_set & {"weights", "tp"}):
            raise ValueError(f"draft: ngram is no model: leave {' and '.join(sorted(given))} out")
        return self


class Adapters(Spec):
    """LoRA adapters served side by side: each request wants one of ``count``, the k-th as often as 1/k^``skew``.

    They have ``rank`` r and change the matrices named by ``targets``. ``resident`` of them are on the GPUs at once
    (left out: all); others are loaded from host memory when a request wants them, in place of the one that was
    wanted longest ago.
    """

    count: Annotated[int, Field(ge=1, le=100_000, strict=True)]
    rank: Annotated[int, Field(ge=1, le=4096, strict=True)] = 16
    targets: Literal["all", "attention"] = "all"
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0
    resident: Annotated[int, Field(ge=1, le=100_000, strict=True)] | None = None

    @model_validator(mode="after")
    def _resident_are_some(self) -> Adapters:
        if self.resident is not None and self.resident > self.count:
            raise ValueError(f"resident: {self.resident} are more than the {self.count} adapters there are")
        return self

    @property
    def slots(self) -> int:
        """Adapters on the GPUs at once."""
        return self.count if self.resident is None else self.resident
