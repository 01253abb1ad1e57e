"""A training run beside other jobs on the same links: its steps one by one on the scenario's clock and network.

Every rank is a process (:mod:`sim.jobs.training.detailed`), every message and every group's collective a flow, and so
is each node's part of a checkpoint (:mod:`sim.jobs.training.writing`). Flows of all jobs on a link share it by max-min,
so steps differ in length. The numbers of the run are means over its steps. Communication that kernels would hide alone
holds a pass up as far as it takes longer.

Once the other jobs on its links are over, the steps that are left are all as long as one that has its links for itself,
and take one event; with checkpoints they are the arithmetic of :mod:`sim.jobs.reliability.progress`. A checkpoint is
taken at the end of the step in which it comes due. What other jobs add to steps is progress, not loss.

Two jobs are beside each other where a link could be asked for more than it has: the caps of all flows that may use it
exceed its capacity together, and flows of both are among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import floor, inf

import simpy

from sim.engine.clock import Clock
from sim.engine.network import Network, Transfer
from sim.engine.timeline import ChannelTrack
from sim.errors import RunError
from sim.jobs.reliability.life import Life, Stretch
from sim.jobs.reliability.progress import TINY, Progress, Saving
from sim.jobs.serving.build import Flow
from sim.jobs.training.build import Send, Stage, TrainingBuild
from sim.jobs.training.detailed import Common, Step, Story, fitted, loads_of
from sim.jobs.training.run import Shared, TrainingRecording, book, draw_step
from sim.jobs.training.step import Seconds, StepTimes, slowest_sync
from sim.jobs.training.writing import Writing
from sim.laws.topology import Topology
from sim.laws.training.pipeline import Timing
from sim.spec.reliability import Storage
from sim.units import format_seconds

#: Operations of all ranks of a job's steps that are played one by one at most.
SHARED_PIECES = 400_000
#: What the end of a step (sums, update, gathering, meeting) counts as, in operations of a rank.
END_PIECES = 10


# ---- who is beside whom


def pieces_of(build: TrainingBuild) -> int:
    """Operations of all ranks in a step, its end counted too."""
    ranks, stages = len(build.ranks.gpus), len(build.order)
    return sum(len(stage) + END_PIECES for stage in build.order) * ranks // stages


def can_share(build: TrainingBuild, *, faults: bool) -> bool:
    """Whether a job's steps can be played one by one: not among failures, with checkpoints on several levels, with
    parameter servers or in a pipeline that is never emptied, nor where a single one has too many operations."""
    streamed = build.job.spec.plan.schedule_name == "stream"
    checkpoint = build.job.spec.checkpoint
    levels = checkpoint is not None and checkpoint.then is not None
    return not faults and not streamed and not levels and can_be_asked(build)


def can_be_asked(build: TrainingBuild) -> bool:
    """Whether it is known, and not too much to look at, what a job's ranks ask of links."""
    return not build.ranks.servers and pieces_of(build) <= SHARED_PIECES


def flows_of(build: TrainingBuild, topology: Topology, writing: Writing | None = None) -> list[Flow]:
    """The most that each group, each hop and each checkpoint write of a job can ask of the network."""
    stages = {(dp, stage.number): stage for one in build.classes for dp in one.replicas for stage in one.stages}
    ranks = build.ranks
    caps = {id(stage): _caps(build, stage) for stage in stages.values()}
    seen: set[tuple[str, tuple[int, ...]]] = set()
    found: list[Flow] = []
    for rank, gpu in enumerate(ranks.gpus):
        stage = stages[ranks.coordinate(rank, "dp"), ranks.coordinate(rank, "pp")]
        for kind, cap in caps[id(stage)].items():
            group = build.network.members(kind, gpu)
            if (kind, group) not in seen:
                seen.add((kind, group))
                found.append(Flow(fitted(loads_of(build, topology, kind, group), cap, topology), cap, None))
    found += _hops(build, topology)
    parts = writing.parts if writing is not None else ()
    for part in parts:
        alone = [topology.capacity(link) / weight for link, weight in part.links if link < topology.link_count]
        found.append(Flow(part.links, min(part.cap, _taken(build) / len(parts), *alone), None))
    return found


def _taken(build: TrainingBuild) -> float:
    """What the job's storage takes (B/s); inf where it has none."""
    checkpoint = build.job.spec.checkpoint
    return checkpoint.to.write if checkpoint is not None and isinstance(checkpoint.to, Storage) else inf


def _caps(build: TrainingBuild, stage: Stage) -> dict[str, float]:
    """The highest rate (B/s) of each kind of collective in a stage."""
    sync = slowest_sync(build, stage.number)
    passes = [d for member in stage.members for p in member.passes for d in (p.forward, p.backward, p.weight)]
    caps: dict[str, float] = {}
    for part in (*passes, sync.reduce, sync.update, sync.gather):
        for flow in part.flows:
            if flow.wire > 0.0:
                caps[flow.kind] = max(caps.get(flow.kind, 0.0), flow.cap)
    return caps


def _hops(build: TrainingBuild, topology: Topology) -> Iterator[Flow]:
    """Activations and gradients between the stages of every replica."""
    plan, ranks = build.job.spec.plan, build.ranks
    of = {dp: one for one in build.classes for dp in one.replicas}
    stride = ranks.strides["pp"]
    for rank, gpu in enumerate(ranks.gpus):
        one, s = of[ranks.coordinate(rank, "dp")], ranks.coordinate(rank, "pp")
        ways: tuple[tuple[Send | None, int], ...] = ((one.forward[s], s + 1), (one.backward[s], s - 1))
        for send, target in ways:
            if send is not None and send.exposed > 0.0:
                peer = ranks.gpus[rank + (target % plan.pp - s) * stride]
                yield Flow(topology.route(gpu, peer).links, send.cap, None)


def beside(
    asked: Mapping[str, Sequence[Flow]], training: Iterable[str], capacity: Callable[[int], float]
) -> dict[str, tuple[str, ...]]:
    """For each job of ``training`` the others that could ask, together with it, more of a link than it has."""
    rates: dict[int, dict[str, float]] = {}
    for job, flows in asked.items():
        for flow in flows:
            for link, weight in flow.links:
                users = rates.setdefault(link, {})
                users[job] = users.get(job, 0.0) + flow.cap * weight
    found: dict[str, dict[str, None]] = {job: {} for job in training}
    for link, users in rates.items():
        if len(users) > 1 and sum(users.values()) > capacity(link) * (1 + 1e-9):
            for job in users:
                if job in found:
                    found[job].update(dict.fromkeys(other for other in users if other != job))
    return {job: tuple(others) for job, others in found.items() if others}


# ---- the run


class SharedRun:
    """The run of one job. ``build`` is what is played: that of the recording, or with rates of groups alone.

    ``others`` say whether the jobs beside it still run; set before the clock plays.
    """

    def __init__(
        self, clock: Clock, network: Network, recording: TrainingRecording, build: TrainingBuild,
        topology: Topology, writing: Writing | None, beside: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.clock, self.network, self.recording, self.build = clock, network, recording, build
        self.topology, self.writing = topology, writing
        self.shared = recording.shared = Shared(beside)
        self.others: list[Callable[[], bool]] = []
        self.over = self.alone_now = False
        self.alone, self.alone_spent = recording.step, [seconds for *_, seconds, _ in recording.members]
        if build is not recording.build:  # told rank by rank: no closed form knows what its own flows wait for
            self.alone, self.alone_spent = _alone(build, topology)
        self.common = Common(clock, network, {}, self._heard)
        self.first: StepTimes | None = None
        self.sums = [Seconds() for _ in recording.members]
        self.done = 0.0
        self.useful = 0.0
        self.since = 0.0
        self.since_steps = 0
        self.under_way: simpy.Event | None = None  # the end of the checkpoint that is being written
        self.channels: dict[tuple[str, tuple[int, ...]], ChannelTrack] = {}
        self.stretches: list[Stretch] = []
        self.buckets: dict[str, float] = {}
        self.checkpoints = 0

    def process(self) -> Story:
        """All steps, one by one while others are beside it."""
        while not self._over() and not self._calm():
            yield from self._step()
            if not self._over():
                yield from self._save()
        self.alone_now = not self._over()
        if self.alone_now:
            yield from self._rest()
        self.over = True
        self._tell()

    @property
    def active(self) -> bool:
        """Whether others may still meet the job's flows; not once it has its links for itself."""
        return not (self.over or self.alone_now) or self.under_way is not None

    # ---- how far it is

    @property
    def _left(self) -> float:
        """Steps that are left; inf where the run's duration ends it."""
        return inf if self.recording.job.spec.run.duration else self.recording.steps - self.done

    def _over(self) -> bool:
        duration = self.recording.job.spec.run.duration
        if duration is None:
            return self._left < 0.5
        return self.done > 0 and self.clock.now + self.alone.seconds > duration * (1 + 1e-9)

    def _calm(self) -> bool:
        """Whether nothing is on the job's links but what it puts there, and no checkpoint is under way."""
        return self.under_way is None and not any(alive() for alive in self.others)

    # ---- a step

    def _step(self) -> Story:
        self._afford()
        began = self.clock.now
        step = Step(self.build, self.topology, fold=False, common=self.common)
        times = yield from step.play_among_others()
        self.first = self.first or times
        self.shared.played += 1
        self._count(times.seconds, 1.0)
        self.since_steps += 1
        self.stretches.append(Stretch("work", began, self.clock.now))
        timing_of = {one.dp: timing for one, timing in zip(self.build.classes, times.timings, strict=True)}
        for total, (one, stage, _, seconds), (*_, track) in zip(
            self.sums, step.spent(), self.recording.members, strict=True
        ):
            total.add(seconds)
            timing = timing_of[one.dp]
            draw_step(self.recording, times, timing, stage.number, track, began)
            starts, ends, amounts = _busy(timing, stage.number, seconds.busy)
            track.bins.add_many([began + x for x in starts], [began + x for x in ends], amounts)

    def _afford(self) -> None:
        """Raises RunError where the run has more steps beside other jobs than anyone would wait for."""
        pieces = pieces_of(self.build)
        if (self.shared.played + 1) * pieces > SHARED_PIECES:
            others = " and ".join(self.shared.others)
            raise RunError(
                f"job {self.recording.name}: it shares links with {others}, so its steps are played one by one; "
                f"{self.shared.played:,} of them ({format_seconds(self.clock.now)}) are {SHARED_PIECES:,} operations, "
                f"and {others} still runs: give it fewer run.steps (target_tokens says what for), or the others less"
            )

    def _count(self, seconds: float, steps: float) -> None:
        self.done += steps
        self.useful += seconds
        self.since += seconds
        if steps > 0.0:
            self.shared.count(seconds / steps, steps)

    # ---- checkpoints

    def _save(self) -> Story:
        """Save, if it is time to."""
        checkpoint, found = self.recording.job.spec.checkpoint, self.recording.reliability
        if self.writing is None or checkpoint is None or found is None or not self._due():
            return
        if self.under_way is not None:  # the next checkpoint waits for the one before it
            yield from self._stand(self.under_way)
        if self._calm():
            return
        self.since, self.since_steps = 0.0, 0
        self.checkpoints += 1
        if self.writing.pause:
            yield from self._stand(self.clock.timeout(self.writing.pause))
        over = self.under_way = self.clock.event()
        self.clock.process(self._write(over, self.writing))
        if self.writing.waits:
            yield from self._stand(over)

    def _due(self) -> bool:
        checkpoint, found = self.recording.job.spec.checkpoint, self.recording.reliability
        assert checkpoint is not None
        assert found is not None
        if checkpoint.steps is not None:
            return self.since_steps >= checkpoint.steps
        return self.since >= found.interval * (1 - TINY)

    def _write(self, over: simpy.Event, writing: Writing) -> Story:
        """All parts of a checkpoint, until the last is written."""
        transfers = writing.start(self.network)
        for part, transfer in zip(writing.parts, transfers, strict=True):  # known before the run ends, as it may first
            self._track("checkpoint", (part.node,), transfer.demand.links)
        yield simpy.AllOf(self.clock, transfers) if transfers else self.clock.timeout(writing.seconds)
        for part, transfer in zip(writing.parts, transfers, strict=True):
            self._heard("checkpoint", (part.node,), transfer, transfer.size)
        self.under_way = None
        over.succeed()

    def _stand(self, event: simpy.Event) -> Story:
        """Stand still for a checkpoint until something is over."""
        began = self.clock.now
        yield event
        self._book("checkpoint", self.clock.now - began)
        self.stretches.append(Stretch("checkpoint", began, self.clock.now))

    def _book(self, bucket: str, seconds: float) -> None:
        self.buckets[bucket] = self.buckets.get(bucket, 0.0) + seconds

    # ---- what is left once nobody else is there

    def _rest(self) -> Story:
        """The remaining steps, equal ones, in one event."""
        began, length = self.clock.now, self.alone.seconds
        duration, found = self.recording.job.spec.run.duration, self.recording.reliability
        useful = self._left * length if duration is None else floor((duration - began) / length * (1 + 1e-9)) * length
        saved = 0.0
        if found is None:
            yield self.clock.timeout(useful)
        else:
            saving = found.terms.saving
            since = min(saving.interval, self.since_steps * length if self._by_steps else self.since)
            progress = Progress(saving, inf if duration else useful)
            level = progress.levels[0]
            level.since = since
            yield self.clock.timeout(progress.advance((duration or inf) - began))
            useful, saved = progress.high, float(progress.checkpoints)
            self.checkpoints += progress.checkpoints
            if level.persisting is not None:
                saved -= level.persist_left / saving.persist
            for bucket, spent in progress.buckets.items():
                if bucket != "progress":
                    self._book(bucket, spent)
            self.stretches.append(Stretch("work", began, self.clock.now))
        steps = useful / length
        self._carry(began, steps, saved)
        self._count(useful, steps)
        for total, seconds, (*_, track) in zip(self.sums, self.alone_spent, self.recording.members, strict=True):
            total.add(seconds, steps)
            track.bins.add(began, self.clock.now, seconds.busy * steps)

    @property
    def _by_steps(self) -> bool:
        checkpoint = self.recording.job.spec.checkpoint
        return checkpoint is not None and checkpoint.steps is not None

    def _carry(self, began: float, steps: float, saved: float) -> None:
        """Bytes of the remaining steps, as many a step as in those that were played, and of their checkpoints."""
        for (kind, _), track in self.channels.items():
            if kind != "checkpoint" and self.shared.played:
                track.record(began, self.clock.now, track.bytes / self.shared.played * steps)
        for part in self.writing.parts if self.writing is not None and saved else ():
            self._track("checkpoint", (part.node,), part.links).record(began, self.clock.now, part.size * saved)

    # ---- what is left to tell

    def _heard(self, kind: str, who: tuple[int, ...], transfer: Transfer, size: float) -> None:
        """Bytes of a transfer that is over, when they moved."""
        if transfer.size > 0.0 and transfer.demand.links:
            track, scale = self._track(kind, who, transfer.demand.links), size / transfer.size
            for start, end, moved in transfer.pieces:
                if self.over:
                    self.recording.tail.append((track, start, end, moved * scale))
                else:
                    track.record(start, end, moved * scale)

    def _track(self, kind: str, who: tuple[int, ...], links: tuple[tuple[int, float], ...]) -> ChannelTrack:
        """The channel of a group, a hop or a node; the store that ends a checkpoint's way is no link of the cluster."""
        found = self.channels.get((kind, who))
        if found is None:
            inside = tuple((link, weight) for link, weight in links if link < self.topology.link_count)
            name = f"{self.recording.name} {kind} {'>'.join(str(x) for x in who[:2])}"
            found = self.channels[kind, who] = ChannelTrack(name, kind, inside)
        return found

    def _tell(self) -> None:
        """The recording of the run: steps and seconds as means, the ledger, the life, and the links."""
        recording, now = self.recording, self.clock.now
        length = self.useful / self.done
        first = self.first or self.alone
        recording.ended = now
        recording.steps = floor(self.done + 1e-6)
        recording.step = replace(first, seconds=length, events=self.alone.events)
        if recording.reliability is not None:
            progress = Progress(Saving(inf), high=self.useful, done=self.useful, checkpoints=self.checkpoints)
            progress.buckets = {"progress": self.useful, **self.buckets}
            recording.life = Life(progress, now, finished=True, stretches=self.stretches)
        means = []
        for total, (one, stage, member, _, track) in zip(self.sums, recording.members, strict=True):
            mean = Seconds()
            mean.add(total, 1.0 / self.done)
            means.append((one, stage, member, mean, track))
            book(track, mean, recording)
        recording.members = means
        recording.channels = list(self.channels.values())


def _alone(build: TrainingBuild, topology: Topology) -> tuple[StepTimes, list[Seconds]]:
    """A step on a clock of its own, and where its members' seconds went."""
    clock = Clock()
    common = Common(clock, Network(clock, topology.capacities()), {}, lambda *_: None)
    step = Step(build, topology, fold=False, common=common)
    played = clock.process(step.play_among_others())
    clock.play()
    times = played.value
    assert isinstance(times, StepTimes)
    return replace(times, events=clock.events), [seconds for *_, seconds in step.spent()]


def _busy(timing: Timing, stage: int, busy: float) -> tuple[list[float], list[float], list[float]]:
    """Stretches of a stage's operations, and ``busy`` seconds spread over them."""
    starts, ends = timing.starts[stage], timing.ends[stage]
    total = sum(e - b for b, e in zip(starts, ends, strict=True))
    share = busy / total if total > 0.0 else 0.0
    return starts, ends, [(e - b) * share for b, e in zip(starts, ends, strict=True)]
