"""Putting a Result together from a recording and the re-runs that say what binds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim import __version__
from sim.jobs.play import Recording
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.training.run import TrainingRecording
from sim.results import collect
from sim.results.assumptions import assumptions_of, banners_of, not_modelled
from sim.results.cost import cost_of, costs_by_use, curve_of, idle_warnings, money_warnings
from sim.results.definitions import definitions_of
from sim.results.expected import ACROSS, expected_error, served_like, trained_like
from sim.results.incidents import failure_metrics, incidents_of
from sim.results.intervals import batch_means
from sim.results.metrics import Table, check_objectives, serving_metrics, tenants_of
from sim.results.schema import (
    SCHEMA_VERSION,
    DeviceClass,
    Effect,
    ErrorOf,
    JobResult,
    Result,
    ServingMetrics,
    State,
    TrainingMetrics,
)
from sim.results.training import priced, step_times, training_metrics, window_of
from sim.results.verdict import disrupted, state_of, training_warnings, verdict_of, warnings_of
from sim.spec.plan import ServingPlan
from sim.spec.scenario import ServingJob
from sim.spec.training import TrainingPlan
from sim.units import format_bandwidth

BATCH_MEANS = "95%, ten batch means within the measured window of one run"


def job_results(recording: Recording, devices: list[DeviceClass]) -> tuple[list[JobResult], list[Table]]:
    """Every job's answer, and the request tables of those that serve. Of a recording without charts an answer has no
    curves either."""
    results, tables = [], []
    for job in recording.jobs:
        if isinstance(job, TrainingRecording):
            results.append(_trained(recording, job, devices))
            continue
        spec = job.job.spec
        mine = [d for d in devices if d.job == spec.name]
        gpus = sum(d.count for d in mine)
        busy = sum(d.busy * d.count for d in mine) / gpus
        failed = failure_metrics(job)
        metrics, window, table = serving_metrics(job, recording.end, busy, failed)
        plan, told = spec.plan, incidents_of(job, table)
        tenants = tenants_of(job, table, window)
        state = state_of(table, window, spec.load.closed_loop is not None, _idle(mine, recording.end))
        results.append(_with_errors(JobResult(
            name=spec.name, kind="serving", model=job.job.model.id, stack=job.job.stack.id,
            plan=_plan_text(plan), gpus=gpus,
            state=disrupted(state, told, metrics, window),
            metrics=metrics, cost=cost_of(recording, job, metrics.output_tokens_per_s, devices), window=window,
            objectives=[
                *check_objectives(
                    {"ttft": metrics.ttft_s, "tpot": metrics.tpot_s, "latency": metrics.latency_s},
                    metrics.measured_requests, spec.objectives, table, window,
                ),
                *(row for tenant in tenants for row in tenant.objectives),
            ],
            tenants=tenants,
            cdf=collect.latency_cdf(table, window.start_s, window.end_s) if recording.charts else {}, notes=[],
            incidents=told,
        ), recording, job))  # fmt: skip
        tables.append(table)
    return results, tables


def _intervals(jobs: list[JobResult], tables: list[Table]) -> dict[str, list[float]]:
    """Intervals of the numbers of jobs that serve, by path."""
    found, rest = {}, iter(tables)
    for i, job in enumerate(jobs):
        if job.kind != "serving":
            continue
        table = next(rest)
        # One life with outages says nothing of how much lives differ.
        for name, interval in ({} if job.incidents else batch_means(table, job.window)).items():
            found[f"jobs.{i}.metrics.{name}"] = interval
            if len(jobs) == 1:
                found[f"metrics.{name}"] = interval
    return found


def _trained(recording: Recording, job: TrainingRecording, devices: list[DeviceClass]) -> JobResult:
    """A training job's answer."""
    metrics = training_metrics(job, recording.resolved.scenario.assume)
    useful = metrics.tokens_per_s if metrics.goodput_tokens_per_s is None else metrics.goodput_tokens_per_s
    cost = cost_of(recording, job, useful, devices)
    if cost is not None:
        curve = curve_of(costs_by_use(recording, job, useful, devices))
        cost = cost.model_copy(update={"curve": curve})
    return JobResult(
        name=job.name, kind="training", model=job.job.model.id, stack=job.job.stack.id,
        plan=training_plan_text(job.job.spec.plan), gpus=len(job.gpus), state="stable",
        metrics=priced(metrics, cost), cost=cost, window=window_of(job), objectives=[],
        cdf=step_times(job), notes=[],
        expected_error=expected_error(
            trained_like(job.job.spec, job.job.model, _types(recording, job.gpus), job.job.stack.id)
        ),
    )  # fmt: skip


def _with_errors(found: JobResult, recording: Recording, job: ServingRecording) -> JobResult:
    """A serving job's answer with what is known of its errors."""
    graph = recording.topology.gpus
    across = any(
        len({graph[gpu].node for stage in stages for gpu in stage.gpus}) > 1 for stages in job.layout.replicas
    )
    spec, model = job.job.spec, job.job.model
    unmeasured = {  # no such serving is in the measured tables
        ACROSS: across, "latent attention": model.latent, "spread experts": spec.plan.ep > 1,
        "drafts": spec.speculative is not None, "adapters": spec.adapters is not None,
    }  # fmt: skip
    never = [what for what, has in unmeasured.items() if has]
    gpus = _types(recording, job.gpus)
    kinds: dict[str, ErrorOf] = {
        "expected_error": "throughput", "expected_ttft_error": "TTFT", "expected_tpot_error": "TPOT",
    }  # fmt: skip
    return found.model_copy(update={
        key: expected_error(served_like(spec, model, gpus, job.job.stack.id, of), never) for key, of in kinds.items()
    })  # fmt: skip


def _types(recording: Recording, gpus: Sequence[int]) -> list[str]:
    """The kinds of these GPUs."""
    return [recording.topology.gpus[gpu].gpu for gpu in gpus]


def training_plan_text(plan: TrainingPlan) -> str:
    """A plan in a few words: degrees above one, schedule, sharding, recomputation."""
    parts = [f"{axis}{n}" for axis in ("tp", "cp", "ep", "pp", "dp") if (n := getattr(plan, axis)) > 1]
    if plan.pp > 1:
        parts.append(plan.schedule_name + (f" vpp{plan.vpp}" if plan.vpp > 1 else ""))
    if plan.zero:
        parts.append(f"zero{plan.zero}" + (" within nodes" if plan.shard == "node" else ""))
    if plan.parameter_server is not None:
        server = plan.parameter_server
        parts.append(f"{server.servers} parameter server(s), staleness {server.staleness}")
    if plan.recompute != "none":
        method = plan.recompute
        parts.append(f"recompute {method if isinstance(method, str) else method.model_dump()}")
    offloaded = [f"{what} on {tier}" for what, tier in plan.offload.model_dump().items() if tier != "gpu"]
    return " ".join([*parts, *offloaded]) or "1 GPU"


def _idle(devices: list[DeviceClass], end: float) -> float:
    """Share of the job's GPU time without work."""
    seconds = sum(d.count for d in devices) * end
    return sum(d.ledger["waiting for work"] for d in devices) / seconds if seconds else 0.0


def _plan_text(plan: ServingPlan) -> str:
    degrees = (("tp", plan.tp), ("pp", plan.pp), ("dp", plan.dp), ("ep", plan.ep))
    parts = [f"{name}{n}" for name, n in degrees if n > 1]
    return " ".join([*parts, *(["data attention"] if plan.attention == "data" else [])]) or "1 GPU"


def _pools_text(spec: ServingJob) -> str:
    """Replicas that compute prompts only, and those that generate tokens."""
    pools = spec.disaggregate
    return "" if pools is None else f" ({pools.prefill} for prompts, {spec.plan.dp - pools.prefill} for tokens)"


def headline(recording: Recording) -> str:
    """What was simulated, in one line."""
    parts = []
    for job in recording.jobs:
        if isinstance(job, TrainingRecording):
            parts.append(_training_headline(job))
            continue
        spec = job.job.spec
        precision = spec.precision
        kv = "" if precision.kv == precision.weights else f"/kv {precision.kv}"
        if not spec.batching.kv_cache:
            kv = " without KV cache"
        text = f"{job.job.model.id} {precision.weights}{kv}"
        plan = _plan_text(spec.plan) + _pools_text(spec)
        parts.append(f"{text}, {plan}, stack {job.job.stack.id}")
    network = recording.resolved.scenario.cluster.network.bandwidth
    changed = f" at {format_bandwidth(network, bits=True)}" if network else ""
    seed = recording.resolved.scenario.seed
    return f"{' + '.join(parts)} - {recording.topology.summary()}{changed} - seed {seed}"


def _training_headline(job: TrainingRecording) -> str:
    spec = job.job.spec
    tune = spec.finetune
    how = f"training {spec.precision.compute}" if tune is None else f"{tune.method} r{tune.rank} on {tune.base}"
    plan = training_plan_text(spec.plan)
    batch = f"{spec.batch.whole:,} x {spec.batch.sequence:,} tokens a step"
    return f"{job.job.model.id} {how}, {plan}, {batch}, stack {job.job.stack.id}"


def assemble(recording: Recording, effects: list[Effect], resolved: dict[str, Any]) -> Result:
    """The Result of ``recording``, which has its charts; ``resolved`` is the scenario with all values looked up, as
    JSON."""
    assert recording.charts
    devices = collect.device_classes(recording)
    jobs, tables = job_results(recording, devices)
    ledger = collect.ledger_of(devices)
    states: list[State] = [j.state for j in jobs]
    served = [
        (job, result.metrics, result.state)
        for job, result in zip(recording.jobs, jobs, strict=True)
        if isinstance(job, ServingRecording) and isinstance(result.metrics, ServingMetrics)
    ]
    warn = [*warnings_of(recording, served), *money_warnings(recording, jobs), *idle_warnings(recording)]
    trained = [
        (job, result.metrics)
        for job, result in zip(recording.jobs, jobs, strict=True)
        if isinstance(job, TrainingRecording) and isinstance(result.metrics, TrainingMetrics)
    ]
    for job, metrics in trained:
        unchecked = recording.resolved.scenario.assume.memory == "unchecked"
        warn += training_warnings(job, metrics, unchecked=unchecked)
    scenario = recording.resolved.scenario
    start = min(j.window.start_s for j in jobs)
    single = jobs[0] if len(jobs) == 1 else None
    return Result(
        schema_version=SCHEMA_VERSION,
        scenario=scenario.name,
        about=scenario.about,
        version=__version__,
        seed=scenario.seed,
        detail=recording.detail,
        headline=headline(recording),
        resolved_scenario=resolved,
        verdict=verdict_of(states, ledger, [m for _, m, _ in served], [m for _, m in trained], effects, warn),
        jobs=jobs,
        metrics=single.metrics if single else None,
        cost=single.cost if single else None,
        memory=collect.memory_stages(recording),
        ledger=ledger,
        gpus=len(recording.topology.gpus),
        simulated_s=recording.end,
        events=recording.events,
        devices=devices,
        links=collect.link_classes(recording)[0],
        timeline=collect.timeline_of(recording, tables, start),
        roofline=collect.roofline_dots(recording),
        topology=recording.topology.drawing(),
        intervals=_intervals(jobs, tables),
        intervals_method=BATCH_MEANS,
        assumptions=assumptions_of(recording),
        banners=banners_of(recording),
        not_modelled=not_modelled(recording),
        definitions=definitions_of({job.kind for job in jobs}),
    )
