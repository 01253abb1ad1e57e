"""A training run: equal steps one after another on the job's clock, and what is left when they are over.

The step is played once (:mod:`sim.jobs.training.step`, or event by event with ``full``); with parameter servers a few
rounds of steps are (:mod:`sim.jobs.training.parameter_server`). Without a change of state all steps are the same, so a
run of a million steps is one event. Among failures, or with checkpoints, it is a life (:mod:`sim.jobs.reliability`):
what is written down about it follows from the steps' worth of work that were done, and when. Where other jobs use its
links, steps differ, and are played one by one (:mod:`sim.jobs.training.shared`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, inf, isclose

import numpy as np
import simpy

from sim.adapters.resolve import Resolved, ResolvedTraining
from sim.engine.clock import Clock
from sim.engine.histogram import Durations
from sim.engine.timeline import Bins, ChannelTrack, DeviceTrack
from sim.errors import RunError
from sim.jobs.reliability.effects import BADPUT
from sim.jobs.reliability.life import Life
from sim.jobs.reliability.run import Run
from sim.jobs.reliability.terms import Reliability, reliability_of
from sim.jobs.training.build import Builder, Member, ReplicaClass, Stage, TrainingBuild
from sim.jobs.training.detailed import play_step_folded, play_step_in_full
from sim.jobs.training.parameter_server import HOST, KERNELS, TALK, UPDATE, Log, Rounds, Server, play_rounds
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
from sim.laws.training.layout import TrainingLayout
from sim.laws.training.pipeline import Timing
from sim.laws.training.traffic import Traffic

KIND_OF = {"F": "forward", "B": "backward", "W": "weight gradient"}
#: Operations of a step up to which messages that meet on a link are played out on it; beyond, each has it alone.
FOLDED_PIECES = 10_000
#: Operations of all ranks that ``--detail full`` plays at most.
FULL_PIECES = 400_000
#: Steps whose stretches of work stand in the time line one by one; the others as their mean.
DRAWN_STEPS = 3
#: Stretches of work in the time line beyond which later steps stand as their mean.
DRAWN_PIECES = 200_000


@dataclass(slots=True)
class Shared:
    """Steps that were played one by one beside ``others``: how many, the shortest and longest of all (s), and how often
    each length came."""

    others: tuple[str, ...]
    played: int = 0
    shortest: float = inf
    longest: float = 0.0
    lengths: Durations = field(default_factory=Durations)

    def count(self, seconds: float, steps: float) -> None:
        """A step, or so many equal ones, of this length."""
        self.shortest, self.longest = min(self.shortest, seconds), max(self.longest, seconds)
        self.lengths.add(seconds, max(1, round(steps)))


@dataclass(slots=True)
class TrainingRecording:
    """One training job as it was played. ``steps`` equal steps, the first of them in ``step``.

    ``rounds`` and ``servers`` are those of parameter servers; of ``step`` only pipelines and length are then meant.
    ``life`` is what the run made of failures and checkpoints, where there are any; ``steps`` are then those whose work
    was kept. ``shared`` is there where steps were played one by one beside other jobs: the length of ``step`` and the
    members' seconds are then means over the run. ``ignored`` are jobs on its links that it should feel and does not,
    ``tail`` what its last checkpoint moves after the run's end: (channel, from s, to s, bytes).
    """

    job: ResolvedTraining
    layout: TrainingLayout
    build: TrainingBuild
    step: StepTimes
    steps: int
    members: list[tuple[ReplicaClass, Stage, Member, Seconds, DeviceTrack]]
    channels: list[ChannelTrack]
    ended: float = 0.0
    servers: list[tuple[Member, Seconds, DeviceTrack]] = field(default_factory=list)
    rounds: Rounds | None = None
    reliability: Reliability | None = None
    life: Life | None = None
    working: Bins | None = None
    shared: Shared | None = None
    ignored: tuple[str, ...] = ()
    tail: list[tuple[ChannelTrack, float, float, float]] = field(default_factory=list)

    @property
    def worked(self) -> float:
        """Steps' worth of work that was done, what was done again counted again."""
        if self.life is None:
            return float(self.steps)
        return (self.life.progress.high + self.life.buckets.get("redone", 0.0)) / self.step.seconds

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
        found = [(member.rates, track) for _, _, member, _, track in self.members]
        found += [(member.rates, track) for member, _, track in self.servers]
        return [(track, rates.peak, rates.bandwidth) for rates, track in found]

    def close(self, end: float) -> None:
        """The whole simulation ends at ``end``: until then the job's GPUs have nothing to do."""
        for channel, since, until, size in self.tail:
            if since < end:
                stop = min(until, end)
                channel.record(since, stop, size * (stop - since) / (until - since))
        for track, _, _ in self.tracks:
            track.waiting += end - self.ended


def steps_of(job: ResolvedTraining, step: float) -> int:
    """Steps of ``step`` s in the run: as stated, as many as its tokens or its duration take, or one."""
    spec = job.spec
    if spec.run.tokens is not None:
        return max(1, ceil(spec.run.tokens / (spec.batch.whole * spec.batch.sequence)))
    if spec.run.duration is not None:
        return max(1, floor(spec.run.duration / step))
    return spec.run.steps or 1


def play_training(
    resolved: Resolved, job: ResolvedTraining, topology: Topology, layout: TrainingLayout, clock: Clock,
    seed: np.random.SeedSequence, *, full: bool,
) -> TrainingRecording:  # fmt: skip
    """Play a step, and start the run of them on ``clock``; the recording is complete once the clock has played."""
    recording = prepare_training(resolved, job, topology, layout, full=full)
    start_training(clock, recording, seed)
    return recording


def prepare_training(
    resolved: Resolved, job: ResolvedTraining, topology: Topology, layout: TrainingLayout, *, full: bool
) -> TrainingRecording:
    """Play a step that has its links for itself, and find how many there will be."""
    builder = Builder(resolved, job, topology, layout.ranks)
    build = builder.build()
    if layout.ranks.servers:
        recording = _served(builder, build, topology, layout)
    else:
        step = _played(resolved, build, topology, full=full)
        members = [
            (one, stage, member, seconds, _track(build, one, stage, member))
            for one, stage, member, seconds in account(build, step)
        ]
        recording = TrainingRecording(job, layout, build, step, 1, members, [])
    length = recording.step.seconds
    recording.steps = steps_of(job, length)
    if resolved.scenario.faults is not None or job.spec.checkpoint is not None:
        recording.reliability = reliability_of(
            resolved, job, topology, layout.ranks, build.network, step=length, network_share=network_share(recording)
        )  # fmt: skip
    return recording


def start_training(clock: Clock, recording: TrainingRecording, seed: np.random.SeedSequence) -> None:
    """Start a run of equal steps on ``clock``."""
    run = recording.reliability.start(clock, seed) if recording.reliability is not None else None
    clock.watch(clock.process(_run(clock, recording, run)), f"training job {recording.name} waits for a step")


def _played(resolved: Resolved, build: TrainingBuild, topology: Topology, *, full: bool) -> StepTimes:
    """One step, its links shared where that matters; ``full``: rank by rank."""
    if full:
        _affordable(build)
        alone = Builder(resolved, build.job, topology, build.ranks, alone=True).build()
        return play_step_in_full(alone, topology)
    step = play_step(build)
    pieces = sum(len(stage) for stage in build.order) * len(build.classes)
    if pieces <= FOLDED_PIECES and hops_meet(build, step, topology.capacity):
        return play_step_folded(build, topology)
    return step


def network_share(recording: TrainingRecording) -> float:
    """Share of a step that GPUs wait for links between nodes, their mean."""
    waited = gpus = 0.0
    for *_, seconds, track in recording.members:
        spent = sum(s for (_, link), s in seconds.communication.items() if crosses_nodes(link))
        waited, gpus = waited + spent * track.count, gpus + track.count
    return waited / gpus / recording.step.seconds if gpus else 0.0


def _affordable(build: TrainingBuild) -> None:
    """Raise RunError where playing every rank would take too long to wait for."""
    ranks = len(build.ranks.gpus)
    pieces = sum(len(stage) for stage in build.order) * ranks // len(build.order)
    if pieces > FULL_PIECES:
        raise RunError(
            f"job {build.name}: --detail full would play {pieces:,} operations on {ranks:,} ranks, more than the "
            f"{FULL_PIECES:,} it takes on: use fewer replicas or micro-batches, or --detail auto"
        )


def _run(clock: Clock, recording: TrainingRecording, run: Run | None) -> Generator[simpy.Event, object, None]:
    """The run itself: equal steps to its end, or its life among failures."""
    if run is None:
        yield clock.timeout(recording.steps * recording.step.seconds)
    else:
        life = yield from run.process()
        recording.life = life
        recording.steps = floor(life.progress.high / recording.step.seconds + 1e-6)
        recording.working = life.over_time("work")
    recording.ended = clock.now
    _tell(recording)


def _tell(recording: TrainingRecording) -> None:
    """Write down what happened: the ledger, what links carried, and both over time."""
    for *_, seconds, track in recording.members:
        book(track, seconds, recording)
    for _, seconds, track in recording.servers:
        book(track, seconds, recording)
    if recording.rounds is None:
        recording.channels = list(_channels(recording))
        _draw(recording)
    else:
        recording.channels = list(_exchanged(recording, recording.rounds))
        _draw_rounds(recording, recording.rounds)


def _spread(bins: Bins, working: Bins, amount: float) -> None:
    """``amount`` over time as the work was."""
    total = sum(working.values)
    bins.width = working.width
    bins.values = [value * amount / total for value in working.values] if total else list(working.values)


def _track(build: TrainingBuild, one: ReplicaClass, stage: Stage, member: Member) -> DeviceTrack:
    name = f"{build.name}.s{stage.number}"
    if len(build.classes) > 1:
        name = f"{build.name}.r{one.dp}.s{stage.number}"
    if len(stage.members) > 1:
        name += f".{member.gpu}" + (f"x{member.factor:g}" if member.factor != 1.0 else "")
    return DeviceTrack(name, build.name, one.dp, stage.number, member.gpu, member.count * one.count, merge=False)


def book(track: DeviceTrack, seconds: Seconds, recording: TrainingRecording) -> None:
    """The ledger of a run: a step's seconds for each step whose work was kept, and where the others went."""
    life, worked = recording.life, recording.worked
    steps = worked if life is None else life.progress.high / recording.step.seconds
    track.compute = seconds.compute * steps
    track.memory = seconds.memory * steps
    track.launch = seconds.launch * steps
    track.bubble = seconds.bubble * steps
    track.waiting = seconds.waiting * steps
    track.flops, track.bytes = seconds.flops * worked, seconds.bytes * worked
    track.passes = round(worked)
    for (axis, link), spent in seconds.communication.items():
        track.wait(f"{axis} over {link}" if link else axis, spent * steps)
    for bucket, spent in ((SLOW_RANKS, seconds.slow), (DATA_LOADING, seconds.data)):
        if spent > 0.0:
            track.other[bucket] = spent * steps
    for bucket, spent in life.buckets.items() if life is not None else ():
        if bucket != "progress" and spent > 0.0:
            name = BADPUT[bucket]
            track.other[name] = track.other.get(name, 0.0) + spent


# ---- what the links carried


def _channels(recording: TrainingRecording) -> Iterator[ChannelTrack]:
    """Bytes of each kind of group and hop on the links looked at; see :func:`_carry` for when."""
    build, step = recording.build, recording.step
    one, m = build.classes[0], build.micro_batches
    moved = {stage.number: _talked(build, step, stage) for stage in one.stages}
    kinds = {s.number: [kind for kind in moved[s.number] if kind in s.links] for s in one.stages}
    traffic = Traffic(build.network, kinds)
    for stage in one.stages:
        for kind in kinds[stage.number]:
            number = stage.number
            link, loads = build.network.way(kind, number).link, traffic.of_groups(kind, number)
            track = ChannelTrack(f"{build.name}.s{number} {kind}", link, loads, traffic.alike)
            _carry(track, moved[number][kind], recording)
            yield track
    stages = len(one.stages)
    for number, stage in enumerate(one.stages):
        ways = (("forward", one.forward[number], number + 1), ("backward", one.backward[number], number - 1))
        for direction, send, target in ways:
            if send is None:
                continue
            chunks = sum(1 for c in stage.chunks if not (c.last if direction == "forward" else c.first))
            if not chunks:
                continue
            loads = traffic.of_messages(number, target % stages)
            track = ChannelTrack(f"{build.name}.s{number} {direction}", send.link, loads, traffic.alike)
            _carry(track, [(0.0, step.ready[number], send.size * m * chunks)], recording)
            yield track


def _talked(build: TrainingBuild, step: StepTimes, stage: Stage) -> dict[str, list[tuple[float, float, float]]]:
    """What a rank of a stage sends in a step by kind of group: (from s, to s, bytes)."""
    number, sync, ready = stage.number, slowest_sync(build, stage.number), step.ready[stage.number]
    moved: dict[str, list[tuple[float, float, float]]] = {}
    for flow in (flow for p in stage.lead.passes for d in (p.forward, p.backward, p.weight) for flow in d.flows):
        moved.setdefault(flow.kind, []).append((0.0, ready, flow.wire * build.micro_batches))
    for flow in sync.reduce.flows:
        beside = max(0.0, ready - flow.seconds * flow.hidden)
        moved.setdefault(flow.kind, []).append((beside, step.reduced[number], flow.wire))
    for flow in (*sync.gather.flows, *sync.update.flows):  # what is hidden moves beside the next forward pass
        pieces = moved.setdefault(flow.kind, [])
        pieces.append((step.barrier, step.barrier + flow.exposed, flow.wire * (1.0 - flow.hidden)))
        pieces.append((0.0, flow.seconds * flow.hidden, flow.wire * flow.hidden))
    return moved


def _carry(track: ChannelTrack, pieces: list[tuple[float, float, float]], recording: TrainingRecording) -> None:
    """Bytes of a step between two instants of it, in each of a few steps; of many steps their mean."""
    length, steps = recording.step.seconds, recording.steps
    size = sum(size for _, _, size in pieces)
    if recording.working is not None:
        track.bytes += size * recording.worked
        _spread(track.bins, recording.working, size * recording.worked)
    elif steps <= DRAWN_STEPS:
        for number in range(steps):
            for start, end, part in pieces:
                if part > 0.0:
                    track.record(number * length + start, number * length + max(end, start), part)
    else:
        track.record(0.0, length * steps, size * steps)


# ---- time lines


def _draw(recording: TrainingRecording) -> None:
    """Stretches of work for the Gantt chart (first step), and utilisation over the run."""
    build, step = recording.build, recording.step
    pieces = sum(len(stage) for stage in build.order) * len(build.classes)
    drawn = max(1, min(recording.steps, DRAWN_STEPS, DRAWN_PIECES // max(1, pieces)))
    timing_of = {one.dp: timing for one, timing in zip(build.classes, step.timings, strict=True)}
    for one, stage, _, seconds, track in recording.members:
        timing, s = timing_of[one.dp], stage.number
        draw_step(recording, step, timing, s, track)
        _utilise(track, recording, (timing.starts[s], timing.ends[s]), seconds, drawn)


def draw_step(
    recording: TrainingRecording, step: StepTimes, timing: Timing, stage: int, track: DeviceTrack, at: float = 0.0
) -> None:
    """Stretches of work of one stage in a step that began ``at`` s."""
    batch = recording.job.spec.batch
    order = recording.build.order[stage]
    for op, start, end in zip(order, timing.starts[stage], timing.ends[stage], strict=True):
        kind, tokens = KIND_OF[op.kind], batch.micro * batch.sequence
        track.spans.add(kind, at + start, at + end, batch.micro, tokens, op.micro, op.chunk)
    if step.reduced[stage] > step.ready[stage]:
        track.spans.add("comm", at + step.ready[stage], at + step.reduced[stage], 0, 0, 0)
    if step.done[stage] > step.barrier:
        track.spans.add("update", at + step.barrier, at + step.done[stage], 0, 0, 0)


def _utilise(
    track: DeviceTrack, recording: TrainingRecording, spans: tuple[list[float], list[float]], seconds: Seconds,
    drawn: int,
) -> None:  # fmt: skip
    """Busy seconds over time: stretch by stretch in the first steps, then their mean."""
    length = recording.step.seconds
    busy = seconds.busy
    if recording.working is not None:
        _spread(track.bins, recording.working, busy * recording.worked)
        return
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


# ---- parameter servers


def _served(builder: Builder, build: TrainingBuild, topology: Topology, layout: TrainingLayout) -> TrainingRecording:
    """A job with parameter servers: a step of it is one of each worker, on average over steady rounds."""
    rounds = play_rounds(builder, build, topology)
    step = replace(play_step(build), seconds=rounds.seconds, events=rounds.events)
    members = []
    for one in build.classes:
        stage, seconds = one.stages[0], rounds.of(one)[0]
        members.append((one, stage, stage.lead, seconds, _track(build, one, stage, stage.lead)))
    servers = []
    for server, count in _folded(rounds.servers):
        name = f"{build.name}.server{server.number}"
        track = DeviceTrack(name, build.name, 0, 0, server.member.gpu, count, merge=False)
        servers.append((server.member, server.seconds, track))
    return TrainingRecording(build.job, layout, build, step, 1, members, [], servers=servers, rounds=rounds)


def _folded(servers: list[Server]) -> list[tuple[Server, int]]:
    """Servers that spend their seconds alike, by the first of them."""
    found: list[tuple[Server, int]] = []
    for server in servers:
        for i, (first, count) in enumerate(found):
            if first.member is server.member and _alike(first.seconds, server.seconds):
                found[i] = first, count + 1
                break
        else:
            found.append((server, 1))
    return found


def _alike(a: Seconds, b: Seconds) -> bool:
    x, y = a.communication, b.communication
    pairs = [(a.busy, b.busy), (a.waiting, b.waiting), *((x.get(key, 0.0), y.get(key, 0.0)) for key in x | y)]
    return all(isclose(mine, its, rel_tol=1e-9, abs_tol=1e-12) for mine, its in pairs)


def _exchanged(recording: TrainingRecording, rounds: Rounds) -> Iterator[ChannelTrack]:
    """Gradients to the servers and weights back, all workers', spread over the run."""
    messages = sum(worker.rate for worker in rounds.workers) * len(rounds.servers)
    for side, what, size in ((0, "push", rounds.push), (1, "pull", rounds.pull)):
        loads: dict[int, float] = {}
        for worker in rounds.workers:
            for ways in worker.ways:
                for link, weight in ways[side].links:
                    loads[link] = loads.get(link, 0.0) + weight * worker.rate / messages
        track = ChannelTrack(f"{recording.name} {what}", rounds.servers[0].link, tuple(loads.items()))
        sent = size * messages * recording.worked
        if recording.working is not None:
            track.bytes += sent
            _spread(track.bins, recording.working, sent)
        else:
            track.record(0.0, recording.ended, sent)
        yield track


def _draw_rounds(recording: TrainingRecording, rounds: Rounds) -> None:
    """One step's time of the steady rounds: kernels micro-batch by micro-batch, what was waited for, updates."""
    begin, drawn = rounds.window[0], min(recording.steps, DRAWN_STEPS)
    first = {one.dp: next(w for w in rounds.workers if w.one is one) for one in recording.build.classes}
    for one, _, _, seconds, track in recording.members:
        log = first[one.dp].log
        _draw_kernels(recording, track, log, begin)
        _utilise(track, recording, _busy(log, begin, rounds.seconds), seconds, drawn)
    numbered = {f"{recording.name}.server{server.number}": server for server in rounds.servers}
    for _, seconds, track in recording.servers:
        log = numbered[track.name].log
        for a, b, state in log.within(begin, begin + rounds.seconds):
            if state in (UPDATE, TALK):
                track.spans.add("update" if state == UPDATE else "comm", a - begin, b - begin, 0, 0, 0)
        _utilise(track, recording, _busy(log, begin, rounds.seconds), seconds, drawn)


def _draw_kernels(recording: TrainingRecording, track: DeviceTrack, log: Log, begin: float) -> None:
    batch, build = recording.job.spec.batch, recording.build
    timing = recording.step.timings[next(i for i, one in enumerate(build.classes) if one.dp == track.replica)]
    starts, ends = timing.starts[0], timing.ends[0]
    length = recording.step.seconds
    for a, b, state in log.pieces:
        if b <= begin or a >= begin + length:
            continue
        if state == TALK:
            track.spans.add("comm", max(a, begin) - begin, min(b, begin + length) - begin, 0, 0, 0)
        if state != KERNELS:
            continue
        stretch = (b - a) / (ends[-1] - starts[0])
        for op, start, end in zip(build.order[0], starts, ends, strict=True):
            x = max(0.0, a - begin + (start - starts[0]) * stretch)
            y = min(length, a - begin + (end - starts[0]) * stretch)
            if y > x:
                track.spans.add(KIND_OF[op.kind], x, y, batch.micro, batch.micro * batch.sequence, op.micro, op.chunk)


def _busy(log: Log, begin: float, length: float) -> tuple[list[float], list[float]]:
    """When something was busy, in seconds from ``begin``; all the time where the log shows nothing."""
    pieces = [(a - begin, b - begin) for a, b, s in log.within(begin, begin + length) if s in (KERNELS, HOST, UPDATE)]
    pieces = pieces or [(0.0, length)]
    return [a for a, _ in pieces], [b for _, b in pieces]
