"""A training step in full: every rank is a process with a compute and a communication stream, every message and
every group's collective a transfer on the network.

The same story as :mod:`sim.jobs.training.step`, told with nothing folded away. A rank takes the operations of its
stage in order: it waits for its message, starts what communication hides beside the kernels, computes, then waits for
what is exposed. A collective begins when the last member of its group has come; it is one coupled flow on the group's
ring, and flows that share a link share it by max-min fairness. Gradients are reduced in the same way, all ranks meet
before the update, and the step ends when the last one is through.

A step that shares links with other jobs (:mod:`sim.jobs.training.shared`) is the same story on their clock and network.
What each rank waited for is then measured, since no closed form knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import simpy

from sim.engine.clock import Clock
from sim.engine.devices import Device
from sim.engine.network import Network, Transfer, TransferRecord
from sim.jobs.training.build import AXIS_OF, Member, ReplicaClass, Send, Stage, TrainingBuild
from sim.jobs.training.step import Seconds, StepTimes, after_pipeline, overhead, slowest_sync
from sim.laws.collective import collective_parameters
from sim.laws.topology import Topology
from sim.laws.topology_group import Loads
from sim.laws.training.layer import HOST_WAYS, Flow, Pass
from sim.laws.training.pipeline import Sends, Timing, time_stream
from sim.laws.training.schedule import Op, Order, needed
from sim.laws.training.stage import moving

Story = Generator[simpy.Event, object, None]
#: Told of each message or collective that is over: its kind, who sent it, the transfer, and the bytes it stands for.
Listener = Callable[[str, tuple[int, ...], Transfer, float], None]


@dataclass(frozen=True, slots=True)
class Common:
    """What a step shares with other jobs: the clock, the network, its own GPUs' streams, and who hears of its bytes."""

    clock: Clock
    network: Network
    devices: dict[int, Device]
    heard: Listener


class _Meeting:
    """A collective of a group: it begins when all have come, and everyone waits for its end."""

    def __init__(self, clock: Clock, members: int) -> None:
        self.missing = members
        self.over: simpy.Event = clock.event()


class _Rank:
    """One rank: where it stands, its GPU, when it did what, and (where links are shared) what its seconds went to."""

    def __init__(self, rank: int, gpu: int, one: ReplicaClass, stage: Stage, member: Member, device: Device) -> None:
        self.rank, self.gpu, self.one, self.stage, self.member, self.device = rank, gpu, one, stage, member, device
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.bubble = self.hop_wait = 0.0
        self.turns: dict[str, int] = {}
        self.spent = Seconds()
        self.waits: list[tuple[str, float]] = []
        self.finished = self.done = 0.0

    def settle(self, slow: float = 0.0) -> None:
        """Book the waits for flows since the last call; the first ``slow`` seconds were for slower peers."""
        for kind, seconds in self.waits:
            peers = min(slow, seconds)
            slow -= peers
            self.spent.slow += peers
            self.spent.wait(AXIS_OF.get(kind, kind), self.stage.links.get(kind, kind), seconds - peers)
        self.waits.clear()


def play_step_in_full(build: TrainingBuild, topology: Topology) -> StepTimes:
    """The step with every rank as a process. ``build`` holds rates of groups alone on their links.

    Of a pipeline that is never emptied a long run is played, and a steady step taken out of it.
    """
    if build.job.spec.plan.schedule_name != "stream":
        return Step(build, topology, fold=False).play()
    played: list[StepTimes] = []

    def pipelines(order: Order, number: int) -> Timing:
        if not played:
            played.append(Step(replace(build, order=order), topology, fold=False).play())
        return played[0].timings[number]

    stages, m = len(build.order), build.micro_batches
    timings = tuple(
        time_stream(stages, m, partial(pipelines, number=number)) for number in range(len(build.classes))
    )  # fmt: skip
    return replace(after_pipeline(build, timings), events=played[0].events)


def play_step_folded(build: TrainingBuild, topology: Topology) -> StepTimes:
    """The step with one rank a stage and class as a process, messages on the network.

    A message stands for those of all ranks of its stage, which move at once: it has their weights on every link.
    Collectives take the time they have among all groups of their kind.
    """
    return Step(build, topology, fold=True).play()


class Step:
    """One step of a job, from now on, on a clock and network of its own or those in ``common``."""

    def __init__(
        self, build: TrainingBuild, topology: Topology, *, fold: bool, common: Common | None = None
    ) -> None:
        self.build, self.topology, self.fold, self.common = build, topology, fold, common
        self.clock = Clock() if common is None else common.clock
        self.network = Network(self.clock, topology.capacities()) if common is None else common.network
        self.origin = self.clock.now
        self.plan = build.job.spec.plan
        self.meetings: dict[tuple[str, tuple[int, ...], int], _Meeting] = {}
        self.loads: dict[tuple[str, tuple[int, ...]], Loads] = {}
        self.messages: dict[tuple[int, Op], tuple[simpy.Event, list[float]]] = {}
        self.sends: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self.ranks = list(self._ranks())
        stages = range(self.plan.pp)
        self.ready = [0.0 for _ in stages]
        self.reduced = [0.0 for _ in stages]
        self.done = [0.0 for _ in stages]
        self.gate = _Meeting(self.clock, len(self.ranks))
        self.barrier = 0.0
        self.split = {(op.micro, op.chunk) for stage in build.order for op in stage if op.kind == "W"}

    def _ranks(self) -> Iterator[_Rank]:
        """All ranks, or with ``fold`` the first of each class's stages."""
        class_of = {dp: one for one in self.build.classes for dp in one.replicas}
        ranks = self.build.ranks
        chosen: Iterable[int] = range(len(ranks.gpus))
        if self.fold:
            strides = ranks.strides
            chosen = [o.dp * strides["dp"] + s.number * strides["pp"] for o in self.build.classes for s in o.stages]
        for rank in chosen:
            gpu = ranks.gpus[rank]
            one = class_of[ranks.coordinate(rank, "dp")]
            stage = one.stages[ranks.coordinate(rank, "pp")]
            kind = (self.topology.gpus[gpu].gpu, self.build.slow.get(gpu, 1.0))
            member = next(m for m in stage.members if (m.gpu, m.factor) == kind)
            member = stage.lead if self.fold else member
            yield _Rank(rank, gpu, one, stage, member, self._device(gpu))

    def _device(self, gpu: int) -> Device:
        """A GPU's streams: new ones, or those of the job's last step."""
        devices = {} if self.common is None else self.common.devices
        if gpu not in devices:
            devices[gpu] = Device(self.clock, f"{self.build.name}.{gpu}")
        return devices[gpu]

    @property
    def now(self) -> float:
        """Seconds since the step began."""
        return self.clock.now - self.origin

    def play(self) -> StepTimes:
        """All ranks from the first operation to the end of the step."""
        for rank in self.ranks:
            self.clock.watch(self.clock.process(self._story(rank)), f"rank {rank.rank} waits for its next operation")
        self.clock.play()
        return self._times(max(self.done) + overhead(self.build), self.clock.events)

    def play_among_others(self) -> Generator[simpy.Event, object, StepTimes]:
        """The same beside whatever else the clock plays, to the step's very end."""
        yield simpy.AllOf(self.clock, [self.clock.process(self._story(rank)) for rank in self.ranks])
        through = self.now
        yield self.clock.timeout(overhead(self.build))
        for rank in self.ranks:
            self._close(rank, through)
        return self._times(self.now, 0)

    def _times(self, end: float, events: int) -> StepTimes:
        timings = tuple(self._timing(one) for one in self.build.classes)
        return StepTimes(
            timings, tuple(self.ready), tuple(self.reduced), self.barrier, tuple(self.done), end, events
        )

    def _close(self, rank: _Rank, through: float) -> None:
        """What is left of a rank's seconds once all are ``through``: the gaps in its pipeline, and the step's end."""
        spent, s = rank.spent, rank.stage.number
        send = rank.one.forward[s] or rank.one.backward[s]
        spent.wait("pp", send.link if send else "", rank.hop_wait)
        spent.bubble += rank.bubble
        last = through - rank.done
        if rank.member is rank.stage.lead:
            spent.bubble += last
        else:
            spent.slow += last
        spent.launch += self.build.step_overhead
        spent.data += self.build.job.spec.data_loading

    def spent(self) -> Iterator[tuple[ReplicaClass, Stage, Member, Seconds]]:
        """Measured seconds of each class's members, as :func:`sim.jobs.training.step.account` has them: means over the
        ranks they stand for."""
        for one in self.build.classes:
            for stage in one.stages:
                for member in stage.members:
                    mine = [r for r in self.ranks if r.one is one and r.stage is stage and r.member is member]
                    total = Seconds()
                    for rank in mine:
                        total.add(rank.spent, 1.0 / len(mine))
                    yield one, stage, member, total

    # ---- a rank

    def _story(self, rank: _Rank) -> Story:
        s, sync = rank.stage.number, slowest_sync(self.build, rank.stage.number)
        order = self.build.order[s]
        late = self._when_to_begin(rank, sync.reduce)
        # Weights come in beside the first forward passes; nobody waits where nothing else can slow them.
        coming = [(flow, self._join(rank, flow, flow.hidden, "gather beside")) for flow in sync.gather.flows]
        beside: list[tuple[Flow, simpy.Event]] = []
        for number, op in enumerate(order):
            yield from self._wait_for_message(rank, op)
            beside += [(flow, self._join(rank, flow, flow.hidden, "reduce beside")) for flow in late.get(number, ())]
            rank.starts.append(self.now)
            if coming and op.kind != "F" and self.common is not None:
                yield from self._await(rank, coming)
                coming = []
            yield from self._do(rank, op)
            rank.ends.append(self.now)
            self._send(rank, op)
        rank.finished = self.now
        self.ready[s] = max(self.ready[s], rank.finished)
        yield from self._await(rank, beside)
        for flow in sync.reduce.flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "reduce")
        summed = self.now
        self.reduced[s] = max(self.reduced[s], summed)
        yield self._come(self.gate)
        self.barrier = self.now
        rank.settle(self.ready[s] - rank.finished)
        rank.spent.bubble += self.barrier - summed
        update = rank.member.sync.update
        yield rank.device.compute(update.work.seconds)
        rank.spent.do(Pass(update.work), rank.stage.links)
        for flow in update.flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "update")
        for flow in sync.gather.flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "gather")
        rank.settle()
        if sync.fixed:
            yield self.clock.timeout(sync.fixed)
        rank.spent.launch += sync.fixed
        rank.done = self.now
        self.done[s] = max(self.done[s], rank.done)

    def _await(self, rank: _Rank, flows: list[tuple[Flow, simpy.Event]]) -> Story:
        """Wait for what moves beside kernels and is not over yet."""
        for flow, event in flows:
            if not event.processed:
                began = self.clock.now
                yield event
                rank.waits.append((flow.kind, self.clock.now - began))

    def _come(self, meeting: _Meeting) -> simpy.Event:
        meeting.missing -= 1
        if not meeting.missing:
            meeting.over.succeed()
        return meeting.over

    def _when_to_begin(self, rank: _Rank, reduce: Pass) -> dict[int, list[Flow]]:
        """The operations beside which gradients begin to move: as late as what is hidden still fits beside the rest.

        What goes to the host leaves its way to moves of the operations, and takes turns with rings that it meets.
        """
        lanes = [[f for f in reduce.flows if (f.kind in HOST_WAYS) is moves] for moves in (False, True)]
        if lanes[1] and self.build.network.crowded(rank.stage.links, rank.stage.number) & {f.kind for f in lanes[0]}:
            lanes = [[], list(reduce.flows)]
        found: dict[int, list[Flow]] = {}
        for moves, flows in enumerate(lanes):
            if flows:
                hidden = sum(flow.seconds * flow.hidden for flow in flows)
                found.setdefault(self._latest(rank, hidden, bool(moves)), []).extend(flows)
        return found

    def _latest(self, rank: _Rank, hidden: float, moves: bool) -> int:
        """The last operation beside which ``hidden`` seconds fit; with ``moves`` not beside those of the operations."""
        order = self.build.order[rank.stage.number]
        room = 0.0
        for number in range(len(order) - 1, -1, -1):
            beside = self._pass(rank.stage.lead, order[number])
            room += beside.seconds - (moving(beside) if moves else 0.0)
            if room >= hidden:
                return number
        return 0

    def _pass(self, member: Member, op: Op) -> Pass:
        passes = member.passes[op.chunk]
        if op.kind == "F":
            return passes.forward
        if op.kind == "W":
            return passes.weight
        return passes.backward if (op.micro, op.chunk) in self.split else passes.backward.plus(passes.weight)

    def _do(self, rank: _Rank, op: Op) -> Story:
        """Kernels, with hidden communication beside them, then the exposed one."""
        flows = self._pass(rank.stage.lead, op).flows
        hidden = [(flow, self._join(rank, flow, flow.hidden, "beside")) for flow in flows if flow.hidden > 0.0]
        work, slow = self._pass(rank.member, op).work, 0.0
        yield rank.device.compute(work.seconds)
        rank.spent.do(Pass(work), rank.stage.links)
        for flow in flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "exposed")
        if rank.member is not rank.stage.lead:
            slow = max(0.0, self._pass(rank.stage.lead, op).work.seconds - work.seconds)
            if not flows and slow > 0.0:  # nothing else makes it wait for its slower peer
                yield self.clock.timeout(slow)
                rank.spent.slow += slow
        yield from self._await(rank, hidden)
        rank.settle(slow)

    # ---- collectives

    def _talk(self, rank: _Rank, flow: Flow, share: float, what: str) -> Story:
        """Wait for a share of a flow with the other members of the rank's group."""
        if share <= 0.0:
            return
        began = self.clock.now
        yield rank.device.communicate(self._join(rank, flow, share, what))
        rank.waits.append((flow.kind, self.clock.now - began))

    def _join(self, rank: _Rank, flow: Flow, share: float, what: str) -> simpy.Event:
        """Come to a group's next collective; the event is its end. The last to come starts the flow."""
        group = self._group(flow.kind, rank)
        turn = rank.turns.get(f"{flow.kind} {what}", 0)
        rank.turns[f"{flow.kind} {what}"] = turn + 1
        key = (f"{flow.kind} {what}", group, turn)
        meeting = self.meetings.get(key)
        if meeting is None:
            meeting = self.meetings[key] = _Meeting(self.clock, len(group))
        meeting.missing -= 1
        if not meeting.missing:
            del self.meetings[key]
            self.clock.process(self._flow(flow, share, group, meeting))
        return meeting.over

    def _group(self, kind: str, rank: _Rank) -> tuple[int, ...]:
        """Who must come: the group's members, or with ``fold`` those of them that stand for the others."""
        if not self.fold:
            return self.build.network.members(kind, rank.gpu)
        if AXIS_OF[kind] != "dp":
            return (rank.gpu,)
        return tuple(r.gpu for r in self.ranks if r.stage.number == rank.stage.number)

    def _flow(self, flow: Flow, share: float, group: tuple[int, ...], meeting: _Meeting) -> Story:
        links = self._links(flow.kind, group)
        if self.common is not None:
            links = fitted(links, flow.cap, self.topology)
        transfer = self.network.transfer(
            flow.wire * share, links=links, cap=flow.cap, latency=flow.fixed * share, label=f"{flow.kind} {group[0]}"
        )  # fmt: skip
        yield transfer
        if self.common is not None:
            self.common.heard(flow.kind, group, transfer, transfer.size)
        meeting.over.succeed()

    def _links(self, kind: str, group: tuple[int, ...]) -> Loads:
        if self.fold:
            return ()
        found = self.loads.get((kind, group))
        if found is None:
            found = self.loads[kind, group] = loads_of(self.build, self.topology, kind, group)
        return found

    # ---- messages

    def _wait_for_message(self, rank: _Rank, op: Op) -> Story:
        """The activations or gradients an operation needs; the gap before it is bubble, but for its message's way."""
        before = rank.ends[-1] if rank.ends else 0.0
        need = needed(rank.stage.number, op, self.plan.pp, self.plan.vpp)
        transit = 0.0
        if need is not None:
            event, times = self._message(self._peer(rank, need[0]), need[1])
            if not event.processed:
                yield event
            transit = times[1] - times[0]
        gap = self.now - before
        rank.hop_wait += min(gap, transit)
        rank.bubble += gap - min(gap, transit)

    def _peer(self, rank: _Rank, stage: int) -> int:
        """The rank in the same place of another stage."""
        return rank.rank + (stage - rank.stage.number) * self.build.ranks.strides["pp"]

    def _message(self, sender: int, op: Op) -> tuple[simpy.Event, list[float]]:
        """What an operation of a rank sends: the event of its arrival, and when it left and came."""
        return self.messages.setdefault((sender, op), (self.clock.event(), []))

    def _send(self, rank: _Rank, op: Op) -> None:
        """Send what an operation made to the next or the previous stage."""
        pp, s = self.plan.pp, rank.stage.number
        virtual = op.chunk * pp + s
        if op.kind == "F" and virtual < pp * self.plan.vpp - 1:
            send, target = rank.one.forward[s], (s + 1) % pp
        elif op.kind == "B" and virtual > 0:
            send, target = rank.one.backward[s], (s - 1) % pp
        else:
            return
        assert send is not None
        self.clock.process(self._travel(rank, op.kind, target, send, self._message(rank.rank, op)))

    def _travel(
        self, rank: _Rank, kind: str, target: int, send: Send, message: tuple[simpy.Event, list[float]]
    ) -> Story:
        ranks = self.build.ranks
        peer = ranks.gpus[self._peer(rank, target)]
        route = self.topology.route(rank.gpu, peer)
        began = self.clock.now
        links = send.way.loads if self.fold else route.links
        transfer = self.network.transfer(
            send.exposed, links=links, cap=send.cap, latency=send.latency, overhead=send.overhead, queue=route.queue,
            label=f"{kind} {rank.gpu}>{peer}",
        )  # fmt: skip
        record = yield transfer
        assert isinstance(record, TransferRecord)
        if self.common is not None:
            self.common.heard("pp", (rank.gpu, peer), transfer, send.size)
        pair = (record.send_start - self.origin, record.send_end - self.origin)
        self.sends.setdefault((rank.rank, kind), []).append(pair)
        event, times = message
        times += [began, self.clock.now]
        event.succeed()

    # ---- what is left

    def _timing(self, one: ReplicaClass) -> Timing:
        """The class's first replica, each stage by its latest rank."""
        chosen = []
        for stage in one.stages:
            peers = [r for r in self.ranks if r.one is one and r.stage is stage and r.gpu in stage.gpus]
            chosen.append(max(peers, key=lambda r: r.ends[-1]))
        makespan = max(r.ends[-1] for r in chosen)
        busy = [sum(e - b for b, e in zip(r.starts, r.ends, strict=True)) for r in chosen]
        sends = {
            kind: [_sends(self.sends.get((r.rank, kind), [])) for r in chosen] for kind in ("F", "B")
        }  # fmt: skip
        return Timing(
            makespan, [r.starts for r in chosen], [r.ends for r in chosen], busy,
            [r.bubble + makespan - r.ends[-1] for r in chosen], [r.hop_wait for r in chosen], sends["F"], sends["B"],
        )  # fmt: skip


def _sends(pairs: list[tuple[float, float]]) -> Sends:
    return Sends([a for a, _ in pairs], [b for _, b in pairs])


def loads_of(build: TrainingBuild, topology: Topology, kind: str, group: tuple[int, ...]) -> Loads:
    """(link, bytes) that a byte sent by each member of one group puts on every link; of a GPU's way to its host too."""
    network = build.network
    if kind in HOST_WAYS:
        return network.host.links(kind, group[0])
    return collective_parameters(
        topology.site(group), network.fabrics, network.stack.collective_libraries, network.stack.links == "datasheet"
    ).link_load


def fitted(links: Loads, cap: float, topology: Topology) -> Loads:
    """The loads cut so that a flow at its ``cap`` (B/s) never exceeds a link it has to itself: a measured rate of a
    collective may exceed what the link's efficiency for copies allows."""
    return tuple(
        (link, topology.capacity(link) / cap if weight * cap > topology.capacity(link) else weight)
        for link, weight in links
    )
