"""The slow path: every GPU stream and every transfer is a process of its own, pass by pass.

Used for ``--detail full``, and by itself wherever flows can slow each other (two jobs on one switch, hops
that share a PCIe uplink) or a tensor group mixes GPU types. The same story as :mod:`single` and :mod:`ring`, told with
nothing folded away: the engine's loop forms batches when the first stage is free; each batch is a process
that takes the stages in order, computes on every GPU of the group, waits for the group's collectives as one
coupled flow after the compute, and sends its activations through the network. With ``fold`` one GPU stands
for its equals. When the replica dies its batches are interrupted wherever they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

import simpy

from sim.engine.clock import INSTANT, Clock
from sim.engine.devices import Device
from sim.engine.network import Network, Transfer, TransferRecord
from sim.engine.timeline import DeviceTrack
from sim.jobs.serving.incidents import Outage
from sim.jobs.serving.replica import CUT_OFF, DEGRADED, STALLED, Replica, Stage, slowest, split_gap
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Pass

INF = float("inf")
Story = Generator[simpy.Event, object, None]


class DetailedReplica:
    """Plays one replica event by event on ``network``."""

    def __init__(self, clock: Clock, network: Network, replica: Replica, name: str, *, fold: bool) -> None:
        self.clock, self.network, self.replica = clock, network, replica
        self.ready: deque[tuple[float, Slot]] = deque()
        self.asleep: list[Slot] = []
        n = len(replica.stages)
        self.turns = [simpy.Resource(clock, 1) for _ in range(n)]
        self.free = [0.0] * n
        self.idle_seen = [0.0] * n
        self.idle_total = 0.0
        self.idle_since: float | None = 0.0
        self.under_way = 0
        self.wake_up = clock.event()
        self.alarm: simpy.Event | None = None
        self.alarm_at = INF
        self.name, self.fold = name, fold
        self.devices = self._devices()
        self.passes: dict[int, simpy.Process] = {}
        self.sending: dict[Transfer, None] = {}
        self._died = INF

    def _devices(self) -> list[list[list[Device]]]:
        return [
            [[Device(self.clock, f"{self.name}.{g}") for g in (m.gpus[:1] if self.fold else m.gpus)] for m in s.members]
            for s in self.replica.stages
        ]

    def _poke(self) -> None:
        if not self.wake_up.triggered:
            self.wake_up.succeed()

    def play(self) -> Story:
        """The engine's loop: form a batch whenever a slot is back and the first stage is free."""
        clock, scheduler, tally = self.clock, self.replica.scheduler, self.replica.tally
        health = self.replica.health
        self.asleep = list(self.replica.slots)
        scheduler.feed.poke = self._poke
        if health is not None:
            self.replica.feed.router.over.callbacks.append(lambda _: self._poke())
        while True:
            due = scheduler.feed.next_time() if self.asleep else INF
            if health is not None:
                if self.replica.feed.over:
                    break
                if (outage := health.down(clock.now)) is not None:
                    yield from self._die(outage)
                    continue
                due = min(due, health.until())
            rung = self.alarm is not None and self.alarm.processed and due > clock.now
            if due != INF and (due != self.alarm_at or rung):
                self.alarm_at, self.alarm = due, clock.timeout(max(0.0, due - clock.now))
            if self.ready and self.turns[0].count == 0:
                transit, slot = self.ready.popleft()
                tally.held(slot, clock.now, scheduler.doubled(slot))
                batch = scheduler.form(slot, clock.now)
                tally.formed(clock.now, scheduler.blocked)
                if batch is None:
                    self.asleep.append(slot)
                    self.asleep.sort(key=lambda s: s.number)
                else:
                    turn = self.turns[0].request()
                    self._begin(clock.now)
                    self.passes[slot.number] = clock.process(self._travel(slot, batch, transit, turn))
                continue
            if health is None and not self.under_way and not self.ready and due == INF and scheduler.feed.over:
                break
            # One timer an arrival: a timer made anew on every turn would pile up dead events.
            awake = not (due == INF or self.alarm is None or self.alarm.processed)
            yield simpy.AnyOf(clock, [self.wake_up, self.alarm]) if awake and self.alarm else self.wake_up
            # Everything else of this instant comes first: a batch that returns now frees its KV blocks.
            yield clock.timeout(0.0)
            self.wake_up = clock.event()
            came = scheduler.feed.told or scheduler.feed.next_time() <= clock.now + INSTANT or self._somebody_came()
            if self.asleep and came:
                self._rouse()
        self.replica.close(self.free, clock.now, clock.now - self.idle_since if self.idle_since is not None else 0.0)

    def _somebody_came(self) -> bool:
        """Whether a request has come right now, to this replica or another: who waits for more may wait in vain."""
        return self.alarm is not None and self.alarm.processed and self.alarm_at >= self.clock.now - INSTANT

    def _die(self, outage: Outage) -> Story:
        """The replica is lost with all that it was doing, and comes back empty."""
        replica, at = self.replica, outage.start
        self._died = at
        for process in self.passes.values():
            process.interrupt()
        for message in self.sending:
            self.network.cancel(message)
        self.sending.clear()
        yield self.clock.timeout(0.0)  # they book what they had done
        if self.idle_since is not None:
            self.idle_total += at - self.idle_since
        for slot in replica.slots:
            if slot.number not in self.passes:
                replica.tally.held(slot, at, replica.scheduler.doubled(slot))
        for i, stage in enumerate(replica.stages):
            self._settle(stage, max(0.0, at - self.free[i]), self.idle_total - self.idle_seen[i], 0.0, "")
        self.ready.clear()
        up = yield from replica.sit_out(self.clock, outage)
        n = len(replica.stages)
        self.turns = [simpy.Resource(self.clock, 1) for _ in range(n)]
        self.devices = self._devices()
        self.free, self.idle_seen, self.idle_since = [up] * n, [self.idle_total] * n, up
        self.under_way, self.passes, self.asleep = 0, {}, list(replica.slots)

    def _begin(self, now: float) -> None:
        if self.idle_since is not None:
            self.idle_total += now - self.idle_since
            self.idle_since = None
        self.under_way += 1

    def _rouse(self) -> None:
        """As many sleeping slots as requests wait look again whether there is something to do."""
        scheduler = self.replica.scheduler
        waiting = scheduler.take(self.clock.now)
        wanted = 0 if scheduler.blocked else waiting
        for slot in self.asleep[:wanted]:
            self.ready.append((0.0, slot))
        del self.asleep[:wanted]

    def _travel(self, slot: Slot, batch: Batch, transit: float, turn: simpy.Event) -> Story:
        """One pass through the pipeline and back, unless the replica dies."""
        start = self.clock.now
        try:
            transit = yield from self._stages(slot, batch, transit, turn)
        except simpy.Interrupt:
            self.replica.tally.cut(batch, start, self._died)
            return
        del self.passes[slot.number]
        self._return(slot, batch, start, transit)

    def _stages(self, slot: Slot, batch: Batch, transit: float, turn: simpy.Event) -> Generator[Any, Any, float]:
        """The stages in turn, and the hops between them; seconds of the last hop."""
        clock = self.clock
        link = self.replica.stages[-1].hop.kind if self.replica.stages[-1].hop else ""
        for i, stage in enumerate(self.replica.stages):
            if i:
                turn = self.turns[i].request()
            yield turn
            yield from self._work(i, stage, slot, batch, transit, link)
            self.turns[i].release(turn)  # type: ignore[arg-type]
            if i == 0:
                self._poke()
            left = clock.now
            if stage.hop is not None:
                yield from self._hop(stage, slot, batch)
                link = stage.hop.kind
            transit = clock.now - left
        return transit

    def _work(self, i: int, stage: Stage, slot: Slot, batch: Batch, transit: float, link: str) -> Story:
        """Compute on all GPUs of the stage, then its collectives."""
        clock, start = self.clock, self.clock.now
        if start > self.free[i]:
            self._settle(stage, start - self.free[i], self.idle_total - self.idle_seen[i], transit, link)
        self.idle_seen[i] = self.idle_total
        costs = [batch.cost(m.law) for m in stage.members]
        slow, talk = 1.0, 1.0
        try:
            if self.replica.health is not None:
                self.free[i] = start
                start, slow = self.replica.health.begin(i, start)
                talk = self.replica.health.link(stage.ends, start) if stage.ends else 1.0
                if start > clock.now:
                    yield clock.timeout(start - clock.now)
                    self.replica.other(stage, STALLED, start - self.free[i])
                    self.free[i] = start
            kernels = [
                gpu.compute(cost.busy * slow)
                for group, cost in zip(self.devices[i], costs, strict=True)
                for gpu in group
            ]
            yield simpy.AllOf(clock, kernels)
            if costs[0].communication:
                yield from self._collectives(i, stage, costs[0], talk)
        except simpy.Interrupt:
            self._cut(i, stage, slot, batch, start, self._died)
            raise
        end = clock.now
        self.free[i] = end
        for member, cost in zip(stage.members, costs, strict=True):
            self._book(stage, member.track, cost, end - start, slow)
            member.track.bins.add(start, end, end - start)
            member.track.spans.add(batch.kind, start, end, batch.sequences, batch.tokens, slot.number)
        if stage.collectives is not None:
            stage.collectives.record(start, end, costs[0].wire)
        if i == 0:
            lead = costs[0]
            self.replica.tally.phase(batch.kind, lead.flops, lead.bytes, slowest(costs))

    @staticmethod
    def _settle(stage: Stage, gap: float, idle: float, transit: float, link: str) -> None:
        """Book the gap before a stage's pass."""
        waiting, moving, bubble = split_gap(gap, idle, transit)
        for member in stage.members:
            member.track.waiting += waiting
            member.track.bubble += bubble
            if moving > 0.0:
                member.track.wait(link, moving)

    def _cut(self, i: int, stage: Stage, slot: Slot, batch: Batch, start: float, at: float) -> None:
        """The replica died at ``at`` during a stage's work, which began at ``start`` or was to."""
        self.replica.other(stage, STALLED, min(start, at) - self.free[i])
        self.replica.other(stage, CUT_OFF, at - start)
        self.free[i] = at
        if at > start:
            for member in stage.members:
                member.track.bins.add(start, at, at - start)
                member.track.spans.add(batch.kind, start, at, batch.sequences, batch.tokens, slot.number)

    def _book(self, stage: Stage, track: DeviceTrack, cost: Pass, seconds: float, slow: float) -> None:
        """A rank's own work; the rest of the pass it waited for the others or for the wire."""
        track.work(cost._replace(communication=0.0), 1, stage.link)
        if slow > 1.0:
            track.other[DEGRADED] = track.other.get(DEGRADED, 0.0) + cost.busy * (slow - 1.0)
        rest = seconds - cost.busy * slow
        if stage.collectives is not None and rest > 0.0:
            track.wait(stage.link, rest)

    def _collectives(self, i: int, stage: Stage, cost: Pass, slow: float) -> Story:
        """All collectives of the pass as one coupled flow on the links of the group's ring."""
        law = stage.members[0].law
        size, fixed, cap = law.collective_flow(cost)
        assert stage.collectives is not None
        flow = self.network.transfer(
            size, links=stage.collectives.links, cap=cap / slow, latency=fixed, label=stage.collectives.name
        )
        streams = [gpu.communicate(flow) for group in self.devices[i] for gpu in group]
        self.sending[flow] = None
        yield simpy.AllOf(self.clock, streams)
        del self.sending[flow]

    def _hop(self, stage: Stage, slot: Slot, batch: Batch) -> Story:
        """Send the activations to the next stage, or the tokens back to the first."""
        hop = stage.hop
        assert hop is not None
        size, slow = hop.size(batch.tokens, batch.sequences), 1.0
        if self.replica.health is not None and hop.ends:
            slow = self.replica.health.link(hop.ends, self.clock.now)
        message = self.network.transfer(
            size,
            links=hop.track.links,
            cap=hop.cap / slow,
            latency=hop.delay(size),
            overhead=hop.overhead,
            queue=hop.queue,
            label=hop.track.name,
        )
        self.sending[message] = None
        record = yield message
        del self.sending[message]
        assert isinstance(record, TransferRecord)
        sent = record.send_end - hop.overhead
        for piece in message.pieces:
            hop.track.record(*piece)
        hop.track.spans.add("send", record.send_start, sent, batch.sequences, batch.tokens, slot.number)

    def _return(self, slot: Slot, batch: Batch, start: float, transit: float) -> None:
        """The pass is over: tokens are out, sequences come and go, the slot is free for its next batch."""
        now = self.clock.now
        self.replica.tally.passed(batch, start, now)
        self.replica.scheduler.passed(slot, batch, now)
        self.under_way -= 1
        if not self.under_way:
            self.idle_since = now
        self.ready.append((transit, slot))
        self._rouse()
        self._poke()
