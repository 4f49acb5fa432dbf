"""A worker's way to its server: it connects, proves that it knows the run's key, and answers until told to stop.

Workers connect to the server and listen nowhere, so that they can join and leave at any time. What travels is length,
number and the message's bytes, through `multiprocessing.connection` in its form for bytes, which unpickles nothing;
its challenge (HMAC) keeps out whoever has not the key, and does not encrypt.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError, connection
from pathlib import Path

from kip.errors import ConfigError, WorkerError
from kip.workers.codec import MAX_BODY, MAX_HEADER, PREFIX
from kip.workers.worker import Worker

LOGGER = logging.getLogger(__name__)
NUMBER = struct.Struct("<Q")
MOST = NUMBER.size + PREFIX.size + MAX_HEADER + MAX_BODY
"""The longest frame that is read."""
THREADS = 4
"""Messages handled at a time: some compute, one answers pings."""
KEY_VARIABLE = "KIP_WORKERS_KEY"
AGAIN = 0.5
"""Seconds between attempts to connect."""


def serve(
    worker: Worker,
    address: tuple[str, int],
    key: bytes,
    *,
    stop: threading.Event | None = None,
    patience: float = 600.0,
) -> int:
    """Answer a server's messages; connect again when it goes away, until it says stop or stays away.

    Args:
        worker: answers them; closed at the end.
        address: the server's host and port.
        key: the run's key.
        stop: ends this function when set.
        patience: seconds without a server after which this ends.

    Returns:
        How many messages were answered.

    Raises:
        WorkerError: if the key is not the server's.
    """
    stop = stop or threading.Event()
    seen, count = time.monotonic(), itertools.count()
    try:
        while not stop.is_set() and time.monotonic() - seen < patience:
            try:
                link = connection.Client(address, authkey=key)
            except AuthenticationError:
                raise WorkerError("key", f"the server at {address[0]}:{address[1]} has another key") from None
            except (OSError, EOFError):
                stop.wait(AGAIN)
                continue
            LOGGER.info("connected to %s:%d", *address)
            if _converse(worker, link, stop, count):
                break
            seen = time.monotonic()
    finally:
        worker.close()
    return next(count)


def read_key(path: Path | None) -> bytes:
    """Return the key in a file, or in $KIP_WORKERS_KEY.

    Raises:
        ConfigError: if it cannot be read, or is empty.
    """
    try:
        key = path.read_bytes().strip() if path else os.environ.get(KEY_VARIABLE, "").encode()
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}", got=error.strerror) from None
    if not key:
        raise ConfigError(
            "the key of a run",
            got="none",
            remedy=f"Name the run's workers.key with --key-file, or set ${KEY_VARIABLE}.",
        )
    return key


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        ConfigError: if it is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("address", got=repr(text), expected="HOST:PORT, such as 127.0.0.1:7710")
    return host.strip("[]"), int(port)


def _converse(worker: Worker, link: connection.Connection, stop: threading.Event, count: Iterator[int]) -> bool:
    """Answer until the connection ends; return whether the server said stop."""
    writing = threading.Lock()

    def answer(frame: bytes) -> None:
        reply = worker.handle(frame[NUMBER.size :])
        try:
            with writing:
                link.send_bytes(frame[: NUMBER.size] + reply)
                next(count)
        except (OSError, ValueError):
            LOGGER.info("the server went away before its answer")

    with ThreadPoolExecutor(THREADS, "kip-message") as threads, link:
        try:
            while not stop.is_set():
                if not link.poll(0.2):
                    continue
                frame = link.recv_bytes(MOST)
                if len(frame) == NUMBER.size:  # a frame without a message
                    return True
                threads.submit(answer, frame)
        except (OSError, EOFError):
            return False
    return True


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
