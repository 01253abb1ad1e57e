"""Batching: which sequences ride in the next pass, within the KV cache and the token budget.

A replica has one slot a micro-batch; a slot's sequences move through the pipeline together. Before each pass the policy
(:mod:`policies`) forms the slot's batch. Requests wait in line, those of a higher priority first, and are let in while
KV blocks last. A sequence that needs a block when none is free pushes out the newest one of the lowest priority: what
that had computed is computed again later, or, under ``swap``, copied to host memory and back. Under ``reserve`` blocks
for the whole answer are set aside at admission, and nothing is pushed out.

Blocks hold ``block_tokens`` tokens. A running sequence takes a new block every ``block_tokens`` passes, and
which pass that is never changes: a histogram of that phase tells how many blocks any run of passes needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from sim.engine.histogram import Durations
from sim.jobs.serving.prefix_cache import PrefixCache
from sim.jobs.serving.requests import Feed, RequestTable
from sim.jobs.serving.slots import Batch, Slot
from sim.laws.step import Chunk


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a replica's batches.

    ``swap`` is the seconds that copying a token's KV cache between a GPU and its host takes, where sequences that are
    pushed out go there; None where they are computed again. ``fetch`` is the seconds a token from where prompts go that
    the cache has no room for.
    """

    max_tokens: int
    prefill_chunk: int
    max_sequences: int
    batch_size: int
    slots: int
    reserve: bool
    block_tokens: int
    blocks: int
    watermark: int
    swap: float | None = None
    fetch: float = 0.0


class Policy(NamedTuple):
    """How batches are formed; whether requests may join sequences that run; whether it is ``plain`` what a slot's next
    pass is where nobody comes or goes: all of its sequences, and the next piece of a prompt beside them."""

    form: Callable[[Scheduler, Slot, float], Batch | None]
    joins: bool
    plain: bool


class Scheduler:
    """The replica's queue, its KV blocks and its slots. ``cache`` keeps what prompts have in common, where it is
    wanted."""

    def __init__(
        self, table: RequestTable, feed: Feed, limits: Limits, policy: Policy, cache: PrefixCache | None = None
    ) -> None:
        self.table, self.feed, self.limits, self.cache = table, feed, limits, cache
        self.waiting: deque[int] = deque()
        self.slots = [Slot(i, limits.block_tokens) for i in range(limits.slots)]
        self.free = limits.blocks
        self.running = 0
        self.blocked = False
        self.pushed_out = False
        self.gaps = Durations()
        self.policy, self._joins = policy, policy.joins
        self._bs = limits.block_tokens
        self._chunks: list[Chunk] = []
        self._pieces: list[tuple[int, int]] = []
        self._left = 0
        self._copying = 0.0
        #: By request the tokens that were computed when it was pushed out.
        self._computed: dict[int, int] = {}

    # -- before a pass ---------------------------------------------------------------------------------

    def form(self, slot: Slot, now: float) -> Batch | None:
        """The slot's next batch, with KV blocks for one pass, or None if it has nothing to do.

        ``blocked`` tells whether a request waits only for KV blocks: from an admission that failed until one
        succeeds, blocks come free, or nobody waits.
        """
        self.take(now)
        self.pushed_out = False
        self._chunks, self._pieces, self._copying = [], [], 0.0
        return self.policy.form(self, slot, now)

    def take(self, now: float) -> int:
        """Let in the queue whoever has come; the number of requests that wait."""
        if self.table.priority is None:
            self.feed.take(now, self.waiting)
        else:
            come: deque[int] = deque()
            self.feed.take(now, come)
            for r in come:
                self._line_up(r)
        if not self.waiting:
            self.blocked = False
        return len(self.waiting)

    def blocks(self, tokens: int) -> int:
        """Blocks that hold ``tokens`` tokens."""
        return -(-tokens // self._bs)

    def grow(self, slot: Slot) -> None:
        """Take the blocks that the slot's decoding sequences need for one pass; push out the newest if short."""
        if self.limits.reserve:
            return
        while (need := slot.phases[(1 - slot.passes) % self._bs]) > self.free:
            self._push_out(slot)
        self.free -= need

    def run_length(self, slot: Slot, longest: int) -> int:
        """How many equal passes, at most ``longest``, the free blocks allow, the formed one included."""
        if self.limits.reserve or self.free >= slot.decoding * (longest // self._bs + 1):
            return longest
        bs, phases, p = self._bs, slot.phases, slot.passes
        cycles = self.free // slot.decoding
        left, k = self.free - cycles * slot.decoding, 1 + cycles * bs
        while k < longest and (need := phases[(1 - p - k) % bs]) <= left:
            left, k = left - need, k + 1
        return min(k, longest)

    def extend(self, slot: Slot, passes: int) -> None:
        """Take the blocks of passes 2..``passes`` of a run whose first pass is formed."""
        if not self.limits.reserve and passes > 1:
            self.free -= self._growth(slot, passes)

    def retract(self, slot: Slot, played: int, passes: int) -> None:
        """A run of so many ``passes`` ends with the ``played`` ones: give back what the others would have taken."""
        if not self.limits.reserve:
            self.free += self._growth(slot, passes) - self._growth(slot, played)

    def _growth(self, slot: Slot, passes: int) -> int:
        """Blocks that passes 2..``passes`` of a run take."""
        bs, phases = self._bs, slot.phases
        cycles, rest = divmod(passes - 1, bs)
        taken = cycles * slot.decoding
        for j in range(slot.passes, slot.passes + rest):
            taken += phases[-j % bs]
        return taken

    def admit(self, slot: Slot, now: float) -> int:
        """Move the first waiting request into the slot; its number. The caller checked that it fits."""
        r = self.waiting.popleft()
        self.blocked = False
        table = self.table
        tokens = table.prompt[r] + table.generated[r]
        past = shared = 0
        if self.cache is not None:
            past, shared, fetched = self.cache.admit(r, tokens)
            self._copying += fetched * self.limits.fetch
        self.free -= self._claim(r) - shared
        if past:
            table.found.setdefault(r, past)
        if r in self._computed:
            past = self._come_back(r, past)
        self.running += 1
        self.feed.admitted(r)
        slot.members[r] = None
        slot.prefills[r] = [past, tokens]
        if table.scheduled[r] != table.scheduled[r]:
            table.scheduled[r] = now
        return r

    def _come_back(self, r: int, past: int) -> int:
        """A request that was pushed out is back, and finds ``past`` tokens: how many it need not compute."""
        computed = self._computed.pop(r)
        if self.limits.swap is None:
            self.table.recomputed += max(0, computed - past)
            return past
        self._copying += self.limits.swap * max(0, computed - past)
        return max(past, computed)

    def continue_prompts(self, slot: Slot, budget: int) -> None:
        """Put the next pieces of the slot's prompts into the batch, ``budget`` tokens at most with those to come."""
        self._left = budget
        for r, (past, target) in slot.prefills.items():
            if self._left <= 0:
                break
            self.piece(slot, r, min(target - past, self._left))

    def let_in(self, slot: Slot, now: float) -> None:
        """Admit whoever waits and finds room, and put the first pieces of their prompts into the batch."""
        while self.waiting and not self.pushed_out and self.lets_in(slot, self._left):
            self.let_in_one(slot, now)

    def let_in_one(self, slot: Slot, now: float) -> None:
        """Admit the first who waits."""
        r = self.admit(slot, now)
        past, target = slot.prefills[r]
        c = target - past
        if c <= self._left and self.cache is not None:
            # All of it is computed in this pass: whoever comes later finds it.
            self.free += self.cache.keep(r)
        self.piece(slot, r, min(c, self._left))

    def piece(self, slot: Slot, r: int, tokens: int) -> None:
        """Put so many tokens of a prompt into the batch."""
        self._chunks.append(Chunk(tokens, slot.prefills[r][0]))
        self._pieces.append((r, tokens))
        self._left -= tokens

    @property
    def with_prompts(self) -> bool:
        """Whether a prompt is in the batch."""
        return bool(self._pieces)

    def batch(self, slot: Slot, *, decode: bool = True) -> Batch | None:
        """The batch: the slot's decoding sequences, unless they sit this pass out, and pieces of prompts."""
        held = -self.doubled(slot)
        if not self._chunks:
            return Batch(slot.decoding, slot.context, held=held, copying=self._copying) if slot.decoding else None
        if decode:
            return Batch(slot.decoding, slot.context, self._chunks, self._pieces, held, self._copying)
        return Batch(0, 0, self._chunks, self._pieces, slot.context + held, self._copying)

    def doubled(self, slot: Slot) -> int:
        """Tokens in the contexts of a slot's sequences that are in the KV cache for another one: its share of all."""
        if self.cache is None or not self.cache.doubled:
            return 0
        return self.cache.doubled * len(slot.members) // self.running

    def budget(self, slot: Slot) -> int:
        """Tokens of prompts that may ride in a pass beside the slot's decoding sequences."""
        limits = self.limits
        left = limits.max_tokens - slot.decoding
        return left if left < limits.prefill_chunk else limits.prefill_chunk

    def next_piece(self, slot: Slot) -> tuple[int, int]:
        """The piece of the slot's first prompt that rides in its next pass, as (tokens, tokens before it); zeros if
        none does, or another prompt's piece as well."""
        past, target = next(iter(slot.prefills.values()))
        budget = self.budget(slot)
        if budget <= target - past:
            return (budget, past) if budget > 0 else (0, 0)
        return (target - past, past) if len(slot.prefills) == 1 else (0, 0)

    def lets_in(self, slot: Slot, budget: int) -> bool:
        """Whether the first waiting request joins the slot's next batch, which has ``budget`` tokens left for prompts;
        sets ``blocked`` if only KV blocks keep it out."""
        waiting, limits = self.waiting, self.limits
        if not waiting or budget <= 0 or self.running >= limits.max_sequences or not self._joins:
            return False
        quota = limits.max_sequences
        if limits.slots > 1:
            quota = min(quota, -(-(self.running + len(waiting)) // limits.slots))
        return len(slot.members) < quota and self.admissible()

    def admissible(self) -> bool:
        """Whether the first waiting request finds its KV blocks free; sets ``blocked`` if not."""
        r = self.waiting[0]
        spare = self.limits.watermark if self.running else 0
        need = self._claim(r)
        if self.cache is not None:
            self.cache.settle(self.free)
            found = self.cache.search(r)
            need -= found.blocks - found.idle
        if need > self.free - spare:
            self.blocked = True
            return False
        return True

    def _claim(self, r: int) -> int:
        """Blocks taken at admission."""
        table = self.table
        if self.limits.reserve:
            return self.blocks(table.prompt[r] + table.length[r])
        return self.blocks(table.prompt[r] + table.generated[r])

    # -- after a pass ----------------------------------------------------------------------------------

    def changes(self, slot: Slot, batch: Batch) -> bool:
        """Whether the end of this pass lets a sequence come or go."""
        if batch.decoding and slot.ends and slot.ends[0][0] <= slot.passes + 1:
            return True
        return any(slot.prefills[r][0] + tokens == slot.prefills[r][1] for r, tokens in batch.pieces)

    def passed(self, slot: Slot, batch: Batch, now: float) -> None:
        """Account for a pass of ``batch`` that ends at ``now``."""
        if batch.decoding > len(slot.fresh):
            self.gaps.add(now - slot.spoke, batch.decoding - len(slot.fresh))
        for since in slot.fresh.values() if batch.decoding else ():
            self.gaps.add(now - since, 1)
        self.advance(slot, batch, now)

    def advance(self, slot: Slot, batch: Batch, now: float, passes: int = 1) -> None:
        """Account for ``passes`` passes of ``batch`` that end at ``now``, but for the times between tokens."""
        slot.returned = now
        apart = slot.decoding and not batch.decoding
        if not apart:
            slot.spoke = now
            if slot.fresh:
                slot.fresh.clear()
            slot.passes += passes
            slot.context += slot.decoding * passes
            self._retire(slot, now)
        for r, tokens in batch.pieces:
            state = slot.prefills[r]
            state[0] += tokens
            if state[0] == state[1]:
                del slot.prefills[r]
                self._join(slot, r, now)
                if apart and r in slot.base:
                    slot.fresh[r] = now

    def _join(self, slot: Slot, r: int, now: float) -> None:
        """A prompt is done: its next token is out, and it decodes from the next pass on."""
        table = self.table
        if self.cache is not None:
            self.free += self.cache.keep(r)
        table.generated[r] += 1
        generated = table.generated[r]
        if generated == 1:
            table.first[r] = now
        else:
            self.gaps.add(now - table.paused[r], 1)
            if table.restarts[r]:
                table.resumed.setdefault(r, (now, generated - 1))
        if generated >= table.length[r]:
            self._leave(slot, r, now, self.blocks(table.prompt[r] + generated - 1))
            return
        self._decode(slot, r)

    def _decode(self, slot: Slot, r: int) -> None:
        """A sequence whose first tokens are out decodes in the slot's passes."""
        table = self.table
        generated = table.generated[r]
        base = slot.passes - generated
        context = table.prompt[r] + generated
        slot.base[r] = base
        slot.decoding += 1
        slot.context += context
        slot.phases[(context - slot.passes) % self._bs] += 1
        heappush(slot.ends, (base + table.length[r], base, r))

    def _retire(self, slot: Slot, now: float) -> None:
        """Let sequences go whose last token is out."""
        ends = slot.ends
        while ends and ends[0][0] <= slot.passes:
            _, base, r = heappop(ends)
            if slot.base.get(r) != base:
                continue
            length = self.table.length[r]
            context = self.table.prompt[r] + length
            self._stop_decoding(slot, r, context)
            self.table.generated[r] = length
            self._leave(slot, r, now, self.blocks(context - 1))

    def _stop_decoding(self, slot: Slot, r: int, context: int) -> None:
        del slot.base[r]
        slot.decoding -= 1
        slot.context -= context
        slot.phases[(context - slot.passes) % self._bs] -= 1

    def _leave(self, slot: Slot, r: int, now: float, held: int) -> None:
        table = self.table
        self._release(r, self._claim(r) if self.limits.reserve else held, answered=True)
        self.blocked = False
        self.running -= 1
        del slot.members[r]
        table.finish[r] = now
        self.feed.finished(r, now)

    def _release(self, r: int, held: int, *, answered: bool = False) -> None:
        """A request gives up its blocks."""
        if self.cache is not None:
            self.cache.settle(self.free)
            held = self.cache.leave(r, held, answered=answered)
        self.free += held

    def evict(self, now: float) -> list[int]:
        """The replica is lost, and the KV cache with it: all its requests, those that waited last.

        They keep the tokens that they have got; the rest of what was computed is gone. Who has all tokens and only
        waited for the others of a static batch is answered.
        """
        table = self.table
        held: list[int] = []
        answered: list[int] = []
        for slot in self.slots:
            for r in slot.members:
                if r in slot.prefills:
                    table.lost_kv += slot.prefills[r][0]
                else:
                    table.stopped(r, slot.passes - slot.base[r], slot.fresh.get(r, slot.spoke))
                    table.lost_kv += table.prompt[r] + table.generated[r] - 1
                (answered if table.generated[r] >= table.output[r] else held).append(r)
            slot.clear()
        held += self.waiting
        self.waiting.clear()
        self.free, self.running, self.blocked = self.limits.blocks, 0, False
        self._computed.clear()
        if self.cache is not None:
            self.cache.clear()
        for r in held:
            table.restarts[r] += 1
        for r in answered:
            table.length[r], table.finish[r] = table.generated[r], table.paused[r]
            self.feed.finished(r, now)
        return held

    def _push_out(self, slot: Slot) -> None:
        """The slot's newest sequence of the lowest priority gives up its blocks and goes back to the queue."""
        r = next(reversed(slot.members))
        table, priority = self.table, self.table.priority
        if priority is not None:
            r = min(reversed(slot.members), key=lambda k: priority[k])
        if r in slot.prefills:
            computed, tokens = slot.prefills.pop(r)
            self._release(r, self.blocks(tokens))
        else:
            table.generated[r] = slot.passes - slot.base[r]
            table.paused[r] = slot.fresh.pop(r, slot.spoke)
            context = table.prompt[r] + table.generated[r]
            self._stop_decoding(slot, r, context)
            computed = context - 1
            self._release(r, self.blocks(computed))
        self._computed[r] = computed
        if self.limits.swap is not None:
            self._copying += self.limits.swap * computed
        del slot.members[r]
        self.running -= 1
        table.preempted[r] += 1
        self._line_up(r, first=True)
        self.pushed_out = True

    def _line_up(self, r: int, *, first: bool = False) -> None:
        """A request goes to the end of those that wait with its priority, or in front of them."""
        waiting, priority = self.waiting, self.table.priority
        if priority is None:
            waiting.appendleft(r) if first else waiting.append(r)
            return
        mine, place = priority[r], len(waiting)
        while place and (priority[waiting[place - 1]] < mine or (first and priority[waiting[place - 1]] == mine)):
            place -= 1
        waiting.insert(place, r)
