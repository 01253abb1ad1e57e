"""From a description to replicas: who serves which request, which limits hold, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sim.engine import timeline
from sim.errors import InfeasibleError
from sim.jobs.play import play
from sim.jobs.serving.build import Flow, contended_links
from sim.jobs.serving.replica import Replica
from sim.laws.step import Chunk

from ..helpers import resolved, scenario, simulate, topology, toy

ONE = {"all_at_once": True, "prompt_tokens": 10, "output_tokens": 2, "requests": 1}


def replica(described: dict[str, Any]) -> Replica:
    return play(resolved(described)).jobs[0].replicas[0]


def test_requests_go_round_to_the_replicas() -> None:
    load = ONE | {"requests": 7}
    table = play(resolved(toy({"plan": {"dp": 3}, "load": load}, gpus=3))).jobs[0].table
    assert table.replica == [0, 1, 2, 0, 1, 2, 0]


def test_clients_stay_with_their_replica_and_come_over_the_ramp() -> None:
    load = {"closed_loop": {"clients": 4, "ramp": "8 s"}, "prompt_tokens": 1, "output_tokens": 2, "requests": 4}
    table = play(resolved(toy({"plan": {"dp": 2}, "load": load}, gpus=2))).jobs[0].table
    assert sorted(zip(table.arrival, table.replica, strict=True)) == [(0.0, 0), (2.0, 1), (4.0, 0), (6.0, 1)]


def test_limits_are_the_scenarios_or_else_the_stacks() -> None:
    own = replica(toy({"load": ONE, "batching": {"max_batched_tokens": 77, "max_sequences": 5}})).scheduler.limits
    assert (own.max_tokens, own.prefill_chunk, own.max_sequences, own.slots) == (77, 77, 5, 1)
    stacks = replica(toy({"load": ONE, "batching": {"prefill_chunk": 9}})).scheduler.limits
    assert (stacks.max_tokens, stacks.prefill_chunk, stacks.max_sequences) == (8192, 9, 4096)
    assert stacks.blocks == (10e9 - 16 * 12 * 2**20 * 2 - 2 * 1000 * 1024) // 65536 // 16
    piped = replica(toy({"load": ONE, "plan": {"pp": 4, "micro_batches": 6}}, gpus=4)).scheduler.limits
    assert piped.slots == 6
    static = replica(toy({"load": ONE, "batching": {"policy": "static", "batch_size": 3}})).scheduler.limits
    assert (static.batch_size, static.reserve) == (3, True)


def test_an_unchecked_cache_has_no_end() -> None:
    found = replica(toy({"load": ONE}, gpu={"usable_memory": "410 MB"}, assume={"kv_capacity": "unchecked"}))
    assert found.scheduler.limits.blocks > 10**12
    assert found.scheduler.limits.watermark == 0


def test_equal_stages_share_one_law() -> None:
    found = replica(toy({"load": ONE, "plan": {"pp": 4}}, gpus=4))
    laws = [stage.law for stage in found.stages]
    assert laws[0] is laws[1] is laws[2]
    assert laws[3] is not laws[0]  # the output head


def test_the_return_hop_carries_token_numbers_to_the_first_stage() -> None:
    hops = [s.hop for s in replica(toy({"load": ONE, "plan": {"pp": 3}}, gpus=3, model={"layers": 3})).stages]
    assert [(h.bytes_per_token, h.bytes_per_sequence) for h in hops if h] == [(2048, 0), (2048, 0), (0, 4)]


def test_token_numbers_come_from_the_first_rank_and_activations_from_all() -> None:
    found = play(resolved(scenario(topology("dgx_h100_8"), {"plan": {"tp": 4, "pp": 2}, "load": ONE})))
    forward, back = (stage.hop for stage in found.jobs[0].replicas[0].stages)
    assert forward is not None
    assert back is not None
    routes = [{link for link, _ in found.topology.route(a, a + 4).links} for a in range(4)]
    assert {link for link, _ in forward.track.links} == set().union(*routes)
    assert {link for link, _ in back.track.links} == {link for link, _ in found.topology.route(4, 0).links}


@pytest.mark.parametrize("width", [1e-3, 1e6])
def test_cached_tokens_over_time_are_contexts_times_seconds(monkeypatch: pytest.MonkeyPatch, width: float) -> None:
    """KV reads make passes longer as the context grows; whether a bin cuts the run or holds it whole."""
    monkeypatch.setattr(timeline, "FIRST_WIDTH", width)
    load = {"all_at_once": True, "prompt_tokens": 20, "output_tokens": 3000, "requests": 1}
    found = replica(toy({"load": load}, model={"intermediate": 1}))
    cost = found.stages[0].law.cost
    expected = 20 * cost(0, 0, [Chunk(20, 0)]).total
    expected += sum((20 + k) * cost(1, 20 + k).total for k in range(1, 3000))
    assert sum(found.tally.cached.values) == pytest.approx(expected, rel=1e-9)


def test_the_host_works_for_every_pass_and_more_in_a_pipeline() -> None:
    stack = {"host_per_step": "2 ms", "host_per_pipeline_pass": "3 ms", "host_per_sequence": "1 us"}
    alone = replica(toy({"load": ONE}, stack=stack)).stages[0].law.shape
    piped = replica(toy({"load": ONE, "plan": {"pp": 2}}, gpus=2, stack=stack)).stages[0].law.shape
    assert (alone.host_per_pass, piped.host_per_pass) == (pytest.approx(2e-3), pytest.approx(5e-3))
    assert alone.host_per_sequence == 1e-6


def test_requests_that_none_could_be_served_are_refused_before_the_clock_starts() -> None:
    with pytest.raises(InfeasibleError, match="the shortest request has 5002 tokens, toy reads at most 5000"):
        play(resolved(toy({"load": ONE | {"prompt_tokens": 5000}}, model={"context": 5000})))
    with pytest.raises(InfeasibleError, match="the shortest request has 2002 tokens, the KV cache of a replica holds"):
        play(resolved(toy({"load": ONE | {"prompt_tokens": 2000}}, gpu={"usable_memory": "0.5 GB"})))


def test_jobs_take_the_gpus_that_are_left() -> None:
    job = {"plan": {"tp": 4}, "load": ONE}
    found = play(resolved(scenario(topology("dgx_h100_8"), job, job)))
    assert [j.layout.gpus for j in found.jobs] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    with pytest.raises(InfeasibleError, match="job1: tp 8 x pp 1 x dp 1 takes 8 GPUs, the cluster has 4 left of 8"):
        play(resolved(scenario(topology("dgx_h100_8"), job, {"plan": {"tp": 8}, "load": ONE})))


def test_measured_and_datasheet_links_cannot_share_a_cluster() -> None:
    jobs = [{"plan": {"tp": 4}, "load": ONE, "stack": stack} for stack in ("vllm", "ideal")]
    with pytest.raises(InfeasibleError, match="cannot share a cluster"):
        play(resolved(scenario(topology("dgx_h100_8"), *jobs)))


def test_progress_hears_shares_up_to_the_end_and_changes_nothing() -> None:
    described = resolved(toy({"load": {"closed_loop": {"clients": 3}, "requests": 1200, "prompt_tokens": 10,
                                       "output_tokens": {"lognormal": {"median": 20, "p90": 60}}}}))  # fmt: skip
    heard: list[float] = []
    loud, quiet = play(described, "full", heard.append), play(described, "full")
    assert heard == sorted(heard)
    assert 0 < len(heard) == loud.events // 4096
    assert heard[-1] > 0.9
    assert loud.jobs[0].table.finish == quiet.jobs[0].table.finish


def test_links_are_contended_where_all_caps_together_exceed_them() -> None:
    flows = [Flow(((0, 1.0), (1, 0.5)), 60.0, None), Flow(((0, 1.0),), 40.0, None), Flow(((2, 1.0),), 900.0, None)]
    assert contended_links(flows, [100.0, 29.0, 10.0]) == set()  # a flow alone cannot be slowed by others
    assert contended_links(flows, [99.0, 29.0, 10.0]) == {0}


def test_spare_gpus_wait_and_are_counted() -> None:
    result = simulate(toy({"load": ONE}, gpus=3)).result
    assert result.gpus == 3
    assert result.ledger["spare"] == pytest.approx(2 * result.simulated_s)
    assert [d.name for d in result.devices] == ["job0.s0", "spare toy"]
