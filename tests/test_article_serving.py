"""The reference article on serving and its price comes out of the simulator, and ``docs/article.md`` says so.

``tests/data/article_serving.csv`` has, for each row of the project's table of the article's claims, the value
recomputed from the article's own premises and a verdict. Under the stack ``ideal`` and visible assumptions the
scenarios of ``scenarios/article`` must give it within 3% (:mod:`tests.article_serving`).
"""

from __future__ import annotations

import re

import pytest
import yaml

from sim.adapters.resolve import resolve_file
from sim.errors import InfeasibleError, InputError
from sim.results.schema import TrainingMetrics
from sim.run import run_recorded

from .article import Figure, run
from .article_bytes import CARD, MHA, ONE_REQUEST, SEVEN_MONTHS, UNCACHED, held, memory, paid_back, users
from .article_bytes import IDEAL as BYTES
from .article_bytes import MEASURED as MEASURED_BYTES
from .article_page import PAGE, TOLERANCE, says_what_runs_say, shows, table
from .article_serving import (
    ALONE,
    ALONE_H100,
    CLIENTS,
    H100,
    HOME,
    HOME_PRICE,
    PAIR,
    PIPELINE,
    REAL_H100,
    REAL_PAIR,
    REAL_SERVER,
    ROCE,
    SEQUENCES,
    SERVER,
    cost,
    kilowatts_for_as_much,
    metrics,
    rate,
    stage,
    token_ms,
    tokens_per_usd,
)
from .article_serving import IDEAL as SERVERS
from .article_serving import MEASURED as MEASURED_SERVERS
from .helpers import ROOT, SCENARIOS, differences, shipped

ROWS = table("article_serving")
IDEAL, MEASURED = SERVERS | BYTES, MEASURED_SERVERS | MEASURED_BYTES
MANY = (
    "jobs.0.batching.max_sequences=1024", "jobs.0.load.closed_loop.clients=1024", "jobs.0.load.requests=6144"
)  # fmt: skip


@pytest.mark.parametrize("row", IDEAL)
def test_row(row: str) -> None:
    """The ideal stack gives the recomputed value."""
    assert IDEAL[row]() == pytest.approx(float(ROWS[row]["recomputed_value"]), rel=TOLERANCE)


@pytest.mark.parametrize("row", ROWS)
def test_the_page_says_what_the_simulator_says(row: str) -> None:
    says_what_runs_say(row, ROWS[row], IDEAL, MEASURED)


def test_every_row_has_a_figure() -> None:
    assert list(ROWS) == list(IDEAL)
    assert set(MEASURED) <= set(IDEAL)


# ---- what the rows rest on


def test_double_buffering_hides_the_shorter_of_two() -> None:
    """With 330 users a half, a pass of both takes all their transfers; on H100 all their kernels."""
    assert token_ms(SERVER) == pytest.approx(2 * 27.0336, rel=1e-4)
    assert token_ms(H100) == pytest.approx(2 * 5.2239, rel=1e-4)
    assert rate(SERVER) / rate(SERVER, *ALONE) == pytest.approx(44.5336 / 27.0336, rel=1e-3)
    assert any("COLLECTIVES HIDE" in line for line in run(SERVER).result.banners)
    assert not any("COLLECTIVES HIDE" in line for line in run(SERVER, *ALONE).result.banners)


def test_a_lone_users_messages_come_in_bursts() -> None:
    """NET-10: 16 KB in every token's time, once up and once down each of eight cards; no latency, a gigabit."""
    network = "cluster.network={bandwidth: 1 Gbps, latency: 0 s}"
    played = run(HOME, network, f"{CLIENTS}1", "jobs.0.load.requests=4")
    card = next(link for link in played.result.links if "network card" in link.name)
    seconds = 16_384 / 125e6
    assert card.utilisation_mean == pytest.approx(seconds / (token_ms(HOME, network, f"{CLIENTS}1") / 1e3), rel=0.01)
    assert 1 / card.utilisation_mean == pytest.approx(1076, rel=0.01)


def test_a_token_takes_more_energy_on_4090s() -> None:
    """HOM-24: 2.3 times an H100's, on paper."""
    energy = [cost(SERVER, HOME_PRICE).kwh_per_million_tokens, cost(H100).kwh_per_million_tokens]
    assert energy == pytest.approx([0.114, 0.049], rel=0.01)
    assert energy[0] / energy[1] == pytest.approx(45 / 1.94 / 10, rel=0.01)


def test_double_buffering_is_told_alike_in_full_detail() -> None:
    """KV reads counted, so that each pass is another; prompts that share passes."""
    small = ("assume.kv_reads=counted", "jobs.0.load={closed_loop: {clients: 41, ramp: 1 s}, prompt_tokens: 300, "
             "output_tokens: 20, requests: 90}", "jobs.0.batching.max_sequences=41")  # fmt: skip
    for name in (SERVER, H100):
        fast, full = (
            run_recorded(shipped(f"article/{name}", *small), effects=False, detail=d).result.model_dump(mode="json")
            for d in ("auto", "full")
        )  # fmt: skip
        for found in (fast, full):
            del found["events"], found["detail"]
        assert list(differences(fast, full, 1e-9, 1e-9)) == []


def test_double_buffering_and_faults_do_not_mix() -> None:
    with pytest.raises(InputError, match="knows no slow links"):
        resolve_file(SCENARIOS / "article" / f"{SERVER}.yaml", ("faults={preset: llama3}",))


def test_the_batches_of_the_article_fit_no_memory() -> None:
    """CST-10, HOM-05: hundreds of conversations of 4,096 tokens; with the KV cache checked they wait or are refused."""
    long = "jobs.0.load={closed_loop: {clients: 660}, prompt_tokens: 2048, output_tokens: 2048, requests: 700}"
    checked = ("assume.kv_capacity=checked", long)
    assert run(SERVER, *checked).result.jobs[0].metrics.batch_size_mean < 60  # type: ignore[union-attr]
    with pytest.raises(InfeasibleError):
        run(SERVER, "assume.kv_capacity=checked", "stack=vllm", "model=llama-3.1-405b", "assume.parameters=null")


def test_one_copy_of_the_activations_will_do() -> None:
    """HOM-15: after the all-reduce all four GPUs hold the same."""
    one = token_ms(PAIR, "cluster.network.bandwidth=25Gbps")
    assert one == pytest.approx(66, rel=0.01)
    assert token_ms(PAIR) - one == pytest.approx(2 * 3 / 4 * 6.92, rel=0.02)


def chat(clients: int, ramp: str, requests: int) -> str:
    """As many users with prompts and answers of 512 tokens."""
    arrivals = f"closed_loop: {{clients: {clients}, ramp: {ramp}}}"
    return f"jobs.0.load={{{arrivals}, prompt_tokens: 512, output_tokens: 512, requests: {requests}}}"


#: The guide to buying takes the article's premises away one by one; the cards' own cluster comes with the sixth.
CHECKED, RING, OWN = ("assume.kv_capacity=checked", "assume.kv_reads=counted"), "assume.tp_volume=ring", "assume={}"
REAL = "cluster.topology=../../topologies/server_8x4090_pcie.yaml"
CHAT = ("assume.tp_overlap=none", f"{SEQUENCES}330", chat(330, "10 s", 1980))
CHAT_H100 = ("assume.tp_overlap=none", f"{SEQUENCES}1024", chat(1024, "10 s", 6144))
PREMISES = {
    "the article": ((), ()),
    "one batch": (ALONE, ALONE_H100),
    "prompts and answers": (CHAT, CHAT_H100),
    "the KV cache": ((*CHAT, *CHECKED), (*CHAT_H100, *CHECKED)),
    "all-reduces": ((*CHAT, *CHECKED, RING), (*CHAT_H100, *CHECKED, RING)),
    "the cards' own": ((*CHAT, OWN, REAL), (*CHAT_H100, OWN)),
    "measured": (
        (f"{SEQUENCES}330", chat(135, "100 s", 1000), OWN, REAL, "stack=vllm"), (*CHAT_H100, OWN, "stack=vllm"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("premise", PREMISES)
def test_the_guide_takes_premises_away_one_by_one(premise: str) -> None:
    """Million tokens for a dollar of the two servers."""
    lines = (ROOT / "docs" / "guide-buying.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {premise}")]
    printed = [cell.strip() for cell in line.strip("|").split("|")][1:3]
    for name, cell, overrides in zip((SERVER, H100), printed, PREMISES[premise], strict=True):
        assert shows(cell, tokens_per_usd(name, *overrides)), f"{cell}, not {tokens_per_usd(name, *overrides)}"


def test_other_numbers_of_the_page() -> None:
    """Sentences that quote a run."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    quoted = {
        r"the second makes ([\d.]+) million": rate(ROCE) * 3600 / 1e6,
        r"the third ([\d.]+) with": rate(PAIR) * 3600 / 1e6,
        r"and the first ([\d.]+) with twelve batches": IDEAL["HOM-05"]() * 3600 / 1e6,
        r"third design's ([\d.]+) million": tokens_per_usd(REAL_PAIR),
        r"takes ([\d.]+) kW for that price": kilowatts_for_as_much(REAL_PAIR, REAL_H100),
        r"are ([\d.]+) times the H100's with": tokens_per_usd(REAL_PAIR) / tokens_per_usd(REAL_H100),
        r"and ([\d.]+) times those of an H100 with": tokens_per_usd(REAL_PAIR) / tokens_per_usd(REAL_H100, *MANY),
        r"one batch at a time ([\d,]+) tokens/s": rate(SERVER, *ALONE),
        r"and ([\d.]+) million for a dollar": tokens_per_usd(SERVER, *ALONE),
    }
    for pattern, value in quoted.items():
        found = re.search(pattern, text)
        assert found is not None, pattern
        assert shows(found[1], value), f"{found[0]}: {value}"
    assert rate(SERVER, HOME_PRICE) == rate(SERVER)  # a price changes no token
    assert rate(PIPELINE) < 0.2 * IDEAL["HOM-05"]()
    assert tokens_per_usd(REAL_SERVER) < 0.05 * tokens_per_usd(SERVER)


def h100_server(price: float) -> float:
    """Tokens for a dollar of the H100 server against the 4090's, an H100 at a price."""
    rest = "{what: host and network, unit_price: 60000 USD}"
    capital = f"cost.capital=[{{what: H100, per: gpu, unit_price: {price} USD}}, {rest}]"
    return tokens_per_usd(H100, capital) / tokens_per_usd(SERVER)


def speed_on(gpu: str, *overrides: str) -> float:
    """Tokens a second of the small model's training on one card."""
    found = run(CARD, f"cluster.topology.nodes.0.gpus.0.type={gpu}", *overrides).result.metrics
    assert isinstance(found, TrainingMetrics)
    return found.tokens_per_s


def hop_us() -> float:
    """A batch of 8 to the next stage without P2P."""
    hop = stage(REAL_SERVER, "jobs.0.plan={pp: 8}").hop
    assert hop is not None
    return 1e6 * (hop.latency + hop.size(8, 8) / hop.cap)


def with_p2p() -> float:
    """Tokens a second of the measured 4090 server if its cards could reach each other."""
    described = yaml.safe_load((ROOT / "topologies" / "server_8x4090_pcie.yaml").read_text(encoding="utf-8"))
    described["nodes"][0]["p2p"] = True
    return rate(REAL_SERVER, f"cluster.topology={described}")


def answer_s(*overrides: str) -> float:
    """Seconds of 4,096 tokens without a cache."""
    found = metrics(UNCACHED, *overrides).latency_s.mean
    assert found is not None
    return found


def in_bits(weights: str) -> float:
    """GB of 70B."""
    return held("weights", MHA, f"jobs.0.precision.weights={weights}")


LET = f"income: {{per_gpu: {SEVEN_MONTHS / 2} USD/h, occupancy: 80%}}"
PAID = f"cost={{capital: 30000 USD, electricity: 0.10 USD/kWh, hosting: {{price: hosting-rack-2023}}, {LET}}}"
RENTED = "cost={rental: {price: lambda-h100-sxm-on-demand}}"
OWN_HEADS = "define.models.llama-2-70b-mha.kv_heads=8"
MEASURED_CARD = ("stack=generic", "assume={}")
LAST = ONE_REQUEST.format(4095, 2)
QUOTED: dict[str, Figure] = {
    r"datasheets have the H100 at ([\d.]+) times a 4090": lambda: speed_on("h100-sxm", "assume.gpu=null")
    / speed_on("rtx4090"),
    r"measured kernels at ([\d.]+) \(": lambda: speed_on("h100-sxm", *MEASURED_CARD)
    / speed_on("rtx4090", *MEASURED_CARD),
    r"14 months are ([\d.]+)\.": lambda: paid_back(PAID),
    r"would buy ([\d.]+) times the tokens": lambda: h100_server(4000),
    r"13\.4 USD an hour, rented on demand ([\d.]+)": lambda: cost(H100, RENTED).usd_per_hour,
    r"a token ([\d.]+) times as much": lambda: tokens_per_usd(H100) / tokens_per_usd(H100, RENTED),
    r"without a cache\": ([\d.]+) s of arithmetic": lambda: token_ms(UNCACHED, LAST) / 1e3,
    r"takes ([\d,]+) s without a cache": answer_s,
    r"without a cache and (\d+) s with it": lambda: answer_s("jobs.0.batching.kv_cache=true"),
    r"bits are ([\d.]+), ": lambda: in_bits("int4"),
    r"bits are [\d.]+, ([\d.]+) and": lambda: in_bits("int3"),
    r"bits are [\d.]+, [\d.]+ and ([\d.]+) GB": lambda: in_bits("int2"),
    r"without P2P\": ([\d.]+) us": hop_us,
    r"At 1 Gbit/s (\d+) users": lambda: users(PIPELINE, "cluster.network.bandwidth=1 Gbps"),
    r"latency a hop (\d+)\.": lambda: users(PIPELINE, "cluster.network={bandwidth: 1 Gbps, latency: 0.25 ms}"),
    r"makes (\d+) tokens/s instead": with_p2p,
    r"tokens/s instead of (\d+)": lambda: rate(REAL_SERVER),
    r"eight 4090 hold (\d+) conversations": lambda: (memory(MHA, OWN_HEADS)[0].kv_tokens or 0) // 4096,
}  # fmt: skip


@pytest.mark.parametrize("pattern", QUOTED)
def test_remarks_quote_runs(pattern: str) -> None:
    """Sentences below the tables of memory, arithmetic, messages and payback."""
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    found = re.search(pattern, text)
    assert found is not None
    assert shows(found[1], QUOTED[pattern]()), f"{found[0]}: {QUOTED[pattern]()}"


def test_where_an_h100_buys_as_much() -> None:
    """HW-04: the price at which a token costs as much on either server."""
    assert "at 24,500 USD both buy the same" in PAGE.read_text(encoding="utf-8")
    assert h100_server(24_000) > 1 > h100_server(25_000)
