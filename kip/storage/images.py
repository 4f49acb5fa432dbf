"""Images that are read when they are asked for, so that a set larger than the memory is never wholly in it.

A `Lazy` stands where an array (N, H, W, C) would: it has its shape and dtype, and `images[3]`, `images[10:20]` and
`images[np.array([5, 2])]` are arrays, new ones. What would make one array of the whole set is refused.

| kind | rows are |
|---|---|
| `Stored` | in a file, and are read from it; nothing is mapped, so that what was read before is not resident memory |
| `Held` | in an array |
| `Chosen` | some rows of another `Lazy`, in a given order |
| `Made` | what a function makes of the rows of another `Lazy` |

A data set is lazy where its pixels take more than `in_memory_bytes()`. Methods and networks see the same values then.
"""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kip.errors import ConfigError, DataError, ShapeError

IN_MEMORY_VARIABLE = "KIP_IN_MEMORY_MIB"
IN_MEMORY_BYTES = 2**28
"""Bytes of pixels up to which a data set is held in memory: as float32, which methods see, they are 1 GiB."""
PART_BYTES = 2**22
"""Bytes of the rows that are read, hashed or transformed at once. Preprocessing takes some float64 copies of them."""


def in_memory_bytes() -> int:
    """Return how many bytes of pixels a data set may have to be held in memory: $KIP_IN_MEMORY_MIB, or 256 MiB.

    Raises:
        ConfigError: if the variable is no whole number of MiB.
    """
    given = os.environ.get(IN_MEMORY_VARIABLE)
    if not given:
        return IN_MEMORY_BYTES
    if not given.isdecimal():
        raise ConfigError(f"${IN_MEMORY_VARIABLE}", got=repr(given), expected="a whole number of MiB, such as 256")
    return int(given) << 20


class Lazy(abc.ABC):
    """Rows that are read when they are asked for.

    Args:
        shape: of the whole, (N, ...).
        dtype: of its values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = tuple(int(side) for side in shape), np.dtype(dtype)

    @abc.abstractmethod
    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at int64 indices in 0..N-1, (m,), as a new array (m, ...)."""

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that the whole would take in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, slice):
            return self.take(np.arange(*key.indices(len(self))))
        places = np.asarray(key)
        if places.dtype == bool and places.shape == self.shape[:1]:
            return self.take(np.flatnonzero(places))
        if isinstance(key, tuple) or places.ndim > 1 or (places.dtype.kind not in "iu" and places.size):
            raise TypeError(f"{self!r} takes an index, a slice or an array (m,) of indices, and not {key!r}")
        places = places.astype(np.int64)
        if places.size and not -len(self) <= places.min() <= places.max() < len(self):
            raise IndexError(f"an index outside of the {len(self)} rows of {self!r}")
        taken = self.take(np.atleast_1d(np.where(places < 0, places + len(self), places)))
        return taken if places.ndim else taken[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in parts(self):
            yield from part

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise DataError(
            "something takes a whole data set at once that is too large to be held in memory",
            got=f"{self!r}, {self.nbytes / 2**30:.2f} GiB",
            expected="a method that takes batches, a class at a time, or kernel rows",
            remedy=f"Set a smaller target batch, make the images smaller (--data.side, --data.shrink), or set "
            f"${IN_MEMORY_VARIABLE} to the MiB of pixels that this machine can hold five times.",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'x'.join(map(str, self.shape))} {self.dtype})"

    def made(self, function: Callable[[np.ndarray], np.ndarray], *, shape: tuple[int, ...], dtype: Any) -> Made:
        """Return what a function makes of these rows.

        Args:
            function: of rows (m, ...), which gives m rows; what it makes of a row does not depend on the others.
            shape: of a row that it makes.
            dtype: of what it makes.
        """
        return Made(self, function, (len(self), *shape), dtype)


Images = np.ndarray | Lazy
"""Images in memory, or read when they are asked for."""


class Stored(Lazy):
    """Rows of an array that lies in a file, in C order.

    Args:
        path: the file.
        offset: where the array begins, in bytes.
        shape: of the array.
        dtype: of the array, without Python objects.

    Raises:
        DataError: if the file cannot be read; and, where rows are taken, if it was changed or removed since.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: Any):
        super().__init__(shape, dtype)
        self.path, self._offset = path, offset
        try:
            self._version = _version(os.stat(path))
        except OSError as error:
            raise self._unreadable(error) from error

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows, each run of consecutive ones in one read."""
        taken = np.empty((len(indices), *self.shape[1:]), self.dtype)
        row = taken[:1].nbytes
        if not taken.size:
            return taken
        content = taken.reshape(-1).view(np.uint8).data
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
        try:
            # Opened anew each time: threads share no position, and a file that was replaced is noticed.
            with self.path.open("rb", buffering=0) as file:
                if _version(os.fstat(file.fileno())) != self._version:
                    raise DataError(
                        f"{self.path} was changed while it was being read", remedy="Run the same command again."
                    )
                for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(indices)]):
                    file.seek(self._offset + int(indices[start]) * row)
                    _fill(file, content[start * row : stop * row])
        except OSError as error:
            raise self._unreadable(error) from error
        return taken

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"{self.path} cannot be read", got=error.strerror or repr(error))


class Held(Lazy):
    """Rows of an array in memory.

    Args:
        array: (N, ...).
    """

    def __init__(self, array: np.ndarray):
        super().__init__(array.shape, array.dtype)
        self._array = array

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows."""
        return self._array[indices]


class Chosen(Lazy):
    """Some rows of another.

    Args:
        rows: the other.
        indices: which of its rows, and in which order, (m,) int.
    """

    def __init__(self, rows: Lazy, indices: np.ndarray):
        super().__init__((len(indices), *rows.shape[1:]), rows.dtype)
        self._rows, self._indices = rows, np.asarray(indices, np.int64)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows."""
        return self._rows.take(self._indices[indices])


class Made(Lazy):
    """Rows that a function makes of the rows of another; see `Lazy.made`."""

    def __init__(
        self, rows: Lazy, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], dtype: Any
    ) -> None:
        super().__init__(shape, dtype)
        self._rows, self._function = rows, function

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return rows, made a part at a time."""
        taken = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for part in slices(len(indices), self._rows):
            taken[part] = self._function(self._rows.take(indices[part]))
        return taken


def chosen(images: Images, indices: np.ndarray) -> Images:
    """Return some of the images, in the order of the indices: a copy, or a `Lazy` of a `Lazy`."""
    return Chosen(images, indices) if isinstance(images, Lazy) else images[indices]


def parts(images: Images) -> Iterator[np.ndarray]:
    """Yield images in consecutive parts of at most `PART_BYTES`, or of one row."""
    for part in slices(len(images), images):
        yield images[part]


def slices(count: int, images: Images) -> list[slice]:
    """Split range(count) so that as many rows of `images` take at most `PART_BYTES`."""
    of_row = max(1, math.prod(images.shape[1:]) * images.dtype.itemsize)
    size = max(1, PART_BYTES // of_row)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _fill(file: Any, content: memoryview) -> None:
    while content:
        count = file.readinto(content)
        if not count:
            raise OSError("it ends too early")
        content = content[count:]


def check_image_batch(name: str, images: Images, *, dtype: type | None = None) -> None:
    """Refuse anything but a batch of images (N, H, W, C).

    Args:
        name: the argument's name, for the error.
        images: what came.
        dtype: the dtype it must have; None: any.

    Raises:
        ShapeError: if the rank is not 4, or the dtype differs.
    """
    shape, came = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4:
        raise ShapeError(
            f"{name} is not a batch of images",
            got=type(images).__name__ if shape is None else f"shape {tuple(shape)}",
            expected="an array (N, H, W, C)",
            remedy="A single image needs a leading axis, grey images a trailing one: images[..., None].",
        )
    if dtype is not None and came != np.dtype(dtype):
        raise ShapeError(f"{name} has the wrong dtype", got=came, expected=np.dtype(dtype).name)
