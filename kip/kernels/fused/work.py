"""The memory of a thread: rings of rows, the planes between levels, their cotangents.

It depends on the architecture and the size of the images, and not on the block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kip.kernels.fused.backward import Sums
from kip.kernels.fused.forward import RING, Saved
from kip.kernels.fused.layout import LANES, Arena, Buffer, Tables


class Work(NamedTuple):
    """Memory of one thread, forward; see `level_forward`. What is of T is None for the NNGP."""

    planes_k: Any
    planes_t: Any
    ring_k: Any
    ring_t: Any
    row_k: Any
    row_t: Any
    total: Any


class BackWork(NamedTuple):
    """Memory of one thread, backward; see `level_pull`."""

    bars_k: Any
    bars_t: Any
    back_k: Any
    back_t: Any
    saved: Saved
    total_bar: Any


class OwnWork(NamedTuple):
    """Memory of one thread for variances, forward; see `own_forward`."""

    planes: Any
    ring: Any
    row: Any
    spare: Any
    spare_2: Any
    total: Any


class OwnBackWork(NamedTuple):
    """And backward; see `own_pull`."""

    bars: Any
    bar_count: int
    back: Any
    saved: Saved
    total_bar: Any


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
    convs, length = _largest(table.pairs)
    sizes = table.pair_planes, (convs + 1) * RING * length, length
    k = [Buffer((size, LANES), dtype) for size in sizes]
    t = [Buffer((size, LANES), dtype) if ntk else None for size in sizes]
    return Work(k[0], t[0], k[1], t[1], k[2], t[2], Buffer((1, LANES), dtype))


def for_pulls(table: Tables, dtype: np.dtype, ntk: bool) -> BackWork:
    """Return memory for `chunk.pairs`, backward."""
    convs, length = _largest(table.pairs)
    sizes = table.pair_planes, convs * RING * length
    k = [Buffer((size, LANES), dtype) for size in sizes]
    t = [Buffer((size, LANES), dtype) if ntk else None for size in sizes]
    return BackWork(k[0], t[0], k[1], t[1], _saved(convs, length, dtype, ntk), Buffer((1, LANES), dtype))


def for_variances(table: Tables, dtype: np.dtype) -> OwnWork:
    """Return memory for `chunk.variances`, forward."""
    convs, length = _largest(table.pairs)
    plane = (int(table.pairs["height"].max()) + 2) * length
    sizes = table.own_planes, (convs + 1) * RING * length, length, plane, plane, 1
    return OwnWork(*(Buffer((size, LANES), dtype) for size in sizes))


def for_own_pulls(table: Tables, dtype: np.dtype) -> OwnBackWork:
    """Return memory for `chunk.variances`, backward."""
    convs, length = _largest(table.pairs)
    bars, back, bar = (Buffer((size, LANES), dtype) for size in (table.own_planes, convs * RING * length, 1))
    return OwnBackWork(bars, table.own_planes, back, _saved(convs, length, dtype, False), bar)


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


def _saved(convs: int, length: int, dtype: np.dtype, ntk: bool) -> Saved:
    w, slope, t = (Buffer((convs * (2 * convs - 1) * length, LANES), dtype) for _ in range(3))
    return Saved(w, slope, t if ntk else None)


def _largest(table: np.ndarray) -> tuple[int, int]:
    """Return the most convolutions of a level and the vectors of its longest row, with the zeros behind it."""
    return int(table["convs"].max()), int(table["width"].max()) + 1
