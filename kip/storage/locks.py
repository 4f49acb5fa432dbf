"""One writer for each folder, and one maker for each file: locks that the operating system releases when their process
ends, however it ends.

The lock is an advisory one on the file `run.lock` in the folder (`flock`, on Windows `msvcrt.locking`). The file says
who holds it, for the error that the second process gets; it is removed at the end, and one that a killed process left
means nothing, because the lock on it is gone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kip.errors import OutputError
from kip.progress import inner_stage

LOG = logging.getLogger(__name__)
NAME = "run.lock"
LOOK_SECONDS = 0.05
"""Longer than `has_writer` holds a lock."""
WAIT_SECONDS = 0.2
"""The seconds between two attempts to take a lock that another process holds."""
_WINDOWS_OFFSET = 1 << 30
"""The byte that Windows locks. It lies behind the text, because there nobody else can read a locked byte."""


class FolderLock(NamedTuple):
    """A lock that is held, as `sole_writer` gives it.

    Attributes:
        path: the lock file.
        since: when the lock was taken, in seconds of the clock that stamps the folder's files. A file of the run that
            is older was left by an earlier process.
    """

    path: Path
    since: float


@contextlib.contextmanager
def sole_writer(folder: Path | str) -> Iterator[FolderLock]:
    """Hold the lock of a folder, which is made if it is missing, and goes again if nothing came into it.

    The lock ends with the context or with the process, also after `kill -9`. Processes that this one starts do not hold
    it: programs do not inherit the open file, and forked children close it. Where the file system knows no locks, a
    warning is logged and the folder is used without one.

    Raises:
        OutputError: if another process holds the lock, with its number, machine and command; or if the folder cannot be
            written.
    """
    path = Path(folder) / NAME
    try:
        is_new = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
    except _Held as held:
        raise held.error from None
    except OSError as error:
        raise OutputError(
            f"cannot write {path}",
            got=error.strerror or repr(error),
            remedy="Check that the folder is writable, or name another folder.",
        ) from error
    try:
        with _holding(path, descriptor):
            yield FolderLock(path, os.fstat(descriptor).st_mtime)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds files
                path.parent.rmdir()


@contextlib.contextmanager
def sole_maker(path: Path, *, waits: bool = True) -> Iterator[bool]:
    """Hold the lock of one file while it is made; yield whether it is held.

    The lock is one on `NAME.lock` beside the file, and ends as that of `sole_writer` does: where its process is killed,
    another one goes on with the work. Where the file system knows no locks, or the folder cannot be written, the file
    is made without one, perhaps twice.

    Args:
        path: the file. Its folder is made if it is missing.
        waits: whether to wait for as long as another process holds the lock; otherwise False is yielded then.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _attempt(lock)
        if descriptor is None and waits:
            with inner_stage(f"waiting for another process that makes {path.name}"):
                while (descriptor := _attempt(lock)) is None:
                    time.sleep(WAIT_SECONDS)
    except OSError as error:
        LOG.info("%s is made without a lock: %s", path, error)
        yield True
        return
    if descriptor is None:
        yield False
        return
    with _holding(lock, descriptor):
        yield True


def _attempt(lock: Path) -> int | None:
    """Return the descriptor of a lock, or None where another process holds it."""
    try:
        return _locked(lock)
    except _Held:
        return None


@contextlib.contextmanager
def _holding(path: Path, descriptor: int) -> Iterator[None]:
    """Let go of a lock at the end."""
    held = _Descriptor(descriptor)
    try:
        yield
    finally:
        _HELD.discard(held)
        if held.number is not None:
            # Removed before it is released: whoever opened it meanwhile sees that the name is gone, and opens anew.
            # Windows removes no open file, so there it is removed afterwards.
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(held.number)
            if sys.platform == "win32":
                with contextlib.suppress(OSError):
                    path.unlink()


class _Held(Exception):
    """Another process holds the lock, as `error` says."""

    def __init__(self, error: OutputError):
        super().__init__(str(error))
        self.error = error


def has_writer(folder: Path | str) -> bool:
    """Return whether a process holds the lock of a folder; False where the file system knows no locks."""
    try:
        descriptor = _opened(Path(folder) / NAME, 0)
    except OSError:
        return False
    try:
        _lock(descriptor)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


class _Descriptor:
    """The open lock file of a folder; None in a forked child, which has closed it."""

    def __init__(self, number: int):
        self.number: int | None = number
        _HELD.add(self)


_HELD: set[_Descriptor] = set()


def _close_in_child() -> None:
    """Close the lock files that a fork has copied: a lock lasts until every copy of its descriptor is closed."""
    for held in list(_HELD):
        if held.number is not None:
            os.close(held.number)
            held.number = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _locked(path: Path) -> int:
    """Open and lock the file, write into it who holds it, and return its descriptor."""
    while True:
        descriptor = _opened(path, os.O_CREAT)
        try:
            try:
                try:
                    _lock(descriptor)
                except BlockingIOError:
                    time.sleep(LOOK_SECONDS)  # it may have been `has_writer`
                    _lock(descriptor)
            except BlockingIOError:
                raise _Held(_in_use(path, descriptor)) from None
            except OSError as error:
                LOG.warning("%s cannot be locked (%s): see that no second process writes there", path.parent, error)
            if _is_at(path, descriptor):
                _write_owner(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has removed it between our opening and our locking


def _opened(path: Path, more: int) -> int:
    """Open the lock file; a link is not followed, because who holds the lock is written into what it names.

    Raises:
        OSError: if it cannot be opened, or is not a regular file.
    """
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, os.O_RDWR | careful | more, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def _lock(descriptor: int) -> None:
    """Take the lock, or raise BlockingIOError where another holds it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _WINDOWS_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the path still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_owner(descriptor: int) -> None:
    """Write who holds the lock. Nothing depends on it but the text of an error, so a full disk is no matter."""
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv)[:500],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, (json.dumps(owner) + "\n").encode())


def _in_use(path: Path, descriptor: int) -> OutputError:
    """Return the error that names the process that holds the lock."""
    try:
        owner = json.loads(os.read(descriptor, 4096))
        holder = f"process {owner['pid']} on {owner['host']}, since {owner['since']}: {owner['command']}"
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its text, or no text of ours
        holder = "another process"
    return OutputError(
        f"another process writes to {path.parent}",
        got=holder,
        remedy="Wait for it to end, stop it, or name another folder with --out.",
    )
