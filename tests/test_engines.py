"""What today's engines do: policies, priorities and tenants, routers, prompts and tokens on replicas of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.errors import InfeasibleError, InputError
from sim.probe import with_saturation
from sim.run import run_recorded
from sim.study.capacity import with_capacity

from .helpers import only, resolved, scenario, simulate, topology, toy

LENGTHS = {"prompt_tokens": {"lognormal": {"median": 400, "p90": 1600, "max": 6000}},
           "output_tokens": {"lognormal": {"median": 60, "p90": 200, "max": 500}}}  # fmt: skip


def load(rate: float, requests: int = 150, **more: Any) -> dict[str, Any]:
    return {"poisson": {"rate": f"{rate} req/s"}, "requests": requests, **LENGTHS, **more}


def metrics(job: dict[str, Any], **facts: Any) -> Any:
    return only(simulate(toy(job, **facts)).result).metrics


def table(job: dict[str, Any], **facts: Any) -> Any:
    return simulate(toy(job, **facts)).recording.jobs[0].table


# ---- policies


def test_prompts_first_have_their_first_tokens_sooner_and_the_others_wait_for_theirs() -> None:
    asked = load(80)
    found = {
        policy: metrics({"batching": {"policy": policy}, "load": asked})
        for policy in ("continuous", "prefill_first", "decode_first")
    }
    ttft = {policy: m.ttft_s.p50 for policy, m in found.items()}
    assert ttft["prefill_first"] < ttft["continuous"] < ttft["decode_first"]
    gaps = {policy: m.inter_token_s.p99 for policy, m in found.items()}
    assert gaps["prefill_first"] > gaps["continuous"] > gaps["decode_first"]


def test_gaps_of_sequences_that_sit_passes_out_add_up_to_their_time() -> None:
    """Latency is TTFT and the sum of the gaps between tokens, whatever the policy and the way it is played."""
    for policy in ("prefill_first", "decode_first"):
        for plan in ({}, {"pp": 2}):
            for detail in ("auto", "full"):
                case = toy({"plan": plan, "batching": {"policy": policy}, "load": load(60, 80)}, gpus=2)
                job = simulate(case, detail=detail).recording.jobs[0]
                spans = sum(end - first for first, end in zip(job.table.first, job.table.finish, strict=True))
                gaps = job.replicas[0].scheduler.gaps
                assert gaps.number == sum(job.table.output) - len(job.table)
                assert gaps.total == pytest.approx(spans)


def test_small_pieces_of_prompts_let_tokens_through() -> None:
    """Chunked prefill: the slowest gaps shrink, and throughput does not."""
    asked = load(70, prompt_tokens=3000)
    whole, pieces = (metrics({"batching": {"prefill_chunk": n}, "load": asked}) for n in (8192, 256))
    assert pieces.inter_token_s.p99 < whole.inter_token_s.p99 / 2
    assert pieces.output_tokens_per_s > 0.95 * whole.output_tokens_per_s


def test_swapping_computes_nothing_again_and_pays_for_its_copies() -> None:
    """A slower way to the host makes it slower, a fast one better than computing again."""
    job: dict[str, Any] = {
        "batching": {"max_batched_tokens": 512}, "load": {"closed_loop": {"clients": 24}, "requests": 60, **LENGTHS}
    }  # fmt: skip
    small = {"usable_memory": "0.9 GB"}
    found = {}
    for preemption in ("recompute", "swap"):
        job["batching"]["preemption"] = preemption
        found[preemption] = metrics(job, gpu=small)
    assert found["recompute"].preemptions > 0
    assert found["recompute"].recomputed_tokens > 0
    assert found["swap"].preemptions > 0
    assert found["swap"].recomputed_tokens == 0


def test_admission_may_set_aside_what_the_stack_would_not() -> None:
    job: dict[str, Any] = {"load": {"closed_loop": {"clients": 24}, "requests": 60, **LENGTHS}}
    small = {"usable_memory": "0.9 GB"}
    assert metrics(job, gpu=small).preemptions > 0
    job["batching"] = {"admission": "reserve"}
    assert metrics(job, gpu=small).preemptions == 0


# ---- tenants and priorities

BULK = {"name": "bulk", "poisson": {"rate": "60 req/s"}, "prompt_tokens": 1500, "output_tokens": 40}
CHAT = {"name": "chat", "poisson": {"rate": "15 req/s"}, "prompt_tokens": 100, "output_tokens": 20,
        "objectives": {"ttft_p99": "50 ms"}}  # fmt: skip


def two(chat: int = 0, **facts: Any) -> Any:
    tenants = [BULK, CHAT | {"priority": chat}]
    case = toy({"load": {"tenants": tenants, "requests": 200}}, gpu={"usable_memory": "1.2 GB"}, **facts)
    return simulate(case)


def test_tenants_have_their_own_lengths_rates_and_objectives() -> None:
    outcome = two()
    job = only(outcome.result)
    bulk, chat = job.tenants
    rows = outcome.recording.jobs[0].table
    assert {p for p, t in zip(rows.prompt, rows.tenant, strict=True) if t == 0} == {1500}
    assert {p for p, t in zip(rows.prompt, rows.tenant, strict=True) if t == 1} == {100}
    assert rows.tenant.count(1) == pytest.approx(200 * 15 / 75, abs=12)
    assert bulk.measured_requests + chat.measured_requests == job.metrics.measured_requests
    total = bulk.output_tokens_per_s + chat.output_tokens_per_s
    assert total == pytest.approx(job.metrics.output_tokens_per_s)
    assert [row["name"] for row in job.objectives] == ["chat ttft_p99"]
    assert bulk.slo_attainment is None


def test_a_higher_priority_is_served_first_at_the_cost_of_the_others() -> None:
    (bulk, chat), (bulk_after, first) = (only(two(chat=p).result).tenants for p in (0, 1))
    assert first.ttft_s.p99 < chat.ttft_s.p99 / 2
    assert bulk_after.ttft_s.p99 > bulk.ttft_s.p99
    assert first.slo_attainment > chat.slo_attainment


def test_a_tenant_alone_is_the_load_alone() -> None:
    """One tenant's requests are those of its load, drawn from streams of its own."""
    one = toy({"load": {"tenants": [BULK], "requests": 60}})
    rows = simulate(one).recording.jobs[0].table
    assert rows.prompt == [1500] * 60
    assert np.diff(rows.arrival).mean() == pytest.approx(1 / 60, rel=0.4)


@pytest.mark.parametrize(("wrong", "told"), [
    ({"tenants": [BULK, BULK], "requests": 9}, "two tenants are called bulk"),
    ({"tenants": [BULK]}, "requests is missing"),
    ({"tenants": [BULK], "requests": 9, "prompt_tokens": 4}, "leave prompt_tokens out"),
    ({"tenants": [{"name": "x", "prompt_tokens": 4, "output_tokens": 4}], "requests": 9}, "not none"),
    ({**load(1), "samples": 2, "conversation": {"turns": 2}}, "samples"),
])  # fmt: skip
def test_a_wrong_load_is_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved(toy({"load": wrong}))
    assert told in str(caught.value)


# ---- routers


def test_looking_at_the_replicas_is_better_than_taking_turns() -> None:
    waits = {
        router: np.mean([
            metrics({"plan": {"dp": 4}, "router": router, "batching": {"max_sequences": 1}, "load": load(55, 200)},
                    gpus=4, seed=seed).queue_s.mean
            for seed in range(3)
        ])
        for router in ("sticky", "least_loaded")
    }  # fmt: skip
    assert waits["least_loaded"] < 0.6 * waits["sticky"]


def test_a_router_that_knows_the_caches_finds_more_in_them() -> None:
    asked = load(60, 200, prefix={"tokens": 1000, "variants": 24})
    job = {"plan": {"dp": 4}, "batching": {"prefix_caching": True}, "load": asked}
    hits = {
        router: metrics(job | {"router": router}, gpus=4).prefix_hit_rate
        for router in ("round_robin", "least_loaded", "kv_aware")
    }
    assert hits["kv_aware"] > 1.15 * max(hits["round_robin"], hits["least_loaded"])


def test_turns_of_a_conversation_stay_only_where_they_are_told_to() -> None:
    asked = load(20, 60, conversation={"turns": 4, "think_time": "50 ms"})
    for router, stays in (("sticky", True), ("round_robin", False)):
        rows = table({"plan": {"dp": 3}, "router": router, "load": asked}, gpus=3)
        assert all(rows.replica[r] == rows.replica[after] for r, (after, _) in rows.follow.items()) == stays


# ---- prompts and tokens apart

APART = {"plan": {"dp": 2}, "disaggregate": {"prefill": 1}}


def test_every_prompt_goes_over_the_network_once() -> None:
    """Bytes handed over are the prompts' tokens times what a token's KV cache takes: 2 x 16 layers x 1024 x 2 B."""
    outcome = simulate(toy(APART | {"load": load(20, 60)}, gpus=2))
    rows = outcome.recording.jobs[0].table
    prompts = sum(p for p, o in zip(rows.prompt, rows.output, strict=True) if o > 1)
    found = only(outcome.result).metrics
    assert found.kv_transfer_bytes == prompts * 2 * 16 * 1024 * 2
    assert found.completed_requests == 60
    for replica in outcome.recording.jobs[0].replicas:
        assert replica.scheduler.free == replica.scheduler.limits.blocks
        assert replica.scheduler.running == 0


def test_one_request_alone_takes_its_prompt_the_way_and_its_tokens() -> None:
    """TTFT is that of a plain replica, and the answer is later by the time of the transfer."""
    asked = {"deterministic": {"rate": "1 req/s"}, "requests": 3, "prompt_tokens": 1000, "output_tokens": 50}
    plain, apart = metrics({"load": asked}), metrics(APART | {"load": asked}, gpus=2)
    assert apart.ttft_s.mean == pytest.approx(plain.ttft_s.mean)
    assert apart.latency_s.mean == pytest.approx(plain.latency_s.mean + apart.kv_transfer_s)
    assert apart.kv_transfer_s > 1000 * 2 * 16 * 1024 * 2 / 32e9


def test_tokens_are_not_held_up_by_prompts_elsewhere() -> None:
    asked = load(30, 120, prompt_tokens=3000)
    mixed = metrics({"plan": {"dp": 2}, "load": asked}, gpus=2)
    apart = metrics(APART | {"load": asked}, gpus=2, gpu={"pcie": "pcie5-x16"})
    assert apart.inter_token_s.p50 < mixed.inter_token_s.p90


# ---- replicas that come and go

SWING = {"diurnal": {"peak": "120 req/s", "valley": "2 req/s", "period": "4 s", "peak_at": "2 s"}, "requests": 300,
         **LENGTHS, "prompt_tokens": 3000}  # fmt: skip


def scaled(start_up: str = "0.2 s", **keys: Any) -> dict[str, Any]:
    rule = {"requests": 3, "every": "0.1 s", "start_up": start_up, "cool_down": "0.5 s", **keys}
    return {"plan": {"dp": 4}, "autoscale": rule, "load": SWING}


def test_requests_go_only_to_replicas_that_are_on() -> None:
    job = simulate(toy(scaled(), gpus=4)).recording.jobs[0]
    spells = [*job.fleet.spells, *((k, since, float("inf")) for k, since in job.fleet._since.items())]
    for r, k in enumerate(job.table.replica):
        start_up = 0.0 if k == 0 else 0.2
        assert any(
            k == number and since + start_up <= job.table.arrival[r] + 1e-9 and job.table.finish[r] <= off + 1e-9
            for number, since, off in spells
        )


def test_replicas_follow_the_load_and_the_rent_follows_them() -> None:
    rented = {"cost": {"rental": {"per_gpu": "1 USD/h"}, "prices_as_of": "2025"}}
    outcome = simulate(toy(scaled(), gpus=4) | rented)
    found = only(outcome.result)
    assert 1.0 < found.metrics.replicas_mean < 4.0
    assert found.metrics.replicas_started >= 3
    whole = only(simulate(toy({"plan": {"dp": 4}, "router": "least_loaded", "load": SWING}, gpus=4) | rented).result)
    assert whole.cost.usd_per_hour == pytest.approx(4.0)
    assert whole.cost.billed_fraction is None
    # Each replica of the toy has a node to itself.
    assert found.cost.usd_per_hour == pytest.approx(found.metrics.replicas_mean)
    assert found.cost.billed_fraction == pytest.approx(found.metrics.replicas_mean / 4)
    assert found.metrics.ttft_s.p99 > whole.metrics.ttft_s.p99


def test_a_longer_start_up_costs_those_who_come_meanwhile() -> None:
    waits = [metrics(scaled(start_up), gpus=4).ttft_s.p99 for start_up in ("0 s", "0.3 s", "1 s")]
    assert waits == sorted(waits)
    assert waits[2] > 1.5 * waits[0]


@pytest.mark.parametrize(("job", "told"), [
    ({"plan": {"dp": 2}, "autoscale": {"requests": 3, "min": 2}}, "there is nothing to scale"),
    ({**APART, "autoscale": {"requests": 3}}, "do not go together"),
    ({"plan": {"dp": 2}, "disaggregate": {"prefill": 2}}, "at least one must be left for tokens"),
    ({**APART, "batching": {"policy": "prefill_first"}}, "needs policy continuous"),
    ({"batching": {"kv_offload": {"capacity": "1 GB"}}}, "set prefix_caching: true"),
    ({"batching": {"policy": "static", "batch_size": 2, "prefix_caching": True}}, "no prefix_caching"),
    ({"batching": {"preemption": "swap", "admission": "reserve"}}, "does nothing"),
])  # fmt: skip
def test_what_does_not_go_together_is_told(job: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        resolved(toy(job | {"load": load(1)}, gpus=2))
    assert told in str(caught.value)


@pytest.mark.parametrize("detail", ["auto", "full"])
def test_a_batch_that_nobody_will_fill_up_starts(detail: Any) -> None:
    """Whoever waits for more requests is told that the others went elsewhere, also where nobody knows ahead."""
    asked = load(20, 30, conversation={"turns": 3, "think_time": "0 s"})
    job = {"plan": {"dp": 3}, "batching": {"policy": "static", "batch_size": 8}, "router": "least_loaded"}
    scale = {"autoscale": {"requests": 3, "every": "0.05 s", "start_up": "0.1 s", "cool_down": "0 s"}}
    for case in (job | {"load": load(20, 30)}, job | {"load": asked}, job | {"load": asked, **scale}):
        found = only(simulate(toy(case, gpus=3), detail=detail).result).metrics
        assert found.completed_requests == 30


def test_what_scaled_replicas_could_do_is_told_of_all_of_them() -> None:
    """Their saturation and their capacity are those of replicas that are always on, however slowly they start."""
    rented = {"cost": {"rental": {"per_gpu": "1 USD/h"}, "prices_as_of": "2025"}}
    kept = {"plan": {"dp": 4}, "router": "least_loaded", "objectives": {"ttft_p99": "0.1 s"}}
    found = []
    for scale in ({}, {"autoscale": scaled("100 s")["autoscale"]}):
        case = resolved(toy(kept | scale | {"load": load(4, 40)}, gpus=4) | rented)
        outcome = run_recorded(case, effects=False)
        with_more = with_saturation(outcome.result, case, outcome.recording)
        rate = only(with_capacity(outcome.result, case, outcome.recording)).capacity.rate
        found.append((only(with_more).cost.saturation.output_tokens_per_s, rate))
    assert found[0] == pytest.approx(found[1], rel=0.1)


def test_a_tenant_whose_requests_are_refused_has_not_what_it_was_promised() -> None:
    long = {"lognormal": {"median": 900, "p90": 4000, "max": 9000}}
    tenants = [BULK, CHAT | {"prompt_tokens": long, "objectives": {"ttft_p99": "100 s"}}]
    case = toy({"load": {"tenants": tenants, "requests": 200, "warm_up": 0}}, model={"context": 2000})
    job = only(simulate(case).result)
    refused = job.metrics.rejected_requests
    chat = job.tenants[1]
    assert refused > 0
    assert chat.slo_attainment == pytest.approx(chat.measured_requests / (chat.measured_requests + refused), rel=0.1)


def test_stores_of_a_node_have_room_beside_each_other() -> None:
    """Two replicas on a DGX with 2 TB of host memory: 900 GB for each go, 1.1 TB for each do not."""
    def job(capacity: str) -> Any:
        batching = {"prefix_caching": True, "kv_offload": {"capacity": capacity}}
        return scenario(topology("dgx_h100_8"), {"plan": {"dp": 2}, "batching": batching, "load": load(1, 3)},
                        model="llama-3-8b")  # fmt: skip

    assert only(simulate(job("900 GB")).result).metrics.completed_requests == 3
    with pytest.raises(InfeasibleError, match=r"2\.2 TB on a node, whose memory holds 2 TB"):
        simulate(job("1.1 TB"))


def test_a_prompt_that_no_replica_for_tokens_can_hold_is_not_begun() -> None:
    """A large card computes prompts for small ones: who fits only the large one is refused, and no block is lost."""
    nodes = [{"name": name, "gpus": [{"type": gpu}], "nics": [{"link": "ethernet-10g"}]}
             for name, gpu in (("a", "h100-sxm"), ("b", "rtx4090"), ("c", "rtx3090"))]  # fmt: skip
    cluster = {"topology": {"name": "mixed", "nodes": nodes, "network": {"switches": [{"name": "switch"}]}}}
    asked = {"deterministic": {"rate": "1 req/s"}, "requests": 40, "output_tokens": 8,
             "prompt_tokens": {"lognormal": {"median": 8000, "p90": 50000, "max": 90000}}}  # fmt: skip
    job = {"plan": {"dp": 3}, "disaggregate": {"prefill": 1}, "load": asked}
    outcome = simulate(scenario(cluster, job, model="llama-3.1-8b"))
    metrics, replicas = only(outcome.result).metrics, outcome.recording.jobs[0].replicas
    assert 0 < metrics.rejected_requests == 40 - metrics.completed_requests
    assert all(replica.scheduler.free == replica.scheduler.limits.blocks for replica in replicas)
