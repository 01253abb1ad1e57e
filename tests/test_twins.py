"""The fast path and every GPU as a process tell the same story, to nine digits, whatever the scenario.

The two modes share the laws and the scheduler and differ in everything else: when batches form, how a pass
walks through stages and links, and how seconds and bytes are summed.
"""

from __future__ import annotations

from typing import Any

import pytest

from sim.jobs.play import play
from sim.results.assemble import job_results
from sim.results.collect import device_classes

from .helpers import differences, only, resolved, scenario, simulate, topology, toy

VARIED = {
    "prompt_tokens": {"lognormal": {"median": 200, "p90": 600, "max": 1500}},
    "output_tokens": {"lognormal": {"median": 40, "p90": 120, "max": 300}},
}
LONG = {"prompt_tokens": 1500, "output_tokens": {"lognormal": {"median": 300, "p90": 900, "max": 1500}}}
HOME, HOME_1G = topology("home_8x4090_10gbe"), topology("home_8x4090_1gbe")
DGX, PCIE = topology("dgx_h100_8"), topology("server_8x4090_pcie")
H200 = topology("dgx_h200_8")
TWO_SWITCHES = topology("home_2x4_two_switches")


def poisson(rate: float, requests: int, lengths: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"poisson": {"rate": f"{rate} req/s"}, "requests": requests, **(lengths or VARIED), **more}


def closed(clients: int, requests: int, lengths: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"closed_loop": {"clients": clients, **more}, "requests": requests, **(lengths or VARIED)}


def mixed_desktops(*types: str) -> dict[str, Any]:
    nodes = [{"name": f"n{i}", "gpus": [{"type": t}], "nics": [{"link": "ethernet-10g"}]} for i, t in enumerate(types)]
    return {"topology": {"name": "mixed", "nodes": nodes, "network": {"switches": [{"name": "switch"}]}}}


def mixed_box() -> dict[str, Any]:
    node = {"name": "box", "gpus": [{"type": "rtx4090", "count": 2}, {"type": "rtx3090", "count": 2}],
            "pcie": {"link": "pcie4-x16"}, "nics": [{"link": "ethernet-10g"}]}  # fmt: skip
    return {"topology": {"name": "box", "nodes": [node]}}


#: Heads enough that decode calculates longer than it reads.
TOY_LATENT = {
    "heads": 64, "kv_heads": 64, "head_dim": 64, "kv_lora_rank": 256, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}  # fmt: skip
SMALL = {"model": "llama-3-8b"}
CACHING, UNCACHED = {"prefix_caching": True}, {"kv_cache": False}
CASES: dict[str, dict[str, Any]] = {
    "one GPU": scenario(DGX, {"load": poisson(8, 60)}, **SMALL),
    "tensor parallel": scenario(DGX, {"plan": {"tp": 8}, "load": poisson(20, 60)}),
    "tensor parallel, staged": scenario(PCIE, {"plan": {"tp": 8}, "load": poisson(1, 20)}),
    "replicas": scenario(DGX, {"plan": {"tp": 2, "dp": 4}, "precision": {"weights": "fp8"}, "load": poisson(15, 80)}),
    "static": scenario(DGX, {"plan": {"tp": 8}, "batching": {"policy": "static", "batch_size": 8},
                             "load": poisson(10, 45)}),
    "clients who think": scenario(DGX, {"plan": {"tp": 8}, "load": closed(12, 70, think_time="0.3 s", ramp="1 s")}),
    "ring, fewer micro-batches than stages": scenario(
        HOME, {"plan": {"pp": 8, "micro_batches": 3}, "batching": {"max_batched_tokens": 64}, "load": closed(9, 20)}
    ),
    "ring, more micro-batches than stages": scenario(
        HOME_1G, {"plan": {"pp": 8, "micro_batches": 12}, "batching": {"max_batched_tokens": 64},
                  "load": poisson(0.6, 20)}
    ),
    "rings side by side": scenario(
        HOME_1G, {"plan": {"pp": 4, "dp": 2}, "precision": {"weights": "int4"}, "batching": {"max_batched_tokens": 64},
                  "load": poisson(0.8, 20)}
    ),
    "static ring": scenario(
        HOME, {"plan": {"pp": 8}, "batching": {"policy": "static", "batch_size": 3}, "load": closed(8, 24)}
    ),
    "KV pressure": scenario(DGX, {"plan": {"tp": 1}, "load": closed(40, 60, LONG)}, model="llama-3-8b",
                            define={"gpus": {"h100-sxm": {"like": "h100-sxm", "usable_memory": "24 GB"}}}),
    "KV pressure in a ring": toy(
        {"plan": {"pp": 4}, "batching": {"max_batched_tokens": 256}, "load": closed(16, 24, LONG)}, gpus=4,
        gpu={"usable_memory": "0.35 GB"},
    ),
    "arrivals at a full cache while micro-batches sleep": toy(
        {"plan": {"pp": 2, "micro_batches": 4},
         "load": {"deterministic": {"rate": "100 req/s"}, "requests": 12, "prompt_tokens": 300, "output_tokens": 40}},
        gpus=2, gpu={"usable_memory": "0.2186 GB"}, stack={"links": "measured"},
    ),
    "reserve": scenario(DGX, {"plan": {"tp": 2}, "load": closed(60, 90, LONG)}, stack="trtllm"),
    "eager": scenario(DGX, {"plan": {"tp": 8}, "load": poisson(3, 20)}, stack="eager-2023"),
    "two jobs on one cable": scenario(
        TWO_SWITCHES,
        *({"plan": {"pp": 4, "placement": p}, "precision": {"weights": "int4"}, "batching": {"max_batched_tokens": 256},
           "load": closed(6, 12)} for p in ([0, 4, 1, 5], [2, 6, 3, 7])),
    ),
    "tensor groups in a pipeline": scenario(PCIE, {"plan": {"tp": 4, "pp": 2}, "load": poisson(0.5, 12)}),
    "tensor groups on NVLink in a pipeline": scenario(DGX, {"plan": {"tp": 4, "pp": 2}, "load": poisson(6, 20)}),
    "mixed cards in a pipeline": scenario(
        mixed_desktops("rtx4090", "rtx3090", "rtx4090", "rtx3090"),
        {"plan": {"pp": 4, "layers": "balanced"}, "precision": {"weights": "int4"}, "load": poisson(0.5, 12)},
    ),
    "experts sliced": scenario(DGX, {"plan": {"tp": 2}, "precision": {"weights": "fp8"}, "load": poisson(10, 40)},
                               model="mixtral-8x7b"),
    "experts spread, and latents": scenario(
        H200, {"plan": {"tp": 8, "ep": 8, "expert_imbalance": 1.3}, "precision": {"weights": "fp8"},
               "load": poisson(4, 30)}, model="deepseek-v3",
    ),
    "experts spread in a pipeline": scenario(
        PCIE, {"plan": {"tp": 4, "pp": 2, "ep": 4}, "precision": {"weights": "int4"}, "load": poisson(0.5, 12)},
        model="mixtral-8x7b",
    ),
    "experts spread over shared links": scenario(
        TWO_SWITCHES, {"plan": {"tp": 4, "dp": 2, "ep": 4, "placement": [0, 4, 1, 5, 2, 6, 3, 7]},
                       "precision": {"weights": "int4"}, "load": poisson(1, 12)}, model="mixtral-8x7b",
    ),
    "sequences by ranks": scenario(
        H200, {"plan": {"tp": 8, "ep": 8, "attention": "data"}, "precision": {"weights": "fp8"},
               "load": poisson(6, 30)}, model="deepseek-v3",
    ),
    "sequences by ranks in a pipeline": scenario(
        PCIE, {"plan": {"tp": 4, "pp": 2, "ep": 4, "attention": "data"}, "precision": {"weights": "int4"},
               "load": poisson(0.5, 12)}, model="mixtral-8x7b",
    ),
    "sequences by ranks on NVLink in a pipeline": scenario(
        H200, {"plan": {"tp": 4, "pp": 2, "ep": 4, "attention": "data"}, "precision": {"weights": "fp8"},
               "load": poisson(4, 12)}, model="deepseek-v3",
    ),
    "latents that calculate": toy({"load": poisson(5, 20)}, model=TOY_LATENT, stack={"roofline_exponent": 2.5}),
    "latents that calculate in a ring": toy({"plan": {"pp": 2}, "load": poisson(5, 12)}, model=TOY_LATENT, gpus=2),
    "mixed cards in a tensor group": scenario(mixed_box(), {"plan": {"tp": 4}, "load": poisson(3, 20)}, **SMALL),
    "prompts first": scenario(DGX, {"batching": {"policy": "prefill_first"}, "load": poisson(8, 60)}, **SMALL),
    "prompts first in a ring": toy({"plan": {"pp": 4}, "batching": {"policy": "prefill_first"},
                                    "load": closed(12, 30)}, gpus=4),
    "answers first": toy({"plan": {"pp": 2}, "batching": {"policy": "decode_first"}, "load": closed(12, 30)}, gpus=2),
    "swapped out": scenario(DGX, {"batching": {"preemption": "swap"}, "load": closed(40, 60, LONG)}, **SMALL,
                            define={"gpus": {"h100-sxm": {"like": "h100-sxm", "usable_memory": "24 GB"}}}),
    "swapped out of a ring": toy(
        {"plan": {"pp": 4}, "batching": {"max_batched_tokens": 256, "preemption": "swap"},
         "load": closed(16, 24, LONG)}, gpus=4, gpu={"usable_memory": "0.35 GB"},
    ),
    "texts in common": scenario(DGX, {"batching": CACHING, "load": poisson(
        20, 80, prefix={"tokens": 900, "variants": 6, "skew": 1})}, **SMALL),
    "texts in common at a full cache": toy(
        {"plan": {"pp": 2}, "batching": {**CACHING, "kv_offload": {"capacity": "0.2 GB"}},
         "load": closed(12, 60) | {"prefix": {"tokens": 700, "variants": 5}}}, gpus=2, gpu={"usable_memory": "0.25 GB"},
    ),
    "conversations": scenario(DGX, {"plan": {"dp": 2}, "batching": CACHING, "load": poisson(
        3, 80, conversation={"turns": {"lognormal": {"median": 3, "p90": 6}}, "think_time": "2 s"})}, **SMALL),
    "clients who converse": toy({"batching": CACHING, "load": closed(9, 60) | {"conversation": {"turns": 4}}}),
    "the least loaded replica": scenario(DGX, {"plan": {"dp": 3}, "router": "least_loaded", "load": poisson(30, 120)},
                                         **SMALL),
    "the least loaded pipeline": toy({"plan": {"pp": 2, "dp": 3}, "router": "least_loaded",
                                      "load": poisson(150, 90)}, gpus=6),
    "clients go where there is room": toy({"plan": {"dp": 3}, "router": "least_loaded",
                                           "load": closed(12, 60, think_time="0.01 s")}, gpus=3),
    "where the prompt is": scenario(DGX, {"plan": {"dp": 4}, "router": "kv_aware", "batching": CACHING, "load": poisson(
        20, 120, prefix={"tokens": 900, "variants": 12})}, **SMALL),
    "turns go round": toy({"plan": {"dp": 2}, "router": "round_robin", "batching": CACHING,
                           "load": poisson(20, 40, conversation={"turns": 3, "think_time": "0.1 s"})}, gpus=2),
    "prompts here and tokens there": toy({"plan": {"dp": 3}, "disaggregate": {"prefill": 1}, "batching": CACHING,
                                          "load": poisson(60, 60, prefix={"tokens": 300, "variants": 3})}, gpus=3),
    "pipelines for prompts and tokens": toy({"plan": {"pp": 2, "dp": 2}, "disaggregate": {"prefill": 1},
                                             "load": closed(12, 40)}, gpus=4, gpu={"usable_memory": "0.4 GB"}),
    "replicas that come and go": toy(
        {"plan": {"dp": 4}, "autoscale": {"requests": 3, "every": "0.1 s", "start_up": "0.3 s", "cool_down": "0.4 s"},
         "load": {"diurnal": {"peak": "80 req/s", "valley": "1 req/s", "period": "3 s", "peak_at": "1.5 s"},
                  "requests": 160, **VARIED}}, gpus=4),
    "batches that fill up where there is room": toy(
        {"plan": {"dp": 3}, "batching": {"policy": "static", "batch_size": 3}, "router": "least_loaded",
         "load": poisson(4, 20)}, gpus=3),
    "clients who call again at once": toy(
        {"plan": {"dp": 2}, "router": "least_loaded", "batching": {"policy": "decode_first", "max_sequences": 5},
         "load": closed(9, 60, {"prompt_tokens": 31, "output_tokens": 40})}, gpus=2),
    "clients who are refused": toy(
        {"batching": {"max_sequences": 2}, "load": closed(9, 40, VARIED | {"prompt_tokens": {
            "lognormal": {"median": 40, "p90": 900, "max": 2500}}}, ramp="0.3 s")}, model={"context": 1200}, seed=2),
    "higher priorities pass by who has no room": toy(
        {"batching": {"admission": "reserve", "max_batched_tokens": 256}, "load": {"requests": 60, "tenants": [
            {"name": "long", "poisson": {"rate": "300 req/s"}, **VARIED, "prompt_tokens": 717},
            {"name": "short", "priority": 1, "poisson": {"rate": "60 req/s"}, "prompt_tokens": 300,
             "output_tokens": 1}]}}, gpu={"usable_memory": "0.6 GB"}),
    "tensor groups for prompts and tokens": toy(
        {"plan": {"dp": 2, "tp": 2}, "disaggregate": {"prefill": 1}, "load": closed(12, 40)}, gpus=4),
    "several answers": toy({"plan": {"pp": 2}, "batching": CACHING, "load": poisson(30, 60, samples=4)}, gpus=2),
    "guesses of a draft": scenario(
        DGX, {"plan": {"tp": 4}, "speculative": {"tokens": 4, "acceptance": 0.7, "draft": "llama-3.2-1b"},
              "load": poisson(8, 40)}, model="llama-3.1-70b",
    ),
    "guesses for nothing": toy({"speculative": {"tokens": 3, "acceptance": 0.5, "draft": "ngram"},
                                "load": closed(9, 40)}),
    "guesses over experts that are spread": scenario(
        DGX, {"plan": {"tp": 8, "ep": 8}, "speculative": {"tokens": 3, "acceptance": 0.6, "draft": "ngram"},
              "load": poisson(8, 25)}, model="mixtral-8x7b",
    ),
    "adapters": scenario(DGX, {"plan": {"tp": 2}, "adapters": {"count": 64, "skew": 1}, "load": poisson(10, 40)},
                         **SMALL),
    "adapters that come and go in a ring": toy(
        {"plan": {"pp": 4}, "batching": {"max_sequences": 6}, "adapters": {"count": 30, "resident": 8, "rank": 64},
         "load": closed(9, 30)}, gpus=4, stack={"links": "measured"},
    ),
    "nothing cached": scenario(DGX, {"plan": {"tp": 8}, "batching": UNCACHED, "load": poisson(3, 30)}),
    "nothing cached in a ring": scenario(HOME, {"plan": {"pp": 8, "micro_batches": 3}, "batching": UNCACHED,
                                                "load": closed(9, 15)}),
    "nothing cached of tensor groups in a pipeline": scenario(
        PCIE, {"plan": {"tp": 4, "pp": 2}, "batching": UNCACHED, "load": poisson(0.2, 12)}
    ),
    "nothing cached, prompts first": toy({"plan": {"pp": 2}, "batching": UNCACHED | {"policy": "prefill_first"},
                                          "load": closed(9, 30)}, gpus=2),
    "nothing cached of static batches": toy({"plan": {"dp": 2}, "batching": UNCACHED | {
        "policy": "static", "batch_size": 3}, "router": "least_loaded", "load": poisson(4, 20)}, gpus=2),
    "nothing cached, launched layer by layer": scenario(
        DGX, {"plan": {"tp": 8}, "batching": UNCACHED, "load": poisson(3, 20)}, stack="eager-2023"),
    "nothing cached by ranks": scenario(
        PCIE, {"plan": {"tp": 4, "pp": 2, "ep": 4, "attention": "data"}, "precision": {"weights": "int4"},
               "batching": UNCACHED, "load": poisson(0.2, 12)}, model="mixtral-8x7b",
    ),
    "nothing cached, in halves": scenario(
        PCIE, {"plan": {"tp": 4}, "batching": UNCACHED, "load": closed(6, 12)}, model="llama-2-13b",
        assume={"tp_overlap": "double_buffer"},
    ),
    "nothing cached where replicas come and go": toy(
        {"plan": {"dp": 3}, "autoscale": {"requests": 3, "every": "0.1 s", "start_up": "0.3 s", "cool_down": "0.4 s"},
         "batching": UNCACHED | {"max_sequences": 4}, "load": poisson(20, 60)}, gpus=3),
    "nothing cached of conversations, with adapters": toy(
        {"batching": UNCACHED, "adapters": {"count": 9}, "load": closed(9, 40) | {"conversation": {"turns": 4}}}),
}  # fmt: skip


def story(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A result without the mode's own facts, its time lines (rounded to six decimals) apart."""
    for key in ("events", "detail", "run_info"):
        result.pop(key)
    return result, result.pop("timeline")


@pytest.mark.parametrize("name", CASES)
def test_both_modes_give_the_same_result(name: str) -> None:
    fast, full = simulate(CASES[name]), simulate(CASES[name], detail="full")
    assert fast.result.events <= full.result.events
    (a, lines_a), (b, lines_b) = (story(o.result.model_dump()) for o in (fast, full))
    assert list(differences(a, b, relative=1e-9, absolute=1e-12)) == []
    assert list(differences(lines_a, lines_b, relative=1e-9, absolute=1.1e-6)) == []
    tables = [o.recording.jobs[0].table for o in (fast, full)]
    assert tables[0].finish == pytest.approx(tables[1].finish, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", CASES)
def test_answers_without_charts_are_the_same(name: str) -> None:
    """To the last bit, in half the time: sweeps and re-runs keep nothing that only a chart shows."""
    drawn, bare = (play(resolved(CASES[name]), charts=charts) for charts in (True, False))
    devices = [device_classes(recording) for recording in (drawn, bare)]
    assert devices[0] == devices[1]
    whole, found = (job_results(r, d)[0] for r, d in zip((drawn, bare), devices, strict=True))
    assert [job.model_copy(update={"cdf": {}}) for job in whole] == found
    assert all(job.cdf for job in whole)
    assert not any(len(track.spans) or any(track.bins.values) for track in [*bare.tracks, *bare.channels])
    assert [c.bytes for c in bare.channels] == [c.bytes for c in drawn.channels]
    assert (bare.end, bare.events) == (drawn.end, drawn.events)


def test_the_cases_are_what_they_are_called() -> None:
    """Contention is played in detail by default, plain cases are not, and pressure pushes sequences out."""
    in_detail = {name for name, case in CASES.items() if simulate(case).recording.detailed}
    assert in_detail == {
        "two jobs on one cable", "tensor groups on NVLink in a pipeline", "mixed cards in a tensor group",
        "pipelines for prompts and tokens", "tensor groups for prompts and tokens",
        "experts spread over shared links", "sequences by ranks on NVLink in a pipeline",
    }  # fmt: skip
    for name in ("swapped out", "swapped out of a ring"):
        assert only(simulate(CASES[name]).result).metrics.preemptions > 0
    for name in ("texts in common", "conversations", "clients who converse", "several answers", "where the prompt is"):
        assert only(simulate(CASES[name]).result).metrics.prefix_hit_rate > 0.3
    assert only(simulate(CASES["texts in common at a full cache"]).result).metrics.fetched_tokens > 0
    for name in ("KV pressure", "KV pressure in a ring"):
        metrics = only(simulate(CASES[name]).result).metrics
        assert metrics.preemptions > 0
        assert metrics.recomputed_tokens > 0
    reserved = only(simulate(CASES["reserve"]).result).metrics
    assert reserved.preemptions == 0
    assert reserved.kv_blocked_fraction > 0.3
    assert resolved(CASES["eager"]).jobs[0].stack.host_per_layer > 0
