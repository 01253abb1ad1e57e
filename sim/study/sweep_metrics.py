"""From answers to a point's figures: over its jobs, over its seeds.

Figures of a single job are its own. Of several, rates and costs add up, latencies are those of the slowest job,
speed per user and attainment those of the worst, and the state is the worst; of training jobs tokens/s add up, and
step, bubble and memory are those of the largest. Over seeds, figures are means with a
95% interval (Student's t), the state is the worst, and a point fails if one of its seeds does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.results.intervals import possible_interval
from sim.study.sweep_points import Answer

STATES: Final = ("stable", "saturated", "overloaded", "disrupted")
Figures = dict[str, float | None]


def _money(jobs: Sequence[Mapping[str, Any]]) -> float | None:
    """USD per million tokens of all jobs together."""
    tokens = 0.0
    for job in jobs:
        if not job.get("usd_per_million_tokens"):
            return None
        tokens += job["usd_per_hour"] / job["usd_per_million_tokens"]
    return sum(float(job["usd_per_hour"]) for job in jobs) / tokens if tokens else None


def _of(combine: Callable[[list[float]], float], name: str) -> Callable[[Sequence[Mapping[str, Any]]], float | None]:
    def value(jobs: Sequence[Mapping[str, Any]]) -> float | None:
        asked = [job[name] for job in jobs if name in job]  # a serving job has no step, a training job no TTFT
        return float(combine(asked)) if asked and None not in asked else None

    return value


def _trained(jobs: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens trained on a second; those that count, among failures."""
    rates = [job.get("goodput_tokens_per_s") or job["tokens_per_s"] for job in jobs if "tokens_per_s" in job]
    return float(sum(rates)) if rates and None not in rates else None


HEADLINE: Final[dict[str, Callable[[Sequence[Mapping[str, Any]]], float | None]]] = {
    "output_tokens_per_s": _of(sum, "output_tokens_per_s"),
    "tokens_per_s_per_user": _of(min, "tokens_per_s_per_user"),
    "ttft_s.p50": _of(max, "ttft_s.p50"),
    "ttft_s.p99": _of(max, "ttft_s.p99"),
    "tpot_s.p50": _of(max, "tpot_s.p50"),
    "tpot_s.p99": _of(max, "tpot_s.p99"),
    "usd_per_million_tokens": _money,
    "usd_per_hour": _of(sum, "usd_per_hour"),
    "slo_attainment": _of(min, "slo_attainment"),
    "availability": _of(min, "availability"),
    "failed_requests": _of(sum, "failed_requests"),
    "tokens_per_s": _trained,
    "ettr": _of(min, "ettr"),
    "step_time_s": _of(max, "step_time_s"),
    "mfu": _of(min, "mfu"),
    "bubble_fraction": _of(max, "bubble_fraction"),
    "exposed_communication_fraction": _of(max, "exposed_communication_fraction"),
    "memory_peak_bytes": _of(max, "memory_peak_bytes"),
}
"""The figures every point has, and how jobs are taken together."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a point: figures with intervals, or the kind of failure and its reason."""

    state: str | None
    failed: str | None
    reason: str | None
    metrics: Figures
    intervals: dict[str, list[float]]
    jobs: dict[str, dict[str, Any]]
    """Every number of every job, means over seeds."""


def outcome_of(answers: Sequence[Answer]) -> Outcome:
    """A point from the answers of its seeds."""
    for answer in answers:
        if "failed" in answer:
            return Outcome(None, answer["failed"], answer["reason"], {}, {}, {})
    runs = [list(answer["jobs"].values()) for answer in answers]
    columns = {name: [figure(jobs) for jobs in runs] for name, figure in HEADLINE.items()}
    intervals = {}
    for name, values in columns.items():
        known = [v for v in values if v is not None]
        interval = possible_interval(name, known) if len(known) == len(values) else None
        if interval is not None:
            intervals[name] = interval
    jobs = {name: _over_seeds([answer["jobs"][name] for answer in answers]) for name in answers[0]["jobs"]}
    return Outcome(
        state=_worst([job["state"] for run in runs for job in run]),
        failed=None,
        reason=None,
        metrics={name: _mean(values) for name, values in columns.items()},
        intervals=intervals,
        jobs=jobs,
    )


def _worst(states: Sequence[str]) -> str:
    return max(states, key=lambda state: STATES.index(state) if state in STATES else len(STATES))


def _mean(values: Sequence[Any]) -> float | None:
    """None unless all are known: a mean of those that happened to be measured is of something else."""
    return None if None in values else sum(values) / len(values)


def _over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One job over seeds; as it is where there is one."""
    if len(runs) == 1:
        return dict(runs[0])
    found: dict[str, Any] = {}
    for name, first in runs[0].items():
        values = [run.get(name) for run in runs]
        if name == "state":
            found[name] = _worst([str(v) for v in values])
        else:
            found[name] = all(values) if isinstance(first, bool) else _mean(values)
    return found
