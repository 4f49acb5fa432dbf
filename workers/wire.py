"""What server and workers share of the way that bytes travel: libzmq's sockets with CURVE, and their limits.

A worker connects a DEALER socket to the server's ROUTER socket and listens nowhere, so that it can join and leave at
any time. CURVE encrypts, and proves to each side that the other holds the key it should; libzmq keeps the heartbeats,
connects again, and bounds what waits. A message is two frames:

    number u64, message      to the worker; the answer comes back under the same number
    b"stop", why             to the worker: it ends; where `why` is not empty, with that as its error
    empty                    from the worker, as its first: libzmq's probe, which tells the server that it is there
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from typing import Any

import zmq

from kip.workers.codec import MAX_BODY, MAX_HEADER, PREFIX

NUMBER = struct.Struct("<Q")
STOP = b"stop"
MOST = PREFIX.size + MAX_HEADER + MAX_BODY
"""Bytes of the longest frame that is read; whoever sends a longer one is cut off."""
WAITING = 64
"""Messages that wait for one peer, on each side, before no more are taken: libzmq's high-water mark."""
HEARTBEAT = 5.0
"""Seconds between libzmq's heartbeats; they are answered while Python computes."""
SILENCE = 30.0
"""Seconds without an answer to a heartbeat after which a connection counts as lost."""
HANDSHAKE = 15.0
"""Seconds that a newcomer has for its handshake."""
READS = 64
"""Messages that are read before anything else gets its turn."""


def set_limits(wire: zmq.Socket) -> None:
    """Set a socket's limits and heartbeats, before it binds or connects."""
    wire.sndhwm = wire.rcvhwm = WAITING
    wire.maxmsgsize = MOST
    wire.handshake_ivl = int(HANDSHAKE * 1000)
    wire.heartbeat_ivl = int(HEARTBEAT * 1000)
    wire.heartbeat_timeout = int(SILENCE * 1000)
    wire.tcp_keepalive = 1


def endpoint(host: str, port: int | str) -> str:
    """Return libzmq's name of an address."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class Outbox:
    """What other threads leave for the thread that owns a socket, and the descriptor that wakes its poller."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._woken = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader.fileno()

    def put(self, item: Any) -> None:
        """Leave an item; safe from any thread."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # full, so that the reader wakes anyway; or closed
                self._writer.send(b"\0")

    def take(self) -> list[Any]:
        """Return the items that were left, in their order; for the owner's thread."""
        self._woken = False  # first: what is left from here on wakes the poller again
        with contextlib.suppress(OSError):
            self._reader.recv(4096)
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def close(self) -> None:
        """Let go of the descriptors."""
        self._reader.close()
        self._writer.close()
