"""Short cuts through a pipeline's passes change nothing, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest

from sim.jobs.serving.recording import ServingRecording
from sim.jobs.serving.ring import _Ring

from ...helpers import simulate, toy
from ...test_twins import CASES as TWINS
from .test_failures import CASES as FAILING

CASES: dict[str, dict[str, Any]] = {
    name: case
    for name, case in {**TWINS, **FAILING}.items()
    if any(job.get("plan", {}).get("pp", 1) > 1 for job in case["jobs"])
} | {
    "prompts in pieces, and a queue": toy(
        {"plan": {"pp": 4}, "batching": {"max_batched_tokens": 24, "max_sequences": 12},
         "load": {"closed_loop": {"clients": 20, "ramp": "2 s"}, "requests": 60, "prompt_tokens": 300,
                  "output_tokens": 80}},
        gpus=4, stack={"links": "measured"},
    ),
    "pieces at a full cache": toy(
        {"plan": {"pp": 4}, "batching": {"max_batched_tokens": 64},
         "load": {"closed_loop": {"clients": 16}, "requests": 24, "prompt_tokens": 1500,
                  "output_tokens": {"lognormal": {"median": 300, "p90": 900, "max": 1500}}}},
        gpus=4, gpu={"usable_memory": "0.35 GB"},
    ),
    "pieces that leave no room": toy(
        {"plan": {"pp": 3}, "batching": {"max_batched_tokens": 16, "prefill_chunk": 8},
         "load": {"all_at_once": True, "requests": 40, "prompt_tokens": 50, "output_tokens": 60}},
        gpus=3,
    ),
}  # fmt: skip


def told(described: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that a run leaves behind."""
    outcome = simulate(described)
    (job,) = (job for job in outcome.recording.jobs if isinstance(job, ServingRecording))
    spans = [list(stage.track.spans.after(0.0, 10**6)) for replica in job.replicas for stage in replica.stages]
    sent = [list(stage.hop.track.spans.after(0.0, 10**6)) for r in job.replicas for stage in r.stages if stage.hop]
    return outcome.result.model_dump(), job.table.first, job.table.finish, spans, sent


@pytest.mark.parametrize("name", [name for name in CASES if name != "two jobs on one cable"])
def test_passes_in_which_nobody_comes_or_goes_need_no_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = told(CASES[name])
    monkeypatch.setattr(_Ring, "cruise", lambda self, now, calm: now)
    slow = told(CASES[name])
    assert [str(part) for part in quick] == [str(part) for part in slow]  # NaN is equal to itself there
