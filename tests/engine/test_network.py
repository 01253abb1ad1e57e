"""The fluid network: closed forms when alone, hand-computed sharing, queues, accounts, and a plain oracle."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from math import inf
from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine.network import Network, Transfer, TransferRecord
from sim.laws.fairshare import FlowDemand, max_min_rates

ONE = ((0, 1.0),)
Process = Generator[simpy.Event, Any, None]


def at(env: simpy.Environment, when: float, action: Callable[[], object]) -> None:
    """Call `action` at time `when`."""

    def callback(_: simpy.Event) -> None:
        action()

    env.timeout(when - env.now).callbacks.append(callback)


def starts(
    env: simpy.Environment, network: Network, *messages: tuple[float, dict[str, Any]]
) -> list[Transfer]:
    """Give each (time, transfer arguments) to the network, run to the end, return the transfers."""
    sent: dict[int, Transfer] = {}

    def send(i: int) -> None:
        sent[i] = network.transfer(**messages[i][1])

    for i, (when, _) in enumerate(messages):
        at(env, when, partial(send, i))
    env.run()
    return [sent[i] for i in range(len(messages))]


def arrivals(transfers: list[Transfer]) -> list[float]:
    return [t.value.arrival for t in transfers]


# ---- alone


@given(
    st.floats(0.0, 1e7),
    st.floats(1.0, 1e12),
    st.floats(1e3, 1e12),
    st.floats(0.0, 1e-3),
    st.floats(0.0, 1e-3),
)
def test_alone_is_the_closed_form_to_the_bit(
    start: float, size: float, cap: float, latency: float, overhead: float
) -> None:
    env = simpy.Environment(start)
    network = Network(env, [25e9, 7e8])
    links = ((0, 2.0), (1, 3.0))
    seen: list[float] = []
    event = network.transfer(size, links=links, cap=cap, latency=latency, overhead=overhead, queue="gpu0")
    event.callbacks.append(lambda _: seen.append(env.now))
    env.run()
    rate = min(cap, 25e9 / 2.0, 7e8 / 3.0)
    send_end = start + size / rate + overhead
    assert event.value == TransferRecord(start, start, send_end, send_end + latency)
    assert seen == [send_end + latency]
    assert network.solves == 0


@settings(deadline=None)
@given(st.floats(0.3, 0.9), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_clock_reads_exactly_the_recorded_arrival(start: float, overhead: float, latency: float) -> None:
    # start + (arrival - start) may round to a neighbour of arrival: 1 in 20 here without care.
    env = simpy.Environment(start)
    event = Network(env, []).transfer(0.0, links=(), cap=1.0, overhead=overhead, latency=latency)
    env.run()
    assert env.now == event.value.arrival == start + overhead + latency


def test_alone_costs_two_events() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    network.transfer(100.0, links=ONE, cap=inf, latency=1.0, overhead=1.0, queue="a")
    steps = 0
    while env.peek() < inf:
        env.step()
        steps += 1
    assert steps == 2


def test_without_links_the_cap_rules_and_an_unlimited_flow_takes_no_time() -> None:
    env = simpy.Environment()
    network = Network(env, [])
    capped = network.transfer(10.0, links=(), cap=5.0)
    free = network.transfer(10.0, links=(), cap=inf, latency=0.5)
    env.run()
    assert (capped.value.arrival, free.value.arrival) == (2.0, 0.5)


def test_size_zero_takes_only_overhead_and_latency() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    event = network.transfer(0.0, links=ONE, cap=inf, latency=2.0, overhead=3.0)
    env.run()
    assert event.value == TransferRecord(0.0, 0.0, 3.0, 5.0)
    assert network.bytes_carried(0) == network.busy_seconds(0) == 0.0


# ---- shared


def test_two_flows_share_a_switch_uplink_and_the_early_end_frees_it() -> None:
    # NIC links 0, 1 of 10 B/s, uplink 2 of 10 B/s. Both start at 0 with 5 B/s. A (20 B) ends at 4; B has then
    # 60 - 20 = 40 B left at 10 B/s: ends at 4 + 4 = 8.
    env = simpy.Environment()
    network = Network(env, [10.0, 10.0, 10.0])
    a, b = starts(
        env,
        network,
        (0.0, {"size_bytes": 20.0, "links": ((0, 1.0), (2, 1.0)), "cap": inf}),
        (0.0, {"size_bytes": 60.0, "links": ((1, 1.0), (2, 1.0)), "cap": inf}),
    )
    assert arrivals([a, b]) == [4.0, 8.0]
    assert [network.bytes_carried(link) for link in range(3)] == [20.0, 60.0, 80.0]
    assert [network.busy_seconds(link) for link in range(3)] == [4.0, 8.0, 8.0]


def test_a_late_start_slows_the_first_flow() -> None:
    # A: 100 B alone at 10 B/s until 4 (60 left), then 5 B/s each. B: 20 B, ends at 8. A has 40 left then and
    # ends at 12.
    env = simpy.Environment()
    network = Network(env, [10.0])
    sent = starts(
        env,
        network,
        (0.0, {"size_bytes": 100.0, "links": ONE, "cap": inf}),
        (4.0, {"size_bytes": 20.0, "links": ONE, "cap": inf}),
    )
    assert arrivals(sent) == [12.0, 8.0]


def test_a_capped_flow_keeps_its_closed_form_when_others_come() -> None:
    # A is capped at 0.3 < 10 / 2: its rate never changes, so its finish is 0.1 + 7 / 0.3 to the bit, and its
    # bytes are never brought up to date. Each B has 10 - 0.3 = 9.7 B/s for one second.
    env = simpy.Environment()
    network = Network(env, [10.0])
    a, *others = starts(
        env,
        network,
        (0.1, {"size_bytes": 7.0, "links": ONE, "cap": 0.3}),
        *((1.0 + 2.1 * i, {"size_bytes": 9.7, "links": ONE, "cap": inf}) for i in range(9)),
    )
    assert a.value.arrival == 0.1 + 7.0 / 0.3
    assert a.updated == 0.1
    assert arrivals(others) == pytest.approx([2.0 + 2.1 * i for i in range(9)], rel=1e-14)


def test_weight_is_copies_of_the_bytes_on_the_link() -> None:
    # Host memory of 12 B/s: staged flow (w = 2) and a plain one: 2 x + x = 12, x = 4. Both of 8 B end at 2.
    env = simpy.Environment()
    network = Network(env, [12.0])
    a = network.transfer(8.0, links=((0, 2.0),), cap=inf)
    b = network.transfer(8.0, links=((0, 1.0),), cap=inf)
    env.run()
    assert arrivals([a, b]) == [2.0, 2.0]
    assert network.bytes_carried(0) == 24.0


def pipeline_hops(backplane: float) -> list[float]:
    """Five hops at once, hop i from node i to node i + 1, over one switch with its backplane as link 10."""
    env = simpy.Environment()
    network = Network(env, [10.0] * 10 + [backplane])
    sent = [
        network.transfer(100.0, links=((i, 1.0), (5 + i, 1.0), (10, 1.0)), cap=inf, queue=i) for i in range(5)
    ]
    env.run()
    return arrivals(sent)


def test_five_pipeline_hops_share_only_a_blocking_switch() -> None:
    assert pipeline_hops(backplane=inf) == [10.0] * 5
    assert pipeline_hops(backplane=50.0) == [10.0] * 5
    assert pipeline_hops(backplane=20.0) == [25.0] * 5  # 20 / 5 = 4 B/s each


def test_five_pipeline_hops_without_a_backplane_link_do_not_meet() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0] * 10)
    sent = [network.transfer(100.0, links=((i, 1.0), (5 + i, 1.0)), cap=inf, queue=i) for i in range(5)]
    env.run()
    assert arrivals(sent) == [10.0] * 5
    assert network.solves == 0


# ---- queues, overhead, latency


def test_one_sender_sends_in_order_and_latency_does_not_hold_the_queue() -> None:
    # Each 10 B at 10 B/s and overhead 0.5 holds the queue 1.5 s; the latency of 4 s overlaps.
    env = simpy.Environment()
    network = Network(env, [10.0])
    sent = [
        network.transfer(10.0, links=ONE, cap=inf, latency=4.0, overhead=0.5, queue="nic") for _ in range(3)
    ]
    env.run()
    assert [t.value for t in sent] == [
        TransferRecord(0.0, 0.0, 1.5, 5.5),
        TransferRecord(0.0, 1.5, 3.0, 7.0),
        TransferRecord(0.0, 3.0, 4.5, 8.5),
    ]
    assert network.solves == 0  # never two at once on the link
    assert network.busy_seconds(0) == 3.0  # the overhead uses no bandwidth


def test_a_message_that_comes_during_the_overhead_waits_for_its_end() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    message = {"size_bytes": 10.0, "links": ONE, "cap": inf, "overhead": 0.5, "queue": "nic"}
    sent = starts(env, network, (0.0, message), (1.25, message), (10.0, message))
    assert [t.value.send_start for t in sent] == [0.0, 1.5, 10.0]


def test_the_overhead_of_one_sender_leaves_the_link_to_others() -> None:
    # A ends its bytes at 2 (5 B/s), then 100 s of overhead; B has 10 B left and the link alone: ends at 3.
    env = simpy.Environment()
    network = Network(env, [10.0])
    a = network.transfer(10.0, links=ONE, cap=inf, overhead=100.0, queue="a")
    b = network.transfer(20.0, links=ONE, cap=inf, queue="b")
    env.run()
    assert arrivals([a, b]) == [102.0, 3.0]


def test_empty_messages_in_a_queue_keep_their_place() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    order: list[str] = []
    for label, size in (("a", 10.0), ("b", 0.0), ("c", 0.0), ("d", 10.0)):
        event = network.transfer(size, links=ONE, cap=inf, queue="nic", label=label)
        event.callbacks.append(lambda e: order.append(e.label))
    env.run()
    assert order == ["a", "b", "c", "d"]
    assert env.now == 2.0


def test_a_long_queue_of_empty_messages_does_not_recurse() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    sent = [network.transfer(s, links=ONE, cap=inf, queue=0) for s in [10.0, *[0.0] * 5000]]
    env.run()
    assert sent[-1].value.arrival == 1.0


def test_queue_none_does_not_queue() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    sent = [network.transfer(10.0, links=ONE, cap=5.0) for _ in range(2)]
    env.run()
    assert arrivals(sent) == [2.0, 2.0]


# ---- one solve an instant


def test_a_burst_is_one_solve() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    sent = [network.transfer(10.0, links=ONE, cap=inf) for _ in range(50)]
    env.run(until=1e-9)
    assert network.solves == 1
    assert [t.rate for t in sent] == pytest.approx([0.2] * 50)
    env.run()
    assert network.solves == 1  # all finish together: nothing is left to solve
    assert len(set(arrivals(sent))) == 1


@pytest.mark.parametrize("origin", [0.0, 0.1, 1e6 / 3])
def test_finishes_that_differ_by_rounding_only_are_one_instant(origin: float) -> None:
    # Flow i starts i * 0.7 s after the first. With n flows active each has 10 / n B/s; by their sizes all
    # end at 7 s: size_i = sum over the steps k >= i of 10 / (k + 1) * length of step k.
    lengths = [0.7] * 6 + [7.0 - 6 * 0.7]
    sizes = [sum(10.0 / (k + 1) * lengths[k] for k in range(i, 7)) for i in range(7)]
    env = simpy.Environment(origin)
    network = Network(env, [10.0])
    sent = starts(
        env,
        network,
        *((origin + 0.7 * i, {"size_bytes": sizes[i], "links": ONE, "cap": inf}) for i in range(7)),
    )
    assert arrivals(sent) == pytest.approx([origin + 7.0] * 7, rel=1e-14)
    assert len(set(arrivals(sent))) == 1
    assert network.solves == 6


def test_a_finish_and_the_start_that_it_causes_are_one_solve() -> None:
    # A and B at 5 B/s until 2; A's successor starts at 2, so the rates stay and there is one solve at 2.
    env = simpy.Environment()
    network = Network(env, [10.0])
    records: list[TransferRecord] = []

    def sender() -> Process:
        for _ in range(2):
            record = yield network.transfer(10.0, links=ONE, cap=inf)
            records.append(record)

    env.process(sender())
    b = network.transfer(20.0, links=ONE, cap=inf)
    env.run(until=3.0)
    assert network.solves == 2
    env.run()
    assert [r.arrival for r in records] == [2.0, 4.0]
    assert b.value.arrival == 4.0


def test_other_components_are_left_alone() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0, 10.0])
    far = [network.transfer(100.0, links=((1, 1.0),), cap=inf) for _ in range(2)]
    at(env, 1.0, lambda: [network.transfer(10.0, links=ONE, cap=inf) for _ in range(2)])
    env.run(until=2.0)
    assert [t.updated for t in far] == [0.0, 0.0]
    assert network.solves == 2


def test_a_long_flow_among_many_short_ones_leaves_no_dead_events() -> None:
    # Each short flow is one start and one finish on the long flow's link; the long wake-up stays armed. The
    # heap of due finishes is cleaned though the flow on link 1 stays before the dead entries.
    env = simpy.Environment()
    network = Network(env, [10.0, 10.0])
    network.transfer(1e6, links=ONE, cap=inf)
    network.transfer(5e4, links=((1, 1.0),), cap=inf)

    def shorts() -> Process:
        for _ in range(500):
            yield network.transfer(1.0, links=ONE, cap=inf)
            yield env.timeout(1.0)

    env.run(env.process(shorts()))
    assert len(env._queue) <= 4
    assert len(network._due) < 200
    env.run()
    assert env.now == pytest.approx((1e6 + 500) / 10.0, rel=1e-12)


# ---- capacity changes


def test_capacity_change_in_mid_flow() -> None:
    # 100 B: 4 s at 10, then 2 s stalled, then 60 B at 20: 4 + 2 + 3.
    env = simpy.Environment()
    network = Network(env, [10.0])
    event = network.transfer(100.0, links=ONE, cap=inf)
    at(env, 4.0, lambda: network.set_capacity(0, 0.0))
    at(env, 6.0, lambda: network.set_capacity(0, 20.0))
    env.run(until=5.0)
    assert network.bytes_carried(0) == 40.0
    assert network.capacity(0) == 0.0
    env.run()
    assert event.value.arrival == 9.0
    assert network.bytes_carried(0) == 100.0


def test_a_flow_that_starts_on_a_dead_link_waits_for_its_repair() -> None:
    env = simpy.Environment()
    network = Network(env, [0.0])
    event = network.transfer(10.0, links=ONE, cap=inf)
    at(env, 3.0, lambda: network.set_capacity(0, 5.0))
    env.run()
    assert event.value.arrival == 5.0


def test_capacity_of_an_idle_link_counts_for_the_next_flow() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    network.set_capacity(0, 2.0)
    event = network.transfer(10.0, links=ONE, cap=inf)
    env.run()
    assert event.value.arrival == 5.0
    assert network.solves == 0


# ---- accounts, observer, errors, order


def test_running_accounts() -> None:
    env = simpy.Environment()
    network = Network(env, [10.0])
    network.transfer(100.0, links=((0, 2.0),), cap=inf)  # 5 B/s, 10 B/s on the link
    env.run(until=3.0)
    assert network.bytes_carried(0) == 30.0
    assert network.busy_seconds(0) == 3.0
    assert network.active_flows(0) == 1
    env.run()
    assert (network.bytes_carried(0), network.busy_seconds(0), network.active_flows(0)) == (200.0, 20.0, 0)


def test_observer_sees_each_arrival_before_the_waiter() -> None:
    env = simpy.Environment()
    seen: list[object] = []
    network = Network(env, [10.0], observer=lambda *what: seen.append((env.now, *what)))

    def sender() -> Process:
        record = yield network.transfer(10.0, links=((0, 1.0), (0, 1.0)), cap=inf, latency=1.0, label="x")
        seen.append(record)

    env.process(sender())
    env.run()
    record = TransferRecord(0.0, 0.0, 2.0, 3.0)
    assert seen == [(3.0, record, ((0, 2.0),), 10.0, "x"), record]


def test_a_transfer_names_itself() -> None:
    env = simpy.Environment()
    assert "Transfer('hop', 8 B)" in repr(Network(env, [1.0]).transfer(8.0, links=ONE, cap=1.0, label="hop"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_bytes": -1.0},
        {"size_bytes": inf},
        {"size_bytes": float("nan")},
        {"cap": 0.0},
        {"cap": float("nan")},
        {"latency": -1.0},
        {"overhead": inf},
        {"links": ((1, 1.0),)},
        {"links": ((-1, 1.0),)},
        {"links": ((0, 0.0),)},
    ],
)
def test_wrong_input_is_refused(wrong: dict[str, Any]) -> None:
    network = Network(simpy.Environment(), [10.0])
    with pytest.raises(ValueError, match=r"transfer|no link|weight"):
        network.transfer(**{"size_bytes": 1.0, "links": ONE, "cap": 1.0, **wrong})


def test_wrong_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        Network(simpy.Environment(), [-1.0])
    network = Network(simpy.Environment(), [1.0])
    with pytest.raises(ValueError, match="capacity"):
        network.set_capacity(0, float("nan"))
    with pytest.raises(ValueError, match="no link"):
        network.set_capacity(1, 1.0)


# ---- against a plain oracle

CAPACITIES = [10.0, 7.0, 12.0, 5.0]
Message = tuple[float, float, tuple[tuple[int, float], ...], float, float, float, int | None]
messages_ = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 5).map(float), st.floats(0.0, 20.0)),  # time of the call
        st.one_of(st.just(0.0), st.integers(1, 60).map(float), st.floats(0.01, 60.0)),  # size
        st.dictionaries(st.integers(0, 3), st.sampled_from([1.0, 2.0, 3.0]), max_size=3).map(
            lambda d: tuple(d.items())
        ),
        st.one_of(st.just(4.0), st.floats(0.5, 20.0)),  # cap
        st.sampled_from([0.0, 0.0, 0.75]),  # latency
        st.sampled_from([0.0, 0.0, 0.5, 1.25]),  # overhead
        st.sampled_from([None, 0, 1, 2]),  # queue
    ),
    min_size=1,
    max_size=14,
)


def oracle(messages: list[Message]) -> list[float]:
    """Arrival times by stepping from change to change and solving the whole network each time."""
    waiting = sorted(range(len(messages)), key=lambda i: messages[i][0])
    free_at: dict[int | None, float] = {}
    left: dict[int, float] = {}
    arrival: dict[int, float] = {}
    now = 0.0
    while len(arrival) < len(messages):
        blocked = {messages[i][6] for i in left} - {None}
        for i in list(waiting):
            called, size, _, _, latency, overhead, queue = messages[i]
            if queue in blocked or called > now or (queue is not None and free_at.get(queue, 0.0) > now):
                if queue is not None:
                    blocked.add(queue)
                continue
            waiting.remove(i)
            if size > 0.0:
                left[i] = size
                if queue is not None:
                    blocked.add(queue)
                continue
            arrival[i] = now + overhead + latency
            if queue is not None:
                free_at[queue] = now + overhead
                if overhead > 0.0:
                    blocked.add(queue)
        rates = dict(
            zip(
                left,
                max_min_rates(CAPACITIES, [FlowDemand(messages[i][3], messages[i][2]) for i in left]),
                strict=True,
            )
        )
        changes = [messages[i][0] for i in waiting] + list(free_at.values())
        nexts = [t for t in changes if t > now] + [now + left[i] / rates[i] for i in left]
        if not nexts:
            break
        step = min(nexts)
        for i in list(left):
            finish = now + left[i] / rates[i]
            left[i] -= rates[i] * (step - now)
            if finish <= step + 1e-11:
                del left[i]
                send_end = step + messages[i][5]
                arrival[i] = send_end + messages[i][4]
                if messages[i][6] is not None:
                    free_at[messages[i][6]] = send_end
        now = step
    return [arrival[i] for i in range(len(messages))]


def simulate(messages: list[Message]) -> tuple[Network, list[Transfer]]:
    env = simpy.Environment()
    network = Network(env, CAPACITIES)
    calls = [
        (m[0], dict(zip(("size_bytes", "links", "cap", "latency", "overhead", "queue"), m[1:], strict=True)))
        for m in messages
    ]
    return network, starts(env, network, *calls)


@settings(max_examples=300, deadline=None)
@given(messages_)
def test_agrees_with_the_oracle_and_loses_no_byte(messages: list[Message]) -> None:
    network, sent = simulate(messages)
    assert arrivals(sent) == pytest.approx(oracle(messages), rel=1e-9, abs=1e-9)
    for link in range(len(CAPACITIES)):
        expected = sum(m[1] * dict(m[2]).get(link, 0.0) for m in messages)
        assert network.bytes_carried(link) == pytest.approx(expected, rel=1e-14)
        assert network.active_flows(link) == 0
        # carried bytes need at least this long
        assert network.busy_seconds(link) * CAPACITIES[link] >= expected * (1 - 1e-9)


@settings(max_examples=30, deadline=None)
@given(messages_)
def test_same_messages_same_records(messages: list[Message]) -> None:
    first, second = simulate(messages), simulate(messages)
    assert [t.value for t in first[1]] == [t.value for t in second[1]]
    assert first[0].solves == second[0].solves


def test_bytes_are_exact_for_whole_sizes() -> None:
    # Whole bytes and weights add without rounding, whatever the shares were: few flows, many times.
    for trial in range(60):
        env = simpy.Environment()
        network = Network(env, [7.0, 11.0, 13.0])
        total = [0.0, 0.0, 0.0]
        for i in range(3):
            size, links = float(1 + (trial + 7 * i) * 37 % 101), ((i, 1.0), ((i + trial) % 3, 2.0))
            at(env, i * 0.7, partial(network.transfer, size, links=links, cap=9.0))
            for link, weight in links:
                total[link] += size * weight
        env.run()
        assert [network.bytes_carried(link) for link in range(3)] == total
