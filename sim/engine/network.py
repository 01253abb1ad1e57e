"""A fluid network on SimPy: messages are flows that share links by weighted max-min fairness.

Model. A message waits for its sender's queue, moves its bytes at a rate, holds the queue for a software
overhead, then travels a latency that holds nothing:

    send_start = max(now, queue free)
    send_end   = send_start + size / rate + overhead        (the queue is free again)
    arrival    = send_end + latency                         (the event succeeds)

While its bytes move, the flow takes rate * w of each link of its route (weight w: `sim.laws.fairshare`).
Alone on all its links the rate is exactly min(cap, C_l / w) and the times above are the closed form, bit for
bit. With other flows on a link the rates are max-min fair and change whenever one of the connected flows
starts or finishes, or a capacity changes.

Assumption. Fluid: no packets, no incast loss, no pause frames, no hash collisions on equal routes. Rates
adapt at once, and a message holds all links of its route until its last byte leaves the sender.

Cost. All starts and finishes of one instant are coalesced: one event, which SimPy processes after everything
else of that instant, solves the touched components, so no simulated time passes at a stale rate. The bytes
left are brought up to date only for flows whose rate changes. Due finishes are kept in a heap of this module;
SimPy holds one wake-up for the earliest (later ones already armed are used again, never interrupted). A lone
message costs two SimPy events: the wake-up and its arrival.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from math import inf, ulp
from typing import NamedTuple, cast

import simpy
from simpy.events import NORMAL, EventPriority

from sim.laws.fairshare import FlowDemand, link_components, max_min_rates

Links = tuple[tuple[int, float], ...]

# Later than URGENT (0) and NORMAL (1): the solve sees all starts and finishes of its instant.
_AFTER_ALL_ELSE = EventPriority(2)
# Flows of one component whose finishes differ by less than this share of their sending time finish together.
_TIE = 1e-12
# The same in units of last place of the clock, which is the coarser one late in a long simulation.
_TIE_ULPS = 8.0
# The heap of due finishes is cleaned when it has more than this many dead entries, and more dead than live.
_DEAD_ALLOWED = 64


class TransferRecord(NamedTuple):
    """When a message was given to the network, began to send, freed its queue and arrived (s)."""

    start: float
    send_start: float
    send_end: float
    arrival: float


Observer = Callable[[TransferRecord, Links, float, str], None]


class Transfer(simpy.Event):
    """One message; the event succeeds with its `TransferRecord` when the last byte arrives.

    `rate` is the present rate in bytes/s (0 while queued, and until the solve at the end of this instant).
    `pieces` are (start, end, bytes) of the stretches of one rate so far, without the present one.
    Like a SimPy `Timeout` it counts as triggered, but not as processed, once its arrival is known.
    """

    __slots__ = (
        "demand", "finish", "group", "label", "latency", "overhead",
        "pieces", "queue", "rate", "remaining", "send_start", "size", "start", "updated",
    )  # fmt: skip

    def __init__(
        self,
        env: simpy.Environment,
        size: float,
        demand: FlowDemand,
        latency: float,
        overhead: float,
        label: str,
    ) -> None:
        super().__init__(env)
        self.size = size
        self.demand = demand
        self.latency = latency
        self.overhead = overhead
        self.label = label
        self.queue: _Queue | None = None
        self.group: _Group | None = None
        self.start = env.now
        self.send_start = inf
        self.pieces: list[tuple[float, float, float]] = []
        self.rate = 0.0
        self.remaining = size  # bytes, as of `updated`
        self.updated = self.start
        self.finish = inf  # when the last byte leaves, at the present rate

    def _desc(self) -> str:
        return f"Transfer({self.label!r}, {self.size:g} B)"

    @property
    def value(self) -> TransferRecord:
        """The record; AttributeError until the arrival is known."""
        return cast(TransferRecord, super().value)

    def moved(self, now: float) -> float:
        """Bytes that have left the sender by the present time `now` (s)."""
        if self.rate == 0.0:
            return self.size - self.remaining
        return min(self.size, self.size - self.remaining + self.rate * (now - self.updated))


class _Queue:
    """One sender: messages go out one after another."""

    __slots__ = ("busy", "free_at", "waiting")

    def __init__(self) -> None:
        self.busy = False  # a message sends, or a timer runs to the end of its overhead
        self.free_at = -inf
        self.waiting: deque[Transfer] = deque()


class _Group:
    """Active flows solved together; after a solve, flows that share a link are in one group."""

    __slots__ = ("due", "flows")

    def __init__(self, flows: list[Transfer]) -> None:
        self.flows = flows
        self.due = False  # has a live entry in the heap of due finishes


class Network:
    """Links of given capacity, and the messages on them.

    `capacities[l]` is the bandwidth of link l in bytes/s (>= 0, may be `inf`). `observer(record, links, size,
    label)` is called at the arrival of each message, before whoever waits for it. `solves` counts the
    instants at which shared links were solved. Raises ValueError for a negative or NaN capacity.
    """

    def __init__(
        self, env: simpy.Environment, capacities: Sequence[float], observer: Observer | None = None
    ) -> None:
        self.env = env
        self.observer = observer
        self.solves = 0
        self._capacity = [_checked_capacity(link, c) for link, c in enumerate(capacities)]
        self._active: list[dict[Transfer, float]] = [{} for _ in self._capacity]  # flow -> its weight
        self._bytes = [0.0] * len(self._capacity)
        self._busy = [0.0] * len(self._capacity)
        self._busy_since = [0.0] * len(self._capacity)
        self._queues: dict[Hashable, _Queue] = {}
        self._routes: dict[Links, Links] = {}
        self._touched: dict[int, None] = {}
        self._solve_armed = False
        self._due: list[tuple[float, int, _Group]] = []
        self._due_number = 0
        self._due_dead = 0
        self._wakes: list[float] = []  # times of the SimPy wake-ups not yet fired, the earliest last

    # ---- what users call

    def transfer(
        self,
        size_bytes: float,
        *,
        links: Links,
        cap: float,
        latency: float = 0.0,
        overhead: float = 0.0,
        queue: Hashable | None = None,
        label: str = "",
    ) -> Transfer:
        """Send `size_bytes` over `links`; the returned event succeeds with a `TransferRecord` at the arrival.

        `links` are (link id, weight) pairs, `cap` the flow's own highest rate in bytes/s (may be `inf`),
        `latency` and `overhead` are seconds. Messages with the same `queue` key leave in the order of the
        calls; None means no queue. Size 0 takes only overhead and latency.

        Raises ValueError for an unknown link, a weight or cap that is not positive, and a size, latency or
        overhead that is negative or not finite.
        """
        if not (0.0 <= size_bytes < inf and cap > 0.0 and 0.0 <= latency < inf and 0.0 <= overhead < inf):
            raise ValueError(
                f"transfer {label!r}: size, latency and overhead must be finite and >= 0, cap > 0; got "
                f"size_bytes={size_bytes!r}, cap={cap!r}, latency={latency!r}, overhead={overhead!r}"
            )
        route = self._routes.get(links)
        if route is None:
            route = self._routes[links] = self._checked_route(links)
        flow = Transfer(self.env, size_bytes, FlowDemand(cap, route), latency, overhead, label)
        if self.observer is not None:
            flow.callbacks.append(self._report)
        if queue is None:
            self._begin(flow)
            return flow
        sender = self._queues.get(queue)
        if sender is None:
            sender = self._queues[queue] = _Queue()
        flow.queue = sender
        sender.waiting.append(flow)
        if not sender.busy:
            self._advance(sender)
        return flow

    def cancel(self, message: Transfer) -> None:
        """Stop a message whose sender or receiver is gone: bytes that have left stay counted, its event never happens.

        Nothing is done to a message whose last byte has left.
        """
        if message.triggered:
            return
        now, sender = self.env.now, message.queue
        if message.send_start == inf:
            assert sender is not None
            sender.waiting.remove(message)
            return
        moved = message.moved(now)
        for link, weight in message.demand.links:
            users = self._active[link]
            del users[message]
            self._bytes[link] += moved * weight
            if users:
                self._touch(link)
            else:
                self._busy[link] += now - self._busy_since[link]
        if message.group is not None:
            message.group.flows.remove(message)
        message.rate = 0.0
        message.finish = inf
        if sender is not None:
            sender.free_at = now
            self._advance(sender)

    def set_capacity(self, link: int, bandwidth: float) -> None:
        """Give `link` a bandwidth of `bandwidth` bytes/s from now on; 0 stalls its flows until it is raised.

        Raises ValueError for an unknown link and for a negative or NaN bandwidth.
        """
        self._check_link(link)
        self._capacity[link] = _checked_capacity(link, bandwidth)
        if self._active[link]:
            self._touch(link)

    def capacity(self, link: int) -> float:
        """Bandwidth of `link` now, bytes/s."""
        return self._capacity[link]

    def active_flows(self, link: int) -> int:
        """Number of flows whose bytes move over `link` now."""
        return len(self._active[link])

    def busy_seconds(self, link: int) -> float:
        """Seconds so far in which `link` had at least one active flow."""
        running = self.env.now - self._busy_since[link] if self._active[link] else 0.0
        return self._busy[link] + running

    def bytes_carried(self, link: int) -> float:
        """Bytes carried by `link` so far, times their weights: the sum of size * w once all have finished."""
        now = self.env.now
        return self._bytes[link] + sum(flow.moved(now) * w for flow, w in self._active[link].items())

    # ---- one message

    def _begin(self, flow: Transfer) -> bool:
        """Put a message on its links; False if it had no bytes and is complete already."""
        now = flow.send_start = flow.updated = self.env.now
        if flow.size == 0.0:
            flow.finish = now
            self._complete(flow)
            return False
        rate, route = flow.demand
        shared = False
        for link, weight in route:
            users = self._active[link]
            if users:
                shared = True
                self._touch(link)
            else:
                self._busy_since[link] = now
                share = self._capacity[link] / weight
                if share < rate:
                    rate = share
            users[flow] = weight
        if not shared:
            flow.rate = rate
            flow.finish = now + flow.size / rate if rate > 0.0 else inf
            flow.group = _Group([flow])
            self._expect(flow.group, flow.finish)
            self._arm()
        return True

    def _leave(self, flow: Transfer, now: float) -> None:
        """Take a flow off its links and account for its bytes."""
        for link, weight in flow.demand.links:
            users = self._active[link]
            del users[flow]
            self._bytes[link] += flow.size * weight
            if users:
                self._touch(link)
            else:
                self._busy[link] += now - self._busy_since[link]
        flow.pieces.append((flow.updated, now, flow.remaining))
        flow.rate = flow.remaining = 0.0

    def _complete(self, flow: Transfer) -> None:
        """The last byte has left at `flow.finish`: schedule the arrival."""
        send_end = flow.finish + flow.overhead
        arrival = send_end + flow.latency
        if flow.queue is not None:
            flow.queue.free_at = send_end
        flow._ok = True
        flow._value = TransferRecord(flow.start, flow.send_start, send_end, arrival)
        self._schedule_at(flow, arrival)

    def _report(self, event: simpy.Event) -> None:
        if isinstance(event, Transfer) and self.observer is not None:
            self.observer(event.value, event.demand.links, event.size, event.label)

    # ---- queues

    def _advance(self, sender: _Queue) -> None:
        """Let the next messages of a sender go; return when one sends, one must wait, or none is left."""
        sender.busy = True
        while sender.waiting:
            if sender.free_at > self.env.now:
                timer = self._internal_event(self._on_sender_free)
                timer._value = sender
                self._schedule_at(timer, sender.free_at)
                return
            if self._begin(sender.waiting.popleft()):
                return
        sender.busy = False

    def _on_sender_free(self, event: simpy.Event) -> None:
        self._advance(cast(_Queue, event.value))

    # ---- due finishes

    def _expect(self, group: _Group, finish: float) -> None:
        """Enter the earliest finish (s) of a group into the heap; a stalled group has none."""
        if finish < inf:
            self._due_number += 1
            heapq.heappush(self._due, (finish, self._due_number, group))
            group.due = True

    def _arm(self) -> None:
        """Make sure that a wake-up fires no later than the earliest due finish."""
        due = self._due
        if self._due_dead > _DEAD_ALLOWED and 2 * self._due_dead > len(due):
            due[:] = [entry for entry in due if entry[2].due]
            heapq.heapify(due)
            self._due_dead = 0
        while due and not due[0][2].due:
            heapq.heappop(due)
            self._due_dead -= 1
        if due and (not self._wakes or due[0][0] < self._wakes[-1]):
            self._wakes.append(due[0][0])
            self._schedule_at(self._internal_event(self._on_wake), due[0][0])

    def _on_wake(self, _: simpy.Event) -> None:
        """Finish all that is due now, then arm the next wake-up."""
        now = self.env.now
        due = self._due
        while due and due[0][0] <= now:
            group = heapq.heappop(due)[2]
            if group.due:
                group.due = False
                self._finish(group, now)
            else:
                self._due_dead -= 1
        self._wakes.pop()  # only here, so that what starts in the loop does not arm another one for now
        self._arm()

    def _finish(self, group: _Group, now: float) -> None:
        """Finish the flows of a group that are due now, ties included; the links touched bring the solve."""
        done: list[Transfer] = []
        left: list[Transfer] = []
        for flow in group.flows:
            slack = _TIE * (now - flow.send_start) + _TIE_ULPS * ulp(now)
            (done if flow.finish <= now + slack else left).append(flow)
        group.flows = left
        for flow in done:
            flow.finish = now
            self._leave(flow, now)
        for flow in done:
            self._complete(flow)
            if flow.queue is not None:
                self._advance(flow.queue)

    # ---- the solve

    def _touch(self, link: int) -> None:
        """Note that the flows on `link` need new rates at the end of this instant."""
        self._touched[link] = None
        if not self._solve_armed:
            self._solve_armed = True
            self.env.schedule(self._internal_event(self._solve), _AFTER_ALL_ELSE)

    def _solve(self, _: simpy.Event) -> None:
        """Give new rates to all flows connected to the links touched in this instant."""
        self._solve_armed = False
        flows = self._take_touched()
        if not flows:
            return
        self.solves += 1
        for members in link_components([flow.demand for flow in flows]):
            component = [flows[i] for i in members]
            rates = max_min_rates(self._capacity, [flow.demand for flow in component])
            self._set_rates(component, rates)
        self._arm()

    def _take_touched(self) -> list[Transfer]:
        """Dissolve the groups on the touched links and return their flows, and the flows that just began."""
        found: dict[Transfer, None] = {}
        for link in self._touched:
            for flow in self._active[link]:
                if flow in found:
                    continue
                found[flow] = None
                group = flow.group
                if group is not None:
                    found.update(dict.fromkeys(group.flows))
                    self._due_dead += group.due
                    group.due = False
        self._touched.clear()
        return list(found)

    def _set_rates(self, component: list[Transfer], rates: list[float]) -> None:
        """Make a component one group with these rates; bring up to date only flows whose rate changes."""
        now = self.env.now
        group = _Group(component)
        for flow, rate in zip(component, rates, strict=True):
            flow.group = group
            if rate != flow.rate:
                moved = min(flow.remaining, flow.rate * (now - flow.updated))
                if moved > 0.0:
                    flow.pieces.append((flow.updated, now, moved))
                flow.remaining -= moved
                flow.updated = now
                flow.rate = rate
                flow.finish = now + flow.remaining / rate if rate > 0.0 else inf
        self._expect(group, min(flow.finish for flow in component))

    # ---- small things

    def _internal_event(self, callback: Callable[[simpy.Event], None]) -> simpy.Event:
        """A triggered event that only this network knows, not yet scheduled."""
        event = simpy.Event(self.env)
        event._ok = True
        event._value = None
        event.callbacks.append(callback)
        return event

    def _schedule_at(self, event: simpy.Event, when: float) -> None:
        """Schedule a triggered event so that the clock will read exactly `when` (s).

        SimPy adds a delay to the clock, and no delay may lead exactly to `when` if it is more than twice the
        clock. From past the half way the difference is exact (Sterbenz' lemma), so go there first.
        """
        now = self.env.now
        delay = when - now
        if now + delay == when:
            self.env.schedule(event, NORMAL, delay)
        else:
            relay = self._internal_event(lambda _: self._schedule_at(event, when))
            self.env.schedule(relay, NORMAL, 0.75 * when - now)

    def _check_link(self, link: int) -> None:
        if not 0 <= link < len(self._capacity):
            raise ValueError(f"no link {link!r}: the network has links 0 to {len(self._capacity) - 1}")

    def _checked_route(self, links: Links) -> Links:
        """Check (link, weight) pairs and add up the weights of a link named twice."""
        weights: dict[int, float] = {}
        for link, weight in links:
            self._check_link(link)
            if not 0.0 < weight < inf:
                raise ValueError(f"weight on link {link} must be positive and finite, got {weight!r}")
            weights[link] = weights.get(link, 0.0) + weight
        return tuple(weights.items())


def _checked_capacity(link: int, bandwidth: float) -> float:
    if not bandwidth >= 0.0:
        raise ValueError(f"link {link}: capacity must be >= 0 bytes/s, got {bandwidth!r}")
    return float(bandwidth)
