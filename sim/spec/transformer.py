"""The shape of a decoder-only transformer: what fixes its bytes and its floating-point operations.

``kv_heads`` is the true count (multi-head, grouped-query or multi-query attention): it scales the KV cache
by up to ``heads``. ``gated`` MLPs (SwiGLU) have three matrices, plain ones two. In a mixture of ``experts`` each token
meets ``experts_per_token`` of them and all ``shared_experts``; they are ``expert_intermediate`` wide.

Latent attention (MLA) caches one latent of ``kv_lora_rank`` elements and one rotary key of ``qk_rope_head_dim`` for all
heads; a head's keys are ``qk_nope_head_dim`` + ``qk_rope_head_dim`` wide, its values ``v_head_dim``, and queries come
from a latent of ``q_lora_rank`` where that is stated. The names are those of the models' configuration files.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sim.spec.base import Name, Prose, Spec

Width = Annotated[int, Field(ge=1, le=10_000_000, strict=True)]
#: Widths that latent attention has, all of them.
LATENT = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


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
    experts: Annotated[int, Field(ge=0, le=4096, strict=True)] = 0
    experts_per_token: Annotated[int, Field(ge=0, le=4096, strict=True)] = 0
    shared_experts: Annotated[int, Field(ge=0, le=64, strict=True)] = 0
    expert_intermediate: Width | None = None
    dense_layers: Annotated[int, Field(ge=0, le=2000, strict=True)] = 0
    kv_lora_rank: Width | None = None
    q_lora_rank: Width | None = None
    qk_nope_head_dim: Width | None = None
    qk_rope_head_dim: Width | None = None
    v_head_dim: Width | None = None
    source: Prose
    notes: Prose = ""

    @model_validator(mode="after")
    def _heads_divide(self) -> Transformer:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} attention heads are not a multiple of {self.kv_heads} kv_heads")
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(f"experts_per_token must be from 1 to {self.experts} experts")
        if not self.experts and (self.experts_per_token or self.shared_experts or self.expert_intermediate):
            raise ValueError("experts is missing: how many each mixture layer has")
        if self.dense_layers > self.layers or (self.dense_layers and not self.experts):
            raise ValueError("dense_layers counts the layers of a mixture of experts that have a plain MLP")
        return self

    @model_validator(mode="after")
    def _latent_whole(self) -> Transformer:
        widths = {name: getattr(self, name) for name in LATENT}
        missing = [name for name, width in widths.items() if width is None]
        stated = len(missing) < len(LATENT) or self.q_lora_rank is not None
        if stated and missing:
            raise ValueError(f"latent attention (MLA) needs {', '.join(missing)} too")
        if stated and self.kv_heads != self.heads:
            raise ValueError("with latent attention (MLA) kv_heads is heads: each has keys and values of its own")
        return self

    @property
    def latent(self) -> bool:
        """Whether attention caches latents (MLA), not keys and values."""
        return self.kv_lora_rank is not None

    @property
    def cached_elements(self) -> int:
        """Elements of KV cache a token takes in one layer."""
        if self.latent:
            return (self.kv_lora_rank or 0) + (self.qk_rope_head_dim or 0)
        return 2 * self.kv_heads * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention: Q, K, V (with latents, the ways down and up) and the output projection."""
        if self.latent:
            latent, plain, rotary, value = (getattr(self, name) or 0 for name in LATENT)
            queries = self.heads * (plain + rotary)
            asks = self.q_lora_rank * (self.hidden + queries) if self.q_lora_rank else self.hidden * queries
            ways = self.hidden * (latent + rotary) + latent * self.heads * (plain + value)
            return asks + ways + self.heads * value * self.hidden
        q = self.heads * self.head_dim
        return self.hidden * (q + 2 * self.kv_heads * self.head_dim) + q * self.hidden

    @property
    def matrices(self) -> int:
        """Matrices of an MLP: three when gated, else two."""
        return 3 if self.gated else 2

    @property
    def mlp_parameters(self) -> int:
        """Weights of one dense layer's MLP."""
        return self.matrices * self.hidden * self.intermediate

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert; 0 in a dense model."""
        return self.matrices * self.hidden * (self.expert_intermediate or self.intermediate) if self.experts else 0

    @property
    def layer_parameters(self) -> int:
        """Matrix weights of one dense layer (norms and biases are below 0.1% and left out)."""
        return self.attention_parameters + self.mlp_parameters

    @property
    def mixture_layer_parameters(self) -> int:
        """Matrix weights of one layer with experts, its router included."""
        return (
            self.attention_parameters
            + (self.experts + self.shared_experts) * self.expert_parameters
            + self.hidden * self.experts
        )

    @property
    def mixture_layers(self) -> int:
        """Layers with experts; the first ``dense_layers`` have a plain MLP."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def embedding_parameters(self) -> int:
        """Weights of the token table; the output head is as large again unless tied."""
        return self.vocabulary * self.hidden

    def scale_to(self, parameters: float | None) -> float:
        """The factor on weights that makes their count an assumed one; 1 where none is assumed."""
        return 1.0 if parameters is None else parameters / self.parameters

    @property
    def parameters(self) -> int:
        """All weights: layers, token table, output head and learned positions."""
        tables = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        positions = self.context * self.hidden if self.learned_positions else 0
        dense = (self.layers - self.mixture_layers) * self.layer_parameters
        return dense + self.mixture_layers * self.mixture_layer_parameters + tables + positions

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets: all of a dense model, the chosen and shared experts of a mixture."""
        idle = self.experts - self.experts_per_token if self.experts else 0
        return self.parameters - self.mixture_layers * idle * self.expert_parameters
