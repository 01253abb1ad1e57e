"""From a recording to the parts of a Result: energy, cost, links and time lines of a run known by heart.

One request of a token a pass on the toy GPU: each pass reads the weights, 0.405 ms, and does nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest

from sim.run import Outcome

from ..helpers import only, scenario, simulate, topology, toy

FREE_POWER = {"electricity": "0 USD/kWh"}
PASS = (16 * 12 * 2**20 * 2 + 2 * 1000 * 1024) / 1e12


def single(**keys: Any) -> Outcome:
    load = {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 200, "requests": 1}
    return simulate(toy({"load": load}, assume={"kv_reads": "free"}, **keys))


def test_one_gpu_reads_its_weights_all_the_time() -> None:
    result = single().result
    (device,) = result.devices
    assert result.simulated_s == pytest.approx(200 * PASS, rel=1e-3)
    assert device.busy == pytest.approx(1.0)
    assert device.pass_s == pytest.approx(PASS, rel=1e-3)
    assert device.bandwidth_utilisation == pytest.approx(1.0, rel=1e-3)
    products, attention = 2 * (16 * 12 * 2**20 + 1000 * 1024), 16 * 4 * 1024 * 100  # a mean context of 100 tokens
    assert device.flops_utilisation == pytest.approx((products + attention) / (PASS * 100e12), rel=2e-3)
    assert device.energy_j == pytest.approx(100 * result.simulated_s)
    assert device.ledger["memory-bound"] == pytest.approx(result.simulated_s, rel=1e-6)
    assert set(result.timeline.devices["job0.s0"][:-1]) == {1.0}


MEASURED_POWER = {"running": "20 W", "per_tb_per_s": "30 W", "per_tflops": "0.5 W", "origin": "measured", "source": "x"}


@pytest.mark.parametrize("tdp", [100, 45])
def test_a_gpu_draws_what_its_bytes_and_arithmetic_take(tdp: int) -> None:
    """Never more than its board's power; nothing else changes."""
    plain = single(cost={"capital": "1 USD"} | FREE_POWER).result
    result = single(cost={"capital": "1 USD"} | FREE_POWER, gpu={"power": MEASURED_POWER, "tdp": f"{tdp} W"}).result
    (device,) = result.devices
    drawn = 20 + 30 * device.bandwidth_utilisation * 1.0 + 0.5 * device.flops_utilisation * 100.0
    assert 45 < drawn < 100
    assert device.energy_j == pytest.approx(min(drawn, tdp) * result.simulated_s)
    assert result.cost is not None
    assert plain.cost is not None
    assert result.cost.power_w == pytest.approx(min(drawn, tdp) + 120)  # 120 W of desktop
    assert plain.cost.power_w == pytest.approx(100 + 120)
    assert result.metrics == plain.metrics


def test_a_gpu_that_waits_draws_its_idle_power_meanwhile() -> None:
    load = {"deterministic": {"rate": "1 req/s"}, "prompt_tokens": 1, "output_tokens": 200, "requests": 20}
    result = simulate(toy({"load": load}, assume={"kv_reads": "free"}, gpu={"power": MEASURED_POWER})).result
    (device,) = result.devices
    assert 0.0 < device.busy < 0.5
    moved = 30 * device.bandwidth_utilisation + 0.5 * device.flops_utilisation * 100
    waiting = result.simulated_s * (1 - device.busy)
    assert device.energy_j == pytest.approx(
        10 * waiting + 20 * device.busy * result.simulated_s + moved * result.simulated_s, rel=1e-6
    )


def test_cost_of_a_run() -> None:
    """26,280 USD over three years are 1 USD an hour; 100 W of GPU and 120 W of desktop at 0.5 USD/kWh are 0.11."""
    cost = {"capital": "26280 USD", "electricity": "0.5 USD/kWh", "hosting": "0.2 USD/h"}
    bill = single(cost=cost).result.cost
    assert bill is not None
    assert bill.breakdown_usd_per_hour == pytest.approx({"capital": 1.0, "electricity": 0.11, "hosting": 0.2})
    assert bill.usd_per_hour == pytest.approx(1.31)
    assert bill.power_w == pytest.approx(220)
    tokens = 1 / PASS
    assert bill.usd_per_million_tokens == pytest.approx(1.31 / (tokens * 3600) * 1e6, rel=2e-3)
    assert bill.tokens_per_usd == pytest.approx(tokens * 3600 / 1.31, rel=2e-3)
    assert bill.kwh_per_million_tokens == pytest.approx(0.220 / 3600 / tokens * 1e6, rel=2e-3)


def test_jobs_share_the_bill_by_their_gpus_and_carry_the_unused() -> None:
    load = {"all_at_once": True, "prompt_tokens": 10, "output_tokens": 20, "requests": 4}
    jobs = [{"plan": {"tp": tp}, "precision": {"weights": "int4"}, "load": load} for tp in (4, 2)]
    cost = {"rental": {"per_gpu": "3 USD/h"}}
    result = simulate(scenario(topology("dgx_h100_8"), *jobs, cost=cost)).result
    bills = [job.cost for job in result.jobs]
    assert [bill.usd_per_hour for bill in bills if bill] == pytest.approx([8 * 3 * 4 / 6, 8 * 3 * 2 / 6])
    assert result.cost is None
    assert [job.gpus for job in result.jobs] == [4, 2]


def test_spare_gpus_draw_their_idle_power() -> None:
    result = single(gpus=2).result
    assert [d.energy_j for d in result.devices] == pytest.approx([100 * result.simulated_s, 10 * result.simulated_s])


def test_links_carry_what_the_pipeline_sends() -> None:
    """200 passes of a token: 2,048 bytes forward, four back, each out of one desktop's cable and into the other's."""
    load = {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 200, "requests": 1}
    outcome = simulate(toy({"plan": {"pp": 2}, "load": load}, gpus=2, stack={"links": "measured"}))
    (cables,) = (link for link in outcome.result.links if link.kind == "ethernet")
    assert cables.bytes == pytest.approx(200 * (2048 + 4) * 2)
    assert cables.count == 4
    carried = cables.bytes / (4 * cables.bandwidth * outcome.result.simulated_s)
    assert cables.utilisation_mean == pytest.approx(carried)


def test_memory_parts_add_up_to_the_card() -> None:
    for row in single(gpus=1).result.memory:
        assert sum(row.parts.values()) == pytest.approx(row.capacity_bytes)
        assert row.parts["KV cache"] == row.kv_tokens * 65536


def test_roofline_dots_lie_under_the_roof() -> None:
    load = {"poisson": {"rate": "30 req/s"}, "prompt_tokens": 300, "output_tokens": 30, "requests": 60}
    outcome = simulate(scenario(topology("dgx_h100_8"), {"plan": {"tp": 8}, "load": load}))
    dots = {dot.phase: dot for dot in outcome.result.roofline}
    assert {"decode", "mixed"} <= set(dots)
    for dot in dots.values():
        roof = min(dot.peak_flops, dot.flops_per_byte * dot.bandwidth)
        assert dot.flops_per_s <= roof
    assert dots["mixed"].flops_per_byte > dots["decode"].flops_per_byte


def test_cdfs_rise_from_the_least_to_the_largest() -> None:
    load = {"poisson": {"rate": "200 req/s"}, "prompt_tokens": 10, "output_tokens": 20, "requests": 100}
    job = only(simulate(toy({"load": load})).result)
    for points in job.cdf.values():
        values, shares = zip(*points, strict=True)
        assert list(values) == sorted(values)
        assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert job.cdf["latency_s"][50][0] == pytest.approx(job.metrics.latency_s.p50)
