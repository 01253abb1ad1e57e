"""What befalls the replicas of a serving job: outages, slow stages and links, stalls.

Faults do not wait for requests, so what they do to a replica is a history that can be told ahead of the clock, as far
as somebody needs it: from when to when it is down, and how fast its stages and links are in between. Both ways of
playing a replica read the same history.

A fault strikes a unit of the graph (:class:`Places`): a GPU that must be replaced takes its node with it, a switch the
nodes under it, and a node every replica with a GPU in it; software takes one replica's engine. A replica that loses a
stage is down as a whole. It is up again after its recovery, phase by phase; a stop that strikes during a recovery
starts it over. Nodes come from a pool of spares, and go back to it when they are repaired.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import NamedTuple

import numpy as np

from sim.engine.clock import INSTANT, Clock
from sim.jobs.reliability.effects import BADPUT, Draw, Effect
from sim.jobs.reliability.faults import Failure
from sim.laws.layout import Layout
from sim.laws.topology import Topology
from sim.spec.reliability import Unit


class Piece(NamedTuple):
    """A part of an outage, by the ledger's bucket."""

    bucket: str
    start: float
    end: float


@dataclass(slots=True)
class Outage:
    """A replica is down from ``start`` to ``up``; it is known outside from ``known`` on."""

    cause: str
    start: float
    known: float
    up: float
    pieces: list[Piece]

    def start_over(self, now: float, up: float, pieces: list[Piece]) -> None:
        """Its recovery is hit at ``now`` and starts over."""
        while self.pieces and self.pieces[-1].start >= now:
            self.pieces.pop()
        if self.pieces and self.pieces[-1].end > now:
            self.pieces[-1] = self.pieces[-1]._replace(end=now)
        self.pieces += pieces
        self.up = up


class Spell(NamedTuple):
    """From ``start`` to ``end`` work on some stages takes ``compute`` times as long and what they send ``link`` times;
    if ``stalled``, nothing begins."""

    start: float
    end: float
    stages: frozenset[int]
    compute: float = 1.0
    link: float = 1.0
    stalled: bool = False


#: The cause of an outage that no fault began: the first launch.
START_UP = BADPUT["startup"]


class Hit(NamedTuple):
    """What of a replica a fault strikes."""

    replica: int
    stages: frozenset[int]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of faults: the units it strikes and what it does; ``replaces`` nodes, ``notice`` s ahead of a stop,
    ``detects``: whether its recovery begins with the time until somebody notices."""

    per: Unit
    effect: Effect
    replaces: bool = False
    notice: float | None = None
    detects: bool = True


class Places:
    """Where a job's units are: by their number among the job's own, or (``recorded``) in the whole topology."""

    def __init__(self, topology: Topology, layout: Layout, *, recorded: bool = False) -> None:
        self.topology, self.layout, self.recorded = topology, layout, recorded
        stages = [(r, s.number, s.gpus) for r, replica in enumerate(layout.replicas) for s in replica]
        self.gpus = {gpu: (r, s) for r, s, gpus in stages for gpu in gpus}
        self.at: dict[int, dict[int, set[int]]] = {}
        for gpu, (r, s) in self.gpus.items():
            self.at.setdefault(topology.gpus[gpu].node, {}).setdefault(r, set()).add(s)
        self.nodes = sorted(self.at)
        self.under: dict[int, list[int]] = {}
        if len(self.nodes) > 1:
            for node in self.nodes:
                leaf = topology.network.leaf[node] if topology.network.leaf else -1
                self.under.setdefault(max(leaf, 0), []).append(node)
        self._units: dict[Unit, Sequence[int]] = {
            "gpu": layout.gpus, "node": self.nodes, "link": self.nodes if len(self.nodes) > 1 else [],
            "switch": sorted(self.under), "job": range(len(layout.replicas)),
        }  # fmt: skip

    def count(self, per: Unit) -> int:
        """Units of a kind that the job depends on."""
        return len(self._units[per])

    def struck(self, per: Unit, unit: int, *, whole: bool) -> tuple[list[Hit], list[int]]:
        """The parts of replicas that a fault of a unit strikes, and on which nodes; ``whole``: a GPU takes its node."""
        units = self._units[per]
        if self.recorded:
            if unit not in units:
                return [], []
        else:
            unit = units[unit]
        if per == "job":
            return [Hit(unit, frozenset(range(len(self.layout.replicas[unit]))))], []
        if per == "gpu" and not whole:
            replica, stage = self.gpus[unit]
            return [Hit(replica, frozenset({stage}))], [self.topology.gpus[unit].node]
        nodes = self.under[unit] if per == "switch" else [self.topology.gpus[unit].node if per == "gpu" else unit]
        found: dict[int, set[int]] = {}
        for node in nodes:
            for replica, stages in self.at[node].items():
                found.setdefault(replica, set()).update(stages)
        return [Hit(replica, frozenset(stages)) for replica, stages in sorted(found.items())], nodes


class Pool:
    """Spare nodes, and nodes under repair; ``gone``: from when until when a place stood without a node."""

    def __init__(self, spares: float, repair: Draw) -> None:
        self.spares = spares
        self.repair = repair
        self.back: list[float] = []
        self.gone: list[tuple[float, float]] = []

    def take(self, failed: float, needed: float, nodes: int, rng: np.random.Generator) -> float:
        """When ``nodes`` that failed at one time are replaced, which is asked for at another."""
        if self.spares == inf:
            self.gone += [(failed, needed)] * nodes
            return needed
        ready = needed
        for _ in range(nodes):
            heapq.heappush(self.back, failed + self.repair(rng))
            while self.back and self.back[0] <= needed:
                heapq.heappop(self.back)
                self.spares += 1
            there = needed
            if self.spares > 0:
                self.spares -= 1
            else:
                there = heapq.heappop(self.back)
            self.gone.append((failed, there))
            ready = max(ready, there)
        return ready


@dataclass(slots=True)
class _Later:
    """A stop that is to come; ``corrupted``: since when a replica works with corrupted state that is then found."""

    hits: list[Hit]
    nodes: list[int]
    name: str
    corrupted: float = inf


@dataclass(slots=True)
class Incidents:
    """The history of a job's replicas, as far as it has been told: ``clear`` is the next instant that is not.

    ``recorded`` faults were given by name. ``met`` are (time, class) of those that struck, ``handovers`` the outages
    whose requests wait to be sent elsewhere: (known, replica, number), ``losses`` the requests and the tokens of KV
    cache that an outage took, by its number, and ``given_up`` the requests it cost. ``away``: until when a node that
    was lost cannot fail again.
    """

    failures: Iterator[Failure]
    kinds: dict[str, Kind]
    places: Places
    pool: Pool
    rng: np.random.Generator
    startup: float = 0.0
    recorded: int = 0
    outages: list[list[Outage]] = field(init=False)
    notices: list[list[tuple[float, float]]] = field(init=False)
    spells: list[list[Spell]] = field(init=False)
    met: list[tuple[float, str]] = field(init=False, default_factory=list)
    handovers: list[tuple[float, int, int]] = field(init=False, default_factory=list)
    losses: dict[tuple[int, int], tuple[int, int]] = field(init=False, default_factory=dict)
    given_up: dict[tuple[int, int], int] = field(init=False, default_factory=dict)
    away: dict[int, float] = field(init=False, default_factory=dict)
    _longest_notice: float = field(init=False, default=0.0)
    _next: Failure | None = field(init=False)
    _later: list[tuple[float, int, _Later]] = field(init=False, default_factory=list)
    _numbers: Iterator[int] = field(init=False, default_factory=count)

    def __post_init__(self) -> None:
        replicas = len(self.places.layout.replicas)
        self.outages = [[] for _ in range(replicas)]
        self.notices = [[] for _ in range(replicas)]
        self.spells = [[] for _ in range(replicas)]
        self._next = next(self.failures, None)
        if self.startup > 0.0:
            for replica in range(replicas):
                piece = [Piece(START_UP, 0.0, self.startup)]
                self._down(replica, Outage(START_UP, 0.0, 0.0, self.startup, piece))

    @property
    def clear(self) -> float:
        """Everything before this instant is known."""
        fault = self._next.time if self._next is not None else inf
        return min(fault, self._later[0][0]) if self._later else fault

    def reach(self, time: float) -> None:
        """Tell the history up to and with ``time``."""
        while self.clear <= time:
            if self._later and self._later[0][0] <= (self._next.time if self._next is not None else inf):
                at, _, what = heapq.heappop(self._later)
                self._stop(at, what)
            else:
                failure, self._next = self._next, next(self.failures, None)
                assert failure is not None
                self._strike(failure)

    def up(self, replica: int, number: int) -> float:
        """When an outage is over for good: no fault strikes its recovery any more."""
        while self.clear < self.outages[replica][number].up:
            self.reach(self.clear)
        return self.outages[replica][number].up

    def seems_up(self, replica: int, time: float, *, leaving: bool = False) -> bool:
        """Whether a router takes the replica for one that serves: it is up, or nobody has noticed yet.

        One whose machine has announced that it goes does only if ``leaving`` ones do.
        """
        self.reach(time)
        number = self.outage_at(replica, time)
        down = number >= 0 and self.outages[replica][number].known <= time < self.outages[replica][number].up
        return not down and (leaving or not self._goes(replica, time))

    def _goes(self, replica: int, time: float) -> float:
        """When a replica goes that has announced it by then; 0 if none has."""
        notices, latest = self.notices[replica], 0.0
        for n in range(bisect_right(notices, time, key=lambda notice: notice[0]) - 1, -1, -1):
            announced, start = notices[n]
            if announced < time - self._longest_notice:
                break
            if time < start:
                latest = max(latest, start)
        return latest

    def back_at(self, replica: int, time: float) -> float:
        """When a replica that is down, or about to be, serves again."""
        while True:
            self.reach(time)
            ahead = self._goes(replica, time)
            time = max(time, ahead)
            self.reach(time)
            number = self.outage_at(replica, time)
            if number >= 0 and time < self.outages[replica][number].up:
                return self.up(replica, number)
            if not ahead:
                return time

    def outage_at(self, replica: int, time: float) -> int:
        """The number of the outage that a replica is in, or was in last; -1 if it was in none."""
        return bisect_right(self.outages[replica], time, key=lambda o: o.start) - 1

    # ---- faults

    def _strike(self, failure: Failure) -> None:
        kind, now = self.kinds[failure.name], failure.time
        effect = kind.effect
        hits, nodes = self.places.struck(kind.per, failure.unit, whole=kind.replaces or kind.per != "gpu")
        gone = kind.per != "job" and nodes and all(self.away.get(node, 0.0) > now for node in nodes)
        if not hits or gone:
            return
        self.met.append((now, failure.name))
        stop = _Later(hits, nodes if kind.replaces else [], failure.name)
        if effect.kind == "slow":
            end = now + effect.seconds(self.rng)
            link = kind.per in ("link", "switch")
            factors = (1.0, effect.factor) if link else (effect.factor, 1.0)
            for replica, stages in hits:
                self._spell(replica, Spell(now, end, stages, *factors))
        elif effect.kind == "stall":
            seconds = effect.seconds(self.rng)
            for replica, stages in hits:
                self._spell(replica, Spell(now, now + min(seconds, effect.timeout), stages, stalled=True))
            if seconds > effect.timeout:
                self._put_off(now + effect.timeout, stop)
        elif effect.kind == "corrupt":
            stop.corrupted = now
            self._put_off(now + effect.seconds(self.rng), stop)
        elif kind.notice is not None:
            self._longest_notice = max(self._longest_notice, kind.notice)
            for replica, _ in hits:
                self.notices[replica].append((now, now + kind.notice))
            self._put_off(now + kind.notice, stop)
        else:
            self._stop(now, stop)

    def _put_off(self, time: float, stop: _Later) -> None:
        heapq.heappush(self._later, (time, next(self._numbers), stop))

    def _spell(self, replica: int, spell: Spell) -> None:
        if spell.end > spell.start:
            self.spells[replica].append(spell)

    def _stop(self, now: float, stop: _Later) -> None:
        """Replicas go down, or what was under way to bring them up again starts over.

        One that was started anew since it was corrupted is sound again.
        """
        struck = [r for r, _ in stop.hits if not any(o.start >= stop.corrupted for o in self.outages[r][-1:])]
        if not struck:
            return
        known, pieces = self._recovery(now, stop)
        up = pieces[-1].end if pieces else now
        for replica in struck:
            held = self.outages[replica]
            if held and now < held[-1].up:
                held[-1].start_over(now, up, list(pieces))
            else:
                self._down(replica, Outage(stop.name, now, known, up, list(pieces)))

    def _down(self, replica: int, outage: Outage) -> None:
        heapq.heappush(self.handovers, (outage.known, replica, len(self.outages[replica])))
        self.outages[replica].append(outage)

    def _recovery(self, now: float, stop: _Later) -> tuple[float, list[Piece]]:
        """When a stop is known, and the phases until the replica is up.

        It is known when it is noticed; what is wrong, and which node has to be replaced, takes a diagnosis more.
        """
        pieces: list[Piece] = []
        kind, start, known, replaced = self.kinds[stop.name], now, now, False
        for number, (bucket, time) in enumerate(kind.effect.phases):
            if bucket != "detection" and not replaced:
                replaced = True
                now = self._replace(start, now, stop.nodes, pieces)
            seconds = time(self.rng)
            pieces.append(Piece(BADPUT[bucket], now, now + seconds))
            now += seconds
            if number == 0 and kind.detects and bucket == "detection":
                known = now
        return known, pieces

    def _replace(self, failed: float, now: float, nodes: list[int], pieces: list[Piece]) -> float:
        """When nodes are there for those that failed; until then these do not fail again."""
        ready = self.pool.take(failed, now, len(nodes), self.rng)
        if ready > now:
            pieces.append(Piece(BADPUT["down"], now, ready))
        self.away |= dict.fromkeys(nodes, ready)
        return ready


class Health:
    """The history of one replica, as its story reads it."""

    def __init__(self, clock: Clock, incidents: Incidents, replica: int) -> None:
        self.clock, self.incidents, self.replica = clock, incidents, replica
        self.number = 0
        self.many = 8

    def down(self, by: float) -> Outage | None:
        """The next outage, if it begins by then."""
        self.incidents.reach(by)
        held = self.incidents.outages[self.replica]
        if self.number < len(held) and held[self.number].start <= by + INSTANT:
            return held[self.number]
        return None

    def until(self) -> float:
        """Until then, a replica without work need not look."""
        held = self.incidents.outages[self.replica]
        start = held[self.number].start if self.number < len(held) else inf
        return min(start, self.incidents.clear)

    def over(self) -> Outage:
        """The outage that the replica is in, told to its end; the next one is the next."""
        self.incidents.up(self.replica, self.number)
        self.number += 1
        return self.incidents.outages[self.replica][self.number - 1]

    def begin(self, stage: int, time: float) -> tuple[float, float]:
        """When work on a stage can begin that is ready at ``time``, and how many times as long its kernels take."""
        spells = self._told(time)
        while spells:
            gates = [s.end for s in spells if s.stalled and stage in s.stages and s.start <= time < s.end]
            if not gates:
                break
            time = max(gates)
            spells = self._told(time)
        slow = [s.compute for s in spells if stage in s.stages and s.start <= time < s.end]
        return time, max(slow, default=1.0)

    def quiet(self, until: float) -> bool:
        """Whether everything has its own speed from now until then."""
        return not any(s.end > self.clock.now for s in self._told(until))

    def link(self, stages: frozenset[int], time: float) -> float:
        """How many times as long bytes take that leave or enter the nodes of these stages."""
        slow = [s.link for s in self._told(time) if s.stages & stages and s.start <= time < s.end]
        return max(slow, default=1.0)

    def change(self, after: float, by: float) -> float:
        """The next instant after ``after``, at most ``by``, at which a spell begins or ends."""
        edges = [edge for s in self._told(by) for edge in (s.start, s.end) if after < edge < by]
        return min(edges, default=by)

    def _told(self, time: float) -> list[Spell]:
        """The spells up to ``time``, without those that are over."""
        self.incidents.reach(time)
        spells = self.incidents.spells[self.replica]
        if len(spells) > self.many:
            spells[:] = [s for s in spells if s.end >= self.clock.now]
            self.many = 2 * len(spells) + 8
        return spells

