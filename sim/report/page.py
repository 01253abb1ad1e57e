"""The HTML page of one run: a single file without a network, drawn from the Result alone.

The answer, the cards and the tables are plain HTML and need no JavaScript; figures are data for plotly in
one JSON block. All text goes through jinja2's autoescape. `render_html` is a pure function: the same Result
gives the same page.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from sim.report.answer_words import expected_texts, missed_facts
from sim.report.cost_words import payback_facts
from sim.report.figures import figures_of
from sim.report.figures.common import sentence as capitalised
from sim.report.frame import render_page
from sim.report.values import (
    NEVER,
    NONE,
    Row,
    interval_text,
    largest_first,
    memory_capacity,
    named,
    outage_facts,
    rows,
    stop_facts,
    target_facts,
    write,
)
from sim.results.schema import Incident, JobResult, Result, ServingMetrics, TenantResult, TrainingMetrics
from sim.study.capacity import told
from sim.units import format_count, format_percent, format_seconds

STATES: Final = {"stable": "✓", "saturated": "▲", "overloaded": "✕", "disrupted": "⚡"}
"""The sign beside each state, so that colour is not the only carrier."""

SECTIONS: Final = {
    "ledger": ("Where the GPU time went", "Every GPU-second of the whole run is in exactly one bucket."),
    "gantt": ("Gantt of GPUs", "A window of the run; classes of GPUs that do the same share a row."),
    "timeline": ("Over time", "Utilisation of GPUs and links, queues, batches and KV cache."),
    "topology": ("Topology", "Links are coloured and widened by their peak load."),
    "memory": ("Memory", "What one GPU of each stage holds, against its capacity."),
    "roofline": ("Roofline", "How close each phase comes to what its GPU could do."),
    "latency": ("Latency", "Over the requests of the measured window."),
    "cost": ("Cost and sensitivity", "What the hardware costs, and what one better part would change."),
}
"""Sections that hold figures: id to heading and what it shows."""


OF_TRAINING: Final = {
    "gantt": "The first step of a job; GPUs that do the same share a row.",
    "timeline": "Utilisation of GPUs and links.",
    "topology": "Links are coloured and widened by their mean load.",
}
"""What those sections show where no job serves."""
OF_BOTH: Final = {
    "gantt": "A window of the run, and the first step of each training job; GPUs that do the same share a row.",
}
"""What those sections show where jobs of both kinds run."""

STEPS: Final = ("Step times", "Over all steps of the run.")
STEPS_TOO: Final = ("Latency and step times", "Over the requests of the measured window, and all steps of training.")
"""Heading and text of the latencies where steps of training differ."""

SHORT: Final = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "mfu": "MFU",
}
"""Names on cards, where room is short and the meaning is one hover away."""


@dataclass(frozen=True, slots=True)
class Card:
    """One number at the top of the page."""

    name: str
    value: str
    unit: str
    interval: str
    beside: str
    definition: str


def render_html(result: Result) -> str:
    """The page as text."""
    figures = figures_of(result)
    return render_page(
        "page.html.j2",
        result.version,
        {id_: _section(result, id_) for id_ in SECTIONS},
        figures,
        result=result,
        capacity_figures=figures["capacity"],
        capacities=[
            f"{'' if len(result.jobs) == 1 else f'{job.name}: '}{line}"
            for job in result.jobs
            for line in _of_capacity(job)
        ],
        jobs=[_job(result, job) for job in result.jobs],
        facts=_facts(result),
        state_sign=STATES.get(result.verdict.state, "") if _serves(result) else "",
        sentence=_sentence(result),
        missed=_of_each(result, missed_facts),
        expected=_of_each(result, expected_texts),
        yaml=yaml.safe_dump(result.resolved_scenario, sort_keys=False, allow_unicode=True, width=100),
        command=_command(result),
    )


def _of_each(result: Result, told: Callable[[JobResult], list[str]]) -> list[str]:
    """What is told of the jobs, which are named where there are several."""
    alone = len(result.jobs) == 1
    return [text if alone else f"{job.name}: {text}" for job in result.jobs for text in told(job)]


def _file(result: Result) -> str:
    """A file name for the scenario, whatever it is called."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in result.scenario)
    return f"{kept or 'scenario'}.yaml"


def _command(result: Result) -> str:
    said = (result.run_info or {}).get("command")
    if isinstance(said, str):
        return said
    return shlex.join(["sim", "run", _file(result), "--seed", str(result.seed), "--detail", result.detail])


def _facts(result: Result) -> list[tuple[str, str]]:
    """What kind of run this was."""
    return [
        ("GPUs", f"{result.gpus:,}"),
        ("simulated time", format_seconds(result.simulated_s)),
        ("events", format_count(result.events)),
        ("detail", result.detail),
        ("seed", str(result.seed)),
        ("version", result.version),
    ]


def _sentence(result: Result) -> str:
    """The verdict without its state, which stands beside it where a job has one."""
    text = result.verdict.sentence
    return text.removeprefix(result.verdict.state).lstrip() if _serves(result) else capitalised(text)


def _serves(result: Result) -> bool:
    """Whether some job answers requests: only such a job has a state."""
    return any(job.kind == "serving" for job in result.jobs)


def _section(result: Result, id_: str) -> tuple[str, str]:
    """Heading and what the section shows."""
    heading, about = SECTIONS[id_]
    if id_ == "latency" and any("step_time_s" in job.cdf for job in result.jobs):
        heading, about = STEPS_TOO if any("ttft_s" in job.cdf for job in result.jobs) else STEPS
    if not _serves(result):
        return heading, OF_TRAINING.get(id_, about)
    trains = any(job.kind == "training" for job in result.jobs)
    return heading, OF_BOTH.get(id_, about) if trains else about


def _job(result: Result, job: JobResult) -> dict[str, Any]:
    """What the page says of one job."""
    numbers: list[Row] = rows(result, job)
    columns = list(dict.fromkeys(key for objective in job.objectives for key in objective))
    cells = [[_cell(column, objective.get(column)) for column in columns] for objective in job.objectives]
    return {
        "job": job,
        "sign": STATES.get(job.state, "") if job.kind == "serving" else "",
        "cards": _cards(result, job),
        "rows": numbers,
        "objective_columns": [column.removesuffix("_s").replace("_", " ") for column in columns],
        "objectives": cells,
        "incident_columns": INCIDENT,
        "incidents": [_incident(incident) for incident in job.incidents],
        "tenant_columns": TENANT,
        "tenants": [_tenant(tenant) for tenant in job.tenants],
        "window": _window(job),
        "notes": [note for note in job.notes if note not in _of_capacity(job)],
    }


def _of_capacity(job: JobResult) -> list[str]:
    """Notes that stand in the verdict: the most within the objectives, and what its runs cannot tell."""
    return [] if job.capacity is None else [told(job.capacity), *job.capacity.caveats]


def _capacity_card(job: JobResult) -> list[Card]:
    """The most within the objectives, where it was sought."""
    found = job.capacity
    if found is None or found.rate is None:
        return []
    rate = f"{format_count(found.rate)} req/s"
    value, unit = (rate.split() if found.clients is None else (f"{found.clients:,}", "clients"))
    runs = f"{len(found.seeds)} x {found.requests:,} requests" if found.seeds else "at saturation"
    return [Card("Capacity", value, unit, "", runs if found.clients is None else f"{rate}, {runs}", CAPACITY)]


CAPACITY: Final = "The highest rate of requests, or the most clients of a closed loop, within the objectives."


#: Columns of the table of tenants.
TENANT: Final = (
    "tenant", "priority", "requests", "output", "TTFT p50", "p99", "TPOT p50", "p99", "latency p99", "objectives",
)  # fmt: skip


def _tenant(tenant: TenantResult) -> list[str]:
    attained = NONE if tenant.slo_attainment is None else write("slo_attainment", tenant.slo_attainment)
    return [
        tenant.name, str(tenant.priority), f"{tenant.measured_requests:,}",
        write("output_tokens_per_s", tenant.output_tokens_per_s), write("ttft_s", tenant.ttft_s.p50),
        write("ttft_s", tenant.ttft_s.p99), write("tpot_s", tenant.tpot_s.p50), write("tpot_s", tenant.tpot_s.p99),
        write("latency_s", tenant.latency_s.p99), attained,
    ]  # fmt: skip


def _window(job: JobResult) -> str:
    """Over what the job's numbers are taken."""
    m, window = job.metrics, job.window
    if isinstance(m, ServingMetrics):
        return f"measured {format_seconds(window.start_s)} to {format_seconds(window.end_s)} ({window.rule})"
    step = format_seconds(m.step_time_s)
    return f"one step of {step} is simulated" if m.steps == 1 else f"{m.steps:,} steps of {step}, one like the other"


def _cell(column: str, value: Any) -> str:
    """A value of an objective; columns that end in "_s" are seconds."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "✓ yes" if value else "✕ no"
    if isinstance(value, (int, float)):
        return format_seconds(value) if column.endswith("_s") else f"{value:.4g}"
    return str(value)


def _cards(result: Result, job: JobResult) -> list[Card]:
    """The numbers people look for first; those that were not measured are left out."""
    if isinstance(job.metrics, TrainingMetrics):
        return _training_cards(result, job, job.metrics)
    return _serving_cards(result, job, job.metrics)


def _serving_cards(result: Result, job: JobResult, m: ServingMetrics) -> list[Card]:
    total = f"total {write('total_tokens_per_s', m.total_tokens_per_s)}"
    made = [
        _card(result, job, "output_tokens_per_s", m.output_tokens_per_s, total),
        _card(result, job, "ttft_s", m.ttft_s.p50, f"p99 {write('ttft_s', m.ttft_s.p99)}", "p50"),
        _card(result, job, "tpot_s", m.tpot_s.p50, f"p99 {write('tpot_s', m.tpot_s.p99)}", "p50"),
        _card(result, job, "requests_per_s", m.requests_per_s, f"{m.measured_requests:,} measured"),
        *_cost_card(result, job),
        *_capacity_card(job),
    ]
    kv = f"peak {format_percent(m.kv_occupancy_peak)}, blocked {format_percent(m.kv_blocked_fraction)}"
    batch = f"mean batch {format_count(m.batch_size_mean)}"
    made += [
        _card(result, job, "utilisation_mean", m.utilisation_mean, batch),
        _card(result, job, "kv_occupancy_mean", m.kv_occupancy_mean, kv),
    ]
    if m.slo_attainment is not None:
        good = f"goodput {write('goodput_requests_per_s', m.goodput_requests_per_s)}"
        made.append(_card(result, job, "slo_attainment", m.slo_attainment, good))
    elif m.tokens_per_s_per_user is not None:
        made.append(_card(result, job, "tokens_per_s_per_user", m.tokens_per_s_per_user, ""))
    if m.prefix_hit_rate is not None:
        fetched = f"{m.fetched_tokens:,} tokens fetched" if m.fetched_tokens is not None else ""
        made.append(_card(result, job, "prefix_hit_rate", m.prefix_hit_rate, fetched))
    if m.replicas_mean is not None:
        made.append(_card(result, job, "replicas_mean", m.replicas_mean, f"{m.replicas_started} started", "mean"))
    if m.kv_transfer_s is not None:
        moved = f"{write('kv_transfer_bytes', m.kv_transfer_bytes)} in all"
        made.append(_card(result, job, "kv_transfer_s", m.kv_transfer_s, moved, "mean"))
    if m.availability is not None:
        made.append(_card(result, job, "availability", m.availability, ", ".join(outage_facts(m)[1:])))
    return made


INCIDENT: Final = (
    "from", "cause", "replica", "noticed after", "down for", "requests held", "KV tokens lost", "given up",
    "throughput", "objectives attained", "queue gone after",
)  # fmt: skip
"""Columns of the table of outages."""


def _incident(incident: Incident) -> list[str]:
    """An outage as cells."""
    i = incident
    return [
        format_seconds(i.start_s), i.cause, str(i.replica), format_seconds(i.known_s - i.start_s),
        format_seconds(i.up_s - i.start_s), f"{i.held_requests:,}", f"{i.lost_kv_tokens:,}", f"{i.failed_requests:,}",
        write("output_tokens_per_s", i.output_tokens_per_s), write("slo_attainment", i.slo_attainment),
        NONE if i.first_tokens_s is None else format_seconds(i.first_tokens_s),
    ]  # fmt: skip


def _training_cards(result: Result, job: JobResult, m: TrainingMetrics) -> list[Card]:
    batch = f"{write('global_batch_tokens', m.global_batch_tokens)}, {m.micro_batches:,} micro-batches"
    each = write("tokens_per_s_per_gpu", m.tokens_per_s_per_gpu)
    axes = largest_first(m.exposed_communication_s)
    waits = ", ".join(
        f"{axis} {write('exposed_communication_s', spent)}".replace(" ", "\u00a0") for axis, spent in axes.items()
    )
    capacity = write("memory_peak_bytes", memory_capacity(m))
    memory = f"{write('memory_peak_fraction', m.memory_peak_fraction)} of {capacity}"
    made = [
        _card(result, job, "step_time_s", m.step_time_s, batch),
        _card(result, job, "tokens_per_s", m.tokens_per_s, each),
        _card(result, job, "mfu", m.mfu, f"HFU {write('hfu', m.hfu)}"),
    ]
    if m.bubble_fraction > 0:
        made.append(_card(result, job, "bubble_fraction", m.bubble_fraction, "of GPU time"))
    made += [
        _card(result, job, "exposed_communication_fraction", m.exposed_communication_fraction, waits),
        _card(result, job, "memory_peak_bytes", m.memory_peak_bytes, memory),
    ]
    if m.ettr is not None:
        goodput = write("goodput_tokens_per_s", m.goodput_tokens_per_s)
        made.append(_card(result, job, "ettr", m.ettr, f"goodput {goodput}"))
        made.append(_card(result, job, "failures", float(m.failures or 0), ", ".join(stop_facts(m))))
    if m.days_to_target is not None:
        beside = f"{write('target_tokens', m.target_tokens)}: {', '.join(target_facts(result, m)[1:])}"
        made.append(_card(result, job, "days_to_target", m.days_to_target, beside))
    return [*made, *_cost_card(result, job)]


def _cost_card(result: Result, job: JobResult) -> list[Card]:
    cost = job.cost
    if cost is None:
        return []
    full = cost.saturation and write("usd_per_million_tokens", cost.saturation.usd_per_million_tokens)
    beside = f"{full} at saturation" if full else write("usd_per_hour", cost.usd_per_hour)
    made = [_card(result, job, "usd_per_million_tokens", cost.usd_per_million_tokens, beside)]
    if cost.income_usd_per_hour is not None:
        card = _card(result, job, "payback_months", cost.payback_months, payback_facts(cost)[0])
        made.append(card if cost.payback_months is not None else replace(card, value=NEVER))
    return made


def _card(
    result: Result, job: JobResult, key: str, value: float | None, beside: str, percentile: str = ""
) -> Card:
    text = write(key, value)
    number, _, unit = text.partition(" ")
    full_key = f"{key}.{percentile}" if percentile else key
    return Card(
        name=f"{SHORT.get(key, named(key))} {percentile}".rstrip(),
        value=number,
        unit=unit,
        interval=interval_text(result, job, full_key),
        beside=beside,
        definition=result.definitions.get(key, ""),
    )
