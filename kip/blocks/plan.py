"""The tasks that a step's kernel matrices are cut into, and the tiles that a task is computed in.

    K_ts (m, n): all entries.        K_ss (n, n): those on and above the diagonal; the rest is their transpose.

A *task* is what an executor hands out: some target rows against some support columns. Its result is one block, and
backward one gradient for its columns. A *tile* is what fits the memory of a device. A task is computed tile by tile
and its gradient summed in that order, and the gradients of tasks are summed in theirs, so that the bits depend on the
plan alone; and the plan depends on the configuration and the numbers of images, never on who computes.

Tasks and tiles name images by position only; nothing here holds an array.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from kip.config import value
from kip.kernels.architecture import Implementation

ROWS_TOGETHER = 16
"""Runs of at least so many target rows are multiples of it, but for the last: the engine's form for CPUs computes
sixteen pairs in a vector (`kip.kernels.fused.layout.LANES`), and accelerators fill theirs by powers of two."""
ROW_RUNS = 3
"""Runs of target rows in a step. Every run returns a gradient for every support image, so that this many times X_s
travels from the workers to the server in a step: 3.7 MB for 100 images of 32x32x3."""
COLUMN_RUNS = 25
"""The most runs of support columns, where `Blocks.task_columns` does not say otherwise: 75 tasks a step."""
LEAST_COLUMNS = 4
"""The fewest support columns of a task, where `Blocks.task_columns` does not say otherwise: narrower tiles waste work
that is done once for each image."""
WHOLE_SIDE = 256
"""The most images on each side of a task of a whole matrix, see `whole`: from here on an image's own work is little
beside its pairs', and one device has many tasks to report and others to share."""
TASK_BYTES = 1 << 30
"""Temporary memory, summed over all its entries, below which a task is not worth sending: it stands for work."""


@value
class Blocks:
    """Options of the computation of kernel matrices. They are part of the experiment, because the tile size changes the
    last bits.
    """

    memory_mib: Annotated[int, Field(ge=1)] = 1024
    """The temporary memory that one tile may take on each device, in MiB. It sets the tile size."""
    dtype: Literal["float32", "float64"] = "float32"
    """The dtype of the kernel's computation. The KRR solve is in float64 in any case."""
    implementation: Implementation = "auto"
    """The program that computes the kernels of networks: `auto` takes kip's engine where it can, and neural-tangents
    for the rest. The engine has a form for CPUs, `numba`, one for GPUs, `pallas`, and one for XLA, `engine`. `auto`
    takes the first on a CPU, the faster of the others on a GPU, and the last elsewhere."""
    task_columns: Annotated[int, Field(ge=1)] | None = None
    """The number of support columns of one task. None gives some 75 tasks a step, and fewer for cheap kernels. 1 gives
    the most tasks, which suits more than some 20 devices."""


class Tile(NamedTuple):
    """One block of a kernel matrix: `rows` of the targets (or of the support), `columns` of the support."""

    matrix: Literal["ss", "ts"]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def on_diagonal(self) -> bool:
        """True if both sides are the same support images."""
        return self.matrix == "ss" and self.rows == self.columns

    @property
    def where(self) -> tuple[slice, slice]:
        """The block's place in its matrix."""
        return slice(*self.rows), slice(*self.columns)


class Task(NamedTuple):
    """The unit that is handed to a device: `rows` of the targets (or of the support) against `columns` of the support.

    A task of K_ss is a strip of its upper triangle: rows (a, b) against columns (a, n), of which the entries below
    the diagonal tiles are not computed, and are zero.
    """

    matrix: Literal["ss", "ts"]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def where(self) -> tuple[slice, slice]:
        """The block's place in its matrix."""
        return slice(*self.rows), slice(*self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the block."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


class TileSize(NamedTuple):
    """The size of a full tile: rows and columns in K_ts, and the side of the square tiles of K_ss."""

    rows: int
    columns: int
    side: int

    def shape(self, tile: Tile) -> tuple[int, int]:
        """The full size that a tile, ragged or not, is computed at."""
        return (self.side, self.side) if tile.matrix == "ss" else (self.rows, self.columns)


class Plan(NamedTuple):
    """The tasks of a step, in the order in which their results are summed, and the size of their tiles."""

    ss: list[Task]
    ts: list[Task]
    size: TileSize


def plan(
    num_support: int, num_target: int, entry_bytes: int, memory_bytes: int, *, task_columns: int | None = None
) -> Plan:
    """Return the tasks of K_ss and K_ts, and the largest tiles whose entries fit the memory.

    All runs of a side are of one length but the last, which is shorter: with room for 64, a side of 100 images is cut
    into 50 + 50 and not 64 + 36, because every tile is computed at full size. Runs of target rows are multiples of
    `ROWS_TOGETHER` where they are as long as that: 100 targets are cut into 48 + 48 + 4.

    Args:
        num_support: n, at least 1.
        num_target: m; may be 0.
        entry_bytes: temporary memory of forward and vjp for one kernel entry, in bytes.
        memory_bytes: what a tile may take. One entry is computed even if it does not fit.
        task_columns: see `Blocks.task_columns`.
    """
    entries = max(1, memory_bytes // entry_bytes)
    rows = _even_rows(max(1, num_target), math.ceil(max(1, num_target) / ROW_RUNS))
    if task_columns is None:
        worth_sending = math.ceil(TASK_BYTES / (rows * entry_bytes))
        task_columns = max(LEAST_COLUMNS, math.ceil(num_support / COLUMN_RUNS), worth_sending)
    columns = _even(num_support, min(num_support, task_columns))
    tile_columns = _even(columns, min(columns, math.isqrt(entries)))
    size = TileSize(
        rows=_even_rows(rows, min(rows, max(1, entries // tile_columns)), round_up=False),
        columns=tile_columns,
        side=_even(num_support, min(num_support, math.isqrt(entries))),
    )
    ts = [Task("ts", run, across) for run in _split(num_target, rows) for across in _split(num_support, columns)]
    ss = [Task("ss", strip, (strip[0], num_support)) for strip in _strips(num_support, size.side)]
    return Plan(ss, ts, size)


def whole(num_columns: int, num_rows: int | None, entry_bytes: int, memory_bytes: int) -> Plan:
    """Return the tasks of a whole matrix, each of one tile: of K_ts, or of the upper triangle of K_ss.

    Tasks are as square as the sides allow, so that memory holds little beside the matrix. Their sides are multiples of
    `ROWS_TOGETHER` where the memory has room for as many.

    Args:
        num_columns: n, at least 1.
        num_rows: m, at least 1; None: the rows are the columns' images, and the matrix is symmetric.
        entry_bytes: temporary memory of forward and vjp for one kernel entry, in bytes.
        memory_bytes: what a tile may take. One entry is computed even if it does not fit.
    """
    most = min(WHOLE_SIDE, math.isqrt(max(1, memory_bytes // entry_bytes)))
    columns = _side(num_columns, most)
    across = _split(num_columns, columns)
    if num_rows is None:
        pairs = [(rows, run) for rows in across for run in across if rows[0] <= run[0]]
        return Plan([Task("ss", *pair) for pair in pairs], [], TileSize(columns, columns, columns))
    rows = _side(num_rows, most)
    ts = [Task("ts", run, columns) for run in _split(num_rows, rows) for columns in across]
    return Plan([], ts, TileSize(rows, columns, columns))


def tiles(task: Task, size: TileSize) -> list[Tile]:
    """Return the tiles of a task, in the order in which their results are summed: row by row."""
    height, width = (size.side, size.side) if task.matrix == "ss" else (size.rows, size.columns)
    return [
        Tile(task.matrix, rows, columns)
        for rows in _split(task.rows[1], height, task.rows[0])
        for columns in _split(task.columns[1], width, task.columns[0])
        if task.matrix == "ts" or rows[0] <= columns[0]
    ]


def _strips(length: int, side: int) -> list[tuple[int, int]]:
    """Cut the rows of a triangle in two parts of about equal area, at a boundary of tiles; one, if it is one tile."""
    if side >= length:
        return [(0, length)]
    cut = max(1, round(length * (1 - math.sqrt(0.5)) / side)) * side
    return [(0, cut), (cut, length)]


def _even(length: int, most: int) -> int:
    return math.ceil(length / math.ceil(length / most))


def _even_rows(length: int, most: int, *, round_up: bool = True) -> int:
    """Return as `_even` does the length of runs of at most `most` rows, as a multiple of `ROWS_TOGETHER`.

    It may be more than `most` to be one, with `round_up`. Runs that are shorter than `ROWS_TOGETHER` are even.
    """
    if most < ROWS_TOGETHER:
        return _even(length, most)
    rounded = math.ceil if round_up else math.floor
    return ROWS_TOGETHER * _even(math.ceil(length / ROWS_TOGETHER), rounded(most / ROWS_TOGETHER))


def _side(length: int, most: int) -> int:
    return length if length <= most else _even_rows(length, most, round_up=False)


def _split(stop: int, size: int, start: int = 0) -> list[tuple[int, int]]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]
