"""A training run: equal steps one after another on the job's clock, and what is left when they are over.

The step is played once (:mod:`sim.jobs.training.step`, or event by event with ``full``). Without a change of state
all steps are the same, so a run of a million steps is one event.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import simpy

from sim.adapters.resolve import Resolved, ResolvedTraining
from sim.engine.clock import Clock
from sim.engine.timeline import ChannelTrack, DeviceTrack
from sim.jobs.training.build import AXIS_OF, Builder, Member, ReplicaClass, Stage, TrainingBuild
from sim.jobs.training.detailed import play_step_folded, play_step_in_full
from sim.jobs.training.step import (
    DATA_LOADING,
    SLOW_RANKS,
    Seconds,
    StepTimes,
    account,
    hops_meet,
    play_step,
    slowest_sync,
)
from sim.laws.topology import Topology
from sim.laws.training.groups import crosses_nodes
from sim.laws.training.layer import Flow
from sim.laws.training.layout import TrainingLayout

KIND_OF = {"F": "forward", "B": "backward", "W": "weight gradient"}
#: Operations of a step up to which messages that meet on a link are played out on it; beyond, each has it alone.
FOLDED_PIECES = 20_000
#: Steps whose stretches of work stand in the time line one by one; the others as their mean.
DRAWN_STEPS = 3
#: Stretches of work in the time line beyond which later steps stand as their mean.
DRAWN_PIECES = 200_000


@dataclass(slots=True)
class TrainingRecording:
    """One training job as it was played. ``steps`` equal steps, the first of them in ``step``."""

    job: ResolvedTraining
    layout: TrainingLayout
    build: TrainingBuild
    step: StepTimes
    steps: int
    members: list[tuple[ReplicaClass, Stage, Member, Seconds, DeviceTrack]]
    channels: list[ChannelTrack]
    ended: float = 0.0
    idle_until: float = field(default=0.0)

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.spec.name

    @property
    def gpus(self) -> Sequence[int]:
        """The GPUs the job holds."""
        return self.layout.gpus

    @property
    def tracks(self) -> list[tuple[DeviceTrack, float, float]]:
        """Every class of GPUs, with its peak (FLOP/s) and memory bandwidth (B/s)."""
        return [(track, member.rates.peak, member.rates.bandwidth) for _, _, member, _, track in self.members]

    def close(self, end: float) -> None:
        """The whole simulation ends at ``end``: until then the job's GPUs have nothing to do."""
        for *_, track in self.members:
            track.waiting += end - self.ended


def steps_of(job: ResolvedTraining) -> int:
    """Steps of the run: as stated, as many as its tokens take, or one."""
    spec = job.spec
    if spec.run.tokens is not None:
        return max(1, ceil(spec.run.tokens / (spec.batch.whole * spec.batch.sequence)))
    return spec.run.steps or 1


def play_training(
    resolved: Resolved, job: ResolvedTraining, topology: Topology, layout: TrainingLayout, clock: Clock, *, full: bool
) -> TrainingRecording:
    """Play a step, and start the run of them on ``clock``; the recording is complete once the clock has played."""
    build = Builder(resolved, job, topology, layout.ranks).build()
    if full:
        alone = Builder(resolved, job, topology, layout.ranks, alone=True).build()
        step = play_step_in_full(alone, topology)
    else:
        step = play_step(build)
        pieces = sum(len(stage) for stage in build.order) * len(build.classes)
        if pieces <= FOLDED_PIECES and hops_meet(build, step, topology.capacity):
            step = play_step_folded(build, topology)
    steps = steps_of(job)
    members = []
    for one, stage, member, seconds in account(build, step):
        track = _track(build, one, stage, member)
        _book(track, seconds, steps)
        members.append((one, stage, member, seconds, track))
    recording = TrainingRecording(job, layout, build, step, steps, members, [])
    recording.channels = list(_channels(build, step, steps))
    _draw(recording)
    clock.watch(clock.process(_run(clock, recording)), f"training job {build.name} waits for a step")
    return recording


def _run(clock: Clock, recording: TrainingRecording) -> Generator[simpy.Event, object, None]:
    """The run itself: nothing changes between its first and its last step."""
    yield clock.timeout(recording.steps * recording.step.seconds)
    recording.ended = clock.now


def _track(build: TrainingBuild, one: ReplicaClass, stage: Stage, member: Member) -> DeviceTrack:
    name = f"{build.name}.s{stage.number}"
    if len(build.classes) > 1:
        name = f"{build.name}.r{one.dp}.s{stage.number}"
    if len(stage.members) > 1:
        name += f".{member.gpu}" + (f"x{member.factor:g}" if member.factor != 1.0 else "")
    return DeviceTrack(name, build.name, one.dp, stage.number, member.gpu, member.count * one.count, merge=False)


def _book(track: DeviceTrack, seconds: Seconds, steps: int) -> None:
    """The ledger of a run: a step's seconds, ``steps`` times."""
    track.compute = seconds.compute * steps
    track.memory = seconds.memory * steps
    track.launch = seconds.launch * steps
    track.bubble = seconds.bubble * steps
    track.flops, track.bytes = seconds.flops * steps, seconds.bytes * steps
    track.passes = steps
    for (axis, link), spent in seconds.communication.items():
        track.wait(f"{axis} over {link}" if link else axis, spent * steps)
    for bucket, spent in ((SLOW_RANKS, seconds.slow), (DATA_LOADING, seconds.data)):
        if spent > 0.0:
            track.other[bucket] = spent * steps


# ---- what the links carried


def _channels(build: TrainingBuild, step: StepTimes, steps: int) -> Iterator[ChannelTrack]:
    """Bytes of each kind of group and hop on the links looked at, spread over the run."""
    one, m = build.classes[0], build.micro_batches
    end = step.seconds * steps
    wires: dict[tuple[str, int], float] = {}
    for stage in one.stages:
        sync = slowest_sync(build, stage.number)
        flows: list[tuple[Flow, float]] = [
            (flow, float(m)) for p in stage.lead.passes for d in (p.forward, p.backward, p.weight) for flow in d.flows
        ]
        flows += [(flow, 1.0) for flow in (*sync.reduce.flows, *sync.gather.flows)]
        for flow, times in flows:
            key = (flow.kind, stage.number)
            wires[key] = wires.get(key, 0.0) + flow.wire * times
    for (kind, number), wire in wires.items():
        if kind not in one.stages[number].links:
            continue
        way = build.network.way(kind, number)
        track = ChannelTrack(f"{build.name}.s{number} {kind}", way.link, way.loads)
        track.record(0.0, end, wire * steps)
        yield track
    for number, stage in enumerate(one.stages):
        for direction, send in (("forward", one.forward[number]), ("backward", one.backward[number])):
            if send is None:
                continue
            chunks = sum(1 for c in stage.chunks if not (c.last if direction == "forward" else c.first))
            if not chunks:
                continue
            track = ChannelTrack(f"{build.name}.s{number} {direction}", send.link, send.way.loads)
            track.record(0.0, end, send.size * m * chunks * steps)
            yield track


def link_kinds(build: TrainingBuild) -> dict[str, bool]:
    """Axes that talk, and whether any of their groups crosses nodes."""
    found: dict[str, bool] = {}
    for one in build.classes:
        for stage in one.stages:
            for kind, link in stage.links.items():
                axis = AXIS_OF[kind]
                found[axis] = found.get(axis, False) or crosses_nodes(link)
    return found


# ---- time lines


def _draw(recording: TrainingRecording) -> None:
    """Stretches of work for the Gantt chart (first step), and utilisation over the run."""
    build, step = recording.build, recording.step
    pieces = sum(len(stage) for stage in build.order) * len(build.classes)
    drawn = max(1, min(recording.steps, DRAWN_STEPS, DRAWN_PIECES // max(1, pieces)))
    timing_of = {one.dp: timing for one, timing in zip(build.classes, step.timings, strict=True)}
    batch, sequence = recording.job.spec.batch, recording.job.spec.batch.sequence
    for one, stage, member, seconds, track in recording.members:
        timing, s = timing_of[one.dp], stage.number
        starts, ends = timing.starts[s], timing.ends[s]
        for op, start, end in zip(build.order[s], starts, ends, strict=True):
            track.spans.add(KIND_OF[op.kind], start, end, batch.micro, batch.micro * sequence, op.micro, op.chunk)
        if step.reduced[s] > step.ready[s]:
            track.spans.add("comm", step.ready[s], step.reduced[s], 0, 0, 0)
        if step.done[s] > step.barrier:
            track.spans.add("update", step.barrier, step.done[s], 0, 0, 0)
        _utilise(track, recording, (starts, ends), seconds, drawn, member)


def _utilise(
    track: DeviceTrack, recording: TrainingRecording, spans: tuple[list[float], list[float]], seconds: Seconds,
    drawn: int, member: Member,
) -> None:  # fmt: skip
    """Busy seconds over time: stretch by stretch in the first steps, then their mean."""
    length = recording.step.seconds
    busy = seconds.compute + seconds.memory + seconds.launch
    starts, ends = np.array(spans[0]), np.array(spans[1])
    spent = ends - starts
    total = float(spent.sum())
    amounts = spent * (busy / total) if total > 0 else spent
    end = recording.steps * length
    track.bins.add(end, end, 0.0)  # the bins grow to the run's width once
    for i in range(drawn):
        track.bins.add_many(starts + i * length, ends + i * length, amounts)
    if recording.steps > drawn:
        track.bins.add(drawn * length, end, busy * (recording.steps - drawn))
