"""The card at hand, measured with PyTorch: products, attention, copies, launches, all-reduce.

What is timed is captured in a CUDA graph of several calls and replayed, as engines replay their passes: the host's time
is not in it, each call's launch is. Operands rotate through more memory than the second-level cache holds, because a
model streams the weights and the cache of every layer. A time is the median of a few replays by the card's own clock.

PyTorch is no dependency: it is imported when a card is to be measured, and any module with the same few names stands in
for it. Attention is PyTorch's own (``scaled_dot_product_attention``): an engine's kernels may be faster.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, Protocol

from sim.errors import InputError, Problem

#: Calls in a graph, and replays timed.
CALLS, REPLAYS = 16, 5
#: Operands rotate through at least this many bytes, more than any second-level cache.
ROTATE: Final = 512 << 20
#: Copies of an operand at most, and the share of the card that they may take.
COPIES, SHARE = 512, 0.25
#: Seconds that an all-reduce of several GPUs is repeated for.
REPEAT: Final = 0.2
HEAD: Final = 128

Call = Callable[[], object]


class Meter(Protocol):
    """A card that can be measured. Times are in seconds of one call."""

    @property
    def name(self) -> str:
        """What its driver calls it."""

    @property
    def gpus(self) -> int:
        """Cards of the same kind in this machine."""

    def product(self, m: int, n: int, k: int, *, narrow: bool) -> float | None:
        """A product (m, k) x (k, n) in bf16, or ``narrow``: in fp8; None where the card has none, or no room."""

    def attention(self, batch: int, tokens: int, heads: int, *, prefill: bool) -> float | None:
        """Attention of one layer: of prompts, or of one token that reads them; None where there is no room."""

    def copy(self, size: int) -> float | None:
        """A copy of so many bytes within the card's memory; None where there is no room."""

    def all_reduce(self, members: int, size: int) -> float:
        """An all-reduce of so many bytes among the first cards."""


def open_meter(load: Callable[[str], Any] = importlib.import_module) -> TorchMeter:
    """This machine's first card. InputError, one line, where PyTorch or a card is missing."""
    try:
        torch = load("torch")
    except ImportError:
        message = "measuring a card needs PyTorch, which is not installed: see pytorch.org for the build of your card"
        raise InputError([Problem("--gpu", None, None, None, message)]) from None
    if not torch.cuda.is_available():
        message = "no GPU here that PyTorch can use (torch.cuda.is_available() is false)"
        raise InputError([Problem("--gpu", None, None, None, message)])
    return TorchMeter(torch)


class TorchMeter:
    """The card that PyTorch calls ``cuda:0``."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._room = SHARE * torch.cuda.get_device_properties(0).total_memory

    @property
    def name(self) -> str:
        """What its driver calls it."""
        found: str = self._torch.cuda.get_device_name(0)
        return found

    @property
    def gpus(self) -> int:
        """Cards of the first one's kind."""
        cuda = self._torch.cuda
        return sum(cuda.get_device_name(i) == self.name for i in range(cuda.device_count()))

    def product(self, m: int, n: int, k: int, *, narrow: bool) -> float | None:
        """Weights rotate; in fp8 the scales are 1, and nothing is quantised in the time."""
        copies = self._copies((1 if narrow else 2) * n * k)
        if copies is None:
            return None
        left, weights = self._random(m, k), [self._random(n, k) for _ in range(copies)]
        if not narrow:
            return self._seconds([partial(self._torch.matmul, left, w.t()) for w in weights])
        torch = self._torch
        try:
            one = torch.ones((), device="cuda", dtype=torch.float32)
            short = left.to(torch.float8_e4m3fn)
            packed = [w.to(torch.float8_e4m3fn) for w in weights]
            scaled = partial(torch._scaled_mm, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
            calls = [partial(scaled, short, w.t()) for w in packed]
            calls[0]()
        except (AttributeError, RuntimeError, TypeError):  # this card, or this PyTorch, has no such product
            return None
        return self._seconds(calls)

    def attention(self, batch: int, tokens: int, heads: int, *, prefill: bool) -> float | None:
        """Keys and values rotate."""
        copies = self._copies(2 * 2 * batch * tokens * heads * HEAD)
        if copies is None:
            return None
        query = self._random(batch, heads, tokens if prefill else 1, HEAD)
        caches = [[self._random(batch, heads, tokens, HEAD) for _ in range(2)] for _ in range(copies)]
        attend = self._torch.nn.functional.scaled_dot_product_attention
        return self._seconds([partial(attend, query, keys, values, is_causal=prefill) for keys, values in caches])

    def copy(self, size: int) -> float | None:
        """From one buffer into the next."""
        copies = self._copies(size)
        if copies is None:
            return None
        buffers = [self._torch.empty(size, dtype=self._torch.uint8, device="cuda") for _ in range(copies + 1)]
        return self._seconds([partial(into.copy_, begin) for begin, into in pairwise(buffers)])

    def all_reduce(self, members: int, size: int) -> float:
        """By NCCL from one process, again and again by the host's clock: several are on their way at once, so that the
        host's time is hidden where the cards take longer."""
        torch = self._torch
        buffers = [torch.empty(size // 2, dtype=torch.bfloat16, device=f"cuda:{i}") for i in range(members)]

        def run(times: int) -> float:
            begun = time.perf_counter()
            for _ in range(times):
                torch.cuda.nccl.all_reduce(buffers)
            for i in range(members):
                torch.cuda.synchronize(i)
            return time.perf_counter() - begun

        run(3)
        times = max(5, min(10_000, int(REPEAT / max(run(5) / 5, 1e-6))))
        return run(times) / times

    def _random(self, *shape: int) -> Any:
        return self._torch.randn(*shape, dtype=self._torch.bfloat16, device="cuda")

    def _copies(self, size: int) -> int | None:
        """How many operands of a size to rotate through; None where not even two fit."""
        wanted = max(2, min(COPIES, -(-ROTATE // max(size, 1))))
        fits = int(self._room // max(2 * size, 1))
        return min(wanted, fits) if fits >= 2 else None

    def _seconds(self, calls: Sequence[Call]) -> float:
        """Of one call: a graph of ``CALLS`` or more of them, one after the other."""
        cuda = self._torch.cuda
        ordered = [calls[i % len(calls)] for i in range(max(CALLS, len(calls)))]
        for call in ordered[:3]:
            call()
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for call in ordered:
                call()
        graph.replay()
        cuda.synchronize()
        times: list[float] = []
        for _ in range(REPLAYS):
            begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            begin.record()
            graph.replay()
            end.record()
            cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / len(ordered))
        return statistics.median(times)
