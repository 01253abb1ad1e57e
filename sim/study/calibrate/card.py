"""A card measured here, as tables of kernels in the documented formats: what ``sim calibrate --gpu`` fits.

The sweep is short (a minute on a large card): products over tokens and the shapes of 7B to 70B models, in 16 bits and
in 8 where the card has them; attention of prompts and of tokens; copies from kilobytes to a gigabyte, whose shortest is
a launch; all-reduce where there are several cards. Tables, not the entry, are what was measured: `sim calibrate` with
them again gives the same entry.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from sim.adapters.gpu_meter import Meter
from sim.adapters.nvidia_names import by_name
from sim.study.calibrate.errors import refused

#: Weights (n, k) of products: of 7B, 8B and 13B models, and of a rank of 70B in a tensor group.
WEIGHTS: Final = (
    (4096, 4096), (6144, 4096), (28672, 4096), (4096, 14336), (15360, 5120), (5120, 13824), (10240, 8192), (8192, 7168),
)  # fmt: skip
TOKENS: Final = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
#: (sequences, tokens each) of prompts, and of caches that a token reads; heads, all with keys of their own.
PROMPTS: Final = ((1, 512), (1, 1024), (1, 2048), (1, 4096), (1, 8192), (4, 1024), (8, 2048))
CACHES: Final = ((1, 4096), (1, 32768), (8, 4096), (8, 16384), (32, 2048), (32, 8192), (128, 2048))
HEADS: Final = (8, 16, 32)
COPIES: Final = tuple(1 << bits for bits in range(12, 31, 2))
REDUCED: Final = tuple(1 << bits for bits in range(10, 29, 2))
SOFTWARE: Final = "pytorch"

Hear = Callable[[str, float], None]
Row = Mapping[str, object]


def catalogue_id(meter: Meter, named: str | None) -> str:
    """The catalogue's id of the card. InputError where it is not known and not named."""
    found = by_name(meter.name)
    if named is None and len(found) != 1:
        message = f"the catalogue has no card '{meter.name}': name the entry to start from with --gpu-name"
        raise refused("--gpu", message)
    return named or found[0]


def measured_tables(meter: Meter, gpu: str, hear: Hear = lambda *_: None) -> dict[str, str]:
    """Tables by name, as CSV; of collectives only with several cards."""
    steps: list[tuple[str, Callable[[], Iterable[Row]]]] = [
        ("gemm", lambda: _products(meter, gpu)), ("attention", lambda: _attention(meter, gpu)),
        ("copies", lambda: _copies(meter, gpu)),
    ]  # fmt: skip
    if meter.gpus > 1:
        steps.append(("all_reduce", lambda: _all_reduce(meter, gpu)))
    found = {}
    for done, (name, measure) in enumerate(steps):
        rows = []
        for row in measure():
            hear(f"measuring {name}", done / len(steps))
            rows.append(row)
        found[name] = _csv(rows)
    return found


def _products(meter: Meter, gpu: str) -> Iterator[Row]:
    for dtype, narrow in (("bfloat16", False), ("fp8", True)):
        for n, k in WEIGHTS:
            for m in TOKENS[2:] if narrow else TOKENS:  # products in 8 bits want 16 tokens
                seconds = meter.product(m, n, k, narrow=narrow)
                if seconds is not None:
                    yield {"gpu": gpu, "framework": SOFTWARE, "dtype": dtype, "m": m, "n": n, "k": k, "cold": 1,
                           "quantised": 0, "latency_us": _micro(seconds)}  # fmt: skip


def _attention(meter: Meter, gpu: str) -> Iterator[Row]:
    for op, shapes in (("prefill", PROMPTS), ("decode", CACHES)):
        for heads in HEADS:
            for batch, tokens in shapes:
                seconds = meter.attention(batch, tokens, heads, prefill=op == "prefill")
                if seconds is not None:
                    yield {"gpu": gpu, "framework": SOFTWARE, "op": op, "batch_size": batch, "s": tokens,
                           "num_heads": heads, "kv": heads, "latency_us": _micro(seconds)}  # fmt: skip


def _copies(meter: Meter, gpu: str) -> Iterator[Row]:
    for size in COPIES:
        seconds = meter.copy(size)
        if seconds is not None:
            yield {"gpu": gpu, "framework": SOFTWARE, "copied_bytes": size, "latency_us": _micro(seconds)}


def _all_reduce(meter: Meter, gpu: str) -> Iterator[Row]:
    sizes = [members for members in (2, 4, 8) if members <= meter.gpus]
    for members in sizes:
        for size in REDUCED:
            seconds = meter.all_reduce(members, size)
            yield {"gpu": gpu, "n_gpus": members, "bytes": size, "time_ns_in_place": round(seconds * 1e9)}


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.4f}"


def _csv(rows: Sequence[Row]) -> str:
    """The rows under the columns of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["gpu"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
