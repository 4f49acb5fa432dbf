"""Reading `.npz` archives from anywhere: nothing is unpickled, and nothing is allocated because a header says so."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from kip.errors import DataError
from kip.files import open_regular
from kip.lazy import Stored

REMEDY = "The file is damaged, cut short or of another format: write it again with np.savez."
READ_BYTES = 2**20
"""Bytes that are read at once where only their checksum counts."""
ENCRYPTED = 1
"""The flag of a zip archive's member that a password protects."""


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of a `.npz` archive; none where it is no such archive."""
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []


def read_arrays(path: Path, names: Sequence[str] | None = None, *, remedy: str = REMEDY) -> dict[str, np.ndarray]:
    """Read arrays of a `.npz` archive.

    The header of each array is held against the bytes that the archive has for it, and the arrays together against
    this machine's memory, before the first is read. NumPy would allocate whatever a header claims.

    Args:
        path: the archive; it may be compressed.
        names: the arrays to read; None: all. Others are not looked at.
        remedy: what the error advises where the file as a whole is not such an archive.

    Returns:
        The arrays by name, in the order of `names`.

    Raises:
        DataError: if there is no such file, it is no whole `.npz` archive, it lacks a name, or an array is damaged, is
            of Python objects, or does not fit into memory.
    """
    if not path.exists():
        raise DataError(f"no file {path}", remedy=remedy)
    try:
        open_regular(path).close()  # a pipe would let the reader wait for ever
        if not zipfile.is_zipfile(path):  # np.load would take it for a pickle, and advise to unpickle it
            raise DataError(f"{path} cannot be read", got=_kind(path), expected="a .npz archive", remedy=remedy)
        with zipfile.ZipFile(path) as archive:
            held = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
            names = list(held) if names is None else names
            if missing := [name for name in names if name not in held]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}",
                    got=", ".join(held) or "no array",
                    expected=", ".join(names),
                    remedy=remedy,
                )
            bytes_left = memory_bytes()
            for name in names:
                size = _checked_bytes(path, archive, held[name], name)
                _check_memory(path, name, size, bytes_left)
                bytes_left -= size
            return {name: _array(path, archive, held[name], name) for name in names}
    except DataError:
        raise
    except Exception as error:  # what zipfile raises on damaged files is no closed list
        raise DataError(
            f"{path} cannot be read", got=_reason(error), expected="a .npz archive", remedy=remedy
        ) from None


def stored_arrays(path: Path, names: Sequence[str]) -> dict[str, Stored]:
    """Return arrays of a `.npz` archive that can be read by rows where they lie; the others are left out.

    Those are uncompressed, as `np.savez` writes them, and in C order. As in `read_arrays`, the header of an array is
    held against its bytes, and these against their checksum, in one pass that keeps nothing.

    Args:
        path: the archive.
        names: the arrays to look for.

    Raises:
        DataError: if an array is damaged, or of Python objects.
    """
    stored = {}
    try:
        open_regular(path).close()
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile):
        return {}  # `read_arrays` says why
    with archive, path.open("rb") as raw:
        held = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        for name in names:
            member = held.get(name)
            if member is None or member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
                continue
            _checked_bytes(path, archive, member, name)
            try:
                with archive.open(member) as file:
                    shape, fortran_order, dtype = _header(file)
                    length = file.tell()
                    if fortran_order or not shape:
                        continue
                    while file.read(READ_BYTES):  # at the end, zipfile compares the checksum
                        pass
                stored[name] = Stored(path, _begin_of(member, raw) + length, shape, dtype)
            except DataError:
                raise
            except Exception as error:  # what zipfile raises on damaged files is no closed list
                raise _unreadable(path, name, error) from None
    return stored


def read_array(path: Path) -> np.ndarray:
    """Read the one array of a `.npy` file, after its header was held against the file's size.

    Raises:
        DataError: as `read_arrays` does.
    """
    try:
        with open_regular(path) as file:
            size = _checked_header(path, file, os.fstat(file.fileno()).st_size, path.name)
            _check_memory(path, path.name, size, memory_bytes())
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # what NumPy raises on a damaged file is no closed list
        raise DataError(f"{path} cannot be read", got=_reason(error), expected="a .npy array") from None


def memory_bytes() -> int:
    """Return the machine's memory; where the system does not say, more than any machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 1 << 62


def _checked_bytes(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> int:
    """Return the size of an array, after its header was held against the bytes that the archive has for it."""
    try:
        with archive.open(member) as file:
            return _checked_header(path, file, member.file_size, name)
    except DataError:
        raise
    except Exception as error:
        raise _unreadable(path, name, error) from None


def _checked_header(path: Path, file: IO[bytes], file_size: int, name: str) -> int:
    """Return the size of the array that a .npy file of `file_size` bytes holds, after its header was checked."""
    shape, _, dtype = _header(file)
    data = file_size - file.tell()
    if dtype.hasobject:
        raise DataError(
            f"{path}: {name} cannot be read",
            got="an object array",
            expected="a plain numeric array",
            remedy="Object arrays are never unpickled: stack the images into one uint8 array (N, H, W, C).",
        )
    size = math.prod(shape) * dtype.itemsize
    if size != data or any(side < 0 for side in shape):
        claim = f"a header of {dtype} {shape}, which is {size} bytes, before {data} bytes"
        raise _unreadable(path, name, claim)
    return size


def _check_memory(path: Path, name: str, size: int, room: int) -> None:
    if size > room:
        raise DataError(
            f"{path}: {name} does not fit into this machine's memory",
            got=f"{size / 2**30:.1f} GiB",
            remedy="Make the set smaller, or use a machine with more memory.",
        )


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a .npy file; return shape, whether it is in Fortran order, and dtype."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    else:  # what follows is for fields whose names are no ASCII
        raise ValueError(f"an array of .npy format {version}")
    return shape, fortran_order, dtype


def _begin_of(member: zipfile.ZipInfo, raw: IO[bytes]) -> int:
    """Return where the bytes of an uncompressed member begin: behind its own header, whose length only that says."""
    raw.seek(member.header_offset)
    header = raw.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04" or member.compress_size != member.file_size:
        raise ValueError("a header that is none")
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if begin + member.file_size > os.fstat(raw.fileno()).st_size:
        raise ValueError("an array that ends behind its file")
    return begin


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> np.ndarray:
    try:
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # the checksum of its bytes, above all
        raise _unreadable(path, name, error) from None


def _unreadable(path: Path, name: str, reason: Exception | str) -> DataError:
    return DataError(
        f"{path}: {name} cannot be read",
        got=reason if isinstance(reason, str) else _reason(reason),
        expected="a plain numeric array",
        remedy="The file is damaged: write it again with np.savez.",
    )


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _kind(path: Path) -> str:
    """Say what a file is that is no whole zip archive."""
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        return "a single .npy array"
    if start[:2] == b"PK":
        return "an archive that is cut short or damaged"
    return "something else" if start else "an empty file"
