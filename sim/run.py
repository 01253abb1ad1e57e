"""One simulation, and what binds it: run, improve one resource, run again, compare.

``run(resolved) -> Result`` returns a value and writes nothing. What does *not* bind is found, not guessed:
the same requests are played again on a cluster whose arithmetic, memory bandwidth, memory, links or host are
better, and the change is reported. The re-runs are shortened to ``PROBE`` requests (or ``ROUNDS`` times
the clients) and compared with a baseline shortened alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from sim.adapters.resolve import Resolved, ResolvedJob
from sim.errors import InfeasibleError
from sim.jobs.play import Detail, Recording, play
from sim.results.assemble import assemble, job_results
from sim.results.collect import device_classes
from sim.results.intervals import across_seeds
from sim.results.schema import Cost, Effect, JobResult, Result, Saturation, ServingMetrics
from sim.spec.hardware import Gpu, LinkType
from sim.spec.workload import ClosedLoop, Load
from sim.units import format_percent

PROBE = 300
# The first round fills the cluster and the last drains it: two are left to measure.
ROUNDS = 4
# Above this share of what the hardware can do, queueing times hang on the last percent of capacity.
HIGH_LOAD = 0.9
NETWORK_KINDS = ("ethernet", "roce", "infiniband", "thunderbolt", "internet")


@dataclass(frozen=True, slots=True)
class Improvement:
    """One resource made better: its name, the change in words, and the changed scenario."""

    resource: str
    change: str
    apply: Callable[[Resolved], Resolved]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, the recording behind its side tables, and the wall seconds the simulation itself took."""

    result: Result
    recording: Recording
    wall_s: float


def run(resolved: Resolved, *, detail: Detail = "auto", effects: bool = True, seeds: int = 1) -> Result:
    """Simulate ``resolved`` and say what binds it (see :func:`run_recorded`)."""
    return run_recorded(resolved, detail=detail, effects=effects, seeds=seeds).result


def run_recorded(
    resolved: Resolved,
    *,
    detail: Detail = "auto",
    effects: bool = True,
    seeds: int = 1,
    progress: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Simulate ``resolved``, say what binds it, and keep the recording.

    ``seeds`` > 1 adds runs with the following seeds (on ``executor``, if given) and takes intervals over
    them. Raises InfeasibleError when a plan does not fit and RunError when the simulation cannot end.
    """
    hear = (lambda share: progress("simulating", share)) if progress else None
    began = perf_counter()
    recording = play(resolved, detail, hear)
    wall = perf_counter() - began
    found = list(_effects(resolved, recording, progress)) if effects else []
    result = assemble(recording, found, describe(resolved))
    if effects:
        result = _with_saturation(result, resolved)
    if seeds > 1:
        result = _with_seeds(result, resolved, seeds, executor)
    return Outcome(result, recording, wall)


def describe(resolved: Resolved) -> dict[str, Any]:
    """The scenario with every name looked up, in SI units, as JSON values."""
    dump = {"mode": "json", "exclude_none": True}
    return {
        **resolved.scenario.model_dump(mode="json", exclude_none=True, exclude={"define"}),
        "resolved": {
            "topology": resolved.topology.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
            "gpus": {k: v.model_dump(**dump) for k, v in resolved.gpus.items()},  # type: ignore[arg-type]
            "models": {j.spec.name: j.model.model_dump(**dump) for j in resolved.jobs},  # type: ignore[arg-type]
            "stacks": {j.spec.name: j.stack.model_dump(**dump) for j in resolved.jobs},  # type: ignore[arg-type]
        },
    }


# -- improvements -------------------------------------------------------------------------------------------


def _gpus(change: Callable[[Gpu], Gpu]) -> Callable[[Resolved], Resolved]:
    return lambda r: replace(r, gpus={name: change(gpu) for name, gpu in r.gpus.items()})


def _links(kinds: Iterable[str], change: Callable[[LinkType], LinkType]) -> Callable[[Resolved], Resolved]:
    chosen = tuple(kinds)
    return lambda r: replace(
        r, links={name: change(link) if link.kind in chosen else link for name, link in r.links.items()}
    )


def _faster(gpu: Gpu) -> Gpu:
    flops = {k: v * 2 for k, v in gpu.flops.model_dump().items() if v is not None}
    return gpu.model_copy(update={"flops": gpu.flops.model_copy(update=flops)})


def _assumed(field: str, apply: Callable[[Resolved], Resolved]) -> Callable[[Resolved], Resolved]:
    """Also double an assumed GPU rate, which would otherwise hide the change."""

    def changed(r: Resolved) -> Resolved:
        assume = r.scenario.assume
        if assume.gpu is not None and (value := getattr(assume.gpu, field)) is not None:
            gpu = assume.gpu.model_copy(update={field: 2 * value})
            scenario = r.scenario.model_copy(update={"assume": assume.model_copy(update={"gpu": gpu})})
            r = replace(r, scenario=scenario)
        return apply(r)

    return changed


def _host_halved(r: Resolved) -> Resolved:
    fields = ("host_per_step", "host_per_sequence", "host_per_layer", "host_per_pipeline_pass")
    jobs = tuple(
        replace(j, stack=j.stack.model_copy(update={f: getattr(j.stack, f) / 2 for f in fields})) for j in r.jobs
    )
    return replace(r, jobs=jobs)


def _network_override(r: Resolved, field: str, factor: float) -> Resolved:
    """Scale an override of the network's links as well, if the scenario has one."""
    cluster = r.scenario.cluster
    value = getattr(cluster.network, field)
    if value is None:
        return r
    network = cluster.network.model_copy(update={field: value * factor})
    scenario = r.scenario.model_copy(update={"cluster": cluster.model_copy(update={"network": network})})
    return replace(r, scenario=scenario)


def _network_doubled(r: Resolved) -> Resolved:
    r = _network_override(r, "bandwidth", 2)
    return _links(NETWORK_KINDS, lambda k: k.model_copy(update={"bandwidth": 2 * k.bandwidth}))(r)


def _network_nearer(r: Resolved) -> Resolved:
    for field in ("latency", "message_overhead"):
        r = _network_override(r, field, 0.5)
    halve = ("latency", "message_overhead")
    return _links(NETWORK_KINDS, lambda k: k.model_copy(update={f: getattr(k, f) / 2 for f in halve}))(r)


def improvements(recording: Recording) -> Iterator[Improvement]:
    """What is worth trying: the GPUs' parts, the host, and each kind of link that carried anything."""
    yield Improvement("GPU arithmetic", "x2", _assumed("flops", _gpus(_faster)))
    yield Improvement("memory bandwidth", "x2", _assumed("memory_bandwidth", _gpus(
        lambda g: g.model_copy(update={"memory_bandwidth": 2 * g.memory_bandwidth}))))  # fmt: skip
    yield Improvement("memory capacity", "x2", _gpus(
        lambda g: g.model_copy(update={"usable_memory": 2 * g.usable_memory})))  # fmt: skip
    yield Improvement("host time", "halved", _host_halved)
    used = {recording.topology.links[link].kind for c in recording.channels if c.bytes for link, _ in c.links}
    if used & set(NETWORK_KINDS):
        yield Improvement("network bandwidth", "x2", _network_doubled)
        yield Improvement("network latency", "halved", _network_nearer)
    for kind in ("nvlink", "pcie"):
        if kind in used:
            yield Improvement(f"{kind} bandwidth", "x2", _links(
                (kind,), lambda k: k.model_copy(update={"bandwidth": 2 * k.bandwidth})))  # fmt: skip


def _shortened(resolved: Resolved) -> Resolved:
    """The same scenario with no more than ``PROBE`` requests a job, or ``ROUNDS`` for each client."""
    jobs = []
    for job in resolved.jobs:
        load = job.spec.load
        most = max(PROBE, ROUNDS * load.closed_loop.clients if load.closed_loop else 0)
        if job.trace is not None and len(job.trace.arrival) > most:
            job = replace(job, trace=job.trace.first(most))
        elif load.requests is not None and load.requests > most:
            job = _with_load(job, load.model_copy(update={"requests": most}))
        jobs.append(job)
    return replace(resolved, jobs=tuple(jobs))


def _with_load(job: ResolvedJob, load: Load) -> ResolvedJob:
    return replace(job, spec=job.spec.model_copy(update={"load": load}))


def _answers(resolved: Resolved) -> list[JobResult]:
    recording = play(resolved)
    return job_results(recording, device_classes(recording))[0]


def _effects(
    resolved: Resolved, recording: Recording, progress: Callable[[str, float], None] | None
) -> Iterator[Effect]:
    short = _shortened(resolved)
    base = _answers(short)
    tries = list(improvements(recording))
    for i, better in enumerate(tries):
        if progress:
            progress("what binds", i / len(tries))
        try:
            yield _effect(better, base, _answers(better.apply(short)))
        except InfeasibleError:
            continue


def _effect(better: Improvement, base: list[JobResult], new: list[JobResult]) -> Effect:
    tokens = [sum(j.metrics.output_tokens_per_s for j in jobs) for jobs in (base, new)]
    money = [[j.cost.usd_per_million_tokens for j in jobs if j.cost] for jobs in (base, new)]
    return Effect(
        resource=better.resource,
        change=better.change,
        output_tokens_per_s=tokens[1],
        relative=tokens[1] / tokens[0] - 1 if tokens[0] else 0.0,
        usd_per_million_tokens_relative=_relative(*(m[0] if len(m) == 1 else None for m in money)),
        ttft_p50_relative=_worst(base, new, lambda m: m.ttft_s.p50),
        tpot_p50_relative=_worst(base, new, lambda m: m.tpot_s.p50),
    )


def _relative(old: float | None, new: float | None) -> float | None:
    return new / old - 1 if old and new is not None else None


def _worst(
    base: list[JobResult], new: list[JobResult], pick: Callable[[ServingMetrics], float | None]
) -> float | None:
    """The change of largest size over the jobs."""
    changes = [_relative(pick(a.metrics), pick(b.metrics)) for a, b in zip(base, new, strict=True)]
    known = [c for c in changes if c is not None]
    return max(known, key=abs) if known else None


# -- saturation and seeds -----------------------------------------------------------------------------------


def _with_saturation(result: Result, resolved: Resolved) -> Result:
    """Add what the hardware gives when requests never run out: as many clients as it can hold, and a few."""
    short = _shortened(resolved)
    jobs = []
    for job in short.jobs:
        clients = min(4000, _room_for(job, result))
        requests = min(max(PROBE, ROUNDS * clients), 16_000)
        load = job.spec.load
        loop = ClosedLoop(clients=clients).model_copy(update={"ramp": _service_time(job, result)})
        if job.trace is not None:
            job = replace(job, trace=job.trace.cycled(requests))
            load = load.model_copy(update={"trace": None, "closed_loop": loop})
        else:
            kinds = ("poisson", "gamma", "deterministic", "diurnal", "all_at_once")
            load = load.model_copy(update={
                **dict.fromkeys(kinds), "closed_loop": loop, "requests": requests,
            })  # fmt: skip
        jobs.append(_with_load(job, load))
    answers = _answers(replace(short, jobs=tuple(jobs)))
    updated, warn = [], list(result.verdict.warnings)
    for mine, full, job in zip(result.jobs, answers, resolved.jobs, strict=True):
        share = mine.metrics.output_tokens_per_s / (full.metrics.output_tokens_per_s or 1.0)
        if job.spec.load.closed_loop is None and mine.state == "stable" and share > HIGH_LOAD:
            warn.append(
                f"{mine.name}: at {format_percent(share)} of what the hardware can do, times to first token hang on "
                "the last percent of capacity: read them with the load"
            )
        if mine.cost is None or full.cost is None:
            updated.append(mine)
            continue
        top = Saturation(
            output_tokens_per_s=full.metrics.output_tokens_per_s,
            usd_per_million_tokens=full.cost.usd_per_million_tokens,
        )
        updated.append(mine.model_copy(update={"cost": mine.cost.model_copy(update={"saturation": top})}))
    single: Cost | None = updated[0].cost if len(updated) == 1 else None
    verdict = result.verdict.model_copy(update={"warnings": warn})
    return result.model_copy(update={"jobs": updated, "cost": single, "verdict": verdict})


def _service_time(job: ResolvedJob, result: Result) -> float:
    """Seconds a request took in the run, queueing left out: clients who come one by one over it do not march."""
    metrics = next(j.metrics for j in result.jobs if j.name == job.spec.name)
    return max(0.0, (metrics.latency_s.mean or 0.0) - (metrics.queue_s.mean or 0.0))


def _room_for(job: ResolvedJob, result: Result) -> int:
    """Clients that keep every replica full: what the KV cache holds of the mean request, and a quarter more."""
    mine = next(j for j in result.jobs if j.name == job.spec.name)
    tokens = min(m.kv_tokens for m in result.memory if m.job == job.spec.name)
    m = mine.metrics
    mean = (m.total_tokens_per_s / m.requests_per_s) if m.requests_per_s else 1000.0
    dp = job.spec.plan.dp
    sequences = job.spec.batching.batch_size or job.spec.batching.max_sequences or job.stack.max_sequences
    return max(1, int(1.25 * dp * min(sequences, tokens / max(1.0, mean) + 1)))


def _seeded(resolved: Resolved, offset: int) -> Resolved:
    scenario = resolved.scenario
    return replace(resolved, scenario=scenario.model_copy(update={"seed": scenario.seed + offset}))


def _with_seeds(result: Result, resolved: Resolved, seeds: int, executor: Executor | None) -> Result:
    """Replace the intervals by those over ``seeds`` independent runs."""
    others = [_seeded(resolved, i) for i in range(1, seeds)]
    runs = list(executor.map(_answers, others)) if executor else [_answers(r) for r in others]
    pairs = [pair for answers in runs for pair in zip(answers, result.jobs, strict=True)]
    if all(answer.metrics == mine.metrics for answer, mine in pairs):
        method = f"{result.intervals_method}; nothing in this load is random: all {seeds} seeds give the same run"
        return result.model_copy(update={"intervals_method": method})
    intervals: dict[str, list[float]] = {}
    for i, mine in enumerate(result.jobs):
        values = across_seeds([mine.metrics] + [answers[i].metrics for answers in runs])
        for name, interval in values.items():
            intervals[f"jobs.{i}.metrics.{name}"] = interval
            if len(result.jobs) == 1:
                intervals[f"metrics.{name}"] = interval
    method = f"95%, Student's t over {seeds} runs with seeds {result.seed} to {result.seed + seeds - 1}"
    return result.model_copy(update={"intervals": intervals, "intervals_method": method})
