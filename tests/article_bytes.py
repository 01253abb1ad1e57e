"""Figures of the reference article on memory, arithmetic and messages of serving, each read off a run of a scenario.

Keys are rows of the project's table of the article's claims, as in :mod:`tests.article_serving`, which plays whole
servers and their price. Here are what a conversation keeps, what a pass computes and reads, and what crosses a wire.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from sim.errors import InfeasibleError
from sim.jobs.serving.replica import Stage
from sim.laws.step import Chunk
from sim.results.schema import MemoryStage
from sim.study.capacity import with_capacity

from .article import Figure, run
from .article_serving import (
    ALONE,
    ALONE_H100,
    FEW,
    FREE,
    GIGABIT,
    H100,
    HOME,
    LIBRARY,
    ONE_PROMPT,
    PIPELINE,
    SERVER,
    TCP,
    cost,
    gpu,
    hop_ms,
    kernels_ms,
    metrics,
    stage,
    tera,
    token_ms,
    transfers_ms,
)
from .helpers import shipped

MHA, A6000, UNCACHED, CARD = "kv_mha_70b", "sarathi_a6000_13b", "no_kv_cache", "single_gpu_train"
PROMPT = 4096
"""Tokens of the article's conversations."""
AS_PIPELINE = ("assume.tp_overlap=none", "jobs.0.plan={pp: 8}")
ONE_REQUEST = "jobs.0.load={{all_at_once: true, prompt_tokens: {}, output_tokens: {}, requests: 1}}"
LONGER = "jobs.0.load.prefix={tokens: 512}"
SHORT = f"jobs.0.load={{closed_loop: {{clients: 1}}, prompt_tokens: {PROMPT // 8}, output_tokens: 2, requests: 5}}"
HALF = (FREE, SHORT, LONGER)
USERS = "jobs.0.objectives={tpot_p99: 200 ms}"
SIXTEEN_KB = "cluster.network.bandwidth=1.05 Gbps"
"""The article's 128 MB/s for its 16 kB a token: 131 MB/s for the 16 KiB there are."""
HOURS_A_MONTH, TOOLS_MONTH = 720.0, 730.0
SEVEN_MONTHS = 5.95238
"""USD an hour."""


def paid_back(terms: str) -> float:
    """Months until an H100 has paid for itself."""
    found = cost(CARD, "cluster.topology.nodes.0.gpus.0.type=h100-sxm", "assume.gpu=null", terms).payback_months
    assert found is not None
    return found


def let(price: float, rent: float) -> float:
    """The same in months of 720 hours, let all the time and nothing else paid."""
    terms = f"cost={{capital: {price} USD, electricity: 0 USD/kWh, income: {{per_gpu: {rent} USD/h}}}}"
    return paid_back(terms) * TOOLS_MONTH / HOURS_A_MONTH


# ---- memory


def memory(name: str, *overrides: str) -> list[MemoryStage]:
    """Memory of each stage."""
    return run(name, *overrides).result.memory


def held(part: str, name: str = MHA, *overrides: str) -> float:
    """GB of a part of memory on all GPUs."""
    return sum(each.parts[part] * each.count for each in memory(name, *overrides)) / 1e9


def weights() -> float:
    """GB of weights with the tables of tokens."""
    return held("weights") + held("embeddings and head")


def conversation() -> float:
    """GB of the KV cache of one."""
    tokens = memory(MHA)[0].kv_tokens
    assert tokens is not None
    return held("KV cache") / tokens * PROMPT


def cards(gigabytes: float, conversations: int = 8) -> int:
    """Cards that weights and conversations take."""
    return ceil((weights() + conversations * conversation()) / gigabytes)


def fewest(name: str, most: int) -> int:
    """Tensor ranks that the scenario's model takes at least."""
    for ranks in range(1, most + 1):
        try:
            run(name, f"jobs.0.plan.tp={ranks}")
        except InfeasibleError:
            continue
        return ranks
    raise AssertionError("none does")


# ---- arithmetic


def stages() -> tuple[Stage, ...]:
    """The home design's, as they were played."""
    return run(HOME).recording.jobs[0].replicas[0].stages


def first(holds: Callable[[int], bool]) -> int:
    """The smallest number that holds."""
    return next(number for number in range(1, 2048) if holds(number))


def balanced(name: str, *overrides: str) -> int:
    """The smallest batch that arithmetic binds."""
    law = stage(name, *overrides).law
    return first(lambda batch: law.cost(batch, 0).memory == 0.0)


def intensity(tokens: int) -> float:
    """FLOP a byte of a prompt."""
    found = stage(HOME).law.cost(0, 0, [Chunk(tokens, 0)])
    return found.flops / found.bytes


def decoding(name: str, prompt: int, answer: int, *overrides: str) -> float:
    """Time of an answer against its prompt's."""
    found = metrics(name, ONE_REQUEST.format(prompt, answer + 1), *overrides)
    assert found.latency_s.mean is not None
    assert found.ttft_s.mean is not None
    return (found.latency_s.mean - found.ttft_s.mean) / found.ttft_s.mean


def first_token(*overrides: str) -> float:
    """Median time to the first token."""
    found = metrics(HOME, *HALF, *overrides).ttft_s.p50
    assert found is not None
    return found


# ---- messages


def message(batch: int) -> float:
    """Bytes to the next stage."""
    hop = stage(HOME).hop
    assert hop is not None
    return hop.size(batch, batch)


def transfers_a_token() -> float:
    """All-reduces, from the bytes that a card's link has carried."""
    played = run(SERVER, *ALONE)
    (link,) = [link for link in played.result.links if link.kind == "pcie"]
    tokens = sum(sum(served.table.output) for served in played.recording.serving)
    return link.bytes / link.count / (tokens * message(1))


def users(name: str, *overrides: str) -> int:
    """How many at once see five tokens a second."""
    outcome = run(name, USERS, *overrides)
    found = with_capacity(outcome.result, shipped(f"article/{name}", USERS, *overrides), outcome.recording)
    capacity = found.jobs[0].capacity
    assert capacity is not None
    assert capacity.clients is not None
    return capacity.clients


def budget_ms() -> float:
    """What a token's 200 ms leave for eight hops."""
    return 200.0 - token_ms(HOME, FREE, FEW)


IDEAL: dict[str, Figure] = {
    # the KV cache, as the article counts it
    "KV-01": lambda: 8 * conversation(),
    "KV-02": lambda: ceil(weights() / conversation()),
    "KV-07": lambda: 1 + (metrics(UNCACHED).recomputed_tokens or 0) / PROMPT,
    "KV-08": conversation,
    "KV-09": lambda: 32 * conversation(),
    "KV-10": lambda: message(8 * PROMPT) / 1e9,
    "KV-11": lambda: cards(80.0),
    "KV-12": lambda: cards(24.0),
    "KV-14": lambda: memory(HOME)[0].parts["weights"] / 1e9,
    "INF-05": lambda: 1024 * conversation() / held("KV cache"),
    "LM-02": lambda: fewest("../4090_2x_int4", 2),
    "LM-09": lambda: held("weights", A6000) + held("embeddings and head", A6000),
    # arithmetic and bytes
    "ROF-01": lambda: sum(each.law.cost(1, 0).flops for each in stages()) / 1e9,
    "ROF-02": lambda: sum(each.law.cost(1, 0).bytes for each in stages()) / 1e9,
    "ROF-03": lambda: intensity(128),
    "ROF-04": lambda: stage(HOME).law.shape.rates.peak / stage(HOME).law.shape.rates.bandwidth,
    "ROF-05": lambda: gpu("h100-sxm").flops.fp16 / gpu("h100-sxm").memory_bandwidth,
    "ROF-06": lambda: first(lambda tokens: stage(HOME).law.cost(0, 0, [Chunk(tokens, 0)]).memory == 0.0),
    "ROF-07": lambda: balanced(HOME),
    "ROF-08": lambda: balanced(H100, *ALONE_H100),
    "ROF-10": lambda: decoding(HOME, 512, 512, FREE, "assume.attention=free"),
    "ROF-11": lambda: decoding(A6000, 1024, 1024),
    "INF-04": lambda: kernels_ms(HOME, 1024),
    "INF-06": lambda: kernels_ms(HOME, 330),
    "BK-05": lambda: 64 / balanced(HOME),
    "BK-06": lambda: token_ms(HOME) / token_ms(SERVER, *ONE_PROMPT),
    "MEC-03": lambda: first_token("jobs.0.batching.prefix_caching=true") / first_token(),
    "MEC-04": lambda: kernels_ms(HOME, 1) / kernels_ms(HOME, 1, "jobs.0.precision.weights=int8"),
    "MEC-10": lambda: LIBRARY.model("gpt-2-xl").vocabulary * LIBRARY.model("gpt-2-xl").hidden / 1e6,
    "MEC-12": lambda: (tera("h100-sxm") / tera("v100-sxm-32gb"))
    / (gpu("h100-sxm").memory_bandwidth / gpu("v100-sxm-32gb").memory_bandwidth),
    # messages of a pipeline
    "NET-01": lambda: message(8) / 1024,
    "NET-02": lambda: 1e3 * hop_ms(SERVER, *AS_PIPELINE, batch=8),
    "NET-04": lambda: message(330) / 1e6,
    "NET-05": lambda: hop_ms(SERVER, *AS_PIPELINE),
    "NET-06": lambda: message(1) / 1024,
    "NET-07": lambda: hop_ms(HOME, TCP, batch=1),
    "NET-08": lambda: (token_ms(HOME, TCP) - token_ms(HOME, FREE, FEW)) / 8,
    "HOM-31": lambda: hop_ms(HOME, TCP, batch=1),
    "NET-14": budget_ms,
    "NET-15": lambda: budget_ms() / 8,
    "NET-16": lambda: budget_ms() / 8 / hop_ms(PIPELINE, GIGABIT, batch=1) * message(1) / 1e3,
    "NET-17": lambda: users(PIPELINE, SIXTEEN_KB),
    # messages of tensor parallelism
    "TPI-01": transfers_a_token,
    "TPI-02": lambda: 1e3 * transfers_ms(SERVER, 1, *ALONE) / 160,
    "TPI-03": lambda: transfers_ms(SERVER, 1, *ONE_PROMPT),
    "TPI-06": lambda: transfers_ms(SERVER, 330, *ALONE) / 160 * 32,
    "TPI-07": lambda: transfers_ms(SERVER, 330, *ALONE) / 160,
    "TPI-11": lambda: transfers_ms(H100, 295, *ALONE_H100, "assume.tp_volume=ring")
    / transfers_ms(H100, 295, *ALONE_H100),
    "TPI-12": lambda: transfers_ms(H100, 295, *ALONE_H100) / 160 * 450,
    "TPI-13": lambda: transfers_ms(H100, 295, *ALONE_H100) / 160,
    # prices
    "HW-03": lambda: 500_000 * (LIBRARY.price("h100-sxm").usd_high or 0.0),
    "HOM-01": lambda: cost(SERVER).capital_usd or 0.0,
    "CST-03": lambda: SEVEN_MONTHS * let(30_000, SEVEN_MONTHS) / 7,
    "CST-04": lambda: let(30_000, SEVEN_MONTHS / 2),
}

MEASURED: dict[str, Figure] = {"NET-17": lambda: users("../4090_pp_home_1gbe")}
