"""Nothing is lost: GPU-seconds, requests, tokens, KV blocks and bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import sim.jobs.play
from sim.engine.network import Network
from sim.jobs.serving.recording import ServingRecording
from sim.run import Outcome

from .helpers import SHIPPED, only, played, scenario, simulate, topology, toy

LONG = {"prompt_tokens": 1500, "output_tokens": {"lognormal": {"median": 300, "p90": 900, "max": 1500}}}


def check_ledger(outcome: Outcome) -> None:
    """Every GPU-second is in one bucket, on every class of GPUs and in all."""
    result = outcome.result
    end = result.simulated_s
    assert sum(d.count for d in result.devices) == result.gpus
    for device in result.devices:
        assert min(device.ledger.values()) >= -1e-9 * end
        assert sum(device.ledger.values()) == pytest.approx(device.count * end, rel=1e-9)
        assert 0 <= device.busy <= 1 + 1e-12
    assert sum(result.ledger.values()) == pytest.approx(result.gpus * end, rel=1e-9)


def check_requests(job: ServingRecording) -> None:
    """Each request is answered or refused, in the order of its life, and its blocks are free again."""
    table = job.table
    refused = set(table.rejected)
    for r in range(len(table)):
        if r in refused:
            assert table.finish[r] != table.finish[r]
            assert table.generated[r] == 0
        else:
            slack = 2e-9  # arrivals within a nanosecond of an instant count as being there
            assert table.arrival[r] <= table.scheduled[r] + slack
            assert table.scheduled[r] < table.first[r] <= table.finish[r]
            assert table.generated[r] == table.length[r] >= table.output[r]
    for replica in job.replicas:
        scheduler = replica.scheduler
        assert scheduler.free == scheduler.limits.blocks
        assert scheduler.running == 0
        assert not scheduler.waiting
        assert not any(slot.members or slot.prefills or any(slot.phases) for slot in scheduler.slots)


def tokens_through(job: ServingRecording) -> int:
    """Tokens that rode through the stages: prompts once, but for what was in a prefix cache, every answer but its last
    token, and what was lost."""
    table, refused = job.table, set(job.table.rejected)
    lives = (p + n - 1 for r, (p, n) in enumerate(zip(table.prompt, table.length, strict=True)) if r not in refused)
    found = sum(r.scheduler.cache.found for r in job.replicas if r.scheduler.cache is not None)
    return sum(lives) + table.recomputed + table.lost_kv - found


def check_bytes(job: ServingRecording) -> None:
    """Forward hops carried 2 h bytes for each token; collectives 2 all-reduces a layer of it, or
    what layers with spread experts exchange."""
    hidden, sent = job.job.model.hidden, tokens_through(job)
    # What passes that an outage cut off had sent on comes on top.
    losses = job.incidents.losses if job.incidents is not None else {}
    cut = len(losses) * sum(len(replica.slots) * replica.scheduler.limits.max_tokens for replica in job.replicas)
    for number in range(job.job.spec.plan.pp - 1):
        hops = [r.stages[number].hop for r in job.replicas]
        carried = sum(h.track.bytes for h in hops if h)
        assert 2 * hidden * sent * (1 - 1e-9) <= carried <= 2 * hidden * (sent + cut) * (1 + 1e-9)
    for number in range(job.job.spec.plan.pp):
        stages = [r.stages[number] for r in job.replicas]
        if stages[0].collectives is not None:
            shape = stages[0].law.shape
            reduced = shape.layers - (shape.mixture if shape.exchanges else 0)
            each = 2 * reduced * 2 * hidden * shape.wire_per_byte
            each += sum(kind.number * kind.per_token * kind.wire_per_byte for kind in shape.exchanges)
            carried = sum(s.collectives.bytes for s in stages if s.collectives)
            if (guesses := job.job.spec.speculative) is not None:
                # Each token that is generated has k + 1 checked for every E that are kept, to a token of a prompt.
                assert guesses.tp == 1
                answers = sum(n - 1 for n in job.table.length)
                checked = sent + answers * ((guesses.tokens + 1) / guesses.kept - 1)
                assert carried == pytest.approx(each * checked, rel=1e-3)
                continue
            assert each * sent * (1 - 1e-9) <= carried <= each * (sent + cut) * (1 + 1e-9)


def check(outcome: Outcome) -> None:
    check_ledger(outcome)
    for job, told in zip(outcome.recording.jobs, outcome.result.jobs, strict=True):
        if not isinstance(job, ServingRecording):
            continue
        check_requests(job)
        check_bytes(job)
        metrics = told.metrics
        assert metrics.completed_requests + metrics.rejected_requests == len(job.table)
        assert metrics.preemptions == sum(job.table.preempted)
    for channel in outcome.recording.channels:
        assert sum(channel.bins.values) == pytest.approx(channel.bytes, rel=1e-9)
    for link in outcome.result.links:
        assert link.utilisation_mean <= link.utilisation_peak <= 1 + 1e-6
    carried: dict[str, float] = {}
    for channel in outcome.recording.channels:
        for link_id, weight in channel.links:
            name = outcome.recording.topology.links[link_id].equivalence
            carried[name] = carried.get(name, 0.0) + channel.bytes * weight * channel.alike.get(link_id, 1)
    assert {link.name: link.bytes for link in outcome.result.links} == pytest.approx(carried, rel=1e-9)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scenarios_lose_nothing(name: str) -> None:
    check(played(name))


@pytest.mark.parametrize("policy", ["preempt", "reserve"])
@pytest.mark.parametrize("pp", [1, 4])
def test_nothing_is_lost_when_the_cache_is_full(policy: str, pp: int) -> None:
    """Pushed-out sequences ride again: what they lose is counted as recomputed, to the token."""
    outcome = simulate(
        toy({"plan": {"pp": pp}, "batching": {"max_batched_tokens": 256},
             "load": {"closed_loop": {"clients": 16}, "requests": 60, **LONG}},
            gpus=pp, gpu={"usable_memory": "0.8 GB" if pp == 1 else "0.35 GB"},
            stack={"links": "measured", "admission": policy})
    )  # fmt: skip
    check(outcome)
    metrics = only(outcome.result).metrics
    assert metrics.kv_blocked_fraction > 0.1
    assert (metrics.preemptions > 5) == (policy == "preempt")
    assert (metrics.recomputed_tokens > 0) == (policy == "preempt")


@pytest.mark.parametrize("plan", [{"pp": 4}, {"tp": 4}, {"tp": 2, "pp": 2}, {"tp": 4, "ep": 4}])
def test_nothing_is_lost_where_nothing_is_cached(plan: dict[str, int]) -> None:
    """Hops and collectives carry every context in every pass: all of it is told as computed again, to the token."""
    load = {"poisson": {"rate": "2 req/s"}, "requests": 30, "prompt_tokens": 90,
            "output_tokens": {"lognormal": {"median": 20, "p90": 60, "max": 90}}}  # fmt: skip
    cluster, model = topology("server_8x4090_pcie"), "mixtral-8x7b" if "ep" in plan else "llama-2-13b"
    job = {"plan": plan, "batching": {"kv_cache": False}, "precision": {"weights": "int4"}, "load": load}
    outcome = simulate(scenario(cluster, job, model=model))
    check(outcome)
    table = outcome.recording.jobs[0].table
    more = [(p, n - 1) for p, n in zip(table.prompt, table.length, strict=True)]
    assert table.recomputed == sum(p * n + n * (n - 1) // 2 for p, n in more)


def test_requests_that_cannot_fit_are_refused_and_counted() -> None:
    """The cache holds about 1,000 tokens, the context 2,000."""
    load = {"closed_loop": {"clients": 4, "think_time": "1 ms"}, "requests": 200, "output_tokens": 10,
            "prompt_tokens": {"lognormal": {"median": 500, "p90": 1500, "max": 5000}}}  # fmt: skip
    outcome = simulate(toy({"load": load}, gpu={"usable_memory": "0.47 GB"}, model={"context": 2000}))
    check(outcome)
    table, (room,) = outcome.recording.jobs[0].table, outcome.recording.jobs[0].layout.tokens
    assert 900 < room < 1100
    blocks = room // 16 * 16
    assert sorted(table.rejected) == [r for r, p in enumerate(table.prompt) if p + 10 > blocks]
    assert 20 < len(table.rejected) < 100
    assert any("larger than the whole KV cache" in line for line in outcome.result.verdict.warnings)
    assert any("exceed the 2,000 tokens of context" in line for line in outcome.result.verdict.warnings)


def test_the_network_carried_what_the_channels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    networks: list[Network] = []

    class Watched(Network):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            networks.append(self)

    monkeypatch.setattr(sim.jobs.play, "Network", Watched)
    jobs = (
        {"plan": {"pp": 4, "placement": p}, "precision": {"weights": "int4"}, "batching": {"max_batched_tokens": 256},
         "load": {"closed_loop": {"clients": 5}, "prompt_tokens": 300, "output_tokens": 8, "requests": 10}}
        for p in ([0, 4, 1, 5], [2, 6, 3, 7])
    )  # fmt: skip
    outcome = simulate(scenario(topology("home_2x4_two_switches"), *jobs), detail="full")
    check(outcome)
    (network,) = networks
    expected: dict[int, float] = {}
    for channel in outcome.recording.channels:
        for link, weight in channel.links:
            expected[link] = expected.get(link, 0.0) + channel.bytes * weight
    assert expected
    for link in range(len(outcome.recording.topology.links)):
        assert network.bytes_carried(link) == pytest.approx(expected.get(link, 0.0), rel=1e-9)


LENGTHS = st.one_of(
    st.integers(1, 300),
    st.builds(lambda m, f: {"lognormal": {"median": m, "p90": m * f, "max": 2000}}, st.integers(1, 100),
              st.integers(1, 8)),
)  # fmt: skip
RATES = st.sampled_from(["5 req/s", "100 req/s", "2000 req/s"])
ARRIVALS = st.one_of(
    st.just({"all_at_once": True}),
    st.builds(lambda rate: {"poisson": {"rate": rate}}, RATES),
    st.builds(lambda rate: {"gamma": {"rate": rate, "cv": 3}}, RATES),
    st.builds(
        lambda clients, think: {"closed_loop": {"clients": clients, "think_time": think}},
        st.integers(1, 20),
        st.sampled_from(["0 s", "50 ms"]),
    ),
)
BATCHING = st.one_of(
    st.builds(lambda size: {"policy": "static", "batch_size": size}, st.integers(1, 6)),
    st.fixed_dictionaries(
        {"max_batched_tokens": st.sampled_from([16, 256])},
        optional={"prefill_chunk": st.sampled_from([5, 64]), "max_sequences": st.integers(1, 9)},
    ),
)


# A run takes too long to shrink; an example that fails is small as it is.
@settings(
    max_examples=30, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(
    pp=st.integers(1, 4),
    dp=st.integers(1, 2),
    micro_batches=st.integers(1, 6),
    batching=BATCHING,
    arrivals=ARRIVALS,
    prompt=LENGTHS,
    output=LENGTHS,
    room=st.sampled_from([2500, 6000, 100_000]),
    admission=st.sampled_from(["preempt", "reserve"]),
    detail=st.sampled_from(["auto", "full"]),
    seed=st.integers(0, 1000),
)
def test_nothing_is_lost_whatever_is_asked(
    pp: int, dp: int, micro_batches: int, batching: dict[str, Any], arrivals: dict[str, Any], prompt: Any,
    output: Any, room: int, admission: str, detail: Any, seed: int,
) -> None:  # fmt: skip
    """Toy pipelines with KV room for a few or for all requests."""
    plan = {"pp": pp, "dp": dp, **({"micro_batches": micro_batches} if pp > 1 else {})}
    load = {"requests": 15, "prompt_tokens": prompt, "output_tokens": output, **arrivals}
    outcome = simulate(
        toy({"plan": plan, "batching": batching, "load": load}, gpus=pp * dp,
            gpu={"usable_memory": f"{(405e6 + 65536 * room) / pp + 3e6} B"},
            stack={"links": "measured", "admission": admission, "host_per_step": "0.05 ms"}, seed=seed),
        detail=detail,
    )  # fmt: skip
    check(outcome)
