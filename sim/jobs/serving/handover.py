"""Prompts on some replicas and tokens on others: schedulers of the two kinds, and the KV caches that go between them.

A prompt's first token comes from the replica that computes it, which holds its KV blocks until they are fetched. A
replica that generates the other tokens lets the request in when it has blocks for it, fetches the KV cache over the
network, and has the sequence in its batches from the pass that is formed next. One that it pushes out later it computes
again by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import simpy

from sim.engine.clock import Clock
from sim.engine.network import Network, TransferRecord
from sim.engine.timeline import ChannelTrack
from sim.jobs.serving.batching import Scheduler
from sim.jobs.serving.slots import Batch, Slot


class KvFlow(NamedTuple):
    """How a stage's share of a prompt's KV cache gets to another replica: ``per_token`` bytes, at ``cap`` bytes/s at
    most, there ``latency`` s after they were sent."""

    track: ChannelTrack
    per_token: float
    cap: float
    latency: float
    overhead: float
    queue: str


class Handover:
    """Moves KV caches from replicas that computed them to others, over ``flows`` by (from, to)."""

    def __init__(self, clock: Clock, flows: Mapping[tuple[int, int], tuple[KvFlow, ...]]) -> None:
        self.clock, self.flows = clock, flows
        self.network: Network | None = None
        self.schedulers: list[Scheduler] = []
        self.bytes = self.seconds = 0.0
        self.count = 0
        self._at: dict[int, int] = {}

    def holds(self, r: int, replica: int) -> None:
        """A request's prompt is computed, and its KV cache with a replica."""
        self._at[r] = replica

    def fetch(self, r: int, to: int) -> None:
        """Bring a request's KV cache to a replica that has set its blocks aside."""
        self.clock.process(self._bring(r, self._at.pop(r), to))

    def _bring(self, r: int, home: int, to: int) -> Generator[simpy.Event, Any, None]:
        assert self.network is not None
        source, target = self.schedulers[home], self.schedulers[to]
        assert isinstance(source, PromptScheduler)
        assert isinstance(target, TokenScheduler)
        start, tokens, sent = self.clock.now, source.table.prompt[r], []
        for flow in self.flows[home, to]:
            size = flow.per_token * tokens
            message = self.network.transfer(
                size, links=flow.track.links, cap=flow.cap, latency=flow.latency, overhead=flow.overhead,
                queue=flow.queue, label=flow.track.name,
            )  # fmt: skip
            sent.append((flow, message, size))
        for flow, message, size in sent:
            record = yield message
            assert isinstance(record, TransferRecord)
            for piece in message.pieces:
                flow.track.record(*piece)
            flow.track.spans.add("send", record.send_start, record.send_end - flow.overhead, 1, tokens, 0)
            self.bytes += size
        self.count += 1
        self.seconds += self.clock.now - start
        source.fetched(r)
        target.arrived(r)


class PromptScheduler(Scheduler):
    """A replica that computes prompts, and hands each over when its first token is out."""

    hand_over: Callable[[int], None]

    def _decode(self, slot: Slot, r: int) -> None:
        del slot.members[r]
        self.running -= 1
        self.hand_over(r)

    def _claim(self, r: int) -> int:
        return self.blocks(self.table.prompt[r])

    def doubled(self, slot: Slot) -> int:
        return 0  # prompts that wait to be fetched have no slot, and share as well

    def fetched(self, r: int) -> None:
        """A request's KV cache is elsewhere: its blocks are free."""
        self._release(r, self._claim(r))
        self.blocked = False
        self.feed.stir()


class TokenScheduler(Scheduler):
    """A replica that generates tokens behind prompts which others computed."""

    fetch: Callable[[int], None]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._here: list[int] = []

    def arrived(self, r: int) -> None:
        """A request's KV cache is here: it decodes from the next pass on."""
        self._here.append(r)
        self.blocked = False
        self.feed.stir()

    def _claim(self, r: int) -> int:
        if self.limits.reserve or self.table.preempted[r]:
            return super()._claim(r)
        return self.blocks(self.table.prompt[r])  # the token that came with the prompt is computed in the first pass

    def take(self, now: float) -> int:
        return super().take(now) + len(self._here)

    def form(self, slot: Slot, now: float) -> Batch | None:
        quota = -(-(self.running + len(self.waiting)) // self.limits.slots)
        while self._here and (len(slot.members) < quota or self.limits.slots == 1):
            r = self._here.pop(0)
            slot.members[r] = None
            self._decode(slot, r)
            slot.fresh[r] = self.table.first[r]
        return super().form(slot, now)

    def let_in(self, slot: Slot, now: float) -> None:
        while self.waiting and not self.pushed_out and self.lets_in(slot, self._left):
            if self.table.preempted[self.waiting[0]]:
                self.let_in_one(slot, now)
                continue
            r = self.waiting.popleft()
            self.blocked = False
            self.free -= self._claim(r)
            self.running += 1
            self.feed.admitted(r)
            self.fetch(r)
