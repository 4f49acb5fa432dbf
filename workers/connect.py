"""A worker's way to its server: it connects, shows its key, and answers until it is told to stop.

`kip.workers.wire` says what travels.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import zmq
from zmq.utils.monitor import parse_monitor_message

from kip.errors import ConfigError, MessageError, WorkerError
from kip.workers import wire
from kip.workers.codec import MOST
from kip.workers.keys import WorkerKey
from kip.workers.worker import Worker

LOGGER = logging.getLogger(__name__)
THREADS = 4
"""Messages handled at a time: some compute, one answers pings."""
PATIENCE = 300.0
"""Seconds without a server after which a worker gives up."""
TELL_EVERY = 60.0
"""Seconds between two lines in which a worker says what it did."""
RECONNECT = (0.2, 5.0)
"""Seconds before libzmq's first attempt to connect again, and the most between two of them."""
NOBODY = "nobody listens there"
FAILURES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the server there is another run's: it ends the connection at this key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "something listens there that is no server of kip's",
    zmq.EVENT_CLOSED: NOBODY,
}
"""The meaning of libzmq's events where a server cannot be reached."""


def serve(
    worker: Worker,
    address: tuple[str, int],
    key: WorkerKey | None,
    *,
    stop: threading.Event | None = None,
    patience: float = PATIENCE,
) -> int:
    """Answer a server's messages; connect again when it goes away, until it says stop or stays away.

    Args:
        worker: answers them; closed at the end.
        address: the server's host and port.
        key: what this worker proves itself with. None encrypts nothing: it is for measuring what that costs.
        stop: ends this function when set.
        patience: seconds without a server after which this gives up.

    Returns:
        How many messages were answered.

    Raises:
        WorkerError: if the server does not know the key, sends this worker away, or is not there for `patience`.
    """
    stop = stop or threading.Event()
    context = zmq.Context()
    try:
        connection = _Connection(context, address, key, worker)
        try:
            return connection.converse(stop, patience)
        finally:
            connection.close()
    finally:
        worker.close()
        context.destroy(linger=0)


class _Connection:
    """The socket, and the threads that handle messages. One thread owns the socket; the others leave answers for it."""

    def __init__(self, context: zmq.Context, address: tuple[str, int], key: WorkerKey | None, worker: Worker):
        self._name, self._worker = f"{address[0]}:{address[1]}", worker
        self._socket = context.socket(zmq.DEALER)
        wire.set_limits(self._socket)
        if key:
            self._socket.curve_serverkey = key.server.encode()
            self._socket.curve_publickey, self._socket.curve_secretkey = key.public.encode(), key.secret.encode()
        self._socket.probe_router = 1
        self._socket.immediate = 1  # an answer waits for a server that is there, not for its next life
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = (int(1000 * seconds) for seconds in RECONNECT)
        self._socket.ipv6 = ":" in address[0]
        self._monitor = self._socket.get_monitor_socket()
        self._outbox, self._assembly = wire.Outbox(), wire.Assembly()
        self._threads = ThreadPoolExecutor(THREADS, "kip-message")
        self._connected, self._last_there = False, time.monotonic()
        self._failure, self._answered = NOBODY, 0
        self._told_at, self._told = time.monotonic(), 0
        self._socket.connect(wire.endpoint(*address))

    def converse(self, stop: threading.Event, patience: float) -> int:
        """Answer until told to stop; return how many messages were answered."""
        poller = zmq.Poller()
        for readable in (self._socket, self._monitor, self._outbox.fileno()):
            poller.register(readable, zmq.POLLIN)
        while not stop.is_set():
            poller.poll(200)
            self._note_connections()
            if self._read():
                break
            self._write()
            self._tell()
            if not self._connected and time.monotonic() - self._last_there > patience:
                raise WorkerError(
                    "server",
                    f"no server of this key at {self._name} for {patience:.0f} s",
                    got=self._failure,
                    remedy="Check the address, and that the key is of the run that listens there: "
                    "`kip worker-key NAME --run RUN` makes one.",
                )
        reason = "as it was asked to" if stop.is_set() else "the run is over"
        LOGGER.info("left %s, %s; %d messages were answered", self._name, reason, self._answered)
        return self._answered

    def close(self) -> None:
        """Let go of the socket; a kernel that computes goes on to its end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger=0)
        self._outbox.close()

    def _read(self) -> bool:
        """Hand what has come to the threads; return whether the server said stop."""
        for _ in range(wire.READS):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            if len(frames) != 2:
                continue
            if frames[0] == wire.STOP:
                if frames[1]:
                    raise WorkerError("dismissed", f"the server sends this worker away: {frames[1].decode()[:1000]}")
                return True
            if len(frames[0]) == wire.HEAD.size:
                number, left = wire.HEAD.unpack(frames[0])
                with contextlib.suppress(MessageError):  # the rest of a message that another life of the server began
                    payload = self._assembly.add(number, left, frames[1], MOST)
                    if payload is not None:
                        self._threads.submit(self._handle, number, payload)
        return False

    def _handle(self, number: int, payload: bytes) -> None:
        self._outbox.put((number, self._worker.handle(payload)))

    def _write(self) -> None:
        for number, answer in self._outbox.take():
            with contextlib.suppress(zmq.Again):  # the server has gone, and with it the question
                for frames in wire.parts(number, answer):
                    self._socket.send_multipart(frames, zmq.NOBLOCK)
                self._answered += 1

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY:
            return
        if self._connected:
            LOGGER.info("%d messages answered in %.0f s", self._answered - self._told, now - self._told_at)
        self._told_at, self._told = now, self._answered

    def _note_connections(self) -> None:
        while self._monitor.poll(0):
            kind = int(parse_monitor_message(self._monitor.recv_multipart())["event"])
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                LOGGER.info("joined the run at %s", self._name)
                self._connected = True
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise WorkerError("key", f"the server at {self._name} does not know this key, or has revoked it")
            elif kind == zmq.EVENT_DISCONNECTED and self._connected:
                LOGGER.info("the server at %s went away", self._name)
                self._connected, self._last_there = False, time.monotonic()
                self._assembly = wire.Assembly()
            elif kind == zmq.EVENT_CONNECTED and self._failure == NOBODY:
                self._failure = "something listens there that does not complete the handshake"
            self._failure = FAILURES.get(kind, self._failure)


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        ConfigError: if it is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("address", got=repr(text), expected="HOST:PORT, such as 127.0.0.1:7710")
    return host.strip("[]"), int(port)


def watch(stop: threading.Event, process: int | None, *, exits: bool = False) -> None:
    """Tie this process to another: it ends soon after the other does.

    Args:
        stop: set when this process is to end by itself.
        process: the other's id; None ties it to nothing.
        exits: whether this process ends 2 s after `stop`, even if a kernel still computes then.
    """

    def look() -> None:
        while not stop.wait(0.5):
            if process is not None and not _alive(process):
                os._exit(1)
        if exits:
            time.sleep(2.0)
            os._exit(0)

    threading.Thread(target=look, name="kip-watch", daemon=True).start()


def _alive(process: int) -> bool:
    with contextlib.suppress(OSError, IndexError):  # Linux: a zombie is dead
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
