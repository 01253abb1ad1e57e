"""A run as plain text: the answer in a dozen lines, each under its label.

Lines break between facts, not within them, so that "[1,270, 1,350]" stays whole at 80 columns. Names are
cleaned of control characters before they reach a terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from sim.report.answer_words import expected_texts, missed_facts
from sim.report.cost_words import cost_facts, swing_facts
from sim.report.screen import BOLD, RESET, printable
from sim.report.values import (
    checkpoint_facts,
    failure_facts,
    interval_text,
    largest_first,
    memory_capacity,
    of_jobs,
    outage_facts,
    pair,
    shares,
    target_facts,
    visible,
    write,
)
from sim.results.schema import JobResult, Result, ServingMetrics, TenantResult, TrainingMetrics
from sim.units import format_percent

WIDTH: Final = 100
"""Columns of a line, where the terminal has as many."""
LABEL: Final = 12
"""Columns of a label."""
_STATES: Final = {"stable": "\x1b[32m", "saturated": "\x1b[33m", "overloaded": "\x1b[31m", "disrupted": "\x1b[31m"}


def render_text(result: Result, width: int = WIDTH, colour: bool = False) -> str:
    """The run in the layout of a terminal; no escape codes unless `colour`."""
    page = _Page(max(width, 40), colour)
    page.paragraph(result.headline)
    page.line("VERDICT", [result.verdict.sentence], "  ", state=result.verdict.state)
    if len(result.jobs) == 1:
        _one_job(page, result, result.jobs[0])
    else:
        for job in result.jobs:
            page.line(f"job {job.name}", _job_facts(result, job), "; ")
    for job in result.jobs:
        who = "" if len(result.jobs) == 1 else f"{job.name}: "
        page.line("missed", [f"{who}{fact}" for fact in missed_facts(job)], "; ", state="overloaded")
    for job in result.jobs:
        who = "" if len(result.jobs) == 1 else f"{job.name}: "
        page.line("error", [f"{who}{text}" for text in expected_texts(job)], "; ")
    page.line("GPU time", _gpu_time(result.ledger), " | ")
    page.line("not binding", result.verdict.not_binding, "; ")
    for banner in result.banners:
        page.line("ASSUMED", [banner], "  ")
    for warning in result.verdict.warnings:
        page.line("warning", [warning], "  ")
    for job in result.jobs:
        for note in job.notes:
            page.line("note", [note if len(result.jobs) == 1 else f"{job.name}: {note}"], "  ")
    if result.intervals:
        page.line("intervals", [result.intervals_method], "  ")
    return page.text()


def _gpu_time(ledger: dict[str, float]) -> list[str]:
    """Shares of the jobs' GPU time, as the verdict tells them, and how much of the cluster no job uses."""
    facts = [f"{name} {format_percent(part)}" for name, part in visible(of_jobs(ledger))]
    spare = shares(ledger).get("spare", 0.0)
    return [*facts, f"beside them {format_percent(spare)} of all GPUs spare"] if spare else facts


def _one_job(page: _Page, result: Result, job: JobResult) -> None:
    metrics = job.metrics
    if isinstance(metrics, TrainingMetrics):
        for label, facts, glue in _training_lines(result, metrics):
            page.line(label, facts, glue)
    else:
        page.line("throughput", _serving_facts(result, job, metrics), "   ")
        page.line("KV cache", _cache_facts(metrics), "   ")
        if metrics.replicas_mean is not None:
            on = f"{write('replicas_mean', metrics.replicas_mean)} on, mean"
            page.line("replicas", [on, f"{metrics.replicas_started} started"], "   ")
        for tenant in job.tenants:
            page.line(tenant.name, _tenant_facts(tenant), "   ")
        if metrics.availability is not None:
            page.line("failures", outage_facts(metrics), "   ")
    if job.cost is not None:
        page.line("cost", cost_facts(job.cost, "trained" if job.kind == "training" else "at this load"), ", ")
        page.line("over a day", swing_facts(job.cost.swing), ", ")


def _serving_facts(result: Result, job: JobResult, metrics: ServingMetrics) -> list[str]:
    facts = [_speed(result, job), *_latency_facts(metrics)]
    if metrics.slo_attainment is not None:
        facts.append(f"objectives {write('slo_attainment', metrics.slo_attainment)}")
    if metrics.rejected_requests:
        facts.append(f"rejected {metrics.rejected_requests:,} requests")
    return facts


def _tenant_facts(tenant: TenantResult) -> list[str]:
    facts = [
        f"{write('output_tokens_per_s', tenant.output_tokens_per_s)}",
        f"TTFT p50/p99 {write('ttft_s', tenant.ttft_s.p50)} / {write('ttft_s', tenant.ttft_s.p99)}",
        f"TPOT p50/p99 {write('tpot_s', tenant.tpot_s.p50)} / {write('tpot_s', tenant.tpot_s.p99)}",
    ]
    if tenant.slo_attainment is not None:
        facts.append(f"objectives {write('slo_attainment', tenant.slo_attainment)}")
    return facts


def _cache_facts(m: ServingMetrics) -> list[str]:
    """What was found in caches, and what went from replica to replica."""
    facts = []
    if m.prefix_hit_rate is not None:
        facts.append(f"{write('prefix_hit_rate', m.prefix_hit_rate)} of prompt tokens found")
        if m.fetched_tokens is not None:
            facts[-1] += f", {m.fetched_tokens:,} tokens of them fetched from their store"
    if m.kv_transfer_bytes is not None and m.kv_transfer_s is not None:
        moved = write("kv_transfer_bytes", m.kv_transfer_bytes)
        facts.append(f"{moved} handed over, {write('kv_transfer_s', m.kv_transfer_s)} a prompt")
    return facts


def _training_lines(result: Result, m: TrainingMetrics) -> Iterator[tuple[str, list[str], str]]:
    """Label, facts and what stands between them."""
    yield "step", [*_step_facts(m), f"MFU {write('mfu', m.mfu)}  HFU {write('hfu', m.hfu)}"], "   "
    waits = [f"exposed: {_exposed(m)}"] if any(m.exposed_communication_s.values()) else []
    if m.recompute_fraction > 0:
        waits.append(f"recomputation {write('recompute_fraction', m.recompute_fraction)} of kernel time")
    if m.staleness_mean:
        waits.append(f"stale by {write('staleness_mean', m.staleness_mean)} updates, at most {m.staleness_max}")
    if m.bubble_fraction > 0:
        yield "pipeline", [f"bubble {write('bubble_fraction', m.bubble_fraction)}", *waits], "   "
    else:
        yield "waits", waits, "   "
    yield "memory", [f"peak {_memory(m)}"], ""
    if m.ettr is not None:
        yield "failures", failure_facts(m), "   "
    if m.checkpoint_interval_s is not None:
        yield "checkpoint", checkpoint_facts(m), ", "
    if facts := target_facts(result, m):
        yield "training", [f"{write('target_tokens', m.target_tokens)}: {', '.join(facts)}"], ""


def _step_facts(m: TrainingMetrics) -> list[str]:
    each = write("tokens_per_s_per_gpu", m.tokens_per_s_per_gpu)
    return [write("step_time_s", m.step_time_s), f"{write('tokens_per_s', m.tokens_per_s)} ({each})"]


def _memory(m: TrainingMetrics) -> str:
    """ "16 of 85.1 GB (18.8%)"."""
    used, capacity = (write("memory_peak_bytes", size) for size in (m.memory_peak_bytes, memory_capacity(m)))
    number, _, unit = used.rpartition(" ")
    peak = number if capacity.endswith(f" {unit}") else used
    return f"{peak} of {capacity} ({write('memory_peak_fraction', m.memory_peak_fraction)})"


def _exposed(m: TrainingMetrics) -> str:
    """Seconds by axis, the largest with its share of the step."""
    axes = largest_first(m.exposed_communication_s)
    words = [f"{axis} {write('exposed_communication_s', seconds)}" for axis, seconds in axes.items()]
    share = next(iter(axes.values())) / m.step_time_s if axes and m.step_time_s > 0 else 0.0
    return ", ".join([f"{words[0]} ({format_percent(share)})", *words[1:]])


def _job_facts(result: Result, job: JobResult) -> list[str]:
    facts = [f"{job.model} {job.plan} on {job.gpus:,} GPUs"]
    if isinstance(job.metrics, TrainingMetrics):
        m = job.metrics
        facts += [f"a step takes {' at '.join(_step_facts(m))}", f"MFU {write('mfu', m.mfu)}"]
        if m.days_to_target is not None:
            facts.append(f"{write('days_to_target', m.days_to_target)} for {write('target_tokens', m.target_tokens)}")
    else:
        facts += [job.state, _speed(result, job), *_latency_facts(job.metrics)]
        if job.metrics.availability is not None:
            facts += outage_facts(job.metrics)[:2]
    if job.cost is not None:
        facts.append(write("usd_per_million_tokens", job.cost.usd_per_million_tokens))
    return facts


def _speed(result: Result, job: JobResult) -> str:
    speed = getattr(job.metrics, "output_tokens_per_s", None)
    return f"{write('output_tokens_per_s', speed)} {interval_text(result, job, 'output_tokens_per_s')}".rstrip()


def _latency_facts(metrics: ServingMetrics) -> list[str]:
    ttft, tpot = metrics.ttft_s, metrics.tpot_s
    return [
        f"TTFT p50/p99 {pair('ttft_s', ttft.p50, ttft.p99)}",
        f"TPOT p50/p99 {pair('tpot_s', tpot.p50, tpot.p99)}",
    ]


class _Page:
    """Labelled lines of a given width."""

    def __init__(self, width: int, colour: bool) -> None:
        self.width = width
        self.colour = colour
        self.lines: list[str] = []

    def paragraph(self, text: str) -> None:
        """Text from the left edge."""
        wrapped = textwrap.wrap(printable(text), self.width) or [""]
        self.lines += [self._styled(line, BOLD) for line in wrapped]

    def line(self, label: str, facts: Iterable[str], glue: str, state: str | None = None) -> None:
        """A label and its facts; nothing where there are no facts. Facts stay whole where they can."""
        name = printable(label)
        room = self.width - LABEL
        wrapped = _flow([printable(fact) for fact in facts if fact], glue, room)
        if not wrapped:
            return
        if len(name) < LABEL:
            head = self._styled(name, _STATES.get(state or "", BOLD)) + " " * (LABEL - len(name))
        else:
            self.lines += [self._styled(line, BOLD) for line in textwrap.wrap(name, self.width)]
            head = " " * LABEL
        self.lines += [head + wrapped[0], *(" " * LABEL + more for more in wrapped[1:])]

    def text(self) -> str:
        """All lines, with a newline at the end."""
        return "\n".join(line.rstrip() for line in self.lines) + "\n"

    def _styled(self, text: str, code: str) -> str:
        return f"{code}{text}{RESET}" if self.colour else text


def _flow(facts: list[str], glue: str, room: int) -> list[str]:
    """Facts joined by `glue` in lines of at most `room` columns."""
    lines: list[str] = []
    for index, fact in enumerate(facts):
        tail = glue.rstrip() if index < len(facts) - 1 else ""
        gap = glue[len(glue.rstrip()) :]
        whole = fact + tail
        if lines and len(lines[-1]) + len(gap) + len(whole) <= room:
            lines[-1] += gap + whole
        else:
            lines += textwrap.wrap(whole, room) or [""]
    return lines
