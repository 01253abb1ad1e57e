"""Training jobs among failures, from the scenario to the answer: where the time goes, and what is refused."""

from __future__ import annotations

from math import exp, expm1
from typing import Any

import pytest

from sim.errors import InfeasibleError, InputError, RunError
from sim.jobs.reliability.replicas import prepare, replica
from sim.laws.checkpointing import daly_interval
from sim.report.terminal import render_text
from sim.results.schema import Result, TrainingMetrics
from sim.run import run, run_recorded

from ...helpers import only, resolved
from .helpers import servers, toy, training

HOUR, DAY = 3600.0, 86_400.0
PER_GPU = {"mtbf_per_gpu": "800 h"}
LIFE = {"checkpoint": {"every": "30 min", "blocking": "60 s"}, "recovery": {"time": "10 min"}}


def described(faults: Any = PER_GPU, *, dp: int = 8, zero: int = 0, run: Any = None, **job: Any) -> dict[str, Any]:
    """Eight toy cards, steps of a second or so."""
    length = run or {"duration": "200 days"}
    found = toy({"dp": dp, "zero": zero}, (8 * dp, 1, 4000), gpus=dp, run=length, **{**LIFE, **job})
    return found | ({"faults": faults} if faults else {})


def answer(*args: Any, seeds: int = 1, **more: Any) -> Result:
    return run(resolved(described(*args, **more)), effects=False, seeds=seeds)


def metrics(result: Result) -> TrainingMetrics:
    found = only(result).metrics
    assert isinstance(found, TrainingMetrics)
    return found


def problems(scenario: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        resolved(scenario)
    return "\n".join(p.message for p in caught.value.problems)


# ---- where the time goes


@pytest.mark.parametrize("policy", ["restart", "wait", "elastic"])
@pytest.mark.parametrize("checkpoint", [
    {"every": "30 min", "blocking": "60 s"}, {"steps": 500, "mode": "async", "to": {"write": "100 MB/s"}},
    {"every": "auto", "mode": "memory"},
])  # fmt: skip
def test_every_gpu_second_is_in_one_bucket(policy, checkpoint):
    faults = {"mtbf_per_gpu": "100 h", "spares": 0, "repair": "3 h"}
    result = answer(faults, policy=policy, checkpoint=checkpoint, run={"duration": "30 days"})
    assert sum(result.ledger.values()) == pytest.approx(result.gpus * 30 * DAY, rel=1e-9)
    assert min(result.ledger.values()) >= 0.0
    assert metrics(result).failures > 20
    assert result.simulated_s == pytest.approx(30 * DAY)


def test_progress_is_what_daly_expects():
    """M = 100 h, R = 10 min, C = 60 s, tau = 30 min; a run of 200 days meets 48 failures."""
    result = answer(seeds=40)
    m, expected = metrics(result), 0.5 / (100 * exp(1 / 600) * expm1((0.5 + 1 / 60) / 100))
    low, high = result.intervals["metrics.ettr"]
    assert m.ettr_expected == pytest.approx(expected, rel=1e-9)
    assert m.ettr == pytest.approx(expected, abs=2 * (high - low))
    assert high - low < 0.002
    assert m.mtbf_s == pytest.approx(100 * HOUR)
    assert m.goodput_tokens_per_s == pytest.approx(m.ettr * m.tokens_per_s)


def test_without_faults_only_checkpoints_cost():
    m = metrics(run(resolved(_without_recovery()), effects=False))
    assert m.failures == 0
    assert m.ettr == pytest.approx(30 / 31, rel=1e-4)
    assert m.ettr_expected == pytest.approx(30 / 31)


def _without_recovery() -> dict[str, Any]:
    found = described(None)
    del found["jobs"][0]["recovery"]
    return found


def test_what_is_kept_makes_steps_tokens_and_days():
    result = answer({"mtbf_per_gpu": "50 h"}, run={"duration": "30 days", "target_tokens": "1B"})
    m = metrics(result)
    assert m.steps == pytest.approx(m.ettr * 30 * DAY / m.step_time_s, abs=1)
    assert m.tokens == m.steps * m.global_batch_tokens
    assert m.days_to_target == pytest.approx(1e9 / m.goodput_tokens_per_s / DAY)


def test_a_run_of_steps_ends_when_they_are_done():
    plain = metrics(answer(run={"steps": 100_000}))
    result = answer({"mtbf_per_gpu": "50 h"}, run={"steps": 100_000})
    assert metrics(result).steps == 100_000
    assert result.simulated_s == pytest.approx(100_000 * plain.step_time_s / metrics(result).ettr)


def test_devices_and_links_work_when_the_job_does():
    result = answer({"mtbf_per_gpu": "20 h"}, run={"duration": "10 days"})
    state = result.timeline.jobs["j"]
    (busy,) = result.timeline.devices.values()
    assert len(busy) == len(state["training"]) == len(state["recovery"])
    assert max(a + b for a, b in zip(state["training"], state["recovery"], strict=True)) <= 1 + 1e-5
    idle = [b for b, share in zip(busy, state["training"], strict=True) if share == 0.0]
    assert not any(idle)
    redone = result.ledger["lost work redone"] / sum(result.ledger.values())
    assert sum(busy) / len(busy) == pytest.approx(metrics(result).ettr + redone, rel=0.02)


def test_replicas_of_a_study_are_runs():
    scenario = described({"mtbf_per_gpu": "50 h"}, run={"duration": "30 days"})
    prepared = prepare(resolved(scenario))
    lives = [replica(prepared, seed) for seed in range(30)]
    assert lives[3].ettr == replica(prepared, 3).ettr
    again = prepare(resolved(scenario), like=prepared)
    assert replica(again, 3).buckets == lives[3].buckets
    m = metrics(run(resolved(scenario), effects=False, seeds=30))
    assert sum(life.ettr for life in lives) / 30 == pytest.approx(m.ettr, abs=0.005)


def test_one_seed_is_one_run_and_another_another():
    scenario = described()
    first, second = (run(resolved(scenario), effects=False) for _ in range(2))
    assert first.model_dump() == second.model_dump()
    assert run(resolved(scenario | {"seed": 1}), effects=False).metrics.ettr != first.metrics.ettr


def test_what_would_help_is_found_by_running_again():
    recovery = {"launch": {"median": "8 min", "p90": "15 min"}}
    result = run(resolved(described({"mtbf_per_gpu": "10 h"}, run={"duration": "30 days"}, recovery=recovery)))
    gains = {effect.resource: effect.relative for effect in result.verdict.effects}
    assert gains["failures"] > gains["recovery time"] > 0.02


def test_a_recorded_trace_is_replayed(tmp_path):
    (tmp_path / "faults.csv").write_text("time,class,unit\n3 h,xid,1\n50 h,xid,7\n")
    scenario = described({"trace": str(tmp_path / "faults.csv")}, run={"duration": "4 days"})
    m = metrics(run(resolved(scenario), effects=False))
    assert m.failures_by_class == {"xid": 2}
    assert m.mtbf_s is None
    assert m.recovery_s == pytest.approx(600.0)


def test_a_checkpoint_takes_the_links_it_has():
    """14 bytes a parameter; eight cards of 1 GB/s against a filer that takes 0.5 GB/s, and against peers' memory."""
    runs = {"duration": "30 days"}
    cards = {"link": {"bandwidth": "1 GB/s"}}
    sizes = []
    for checkpoint, rate in (({"to": {"write": "500 MB/s"}}, 0.5e9), ({"to": {"write": "1 TB/s"}}, 8e9)):
        found = described(run=runs, checkpoint={"every": "1 h", **checkpoint}, **cards)
        m = metrics(run(resolved(found), effects=False))
        assert m.checkpoint_blocking_s == pytest.approx(m.checkpoint_bytes / rate, rel=0.2)
        sizes.append(m.checkpoint_bytes)
    assert sizes[0] == sizes[1] == pytest.approx(14 * (16 * 12 * 1024 * 1024 + 1024), rel=0.01)


STORE = {"to": {"write": "100 MB/s"}}  # 28 s
MEMORY = {"mode": "memory", "every": "2 min", "keep": 4}
SOFT, NODE, LEAF = (
    {"name": "soft", "per": "job", "mtbf": "20 h"}, {"name": "node", "per": "node", "mtbf": "160 h"},
    {"name": "leaf", "per": "switch", "mtbf": "40 h"},
)  # fmt: skip


def saved(checkpoint: dict[str, Any], *classes: dict[str, Any]) -> TrainingMetrics:
    recovery = {"time": "5 min"}
    return metrics(
        answer({"classes": list(classes)}, checkpoint=checkpoint, run={"duration": "60 days"}, recovery=recovery)
    )


def test_each_fault_goes_back_to_what_outlives_it():
    """Memory every 2 minutes, a store every 5 hours: software and lost nodes cost minutes, a switch hours."""
    both = {**MEMORY, "then": {"every": "5 h", **STORE}}
    lost = {c["name"]: saved(both, c).lost_work_s for c in (SOFT, NODE, LEAF)}
    assert 30 < lost["soft"] < 90
    assert 30 < lost["node"] < 90
    assert lost["leaf"] == pytest.approx(2.5 * HOUR, rel=0.3)


def test_memory_alone_is_gone_with_a_switch():
    assert saved(MEMORY, NODE).ettr > 0.98
    assert saved(MEMORY, LEAF).ettr < 0.5  # from the beginning each time
    both = {**MEMORY, "then": {"every": "5 h", **STORE}}
    for checkpoint, warned in ((MEMORY, ["j: no checkpoint outlives leaf: each time the run begins anew"]), (both, [])):
        result = answer({"classes": [NODE, LEAF]}, checkpoint=checkpoint)
        assert [line.partition(";")[0] for line in result.verdict.warnings if "outlives" in line] == warned
    levels = [a.value for a in result.assumptions if a.name == "j: levels of checkpoints"]
    assert len(levels) == 1
    assert levels[0].startswith("every 2 min, standing still for")
    assert "; then every 5 h, standing still for 28" in levels[0]


def test_every_level_is_told():
    """A peer's memory, something of stated times every hour, a store every 5 hours in half the bytes."""
    store = {"every": "5 h", "mode": "async", "bytes_per_parameter": 7, **STORE}
    both = {**MEMORY, "then": {"every": "1 h", "blocking": "40 s", "then": store}}
    result = answer({"classes": [NODE, LEAF]}, checkpoint=both, run={"duration": "30 days"})
    m = metrics(result)
    assert [level.to for level in m.checkpoint_levels] == ["peer memory", "", "store"]
    assert [level.interval_s for level in m.checkpoint_levels] == pytest.approx([120, HOUR, 5 * HOUR])
    first, second, third = m.checkpoint_levels
    assert (first.interval_s, first.bytes, first.blocking_s, first.persist_s) == (
        m.checkpoint_interval_s, m.checkpoint_bytes, m.checkpoint_blocking_s, m.checkpoint_persist_s
    )  # fmt: skip
    assert (second.blocking_s, second.persist_s) == (40.0, 0.0)
    assert third.bytes == pytest.approx(first.bytes / 2)
    assert third.persist_s == pytest.approx(third.bytes / 100e6)
    text = " ".join(render_text(result, 400).split())
    assert "then 2.82 GB every 60 min, standing still for 40 s, then 1.41 GB to store every 5 h, standing still" in text


def test_one_level_has_no_list():
    assert saved(MEMORY, NODE).checkpoint_levels == []
    assert metrics(answer(checkpoint={"every": "1 h", **STORE})).checkpoint_levels == []


def test_auto_of_the_second_level_goes_by_what_needs_it():
    both = {**MEMORY, "then": {"every": "auto", **STORE}}
    found = prepare(resolved(described({"classes": [SOFT, NODE, LEAF]}, checkpoint=both)))
    blocking, store = 28.2, found.saving.then
    assert store is not None
    assert store.blocking == pytest.approx(blocking, rel=0.01)
    assert store.interval == pytest.approx(daly_interval(store.blocking, 40 * HOUR), rel=0.01)
    assert found.mtbf == pytest.approx(HOUR / (1 / 20 + 8 / 160 + 1 / 40))
    with pytest.raises(InfeasibleError, match="take the copies of the levels before this one"):
        prepare(resolved(described({"classes": [SOFT, NODE]}, checkpoint=both)))


# ---- what is refused


@pytest.mark.parametrize(("first", "second", "said"), [
    ({"every": "10 min"}, {"every": "5 min"}, "every 5 min, more often than the one before it (every 10 min)"),
    ({"steps": 1200}, {"steps": 100}, "every 100 steps, more often than the one before it (every 1,200 steps)"),
])  # fmt: skip
def test_a_level_that_saves_more_often_than_the_one_before_it(first, second, said):
    one = {**STORE, **first, "then": {**STORE, **second}}
    assert said in problems(described(checkpoint=one))
    third = {**STORE, **first, "then": {**STORE, **first, "then": {**STORE, **second}}}
    with pytest.raises(InputError) as caught:
        resolved(described(checkpoint=third))
    (problem,) = caught.value.problems
    assert problem.path == f"jobs.0.checkpoint.then.then.{next(iter(second))}"
    assert problem.line is not None
    assert "or swap the two" in problem.message
    for fine in ({**STORE, **first}, {**STORE, "every": "auto"}):
        resolved(described(checkpoint={**STORE, **first, "then": fine}))


def test_faults_need_a_length():
    found = described()
    del found["jobs"][0]["run"]
    assert problems(found) == "faults strike over time: say how long the job runs (run: duration, tokens or steps)"


def test_recovery_without_faults_would_do_nothing():
    assert "nothing fails in this scenario" in problems(described(None))


def test_auto_needs_faults():
    found = _without_recovery()
    found["jobs"][0]["checkpoint"] = {"every": "auto", "blocking": "60 s"}
    assert "this scenario has none" in problems(found)


def test_auto_needs_a_rate_which_a_trace_does_not_have(tmp_path):
    (tmp_path / "faults.csv").write_text("time,class\n3 h,xid\n")
    trace = {"trace": str(tmp_path / "faults.csv")}
    for auto in ({"every": "auto", "blocking": "60 s"}, {**MEMORY, "then": {"every": "auto", **STORE}}):
        assert problems(described(trace, checkpoint=auto)).endswith("and a trace has none: give a time")


def test_an_unknown_preset_is_named_with_its_neighbour():
    with pytest.raises(InputError) as caught:
        resolved(described({"preset": "lama3"}))
    assert "did you mean 'llama3'" in str(caught.value)


def test_going_on_without_a_replica_takes_whole_replicas():
    with pytest.raises(InfeasibleError, match="zero 1"):
        answer(policy="elastic", zero=1)


def test_a_run_that_gets_nowhere_ends(monkeypatch):
    monkeypatch.setattr("sim.jobs.reliability.terms.MOST_FAULTS", 1000)
    with pytest.raises(RunError, match="hardly any progress"):
        run_recorded(resolved(described({"mtbf_per_gpu": "8 min"}, run={"steps": 1000})), effects=False)


def test_more_faults_than_anyone_waits_for_are_refused():
    with pytest.raises(InfeasibleError, match="faults are to be expected"):
        answer({"mtbf_per_gpu": "1 s"})


def test_replicas_that_share_nodes_cannot_be_given_up_one_by_one():
    """Two GPUs a node, two stages: by default a node holds a stage of two replicas."""
    cluster = servers("h100-sxm", 4, "nvlink4", "infiniband-ndr", gpus=2)
    job = {"policy": "elastic", "run": {"duration": "10 days"}, **LIFE}
    apart = {"pp": 2, "dp": 4, "order": ["tp", "cp", "pp", "dp"]}
    for plan in ({"pp": 2, "dp": 4}, apart):
        found = training(cluster, plan, (32, 1, 2048), **job) | {"faults": {"mtbf_per_gpu": "100 h"}}
        if plan is apart:
            assert metrics(run(resolved(found), effects=False)).failures > 0
        else:
            with pytest.raises(InfeasibleError, match=r"plan.order \[tp, cp, pp, dp\]"):
                run(resolved(found), effects=False)


def test_only_the_nodes_and_switches_of_the_job_count():
    """Two of eight nodes, on both sides of a leaf of four: two leaves, and a switch takes two nodes at most."""
    cluster = servers("h100-sxm", 8, "nvlink4", "infiniband-ndr", gpus=2)
    cluster["topology"]["network"] = {"leaf_spine": {"nodes_per_leaf": 4, "uplinks": 4, "link": "infiniband-ndr"}}
    found = training(cluster, {"dp": 4, "placement": [6, 7, 8, 9]}, (32, 1, 2048), run={"duration": "10 days"}, **LIFE)
    found["faults"] = {"classes": [{"name": "leaf", "per": "switch", "mtbf": "100 h"}], "spares": 2}
    prepared = prepare(resolved(found))
    assert prepared.mtbf == pytest.approx(50 * HOUR)
    assert (prepared.nodes, prepared.terms.effects["leaf"].nodes) == (2, 2)


def test_stalls_that_outlast_the_watchdog_count_as_stops():
    """Of 100 h between stalls: all stop, none does, one in ten does."""
    tenth = {"median": "1 h", "p90": "2 h"}
    for lasts, share in (("3 h", 1.0), ("1 h", 0.0), (tenth, 0.1)):
        hang = {"name": "hang", "per": "job", "mtbf": "100 h", "effect": "stall", "lasts": lasts, "timeout": "2 h"}
        m = metrics(answer({"classes": [hang]}, run={"duration": "10 days"}))
        assert (HOUR / m.mtbf_s if m.mtbf_s else 0.0) == pytest.approx(share / 100, rel=1e-6)


def links(dp: int, rate: str = "8 GB/s", **fault: Any) -> dict[str, Any]:
    """Toy cards that sum their gradients over links of this rate, hiding nothing, and faults of the links."""
    plan, length = {"dp": dp, "overlap": False}, {"duration": "20 days"}
    found = toy(plan, (8 * dp, 1, 4000), gpus=dp, link={"bandwidth": rate}, run=length)
    return found | {"faults": {"classes": [{"name": "card", "per": "link", "mtbf": "800 h", **fault}], "repair": 0}}


def test_a_slow_link_slows_what_waits_for_it():
    """Hardly ever repaired: a step is 1 + s (factor - 1) times as long, as if all links had that rate."""
    fault = {"effect": "slow", "factor": 4.0, "lasts": "1000 days", "mtbf": "4 h"}
    prepared = prepare(resolved(links(8, **fault)))
    slow = prepare(resolved(links(8, "2 GB/s")))
    assert prepared.network_share > 0.1
    factor = prepared.terms.effects["card"].factor
    assert factor == pytest.approx(1 + 3 * prepared.network_share)
    assert factor == pytest.approx(slow.step / prepared.step, rel=1e-3)
    assert metrics(run(resolved(links(8, **fault)), effects=False)).ettr == pytest.approx(1 / factor, rel=5e-3)
    free = prepare(resolved(links(8, "1e6 GB/s", **fault)))
    assert free.terms.effects["card"].factor == pytest.approx(1.0, abs=1e-3)


def test_a_job_has_a_link_a_node_and_none_on_one_node_alone():
    assert prepare(resolved(links(8))).mtbf == pytest.approx(100 * HOUR)
    one = prepare(resolved(links(1)))
    assert [u.count for u in one.reliability.units] == [0]
    assert metrics(run(resolved(links(1)), effects=False)).failures == 0
    stop = prepare(resolved(links(8))).terms.effects["card"]
    assert (stop.kind, stop.nodes) == ("stop", 1)  # takes its node, as a card or a cable does


def test_machines_that_tell_beforehand_cost_less():
    """Long enough to save, a notice leaves no work lost and nothing to detect; a short one still the latter."""
    found = []
    for notice in ({}, {"notice": "30 s"}, {"notice": "2 min"}):
        spot = {"name": "spot", "per": "node", "mtbf": "160 h", **notice}
        found.append(metrics(answer({"classes": [spot]}, run={"duration": "60 days"}, recovery={"load": "1 min"})))
    sudden, short, enough = found
    assert sudden.mtbf_s == short.mtbf_s == pytest.approx(20 * HOUR)
    assert sudden.recovery_s - short.recovery_s == pytest.approx(150, abs=15)  # detect and diagnose
    assert sudden.ettr < short.ettr < enough.ettr
    assert short.lost_work_s > 300
    assert enough.lost_work_s == 0.0


def test_a_job_that_migrates_loses_moments_where_a_restart_loses_minutes():
    """A card holds 14 bytes of each of its 201 M weights; its link takes 1 GB/s, then the job connects."""
    spot = {"name": "spot", "per": "node", "mtbf": "40 h", "notice": "5 min"}
    said: dict[str, Any] = {"run": {"duration": "20 days"}, "checkpoint": {"every": "10 min", "blocking": "60 s"}}
    ettr = {}
    for policy in ("restart", "migrate"):
        found = described({"classes": [spot]}, policy=policy, recovery={}, link={"bandwidth": "1 GB/s"}, **said)
        result = run(resolved(found), effects=False)
        ettr[policy] = metrics(result).ettr
        assert metrics(result).lost_work_s in (0.0, None)
        moved = result.ledger.get("migration", 0.0) / result.gpus
    assert moved / metrics(result).failures == pytest.approx(14 * 12.58e6 * 16 / 1e9 + 5.008, rel=0.05)
    assert ettr["migrate"] > ettr["restart"] + 0.01
    late = described({"classes": [{**spot, "notice": "4 min"}]}, policy="migrate", recovery={}, **said)
    assert "migration" not in run(resolved(late), effects=False).ledger  # 4 minutes to replace and launch


def test_parameter_servers_fail_too():
    plan = {"dp": 6, "parameter_server": {"servers": 2}}
    found = toy(plan, (48, 1, 4000), gpus=8, run={"duration": "10 days"}, **LIFE) | {"faults": PER_GPU}
    assert metrics(run(resolved(found), effects=False)).mtbf_s == pytest.approx(100 * HOUR)


def test_nothing_is_saved_more_often_than_a_step():
    m = metrics(answer(checkpoint={"every": "1 ns", "blocking": "0 s"}, run={"duration": "1 day"}))
    assert m.checkpoint_interval_s == pytest.approx(m.step_time_s)


def test_a_run_without_progress_has_no_end_to_tell():
    recovery = {"startup": "2 days"}
    run = {"duration": "1 day", "target_tokens": "1B"}
    m = metrics(answer({"mtbf_per_gpu": "1e6 h"}, recovery=recovery, run=run))
    assert (m.ettr, m.days_to_target) == (0.0, None)
