"""Progress between events: cycles of work and saving, what is durable when, and many cycles at once as one by one."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.jobs.reliability.progress import Progress, Saving

SYNC = Saving(100, 10)
ASYNC = Saving(100, 10, 50, 1.25)  # writes in 50 s, in which 40 s of work are done

SAVINGS = st.builds(
    Saving,
    interval=st.floats(5, 500),
    blocking=st.one_of(st.just(0.0), st.floats(0.1, 50)),
    persist=st.one_of(st.just(0.0), st.floats(0.1, 1000)),
    slowdown=st.floats(1, 3),
    keep=st.integers(1, 6),
    then=st.one_of(
        st.none(),
        st.builds(
            Saving, interval=st.floats(20, 3000), blocking=st.floats(0, 50),
            persist=st.one_of(st.just(0.0), st.floats(0.1, 1000)), slowdown=st.floats(1, 3), keep=st.integers(1, 3),
        ),
    ),
)  # fmt: skip


def after(saving: Saving, seconds: float, **keys: Any) -> Progress:
    found = Progress(saving, **keys)
    found.advance(seconds)
    return found


def same(a: Progress, b: Progress) -> None:
    """The same state and ledger, but for rounding."""
    whole = sum(a.buckets.values())
    assert a.done == pytest.approx(b.done, rel=1e-9, abs=1e-6)
    assert a.high == pytest.approx(b.high, rel=1e-9, abs=1e-6)
    assert a.checkpoints == b.checkpoints
    assert a.durable == pytest.approx(b.durable, rel=1e-9, abs=1e-6)
    for name in a.buckets.keys() | b.buckets.keys():
        assert a.buckets.get(name, 0.0) == pytest.approx(b.buckets.get(name, 0.0), rel=1e-9, abs=1e-9 * whole), name


# ---- by hand


def test_cycles_of_work_and_saving() -> None:
    found = after(SYNC, 220)
    assert (found.done, found.durable, found.checkpoints) == (200, [0, 100, 200], 2)
    assert found.buckets["progress"] == 200
    assert found.buckets["checkpoint"] == 20


def test_a_checkpoint_is_durable_when_it_is_written() -> None:
    assert after(SYNC, 109).durable == [0]
    assert after(SYNC, 110).durable == [0, 100]
    assert after(ASYNC, 159).durable == [0]
    assert after(ASYNC, 160).durable == [0, 100]
    assert after(ASYNC, 160).done == 140


def test_what_writing_slows_is_booked_on_checkpoints() -> None:
    found = after(ASYNC, 160)
    assert found.buckets["progress"] == 140
    assert found.buckets["checkpoint"] == 10 + 10


def test_the_next_checkpoint_waits_for_the_one_before() -> None:
    slow = Saving(100, 10, 300, 1.0)
    found = after(slow, 410)  # written at 410; the second was due at 210
    assert (found.done, found.durable) == (200, [0, 100])
    assert found.buckets["checkpoint"] == 10 + 200
    assert after(slow, 420).checkpoints == 2


def test_a_failure_takes_back_to_what_is_durable() -> None:
    found = after(SYNC, 250)
    assert found.fall_back() == 30
    assert found.done == 200
    assert found.high == 230
    found.advance(40)
    assert found.buckets["redone"] == 30
    assert found.buckets["progress"] == 240


def test_a_checkpoint_hit_before_it_is_durable_falls_back_one_more() -> None:
    found = after(ASYNC, 300)  # the second is taken at 230 and written at 280
    assert found.fall_back() == 60
    found = after(ASYNC, 279)
    assert found.fall_back() == pytest.approx(139.2)
    assert found.done == 100


def test_failures_in_a_row_lose_nothing_more() -> None:
    found = after(SYNC, 250)
    found.fall_back()
    assert found.fall_back() == 0
    found.distrust(150)
    assert found.fall_back() == 100
    assert found.durable == [0, 100]


@pytest.mark.parametrize("saving", [Saving(inf), Saving(inf, 10, 5)])
def test_a_run_that_never_saves(saving: Saving) -> None:
    found = after(saving, 1e6)
    assert (found.done, found.checkpoints) == (1e6, 0)
    assert found.fall_back() == 1e6


def test_only_the_newest_are_kept() -> None:
    assert after(replace(SYNC, keep=2), 110 * 7).durable == [600, 700]
    assert after(replace(SYNC, keep=1), 110 * 70).durable == [7000]


def test_lower_speed_costs_what_is_not_done() -> None:
    found = after(SYNC, 210, speed=0.5)
    assert (found.done, found.durable) == (100, [0, 100])
    assert found.buckets == {"redone": 0, "progress": 100, "degraded": 100, "checkpoint": 10}


def test_a_run_that_stands_still_writes_its_checkpoint_all_the_same() -> None:
    found = after(ASYNC, 110)
    found.speed = 0.0
    found.advance(50)
    assert (found.done, found.durable) == (100, [0, 100])
    assert found.buckets["degraded"] == 50


def test_saving_out_of_turn() -> None:
    found = after(ASYNC, 130)
    assert found.time_to_save() == 30 + 10 + 50  # the one that is written, and its own
    found.save_now()
    assert found.durable == [0, 100, 116]
    assert found.fall_back() == 0
    assert after(SYNC, 105).time_to_save() == 5  # under way
    assert after(SYNC, 50).time_to_save() == 10


def test_a_run_ends_when_its_work_is_done() -> None:
    found = Progress(SYNC, total=250)
    assert found.advance(1000) == 270
    assert found.finished
    assert found.advance(1000) == 0


@pytest.mark.parametrize("saving", [SYNC, ASYNC, Saving(inf)])
def test_a_run_without_an_end_is_not_played_to_its_end(saving: Saving) -> None:
    with pytest.raises(ValueError, match="without an end"):
        Progress(saving).advance(inf)


def test_without_failures_goodput_is_interval_over_cycle() -> None:
    found = after(SYNC, 110 * 1000)
    assert found.done / (110 * 1000) == pytest.approx(100 / 110)


# ---- two levels

STORE = Saving(400, 20, 100)  # beside SYNC: saved at 440 and 460, durable at 560
BOTH = replace(SYNC, keep=10, then=STORE)


def test_two_levels_each_save_at_their_time() -> None:
    found = after(BOTH, 559)
    fast, store = found.levels
    assert (fast.durable, store.durable, found.done) == ([0, 100, 200, 300, 400], [0], 499)
    assert found.buckets["checkpoint"] == 4 * 10 + 20
    found.advance(2)
    assert store.durable == [0, 400]
    assert found.checkpoints == 5


def test_a_failure_falls_back_to_the_newest_that_is_left() -> None:
    found = after(BOTH, 700)  # 600 at 680
    assert (found.fall_back(), found.done, found.source) == (20, 600, 0)
    found = after(BOTH, 700)
    assert (found.fall_back({0}), found.done, found.source) == (220, 400, 1)
    assert found.levels[0].durable == [0]
    found.advance(109)
    assert found.fall_back({0}) == 100  # not saved anew before its interval is over
    found.advance(111)
    assert (found.fall_back(), found.done) == (1, 500)
    assert after(BOTH, 500).fall_back({0}) == 440  # the store has nothing before 560
    assert after(BOTH, 700).fall_back({0, 1}) == 620


def test_a_level_that_lost_what_it_wrote_begins_again_at_once() -> None:
    """400 was being written to the store when the job fell back to 400 in memory."""
    found = after(BOTH, 500)
    assert (found.fall_back(), found.levels[1].durable) == (40, [0])
    found.advance(120)
    assert found.levels[1].durable == [0, 400]


def test_levels_that_are_written_at_once_share_the_links() -> None:
    found = after(Saving(100, 0, 50, 1.25, then=Saving(100, 0, 50, 2.0)), 120)
    assert found.done == 100 + 20 / 2.5
    assert found.buckets["checkpoint"] == pytest.approx(20 - 8)


def test_saving_out_of_turn_goes_to_the_quickest_level_that_outlives_it() -> None:
    found = after(BOTH, 50)
    assert (found.time_to_save(), found.time_to_save({0}), found.time_to_save({0, 1})) == (10, 120, inf)
    found.save_now({0})
    assert (found.levels[0].durable, found.levels[1].durable) == ([0], [0, 50])
    assert Progress(Saving(inf)).time_to_save() == inf


@given(st.floats(1, 3e4), st.lists(st.floats(0, 3000), max_size=5))
def test_a_second_level_that_costs_nothing_and_is_never_needed_changes_nothing(
    seconds: float, hits: list[float]
) -> None:
    one, two = Progress(SYNC), Progress(replace(SYNC, then=Saving(700)))
    for piece in [seconds, *hits]:
        for found in (one, two):
            found.advance(piece)
            found.fall_back()
        assert two.done == pytest.approx(one.done)
        assert two.buckets == {name: pytest.approx(spent, abs=1e-6) for name, spent in one.buckets.items()}


# ---- laws


@given(SAVINGS, st.floats(1, 3e4), st.integers(1, 400), st.floats(0.1, 1), st.one_of(st.just(inf), st.floats(50, 2e4)))
def test_in_one_go_as_in_pieces(saving: Saving, seconds: float, pieces: int, speed: float, total: float) -> None:
    """Many cycles counted at once are the cycles played one by one."""
    once, slow = Progress(saving, total, speed), Progress(saving, total, speed)
    passed = once.advance(seconds)
    step = min(seconds / pieces, saving.interval / 3)  # too short for a whole cycle
    went = 0.0
    while went < seconds * (1 - 1e-12) and not slow.finished:
        went += slow.advance(min(step, seconds - went))
    assert went == pytest.approx(passed, rel=1e-9)
    edges = [
        min(abs(level.since), abs(level.since - level.saving.interval), level.saving_left or inf) < 1e-5
        or (level.persisting is None) != (other.persisting is None)
        for level, other in zip(slow.levels, once.levels, strict=True)
    ]
    if not any(edges):
        same(once, slow)
    else:  # rounding decides on which side of a checkpoint it stopped
        assert once.done == pytest.approx(slow.done, rel=1e-9, abs=1e-4)


@given(SAVINGS, st.lists(st.tuples(st.floats(0, 3000), st.floats(0.1, 1), st.sampled_from(["", "job", "node"])),
                         max_size=12))  # fmt: skip
def test_each_second_is_in_one_bucket(saving: Saving, acts: list[tuple[float, float, str]]) -> None:
    found = Progress(saving)
    passed = lost = 0.0
    for seconds, speed, hit in acts:
        found.speed = speed
        passed += found.advance(seconds)
        if hit:
            lost += found.fall_back({0} if hit == "node" else ())
            assert found.done == max(level.durable[-1] for level in found.levels)
        for level in found.levels:
            assert level.durable == sorted(level.durable)
            assert level.durable[-1] <= found.done <= found.high
            assert 1 <= len(level.durable) <= max(1, level.saving.keep)
    assert passed == pytest.approx(sum(seconds for seconds, _, _ in acts))
    assert sum(found.buckets.values()) == pytest.approx(passed, rel=1e-9, abs=1e-9)
    assert all(spent >= 0.0 for spent in found.buckets.values())
    assert found.buckets.get("progress", 0.0) == pytest.approx(found.high, rel=1e-9, abs=1e-9)
    again = found.buckets.get("redone", 0.0)
    assert found.done == pytest.approx(found.high + again - lost, rel=1e-9, abs=1e-6)
