"""Files: written so that a reader never sees half of one, whenever the process is killed; and kip's cache folder."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from kip.errors import OutputError

CACHE_DIR_VARIABLE = "KIP_CACHE_DIR"
_ASIDE = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
"""The names of the files that `atomic_write` writes before the rename."""


def cache_dir() -> Path:
    """Return the folder of what kip keeps between runs: $KIP_CACHE_DIR, or `kip` in the platform's cache folder."""
    if folder := os.environ.get(CACHE_DIR_VARIABLE):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "kip"


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
