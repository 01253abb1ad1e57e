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
from itertools import product
from typing import Any, Literal

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing, ResolvedTraining
from sim.engine.clock import Clock
from sim.engine.network import Network
from sim.engine.timeline import ChannelTrack, DeviceTrack
from sim.jobs.serving.balancing import Balancer
from sim.jobs.serving.batching import Limits
from sim.jobs.serving.build import ReplicaBuilder, contended_links, flows_of, needs_network
from sim.jobs.serving.detailed import DetailedReplica
from sim.jobs.serving.dispatch import Dispatcher
from sim.jobs.serving.fleet import Fleet
from sim.jobs.serving.handover import Handover
from sim.jobs.serving.incidents import Health, Incidents
from sim.jobs.serving.load import draw_load
from sim.jobs.serving.reliability import incidents_of
from sim.jobs.serving.replica import Replica
from sim.jobs.serving.requests import ClosedFeed, Feed, OpenFeed, RequestTable, Tickets, TurnFeed
from sim.jobs.serving.ring import play_ring
from sim.jobs.serving.routing import Router
from sim.jobs.serving.single import play_single
from sim.jobs.sharing import Sharing
from sim.jobs.training.run import TrainingRecording, prepare_training, start_training
from sim.laws.arrange import layouts, topology_of
from sim.laws.layout import Layout, check_shortest
from sim.laws.topology import Topology
from sim.laws.training.layout import TrainingLayout
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
    incidents: Incidents | None = None
    handover: Handover | None = None
    fleet: Fleet | None = None

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
        found = [t for s in stages for t in (s.collectives, s.hop.track if s.hop else None) if t]
        if self.handover is not None:
            found += [flow.track for flows in self.handover.flows.values() for flow in flows]
        return found


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
            prepared = _prepare(resolved, job, topology, layout, seed, clock, charts)
            jobs.append(prepared)
            serving.append(prepared)
    asked = {job.name: [flow for r in job.replicas for flow in flows_of(r)] for job in serving}
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
            for stage in replica.stages:
                for member in stage.members:
                    member.track.waiting += end - replica.tally.ended
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


def _prepare(
    resolved: Resolved, job: ResolvedServing, topology: Topology, layout: Layout, seed: np.random.SeedSequence,
    clock: Clock, charts: bool,
) -> ServingRecording:  # fmt: skip
    """Draw the job's requests and build its replicas."""
    spec = job.spec
    context = job.model.context
    drawn = draw_load(spec.load, job.trace, job.lengths, context, seed, job.of_tenants)
    prompt = drawn.prompt
    if isinstance(spec.load.trace, Trace) and spec.load.trace.too_long == "truncate":
        prompt = [max(1, min(p, context - o)) for p, o in zip(prompt, drawn.output, strict=True)]
    cut = sum(p != q for p, q in zip(prompt, drawn.prompt, strict=True))
    table = RequestTable(prompt, drawn.output, drawn.arrival)
    openings: Sequence[int] = range(len(table))
    if drawn.prompts is not None:
        openings, table.follow = drawn.prompts.openings, drawn.prompts.follow
    if drawn.tenant is not None:
        table.tenant = drawn.tenant
        levels = [tenant.priority for tenant in spec.load.tenants]
        if len(set(levels)) > 1:
            table.priority = [levels[number] for number in drawn.tenant]
    unchecked = resolved.scenario.assume.kv_capacity == "unchecked"
    shortest = min(p + o for p, o in zip(table.prompt, table.output, strict=True))
    check_shortest(spec.name, job.model, layout, shortest, unchecked=unchecked)
    builder = ReplicaBuilder(resolved, job, topology, charts=charts, prompts=drawn.prompts)
    dp, tickets = spec.plan.dp, Tickets(openings)
    incidents = incidents_of(resolved, job, topology, layout, seed)
    balancer, pools, handover = _balancer(job, table), spec.disaggregate, None
    if pools is not None:
        pairs = product(range(pools.prefill), range(pools.prefill, dp))
        handover = Handover(clock, {pair: builder.hand_over(*pair, layout) for pair in pairs})
    dispatcher, fleet = None, None
    if balancer is not None and incidents is None:
        fleet = Fleet(clock, spec.autoscale, balancer, dp) if spec.autoscale is not None else None
        loop = spec.load.closed_loop
        dispatcher = Dispatcher(
            clock, table, balancer, tickets if loop else None, loop.think_time if loop else 0.0, handover,
            pools.prefill if pools is not None else 0, fleet,
        )  # fmt: skip
    router = _router(job, table, incidents, tickets, clock, balancer) if incidents is not None else None
    replicas = []
    for number in range(dp):

        def feed_of(limits: Limits, number: int = number) -> Feed:
            room = min(context, limits.blocks * limits.block_tokens)

            def fits(r: int) -> bool:
                return table.prompt[r] + table.output[r] <= room

            sender = router or dispatcher
            if sender is not None:
                return sender.feed(number, fits)
            return _feed(job, table, openings[number::dp], number, fits, tickets)

        replica = builder.build(number, layout, table, feed_of)
        replica.health = Health(clock, incidents, number) if incidents is not None else None
        replicas.append(replica)
        if dispatcher is not None:
            dispatcher.join(replica.scheduler)
        elif balancer is not None:
            balancer.join(replica.scheduler)
    if router is not None:
        _send_all(router, job, table, openings)
    if dispatcher is not None:
        for start in _starts(job, range(spec.load.closed_loop.clients)) if spec.load.closed_loop else ():
            dispatcher.call(start)
        for r in openings if spec.load.closed_loop is None else ():
            dispatcher.send(r, table.arrival[r])
        clock.process(dispatcher.play())
    too_long = sum(p + o > context for p, o in zip(table.prompt, table.output, strict=True))
    return ServingRecording(job, layout, table, tuple(replicas), too_long, cut, incidents, handover, fleet)


def _balancer(job: ResolvedServing, table: RequestTable) -> Balancer | None:
    """What chooses replicas by what they do; None where it is known beforehand who goes where."""
    policy, dp = job.spec.router, job.spec.plan.dp
    if job.spec.disaggregate is not None or job.spec.autoscale is not None:
        return Balancer("least_loaded" if policy == "sticky" else policy, table)
    if dp == 1 or policy == "sticky":
        return None
    if policy == "round_robin" and not table.follow and job.spec.load.closed_loop is None:
        return None
    return Balancer(policy, table)


def _router(
    job: ResolvedServing, table: RequestTable, incidents: Incidents, tickets: Tickets, clock: Clock,
    balancer: Balancer | None,
) -> Router:  # fmt: skip
    loop = job.spec.load.closed_loop
    if loop is None:
        return Router(clock, table, incidents, job.spec.failover, balancer=balancer)
    return Router(clock, table, incidents, job.spec.failover, tickets, loop.think_time, balancer)


def _starts(job: ResolvedServing, clients: Sequence[int]) -> list[float]:
    """When clients of a closed loop send their first requests."""
    loop = job.spec.load.closed_loop
    assert loop is not None
    return [loop.ramp * client / loop.clients for client in clients]


def _send_all(router: Router, job: ResolvedServing, table: RequestTable, openings: Sequence[int]) -> None:
    """All requests whose instants are known, or the first of every client."""
    loop, dp = job.spec.load.closed_loop, job.spec.plan.dp
    if loop is None:
        for i, r in enumerate(openings):
            router.send(r, table.arrival[r], i % dp, i % dp)
        return
    for number in range(dp):
        for start in _starts(job, range(number, loop.clients, dp)):
            router.draw(start, number)


def _feed(
    job: ResolvedServing, table: RequestTable, opens: Sequence[int], number: int, fits: Callable[[int], bool],
    tickets: Tickets,
) -> Feed:  # fmt: skip
    """Requests go round to the replicas in turn; who comes again stays with its replica."""
    loop = job.spec.load.closed_loop
    if loop is not None:
        starts = _starts(job, range(number, loop.clients, job.spec.plan.dp))
        return ClosedFeed(table, number, fits, tickets, starts, loop.think_time)
    if table.follow:
        return TurnFeed(table, number, fits, opens)
    return OpenFeed(table, number, fits, opens)


def _answered(jobs: Sequence[ServingRecording]) -> float:
    """Share of all requests that are answered or refused."""
    done = sum(sum(f == f for f in t.finish) + len(t.rejected) + len(t.failed) for t in (job.table for job in jobs))
    return done / sum(len(job.table) for job in jobs)
