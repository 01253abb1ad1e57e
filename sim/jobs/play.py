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
from typing import Any, Literal

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedTraining
from sim.engine.clock import Clock
from sim.engine.network import Network
from sim.engine.timeline import ChannelTrack, DeviceTrack
from sim.jobs.serving.build import contended_links, flows_of, needs_network
from sim.jobs.serving.detailed import DetailedReplica
from sim.jobs.serving.prepare import prepare_serving
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.serving.replica import SWITCHED_OFF
from sim.jobs.serving.ring import play_ring
from sim.jobs.serving.single import play_single
from sim.jobs.sharing import Sharing
from sim.jobs.training.run import TrainingRecording, prepare_training, start_training
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout
from sim.laws.topology import Topology
from sim.laws.training.layout import TrainingLayout

Detail = Literal["auto", "full"]


JobRecording = ServingRecording | TrainingRecording


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that happened. ``end`` is the simulated time, ``detailed`` names replicas played in full.

    Without ``charts`` serving jobs kept no more than their answers need: no spans, and nothing of what devices and
    links did over time.
    """

    resolved: Resolved
    topology: Topology
    jobs: tuple[JobRecording, ...]
    end: float
    events: int
    detail: Detail
    detailed: tuple[str, ...]
    charts: bool = True

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


def play(
    resolved: Resolved,
    detail: Detail = "auto",
    progress: Callable[[float], None] | None = None,
    *,
    charts: bool = True,
) -> Recording:
    """Simulate until the last request is answered and the last step done. ``progress`` hears the share of requests
    answered. Answers are the same without ``charts``, and come sooner."""
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
            prepared = prepare_serving(resolved, job, topology, layout, seed, clock, charts)
            jobs.append(prepared)
            serving.append(prepared)
    asked = {job.name: [*job.handed_over, *(flow for r in job.replicas for flow in flows_of(r))] for job in serving}
    trained = [job for job in jobs if isinstance(job, TrainingRecording)]
    sharing = Sharing(resolved, topology, asked, trained, full=detail == "full")
    for recording, seed in zip(jobs, seeds, strict=True):
        if isinstance(recording, TrainingRecording) and recording.name not in sharing.beside:
            start_training(clock, recording, seed)
    detailed: list[str] = []
    if serving or sharing.beside:
        network = Network(clock, sharing.capacities)
        for served in serving:
            if served.handover is not None:
                served.handover.network = network
        detailed = _serve(serving, sharing, clock, network, detail)
        sharing.start(clock, network)
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
            off = served.fleet.off({replica.number}, end) if served.fleet is not None else []
            away = sum(until - since for since, until in off)
            for stage in replica.stages:
                replica.other(stage, SWITCHED_OFF, away)
                for member in stage.members:
                    member.track.waiting += end - replica.tally.ended - away
    for other in jobs:
        if isinstance(other, TrainingRecording):
            other.close(end)
            clock.events += other.step.events
    return Recording(resolved, topology, tuple(jobs), end, clock.events, detail, tuple(detailed), charts)


def _serve(
    jobs: Sequence[ServingRecording], sharing: Sharing, clock: Clock, network: Network, detail: Detail
) -> list[str]:
    """Start the stories of all replicas; the names of those told in detail."""
    replicas = [(job, replica) for job in jobs for replica in job.replicas]
    flows = [f for _, r in replicas for f in flows_of(r)]
    flows += [f for job in jobs for f in job.handed_over]
    contended = contended_links([*flows, *sharing.flows], sharing.capacities)
    detailed = []
    for job, replica in replicas:
        name = f"{job.job.spec.name}.r{replica.number}"
        told = replica.scheduler.feed.told and (replica.health is not None or len(replica.stages) > 1)
        if detail == "full" or told or needs_network(replica, contended):
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


def _answered(jobs: Sequence[ServingRecording]) -> float:
    """Share of all requests that are answered or refused."""
    done = sum(sum(f == f for f in t.finish) + len(t.rejected) + len(t.failed) for t in (job.table for job in jobs))
    return done / sum(len(job.table) for job in jobs)
