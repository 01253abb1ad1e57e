"""The same seed gives the same bytes, in any process; streams of random numbers do not disturb each other."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from sim.jobs.play import play
from sim.results.schema import Result
from sim.run import run

from .helpers import ROOT, resolved, scenario, topology

VARIED = {
    "prompt_tokens": {"lognormal": {"median": 200, "p90": 600, "max": 1500}},
    "output_tokens": {"lognormal": {"median": 40, "p90": 120, "max": 300}},
}


def chat(rate: str = "20 req/s", seed: int = 0, **load: Any) -> dict[str, Any]:
    job = {"plan": {"tp": 4}, "load": {"poisson": {"rate": rate}, "requests": 60, **VARIED, **load}}
    return scenario(topology("dgx_h100_8"), job, seed=seed)


def text(result: Result) -> str:
    """The document that identifies a result; wall-clock facts stand outside it."""
    return result.model_dump_json(exclude={"run_info"})


def test_same_seed_same_bytes_with_the_reruns_that_say_what_binds() -> None:
    first, second = (run(resolved(chat())) for _ in range(2))
    assert first.verdict.effects
    assert text(first) == text(second)


def test_another_seed_another_result() -> None:
    first, second = (run(resolved(chat(seed=seed)), effects=False) for seed in (0, 1))
    assert text(first) != text(second)
    assert first.metrics is not None
    assert second.metrics is not None
    assert first.metrics.latency_s != second.metrics.latency_s


def columns(described: dict[str, Any]) -> tuple[list[int], list[int], list[float]]:
    table = play(resolved(described)).jobs[0].table
    return table.prompt, table.output, table.arrival


def test_a_change_of_rate_keeps_the_lengths_and_stretches_the_gaps() -> None:
    slow, fast = columns(chat("10 req/s")), columns(chat("20 req/s"))
    assert slow[:2] == fast[:2]
    assert slow[2] == pytest.approx([2 * t for t in fast[2]], rel=1e-12)


def test_a_change_of_lengths_keeps_the_arrivals_and_the_other_lengths() -> None:
    usual, brief = columns(chat()), columns(chat(output_tokens=7))
    assert usual[0] == brief[0]
    assert usual[2] == brief[2]
    assert set(brief[1]) == {7}


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = columns(chat()), columns(chat(requests=90))
    assert long[2][:60] == short[2]
    assert long[0][:60] == short[0]


def test_jobs_draw_from_streams_of_their_own() -> None:
    load = {"poisson": {"rate": "20 req/s"}, "requests": 30, **VARIED}
    both = resolved(scenario(topology("dgx_h100_8"), *({"plan": {"tp": 4}, "load": load} for _ in range(2))))
    first, second = (job.table for job in play(both).jobs)
    assert first.arrival != second.arrival
    assert first.prompt != second.prompt
    scenario_of_one = both.scenario.model_copy(update={"jobs": both.scenario.jobs[:1]})
    alone = replace(both, scenario=scenario_of_one, jobs=both.jobs[:1])
    assert play(alone).jobs[0].table.arrival == first.arrival


SCRIPT = """
import hashlib
from sim.run import run
from tests.helpers import resolved
from tests.test_determinism import chat, text
print(hashlib.sha256(text(run(resolved(chat()), effects=False)).encode()).hexdigest())
"""


def test_hash_randomisation_changes_nothing() -> None:
    here = hashlib.sha256(text(run(resolved(chat()), effects=False)).encode()).hexdigest()
    for hash_seed in ("1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        answer = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert answer.stdout.strip() == here
