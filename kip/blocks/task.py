"""One task, forward and vjp: its tiles in order, and their gradients summed as `kip.blocks.plan` says.

Every executor runs exactly this, so that the bits of a task do not depend on where it is computed.
"""

from __future__ import annotations

import numpy as np

from kip.blocks import tile as tiling
from kip.blocks.plan import Task, by_runs, settle, tiles
from kip.blocks.tile import Images
from kip.errors import ShapeError


def forward(images: Images, task: Task) -> np.ndarray:
    """Return the task's block of the kernel matrix, K(rows, columns), (a, b).

    Of a strip of K_ss, what lies below its diagonal tiles is zero.
    """
    block = np.zeros(task.shape, images.support.dtype)
    for tile in tiles(task, images.size):
        block[_within(task, tile)] = tiling.forward(images, tile)
    return block


def backward(images: Images, task: Task, cotangent: np.ndarray) -> np.ndarray:
    """Return the gradient of sum(cotangent * K(rows, columns)) for the task's support columns, (b, H, W, C).

    The rows of a strip of K_ss are support images too; they are among its columns, and their gradient is added there.

    Args:
        images: the step's images.
        task: which rows and columns.
        cotangent: (a, b). In a strip of K_ss, an entry above the diagonal tiles must hold both halves,
            Kbar_ij + Kbar_ji; what lies below them is not looked at.

    Raises:
        ShapeError: if the cotangent has not the task's shape.
    """
    if cotangent.shape != task.shape:
        raise ShapeError(f"cotangent of {task}", got=cotangent.shape, expected=f"{task.shape}")
    parts = by_runs(task, images.size)
    sums: dict[tuple[int, int], np.ndarray] = {}
    for place, part in enumerate(parts):
        top = part.rows[0] - task.rows[0]
        sums[place, place + 1] = _gradient(images, part, cotangent[top : top + part.shape[0]])
        settle(sums, 0, len(parts))
    return sums[0, len(parts)]


def _gradient(images: Images, task: Task, cotangent: np.ndarray) -> np.ndarray:
    """Return the gradient of a task of one run of rows: that of its tiles, summed in their order."""
    first, last = task.columns
    gradient = np.zeros((last - first, *images.support.shape[1:]), images.support.dtype)
    for tile in tiles(task, images.size):
        part = tiling.backward(images, tile, cotangent[_within(task, tile)])
        gradient[tile.columns[0] - first : tile.columns[1] - first] += part.columns
        if part.rows is not None:
            gradient[tile.rows[0] - first : tile.rows[1] - first] += part.rows
    return gradient


def _within(task: Task, tile: tiling.Tile) -> tuple[slice, slice]:
    """The tile's place in the task's block."""
    (top, bottom), (left, right) = tile.rows, tile.columns
    return slice(top - task.rows[0], bottom - task.rows[0]), slice(left - task.columns[0], right - task.columns[0])
