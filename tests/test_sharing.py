"""Two jobs whose pipelines cross one cable, against max-min shares worked out by hand.

Four toy desktops, two on either of two switches; both jobs send their prompts' activations over the cable of
100 MB/s at once. Everything else of the network is ten times as fast.
"""

from __future__ import annotations

from typing import Any

import pytest

from sim.laws.step import Chunk
from sim.run import Outcome

from .helpers import scenario, simulate, topology, toy

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
