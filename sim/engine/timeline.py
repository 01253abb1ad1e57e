"""What happened: seconds by cause for every device, bytes for every channel, and both over time.

Time is cut into at most ``BINS`` equal bins; when a run outgrows them, neighbours merge and the bin width
doubles, so a timeline costs the same memory for a second and for a year. Spans (for Gantt charts) are kept
in plain arrays up to a bound; a stretch of the same work without a gap is one span, however many events played it.
A track without ``charts`` keeps sums only.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import floor, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.laws.step import Pass

Floats = NDArray[np.float64]
Numbers = NDArray[Any]

BINS = 1024
FIRST_WIDTH = 1e-3
SPANS_PER_DEVICE = 200_000


class Run(NamedTuple):
    """``passes`` passes one after another; pass i lasts ``first`` + ``growth`` * i seconds."""

    first: float
    growth: float
    passes: int

    def seconds_of(self, i: int) -> float:
        """How long pass ``i`` lasts."""
        return self.first + self.growth * i

    def begun(self, n: int) -> float:
        """Seconds from the start until pass ``n`` begins."""
        return n * self.first + self.growth * (n * (n - 1) / 2)

    def passes_within(self, x: float) -> int:
        """Whole passes done after ``x`` seconds."""
        if self.growth <= 0.0:
            return floor(x / self.first)
        half = self.first - self.growth / 2
        return floor((sqrt(half * half + 2 * self.growth * x) - half) / self.growth)

    def passes_until(self, x: float) -> int:
        """The smallest k >= 1 whose k passes last at least ``x`` seconds."""
        k = max(1, self.passes_within(x)) if x > self.first else 1
        while self.begun(k) < x:
            k += 1
        return k


class Bins:
    """Amounts over time. ``values[i]`` is what fell into [i, i+1) * ``width`` seconds."""

    __slots__ = ("values", "width")

    def __init__(self) -> None:
        self.width = FIRST_WIDTH
        self.values = [0.0] * BINS

    def _grow(self, end: float) -> None:
        while end >= self.width * BINS:
            v = self.values
            self.values = [v[i] + v[i + 1] for i in range(0, BINS, 2)] + [0.0] * (BINS // 2)
            self.width *= 2

    def add(self, start: float, end: float, amount: float) -> None:
        """Spread ``amount`` evenly over [start, end]."""
        if end >= self.width * BINS:
            self._grow(end)
        width = self.width
        i, j = int(start / width), int(end / width)
        if i == j:
            self.values[i] += amount
            return
        density = amount / (end - start)
        self.values[i] += ((i + 1) * width - start) * density
        for b in range(i + 1, j):
            self.values[b] += width * density
        self.values[j] += (end - j * width) * density

    def add_many(
        self,
        starts: Sequence[float] | Floats,
        ends: Sequence[float] | Floats,
        amounts: Sequence[float] | Floats,
        split: Callable[[int], None] | None = None,
    ) -> None:
        """``add`` for many pieces at once, faster a piece; ``split(i)`` adds piece i where a bin's edge cuts it."""
        if not len(starts):
            return
        begin, end, amount = (np.asarray(column, dtype=float) for column in (starts, ends, amounts))
        self._grow(float(end.max()))
        i, j = (begin / self.width).astype(np.int64), (end / self.width).astype(np.int64)
        whole = i == j
        values = np.array(self.values)
        values += np.bincount(i[whole], weights=amount[whole], minlength=BINS)
        cut = np.flatnonzero(i != j)
        if split is None:
            self._cut(values, begin[cut], end[cut], amount[cut], i[cut], j[cut])
        self.values = values.tolist()
        if split is not None:
            for k in cut.tolist():
                split(k)

    def _cut(self, values: Floats, begin: Floats, end: Floats, amount: Floats, i: Numbers, j: Numbers) -> None:
        """Spread pieces that bins' edges cut, each from its bin i to its bin j, in the order of the pieces."""
        density = amount / (end - begin)
        counts = j - i + 1
        first = np.cumsum(counts) - counts
        bins = np.arange(int(counts.sum())) - np.repeat(first - i, counts)
        parts = np.repeat(self.width * density, counts)
        parts[first] = ((i + 1) * self.width - begin) * density
        parts[first + counts - 1] = (end - j * self.width) * density
        np.add.at(values, bins, parts)

    def add_run(self, start: float, run: Run, amount: float) -> None:
        """``amount`` for each pass of ``run``: the same as a call of ``add`` for each pass."""
        self._add_run(start, run, lambda n: amount * n, lambda n: amount / run.seconds_of(n))

    def add_level(self, start: float, run: Run, level: float, rise: float) -> None:
        """A level that holds during each pass and rises by ``rise`` from pass to pass, times seconds."""
        first, growth, _ = run
        cross = level * growth + rise * first

        def upto(n: int) -> float:
            """Sum over i < n of (level + rise i)(first + growth i)."""
            pairs = n * (n - 1)
            return n * level * first + cross * (pairs / 2) + rise * growth * (pairs * (2 * n - 1) / 6)

        self._add_run(start, run, upto, lambda n: level + rise * n)

    def _add_run(
        self, start: float, run: Run, upto: Callable[[int], float], density: Callable[[int], float]
    ) -> None:
        """Cut a run at the bins' edges: whole passes by ``upto``, the cut pass by its ``density`` a second."""
        length = run.begun(run.passes)
        if start + length >= self.width * BINS:
            self._grow(start + length)
        width = self.width
        i, j = int(start / width), int((start + length) / width)
        done = 0.0
        for b in range(i, j):
            x = (b + 1) * width - start
            n = min(run.passes - 1, run.passes_within(x))
            amount = upto(n) + (x - run.begun(n)) * density(n)
            self.values[b] += amount - done
            done = amount
        self.values[j] += upto(run.passes) - done

    def between(self, start: float, end: float) -> float:
        """What fell into [start, end], the bins at its edges in proportion."""
        width, total = self.width, 0.0
        for b in range(int(start / width), min(len(self.values), int(end / width) + 1)):
            overlap = min(end, (b + 1) * width) - max(start, b * width)
            total += self.values[b] * overlap / width
        return total


class NoBins(Bins):
    """Drops what is added: for a run of which nobody draws what happened when."""

    __slots__ = ()

    def add(self, start: float, end: float, amount: float) -> None:
        pass

    def add_many(
        self,
        starts: Sequence[float] | Floats,
        ends: Sequence[float] | Floats,
        amounts: Sequence[float] | Floats,
        split: Callable[[int], None] | None = None,
    ) -> None:
        pass

    def _add_run(
        self, start: float, run: Run, upto: Callable[[int], float], density: Callable[[int], float]
    ) -> None:
        pass


class Stretch(NamedTuple):
    """Work of one kind on a device without a change: when, with how many sequences and tokens a pass."""

    kind: str
    start: float
    end: float
    batch: int
    tokens: int
    micro_batch: int
    chunk: int = 0


KINDS = ("prefill", "decode", "mixed", "send", "forward", "backward", "weight gradient", "comm", "update")
_NUMBER = {kind: number for number, kind in enumerate(KINDS)}
DECODE = _NUMBER["decode"]


class SpanLog:
    """Stretches of work in order, 32 bytes each, up to ``SPANS_PER_DEVICE``.

    With ``merge``, decoding that goes on without a gap and with the same sequences is one stretch.
    """

    __slots__ = ("batch", "chunks", "ends", "kinds", "merge", "slots", "starts", "tokens")

    def __init__(self, merge: bool) -> None:
        self.merge = merge
        self.starts, self.ends = array("d"), array("d")
        self.kinds, self.slots, self.chunks = array("B"), array("i"), array("H")
        self.batch, self.tokens = array("i"), array("i")

    def __len__(self) -> int:
        return len(self.starts)

    def add(
        self, kind: str, start: float, end: float, batch: int, tokens: int, slot: int, chunk: int = 0
    ) -> None:
        """Append a stretch, or lengthen the last one."""
        number = _NUMBER[kind]
        goes_on = self.merge and kind == "decode" and self.starts and self.ends[-1] == start
        if goes_on and self.kinds[-1] == number and self.batch[-1] == batch:
            self.ends[-1] = end
            return
        if len(self.starts) < SPANS_PER_DEVICE:
            self.starts.append(start)
            self.ends.append(end)
            self.kinds.append(number)
            self.batch.append(batch)
            self.tokens.append(tokens)
            self.slots.append(slot)
            self.chunks.append(chunk)

    def extend(
        self,
        starts: Floats,
        ends: Floats,
        kinds: Numbers,
        batch: Numbers,
        tokens: Numbers,
        slots: Numbers,
    ) -> None:
        """``add`` many stretches (kinds by their number)."""
        if self.merge and len(starts):
            last = [self.ends[-1], self.kinds[-1], self.batch[-1]] if self.starts else [-1.0, -1, -1]
            until, kind, sequences = (
                np.concatenate(([x], column[:-1])) for x, column in zip(last, (ends, kinds, batch), strict=True)
            )
            new = (starts != until) | (kinds != kind) | (kinds != DECODE) | (batch != sequences)
            lengthened = int(np.argmax(new)) if new.any() else len(new)
            if lengthened:
                self.ends[-1] = ends[lengthened - 1]
            ends = ends[np.append(new[1:], True)][lengthened > 0 :]
            starts, kinds, batch, tokens, slots = (column[new] for column in (starts, kinds, batch, tokens, slots))
        room = SPANS_PER_DEVICE - len(self.starts)
        columns = (
            (self.starts, starts), (self.ends, ends), (self.kinds, kinds), (self.batch, batch), (self.tokens, tokens),
            (self.slots, slots), (self.chunks, np.zeros(len(starts))),
        )  # fmt: skip
        for kept, more in columns:
            kept.frombytes(more[:room].astype(kept.typecode).tobytes())

    def after(self, start: float, most: int) -> Iterator[Stretch]:
        """The first ``most`` stretches that end after ``start``."""
        first = bisect_right(self.ends, start)
        for i in range(first, min(first + most, len(self.starts))):
            kind = KINDS[self.kinds[i]]
            yield Stretch(
                kind, self.starts[i], self.ends[i], self.batch[i], self.tokens[i], self.slots[i], self.chunks[i]
            )


class NoSpans(SpanLog):
    """Drops what is added."""

    __slots__ = ()

    def add(
        self, kind: str, start: float, end: float, batch: int, tokens: int, slot: int, chunk: int = 0
    ) -> None:
        pass

    def extend(
        self, starts: Floats, ends: Floats, kinds: Numbers, batch: Numbers, tokens: Numbers, slots: Numbers
    ) -> None:
        pass


class DeviceTrack:
    """One class of GPUs that do the same: seconds a GPU by cause, work done, and its time line.

    ``count`` GPUs share the track. ``communication`` is by kind of link, ``other`` by bucket of the ledger.
    """

    __slots__ = (
        "bins", "bubble", "bytes", "charts", "communication", "compute", "count", "flops", "gpu", "job", "launch",
        "memory", "name", "other", "passes", "replica", "spans", "stage", "waiting",
    )  # fmt: skip

    def __init__(
        self, name: str, job: str, replica: int, stage: int, gpu: str, count: int, merge: bool = True,
        *, charts: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.job, self.replica, self.stage = name, job, replica, stage
        self.gpu, self.count, self.charts = gpu, count, charts
        self.compute = self.memory = self.launch = self.bubble = self.waiting = 0.0
        self.flops = self.bytes = 0.0
        self.passes = 0
        self.communication: dict[str, float] = {}
        self.other: dict[str, float] = {}
        self.bins = Bins() if charts else NoBins()
        self.spans = SpanLog(merge) if charts else NoSpans(merge)

    def work(self, cost: Pass, passes: int, link: str) -> None:
        """Add ``passes`` equal passes; collectives go to communication over ``link``."""
        self.passes += passes
        self.compute += cost.compute * passes
        self.memory += cost.memory * passes
        self.launch += cost.launch * passes
        self.flops += cost.flops * passes
        self.bytes += cost.bytes * passes
        if cost.communication:
            self.wait(link, cost.communication * passes)

    def wait(self, link: str, seconds: float) -> None:
        """Add exposed communication over a kind of link."""
        self.communication[link] = self.communication.get(link, 0.0) + seconds

    def ledger(self, end: float) -> dict[str, float]:
        """Seconds of one GPU by bucket; they add up to ``end``."""
        buckets = {"compute-bound": self.compute, "memory-bound": self.memory, "launch and host": self.launch}
        for kind in sorted(self.communication):
            buckets[f"communication: {kind}"] = self.communication[kind]
        buckets["pipeline bubble"] = self.bubble
        buckets |= self.other
        buckets["waiting for work"] = self.waiting
        return buckets

    @property
    def busy(self) -> float:
        """Seconds of computing on one GPU."""
        return self.compute + self.memory + self.launch


class ChannelTrack:
    """What one coupled flow carried: a hop between stages, or the collectives of a tensor group.

    ``links`` are (link id, weight): a byte sent puts ``weight`` bytes on that link. ``alike`` tells of a link how many,
    itself included, carry the same of the job without being named; 1 where it is not in there.
    """

    __slots__ = ("alike", "bins", "bytes", "kind", "links", "name", "spans")

    def __init__(
        self, name: str, kind: str, links: tuple[tuple[int, float], ...], alike: Mapping[int, int] | None = None,
        *, charts: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.kind, self.links, self.alike = name, kind, links, alike or {}
        self.bytes = 0.0
        self.bins = Bins() if charts else NoBins()
        self.spans = SpanLog(merge=False) if charts else NoSpans(merge=False)

    def record(self, start: float, end: float, size: float) -> None:
        """``size`` bytes went out between two instants."""
        self.bytes += size
        self.bins.add(start, end, size)
