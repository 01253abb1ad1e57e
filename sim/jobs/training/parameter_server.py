"""Data parallelism over parameter servers: workers push gradients to the servers' slices and pull weights back.

Every worker and every server is a process, every push and pull a transfer over the real way between two GPUs, so the
servers' cards are shared by max-min fairness and become the bottleneck by themselves. N workers, S servers, P trained
parameters of gb bytes of gradient and wb of weight, s the staleness:

    step t       data loading, the framework's overhead, kernels of all micro-batches
    exchange t   with each server at once: push gb P/S, wait until it is applied, pull wb P/S
    server       takes all gradients that wait, updates its slice, then answers: once a round of N gradients (s = 0),
                 or once a gradient (s > 0). The update is the optimizer's traffic on P/S parameters

    s = 0        step t begins when exchange t-1 is over; it pulls once all gradients of its round are applied
    s > 0        step t begins when exchange t-2 is over: one exchange moves beside the kernels of the next step, and a
                 worker's exchanges follow each other. Exchange j pulls once all workers' gradients up to j+1-s are
                 applied, so step t uses those up to t-1-s of everyone (stale synchronous parallel)
    unbounded    the same, but a pull waits for no other worker

With equal workers and cards of B bytes/s, full duplex, Phi bytes of gradients and of weights, c seconds of kernels and
k = 2 N Phi / (S B): a step takes c + k at s = 0 and max(c, k) beyond, at most twice as fast.

The staleness of a step is t-1 less the newest iteration that is, of every worker, in the weights the step uses: 0 when
synchronous, at most s when bounded, and unbounded with a slow worker it grows as long as the run lasts.

Rounds (N steps begun) are played until three were equal to 1e-9 and each worker took as long over three steps, at most
``ROUNDS``. Without such an end the first fifth is left out and each worker counts with its mean over whole steps. A
step of the job is N steps of workers: seconds = N / sum of the workers' rates. With a bound, workers that still gain on
the slowest at the end start s steps ahead in a second play: there they would end up.

Assumptions. Gradients leave after the last backward pass, not layer by layer; a server sums them as they come, at no
cost beside the transfers; it answers all that it applied together at the same instant. Servers are GPUs.

Sources. Li et al. 2014, Scaling Distributed Machine Learning with the Parameter Server, OSDI (bounded delay); Ho et al.
2013, More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server, NIPS.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import simpy

from sim.engine.clock import Clock
from sim.engine.network import Network
from sim.errors import RunError
from sim.jobs.training.build import Builder, Member, ReplicaClass, Stage, TrainingBuild
from sim.jobs.training.step import Seconds
from sim.laws.topology import Route, Topology
from sim.laws.training.groups import crosses_nodes
from sim.laws.training.layer import Pass, Work
from sim.laws.training.stage import held_by

Story = Generator[simpy.Event, object, None]

#: Rounds played at most, equal ones that end it, and the share of a run without them that is not measured.
ROUNDS = 50
EQUAL = 3
WARM_UP = 0.2
SAME = 1e-9
#: A worker's lead in rate over the slowest that counts as gaining on it.
GAINS = 1e-6
#: Transfers of a run beyond which it has fewer rounds.
MOST_TRANSFERS = 100_000

# What a worker or a server is at.
DATA, HOST, KERNELS, TALK, PEERS, UPDATE, IDLE = (
    "data", "host", "kernels", "talk", "peers", "update", "idle",
)  # fmt: skip


class Log:
    """What something was at, from when to when: pieces without gaps."""

    __slots__ = ("pieces", "since", "state")

    def __init__(self, state: str) -> None:
        self.state, self.since = state, 0.0
        self.pieces: list[tuple[float, float, str]] = []

    def turn(self, now: float, state: str) -> None:
        """From ``now`` on it is at ``state``."""
        if state == self.state:
            return
        if now > self.since:
            self.pieces.append((self.since, now, self.state))
        self.since, self.state = now, state

    def within(self, begin: float, end: float) -> Iterator[tuple[float, float, str]]:
        """The pieces of a span of time, cut at its ends."""
        for a, b, state in self.pieces:
            if b > begin and a < end:
                yield max(a, begin), min(b, end), state

    def seconds(self, begin: float, end: float) -> dict[str, float]:
        """Seconds of each state in a span of time."""
        found: dict[str, float] = {}
        for a, b, state in self.within(begin, end):
            found[state] = found.get(state, 0.0) + b - a
        return found


class Worker:
    """A replica: what it computes in a step, its ways to the servers and back, and what it did.

    ``begins[i]`` is when step ``first + i`` began, ``staleness[i]`` that of its weights. ``rate``: steps it makes in
    one of the job.
    """

    def __init__(
        self, number: int, gpu: int, one: ReplicaClass, kernels: Seconds, ways: list[tuple[Route, Route]]
    ) -> None:
        self.number, self.gpu, self.one, self.kernels, self.ways = number, gpu, one, kernels, ways
        self.first = 1
        self.begins: list[float] = []
        self.staleness: list[int] = []
        self.exchanges: list[simpy.Process] = []
        self.holds = 0
        self.log = Log(DATA)
        self.task: str | None = None
        self.talking = 0
        self.rate = 1.0
        self.seconds = Seconds()

    @property
    def stage(self) -> Stage:
        """The whole model."""
        return self.one.stages[0]

    @property
    def link(self) -> str:
        """The kind of link of its slowest way."""
        return _words(min((way for pair in self.ways for way in pair), key=lambda route: route.cap))

    def turn(self, now: float) -> None:
        """Note what it is at: its task, else an exchange, else other workers are late."""
        self.log.turn(now, self.task or (TALK if self.talking else PEERS))


class Server:
    """Owner of a slice: its update, and what came and was applied.

    ``applied`` is the newest iteration by worker, ``oldest`` that of all, ``rounds`` of how many rounds all gradients
    came. ``complete`` happens when a round's last gradient comes, ``published`` when an update is done.
    """

    def __init__(self, clock: Clock, number: int, gpu: int, member: Member, update: Work, workers: int) -> None:
        self.number, self.gpu, self.member, self.update = number, gpu, member, update
        self.applied, self.oldest, self.rounds = [0] * workers, 0, 0
        self.applied_at: list[dict[int, float]] = [{} for _ in range(workers)]
        self.waiting: list[tuple[int, int]] = []
        self.arrival, self.complete, self.published = clock.event(), clock.event(), clock.event()
        self.log = Log(IDLE)
        self.updating, self.flows = False, 0
        self.link = ""
        self.seconds = Seconds()

    def turn(self, now: float) -> None:
        """Note what it is at."""
        self.log.turn(now, UPDATE if self.updating else TALK if self.flows else IDLE)


@dataclass(slots=True)
class Rounds:
    """What was played. ``seconds`` is a step of the job: one of each worker on average, over ``window``."""

    seconds: float
    events: int
    played: int
    steady: bool
    window: tuple[float, float]
    staleness_mean: float
    staleness_max: int
    push: float
    pull: float
    workers: list[Worker]
    servers: list[Server]
    network: Network

    @property
    def updates(self) -> float:
        """Seconds a server updates in a step."""
        return sum(server.seconds.busy for server in self.servers) / len(self.servers)

    def of(self, one: ReplicaClass) -> tuple[Seconds, float]:
        """Seconds and steps of a worker of a class in a step of the job, mean over the class."""
        mine = [worker for worker in self.workers if worker.one is one]
        total = Seconds()
        for worker in mine:
            total.add(worker.seconds, 1 / len(mine))
        return total, sum(worker.rate for worker in mine) / len(mine)


def play_rounds(builder: Builder, build: TrainingBuild, topology: Topology) -> Rounds:
    """Play a job with parameter servers until its rounds are steady."""
    rounds = _Rounds(builder, build, topology).play()
    bound = _bound(build)
    slowest = min(worker.rate for worker in rounds.workers)
    ahead = {worker.number for worker in rounds.workers if worker.rate > slowest * (1 + GAINS)}
    if rounds.steady or not isinstance(bound, int) or not ahead:
        return rounds
    again = _Rounds(builder, build, topology, ahead).play()
    return replace(again, events=again.events + rounds.events)


def _bound(build: TrainingBuild) -> int | Literal["unbounded"]:
    servers = build.job.spec.plan.parameter_server
    assert servers is not None
    return servers.staleness


def _words(route: Route) -> str:
    return "PCIe through host memory" if route.staged else str(route.kind)


class _Rounds:
    """One play; workers in ``ahead`` have made as many steps before it as the bound lets them."""

    def __init__(
        self, builder: Builder, build: TrainingBuild, topology: Topology, ahead: Collection[int] = ()
    ) -> None:
        self.builder, self.build, self.topology = builder, build, topology
        self.clock = Clock()
        self.bound = _bound(build)
        self.over = self.clock.event()
        stage = build.classes[0].stages[0]
        held = held_by(build.job.model, build.job.spec, stage.chunks, builder.scale)
        trained, number = held.trained, len(build.ranks.servers)
        precision = build.job.spec.precision
        self.push = precision.gradient_bytes * trained / number
        self.pull = precision.weight_bytes * trained / number
        self.servers = [self._server(n, gpu, stage) for n, gpu in enumerate(build.ranks.servers)]
        self.workers = list(self._workers())
        for worker in self.workers:
            if worker.number in ahead and isinstance(self.bound, int):
                worker.first += self.bound
                for server in self.servers:
                    server.applied[worker.number] = self.bound
        self.network = Network(self.clock, self._capacities())
        self.most = max(EQUAL + 1, min(ROUNDS, MOST_TRANSFERS // (2 * number * len(self.workers))))
        self.marks: list[float] = []
        self.begun = 0

    @property
    def synchronous(self) -> bool:
        return self.bound == 0

    # ---- who plays

    def _server(self, number: int, gpu: int, stage: Stage) -> Server:
        name = self.topology.gpus[gpu].gpu
        member = self.builder.member(name, 1.0, 0, stage.chunks, 1)
        update = member.sync.update.work.times(1 / len(self.build.ranks.servers))
        return Server(self.clock, number, gpu, member, update, self.build.job.spec.plan.dp)

    def _workers(self) -> Iterator[Worker]:
        class_of = {dp: one for one in self.build.classes for dp in one.replicas}
        kernels = {one.dp: self._kernels(one) for one in self.build.classes}
        route = self.topology.route
        for dp in range(self.build.job.spec.plan.dp):
            gpu, one = self.build.ranks.at(dp=dp), class_of[dp]
            ways = [(route(gpu, server.gpu), route(server.gpu, gpu)) for server in self.servers]
            yield Worker(dp, gpu, one, kernels[one.dp], ways)

    def _kernels(self, one: ReplicaClass) -> Seconds:
        """A worker's passes of one step."""
        found = Seconds()
        for passes in one.stages[0].lead.passes:
            for direction in (passes.forward, passes.backward, passes.weight):
                found.do(direction, one.stages[0].links, self.build.micro_batches)
        return found

    def _capacities(self) -> list[float]:
        """Those of the topology, cards between nodes with the stack's share of their line rate."""
        found = self.topology.capacities()
        share = self.builder.constants.network
        for link in {link for w in self.workers for pair in w.ways for way in pair for link, _ in way.links}:
            rate = self.topology.local_link(link)[0].rate
            if crosses_nodes(rate.kind):
                found[link] = min(rate.capacity, rate.bandwidth * share)
        return found

    # ---- a worker

    def _work(self, worker: Worker) -> Story:
        behind, step = 1 if self.synchronous else 2, worker.first
        spec = self.build.job.spec
        tasks = ((DATA, spec.data_loading), (HOST, self.build.step_overhead), (KERNELS, worker.kernels.total))
        while True:
            if len(worker.exchanges) >= behind and worker.exchanges[-behind].is_alive:
                yield worker.exchanges[-behind]
            self._begin(worker, step)
            for task, seconds in tasks:
                if seconds > 0.0:
                    worker.task = task
                    worker.turn(self.clock.now)
                    yield self.clock.timeout(seconds)
            worker.task = None
            worker.turn(self.clock.now)
            before = worker.exchanges[-1] if worker.exchanges else None
            worker.exchanges = [*worker.exchanges[-1:], self.clock.process(self._exchange(worker, step, before))]
            step += 1

    def _begin(self, worker: Worker, step: int) -> None:
        worker.begins.append(self.clock.now)
        worker.staleness.append(step - 1 - worker.holds)
        self.begun += 1
        if self.begun % len(self.workers) == 0:
            self._end_round()

    def _end_round(self) -> None:
        self.marks.append(self.clock.now)
        if not self.over.triggered and (self._steady() or len(self.marks) > self.most):
            self.over.succeed()

    def _steady(self) -> bool:
        """Whether the last rounds took the same time, and every worker as long over as many steps."""
        if len(self.marks) <= EQUAL + 1:
            return False
        marks = self.marks[-EQUAL - 1 :]
        lengths, whole = [b - a for a, b in pairwise(marks)], marks[-1] - marks[0]
        if max(lengths) - min(lengths) > SAME * whole:
            return False
        return all(
            len(w.begins) > EQUAL and abs(w.begins[-1] - w.begins[-EQUAL - 1] - whole) <= SAME * whole
            for w in self.workers
        )  # fmt: skip

    # ---- an exchange

    def _exchange(self, worker: Worker, step: int, before: simpy.Process | None) -> Story:
        """Push, wait and pull with all servers at once, after the worker's exchange before it."""
        if before is not None and before.is_alive:
            yield before
        legs = [self.clock.process(self._leg(worker, server, step)) for server in self.servers]
        yield self.clock.all_of(legs)
        worker.holds = min(leg.value or 0 for leg in legs)

    def _leg(self, worker: Worker, server: Server, step: int) -> Generator[simpy.Event, object, int]:
        """An exchange with one server; the newest iteration of every worker that is in the weights it brings."""
        there, back = worker.ways[server.number]
        yield from self._move(worker, server, there, self.push, "push")
        self._receive(worker, server, step)
        if self.synchronous:
            yield from self._wait(worker, lambda: server.rounds >= step, lambda: server.complete, late=True)
            yield from self._wait(worker, lambda: server.oldest >= step, lambda: server.published, late=False)
        else:
            mine = worker.number
            yield from self._wait(worker, lambda: server.applied[mine] >= step, lambda: server.published, late=False)
            if isinstance(self.bound, int):
                needed = step + 1 - self.bound
                yield from self._wait(worker, lambda: server.oldest >= needed, lambda: server.published, late=True)
        held = server.oldest
        yield from self._move(worker, server, back, self.pull, "pull")
        return held

    def _wait(
        self, worker: Worker, enough: Callable[[], bool], event: Callable[[], simpy.Event], *, late: bool
    ) -> Story:
        """Wait for a server; ``late`` when it is for other workers' sake."""
        if enough():
            return
        worker.talking += not late
        worker.turn(self.clock.now)
        while not enough():
            yield event()
        worker.talking -= not late
        worker.turn(self.clock.now)

    def _move(self, worker: Worker, server: Server, route: Route, size: float, what: str) -> Story:
        worker.talking += 1
        server.flows += 1
        self._turn(worker, server)
        yield self.network.transfer(
            size, links=route.links, cap=route.cap, latency=route.latency, overhead=route.overhead,
            label=f"{what} {worker.gpu} {server.gpu}",
        )  # fmt: skip
        worker.talking -= 1
        server.flows -= 1
        self._turn(worker, server)

    def _turn(self, worker: Worker, server: Server) -> None:
        worker.turn(self.clock.now)
        server.turn(self.clock.now)

    # ---- a server

    def _receive(self, worker: Worker, server: Server, step: int) -> None:
        server.waiting.append((worker.number, step))
        if not server.arrival.triggered:
            server.arrival.succeed()
        if self.synchronous and len(server.waiting) == len(self.workers):
            server.rounds += 1
            complete, server.complete = server.complete, self.clock.event()
            complete.succeed()

    def _serve(self, server: Server) -> Story:
        """Take what waits, update, answer. Gradients that come at one instant are taken together: the event that wakes
        a server stands behind their arrivals."""
        whole = len(self.workers)
        while True:
            while not server.waiting or (self.synchronous and len(server.waiting) < whole):
                server.arrival = self.clock.event()
                yield server.arrival
            taken, server.waiting = server.waiting, []
            server.updating = True
            server.turn(self.clock.now)
            yield self.clock.timeout(server.update.seconds * (1 if self.synchronous else len(taken)))
            server.updating = False
            server.turn(self.clock.now)
            for worker, step in taken:
                server.applied[worker] = step
                server.applied_at[worker][step] = self.clock.now
            server.oldest = min(server.applied)
            published, server.published = server.published, self.clock.event()
            published.succeed()

    # ---- the whole

    def play(self) -> Rounds:
        """All until the rounds are steady, and what is left of it."""
        for server in self.servers:
            self.clock.process(self._serve(server))
        for worker in self.workers:
            self.clock.process(self._work(worker))
        try:
            self.clock.run(until=self.over)
        except RuntimeError:
            raise RunError(f"deadlock at {self.clock.now:.6f} s: no worker can begin its next step") from None
        now = self.clock.now
        for log in [*(w.log for w in self.workers), *(s.log for s in self.servers)]:
            log.turn(now, "over")
        steady = self._steady()
        first = len(self.marks) - 1 - EQUAL if steady else int(WARM_UP * len(self.marks))
        window = self.marks[first], self.marks[-1]
        spans = [self._steps(worker, window, steady) for worker in self.workers]
        seconds = len(self.workers) / sum(n / (b - a) for n, a, b in spans)
        for worker, (n, a, b) in zip(self.workers, spans, strict=True):
            worker.rate = n * seconds / (b - a)
            worker.seconds = self._worker_seconds(worker, a, b, seconds)
        for server in self.servers:
            server.link = _busiest(worker.ways[server.number][0] for worker in self.workers)
            server.seconds = self._server_seconds(server, window, seconds)
        stale = [x for w in self.workers for x in w.staleness[bisect_left(w.begins, window[0] * (1 + SAME)) :]]
        return Rounds(
            seconds, self.clock.events, len(self.marks) - 1, steady, window, sum(stale) / len(stale), max(stale),
            self.push, self.pull, self.workers, self.servers, self.network,
        )  # fmt: skip

    def _steps(self, worker: Worker, window: tuple[float, float], steady: bool) -> tuple[float, float, float]:
        """Steps of a worker in the window, and the time that these whole steps span."""
        begins = worker.begins
        if steady:
            return EQUAL, begins[-EQUAL - 1], begins[-1]
        first = bisect_left(begins, window[0])
        whole = len(begins) - 1 - first
        return (whole, begins[first], begins[-1]) if whole > 0 else (max(0, len(begins) - first), *window)

    def _worker_seconds(self, worker: Worker, begin: float, end: float, step: float) -> Seconds:
        """Where a worker's seconds went, for one step of the job."""
        spent, scale = worker.log.seconds(begin, end), step / (end - begin)
        found = Seconds()
        if worker.kernels.total > 0.0:
            found.add(worker.kernels, spent.get(KERNELS, 0.0) * scale / worker.kernels.total)
        found.data += spent.get(DATA, 0.0) * scale
        found.launch += spent.get(HOST, 0.0) * scale
        found.slow += spent.get(PEERS, 0.0) * scale
        found.wait("dp", worker.link, spent.get(TALK, 0.0) * scale)
        return found

    def _server_seconds(self, server: Server, window: tuple[float, float], step: float) -> Seconds:
        """Where a server's seconds went, for one step of the job."""
        spent, scale = server.log.seconds(*window), step / (window[1] - window[0])
        found, update = Seconds(), server.update
        if update.seconds > 0.0:
            found.do(Pass(update), {}, spent.get(UPDATE, 0.0) * scale / update.seconds)
        found.wait("dp", server.link, spent.get(TALK, 0.0) * scale)
        found.waiting += spent.get(IDLE, 0.0) * scale
        return found


def _busiest(ways: Iterable[Route]) -> str:
    """The kind of link of the slowest of some ways."""
    return _words(min(ways, key=lambda route: route.cap))
