"""Reading `.npz` archives from anywhere: nothing is unpickled, and nothing is allocated because a header says so.

The arrays of a file take no more memory than `kip.storage.bounds.file_bytes`, which depends on the size of the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from kip.errors import DataError, KipError
from kip.storage import bounds
from kip.storage.files import open_regular
from kip.storage.images import Stored

REMEDY = "The file is damaged, cut short or of another format: write it again with np.savez."
READ_BYTES = 2**20
"""Bytes that are read at once where only their checksum counts."""
HEADER_BYTES = 2**16
"""The longest header of an array; NumPy would read up to 4 GiB for one before it looks at it."""
KINDS = "biufcUS"
"""The kinds of arrays that are read: numbers and texts."""
LONGEST = 2**48
"""The longest axis, which an array without values may have."""
LISTED = 12
"""Names that an error lists."""
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The compressions that NumPy writes; others may take any memory by themselves."""
ENCRYPTED = 1
"""The flag of a zip archive's member that a password protects."""


class Header(NamedTuple):
    """The statements of an array's header about it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    length: int
    """Bytes of the header."""

    @property
    def nbytes(self) -> int:
        """The bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_headers(path: Path, names: Sequence[str] | None = None, *, remedy: str = REMEDY) -> dict[str, Header]:
    """Return what the headers of a `.npz` archive say; no array is read.

    Args:
        path: the archive.
        names: the arrays; None: all.
        remedy: as in `read_arrays`.

    Raises:
        DataError: as in `read_arrays`.
    """
    with _opened(path, names, remedy) as (archive, members):
        return _headers(path, archive, members)


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
    with _opened(path, names, remedy) as (archive, members):
        _headers(path, archive, members)
        return {name: _array(path, archive, member, name) for name, member in members.items()}


@contextlib.contextmanager
def _opened(
    path: Path, names: Sequence[str] | None, remedy: str
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """Give an archive and its members of these names."""
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
                    got=_listed(held),
                    expected=", ".join(names),
                    remedy=remedy,
                )
            yield archive, {name: held[name] for name in names}
    except KipError:
        raise
    except Exception as error:  # what zipfile raises on damaged files is no closed list
        raise DataError(
            f"{path} cannot be read", got=_reason(error), expected="a .npz archive", remedy=remedy
        ) from None


def _headers(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, Header]:
    """Return what headers say, after they were held against the archive and the memory that the file may take."""
    headers, together = {}, 0
    for name, member in members.items():
        headers[name] = _checked(path, archive, member, name)
        together += headers[name].nbytes
        _check_memory(path, name, together, bounds.file_bytes(path.stat().st_size))
    return headers


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
            header = _checked(path, archive, member, name)
            if header.fortran_order or not header.shape:
                continue
            try:
                with archive.open(member) as file:
                    while file.read(READ_BYTES):  # at the end, zipfile compares the checksum
                        pass
                stored[name] = Stored(path, _begin_of(member, raw) + header.length, header.shape, header.dtype)
            except KipError:
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
            header = _checked_header(path, file, os.fstat(file.fileno()).st_size, path.name)
            _check_memory(path, path.name, header.nbytes, header.nbytes)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    except KipError:
        raise
    except Exception as error:  # what NumPy raises on a damaged file is no closed list
        raise DataError(f"{path} cannot be read", got=_reason(error), expected="a .npy array") from None


def memory_bytes() -> int:
    """Return the machine's memory; where the system does not say, more than any machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 1 << 62


def _checked(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Header:
    """Return the header of an array, after it was held against the bytes that the archive has for it."""
    if member.compress_type not in COMPRESSIONS:
        raise _unreadable(path, name, f"compression {member.compress_type}, which NumPy does not write")
    try:
        with archive.open(member) as file:
            return _checked_header(path, file, member.file_size, name)
    except KipError:
        raise
    except Exception as error:
        raise _unreadable(path, name, error) from None


def _checked_header(path: Path, file: IO[bytes], file_size: int, name: str) -> Header:
    """Return the header of a .npy file of `file_size` bytes, after it was checked."""
    header = _header(io.BytesIO(file.read(HEADER_BYTES)))
    if header.dtype.hasobject:
        raise DataError(
            f"{path}: {name} cannot be read",
            got="an object array",
            expected="a plain numeric array",
            remedy="Object arrays are never unpickled: stack the images into one uint8 array (N, H, W, C).",
        )
    data = file_size - header.length
    if header.nbytes != data or not all(0 <= side < LONGEST for side in header.shape):
        claim = f"a header of {header.dtype} {header.shape}, which is {header.nbytes} bytes, before {data} bytes"
        raise _unreadable(path, name, claim)
    if header.dtype.kind not in KINDS:
        raise DataError(
            f"{path}: {name} cannot be read",
            got=f"an array of {header.dtype}",
            expected="a plain numeric array",
            remedy="NumPy saves bfloat16 as void (V2): convert it with .astype(np.float32) first.",
        )
    return header


def _check_memory(path: Path, name: str, together: int, most: int) -> None:
    """Refuse an array that takes too much memory with those before it."""
    if together > memory_bytes():
        raise DataError(
            f"{path}: {name} does not fit into this machine's memory",
            got=f"{together / 2**30:.1f} GiB",
            remedy="Make the set smaller, or use a machine with more memory.",
        )
    if together > most:
        raise DataError(
            f"{path}: {name} takes more memory than a file of this size may",
            got=f"{together / 2**20:.0f} MiB with the arrays before it",
            expected=f"at most {most / 2**20:.0f} MiB",
            remedy=f"Set ${bounds.FILE_VARIABLE} to more MiB if you trust the file.",
        )


def _header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    else:  # what follows is for fields whose names are no ASCII
        raise ValueError(f"an array of .npy format {version}")
    return Header(shape, dtype, fortran_order, file.tell())


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


def _listed(names: Iterable[str]) -> str:
    """Return the names of arrays, of many the first."""
    names = list(names)
    shown = ", ".join(name[:80].encode("unicode_escape").decode() for name in names[:LISTED])
    return (f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown) or "no array"


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
