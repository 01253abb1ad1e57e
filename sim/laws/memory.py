"""Serving memory: weights, KV cache and what the engine keeps back, per GPU, against its capacity.

    vLLM style          KV = fraction * HBM - weights - reserve
    TensorRT-LLM style  KV = fraction * (HBM - weights - reserve)

A token's KV takes 2 * layers * kv_heads/tp * head_dim * bytes on each rank of its stage, the latents of MLA whole on
every rank (:mod:`sim.laws.attention`). A stage's weights are those of all experts, met or not. The engine gives
every stage the same number of blocks, so the poorest stage decides how many tokens fit. The token table
sits on the first stage, the output head on the last. ``reserve`` holds activations, logits, graphs and the
runtime; near the cliff (KV below 10% of HBM) a small error in it is a large one in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.laws.attention import attention_share
from sim.laws.experts import ROUTER_BYTES, mixture_weights
from sim.spec.stack import StackMemory
from sim.spec.transformer import Transformer


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes on one GPU of a stage. ``kv_per_token`` is what one token's KV takes on it, ``beside`` what a draft or
    adapters do (:mod:`sim.laws.layout_extras`)."""

    capacity: float
    weights: float
    embeddings: float
    reserve: float
    kept_back: float
    kv_budget: float
    kv_per_token: float
    beside: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens whose KV fits on this GPU."""
        return int(self.kv_budget // self.kv_per_token) if self.kv_budget > 0 else 0

    def parts(self, tokens: int) -> dict[str, float]:
        """Bytes by part when every stage holds ``tokens`` of KV; the rest is unused."""
        kv = tokens * self.kv_per_token
        used = self.weights + self.embeddings + self.beside + self.reserve + self.kept_back + kv
        return {
            "weights": self.weights,
            "embeddings and head": self.embeddings,
            **({"draft and adapters": self.beside} if self.beside else {}),
            "KV cache": kv,
            "activations and runtime": self.reserve,
            "kept back": self.kept_back,
            "unused": max(0.0, self.capacity - used),
        }


def kv_bytes_per_token(model: Transformer, layers: int, tp: int, kv_bytes: float) -> float:
    """Bytes of KV cache one token takes on one rank of a stage of ``layers`` layers."""
    return layers * attention_share(model, tp).cached * kv_bytes


def layer_bytes(
    model: Transformer, tp: int, ep: int, weight_bytes: float, *, data: bool = False
) -> tuple[float, float]:
    """Bytes of weights on one rank, of a layer with one MLP and of one with experts (0 in a model without)."""
    slices = 1 if data else tp
    attention = attention_share(model, slices).weights
    plain = (attention + model.mlp_parameters / slices) * weight_bytes
    if not model.experts:
        return plain, 0.0
    held, router = mixture_weights(model, tp, ep)
    return plain, (attention + held) * weight_bytes + router * ROUTER_BYTES


def stage_memory(
    model: Transformer,
    rule: StackMemory,
    capacity: float,
    *,
    layers: int,
    tp: int,
    first: bool,
    last: bool,
    weight_bytes: float,
    kv_bytes: float,
    scale: float = 1.0,
    mixture: int = 0,
    ep: int = 1,
    data: bool = False,
) -> StageMemory:
    """The budget of one GPU with ``capacity`` bytes that holds ``layers`` layers of ``model``, ``mixture`` of them with
    experts. With ``data``-parallel attention a rank has everything whole but the routed experts, and of all sequences
    its share.

    Tensor ranks split the weights evenly; KV heads are repeated when there are fewer heads than ranks.
    The token table and the output head stay in 16 bits.
    """
    slices = 1 if data else tp
    plain = attention_share(model, slices).weights + model.mlp_parameters / slices
    weights = (layers - mixture) * plain * weight_bytes * scale
    if mixture:
        weights += mixture * layer_bytes(model, tp, ep, weight_bytes, data=data)[1] * scale
    tables = int(first) + int(last) - int(model.tied_embeddings and first and last)
    embeddings = 2.0 * tables * model.embedding_parameters / slices * scale
    if first and model.learned_positions:
        embeddings += 2.0 * model.context * model.hidden
    free = capacity - weights - embeddings - rule.reserve
    if rule.rule == "of_total":
        kept_back = (1 - rule.fraction) * capacity
        budget = free - kept_back
    else:
        kept_back = (1 - rule.fraction) * max(free, 0.0)
        budget = free * rule.fraction
    per_token = kv_bytes_per_token(model, layers, slices, kv_bytes) / (tp if data else 1)
    return StageMemory(capacity, weights, embeddings, rule.reserve, kept_back, budget, per_token)


def pass_bytes(model: Transformer, tp: int, tokens: int) -> float:
    """Bytes of activations that a layer works on in a pass of so many tokens, on one of ``tp`` ranks: its input, the
    same normed, and the wider of what attention and MLP have between, in 16 bits."""
    widths = [] if model.experts and not model.dense_layers else [model.intermediate]
    if model.experts:
        met = model.experts_per_token + model.shared_experts
        widths.append(met * (model.expert_intermediate or model.intermediate))
    between = max(attention_share(model, tp).moved, (model.matrices - 1) * max(widths) / tp)
    return 2.0 * tokens * (2 * model.hidden + between)


def tokens_that_fit(stages: Sequence[StageMemory]) -> int:
    """Tokens of KV that every stage can hold."""
    return min(stage.tokens for stage in stages)
