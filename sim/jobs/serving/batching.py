"""Batching: which sequences ride in the next pass, within the KV cache and the token budget.

A replica has one slot a micro-batch; a slot's sequences move through the pipeline together. Before each
pass the policy forms the slot's batch. ``continuous`` gives every running sequence a token, continues
prompts in pieces within the token budget, and admits waiting requests first come, first served while KV
blocks last; a sequence that needs a block when none is free pushes the newest one out, which is computed
again later (or, under ``reserve``, blocks for the whole answer are set aside at admission and nothing is
pushed out). ``static`` fills a batch and sets its blocks aside, and everyone waits for its longest answer.

Blocks hold ``block_tokens`` tokens. A running sequence takes a new block every ``block_tokens`` passes, and
which pass that is never changes: a histogram of that phase tells how many blocks any run of passes needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from sim.engine.histogram import Durations
from sim.jobs.serving.requests import Feed, RequestTable
from sim.laws.step import Chunk


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a replica's batches."""

    max_tokens: int
    prefill_chunk: int
    max_sequences: int
    batch_size: int
    slots: int
    reserve: bool
    block_tokens: int
    blocks: int
    watermark: int


class Batch:
    """What rides in one pass. ``pieces`` are (request, tokens) of the prompts behind ``chunks``.

    ``tokens`` and ``sequences`` count all of them; ``cached`` is the tokens whose KV is in use.
    """

    __slots__ = ("cached", "chunks", "context", "decoding", "pieces", "sequences", "tokens")

    def __init__(
        self, decoding: int, context: int, chunks: Sequence[Chunk] = (), pieces: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.decoding, self.context = decoding, context
        self.chunks, self.pieces = chunks, pieces
        tokens, cached = decoding, context
        for c, past in chunks:
            tokens += c
            cached += c + past
        self.tokens, self.cached, self.sequences = tokens, cached, decoding + len(chunks)

    @property
    def kind(self) -> str:
        """decode, prefill or mixed."""
        if not self.chunks:
            return "decode"
        return "mixed" if self.decoding else "prefill"


class Slot:
    """The sequences of one micro-batch. ``context`` sums the contexts of the next pass's decoding sequences.

    ``base[r]`` is passes - tokens generated: constant while r decodes, so nothing is updated a pass.
    ``returned`` is when the last pass ended: the last tokens came out then.
    """

    def __init__(self, number: int, block_tokens: int) -> None:
        self.number = number
        self.passes = 0
        self.returned = 0.0
        self._block_tokens = block_tokens
        self.clear()

    def clear(self) -> None:
        """No sequence is in it."""
        self.decoding = 0
        self.context = 0
        self.members: dict[int, None] = {}
        self.prefills: dict[int, list[int]] = {}
        self.ends: list[tuple[int, int, int]] = []
        self.phases = [0] * self._block_tokens
        self.base: dict[int, int] = {}

    def passes_to_next_end(self) -> int:
        """Passes until the first decoding sequence is done; entries of pushed-out sequences are dropped."""
        ends, base = self.ends, self.base
        while base.get(ends[0][2]) != ends[0][1]:
            heappop(ends)
        return ends[0][0] - self.passes


class Scheduler:
    """The replica's queue, its KV blocks and its slots."""

    def __init__(self, table: RequestTable, feed: Feed, limits: Limits, policy: str) -> None:
        self.table, self.feed, self.limits = table, feed, limits
        self.waiting: deque[int] = deque()
        self.slots = [Slot(i, limits.block_tokens) for i in range(limits.slots)]
        self.free = limits.blocks
        self.running = 0
        self.blocked = False
        self.pushed_out = False
        self.gaps = Durations()
        self._form = POLICIES[policy]
        self._joins = policy != "static"
        self._bs = limits.block_tokens

    # -- before a pass ---------------------------------------------------------------------------------

    def form(self, slot: Slot, now: float) -> Batch | None:
        """The slot's next batch, with KV blocks for one pass, or None if it has nothing to do.

        ``blocked`` tells whether a request waits only for KV blocks: from an admission that failed until one
        succeeds, blocks come free, or nobody waits.
        """
        self.take(now)
        self.pushed_out = False
        return self._form(self, slot, now)

    def take(self, now: float) -> int:
        """Let in the queue whoever has come; the number of requests that wait."""
        self.feed.take(now, self.waiting)
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
        if self.limits.reserve or passes == 1:
            return
        bs, phases = self._bs, slot.phases
        cycles, rest = divmod(passes - 1, bs)
        taken = cycles * slot.decoding
        for j in range(slot.passes, slot.passes + rest):
            taken += phases[-j % bs]
        self.free -= taken

    def admit(self, slot: Slot, now: float) -> int:
        """Move the first waiting request into the slot; its number. The caller checked that it fits."""
        r = self.waiting.popleft()
        self.blocked = False
        table = self.table
        tokens = table.prompt[r] + table.generated[r]
        self.free -= self._claim(r)
        self.running += 1
        slot.members[r] = None
        slot.prefills[r] = [0, tokens]
        if table.scheduled[r] != table.scheduled[r]:
            table.scheduled[r] = now
        return r

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
        if self._claim(r) > self.free - spare:
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
        if slot.ends and slot.ends[0][0] <= slot.passes + 1:
            return True
        return any(slot.prefills[r][0] + tokens == slot.prefills[r][1] for r, tokens in batch.pieces)

    def passed(self, slot: Slot, batch: Batch, now: float) -> None:
        """Account for a pass of ``batch`` that ends at ``now``."""
        if batch.decoding:
            self.gaps.add(now - slot.returned, batch.decoding)
        self.advance(slot, batch, now)

    def advance(self, slot: Slot, batch: Batch, now: float, passes: int = 1) -> None:
        """Account for ``passes`` passes of ``batch`` that end at ``now``, but for the times between tokens."""
        slot.returned = now
        slot.passes += passes
        slot.context += slot.decoding * passes
        self._retire(slot, now)
        for r, tokens in batch.pieces:
            state = slot.prefills[r]
            state[0] += tokens
            if state[0] == state[1]:
                del slot.prefills[r]
                self._join(slot, r, now)

    def _join(self, slot: Slot, r: int, now: float) -> None:
        """A prompt is done: its next token is out, and it decodes from the next pass on."""
        table = self.table
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
        self.free += self._claim(r) if self.limits.reserve else held
        self.blocked = False
        self.running -= 1
        del slot.members[r]
        table.finish[r] = now
        self.feed.finished(r, now)

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
                    table.stopped(r, slot.passes - slot.base[r], slot.returned)
                    table.lost_kv += table.prompt[r] + table.generated[r] - 1
                (answered if table.generated[r] >= table.output[r] else held).append(r)
            slot.clear()
        held += self.waiting
        self.waiting.clear()
        self.free, self.running, self.blocked = self.limits.blocks, 0, False
        for r in held:
            table.restarts[r] += 1
        for r in answered:
            table.length[r], table.finish[r] = table.generated[r], table.paused[r]
            self.feed.finished(r, now)
        return held

    def _push_out(self, slot: Slot) -> None:
        """The slot's newest sequence gives up its blocks and goes to the head of the queue."""
        r = next(reversed(slot.members))
        table = self.table
        if r in slot.prefills:
            computed, tokens = slot.prefills.pop(r)
            self.free += self.blocks(tokens)
        else:
            table.generated[r] = slot.passes - slot.base[r]
            table.paused[r] = slot.returned
            context = table.prompt[r] + table.generated[r]
            self._stop_decoding(slot, r, context)
            computed = context - 1
            self.free += self.blocks(computed)
        table.recomputed += computed
        del slot.members[r]
        self.running -= 1
        table.preempted[r] += 1
        self.waiting.appendleft(r)
        self.pushed_out = True


def form_continuous(s: Scheduler, slot: Slot, now: float) -> Batch | None:
    """Iteration-level batching with prompts in pieces (Orca, SARATHI, vLLM)."""
    if slot.decoding:
        s.grow(slot)
    budget = s.budget(slot)
    chunks: list[Chunk] = []
    pieces: list[tuple[int, int]] = []
    for r, (past, target) in slot.prefills.items():
        if budget <= 0:
            break
        c = min(target - past, budget)
        chunks.append(Chunk(c, past))
        pieces.append((r, c))
        budget -= c
    while s.waiting and not s.pushed_out and s.lets_in(slot, budget):
        r = s.admit(slot, now)
        c = min(slot.prefills[r][1], budget)
        chunks.append(Chunk(c, 0))
        pieces.append((r, c))
        budget -= c
    if not chunks:
        return Batch(slot.decoding, slot.context) if slot.decoding else None
    return Batch(slot.decoding, slot.context, chunks, pieces)


def form_static(s: Scheduler, slot: Slot, now: float) -> Batch | None:
    """A batch starts when it is full (or nobody else is coming) and ends with its longest answer."""
    if slot.decoding:
        s.grow(slot)
        return Batch(slot.decoding, slot.context)
    want = s.limits.batch_size
    if not s.waiting or (len(s.waiting) < want and s.feed.expects()):
        return None
    table = s.table
    longest, count, room = 0, 0, s.free
    while count < min(want, len(s.waiting)):
        r = s.waiting[count]
        longest = max(longest, table.output[r])
        width = max(table.prompt[s.waiting[i]] for i in range(count + 1)) + longest
        if s.blocks(width) * (count + 1) > room:
            break
        count += 1
    cut = count < min(want, len(s.waiting))
    if count == 0:
        s.blocked = cut
        return None
    for i in range(count):
        table.length[s.waiting[i]] = max(table.output[s.waiting[j]] for j in range(count))
    chunks, pieces = [], []
    for _ in range(count):
        r = s.admit(slot, now)
        chunks.append(Chunk(slot.prefills[r][1], 0))
        pieces.append((r, slot.prefills[r][1]))
    s.blocked = cut
    return Batch(0, 0, chunks, pieces)


#: Policies by name: each forms a slot's next batch.
POLICIES: dict[str, Callable[[Scheduler, Slot, float], Batch | None]] = {
    "continuous": form_continuous,
    "static": form_static,
}
