"""Prompts that begin alike: KV blocks that outlive their requests, found again by what they hold.

A prompt is a path of segments, each named by a number that stands for all tokens up to its end (a hash of its block and
of those before it). A segment's blocks stay when the last request that uses them leaves; they count as free, for
whoever needs blocks takes them, the least recently used first. A request that comes finds the longest beginning of its
path that is still there, and computes the rest; the segments that it computes can be found once its prompt is done.

Segments that had to go may be kept elsewhere, in host memory or on a drive (``store``), from where a prompt fetches
them while its first pass runs.

The blocks that nobody uses are never more than the free ones:

    idle blocks <= free blocks

Free blocks only fall between two departures, so it is enough to settle this before each departure and each search; the
cache is then the same whether passes are played one by one or by the thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

#: Segments of a prompt: (number, tokens up to its end).
Path = Sequence[tuple[int, int]]


class Found(NamedTuple):
    """The beginning of a prompt that is in the cache: its segments and tokens, its blocks, those that nobody uses; and
    tokens with those that are stored behind it."""

    segments: int
    tokens: int
    blocks: int
    idle: int
    stored: int


NOTHING = Found(0, 0, 0, 0, 0)


class Store:
    """Segments that left the GPUs, in ``blocks`` at most: the least recently used go first."""

    def __init__(self, blocks: int) -> None:
        self.blocks, self.held = blocks, 0
        self.segments: dict[int, int] = {}

    def put(self, number: int, blocks: int) -> None:
        """Keep a segment, or have it used now."""
        self.held += blocks - self.segments.pop(number, 0)
        self.segments[number] = blocks
        while self.held > self.blocks:
            oldest = next(iter(self.segments))
            self.held -= self.segments.pop(oldest)


class PrefixCache:
    """The segments in one replica's KV cache, of requests whose prompts are ``paths``.

    ``tails`` numbers what a request's answer adds to its path. ``asked``, ``found`` and ``fetched`` count prompt tokens
    of all admissions, those that were there and those of them that were stored elsewhere.
    """

    def __init__(
        self, paths: Sequence[Path], tails: Mapping[int, tuple[int, int]], block_tokens: int,
        store: Store | None = None,
    ) -> None:  # fmt: skip
        self.paths, self.tails, self.store = paths, tails, store
        self.asked = self.found = self.fetched = 0
        self._bs = block_tokens
        #: By segment [its blocks, requests that use it].
        self._segments: dict[int, list[int]] = {}
        #: Segments that nobody uses, the least recently used first.
        self._idle: dict[int, None] = {}
        self._idle_blocks = 0
        #: Tokens that are there once and in the contexts of several requests: all but one's.
        self.doubled = 0
        #: By request the segments that it uses, in order, and their blocks.
        self._used: dict[int, list[int]] = {}
        self._shared: dict[int, int] = {}
        self._memo: tuple[int, int, Found] = (-1, 0, NOTHING)
        self._changes = 0

    def search(self, r: int) -> Found:
        """The longest beginning of a request's prompt that is there now."""
        if self._memo[0] == r and self._memo[1] == self._changes:
            return self._memo[2]
        segments = tokens = blocks = idle = 0
        for number, end in self.paths[r]:
            held = self._segments.get(number)
            if held is None:
                break
            segments, tokens, blocks = segments + 1, end, blocks + held[0]
            if not held[1]:
                idle += held[0]
        tokens = stored = tokens // self._bs * self._bs
        if self.store is not None:
            for number, end in self.paths[r][segments:]:
                if number not in self.store.segments:
                    break
                stored = end // self._bs * self._bs
        found = Found(segments, tokens, blocks, idle, stored)
        self._memo = (r, self._changes, found)
        return found

    def settle(self, free: int) -> None:
        """Give up the content of blocks that running sequences have taken, the least recently used first."""
        idle, segments = self._idle, self._segments
        while self._idle_blocks > free:
            number = next(iter(idle))
            del idle[number]
            blocks, _ = segments.pop(number)
            self._idle_blocks -= blocks
            if self.store is not None:
                self.store.put(number, blocks)
            self._changes += 1

    def admit(self, r: int, tokens: int) -> tuple[int, int, int]:
        """A request of ``tokens`` to compute begins: the tokens that it finds, the blocks it need not take, and the
        tokens that must be fetched."""
        found = self.search(r)
        # The last token is computed, for what follows it is wanted, and with it its block.
        past = min(found.stored, (tokens - 1) // self._bs * self._bs)
        fetched = max(0, past - found.tokens)
        used = [number for number, _ in self.paths[r][: found.segments]]
        for number in used:
            self._use(number)
        self._used[r], self._shared[r] = used, found.blocks
        self.asked, self.found, self.fetched = self.asked + tokens, self.found + past, self.fetched + fetched
        if fetched and self.store is not None:
            behind = [number for number, end in self.paths[r][found.segments :] if end // self._bs * self._bs <= past]
            # The last may end within a block that is fetched, and not be there itself.
            there = list(takewhile(self.store.segments.__contains__, behind))
            for number in reversed(there):  # of a path its beginning goes last
                self.store.put(number, self.store.segments[number])
        return past, found.blocks - found.idle, fetched

    def keep(self, r: int) -> int:
        """A request's prompt is computed: from now on it can be found. Returns blocks that it held and another request
        has put there already."""
        used, path, spare = self._used[r], self.paths[r], 0
        start = path[len(used) - 1][1] if used else 0
        for number, end in path[len(used) :]:
            blocks = end // self._bs - start // self._bs
            if number in self._segments:
                was_idle = self._use(number)
                spare += 0 if was_idle else blocks
            else:
                self._segments[number] = [blocks, 1]
                self._changes += 1
            used.append(number)
            self._shared[r] += blocks
            start = end
        return spare

    def leave(self, r: int, held: int, *, answered: bool = False) -> int:
        """A request that holds ``held`` blocks, shared ones included, gives them up: how many of them come free.

        What it has ``answered`` can be found too, as the history of a conversation.
        """
        used, shared = self._used.pop(r), self._shared.pop(r)
        free = held - shared
        tail = self.tails.get(r) if answered else None
        if tail is not None and len(used) == len(self.paths[r]) and tail[0] not in self._segments:
            blocks = tail[1] // self._bs - self.paths[r][-1][1] // self._bs
            self._segments[tail[0]] = [blocks, 0]
            self._rest(tail[0], blocks)
        for number in reversed(used):
            segment = self._segments[number]
            if segment[1] > 1:
                self.doubled -= segment[0] * self._bs
            segment[1] -= 1
            if not segment[1]:
                self._rest(number, segment[0])
                free += segment[0]
        return free

    def clear(self) -> None:
        """The memory is lost; what is stored beside it is the replica's own, and lost with it."""
        if self.store is not None:
            self.store = Store(self.store.blocks)
        self._segments.clear()
        self._idle.clear()
        self._used.clear()
        self._shared.clear()
        self._idle_blocks = self.doubled = 0
        self._changes += 1

    def _use(self, number: int) -> bool:
        """One more request uses a segment; whether nobody did."""
        segment = self._segments[number]
        segment[1] += 1
        if segment[1] > 1:
            self.doubled += segment[0] * self._bs
            return False
        del self._idle[number]
        self._idle_blocks -= segment[0]
        self._changes += 1
        return True

    def _rest(self, number: int, blocks: int) -> None:
        self._idle[number] = None
        self._idle_blocks += blocks
        self._changes += 1
