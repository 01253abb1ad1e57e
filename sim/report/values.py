"""Numbers of a Result as text: one place knows the unit of each metric, for page and terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sim.results.schema import Cost, JobResult, MemoryStage, Result, Spread
from sim.units import (
    format_count,
    format_percent,
    format_seconds,
    format_usd,
    format_watts,
)

NONE: Final = "n/a"
UNUSED: Final = "unused"
"""The part of a GPU's memory that holds nothing."""
PERCENTILES: Final = ("mean", "p50", "p90", "p99")


def _rate(unit: str) -> Callable[[float], str]:
    return lambda value: f"{format_count(value)} {unit}"


def _usd(unit: str) -> Callable[[float], str]:
    return lambda value: f"{format_usd(value)}/{unit}"


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
    "usd_per_hour": _usd("h"),
    "usd_per_million_tokens": _usd("Mtok"),
    "capital_usd": format_usd,
    "power_w": format_watts,
    "kwh_per_million_tokens": _rate("kWh/Mtok"),
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
    "tokens_per_usd": "Tokens per dollar",
    "capital_usd": "Purchase",
    "power_w": "Power",
    "kwh_per_million_tokens": "Energy per million tokens",
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
    finite = {name: value for name, value in amounts.items() if math.isfinite(value) and value > 0}
    total = sum(finite.values())
    return {name: finite[name] / total for name in sorted(finite, key=lambda n: -finite[n])}


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
    """Every number of a job, latencies by percentile, costs last."""
    found = []
    for key, value in job.metrics:
        if isinstance(value, Spread):
            found += [_row(result, job, f"{key}.{p}", getattr(value, p)) for p in PERCENTILES]
        elif isinstance(value, (int, float)) or value is None:
            found.append(_row(result, job, key, value))
    for key, value in job.cost or ():
        if key in Cost.model_fields and (isinstance(value, (int, float)) or value is None):
            found.append(_row(result, job, key, value))
    return found


def _row(result: Result, job: JobResult, key: str, value: float | None) -> Row:
    metric, _, percentile = key.partition(".")
    name = f"{named(metric)}, {percentile}" if percentile else named(metric)
    definition = result.definitions.get(metric, "")
    return Row(key, name, write(metric, value), interval_text(result, job, key), definition)


def printable(text: str) -> str:
    """Text without control or direction characters: a name in a hand-edited file cannot steer a terminal."""
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
