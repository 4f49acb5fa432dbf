"""The layout of levels and images in memory for the compiled functions: everything in flat arrays, with offsets.

A *position* is a place of one image. Planes of position pairs hold, for shifts (sy, sx) in -rows .. rows and
-columns .. columns, the pairs (p, p + s) at p, row by row; a vector of sixteen image pairs for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kip.kernels.architecture import Architecture
from kip.kernels.levels import Level, levels

LANES = 16
"""Image pairs in a vector: two 256-bit registers of float32, one of 512 bits. Eight take a sixth to a quarter longer,
because what a row costs by itself, and the constants of the polynomials, serve half as many pairs."""
POOL, FLATTEN, MEAN = 0, 1, 2
Take = Callable[[int], np.ndarray]
"""Returns so many bytes of memory."""
ENDS = {"pool": POOL, "flatten": FLATTEN, "mean": MEAN}

LEVEL = np.dtype(
    [
        ("height", np.int64),
        ("width", np.int64),
        ("channels", np.int64),  # of the images
        ("convs", np.int64),
        ("end", np.int64),
        ("rows", np.int64),  # radius of the shifts along y
        ("columns", np.int64),  # and along x
        ("planes", np.int64),  # where this level's input planes begin; of no meaning for the first
        ("up_rows", np.int64),  # the next level's radii, and where its input planes begin
        ("up_columns", np.int64),
        ("up_planes", np.int64),
        ("values", np.int64),  # where its variances begin among an image's
        ("first_weight", np.float64),  # what the first convolution's sum is multiplied by, and those after it
        ("weight", np.float64),
        ("bias", np.float64),
    ]
)
"""The numbers by which compiled functions know a level."""


class Tables(NamedTuple):
    """An architecture's levels for images of one size.

    Attributes:
        pairs: `LEVEL` records of a pair of images.
        own: `LEVEL` records of an image with itself, as far as its variances need them.
        pair_planes: vectors in all input planes of `pairs`.
        own_planes: vectors in all input planes of `own` and the level after it.
        values: variances of an image, over all convolutions.
        weight: what the sum over the last level is multiplied by.
        bias: what is then added.
        position_pairs: pairs of positions that go through an activation, for one pair of images.
    """

    pairs: np.ndarray
    own: np.ndarray
    pair_planes: int
    own_planes: int
    values: int
    weight: float
    bias: float
    position_pairs: int


def tables(architecture: Architecture, height: int, width: int, channels: int) -> Tables:
    """Return the tables of an architecture's kernel for images (height, width, channels)."""
    w, b = architecture.w_std**2, architecture.b_std**2
    shape = levels(architecture, height, width)
    top = max(i for i, level in enumerate(shape) if level.convs)
    last = shape[-1]
    mean = last.end == "mean"
    reach = (last.height - 1, last.width - 1) if mean else (0, 0)
    pairs, pair_planes = _table(shape, reach, channels, w, b)
    own, own_planes = _table(shape[: top + 1], (0, 0), channels, w, b)
    positions = last.height * last.width
    pooled = 16.0 if len(shape) > 1 and not last.convs else 1.0
    return Tables(
        pairs,
        own[:top],
        pair_planes,
        own_planes,
        sum(level.convs * level.height * level.width for level in shape),
        w / pooled / (positions**2 if mean else positions),
        b,
        sum(
            level["convs"] * _band(level["height"], level["rows"]) * _band(level["width"], level["columns"])
            for level in pairs
        ),
    )


def _table(
    shape: tuple[Level, ...], reach: tuple[int, int], channels: int, w: float, b: float
) -> tuple[np.ndarray, int]:
    """Return the records of levels whose last needs shifts up to `reach`, and the vectors in their input planes."""
    radii = [reach]
    for level in reversed(shape[:-1]):
        rows, columns = radii[0]
        radii.insert(0, (min(2 * rows + 1, level.height - 1), min(2 * columns + 1, level.width - 1)))
    table = np.zeros(len(shape), LEVEL)
    planes = values = 0
    for i, (level, (rows, columns)) in enumerate(zip(shape, radii, strict=True)):
        positions = level.height * level.width
        # A pool adds up sixteen pairs of positions; the next level's first convolution divides by their number.
        first_weight = w / 9 / (channels if i == 0 else 16)
        up = radii[min(i + 1, len(shape) - 1)]
        begin, planes = planes, planes + ((2 * rows + 1) * (2 * columns + 1) * positions if i else 0)
        table[i] = (
            *(level.height, level.width, channels, level.convs, ENDS[level.end], rows, columns, begin),
            *(*up, planes, values, first_weight, w / 9, b),
        )
        values += level.convs * positions
    return table, planes


def _band(side: int, radius: int) -> int:
    """Return how many pairs of positions along an axis are at most `radius` apart."""
    return int(side + 2 * sum(side - s for s in range(1, radius + 1)))


def kind_of(dtype: np.dtype) -> str:
    """Return the name of float32 or float64, which NumPy takes microseconds to write."""
    return "float32" if dtype.itemsize == 4 else "float64"


def fresh(size: int) -> np.ndarray:
    """Return so many bytes of memory, zeros, that nothing else uses."""
    return np.zeros(size, np.uint8)


class Arena:
    """Memory that blocks of images are laid out in, one block after another; each thread needs its own.

    The system hands out fresh memory page by page, at the first touch of each. That takes longer than the arithmetic of
    a small block under a cheap kernel. What an arena gave is given again after the next `begin`.
    """

    MOST = 1 << 24
    """The bytes that are kept; what a block takes beyond them is fresh."""

    def __init__(self) -> None:
        self._memory = fresh(0)
        self._taken = 0

    def begin(self) -> None:
        """Begin a block: what was taken before is free again."""
        if len(self._memory) < self._taken <= self.MOST:
            self._memory = fresh(self._taken)
        self._taken = 0

    def take(self, size: int) -> np.ndarray:
        """Return so many bytes, of which some may not be zero."""
        first, self._taken = self._taken, self._taken + size
        return self._memory[first : self._taken] if self._taken <= len(self._memory) else fresh(size)


class Buffer:
    """An array of numbers (n,) or of vectors (n, 16), of which compiled functions see the address.

    Args:
        shape: the shape of the array.
        dtype: float32 or float64.
        take: returns the array's memory; by default zeros that nothing else uses.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, take: Take = fresh):
        # It begins at a multiple of 64 bytes, so that no vector lies across two lines of the cache.
        size = math.prod(shape) * dtype.itemsize
        memory = take(size + 64)
        address = memory.__array_interface__["data"][0]
        start = -address % 64
        self.array = memory[start : start + size].view(dtype).reshape(shape)
        """The array, at first what its memory held."""
        self.address = address + start

    @classmethod
    def of(cls, array: np.ndarray) -> Buffer:
        """Return a contiguous array as a buffer of numbers, in its own memory."""
        buffer = cls.__new__(cls)
        buffer.array, buffer.address = array.reshape(-1), array.__array_interface__["data"][0]
        return buffer

    def numbers(self) -> Buffer:
        """Return the same memory as a buffer of numbers, whatever this one holds."""
        return Buffer.of(self.array)


def in_lanes(rows: np.ndarray) -> Buffer:
    """Lay out values of images (N, k) in vectors, (groups k, 16); copies of the last image fill what is left."""
    count, values = rows.shape
    groups = -(-count // LANES)
    buffer = Buffer((groups * values, LANES), rows.dtype)
    vectors = buffer.array.reshape(groups, values, LANES)
    full = count // LANES
    vectors[:full] = rows[: full * LANES].reshape(full, LANES, values).swapaxes(1, 2)
    if full < groups:
        vectors[full] = rows[np.minimum(np.arange(full * LANES, groups * LANES), count - 1)].T
    return buffer


def by_image(vectors: Buffer, count: int) -> np.ndarray:
    """Undo `in_lanes`: return (count, k)."""
    images = vectors.array.reshape(-(-count // LANES), -1, LANES).swapaxes(1, 2)
    return np.ascontiguousarray(images.reshape(-1, images.shape[2])[:count])


def cotangents_in_lanes(bar: np.ndarray) -> Buffer:
    """Lay out cotangents (N, M) of pairs for second images in vectors: (N groups, 16), zeros where no image is."""
    count, second = bar.shape
    groups = -(-second // LANES)
    buffer = Buffer((count * groups, LANES), bar.dtype)
    buffer.array.reshape(count, groups * LANES)[:, :second] = bar
    return buffer
