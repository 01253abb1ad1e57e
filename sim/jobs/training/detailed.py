"""A training step in full: every rank is a process with a compute and a communication stream, every message and
every group's collective a transfer on the network.

The same story as :mod:`sim.jobs.training.step`, told with nothing folded away. A rank takes the operations of its
stage in order: it waits for its message, starts what communication hides beside the kernels, computes, then waits for
what is exposed. A collective begins when the last member of its group has come; it is one coupled flow on the group's
ring, and flows that share a link share it by max-min fairness. Gradients are reduced in the same way, all ranks meet
before the update, and the step ends when the last one is through.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial

import simpy

from sim.engine.clock import Clock
from sim.engine.devices import Device
from sim.engine.network import Network, TransferRecord
from sim.jobs.training.build import AXIS_OF, Member, ReplicaClass, Send, Stage, TrainingBuild
from sim.jobs.training.step import StepTimes, after_pipeline, overhead, slowest_sync
from sim.laws.collective import collective_parameters
from sim.laws.topology import Topology
from sim.laws.topology_group import Loads
from sim.laws.training.layer import HOST_WAYS, Flow, Pass
from sim.laws.training.pipeline import Sends, Timing, time_stream
from sim.laws.training.schedule import Op, Order
from sim.laws.training.stage import moving

Story = Generator[simpy.Event, object, None]


class _Meeting:
    """A collective of a group: it begins when all have come, and everyone waits for its end."""

    def __init__(self, clock: Clock, members: int) -> None:
        self.missing = members
        self.over: simpy.Event = clock.event()


class _Rank:
    """One rank: where it stands, its GPU, and when it did what."""

    def __init__(self, rank: int, gpu: int, one: ReplicaClass, stage: Stage, member: Member, device: Device) -> None:
        self.rank, self.gpu, self.one, self.stage, self.member, self.device = rank, gpu, one, stage, member, device
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.bubble = self.hop_wait = 0.0
        self.turns: dict[str, int] = {}


def play_step_in_full(build: TrainingBuild, topology: Topology) -> StepTimes:
    """The step with every rank as a process. ``build`` holds rates of groups alone on their links.

    Of a pipeline that is never emptied a long run is played, and a steady step taken out of it.
    """
    if build.job.spec.plan.schedule_name != "stream":
        return _Step(build, topology, fold=False).play()
    played: list[StepTimes] = []

    def pipelines(order: Order, number: int) -> Timing:
        if not played:
            played.append(_Step(replace(build, order=order), topology, fold=False).play())
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
    return _Step(build, topology, fold=True).play()


class _Step:
    def __init__(self, build: TrainingBuild, topology: Topology, *, fold: bool) -> None:
        self.build, self.topology, self.fold = build, topology, fold
        self.clock = Clock()
        self.network = Network(self.clock, topology.capacities())
        self.plan = build.job.spec.plan
        self.meetings: dict[tuple[str, tuple[int, ...], int], _Meeting] = {}
        self.loads: dict[tuple[str, tuple[int, ...]], Loads] = {}
        self.messages: dict[tuple[int, str, int, int], tuple[simpy.Event, list[float]]] = {}
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
            yield _Rank(rank, gpu, one, stage, member, Device(self.clock, f"{self.build.name}.{gpu}"))

    def play(self) -> StepTimes:
        """All ranks from the first operation to the end of the step."""
        for rank in self.ranks:
            self.clock.watch(self.clock.process(self._story(rank)), f"rank {rank.rank} waits for its next operation")
        self.clock.play()
        timings = tuple(self._timing(one) for one in self.build.classes)
        end = max(self.done) + overhead(self.build)
        return StepTimes(
            timings, tuple(self.ready), tuple(self.reduced), self.barrier, tuple(self.done), end, self.clock.events
        )  # fmt: skip

    # ---- a rank

    def _story(self, rank: _Rank) -> Story:
        s, sync = rank.stage.number, slowest_sync(self.build, rank.stage.number)
        order = self.build.order[s]
        late = self._when_to_begin(rank, sync.reduce)
        for flow in sync.gather.flows:  # weights come in beside the first forward passes: nobody waits
            self._join(rank, flow, flow.hidden, "gather beside")
        beside: list[simpy.Event] = []
        for number, op in enumerate(order):
            yield from self._wait_for_message(rank, op)
            beside += [self._join(rank, flow, flow.hidden, "reduce beside") for flow in late.get(number, ())]
            rank.starts.append(self.clock.now)
            yield from self._do(rank, op)
            rank.ends.append(self.clock.now)
            self._send(rank, op)
        self.ready[s] = max(self.ready[s], self.clock.now)
        for event in beside:
            if not event.processed:
                yield event
        for flow in sync.reduce.flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "reduce")
        self.reduced[s] = max(self.reduced[s], self.clock.now)
        yield self._come(self.gate)
        self.barrier = self.clock.now
        yield rank.device.compute(rank.member.sync.update.work.seconds)
        for flow in rank.member.sync.update.flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "update")
        for flow in sync.gather.flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "gather")
        if sync.fixed:
            yield self.clock.timeout(sync.fixed)
        self.done[s] = max(self.done[s], self.clock.now)

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
        hidden = [self._join(rank, flow, flow.hidden, "beside") for flow in flows if flow.hidden > 0.0]
        yield rank.device.compute(self._pass(rank.member, op).work.seconds)
        for flow in flows:
            yield from self._talk(rank, flow, 1.0 - flow.hidden, "exposed")
        if not flows and rank.member is not rank.stage.lead:  # nothing else makes it wait for its slower peer
            own, lead = self._pass(rank.member, op).work.seconds, self._pass(rank.stage.lead, op).work.seconds
            if lead > own:
                yield self.clock.timeout(lead - own)
        for event in hidden:
            if not event.processed:
                yield event

    # ---- collectives

    def _talk(self, rank: _Rank, flow: Flow, share: float, what: str) -> Story:
        """Wait for a share of a flow with the other members of the rank's group."""
        if share <= 0.0:
            return
        yield rank.device.communicate(self._join(rank, flow, share, what))

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
        yield self.network.transfer(
            flow.wire * share, links=links, cap=flow.cap, latency=flow.fixed * share, label=f"{flow.kind} {group[0]}"
        )  # fmt: skip
        meeting.over.succeed()

    def _links(self, kind: str, group: tuple[int, ...]) -> Loads:
        if self.fold:
            return ()
        found = self.loads.get((kind, group))
        if found is None:
            network = self.build.network
            if kind in HOST_WAYS:
                found = self.loads[kind, group] = network.host.links(kind, group[0])
                return found
            parameters = collective_parameters(
                self.topology.site(group), network.fabrics, network.stack.collective_libraries,
                network.stack.links == "datasheet",
            )  # fmt: skip
            found = self.loads[kind, group] = parameters.link_load
        return found

    # ---- messages

    def _wait_for_message(self, rank: _Rank, op: Op) -> Story:
        """The activations or gradients an operation needs; the gap before it is bubble, but for its message's way."""
        before = rank.ends[-1] if rank.ends else 0.0
        source = self._source(rank, op)
        transit = 0.0
        if source is not None:
            event, times = self._message(source, op)
            if not event.processed:
                yield event
            transit = times[1] - times[0]
        gap = self.clock.now - before
        rank.hop_wait += min(gap, transit)
        rank.bubble += gap - min(gap, transit)

    def _source(self, rank: _Rank, op: Op) -> int | None:
        """The rank that sends what ``op`` needs, None where it needs nothing from another stage."""
        pp, v = self.plan.pp, self.plan.vpp
        s = rank.stage.number
        virtual = op.chunk * pp + s
        stride = self.build.ranks.strides["pp"]
        if op.kind == "F" and virtual > 0:
            return rank.rank + ((s - 1) % pp - s) * stride
        if op.kind == "B" and virtual < pp * v - 1:
            return rank.rank + ((s + 1) % pp - s) * stride
        return None

    def _message(self, source: int, op: Op) -> tuple[simpy.Event, list[float]]:
        key = (source, op.kind, op.micro, self._virtual_of_sender(source, op))
        found = self.messages.get(key)
        if found is None:
            found = self.messages[key] = (self.clock.event(), [])
        return found

    def _virtual_of_sender(self, source: int, op: Op) -> int:
        """The virtual stage that made the message ``op`` needs."""
        stage = self.build.ranks.coordinate(source, "pp")
        pp = self.plan.pp
        if op.kind == "F":
            return (op.chunk if stage < pp - 1 else op.chunk - 1) * pp + stage if pp > 1 else 0
        return (op.chunk if stage > 0 else op.chunk + 1) * pp + stage if pp > 1 else 0

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
        key = (rank.rank, op.kind, op.micro, virtual)
        event = self.messages.setdefault(key, (self.clock.event(), []))
        self.clock.process(self._travel(rank, op.kind, target, send, event))

    def _travel(
        self, rank: _Rank, kind: str, target: int, send: Send, message: tuple[simpy.Event, list[float]]
    ) -> Story:
        ranks = self.build.ranks
        peer = ranks.gpus[rank.rank + (target - rank.stage.number) * ranks.strides["pp"]]
        route = self.topology.route(rank.gpu, peer)
        began = self.clock.now
        links = send.way.loads if self.fold else route.links
        record = yield self.network.transfer(
            send.exposed, links=links, cap=send.cap, latency=send.latency, overhead=send.overhead, queue=route.queue,
            label=f"{kind} {rank.gpu}>{peer}",
        )  # fmt: skip
        assert isinstance(record, TransferRecord)
        self.sends.setdefault((rank.rank, kind), []).append((record.send_start, record.send_end))
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
