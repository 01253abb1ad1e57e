"""What the simulator says of a measured row, without a report: each predictor tells the metrics of one scenario.

``training`` and ``serving`` play the scenario's only job; ``capacity`` finds the highest rate of requests within the
job's objectives. Memory of training is told, not checked: a row that was measured did fit, whatever the memory model
thinks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.jobs.play import play
from sim.jobs.serving.recording import ServingRecording
from sim.results.metrics import Table, gap_spread, spread
from sim.results.training import training_metrics
from sim.study.validate.bisect import highest_rate

#: Metrics by name; NaN where the run has none.
Prediction = Mapping[str, float]
Predict = Callable[[Resolved], Prediction]


def predict_training(resolved: Resolved) -> Prediction:
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


def predict_serving(resolved: Resolved) -> Prediction:
    """Rates over the whole run, filling and draining included, as benchmarks tell them; latencies over all requests."""
    recording = play(resolved)
    (served,) = recording.serving
    table = Table.of(served.table)
    ttft, tpot, gaps = spread(table.first - table.arrival), spread(table.tpot), gap_spread(served)
    output, prompt, end = float(table.output.sum()), float(table.prompt.sum()), recording.end
    return {
        "output_tokens_per_s": output / end,
        "prompt_tokens_per_s": prompt / end,
        "requests_per_s": len(table) / end,
        "decode_tokens_per_s": _over(1.0, tpot.mean),
        "prefill_tokens_per_s": _over(prompt / max(1, len(table)), ttft.mean),
        "ttft_s": _known(ttft.mean),
        "ttft_p50_s": _known(ttft.p50),
        "ttft_p99_s": _known(ttft.p99),
        "tpot_s": _known(tpot.mean),
        "inter_token_p50_s": _known(gaps.p50),
        "latency_s": float(np.mean(table.finish - table.arrival)),
        "memory_peak_bytes": _memory(served),
    }


def _memory(served: ServingRecording) -> float:
    """Weights, tables and the KV cache of the longest request on the fullest GPU: what a runtime reports for one."""
    longest = max(p + o for p, o in zip(served.table.prompt, served.table.output, strict=True))
    stages = [memory for stage in served.layout.replicas[0] for memory in stage.memory.values()]
    return max(stage.weights + stage.embeddings + longest * stage.kv_per_token for stage in stages)


def predict_capacity(resolved: Resolved) -> Prediction:
    """Tokens/s at the highest rate of requests within the objectives."""
    (job,) = resolved.jobs
    assert isinstance(job, ResolvedServing)
    return {"output_tokens_per_s": highest_rate(resolved, job)}


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _over(work: float, seconds: float | None) -> float:
    return work / seconds if seconds else float("nan")


#: Predictors by the name a case plays by.
PREDICTORS: Final[Mapping[str, Predict]] = {
    "training": predict_training, "serving": predict_serving, "capacity": predict_capacity,
}  # fmt: skip
