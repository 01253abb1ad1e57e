"""Replicas that fail: what becomes of their requests, of their time, and of the way they are played."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sim.errors import InputError, RunError
from sim.jobs.reliability.effects import Effect, always
from sim.jobs.reliability.faults import Units, failures
from sim.jobs.serving.incidents import Hit, Incidents, Kind, Places, Pool
from sim.jobs.serving.recording import ServingRecording
from sim.laws.arrange import layouts, topology_of
from sim.run import Outcome

from ...helpers import differences, only, resolved, scenario, simulate, topology, toy

LENGTHS = {"prompt_tokens": {"lognormal": {"median": 200, "p90": 600, "max": 1500}},
           "output_tokens": {"lognormal": {"median": 40, "p90": 120, "max": 300}}}  # fmt: skip
#: A recovery of one second, half of it until it is known.
SECOND = {"detect": "0.5 s", "diagnose": "0 s", "replace": "0.2 s", "launch": "0.3 s", "connect": "0 s",
          "connect_per_rank": "0 s", "load": "0 s"}  # fmt: skip
NODE = {"name": "node", "per": "node", "mtbf": "5 s"}
HOT = {"name": "hot", "per": "gpu", "mtbf": "3 s", "effect": "slow", "factor": 3, "lasts": "0.5 s"}
CABLE = {"name": "cable", "per": "link", "mtbf": "3 s", "effect": "slow", "factor": 9, "lasts": "0.5 s"}
FLAP = {"name": "flap", "per": "node", "mtbf": "4 s", "effect": "stall", "timeout": "0.4 s",
        "lasts": {"median": "0.2 s", "p90": "0.5 s"}}  # fmt: skip
SPOT = {"name": "spot", "per": "node", "mtbf": "5 s", "notice": "0.4 s"}
CORRUPT = {"name": "corrupt", "per": "gpu", "mtbf": "9 s", "effect": "corrupt", "lasts": "0.7 s"}
PLANNED = {"name": "planned", "per": "node", "mtbf": "5 s", "planned": True}
SOFTWARE = {"name": "software", "per": "job", "mtbf": "4 s"}
SWITCH = {"name": "switch", "per": "switch", "mtbf": "8 s"}


def poisson(rate: float, requests: int) -> dict[str, Any]:
    return {"poisson": {"rate": f"{rate} req/s"}, "requests": requests, **LENGTHS}


def closed(clients: int, requests: int, **more: Any) -> dict[str, Any]:
    return {"closed_loop": {"clients": clients, **more}, "requests": requests, **LENGTHS}


def failing(
    *classes: dict[str, Any], tp: int = 1, pp: int = 1, dp: int = 1, seed: int = 0, faults: Any = None, **job: Any
) -> dict[str, Any]:
    """Toy desktops, each with one GPU."""
    plan = {"plan": {"tp": tp, "pp": pp, "dp": dp}, "recovery": SECOND, **job}
    said = {"classes": list(classes), **(faults or {})}
    return toy(plan, gpus=tp * pp * dp, faults=said, seed=seed)


def at(time: str, unit: int = 0, name: str = "node") -> dict[str, Any]:
    return {"trace": [{"time": time, "name": name, "unit": unit}]}


def job_of(outcome: Outcome) -> ServingRecording:
    job = outcome.recording.jobs[0]
    assert isinstance(job, ServingRecording)
    return job


def check_nothing_is_lost(outcome: Outcome) -> None:
    """Requests, tokens, blocks and GPU-seconds add up."""
    job, end = job_of(outcome), outcome.result.simulated_s
    table, metrics = job.table, only(outcome.result).metrics
    answered = [r for r in range(len(table)) if table.finish[r] == table.finish[r]]
    settled = {*answered, *table.failed, *table.rejected}
    assert len(settled) == len(answered) + len(table.failed) + len(table.rejected) == len(table)
    assert metrics.completed_requests + metrics.failed_requests + metrics.rejected_requests == len(table)
    for r in answered:
        assert table.generated[r] == table.length[r] >= table.output[r]
        assert table.arrival[r] - 2e-9 <= table.scheduled[r] < table.first[r] <= table.finish[r]
    assert all(table.generated[r] < table.length[r] for r in table.failed)
    assert metrics.lost_tokens == sum(table.generated[r] for r in table.failed)
    for replica in job.replicas:
        scheduler = replica.scheduler
        assert scheduler.free == scheduler.limits.blocks
        assert not scheduler.running
        assert not scheduler.waiting
        assert not any(slot.members or any(slot.phases) for slot in scheduler.slots)
    for device in outcome.result.devices:
        assert min(device.ledger.values()) >= -1e-9 * end
        assert sum(device.ledger.values()) == pytest.approx(device.count * end, rel=1e-9)
    assert job.incidents is not None
    down = sum(min(o.up, end) - o.start for outages in job.incidents.outages for o in outages if o.start < end)
    assert metrics.availability == pytest.approx(1.0 - down / (len(job.replicas) * end))
    gpus = outcome.result.gpus // len(job.replicas)
    spent = ("failure detection", "restart", "waiting for repair", "start-up")
    assert sum(outcome.result.ledger.get(b, 0.0) for b in spent) == pytest.approx(gpus * down, rel=1e-9, abs=1e-9)


def both_ways(described: dict[str, Any]) -> tuple[Outcome, Outcome]:
    """With few events and event by event: the same to nine digits."""
    fast, full = simulate(described), simulate(described, detail="full")
    found = []
    for outcome in (fast, full):
        told = outcome.result.model_dump()
        for key in ("events", "detail", "run_info"):
            told.pop(key)
        found.append((told, told.pop("timeline")))
    (a, lines_a), (b, lines_b) = found
    assert list(differences(a, b, relative=1e-8, absolute=1e-11)) == []
    assert list(differences(lines_a, lines_b, relative=1e-8, absolute=2.1e-6)) == []
    return fast, full


CASES: dict[str, dict[str, Any]] = {
    "one card": failing(NODE, load=poisson(40, 250)),
    "one card, slow and stalled": failing(NODE, HOT, FLAP, load=poisson(40, 250)),
    "a tensor group over a bad cable": failing(CABLE, NODE, tp=2, load=poisson(8, 60)),
    "a pipeline": failing({**NODE, "mtbf": "1 s"}, pp=3, load=closed(20, 120)),
    "a pipeline, slow and stalled": failing(NODE, HOT, CABLE, FLAP, pp=3, load=poisson(60, 200)),
    "replicas that take over": failing(NODE, dp=3, load=poisson(150, 500)),
    "pipelines that take over": failing(NODE, SOFTWARE, pp=2, dp=3, load=poisson(60, 250)),
    "replicas that wait": failing({**NODE, "mtbf": "1 s"}, dp=3, load=closed(20, 300), failover="wait"),
    "replicas that give up": failing(NODE, CORRUPT, dp=3, load=poisson(150, 500), failover="fail"),
    "clients who change over": failing(NODE, dp=3, load=closed(20, 300, think_time="0.1 s")),
    "a switch, and one spare": failing(
        SWITCH, NODE, dp=3, load=poisson(100, 300), faults={"spares": 1, "repair": "2 s"}
    ),
    "machines that give notice": failing(
        SPOT, PLANNED, dp=3, load=poisson(100, 400), faults={"spares": 0, "repair": "1 s"}
    ),
    "a router that looks": failing(NODE, dp=3, load=poisson(150, 300), router="least_loaded"),
    "clients of a router that looks": failing(
        NODE, dp=3, load=closed(20, 300, think_time="0.1 s"), router="least_loaded"
    ),
    "static batches": failing(NODE, dp=2, load=poisson(30, 150), batching={"policy": "static", "batch_size": 4}),
    "nothing cached": failing(NODE, HOT, FLAP, dp=2, load=poisson(30, 120), batching={"kv_cache": False}),
    "nothing cached in a pipeline": failing(
        {**NODE, "mtbf": "2 s"}, CABLE, pp=3, load=closed(12, 60), batching={"kv_cache": False}
    ),
    "a cold start": failing(NODE, dp=2, load=poisson(30, 100), recovery={**SECOND, "startup": "1 s"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_both_ways_tell_the_same_and_nothing_is_lost(name: str) -> None:
    for outcome in both_ways(CASES[name]):
        check_nothing_is_lost(outcome)
        assert only(outcome.result).metrics.outages > 0


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
@given(data=st.data())
def test_any_sequence_of_faults_is_told_the_same_both_ways(data: st.DataObject) -> None:
    draw = data.draw
    tp, pp, dp = draw(st.sampled_from([(1, 1, 1), (2, 1, 2), (1, 2, 2), (1, 3, 1), (1, 1, 3)]))
    others = draw(st.lists(st.sampled_from([HOT, CABLE, FLAP, SPOT, CORRUPT, PLANNED, SOFTWARE, SWITCH]), unique_by=id))
    load = draw(st.sampled_from([poisson(30, 120), poisson(120, 200), closed(12, 120)]))
    spares = draw(st.sampled_from([{}, {"spares": 0, "repair": "0.6 s"}, {"spares": 1, "repair": "2 s"}]))
    described = failing(
        NODE, *others, tp=tp, pp=pp, dp=dp, seed=draw(st.integers(0, 10_000)), load=load, faults=spares,
        failover=draw(st.sampled_from(["retry", "wait", "fail"])),
        recovery=draw(st.sampled_from([SECOND, {"time": "0.4 s"}])), batching={"kv_cache": draw(st.booleans())},
    )  # fmt: skip
    for outcome in both_ways(described):
        check_nothing_is_lost(outcome)


# ---- one fault, in closed form


ONE = {"deterministic": {"rate": "1 req/s"}, "requests": 1, "prompt_tokens": 500, "output_tokens": 2000}


def seconds_of(law: Any, prompt: int, tokens: int) -> float:
    """One prompt and ``tokens`` of its answer, alone on a card."""
    first = law.cost(0, 0, [(prompt, 0)]).total
    return float(first + sum(law.cost(1, prompt + n, ()).total for n in range(1, tokens)))


def test_a_request_that_waits_is_prefilled_again_with_its_tokens() -> None:
    outcome = simulate(failing(NODE, load=ONE, faults=at("1.3 s")))
    job = job_of(outcome)
    table, law = job.table, job.replicas[0].stages[0].law
    (outages,) = job.incidents.outages if job.incidents else ()
    assert [(o.start, o.known, o.up) for o in outages] == [pytest.approx((1.3, 1.8, 2.3))]
    # The request came at 1 s: count the passes that were done by the fault.
    done = next(n for n in range(1, 2000) if 1.0 + seconds_of(law, 500, n + 1) > 1.3)
    assert table.lost_kv == 500 + done - 1
    assert table.finish[0] == pytest.approx(2.3 + seconds_of(law, 500 + done, 2000 - done), rel=1e-9)
    assert table.first[0] == pytest.approx(1.0 + seconds_of(law, 500, 1), rel=1e-9)
    metrics = only(outcome.result).metrics
    assert (metrics.restarted_requests, metrics.failed_requests, metrics.outages) == (1, 0, 1)


def test_a_request_is_sent_to_another_replica_once_the_outage_is_known() -> None:
    outcome = simulate(failing(NODE, dp=2, load=ONE, faults=at("1.3 s")))
    table, law = job_of(outcome).table, job_of(outcome).replicas[0].stages[0].law
    assert table.replica[0] == 1
    rest = 2000 - (table.lost_kv - 499)
    assert table.finish[0] == pytest.approx(1.8 + seconds_of(law, 2500 - rest, rest), rel=1e-9)


def test_a_request_that_is_given_up_is_counted_with_its_tokens() -> None:
    outcome = simulate(failing(NODE, load={**ONE, "requests": 2}, faults=at("1.3 s"), failover="fail",
                               objectives={"latency_p99": "1 h"}))  # fmt: skip
    table, metrics = job_of(outcome).table, only(outcome.result).metrics
    assert table.failed == {0: pytest.approx(1.8), 1: pytest.approx(2.0)}  # the second comes while nobody is up
    assert metrics.lost_tokens == table.generated[0] > 0
    assert metrics.slo_attainment in (None, 0.0)
    (incident,) = only(outcome.result).incidents
    assert (incident.held_requests, incident.failed_requests, incident.output_tokens_per_s) == (1, 2, 0.0)


def test_a_stall_costs_its_length_and_a_slow_card_its_factor() -> None:
    stall = {**FLAP, "lasts": "0.25 s", "timeout": None}
    plain, held, slow = (
        job_of(simulate(failing(fault, load=ONE, faults=at(time, name=fault["name"]))))
        for fault, time in ((stall, "100 s"), (stall, "1.2 s"), ({**HOT, "lasts": "1 h"}, "0.5 s"))
    )
    law = plain.replicas[0].stages[0].law
    assert plain.table.finish[0] == pytest.approx(1.0 + seconds_of(law, 500, 2000), rel=1e-9)
    passes = 0.25 - 1e-12, 0.25 + law.cost(1, 2500).total  # the pass under way at its start goes on
    assert passes[0] - law.cost(1, 2500).total <= held.table.finish[0] - plain.table.finish[0] <= passes[1]
    assert slow.table.finish[0] - 1.0 == pytest.approx(3.0 * (plain.table.finish[0] - 1.0), rel=1e-9)
    assert job_of(simulate(failing(stall, load=ONE, faults=at("1.2 s", name="flap")))).table.restarts == [0]


@pytest.mark.parametrize("factor", [2, 8])
def test_a_slow_link_slows_what_crosses_it(factor: int) -> None:
    cable = {**CABLE, "lasts": "1 h", "factor": factor}
    good, bad = (
        job_of(simulate(failing(cable, pp=2, load=ONE, faults=at(time, unit=1, name="cable"))))
        for time in ("1000 s", "0 s")
    )
    hops = [stage.hop for stage in good.replicas[0].stages]
    assert all(hop is not None for hop in hops)
    extra = sum((hop.bytes_per_token + hop.bytes_per_sequence) / hop.cap * (factor - 1) for hop in hops if hop)
    decode = (bad.table.finish[0] - bad.table.first[0]) - (good.table.finish[0] - good.table.first[0])
    assert decode == pytest.approx(1999 * extra, rel=1e-6)


def test_with_notice_nothing_new_is_sent_and_short_answers_survive() -> None:
    load = {"deterministic": {"rate": "20 req/s"}, "requests": 100, "prompt_tokens": 200, "output_tokens": 20}
    spot = {**SPOT, "notice": "1 s"}
    warned = job_of(simulate(failing(spot, dp=2, load=load, faults=at("2.001 s", 1, "spot"))))
    struck = job_of(simulate(failing(NODE, dp=2, load=load, faults=at("3.001 s", 1))))
    assert sum(warned.table.restarts) == 0
    assert sum(struck.table.restarts) > 0
    gone = [r for r in range(100) if 2.001 < warned.table.arrival[r] < 3.001 + 0.5]
    assert {warned.table.replica[r] for r in gone} == {0}


def test_what_was_given_up_stays_in_the_numbers() -> None:
    """Half of the requests come while the only replica is down: they are asked for, and none attains."""
    load = {"deterministic": {"rate": "20 req/s"}, "requests": 200, "prompt_tokens": 50, "output_tokens": 5}
    case = failing(NODE, load=load, faults={**at("5 s"), "spares": 0, "repair": "1 h"}, failover="fail",
                   objectives={"ttft_p99": "10 s"}, recovery={**SECOND, "detect": "10 ms"})  # fmt: skip
    outcome = simulate(case)
    job = only(outcome.result)
    metrics = job.metrics
    assert metrics.failed_requests == pytest.approx(100, abs=3)
    assert metrics.slo_attainment == pytest.approx((metrics.completed_requests - 20) / 180, abs=0.02)  # warm-up: 20
    assert job.window.end_s == pytest.approx(10.0)
    assert job.state == "disrupted"
    assert [row["met"] for row in job.objectives] == [False]
    (incident,) = job.incidents
    assert incident.failed_requests == metrics.failed_requests
    assert incident.output_tokens_per_s == 0.0

    case["faults"]["trace"][0]["time"] = "0 s"
    nothing = only(simulate(case).result)
    assert (nothing.metrics.completed_requests, nothing.metrics.slo_attainment) == (0, 0.0)


def test_no_tokens_come_while_the_only_replica_is_down() -> None:
    outcome = simulate(failing(NODE, load={**ONE, "requests": 3}, faults=at("1.3 s")))
    (incident,) = only(outcome.result).incidents
    assert incident.output_tokens_per_s == 0.0
    table = job_of(outcome).table
    assert sum(tokens for *_, tokens in table.parts) == table.lost_kv - 499


def test_a_replica_under_notice_serves_where_there_is_no_other() -> None:
    load = {"deterministic": {"rate": "20 req/s"}, "requests": 60, "prompt_tokens": 50, "output_tokens": 5}
    spot = {**SPOT, "notice": "1 s"}
    table = job_of(simulate(failing(spot, load=load, faults=at("1.001 s", 0, "spot"), failover="fail"))).table
    assert min(table.arrival[r] for r in table.failed) >= 2.0 - 1e-9  # the machine goes at 2.001 s


def test_a_corruption_is_gone_where_the_replica_was_started_anew() -> None:
    late = {**CORRUPT, "lasts": "2 s"}
    load = {"deterministic": {"rate": "10 req/s"}, "requests": 60, "prompt_tokens": 50, "output_tokens": 5}
    found = []
    for names in (["corrupt"], ["corrupt", "node"]):
        trace = [{"time": f"{t} s", "name": name, "unit": 0} for t, name in enumerate(names, start=1)]
        told = job_of(simulate(failing(late, NODE, load=load, faults={"trace": trace}))).incidents
        assert told is not None
        found.append([(outage.cause, outage.start) for outage in told.outages[0]])
    assert found == [[("corrupt", 3.0)], [("node", 2.0)]]


def test_the_first_launch_is_no_outage() -> None:
    case = failing({**NODE, "mtbf": "1 year"}, load=ONE, recovery={**SECOND, "startup": "500 ms"})
    metrics = only(simulate(case).result).metrics
    assert (metrics.outages, metrics.outage_s) == (0, None)
    assert metrics.availability < 1.0


def test_a_diagnosis_holds_up_the_repair_not_the_router() -> None:
    slow = {**SECOND, "diagnose": "2 s"}
    table = job_of(simulate(failing(NODE, dp=2, load=ONE, faults=at("1.3 s"), recovery=slow))).table
    plain = job_of(simulate(failing(NODE, dp=2, load=ONE, faults=at("1.3 s")))).table
    assert table.finish == plain.finish  # the other replica has it at 1.8 s either way


def test_who_has_all_tokens_of_a_static_batch_is_answered() -> None:
    lengths = {"prompt_tokens": 50, "output_tokens": {"empirical": {"values": [10] * 9 + [4000] * 9}}}
    load = {"deterministic": {"rate": "1000 req/s"}, "requests": 2, **lengths}
    static = {"batching": {"policy": "static", "batch_size": 2}}
    for seed in range(20):
        outcome = simulate(failing(NODE, load=load, faults=at("200 ms"), seed=seed, **static))
        table = job_of(outcome).table
        short = min(range(2), key=lambda r: table.output[r])
        if table.output[short] < 60 and max(table.output) > 2000:
            assert table.restarts[short] == 0
            assert table.restarts[1 - short] == 1
            assert table.finish[short] < 0.2 < table.finish[1 - short]
            return
    raise AssertionError("no seed draws a short and a long answer")


def test_faults_that_outpace_recovery_are_told() -> None:
    with pytest.raises(RunError, match="a replica is hit again before it has recovered"):
        simulate(failing({**NODE, "mtbf": "1 ms"}, load=ONE))


def test_another_jobs_length_changes_nothing() -> None:
    """What befalls replicas after the last answer is nobody's."""
    found = []
    for steps in (1, 2000):
        listed = {"trace": [{"time": f"{t} s", "name": "node", "unit": 0} for t in (1, 30, 60)]}
        case = failing(NODE, load=poisson(20, 100), faults=listed)
        node = case["cluster"]["topology"]["nodes"][0]
        node["count"] = 2
        case["jobs"].append({"name": "train", "kind": "training", "model": "tinyllama-1.1b", "stack": "ideal",
                             "batch": {"global": 1, "micro": 1, "sequence": 128}, "run": {"steps": steps},
                             "finetune": {"method": "lora", "rank": 8}})  # fmt: skip
        found.append(simulate(case).result.jobs[0].metrics)
    assert found[0].availability == found[1].availability
    assert found[0].failures == found[1].failures


# ---- histories


def history(mtbf: float, recovery: float, *, per: str = "node", dp: int = 1, **more: Any) -> Incidents:
    case = resolved(failing(NODE, dp=dp, load=ONE))
    built = topology_of(case)
    (layout,) = layouts(case, built)
    places = Places(built, layout)  # type: ignore[arg-type]
    kind = Kind(per, Effect("stop", (("restart", always(recovery)),)), True)  # type: ignore[arg-type]
    stream = failures([Units("node", places.count(per), mtbf)], np.random.SeedSequence(1))  # type: ignore[arg-type]
    pool = more.get("pool") or Pool(math.inf, always(0.0))
    return Incidents(stream, {"node": kind}, places, pool, np.random.default_rng(0))


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_availability_is_that_of_recoveries_that_start_over(ratio: float) -> None:
    """Down for M (e^(R/M) - 1) after each M of service: available e^(-R/M) of the time."""
    told = history(100.0, 100.0 * ratio)
    told.reach(2e6)
    (outages,) = told.outages
    down = sum(o.up - o.start for o in outages)
    assert 1.0 - down / outages[-1].up == pytest.approx(math.exp(-ratio), rel=0.02)


@pytest.mark.parametrize("repair", [10.0, 100.0])
def test_a_node_that_is_away_does_not_fail(repair: float) -> None:
    """Alternating renewal: up for M, away for the repair."""
    told = history(100.0, 0.0, pool=Pool(0.0, always(repair)))
    told.reach(1e6)
    (outages,) = told.outages
    down = sum(o.up - o.start for o in outages)
    assert down / outages[-1].up == pytest.approx(repair / (100.0 + repair), rel=0.05)


def test_a_node_without_a_spare_waits_for_its_repair() -> None:
    told = history(50.0, 1.0, pool=Pool(0.0, always(30.0)))
    told.reach(1e4)
    for outage in told.outages[0]:
        assert outage.pieces[0].bucket == "waiting for repair"
        assert outage.up - outage.start >= 31.0 - 1e-9


def test_blast_radius_follows_the_graph() -> None:
    """Two replicas on each server of two; all of them under one switch."""
    case = resolved(scenario(topology("dgx_h100_16"), {"plan": {"tp": 4, "dp": 4}, "load": poisson(1, 10)}))
    built = topology_of(case)
    (layout,) = layouts(case, built)
    places = Places(built, layout)  # type: ignore[arg-type]
    assert [places.count(per) for per in ("gpu", "node", "link", "switch", "job")] == [16, 2, 2, 1, 4]  # type: ignore[arg-type]
    stage = frozenset({0})
    assert places.struck("gpu", 5, whole=False) == ([Hit(1, stage)], [0])
    assert places.struck("gpu", 5, whole=True) == ([Hit(0, stage), Hit(1, stage)], [0])
    assert places.struck("node", 1, whole=True) == ([Hit(2, stage), Hit(3, stage)], [1])
    assert places.struck("switch", 0, whole=True)[0] == [Hit(r, stage) for r in range(4)]
    assert places.struck("job", 2, whole=True) == ([Hit(2, stage)], [])


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"faults": None, "jobs": {"failover": "wait"}}, "nothing fails in this scenario"),
        ({"faults": {"classes": [NODE], **at("1 s", name="nod")}}, "no class is called nod"),
        ({"faults": {"classes": [NODE], **at("1 s", unit=7)}}, "there is no node 7: there are 0 to 0"),
    ],
)
def test_what_would_do_nothing_is_refused(change: dict[str, Any], says: str) -> None:
    described = failing(NODE, load=ONE)
    described["jobs"][0].pop("recovery")
    described["jobs"][0].update(change.get("jobs", {}))
    described.pop("faults")
    if change["faults"]:
        described["faults"] = change["faults"]
    with pytest.raises(InputError, match=says):
        resolved(described)
