"""KV blocks kept for prompts that begin alike: what is found, what goes first, and that no block is lost."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.jobs.serving.prefix_cache import PrefixCache, Store

from ..helpers import only, simulate, toy

BLOCK = 16


def cache(*paths: list[tuple[int, int]], store: int | None = None, **tails: Any) -> PrefixCache:
    kept = Store(store) if store is not None else None
    return PrefixCache(paths, {int(k[1:]): v for k, v in tails.items()}, BLOCK, kept)


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def come_and_go(c: PrefixCache, r: int, tokens: int, *, answered: bool = True) -> int:
    """A request that is alone and leaves at once; the tokens that it found."""
    past, _, _ = c.admit(r, tokens)
    c.keep(r)
    c.leave(r, blocks(tokens), answered=answered)
    return past


def test_the_longest_beginning_in_whole_blocks_is_found_and_the_last_token_is_computed() -> None:
    c = cache([(1, 100), (2, 200)], [(1, 100), (3, 130)], [(1, 100), (2, 200)])
    assert come_and_go(c, 0, 200) == 0
    assert c.search(1)[:2] == (1, 96)  # 100 tokens are six whole blocks
    assert c.search(2)[:2] == (2, 192)
    assert come_and_go(c, 1, 130) == 96
    assert come_and_go(c, 2, 200) == 192


def test_a_prompt_that_is_there_as_a_whole_still_computes_its_last_token() -> None:
    c = cache([(1, 64)], [(1, 64)])
    come_and_go(c, 0, 64)
    assert c.admit(1, 64) == (48, 0, 0)  # its four blocks were free ones; one is computed again


def test_shared_blocks_are_counted_once_and_come_free_with_their_last_user() -> None:
    c = cache([(1, 64), (2, 96)], [(1, 64), (3, 128)])
    assert c.admit(0, 96)[1] == 0
    c.keep(0)
    assert c.admit(1, 128) == (64, 4, 0)  # four blocks that the first one holds need not be taken
    c.keep(1)
    assert c.leave(0, 6) == 2  # its own two; the other four are still in use
    assert c.leave(1, 8) == 8


def test_what_two_compute_at_once_is_kept_once() -> None:
    c = cache([(1, 64)], [(1, 64)])
    c.admit(0, 64)
    c.admit(1, 64)
    assert c.keep(0) == 0
    assert c.keep(1) == 4
    assert c.leave(0, 4) == 0
    assert c.leave(1, 4) == 4


def test_the_least_recently_used_go_first_and_ends_before_beginnings() -> None:
    c = cache([(1, 32), (2, 64)], [(3, 32)], [(1, 32)])
    for r, tokens in ((0, 64), (1, 32), (2, 32)):
        come_and_go(c, r, tokens)
    # Idle, oldest first: the end of the first prompt, the second, and the beginning that was used again.
    c.settle(5)
    assert c.search(0)[:2] == (1, 32)
    c.settle(3)
    assert c.search(1).segments == 0
    assert c.search(2).segments == 1
    c.settle(0)
    assert c.search(2).segments == 0


def test_an_answer_is_found_by_the_next_turn() -> None:
    c = cache([(1, 50)], [(1, 50), (2, 89), (3, 120)], t0=(2, 89))
    come_and_go(c, 0, 90)
    assert c.search(1)[:2] == (2, 80)
    unanswered = cache([(1, 50)], [(1, 50), (2, 89), (3, 120)], t0=(2, 89))
    come_and_go(unanswered, 0, 90, answered=False)
    assert unanswered.search(1)[:2] == (1, 48)


def test_what_had_to_go_is_fetched_from_the_store() -> None:
    c = cache([(1, 32), (2, 64)], [(1, 32), (2, 64), (3, 80)], store=3)
    come_and_go(c, 0, 64)
    c.settle(0)
    # The store holds three blocks: the beginning, which went last, displaced the end.
    assert c.search(1)[:2] == (0, 0)
    assert c.search(1).stored == 32
    assert c.admit(1, 80) == (32, 0, 32)
    assert (c.asked, c.found, c.fetched) == (144, 32, 32)


def block_by_block(
    paths: list[list[tuple[int, int]]], rows: list[tuple[str, int, int]], capacity: int
) -> list[int]:
    """What each request finds, by an LRU cache of single blocks that asks nothing of segments: an oracle."""
    idle: OrderedDict[tuple[int, int], None] = OrderedDict()
    users: dict[tuple[int, int], int] = {}
    private: dict[int, int] = {}
    found = []

    def names(r: int) -> list[tuple[int, int]]:
        start, named = 0, []
        for number, end in paths[r]:
            named += [(number, i) for i in range(start // BLOCK, end // BLOCK)]
            start = end
        return named

    def used() -> int:
        return len(users) + sum(private.values())

    for what, r, tokens in rows:
        if what == "come":
            while len(idle) > capacity - used():
                idle.popitem(last=False)
            hit = 0
            for name in names(r):
                if name not in idle and name not in users:
                    break
                hit += 1
                idle.pop(name, None)
                users[name] = users.get(name, 0) + 1
            found.append(min(hit * BLOCK, (tokens - 1) // BLOCK * BLOCK))
            private[r] = blocks(tokens) - hit
            for name in names(r)[hit:]:  # the whole prompt is computed at once
                idle.pop(name, None)
                users[name] = users.get(name, 0) + 1
                private[r] -= 1
        else:
            while len(idle) > capacity - used():
                idle.popitem(last=False)
            del private[r]
            for name in reversed(names(r)):
                users[name] -= 1
                if not users[name]:
                    del users[name]
                    idle[name] = None
    return found


def test_segments_are_found_as_single_blocks_would_be() -> None:
    """Random prompts over a small cache, with several at a time: the same hits as block by block, and no block is lost.

    The oracle evicts single blocks, so prompts are made of segments of one block each.
    """
    rng = np.random.default_rng(5)
    paths, numbers = [], dict[tuple[int, ...], int]()
    for _ in range(400):
        words = tuple(int(w) for w in rng.integers(0, 3, rng.integers(1, 7)))
        path = [(numbers.setdefault(words[: i + 1], len(numbers)), (i + 1) * BLOCK) for i in range(len(words))]
        paths.append(path)
    capacity, free = 24, 24
    c, there, rows, got = cache(*paths), list[int](), list[tuple[str, int, int]](), list[int]()
    held = dict[int, int]()
    for r, path in enumerate(paths):
        tokens = path[-1][1] + int(rng.integers(1, 20))
        need = blocks(tokens)
        while need > free or len(there) > 3:
            gone = there.pop(int(rng.integers(0, len(there))))
            rows.append(("go", gone, 0))
            c.settle(free)
            free += c.leave(gone, blocks(held[gone]))
        held[r] = tokens
        c.settle(free)
        past, spared, _ = c.admit(r, tokens)
        free -= need - spared
        free += c.keep(r)
        got.append(past)
        there.append(r)
        rows.append(("come", r, tokens))
    assert got == block_by_block(paths, rows, capacity)
    assert sum(got) > 0
    for r in there:
        c.settle(free)
        free += c.leave(r, blocks(held[r]))
    assert free == capacity


# ---- in a replica


def spaced(**load: Any) -> dict[str, Any]:
    every = {"deterministic": {"rate": "1 req/s"}, "requests": 40, "prompt_tokens": 100, "output_tokens": 8}
    return every | load


def test_all_but_the_first_find_a_common_text() -> None:
    """800 tokens are fifty blocks: 39 of 40 prompts of 900 find them, and compute 100 tokens instead of 900."""
    load = spaced(prefix={"tokens": 800})
    found = only(simulate(toy({"batching": {"prefix_caching": True}, "load": load})).result).metrics
    assert found.prefix_hit_rate == pytest.approx(39 * 800 / (40 * 900))
    without = only(simulate(toy({"load": load})).result).metrics
    assert without.prefix_hit_rate is None
    short = only(simulate(toy({"load": spaced()})).result).metrics
    # Attention still reads all 900: between the two, and nearer to a prompt of 100.
    assert short.ttft_s.p50 < found.ttft_s.p50 < (short.ttft_s.p50 + without.ttft_s.p50) / 2


def test_time_to_first_token_falls_with_the_share_that_is_found() -> None:
    times = []
    for variants in (1, 4, 16, 40):
        load = spaced(prefix={"tokens": 4000, "variants": variants}, requests=60)
        metrics = only(simulate(toy({"batching": {"prefix_caching": True}, "load": load})).result).metrics
        times.append((metrics.prefix_hit_rate, metrics.ttft_s.mean))
    rates, ttft = zip(*times, strict=True)
    assert list(rates) == sorted(rates, reverse=True)
    assert list(ttft) == sorted(ttft)


def test_a_conversation_finds_all_that_was_said() -> None:
    """Turns of 100 + 8 tokens: the k-th prompt has 108 (k - 1) + 100 tokens, of which 108 (k - 1) - 1 are there."""
    load = spaced(conversation={"turns": 5}, requests=5)
    outcome = simulate(toy({"batching": {"prefix_caching": True}, "load": load}))
    table = outcome.recording.jobs[0].table
    assert table.prompt == [100, 208, 316, 424, 532]
    assert table.found == {k: (108 * k - 1) // BLOCK * BLOCK for k in range(1, 5)}
    assert table.arrival[1:] == pytest.approx(table.finish[:-1])


def test_several_answers_compute_their_prompt_once() -> None:
    load = spaced(samples=4, prompt_tokens=160)
    outcome = simulate(toy({"batching": {"prefix_caching": True}, "load": load}))
    table = outcome.recording.jobs[0].table
    assert [table.found.get(r, 0) for r in range(8)] == [0, 144, 144, 144] * 2
    assert len(set(table.arrival)) == 10


def test_a_store_on_the_host_saves_what_a_small_cache_must_give_up() -> None:
    load = spaced(prefix={"tokens": 800, "variants": 8}, requests=80)
    small = {"usable_memory": "0.6 GB"}
    rates = {}
    for name, extra in (("none", {}), ("host", {"kv_offload": {"capacity": "1 GB"}})):
        batching = {"prefix_caching": True, **extra}
        rates[name] = only(simulate(toy({"batching": batching, "load": load}, gpu=small)).result).metrics
    assert rates["host"].prefix_hit_rate > rates["none"].prefix_hit_rate + 0.2
    assert rates["host"].fetched_tokens > 0
    assert rates["host"].ttft_s.mean < rates["none"].ttft_s.mean


def test_a_prompt_that_ends_within_a_stored_block_finds_no_more_than_that() -> None:
    """160 tokens of text and one of its own: the last segment has no whole block, and is not there with the text."""
    load = {"closed_loop": {"clients": 9}, "requests": 300, "prompt_tokens": 1, "output_tokens": 60,
            "prefix": {"tokens": 160, "variants": 20}}  # fmt: skip
    batching = {"prefix_caching": True, "kv_offload": {"capacity": "0.02 GB"}}
    found = only(simulate(toy({"batching": batching, "load": load}, gpu={"usable_memory": "0.45 GB"})).result).metrics
    assert found.completed_requests == 300
    assert found.fetched_tokens > 0


def test_prompts_of_a_trace_that_are_cut_keep_no_blocks_that_they_have_not(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 30 * i, "input_length": n, "output_length": 40,
         "hash_ids": [100 * (i % 3) + k for k in range(-(-n // 512))]}
        for i, n in enumerate([600, 3000, 5000] * 20)
    ]  # fmt: skip
    (tmp_path / "trace.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    trace = {"file": str(tmp_path / "trace.jsonl"), "too_long": "truncate"}
    case = toy({"batching": {"prefix_caching": True}, "load": {"trace": trace}}, model={"context": 2000})
    job = simulate(case).recording.jobs[0]
    # Of 1,960 tokens three whole blocks of 512 can be another prompt's, and of 600 tokens 37 blocks.
    assert set(job.table.found.values()) == {592, 3 * 512}
    cache = job.replicas[0].scheduler.cache
    assert sum(held for held, _ in cache._segments.values()) == 600 // BLOCK + 2 * 3 * 512 // BLOCK


def test_what_is_stored_is_lost_with_its_replica() -> None:
    c = cache([(1, 64)], [(1, 64), (2, 128)], store=9)
    come_and_go(c, 0, 64)
    c.settle(0)
    assert c.search(1).stored == 64
    c.clear()
    assert c.search(1).stored == 0


def test_a_text_in_common_fills_the_cache_once() -> None:
    """Thirty users of one text of 1,600 tokens: their contexts are many times what the cache holds."""
    load = {"closed_loop": {"clients": 30}, "requests": 120, "prompt_tokens": 50, "output_tokens": 60}
    job = {"batching": {"prefix_caching": True}, "load": load | {"prefix": {"tokens": 1600}}}
    outcome = simulate(toy(job, gpu={"usable_memory": "0.75 GB"}))
    found = only(outcome.result).metrics
    assert found.batch_size_mean * 1650 > 5 * sum(outcome.recording.jobs[0].layout.tokens)
    assert 0.5 < found.kv_occupancy_mean <= found.kv_occupancy_peak <= 1.0
