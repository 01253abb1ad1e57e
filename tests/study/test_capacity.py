"""The highest rate within the objectives: between what is met and what is not, whatever the kind of arrivals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.adapters.resolve import ResolvedServing
from sim.adapters.traces import RequestTrace
from sim.errors import InputError
from sim.results.schema import Capacity
from sim.run import run_recorded
from sim.spec.workload import Load
from sim.study.capacity import PRECISION, at_rate, load_at, told, with_capacity

from ..helpers import only, resolved, shipped, simulate, toy

LENGTHS = {"prompt_tokens": 200, "output_tokens": 50}
LIMIT = {"ttft_p99": "500 ms"}


def found(load: dict[str, Any], **job: Any) -> Capacity:
    case = resolved(toy({"load": {**load, **LENGTHS}, "objectives": LIMIT, **job}))
    outcome = run_recorded(case, effects=False)
    capacity = only(with_capacity(outcome.result, case, outcome.recording)).capacity
    assert capacity is not None
    return capacity


def test_the_capacity_lies_between_what_is_met_and_what_is_not():
    one_by_one = {"batching": {"policy": "static", "batch_size": 1}}
    capacity = found({"poisson": {"rate": "1 req/s"}, "requests": 300}, **one_by_one)
    met = [t.rate for t in capacity.tried if t.met]
    missed = [t.rate for t in capacity.tried if not t.met]
    assert capacity.rate == max(met) < min(missed) <= capacity.rate / (1 - PRECISION) * (1 + 1e-9)
    assert all(t.why for t in capacity.tried if not t.met)
    # Twice the rate is not within the objectives, half of it is.
    for factor, within in ((0.5, True), (2.0, False)):
        load = {"poisson": {"rate": f"{factor * capacity.rate} req/s"}, "requests": 3000, **LENGTHS}
        job = only(simulate(toy({"load": load, "objectives": LIMIT, **one_by_one})).result)
        assert job.objectives[0]["met"] == within


def test_one_at_a_time_carries_hardly_less_than_one_over_its_service():
    """M/D/1: with a wait of many services allowed, the capacity is a little below the rate of service."""
    case = toy({"load": {"poisson": {"rate": "1 req/s"}, "requests": 300, **LENGTHS}, "objectives": LIMIT,
                "batching": {"policy": "static", "batch_size": 1}})  # fmt: skip
    outcome = run_recorded(resolved(case), effects=False)
    table = outcome.recording.jobs[0].table
    service = min(f - s for f, s in zip(table.finish, table.scheduled, strict=True))
    capacity = only(with_capacity(outcome.result, resolved(case), outcome.recording)).capacity
    assert 0.9 < capacity.rate * service < 1.0


def test_clients_become_arrivals_and_a_trace_is_played_faster():
    clients = Load.model_validate({"closed_loop": {"clients": 3}, "requests": 9, **LENGTHS})
    assert load_at(clients, 2.0).poisson.rate == 2.0
    swinging = {"diurnal": {"peak": "4 req/s", "valley": "2 req/s", "period": "1 h"}, "requests": 9, **LENGTHS}
    doubled = load_at(Load.model_validate(swinging), 6.0).diurnal
    assert (doubled.peak, doubled.valley) == (8.0, 4.0)
    bursts = {"gamma": {"rate": "4 req/s", "cv": 2}, "requests": 9, **LENGTHS}
    assert load_at(Load.model_validate(bursts), 1.0).gamma.cv == 2

    case = shipped("4090_pp_home")
    arrival = np.array([0.0, 1.0, 4.0, 5.0])
    trace = RequestTrace(arrival, np.full(4, 10), np.full(4, 10), 0, "test")
    job = case.jobs[0]
    load = job.spec.load.model_copy(update={"closed_loop": None, "trace": "x.csv"})
    recorded = type(job)(job.spec.model_copy(update={"load": load}), job.model, job.stack, trace, None)
    faster = at_rate(type(case)(**{**{k: getattr(case, k) for k in case.__slots__}, "jobs": (recorded,)}), 0, 1.6, 4)
    assert isinstance(faster.jobs[0], ResolvedServing)
    assert faster.jobs[0].trace.arrival == pytest.approx(arrival / 2)


def test_what_nobody_could_meet_is_told():
    capacity = found({"poisson": {"rate": "1 req/s"}, "requests": 50}, objectives={"ttft_p99": "1 us"})
    assert capacity.rate is None
    assert "no rate was found" in told(capacity)


def test_without_objectives_there_is_no_capacity():
    case = resolved(toy({"load": {"poisson": {"rate": "1 req/s"}, "requests": 20, **LENGTHS}}))
    outcome = run_recorded(case, effects=False)
    with pytest.raises(InputError, match=r"jobs.0.objectives"):
        with_capacity(outcome.result, case, outcome.recording)
