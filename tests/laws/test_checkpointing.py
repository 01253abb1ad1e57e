"""When to save and what failures cost: closed forms, their limits, and the two published cases they were checked on."""

from __future__ import annotations

from math import exp, inf, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.laws.checkpointing import (
    daly_interval,
    efficiency,
    expected_wall,
    young_interval,
)

MINUTE = 60.0
#: 2,048 cards, one failure a card and month (720 h), 10 min to come back.
ARTICLE, RECOVERY = 720 * 3600 / 2048, 10 * MINUTE
#: Llama 3 405B: 419 unexpected interruptions in 54 days.
LLAMA = 54 * 24 * 3600 / 419

SAVES = st.floats(0.1, 1e3)
MTBFS = st.floats(1e2, 1e8)


def best(save: float, recovery: float, mtbf: float) -> float:
    return efficiency(daly_interval(save, mtbf), save, recovery, mtbf)


# ---- closed forms


def test_youngs_interval() -> None:
    assert young_interval(30, 6000) == pytest.approx(600)
    assert young_interval(120, 6000) == pytest.approx(1200)  # as the root of both


def test_dalys_interval_by_hand() -> None:
    x = 30 / (2 * 6000)
    assert daly_interval(30, 6000) == pytest.approx(600 * (1 + sqrt(x) / 3 + x / 9) - 30)
    assert daly_interval(3000, 1000) == 1000  # saving longer than two failures apart


@given(SAVES, MTBFS)
def test_daly_is_young_where_saving_is_cheap(save: float, mtbf: float) -> None:
    if save < 2 * mtbf:
        assert abs(daly_interval(save, mtbf) / young_interval(save, mtbf) - 1) <= sqrt(save / mtbf)


@given(SAVES, st.floats(0, 1e3), MTBFS, st.floats(0.2, 5))
def test_no_other_interval_is_much_better_than_dalys(save: float, recovery: float, mtbf: float, by: float) -> None:
    if save < mtbf / 5:
        tau = daly_interval(save, mtbf)
        assert efficiency(by * tau, save, recovery, mtbf) <= efficiency(tau, save, recovery, mtbf) * (1 + 2e-4)


@given(st.floats(1, 1e4), SAVES, st.floats(0, 1e3), MTBFS)
def test_the_expected_wall_time_is_more_than_the_work(work: float, save: float, recovery: float, mtbf: float) -> None:
    """Saving always costs; first-order terms are a bound from below."""
    wall = expected_wall(work, save, recovery, mtbf)
    assert wall >= (work + save) * (1 + recovery / mtbf) * (1 - 1e-9)
    assert 0.0 <= efficiency(work, save, recovery, mtbf) <= 1.0
    assert wall >= expected_wall(work, save, 0.0, mtbf)


# ---- limits


def test_what_nothing_disturbs_is_all_progress() -> None:
    assert efficiency(600, 0, 0, None) == 1.0
    assert efficiency(0, 0, 0, None) == 1.0
    assert efficiency(1e-3, 0, 0, 1e6) == pytest.approx(1.0, rel=1e-8)  # C = R = 0, tau to 0


def test_without_failures_only_saving_costs() -> None:
    assert efficiency(570, 30, 600, None) == pytest.approx(0.95)
    assert efficiency(570, 30, 600, 1e14) == pytest.approx(0.95)


def test_failures_everywhere_end_all_progress() -> None:
    assert expected_wall(1e6, 0, 0, 1.0) == inf
    assert efficiency(1e6, 0, 0, 1.0) == 0.0
    assert efficiency(10, 0, 1e4, 1.0) == 0.0


@pytest.mark.parametrize("mtbf", [0.0, -1.0])
def test_a_time_between_failures_is_above_zero(mtbf: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        expected_wall(1, 1, 1, mtbf)


# ---- the reference article: 2,048 cards that fail once a month


def test_countings_that_leave_something_out() -> None:
    """Of Daly's law: no work lost is a short interval at no cost; with no failure during recovery, its length."""
    assert pytest.approx(21.09 * MINUTE, rel=1e-3) == ARTICLE
    assert 1 - efficiency(1e-3, 0, RECOVERY, ARTICLE) == pytest.approx(0.378, abs=1e-3)
    assert 1 - efficiency(1e-3, 0, RECOVERY, ARTICLE) == pytest.approx(1 - exp(-RECOVERY / ARTICLE), abs=1e-6)
    assert RECOVERY / (ARTICLE + RECOVERY) < 1 - efficiency(1e-3, 0, RECOVERY, ARTICLE) < RECOVERY / ARTICLE


@pytest.mark.parametrize(("save", "waste"), [(15, 0.469), (30, 0.503), (60, 0.550)])
def test_half_is_wasted_at_the_best_interval(save: float, waste: float) -> None:
    assert 1 - best(save, RECOVERY, ARTICLE) == pytest.approx(waste, abs=6e-4)


@pytest.mark.parametrize(("minutes", "waste"), [(10, 0.54), (20, 0.64), (30, 0.73)])
def test_more_is_wasted_at_a_fixed_interval(minutes: float, waste: float) -> None:
    assert 1 - efficiency(minutes * MINUTE, 30, RECOVERY, ARTICLE) == pytest.approx(waste, abs=5e-3)


# ---- Llama 3: above 90%, though neither the pause nor the recovery was published


@pytest.mark.parametrize(("save", "most"), [(5, 14.0), (20, 8.3)])
def test_where_90_percent_is_possible(save: float, most: float) -> None:
    """The longest recovery that leaves 90%, in minutes, to 0.1."""
    assert pytest.approx(3.09 * 3600, rel=1e-3) == LLAMA
    assert best(save, (most - 0.1) * MINUTE, LLAMA) > 0.9
    assert best(save, (most + 0.1) * MINUTE, LLAMA) < 0.9


def test_with_pauses_of_a_minute_90_percent_is_impossible() -> None:
    assert best(60, 0, LLAMA) < 0.9


@pytest.mark.parametrize(
    ("save", "recovery", "share"),
    [(5, 3, 0.955), (5, 5, 0.945), (5, 10, 0.919), (5, 15, 0.895), (20, 3, 0.926), (20, 5, 0.916), (20, 10, 0.892),
     (20, 15, 0.868), (60, 3, 0.885), (60, 5, 0.876), (60, 10, 0.853), (60, 15, 0.830)],
)  # fmt: skip
def test_the_region_of_llama(save: float, recovery: float, share: float) -> None:
    assert best(save, recovery * MINUTE, LLAMA) == pytest.approx(share, abs=6e-4)


def test_bloom_saves_for_a_third_of_a_percent() -> None:
    """A failure a week, 40 s every 3 h."""
    assert efficiency(3 * 3600, 40, 600, 168 * 3600) == pytest.approx(0.986, abs=1e-3)
    assert 1 - efficiency(3 * 3600, 40, 0, None) == pytest.approx(0.0037, abs=1e-4)
