"""Kernel matrices and support gradients, put together from tiles in a fixed order.

    dL/dX_s = dL/dK_ss . dK_ss/dX_s + dL/dK_ts . dK_ts/dX_s        (paper, section 2.1)

The kernel as a whole is never differentiated: each tile pulls back its own block of the cotangent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kip.blocks.executor import Executor
from kip.blocks.local import LocalExecutor
from kip.blocks.plan import Blocks, Tile, plan, tile_size
from kip.blocks.tile import Images
from kip.errors import NonFiniteError, ShapeError
from kip.kernels import Kernel, entry_bytes

ROW_TILES = 8
"""Runs of target rows that `KernelBlocks.rows` hands to the executor at a time, so that several devices have work."""


class KernelMatrices(NamedTuple):
    """K_ss (n, n) and K_ts (m, n), in the dtype of the computation."""

    k_ss: np.ndarray
    k_ts: np.ndarray


class KernelBlocks:
    """Computes kernel matrices and their vjp tile by tile.

    Args:
        config: tile memory and dtype.
        executor: where tiles run; None makes a local one. Closed with this object, when used as a context.
    """

    def __init__(self, config: Blocks | None = None, executor: Executor | None = None):
        self._config = config or Blocks()
        self._executor = executor or LocalExecutor()
        self._images: Images | None = None
        self._tiles: list[list[Tile]] = []

    def __enter__(self) -> KernelBlocks:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._executor.close()

    def forward(self, kernel: Kernel, support: np.ndarray, target: np.ndarray) -> KernelMatrices:
        """Return K(X_s, X_s) and K(X_t, X_s), and remember the images for `backward`.

        Args:
            kernel: the kernel.
            support: X_s (n, H, W, C), preprocessed.
            target: X_t (m, H, W, C), preprocessed.

        Raises:
            ShapeError: if the images do not fit each other or the kernel's poolings.
        """
        n, m = len(support), len(target)
        self._images = images = self._images_of(kernel, support, target, num_target=m)
        self._tiles = [plan("ss", n, n, images.size), plan("ts", m, n, images.size)]
        self._executor.begin(images)
        k_ss, k_ts = (self._assemble(tiles, (rows, n)) for tiles, rows in zip(self._tiles, (n, m)))
        # The lower triangle is the upper one's transpose to the last bit, within tiles on the diagonal too.
        k_ss = np.triu(k_ss) + np.triu(k_ss, 1).T
        return KernelMatrices(k_ss, k_ts)

    def backward(self, k_ss_bar: np.ndarray, k_ts_bar: np.ndarray) -> np.ndarray:
        """Return dL/dX_s, (n, H, W, C), for the images of the last `forward`.

        Args:
            k_ss_bar: dL/dK_ss (n, n), every entry taken as independent.
            k_ts_bar: dL/dK_ts (m, n).

        Raises:
            NonFiniteError: if the gradient holds NaN or infinity.
        """
        if self._images is None:
            raise RuntimeError("backward is called after forward")
        gradient = np.zeros(self._images.support.shape, self._images.support.dtype)
        tiles = [tile for matrix in self._tiles for tile in matrix]
        bars = {"ss": k_ss_bar, "ts": k_ts_bar}

        def cotangent(tile: Tile) -> np.ndarray:
            rows, columns = tile.where
            block = bars[tile.matrix][rows, columns]
            fold = tile.matrix == "ss" and not tile.on_diagonal
            return block + k_ss_bar[columns, rows].T if fold else block

        for tile, part in zip(tiles, self._executor.backward(tiles, map(cotangent, tiles))):
            rows, columns = tile.where
            gradient[columns] += part.columns
            if part.rows is not None:
                gradient[rows] += part.rows
        if not np.isfinite(gradient).all():
            raise NonFiniteError(
                "the gradient of the support images holds NaN or infinity",
                remedy="Compute the kernel in float64 (blocks.dtype), raise the ridge, or lower the learning rate.",
            )
        return gradient

    def rows(self, kernel: Kernel, support: np.ndarray, target: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield K(X_t, X_s) a run of rows at a time: (slice of the targets, (b, n) block), in order.

        The whole matrix is never held, so that the target may be a full train or test set.
        """
        images = self._images_of(kernel, support, target[:0], num_target=len(target))
        self._images = None  # the executor forgets the last forward's
        most = images.size.rows * ROW_TILES
        for start in range(0, len(target), most):
            part = target[start : start + most]
            self._executor.begin(images._replace(target=self._cast(part)))
            tiles = plan("ts", len(part), len(support), images.size)
            yield slice(start, start + len(part)), self._assemble(tiles, (len(part), len(support)))

    def _images_of(self, kernel: Kernel, support: np.ndarray, target: np.ndarray, *, num_target: int) -> Images:
        for name, images in (("support", support), ("target", target)):
            if images.ndim != 4 or images.shape[1:] != support.shape[1:]:
                raise ShapeError(f"shape of the {name} images", got=images.shape, expected=f"(N, *{support.shape[1:]})")
        kernel.check_images(*support.shape[1:3])
        itemsize = np.dtype(self._config.dtype).itemsize
        per_entry = entry_bytes(kernel, support.shape[1:], itemsize, self._config.implementation)
        size = tile_size(len(support), num_target, per_entry, self._config.memory_mib << 20)
        return Images(kernel, self._cast(support), self._cast(target), size, self._config.implementation)

    def _cast(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images, self._config.dtype)

    def _assemble(self, tiles: Sequence[Tile], shape: tuple[int, int]) -> np.ndarray:
        matrix = np.zeros(shape, self._config.dtype)
        for tile, block in zip(tiles, self._executor.forward(tiles)):
            matrix[tile.where] = block
        return matrix
