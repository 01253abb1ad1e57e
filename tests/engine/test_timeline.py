"""Bins equal the naive sum over passes; runs and their inverses; spans and buckets."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.engine import timeline
from sim.engine.timeline import BINS, FIRST_WIDTH, Bins, ChannelTrack, DeviceTrack, Run, SpanLog
from sim.laws.step import Pass

STARTS = st.floats(0.0, 5.0)
AMOUNTS = st.floats(0.0, 1e6)
PIECES = st.tuples(STARTS, st.floats(1e-6, 3.0), AMOUNTS)
RUNS = st.builds(Run, st.floats(1e-4, 0.05), st.sampled_from([0.0, 1e-7, 1e-5, 1e-3]), st.integers(1, 200))


def naive(pieces: list[tuple[float, float, float]]) -> list[float]:
    """Each (start, end, amount) cut at the edges of bins that are wide enough for the last end."""
    width = FIRST_WIDTH
    while max(end for _, end, _ in pieces) >= width * BINS:
        width *= 2
    values = [0.0] * BINS
    for start, end, amount in pieces:
        for b in range(int(start / width), min(BINS, ceil(end / width) + 1)):
            overlap = min(end, (b + 1) * width) - max(start, b * width)
            if overlap > 0:
                values[b] += amount * overlap / (end - start)
    return values


def close(bins: Bins, expected: list[float], scale: float) -> bool:
    return bins.values == pytest.approx(expected, rel=1e-6, abs=1e-9 * max(1.0, scale))


@settings(max_examples=40)
@given(st.lists(PIECES, min_size=1, max_size=8))
def test_add_spreads_evenly_and_merging_keeps_totals(raw: list[tuple[float, float, float]]) -> None:
    pieces = [(start, start + length, amount) for start, length, amount in raw]
    total = sum(amount for _, _, amount in pieces)
    bins = Bins()
    for piece in pieces:
        bins.add(*piece)
        assert piece[1] < bins.width * BINS
    assert sum(bins.values) == pytest.approx(total, rel=1e-9)
    assert close(bins, naive(pieces), total)


@settings(max_examples=40)
@given(st.lists(PIECES, min_size=1, max_size=30))
def test_add_many_is_add_for_each(raw: list[tuple[float, float, float]]) -> None:
    pieces = [(start, start + length / 100, amount) for start, length, amount in raw]
    many, one = Bins(), Bins()
    many.add_many(*map(list, zip(*pieces, strict=True)))
    for piece in pieces:
        one.add(*piece)
    assert many.width == one.width
    assert close(many, one.values, sum(amount for _, _, amount in pieces))


def test_add_many_of_nothing() -> None:
    bins = Bins()
    bins.add_many([], [], [])
    assert sum(bins.values) == 0.0


@settings(max_examples=40)
@given(STARTS, RUNS, AMOUNTS)
def test_add_run_is_add_for_each_pass(start: float, run: Run, amount: float) -> None:
    bins = Bins()
    bins.add_run(start, run, amount)
    edges = [(start + run.begun(i), start + run.begun(i + 1), amount) for i in range(run.passes)]
    assert close(bins, naive(edges), amount * run.passes)


@settings(max_examples=40)
@given(STARTS, RUNS, st.integers(0, 10_000), st.integers(0, 300))
def test_add_level_is_a_rising_level_times_seconds(start: float, run: Run, level: int, rise: int) -> None:
    bins = Bins()
    bins.add_level(start, run, level, rise)
    edges = [
        (start + run.begun(i), start + run.begun(i + 1), (level + rise * i) * run.seconds_of(i))
        for i in range(run.passes)
    ]
    assert close(bins, naive(edges), sum(amount for _, _, amount in edges))


@settings(max_examples=40)
@given(st.lists(PIECES, min_size=1, max_size=6), STARTS, STARTS)
def test_between_takes_edge_bins_in_proportion(raw: list[tuple[float, float, float]], a: float, b: float) -> None:
    assume(a < b)
    bins = Bins()
    for start, length, amount in raw:
        bins.add(start, start + length, amount)
    expected = 0.0
    for i, value in enumerate(bins.values):
        overlap = min(b, (i + 1) * bins.width) - max(a, i * bins.width)
        expected += value * max(0.0, overlap) / bins.width
    assert bins.between(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert bins.between(0.0, bins.width * BINS) == pytest.approx(sum(bins.values), rel=1e-9)


def test_bins_widen_by_doubling_and_never_grow_in_number() -> None:
    bins = Bins()
    for second in range(3000):
        bins.add(second, second + 1, 1.0)
    assert len(bins.values) == BINS
    assert bins.width == FIRST_WIDTH * 4096
    assert sum(bins.values) == pytest.approx(3000)
    assert bins.between(1000.0, 1100.0) == pytest.approx(100, abs=2 * bins.width)


# ---- runs


@given(RUNS)
def test_begun_is_the_sum_of_the_passes(run: Run) -> None:
    assert run.begun(run.passes) == pytest.approx(sum(run.seconds_of(i) for i in range(run.passes)))


@given(RUNS, st.floats(0.0, 20.0))
def test_passes_within_and_until_invert_begun(run: Run, x: float) -> None:
    within = run.passes_within(x)
    slack = 1e-9 * (1 + x)
    assert run.begun(within) <= x + slack
    assert run.begun(within + 1) > x - slack
    until = run.passes_until(x)
    assert until >= 1
    assert run.begun(until) >= x
    assert until == 1 or run.begun(until - 1) < x + slack


@given(RUNS)
def test_passes_until_a_boundary_is_that_pass(run: Run) -> None:
    for k in (1, 2, run.passes):
        assert abs(run.passes_until(run.begun(k)) - k) <= (1 if run.growth else 0)
        assert run.passes_until(run.begun(k) - run.first / 2) == k


# ---- spans


def test_decoding_that_goes_on_unchanged_is_one_stretch() -> None:
    log = SpanLog(merge=True)
    log.add("decode", 0.0, 1.0, 4, 4, 0)
    log.add("decode", 1.0, 2.0, 4, 4, 0)
    log.add("decode", 2.0, 3.0, 5, 5, 0)  # another batch
    log.add("decode", 4.0, 5.0, 5, 5, 0)  # a gap
    log.add("mixed", 5.0, 6.0, 5, 69, 0)
    assert [(s.kind, s.start, s.end, s.batch) for s in log.after(0.0, 10)] == [
        ("decode", 0.0, 2.0, 4), ("decode", 2.0, 3.0, 5), ("decode", 4.0, 5.0, 5), ("mixed", 5.0, 6.0, 5),
    ]  # fmt: skip
    assert [s.start for s in log.after(2.0, 2)] == [2.0, 4.0]


@given(st.lists(st.tuples(st.sampled_from([0, 1, 1, 1, 2]), st.booleans(), st.integers(4, 5)), max_size=12),
       st.integers(0, 12), st.booleans())  # fmt: skip
def test_extend_is_add_for_each(raw: list[tuple[int, bool, int]], at: int, merge: bool) -> None:
    one, many, rows, now = SpanLog(merge), SpanLog(merge), [], 0.0
    for kind, gap, batch in raw:
        start, now = now + gap, now + gap + 1.0
        one.add(timeline.KINDS[kind], start, now, batch, batch + kind, kind)
        rows.append((start, now, kind, batch, batch + kind, kind))
    for part in (rows[:at], rows[at:]):
        if part:
            many.extend(*(np.array(column) for column in zip(*part, strict=True)))
    assert list(many.after(-1.0, 100)) == list(one.after(-1.0, 100))


def test_pipelines_keep_every_pass() -> None:
    log = SpanLog(merge=False)
    for i in range(3):
        log.add("decode", i, i + 1.0, 4, 4, i)
    assert [s.micro_batch for s in log.after(0.0, 10)] == [0, 1, 2]


def test_spans_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "SPANS_PER_DEVICE", 5)
    log = SpanLog(merge=False)
    for start in (0.0, 1.0):
        log.extend(np.full(4, start), np.full(4, start + 1.0), *(np.full(4, n) for n in (1, 3, 67, 2)))
    log.add("decode", 2.0, 3.0, 1, 1, 0)
    assert len(log) == 5


# ---- tracks


def test_a_device_books_every_second_of_a_pass_once() -> None:
    track = DeviceTrack("d", "job", 0, 0, "toy", 2)
    track.work(Pass(1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 5.0), 3, "nvlink")
    track.wait("ethernet", 0.5)
    track.bubble, track.waiting = 0.25, 0.125
    ledger = track.ledger(30.875)
    assert ledger == {
        "compute-bound": 3.0, "memory-bound": 6.0, "launch and host": 9.0, "communication: ethernet": 0.5,
        "communication: nvlink": 12.0, "pipeline bubble": 0.25, "waiting for work": 0.125,
    }  # fmt: skip
    assert sum(ledger.values()) == 30.875
    assert (track.flops, track.bytes, track.busy) == (30.0, 60.0, 18.0)


def test_a_channel_counts_what_it_sends() -> None:
    channel = ChannelTrack("hop", "ethernet", ((3, 1.0),))
    channel.record(0.0, 0.5, 100.0)
    channel.record(0.5, 1.0, 50.0)
    assert channel.bytes == 150.0
    assert channel.bins.between(0.0, 0.5) == pytest.approx(100.0)
