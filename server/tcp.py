"""The listening side of connections to workers, as links for the scheduler: the transport of launchpad's programs.

Launchpad's own Courier server listens on every interface and cannot be told otherwise (0.5.2); this one listens where
it is told, on loopback by default, and asks for a key. It needs no library.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import AuthenticationError, connection
from typing import Any

from kip.errors import ConfigError
from kip.server.member import Link
from kip.workers.connect import MOST, NUMBER

LOGGER = logging.getLogger(__name__)
HANDSHAKE = 10.0
"""Seconds that a newcomer has to prove that it knows the key."""


class TcpLink:
    """One worker's connection.

    Messages leave through a thread of their own: a frozen worker's buffers fill, and the scheduler must not wait.
    """

    def __init__(self, name: str, peer: socket.socket, link: connection.Connection):
        self.name = name
        self._peer, self._link = peer, link
        self._numbers = itertools.count()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting: dict[int, Future[bytes]] = {}
        self._lock = threading.Lock()
        self._gone = False
        threading.Thread(target=self._write, name=f"kip-to-{name}", daemon=True).start()

    def send(self, payload: bytes) -> Future[bytes]:
        """Send a message; the future of its answer fails if the connection ends."""
        answer: Future[bytes] = Future()
        with self._lock:
            if self._gone:
                answer.set_exception(ConnectionError("the connection ended"))
                return answer
            number = next(self._numbers)
            self._waiting[number] = answer
        self._outgoing.put(NUMBER.pack(number) + payload)
        return answer

    def read(self) -> None:
        """Take in answers until the connection ends."""
        try:
            while True:
                frame = self._link.recv_bytes(MOST)
                (number,) = NUMBER.unpack_from(frame)
                with self._lock:
                    answer = self._waiting.pop(number, None)
                if answer is not None:
                    answer.set_result(frame[NUMBER.size :])
        except Exception as error:  # a broken connection, or a frame that is none
            with self._lock:
                self._gone = True
                waiting, self._waiting = self._waiting, {}
            for answer in waiting.values():
                answer.set_exception(ConnectionError(f"the connection ended: {str(error) or type(error).__name__}"))
            self._outgoing.put(None)

    def close(self) -> None:
        """Tell the worker to stop; the connection ends from its side, or soon."""
        self._outgoing.put(NUMBER.pack(0))
        self._outgoing.put(None)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (frame := self._outgoing.get()) is not None:
                self._link.send_bytes(frame)
            return
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closing would not


class Door:
    """Listens for workers, and hands each that knows the key to the scheduler.

    Args:
        host: the address to listen on. Anything but loopback lets other machines connect.
        port: the port; 0 takes a free one.
        key: what workers must know; None makes one.

    Raises:
        ConfigError: if the address cannot be listened on.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, key: bytes | None = None):
        self.key = key or secrets.token_hex(16).encode()
        try:
            self._socket = socket.create_server((host, port), backlog=512)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}", got=error.strerror, remedy="Name another address, or end who has it."
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._names = itertools.count(1)
        self._closed = False

    def open(self, join: Callable[[Link], Any], leave: Callable[[str], Any]) -> None:
        """Begin to accept workers, in threads of its own."""
        threading.Thread(target=self._accept, args=(join, leave), name="kip-door", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self, join: Callable[[Link], Any], leave: Callable[[str], Any]) -> None:
        while not self._closed:
            try:
                peer, address = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._welcome, args=(peer, address, join, leave), daemon=True).start()

    def _welcome(
        self, peer: socket.socket, address: Any, join: Callable[[Link], Any], leave: Callable[[str], Any]
    ) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with peer, connection.Connection(os.dup(peer.fileno())) as link:
            hurry = threading.Timer(HANDSHAKE, peer.shutdown, [socket.SHUT_RDWR])
            hurry.start()
            try:
                connection.deliver_challenge(link, self.key)
                connection.answer_challenge(link, self.key)
            except (AuthenticationError, AssertionError, OSError, EOFError, ValueError, TypeError) as error:
                LOGGER.warning("%s:%s was refused: %s", *address[:2], type(error).__name__)
                return
            finally:
                hurry.cancel()
            made = TcpLink(f"{next(self._names)}@{address[0]}:{address[1]}", peer, link)
            join(made)
            made.read()
            leave(made.name)
