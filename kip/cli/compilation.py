"""JAX's persistent compilation cache, for the command line and the tests. Importing kip sets nothing.

Programs that XLA has compiled are kept in kip's cache folder, so that the second command starts without compiling
them. JAX loads them as machine code: the folder is the user's alone, and one that others can write is not used.

Files are removed from it only by JAX's own names for them, and where they are regular files.

JAX can bound the cache itself (`jax_compilation_cache_max_size`), but a kill between its two files of an entry makes
every later write fail. And an entry that a kill cut short stays for ever, with a warning at each reading. So both are
looked after here, once at the start of a command.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from kip import machine
from kip.errors import OutputError
from kip.storage.files import cache_dir, check_private, open_regular

LOG = logging.getLogger(__name__)
VARIABLE = "KIP_COMPILATION_CACHE"
OFF = ("off", "0", "no", "false")
LARGEST_BYTES = 1 << 30
"""The most bytes of the cache when a command starts; the entries longest unused are removed beyond it."""
CHECKED = ".checked"
"""The file whose time says until when entries have been looked at."""
ENTRY = re.compile(r"[^/]+-[0-9a-f]{64}-(cache|atime)")
"""The names of JAX's files: the program's, the hash of what it depends on, and which of the two."""
SAME_BITS = (0, 10)
"""The first jaxlib of which it was seen that a kept program gives the bits of one that was compiled just now. With
0.6.2 a worker that read programs and a server that compiled them, with three simulated devices, were seen to differ;
whether it was the reading or the devices was not told apart."""
MIN_SECONDS = "0.1"
"""Programs that compile faster are not kept: reading them takes as long."""


def keep_programs(folder: Path | None = None) -> Path | None:
    """Let JAX keep what it compiles, in this process and in those that it starts; return the folder.

    It sets JAX's environment variables, and so has to be called before JAX is imported. None comes back, and nothing is
    set, if $KIP_COMPILATION_CACHE is `off`, if the environment names a compilation cache of the user's own, if JAX is
    imported already, if jaxlib is too old (`SAME_BITS`), or if the folder cannot be used; of the last, a warning says
    why.

    Args:
        folder: where; None: a folder for this machine's processor inside `kip.storage.files.cache_dir()`.
    """
    if os.environ.get(VARIABLE, "").strip().lower() in OFF:
        return None
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or "jax" in sys.modules:
        return None
    if tuple(int(part) for part in version("jaxlib").split(".")[:2]) < SAME_BITS:
        return None
    try:
        folder = cache_dir() / f"programs-{_processor()}" if folder is None else folder
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        _check_owner(folder)
        _remove_damaged(folder)
        _remove_oldest(folder)
    except OSError as error:
        reason = error if isinstance(error, OutputError) else f"{error.strerror or error} ({folder})"
        LOG.warning("compiled programs are not kept: %s. %s=off keeps kip from trying", reason, VARIABLE)
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", MIN_SECONDS)
    return folder


def _processor() -> str:
    """Return a name for what this machine's programs run on: XLA compiles for the processor and its usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return hashlib.sha256(f"{machine.processor_features()} {cores}".encode()).hexdigest()[:16]


def _check_owner(folder: Path) -> None:
    """Refuse a folder whose files others can choose, that cannot be written, or that is a link to another one."""
    if folder.is_symlink():
        raise PermissionError(errno.EPERM, "it is a link, which is not followed, as files are removed there")
    check_private(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EPERM, "the folder cannot be written")


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield JAX's own files in its cache: regular ones, by their names."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process has removed it meanwhile
            about = path.lstat()
            if ENTRY.fullmatch(path.name) and stat.S_ISREG(about.st_mode):
                yield path, about


def _remove_damaged(folder: Path) -> None:
    """Remove what a kill cut short, of the entries that are newer than the last look; JAX would never write it again.

    Entries are zlib streams. Where JAX finds a zstd library they are of that format, and JAX's own warning has to do.
    """
    mark = folder / CHECKED
    last = mark.stat().st_mtime if mark.exists() else 0.0
    mark.touch()
    for path, about in _entries(folder):
        with contextlib.suppress(OSError):
            if about.st_mtime < last:
                continue
            with open_regular(path) as file:
                is_whole = _is_whole(file.read())
            if not is_whole:
                path.unlink()


def _is_whole(entry: bytes) -> bool:
    if entry[:1] != b"\x78":
        return bool(entry)
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True


def _remove_oldest(folder: Path) -> None:
    """Bring the folder down to three quarters of its bound, if it holds more."""
    entries = [(max(about.st_atime, about.st_mtime), about.st_size, path) for path, about in _entries(folder)]
    total = sum(size for _, size, _ in entries)
    if total <= LARGEST_BYTES:
        return
    for _, size, path in sorted(entries):
        if total <= LARGEST_BYTES * 3 // 4:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
