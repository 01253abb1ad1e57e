"""Simulated lives against Daly's exact expectation, and the reference article's 2,048 cards as a run."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from sim.jobs.reliability.effects import Effect, Terms, always
from sim.jobs.reliability.faults import Law, Units, failures
from sim.jobs.reliability.life import Life
from sim.jobs.reliability.progress import Saving
from sim.jobs.reliability.run import live
from sim.laws.checkpointing import daly_interval, efficiency, expected_wall, young_interval

FAILURES = 10_000
MINUTE = 60.0
ARTICLE, RECOVERY = 720 * 3600 / 2048, 10 * MINUTE


def lived(
    mtbf: float, recovery: float, saving: Saving, *, seed: int = 1, law: Law = "exponential", shape: float = 1.0,
    number: int = FAILURES, **terms: float,
) -> Life:  # fmt: skip
    """A run over ``number`` failures, which 50 units share: synchronous or not, one time of recovery."""
    effects = {"any": Effect("stop", (("restart", always(recovery)),))}
    units = Units("any", 50, 50 * mtbf, law, shape)
    given = Terms(saving, effects, **{"horizon": number * mtbf, **terms})  # type: ignore[arg-type]
    return live(given, failures([units], np.random.SeedSequence(seed)), np.random.default_rng(0))[0]


def measured(life: Life) -> float:
    """The mean time between the failures that did strike."""
    return life.end / sum(life.failures.values())


# ---- Daly


@pytest.mark.parametrize(("ratio", "number"), [(0.003, FAILURES), (0.05, FAILURES), (0.5, 4 * FAILURES)])
@pytest.mark.parametrize("by", [0.3, 1.0, 3.0])
def test_goodput_is_dalys(ratio: float, number: int, by: float) -> None:
    """At the best interval and far from it. Most of what is left is chance in the number of failures: 1% of 10,000,
    which tells where recoveries are long; against the time between those that did strike less is left."""
    mtbf, save = 10_000.0, 30.0
    interval = by * daly_interval(save, mtbf)
    life = lived(mtbf, ratio * mtbf, Saving(interval, save), number=number)
    assert sum(life.failures.values()) == pytest.approx(number, rel=0.02)
    assert life.ettr == pytest.approx(efficiency(interval, save, ratio * mtbf, mtbf), rel=0.01)
    assert life.ettr == pytest.approx(efficiency(interval, save, ratio * mtbf, measured(life)), rel=0.004)


def test_the_time_to_a_goal_is_dalys() -> None:
    """Work that is done, instead of time that has passed: the last interval needs no checkpoint."""
    mtbf, save, recovery = 5000.0, 30.0, 500.0
    interval = daly_interval(save, mtbf)
    life = lived(mtbf, recovery, Saving(interval, save), total=FAILURES * mtbf / 2, horizon=inf)
    assert life.finished
    expected = expected_wall(interval, save, recovery, mtbf) * FAILURES * mtbf / 2 / interval
    assert life.end == pytest.approx(expected, rel=0.01)


def test_where_time_goes_is_dalys() -> None:
    """Saving costs C for every interval that is done or redone; recoveries M (e^(R/M) - 1) a stop."""
    mtbf, save, recovery = 5000.0, 60.0, 2000.0
    interval = daly_interval(save, mtbf)
    life = lived(mtbf, recovery, Saving(interval, save))
    m = measured(life)
    assert life.buckets["restart"] / life.stops == pytest.approx(m * np.expm1(recovery / m), rel=0.01)
    assert life.interrupted_recoveries / life.stops == pytest.approx(np.expm1(recovery / m), rel=0.03)
    assert life.progress.checkpoints * save <= life.buckets["checkpoint"]
    assert life.progress.checkpoints == pytest.approx(life.progress.high / interval, rel=0.01)


def test_no_interval_does_better_than_dalys() -> None:
    """On the same failures. The optimum is flat: goodput is compared, not the interval."""
    mtbf, save, recovery = 3600.0, 30.0, 300.0
    best, number = daly_interval(save, mtbf), 4000
    found = {
        by: lived(mtbf, recovery, Saving(by * best, save), number=number).ettr for by in (0.25, 0.5, 0.8, 1, 1.25, 2, 4)
    }
    assert found[1] == pytest.approx(efficiency(best, save, recovery, mtbf), rel=0.01)
    assert max(found.values()) <= found[1] * 1.002
    assert found[0.25] < found[0.5] < found[0.8]
    assert found[1.25] > found[2] > found[4]
    young = lived(mtbf, recovery, Saving(young_interval(save, mtbf), save), number=number).ettr
    assert young == pytest.approx(found[1], rel=0.003)


def test_without_failures_only_saving_costs() -> None:
    life = lived(1e12, 600.0, Saving(570.0, 30.0), horizon=600.0 * 1000)
    assert life.failures == {}
    assert life.ettr == pytest.approx(0.95)


def test_saving_beside_the_work_pays() -> None:
    """The same bytes: blocking for 60 s, or for 5 s and written in 55 s that nothing slows."""
    mtbf, recovery = 3600.0, 300.0
    blocked, beside = (
        lived(mtbf, recovery, Saving(daly_interval(s.blocking, mtbf), s.blocking, s.persist)).ettr
        for s in (Saving(inf, 60.0), Saving(inf, 5.0, 55.0))
    )
    assert beside > blocked + 0.08
    assert beside < efficiency(daly_interval(5.0, mtbf), 5.0, recovery, mtbf)  # it is durable later


# ---- the reference article


@pytest.mark.parametrize(("save", "waste"), [(15, 0.469), (30, 0.503), (60, 0.550)])
def test_half_of_2048_cards_is_wasted(save: float, waste: float) -> None:
    life = lived(ARTICLE, RECOVERY, Saving(daly_interval(save, ARTICLE), save))
    assert 1 - life.ettr == pytest.approx(waste, abs=0.01)


@pytest.mark.parametrize(("minutes", "waste"), [(10, 0.54), (20, 0.64), (30, 0.73)])
def test_more_at_a_fixed_interval(minutes: float, waste: float) -> None:
    assert 1 - lived(ARTICLE, RECOVERY, Saving(minutes * MINUTE, 30)).ettr == pytest.approx(waste, abs=0.01)


def test_failures_that_flock_waste_less() -> None:
    """Weibull with k = 0.7 and the same mean: 44% where one clock is renewed, and less flocking with many cards."""
    saving = Saving(daly_interval(30, ARTICLE), 30)
    effects = {"any": Effect("stop", (("restart", always(RECOVERY)),))}
    waste = {}
    for count in (1, 50):
        units = Units("any", count, count * ARTICLE, "weibull", 0.7)
        given = Terms(saving, effects, horizon=FAILURES * ARTICLE)
        life, _ = live(given, failures([units], np.random.SeedSequence(1)), np.random.default_rng(0))
        waste[count] = 1 - life.ettr
    assert waste[1] == pytest.approx(0.44, abs=0.012)
    assert waste[1] < waste[50] < 0.503 + 0.01


def test_one_event_costs_a_few() -> None:
    """A run of months takes events by its failures, not by its steps or checkpoints."""
    effects = {"any": Effect("stop", (("detection", always(60)), ("restart", always(300))))}
    given = Terms(Saving(100.0, 1.0), effects, horizon=1000 * 10_000.0)
    stream = failures([Units("any", 1000, 1000 * 10_000.0)], np.random.SeedSequence(0))
    life, events = live(given, stream, np.random.default_rng(0))
    assert life.progress.checkpoints > 80_000
    assert events < 5 * sum(life.failures.values())
