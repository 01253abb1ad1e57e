"""One training step: when every stage works, waits and talks, and where each GPU's seconds go.

    pipeline      each class of replicas plays its schedule (sim.laws.training.pipeline)
    ready[s]      all replicas are through with stage s
    reduced[s]    = ready[s] + what is exposed of the gradients' reduction
    barrier       = max over stages of reduced: the norm of all gradients is known, the update may begin
    seconds       = barrier + max over stages of (update + gathering of weights) + the framework's overhead + loading

The step is a value; steps without a change of state are equal, so a run spends the same one again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import simpy

from sim.engine.clock import Clock
from sim.engine.network import Network
from sim.jobs.training.build import AXIS_OF, Member, ReplicaClass, Stage, TrainingBuild
from sim.laws.topology_parts import merged
from sim.laws.training.layer import HOST_WAYS, Flow, Pass
from sim.laws.training.pipeline import Sends, Timing, time_schedule, time_stream
from sim.laws.training.stage import ChunkPasses, Sync

SLOW_RANKS = "waiting for slow ranks"
DATA_LOADING = "data loading"


@dataclass(frozen=True, slots=True)
class StepTimes:
    """When things happened in a step: each class's pipeline, and its end by stage (s from the step's start)."""

    timings: tuple[Timing, ...]
    ready: tuple[float, ...]
    reduced: tuple[float, ...]
    barrier: float
    done: tuple[float, ...]
    seconds: float
    events: int = 0


@dataclass(slots=True)
class Seconds:
    """One GPU's seconds of a step by cause, communication by (axis, link); work done."""

    compute: float = 0.0
    memory: float = 0.0
    launch: float = 0.0
    bubble: float = 0.0
    slow: float = 0.0
    data: float = 0.0
    waiting: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    communication: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All of them: the step's length."""
        idle = self.bubble + self.slow + self.data + self.waiting
        return self.busy + idle + sum(self.communication.values())

    @property
    def busy(self) -> float:
        """Those in which kernels run or are launched."""
        return self.compute + self.memory + self.launch

    def add(self, other: Seconds, times: float = 1.0) -> None:
        """Add ``times`` the seconds of another."""
        for name in ("compute", "memory", "launch", "bubble", "slow", "data", "waiting", "flops", "bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name) * times)
        for (axis, link), spent in other.communication.items():
            self.wait(axis, link, spent * times)

    def do(self, work: Pass, links: dict[str, str], times: float = 1.0) -> None:
        """Add ``times`` passes."""
        w = work.work
        self.compute += w.compute * times
        self.memory += w.memory * times
        self.launch += w.launch * times
        self.flops += w.flops * times
        self.bytes += w.bytes * times
        for flow in work.flows:
            self.wait(AXIS_OF.get(flow.kind, flow.kind), links.get(flow.kind, flow.kind), flow.exposed * times)

    def wait(self, axis: str, link: str, seconds: float) -> None:
        """Add exposed communication."""
        if seconds:
            key = (axis, link)
            self.communication[key] = self.communication.get(key, 0.0) + seconds


def play_step(build: TrainingBuild) -> StepTimes:
    """The step on one representative of each class of replicas."""
    return after_pipeline(build, tuple(_timing(build, one) for one in build.classes))


def _timing(build: TrainingBuild, one: ReplicaClass) -> Timing:
    times = one.times()
    if build.job.spec.plan.schedule_name != "stream":
        return time_schedule(build.order, times)
    return time_stream(len(build.order), build.micro_batches, lambda order: time_schedule(order, times))


def after_pipeline(build: TrainingBuild, timings: tuple[Timing, ...]) -> StepTimes:
    """The rest of a step whose pipelines are timed."""
    stages = range(len(build.order))
    ready = tuple(max(t.ends[s][-1] for t in timings) for s in stages)
    leads = [slowest_sync(build, s) for s in stages]
    reduced = _reduced(build, ready, leads)
    barrier = max(reduced)
    done = tuple(barrier + s.update.seconds + s.gather.exposed + s.fixed for s in leads)
    return StepTimes(timings, ready, reduced, barrier, done, max(done) + overhead(build))


def _reduced(build: TrainingBuild, ready: tuple[float, ...], leads: list[Sync]) -> tuple[float, ...]:
    """When each stage's gradients are summed: by itself, or where stages meet on links, sharing them by max-min."""
    alone = tuple(at + sync.reduce.exposed for at, sync in zip(ready, leads, strict=True))
    if not _sums_meet(build, ready, alone, leads):
        return alone
    clock = Clock()
    network = Network(clock, build.network.topology.capacities())
    ends = list(alone)

    def sums(stage: int) -> Generator[simpy.Event, object, None]:
        yield clock.timeout(ready[stage])
        for flow in leads[stage].reduce.flows:
            share = 1.0 - flow.hidden
            if share > 0.0:
                # Ways to the host are shared already, by all stages of a node at once.
                loads = () if flow.kind in HOST_WAYS else build.network.way(flow.kind, stage).loads
                yield network.transfer(
                    flow.wire * share, links=loads, cap=flow.cap, latency=flow.fixed * share, label=f"s{stage}"
                )
        ends[stage] = clock.now

    for stage in range(len(ready)):
        clock.process(sums(stage))
    clock.play()
    return tuple(ends)


def _sums_meet(build: TrainingBuild, ready: tuple[float, ...], ends: tuple[float, ...], leads: list[Sync]) -> bool:
    """Whether reductions of two stages want more of a link than it has, at the same time."""
    if build.network.apart:
        return False
    users: dict[int, list[tuple[Sends, float]]] = {}
    for stage, sync in enumerate(leads):
        flows = [f for f in sync.reduce.flows if f.exposed > 0.0 and f.kind not in HOST_WAYS]
        when = Sends([ready[stage]], [ends[stage]])
        for link, rate in merged(
            (link, weight * flow.cap) for flow in flows for link, weight in build.network.way(flow.kind, stage).loads
        ):
            users.setdefault(link, []).append((when, rate))
    capacity = build.network.topology.capacity
    return any(len(found) > 1 and _meet(found, capacity(link)) for link, found in users.items())


def hops_meet(build: TrainingBuild, step: StepTimes, capacity: Callable[[int], float]) -> bool:
    """Whether messages of a class meet on a link that cannot carry them at once, so that their times are not exact."""
    for one, timing in zip(build.classes, step.timings, strict=True):
        users: dict[int, list[tuple[Sends, float]]] = {}
        for sends, times in ((one.forward, timing.forward_sends), (one.backward, timing.backward_sends)):
            for send, when in zip(sends, times, strict=True):
                if send is not None and when.starts and send.exposed > 0.0:
                    for link, weight in send.way.loads:
                        users.setdefault(link, []).append((when, weight * send.cap))
        if any(_meet(found, capacity(link)) for link, found in users.items() if len(found) > 1):
            return True
    return False


def _meet(users: list[tuple[Sends, float]], capacity: float) -> bool:
    """Whether flows that together want more than the link has move at the same time."""
    if sum(rate for _, rate in users) <= capacity * (1 + 1e-9):
        return False
    starts = np.concatenate([np.array(when.starts) for when, _ in users])
    ends = np.concatenate([np.array(when.ends) for when, _ in users])
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[order])[:-1]
    return bool(np.any(starts[order][1:] < reached - 1e-12 * np.maximum(1.0, reached)))


def slowest_sync(build: TrainingBuild, stage: int) -> Sync:
    """The work after the last pass, each part of the member that takes longest over it: all wait for it."""
    found = [m.sync for one in build.classes for m in one.stages[stage].members]
    return Sync(
        reduce=max((sync.reduce for sync in found), key=lambda p: p.seconds),
        update=max((sync.update for sync in found), key=lambda p: p.seconds),
        gather=max((sync.gather for sync in found), key=lambda p: p.seconds),
        fixed=max(sync.fixed for sync in found),
    )


def overhead(build: TrainingBuild) -> float:
    """Seconds of a step in which no GPU works: the framework's own, and the wait for data."""
    return build.step_overhead + build.job.spec.data_loading


def account(build: TrainingBuild, step: StepTimes) -> Iterator[tuple[ReplicaClass, Stage, Member, Seconds]]:
    """Where the seconds of each member's GPU went; they add up to the step."""
    for one, timing in zip(build.classes, step.timings, strict=True):
        for stage in one.stages:
            for member in stage.members:
                yield one, stage, member, _seconds(build, step, timing, one, stage, member)


def _seconds(
    build: TrainingBuild, step: StepTimes, timing: Timing, one: ReplicaClass, stage: Stage, member: Member
) -> Seconds:
    s, m = stage.number, build.micro_batches
    found, lead, links = Seconds(), stage.lead, stage.links
    for mine, its in zip(member.passes, lead.passes, strict=True):
        for own, slowest in zip(_directions(mine), _directions(its), strict=True):
            found.do(own, links, m)
            found.slow += m * (slowest.seconds - own.seconds)
    end = timing.ends[s][-1]
    found.bubble += timing.bubble[s] - (timing.makespan - end)
    send = one.forward[s] or one.backward[s]
    found.wait("pp", send.link if send else "", timing.hop_wait[s])
    found.slow += step.ready[s] - end
    sync = slowest_sync(build, s)
    for flow in sync.reduce.flows:
        _wait(found, flow, links)
    found.bubble += step.barrier - step.reduced[s]
    found.do(member.sync.update, links)
    found.slow += sync.update.seconds - member.sync.update.seconds
    for flow in sync.gather.flows:
        _wait(found, flow, links)
    found.bubble += max(step.done) - step.done[s]
    found.launch += sync.fixed + build.step_overhead
    found.data += build.job.spec.data_loading
    return found


def _wait(found: Seconds, flow: Flow, links: dict[str, str]) -> None:
    found.wait(AXIS_OF.get(flow.kind, flow.kind), links.get(flow.kind, flow.kind), flow.exposed)


def _directions(passes: ChunkPasses) -> tuple[Pass, Pass, Pass]:
    return passes.forward, passes.backward, passes.weight
