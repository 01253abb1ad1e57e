"""What binds is read off the ledger; what does not is found by running again."""

from __future__ import annotations

from typing import Any

import pytest

from sim.results.schema import Effect, Result
from sim.results.verdict import HOST, binding, not_binding, ranked
from sim.run import run

from ..helpers import desktops, resolved, scenario, toy


def effect(resource: str, tokens: float, ttft: float | None = 0.0, tpot: float | None = 0.0) -> Effect:
    return Effect(resource=resource, change="x2", output_tokens_per_s=1.0, relative=tokens, ttft_p50_relative=ttft,
                  tpot_p50_relative=tpot)  # fmt: skip


def test_larger_buckets_come_first_and_small_ones_do_not_bind() -> None:
    ledger = {"memory-bound": 50.0, "compute-bound": 20.0, "communication: nvlink": 25.0, "launch and host": 5.0,
              "waiting for work": 40.0, "spare": 1000.0}  # fmt: skip
    assert binding(ledger, [], ["stable"]) == [
        "HBM bandwidth (35.7% of GPU time)",
        "network: nvlink (17.9% of GPU time)",
        "GPU arithmetic (14.3% of GPU time)",
    ]


def test_an_idle_cluster_is_bound_by_its_load_unless_overloaded() -> None:
    ledger = {"memory-bound": 10.0, "waiting for work": 90.0}
    assert binding(ledger, [], ["stable"])[0] == "the load (GPUs wait for work 90% of the time)"
    assert binding(ledger, [], ["overloaded"])[0] == "HBM bandwidth (10% of GPU time)"
    assert binding({"spare": 5.0}, [], ["stable"]) == ["nothing: no GPU worked"]


def test_what_changes_nothing_does_not_bind() -> None:
    effects = [
        effect("a", 0.004),
        effect("b", 0.5),
        effect("c", 0.0, ttft=-0.2),
        effect("d", 0.0, None, None),
        effect("e", -0.003, tpot=0.009),
    ]
    lines = not_binding(effects)
    assert [line.split()[0] for line in lines] == ["a", "d", "e"]


def test_what_binds_is_ranked_by_what_its_relief_gives() -> None:
    binds = ["KV memory (requests wait)", "HBM bandwidth (50% of GPU time)", "GPU arithmetic (20% of GPU time)",
             "pipeline bubbles (20% of GPU time)"]  # fmt: skip
    effects = [effect("memory capacity", 0.1), effect("memory bandwidth", 0.4), effect("GPU arithmetic", 0.001)]
    assert ranked(binds, effects) == [
        "HBM bandwidth (50% of GPU time; memory bandwidth x2: +40.0% tok/s)",
        "KV memory (requests wait; memory capacity x2: +10.0% tok/s)",
        f"{binds[2]}, though GPU arithmetic x2 alone changes nothing", binds[3],
    ]  # fmt: skip
    slower = [effect("memory bandwidth", 0.02, tpot=-0.3)]
    assert ranked(binds[1:2], slower) == ["HBM bandwidth (50% of GPU time; memory bandwidth x2: -30.0% TPOT)"]
    assert ranked(binds, []) == binds


def whole(job: dict[str, Any], **keys: Any) -> Result:
    return run(resolved(toy(job, **keys)))


def changes(result: Result) -> dict[str, float]:
    return {e.resource: e.relative for e in result.verdict.effects}


def test_decoding_alone_is_bound_by_memory_bandwidth_alone() -> None:
    """Batch 1: twice the bandwidth is twice the tokens, and nothing else changes anything."""
    found = whole({"load": {"closed_loop": {"clients": 1}, "prompt_tokens": 1, "output_tokens": 50, "requests": 40}})
    relative = changes(found)
    assert relative.pop("memory bandwidth") == pytest.approx(1.0, rel=0.02)
    assert relative == pytest.approx(dict.fromkeys(("GPU arithmetic", "memory capacity", HOST), 0.0), abs=1e-3)
    assert found.verdict.bottleneck == "HBM bandwidth (100% of GPU time; memory bandwidth x2: +100.0% tok/s)"
    assert len(found.verdict.not_binding) == 3


def test_launches_and_host_relieve_all_that_the_ledger_counts_so() -> None:
    """One stream never waits for itself: half of a share s of its time is s / (2 - s) more tokens."""
    load = {"closed_loop": {"clients": 1}, "prompt_tokens": 1, "output_tokens": 50, "requests": 40}
    job = {"load": load}
    found = run(resolved(scenario(desktops(1, "rtx4090", "ethernet-10g"), job, model="llama-3.2-1b")))
    share = found.ledger["launch and host"] / sum(found.ledger.values())
    assert share > 0.15
    assert changes(found)[HOST] == pytest.approx(share / (2 - share), rel=0.02)


def test_a_full_cache_is_relieved_by_memory() -> None:
    load = {"closed_loop": {"clients": 64}, "prompt_tokens": 400, "output_tokens": 100, "requests": 300}
    found = whole({"load": load}, gpu={"usable_memory": "0.8 GB"})
    assert any(line.startswith("KV memory") for line in found.verdict.binding)
    assert changes(found)["memory capacity"] > 0.3


def test_slow_links_are_tried_where_they_carry_something() -> None:
    load = {"closed_loop": {"clients": 4}, "prompt_tokens": 10, "output_tokens": 20, "requests": 30}
    found = whole({"plan": {"pp": 4}, "load": load}, gpus=4, stack={"links": "measured"},
                  link={"bandwidth": "1 MB/s", "latency": "2 ms", "message_overhead": "0 s"})  # fmt: skip
    relative = changes(found)
    assert relative["network latency"] > 0.2
    assert relative["network bandwidth"] > 0.2
    assert "network bandwidth" not in changes(whole({"load": load}))


def test_assumed_rates_are_doubled_too() -> None:
    load = {"closed_loop": {"clients": 1}, "prompt_tokens": 1, "output_tokens": 50, "requests": 40}
    found = whole({"load": load}, assume={"gpu": {"memory_bandwidth": "0.5 TB/s"}})
    assert changes(found)["memory bandwidth"] == pytest.approx(1.0, rel=0.02)


def test_saturation_says_what_the_hardware_could_do() -> None:
    """A server that decodes 2 requests at a time in the time of one, asked for a tenth of that."""
    load = {"poisson": {"rate": "10 req/s"}, "prompt_tokens": 1, "output_tokens": 50, "requests": 60}
    cost = {"capital": "26280 USD", "electricity": "0 USD/kWh"}
    found = whole({"batching": {"max_sequences": 2}, "load": load}, assume={"kv_reads": "free"}, cost=cost)
    assert found.cost is not None
    assert found.cost.saturation is not None
    pass_s = (16 * 12 * 2**20 * 2 + 2 * 1000 * 1024) / 1e12
    top = found.cost.saturation
    assert top.output_tokens_per_s == pytest.approx(2 / pass_s, rel=0.03)
    assert top.usd_per_million_tokens == pytest.approx(1e6 / (top.output_tokens_per_s * 3600))
