"""Numbers of a Result as text: one place knows the unit of each metric, for page and terminal.

Serving and training jobs have metrics of their own; those that share a name mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sim.results.schema import (
    CheckpointLevel,
    Cost,
    JobResult,
    MemoryStage,
    Result,
    ServingMetrics,
    Spread,
    TrainingMetrics,
)
from sim.units import format_bytes, format_count, format_flops, format_percent, format_seconds, format_usd, format_watts

NONE: Final = "n/a"
NEVER: Final = "never"
"""Of a purchase that does not pay for itself."""
UNUSED: Final = "unused"
"""The part of a GPU's memory that holds nothing."""
PERCENTILES: Final = ("mean", "p50", "p90", "p99")
BY_AXIS: Final = ("exposed_communication_s", "sent_bytes_per_gpu")
"""Metrics with a value for each axis of parallelism."""
SELDOM: Final = (
    "staleness_mean", "staleness_max", "outages", "availability", "outage_s", "restarted_requests", "failed_requests",
    "lost_tokens", "lost_kv_tokens", "committed_usd", "billed_fraction", "occupancy", "income_usd_per_hour",
    "running_usd_per_hour", "payback_months",
)  # fmt: skip
"""Metrics that few jobs have: left out where they are unknown."""
NEGLIGIBLE: Final = 0.005
"""Shares below this are not told."""
DAY: Final = 86_400.0
"""Seconds."""


def _rate(unit: str) -> Callable[[float], str]:
    return lambda value: f"{format_count(value)} {unit}"


def _usd(unit: str) -> Callable[[float], str]:
    return lambda value: f"{format_usd(value)}/{unit}"


def _large_usd(value: float) -> str:
    """Millions in three figures: "1.71M USD"."""
    return f"{format_count(value)} USD" if abs(value) >= 1e6 else format_usd(value)


FORMATS: Final[dict[str, Callable[[float], str]]] = {
    "output_tokens_per_s": _rate("tok/s"),
    "total_tokens_per_s": _rate("tok/s"),
    "requests_per_s": _rate("req/s"),
    "ttft_s": format_seconds,
    "tpot_s": format_seconds,
    "inter_token_s": format_seconds,
    "latency_s": format_seconds,
    "queue_s": format_seconds,
    "kv_occupancy_mean": format_percent,
    "kv_occupancy_peak": format_percent,
    "kv_blocked_fraction": format_percent,
    "utilisation_mean": format_percent,
    "slo_attainment": format_percent,
    "goodput_requests_per_s": _rate("req/s"),
    "tokens_per_s_per_user": _rate("tok/s"),
    "availability": format_percent,
    "outage_s": format_seconds,
    "prefix_hit_rate": format_percent,
    "kv_transfer_bytes": format_bytes,
    "kv_transfer_s": format_seconds,
    "replicas_mean": lambda value: f"{value:.3g}",
    "usd_per_hour": _usd("h"),
    "usd_per_million_tokens": _usd("Mtok"),
    "usd_per_million_tokens_by_use": _usd("Mtok"),
    "fixed_usd_per_hour": _usd("h"),
    "committed_usd": _large_usd,
    "billed_fraction": format_percent,
    "capital_usd": format_usd,
    "api_usd_per_million_tokens": _usd("Mtok"),
    "occupancy": format_percent,
    "income_usd_per_hour": _usd("h"),
    "running_usd_per_hour": _usd("h"),
    "payback_months": lambda value: f"{format_count(value)} {'month' if value == 1 else 'months'}",
    "power_w": format_watts,
    "kwh_per_million_tokens": _rate("kWh/Mtok"),
    "step_time_s": format_seconds,
    "tokens_per_s": _rate("tok/s"),
    "tokens_per_s_per_gpu": _rate("tok/s/GPU"),
    "samples_per_s": _rate("sequences/s"),
    "mfu": format_percent,
    "hfu": format_percent,
    "model_flops_per_token": lambda value: format_flops(value).removesuffix("/s"),
    "bubble_fraction": format_percent,
    "exposed_communication_s": format_seconds,
    "exposed_communication_fraction": format_percent,
    "sent_bytes_per_gpu": format_bytes,
    "optimizer_s": format_seconds,
    "recompute_fraction": format_percent,
    "memory_peak_bytes": format_bytes,
    "memory_peak_fraction": format_percent,
    "global_batch_tokens": _rate("tokens"),
    "tokens": _rate("tokens"),
    "target_tokens": _rate("tokens"),
    "target_flops": lambda value: f"{value:.3g} FLOP".replace("e+", "e"),
    "days_to_target": lambda value: format_seconds(value * DAY),
    "gpu_hours_to_target": _rate("GPU-hours"),
    "usd_to_target": _large_usd,
    "kwh_to_target": _rate("kWh"),
    "ettr": format_percent,
    "ettr_expected": format_percent,
    "goodput_tokens_per_s": _rate("tok/s"),
    "mtbf_s": format_seconds,
    "lost_work_s": format_seconds,
    "recovery_s": format_seconds,
    "checkpoint_interval_s": format_seconds,
    "checkpoint_bytes": format_bytes,
    "checkpoint_blocking_s": format_seconds,
    "checkpoint_persist_s": format_seconds,
}
"""How a metric is written; those not listed are counts."""

NAMES: Final[dict[str, str]] = {
    "output_tokens_per_s": "Output throughput",
    "total_tokens_per_s": "Total throughput",
    "requests_per_s": "Request rate",
    "ttft_s": "Time to first token",
    "tpot_s": "Time per output token",
    "inter_token_s": "Time between tokens",
    "latency_s": "Latency",
    "queue_s": "Queueing time",
    "batch_size_mean": "Batch size",
    "kv_occupancy_mean": "KV cache in use",
    "kv_occupancy_peak": "KV cache in use, peak",
    "kv_blocked_fraction": "Time blocked by KV cache",
    "utilisation_mean": "GPU utilisation",
    "slo_attainment": "Objectives attained",
    "goodput_requests_per_s": "Goodput",
    "tokens_per_s_per_user": "Speed per user",
    "usd_per_hour": "Cost per hour",
    "usd_per_million_tokens": "Cost per million tokens",
    "usd_per_million_tokens_by_use": "Cost per million tokens by use",
    "fixed_usd_per_hour": "Cost per hour without work",
    "committed_usd": "Committed",
    "billed_fraction": "Machine time paid for",
    "tokens_per_usd": "Tokens per dollar",
    "capital_usd": "Purchase",
    "api_usd_per_million_tokens": "An API's price per million tokens",
    "api_price_ratio": "An API's price over this cost",
    "occupancy": "Hours paid for",
    "income_usd_per_hour": "Income per hour",
    "running_usd_per_hour": "Running cost per hour",
    "payback_months": "Payback",
    "power_w": "Power",
    "kwh_per_million_tokens": "Energy per million tokens",
    "step_time_s": "Step time",
    "tokens_per_s": "Training throughput",
    "tokens_per_s_per_gpu": "Throughput per GPU",
    "samples_per_s": "Sequences per second",
    "mfu": "Model FLOPs utilisation (MFU)",
    "hfu": "Hardware FLOPs utilisation (HFU)",
    "model_flops_per_token": "Model FLOPs per token",
    "bubble_fraction": "Pipeline bubble",
    "exposed_communication_s": "Exposed communication",
    "exposed_communication_fraction": "Exposed communication",
    "sent_bytes_per_gpu": "Sent per GPU and step",
    "optimizer_s": "Update of weights",
    "recompute_fraction": "Recomputation",
    "memory_peak_bytes": "Memory peak",
    "memory_peak_fraction": "Memory peak of capacity",
    "micro_batches": "Micro-batches",
    "global_batch_tokens": "Global batch",
    "steps": "Steps",
    "tokens": "Tokens of the run",
    "target_tokens": "Target",
    "target_flops": "Model FLOPs to the target",
    "days_to_target": "Time to the target",
    "gpu_hours_to_target": "GPU-hours to the target",
    "usd_to_target": "Cost of the target",
    "kwh_to_target": "Energy of the target",
    "staleness_mean": "Staleness, mean",
    "staleness_max": "Staleness, largest",
    "ettr": "Effective training time",
    "ettr_expected": "Effective training time by Daly's law",
    "goodput_tokens_per_s": "Goodput",
    "failures": "Failures",
    "failures_by_class": "Failures by class",
    "outages": "Outages",
    "availability": "Replicas up",
    "prefix_hit_rate": "Prompts found in cache",
    "kv_transfer_s": "KV transfer",
    "replicas_mean": "Replicas",
    "outage_s": "Outage",
    "restarted_requests": "Requests hit by an outage",
    "failed_requests": "Requests given up",
    "lost_tokens": "Tokens of answers given up",
    "lost_kv_tokens": "KV cache lost, tokens",
    "mtbf_s": "Time between stops",
    "lost_work_s": "Work lost per stop",
    "recovery_s": "Recovery",
    "spares_used": "Spare nodes used",
    "checkpoints": "Checkpoints",
    "checkpoint_interval_s": "Checkpoint interval",
    "checkpoint_bytes": "Checkpoint",
    "checkpoint_blocking_s": "Checkpoint pause",
    "checkpoint_persist_s": "Checkpoint written in",
    "checkpoint_levels": "Levels of checkpoints",
}


def named(key: str) -> str:
    """A metric's name for people."""
    return NAMES.get(key, key.replace("_", " ").capitalize())


def write(key: str, value: float | None) -> str:
    """A metric's value with its unit, or "n/a"."""
    if value is None or not math.isfinite(value):
        return NONE
    return FORMATS.get(key, format_count)(value)


def pair(key: str, low: float | None, high: float | None) -> str:
    """Two values of one metric, the unit once if they share it: "0.9/4.1 s"."""
    first, second = write(key, low), write(key, high)
    head, _, unit = first.rpartition(" ")
    return f"{head}/{second}" if head and second.endswith(f" {unit}") else f"{first} / {second}"


def interval(result: Result, job: JobResult, key: str) -> tuple[float, float] | None:
    """The interval of a job's number, which stands under the number's path in the Result."""
    part = "cost" if key in Cost.model_fields else "metrics"
    place = next((index for index, other in enumerate(result.jobs) if other is job), 0)
    bounds = result.intervals.get(f"jobs.{place}.{part}.{key}")
    if bounds is None or len(bounds) != 2 or not all(math.isfinite(bound) for bound in bounds):
        return None
    return bounds[0], bounds[1]


def interval_text(result: Result, job: JobResult, key: str) -> str:
    """ "[1,270, 1,350]", without the unit where it is a word; empty where no interval is known."""
    bounds = interval(result, job, key)
    if bounds is None:
        return ""
    name = key.split(".")[0]
    low, high = (write(name, bound) for bound in bounds)
    unit = low.rpartition(" ")[2]
    if " " in low and high.endswith(f" {unit}"):
        low, high = low.removesuffix(f" {unit}"), high.removesuffix(f" {unit}")
        if " " in low or name in ("ttft_s", "tpot_s", "inter_token_s", "latency_s", "queue_s"):
            high = f"{high} {unit}"
    return f"[{low}, {high}]"


def shares(amounts: Mapping[str, float]) -> dict[str, float]:
    """Amounts as shares of their sum, the largest first; empty where there is nothing to share."""
    found = largest_first(amounts)
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}


def visible(amounts: Mapping[str, float]) -> list[tuple[str, float]]:
    """The shares that are worth a word, the largest first."""
    return [(name, part) for name, part in shares(amounts).items() if part >= NEGLIGIBLE]


def of_jobs(ledger: Mapping[str, float]) -> dict[str, float]:
    """The GPU time of the GPUs that jobs use: what shares of GPU time are of."""
    return {bucket: seconds for bucket, seconds in ledger.items() if bucket != "spare"}


def largest_first(amounts: Mapping[str, float]) -> dict[str, float]:
    """What is there of some amounts (seconds by axis, bytes by part), the largest first."""
    finite = {name: value for name, value in amounts.items() if math.isfinite(value) and value > 0}
    return {name: finite[name] for name in sorted(finite, key=lambda n: -finite[n])}


def memory_capacity(metrics: TrainingMetrics) -> float | None:
    """Usable bytes of the GPU with the least left."""
    return metrics.memory_peak_bytes / metrics.memory_peak_fraction if metrics.memory_peak_fraction > 0 else None


def failure_facts(metrics: TrainingMetrics) -> list[str]:
    """What failures and checkpoints made of a run: progress, goodput, how often it was struck and what that cost."""
    m = metrics
    law = "" if m.ettr_expected is None else f" (Daly's law: {write('ettr_expected', m.ettr_expected)})"
    found = [f"progress {write('ettr', m.ettr)} of the time{law}"]
    found.append(f"goodput {write('goodput_tokens_per_s', m.goodput_tokens_per_s)}")
    rate = stop_facts(metrics)
    return [*found, ", ".join([f"{m.failures:,} faults", *rate[:1]]), *rate[1:]]


def outage_facts(metrics: ServingMetrics) -> list[str]:
    """What failures made of a serving job: how long replicas were down, and what became of the requests they held."""
    m = metrics
    found = [f"replicas up {write('availability', m.availability)} of the time"]
    each = "" if m.outage_s is None else f", {write('outage_s', m.outage_s)} each"
    found.append(f"{_counted(m.failures, 'fault')}, {_counted(m.outages, 'outage')}{each}")
    if m.restarted_requests:
        found.append(f"{_counted(m.restarted_requests, 'request')} hit, {m.failed_requests:,} given up")
        found.append(f"lost: KV cache of {m.lost_kv_tokens:,} tokens, {m.lost_tokens:,} tokens of answers")
    return found


def _counted(number: int | None, what: str) -> str:
    return f"{number or 0:,} {what}{'' if number == 1 else 's'}"


def stop_facts(metrics: TrainingMetrics) -> list[str]:
    """How often a run is expected to stop, and what a stop cost."""
    m, found = metrics, []
    if m.mtbf_s is not None:
        found.append(f"one stop expected every {write('mtbf_s', m.mtbf_s)}")
    if m.lost_work_s is not None:
        lost, back = write("lost_work_s", m.lost_work_s), write("recovery_s", m.recovery_s)
        found.append(f"a stop costs {lost} of work and {back} of recovery")
    return found


def checkpoint_facts(metrics: TrainingMetrics) -> list[str]:
    """How a run saved itself."""
    m = metrics
    size = write("checkpoint_bytes", m.checkpoint_bytes)
    found = [
        f"{size} every {write('checkpoint_interval_s', m.checkpoint_interval_s)}",
        f"standing still for {write('checkpoint_blocking_s', m.checkpoint_blocking_s)}",
    ]
    if m.checkpoint_persist_s:
        found.append(f"durable {write('checkpoint_persist_s', m.checkpoint_persist_s)} later")
    return found + [_level(level) for level in m.checkpoint_levels[1:]]


def _level(level: CheckpointLevel) -> str:
    """A further level of checkpoints: what, how often, for how long."""
    where = f" to {level.to}" if level.to else ""
    size, every = write("checkpoint_bytes", level.bytes), write("checkpoint_interval_s", level.interval_s)
    stands = f"standing still for {write('checkpoint_blocking_s', level.blocking_s)}"
    later = f", durable {write('checkpoint_persist_s', level.persist_s)} later" if level.persist_s else ""
    return f"then {size}{where} every {every}, {stands}{later}"


def idle_gpus(result: Result) -> int:
    """GPUs of the cluster that no job has."""
    return max(0, result.gpus - sum(job.gpus for job in result.jobs))


def target_facts(result: Result, metrics: TrainingMetrics) -> list[str]:
    """What training on the target's tokens takes: time, GPU-hours, money, energy; what is not known is left out. Where
    GPUs are idle it is said what is of the job's alone."""
    keys = ("days_to_target", "gpu_hours_to_target", "usd_to_target", "kwh_to_target")
    found = [write(key, value) for key in keys if (value := getattr(metrics, key)) is not None]
    if idle_gpus(result) and metrics.usd_to_target is not None:
        found[-1] += " with the idle GPUs' share, which GPU-hours leave out"
    return found


def used_parts(stage: MemoryStage) -> dict[str, float]:
    """The parts of a GPU's memory that hold something; what is left over is no part."""
    return {name: size for name, size in stage.parts.items() if name != UNUSED and size > 0}


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one job in words."""

    key: str
    name: str
    value: str
    interval: str
    definition: str


def rows(result: Result, job: JobResult) -> list[Row]:
    """Every number of a job, latencies by percentile, communication by axis, costs last."""
    found = []
    for key, value in job.metrics:
        if isinstance(value, Spread):
            found += [_row(result, job, f"{key}.{p}", getattr(value, p)) for p in PERCENTILES]
        elif key in BY_AXIS and isinstance(value, dict):
            found += [_row(result, job, f"{key}.{axis}", seconds) for axis, seconds in value.items()]
        elif isinstance(value, (int, float)) or (value is None and key not in SELDOM):
            found.append(_row(result, job, key, value))
    for key, value in job.cost or ():
        seldom = value is None and (key in (*SELDOM, "saturation", "swing") or key.endswith("_range"))
        if key in Cost.model_fields and (isinstance(value, (int, float)) or value is None) and not seldom:
            found.append(_row(result, job, key, value))
        elif key == "payback_months" and job.cost is not None and job.cost.income_usd_per_hour is not None:
            found.append(replace(_row(result, job, key, None), value=NEVER))
    return found


def _row(result: Result, job: JobResult, key: str, value: float | None) -> Row:
    metric, _, part = key.partition(".")
    name = f"{named(metric)}, {part}" if part else named(metric)
    definition = result.definitions.get(metric, "")
    return Row(key, name, write(metric, value), interval_text(result, job, key), definition)


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
