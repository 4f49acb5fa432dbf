"""The listening side of connections to workers: one ROUTER socket, whose workers become links for the scheduler.

libzmq's own thread encrypts, keeps heartbeats and bounds what waits; one thread of ours owns the socket. Whoever
connects must know this server's public key and hold a key pair that the run's keyring authorises: a request of ZAP
(ZeroMQ RFC 27) asks for each newcomer, so that keys may be made and revoked while the run goes on.

Newcomers that say nothing cost a descriptor each until `wire.HANDSHAKE` is over, and are at most `NEWCOMERS`: beyond
that, the one that has been silent for longest is cut off. libzmq has no such limit, nor a way to cut off one peer, so
that this shuts down the connection's descriptor, which libzmq's monitor names. What they send is bounded by the length
of a frame: `NEWCOMERS` of `wire.MOST` are 32 MiB.

A key has at most `OF_ONE_KEY` connections.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from kip.errors import ConfigError, MessageError
from kip.server.keyring import Keyring
from kip.server.member import Link
from kip.workers import wire
from kip.workers.codec import MOST

LOGGER = logging.getLogger(__name__)
NEWCOMERS = 128
"""The most connections at a time that have not shown a key; half as many as a process of 256 descriptors may have."""
OF_ONE_KEY = 256
"""The most connections of one key."""
LOOK = 1.0
"""Seconds between looks for revoked keys, and between lines in the log about strangers."""
ENDING = 1.0
"""Seconds that workers have at the end to read that they are to stop, and to hang up."""
ARRIVALS = 64
"""Connections of a key that the log has one by one; after that, each time that they have doubled."""
ZAP = "inproc://zeromq.zap.01"
STRANGERS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it has no key",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it has the key of another run's server",
}
"""The meaning of libzmq's protocol errors."""


class RouterLink:
    """One worker's connection, under its key's name."""

    def __init__(self, router: Router, name: str, key: str, identity: bytes, descriptor: int):
        self.name, self.key = name, key
        self.identity, self.descriptor = identity, descriptor
        self.waiting: dict[int, tuple[Future[bytes], int]] = {}
        """The futures of answers, and the most bytes of each."""
        self.assembly = wire.Assembly()
        self._router = router

    def send(self, payload: bytes, *, most: int = MOST) -> Future[bytes]:
        """Send a message; the future of its answer fails if the connection ends, or the answer has more bytes."""
        answer: Future[bytes] = Future()
        self._router.outbox.put((self, payload, (answer, most)))
        return answer

    def close(self, why: str = "") -> None:
        """Tell the worker to end; with a reason, it ends with that as its error."""
        self._router.outbox.put((self, why, None))


class Router:
    """Listens for workers, and hands each whose key is authorised to the scheduler.

    Args:
        keyring: says who may connect. None lets everybody, and encrypts nothing: it is for measuring what that costs.
        host: the address to listen on. Anything but loopback lets other machines connect.
        port: the port; 0 takes a free one.

    Raises:
        ConfigError: if the address cannot be listened on.
    """

    def __init__(self, keyring: Keyring | None, host: str = "127.0.0.1", port: int = 0):
        self._keyring = keyring
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        wire.set_limits(self._socket)
        self._socket.backlog = 512
        self._socket.router_mandatory = 1  # a message to nobody is an error
        if keyring:
            self._socket.curve_server, self._socket.curve_secretkey = 1, keyring.secret.encode()
            self._socket.zap_domain = b"kip"
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind(ZAP)
        self._monitor = self._socket.get_monitor_socket()
        self.address = self._bind(host, port)
        self.outbox = wire.Outbox()
        self._links: dict[bytes, RouterLink] = {}
        self._newcomers: dict[int, tuple[Any, float]] = {}
        """The other side's address, and when it connected, of each descriptor; oldest first."""
        self._strangers: Counter[str] = Counter()
        self._arrivals: Counter[str] = Counter()
        self._looked = 0.0
        self._numbers = itertools.count(secrets.randbits(60))
        """Numbers of messages. They differ from those of another life of this server, whose answers may still come."""
        self._connections = itertools.count(2)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kip-router", daemon=True)

    def open(self, join: Callable[[Link], Any], leave: Callable[[str], Any]) -> None:
        """Begin to accept workers."""
        self._join, self._leave = join, leave
        self._thread.start()

    def close(self) -> None:
        """Send what is left to be sent, for two seconds at most, and stop listening; safe to call twice."""
        if not self._closing.is_set():
            self._closing.set()
            self.outbox.put(None)
            if self._thread.ident is not None:
                self._thread.join()
            self._socket.disable_monitor()
            for socket in (self._monitor, self._zap):
                socket.close(linger=0)
            self._socket.close(linger=500)
            self._context.term()
            self.outbox.close()

    def _bind(self, host: str, port: int) -> tuple[str, int]:
        try:
            family, *_, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._socket.ipv6 = family == socket.AF_INET6
            self._socket.bind(wire.endpoint(str(resolved[0]), port or "*"))
        except (OSError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            raise ConfigError(
                f"cannot listen on {host}:{port}", got=error.strerror, remedy="Name another address, or end who has it."
            ) from error
        return str(resolved[0]), int(
            bytes(self._socket.getsockopt(zmq.LAST_ENDPOINT)).rpartition(b":")[2].rstrip(b"\0")
        )

    # The thread that owns the socket

    def _run(self) -> None:
        poller = zmq.Poller()
        for readable in (self._socket, self._monitor, self._zap, self.outbox.fileno()):
            poller.register(readable, zmq.POLLIN)
        while not self._closing.is_set():
            poller.poll(int(LOOK * 1000))
            try:
                self._authorise()
                self._note_connections()
                self._receive()
                self._send()
                self._look_at_the_clock()
            except Exception:  # whatever strangers do, those who are there are served
                LOGGER.exception("a message to or from workers was dropped")
        self._send()
        deadline = time.monotonic() + ENDING
        while self._links and time.monotonic() < deadline:  # what is unread at the end could undo the word to stop
            poller.poll(50)
            self._send()
            self._authorise()
            self._note_connections()
            self._receive()
        for link in list(self._links.values()):
            self._lose(link)

    def _send(self) -> None:
        for item in self.outbox.take():
            if item is None:
                continue
            link, content, answer = item
            if self._links.get(link.identity) is not link:
                if answer is not None:
                    answer[0].set_exception(ConnectionError("the connection ended"))
                continue
            if answer is None:
                parts: Any = [[wire.STOP, content.encode()]]
            else:
                number = next(self._numbers)
                link.waiting[number] = answer
                parts = wire.parts(number, content)
            try:
                for frames in parts:
                    self._socket.send_multipart([link.identity, *frames], zmq.NOBLOCK)
            except zmq.ZMQError:  # gone
                self._lose(link)

    def _receive(self) -> None:
        for _ in range(wire.READS):
            try:
                identity = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            frames: list[zmq.Frame] = self._socket.recv_multipart(copy=False)
            link = self._links.get(identity)
            if link is None:
                self._welcome(identity, frames)
            elif len(frames) == 2 and len(frames[0]) == wire.HEAD.size:
                number, left = wire.HEAD.unpack(frames[0].bytes)
                if number in link.waiting:  # else it answers nothing that was asked, or once more
                    self._take(link, number, left, frames[1].bytes)

    def _take(self, link: RouterLink, number: int, left: int, part: bytes) -> None:
        """Take in a part of an answer."""
        answer, most = link.waiting[number]
        try:
            whole = link.assembly.add(number, left, part, most)
        except MessageError as error:
            del link.waiting[number]
            answer.set_exception(error)
            return
        if whole is not None:
            del link.waiting[number]
            answer.set_result(whole)

    def _welcome(self, identity: bytes, frames: list[zmq.Frame]) -> None:
        """Make a link of a worker whose first message this is."""
        if len(frames) != 1 or len(frames[0]):
            return  # of a connection that was cut off meanwhile
        descriptor = frames[0].get(zmq.SRCFD)
        key = str(frames[0].get("User-Id")) if self._keyring else "anybody"
        self._note_connections()  # what is known of the descriptor is then of this connection, and no older one
        if self._newcomers.pop(descriptor, None) is None:
            return  # gone already
        if sum(link.key == key for link in self._links.values()) >= OF_ONE_KEY:
            self._strangers[f"its key {key!r} has {OF_ONE_KEY} connections already"] += 1
            _shut_down(descriptor, _other_side(descriptor))
            return
        name = key
        while any(link.name == name for link in self._links.values()):
            name = f"{key}/{next(self._connections)}"
        link = self._links[identity] = RouterLink(self, name, key, identity, descriptor)
        self._arrivals[key] += 1
        if self._arrivals[key] <= ARRIVALS or self._arrivals[key] & (self._arrivals[key] - 1) == 0:
            LOGGER.info("worker %s connects from %s", name, frames[0].get("Peer-Address"))
        self._join(link)

    def _lose(self, link: RouterLink) -> None:
        """Forget a worker; what it was asked fails."""
        self._links.pop(link.identity, None)
        waiting, link.waiting = link.waiting, {}
        for answer, _ in waiting.values():
            answer.set_exception(ConnectionError("the connection ended"))
        self._leave(link.name)

    def _authorise(self) -> None:
        """Answer libzmq, which asks for each newcomer whether its key may connect."""
        while self._zap.poll(0):
            version, request, _, address, _, mechanism, *credentials = self._zap.recv_multipart()
            verdict = None
            if self._keyring and mechanism == b"CURVE" and credentials:
                verdict = self._keyring.judge(z85.encode(credentials[0]).decode())
            if verdict and verdict.authorised and verdict.name:
                status, text, user = b"200", b"OK", verdict.name.encode()
            else:
                status, text, user = b"400", b"no", b""
                why = f"its key {verdict.name!r} was revoked" if verdict and verdict.name else "its key is not known"
                self._strangers[f"{why}, from {address.decode()}"] += 1
            self._zap.send_multipart([version, request, status, text, user, b""])

    def _note_connections(self) -> None:
        """Take in what libzmq's monitor says of connections that come, fail and end."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            kind, value = int(event["event"]), int(event["value"])
            if kind == zmq.EVENT_ACCEPTED:
                self._newcomers.pop(value, None)
                self._newcomers[value] = (_other_side(value), time.monotonic())
                if len(self._newcomers) > NEWCOMERS:
                    oldest = next(iter(self._newcomers))
                    _shut_down(oldest, self._newcomers.pop(oldest)[0])
                    self._strangers["it says nothing, as too many others do"] += 1
            elif kind == zmq.EVENT_DISCONNECTED:
                self._newcomers.pop(value, None)
                for link in [link for link in self._links.values() if link.descriptor == value]:
                    self._lose(link)
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._strangers[STRANGERS.get(value, "it speaks another protocol")] += 1
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._strangers["it ended, or said nothing"] += 1
            elif kind == zmq.EVENT_ACCEPT_FAILED:
                self._strangers["this process has no descriptors left"] += 1

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        for why, count in self._strangers.items():
            LOGGER.warning("a connection was refused: %s%s", why, f" ({count} times)" if count > 1 else "")
        self._strangers.clear()
        authorised = set(self._keyring.names()) if self._keyring else {"anybody"}
        for link in [link for link in self._links.values() if link.key not in authorised]:
            LOGGER.warning("worker %s is cut off: its key was revoked", link.name)
            _shut_down(link.descriptor, _other_side(link.descriptor))
            self._lose(link)


def _other_side(descriptor: int) -> Any:
    """Return the address at the other end of a connection that libzmq owns; None if it has ended."""
    with contextlib.suppress(OSError):
        connection = socket.socket(fileno=descriptor)
        try:
            return connection.getpeername()
        finally:
            connection.detach()
    return None


def _shut_down(descriptor: int, other_side: Any) -> None:
    """End a connection that libzmq owns, if the descriptor is still that connection's; libzmq then closes it."""
    with contextlib.suppress(OSError):
        connection = socket.socket(fileno=descriptor)
        try:
            if other_side is not None and connection.getpeername() == other_side:
                connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()
