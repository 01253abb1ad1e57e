"""Memory budgets by the two engines' rules, and the KV cache's bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.laws.memory import StageMemory, kv_bytes_per_token, stage_memory, tokens_that_fit
from sim.spec.plan import WEIGHT_BYTES
from sim.spec.stack import StackMemory
from sim.spec.transformer import Transformer

LIBRARY = Library()
LLAMA = LIBRARY.model("llama-2-70b")
MHA = LLAMA.model_copy(update={"kv_heads": 64})
VLLM = StackMemory(rule="of_total", fraction=0.9, reserve="1.24 GB")
TRT = StackMemory(rule="of_free", fraction=0.9, reserve="4.4 GB")


def budget(capacity: float, rule: StackMemory = VLLM, model: Transformer = LLAMA, **keys: Any) -> StageMemory:
    facts: dict[str, Any] = {
        "layers": 80, "tp": 8, "first": True, "last": True, "weight_bytes": 2.0, "kv_bytes": 2.0,
    }  # fmt: skip
    return stage_memory(model, rule, capacity, **(facts | keys))


def test_llama_70b_in_fp16_is_138_gb() -> None:
    assert LLAMA.parameters == pytest.approx(68.98e9, rel=1e-4)
    shared = budget(25.25e9)
    assert 8 * (shared.weights + shared.embeddings) == pytest.approx(137.95e9, rel=1e-4)
    stages = [budget(25.25e9, layers=10, tp=1, first=s == 0, last=s == 7) for s in range(8)]
    assert sum(s.weights + s.embeddings for s in stages) == pytest.approx(137.95e9, rel=1e-4)


def test_vllm_takes_its_fraction_of_everything() -> None:
    """SERVING_MODEL section 6: .9*25.25 - 17.24 - 1.24 = 4.24 GB a GPU, 103,500 tokens."""
    stage = budget(25.25e9)
    assert stage.kv_budget == pytest.approx(0.9 * 25.25e9 - 137.95e9 / 8 - 1.24e9, rel=1e-4)
    assert stage.kv_budget == pytest.approx(4.24e9, rel=0.005)
    assert stage.kv_per_token == 40960
    assert stage.tokens == pytest.approx(103_500, rel=0.005)


def test_tensorrt_takes_its_fraction_of_what_is_free() -> None:
    stage = budget(85.5e9, TRT)
    assert stage.kv_budget == pytest.approx(0.9 * (85.5e9 - 137.95e9 / 8 - 4.4e9), rel=1e-4)
    assert stage.kept_back == pytest.approx(stage.kv_budget / 9)


@pytest.mark.parametrize(("model", "gigabytes"), [(MHA, 85.9), (LLAMA, 10.7)])
def test_kv_of_eight_prompts_of_4096_tokens(model: Transformer, gigabytes: float) -> None:
    """REFERENCE_ARTICLE KV-01: 80 GiB with multi-head attention, an eighth of it with eight KV heads."""
    assert 8 * 4096 * kv_bytes_per_token(model, 80, 1, 2.0) / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_kv_splits_over_stages_ranks_and_formats() -> None:
    whole = kv_bytes_per_token(LLAMA, 80, 1, 2.0)
    assert whole == 2 * 80 * 8 * 128 * 2
    assert kv_bytes_per_token(LLAMA, 10, 1, 2.0) == kv_bytes_per_token(LLAMA, 80, 8, 2.0) == whole / 8
    assert kv_bytes_per_token(LLAMA, 80, 16, 2.0) == whole / 8  # eight heads, repeated on sixteen ranks
    assert kv_bytes_per_token(LLAMA, 80, 1, 1.0) == whole / 2


def test_tables_sit_on_the_first_and_the_last_stage() -> None:
    table = 2 * 8192 * 32000
    sizes = [budget(80e9, layers=10, tp=1, first=f, last=e).embeddings for f, e in
             ((True, False), (False, False), (False, True), (True, True))]  # fmt: skip
    assert sizes == [table, 0, table, 2 * table]
    tied = LLAMA.model_copy(update={"tied_embeddings": True})
    both = budget(80e9, model=tied, tp=1)
    ends = budget(80e9, model=tied, tp=1, layers=40, first=False)
    assert both.embeddings == ends.embeddings == table


def test_learned_positions_lie_beside_the_token_table() -> None:
    opt = LIBRARY.model("opt-175b")
    first = budget(80e9, model=opt, layers=12, tp=1, last=False)
    assert first.embeddings == 2.0 * (opt.embedding_parameters + opt.context * opt.hidden)


def test_the_head_stays_in_16_bits_when_weights_do_not() -> None:
    fp16, int4 = budget(25.25e9), budget(25.25e9, weight_bytes=4.15625 / 8)
    assert int4.weights == pytest.approx(fp16.weights * 4.15625 / 16)
    assert int4.embeddings == fp16.embeddings


def test_the_poorest_stage_decides() -> None:
    rich, poor = budget(85.5e9, layers=40), budget(48e9, layers=40)
    assert tokens_that_fit([rich, poor, rich]) == poor.tokens < rich.tokens


def test_what_does_not_fit_holds_no_tokens() -> None:
    assert budget(10e9).kv_budget < 0
    assert budget(10e9).tokens == 0
    assert budget(10e9, TRT).tokens == 0


@given(st.floats(30e9, 300e9), st.sampled_from([VLLM, TRT]), st.floats(0.0, 1.0))
def test_parts_add_up_to_the_capacity(capacity: float, rule: StackMemory, share: float) -> None:
    stage = budget(capacity, rule)
    parts = stage.parts(int(share * stage.tokens))
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(capacity, rel=1e-12)


@given(st.floats(10e9, 300e9), st.floats(0.0, 50e9), st.sampled_from([VLLM, TRT]))
def test_more_memory_never_holds_fewer_tokens(capacity: float, more: float, rule: StackMemory) -> None:
    assert budget(capacity + more, rule).tokens >= budget(capacity, rule).tokens


def test_a_bit_less_is_saved_on_every_weight_and_on_the_zero_point_of_its_group() -> None:
    saved = [WEIGHT_BYTES[a] - WEIGHT_BYTES[b] for a, b in (("int4", "int3"), ("int3", "int2"))]
    assert saved == pytest.approx([(1 + 1 / 128) / 8] * 2)
    weights = [budget(25.25e9, weight_bytes=WEIGHT_BYTES[name]).weights for name in ("int4", "int3", "int2")]
    assert weights == sorted(weights, reverse=True)
