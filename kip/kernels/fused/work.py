"""The memory of a thread: rings of rows, the planes between levels, their cotangents.

It depends on the architecture and the size of the images, and not on the block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kip.kernels.fused.backward import BackMemory, Sums
from kip.kernels.fused.forward import RING, Memory, Saved
from kip.kernels.fused.layout import LANES, Arena, Buffer, Tables


class Work(NamedTuple):
    """Memory of one thread, forward; see `level_forward`. What is of T is None for the NNGP."""

    k: Memory
    t: Memory | None
    total: Any


class BackWork(NamedTuple):
    """Memory of one thread, backward; see `level_pull`."""

    k: BackMemory
    t: BackMemory | None
    saved: Saved
    total_bar: Any


class OwnWork(NamedTuple):
    """Memory of one thread for variances, forward.

    Attributes:
        pairs: the memory for pairs, of an image with itself; planes are those of the levels of `own` and of the one
            after them.
        spare: a whole plane of rows of width + 1 vectors, and one row more.
        spare_2: a second plane of this kind.
    """

    pairs: Work
    spare: Any
    spare_2: Any


class OwnBackWork(NamedTuple):
    """Memory of one thread for variances, backward.

    Attributes:
        pairs: the memory for pairs; its planes are zeros when a group of images begins.
        plane_count: vectors in these planes.
    """

    pairs: BackWork
    plane_count: int


_mine = threading.local()


def arena() -> Arena:
    """Return this thread's arena, for a block that begins."""
    if "arena" not in _mine.__dict__:
        _mine.arena = Arena()
    _mine.arena.begin()
    return _mine.arena


def of_thread(make: Callable[..., Any], table: Tables, dtype: np.dtype, *flags: bool) -> Any:
    """Return this thread's memory as `make(table, dtype, *flags)` makes it, the last one if it was of the same size."""
    held, key = _mine.__dict__, (id(table), dtype, flags)
    if make.__name__ not in held or held[make.__name__][0] != key:
        held[make.__name__] = (key, make(table, dtype, *flags), table)
    return held[make.__name__][1]


def for_pairs(table: Tables, dtype: np.dtype, ntk: bool) -> Work:
    """Return memory for `chunk.pairs`, forward."""
    return _forward(table, table.pair_planes, dtype, ntk)


def for_pulls(table: Tables, dtype: np.dtype, ntk: bool) -> BackWork:
    """Return memory for `chunk.pairs`, backward."""
    return _backward(table, table.pair_planes, dtype, ntk)


def for_variances(table: Tables, dtype: np.dtype) -> OwnWork:
    """Return memory for `chunk.variances`, forward."""
    plane = (int(table.pairs["height"].max()) + 2) * _largest(table.pairs)[1]
    spare, spare_2 = (Buffer((plane, LANES), dtype) for _ in range(2))
    return OwnWork(_forward(table, table.own_planes, dtype, False), spare, spare_2)


def for_own_pulls(table: Tables, dtype: np.dtype) -> OwnBackWork:
    """Return memory for `chunk.variances`, backward."""
    return OwnBackWork(_backward(table, table.own_planes, dtype, False), table.own_planes)


def _forward(table: Tables, planes: int, dtype: np.dtype, ntk: bool) -> Work:
    convs, length = _largest(table.pairs)
    sizes = planes, (convs + 1) * RING * length, length
    k, t = (Memory(*(Buffer((size, LANES), dtype) for size in sizes)) if wanted else None for wanted in (True, ntk))
    assert k is not None
    return Work(k, t, Buffer((1, LANES), dtype))


def _backward(table: Tables, planes: int, dtype: np.dtype, ntk: bool) -> BackWork:
    convs, length = _largest(table.pairs)
    sizes = planes, convs * RING * length
    k, t = (BackMemory(*(Buffer((size, LANES), dtype) for size in sizes)) if wanted else None for wanted in (True, ntk))
    assert k is not None
    point, slope, ntk_rows = (Buffer((convs * (2 * convs - 1) * length, LANES), dtype) for _ in range(3))
    return BackWork(k, t, Saved(point, slope, ntk_rows if ntk else None), Buffer((1, LANES), dtype))


def sums(table: Tables, dtype: np.dtype, groups: int) -> Sums:
    """Return zeros to add up the cotangents of so many groups of images; of none, if there are 0."""
    level = table.pairs[0]
    pixels = int(level["height"] * level["width"] * level["channels"])
    return Sums(Buffer((groups * pixels, LANES), dtype), Buffer((groups * table.values, LANES), dtype), groups > 0)


def size(memory: Any) -> int:
    """Return the bytes of all buffers in a tuple."""
    if isinstance(memory, tuple):
        return sum(map(size, memory))
    return memory.array.nbytes if isinstance(memory, Buffer) else 0


def _largest(table: np.ndarray) -> tuple[int, int]:
    """Return the most convolutions of a level and the vectors of its longest row, with the zeros behind it."""
    return int(table["convs"].max()), int(table["width"].max()) + 1
