"""The way of bytes between server and workers: libzmq's sockets with CURVE, and their limits.

A worker connects a DEALER socket to the server's ROUTER socket and listens nowhere, so that it can join and leave at
any time. CURVE encrypts, and proves to each side that the other holds the key it should; libzmq keeps the heartbeats,
connects again, and bounds what waits.

libzmq takes in a whole frame before it knows who sends it, so that frames are short, and messages travel in parts. A
part is two frames:

    number u64, left u64 | part     to the worker, `left` bytes of the message come after this part; the answer comes
                                    back under the same number
    b"stop", why                    to the worker: it ends; where `why` is not empty, with that as its error
    empty                           from the worker, as its first: libzmq's probe, which tells that it is there
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import zmq

from kip.errors import MessageError

HEAD = struct.Struct("<QQ")
STOP = b"stop"
PART = 1 << 18
"""Bytes of a message that travel in one frame."""
MOST = PART + 1024
"""Bytes of the longest frame that is read, as it is encrypted; whoever sends a longer one is cut off."""
WAITING = 64
"""Parts that wait to be read, of one peer, before no more are taken: libzmq's high-water mark. Those that wait to be
sent have no limit: they are of messages that this side has chosen to send."""
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
    wire.sndhwm, wire.rcvhwm = 0, WAITING
    wire.maxmsgsize = MOST
    wire.handshake_ivl = int(HANDSHAKE * 1000)
    wire.heartbeat_ivl = int(HEARTBEAT * 1000)
    wire.heartbeat_timeout = int(SILENCE * 1000)
    wire.tcp_keepalive = 1


def endpoint(host: str, port: int | str) -> str:
    """Return libzmq's name of an address."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def parts(number: int, payload: bytes) -> Iterator[list[Any]]:
    """Yield the frames of each part of a message."""
    view, size = memoryview(payload), len(payload)
    for start in range(0, max(1, size), PART):
        yield [HEAD.pack(number, max(0, size - start - PART)), view[start : start + PART]]


class Assembly:
    """Puts the messages of one peer together from their parts."""

    def __init__(self) -> None:
        self._begun: dict[int, list[bytes]] = {}
        self._left: dict[int, int] = {}

    def add(self, number: int, left: int, part: bytes, most: int) -> bytes | None:
        """Take in a part, and return the message if it is whole.

        Args:
            number: of the message.
            left: bytes of it that come after this part.
            part: its next bytes.
            most: bytes that the message may have.

        Raises:
            MessageError: if it is longer, or the part does not follow on those before it. They are forgotten.
        """
        if number not in self._begun:
            if left + len(part) > most:
                raise MessageError("a message is too long", got=f"{left + len(part)} bytes", expected=f"{most} at most")
            self._begun[number], self._left[number] = [], left + len(part)
        if left != self._left[number] - len(part) or (left and not part):
            self.forget(number)
            raise MessageError("a part of a message does not follow on the one before it")
        self._begun[number].append(part)
        self._left[number] = left
        if left:
            return None
        message = b"".join(self._begun[number])
        self.forget(number)
        return message

    def forget(self, number: int) -> None:
        """Let go of what has come of a message."""
        self._begun.pop(number, None)
        self._left.pop(number, None)


class Outbox:
    """Messages of other threads for the thread that owns a socket, and the descriptor that wakes its poller."""

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
        with contextlib.suppress(OSError):
            self._reader.recv(4096)
        self._woken = False  # after that, or a byte that is sent meanwhile would be read, and none be sent any more
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def close(self) -> None:
        """Let go of the descriptors."""
        self._reader.close()
        self._writer.close()
