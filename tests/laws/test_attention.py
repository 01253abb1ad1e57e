"""Latent attention: what a rank holds, keeps and reads, against counts by hand from the published widths."""

from __future__ import annotations

import pytest

from sim.adapters.lookup import Library
from sim.laws.attention import attention_share
from sim.laws.memory import kv_bytes_per_token, stage_memory
from sim.laws.step import Chunk, StageLaw
from sim.spec.stack import StackMemory

from .test_step import law

LIBRARY = Library()
DEEPSEEK = LIBRARY.model("deepseek-v3")
LLAMA = LIBRARY.model("llama-2-70b")
VLLM = StackMemory(rule="of_total", fraction=0.9, reserve="1.24 GB")
#: Widths of DeepSeek-V3: hidden, heads, query latent, latent, rotary, plain key, value.
H, A, Q, C, R, N, V = 7168, 128, 1536, 512, 64, 128, 128


def latent(tp: int = 1, gpu: str = "h100-sxm", **keys: object) -> StageLaw:
    return law(gpu, tp=tp, layers=61, weights="fp8", model=DEEPSEEK, mixture=58, head=False, **keys)


@pytest.mark.parametrize("tp", [1, 8])
def test_ranks_split_heads_and_repeat_the_ways_down(tp: int) -> None:
    heads = A / tp
    by_hand = H * Q + Q * heads * (N + R) + H * (C + R) + C * heads * (N + V) + heads * V * H
    assert attention_share(DEEPSEEK, tp).weights == by_hand
    assert attention_share(DEEPSEEK, 1).weights == DEEPSEEK.attention_parameters
    assert attention_share(LLAMA, 1).weights == LLAMA.attention_parameters


@pytest.mark.parametrize(("tp", "bits", "expected"), [(1, 16, 70_272), (8, 16, 70_272), (16, 8, 35_136)])
def test_every_rank_keeps_the_whole_latent(tp: int, bits: int, expected: int) -> None:
    """61 layers of 512 + 64 elements; 128 heads of keys and values would take 57 times as much on one rank."""
    assert kv_bytes_per_token(DEEPSEEK, 61, tp, bits / 8) == expected
    heads = LLAMA.model_copy(update={"kv_heads": A, "heads": A, "head_dim": V})
    assert kv_bytes_per_token(heads, 61, 1, 2.0) / 70_272 == pytest.approx(57, rel=0.01)


@pytest.mark.parametrize("tp", [1, 8])
def test_absorbed_decode_reads_the_latent_once_for_all_heads(tp: int) -> None:
    found = latent(tp)
    assert found.decode_bytes == 61 * (C + R) * 2
    assert found.decode_flops == 61 * 2 * (A / tp) * (2 * C + R)
    rates = found.shape.rates
    parts = found.decode_flops / rates.prefill, found.decode_bytes / rates.decode
    assert found.decode_slope == pytest.approx(sum(part**2.5 for part in parts) ** 0.4)
    assert found.decode_computes == (parts[0] > parts[1]) == (tp == 1)


def test_arithmetic_of_decode_is_booked_as_arithmetic() -> None:
    whole, eighth = latent(1), latent(8)
    for found, column in ((whole, "compute"), (eighth, "memory")):
        short, long = found.cost(8, 8_000), found.cost(8, 80_000)
        grown = getattr(long, column) - getattr(short, column)
        assert grown == pytest.approx(72_000 * found.decode_slope)
        assert long.total - short.total == pytest.approx(grown)


def test_a_piece_of_a_prompt_expands_what_is_cached_before_it() -> None:
    found = latent(8)
    heads = A / 8
    first, later = found.prefill([Chunk(512, 0)]), found.prefill([Chunk(512, 4096)])
    pairs = 2 * 512 * heads * (N + R + V)
    assert first[3] == pytest.approx(61 * pairs * 256)
    assert later[3] - first[3] == pytest.approx(61 * (pairs * 4096 + 4096 * 2 * C * heads * (N + V)))


def test_a_server_of_eight_h200_holds_the_model_in_eight_bits() -> None:
    stage = stage_memory(DEEPSEEK, VLLM, 150e9, layers=61, tp=8, first=True, last=True, weight_bytes=1.0,
                         kv_bytes=2.0, mixture=58)  # fmt: skip
    # Sliced weights are an eighth; the ways down to latents (15.1 M a layer) and routers are whole on each rank.
    whole = H * (Q + C + R)
    layers = DEEPSEEK.parameters - 2 * DEEPSEEK.embedding_parameters - 58 * H * 256
    assert stage.weights == pytest.approx((layers - 61 * whole) / 8 + 61 * whole + 58 * H * 256 * 2, rel=1e-12)
    assert stage.embeddings == pytest.approx(2 * 2 * DEEPSEEK.embedding_parameters / 8)
    assert stage.tokens == int(stage.kv_budget // 70_272)
