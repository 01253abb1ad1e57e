"""Where requests come from: fixed arrivals, and clients who wait for their answers."""

from __future__ import annotations

from collections import deque

from sim.jobs.serving.requests import INF, ClosedFeed, OpenFeed, RequestTable, Tickets


def test_an_open_feed_hands_over_what_has_come_and_refuses_what_cannot_fit() -> None:
    table = RequestTable([1] * 5, [1] * 5, [0.0, 1.0, 1.0, 2.0, 3.0])
    feed, waiting = OpenFeed(table, 7, lambda r: r != 2, range(0, 5)), deque[int]()
    assert feed.next_time() == 0.0
    feed.take(1.0, waiting)
    assert list(waiting) == [0, 1]
    assert table.rejected == [2]
    assert table.replica == [7, 7, 7, -1, -1]
    assert feed.next_time() == 2.0
    feed.take(2.5, waiting)
    assert list(waiting) == [0, 1, 3]
    feed.finished(0, 2.6)  # changes nothing
    feed.take(9.0, waiting)
    assert feed.next_time() == INF


def test_an_open_feed_serves_only_its_own() -> None:
    table = RequestTable([1] * 6, [1] * 6, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    feed, waiting = OpenFeed(table, 1, lambda r: True, range(1, 6, 2)), deque[int]()
    feed.take(1.0, waiting)
    assert list(waiting) == [1, 3, 5]
    assert OpenFeed(table, 2, lambda r: True, range(6, 6)).next_time() == INF


def test_clients_send_their_next_request_after_thinking() -> None:
    table = RequestTable([1] * 4, [1] * 4, [])
    feed, waiting = ClosedFeed(table, 0, lambda r: True, Tickets(range(4)), [0.0, 0.5], 2.0), deque[int]()
    feed.take(0.0, waiting)
    assert list(waiting) == [0]
    assert feed.next_time() == 0.5
    feed.finished(0, 0.2)
    feed.take(0.5, waiting)
    assert list(waiting) == [0, 1]
    assert feed.next_time() == 2.2
    feed.finished(1, 1.0)
    feed.take(3.0, waiting)
    assert list(waiting) == [0, 1, 2, 3]
    assert table.arrival == [0.0, 0.5, 2.2, 3.0]
    feed.finished(2, 3.5)  # the tickets are used up
    assert feed.next_time() == INF


def test_a_refused_client_tries_its_next_request() -> None:
    table = RequestTable([1] * 3, [1] * 3, [])
    feed, waiting = ClosedFeed(table, 0, lambda r: r == 2, Tickets(range(3)), [0.0], 0.0), deque[int]()
    feed.take(0.0, waiting)
    assert table.rejected == [0, 1]
    assert list(waiting) == [2]


def test_tickets_are_shared_by_the_replicas_of_a_job() -> None:
    table, tickets = RequestTable([1] * 3, [1] * 3, []), Tickets(range(3))
    first = ClosedFeed(table, 0, lambda r: True, tickets, [0.0, 0.0], 0.0)
    second = ClosedFeed(table, 1, lambda r: True, tickets, [0.0, 0.0], 0.0)
    waiting: deque[int] = deque()
    first.take(0.0, waiting)
    second.take(0.0, waiting)
    assert list(waiting) == [0, 1, 2]
    assert table.replica == [0, 0, 1]
