"""Studies of failures: what the options mean, that lives are paired, and that statistics and the map are right."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest

from sim.adapters.resolve import Resolved, resolve_file
from sim.errors import InfeasibleError, InputError
from sim.jobs.reliability.replicas import replica
from sim.results.intervals import t_interval
from sim.study.executors import open_executor
from sim.study.failures import run_study
from sim.study.failures_plan import GIVEN_UP, plan_study
from sim.study.failures_points import Axes, at, check, read_axes, read_duration, with_length
from sim.study.failures_schema import FailureStudy, PointResult, Quantiles
from sim.study.failures_statistics import quantiles

from ..helpers import FAILING, FOUR_SERVERS

SCENARIO = FAILING + "faults: {classes: [{name: card, per: gpu, mtbf: 500 h}]}\n"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "servers.yaml").write_text(FOUR_SERVERS)
    (tmp_path / "failing.yaml").write_text(SCENARIO)
    return tmp_path / "failing.yaml"


@pytest.fixture
def resolved(scenario: Path) -> Resolved:
    return resolve_file(scenario)


def study(resolved: Resolved, seeds: int = 20, duration: str | None = None, workers: int = 1,
          **axes: str) -> FailureStudy:  # fmt: skip
    given = read_axes(*(axes.get(name) for name in ("nodes", "mtbf", "checkpoint", "policy")))
    plan = plan_study(resolved, given, seeds, read_duration(duration))
    name = "processes" if workers > 1 else "serial"
    return run_study(plan, partial(open_executor, name, workers, ("sim.study.failures_lives",)))


def goodput(point: PointResult) -> float:
    assert point.goodput is not None
    return point.goodput.mean


# ---- What the options mean


def test_lists_are_read_and_combined():
    axes = read_axes("2,4", "x0.5, 50000 h", "auto,10 min", "restart,elastic")
    assert axes.nodes == (2, 4)
    assert [(m.factor, m.seconds) for m in axes.mtbf] == [(0.5, None), (None, 1.8e8)]
    assert [e.value for e in axes.every] == ["auto", 600.0]
    assert len(axes.points()) == 16
    assert Axes().points()[0].nodes is None


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        (0, "0", "not a number of nodes"), (0, "four", "not a number of nodes"), (0, "2,,4", "list of values"),
        (0, "2,2", "twice"), (1, "x0", "not a factor"), (1, "xfast", "not a factor"), (1, "50000", "50000 h"),
        (2, "atuo", "did you mean 'auto'?"), (2, "10", "10 min"), (2, "0 s", "above zero"),
        (3, "elastc", "did you mean 'elastic'?"),
    ],
)  # fmt: skip
def test_wrong_lists_are_refused_in_a_line(option, text, words):
    given: list[str | None] = [None] * 4
    given[option] = text
    with pytest.raises(InputError) as error:
        read_axes(*given)
    (line,) = str(error.value).splitlines()
    assert words in line
    assert line.startswith(("--nodes", "--mtbf", "--checkpoint", "--policy")[option])


def test_all_wrong_lists_are_reported_together():
    with pytest.raises(InputError) as error:
        read_axes("x", "y", "z", "w,v")
    assert len(error.value.problems) == 5


def test_too_many_points_are_a_slip():
    axes = Axes(nodes=tuple(range(1, 502)))
    with pytest.raises(InputError, match="501 points"):
        axes.points()


def test_more_nodes_scale_replicas_and_batch(resolved):
    axes = read_axes("8", None, None, None)
    check(resolved, axes)
    grown = at(resolved, axes.points()[0])
    assert grown.topology.node_count == 8
    assert grown.jobs[0].spec.plan.dp == grown.scenario.jobs[0].plan.dp == 8
    assert grown.jobs[0].spec.batch.whole == 256
    assert grown.topology.gpus == grown.jobs[0].spec.plan.gpus


def test_nodes_that_split_a_replica_are_refused(scenario):
    wide = resolve_file(scenario, ["jobs.0.plan={tp: 8, pp: 2, dp: 2}"])
    check(wide, read_axes("2", None, None, None))
    with pytest.raises(InputError, match="give a multiple of 2"):
        check(wide, read_axes("3", None, None, None))


def test_a_cluster_of_several_kinds_is_not_scaled(tmp_path, scenario):
    other = FOUR_SERVERS.split("nodes:\n")[1].replace("name: server", "name: other")
    (tmp_path / "servers.yaml").write_text(FOUR_SERVERS + other)
    with pytest.raises(InputError, match="one kind of node"):
        check(resolve_file(scenario), read_axes("8", None, None, None))


def test_a_factor_scales_and_a_time_replaces_the_faults(resolved):
    found = study(resolved, seeds=2, mtbf="x1,x2,1000 h")
    one, two, same = (point.job_mtbf_s for point in found.points)
    assert one == pytest.approx(500 * 3600 / 32)
    assert two == pytest.approx(2 * one)
    assert same == pytest.approx(two)
    assert [set(p.failures_by_class) for p in found.points] == [{"card"}, {"card"}, {"any"}]


def test_a_length_is_needed(scenario):
    text = scenario.read_text().split("    checkpoint:")[0]
    scenario.write_text(text)
    with pytest.raises(InputError, match="give --duration"):
        with_length(resolve_file(scenario), None)
    assert with_length(resolve_file(scenario), 86_400.0).jobs[0].spec.run.duration == 86_400.0
    aimed = resolve_file(scenario, ["jobs.0.run.target_tokens=10B"])
    assert with_length(aimed, None).scenario.jobs[0].run.tokens == 10_000_000_000


def test_a_scenario_without_faults_takes_a_time(scenario):
    text = scenario.read_text().split("    checkpoint:")[0]
    scenario.write_text(text)
    for axes, words in ((Axes(), "nothing fails"), (read_axes(None, "x2", None, None), "no faults to scale")):
        with pytest.raises(InputError, match=words):
            check(resolve_file(scenario), axes)
    (point,) = study(resolve_file(scenario), seeds=2, duration="3 days", mtbf="1000 h").points
    assert point.job_mtbf_s == pytest.approx(1000 * 3600 / 32)


def test_checkpoints_need_a_place(scenario):
    text = scenario.read_text().replace("    checkpoint: {every: auto, blocking: 30 s}\n", "")
    scenario.write_text(text)
    with pytest.raises(InputError, match="takes no checkpoints"):
        check(resolve_file(scenario), read_axes(None, None, "10 min", None))


# ---- Lives and statistics


def test_the_law_of_daly_holds_where_it_applies(resolved):
    found = study(resolved, seeds=60, mtbf="x0.5,x1,x2", checkpoint="auto,1 h")
    for point in found.points:
        assert point.goodput is not None
        assert point.goodput.low is not None
        assert point.goodput.high is not None
        assert point.goodput_daly is not None
        wide = point.goodput.high - point.goodput.low
        assert abs(goodput(point) - point.goodput_daly) < max(wide, 0.002), point.setting


def test_points_meet_the_same_faults(resolved):
    found = study(resolved, seeds=5, checkpoint="auto,10 min,1 h")
    assert len({json.dumps(point.failures_by_class) for point in found.points}) == 1
    plan = plan_study(resolved, read_axes(None, None, "auto,10 min", None), 1)
    lives = [replica(setting.prepared, 7) for setting in plan.settings if setting.prepared]
    assert lives[0].failures == lives[1].failures


def test_pairing_narrows_differences(resolved):
    found = study(resolved, seeds=16, checkpoint="auto,45 min")
    (best,) = found.bests
    (other,) = (p for n, p in enumerate(found.points) if n != best)
    assert other.behind is not None
    assert found.points[best].behind is None
    apart = t_interval([a - b for a, b in zip(found.points[best].goodputs, other.goodputs, strict=True)])
    assert [other.behind.low, other.behind.high] == apart
    alone = other.goodput.high - other.goodput.low
    assert other.behind.high - other.behind.low < alone


def test_intervals_are_students_over_lives(resolved):
    (point,) = study(resolved, seeds=8).points
    assert point.goodput is not None
    assert [point.goodput.low, point.goodput.high] == t_interval(point.goodputs)
    assert goodput(point) == pytest.approx(sum(point.goodputs) / 8)
    (one,) = study(resolved, seeds=1).points
    assert one.goodput is not None
    assert one.goodput.low is None


def test_seconds_add_up_to_wall_time_largest_first(resolved):
    for point in study(resolved, seeds=5, policy="restart,elastic").points:
        assert point.wall_s is not None
        assert sum(point.seconds.values()) == pytest.approx(point.wall_s.mean, rel=1e-9)
        assert list(point.seconds.values()) == sorted(point.seconds.values(), reverse=True)
        assert point.seconds["progress"] / point.wall_s.mean == pytest.approx(goodput(point))


def test_elastic_loses_less_and_is_best(resolved):
    found = study(resolved, seeds=8, policy="restart,elastic")
    assert found.bests == [1]
    assert goodput(found.points[1]) > goodput(found.points[0])


def test_every_rate_has_its_own_best(resolved):
    found = study(resolved, seeds=5, mtbf="x0.1,x10", checkpoint="5 min,3 h")
    assert [found.points[n].mtbf for n in found.bests] == ["x0.1", "x10"]
    assert [found.points[n].checkpoint for n in found.bests] == ["5 min", "3 h"]


def test_larger_jobs_fail_more_and_cost_more(scenario):
    priced = resolve_file(scenario, ["cost={rental: {per_gpu: 2 USD/h}}"])
    found = study(priced, seeds=8, nodes="4,8,16")
    assert [p.gpus for p in found.points] == [32, 64, 128]
    assert [goodput(p) for p in found.points] == sorted((goodput(p) for p in found.points), reverse=True)
    assert [p.usd_per_hour for p in found.points] == [64.0, 128.0, 256.0]
    assert found.points[0].usd.mean == pytest.approx(64 * 720)


def test_work_ends_a_life_or_the_clock(scenario):
    (clock,) = study(resolve_file(scenario), seeds=4).points
    assert clock.completion_s is None
    assert clock.finished is None
    work = study(resolve_file(scenario, ["jobs.0.run={steps: 100000}"]), seeds=10)
    (point,) = work.points
    assert point.finished == 1.0
    assert point.useful_s == pytest.approx(100_000 * point.step_s)
    ends = point.completion_s
    assert ends is not None
    assert point.useful_s < ends.p10 <= ends.p50 <= ends.p90 <= ends.p99
    assert point.tokens.p50 == pytest.approx(100_000 * point.tokens_per_step)


def test_a_duration_replaces_the_work(scenario):
    found = study(resolve_file(scenario, ["jobs.0.run={steps: 100000}"]), seeds=3, duration="2 days")
    assert found.duration_s == 2 * 86_400
    assert found.points[0].wall_s.mean == pytest.approx(2 * 86_400)


def test_a_run_without_end_is_given_up(scenario):
    stuck = resolve_file(scenario, ["jobs.0.run={steps: 5000}", "jobs.0.checkpoint.every=20 days"])
    (point,) = study(stuck, seeds=3, mtbf="10 h").points
    assert point.finished == 0.0
    assert point.completion_s == Quantiles(p10=None, p50=None, p90=None, p99=None)
    assert point.wall_s.mean == pytest.approx(GIVEN_UP * 5000 * point.step_s)


def test_spares_are_counted_without_a_limit(resolved, scenario):
    (free,) = study(resolved, seeds=10).points
    assert max(free.spares_used) > 1
    lengthy = resolve_file(scenario, ["faults.repair=7 days"])
    (slow,) = study(lengthy, seeds=10).points
    assert slow.spares.p99 > free.spares.p99


def test_spares_needed_do_not_depend_on_those_there_are(resolved, scenario):
    free = study(resolved, seeds=10, policy="restart,elastic,wait")
    few = study(resolve_file(scenario, ["faults.spares=1"]), seeds=10, policy="restart,elastic,wait")
    assert [p.spares_used for p in few.points] == [p.spares_used for p in free.points]
    assert few.points[2].spares is None
    assert goodput(few.points[0]) < goodput(free.points[0])


def test_quantiles_are_values_that_were_lived():
    assert quantiles([3.0, 1.0, 2.0]) == Quantiles(p10=1.0, p50=2.0, p90=3.0, p99=3.0)
    assert quantiles([*map(float, range(1, 101))]) == Quantiles(p10=10.0, p50=50.0, p90=90.0, p99=99.0)
    assert quantiles([1.0, math.inf]).p99 is None


def test_processes_live_the_same_lives(resolved):
    alone = study(resolved, seeds=10, checkpoint="auto,10 min")
    assert study(resolved, seeds=10, checkpoint="auto,10 min", workers=2) == alone
    assert study(resolved, seeds=10, checkpoint="auto,10 min") == alone


def test_the_document_survives_json(resolved):
    found = study(resolved, seeds=3, policy="restart,elastic")
    assert FailureStudy.model_validate_json(found.model_dump_json()) == found


# ---- What cannot be


def test_a_point_that_cannot_be_has_its_reason(scenario):
    sharded = resolve_file(scenario, ["jobs.0.plan.zero=1"])
    found = study(sharded, seeds=2, policy="restart,elastic")
    assert found.points[0].failed is None
    assert "zero 1" in found.points[1].failed
    with pytest.raises(InfeasibleError, match="elastic"):
        study(sharded, policy="elastic")
    with pytest.raises(InfeasibleError, match="elastic"):
        study(sharded, policy="elastic", checkpoint="10 min,1 h")


# ---- The map and the sampled life


def test_the_simulated_optimum_is_near_the_laws(resolved):
    found = study(resolved, seeds=20)
    assert found.map is not None
    assert [row.factor for row in found.map.rows] == [0.25, 0.5, 1.0, 2.0, 4.0]
    for row in found.map.rows:
        assert row.young_s == pytest.approx(math.sqrt(2 * 30 * row.mtbf_s))
        assert row.daly_s < row.young_s
        best = found.map.intervals_s[row.best]
        assert row.goodput[row.best] == max(row.goodput)
        assert 0.5 < best / row.daly_s < 2.0, row.factor
    means = [sum(row.goodput) for row in found.map.rows]
    assert means == sorted(means)


def test_the_map_takes_the_studys_own_values(resolved):
    found = study(resolved, seeds=2, mtbf="x1,x3", checkpoint="25 min,auto", policy="elastic,restart")
    assert found.map is not None
    assert [row.factor for row in found.map.rows] == pytest.approx([1.0, 3.0])
    assert 1500.0 in found.map.intervals_s
    assert found.points[found.map.point].policy == "restart"


def test_no_map_without_checkpoints(scenario):
    text = scenario.read_text().replace("    checkpoint: {every: auto, blocking: 30 s}\n", "")
    scenario.write_text(text)
    found = study(resolve_file(scenario), seeds=2)
    assert found.map is None
    assert found.points[0].interval_s is None


def test_the_sample_is_the_life_in_the_middle(resolved):
    found = study(resolved, seeds=9)
    assert found.sample is not None
    assert found.sample.goodput == sorted(found.points[0].goodputs)[4]
    stretches = found.sample.stretches
    assert stretches[0][1] == 0.0
    assert all(end > start for _, start, end in stretches)
    if found.sample.complete:
        assert stretches[-1][2] == pytest.approx(found.sample.end_s)
