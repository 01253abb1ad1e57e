"""Numbers of one training job, from a step and the length of its run.

A step does not change from the first to the last, so rates are those of one step; where steps were played beside other
jobs they are those of the mean step. Means over GPUs weigh each class by
its GPUs. What training to ``target_tokens`` (or to the run's own tokens) takes follows from the rate.

With parameter servers rates a GPU, FLOPs utilisation and ``utilisation_mean`` count the servers' GPUs too; what is
waited for is that of the workers.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from sim.engine.histogram import percentiles
from sim.jobs.reliability.terms import Reliability
from sim.jobs.training.run import TrainingRecording
from sim.jobs.training.step import Seconds, slowest_sync
from sim.laws.training.flops import model_flops_per_token
from sim.results.schema import CheckpointLevel, Cost, TrainingMetrics, Window
from sim.spec.reliability import Checkpoint
from sim.spec.scenario import Assume
from sim.units import format_seconds

DAY = 86_400.0
#: What a run spends between a failure and its next step.
RECOVERY = ("detection", "restart", "down")


def training_metrics(recording: TrainingRecording, assume: Assume) -> TrainingMetrics:
    """All numbers of the job but those that need prices (:func:`priced`)."""
    job, step = recording.job, recording.step
    spec, model = job.spec, job.model
    batch, gpus = spec.batch, len(recording.gpus)
    workers = spec.plan.workers
    tokens = batch.whole * batch.sequence
    rate = tokens / step.seconds
    needed = model_flops_per_token(
        model, batch.sequence, spec.finetune, assume.parameters, attention_free=assume.attention == "free"
    )  # fmt: skip
    peak = sum(peak * track.count for track, peak, _ in recording.tracks)
    done = sum(s.flops * track.count for *_, s, track in recording.members)
    mean = _mean(recording)
    exposed: dict[str, float] = {}
    for (axis, _), seconds in mean.communication.items():
        exposed[axis] = exposed.get(axis, 0.0) + seconds
    fullest = recording.layout.fullest
    target = float(spec.run.target_tokens or spec.run.tokens or 0) or None
    lived = _lived(recording, rate)
    useful = lived.get("goodput_tokens_per_s", rate)
    seconds_to_target = target / useful if target and useful else None
    return TrainingMetrics(
        step_time_s=step.seconds,
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / gpus,
        samples_per_s=batch.whole / step.seconds,
        mfu=needed * rate / peak,
        hfu=done / step.seconds / peak,
        model_flops_per_token=needed,
        bubble_fraction=mean.bubble / step.seconds,
        exposed_communication_s=exposed,
        exposed_communication_fraction=sum(exposed.values()) / step.seconds,
        sent_bytes_per_gpu=sent_bytes(recording),
        optimizer_s=_updated(recording),
        recompute_fraction=_recomputed(recording),
        memory_peak_bytes=fullest.used,
        memory_peak_fraction=fullest.used / fullest.capacity,
        utilisation_mean=_busy(recording) / step.seconds,
        micro_batches=recording.build.micro_batches,
        global_batch_tokens=tokens,
        steps=recording.steps,
        tokens=float(tokens) * recording.steps,
        target_tokens=target,
        target_flops=needed * target if target else None,
        days_to_target=seconds_to_target / DAY if seconds_to_target else None,
        gpu_hours_to_target=seconds_to_target * workers / 3600 if seconds_to_target else None,
        usd_to_target=None,
        kwh_to_target=None,
        staleness_mean=recording.rounds.staleness_mean if recording.rounds else None,
        staleness_max=recording.rounds.staleness_max if recording.rounds else None,
        **lived,
    )


def _lived(recording: TrainingRecording, rate: float) -> dict[str, Any]:
    """What failures and checkpoints made of the run."""
    life, found = recording.life, recording.reliability
    if life is None or found is None:
        return {}
    spent, saving = life.buckets, found.saving
    recovering = sum(spent.get(bucket, 0.0) for bucket in RECOVERY)
    spares = found.terms.spares
    return {
        "ettr": life.ettr,
        "ettr_expected": found.expected(),
        "goodput_tokens_per_s": rate * life.ettr,
        "failures": sum(life.failures.values()),
        "failures_by_class": dict(sorted(life.failures.items(), key=lambda pair: -pair[1])),
        "mtbf_s": None if found.mtbf == inf else found.mtbf,
        "lost_work_s": life.lost / life.stops if life.stops else None,
        "recovery_s": recovering / life.stops if life.stops else None,
        "spares_used": None if spares == inf or life.spares_least == inf else round(spares - life.spares_least),
        "checkpoints": life.progress.checkpoints,
        "checkpoint_interval_s": None if saving is None else found.interval,
        "checkpoint_bytes": None if saving is None else saving.size,
        "checkpoint_blocking_s": None if saving is None else saving.blocking,
        "checkpoint_persist_s": None if saving is None else saving.persist,
        "checkpoint_levels": _levels(recording.job.spec.checkpoint, found),
    }


def _levels(checkpoint: Checkpoint | None, found: Reliability) -> list[CheckpointLevel]:
    """Every level of checkpoints, where there are several."""
    if checkpoint is None or checkpoint.then is None:
        return []
    levels = zip(checkpoint.levels, found.terms.saving.levels, found.sizes, strict=True)
    return [
        CheckpointLevel(
            to=said.place, interval_s=saving.interval, bytes=size, blocking_s=saving.blocking, persist_s=saving.persist
        )
        for said, saving, size in levels
    ]


def priced(metrics: TrainingMetrics, cost: Cost | None) -> TrainingMetrics:
    """The same with what the target costs in money and energy."""
    if cost is None or metrics.days_to_target is None:
        return metrics
    hours = metrics.days_to_target * 24
    energy = None if cost.power_w is None else cost.power_w / 1000 * hours
    return metrics.model_copy(update={"usd_to_target": cost.usd_per_hour * hours, "kwh_to_target": energy})


def window_of(recording: TrainingRecording) -> Window:
    """The whole run: no step differs from another, or (beside other jobs) numbers are means over all."""
    life, shared = recording.life, recording.shared
    if shared is not None:
        lengths = f"{format_seconds(shared.shortest)} to {format_seconds(shared.longest)}"
        beside = f"{shared.played:,} of them beside {' and '.join(shared.others)}"
        rule = f"all {recording.steps:,} steps, of {lengths}, {beside}"
        return Window(start_s=0.0, end_s=recording.ended, rule=rule)
    if life is not None:
        struck = sum(life.failures.values())
        rule = f"the whole run: {recording.steps:,} steps were reached, {struck:,} failures"
        return Window(start_s=0.0, end_s=recording.ended, rule=rule)
    steps = "one step" if recording.steps == 1 else f"all {recording.steps:,} steps"
    like, rounds = "each like the first", recording.rounds
    if rounds is not None:
        like = f"each like the {'last' if rounds.steady else 'mean'} of {rounds.played} rounds played"
    return Window(start_s=0.0, end_s=recording.ended, rule=f"{steps}, {like}")


def step_times(recording: TrainingRecording) -> dict[str, list[list[float]]]:
    """[seconds, share of steps at or below] of a job whose steps differ, for others slow them; else nothing."""
    if recording.shared is None or recording.shared.longest <= recording.shared.shortest:
        return {}
    shares = [float(percent) for percent in range(101)]
    found = percentiles(recording.shared.lengths, shares)
    return {"step_time_s": [[value, share / 100] for value, share in zip(found or [], shares, strict=False)]}


def _updated(recording: TrainingRecording) -> float:
    """Seconds of a step that weights are updated, mean over stages or over servers."""
    if recording.rounds is not None:
        return recording.rounds.updates
    stages = recording.build.job.spec.plan.pp
    return sum(slowest_sync(recording.build, s).update.seconds for s in range(stages)) / stages


def _busy(recording: TrainingRecording) -> float:
    """Seconds of a step that kernels run, mean over all GPUs of the job."""
    spent = [(seconds, track.count) for _, _, _, seconds, track in recording.members]
    spent += [(seconds, track.count) for _, seconds, track in recording.servers]
    return sum(seconds.busy * count for seconds, count in spent) / sum(count for _, count in spent)


def _mean(recording: TrainingRecording) -> Seconds:
    """Seconds of a step, mean over the GPUs that train."""
    total, gpus = Seconds(), 0
    for *_, seconds, track in recording.members:
        gpus += track.count
        total.compute += seconds.compute * track.count
        total.memory += seconds.memory * track.count
        total.launch += seconds.launch * track.count
        total.bubble += seconds.bubble * track.count
        total.slow += seconds.slow * track.count
        for (axis, link), spent in seconds.communication.items():
            total.wait(axis, link, spent * track.count)
    share = {key: spent / gpus for key, spent in total.communication.items()}
    return replace(
        total, compute=total.compute / gpus, memory=total.memory / gpus, launch=total.launch / gpus,
        bubble=total.bubble / gpus, slow=total.slow / gpus, communication=share,
    )  # fmt: skip


def sent_bytes(recording: TrainingRecording) -> dict[str, float]:
    """Bytes a GPU sends in a step by axis, hidden or not, mean over the stages of the first class of replicas; with
    parameter servers over all GPUs."""
    from sim.jobs.training.build import AXIS_OF

    if recording.rounds is not None:
        total = sum(channel.bytes for channel in recording.channels) / max(recording.worked, 1e-12)
        return {"dp": total / len(recording.gpus)}
    build = recording.build
    one, m = build.classes[0], build.micro_batches
    found: dict[str, float] = {}
    for stage in one.stages:
        flows = [(f, m) for p in stage.lead.passes for d in (p.forward, p.backward, p.weight) for f in d.flows]
        sync = slowest_sync(build, stage.number)
        flows += [(f, 1) for f in (*sync.reduce.flows, *sync.gather.flows, *sync.update.flows)]
        for flow, times in flows:
            axis = AXIS_OF.get(flow.kind, flow.kind)
            found[axis] = found.get(axis, 0.0) + flow.wire * times / len(one.stages)
        for send, ends in ((one.forward[stage.number], "last"), (one.backward[stage.number], "first")):
            if send is not None:
                chunks = sum(not getattr(chunk, ends) for chunk in stage.chunks)
                found["pp"] = found.get("pp", 0.0) + send.size * m * chunks / len(one.stages)
    return found


def _recomputed(recording: TrainingRecording) -> float:
    """Share of a step's kernels that compute again what was computed before."""
    build = recording.build
    again = busy = 0.0
    for one, _, member, seconds, track in recording.members:
        steps = recording.rounds.of(one)[1] if recording.rounds else 1.0
        again += member.recomputed * build.micro_batches * track.count * steps
        busy += seconds.busy * track.count
    return again / busy if busy else 0.0
