"""Writing files so that a reader never sees half of one, whenever the process is killed."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from kip.errors import OutputError


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


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the platform can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
