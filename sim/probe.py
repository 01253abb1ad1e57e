"""What binds, and what the hardware could do: the same requests again, on a changed cluster or with more clients.

What does *not* bind is found, not guessed: the requests are played again on a cluster whose arithmetic, memory
bandwidth, memory, links or host are better, and the change is reported. Re-runs are shortened to ``PROBE``
requests, or ``ROUNDS`` times what is in the cluster at once, and compared with a baseline shortened alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from sim.adapters.resolve import Resolved, ResolvedJob, ResolvedServing, ResolvedTraining
from sim.errors import InfeasibleError, RunError
from sim.jobs.play import Recording, play
from sim.jobs.serving.build import UNBOUNDED
from sim.jobs.serving.recording import ServingRecording
from sim.results.assemble import job_results
from sim.results.collect import device_classes
from sim.results.cost import costs_by_use, curve_of, swing_of
from sim.results.metrics import Table
from sim.results.schema import Cost, Effect, JobResult, Result, Saturation, ServingMetrics
from sim.results.verdict import HOST
from sim.spec.hardware import Gpu, KernelConstants, LinkType
from sim.spec.training_stack import TrainingConstants, TrainingStack
from sim.spec.workload import ARRIVALS, ClosedLoop, Load
from sim.units import format_percent

PROBE = 300
# The first round fills the cluster and the last drains it: two are left to measure. Where requests come by
# themselves, it takes longer until what limits the cluster shows.
ROUNDS = 4
OPEN_ROUNDS = 10
MOST_CLIENTS = 4000
# Above this share of what the hardware can do, queueing times hang on the last percent of capacity.
HIGH_LOAD = 0.9
NETWORK_KINDS = ("ethernet", "roce", "infiniband", "thunderbolt", "internet")


@dataclass(frozen=True, slots=True)
class Improvement:
    """One resource made better: its name, the change in words, and the changed scenario."""

    resource: str
    change: str
    apply: Callable[[Resolved], Resolved]


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
    """Half the time of all that the ledger counts as launches and host: of a kernel's launch, a pass, a sequence."""
    r = replace(
        _gpus(lambda g: g if g.kernels is None else g.model_copy(update={"kernels": _launched(g.kernels)}))(r),
        default_kernels=_launched(r.default_kernels),
    )
    fields = ("host_per_step", "host_per_sequence", "host_per_layer", "host_per_pipeline_pass")
    jobs: list[ResolvedJob] = []
    for job in r.jobs:
        if isinstance(job, ResolvedTraining):
            jobs.append(replace(job, stack=_framework_halved(job.stack)))
        else:
            halved = {f: getattr(job.stack, f) / 2 for f in fields}
            jobs.append(replace(job, stack=job.stack.model_copy(update=halved)))
    return replace(r, jobs=tuple(jobs))


def _launched(kernels: KernelConstants) -> KernelConstants:
    """The same kernels, launched in half the time."""
    fields = [name for name in KernelConstants.model_fields if name.endswith("_launch")]
    return kernels.model_copy(update={name: getattr(kernels, name) / 2 for name in fields})


def _framework_halved(stack: TrainingStack) -> TrainingStack:
    """A training stack whose host launches in half the time and idles half as long between steps."""
    fields = ("host_per_layer", "step_overhead", "shard_broadcast")

    def halved(c: TrainingConstants) -> TrainingConstants:
        return c.model_copy(update={f: getattr(c, f) / 2 for f in fields})

    gpus = {name: halved(constants) for name, constants in stack.gpus.items()}
    return stack.model_copy(update={"constants": halved(stack.constants), "gpus": gpus})


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
    return _links(NETWORK_KINDS, _wider)(r)


def _wider(link: LinkType) -> LinkType:
    """Twice the rate, both ways."""
    rates = {"bandwidth": link.bandwidth, "download": link.download}
    return link.model_copy(update={name: 2 * rate for name, rate in rates.items() if rate is not None})


def _network_nearer(r: Resolved) -> Resolved:
    for field in ("latency", "message_overhead"):
        r = _network_override(r, field, 0.5)
    halve = ("latency", "message_overhead")
    return _links(NETWORK_KINDS, lambda k: k.model_copy(update={f: getattr(k, f) / 2 for f in halve}))(r)


def _failures_halved(r: Resolved) -> Resolved:
    faults = r.scenario.faults
    if faults is None:
        return r
    scenario = r.scenario.model_copy(update={"faults": faults.model_copy(update={"scale": faults.scale / 2})})
    return replace(r, scenario=scenario)


def _recovery_halved(r: Resolved) -> Resolved:
    jobs: list[ResolvedJob] = []
    for job in r.jobs:
        if isinstance(job, ResolvedTraining):
            job = replace(job, spec=job.spec.model_copy(update={"recovery": job.spec.recovery.times(0.5)}))
        jobs.append(job)
    return replace(r, jobs=tuple(jobs))


def improvements(recording: Recording) -> Iterator[Improvement]:
    """What is worth trying: the GPUs' parts, the host, and each kind of link that carried anything."""
    yield Improvement("GPU arithmetic", "x2", _assumed("flops", _gpus(_faster)))
    yield Improvement("memory bandwidth", "x2", _assumed("memory_bandwidth", _gpus(
        lambda g: g.model_copy(update={"memory_bandwidth": 2 * g.memory_bandwidth}))))  # fmt: skip
    yield Improvement("memory capacity", "x2", _gpus(
        lambda g: g.model_copy(update={"usable_memory": 2 * g.usable_memory})))  # fmt: skip
    yield Improvement(HOST, "halved", _host_halved)
    used = {recording.topology.links[link].kind for c in recording.channels if c.bytes for link, _ in c.links}
    if used & set(NETWORK_KINDS):
        yield Improvement("network bandwidth", "x2", _network_doubled)
        yield Improvement("network latency", "halved", _network_nearer)
    for kind in ("nvlink", "pcie"):
        if kind in used:
            yield Improvement(f"{kind} bandwidth", "x2", _links((kind,), _wider))
    if any(job.life is not None and job.life.stops for job in recording.training):
        faults = recording.resolved.scenario.faults
        if faults is not None and faults.trace is None:
            yield Improvement("failures", "half as many", _failures_halved)
        yield Improvement("recovery time", "halved", _recovery_halved)


# -- runs again --------------------------------------------------------------------------------------------


def answers(resolved: Resolved) -> list[JobResult]:
    """The jobs' answers of one run."""
    recording = play(resolved, charts=False)
    return job_results(recording, device_classes(recording))[0]


def _answers_if_any(resolved: Resolved) -> list[JobResult] | None:
    try:
        return answers(resolved)
    except (InfeasibleError, RunError):  # it may have more steps beside other jobs than are played
        return None


def room_for(recording: ServingRecording) -> int:
    """Requests that a job's replicas hold at once: by its limits, and by KV cache for the mean request."""
    job, table = recording.job, recording.table
    batching, plan = job.spec.batching, job.spec.plan
    most = batching.max_sequences or job.stack.max_sequences
    if batching.batch_size is not None:
        most = batching.batch_size * (plan.micro_batches or plan.pp)
    mean = sum(p + o for p, o in zip(table.prompt, table.output, strict=True)) / len(table)
    replicas = zip(recording.layout.tokens, recording.replicas, strict=True)
    rooms = [most if r.scheduler.limits.blocks >= UNBOUNDED // 1000 else max(0, t) / mean + 1 for t, r in replicas]
    return max(1, int(sum(min(most, room) for room in rooms)))


def shortened(resolved: Resolved, recording: Recording) -> Resolved:
    """The same scenario with no more than ``PROBE`` requests a job, or ``ROUNDS`` for each it holds or each client."""
    jobs: list[ResolvedJob] = []
    for job, played in zip(resolved.jobs, recording.jobs, strict=True):
        if not (isinstance(job, ResolvedServing) and isinstance(played, ServingRecording)):
            jobs.append(job)
            continue
        job = all_on(job)
        load = job.spec.load
        rounds = ROUNDS * load.closed_loop.clients if load.closed_loop else OPEN_ROUNDS * room_for(played)
        most = max(PROBE, min(rounds, ROUNDS * MOST_CLIENTS))
        if job.trace is not None and len(job.trace.arrival) > most:
            job = replace(job, trace=job.trace.first(most))
        elif load.requests is not None and load.requests > most:
            job = _with_load(job, load.model_copy(update={"requests": most}))
        jobs.append(job)
    return _undisturbed(replace(resolved, jobs=tuple(jobs)))


def _undisturbed(resolved: Resolved) -> Resolved:
    """Without faults where nobody trains: a short run meets an outage or not, which says nothing of the hardware."""
    if any(isinstance(job, ResolvedTraining) for job in resolved.jobs):
        return resolved
    scenario = resolved.scenario.model_copy(update={"faults": None})
    return replace(resolved, scenario=scenario, faults=(), fault_trace=None)


def _with_load(job: ResolvedServing, load: Load) -> ResolvedServing:
    return replace(job, spec=job.spec.model_copy(update={"load": load}))


def effects(
    resolved: Resolved,
    recording: Recording,
    progress: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> list[Effect]:
    """What each improvement changes; those that do not fit the cluster are left out."""
    short = shortened(resolved, recording)
    tries = list(improvements(recording))
    changed = [short, *(better.apply(short) for better in tries)]
    found: list[list[JobResult] | None] = []
    for i, answer in enumerate((executor.map if executor else map)(_answers_if_any, changed)):
        found.append(answer)
        if progress:
            progress("what binds", (i + 1) / len(changed))
    base = found[0]
    if base is None:
        return []
    return [_effect(better, base, new) for better, new in zip(tries, found[1:], strict=True) if new is not None]


def _effect(better: Improvement, base: list[JobResult], new: list[JobResult]) -> Effect:
    tokens = [sum(_rate(j) for j in jobs) for jobs in (base, new)]
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


def _rate(job: JobResult) -> float:
    """Tokens a second of a job: those it answers with, or those it trains on."""
    m = job.metrics
    if isinstance(m, ServingMetrics):
        return m.output_tokens_per_s
    return m.tokens_per_s if m.goodput_tokens_per_s is None else m.goodput_tokens_per_s


def _relative(old: float | None, new: float | None) -> float | None:
    return new / old - 1 if old and new is not None else None


def _worst(
    base: list[JobResult], new: list[JobResult], pick: Callable[[ServingMetrics], float | None]
) -> float | None:
    """The change of largest size over the jobs."""
    pairs = [(a.metrics, b.metrics) for a, b in zip(base, new, strict=True)]
    changes = [
        _relative(pick(a), pick(b))
        for a, b in pairs
        if isinstance(a, ServingMetrics) and isinstance(b, ServingMetrics)
    ]
    known = [c for c in changes if c is not None]
    return max(known, key=abs) if known else None


# -- saturation --------------------------------------------------------------------------------------------


def with_saturation(result: Result, resolved: Resolved, recording: Recording) -> Result:
    """Add what the hardware gives when requests never run out: a quarter more clients than it holds.

    Where the load itself got more out of it (clients beyond the KV cache cost preemptions), that counts.
    """
    if not recording.serving:
        return result
    full = play(saturated(resolved, recording), charts=False)
    found = job_results(full, device_classes(full))[0]
    updated, warn = [], list(result.verdict.warnings)
    for number, (mine, most, job) in enumerate(zip(result.jobs, found, resolved.jobs, strict=True)):
        if not isinstance(job, ResolvedServing):
            updated.append(mine)
            continue
        best = max((mine, most), key=_rate)
        top = _rate(best)
        share = _rate(mine) / top if top else 0.0
        if job.spec.load.closed_loop is None and mine.state == "stable" and share > HIGH_LOAD:
            warn.append(
                f"{mine.name}: at {format_percent(share)} of what the hardware can do, times to first token hang on "
                "the last percent of capacity: read them with the load"
            )
        if mine.cost is not None and best.cost is not None:
            over_use = _over_use(number, recording, full if best is most else recording, best)
            mine = mine.model_copy(update={"cost": mine.cost.model_copy(update=over_use)})
        updated.append(mine)
    single: Cost | None = updated[0].cost if len(updated) == 1 else None
    verdict = result.verdict.model_copy(update={"warnings": warn})
    return result.model_copy(update={"jobs": updated, "cost": single, "verdict": verdict})


def _over_use(number: int, recording: Recording, full: Recording, best: JobResult) -> dict[str, Any]:
    """What a job's cost gains by knowing its saturation, which is ``best`` of the run ``full``."""
    own, played = recording.jobs[number], full.jobs[number]
    assert best.cost is not None
    assert isinstance(own, ServingRecording)
    costs = costs_by_use(full, played, _rate(best), device_classes(full))
    return {
        "saturation": Saturation(
            output_tokens_per_s=_rate(best),
            usd_per_million_tokens=best.cost.usd_per_million_tokens,
            usd_per_million_tokens_range=best.cost.usd_per_million_tokens_range,
        ),
        "curve": curve_of(costs),
        "swing": swing_of(recording, own, costs),
    }


def saturated(resolved: Resolved, recording: Recording) -> Resolved:
    """The scenario with a closed loop of more clients than fit, and all replicas on."""
    jobs: list[ResolvedJob] = []
    for job, played in zip(resolved.jobs, recording.jobs, strict=True):
        if isinstance(job, ResolvedServing) and isinstance(played, ServingRecording):
            job = with_clients(all_on(job), most_clients(played), service_time(played))
        jobs.append(job)
    return _undisturbed(replace(resolved, jobs=tuple(jobs)))


def all_on(job: ResolvedServing) -> ResolvedServing:
    """The job with replicas that do not come and go: a short run would tell of their start."""
    spec = job.spec
    if spec.autoscale is None:
        return job
    router = "least_loaded" if spec.router == "sticky" else spec.router
    return replace(job, spec=spec.model_copy(update={"autoscale": None, "router": router}))


def most_clients(recording: ServingRecording) -> int:
    """A quarter more clients than a job's replicas hold, at most ``MOST_CLIENTS``."""
    return min(MOST_CLIENTS, 1 + room_for(recording) * 5 // 4)


def with_clients(job: ResolvedServing, clients: int, ramp: float) -> ResolvedServing:
    """The job under a closed loop of ``clients`` who never pause, ``ROUNDS`` requests each and ``PROBE`` at least, with
    the same lengths. They come one by one over ``ramp`` seconds so as not to march in step."""
    requests = max(PROBE, ROUNDS * clients)
    loop = ClosedLoop(clients=clients).model_copy(update={"ramp": ramp})
    if job.trace is not None:
        job = replace(job, trace=job.trace.cycled(requests))
    update = {**dict.fromkeys(ARRIVALS), "closed_loop": loop, "requests": requests}
    if job.spec.load.conversation is not None:
        update["conversation"] = job.spec.load.conversation.model_copy(update={"think_time": 0.0})
    return _with_load(job, job.spec.load.model_copy(update=update))


def service_time(recording: ServingRecording) -> float:
    """Mean seconds from a request's first pass to its end."""
    table = Table.of(recording.table)
    return float((table.finish - table.scheduled).mean()) if len(table) else 0.0
