"""The link between two hosts, measured over one TCP connection: one host listens, the other asks.

Latency is half of the shortest of many round trips of one byte, as programs see it: both hosts' software and the cable.
Bandwidth is that of one stream of bytes that lasts long enough to fill the link, each way, the slower one counting.

Protocol, after ``MAGIC`` from the one who asks: ``P`` and a byte, which comes back; ``S`` and a count of 8 bytes (big
endian), then as many bytes, answered by one byte; ``R`` and a count, answered by as many bytes; ``Q`` ends it.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sim.errors import InputError, Problem, RunError

MAGIC: Final = b"gpu-cluster-sim link test 1\n"
PORT: Final = 7470
PIECE: Final = 1 << 20
ROUNDS: Final = 200
#: A stream lasts about this long, after a first one that tells how many bytes that takes.
SECONDS: Final = 1.0
FIRST: Final = 4 << 20
#: Most bytes of one stream, and seconds to wait for the other side.
MOST: Final = 1 << 36
PATIENCE: Final = 20.0

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """One way: seconds of a byte, and bytes/s of a stream there and back."""

    latency: float
    there: float
    back: float

    @property
    def bandwidth(self) -> float:
        """The slower way."""
        return min(self.there, self.back)


def listen(port: int, host: str = "", ready: Callable[[int], None] = lambda _: None) -> None:
    """Answer one peer, then end. ``ready`` hears the port once peers can connect. RunError if the port is taken."""
    try:
        server = socket.create_server((host, port))
    except OSError as error:
        raise RunError(f"cannot listen on port {port}: {error.strerror or error}") from None
    with server:
        ready(server.getsockname()[1])
        while True:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(PATIENCE)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    if _read(peer, len(MAGIC)) == MAGIC:
                        _answer(peer)
                        return
                except (OSError, EOFError):
                    continue  # somebody else, or one who went away: wait for the next


def measure_link(
    host: str, port: int = PORT, seconds: float | None = None, clock: Clock = time.perf_counter
) -> LinkMeasured:  # fmt: skip
    """Ask a host that listens, in streams of about ``seconds``. InputError if none answers there, RunError if it goes
    away."""
    seconds = SECONDS if seconds is None else seconds
    try:
        peer = socket.create_connection((host, port), timeout=PATIENCE)
    except OSError as error:
        message = f"nobody listens there ({error.strerror or error}): run sim calibrate --listen {port} on that host"
        raise InputError([Problem(f"--peer {host}:{port}", None, None, None, message)]) from None
    with peer:
        peer.settimeout(PATIENCE + seconds)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            peer.sendall(MAGIC)
            latency = min(_round_trip(peer, clock) for _ in range(ROUNDS)) / 2
            there = _rate(lambda count: _send_to(peer, count, clock), seconds, latency)
            back = _rate(lambda count: _receive_from(peer, count, clock), seconds, latency)
            peer.sendall(b"Q")
        except (OSError, EOFError) as error:
            raise RunError(f"{host}:{port} went away during the test ({error or 'connection closed'})") from None
    return LinkMeasured(latency, there, back)


def _answer(peer: socket.socket) -> None:
    """Do what the peer asks until it is done."""
    while True:
        what = _read(peer, 1)
        if what == b"P":
            peer.sendall(_read(peer, 1))
        elif what == b"S":
            _drop(peer, _count(peer))
            peer.sendall(b".")
        elif what == b"R":
            _pour(peer, _count(peer))
        else:
            return


def _round_trip(peer: socket.socket, clock: Clock) -> float:
    begun = clock()
    peer.sendall(b"P.")
    _read(peer, 1)
    return clock() - begun


def _send_to(peer: socket.socket, count: int, clock: Clock) -> float:
    begun = clock()
    peer.sendall(b"S" + struct.pack(">Q", count))
    _pour(peer, count)
    _read(peer, 1)
    return clock() - begun


def _receive_from(peer: socket.socket, count: int, clock: Clock) -> float:
    begun = clock()
    peer.sendall(b"R" + struct.pack(">Q", count))
    _drop(peer, count)
    return clock() - begun


def _rate(stream: Callable[[int], float], seconds: float, latency: float) -> float:
    """Bytes/s of a stream of about so many seconds; its first and last byte's way do not count."""
    first = stream(FIRST)
    count = min(MOST, max(FIRST, int(FIRST * seconds / max(first, 1e-6))))
    return count / max(stream(count) - 2 * latency, 1e-9)


def _count(peer: socket.socket) -> int:
    count: int = struct.unpack(">Q", _read(peer, 8))[0]
    if count > MOST:
        raise EOFError("asked for too much")
    return count


def _read(peer: socket.socket, count: int) -> bytes:
    """Exactly so many bytes. EOFError if the other side closes."""
    found = b""
    while len(found) < count:
        piece = peer.recv(count - len(found))
        if not piece:
            raise EOFError("connection closed")
        found += piece
    return found


def _drop(peer: socket.socket, count: int) -> None:
    """Take so many bytes and forget them."""
    buffer = bytearray(PIECE)
    while count:
        got = peer.recv_into(buffer, min(count, PIECE))
        if not got:
            raise EOFError("connection closed")
        count -= got


def _pour(peer: socket.socket, count: int) -> None:
    """Send so many zeros."""
    piece = bytes(PIECE)
    while count:
        now = min(count, PIECE)
        peer.sendall(memoryview(piece)[:now])
        count -= now
