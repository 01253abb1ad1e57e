"""Whole models on this machine's card in plain PyTorch, as tables that `sim validate` predicts.

`sim calibrate --gpu` measures single kernels; this measures what they add up to: a token, a prompt and a training step
of decoder-only transformers with random weights. Run on a machine with a GPU and PyTorch:

    python benchmarks/card_models.py serving OUT/card_serving.csv --gpu "H100 SXM 80GB"
    python benchmarks/card_models.py training OUT/card_training.csv --gpu H100-SXM
    sim validate OUT/card_serving.csv OUT/card_training.csv

Serving is measured twice: `graphs`, with compiled blocks and a pass replayed from a CUDA graph, as engines do, and
`eager`, one kernel after the other from Python. A token is measured at the middle of its answer (a pass's time is
linear in the context), with its logits and the choice of the likeliest token. Training is a plain loop with compiled
blocks, autocast to bf16 over fp32 weights, and fused AdamW. Each is repeated for seconds, until the card runs as fast
as its power allows; notes tell the watts (of its energy counter), the clock, and the time of the first calls from rest.
"""

from __future__ import annotations

import argparse
import csv
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import torch
import torch._dynamo
import torch.nn.functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

torch._dynamo.config.recompile_limit = 64
Tensor = torch.Tensor


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer with a gated MLP."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads


LLAMA_7B = Shape("LLaMA 7B", 32, 4096, 32, 32, 11008, 32000)
LLAMA_13B = Shape("LLaMA 13B", 40, 5120, 40, 40, 13824, 32000)
LLAMA_8B = Shape("LLaMA v3.1 8B", 32, 4096, 32, 8, 14336, 128256)
TINY_1B = Shape("TinyLlama 1.1B", 22, 2048, 32, 4, 5632, 32000)
LLAMA_1B = Shape("Llama 3.2 1B", 16, 2048, 32, 8, 8192, 128256)
SHAPE_3B = Shape("3B", 26, 3072, 24, 24, 8192, 32000)

#: (model, sequences, prompt, answer, eager too)
TOKENS = (
    (LLAMA_7B, 1, 512, 512, True), (LLAMA_7B, 8, 512, 512, False), (LLAMA_7B, 32, 512, 512, False),
    (LLAMA_7B, 128, 128, 128, False), (LLAMA_7B, 8, 3584, 512, False),
    (LLAMA_13B, 1, 512, 512, True), (LLAMA_13B, 32, 512, 512, False), (LLAMA_13B, 8, 3584, 512, False),
    (LLAMA_8B, 1, 512, 512, True), (LLAMA_8B, 8, 512, 512, True), (LLAMA_8B, 32, 512, 512, False),
    (LLAMA_8B, 64, 1024, 512, False), (LLAMA_8B, 128, 1024, 512, True), (LLAMA_8B, 256, 512, 512, False),
    (LLAMA_8B, 16, 7680, 512, False),
)  # fmt: skip
#: (model, sequences, tokens)
PROMPTS = (
    (LLAMA_7B, 1, 512), (LLAMA_7B, 1, 2048), (LLAMA_7B, 4, 1024), (LLAMA_13B, 1, 512), (LLAMA_13B, 1, 2048),
    (LLAMA_8B, 1, 128), (LLAMA_8B, 1, 512), (LLAMA_8B, 1, 2048), (LLAMA_8B, 1, 8192), (LLAMA_8B, 8, 1024),
)  # fmt: skip
#: (model, tokens a sequence, micro-batch, micro-batches a step, recomputation, compiled)
STEPS = (
    (TINY_1B, 2048, 4, 1, "none", True), (TINY_1B, 2048, 4, 4, "none", True), (TINY_1B, 2048, 16, 1, "full", True),
    (TINY_1B, 8192, 1, 1, "none", True), (LLAMA_1B, 2048, 4, 1, "none", True), (LLAMA_1B, 4096, 4, 1, "full", True),
    (SHAPE_3B, 2048, 1, 4, "none", True), (SHAPE_3B, 2048, 4, 1, "full", True), (TINY_1B, 2048, 4, 1, "none", False),
)  # fmt: skip
#: Seconds of rest before a measurement, of its first calls, of warming up and of what counts.
REST, FIRST, WARM, SUSTAINED = 0.2, 0.1, 0.5, 1.0
#: Calls that wait in line at once.
IN_LINE = 2

pynvml.nvmlInit()
CARD = pynvml.nvmlDeviceGetHandleByIndex(0)


# ---- one layer


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm, summed in fp32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of (tokens, heads, width)."""
    left, right = x.chunk(2, -1)
    return torch.cat((left * cos - right * sin, left * sin + right * cos), -1)


def before(x: Tensor, w: dict[str, Tensor], cos: Tensor, sin: Tensor, width: int, kv: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of (tokens, hidden)."""
    mixed = F.linear(norm(x, w["norm1"]), w["qkv"])
    query, key, value = mixed.split((mixed.shape[-1] - 2 * kv * width, kv * width, kv * width), -1)
    query, key, value = (query.unflatten(-1, (-1, width)), key.unflatten(-1, (-1, width)),
                         value.unflatten(-1, (-1, width)))  # fmt: skip
    return rotate(query, cos, sin), rotate(key, cos, sin), value


def after(x: Tensor, attended: Tensor, w: dict[str, Tensor]) -> Tensor:
    """The rest of a layer."""
    x = x + F.linear(attended, w["out"])
    gate, up = F.linear(norm(x, w["norm2"]), w["up"]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["down"])


def weights(shape: Shape, dtype: torch.dtype, *, train: bool = False) -> list[dict[str, Tensor]]:
    """Random weights of every layer."""

    def random(*size: int) -> Tensor:
        return (torch.randn(*size, device="cuda", dtype=dtype) * 0.02).requires_grad_(train)

    kv = shape.kv_heads * shape.head
    return [
        {
            "norm1": torch.ones(shape.hidden, device="cuda", dtype=dtype).requires_grad_(train),
            "qkv": random(shape.hidden + 2 * kv, shape.hidden), "out": random(shape.hidden, shape.hidden),
            "norm2": torch.ones(shape.hidden, device="cuda", dtype=dtype).requires_grad_(train),
            "up": random(2 * shape.ffn, shape.hidden), "down": random(shape.hidden, shape.ffn),
        }
        for _ in range(shape.layers)
    ]  # fmt: skip


def angles(shape: Shape, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions, (tokens, 1, half a head)."""
    half = shape.head // 2
    rates = 10_000.0 ** (-torch.arange(half, device="cuda") / half)
    turned = positions[:, None, None].float() * rates
    return turned.cos().to(dtype), turned.sin().to(dtype)


# ---- serving


class Server:
    """A model that answers."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.layers = weights(shape, torch.bfloat16)
        self.embedding = torch.randn(shape.vocabulary, shape.hidden, device="cuda", dtype=torch.bfloat16)
        self.head = torch.randn(shape.vocabulary, shape.hidden, device="cuda", dtype=torch.bfloat16) * 0.02
        self.last = torch.ones(shape.hidden, device="cuda", dtype=torch.bfloat16)

    def token(self, sequences: int, context: int, run: Run) -> Callable[[], Tensor]:
        """A pass of one token for each sequence at a context."""
        shape = self.shape
        caches = [
            [torch.randn(sequences, shape.kv_heads, context, shape.head, device="cuda", dtype=torch.bfloat16)
             for _ in range(2)]
            for _ in self.layers
        ]  # fmt: skip
        cos, sin = angles(shape, torch.full((sequences,), context - 1, device="cuda"), torch.bfloat16)
        ids = torch.randint(shape.vocabulary, (sequences,), device="cuda")
        grouped = shape.kv_heads != shape.heads

        def play() -> Tensor:
            x = self.embedding[ids]
            for w, (keys, values) in zip(self.layers, caches, strict=True):
                query, key, value = run.before(x, w, cos, sin, shape.head, shape.kv_heads)
                keys[:, :, -1], values[:, :, -1] = key, value
                attended = F.scaled_dot_product_attention(query.unsqueeze(2), keys, values, enable_gqa=grouped)
                x = run.after(x, attended.reshape(sequences, shape.hidden), w)
            return F.linear(norm(x, self.last), self.head).argmax(-1)

        return play

    def prompt(self, sequences: int, tokens: int, run: Run) -> Callable[[], Tensor]:
        """A pass of whole prompts, to their first token."""
        shape = self.shape
        cos, sin = angles(shape, torch.arange(tokens, device="cuda").repeat(sequences), torch.bfloat16)
        ids = torch.randint(shape.vocabulary, (sequences * tokens,), device="cuda")
        ends = torch.arange(1, sequences + 1, device="cuda") * tokens - 1
        caches = [torch.empty(sequences, 2, shape.kv_heads, tokens, shape.head, device="cuda", dtype=torch.bfloat16)
                  for _ in self.layers]  # fmt: skip
        grouped = shape.kv_heads != shape.heads

        def heads_first(x: Tensor) -> Tensor:
            return x.unflatten(0, (sequences, tokens)).transpose(1, 2)

        def play() -> Tensor:
            x = self.embedding[ids]
            for w, cache in zip(self.layers, caches, strict=True):
                query, key, value = map(heads_first, run.before(x, w, cos, sin, shape.head, shape.kv_heads))
                cache[:, 0], cache[:, 1] = key, value
                attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
                x = run.after(x, attended.transpose(1, 2).reshape(sequences * tokens, shape.hidden), w)
            return F.linear(norm(x[ends], self.last), self.head).argmax(-1)

        return play


@dataclass(frozen=True)
class Run:
    """How layers are run."""

    before: Callable[..., tuple[Tensor, ...]]
    after: Callable[..., Tensor]


EAGER = Run(before, after)


@dataclass(frozen=True)
class Reading:
    """A measured call: seconds of one, the card's watts and clock meanwhile, and seconds of the first few from rest."""

    seconds: float
    watts: float
    megahertz: int
    at_first: float

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.watts:.0f} W; {self.megahertz} MHz; {1e3 * self.at_first:.3f} ms from rest"


def replayed(play: Callable[[], object]) -> Reading:
    """A pass that is replayed from a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            play()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        play()
    return sustained(graph.replay)


def sustained(call: Callable[[], object], warm: int = 1) -> Reading:
    """A call again and again until the card is as warm and as slow as its power allows, by the host's clock."""
    for _ in range(warm):
        call()
    torch.cuda.synchronize()
    time.sleep(REST)
    first = _timed(call, FIRST)
    _timed(call, WARM)
    begun = pynvml.nvmlDeviceGetTotalEnergyConsumption(CARD), time.perf_counter()
    steady = _timed(call, SUSTAINED)
    joules = (pynvml.nvmlDeviceGetTotalEnergyConsumption(CARD) - begun[0]) / 1e3
    watts = joules / (time.perf_counter() - begun[1])
    call()
    clock = pynvml.nvmlDeviceGetClockInfo(CARD, pynvml.NVML_CLOCK_SM)
    torch.cuda.synchronize()
    return Reading(statistics.median(steady), watts, clock, statistics.median(first))


def _timed(call: Callable[[], object], span: float) -> list[float]:
    """Seconds of each call until a span is over, three at least; a short call waits in line behind another, so that
    the host's way to the card is not in its time."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < span:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(IN_LINE):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / IN_LINE)
    return times


def serving(gpu: str) -> Iterator[dict[str, object]]:
    """Rows of servings."""
    compiled = Run(torch.compile(before), torch.compile(after))
    for shape in dict.fromkeys(shape for shape, *_ in (*TOKENS, *PROMPTS)):
        server = Server(shape)
        for model, sequences, isl, osl, eager in TOKENS:
            if model is not shape:
                continue
            for version in ("graphs", "eager")[: 1 + eager]:
                run, clock = (compiled, replayed) if version == "graphs" else (EAGER, sustained)
                yield from measured(
                    lambda n=sequences, i=isl, o=osl, r=run, c=clock, s=server: c(s.token(n, i + o // 2, r)),
                    row(gpu, shape, version, sequences, isl, osl, "tpot"),
                )
        for model, sequences, tokens in PROMPTS:
            if model is shape:
                yield from measured(
                    lambda n=sequences, t=tokens, s=server: replayed(s.prompt(n, t, compiled)),
                    row(gpu, shape, "graphs", sequences, tokens, 1, "ttft"),
                )
        del server
        clean()


def row(gpu: str, shape: Shape, version: str, sequences: int, isl: int, osl: int, metric: str) -> dict[str, object]:
    """A row of the table of servings without its value."""
    return {
        "id": named(gpu, shape.name, version, f"{sequences}x{isl}+{osl}", metric),
        "source": "benchmarks/card_models.py", "model": shape.name, "weights": "bf16", "kv_dtype": "bf16", "gpu": gpu,
        "n_gpus": 1, "interconnect": "", "tp": 1, "pp": 1, "engine": "PyTorch",
        "version": f"{version} {torch.__version__}",
        "quality": "A" if version == "graphs" else "C",  # of Python's pace another host tells little
        "mode": "static_batch", "batch": sequences, "isl": isl,
        "osl": osl, "metric": metric, "unit": "ms", "scope": "system",
    }  # fmt: skip


# ---- training


class Trainer:
    """A model that learns."""

    def __init__(self, shape: Shape, recompute: str, compiled: bool) -> None:
        torch._dynamo.reset()
        self.shape, self.recompute = shape, recompute
        self.layers = weights(shape, torch.float32, train=True)
        self.embedding, self.head = (
            (torch.randn(shape.vocabulary, shape.hidden, device="cuda") * 0.02).requires_grad_() for _ in range(2)
        )
        self.last = torch.ones(shape.hidden, device="cuda").requires_grad_()
        every = [self.embedding, self.head, self.last, *(part for w in self.layers for part in w.values())]
        self.optimizer = torch.optim.AdamW(every, lr=1e-4, fused=True)
        make: Callable[..., Any] = torch.compile if compiled else lambda call, **_: call
        self.layer = make(self._layer, dynamic=False)
        self.loss = make(self._loss, dynamic=False)

    def _layer(self, x: Tensor, w: dict[str, Tensor], cos: Tensor, sin: Tensor) -> Tensor:
        shape, (sequences, tokens, _) = self.shape, x.shape
        flat = x.reshape(sequences * tokens, -1)
        parts = before(flat, w, cos, sin, shape.head, shape.kv_heads)
        query, key, value = (p.unflatten(0, (sequences, tokens)).transpose(1, 2) for p in parts)
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=shape.kv_heads != shape.heads
        )
        return after(flat, attended.transpose(1, 2).reshape(sequences * tokens, -1), w).view_as(x)

    def _loss(self, x: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(norm(x, self.last), self.head)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def step(self, tokens: int, micro_batch: int, micro_batches: int) -> Callable[[], None]:
        """A step of the optimizer."""
        shape = self.shape
        ids = torch.randint(shape.vocabulary, (micro_batch, tokens + 1), device="cuda")
        positions = torch.arange(tokens, device="cuda").repeat(micro_batch)
        cos, sin = angles(shape, positions, torch.bfloat16)

        def play() -> None:
            for _ in range(micro_batches):
                with torch.autocast("cuda", torch.bfloat16):
                    x = F.embedding(ids[:, :-1], self.embedding).to(torch.bfloat16)
                    for w in self.layers:
                        if self.recompute == "full":
                            x = checkpoint(self.layer, x, w, cos, sin, use_reentrant=False)
                        else:
                            x = self.layer(x, w, cos, sin)
                    loss = self.loss(x, ids[:, 1:]) / micro_batches
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return play


def training(gpu: str) -> Iterator[dict[str, object]]:
    """Rows of training steps."""
    for shape, tokens, micro_batch, micro_batches, recompute, compiled in STEPS:
        kind = "compiled" if compiled else "eager"
        yield from measured(
            lambda s=shape, r=recompute, c=compiled, t=tokens, m=micro_batch, n=micro_batches: sustained(
                Trainer(s, r, c).step(t, m, n), 3
            ),
            {
                "table": "card_models", "source": "benchmarks/card_models.py",
                "id": named(gpu, shape.name, f"{tokens}x{micro_batch}x{micro_batches}", recompute, kind),
                "framework": f"PyTorch loop, {kind}", "task": "pretrain", "model": shape.name, "hidden": shape.hidden,
                "layers": shape.layers, "heads": shape.heads, "kv_heads": shape.kv_heads, "ffn": shape.ffn,
                "mlp_mats": 3, "vocab": shape.vocabulary, "seq_len": tokens, "precision": "amp_bf16", "gpu": gpu,
                "n_gpus": 1, "gpus_per_node": 1, "tp": 1, "pp": 1, "dp": 1, "sharding": "none",
                "micro_batch": micro_batch, "global_batch": micro_batch * micro_batches, "recompute": recompute,
                "quality": "A",
            },
        )  # fmt: skip


# ---- the command


def measured(measure: Callable[[], Reading], found: dict[str, object]) -> Iterator[dict[str, object]]:
    """The row with its time; what fails is told and left out."""
    torch.cuda.reset_peak_memory_stats()
    try:
        read = measure()
    except Exception as error:  # one case that does not fit must not cost the others
        print(f"{found['id']}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr, flush=True)
        if not isinstance(error, torch.cuda.OutOfMemoryError):
            traceback.print_exc(limit=-3)
    else:
        free, total = torch.cuda.mem_get_info()
        print(f"{found['id']}: {1e3 * read.seconds:.3f} ms; {read.told}", file=sys.stderr, flush=True)
        if "metric" in found:
            yield {**found, "value": f"{1e3 * read.seconds:.4f}", "notes": read.told}
        else:
            allocated = torch.cuda.max_memory_allocated()
            yield {
                **found, "step_time_s": f"{read.seconds:.6f}", "mem_gb": f"{(total - free) / 2**30:.3f}",
                "notes": f"{allocated / 2**30:.3f} GiB allocated at most; {read.told}",
            }  # fmt: skip
    clean()


def named(*parts: str) -> str:
    """An id of a row."""
    return "-".join(("card", *parts)).replace(" ", "-").lower()


def clean() -> None:
    """Give back what no one holds."""
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    """Measure, and write the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("serving", "training"))
    parser.add_argument("table", type=Path)
    parser.add_argument("--gpu", required=True, help="the card, as tables call it")
    asked = parser.parse_args()
    torch.manual_seed(1)
    torch.set_grad_enabled(asked.what == "training")
    with asked.table.open("w", newline="") as file:
        writer = None
        for found in (serving if asked.what == "serving" else training)(asked.gpu):
            if writer is None:
                writer = csv.DictWriter(file, list(found), lineterminator="\n")
                writer.writeheader()
            writer.writerow(found)
            file.flush()


if __name__ == "__main__":
    main()
