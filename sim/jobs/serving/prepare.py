"""Drawing a serving job's requests, building its replicas, and joining the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from sim.adapters.resolve import Resolved, ResolvedServing
from sim.engine.clock import Clock
from sim.jobs.serving.balancing import Balancer
from sim.jobs.serving.batching import Scheduler
from sim.jobs.serving.build import ReplicaBuilder
from sim.jobs.serving.dispatch import Dispatcher
from sim.jobs.serving.fleet import Fleet
from sim.jobs.serving.handover import Handover
from sim.jobs.serving.host_copies import check_stores
from sim.jobs.serving.incidents import Health, Incidents
from sim.jobs.serving.load import DrawnLoad, draw_load
from sim.jobs.serving.prompts import cut
from sim.jobs.serving.recording import ServingRecording
from sim.jobs.serving.reliability import incidents_of
from sim.jobs.serving.requests import ClosedFeed, Feed, OpenFeed, RequestTable, Tickets, TurnFeed
from sim.jobs.serving.routing import Router
from sim.laws.layout import Layout, check_shortest
from sim.laws.topology import Topology
from sim.spec.workload import Trace


def prepare_serving(
    resolved: Resolved, job: ResolvedServing, topology: Topology, layout: Layout, seed: np.random.SeedSequence,
    clock: Clock, charts: bool,
) -> ServingRecording:  # fmt: skip
    """A job that is ready to be played. Raises InfeasibleError when no request can be served."""
    context = job.model.context
    drawn = draw_load(job.spec.load, job.trace, job.lengths, context, seed, job.of_tenants)
    table, shorter = _table(job, drawn)
    prompts = cut(drawn.prompts, table.prompt) if shorter and drawn.prompts is not None else drawn.prompts
    unchecked = resolved.scenario.assume.kv_capacity == "unchecked" or not job.spec.batching.kv_cache
    shortest = min(p + o for p, o in zip(table.prompt, table.output, strict=True))
    check_shortest(job.spec.name, job.model, layout, shortest, unchecked=unchecked)
    builder = ReplicaBuilder(resolved, job, topology, charts=charts, prompts=prompts)
    check_stores(job.spec, topology, layout)
    incidents, handover = incidents_of(resolved, job, topology, layout, seed), None
    if (pools := job.spec.disaggregate) is not None:
        pairs = product(range(pools.prefill), range(pools.prefill, job.spec.plan.dp))
        handover = Handover(clock, {pair: builder.hand_over(*pair, layout) for pair in pairs})
    rooms = [min(context, held.blocks * held.block_tokens)
             for held in (builder.limits(layout, number) for number in range(job.spec.plan.dp))]  # fmt: skip
    if pools is not None:  # whoever begins on a replica for prompts must find room on one for tokens
        most = max(rooms[pools.prefill :])
        rooms[: pools.prefill] = [min(room, most) for room in rooms[: pools.prefill]]
    openings = range(len(table)) if drawn.prompts is None else drawn.prompts.openings
    senders = _Senders(clock, job, table, openings, incidents, handover)
    replicas = []
    for number, room in enumerate(rooms):
        feed = senders.feed(number, lambda r, room=room: table.prompt[r] + table.output[r] <= room)  # type: ignore[misc]
        replica = builder.build(number, layout, table, feed)
        replica.health = Health(clock, incidents, number) if incidents is not None else None
        replicas.append(replica)
        senders.join(replica.scheduler)
    senders.send()
    too_long = sum(p + o > context for p, o in zip(table.prompt, table.output, strict=True))
    return ServingRecording(job, layout, table, tuple(replicas), too_long, shorter, incidents, handover, senders.fleet)


def _table(job: ResolvedServing, drawn: DrawnLoad) -> tuple[RequestTable, int]:
    """The requests as a table, and how many prompts were cut to fit the model's context."""
    load, prompt = job.spec.load, drawn.prompt
    if isinstance(load.trace, Trace) and load.trace.too_long == "truncate":
        prompt = [max(1, min(p, job.model.context - o)) for p, o in zip(prompt, drawn.output, strict=True)]
    table = RequestTable(prompt, drawn.output, drawn.arrival)
    if drawn.prompts is not None:
        table.follow = drawn.prompts.follow
    if drawn.tenant is not None:
        table.tenant = drawn.tenant
        levels = [tenant.priority for tenant in load.tenants]
        if len(set(levels)) > 1:
            table.priority = [levels[number] for number in drawn.tenant]
    return table, sum(p != q for p, q in zip(prompt, drawn.prompt, strict=True))


class _Senders:
    """Who sends a job's requests to its replicas: a router where replicas fail, a dispatcher where it matters what they
    do, and otherwise nobody, for it is known beforehand who goes where."""

    def __init__(
        self, clock: Clock, job: ResolvedServing, table: RequestTable, openings: Sequence[int],
        incidents: Incidents | None, handover: Handover | None,
    ) -> None:  # fmt: skip
        self.clock, self.job, self.table, self.openings = clock, job, table, openings
        self.tickets = Tickets(openings)
        self.balancer = self._balancer()
        self.router: Router | None = None
        self.dispatcher: Dispatcher | None = None
        self.fleet: Fleet | None = None
        spec, loop = job.spec, job.spec.load.closed_loop
        calls = (self.tickets if loop else None, loop.think_time if loop else 0.0)
        if incidents is not None:
            self.router = Router(clock, table, incidents, spec.failover, *calls, self.balancer)
        elif self.balancer is not None:
            if spec.autoscale is not None:
                self.fleet = Fleet(clock, spec.autoscale, self.balancer, spec.plan.dp)
            prefill = spec.disaggregate.prefill if spec.disaggregate is not None else 0
            self.dispatcher = Dispatcher(clock, table, self.balancer, *calls, handover, prefill, self.fleet)

    def _balancer(self) -> Balancer | None:
        """What chooses replicas by what they do; None where nobody has to."""
        spec = self.job.spec
        if spec.disaggregate is not None or spec.autoscale is not None:
            return Balancer("least_loaded" if spec.router == "sticky" else spec.router, self.table)
        if spec.plan.dp == 1 or spec.router == "sticky":
            return None
        if spec.router == "round_robin" and not self.table.follow and spec.load.closed_loop is None:
            return None
        return Balancer(spec.router, self.table)

    def feed(self, number: int, fits: Callable[[int], bool]) -> Feed:
        """The feed of the next replica. Where nobody sends, requests go round in turn, and who comes again stays."""
        sender = self.router or self.dispatcher
        if sender is not None:
            return sender.feed(number, fits)
        loop, opens = self.job.spec.load.closed_loop, self.openings[number :: self._dp]
        if loop is not None:
            starts = self._starts(range(number, loop.clients, self._dp))
            return ClosedFeed(self.table, number, fits, self.tickets, starts, loop.think_time)
        if self.table.follow:
            return TurnFeed(self.table, number, fits, opens)
        return OpenFeed(self.table, number, fits, opens)

    @property
    def _dp(self) -> int:
        return self.job.spec.plan.dp

    def join(self, scheduler: Scheduler) -> None:
        """The replica whose feed was asked for last has its scheduler."""
        if self.dispatcher is not None:
            self.dispatcher.join(scheduler)
        elif self.balancer is not None:
            self.balancer.join(scheduler)

    def send(self) -> None:
        """Send all requests whose instants are known, or the first of every client."""
        loop, dp = self.job.spec.load.closed_loop, self._dp
        if self.dispatcher is not None:
            for start in self._starts(range(loop.clients)) if loop is not None else ():
                self.dispatcher.call(start)
            for r in self.openings if loop is None else ():
                self.dispatcher.send(r, self.table.arrival[r])
        if self.router is None:
            return
        if loop is None:
            for i, r in enumerate(self.openings):
                self.router.send(r, self.table.arrival[r], i % dp, i % dp)
            return
        for number in range(dp):
            for start in self._starts(range(number, loop.clients, dp)):
                self.router.draw(start, number)

    def _starts(self, clients: Sequence[int]) -> list[float]:
        """When clients of a closed loop send their first requests."""
        loop = self.job.spec.load.closed_loop
        assert loop is not None
        return [loop.ramp * client / loop.clients for client in clients]
