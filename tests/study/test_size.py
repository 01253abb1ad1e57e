"""``sim size``: the search finds what simulating every design would find, and its bounds hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.adapters.resolve import resolve_file
from sim.errors import InputError
from sim.probe import answers
from sim.run import run_recorded
from sim.study import size_confirm, trials
from sim.study.executors import open_executor
from sim.study.size import size
from sim.study.size_check import Checker
from sim.study.size_confirm import confirm_design
from sim.study.size_play import play_design
from sim.study.size_question import Study, prepare
from sim.study.size_schema import Sizing
from sim.study.size_search import Interrupted
from sim.study.trials import answered_at_most, missed

from ..helpers import TOY_GPU, TOY_MODEL, only

SMALL = {"gpus": [{"type": "toy"}], "name": "small", "pcie": {"link": "pcie4-x16"}}
LARGE = {"gpus": [{"type": "toy", "count": 4}], "name": "large", "pcie": {"link": "pcie4-x16"}}
MACHINES = {
    "small": {"node": SMALL, "networks": ["slow", "fast"], "capital": [{"what": "all", "unit_price": "1000 USD"}]},
    "large": {"node": LARGE, "networks": ["fast"], "capital": [
        {"what": "card", "per": "gpu", "unit_price": "900 USD"}, {"what": "host", "unit_price": "500 USD"}]},
    "rented": {"node": LARGE, "networks": ["slow"], "rental": {"per_gpu": "0.05 USD/h"}},
}  # fmt: skip
NETWORKS = {
    "slow": {"link": "ethernet-1g", "most_nodes": 8, "capital": [{"what": "port", "unit_price": "10 USD"}]},
    "fast": {"link": "roce-200g", "most_nodes": 4, "capital": [{"what": "card", "unit_price": "800 USD"}]},
}  # fmt: skip
LOAD = {"poisson": {"rate": "3000 req/s"}, "prompt_tokens": 100, "output_tokens": 40, "requests": 3000}


@pytest.fixture(autouse=True)
def confirm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Confirm by one seed's short run: most tests ask what the search does with an answer, not how sure that is. Those
    that ask how sure undo it."""
    monkeypatch.setattr(size_confirm, "SEEDS", 1)
    monkeypatch.setattr(trials, "ENOUGH", 2_000)
    return monkeypatch


def scenario(size: dict[str, Any] | None = None, **job: Any) -> dict[str, Any]:
    """A toy job whose load takes several small machines."""
    # One size of passes, and no pipelines of tensor groups, whose hops share a bus and are played event by event.
    vary = {"jobs.0.batching.max_batched_tokens": [512], "jobs.0.plan.pp": [1, 2]}
    asked = {"vary": vary, "machines": ["small", "large", "rented"], "most_nodes": 8, "most_gpus": 2, **(size or {})}
    return {
        "name": "sized",
        "cluster": {"topology": {"name": "own", "nodes": [{**SMALL, "count": 2}], "network": {"link": "ethernet-1g"}}},
        "model": "toy", "stack": "generic",
        "jobs": [{"name": "chat", "kind": "serving", "plan": {"pp": 2}, "load": LOAD,
                  "objectives": {"tpot_p99": "20 ms"}, **job}],
        "cost": {"capital": "2000 USD", "electricity": "0.1 USD/kWh"},
        "define": {"gpus": {"toy": TOY_GPU}, "models": {"toy": TOY_MODEL}, "machines": MACHINES, "networks": NETWORKS},
        "size": asked,
    }  # fmt: skip


def study_of(folder: Path, data: dict[str, Any], *overrides: str, **vary: Any) -> Study:
    path = folder / "sized.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return prepare(path, overrides, None, vary)


def sized(folder: Path, data: dict[str, Any], *overrides: str, workers: int = 1) -> Sizing:
    name = "processes" if workers > 1 else "serial"
    return size(study_of(folder, data, *overrides), partial(open_executor, name, workers, ("sim.study.size",)))


def every_value(study: Study) -> dict[str, list[float]]:
    """The goal's value of every design that does what is asked, by machine, each simulated to the end and confirmed."""
    checker, found = Checker(study.space, study.question), dict[str, list[float]]()
    for design in study.space.designs:
        checked = checker.check(design)
        if checked.lost is None:
            played = play_design(study.space, design, study.question, checked)
            if played.lost is None and not played.settled:
                played = confirm_design(study.space, design, study.question, checked, played)
            if played.lost is None:
                machine = study.space.offers[design.offer].machine.id
                found.setdefault(machine, []).append(played.value)
    return found


@pytest.mark.parametrize(
    ("goal", "extra", "best"),
    [
        ("cost", {}, min),
        ("latency", {"budget": "9000 USD"}, min),
        ("throughput", {"budget_per_hour": "0.1 USD/h", "machines": ["small", "rented"]}, max),
    ],
)
def test_the_search_finds_what_simulating_everything_finds(tmp_path: Path, goal: str, extra: Any, best: Any) -> None:
    data = scenario({"goal": goal, **extra})
    found, by_machine = sized(tmp_path, data), every_value(study_of(tmp_path, data))
    # Here every design is confirmed by long runs, in the search the winner only: the others by shorter ones.
    assert found.answers[0].value == pytest.approx(best(v for values in by_machine.values() for v in values))
    ranked = sorted((v for values in by_machine.values() for v in values), reverse=best is max)
    assert [a.value for a in found.answers[:5]] == pytest.approx(ranked[:5], rel=0.05)
    assert all(a.confirmed for a in found.answers[:5])
    told = {row.machine: row.answer for row in found.best_by_machine}
    for machine, values in by_machine.items():
        answer = told[machine]
        assert answer is not None
        assert found.answers[answer].value == pytest.approx(best(values), rel=0.05)
    assert all(told[name] is None for name in told if name not in by_machine)


MIXED = {"lognormal": {"median": "100 tokens", "p90": "400 tokens"}}
LOADS: list[dict[str, Any]] = [
    {},
    {"load": {"poisson": {"rate": "2000 req/s"}, "prompt_tokens": MIXED, "output_tokens": MIXED, "requests": 200}},
    {"load": {"closed_loop": {"clients": 300}, "prompt_tokens": MIXED, "output_tokens": MIXED, "requests": 1200}},
    {"batching": {"policy": "static", "batch_size": 64}},
    {"precision": {"weights": "int4"}},
    {"plan": {"pp": 1}, "speculative": {"tokens": 4, "acceptance": 1.0, "draft": "toy"}, "load": {
        "poisson": {"rate": "2000 req/s"}, "prompt_tokens": MIXED, "output_tokens": MIXED, "requests": 200}},
]


@pytest.mark.parametrize("job", LOADS)
def test_what_the_laws_rule_out_fails_when_it_is_played(tmp_path: Path, job: dict[str, Any]) -> None:
    """With fewer machines than laws allow, or with all there may be where laws say never, an objective is missed."""
    batched = {"size": {"vary": {"jobs.0.plan.pp": [1, 2]}}} if "batching" in job else {"size": None}
    study = study_of(tmp_path, scenario(batched["size"], **job))
    checker, played = Checker(study.space, study.question), 0
    for design in study.space.designs:
        checked = checker.check(design)
        if checked.lost in ("misses an objective", "too many nodes"):
            assert missed(only_job(study, design, study.space.most_units(design)))
            played += 1
        elif checked.lost is None and checked.least > 1:
            assert missed(only_job(study, design, checked.least - 1))
            played += 1
    assert played or job.get("load", {}).get("closed_loop")


def test_no_answer_is_better_than_its_bound(tmp_path: Path) -> None:
    for asked in ({}, {"goal": "latency", "budget": "9000 USD"}, {"goal": "throughput", "budget": "9000 USD"}):
        mixed = {"poisson": {"rate": "100 req/s"}, "prompt_tokens": 10, "output_tokens": MIXED, "requests": 300}
        study = study_of(tmp_path, scenario(asked, load=mixed, objectives={} if asked else {"tpot_p99": "20 ms"}))
        checker, played = Checker(study.space, study.question), 0
        for design in study.space.designs:
            checked = checker.check(design)
            found = play_design(study.space, design, study.question, checked) if checked.lost is None else None
            if found is not None and found.lost is None:
                played += 1
                low, high = checked.best, found.value
                low, high = (high, low) if study.question.goal == "throughput" else (low, high)
                assert low <= high, (study.question.goal, study.space.told(design))
        assert played > 3


def test_a_rule_of_the_day_of_one_design_is_no_rule_of_another(tmp_path: Path) -> None:
    """A machine of a slow and three quick cards: one replica's latency does not rule out the machine."""
    mixed = {**LARGE, "gpus": [{"type": "slow"}, {"type": "toy", "count": 3}]}
    data = scenario({"machines": ["mixed"]}, objectives={"tpot_p50": "3 ms"})
    data["define"]["gpus"]["slow"] = {"like": "toy", "memory_bandwidth": "100 GB/s"}
    data["define"]["machines"]["mixed"] = {"node": mixed, "capital": [{"what": "all", "unit_price": "1 USD"}]}
    study = study_of(tmp_path, data)
    checks = [Checker(study.space, study.question).check(d) for d in study.space.designs if d.tp == d.pp == 1]
    assert [c.lost for c in checks] == [None]


def only_job(study: Study, design: Any, units: int) -> Any:
    (job,) = answers(study.space.resolved(design, units))
    return job


def test_all_designs_are_accounted_for_whatever_the_number_of_workers(
    tmp_path: Path, confirm: pytest.MonkeyPatch
) -> None:
    confirm.undo()
    data = scenario({"goal": "cost", "machines": ["small"]})
    one, two = sized(tmp_path, data), sized(tmp_path, data, workers=2)
    assert one == two
    c = one.coverage
    assert c.do_not_fit + c.ruled_out_by_laws + c.simulated + c.cannot_be_better == c.designs
    assert sum(row.designs for row in one.best_by_machine) == c.designs
    assert sum(loss.designs for loss in one.losses) + len(one.answers) == c.designs


def test_more_is_never_cheaper(tmp_path: Path) -> None:
    asked = [scenario({"throughput": f"{rate} tok/s"}) for rate in (10_000, 40_000)]
    values = [sized(tmp_path, data).answers[0].value for data in asked]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_a_budget_is_kept_and_more_of_it_is_never_slower(tmp_path: Path) -> None:
    found = [sized(tmp_path, scenario({"goal": "latency", "budget": f"{usd} USD"})) for usd in (5000, 9000)]
    for usd, one in zip((5000, 9000), found, strict=True):
        assert all(a.capital_usd is not None and a.capital_usd <= usd for a in one.answers)
        rented = next(row for row in one.best_by_machine if row.machine == "rented")
        assert "it is rented" in rented.why
    assert found[1].answers[0].value <= found[0].answers[0].value * 1.01


def answer_of(folder: Path, found: Sizing) -> Any:
    """What ``sim run`` says of the winner's file, wherever that lies."""
    (folder / "elsewhere").mkdir()
    path = folder / "elsewhere" / "winner.yaml"
    path.write_text(yaml.safe_dump(found.scenario), encoding="utf-8")
    return only(run_recorded(resolve_file(path), effects=False).result)


def test_the_winner_runs_as_a_scenario_of_its_own(tmp_path: Path) -> None:
    found = sized(tmp_path, scenario({"throughput": "20000 tok/s"}, precision={"weights": "fp16"}))
    job, best = answer_of(tmp_path, found), found.answers[0]
    assert job.cost.usd_per_hour == pytest.approx(best.usd_per_hour)
    assert job.metrics.tpot_s.p99 == pytest.approx(best.metrics["tpot_s.p99"])
    assert all(row["met"] for row in job.objectives)


def test_a_trace_is_played_faster_in_the_file_of_the_winner_too(tmp_path: Path) -> None:
    rows = [f"{n / 1000},100,40" for n in range(3000)]
    (tmp_path / "asked.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n".join(rows))
    found = sized(tmp_path, scenario({"throughput": "80000 tok/s"}, load={"trace": "asked.csv"}))
    job, best = answer_of(tmp_path, found), found.answers[0]
    # The search played the trace more than once, the file does so once.
    assert job.cost.usd_per_hour == pytest.approx(best.usd_per_hour, rel=0.01)
    assert job.metrics.output_tokens_per_s == pytest.approx(best.metrics["output_tokens_per_s"], rel=0.01)


def test_the_plan_that_won_trains_as_a_scenario_of_its_own(tmp_path: Path) -> None:
    data = training({})
    data["jobs"][0] |= {"plan": {"dp": 1, "pp": 2, "vpp": 2}, "slow": [{"gpu": 0, "factor": 2}]}
    found = sized(tmp_path, data)
    assert answer_of(tmp_path, found).metrics.usd_to_target == pytest.approx(found.answers[0].value)


def test_the_capacity_of_the_winner_is_at_least_the_load(tmp_path: Path) -> None:
    found = sized(tmp_path, scenario())
    assert found.capacity is not None
    assert found.capacity.rate is not None
    assert found.capacity.rate >= 3000.0 * 0.98


@pytest.mark.parametrize("waits", [True, False])
def test_that_a_slow_winner_is_asked_for_less_is_told(tmp_path: Path, waits: bool) -> None:
    """Clients of a closed loop: more cards cost more an hour, and make more tokens of it than that."""
    arrivals = {"closed_loop": {"clients": 64}} if waits else {"poisson": {"rate": "500 req/s"}}
    load = {**arrivals, "prompt_tokens": 100, "output_tokens": 40, "requests": 600}
    vary = {"jobs.0.batching.max_batched_tokens": [512], "jobs.0.batching.max_sequences": [8, 64]}
    found = sized(tmp_path, scenario({"goal": "cost", "machines": ["small"], "vary": vary}, load=load))
    least = min(a.usd_per_million_tokens or 0.0 for a in found.answers)
    told = any("ask less of a slower cluster" in note for note in found.notes)
    assert told == (waits and least < (found.answers[0].usd_per_million_tokens or 0.0))
    assert told == waits


def test_the_most_tokens_of_clients_are_those_of_as_many_as_are_within_the_objectives(tmp_path: Path) -> None:
    load = {"closed_loop": {"clients": 4}, "prompt_tokens": 100, "output_tokens": 40, "requests": 400}
    few = {"machines": ["small"], "most_nodes": 1, "vary": {"jobs.0.batching.max_batched_tokens": [512]}}
    asked = scenario({"goal": "throughput", "budget_per_hour": "0.3 USD/h", **few}, load=load)
    asked["jobs"][0]["objectives"]["ttft_p99"] = "50 ms"
    found = sized(tmp_path, asked)
    assert found.capacity is not None
    written = found.scenario["jobs"][0]["load"]
    assert written["closed_loop"]["clients"] == found.capacity.clients
    job = answer_of(tmp_path, found)
    assert job.metrics.output_tokens_per_s == pytest.approx(found.answers[0].value, rel=0.02)
    assert all(row["met"] for row in job.objectives)


def test_quantisation_is_chosen_among_what_is_asked_for(tmp_path: Path) -> None:
    vary = {"jobs.0.precision.weights": ["fp16", "int4"], "jobs.0.plan.pp": [1]}
    data = scenario({"vary": vary, "machines": ["small"]})
    found = sized(tmp_path, data)
    assert {a.settings["jobs.0.precision.weights"] for a in found.answers} == {"fp16", "int4"}
    best = {a.settings["jobs.0.precision.weights"]: a.value for a in reversed(found.answers)}
    assert best["int4"] < best["fp16"]


def test_values_that_do_not_go_together_are_left_out(tmp_path: Path) -> None:
    both = {"jobs.0.batching.policy": ["continuous", "static"], "jobs.0.batching.batch_size": [None, 64]}
    study = study_of(tmp_path, scenario({"vary": both}))
    keys = "jobs.0.batching.policy", "jobs.0.batching.batch_size"
    found = {tuple(v.settings[key] for key in keys) for v in study.space.variants}
    assert found == {("continuous", None), ("static", 64)}


def test_without_a_kv_cache_no_sizes_of_passes_are_tried(tmp_path: Path) -> None:
    """They have whole contexts: a bound on their tokens would be refused."""
    key, plan = "jobs.0.batching.kv_cache", {"jobs.0.plan.pp": [1]}
    study = study_of(tmp_path, scenario({"vary": {key: [True, False]}}))
    assert [v.settings for v in study.space.variants] == [{key: True}, {key: False}]
    study = study_of(tmp_path, scenario({"vary": plan}, batching={"kv_cache": False}))
    assert [v.settings for v in study.space.variants] == [{}]


def test_an_hourly_budget_holds_with_busy_gpus(tmp_path: Path) -> None:
    load = {**LOAD, "poisson": {"rate": "100 req/s"}}
    for asked in ({"goal": "throughput"}, {"goal": "latency"}):
        found = sized(tmp_path, scenario({"budget_per_hour": "0.115 USD/h", "machines": ["small"], **asked}, load=load))
        assert all(a.usd_per_hour <= 0.115 for a in found.answers)
        if asked["goal"] == "throughput":
            best = found.answers[0]
            assert best.value == pytest.approx(best.metrics["output_tokens_per_s"])


def test_nothing_fits_is_told_with_what_came_nearest(tmp_path: Path) -> None:
    found = sized(tmp_path, scenario(objectives={"tpot_p99": "0.001 ms"}))
    assert (found.answers, found.scenario, found.capacity) == ([], None, None)
    assert found.nearest is not None
    assert found.nearest.why == "misses an objective"
    assert "even alone, over 1 us" in found.nearest.reason
    assert found.nearest.over is not None
    # No other design is nearer: each is over by the least time of a token that its laws allow.
    study = study_of(tmp_path, scenario(objectives={"tpot_p99": "0.001 ms"}))
    checked = [Checker(study.space, study.question).check(design) for design in study.space.designs]
    assert found.nearest.over == min(c.over for c in checked)
    assert sum(loss.designs for loss in found.losses) == found.coverage.designs


def test_what_is_over_the_budget_is_told_with_its_price(tmp_path: Path) -> None:
    found = sized(tmp_path, scenario({"goal": "latency", "budget": "500 USD", "machines": ["small", "large"]}))
    assert found.nearest is not None
    assert (found.nearest.why, found.nearest.capital_usd) == ("over budget", 1000.0)
    assert found.nearest.reason == "one costs 1,000 USD, over 500 USD"
    assert found.nearest.over == pytest.approx(2.0)


def test_a_winner_is_not_one_that_saturates(tmp_path: Path, confirm: pytest.MonkeyPatch) -> None:
    """At 98% of what two machines answer a short run of one seed may be content with two: it takes three."""
    confirm.undo()
    mixed = {"lognormal": {"median": "100 tokens", "p90": "300 tokens"}}
    vary = {"jobs.0.batching.max_batched_tokens": [512], "jobs.0.plan.pp": [1], "jobs.0.plan.tp": [1]}

    def asked(rate: float) -> Study:
        load = {"poisson": {"rate": f"{rate} req/s"}, "prompt_tokens": mixed, "output_tokens": 40, "requests": 300}
        job = {"batching": {"max_sequences": 4}, "objectives": {"ttft_p99": "2 s"}, "load": load}
        return study_of(tmp_path, scenario({"machines": ["small"], "networks": ["fast"], "vary": vary}, **job))

    study = asked(100.0)
    design = next(d for d in study.space.designs if d.nodes == 1)
    most = answered_at_most(study.space.resolved(design, 2), 0, 200.0, 10_000)
    study = asked(0.98 * most)
    checked = Checker(study.space, study.question).check(design)
    short = play_design(study.space, design, study.question, checked)
    assert (short.lost, short.units) == (None, 2)
    long = confirm_design(study.space, design, study.question, checked, short)
    assert (long.lost, long.units, long.settled) == (None, 3, True)
    assert (long.requests, long.seeds) == (10_000, (0, 1, 2))


def test_an_interrupted_search_knows_its_best_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def impatient(*args: Any) -> Any:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return play_design(*args)

    monkeypatch.setattr("sim.study.size_search.play_design", impatient)
    with pytest.raises(Interrupted) as stopped:
        sized(tmp_path, scenario())
    known = stopped.value.search.found
    assert known
    assert known == sorted(known)
    assert all(item.played is not None for item in known)


TRAINING = {
    "name": "pretrain", "kind": "training", "batch": {"global": 64, "micro": 1, "sequence": 512},
    "run": {"steps": 1, "target_tokens": "1e9"},
}  # fmt: skip


def training(size: dict[str, Any]) -> dict[str, Any]:
    vary = {"jobs.0.batch.micro": [1], "jobs.0.plan.recompute": ["none"]}
    data = scenario({"most_nodes": 4, "vary": vary, **size})
    data["jobs"] = [{**TRAINING, "plan": {"dp": 2}}]
    return data


def test_training_is_planned_for_the_least_cost_before_a_deadline(tmp_path: Path) -> None:
    free = sized(tmp_path, training({}))
    best = free.answers[0]
    by_machine = every_value(study_of(tmp_path, training({})))
    assert best.value == pytest.approx(min(v for values in by_machine.values() for v in values))
    assert best.value == pytest.approx(best.metrics["days_to_target"] * 24 * best.usd_per_hour)
    hours = best.metrics["days_to_target"] * 24 * 0.6
    pressed = sized(tmp_path, training({"deadline": f"{hours} h"}))
    assert pressed.answers[0].value > best.value
    assert all(a.metrics["days_to_target"] * 24 <= hours for a in pressed.answers)
    quickest = sized(tmp_path, training({"goal": "latency", "budget_per_hour": "0.3 USD/h"}))
    assert quickest.answers[0].usd_per_hour <= 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machines": ["smal"]}, "unknown machine 'smal'"),
        ({"networks": ["fats"]}, "unknown network 'fats'"),
        ({"networks": ["roce-200g"]}, "none of the machines can be put on network 'roce-200g'"),
        ({"goal": "latency"}, "goal latency needs a budget"),
        ({"deadline": "1 day"}, "a deadline is for training"),
        ({"vary": {"cost.capital": [1]}}, "is part of the question"),
        ({"vary": {"jobs.0.plan.dp": [1, 2]}}, "follows from the load"),
        ({"vary": {"jobs.0.plan.tp": ["two"]}}, "is no degree"),
        ({"vary": {"jobs.0.precision.weights": ["fp17", "fp16"]}}, "fp17"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        study_of(tmp_path, scenario(change))
    assert message in str(error.value)


def test_what_a_size_needs_is_asked_for_together(tmp_path: Path) -> None:
    data = scenario(objectives={})
    del data["cost"]
    with pytest.raises(InputError) as error:
        study_of(tmp_path, data)
    assert "say what that costs" in str(error.value)
    assert "state some" in str(error.value)


def test_promises_to_tenants_are_limits_of_a_search(tmp_path: Path) -> None:
    kind = {"poisson": {"rate": "1500 req/s"}, "prompt_tokens": 100, "output_tokens": 40}
    tenants = [{"name": "chat", **kind, "objectives": {"tpot_p99": "20 ms"}}, {"name": "batch", **kind}]
    data = scenario(objectives={}, load={"tenants": tenants, "requests": 300})
    assert study_of(tmp_path, data).base.serving[0].spec.limits == {"tpot_p99": 0.02}
    tenants[0]["objectives"] = {}
    with pytest.raises(InputError, match="state some"):
        study_of(tmp_path, data)
