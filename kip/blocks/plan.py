"""The tasks that a step's kernel matrices are cut into, and the tiles that a task is computed in.

    K_ts (m, n): all entries.        K_ss (n, n): those on and above the diagonal; the rest is their transpose.

A *task* is what an executor hands out: some target rows against some support columns. Its result is one block, and
backward one gradient for its columns. A *tile* is what fits the memory of a device.

The plan has the smallest tasks, each one run of rows. They are computed tile by tile, and their gradients summed in
that order; the gradients of the runs of the same columns are summed in pairs, pairs of pairs and so on (`settle`). A
task of 2^k neighbouring runs gives a sum of that tree, so that `merged` makes larger tasks for few devices without
changing a bit. The bits depend on the plan alone; and the plan depends on the configuration and the numbers of images,
never on who computes.

Tasks and tiles name images by position only; nothing here holds an array.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from kip.config import value
from kip.kernels.architecture import Implementation

ROWS_TOGETHER = 16
"""Runs of at least so many target rows are multiples of it, but for the last: the engine's form for CPUs computes
sixteen pairs in a vector (`kip.kernels.fused.layout.LANES`), and accelerators fill theirs by powers of two."""
TASKS = 400
"""The most tasks of K_ts, where they are no larger than `LARGE_ENTRIES`: enough for some hundred devices."""
LARGE_ENTRIES = 8192
"""Entries of a task from which on there are more than `TASKS`, up to ten times as many: for a thousand devices."""
LEAST_ENTRIES = 1024
"""The fewest entries of a task: less does not fill an accelerator."""
TASK_BYTES = 1 << 30
"""Temporary memory, summed over all its entries, below which a task is not worth sending: it stands for work."""
ROW_RUNS = 3
"""The fewest runs of target rows, whatever a task is worth."""
COLUMN_RUNS = 20
"""The most runs of support columns, where `Blocks.task_columns` does not say otherwise."""
LEAST_COLUMNS = 4
"""The fewest support columns of a task, where `Blocks.task_columns` does not say otherwise: narrower tiles waste work
that is done once for each image."""
STRIPS = 16
"""The most tasks of K_ss."""
PLACES = 16
"""Devices for which tasks are merged where there are fewer, so that a bar has some hundred steps."""
WHOLE_SIDE = 256
"""The most images on each side of a task of a whole matrix, see `whole`: from here on an image's own work is little
beside its pairs', and one device has many tasks to report and others to share."""


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
    """The number of support columns of one task. None cuts them into twenty runs, and into fewer for cheap kernels or
    few images. Fewer columns give more tasks, or tasks of more target images."""


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
    """The size of a full tile: rows and columns in K_ts, and the side of the square tiles of K_ss.

    `run` is the length of a run of target rows, whose gradient is summed before it is added to others'; 0 where a task
    has one run.
    """

    rows: int
    columns: int
    side: int
    run: int = 0

    def shape(self, tile: Tile) -> tuple[int, int]:
        """The full size that a tile, ragged or not, is computed at."""
        return (self.side, self.side) if tile.matrix == "ss" else (self.rows, self.columns)


class Plan(NamedTuple):
    """The smallest tasks of a step, and the size of their tiles. The gradients of `ss` are summed in their order."""

    ss: list[Task]
    ts: list[Task]
    size: TileSize


def plan(
    num_support: int,
    num_target: int,
    entry_bytes: int,
    memory_bytes: int,
    *,
    task_columns: int | None = None,
    lanes: int = 1,
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
        lanes: the number whose multiples the rows of a tile are filled up to; the memory holds as many entries.
    """
    entries = max(1, memory_bytes // entry_bytes)
    targets = max(1, num_target)
    least = max(LEAST_ENTRIES, math.ceil(TASK_BYTES / entry_bytes))
    if task_columns is None:
        worth_sending = math.ceil(least / math.ceil(targets / ROW_RUNS))
        task_columns = max(LEAST_COLUMNS, math.ceil(num_support / COLUMN_RUNS), worth_sending)
    columns = _even(num_support, min(num_support, task_columns))
    most = max(TASKS, min(10 * TASKS, targets * num_support // LARGE_ENTRIES))
    runs = min(targets * columns // least, most // math.ceil(num_support / columns))
    rows = _even_rows(targets, math.ceil(targets / max(ROW_RUNS, runs)))
    area = max(least, rows * columns)
    # The rows of a tile fill a vector, where memory allows.
    in_vectors = entries // max(ROWS_TOGETHER, lanes) or columns
    tile_columns = _even(columns, min(columns, math.isqrt(entries), in_vectors))
    size = TileSize(
        rows=_even_rows(rows, min(rows, _filled_up(max(1, entries // tile_columns), lanes)), round_up=False),
        columns=tile_columns,
        side=_even(num_support, min(num_support, _square(min(entries, max(area, lanes)), lanes))),
        run=rows,
    )
    ts = [Task("ts", run, across) for run in _split(num_target, rows) for across in _split(num_support, columns)]
    ss = [Task("ss", strip, (strip[0], num_support)) for strip in _strips(num_support, size.side, area)]
    return Plan(ss, ts, size)


def merged(made: Plan, places: int) -> list[Task]:
    """Return the tasks of K_ts as they are handed out: neighbouring runs of the same columns together.

    A task has 2^k runs from a multiple of 2^k on, the last ones of a side fewer, so that its gradient is a node of the
    tree of sums (`settle`). Half of the columns are in tasks so large that each place gets about one, half of the
    others in tasks of half that size, and so on: the small ones at the end let all places finish together.

    Args:
        made: the plan.
        places: how many devices or workers there are.
    """
    sides: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for task in made.ts:
        sides.setdefault(task.columns, []).append(task.rows)
    places = max(places, PLACES)
    share = math.ceil(len(made.ts) / max(1, places - len(made.ss)))
    is_one_for_each = share in (1, 2, 4)  # no place finishes earlier with smaller ones, which are more messages
    together = share if is_one_for_each else 1 << max(0, (len(made.ts) // places).bit_length() - 1)
    tasks, left = [], list(sides.items())
    while left:
        now = len(left) if is_one_for_each or together == 1 else math.ceil(len(left) / 2)
        for columns, rows in left[:now]:
            ends = [
                (rows[first], rows[min(first + together, len(rows)) - 1]) for first in range(0, len(rows), together)
            ]
            tasks += [Task("ts", (first[0], last[1]), columns) for first, last in ends]
        left, together = left[now:], max(1, together // 2)
    return tasks


def by_runs(task: Task, size: TileSize) -> list[Task]:
    """Return a task cut into its runs of target rows, in their order; a task of K_ss is one."""
    length = size.run if size.run and task.matrix == "ts" else task.shape[0]
    return [task._replace(rows=rows) for rows in _split(task.rows[1], length, task.rows[0])]


def runs(task: Task, size: TileSize) -> tuple[int, int]:
    """Return the numbers of the first run of target rows of a task of K_ts, and of the one after its last."""
    first = task.rows[0] // size.run if size.run else 0
    return first, first + len(by_runs(task, size))


def settle(sums: dict[tuple[int, int], np.ndarray], first: int, last: int) -> bool:
    """Add up what lies side by side in the tree of sums of runs, and say whether the sum of all of them is known.

    The sum of runs `first` to `last` is that of the first 2^k, the most that are fewer than all, and of the others. The
    tree depends on their number alone, so that a task's own runs may be counted from 0.

    Args:
        sums: the known sums, by their runs; those that are added up are replaced by their sum.
        first: the first run.
        last: the run after the last.
    """
    if (first, last) in sums:
        return True
    if last - first < 2:
        return False
    middle = first + (1 << (last - first - 1).bit_length() - 1)
    known = [settle(sums, first, middle), settle(sums, middle, last)]
    if all(known):
        sums[first, last] = sums.pop((first, middle)) + sums.pop((middle, last))
    return all(known)


def whole(num_columns: int, num_rows: int | None, entry_bytes: int, memory_bytes: int, *, lanes: int = 1) -> Plan:
    """Return the tasks of a whole matrix, each of one tile: of K_ts, or of the upper triangle of K_ss.

    Tasks are as square as the sides allow, so that memory holds little beside the matrix. Their sides are multiples of
    `ROWS_TOGETHER` where the memory has room for as many.

    Args:
        num_columns: n, at least 1.
        num_rows: m, at least 1; None: the rows are the columns' images, and the matrix is symmetric.
        entry_bytes: temporary memory of forward and vjp for one kernel entry, in bytes.
        memory_bytes: what a tile may take. One entry is computed even if it does not fit.
        lanes: as in `plan`.
    """
    most = min(WHOLE_SIDE, _square(max(1, memory_bytes // entry_bytes), lanes))
    columns = _side(num_columns, most)
    across = _split(num_columns, columns)
    if num_rows is None:
        pairs = [(rows, run) for rows in across for run in across if rows[0] <= run[0]]
        return Plan([Task("ss", *pair) for pair in pairs], [], TileSize(columns, columns, columns))
    rows = _side(num_rows, most)
    ts = [Task("ts", run, columns) for run in _split(num_rows, rows) for columns in across]
    return Plan([], ts, TileSize(rows, columns, columns))


def tiles(task: Task, size: TileSize) -> list[Tile]:
    """Return the tiles of a task, in the order in which their results are summed: run by run, and row by row."""
    height, width = (size.side, size.side) if task.matrix == "ss" else (size.rows, size.columns)
    return [
        Tile(task.matrix, rows, columns)
        for part in by_runs(task, size)
        for rows in _split(part.rows[1], height, part.rows[0])
        for columns in _split(part.columns[1], width, part.columns[0])
        if task.matrix == "ts" or rows[0] <= columns[0]
    ]


def _strips(length: int, side: int, area: int) -> list[tuple[int, int]]:
    """Cut the rows of a triangle in parts of about equal area, at least about `area`, at boundaries of tiles."""
    count = max(2, min(STRIPS, length * length // 2 // area))
    cuts = {round(length * (1 - math.sqrt(1 - part / count)) / side) * side for part in range(1, count)}
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < length), length]
    return list(itertools.pairwise(bounds))


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


def _filled_up(most: int, lanes: int) -> int:
    """Return the most rows that are no more than that when they are filled up, if there is room for as many."""
    return most // lanes * lanes or most


def _square(entries: int, lanes: int) -> int:
    """Return the side of the largest square whose rows, filled up, leave it at most so many entries; at least 1."""
    side = math.isqrt(entries)
    return side // lanes * lanes or min(side, max(1, entries // lanes))


def _side(length: int, most: int) -> int:
    return length if length <= most else _even_rows(length, most, round_up=False)


def _split(stop: int, size: int, start: int = 0) -> list[tuple[int, int]]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]
