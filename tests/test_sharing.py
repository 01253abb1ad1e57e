"""Jobs on the same links, against max-min shares worked out by hand.

Serving: four toy desktops, two on either of two switches; both jobs send their prompts' activations over the cable of
100 MB/s at once. Everything else of the network is ten times as fast.

Training: toy workstations with two GPUs and one card of 1 GB/s, of which each job has one GPU of every workstation.
Nothing takes time but kernels and the card. A step computes for c seconds and sums gradients for s seconds alone.
"""

from __future__ import annotations

from typing import Any

import pytest

import sim.jobs.play
from sim.engine.network import Network
from sim.errors import RunError
from sim.jobs.training.run import TrainingRecording
from sim.laws.step import Chunk
from sim.results.schema import ServingMetrics, TrainingMetrics
from sim.run import Outcome

from .helpers import TOY_GPU, TOY_MODEL, differences, scenario, simulate, topology, toy

CABLE = 100e6
BYTES_A_TOKEN = 2 * 1024


def two_switches(*prompts: int, detail: Any = "auto") -> Outcome:
    """One request a job; the first job runs on desktops 0 and 2, the second on 1 and 3."""
    pairs = ([0, 2], [1, 3])
    jobs = [
        {"name": f"job{i}", "kind": "serving", "plan": {"pp": 2, "placement": pairs[i]},
         "batching": {"max_batched_tokens": 100_000},
         "load": {"all_at_once": True, "prompt_tokens": prompt, "output_tokens": 1, "requests": 1}}
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    described = toy(jobs[0], gpus=4, model={"vocabulary": 1}, stack={"links": "measured"},
                    link={"latency": "1 ms", "message_overhead": "0 s"})  # fmt: skip
    described["define"]["links"]["cable"] = {"kind": "ethernet", "bandwidth": f"{CABLE} B/s"}
    described["cluster"]["topology"]["network"] = {
        "switches": [{"name": "left", "nodes": ["desktop.0-1"]}, {"name": "right", "nodes": ["desktop.2-3"]}],
        "uplinks": [{"between": ["left", "right"], "link": "cable"}],
    }
    described["jobs"] = jobs
    return simulate(described, detail)


def first_token(outcome: Outcome, job: int) -> float:
    return outcome.recording.jobs[job].table.first[0]


def own_times(outcome: Outcome, job: int) -> tuple[float, float]:
    """Seconds before a job's message starts, and after its last byte has left."""
    table = outcome.recording.jobs[job].table
    first, second = outcome.recording.jobs[job].replicas[0].stages
    chunk = [Chunk(table.prompt[0], 0)]
    assert first.hop is not None
    assert second.hop is not None
    back = second.hop.bytes_per_sequence / second.hop.cap + second.hop.overhead + second.hop.latency
    after = first.hop.overhead + first.hop.latency + second.law.cost(0, 0, chunk).total + back
    return first.law.cost(0, 0, chunk).total, after


def test_alone_a_message_has_the_cable() -> None:
    outcome = two_switches(8000)
    before, after = own_times(outcome, 0)
    assert first_token(outcome, 0) == pytest.approx(before + 8000 * BYTES_A_TOKEN / CABLE + after, rel=1e-9)
    assert outcome.recording.detailed == ()


def test_equal_messages_get_half_each() -> None:
    outcome = two_switches(8000, 8000)
    before, after = own_times(outcome, 0)
    back = 4 / CABLE  # the token numbers return together too, at half the rate
    shared = before + 8000 * BYTES_A_TOKEN / (CABLE / 2) + after + back
    assert first_token(outcome, 0) == pytest.approx(shared, rel=1e-9)
    assert first_token(outcome, 1) == pytest.approx(shared, rel=1e-9)
    assert outcome.recording.detailed == ("job0.r0", "job1.r0")
    assert first_token(two_switches(8000), 0) < 0.6 * shared


def test_the_shorter_message_leaves_the_cable_to_the_longer() -> None:
    """The second's prompt is shorter, so it starts sending first: alone, then both at half, then the first alone."""
    outcome = two_switches(8000, 3000)
    (begin_long, after_long), (begin_short, after_short) = (own_times(outcome, job) for job in (0, 1))
    assert begin_short < begin_long
    long, short = 8000 * BYTES_A_TOKEN, 3000 * BYTES_A_TOKEN
    left = short - (begin_long - begin_short) * CABLE
    assert left > 0
    end_short = begin_long + left / (CABLE / 2)
    end_long = end_short + (long - left) / CABLE
    assert first_token(outcome, 1) == pytest.approx(end_short + after_short, rel=1e-9)
    assert first_token(outcome, 0) == pytest.approx(end_long + after_long, rel=1e-9)


def test_the_cable_is_full_while_both_send_and_never_more() -> None:
    result = two_switches(8000, 3000).result
    (cable,) = (link for link in result.links if link.bandwidth == CABLE)
    assert cable.utilisation_peak == pytest.approx(1.0, abs=1e-6)
    assert max(result.timeline.links[cable.name]) <= 1 + 1e-6


def test_neighbours_on_a_shared_cable_slow_each_other_by_their_load() -> None:
    """The shipped two-switch cluster: together each is slower than alone, and both get the same."""
    job = {"precision": {"weights": "int4"}, "batching": {"max_batched_tokens": 256},
           "load": {"closed_loop": {"clients": 10}, "prompt_tokens": 512, "output_tokens": 16,
                    "requests": 40}}  # fmt: skip
    places = ([0, 4, 1, 5], [2, 6, 3, 7])
    jobs = [job | {"plan": {"pp": 4, "placement": place}} for place in places]
    cluster = topology("home_2x4_two_switches")
    both, alone = simulate(scenario(cluster, *jobs)), simulate(scenario(cluster, jobs[0]))
    together = [j.metrics.output_tokens_per_s for j in both.result.jobs]
    assert together[0] == pytest.approx(together[1], rel=0.05)
    assert together[0] < 0.85 * alone.result.jobs[0].metrics.output_tokens_per_s


# ---- training beside others

CARD = 1e9
FREE = "1e6 GB/s"
#: Bytes of the toy's gradients in 16 bits, which a ring of two sends once.
SUM = 2 * 16 * (4 * 1024**2 + 2 * 4 * 1024**2) + 2 * 1024


def workstations(*jobs: dict[str, Any], nodes: int = 2, card: float = CARD, **keys: Any) -> dict[str, Any]:
    """Jobs on workstations with two GPUs and one card each."""
    node = {
        "name": "w", "count": nodes, "gpus": [{"type": "toy", "count": 2}], "pcie": {"link": "toy-bus"},
        "nics": [{"link": "toy-net"}], "host_memory": {"bandwidth": FREE},
    }  # fmt: skip
    define = {
        "models": {"toy": TOY_MODEL | {"vocabulary": 1}}, "gpus": {"toy": TOY_GPU},
        "links": {
            "toy-net": {"kind": "infiniband", "bandwidth": f"{card} B/s"},
            "toy-bus": {"kind": "pcie", "bandwidth": FREE},
        },
        "stacks": {"toy": {"like": "ideal"}}, "training_stacks": {"toy-training": {"like": "ideal"}},
    }  # fmt: skip
    return {
        "name": "test", "cluster": {"topology": {"name": "workstations", "nodes": [node]}}, "model": "toy",
        "stack": "toy", "jobs": list(jobs), "define": define, "assume": {"memory": "unchecked", "attention": "free"},
        **keys,
    }  # fmt: skip


def trains(
    name: str, gpus: list[int], steps: int = 3, plan: dict[str, Any] | None = None, **job: Any
) -> dict[str, Any]:
    """A data-parallel job that hides nothing."""
    laid = plan or {"dp": len(gpus), "overlap": False}
    return {
        "name": name, "kind": "training", "stack": "toy-training", "plan": {**laid, "placement": gpus},
        "batch": {"global": 2, "micro": 1, "sequence": 1000}, "run": {"steps": steps}, **job,
    }  # fmt: skip


def serves(name: str, gpus: list[int], requests: int = 20) -> dict[str, Any]:
    """A pipeline whose prompts keep the card busy for a while."""
    return {
        "name": name, "kind": "serving", "plan": {"pp": len(gpus), "placement": gpus},
        "batching": {"max_batched_tokens": 100_000},
        "load": {"closed_loop": {"clients": 4}, "prompt_tokens": 4000, "output_tokens": 2, "requests": requests},
    }  # fmt: skip


LEFT, RIGHT = [0, 2], [1, 3]


def step(outcome: Outcome, job: int = 0) -> float:
    metrics = outcome.result.jobs[job].metrics
    assert isinstance(metrics, TrainingMetrics)
    return metrics.step_time_s


def talk(outcome: Outcome, job: int = 0) -> float:
    """Seconds of a step that wait for links."""
    metrics = outcome.result.jobs[job].metrics
    assert isinstance(metrics, TrainingMetrics)
    return sum(metrics.exposed_communication_s.values())


def tokens(outcome: Outcome, job: int = 1) -> float:
    metrics = outcome.result.jobs[job].metrics
    assert isinstance(metrics, ServingMetrics)
    return metrics.output_tokens_per_s


def carried(outcome: Outcome) -> float:
    """Bytes on all cards."""
    return sum(link.bytes for link in outcome.result.links if "card" in link.name)


def check_ledger(outcome: Outcome) -> None:
    for device in outcome.result.devices:
        assert min(device.ledger.values()) >= -1e-9
        assert sum(device.ledger.values()) == pytest.approx(device.count * outcome.result.simulated_s, rel=1e-9)


@pytest.fixture(scope="module")
def alone() -> Outcome:
    return simulate(workstations(trains("left", LEFT)))


def test_alone_a_step_has_the_card(alone: Outcome) -> None:
    assert talk(alone) == pytest.approx(SUM / CARD, rel=1e-6)
    assert alone.recording.training[0].shared is None


@pytest.mark.parametrize("detail", ["auto", "full"])
def test_equal_training_jobs_get_half_the_card_each(alone: Outcome, detail: Any) -> None:
    """Both sum at once, so a step takes c + 2 s."""
    both = simulate(workstations(trains("left", LEFT), trains("right", RIGHT)), detail)
    for job in (0, 1):
        assert step(both, job) == pytest.approx(step(alone) + talk(alone), rel=1e-9)
        assert talk(both, job) == pytest.approx(2 * talk(alone), rel=1e-9)
    assert carried(both) == pytest.approx(2 * carried(alone), rel=1e-9)
    assert "3 of them beside right" in both.result.jobs[0].window.rule
    check_ledger(both)


def test_steps_after_the_other_job_has_ended_are_as_alone(alone: Outcome) -> None:
    """Three steps at half the card, five at the whole of it; those are not played one by one."""
    both = simulate(workstations(trains("left", LEFT, 3), trains("right", RIGHT, 8)))
    slow, fast = step(alone) + talk(alone), step(alone)
    assert step(both, 0) == pytest.approx(slow, rel=1e-9)
    assert step(both, 1) == pytest.approx((3 * slow + 5 * fast) / 8, rel=1e-9)
    assert carried(both) == pytest.approx(11 / 3 * carried(alone), rel=1e-9)
    right = both.recording.training[1].shared
    assert right is not None
    assert (right.played, right.shortest, right.longest) == (3, pytest.approx(fast), pytest.approx(slow))
    many = simulate(workstations(trains("left", LEFT, 3), trains("right", RIGHT, 10**6)))
    assert many.result.events == both.result.events
    assert step(many, 1) == pytest.approx(fast, rel=1e-5)
    check_ledger(both)


def test_a_duration_ends_a_run_before_a_step_that_does_not_fit(alone: Outcome) -> None:
    slow = step(alone) + talk(alone)
    timed = trains("left", LEFT) | {"run": {"duration": f"{10 * slow} s"}}
    both = simulate(workstations(timed, trains("right", RIGHT, 4)))
    left = (10 * slow - 4 * slow) / step(alone)
    assert both.result.jobs[0].metrics.steps == 4 + int(left)
    assert both.recording.training[0].ended <= 10 * slow


def test_a_job_on_links_of_its_own_is_as_it_was() -> None:
    """To the last bit: four workstations, of which each job has two."""
    pair = workstations(trains("left", [0, 2]), trains("right", [4, 6]), nodes=4)
    one = workstations(trains("left", [0, 2]), nodes=4)
    both, single = simulate(pair), simulate(one)
    assert both.recording.training[0].shared is None
    assert both.result.jobs[0].metrics == single.result.jobs[0].metrics
    assert both.result.events == 2 * single.result.events


def test_serving_beside_training_has_half_the_card(alone: Outcome) -> None:
    """Sums are on the card all the while, so prompts go as if the card were half as fast; the step is longer by the
    seconds that prompts have."""
    jobs = (trains("left", LEFT, 10), serves("chat", RIGHT))
    both = simulate(workstations(*jobs))
    own, half = simulate(workstations(jobs[1])), simulate(workstations(jobs[1], card=CARD / 2))
    assert tokens(half, 0) < 0.8 * tokens(own, 0)
    assert tokens(both) == pytest.approx(tokens(half, 0), rel=1e-9)
    sent = carried(own) / 2  # out of one card, into the other
    assert 10 * (step(both) - step(alone)) == pytest.approx(sent / CARD, rel=1e-6)  # token numbers go back
    assert carried(both) == pytest.approx(10 / 3 * carried(alone) + carried(own), rel=1e-9)
    assert both.recording.detailed == ("chat.r0",)
    check_ledger(both)


PLANS = {
    "data": {"dp": 2, "overlap": False},
    "sharded states, hidden": {"dp": 2, "zero": 1},
    "sharded weights": {"dp": 2, "zero": 3},
    "pipeline": {"pp": 2},
    "chunks": {"pp": 2, "vpp": 2},
    "tensor across cards": {"tp": 2},
    "recomputed": {"dp": 2, "zero": 2, "recompute": "full"},
}


@pytest.mark.parametrize("name", PLANS)
def test_told_in_full_it_is_the_same(name: str) -> None:
    """By default as with --detail full, and the ledger and the bytes are those of the parts."""
    job = trains("left", LEFT, 4, PLANS[name], batch={"global": 4, "micro": 1, "sequence": 1000})
    described = workstations(job, serves("chat", RIGHT, 6))
    fast, full = simulate(described), simulate(described, "full")
    a, b = (o.result.model_dump() for o in (fast, full))
    for document in (a, b):
        for key in ("events", "detail", "run_info"):
            document.pop(key, None)
    assert list(differences(a, b, relative=1e-9, absolute=1e-6)) == []
    apart = carried(simulate(workstations(job))), carried(simulate(workstations(serves("chat", RIGHT, 6))))
    assert carried(fast) == pytest.approx(sum(apart), rel=1e-9)
    assert step(fast) >= step(simulate(workstations(job))) * (1 - 1e-12)
    for outcome in (fast, full):
        check_ledger(outcome)


def test_a_slow_card_holds_up_its_peer_beside_another_job() -> None:
    job = trains("left", LEFT, 3, slow=[{"gpu": 2, "factor": 3}])
    own, both = simulate(workstations(job)), simulate(workstations(job, serves("chat", RIGHT, 6)))
    metrics = both.result.ledger
    assert metrics["waiting for slow ranks"] == pytest.approx(own.result.ledger["waiting for slow ranks"], rel=1e-9)
    check_ledger(both)


# ---- checkpoints

#: Weights and states of a 16-bit Adam: 14 bytes a parameter, half of them in each workstation.
STATE = 14 * SUM / 2


def saves(**checkpoint: Any) -> dict[str, Any]:
    return {"checkpoint": {"steps": 2, **checkpoint}}


def life(outcome: Outcome, job: int) -> Any:
    recording = outcome.recording.jobs[job]
    assert isinstance(recording, TrainingRecording)
    assert recording.life is not None
    return recording.life


def test_a_sync_checkpoint_meets_the_sums_of_another_job(alone: Outcome) -> None:
    """The other job computes for c and sums for s; a write of w has the card whenever that one computes, half of it
    while it sums. It takes w + (what the other summed meanwhile)."""
    own = simulate(workstations(trains("right", RIGHT, 3, **saves(to={"write": "100 GB/s"}))))
    both = simulate(workstations(
        trains("left", LEFT, 40), trains("right", RIGHT, 3, **saves(to={"write": "100 GB/s"}))
    ))  # fmt: skip
    write, c, s = STATE / 2 / CARD, step(alone) - talk(alone), talk(alone)
    assert life(own, 0).buckets["checkpoint"] == pytest.approx(write, rel=1e-6)
    taken = life(both, 1).buckets["checkpoint"]
    left, time = write, 0.0
    while left > 0:  # in turn: the other computes, the other sums
        alone_now = min(c, left)
        left, time = left - alone_now, time + alone_now
        half = min(s, left)
        left, time = left - half, time + 2 * half
    assert taken == pytest.approx(time, rel=1e-6)
    check_ledger(both)


def test_a_write_beside_the_steps_shares_the_card_with_the_sums_of_its_own_job(alone: Outcome) -> None:
    """Three flows on a card: both jobs' sums and the write, a third each."""
    saving = saves(mode="async", to={"write": "100 GB/s"})
    both = simulate(workstations(trains("left", LEFT, 40), trains("right", RIGHT, 3, **saving)))
    shared = both.recording.training[1].shared
    assert shared is not None
    assert shared.longest == pytest.approx(step(alone) + 2 * talk(alone), rel=1e-3)
    assert life(both, 1).progress.checkpoints == 1
    check_ledger(both)


def test_a_store_is_shared_by_the_writers_of_its_job(alone: Outcome) -> None:
    """A store half as fast as a card takes STATE / rate, whatever else is on the cards; the flows leave them half."""
    store = CARD / 4
    job = trains("right", RIGHT, 3, **saves(to={"write": f"{store} B/s"}))
    both = simulate(workstations(trains("left", LEFT, 40), job))
    assert life(both, 1).buckets["checkpoint"] == pytest.approx(STATE / store, rel=1e-6)
    sent = 43 / 3 * carried(alone) + STATE  # the store is no card: only what leaves the nodes
    assert carried(both) == pytest.approx(sent, rel=1e-6)


def test_copies_to_a_peer_use_both_its_directions(alone: Outcome) -> None:
    job = trains("right", RIGHT, 3, **saves(mode="memory"))
    both = simulate(workstations(trains("left", LEFT, 40), job))
    assert carried(both) == pytest.approx(43 / 3 * carried(alone) + 2 * STATE, rel=1e-6)
    check_ledger(both)


def test_drives_and_stated_pauses_leave_the_network_alone(alone: Outcome) -> None:
    job = trains("right", RIGHT, 3, **saves(blocking="2 s"))
    both = simulate(workstations(trains("left", LEFT, 40), job))
    assert life(both, 1).buckets["checkpoint"] == pytest.approx(2.0)
    assert carried(both) == pytest.approx(43 / 3 * carried(alone), rel=1e-9)


def test_checkpoints_after_the_other_job_has_ended_follow_the_law() -> None:
    saving = saves(to={"write": "100 GB/s"})
    own = simulate(workstations(trains("right", RIGHT, 40, **saving)))
    both = simulate(workstations(trains("left", LEFT, 1), trains("right", RIGHT, 40, **saving)))
    late = life(both, 1).end - life(own, 0).end
    assert late == pytest.approx(talk(own), rel=1e-6)  # one step at half the card
    assert life(both, 1).progress.checkpoints == life(own, 0).progress.checkpoints == 19
    assert life(both, 1).buckets["checkpoint"] == pytest.approx(life(own, 0).buckets["checkpoint"], rel=1e-9)
    check_ledger(both)


def test_every_byte_that_the_network_moves_is_on_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network counted while the jobs shared it is what their channels tell."""
    seen: list[Network] = []

    class Kept(Network):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            seen.append(self)

    monkeypatch.setattr(sim.jobs.play, "Network", Kept)
    saving = saves(mode="async", to={"write": "100 GB/s"})
    both = simulate(workstations(trains("left", LEFT, 4, **saving), serves("chat", RIGHT, 450)))
    (network,) = seen
    assert life(both, 0).end < both.result.simulated_s - 5
    told: dict[int, float] = {}
    for channel in both.recording.channels:
        for link, weight in channel.links:
            told[link] = told.get(link, 0.0) + channel.bytes * weight
    cards = [link.id for link in both.recording.topology.links if "card" in link.name or link.kind == "infiniband"]
    assert cards
    for link in cards:
        assert told[link] == pytest.approx(network.bytes_carried(link), rel=1e-9)


# ---- what is not played


def test_among_failures_a_job_has_its_links_for_itself_and_says_so(alone: Outcome) -> None:
    job = trains("left", LEFT, 3) | {"checkpoint": {"steps": 2, "blocking": "1 s"}}
    failing = workstations(job, trains("right", RIGHT, 3), faults={"mtbf_per_gpu": "1000 years"})
    outcome = simulate(failing)
    assert step(outcome) == step(alone)
    assert any("shares links with right" in line for line in outcome.result.verdict.warnings)
    streamed = trains("left", LEFT, 3, {"pp": 2, "schedule": "stream"})
    outcome = simulate(workstations(streamed, serves("chat", RIGHT)))
    assert any("shares links with chat" in line for line in outcome.result.verdict.warnings)


def test_runs_that_nobody_would_wait_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.jobs.training.shared.SHARED_PIECES", 100)
    with pytest.raises(RunError, match=r"job left: it shares links with right.*fewer run\.steps"):
        simulate(workstations(trains("left", LEFT, 10**6), trains("right", RIGHT, 10**6)))
