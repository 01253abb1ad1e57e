"""Playing all jobs of a scenario on one clock, and what is left when they are over.

Each serving replica is played folded when nothing on its links can slow it, else event by event on the shared
network; with ``detail="full"`` every replica is, and every GPU is a process. Both tell the same story. A training job
spends steps that were played on a clock of their own (:mod:`sim.jobs.training.run`); where another job's flows can slow
them, they are played one by one on the shared network too (:mod:`sim.jobs.training.shared`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import simpy

from sim.adapters.resolve import Resolved, ResolvedServing, ResolvedTraining
from sim.engine.clock import Clock
from sim.engine.network import Network
from sim.engine.timeline import ChannelTrack, DeviceTrack
from sim.jobs.serving.batching import Limits
from sim.jobs.serving.build import Flow, ReplicaBuilder, contended_links, flows_of, needs_network
from sim.jobs.serving.detailed import DetailedReplica
from sim.jobs.serving.load import draw_load
from sim.jobs.serving.replica import Replica
from sim.jobs.serving.requests import ClosedFeed, Feed, OpenFeed, RequestTable, Tickets
from sim.jobs.serving.ring import play_ring
from sim.jobs.serving.single import play_single
from sim.jobs.training.build import Builder, TrainingBuild
from sim.jobs.training.run import TrainingRecording, prepare_training, start_training
from sim.jobs.training.shared import SharedRun, beside, can_be_asked, can_share
from sim.jobs.training.shared import flows_of as training_flows
from sim.jobs.training.writing import Writing, writing_of
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout, check_shortest
from sim.laws.topology import Topology
from sim.laws.training.layout import TrainingLayout
from sim.spec.reliability import Storage
from sim.spec.workload import Trace

Detail = Literal["auto", "full"]


@dataclass(frozen=True, slots=True)
class ServingRecording:
    """One serving job as it was played."""

    job: ResolvedServing
    layout: Layout
    table: RequestTable
    replicas: tuple[Replica, ...]
    too_long: int
    cut: int

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
        members = [m for r in self.replicas for s in r.stages for m in s.members]
        return [(m.track, m.law.shape.rates.peak, m.law.shape.rates.bandwidth) for m in members]

    @property
    def channels(self) -> list[ChannelTrack]:
        """All hops and collectives, with what they carried."""
        stages = [stage for replica in self.replicas for stage in replica.stages]
        return [t for s in stages for t in (s.collectives, s.hop.track if s.hop else None) if t]


JobRecording = ServingRecording | TrainingRecording


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that happened. ``end`` is the simulated time, ``detailed`` names replicas played in full."""

    resolved: Resolved
    topology: Topology
    jobs: tuple[JobRecording, ...]
    end: float
    events: int
    detail: Detail
    detailed: tuple[str, ...]

    @property
    def channels(self) -> list[ChannelTrack]:
        """All hops and collectives, with what they carried."""
        return [channel for job in self.jobs for channel in job.channels]

    @property
    def tracks(self) -> list[DeviceTrack]:
        """Every class of GPUs of every job."""
        return [track for job in self.jobs for track, _, _ in job.tracks]

    @property
    def training(self) -> list[TrainingRecording]:
        """The jobs that trained."""
        return [job for job in self.jobs if isinstance(job, TrainingRecording)]

    @property
    def serving(self) -> list[ServingRecording]:
        """The jobs that served requests."""
        return [job for job in self.jobs if isinstance(job, ServingRecording)]


def play(resolved: Resolved, detail: Detail = "auto", progress: Callable[[float], None] | None = None) -> Recording:
    """Simulate until the last request is answered and the last step done. ``progress`` hears the share of requests
    answered."""
    topology = topology_of(resolved)
    seeds = np.random.SeedSequence(resolved.scenario.seed).spawn(len(resolved.jobs))
    clock = Clock()
    jobs: list[JobRecording] = []
    serving: list[ServingRecording] = []
    for job, layout, seed in zip(resolved.jobs, layouts(resolved, topology), seeds, strict=True):
        if isinstance(job, ResolvedTraining):
            assert isinstance(layout, TrainingLayout)
            jobs.append(prepare_training(resolved, job, topology, layout, full=detail == "full"))
        else:
            assert isinstance(layout, Layout)
            prepared = _prepare(resolved, job, topology, layout, seed)
            jobs.append(prepared)
            serving.append(prepared)
    sharing = _Sharing(resolved, jobs, topology, clock, detail)
    for recording, seed in zip(jobs, seeds, strict=True):
        if isinstance(recording, TrainingRecording) and recording.name not in sharing.beside:
            start_training(clock, recording, seed)
    detailed = _serve(serving, sharing, clock, detail) if serving else []
    sharing.start()
    if progress is not None and serving:
        clock.beat = lambda: progress(_answered(serving))
    # A simulation makes events by the hundred thousand and hardly a cycle: look for garbage seldom.
    threshold = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        clock.play()
    finally:
        gc.set_threshold(*threshold)
    ends = [replica.tally.ended for served in serving for replica in served.replicas]
    ends += [job.ended for job in jobs if isinstance(job, TrainingRecording)]
    end = max(ends)
    for served in serving:
        for replica in served.replicas:
            for stage in replica.stages:
                for member in stage.members:
                    member.track.waiting += end - replica.tally.ended
    for other in jobs:
        if isinstance(other, TrainingRecording):
            other.close(end)
            clock.events += other.step.events
    return Recording(resolved, topology, tuple(jobs), end, clock.events, detail, tuple(detailed))


class _Sharing:
    """The network of a scenario, and the training jobs whose steps are played on it beside other jobs.

    ``beside`` has for each of them the jobs on its links, ``flows`` what they may ask of links; a store that a job's
    checkpoints go to is a link of its own, after those of the cluster.
    """

    def __init__(
        self, resolved: Resolved, jobs: Sequence[JobRecording], topology: Topology, clock: Clock, detail: Detail
    ) -> None:
        self.jobs, self.topology, self.clock = jobs, topology, clock
        self.capacities = topology.capacities()
        self.stories: dict[str, list[simpy.Process]] = {}
        self.flows: list[Flow] = []
        self.beside: dict[str, tuple[str, ...]] = {}
        self._builds: dict[str, tuple[TrainingBuild, Writing | None]] = {}
        if len(jobs) > 1:
            self._find(resolved, faults=resolved.scenario.faults is not None, full=detail == "full")
        self.network = Network(clock, self.capacities)

    def _find(self, resolved: Resolved, *, faults: bool, full: bool) -> None:
        """Who is beside whom on which links."""
        asked: dict[str, list[Flow]] = {}
        others: dict[str, list[Flow]] = {}
        for job in self.jobs:
            if isinstance(job, ServingRecording):
                asked[job.name] = [flow for replica in job.replicas for flow in flows_of(replica)]
            elif not can_share(job.build, faults=faults):
                if can_be_asked(job.build):
                    others[job.name] = training_flows(job.build, self.topology)
            else:
                build = job.build
                if full:
                    build = Builder(resolved, job.job, self.topology, build.ranks, alone=True).build()
                writing = self._writing(job)
                self._builds[job.name] = build, writing
                asked[job.name] = training_flows(build, self.topology, writing)
        self.beside = beside(asked, self._builds, self.capacities.__getitem__)
        self.flows = [flow for name in self.beside for flow in asked[name]]
        ignored = beside(asked | others, others, self.capacities.__getitem__)
        for job in self.jobs:
            if isinstance(job, TrainingRecording):
                job.ignored = ignored.get(job.name, ())

    def _writing(self, job: TrainingRecording) -> Writing | None:
        """A job's checkpoints, and a link for the store they go to."""
        checkpoint, found = job.job.spec.checkpoint, job.reliability
        if checkpoint is None or found is None or found.saving is None:
            return None
        store = None
        if isinstance(checkpoint.to, Storage):
            store = len(self.capacities)
            self.capacities.append(checkpoint.to.write)
        return writing_of(job.job.spec, found.saving, job.build.ranks, self.topology, store)

    def start(self) -> None:
        """Start the runs of training jobs beside others."""
        runs: dict[str, SharedRun] = {}
        for job in self.jobs:
            if isinstance(job, TrainingRecording) and job.name in self.beside:
                build, writing = self._builds[job.name]
                run = runs[job.name] = SharedRun(
                    self.clock, self.network, job, build, self.topology, writing, self.beside[job.name]
                )  # fmt: skip
                story = self.clock.process(run.process())
                self.clock.watch(story, f"training job {job.name} waits for a step")
        for run in runs.values():
            for name in run.shared.others:
                if name in runs:
                    run.others.append(partial(getattr, runs[name], "active"))
                run.others += [partial(getattr, story, "is_alive") for story in self.stories.get(name, ())]


def _serve(jobs: Sequence[ServingRecording], sharing: _Sharing, clock: Clock, detail: Detail) -> list[str]:
    """Start the stories of all replicas; the names of those told in detail."""
    replicas = [(job, replica) for job in jobs for replica in job.replicas]
    flows = [f for _, r in replicas for f in flows_of(r)]
    contended = contended_links([*flows, *sharing.flows], sharing.capacities)
    network = sharing.network
    detailed = []
    for job, replica in replicas:
        name = f"{job.job.spec.name}.r{replica.number}"
        if detail == "full" or needs_network(replica, contended):
            detailed.append(name)
            fold = detail != "full"
            story: Generator[Any, Any, None] = DetailedReplica(clock, network, replica, name, fold=fold).play()
        elif len(replica.stages) == 1:
            story = play_single(clock, replica)
        else:
            story = play_ring(clock, replica)
        process = clock.watch(clock.process(story), f"replica {name} waits for a batch to return")
        sharing.stories.setdefault(job.name, []).append(process)
    return detailed


def _prepare(
    resolved: Resolved, job: ResolvedServing, topology: Topology, layout: Layout, seed: np.random.SeedSequence
) -> ServingRecording:
    """Draw the job's requests and build its replicas."""
    spec = job.spec
    drawn = draw_load(spec.load, job.trace, job.lengths, seed)
    prompt, context = drawn.prompt, job.model.context
    if isinstance(spec.load.trace, Trace) and spec.load.trace.too_long == "truncate":
        prompt = [max(1, min(p, context - o)) for p, o in zip(prompt, drawn.output, strict=True)]
    cut = sum(p != q for p, q in zip(prompt, drawn.prompt, strict=True))
    table = RequestTable(prompt, drawn.output, drawn.arrival)
    unchecked = resolved.scenario.assume.kv_capacity == "unchecked"
    shortest = min(p + o for p, o in zip(table.prompt, table.output, strict=True))
    check_shortest(spec.name, job.model, layout, shortest, unchecked=unchecked)
    builder = ReplicaBuilder(resolved, job, topology)
    dp, tickets = spec.plan.dp, Tickets(len(table))
    replicas = []
    for number in range(dp):

        def feed_of(limits: Limits, number: int = number) -> Feed:
            return _feed(job, table, number, limits, tickets)

        replicas.append(builder.build(number, layout, table, feed_of))
    too_long = sum(p + o > context for p, o in zip(table.prompt, table.output, strict=True))
    return ServingRecording(job, layout, table, tuple(replicas), too_long, cut)


def _feed(job: ResolvedServing, table: RequestTable, number: int, limits: Limits, tickets: Tickets) -> Feed:
    """Requests go round to the replicas in turn; a client stays with its replica."""
    load, dp, context = job.spec.load, job.spec.plan.dp, job.model.context
    room = min(context, limits.blocks * limits.block_tokens)

    def fits(r: int) -> bool:
        return table.prompt[r] + table.output[r] <= room

    if load.closed_loop is not None:
        loop = load.closed_loop
        starts = [loop.ramp * client / loop.clients for client in range(number, loop.clients, dp)]
        return ClosedFeed(table, number, fits, tickets, starts, loop.think_time)
    return OpenFeed(table, number, fits, range(number, len(table), dp))


def _answered(jobs: Sequence[ServingRecording]) -> float:
    """Share of all requests that are answered or refused."""
    done = sum(sum(f == f for f in job.table.finish) + len(job.table.rejected) for job in jobs)
    return done / sum(len(job.table) for job in jobs)
