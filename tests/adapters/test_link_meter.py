"""Two hosts, here the same one: what is sent arrives, a strange peer ends nothing, and nobody there is one line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Queue

import pytest

from sim.adapters import link_meter
from sim.adapters.link_meter import listen, measure_link
from sim.errors import InputError, RunError

LOCAL = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a listener that must end by itself."""
    bound: Queue[int] = Queue()
    thread = threading.Thread(target=listen, args=(0, LOCAL, bound.put), daemon=True)
    thread.start()
    yield bound.get(timeout=10)
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_link_has_a_latency_and_a_bandwidth_each_way(port: int) -> None:
    found = measure_link(LOCAL, port, seconds=0.02)
    assert 0 < found.latency < 0.1
    assert min(found.there, found.back) == found.bandwidth > 1e6


def test_times_are_the_clocks(port: int) -> None:
    """Every look at the clock is a second later: a round trip of one second is half a second one way, and a stream of
    the first size takes a second, of which the way there and back is none of the link's rate."""
    ticks = iter(range(1_000_000))
    found = measure_link(LOCAL, port, seconds=3.0, clock=lambda: float(next(ticks)))
    assert found.latency == 0.5
    assert found.there == found.back == 3 * link_meter.FIRST / 1e-9  # 1 s less twice half a second


def test_who_speaks_otherwise_is_turned_away_and_the_next_served(port: int) -> None:
    # Whoever has read enough hangs up, perhaps before the stranger has said all.
    with socket.create_connection((LOCAL, port), timeout=5) as stranger, suppress(OSError):
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: a browser\r\n\r\n")
        stranger.shutdown(socket.SHUT_WR)
    assert measure_link(LOCAL, port, seconds=0.01).bandwidth > 0


def test_nobody_there_and_a_port_in_use_are_one_line_each() -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"cannot listen on port {number}: "):
            listen(number, LOCAL)
    with pytest.raises(InputError, match=rf"--peer {LOCAL}:{number}: nobody listens there .* sim calibrate --listen"):
        measure_link(LOCAL, number)
