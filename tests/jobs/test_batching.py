"""Batches formed pass by pass from a queue known by heart: budgets, blocks, who is pushed out, who waits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.jobs.serving.batching import Limits, Scheduler
from sim.jobs.serving.policies import POLICIES
from sim.jobs.serving.requests import OpenFeed, RequestTable
from sim.jobs.serving.slots import Batch, Slot

PASS = 0.01


def scheduler(
    prompts: list[int], outputs: list[int], policy: str = "continuous", arrivals: list[float] | None = None,
    **limits: Any,
) -> Scheduler:  # fmt: skip
    """One replica with these requests; blocks of four tokens, room for all unless ``limits`` says less."""
    facts: dict[str, Any] = {
        "max_tokens": 100, "prefill_chunk": 100, "max_sequences": 100, "batch_size": 1, "slots": 1, "reserve": False,
        "block_tokens": 4, "blocks": 1000, "watermark": 0,
    }  # fmt: skip
    table = RequestTable(prompts, outputs, arrivals or [0.0] * len(prompts))
    feed = OpenFeed(table, 0, lambda r: True, range(len(prompts)))
    return Scheduler(table, feed, Limits(**(facts | limits)), POLICIES[policy])


def shape(batch: Batch | None) -> tuple[int, list[tuple[int, int]]] | None:
    """(decoding sequences, [(tokens, past) of each piece of a prompt])."""
    return None if batch is None else (batch.decoding, [tuple(c) for c in batch.chunks])


def passes(s: Scheduler, most: int = 1000) -> list[tuple[int, list[tuple[int, int]]]]:
    """Play the slots in turn until nothing is left, a pass of 10 ms each."""
    found, now, idle = [], 0.0, 0
    while idle < len(s.slots) and len(found) < most:
        slot = s.slots[len(found) % len(s.slots)] if not idle else s.slots[(len(found) + idle) % len(s.slots)]
        batch = s.form(slot, now)
        if batch is None:
            idle += 1
            continue
        idle = 0
        now += PASS
        s.advance(slot, batch, now)
        told = shape(batch)
        assert told is not None
        found.append(told)
    return found


# ---- continuous


def test_a_prompt_then_a_token_a_pass() -> None:
    s = scheduler([10], [4])
    assert passes(s) == [(0, [(10, 0)]), (1, []), (1, []), (1, [])]
    assert (s.table.first[0], s.table.finish[0]) == (pytest.approx(PASS), pytest.approx(4 * PASS))
    assert s.table.generated == [4]


def test_one_token_answers_leave_with_their_prompt() -> None:
    s = scheduler([10, 10], [1, 1])
    assert passes(s) == [(0, [(10, 0), (10, 0)])]
    assert s.table.first == s.table.finish == [PASS, PASS]


def test_the_budget_counts_decoding_first_and_cuts_prompts_into_pieces() -> None:
    s = scheduler([4, 25], [8, 2], max_tokens=10)
    assert passes(s) == [
        (0, [(4, 0), (6, 0)]), (1, [(9, 6)]), (1, [(9, 15)]), (1, [(1, 24)]), (2, []), (1, []), (1, []), (1, []),
    ]  # fmt: skip


def test_prefill_chunk_bounds_the_prompt_tokens_alone() -> None:
    s = scheduler([4, 6], [3, 1], prefill_chunk=3)
    assert passes(s) == [(0, [(3, 0)]), (0, [(1, 3), (2, 0)]), (1, [(3, 2)]), (1, [(1, 5)])]


def test_first_come_first_served_within_max_sequences() -> None:
    s = scheduler([5, 5, 5], [3, 2, 2], max_sequences=2)
    assert passes(s) == [(0, [(5, 0), (5, 0)]), (2, []), (1, [(5, 0)]), (1, [])]
    assert s.table.scheduled == [0.0, 0.0, pytest.approx(2 * PASS)]


def test_contexts_grow_by_a_token_a_pass() -> None:
    s = scheduler([10, 20], [5, 5])
    slot = s.slots[0]
    contexts = []
    for i in range(5):
        batch = s.form(slot, i * PASS)
        assert batch is not None
        contexts.append((batch.context, batch.tokens, batch.sequences, batch.cached, batch.kind))
        s.advance(slot, batch, (i + 1) * PASS)
    assert contexts == [
        (0, 30, 2, 30, "prefill"), (32, 2, 2, 32, "decode"), (34, 2, 2, 34, "decode"), (36, 2, 2, 36, "decode"),
        (38, 2, 2, 38, "decode"),
    ]  # fmt: skip


def test_micro_batches_share_the_requests_evenly() -> None:
    s = scheduler([5] * 6, [2] * 6, slots=3)
    sizes = [shape(s.form(slot, 0.0)) for slot in s.slots]
    assert sizes == [(0, [(5, 0)] * 2)] * 3


# ---- blocks


def test_blocks_are_taken_at_admission_and_every_fourth_token() -> None:
    """Ten tokens take three blocks of four; the cache then holds 11, 12 (three blocks), 13 to 16 (four), 17 ..."""
    s = scheduler([10], [8])
    slot, held = s.slots[0], []
    for i in range(8):
        batch = s.form(slot, i * PASS)
        assert batch is not None
        held.append(1000 - s.free)
        s.advance(slot, batch, (i + 1) * PASS)
    assert held == [3, 3, 3, 4, 4, 4, 4, 5]
    assert s.free == 1000


def test_reserve_takes_the_whole_answer_at_once() -> None:
    s = scheduler([10, 10], [8, 8], reserve=True, blocks=7)
    assert shape(s.form(s.slots[0], 0.0)) == (0, [(10, 0)])  # 18 tokens are five blocks; two are left
    assert s.free == 2
    assert s.blocked
    passes(s)
    assert s.table.preempted == [0, 0]
    assert s.free == 7


def test_the_newest_is_pushed_out_and_computed_again() -> None:
    """Six blocks hold both prompts (2 x 3), not their growth; the second gives its blocks up and comes back."""
    s = scheduler([10, 10], [8, 8], blocks=6)
    found = passes(s)
    # Contexts 11 and 12 fit into three blocks each; the fourth token of the first needs a block of the second's.
    assert found[:4] == [(0, [(10, 0), (10, 0)]), (2, []), (2, []), (1, [])]
    assert found[8] == (0, [(13, 0)])  # ten of the prompt and three that were generated
    assert s.table.preempted == [0, 1]
    assert s.table.recomputed == 12  # the KV of its third token had not been computed yet
    assert s.table.generated == [8, 8]
    assert s.free == 6


def test_a_prompt_pushed_out_loses_only_what_was_computed() -> None:
    s = scheduler([3, 17], [6, 2], blocks=6, max_tokens=7)
    found = passes(s)
    assert found[:2] == [(0, [(3, 0), (4, 0)]), (1, [(6, 4)])]
    assert found[2] == (1, [])  # the first needs a second block: the prompt, ten tokens in, makes room
    assert s.table.preempted == [0, 1]
    assert s.table.recomputed == 10


def test_the_watermark_keeps_blocks_for_those_who_run() -> None:
    bare, kept = (scheduler([10, 10], [8, 8], blocks=8, watermark=w) for w in (0, 3))
    assert shape(bare.form(bare.slots[0], 0.0)) == (0, [(10, 0), (10, 0)])
    assert shape(kept.form(kept.slots[0], 0.0)) == (0, [(10, 0)])
    assert kept.blocked


def test_the_watermark_does_not_keep_out_a_request_that_is_alone() -> None:
    s = scheduler([28], [2], blocks=8, watermark=3)
    assert shape(s.form(s.slots[0], 0.0)) == (0, [(28, 0)])


def test_nobody_is_admitted_in_the_pass_that_pushed_somebody_out() -> None:
    s = scheduler([10, 10, 1], [8, 8, 8], blocks=6, max_sequences=2)
    for i, batch in enumerate(passes(s, 4)):
        assert i < 3 or batch == (1, [])
    assert list(s.waiting) == [1, 2]  # pushed out to the head of the queue


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(18, 60),
    st.integers(1, 3),
    st.sampled_from(["continuous", "static"]),
    st.booleans(),
    st.integers(3, 40),
)
def test_blocks_held_are_those_of_the_contexts_and_all_come_back(
    requests: list[tuple[int, int]], blocks: int, slots: int, policy: str, reserve: bool, max_tokens: int
) -> None:
    """After every pass the blocks in use are the sum over sequences, counted one by one."""
    s = scheduler(
        [p for p, _ in requests], [n for _, n in requests], policy, blocks=blocks, slots=slots,
        reserve=reserve or policy == "static", batch_size=3, max_tokens=max_tokens,
    )  # fmt: skip

    def held(slot: Slot, r: int) -> int:
        if s.limits.reserve:
            return s.blocks(s.table.prompt[r] + s.table.length[r])
        if r in slot.prefills:
            return s.blocks(slot.prefills[r][1])
        return s.blocks(s.table.prompt[r] + slot.passes - slot.base[r] - 1)

    now, idle = 0.0, 0
    for turn in range(5000):
        slot = s.slots[turn % slots]
        batch = s.form(slot, now)
        if batch is None:
            idle += 1
            if idle == slots:
                break
            continue
        idle, now = 0, now + PASS
        s.advance(slot, batch, now)
        assert s.free == blocks - sum(held(other, r) for other in s.slots for r in other.members)
        assert s.free >= 0
    assert s.free == blocks
    assert not s.waiting
    assert s.table.generated == s.table.length
    assert all(a >= b for a, b in zip(s.table.length, s.table.output, strict=True))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(2, 60)), min_size=1, max_size=6), st.integers(0, 40),
    st.integers(1, 60),
)  # fmt: skip
def test_a_run_of_passes_takes_the_blocks_that_single_passes_take(
    requests: list[tuple[int, int]], spare: int, longest: int
) -> None:
    """``run_length`` passes by ``extend`` leave what as many single passes leave, and one more would not fit."""
    prompts, outputs = [p for p, _ in requests], [n + 100 for _, n in requests]
    together, singly = (
        scheduler(prompts, outputs, blocks=sum(-(-p // 4) for p in prompts) + spare, max_tokens=10_000,
                  prefill_chunk=10_000)
        for _ in range(2)
    )  # fmt: skip
    for s in (together, singly):
        batch = s.form(s.slots[0], 0.0)
        assert batch is not None
        s.advance(s.slots[0], batch, PASS)
    slot = together.slots[0]
    batch = together.form(slot, PASS)
    if batch is None or together.pushed_out:
        return
    k = together.run_length(slot, longest)
    assert 1 <= k <= longest
    together.extend(slot, k)
    together.advance(slot, batch, PASS * (1 + k), k)
    for i in range(k):
        again = singly.form(singly.slots[0], PASS * (1 + i))
        assert again is not None
        assert not singly.pushed_out
        singly.advance(singly.slots[0], again, PASS * (2 + i))
    assert together.free == singly.free >= 0
    assert slot.context == singly.slots[0].context
    if k < longest:
        singly.form(singly.slots[0], PASS * (2 + k))
        assert singly.pushed_out


# ---- static


def test_a_static_batch_waits_until_it_is_full_and_ends_with_its_longest_answer() -> None:
    s = scheduler([10, 12, 5], [2, 4, 3], "static", batch_size=2, reserve=True, arrivals=[0.0, 1.0, 2.0])
    slot = s.slots[0]
    assert s.form(slot, 0.0) is None
    batch = s.form(slot, 1.0)
    assert shape(batch) == (0, [(10, 0), (12, 0)])
    assert s.table.length == [4, 4, 3]
    now = 1.0
    while batch is not None:
        now += PASS
        s.advance(slot, batch, now)
        batch = s.form(slot, now)
    assert s.table.finish[:2] == [pytest.approx(1.0 + 4 * PASS)] * 2
    assert shape(s.form(slot, 2.0)) == (0, [(5, 0)])  # nobody else is coming: the batch goes as it is


def test_a_static_batch_is_as_large_as_its_cache_allows() -> None:
    """Three of 10 + 6 tokens take four blocks each; nine blocks hold two."""
    s = scheduler([10] * 3, [6] * 3, "static", batch_size=3, reserve=True, blocks=9)
    assert shape(s.form(s.slots[0], 0.0)) == (0, [(10, 0)] * 2)
    assert s.blocked
    assert s.free == 1
