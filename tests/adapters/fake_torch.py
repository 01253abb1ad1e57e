"""A stand-in for PyTorch on a card whose times follow known laws: what runs moves a clock, and events read it.

Kernels inside a captured graph run when it is replayed, as on a card; tensors have a shape and a width, no numbers.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

Law = Callable[..., float]


class Tensor:
    """A shape of numbers of so many bytes."""

    def __init__(self, torch: Any, shape: tuple[int, ...], width: int) -> None:
        self.torch, self.shape, self.width = torch, shape, width

    def t(self) -> Tensor:
        return Tensor(self.torch, self.shape[::-1], self.width)

    def to(self, width: int) -> Tensor:
        return Tensor(self.torch, self.shape, width)

    def copy_(self, other: Tensor) -> Tensor:
        self.torch.spend("copy", prod(other.shape) * other.width)
        return self


def fake_torch(laws: dict[str, Law], name: str = "NVIDIA H100 80GB HBM3", memory: float = 80e9, cards: int = 1) -> Any:
    """A module with what a meter uses; ``laws`` tell the seconds of product, attention, copy and all_reduce."""
    torch = types.SimpleNamespace(bfloat16=2, uint8=1, float32=4, float8_e4m3fn=1, now=0.0, captured=None, launched=[])

    def spend(kind: str, *args: Any) -> None:
        if torch.captured is not None:
            torch.captured.append((kind, args))
            return
        torch.launched.append(kind)
        torch.now += laws[kind](*args)

    class Graph:
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def replay(self) -> None:
            for kind, args in self.calls:
                spend(kind, *args)

    @contextmanager
    def graph(into: Graph) -> Iterator[None]:
        torch.captured = into.calls
        yield
        torch.captured = None

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = torch.now

        def elapsed_time(self, later: Event) -> float:
            return 1e3 * (later.at - self.at)

    def product(left: Tensor, right: Tensor, **_: Any) -> None:
        (m, k), (inner, n) = left.shape, right.shape
        assert inner == k
        spend("product", m, n, k, left.width)

    def attend(query: Tensor, keys: Tensor, values: Tensor, *, is_causal: bool) -> None:
        assert keys.shape == values.shape
        batch, heads, tokens, _ = keys.shape
        assert query.shape[2] == (tokens if is_causal else 1)
        spend("attention", batch, tokens, heads, is_causal)

    torch.spend = spend
    torch.matmul, torch._scaled_mm = product, product
    torch.randn = lambda *shape, dtype, device: Tensor(torch, shape, dtype)
    torch.empty = lambda size, dtype, device: Tensor(torch, (size,), dtype)
    torch.ones = lambda shape, device, dtype: Tensor(torch, shape, dtype)
    torch.nn = types.SimpleNamespace(functional=types.SimpleNamespace(scaled_dot_product_attention=attend))
    torch.cuda = types.SimpleNamespace(
        is_available=lambda: cards > 0, device_count=lambda: cards, get_device_name=lambda _: name,
        get_device_properties=lambda _: types.SimpleNamespace(total_memory=memory), synchronize=lambda *_: None,
        CUDAGraph=Graph, graph=graph, Event=Event,
        nccl=types.SimpleNamespace(
            all_reduce=lambda buffers: spend("all_reduce", len(buffers), 2 * buffers[0].shape[0])
        ),
    )  # fmt: skip
    return torch
