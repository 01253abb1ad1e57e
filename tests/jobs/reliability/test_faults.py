"""Streams of faults: the rates they were given, streams that do not disturb each other, and published clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice, pairwise, takewhile
from math import gamma, inf, sqrt
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.adapters.lookup import Library
from sim.jobs.reliability.faults import Failure, Law, Units, failures

HOUR, DAY = 3600.0, 86_400.0
LIBRARY = Library()
LAWS: list[tuple[Law, float]] = [
    ("exponential", 1.0), ("weibull", 0.7), ("weibull", 2.0), ("lognormal", 0.5), ("lognormal", 1.2),
]  # fmt: skip


def until(seconds: float, classes: list[Units], seed: int = 0) -> list[Failure]:
    return list(takewhile(lambda f: f.time < seconds, failures(classes, np.random.SeedSequence(seed))))


def first(number: int, classes: list[Units], seed: int = 0) -> list[Failure]:
    return list(islice(failures(classes, np.random.SeedSequence(seed)), number))


def preset(name: str, gpus: int, nodes: int) -> list[Units]:
    """A cluster's units by a preset of the catalogue."""
    counts = {"gpu": gpus, "node": nodes, "link": nodes, "job": 1}
    return [Units(c.name, counts[c.per], c.mtbf, c.law, c.shape) for c in LIBRARY.failure(name).classes]


def rate(classes: Iterable[Units]) -> float:
    return sum(units.rate for units in classes)


# ---- rates


def relative_spread(law: Law, shape: float) -> float:
    """Standard deviation of a life over its mean."""
    if law == "exponential":
        return 1.0
    if law == "weibull":
        a, b = gamma(1.0 + 1.0 / shape), gamma(1.0 + 2.0 / shape)
        return sqrt(b / a**2 - 1.0)
    return sqrt(np.expm1(shape**2))


@pytest.mark.parametrize(("law", "shape"), LAWS)
def test_units_fail_as_often_as_they_should(law: Law, shape: float) -> None:
    """From the start: a cluster that is met in the middle of its life has no wave of first failures."""
    units = Units("u", 2000, 1000.0, law, shape)
    found = np.array([f.time for f in until(5000.0, [units])])
    for end in (500.0, 1000.0, 5000.0):
        expected = units.rate * end
        spread = max(1.0, relative_spread(law, shape))
        assert abs(np.sum(found < end) - expected) < 4 * spread * sqrt(expected), end


@pytest.mark.parametrize(("law", "shape"), LAWS)
def test_lives_have_their_mean_and_spread(law: Law, shape: float) -> None:
    """One unit: its failures are its lives."""
    times = np.array([f.time for f in first(40_000, [Units("u", 1, 50.0, law, shape)])])
    lives = np.diff(times)
    assert lives.mean() == pytest.approx(50.0, rel=0.03)
    assert lives.std() / lives.mean() == pytest.approx(relative_spread(law, shape), rel=0.1)


@pytest.mark.parametrize("law", ["exponential", "weibull", "lognormal"])
def test_lemons_fail_as_much_more_often(law: Law) -> None:
    units = Units("u", 1000, 1000.0, law, 0.8, lemons=0.15, lemon_factor=5.0)
    assert units.rate == pytest.approx((850 + 150 * 5) / 1000.0)
    count = Counter(f.unit for f in until(50_000.0, [units]))
    bad, good = (sum(count[u] for u in part) / len(part) for part in (range(150), range(150, 1000)))
    assert bad / good == pytest.approx(5.0, rel=0.05)
    assert good == pytest.approx(50.0, rel=0.05)
    assert set(count) <= set(range(1000))


def test_all_units_may_be_lemons() -> None:
    units = Units("u", 10, 1000.0, lemons=1.0, lemon_factor=4.0)
    found = until(100_000.0, [units])
    assert len(found) == pytest.approx(4000, rel=0.06)
    assert {f.unit for f in found} == set(range(10))


def test_what_is_not_there_or_never_breaks_does_not_fail() -> None:
    assert first(5, [Units("none", 0, 10.0), Units("sound", 10, inf)]) == []
    assert rate([Units("none", 0, 10.0), Units("sound", 10, inf)]) == 0.0


# ---- streams


@given(st.integers(0, 2**32), st.permutations(["a", "b", "c", "d"]))
def test_a_class_fails_the_same_whatever_else_there_is(seed: int, order: list[str]) -> None:
    """Common random numbers: neither other classes nor their order matter."""
    laws = {"a": "exponential", "b": "weibull", "c": "lognormal", "d": "exponential"}
    every = {name: Units(name, 20, 100.0, cast("Law", law), 0.9) for name, law in laws.items()}
    whole = until(100.0, [every[name] for name in order], seed)
    assert all(a.time <= b.time for a, b in pairwise(whole))
    for name, units in every.items():
        assert [f for f in whole if f.name == name] == until(100.0, [units], seed)


def test_a_seed_is_not_used_up() -> None:
    seed, classes = np.random.SeedSequence(7), [Units("a", 3, 10.0)]
    once, again = (list(islice(failures(classes, seed), 50)) for _ in range(2))
    assert once == again
    seed.spawn(3)
    assert list(islice(failures(classes, seed), 50)) == once
    (child,) = seed.spawn(1)
    assert list(islice(failures(classes, child), 50)) != once


def test_two_classes_of_one_name_differ() -> None:
    found = first(100, [Units("a", 1, 10.0), Units("a", 1, 10.0)])
    assert len({f.time for f in found}) == 100


# ---- clusters


def test_llama_3_is_interrupted_419_times_in_54_days() -> None:
    """Unexpectedly; 47 planned stops come on top, and causes have the shares of the paper's table 5."""
    classes = preset("llama3", 16_384, 2_048)
    planned = {c.name for c in LIBRARY.failure("llama3").classes if c.planned}
    count: Counter[str] = Counter()
    for seed in range(200):
        count.update(f.name for f in until(54 * DAY, classes, seed))
    unexpected = sum(n for name, n in count.items() if name not in planned) / 200
    assert abs(unexpected - 419) < 5
    assert abs(sum(count[name] for name in planned) / 200 - 47) < 1.5
    table = {
        "faulty-gpu": 148, "gpu-hbm3-memory": 72, "software-bug": 54, "network-switch-cable": 35,
        "host-maintenance-unplanned": 32, "gpu-sram-memory": 19, "gpu-system-processor": 17, "nic": 7,
        "nccl-watchdog-timeout": 7, "silent-data-corruption": 6, "gpu-thermal-interface-sensor": 6, "ssd": 3,
        "power-supply": 3, "server-chassis": 2, "io-expansion-board": 2, "dependency": 2, "cpu": 2, "system-memory": 2,
    }  # fmt: skip
    assert sum(table.values()) == 419
    assert count.keys() - planned == table.keys()
    for name, number in table.items():
        assert abs(count[name] / 200 - number) < 4 * sqrt(number / 200), name
        (units,) = (u for u in classes if u.name == name)
        assert units.rate * 54 * DAY == pytest.approx(number, rel=1e-4)


@pytest.mark.parametrize(("nodes", "hours"), [(128, 28.8), (2_048, 1.803), (16_384, 0.225)])
def test_mean_time_to_failure_falls_with_nodes(nodes: int, hours: float) -> None:
    """Meta's RSC-1 at 6.5 failures per 1,000 node-days (its projections; jobs of 1,024 GPUs fared 3.7 times worse)."""
    assert 1 / rate(preset("rsc1", 8 * nodes, nodes)) / HOUR == pytest.approx(hours, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "per_1000_node_days"),
    [("rsc1", 6.5), ("rsc2", 2.34), ("lablup", 2.89), ("bloom", 2.98), ("llama3", 3.79), ("opt", 14.1),
     ("reference-article", 267)],
)  # fmt: skip
def test_rates_side_by_side(name: str, per_1000_node_days: float) -> None:
    """Per 1,000 nodes of 8 GPUs and day, planned stops aside."""
    planned = {c.name for c in LIBRARY.failure(name).classes if c.planned}
    found = rate(u for u in preset(name, 8_000, 1_000) if u.name not in planned)
    assert found * DAY == pytest.approx(per_1000_node_days, rel=3e-3)
