"""Numbers from tables of requests small enough to check by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sim.results.intervals import across_seeds, batch_means, possible_interval, t_interval
from sim.results.metrics import Table, attains, measured_window, spread, sums_at
from sim.results.schema import Window
from sim.results.verdict import state_of
from sim.spec.workload import Load, Objectives

from ..helpers import only, simulate, toy


def table(*rows: tuple[float, float, float, float, int]) -> Table:
    """Rows of (arrival, scheduled, first, finish, output tokens)."""
    columns = [np.array(column, dtype=float) for column in zip(*rows, strict=True)]
    arrival, scheduled, first, finish, output = columns
    return Table(arrival, scheduled, first, finish, np.full(len(rows), 10.0), output)


def regular(n: int, gap: float = 1.0, wait: float = 0.0, service: float = 2.0, output: int = 5) -> Table:
    """A request every ``gap`` seconds, let in after ``wait``, first token after half of ``service``."""
    starts = [gap * i for i in range(n)]
    return table(*((t, t + wait, t + wait + service / 2, t + wait + service, output) for t in starts))


def load(**arrivals: Any) -> Load:
    return Load.model_validate({"prompt_tokens": 10, "output_tokens": 5, "requests": 100} | arrivals)


POISSON, CLIENTS = load(poisson={"rate": "1 req/s"}), load(closed_loop={"clients": 30})


# ---- tokens


def test_tokens_count_evenly_between_the_first_and_the_last() -> None:
    """Five tokens at 1, 1.5, 2, 2.5, 3: one at once, four spread over two seconds."""
    one = table((0.0, 0.0, 1.0, 3.0, 5))
    assert one.output_tokens(0.0, 10.0) == 5
    assert one.output_tokens(0.0, 1.0) == 0
    assert one.output_tokens(1.0, 2.0) == 1 + 2
    assert one.output_tokens(2.0, 4.0) == 2
    assert one.prompt_tokens(0.5, 1.5) == 10
    assert one.prompt_tokens(1.5, 9.0) == 0
    assert one.tpot == pytest.approx([0.5])


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    one = table((0.0, 0.0, 1.0, 1.0, 1))
    assert np.isnan(one.tpot).all()
    assert one.output_tokens(0.0, 2.0) == 1
    assert one.output_tokens(2.0, 3.0) == 0


def test_windows_that_cut_the_run_add_up_to_it() -> None:
    rows = regular(50, gap=0.7, output=9)
    edges = np.linspace(0, 40, 14)
    parts = [rows.output_tokens(a, b) for a, b in pairwise(edges)]
    assert sum(parts) == pytest.approx(50 * 9)


# ---- windows


def test_open_loops_leave_out_the_first_tenth_and_the_draining() -> None:
    window = measured_window(POISSON, regular(100))
    assert (window.start_s, window.end_s) == (10.0, 99.0)
    later = measured_window(POISSON.model_copy(update={"warm_up": 0.5}), regular(100))
    assert later.start_s == 50.0


def test_closed_loops_open_when_every_client_was_answered_once() -> None:
    window = measured_window(CLIENTS, regular(100))
    assert (window.start_s, window.end_s) == (31.0, 99.0)  # the thirtieth answer
    many = measured_window(load(closed_loop={"clients": 90}), regular(100))
    assert many.start_s == 51.0  # at most half


@pytest.mark.parametrize("rows", [regular(15), regular(100, gap=0.01, service=50.0)])
def test_short_runs_count_as_a_whole(rows: Table) -> None:
    window = measured_window(POISSON, rows)
    assert (window.start_s, window.end_s) == (0.0, rows.finish.max())
    assert window.rule.startswith("the whole run")


def test_a_run_without_answers_has_no_window() -> None:
    none = Table(*(np.array([]) for _ in range(6)))
    assert measured_window(POISSON, none).end_s == 0.0


# ---- spreads and objectives


def test_spreads() -> None:
    found = spread(np.array([np.nan, *range(101)]))
    assert (found.mean, found.p50, found.p90, found.p99) == (50.0, 50.0, 90.0, 99.0)
    assert spread(np.array([np.nan])).mean is None


def test_sums_at_counts_the_intervals_that_cover_an_instant() -> None:
    begin, end = np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.5, 4.0])
    assert sums_at(np.array([0.5, 1.2, 2.5, 3.5, 5.0]), begin, end, np.ones(3)).tolist() == [1, 2, 2, 1, 0]


def test_a_request_attains_what_is_within_every_limit() -> None:
    rows = table((0, 0, 1, 5, 5), (0, 0, 3, 7, 5), (0, 0, 1, 9, 5), (0, 0, 1, 1, 1))
    assert attains(rows, Objectives()) is None
    limits = Objectives.model_validate({"ttft_p50": "1 s", "ttft_p99": "2 s", "tpot_p90": "1.5 s"})
    found = attains(rows, limits)
    assert found is not None
    assert found.tolist() == [True, False, False, True]  # a one-token answer has no TPOT to miss


def test_goodput_and_objectives_of_a_run() -> None:
    """Ten requests at once on a server that takes one at a time: request k waits k services."""
    pass_s = (16 * 12 * 2**20 * 2 + 2 * 1000 * 1024) / 1e12
    limit = 10 * pass_s * 4.5
    described = toy(
        {"batching": {"max_sequences": 1}, "objectives": {"latency_p50": f"{limit} s", "ttft_p99": "1 ms"},
         "load": {"all_at_once": True, "prompt_tokens": 1, "output_tokens": 10, "requests": 10}},
        assume={"kv_reads": "free"},
    )  # fmt: skip
    job = only(simulate(described).result)
    assert job.metrics.slo_attainment == pytest.approx(0.1)  # four are soon enough, one starts soon enough
    assert [(row["name"], row["met"]) for row in job.objectives] == [("ttft_p99", False), ("latency_p50", False)]
    assert job.metrics.goodput_requests_per_s == pytest.approx(1 / job.window.end_s)
    assert job.metrics.latency_s.mean == pytest.approx(5.5 * 10 * pass_s, rel=1e-3)


def test_replicas_alike_are_blocked_as_long_as_one() -> None:
    """Two replicas with twice the clients do the same twice."""
    found = []
    for dp in (1, 2):
        load = {"closed_loop": {"clients": 12 * dp}, "prompt_tokens": 1500, "output_tokens": 100, "requests": 60 * dp}
        described = toy({"plan": {"dp": dp}, "load": load}, gpus=dp, gpu={"usable_memory": "0.8 GB"})
        found.append(only(simulate(described).result).metrics)
    one, two = found
    assert one.kv_blocked_fraction > 0.5
    for name in ("kv_blocked_fraction", "kv_occupancy_mean", "batch_size_mean", "utilisation_mean"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-9)
    assert two.output_tokens_per_s == pytest.approx(2 * one.output_tokens_per_s, rel=1e-9)


# ---- states

WINDOW = Window(start_s=10, end_s=99, rule="")


def test_a_queue_that_empties_is_stable() -> None:
    assert state_of(regular(100, wait=0.3), WINDOW, closed=False, idle=0.0) == "stable"


def test_somebody_always_waiting_at_a_busy_cluster_is_saturated() -> None:
    rows = regular(100, wait=1.5)
    assert state_of(rows, WINDOW, closed=False, idle=0.1) == "saturated"
    assert state_of(rows, WINDOW, closed=True, idle=0.1) == "saturated"
    assert state_of(rows, WINDOW, closed=False, idle=0.5) == "stable"


def test_a_queue_that_grows_is_overloaded_unless_its_clients_are_closed() -> None:
    """One arrival a second, one answer every two seconds."""
    rows = table(*((float(i), 2.0 * i, 2.0 * i + 1, 2.0 * i + 2, 5) for i in range(200)))
    window = Window(start_s=20, end_s=199, rule="")
    assert state_of(rows, window, closed=False, idle=0.0) == "overloaded"
    assert state_of(rows, window, closed=True, idle=0.0) == "saturated"


def test_overload_shows_in_runs_too_short_for_a_window() -> None:
    """The queue grows while requests come; that the run goes on until all are answered hides nothing."""
    rows = table(*((0.1 * i, 3.0 * i, 3.0 * i + 1, 3.0 * i + 50, 5) for i in range(60)))
    whole = measured_window(POISSON, rows)
    assert whole.start_s == 0.0
    assert state_of(rows, whole, closed=False, idle=0.0) == "overloaded"


# ---- intervals


def test_t_interval_is_students() -> None:
    """mean 3, s = sqrt(2.5), t(4) = 2.776: 3 +- 2.776 sqrt(2.5/5)."""
    assert t_interval([1, 2, 3, 4, 5]) == pytest.approx([3 - 1.96293, 3 + 1.96293], rel=1e-4)
    assert t_interval([7.0]) is None
    assert t_interval([7.0, 7.0]) == [7.0, 7.0]
    many = t_interval([0.0, 1.0] * 50)
    assert many == pytest.approx([0.5 - 1.96 * 0.050252, 0.5 + 1.96 * 0.050252], rel=1e-3)


def test_intervals_cover_the_mean_of_independent_values() -> None:
    """95% of 400 intervals, give or take three standard errors (1.1% each)."""
    rng = np.random.default_rng(0)
    hits = sum(low < 0 < high for low, high in (t_interval(rng.standard_normal(10)) or [0, 0] for _ in range(400)))
    assert hits / 400 == pytest.approx(0.95, abs=0.033)


def test_batch_means_of_a_steady_run_are_its_means() -> None:
    rows = regular(200)
    found = batch_means(rows, Window(start_s=20, end_s=180, rule=""))
    assert set(found) == {
        "output_tokens_per_s", "ttft_s.mean", "ttft_s.p50", "tpot_s.mean", "tpot_s.p50", "latency_s.mean",
        "latency_s.p50",
    }  # fmt: skip
    for name, value in (("output_tokens_per_s", 5.0), ("latency_s.mean", 2.0), ("ttft_s.p50", 1.0)):
        low, high = found[name]
        assert low <= value <= high
        assert high - low < 0.3
    assert batch_means(rows, Window(start_s=0, end_s=0, rule="")) == {}


def test_seeds_give_an_interval_for_every_number() -> None:
    load = {"poisson": {"rate": "50 req/s"}, "prompt_tokens": 10, "output_tokens": 20, "requests": 40}
    runs = [only(simulate(toy({"load": load}, seed=seed)).result).metrics for seed in range(3)]
    found = across_seeds(runs)
    values = [run.output_tokens_per_s for run in runs]
    assert found["output_tokens_per_s"] == t_interval(values)
    assert "ttft_s.p99" in found
    assert "slo_attainment" not in found  # nothing was promised


def test_intervals_end_at_what_is_possible() -> None:
    shares = [1.0, 1.0, 0.99, 0.8]
    low, high = possible_interval("slo_attainment", shares) or (0.0, 0.0)
    wide = t_interval(shares)
    assert wide is not None
    assert wide[1] > 1.0
    assert (low, high) == (wide[0], 1.0)
    assert (possible_interval("failures", [0.0, 0.0, 3.0]) or [1.0])[0] == 0.0
    assert possible_interval("usd", [-1.0, 0.0, 3.0]) == t_interval([-1.0, 0.0, 3.0])  # a gain is possible
    assert (possible_interval("ttft_s.p50", [1.0, 1.0, 5.0]) or [0.0, 0.0])[1] > 5.0  # seconds have no upper end
