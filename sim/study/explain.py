"""Where a number comes from: formula by formula, with the inputs of this run and their sources.

A simulated number is not one formula. What is told is the law behind it at the run's own means (the mean pass of a
replica, the mean step), how far that is from the simulated value, and what lies between: waiting, batches that differ,
prompts that ride along. Other numbers are told by their definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from sim.adapters.resolve import Resolved
from sim.errors import InputError, Problem, did_you_mean
from sim.jobs.reliability.effects import BADPUT
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.serving.replica import Replica, Stage
from sim.jobs.training.run import TrainingRecording
from sim.laws.pricing import HOUR, stated
from sim.laws.step import Pass, Whole
from sim.results.cost import NOT_NUMBERS
from sim.results.metrics import Table
from sim.results.schema import Cost, JobResult, ServingMetrics, Spread, TrainingMetrics
from sim.run import Outcome, run_recorded
from sim.study.explain_latency import Step, at_percentile, served, ttft
from sim.units import (
    format_bandwidth,
    format_bytes,
    format_count,
    format_flops,
    format_percent,
    format_seconds,
    format_usd,
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A number of a run, what it means, and how it comes about."""

    path: str
    value: float | None
    definition: str
    steps: tuple[Step, ...]


#: Names that people try, and the paths they mean.
SHORT = {
    "tpot": "metrics.tpot_s.p50", "ttft": "metrics.ttft_s.p50", "throughput": "metrics.output_tokens_per_s",
    "mfu": "metrics.mfu", "step": "metrics.step_time_s", "cost": "cost.usd_per_million_tokens",
    "payback": "cost.payback_months",
}  # fmt: skip


def explain(resolved: Resolved, path: str, number: int = 0) -> Explanation:
    """Simulate, and derive the number at ``path`` of job ``number``: ``metrics.tpot_s.p50``, ``cost.usd_per_hour``, ...

    A percentile left out is the median, a trailing ``_s`` may be. Raises InputError for a path that there is not.
    """
    if not 0 <= number < len(resolved.jobs):
        raise InputError([Problem("", None, None, None, f"there is no job {number}: there are {len(resolved.jobs)}")])
    outcome = run_recorded(resolved, effects=False)
    job = outcome.result.jobs[number]
    found = _path_of(path, job)
    value = _value(job, found)
    metric = found.split(".")[1]
    derive = DERIVATIONS.get(f"{found.split('.')[0]}.{metric}")
    steps = tuple(derive(outcome, number)) if derive is not None else ()
    if steps and found.count(".") == 2:
        steps += tuple(at_percentile(outcome, number, metric, found.rpartition(".")[2]))
    return Explanation(found, value, outcome.result.definitions.get(metric, ""), steps)


def paths_of(job: JobResult) -> list[str]:
    """Every number of a job that can be asked for."""
    found = []
    for part, values in (("metrics", job.metrics), ("cost", job.cost)):
        for key, value in values or ():
            if isinstance(value, Spread):
                found += [f"{part}.{key}.{p}" for p in ("p50", "mean", "p90", "p99")]
            elif (isinstance(value, (int, float)) or value is None) and key not in NOT_NUMBERS:
                found.append(f"{part}.{key}")
    return found


def _path_of(said: str, job: JobResult) -> str:
    known = paths_of(job)
    wanted = SHORT.get(said, said)
    for tried in (wanted, f"{wanted}.p50", f"{wanted}_s", f"{wanted}_s.p50", f"metrics.{wanted}", f"cost.{wanted}",
                  f"metrics.{wanted}_s", f"metrics.{wanted}.p50", f"metrics.{wanted}_s.p50"):  # fmt: skip
        if tried in known:
            return tried
    head, _, last = wanted.rpartition(".")
    for tried in (f"{head}_s.{last}", f"metrics.{head}_s.{last}"):
        if tried in known:
            return tried
    near = did_you_mean(wanted, [*known, *SHORT])
    raise InputError([Problem("", None, None, said, f"no number of job {job.name} is called so", near)])


def _value(job: JobResult, path: str) -> float | None:
    value: object = job
    for part in path.split("."):
        value = getattr(value, part)
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else None


# -- serving ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _MeanPass:
    """A replica's mean pass: sequences in it, and the context of each; without a KV cache that is ``whole``, computed
    again, else the tokens cached of it."""

    sequences: float
    context: float
    whole: bool

    @classmethod
    def of(cls, job: ServingRecording, replica: Replica) -> _MeanPass:
        tally, table, whole = replica.tally, job.table, not job.job.spec.batching.kv_cache
        running, context = sum(tally.running.values), sum(tally.cached.values)
        sequences = tally.sequence_seconds / tally.pass_seconds if tally.pass_seconds else 0.0
        if whole:  # of the passes behind the first token of each request
            running = sum(n - 1.0 for n in table.generated if n)
            context = table.recomputed + running
        return cls(sequences, context / running if running else 0.0, whole)

    def cost(self, stage: Stage) -> Pass:
        """What it takes on a stage."""
        n, context = max(1, round(self.sequences)), round(self.context)
        if self.whole:
            return stage.law.anew(Whole(n, n * context, n * context**2, lambda: [context] * n))
        return stage.law.cost(n, round(n * self.context), ())


def _tpot(outcome: Outcome, number: int) -> list[Step]:
    """The mean pass of the first replica, stage by stage and hop by hop."""
    job, metrics = served(outcome, number)
    replica = job.replicas[0]
    mean = _MeanPass.of(job, replica)
    b = mean.sequences
    of_each = "tokens of each, all computed again" if mean.whole else "tokens cached of each"
    steps = [Step("mean pass", f"sequences in it, and {of_each}, over the run",
                  f"{b:.3g} x {format_count(mean.context)}")]  # fmt: skip
    if (guesses := job.job.spec.speculative) is not None:
        steps.append(Step(
            "tokens a pass", f"1 + a + ... + a^{guesses.tokens} with a = {guesses.acceptance:g}: below, a pass of the "
            "model and those of its draft, divided by it", f"{guesses.kept:.3g}", "docs/model.md: speculative decoding",
        ))  # fmt: skip
    slowest = max(replica.stages, key=lambda stage: mean.cost(stage).total)
    steps += _stage_steps(outcome, job, slowest, mean)
    stages = sum(mean.cost(stage).total for stage in replica.stages)
    hops = [stage.hop for stage in replica.stages if stage.hop is not None]
    if not hops:
        period = stages
        steps.append(Step("a token of each sequence", "one pass", format_seconds(period)))
    else:
        moving = 0.0
        tokens = b * mean.context if mean.whole else b
        for hop in hops:
            size = hop.bytes_per_token * tokens + hop.bytes_per_sequence * b
            moving += size / hop.cap + hop.overhead + hop.delay(size)
        first = hops[0]
        steps.append(Step(
            "hops", f"sum over {len(hops)} of bytes / {format_bandwidth(first.cap)} + "
            f"{format_seconds(first.overhead)} + {format_seconds(first.latency)}; "
            f"{format_bytes(first.bytes_per_token * tokens)} forward",
            format_seconds(moving), "link types of the topology",
        ))  # fmt: skip
        slots = len(replica.slots)
        around, one = stages + moving, mean.cost(slowest).total
        period = max(around, slots * one)
        steps.append(Step(
            "a token of each sequence",
            f"max(once around {format_seconds(around)}, {slots} micro-batches x slowest stage {format_seconds(one)})",
            format_seconds(period), "docs/model.md: the pipeline as a ring",
        ))  # fmt: skip
    return [*steps, *_apart(period, metrics.tpot_s.mean, "prompts that ride along, batches that differ, waiting")]


def _apart(law: float, simulated: float | None, what: str) -> list[Step]:
    if not simulated:
        return []
    change = simulated / law - 1.0
    told = f"{format_percent(abs(change))} {'more' if change >= 0 else 'less'}"
    return [Step("simulated, mean", f"the law at the means, and {what}", f"{format_seconds(simulated)}, {told}")]


def _stage_steps(outcome: Outcome, job: ServingRecording, stage: Stage, mean: _MeanPass) -> list[Step]:
    """A decode pass of a stage: what it reads, computes, launches and sends."""
    law, shape, rates = stage.law, stage.law.shape, stage.law.shape.rates
    gpu = outcome.recording.resolved.gpus[stage.track.gpu]
    kernels = outcome.recording.resolved.kernels(gpu)
    n, context, cost = max(1, round(mean.sequences)), mean.context, mean.cost(stage)
    weights = law.weights_read(round(n * context) if mean.whole else n)
    experts = ", as many experts as a pass meets" if shape.mixture else ""
    seconds, latent = n * context * law.decode_bytes / rates.decode, ""
    if shape.model.latent:
        seconds = n * context * law.decode_slope
        latent = f", or {format_flops(law.decode_flops).removesuffix('/s')} / {format_flops(rates.prefill)}"
    name = f"stage {stage.track.stage}, " if len(job.replicas[0].stages) > 1 else ""
    share = rates.weights / rates.bandwidth
    found = [
        Step(f"{name}weights{experts}",
             f"{format_bytes(weights)} / ({format_bandwidth(rates.bandwidth)} x {share:.3g})",
             format_seconds(weights / rates.weights), f"{gpu.id}: {gpu.sources.get('memory_bandwidth', gpu.source)}; "
             f"kernels: {kernels.source}"),
        *([] if mean.whole else [
            Step(f"{name}KV cache", f"{n} x {format_count(context)} tokens x {format_bytes(law.decode_bytes)} / "
                 f"{format_bandwidth(rates.decode)}{latent}", format_seconds(seconds), f"kernels: {kernels.source}")]),
        Step(f"{name}arithmetic", f"{format_flops(cost.flops).removesuffix('/s')} / {format_flops(rates.matmul)}",
             format_seconds(cost.flops / rates.matmul), "beside the reads: the roofline's knee rounds both"),
        Step(f"{name}launches and host", f"{shape.layers} layers of kernels, the engine's step",
             format_seconds(cost.launch), f"stack {job.job.stack.id}: {job.job.stack.source}"),
    ]  # fmt: skip
    if cost.communication:
        each = "2 all-to-alls a layer of experts" if shape.exchanges else "2 all-reduces a layer"
        found.append(Step(
            f"{name}collectives", f"{each}, {format_bytes(cost.wire)} in all over {stage.link}",
            format_seconds(cost.communication), "docs/model.md: collectives",
        ))  # fmt: skip
    return [*found, Step(f"{name}pass", "kernels, host and collectives", format_seconds(cost.total))]


def _throughput(outcome: Outcome, number: int) -> list[Step]:
    """Little's law on tokens: sequences that decode over the time of a token."""
    job, metrics = served(outcome, number)
    table, window = Table.of(job.table), outcome.result.jobs[number].window
    seconds = window.end_s - window.start_s
    if seconds <= 0.0 or not metrics.tpot_s.mean:
        return []
    start, end = np.maximum(table.first, window.start_s), np.minimum(table.finish, window.end_s)
    decoding = float(np.clip(end - start, 0.0, None).sum() / seconds)
    rate = decoding / metrics.tpot_s.mean
    return [
        Step("sequences that decode", "mean over the measured window", f"{decoding:.4g}"),
        Step("time per token", "mean TPOT over requests", format_seconds(metrics.tpot_s.mean)),
        Step("throughput", "sequences / time per token (Little's law)", f"{format_count(rate)} tok/s",
             "requests weigh alike in the mean TPOT, tokens in the throughput"),
    ]  # fmt: skip


# -- money --------------------------------------------------------------------------------------------------


def _cost(outcome: Outcome, number: int) -> Cost:
    cost = outcome.result.jobs[number].cost
    assert cost is not None
    return cost


def _per_hour(outcome: Outcome, number: int) -> list[Step]:
    cost, spec = _cost(outcome, number), outcome.recording.resolved.scenario.cost
    assert spec is not None
    energy = stated(spec.electricity or 0.0).mid
    as_of = f"prices as of {spec.prices_as_of}" if spec.prices_as_of else "the scenario"
    formulas = {
        "capital": f"{format_usd(cost.capital_usd or 0.0)} over {format_seconds(spec.amortisation)}"
        + (f", {format_percent(spec.resale)} resold" if spec.resale else "")
        + (f", at {format_percent(spec.interest)} a year" if spec.interest else ""),
        "electricity": f"{format_count((cost.power_w or 0.0) / 1000)} kW x {energy:g} USD/kWh",
        "hosting": "place in a data centre", "rent": "rent of the cluster",
    }  # fmt: skip
    steps = [
        Step(part, formulas.get(part, "rent of a share of the cluster"), f"{format_usd(value)}/h", as_of)
        for part, value in cost.breakdown_usd_per_hour.items()
    ]
    return [*steps, Step("an hour", "their sum, the job's share by GPUs", f"{format_usd(cost.usd_per_hour)}/h")]


def _per_token(outcome: Outcome, number: int) -> list[Step]:
    cost, metrics = _cost(outcome, number), outcome.result.jobs[number].metrics
    if isinstance(metrics, ServingMetrics):
        rate, what = metrics.output_tokens_per_s, "tokens generated"
    else:
        rate, what = metrics.goodput_tokens_per_s or metrics.tokens_per_s, "tokens trained on"
    if rate <= 0.0:
        return _per_hour(outcome, number)
    value = cost.usd_per_hour / (rate * HOUR) * 1e6
    return [
        *_per_hour(outcome, number),
        Step(what, "of the measured window" if isinstance(metrics, ServingMetrics) else "the rate of the run",
             f"{format_count(rate)} tok/s"),
        Step("a million tokens", "USD/h / (tok/s x 3600) x 1e6", f"{format_usd(value)}/Mtok"),
    ]  # fmt: skip


def _payback(outcome: Outcome, number: int) -> list[Step]:
    cost, spec = _cost(outcome, number), outcome.recording.resolved.scenario.cost
    assert spec is not None
    if spec.income is None or cost.income_usd_per_hour is None or cost.running_usd_per_hour is None:
        return [Step("income", "none is stated: give cost.income", "n/a")]
    as_of = f"prices as of {spec.prices_as_of}" if spec.prices_as_of else "the scenario"
    left, share = cost.income_usd_per_hour - cost.running_usd_per_hour, format_percent(spec.income.occupancy)
    what = "tokens/s x 3600 x api_price" if spec.income.tokens else "rent of the job's share of the GPUs"
    capital = format_usd(cost.capital_usd or 0.0)
    steps = [
        Step("income", f"{what} x {share} of all hours", f"{format_usd(cost.income_usd_per_hour)}/h", as_of),
        Step("running costs", f"electricity and hosting, {share} of all hours as in this run, idle in the rest",
             f"{format_usd(cost.running_usd_per_hour)}/h", as_of),
        Step("left", "income - running costs", f"{format_usd(left)}/h"),
        Step("purchase", "no running cost", capital, as_of),
    ]  # fmt: skip
    if cost.payback_months is None:
        why = "nothing is left" if left <= 0.0 else "what is left is no more than the interest on the purchase"
        return [*steps, Step("payback", why, "never")]
    at = f", with {format_percent(spec.interest)} a year on what is owed" if spec.interest else ""
    months = f"{format_count(cost.payback_months)} months"
    return [*steps, Step("payback", f"purchase / left / 730 h{at}", months)]


# -- training -----------------------------------------------------------------------------------------------


def _trained(outcome: Outcome, number: int) -> tuple[TrainingRecording, TrainingMetrics]:
    job, metrics = outcome.recording.jobs[number], outcome.result.jobs[number].metrics
    assert isinstance(job, TrainingRecording)
    assert isinstance(metrics, TrainingMetrics)
    return job, metrics


def _step_time(outcome: Outcome, number: int) -> list[Step]:
    """The mean GPU's step by bucket of the ledger."""
    job, metrics = _trained(outcome, number)
    end = outcome.result.simulated_s
    total: dict[str, float] = {}
    gpus = 0
    for track, _, _ in job.tracks:
        gpus += track.count
        for bucket, seconds in track.ledger(end).items():
            total[bucket] = total.get(bucket, 0.0) + seconds * track.count
    worked = job.worked
    badput = {"waiting for work", *BADPUT.values()}
    steps = [
        Step(bucket, "seconds of a step, mean over GPUs", format_seconds(seconds / gpus / worked),
             outcome.result.definitions.get(bucket, ""))
        for bucket, seconds in sorted(total.items(), key=lambda item: -item[1])
        if bucket not in badput and seconds > 0.0
    ]  # fmt: skip
    m, spec = metrics, job.job.spec
    steps.insert(0, Step("work of a step", f"{m.micro_batches} micro-batches of {spec.batch.micro} x "
                         f"{spec.batch.sequence:,} tokens a replica, {spec.plan.dp} replicas",
                         f"{format_count(m.global_batch_tokens)} tokens"))  # fmt: skip
    return [*steps, Step("a step", "their sum: all GPUs wait for the last", format_seconds(m.step_time_s),
                         f"stack {job.job.stack.id}: {job.job.stack.source}")]  # fmt: skip


def _rate(outcome: Outcome, number: int) -> list[Step]:
    _, m = _trained(outcome, number)
    return [
        Step("tokens of a step", "global batch x sequence", format_count(m.global_batch_tokens)),
        Step("a step", "see metrics.step_time_s", format_seconds(m.step_time_s)),
        Step("rate", "tokens / step", f"{format_count(m.global_batch_tokens / m.step_time_s)} tok/s"),
    ]


def _mfu(outcome: Outcome, number: int) -> list[Step]:
    job, m = _trained(outcome, number)
    peak = sum(track.count * p for track, p, _ in job.tracks)
    return [
        Step("a token", "6 N + 6 L s a hd, frozen weights 4 N",
             format_flops(m.model_flops_per_token).removesuffix("/s"), "docs/model.md: model FLOPs"),
        Step("rate", "see metrics.tokens_per_s", f"{format_count(m.tokens_per_s)} tok/s"),
        Step("peak", "dense peak of the training format, all GPUs", format_flops(peak), "datasheets of the GPUs"),
        Step("MFU", "a token x rate / peak", format_percent(m.model_flops_per_token * m.tokens_per_s / peak)),
    ]  # fmt: skip


def _days(outcome: Outcome, number: int) -> list[Step]:
    _, m = _trained(outcome, number)
    if not m.target_tokens:
        return []
    rate = m.goodput_tokens_per_s or m.tokens_per_s
    return [
        Step("target", "run.target_tokens, or the run's", f"{format_count(m.target_tokens)} tokens"),
        Step("rate", "tokens/s" + (" x effective training time" if m.goodput_tokens_per_s else ""),
             f"{format_count(rate)} tok/s"),
        Step("time", "target / rate", format_seconds(m.target_tokens / rate)),
    ]  # fmt: skip


#: Numbers that are derived, and how.
DERIVATIONS: dict[str, Callable[[Outcome, int], Sequence[Step]]] = {
    "metrics.tpot_s": _tpot, "metrics.tokens_per_s_per_user": _tpot, "metrics.ttft_s": ttft,
    "metrics.output_tokens_per_s": _throughput, "cost.usd_per_hour": _per_hour,
    "cost.usd_per_million_tokens": _per_token, "cost.tokens_per_usd": _per_token, "cost.payback_months": _payback,
    "metrics.step_time_s": _step_time, "metrics.tokens_per_s": _rate, "metrics.mfu": _mfu,
    "metrics.days_to_target": _days,
}  # fmt: skip


