"""The shape of a decoder-only transformer: what fixes its bytes and its floating-point operations.

``kv_heads`` is the true count (multi-head, grouped-query or multi-query attention): it scales the KV cache
by up to ``heads``. ``gated`` MLPs (SwiGLU) have three matrices, plain ones two.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sim.spec.base import Name, Prose, Spec

Width = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]


class Transformer(Spec):
    """A model's shape, with the context it was made for and where the numbers come from."""

    id: Name
    name: Prose
    layers: Annotated[int, Field(ge=1, le=2000, strict=True)]
    hidden: Width
    heads: Width
    kv_heads: Width
    head_dim: Width
    intermediate: Width
    vocabulary: Width
    gated: bool
    tied_embeddings: bool = False
    learned_positions: bool = False
    context: Width
    source: Prose
    notes: Prose = ""

    @model_validator(mode="after")
    def _heads_divide(self) -> Transformer:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} attention heads are not a multiple of {self.kv_heads} kv_heads")
        return self

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention: Q, K, V and the output projection."""
        q = self.heads * self.head_dim
        return self.hidden * (q + 2 * self.kv_heads * self.head_dim) + q * self.hidden

    @property
    def mlp_parameters(self) -> int:
        """Weights of one layer's MLP: three matrices when gated, else two."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        """Matrix weights of one layer (norms and biases are below 0.1% and left out)."""
        return self.attention_parameters + self.mlp_parameters

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token table; the output head is as large again unless tied."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights: layers, token table, output head and learned positions."""
        tables = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        positions = self.context * self.hidden if self.learned_positions else 0
        return self.layers * self.layer_parameters + tables + positions
