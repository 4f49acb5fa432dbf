"""One tile, forward and vjp: what every executor runs, in process or on a worker.

Ragged tiles are padded to the plan's size, so that a kernel compiles once for a matrix and not once for each edge:
with copies of the last image, never with zeros, at which a normalised kernel may not be differentiable. The padding's
cotangent is zero and its results are cut off.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from kip.blocks.plan import Tile, TileSize
from kip.blocks.source import Source
from kip.errors import ShapeError
from kip.kernels import Implementation, Kernel, kernel_function


class Images(NamedTuple):
    """What the tiles of one step are computed from.

    Attributes:
        kernel: the kernel.
        support: X_s (n, H, W, C), preprocessed, in the dtype of the computation.
        target: X_t (m, H, W, C), likewise; m may be 0.
        size: the size of a full tile.
        implementation: who computes the kernel, see `kip.kernels.kernel_function`.
        source: where the targets come from, for workers that hold the data set; None: not known.
    """

    kernel: Kernel
    support: np.ndarray | Array
    target: np.ndarray | Array
    size: TileSize
    implementation: Implementation = "auto"
    source: Source | None = None


class TileGradient(NamedTuple):
    """The pulled-back cotangent of one tile.

    Attributes:
        columns: for the tile's support columns, (b, H, W, C).
        rows: for its rows, (a, H, W, C); None for a tile of K_ts, whose targets get no gradient, and on the diagonal
            of K_ss, whose two sides are the same images: their sum is in `columns`.
    """

    columns: np.ndarray
    rows: np.ndarray | None


def forward(images: Images, tile: Tile) -> np.ndarray:
    """Return the tile's block of the kernel matrix, K(rows, columns), (a, b)."""
    x, z, (rows, columns) = _sides(images, tile)
    return np.asarray(_compiled(images.kernel, images.implementation).forward(_pad(x, rows), _pad(z, columns)))[
        : len(x), : len(z)
    ]


def backward(images: Images, tile: Tile, cotangent: np.ndarray) -> TileGradient:
    """Return the gradient of sum(cotangent * K(rows, columns)) for the tile's support images.

    Args:
        images: the step's images.
        tile: which rows and columns.
        cotangent: (a, b). Above the diagonal of K_ss it must hold both halves, Kbar_ij + Kbar_ji^T.

    Raises:
        ShapeError: if the cotangent has not the tile's shape.
    """
    x, z, (rows, columns) = _sides(images, tile)
    if cotangent.shape != (len(x), len(z)):
        raise ShapeError(f"cotangent of {tile}", got=cotangent.shape, expected=f"{(len(x), len(z))}")
    run = _compiled(images.kernel, images.implementation)
    padding = ((0, rows - len(x)), (0, columns - len(z)))
    cotangent = np.pad(cotangent, padding).astype(x.dtype)
    x_full, z_full = _pad(x, rows), _pad(z, columns)
    if tile.on_diagonal:
        return TileGradient(np.asarray(run.pull_diagonal(z_full, cotangent))[: len(z)], None)
    if tile.matrix == "ts":
        return TileGradient(np.asarray(run.pull_columns(x_full, z_full, cotangent))[: len(z)], None)
    to_x, to_z = run.pull_both(x_full, z_full, cotangent)
    return TileGradient(np.asarray(to_z)[: len(z)], np.asarray(to_x)[: len(x)])


class _Compiled:
    """A kernel's jitted forward and pullbacks."""

    def __init__(self, kernel: Kernel, implementation: Implementation):
        function = kernel_function(kernel, implementation)
        self.forward = jax.jit(function)
        self.pull_columns = jax.jit(lambda x, z, bar: jax.vjp(partial(function, x), z)[1](bar)[0])
        self.pull_both = jax.jit(lambda x, z, bar: jax.vjp(function, x, z)[1](bar))
        self.pull_diagonal = jax.jit(lambda x, bar: sum(jax.vjp(function, x, x)[1](bar)))


_compiled = lru_cache(maxsize=64)(_Compiled)


def _sides(images: Images, tile: Tile):
    first = images.support if tile.matrix == "ss" else images.target
    rows, columns = tile.where
    return first[rows], images.support[columns], images.size.shape(tile)


def _pad(images: np.ndarray | Array, count: int) -> np.ndarray | Array:
    if len(images) == count:
        return images
    return images[np.minimum(np.arange(count), len(images) - 1)]
