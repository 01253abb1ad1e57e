"""Better hardware is never worse, worse hardware never better.

Laws and closed forms are monotone (their own tests say so). A whole schedule has anomalies, because a change
of speed changes who shares a pass with whom: there a 2% band over several loads.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest

from .helpers import only, scenario, simulate, tokens_per_s, topology, toy

BAND = 0.02
VARIED = {
    "prompt_tokens": {"lognormal": {"median": 200, "p90": 600, "max": 1500}},
    "output_tokens": {"lognormal": {"median": 60, "p90": 200, "max": 500}},
}
HOME = {
    "plan": {"pp": 8},
    "precision": {"weights": "int4"},
    "batching": {"max_batched_tokens": 64},
    "load": {"closed_loop": {"clients": 30, "ramp": "10 s"}, "requests": 80, **VARIED},
}
SERVER = {"plan": {"tp": 8}, "load": {"closed_loop": {"clients": 100, "ramp": "2 s"}, "requests": 400, **VARIED}}


def home(network: dict[str, str] | None = None, gpu: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    described = scenario(topology("home_8x4090_10gbe"), deepcopy(HOME), seed=seed)
    described["cluster"]["network"] = network or {}
    described["define"] = {"gpus": {"rtx4090": {"like": "rtx4090", **(gpu or {})}}}
    return described


def server(gpu: dict[str, Any] | None = None, seed: int = 0, **define: Any) -> dict[str, Any]:
    gpus = {"h100-sxm": {"like": "h100-sxm", **(gpu or {})}}
    return scenario(topology("dgx_h100_8"), deepcopy(SERVER), seed=seed, define={"gpus": gpus, **define})


def rates(cases: list[dict[str, Any]]) -> list[float]:
    """Tokens a second of whole runs, so that no choice of a measured window comes between."""
    found = []
    for case in cases:
        recording = simulate(case).recording
        found.append(sum(recording.jobs[0].table.output) / recording.end)
    return found


def rising(values: list[float]) -> bool:
    return all(b >= a * (1 - BAND) for a, b in pairwise(values))


BANDWIDTHS = [{"memory_bandwidth": f"{b} GB/s"} for b in (500, 1000, 2000, 4000)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_memory_bandwidth_never_lowers_saturated_throughput(seed: int) -> None:
    piped = rates([home(gpu=gpu, seed=seed) for gpu in BANDWIDTHS])
    grouped = rates([server(gpu=gpu, seed=seed) for gpu in BANDWIDTHS])
    for values in (piped, grouped):
        assert rising(values)
        assert values[-1] > 1.3 * values[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_arithmetic_never_lowers_saturated_throughput(seed: int) -> None:
    values = rates([server(gpu={"flops": {"fp16": f"{f} TFLOPS"}}, seed=seed) for f in (100, 300, 989, 3000)])
    assert rising(values)
    assert values[-1] > 1.3 * values[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_slower_network_never_raises_throughput(seed: int) -> None:
    by_rate = rates([home({"bandwidth": f"{b} Mbps"}, seed=seed) for b in (100, 500, 1000, 10_000)])
    by_latency = rates([home({"latency": f"{t} ms"}, seed=seed) for t in (50, 5, 1, 0.05)])
    by_overhead = rates([home({"message_overhead": f"{t} ms"}, seed=seed) for t in (20, 3, 0.3, 0)])
    for values in (by_rate, by_latency, by_overhead):
        assert rising(values)
        assert values[-1] > 1.2 * values[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_slower_nvlink_never_raises_throughput(seed: int) -> None:
    links = [{"nvlink4": {"like": "nvlink4", "bandwidth": f"{b} GB/s"}} for b in (20, 100, 450)]
    values = rates([server(seed=seed, links=link) for link in links])
    assert rising(values)
    assert values[-1] > 1.3 * values[0]


@pytest.mark.parametrize("admission", ["preempt", "reserve"])
def test_a_larger_cache_never_lowers_throughput_and_holds_more_at_once(admission: str) -> None:
    found = []
    for gigabytes in (0.6, 1.0, 2.0, 4.0):
        job = {"load": {"closed_loop": {"clients": 64}, "requests": 300, **VARIED}}
        outcome = simulate(toy(job, gpu={"usable_memory": f"{gigabytes} GB"}, stack={"admission": admission}))
        found.append(only(outcome.result).metrics)
    assert rising([m.output_tokens_per_s for m in found])
    assert rising([m.batch_size_mean for m in found])
    assert found[-1].output_tokens_per_s > 1.5 * found[0].output_tokens_per_s
    blocked = [m.kv_blocked_fraction for m in found]
    assert blocked == sorted(blocked, reverse=True)
    assert blocked[-1] == 0.0


def test_a_higher_rate_never_shortens_the_wait() -> None:
    waits = []
    for rate in (5, 20, 40, 80):
        load = {"poisson": {"rate": f"{rate} req/s"}, "requests": 300, **VARIED}
        job = {"plan": {"tp": 8}, "batching": {"max_sequences": 24}, "load": load}
        queue = only(simulate(scenario(topology("dgx_h100_8"), job)).result).metrics.queue_s.mean
        assert queue is not None
        waits.append(queue)
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0]


def chain(latency: str) -> float:
    """Tokens a second of one user on a chain of eight home GPUs over the internet (Petals-like)."""
    node = {"name": "peer", "count": 8, "gpus": [{"type": "rtx4090"}], "nics": [{"link": "home-internet-fibre"}]}
    cluster = {"topology": {"name": "peers", "nodes": [node]}, "network": {"latency": latency}}
    load = {"closed_loop": {"clients": 1}, "prompt_tokens": 32, "output_tokens": 40, "requests": 2}
    job = {"plan": {"pp": 8}, "load": load}
    tpot = only(simulate(scenario(cluster, job)).result).metrics.tpot_s.mean
    assert tpot is not None
    return tpot


def test_latency_of_every_hop_adds_up_in_a_chain() -> None:
    """Eight hops a token: 8 x 10 ms more for 10 ms more a hop, and so on."""
    found = {ms: chain(f"{ms} ms") for ms in (0, 10, 50, 100)}
    for ms, tpot in found.items():
        assert tpot - found[0] == pytest.approx(8 * ms * 1e-3, abs=1e-9)
    assert found[0] < found[10] < found[50] < found[100]


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"memory_bandwidth": "2 TB/s"}, True),
        ({"flops": {"fp16": "200 TFLOPS"}}, False),  # decoding at batch 1 is bound by memory
        ({"usable_memory": "20 GB"}, False),  # nothing waits for KV
    ],
)
def test_what_binds_moves_the_answer_and_what_does_not_does_not(change: dict[str, Any], moves: bool) -> None:
    job = {"load": {"closed_loop": {"clients": 1}, "prompt_tokens": 1, "output_tokens": 100, "requests": 3}}
    before, after = (tokens_per_s(simulate(toy(job, gpu=gpu))) for gpu in ({}, change))
    assert (after > 1.5 * before) == moves
    assert moves or after == pytest.approx(before, rel=1e-3)
