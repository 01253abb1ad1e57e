"""The reference article's arithmetic on paper: the ideal stack and visible assumptions must reproduce it.

Row numbers are those of the project's table of the article's claims. Where the article rounds or slips, the
recomputed value counts; 3% covers its two roundings of a message (16 kB or 16 KiB a token).
"""

from __future__ import annotations

from typing import Any

import pytest

from sim.adapters.lookup import Library
from sim.jobs.serving.replica import Stage
from sim.laws.arrange import layouts, topology_of
from sim.laws.step import Chunk, StageLaw

from .helpers import only, played, resolved, scenario, simulate, topology

LIBRARY = Library()
ARTICLE = {"parameters": 70e9, "kv_capacity": "unchecked", "kv_reads": "free", "tp_volume": "one_copy"}
ARTICLE_4090 = {"gpu": {"flops": "330 TFLOPS", "memory_bandwidth": "1.000 TB/s"}}


def stages(name: str) -> tuple[Stage, ...]:
    return played(name).recording.jobs[0].replicas[0].stages


def home_laws() -> list[StageLaw]:
    return [stage.law for stage in stages("4090_pp_home_ideal")]


def mean_ms(batch: int) -> float:
    """Mean stage time of a decode pass in the home design, in milliseconds."""
    return sum(law.cost(batch, 0).total for law in home_laws()) / 8 * 1e3


def tensor_parallel(cluster: str, batch: int, **assume: Any) -> float:
    """Seconds a token of ``batch`` users in lock step on eight GPUs."""
    load = {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 64, "requests": batch}
    job = {"plan": {"tp": 8}, "batching": {"max_sequences": batch}, "load": load}
    outcome = simulate(scenario(topology(cluster), job, stack="ideal", assume=ARTICLE | assume))
    tpot = only(outcome.result).metrics.tpot_s.mean
    assert tpot is not None
    return tpot


# ---- roofline


def test_ridge_points() -> None:
    """ROF-04, ROF-05: 330 and 295 FLOP a byte."""
    h100 = LIBRARY.gpu("h100-sxm")
    assert h100.flops.fp16 / h100.memory_bandwidth == pytest.approx(295, rel=0.003)
    rates = home_laws()[0].shape.rates
    assert rates.peak / rates.bandwidth == pytest.approx(330)


def test_home_stage_reads_its_weights_in_17_and_a_half_ms() -> None:
    """INF-01: 2 x 70e9 / 8 bytes at 1 TB/s; the run's own mean pass says so too."""
    assert mean_ms(1) == pytest.approx(17.5, rel=0.001)
    passes = [d.pass_s for d in played("4090_pp_home_ideal").result.devices]
    assert len(passes) == 8
    assert sum(p for p in passes if p) / 8 * 1e3 == pytest.approx(17.5, rel=0.001)


def test_home_token_takes_140_ms() -> None:
    """INF-02, INF-03: eight stages in turn, 7 tokens a second for each user; 10 GbE adds little."""
    metrics = only(played("4090_pp_home_ideal").result).metrics
    assert metrics.tpot_s.mean == pytest.approx(0.140, rel=0.005)
    assert metrics.tokens_per_s_per_user == pytest.approx(7.14, rel=0.005)


def test_batch_1024_takes_54_ms_of_arithmetic() -> None:
    """INF-04."""
    assert mean_ms(1024) == pytest.approx(54.303, rel=0.001)
    assert all(law.cost(1024, 0).memory == 0.0 for law in home_laws()[:7])


def test_both_roofs_meet_at_batch_330() -> None:
    """INF-06, ROF-07: 17.5 ms from either side; flat below, linear above."""
    assert mean_ms(330) == pytest.approx(17.5, rel=0.001)
    assert mean_ms(165) == pytest.approx(17.5, rel=0.001)
    assert mean_ms(660) == pytest.approx(35.0, rel=0.001)
    law = home_laws()[0]
    assert law.cost(329, 0).compute == 0.0
    assert law.cost(331, 0).memory == 0.0


def test_decode_costs_200_times_prefill_a_token_on_an_a6000() -> None:
    """ROF-11 (SARATHI): at batch 1, LLaMA 13B; attention within the prompt adds a little to the prompt's side."""
    job = {"load": {"all_at_once": True, "prompt_tokens": 512, "output_tokens": 2, "requests": 1}}
    node = {"name": "box", "gpus": [{"type": "rtxa6000"}]}
    described = scenario({"topology": {"name": "box", "nodes": [node]}}, job, model="llama-2-13b", stack="ideal")
    (stage,) = simulate(described).recording.jobs[0].replicas[0].stages
    ratio = stage.law.cost(1, 0).total / (stage.law.cost(0, 0, [Chunk(1024, 0)]).total / 1024)
    assert ratio == pytest.approx(201.6, rel=0.05)


# ---- capacity


def prompts_that_fit(gpu: str, gigabytes: int, cluster: str, plan: dict[str, int], kv_heads: int) -> int:
    """Prompts of 4,096 tokens whose KV fits beside 140 GB of weights, nothing kept back."""
    define = {
        "gpus": {gpu: {"like": gpu, "usable_memory": f"{gigabytes} GB"}},
        "models": {"llama-2-70b": {"like": "llama-2-70b", "kv_heads": kv_heads}},
    }
    job = {"plan": plan, "load": {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 1, "requests": 1}}
    found = resolved(
        scenario(topology(cluster), job, stack="ideal", define=define, assume={"parameters": 70e9})
    )
    return layouts(found, topology_of(found))[0].tokens[0] // 4096


@pytest.mark.parametrize(("kv_heads", "prompts"), [(8, 38), (64, 4)])
def test_eight_4090_hold_38_prompts(kv_heads: int, prompts: int) -> None:
    """ROF-07: 52 GB beside the weights; 4 with multi-head attention."""
    assert prompts_that_fit("rtx4090", 24, "server_8x4090_pcie", {"tp": 8}, kv_heads) == prompts


@pytest.mark.parametrize(("kv_heads", "prompts"), [(8, 372), (64, 46)])
def test_eight_h100_hold_372_prompts(kv_heads: int, prompts: int) -> None:
    """ROF-08: 500 GB beside the weights."""
    found = prompts_that_fit("h100-sxm", 80, "dgx_h100_8", {"tp": 8}, kv_heads)
    assert found == pytest.approx(prompts, abs=1)


def test_kv_exceeds_the_weights_at_batch_14() -> None:
    """KV-02: 10.7 GB a prompt of 4,096 tokens with multi-head attention."""
    a_prompt = 2 * 80 * 64 * 128 * 2 * 4096
    assert a_prompt == pytest.approx(10.737e9, rel=1e-4)
    assert 13 * a_prompt < 140e9 < 14 * a_prompt


def test_what_a_cache_saves() -> None:
    """KV-03 to KV-05: keys and values of 8 x 4,096 tokens, multi-head: 704 TFLOP, 8,192 for each byte that is kept."""
    model = LIBRARY.model("llama-2-70b").model_copy(update={"kv_heads": 64})
    tokens = 8 * 4096
    keys_and_values = model.attention_parameters - 2 * model.hidden**2
    saved = 2.0 * tokens * model.layers * keys_and_values
    kept = 2 * tokens * model.layers * model.cached_elements
    assert saved == pytest.approx(703.687e12, rel=1e-5)
    assert saved / kept == 8192
    assert 4096 * model.layers * keys_and_values == pytest.approx(43.9805e12, rel=1e-5)


# ---- network


def test_messages_between_stages() -> None:
    """NET-01, NET-04, NET-06: 16 KiB a token, 128 KiB for eight, 5.4 MB for 330."""
    hop = stages("4090_pp_home_ideal")[0].hop
    assert hop is not None
    sizes = [hop.size(batch, batch) for batch in (1, 8, 330)]
    assert sizes == [16 * 1024, 128 * 1024, pytest.approx(5.40672e6)]


def test_a_batch_over_one_gigabit() -> None:
    """NET-11: 330 tokens take 41 ms (the article's 5.28 MB at 128 MB/s; 43.3 in exact units)."""
    job = {"plan": {"pp": 8}, "load": {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 2, "requests": 1}}
    found = simulate(scenario(topology("home_8x4090_1gbe"), job, stack="ideal", assume=ARTICLE | ARTICLE_4090))
    hop = found.recording.jobs[0].replicas[0].stages[0].hop
    assert hop is not None
    assert hop.size(330, 330) / hop.cap == pytest.approx(43.25e-3, rel=0.001)
    assert hop.size(1, 1) / hop.cap == pytest.approx(0.131e-3, rel=0.005)  # NET-07, where the article slips


# ---- tensor parallelism


def test_h100_token_takes_6_9_ms() -> None:
    """TPI-14 to TPI-16: 5.22 ms of weights and 1.68 to 1.72 of 160 transfers at batch 295."""
    law = stages("h100_tp8_ideal")[0].law
    cost = law.cost(295, 0)
    assert cost.busy * 1e3 == pytest.approx(5.2239, rel=0.001)
    assert 1.67 < cost.communication * 1e3 < 1.73
    assert only(played("h100_tp8_ideal").result).metrics.tpot_s.mean == pytest.approx(6.9e-3, rel=0.01)


def test_batch_1_on_8x4090_takes_22_ms() -> None:
    """TPI-03 to TPI-05: 17.5 ms of weights and 160 transfers of 30 us each."""
    tpot = tensor_parallel("server_8x4090_pcie", 1, tp_latency="30 us", **ARTICLE_4090)
    assert tpot == pytest.approx(22.3e-3, rel=0.03)
    assert 1 / tpot == pytest.approx(45, rel=0.03)


def test_one_copy_is_a_visible_assumption_and_a_ring_moves_1_75() -> None:
    """TPI-11: an all-reduce among eight moves 2 x 7/8 copies."""
    one = tensor_parallel("dgx_h100_8", 295)
    ring = tensor_parallel("dgx_h100_8", 295, tp_volume="ring")
    weights = 140e9 / 8 / 3350e9
    assert (ring - weights) / (one - weights) == pytest.approx(1.75, rel=0.001)
    banners = played("h100_tp8_ideal").result.banners
    assert any("COLLECTIVES MOVE ONE COPY" in line for line in banners)


def test_more_cards_never_shorten_the_transfers() -> None:
    """TPI-11: the wire's share does not fall from two to eight cards, the weights' does."""
    shares = []
    for tp in (2, 4, 8):
        job = {"plan": {"tp": tp}, "load": {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 2, "requests": 1}}
        assume = {"parameters": 70e9, "kv_capacity": "unchecked"}
        found = simulate(scenario(topology("dgx_h100_8"), job, stack="ideal", assume=assume))
        cost = found.recording.jobs[0].replicas[0].stages[0].law.cost(295, 0)
        shares.append((cost.communication, cost.busy))
    wire, work = zip(*shares, strict=True)
    assert wire[0] <= wire[1] <= wire[2]
    assert work[0] > 1.9 * work[1] > 3.6 * work[2]
