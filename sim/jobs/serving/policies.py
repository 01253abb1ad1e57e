"""Policies by which a slot's next batch is formed.

``continuous`` gives every running sequence a token, continues prompts in pieces within the token budget, and lets
waiting requests in, first come, first served, while KV blocks last. ``prefill_first`` gives prompts passes of their
own, which go before all tokens; ``decode_first`` lets nobody in before all sequences of the slot are answered.
``static`` fills a batch and sets its blocks aside, and everyone waits for its longest answer.
"""

from __future__ import annotations

from sim.jobs.serving.batching import Policy, Scheduler
from sim.jobs.serving.slots import Batch, Slot


def form_continuous(s: Scheduler, slot: Slot, now: float) -> Batch | None:
    """Iteration-level batching with prompts in pieces (Orca, SARATHI, vLLM)."""
    if slot.decoding:
        s.grow(slot)
    s.continue_prompts(slot, s.budget(slot))
    s.let_in(slot, now)
    return s.batch(slot)


def form_prefill_first(s: Scheduler, slot: Slot, now: float) -> Batch | None:
    """Prompts go before tokens, in passes of their own (vLLM up to 0.5), and sequences that decode sit these out."""
    s.continue_prompts(slot, min(s.limits.max_tokens, s.limits.prefill_chunk))
    s.let_in(slot, now)
    if s.with_prompts:
        return s.batch(slot, decode=False)
    if slot.decoding:
        s.grow(slot)
    return s.batch(slot)


def form_decode_first(s: Scheduler, slot: Slot, now: float) -> Batch | None:
    """Nobody joins before all of the slot are answered (FasterTransformer, with early finishers leaving at once)."""
    empty = not slot.members
    if slot.decoding:
        s.grow(slot)
    s.continue_prompts(slot, s.budget(slot))
    if empty:
        s.let_in(slot, now)
    return s.batch(slot)


def form_static(s: Scheduler, slot: Slot, now: float) -> Batch | None:
    """A batch starts when it is full (or nobody else is coming) and ends with its longest answer."""
    if slot.decoding:
        s.grow(slot)
        return s.batch(slot)
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
    for _ in range(count):
        r = s.admit(slot, now)
        s.piece(slot, r, slot.prefills[r][1])
    s.blocked = cut
    return s.batch(slot)


#: Policies by name.
POLICIES: dict[str, Policy] = {
    "continuous": Policy(form_continuous, joins=True, plain=True),
    "prefill_first": Policy(form_prefill_first, joins=True, plain=False),
    "decode_first": Policy(form_decode_first, joins=True, plain=False),
    "static": Policy(form_static, joins=False, plain=True),
}
