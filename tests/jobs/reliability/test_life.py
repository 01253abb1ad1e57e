"""Lives of a run among failures: each effect by hand, each policy, and laws that hold whatever strikes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import inf, pi
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.clock import Clock
from sim.jobs.reliability.effects import Draw, Effect, Terms, always
from sim.jobs.reliability.faults import Failure, Units, failures
from sim.jobs.reliability.life import Life
from sim.jobs.reliability.progress import Progress, Saving
from sim.jobs.reliability.run import Run, live
from sim.laws.checkpointing import efficiency

SYNC = Saving(100, 10)  # saved at 110, 220, 330, ...
ASYNC = Saving(100, 10, 50)
BACK = (("restart", always(20)),)
STOP, BROKEN = Effect("stop", BACK), Effect("stop", BACK, nodes=1)

PLANNED = {"planned": Effect("save and stop", BACK, nodes=1)}
THREE: dict[str, Any] = {"spares": 3, "repair": always(300)}
Faults = list[tuple[float, str]]


def lived(faults: Faults, saving: Saving = SYNC, effects: dict[str, Effect] | None = None, **terms: Any) -> Life:
    """A life under faults at stated times, by the names of their effects."""
    known = {"stop": STOP, "broken": BROKEN, **(effects or {})}
    given_ = Terms(saving, known, **{"horizon": 1000.0, **terms})
    life, _ = live(given_, iter([Failure(t, n, 0) for t, n in sorted(faults)]), np.random.default_rng(0))
    return life


def spent(life: Life) -> dict[str, Any]:
    """What time was spent on, of what took any."""
    return {name: pytest.approx(seconds) for name, seconds in life.buckets.items() if seconds > 1e-9}


def sound(life: Life) -> None:
    """Each second in one bucket and one stretch, and no work counted twice."""
    assert all(seconds >= 0.0 for seconds in life.buckets.values())
    assert sum(life.buckets.values()) == pytest.approx(life.end, rel=1e-9, abs=1e-9)
    assert life.buckets.get("progress", 0.0) == pytest.approx(life.progress.high, rel=1e-9, abs=1e-9)
    assert life.progress.done <= life.progress.high
    again = life.buckets.get("redone", 0.0)
    assert life.progress.done == pytest.approx(life.progress.high + again - life.lost, rel=1e-9, abs=1e-6)
    assert 0.0 <= life.ettr <= 1.0 + 1e-12
    edges = [(s.start, s.end) for s in life.stretches]
    assert all(start < end for start, end in edges)
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    if edges:
        assert edges[0][0] == 0.0
        assert edges[-1][1] == life.end
    for bucket in ("startup", "detection", "restart", "down", "stalled", "shrink", "grow", "migrate"):
        length = sum(s.end - s.start for s in life.stretches if s.kind == bucket)
        assert length == pytest.approx(life.buckets.get(bucket, 0.0), rel=1e-9, abs=1e-6)


# ---- without failures


def test_nothing_happens() -> None:
    life = lived([], horizon=1100.0)
    assert life.ettr == pytest.approx(100 / 110)
    assert spent(life) == {"progress": 1000, "checkpoint": 100}
    assert (life.stops, life.failures, life.finished) == (0, {}, False)


def test_a_run_ends_with_its_work() -> None:
    life = lived([], total=250.0, horizon=inf)
    assert (life.end, life.finished) == (270.0, True)
    assert lived([(300.0, "stop")], total=250.0, horizon=inf).failures == {}  # it is over by then


def test_a_run_that_never_saves() -> None:
    life = lived([(400.0, "stop")], Saving(inf), total=500.0, horizon=inf)
    assert (life.end, life.lost) == (920.0, 400.0)
    assert spent(life) == {"progress": 500, "redone": 400, "restart": 20}


def test_starting_up_comes_first() -> None:
    assert lived([], startup=50.0, total=90.0).end == 140.0
    life = lived([(30.0, "stop"), (60.0, "planned")], effects=PLANNED, startup=50.0, total=90.0)
    assert (life.end, life.stops, life.interrupted_recoveries) == (170.0, 0, 1)  # what stops it then starts it over
    assert spent(life) == {"startup": 30 + 50, "progress": 90}


def test_a_node_that_breaks_while_the_job_starts_is_replaced_first() -> None:
    life = lived([(30.0, "broken")], startup=50.0, total=90.0, spares=0, repair=always(200))
    assert spent(life) == {"startup": 30 + 50, "down": 200, "progress": 90}


@pytest.mark.parametrize("horizon", [0.0, 50.0, 105.0, 150.0, 155.0, 200.0])
def test_the_horizon_cuts_whatever_is_under_way(horizon: float) -> None:
    life = lived([(150.0, "stop")], startup=10.0, horizon=horizon)
    assert life.end == horizon
    sound(life)


# ---- stops


def test_a_stop_takes_back_to_the_last_checkpoint() -> None:
    life = lived([(150.0, "stop")], horizon=300.0)
    assert (life.stops, life.lost) == (1, 40.0)
    assert spent(life) == {"progress": 220, "redone": 40, "checkpoint": 20, "restart": 20}


def test_an_asynchronous_checkpoint_hit_before_it_is_durable_falls_back_one_more() -> None:
    """The second is taken at 220 and written at 270."""
    assert lived([(269.0, "stop")], ASYNC, horizon=269.5).progress.done == 100
    assert lived([(271.0, "stop")], ASYNC, horizon=271.5).progress.done == 200


def test_a_recovery_that_is_hit_starts_over() -> None:
    life = lived([(150.0, "stop"), (165.0, "stop"), (184.0, "stop")], horizon=300.0)
    assert (life.stops, life.interrupted_recoveries, life.failures) == (1, 2, {"stop": 3})
    assert life.buckets["restart"] == 15 + 19 + 20
    assert life.lost == 40.0


def test_failures_at_one_instant_cost_as_one() -> None:
    one, three = lived([(150.0, "stop")]), lived([(150.0, "stop")] * 3)
    assert three.failures == {"stop": 3}
    assert spent(three) == spent(one)


def test_a_planned_stop_saves_first() -> None:
    planned = {"planned": Effect("save and stop", BACK)}
    life = lived([(150.0, "planned")], effects=planned, horizon=180.0)
    assert (life.lost, life.stops, life.progress.done) == (0.0, 1, 140.0)
    assert spent(life) == {"progress": 140, "checkpoint": 20, "restart": 20}
    assert lived([(170.0, "planned")], Saving(inf), planned).lost == 170.0  # it has nowhere to save


def test_a_planned_stop_waits_until_its_checkpoint_is_durable() -> None:
    """After the one that is being written: 20 s are left of it, and its own takes 60."""
    life = lived([(140.0, "planned")], ASYNC, {"planned": Effect("save and stop", BACK)}, horizon=240.0)
    assert life.buckets["checkpoint"] == 10 + 20 + 60
    assert (life.progress.durable, life.lost) == ([0, 100, 130], 0)


def test_a_failure_while_a_planned_stop_saves_takes_its_place() -> None:
    life = lived([(150.0, "planned"), (155.0, "stop")], effects={"planned": Effect("save and stop", BACK)})
    assert (life.stops, life.lost, life.buckets["restart"]) == (1, 40.0, 20.0)


def test_a_planned_stop_shares_the_downtime_of_a_failure() -> None:
    planned = {"planned": Effect("save and stop", BACK, nodes=1)}
    life = lived([(150.0, "stop"), (160.0, "planned")], effects=planned, spares=3)
    assert (life.stops, life.buckets["restart"], life.spares_least) == (1, 20.0, 2)


def test_what_is_planned_while_a_planned_stop_saves_shares_it() -> None:
    life = lived([(150.0, "planned"), (155.0, "planned")], effects=PLANNED, horizon=180.0, **THREE)
    assert (life.stops, life.lost, life.spares_least) == (1, 0.0, 1)
    assert spent(life) == {"progress": 140, "checkpoint": 20, "restart": 20}


# ---- notices


def noticed(seconds: float, **more: Any) -> dict[str, Effect]:
    """A machine that tells beforehand that it goes."""
    return {"spot": Effect("notice", BACK, **{"nodes": 1, **more}, notice=seconds)}


def test_a_notice_is_long_enough_to_save() -> None:
    """Saving takes 10 s: stopped when saved, as planned; nothing is lost."""
    life = lived([(150.0, "spot")], effects=noticed(11), horizon=180.0, spares=2)
    assert (life.stops, life.lost, life.progress.done, life.spares_least) == (1, 0.0, 140.0, 1)
    assert spent(life) == {"progress": 140, "checkpoint": 20, "restart": 20}


def test_a_notice_that_is_too_short_to_save_is_worked_through() -> None:
    """The machine goes at 159, and with it what was done since 110."""
    life = lived([(150.0, "spot")], effects=noticed(9), horizon=179.0)
    assert (life.stops, life.lost, life.progress.done) == (1, 49.0, 100.0)
    assert spent(life) == {"progress": 149, "checkpoint": 10, "restart": 20}
    longer = lived([(150.0, "spot")], ASYNC, noticed(50), horizon=220.0)
    assert (longer.lost, longer.buckets["restart"]) == (pytest.approx(90.0), 20)
    assert lived([(150.0, "spot")], ASYNC, noticed(69)).lost == 100.0  # 10 s of the last, 60 of its own
    assert lived([(150.0, "spot")], ASYNC, noticed(71)).lost == 0.0
    assert lived([(150.0, "spot")], Saving(inf), noticed(600)).lost == 750.0  # it has nowhere to save


def test_a_job_that_is_down_gives_up_what_will_go() -> None:
    """Told before the stop or during the downtime: one recovery for all."""
    for second in (155.0, 165.0):
        life = lived([(150.0, "stop"), (second, "spot")], effects=noticed(5), **THREE)
        assert (life.stops, life.interrupted_recoveries, life.spares_least) == (1, 0, 2)
    life = lived([(150.0, "spot"), (155.0, "stop")], effects=noticed(9), **THREE)
    assert (life.stops, life.buckets["restart"], life.spares_least) == (1, 20, 2)


def test_machines_that_tell_together_are_saved_for_once() -> None:
    life = lived([(150.0, "spot"), (155.0, "spot")], effects=noticed(30), **THREE)
    assert (life.stops, life.lost, life.spares_least) == (1, 0.0, 1)


def test_a_machine_goes_while_the_job_is_held_up() -> None:
    """Told in a stall, when there is nothing to save with."""
    stall = {"stall": Effect("stall", BACK, seconds=always(100), timeout=100)}
    life = lived([(150.0, "stall"), (160.0, "spot")], effects=stall | noticed(30))
    assert (life.stops, life.buckets["stalled"], life.lost) == (1, 40.0, 40.0)
    kept = lived([(150.0, "stall"), (160.0, "spot")], effects=stall | noticed(101))
    assert (kept.stops, kept.buckets["stalled"], kept.lost) == (1, 100.0, 0.0)


def test_an_elastic_job_works_through_a_notice_and_goes_on_without_the_replica() -> None:
    """A spare is made ready from the notice on."""
    four = FOUR | {"spares": 1}
    life = lived([(150.0, "spot")], Saving(inf), noticed(15), **four)
    assert (life.stops, life.lost) == (0, 0.0)
    assert life.buckets["degraded"] == pytest.approx(5 / 4)
    assert lived([(150.0, "spot")], Saving(inf), noticed(60), **four).buckets["degraded"] == 0.0
    alone = lived([(150.0, "spot")], Saving(inf), noticed(60), **FOUR)  # until it is back, 400 s after it went
    assert alone.buckets["degraded"] == pytest.approx(400 / 4)


def test_nodes_are_missing_while_no_spare_stands_in_for_them() -> None:
    """Two are lost, one stands by; a third is lost meanwhile. The first to be back fills the first gap."""
    assert lived([(150.0, "broken")], spares=1, repair=always(300)).missing == 0.0
    life = lived([(150.0, "broken"), (250.0, "broken")], spares=1, repair=always(300))
    assert life.missing == 450 - 250
    three = lived([(150.0, "broken"), (250.0, "broken"), (300.0, "broken")], spares=1, repair=always(300))
    assert three.missing == (450 - 250) + (550 - 300)
    assert lived([(900.0, "broken")], spares=0, repair=always(300)).missing == 100.0  # to the end of the life
    assert lived([(150.0, "broken")], policy="wait", spares=5, repair=always(300)).missing == 300.0


def test_nodes_that_an_elastic_job_goes_on_without_are_missing_too() -> None:
    assert lived([(150.0, "spot")], Saving(inf), noticed(60), **FOUR).missing == 400.0
    assert lived([(150.0, "spot")], Saving(inf), noticed(60), **FOUR | {"spares": 1}).missing == 0.0


# ---- migration

MOVE: dict[str, Any] = {"policy": "migrate", "move": 6.0, "spares": 1, "repair": always(300)}


def test_a_job_moves_to_a_spare_that_is_ready_in_time() -> None:
    """Ready after 15 s, in which it works on; moved in 6 more."""
    life = lived([(150.0, "spot")], effects=noticed(22, ready=always(15)), horizon=200.0, **MOVE)
    assert (life.stops, life.lost, life.spares_least) == (0, 0.0, 0)
    assert spent(life) == {"progress": 200 - 10 - 6, "checkpoint": 10, "migrate": 6}


def test_a_spare_that_would_be_late_or_is_not_there_leaves_a_restart() -> None:
    late = lived([(150.0, "spot")], effects=noticed(20, ready=always(17)), horizon=200.0, **MOVE)
    none = lived([(150.0, "spot")], effects=noticed(20), horizon=200.0, **MOVE | {"spares": 0, "repair": always(0)})
    for life in (late, none):
        assert (life.stops, life.lost, life.buckets["restart"]) == (1, 0.0, 20)
        assert "migrate" not in life.buckets


def test_what_is_planned_is_moved_away_from_too_and_waits() -> None:
    planned = {"planned": Effect("save and stop", BACK, nodes=1, ready=always(100))}
    life = lived([(150.0, "planned")], effects=planned, horizon=300.0, **MOVE)
    assert (life.stops, life.buckets["migrate"]) == (0, 6)
    software = {"planned": Effect("save and stop", BACK)}
    assert lived([(150.0, "planned")], effects=software, horizon=300.0, **MOVE).stops == 1  # no node to move from


def test_two_that_are_ready_together_move_together() -> None:
    two = MOVE | {"spares": 2}
    life = lived([(150.0, "spot"), (152.0, "spot")], effects=noticed(20, ready=always(10)), horizon=200.0, **two)
    assert (life.stops, life.buckets["migrate"], life.spares_least) == (0, 6, 0)


def test_a_failure_before_it_has_moved_restarts_on_the_node_it_would_have_moved_to() -> None:
    for second in (155.0, 163.0):  # made ready, moving
        hit = [(150.0, "spot"), (second, "stop")]
        life = lived(hit, effects=noticed(30, ready=always(10)), **MOVE)
        assert (life.stops, life.lost, life.spares_least) == (1, min(second, 160.0) - 110, 0)
        assert life.buckets["restart"] == 20
        assert "down" not in life.buckets


def test_sudden_failures_are_restarted_from() -> None:
    assert spent(lived([(150.0, "broken")], **MOVE)) == spent(lived([(150.0, "broken")], spares=1, repair=always(300)))


# ---- slow and stalled


def test_slow_lasts_a_while() -> None:
    life = lived([(150.0, "slow")], Saving(inf), {"slow": Effect("slow", factor=2.0, seconds=always(100))}, horizon=300)
    assert spent(life) == {"progress": 250, "degraded": 50}


def test_the_slowest_sets_the_pace() -> None:
    slow = {"half": Effect("slow", factor=2.0, seconds=always(100)),
            "quarter": Effect("slow", factor=4.0, seconds=always(40))}  # fmt: skip
    life = lived([(100.0, "half"), (120.0, "quarter")], Saving(inf), slow, horizon=300.0)
    assert life.progress.high == pytest.approx(200 + 60 / 2 + 40 / 4)


def test_what_slows_down_during_a_recovery_slows_the_work_after_it() -> None:
    slow = {"slow": Effect("slow", factor=2.0, seconds=always(100))}
    life = lived([(100.0, "stop"), (110.0, "slow")], Saving(inf), slow, horizon=300.0)
    assert life.buckets["degraded"] == pytest.approx((210 - 120) / 2)


def test_a_stall_costs_its_time() -> None:
    stall = {"stall": Effect("stall", BACK, seconds=always(30), timeout=30)}
    life = lived([(150.0, "stall")], effects=stall, horizon=300.0)
    assert (life.stops, life.lost) == (0, 0.0)
    assert spent(life) == {"progress": 250, "checkpoint": 20, "stalled": 30}


def test_a_stall_over_its_timeout_stops_the_job() -> None:
    stall = {"stall": Effect("stall", BACK, seconds=always(31), timeout=30)}
    life = lived([(150.0, "stall")], effects=stall, horizon=300.0)
    assert (life.stops, life.lost) == (1, 40.0)
    assert {k: life.buckets[k] for k in ("stalled", "restart")} == {"stalled": 30, "restart": 20}


def test_a_stop_ends_a_stall() -> None:
    stall = {"stall": Effect("stall", BACK, seconds=always(600), timeout=600)}
    life = lived([(150.0, "stall"), (200.0, "stop")], effects=stall, horizon=300.0)
    assert (life.buckets["stalled"], life.buckets["restart"], life.stops) == (50, 20, 1)


# ---- corruption

SDC = {"sdc": Effect("corrupt", BACK, seconds=always(200))}


def test_corruption_is_found_late_and_rolls_back_past_newer_checkpoints() -> None:
    life = lived([(150.0, "sdc")], effects=SDC, horizon=370.0)
    assert (life.stops, life.lost, life.progress.done) == (1, 220.0, 100.0)  # 320 done, 100, 200 and 300 saved
    assert life.progress.durable == [0, 100]


def test_corruption_older_than_every_checkpoint_takes_back_to_the_start() -> None:
    life = lived([(150.0, "sdc")], replace(SYNC, keep=2), SDC, horizon=370.0)
    assert (life.lost, life.progress.durable) == (320.0, [0])


def test_a_failure_that_goes_back_further_undoes_corruption() -> None:
    life = lived([(150.0, "sdc"), (160.0, "stop")], effects=SDC, horizon=1000.0)
    assert (life.stops, life.lost) == (1, 50.0)


def test_a_failure_that_goes_back_to_a_corrupt_checkpoint_does_not() -> None:
    life = lived([(150.0, "sdc"), (250.0, "stop")], effects=SDC, horizon=370.0)
    assert (life.stops, life.progress.done) == (2, 100.0)


def test_corruption_found_during_a_recovery_starts_it_over() -> None:
    effects = SDC | {"long": Effect("stop", (("restart", always(300)),))}
    life = lived([(150.0, "sdc"), (250.0, "long")], effects=effects, horizon=370.0)
    assert (life.stops, life.interrupted_recoveries, life.progress.done) == (1, 1, 100.0)
    assert life.buckets["restart"] == 100 + 20


def test_each_kind_of_corruption_has_its_own_recovery() -> None:
    other = {"other": Effect("corrupt", (("restart", always(77)),), seconds=always(10))}
    assert lived([(150.0, "other")], effects=SDC | other).buckets["restart"] == 77


def test_nothing_runs_that_could_be_corrupted_during_a_recovery() -> None:
    life = lived([(150.0, "stop"), (160.0, "sdc")], effects=SDC)
    assert (life.stops, life.failures) == (1, {"stop": 1, "sdc": 1})


# ---- spares


def test_without_spares_the_run_waits_for_a_repair() -> None:
    life = lived([(150.0, "broken"), (250.0, "broken")], spares=1, repair=always(300))
    assert life.buckets["down"] == 450 - 250  # until the first is back
    assert life.buckets["restart"] == 40
    assert life.spares_least == 0


def test_with_spares_it_does_not() -> None:
    life = lived([(150.0, "broken"), (250.0, "broken")], spares=2, repair=always(300))
    assert "down" not in life.buckets


def test_repaired_nodes_are_spares_again() -> None:
    life = lived([(t, "broken") for t in (100.0, 300.0, 500.0, 700.0)], spares=1, repair=always(150))
    assert "down" not in life.buckets
    assert life.spares_least == 0


def test_repair_goes_on_while_the_failure_is_looked_for() -> None:
    looked = {"gpu": Effect("stop", (("detection", always(50)), *BACK), nodes=1)}
    life = lived([(150.0, "gpu")], effects=looked, spares=0, repair=always(80))
    assert {k: life.buckets[k] for k in ("detection", "down", "restart")} == {
        "detection": 50, "down": 30, "restart": 20,
    }  # fmt: skip


def test_a_failure_while_it_waits_needs_one_node_more() -> None:
    life = lived([(150.0, "broken"), (200.0, "broken")], spares=0, repair=always(300))
    assert life.buckets["down"] == 500 - 150  # both have to be back
    assert life.interrupted_recoveries == 1


def test_to_wait_is_for_the_node_itself() -> None:
    """Spares or not."""
    life = lived([(150.0, "broken")], spares=5, repair=always(300), policy="wait")
    assert life.buckets["down"] == 300
    assert life.spares_least == 5
    assert "down" not in lived([(150.0, "stop")], repair=always(300), policy="wait").buckets  # nothing is broken


# ---- elastic

FOUR: dict[str, Any] = {"policy": "elastic", "replicas": 4, "nodes": 4, "spares": 0, "repair": always(400)}


def test_an_elastic_job_goes_on_without_a_replica() -> None:
    life = lived([(150.0, "broken")], Saving(inf), **FOUR, shrink=10.0, grow=30.0)
    assert (life.stops, life.lost) == (0, 0.0)
    slow = 550 - 160
    assert spent(life) == {
        "progress": 150 + 0.75 * slow + (1000 - 580), "degraded": 0.25 * slow, "shrink": 10, "grow": 30,
    }  # fmt: skip


def test_a_spare_takes_its_place_sooner() -> None:
    life = lived([(150.0, "broken")], Saving(inf), **FOUR | {"spares": 1})
    assert life.progress.high == pytest.approx(1000 - 20 / 4)
    assert life.spares_least == 0
    again = lived([(150.0, "broken"), (600.0, "broken")], Saving(inf), **FOUR | {"spares": 1})
    assert again.progress.high == pytest.approx(1000 - 40 / 4)  # the node is a spare by then


def test_it_stands_still_until_the_failure_is_noticed() -> None:
    noticed = {"gpu": Effect("stop", (("detection", always(40)), *BACK), nodes=1)}
    life = lived([(150.0, "gpu")], Saving(inf), noticed, **FOUR, shrink=5.0)
    assert (life.buckets["detection"], life.buckets["shrink"]) == (40, 5)


def test_a_switch_takes_the_replicas_of_its_nodes() -> None:
    two = {"switch": Effect("stop", BACK, nodes=2)}
    assert lived([(0.0, "switch")], Saving(inf), two, **FOUR, horizon=400.0).ettr == pytest.approx(0.5)
    wide = FOUR | {"nodes": 8}  # replicas of two nodes
    assert lived([(0.0, "switch")], Saving(inf), two, **wide, horizon=400.0).ettr == pytest.approx(0.75)


def test_the_last_replica_cannot_be_spared() -> None:
    faults = [(100.0 + i, "broken") for i in range(4)]
    life = lived(faults, **FOUR | {"repair": always(200)})
    assert life.stops == 1
    assert life.buckets["down"] == 200
    sound(life)


def test_a_restart_of_an_elastic_job_does_not_wait() -> None:
    """What stops all of it (a hang) leaves a broken node: the others go on."""
    hang = {"hang": Effect("stall", BACK, nodes=1, seconds=always(50), timeout=30)}
    life = lived([(150.0, "hang")], Saving(inf), hang, **FOUR)
    assert (life.stops, life.lost) == (1, 150.0)
    assert "down" not in life.buckets
    assert life.buckets["degraded"] == pytest.approx((580 - 200) / 4)


def test_a_replica_that_returns_during_a_recovery_is_there_after_it() -> None:
    life = lived([(100.0, "broken"), (495.0, "stop")], Saving(inf), **FOUR)
    assert life.buckets["degraded"] == pytest.approx(395 / 4)  # back at 500, and at work at 515


# ---- levels of checkpoints

STORE = Saving(400, 20, load=50)
BOTH = Saving(100, 10, load=5, keep=10, then=STORE)  # saved at 110, 220, 330, 440 (and 460 to the store), 570, ...
TAKEN = {"taken": Effect("stop", BACK, nodes=1, lost=frozenset({0}))}


def test_software_goes_back_to_the_nearest_copy_and_a_lost_node_to_one_that_outlives_it() -> None:
    life = lived([(600.0, "stop")], BOTH, horizon=625.0)
    assert (life.lost, life.progress.done, life.buckets["restart"]) == (30.0, 500.0, 20 + 5)
    life = lived([(600.0, "taken")], BOTH, TAKEN, horizon=670.0)
    assert (life.lost, life.progress.done, life.buckets["restart"]) == (130.0, 400.0, 20 + 50)


def test_a_node_lost_during_a_recovery_takes_what_would_have_been_loaded() -> None:
    life = lived([(600.0, "stop"), (610.0, "taken")], BOTH, TAKEN, horizon=680.0)
    assert (life.lost, life.progress.done, life.buckets["restart"]) == (130.0, 400.0, 10 + 20 + 50)
    shared = {"planned": Effect("save and stop", BACK, nodes=1, lost=frozenset({0}))}
    life = lived([(600.0, "stop"), (610.0, "planned")], BOTH, shared, horizon=665.0)
    assert (life.lost, life.buckets["restart"]) == (130.0, 15 + 50)


def test_what_is_planned_is_saved_where_it_outlives_the_stop() -> None:
    for lost, seconds, load in ((frozenset({0}), 20, 50), (frozenset[int](), 10, 5)):
        planned = {"planned": Effect("save and stop", BACK, nodes=1, lost=lost)}
        life = lived([(150.0, "planned")], BOTH, planned, horizon=250.0)
        assert (life.lost, life.progress.buckets["checkpoint"]) == (0.0, 10 + seconds)
        assert life.buckets["restart"] == 20 + load


def test_an_elastic_job_that_lost_copies_goes_back_further_at_the_next_stop() -> None:
    hit = [(600.0, "taken"), (605.0, "stop")]
    four = FOUR | {"horizon": 700.0}
    assert lived(hit, BOTH, TAKEN, **four).lost == pytest.approx(130 + 5 * 0.75)
    assert lived([(600.0, "broken"), (605.0, "stop")], BOTH, **four).lost == pytest.approx(30 + 5 * 0.75)


def test_lost_nodes_alone_cost_what_daly_says_of_the_level_that_outlives_them() -> None:
    """2,000 stops: R = 20 s and 30 s of loading, C = 20 s, tau = 300 s, M = 2000 s; the other level is free."""
    two = Saving(50, then=Saving(300, 20, load=30))
    faults = failures([Units("taken", 1, 2000.0)], np.random.SeedSequence(1))
    life, _ = live(Terms(two, TAKEN, horizon=4e6), faults, np.random.default_rng(0))
    assert life.stops == pytest.approx(2000, rel=0.1)
    assert life.ettr == pytest.approx(efficiency(300, 20, 50, 2000.0), abs=0.005)


def test_corruption_is_in_all_levels() -> None:
    late = {"sdc": Effect("corrupt", BACK, seconds=always(500))}
    life = lived([(150.0, "sdc")], BOTH, late, horizon=675.0)
    assert [level.durable for level in life.progress.levels] == [[0, 100], [0]]


# ---- laws

KINDS = ("stop", "broken", "switch", "planned", "spot", "slow", "stall", "hang", "sdc", "late sdc")


LOST = st.sampled_from([frozenset[int](), frozenset({0})])


@st.composite
def draws(draw: st.DrawFn, most: float) -> Draw:
    """A fixed time, or one that varies."""
    seconds = draw(st.one_of(st.just(0.0), st.floats(0.0, most)))
    return always(seconds) if draw(st.booleans()) else lambda rng: float(seconds * rng.exponential())


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    """Any terms under which a run ends."""

    def phases() -> tuple[tuple[str, Draw], ...]:
        found = draw(st.lists(st.tuples(st.sampled_from(["detection", "restart"]), draws(80.0)), max_size=3))
        return tuple(sorted(found, key=lambda phase: phase[0]))

    effects = {
        "stop": Effect("stop", phases()),
        "broken": Effect("stop", phases(), nodes=1, lost=draw(LOST)),
        "switch": Effect("stop", phases(), nodes=3, lost=draw(LOST)),
        "planned": Effect("save and stop", phases(), nodes=draw(st.integers(0, 1)), lost=draw(LOST)),
        "spot": Effect("notice", phases(), nodes=draw(st.integers(0, 2)), notice=draw(st.floats(1.0, 200.0)),
                       lost=draw(LOST), ready=draw(draws(200.0))),
        "slow": Effect("slow", factor=draw(st.floats(1.1, 5.0)), seconds=draw(draws(300.0))),
        "stall": Effect("stall", phases(), seconds=draw(draws(60.0))),
        "hang": Effect("stall", phases(), nodes=1, seconds=draw(draws(90.0)), timeout=30.0),
        "sdc": Effect("corrupt", phases(), seconds=draw(draws(100.0))),
        "late sdc": Effect("corrupt", phases(), nodes=1, seconds=draw(draws(900.0))),
    }
    store = Saving(draw(st.floats(20.0, 900.0)), draw(st.floats(0.0, 40.0)), draw(st.floats(0.0, 400.0)), load=9.0)
    saving = Saving(
        draw(st.one_of(st.just(inf), st.floats(5.0, 300.0))), draw(st.one_of(st.just(0.0), st.floats(0.1, 40.0))),
        draw(st.one_of(st.just(0.0), st.floats(0.1, 400.0))), draw(st.floats(1.0, 2.0)), draw(st.integers(1, 5)),
        draw(st.floats(0.0, 30.0)), store,
    )  # fmt: skip
    total, horizon = draw(
        st.one_of(
            st.tuples(st.floats(0.0, 3000.0), st.just(inf)), st.tuples(st.just(inf), st.floats(0.0, 4000.0)),
            st.tuples(st.floats(0.0, 3000.0), st.floats(0.0, 4000.0)),
        )
    )  # fmt: skip
    return Terms(
        saving, effects, total, horizon, draw(st.sampled_from(["restart", "wait", "elastic", "migrate"])),
        float(draw(st.one_of(st.just(inf), st.integers(0, 4)))), draw(draws(500.0)), draw(st.sampled_from([1, 4, 12])),
        draw(st.sampled_from([1, 2, 4])), *(draw(st.floats(0.0, 20.0)) for _ in range(4)),
    )  # fmt: skip


FAULTS = st.lists(st.tuples(st.one_of(st.floats(0.0, 3000.0), st.sampled_from([100.0, 500.0])),
                            st.sampled_from(KINDS)), max_size=15)  # fmt: skip


def stream(faults: Faults) -> Iterator[Failure]:
    return iter([Failure(t, n, 0) for t, n in sorted(faults)])


def apart(times: Iterable[float]) -> list[float]:
    """Times moved off round numbers, so that rounding does not decide whether a checkpoint was there before a fault."""
    return [t + number * pi / 100 for number, t in enumerate(sorted(times), 1)]


@given(terms(), FAULTS, st.integers(0, 100))
def test_whatever_strikes_each_second_is_told_once(given_: Terms, faults: Faults, seed: int) -> None:
    """The ledger adds up to the run, and the run ends: at its horizon, or with its work."""
    clock = Clock()
    run = Run(clock, given_, stream(faults), np.random.default_rng(seed))
    clock.watch(clock.process(run.process()), "a run")
    clock.play()
    life = run.life
    sound(life)
    assert life.progress.high <= given_.total * (1 + 1e-9) + 1e-6
    assert life.finished == (life.progress.done >= given_.total - 1e-9)
    assert life.finished or life.end == pytest.approx(given_.horizon)
    assert life.end <= given_.horizon * (1 + 1e-12)
    assert sum(life.failures.values()) == len(faults) or life.end <= max(t for t, _ in faults) * (1 + 1e-12)
    assert 0 <= run.away < given_.replicas
    assert 0.0 < life.progress.speed <= 1.0
    if given_.policy == "wait":
        assert life.spares_least == given_.spares
    else:
        assert 0.0 <= life.spares_least <= given_.spares


@given(terms(), FAULTS, st.integers(0, 100), st.floats(1.0, 40.0))
def test_a_life_played_in_small_pieces_is_the_same(given_: Terms, faults: Faults, seed: int, piece: float) -> None:
    """Events between which nothing happens change nothing: work is stepped, not counted in cycles."""
    faults = list(zip(apart(t for t, _ in faults), [name for _, name in sorted(faults)], strict=True))

    class Stepped(Progress):
        def advance(self, seconds: float) -> float:
            passed = 0.0
            while passed < seconds and not self.finished:
                passed += super().advance(min(piece, seconds - passed))
            return passed

    lives = []
    for kind in (Progress, Stepped):
        clock = Clock()
        run = Run(clock, given_, stream(faults), np.random.default_rng(seed))
        run.life.progress = kind(given_.saving, given_.total)
        clock.process(run.process())
        clock.play()
        lives.append(run.life)
    once, stepped = lives
    assert once.end == pytest.approx(stepped.end, rel=1e-9, abs=1e-6)
    assert once.progress.high == pytest.approx(stepped.progress.high, rel=1e-9, abs=1e-6)


@given(
    st.lists(st.floats(0.0, 3000.0), max_size=40), st.data(), st.floats(5.0, 300.0), st.floats(0.0, 40.0),
    st.floats(0.0, 200.0),
)  # fmt: skip
def test_more_failures_never_raise_goodput(
    times: list[float], data: st.DataObject, interval: float, save: float, recovery: float
) -> None:
    """On the same faults: what is left of a thinned sequence does at least as much, and has as much saved."""
    times = apart(times)
    fewer = [t for t in times if data.draw(st.booleans())]
    effects = {"stop": Effect("stop", (("restart", always(recovery)),))}
    most, least = (
        lived([(t, "stop") for t in chosen], Saving(interval, save), effects, horizon=3000.0)
        for chosen in (times, fewer)
    )
    assert least.progress.high >= most.progress.high * (1 - 1e-9) - 1e-6
    assert least.progress.durable[-1] >= most.progress.durable[-1] - interval * 1e-6


@given(st.lists(st.floats(0.0, 3000.0), max_size=20), st.lists(st.floats(0.0, 3000.0), max_size=20),
       st.floats(0.0, 40.0))  # fmt: skip
def test_two_levels_lie_between_the_fast_and_the_durable_one(soft: list[float], hard: list[float], load: float) -> None:
    """The fast level costs nothing, so with software faults alone two are as good as a durable one as frequent, with
    lost nodes alone as the store; with both they lie between."""
    store = Saving(300, 20, load=load)
    two, best = Saving(50, load=load, then=store), Saving(50, load=load, then=store)
    taken = {"taken": Effect("stop", BACK, nodes=1, lost=frozenset({0}))}
    durable = {"taken": Effect("stop", BACK, nodes=1)}
    faults = [(t, name) for name, times in (("stop", apart(soft)), ("taken", apart(hard))) for t in times]

    def done(chosen: Faults, saving: Saving, effects: dict[str, Effect]) -> float:
        return lived(chosen, saving, effects, horizon=3000.0).progress.high

    only_soft, only_hard = ([f for f in faults if f[1] == name] for name in ("stop", "taken"))
    assert done(only_soft, two, taken) == pytest.approx(done(only_soft, best, durable))
    assert done(only_hard, two, taken) == pytest.approx(done(only_hard, store, taken | {"taken": BROKEN}))
    both, low = done(faults, two, taken), done(faults, store, taken | {"taken": BROKEN})
    assert low - 20 - 1e-6 <= both <= done(faults, best, durable) + 20 + 1e-6


@given(st.lists(st.floats(0.0, 3000.0), max_size=15), st.integers(0, 5), st.floats(0.0, 800.0))
def test_more_spares_never_lower_goodput(times: list[float], spares: int, repair: float) -> None:
    """And to wait for the node is what having none amounts to."""
    faults = [(t, "broken") for t in times]
    few, more = (lived(faults, spares=n, repair=always(repair), horizon=3000.0) for n in (spares, spares + 1))
    assert more.progress.high >= few.progress.high - 1e-6
    none, wait = (
        lived(faults, repair=always(repair), horizon=3000.0, **k) for k in ({"spares": 0}, {"policy": "wait"})
    )
    assert spent(none) == spent(wait)
