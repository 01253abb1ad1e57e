"""Layers, GPUs and tokens of plans, and every reason to refuse one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.adapters.lookup import Library
from sim.errors import InfeasibleError
from sim.laws.layout import Layout, budget_rows, lay_out, mixture_layers, place
from sim.laws.roofline import kernel_rates
from sim.laws.step import StageLaw, StageShape
from sim.spec.hardware import Gpu
from sim.spec.plan import ServingPlan, ServingPrecision

LIBRARY = Library()
LLAMA = LIBRARY.model("llama-2-70b")
VLLM = LIBRARY.stack("vllm")


def laid(plan: dict[str, Any], types: Sequence[str] | str = "rtx4090", weights: str = "fp16", **keys: Any) -> Layout:
    """LLaMA-2 70B (or ``model``) laid on GPUs of these types, in order."""
    spec = ServingPlan.model_validate(plan)
    names = [types] * spec.gpus if isinstance(types, str) else list(types)
    cards: list[Gpu] = [LIBRARY.gpu(name) for name in names]
    model, stack = keys.pop("model", LLAMA), keys.pop("stack", VLLM)
    precision = ServingPrecision.model_validate({"weights": weights})
    return lay_out("chat", model, stack, spec, precision, range(len(cards)), cards.__getitem__, **keys)


def layers(found: Layout) -> list[int]:
    return [stage.layers for stage in found.replicas[0]]


def refusal(plan: dict[str, Any], *args: Any, **keys: Any) -> InfeasibleError:
    with pytest.raises(InfeasibleError) as caught:
        laid(plan, *args, **keys)
    return caught.value


# ---- where ranks sit


def test_replicas_then_stages_then_ranks() -> None:
    found = laid({"tp": 2, "pp": 2, "dp": 2}, "h100-sxm")
    assert [[s.gpus for s in r] for r in found.replicas] == [[(0, 1), (2, 3)], [(4, 5), (6, 7)]]
    assert found.gpus == tuple(range(8))
    assert [(s.first, s.last) for s in found.replicas[1]] == [(True, False), (False, True)]


def test_place_takes_the_first_free_gpus_or_those_named() -> None:
    assert place(ServingPlan(tp=2), {0, 2}, 8, "chat") == (1, 3)
    assert place(ServingPlan(tp=2, placement=(5, 4)), {0}, 8, "chat") == (5, 4)


@pytest.mark.parametrize(
    ("plan", "taken", "message"),
    [
        (ServingPlan(tp=2, placement=(3, 8)), set(), "job chat: placement names GPU 8, the cluster has GPUs 0 to 7"),
        (ServingPlan(tp=2, placement=(3, 4)), {4}, "job chat: GPU 4 already belongs to another job"),
        (ServingPlan(tp=2, pp=4, dp=2), set(), "job chat: tp 2 x pp 4 x dp 2 takes 16 GPUs, the cluster has 8"),
        (ServingPlan(pp=8), {7}, "job chat: tp 1 x pp 8 x dp 1 takes 8 GPUs, the cluster has 7 left of 8"),
    ],
)
def test_place_refuses(plan: ServingPlan, taken: set[int], message: str) -> None:
    with pytest.raises(InfeasibleError, match=f"^{re.escape(message)}$"):
        place(plan, taken, 8, "chat")


# ---- layers


@pytest.mark.parametrize(
    ("pp", "expected"), [(1, [80]), (3, [27, 27, 26]), (7, [12, 12, 12, 11, 11, 11, 11]), (8, [10] * 8)]
)
def test_even_gives_the_remainder_to_the_first_stages(pp: int, expected: list[int]) -> None:
    assert layers(laid({"pp": pp}, "h200-sxm", unchecked=True)) == expected


def test_layers_can_be_given() -> None:
    assert layers(laid({"pp": 3, "layers": [30, 30, 20]}, "h100-sxm")) == [30, 30, 20]


@given(st.integers(3, 12), st.data())
def test_every_layer_is_somewhere_whatever_the_rule(pp: int, data: st.DataObject) -> None:
    types = data.draw(st.lists(st.sampled_from(["rtx4090", "rtx3090", "h100-sxm"]), min_size=pp, max_size=pp))
    for rule in ("even", "balanced"):
        found = layers(laid({"pp": pp, "layers": rule}, types, "int4", unchecked=True))
        assert sum(found) == 80
        assert min(found) >= 1


def stage_seconds(found: Layout, types: Sequence[str]) -> list[float]:
    """Time of a decode pass of each stage, with its output head."""
    times = []
    for stage in found.replicas[0]:
        card = LIBRARY.gpu(types[stage.number])
        shape = StageShape(
            model=LLAMA,
            rates=kernel_rates(card, VLLM, card.kernels or LIBRARY.default_kernels(), "int4"),
            layers=stage.layers, tp=1, head=stage.last, weight_bytes=4.15625 / 8, kv_bytes=2.0, pieces=(),
            wire_per_byte=0.0, host_per_pass=0.0, host_per_sequence=0.0, host_per_layer=0.0, mixed_penalty=1.0,
            on_chip=False, kv_reads_free=False, scale=1.0,
        )  # fmt: skip
        times.append(StageLaw(shape).cost(8, 8000).total)
    return times


def test_balanced_gives_the_faster_card_more_and_shortens_the_slowest_stage() -> None:
    types = ["rtx4090", "rtx3090", "rtx4090", "rtx3090"]
    even = laid({"pp": 4}, types, "int4")
    balanced = laid({"pp": 4, "layers": "balanced"}, types, "int4")
    a, b, c, d = layers(balanced)
    assert a > b
    assert c > d
    assert a >= c  # the last stages' share shrinks by the output head
    assert b > d
    assert max(stage_seconds(balanced, types)) < 0.97 * max(stage_seconds(even, types))


def test_balanced_on_equal_cards_only_makes_room_for_the_head() -> None:
    """In FP16 the head is worth .31 of a layer, in INT4 1.2: a layer moves away from the last stage."""
    assert layers(laid({"pp": 8, "layers": "balanced"})) == [10] * 8
    *others, last = layers(laid({"pp": 8, "layers": "balanced"}, "rtx4090", "int4"))
    assert last == 9
    assert sum(others) == 71


def test_balanced_respects_memory_before_speed() -> None:
    """By bandwidth an RTX 5090 beside an M2 Ultra would take 55 layers; its memory holds 33 of them."""
    found = laid({"pp": 2, "layers": "balanced"}, ["rtx5090", "m2-ultra"], "fp8")
    by_speed = 80 * 1792 / (1792 + 800)
    room = 0.9 * 33.8e9 - 1.24e9 - 2 * LLAMA.embedding_parameters
    held = int(room // LLAMA.layer_parameters)
    assert layers(found) == [held, 80 - held]
    assert held == 33 < by_speed


def test_balanced_by_the_slowest_rank_of_a_group() -> None:
    mixed = laid({"tp": 2, "pp": 2, "layers": "balanced"}, ["rtx4090", "rtx3090", "rtx4090", "rtx4090"], "int4")
    assert layers(mixed)[0] < layers(mixed)[1] + 3
    assert [sorted(s.memory) for s in mixed.replicas[0]] == [["rtx3090", "rtx4090"], ["rtx4090"]]


# ---- memory


def test_the_poorest_gpu_of_any_stage_sets_the_tokens() -> None:
    found = laid({"pp": 8})
    budgets = [m.kv_budget for s in found.replicas[0] for m in s.memory.values()]
    assert found.tokens == (int(min(budgets) // 40960) // 16 * 16,)  # whole blocks
    assert budgets[0] == budgets[7] < budgets[3]  # tables weigh on both ends


def test_replicas_on_different_gpus_hold_different_caches() -> None:
    model = LIBRARY.model("llama-3-8b")
    found = laid({"dp": 2}, ["rtx4090", "h100-sxm"], model=model)
    assert found.tokens[0] < found.tokens[1]


# ---- refusals


def test_shapes_that_do_not_divide() -> None:
    assert str(refusal({"tp": 6}, "h100-sxm")) == (
        "job chat: tp 6 does not divide the 64 attention heads of llama-2-70b; the nearest that does is 4"
    )
    twelve = LLAMA.model_copy(update={"id": "twelve", "heads": 96, "kv_heads": 12})
    assert str(refusal({"tp": 8}, "h100-sxm", model=twelve)) == (
        "job chat: tp 8 does not divide the 12 KV heads of twelve"
    )
    assert str(refusal({"tp": 16}, "h100-sxm", model=twelve)) == (
        "job chat: tp 16 is not a multiple of the 12 KV heads of twelve"
    )
    assert str(refusal({"pp": 81}, "h100-sxm")) == (
        "job chat: pp 81 is more stages than the 80 layers of llama-2-70b"
    )
    assert str(refusal({"pp": 2, "layers": [40, 41]}, "h100-sxm")) == (
        "job chat: the stages hold 81 layers together, llama-2-70b has 80"
    )


def test_too_little_memory_is_refused_with_the_budget() -> None:
    error = refusal({"pp": 4})
    assert error.message.startswith("job chat: llama-2-70b with fp16 weights does not fit: a GPU needs 36")
    assert "22.7 GB of 25.2 GB may be used" in error.message
    assert error.budget[0][:4] == ("stage", "gpu", "layers", "capacity")
    assert len(error.budget) == 1 + 4
    assert all(row[-1].startswith("-") for row in error.budget[1:])


def on_cards_of(usable_memory: float) -> Layout:
    """LLaMA-2 70B over eight equal cards of this size."""
    card = LIBRARY.gpu("rtx4090").model_copy(update={"usable_memory": usable_memory})
    return lay_out("chat", LLAMA, VLLM, ServingPlan(pp=8), ServingPrecision(), range(8), lambda g: card)


def test_a_cache_smaller_than_a_block_is_refused_unless_unchecked() -> None:
    """What is left after weights and runtime must hold one block of 16 tokens."""
    stages = laid({"pp": 8}).replicas[0]
    need = max(m.weights + m.embeddings + m.reserve for s in stages for m in s.memory.values())
    assert on_cards_of((need + 17 * 40960) / 0.9).tokens[0] >= 16
    with pytest.raises(InfeasibleError, match="what is left holds no block of KV cache"):
        on_cards_of((need + 15 * 40960) / 0.9)
    assert laid({"pp": 6, "layers": [13, 13, 14, 14, 13, 13]}, "rtx4090", unchecked=True).tokens == (0,)


def test_weights_must_fit_even_if_the_cache_is_not_checked() -> None:
    """An assumption about the cache does not make 35 GB of weights fit on a card of 24 GB."""
    with pytest.raises(InfeasibleError, match="does not fit"):
        laid({"pp": 4}, unchecked=True)


def test_budget_rows_name_every_gpu_type_of_a_stage() -> None:
    rows = budget_rows(laid({"tp": 2, "pp": 2}, ["rtx4090", "rtx3090"] * 2, "int4").replicas[0])
    assert [row[:3] for row in rows[1:]] == [
        ("0", "rtx4090", "40"), ("0", "rtx3090", "40"), ("1", "rtx4090", "40"), ("1", "rtx3090", "40"),
    ]  # fmt: skip


# ---- mixtures of experts


DEEPSEEK = LIBRARY.model("deepseek-v3")


def test_the_first_layers_are_the_plain_ones_wherever_they_lie() -> None:
    assert mixture_layers(DEEPSEEK, (61,)) == (58,)
    assert mixture_layers(DEEPSEEK, (31, 30)) == (28, 30)
    assert mixture_layers(DEEPSEEK, (2, 2, 57)) == (0, 1, 57)
    assert mixture_layers(LLAMA, (40, 40)) == (0, 0)


@pytest.mark.parametrize("pp", [1, 2, 4, 8])
def test_stages_of_a_mixture_hold_the_whole_model(pp: int) -> None:
    found = laid({"tp": 8, "pp": pp}, "h200-sxm", "bf16" if pp > 1 else "fp8", model=DEEPSEEK).replicas[0]
    assert sum(stage.mixture for stage in found) == 58
    held = sum(8 * (m.weights + m.embeddings) for stage in found for m in stage.memory.values())
    repeated = 7 * 61 * 7168 * (1536 + 512 + 64)  # the ways down to latents, and the routers, are on every rank
    bytes_each = 2 if pp > 1 else 1
    tables = 2 * DEEPSEEK.embedding_parameters
    routers = 58 * 7168 * 256
    expected = bytes_each * (DEEPSEEK.parameters - tables - routers + repeated) + 2 * tables + 2 * 8 * routers
    assert held == pytest.approx(expected, rel=1e-9)


def test_balanced_counts_plain_layers_as_what_they_are_worth() -> None:
    """Three layers of 0.58 GB weigh as much as one twentieth of a layer of 11.5 GB each: the first stage has more."""
    found = laid({"tp": 8, "pp": 2, "layers": "balanced"}, "h200-sxm", "fp8", model=DEEPSEEK).replicas[0]
    assert [stage.layers for stage in found] == [32, 29]
    assert abs(found[0].mixture - found[1].mixture) <= 1
    with_all = laid({"pp": 2, "tp": 2, "layers": "balanced"}, "h100-sxm", model=LIBRARY.model("mixtral-8x7b"))
    assert layers(with_all) == [16, 16]


def test_ranks_must_have_as_many_experts() -> None:
    assert "ep 3 does not divide the 8 experts of mixtral-8x7b; the nearest below that does is 2" in str(
        refusal({"tp": 3, "ep": 3, "attention": "data"}, "h100-sxm", model=LIBRARY.model("mixtral-8x7b"))
    )
    assert "tp 3 does not divide the 128 attention heads" in str(refusal({"tp": 3}, "h100-sxm", model=DEEPSEEK))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"tp": 8, "ep": 4}, "it is 8 (tp) or 1"),
        ({"tp": 8, "attention": "data"}, "attention: data needs experts that are spread"),
        ({"tp": 8, "expert_imbalance": 1.2}, "it needs ep as tp, above 1"),
        ({"tp": 2, "ep": 2, "expert_imbalance": 3}, "expert_imbalance is at most 2 (ep)"),
    ],
)
def test_plans_of_experts_that_contradict_themselves(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServingPlan.model_validate(plan)
    assert message in str(caught.value)
