"""What each family of models calls its numbers in a ``config.json``, and those it leaves out.

One function a family knows its names and defaults (those of the transformers library's configuration classes). The file
itself is read by :mod:`sim.adapters.huggingface`, which hands itself over: it keeps what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sim.adapters.yaml_source import shown

if TYPE_CHECKING:
    from sim.adapters.huggingface import Config

MAX_LAYERS = 2000


def shown_short(value: object) -> str:
    """A value of the file, short and without control characters."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a larger one" if value > 0 else "one far below 0"
    return shown(value)


def _llama_like(
    config: Config, *, kv_default: bool = False, head_dim: int | None = None, tied: bool = False
) -> dict[str, Any]:
    """Gated MLP, rotary positions, grouped-query attention; ``kv_default``: kv heads may be left out."""
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    plain = kv_default or "num_key_value_heads" in config.data  # null means as many as heads
    head = config.number("head_dim", default=head_dim or 0) or config.head_dim(hidden, heads)
    return {
        "layers": config.number("num_hidden_layers", most=MAX_LAYERS),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.number("num_key_value_heads", default=heads if plain else None),
        "head_dim": head,
        "intermediate": config.number("intermediate_size"),
        "vocabulary": config.number("vocab_size"),
        "gated": True,
        "tied_embeddings": config.flag("tie_word_embeddings", tied),
        "context": config.number("max_position_embeddings"),
    }


def _mixtral(config: Config) -> dict[str, Any]:
    return {
        **_llama_like(config, kv_default=True),
        "experts": config.number("num_local_experts", default=8, most=4096),
        "experts_per_token": config.number("num_experts_per_tok", default=2, most=4096),
    }


def _qwen3_moe(config: Config) -> dict[str, Any]:
    if config.data.get("mlp_only_layers") or config.data.get("decoder_sparse_step") not in (None, 1):
        key = "mlp_only_layers" if config.data.get("mlp_only_layers") else "decoder_sparse_step"
        config.problems.append(config.problem(key, "plain layers among those with experts are not modelled"))
    return {
        **_llama_like(config, head_dim=128),
        "experts": config.number("num_experts", default=128, most=4096),
        "experts_per_token": config.number("num_experts_per_tok", default=8, most=4096),
        "expert_intermediate": config.number("moe_intermediate_size"),
    }


def _deepseek(config: Config) -> dict[str, Any]:
    """Latent attention, and experts after the first layers; queries without a latent where its rank is null."""
    data, heads = config.data, config.number("num_attention_heads")
    text = "plain layers among those with experts are not modelled"
    if data.get("moe_layer_freq") not in (None, 1):
        config.problems.append(config.problem("moe_layer_freq", text))
    value = config.number("v_head_dim")
    return {
        "layers": config.number("num_hidden_layers", most=MAX_LAYERS),
        "hidden": config.number("hidden_size"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": value,
        "intermediate": config.number("intermediate_size"),
        "vocabulary": config.number("vocab_size"),
        "gated": True,
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        "context": config.number("max_position_embeddings"),
        "experts": config.number("n_routed_experts", most=4096),
        "experts_per_token": config.number("num_experts_per_tok", most=4096),
        "shared_experts": config.number("n_shared_experts", most=64) if data.get("n_shared_experts") else 0,
        "expert_intermediate": config.number("moe_intermediate_size"),
        "dense_layers": config.number("first_k_dense_replace") if data.get("first_k_dense_replace") else 0,
        "kv_lora_rank": config.number("kv_lora_rank"),
        "q_lora_rank": config.number("q_lora_rank") if data.get("q_lora_rank") is not None else None,
        "qk_nope_head_dim": config.number("qk_nope_head_dim"),
        "qk_rope_head_dim": config.number("qk_rope_head_dim"),
        "v_head_dim": value,
    }


def _plain(
    config: Config, hidden: int, heads: int, kv_heads: int, *, tied: bool = True, **rest: Any
) -> dict[str, Any]:
    """What the ungated families share."""
    return {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": config.head_dim(hidden, heads),
        "vocabulary": config.number("vocab_size"),
        "gated": False,
        "tied_embeddings": config.flag("tie_word_embeddings", tied),
        **rest,
    }


def _gpt2(config: Config) -> dict[str, Any]:
    hidden, heads = config.number("n_embd"), config.number("n_head")
    return _plain(
        config, hidden, heads, heads,
        layers=config.number("n_layer", most=MAX_LAYERS),
        intermediate=config.number("n_inner", default=4 * hidden),
        context=config.number("n_positions", "n_ctx"),
        learned_positions=True,
    )  # fmt: skip


def _gpt_neox(config: Config) -> dict[str, Any]:
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    return _plain(
        config, hidden, heads, heads,
        tied=False,
        layers=config.number("num_hidden_layers", most=MAX_LAYERS),
        intermediate=config.number("intermediate_size"),
        context=config.number("max_position_embeddings"),
    )  # fmt: skip


def _opt(config: Config) -> dict[str, Any]:
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    projected = config.number("word_embed_proj_dim", default=hidden)
    if projected != hidden:
        config.notes.append(f"its token table is {projected} wide; counted as {hidden}")
    return _plain(
        config, hidden, heads, heads,
        layers=config.number("num_hidden_layers", most=MAX_LAYERS),
        intermediate=config.number("ffn_dim"),
        context=config.number("max_position_embeddings"),
        learned_positions=True,
    )  # fmt: skip


def _bloom(config: Config) -> dict[str, Any]:
    hidden, heads = config.number("hidden_size", "n_embed"), config.number("n_head", "num_attention_heads")
    return _plain(
        config, hidden, heads, heads,
        layers=config.number("n_layer", "num_hidden_layers", most=MAX_LAYERS),
        intermediate=4 * hidden,
        context=config.context_or(2048, "seq_length"),
    )  # fmt: skip


def _falcon(config: Config, *, new_architecture: bool = False) -> dict[str, Any]:
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads", "n_head")
    new = config.flag("new_decoder_architecture", new_architecture)
    one = config.flag("multi_query", True) and not new  # multi_query counts only without the new architecture
    kv_heads = config.number("num_kv_heads", "n_head_kv", default=heads)
    return _plain(
        config, hidden, heads, 1 if one else kv_heads,
        layers=config.number("num_hidden_layers", "n_layer", most=MAX_LAYERS),
        intermediate=config.number("ffn_hidden_size", default=4 * hidden),
        context=config.context_or(2048, "max_position_embeddings"),
    )  # fmt: skip


def _mpt(config: Config) -> dict[str, Any]:
    hidden, heads = config.number("d_model"), config.number("n_heads")
    attention, ffn = config.mapping("attn_config"), config.mapping("ffn_config")
    one = attention.get("attn_type") == "multiquery_attention"
    kind = ffn.get("ffn_type") or "mptmlp"
    if kind not in ("mptmlp", "mptglu", "mptgeglu"):
        config.problems.append(config.problem("ffn_type", f"unknown kind of MLP: {shown_short(kind)}"))
    ratio = config.number("expansion_ratio", default=4, most=1000)
    learned = config.flag("learned_pos_emb", True)
    other = config.flag("alibi", False, part=attention) or config.flag("rope", False, part=attention)
    shape = _plain(
        config, hidden, heads,
        1 if one else config.number("kv_n_heads", default=heads, part=attention),
        layers=config.number("n_layers", most=MAX_LAYERS),
        intermediate=config.number("ffn_hidden_size", default=ratio * hidden, part=ffn),
        context=config.number("max_seq_len"),
        learned_positions=learned and not other,
    )  # fmt: skip
    return {**shape, "gated": kind != "mptmlp"}


FAMILIES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "llama": partial(_llama_like, kv_default=True),
    "mistral": _llama_like,
    "qwen2": _llama_like,
    "qwen3": partial(_llama_like, head_dim=128),
    "gemma": partial(_llama_like, head_dim=256, tied=True),
    "gemma2": partial(_llama_like, head_dim=256, tied=True),
    "gemma3_text": partial(_llama_like, head_dim=256, tied=True),
    "phi3": partial(_llama_like, kv_default=True),
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
    "RefinedWebModel": _falcon,
    "RefinedWeb": partial(_falcon, new_architecture=True),
    "mpt": _mpt,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
}
LATENT = ("deepseek_v2", "deepseek_v3")
MIXTURES = ("mixtral", "qwen3_moe", *LATENT)
EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
ENCODER_DECODERS = ("t5", "mt5", "umt5", "longt5", "bart", "mbart", "m2m_100", "marian", "pegasus", "whisper")
