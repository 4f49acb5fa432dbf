"""Files: written so that a reader never sees half of one, whenever the process is killed, and read only where they are
regular files; and kip's cache folder, which nobody else may write where code is loaded from it or files are removed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kip.errors import OutputError

LOG = logging.getLogger(__name__)
CACHE_DIR_VARIABLE = "KIP_CACHE_DIR"
ROOT = 0
"""The user id of the system's administrator, who can write everywhere anyway."""
LONGEST_CHAIN = 40
"""The most links of a path that are followed, as Linux has it."""
_ASIDE = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
"""The names of the files that `atomic_write` writes before the rename."""


def cache_dir() -> Path:
    """Return the folder of what kip keeps between runs: $KIP_CACHE_DIR, or `kip` in the platform's cache folder.

    Where the user has no home folder, as a user id without a name in a container, it is a private folder among the
    temporary files, and a warning says so once.

    Raises:
        OutputError: if there is no home, and another user has taken the name of that folder.
    """
    if folder := os.environ.get(CACHE_DIR_VARIABLE):
        base, name = Path(folder), ""
    elif sys.platform == "win32":
        base, name = Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local"), "kip"
    elif sys.platform == "darwin":
        base, name = Path("~/Library/Caches"), "kip"
    else:
        base, name = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "kip"
    try:
        return base.expanduser() / name
    except RuntimeError:
        return _without_home(tempfile.gettempdir())


@functools.cache
def _without_home(temporary: str) -> Path:
    """Return the cache folder of a user without a home, made if it is missing."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(temporary) / f"kip-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        check_private(folder)
    except OSError as error:
        raise OutputError(
            f"there is no home folder, and {folder} cannot be kip's cache",
            got=error.strerror or repr(error),
            remedy=f"Set ${CACHE_DIR_VARIABLE} to a folder of your own.",
        ) from None
    LOG.warning("there is no home folder: the cache is %s. $%s names another", folder, CACHE_DIR_VARIABLE)
    return folder


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; the opening of a pipe with a name would wait for a writer for ever.

    Args:
        path: the file; links to it are followed.

    Raises:
        OSError: if it cannot be opened, or is a pipe, a folder, a socket or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_private(folder: Path) -> None:
    """Refuse a folder in which others could place files, or that they could swap for another.

    The folder is the user's, and nobody else can write it. Each link and each folder on the way to it is the user's or
    the administrator's, and others can write these only where they cannot rename what is not theirs (the sticky bit of
    /tmp). A group that has the number of its user has no other member, and may write folders on the way. On Windows
    nothing is checked: a user's own folders are closed to others.

    Raises:
        PermissionError: saying what is wrong, in `strerror`.
        OSError: if the folder is not there.
    """
    if not hasattr(os, "getuid"):
        return
    user, last = os.getuid(), folder.stat()
    for path, about in _way_to(folder):
        writers = stat.S_IWOTH if about.st_gid == about.st_uid == user else stat.S_IWOTH | stat.S_IWGRP
        is_last = os.path.samestat(about, last)
        if about.st_uid != user and (is_last or about.st_uid != ROOT):
            raise PermissionError(errno.EPERM, f"{path} belongs to another user, who could put files there")
        if stat.S_ISLNK(about.st_mode) or (about.st_mode & stat.S_ISVTX and not is_last):
            continue
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH if is_last else writers):
            raise PermissionError(errno.EPERM, f"{path} can be written by others, who could put files of theirs there")


def _way_to(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each folder and link that the system passes on the way to a path, the path's end included."""
    absolute = Path(os.path.abspath(path))
    here, left, links = Path(absolute.anchor), list(absolute.parts[1:]), 0
    yield here, here.lstat()
    while left:
        step = here / left.pop(0)
        about = step.lstat()
        yield step, about
        if not stat.S_ISLNK(about.st_mode):
            here = step.parent.parent if step.name == ".." else step
            continue
        links += 1
        if links > LONGEST_CHAIN:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink(step))
        if target.is_absolute():
            here, left = Path(target.anchor), [*target.parts[1:], *left]
        else:
            left = [*target.parts, *left]


def atomic_write(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that is either the old one or the whole new one, and never anything between.

    The bytes go to a hidden file in the same folder, reach the disk (fsync), and take the name with one rename.
    Missing parent folders are made.

    Args:
        path: the file to write; one that exists is replaced.
        write: called once with the open binary file.

    Raises:
        OutputError: if the folder cannot be made or written, or the disk is full. What `write` itself raises, beside
            an OSError, passes through. Either way no temporary file stays, and an older file at `path` is untouched.
    """
    path = Path(path)
    # Not tempfile: its files are private to the user (0600), and a result should have the permissions of the umask.
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}",
            got=error.strerror or repr(error),
            remedy="Check that the folder is writable and the disk has room, or name another folder.",
        ) from error
    _sync_folder(path.parent)


def remove_leftovers(folder: Path | str, *, before: float) -> list[Path]:
    """Remove the temporary files that a killed `atomic_write` left in a folder; return those that were removed.

    Args:
        folder: the folder itself is searched, and none below it; one that does not exist holds nothing.
        before: only files last written before this time are removed, in seconds of the file system's clock, such as
            `FolderLock.since`. What another process writes at this moment is younger.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in sorted(Path(folder).iterdir()):
            with contextlib.suppress(OSError):  # another process has renamed or removed it meanwhile
                if _ASIDE.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < before:
                    path.unlink()
                    removed.append(path)
    return removed


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the platform can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
