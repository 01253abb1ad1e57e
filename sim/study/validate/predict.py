"""What the simulator says of a measured row: one step, without a report.

Memory is told, not checked: a row that was measured did fit, whatever the memory model thinks of it.
"""

from __future__ import annotations

from dataclasses import replace

from sim.adapters.resolve import Resolved
from sim.jobs.play import play
from sim.results.training import training_metrics


def predict(resolved: Resolved) -> dict[str, float]:
    """Step time (s), tokens/s per GPU and peak memory (bytes) of the scenario's training job."""
    scenario = resolved.scenario
    assume = scenario.assume.model_copy(update={"memory": "unchecked"})
    recording = play(replace(resolved, scenario=scenario.model_copy(update={"assume": assume})))
    metrics = training_metrics(recording.training[0], assume)
    return {
        "step_time_s": metrics.step_time_s,
        "tokens_per_s_per_gpu": metrics.tokens_per_s_per_gpu,
        "memory_peak_bytes": metrics.memory_peak_bytes,
    }
