"""A card whose times are known gives them back: units, calls in a graph, memory that rotates, and what is not there."""

from __future__ import annotations

from typing import Any

import pytest

from sim.adapters.gpu_meter import CALLS, REPLAYS, ROTATE, open_meter
from sim.errors import InputError

from .fake_torch import fake_torch

LAWS = {
    "product": lambda m, n, k, width: 1e-6 + m * n * k * width * 1e-15, "copy": lambda size: 2e-6 + size / 1e12,
    "attention": lambda batch, tokens, heads, causal: 3e-6 + batch * tokens * heads * (2 if causal else 1) * 1e-9,
}  # fmt: skip


def meter(**kwargs: Any) -> Any:
    torch = fake_torch(LAWS, **kwargs)
    return open_meter(lambda _: torch), torch


def test_times_are_of_one_call_in_seconds() -> None:
    card, _ = meter()
    assert card.product(8, 4096, 4096, narrow=False) == pytest.approx(LAWS["product"](8, 4096, 4096, 2))
    assert card.product(16, 4096, 4096, narrow=True) == pytest.approx(LAWS["product"](16, 4096, 4096, 1))
    assert card.attention(4, 2048, 8, prefill=True) == pytest.approx(LAWS["attention"](4, 2048, 8, True))
    assert card.attention(4, 2048, 8, prefill=False) == pytest.approx(LAWS["attention"](4, 2048, 8, False))
    assert card.copy(1 << 20) == pytest.approx(LAWS["copy"](1 << 20))


def test_operands_rotate_through_more_than_a_cache() -> None:
    card, torch = meter()
    card.copy(1 << 20)
    replays = torch.launched.count("copy")
    assert (replays - 3) / (REPLAYS + 1) * (1 << 20) >= ROTATE
    torch.launched.clear()
    card.product(1, 28672, 8192, narrow=False)
    assert torch.launched.count("product") == 3 + (REPLAYS + 1) * CALLS


def test_what_has_no_room_is_not_measured() -> None:
    card, torch = meter(memory=1e9)
    assert card.copy(1 << 30) is None
    assert card.product(1, 28672, 8192, narrow=False) is None
    assert card.attention(128, 8192, 32, prefill=False) is None
    assert torch.launched == []


def test_a_card_without_8_bit_products_has_none() -> None:
    card, torch = meter()

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0")

    torch._scaled_mm = refuse
    assert card.product(16, 4096, 4096, narrow=True) is None


def test_cards_of_another_kind_are_not_counted() -> None:
    card, torch = meter(cards=3)
    assert card.gpus == 3
    torch.cuda.get_device_name = lambda i: "NVIDIA T4" if i == 2 else "NVIDIA H100 80GB HBM3"
    assert card.gpus == 2


def test_without_pytorch_or_a_card_one_line_says_so() -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    with pytest.raises(InputError, match=r"^--gpu: measuring a card needs PyTorch, which is not installed") as caught:
        open_meter(missing)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match=r"^--gpu: no GPU here that PyTorch can use"):
        open_meter(lambda _: fake_torch(LAWS, cards=0))
