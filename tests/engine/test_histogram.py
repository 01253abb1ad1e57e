"""Durations by the billion: percentiles to a quarter of a percent, the mean exact, runs as single values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.histogram import Durations, merged, percentiles
from sim.engine.timeline import Run

SECONDS = st.floats(1e-6, 1e3)


@given(st.lists(st.tuples(SECONDS, st.integers(1, 50)), min_size=1, max_size=30))
def test_percentiles_are_right_to_a_quarter_of_a_percent(values: list[tuple[float, int]]) -> None:
    durations = Durations()
    for seconds, times in values:
        durations.add(seconds, times)
    every = np.sort(np.repeat([s for s, _ in values], [n for _, n in values]))
    assert durations.number == len(every)
    assert durations.total == pytest.approx(every.sum())
    found = percentiles(durations, (50, 90, 99))
    assert found is not None
    for value, p in zip(found, (50, 90, 99), strict=True):
        exact = every[max(0, int(np.ceil(p / 100 * len(every))) - 1)]
        assert value == pytest.approx(exact, rel=0.0026)


@given(st.lists(st.tuples(st.floats(-1.0, 1e3), st.integers(0, 50)), max_size=30))
def test_many_are_one_by_one(values: list[tuple[float, int]]) -> None:
    one, many = Durations(), Durations()
    for seconds, times in values:
        if times:
            one.add(seconds, times)
    for part in (values[:7], values[7:]):
        many.add_many(np.array([s for s, _ in part]), np.array([n for _, n in part], dtype=np.int64))
    assert (many.number, many.total, many.counts) == (one.number, one.total, one.counts)


@given(
    st.lists(
        st.tuples(
            st.floats(1e-4, 1.0), st.sampled_from([0.0, 1e-9, 1e-5, 1e-3]), st.integers(1, 400), st.integers(1, 5)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_runs_are_their_passes(runs: list[tuple[float, float, int, int]]) -> None:
    together, singly = Durations(), Durations()
    first, growth, passes, times = (np.array(column) for column in zip(*runs, strict=True))
    together.add_runs(first, growth, passes, times)
    for a, g, count, n in runs:
        for i in range(count):
            singly.add(Run(a, g, count).seconds_of(i), n)
    assert together.number == singly.number == int((passes * times).sum())
    assert together.total == pytest.approx(singly.total)
    for a, b in zip(percentiles(together, (10, 50, 90)) or [], percentiles(singly, (10, 50, 90)) or [], strict=True):
        assert a == pytest.approx(b, rel=0.0051)  # a value on a bin's edge may fall to either side


def test_merging_adds_up() -> None:
    parts = [Durations(), Durations()]
    parts[0].add(1.0, 3)
    parts[1].add(2.0, 5)
    whole = merged(parts)
    assert (whole.number, whole.total) == (8, 13.0)
    assert percentiles(whole, (25, 75)) == [pytest.approx(1.0, rel=0.003), pytest.approx(2.0, rel=0.003)]


def test_nothing_counted_has_no_percentiles() -> None:
    durations = Durations()
    durations.add(0.0, 10)
    assert percentiles(durations, (50,)) is None
