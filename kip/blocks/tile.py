"""One tile, forward and vjp: what every executor runs, in process or on a worker.

For XLA, ragged tiles are padded to the plan's size, so that a kernel compiles once for a matrix and not once for each
edge: with copies of the last image, never with zeros, at which a normalised kernel may not be differentiable. The
padding's cotangent is zero and its results are cut off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array

from kip.blocks.plan import Tile, TileSize
from kip.blocks.source import Source
from kip.errors import ConfigError, ShapeError
from kip.kernels import Architecture, Implementation, Kernel, fused, kernel_function
from kip.placement import placed, platform


class Images(NamedTuple):
    """The arrays and settings from which the tiles of one step are computed.

    Attributes:
        kernel: the kernel.
        support: X_s (n, H, W, C), preprocessed, in the dtype of the computation.
        target: X_t (m, H, W, C), preprocessed, in the same dtype; m may be 0.
        size: the size of a full tile.
        implementation: what computes the kernel, see `kip.kernels.kernel_function`.
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
    x, z, full = _sides(images, tile)
    run = _compiled_for(images)
    if tile.on_diagonal:
        return run.forward_diagonal(z, full)
    return run.forward(x, z, full)


def backward(images: Images, tile: Tile, cotangent: np.ndarray) -> TileGradient:
    """Return the gradient of sum(cotangent * K(rows, columns)) for the tile's support images.

    Args:
        images: the step's images.
        tile: which rows and columns.
        cotangent: (a, b). Above the diagonal of K_ss it must hold both halves, Kbar_ij + Kbar_ji^T.

    Raises:
        ShapeError: if the cotangent has not the tile's shape.
    """
    x, z, full = _sides(images, tile)
    if cotangent.shape != (len(x), len(z)):
        raise ShapeError(f"cotangent of {tile}", got=cotangent.shape, expected=f"{(len(x), len(z))}")
    run = _compiled_for(images)
    cotangent = cotangent.astype(x.dtype)
    if tile.on_diagonal:
        return TileGradient(run.pull_diagonal(z, cotangent, full), None)
    if tile.matrix == "ts":
        return TileGradient(run.pull_columns(x, z, cotangent, full), None)
    to_x, to_z = run.pull_both(x, z, cotangent, full)
    return TileGradient(to_z, to_x)


class _Compiled(Protocol):
    """A kernel's compiled forward and pull-backs, of blocks of x (a, ...) and z (b, ...).

    `full` is the size of a full tile, to which a ragged one may be padded.
    """

    def forward(self, x: Any, z: Any, full: tuple[int, int]) -> np.ndarray:
        """Return K(x, z), (a, b)."""
        ...

    def forward_diagonal(self, x: Any, full: tuple[int, int]) -> np.ndarray:
        """Return K(x, x)."""
        ...

    def pull_columns(self, x: Any, z: Any, bar: np.ndarray, full: tuple[int, int]) -> np.ndarray:
        """Return the gradient of sum(bar * K(x, z)) for z."""
        ...

    def pull_both(self, x: Any, z: Any, bar: np.ndarray, full: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients for x and for z."""
        ...

    def pull_diagonal(self, x: Any, bar: np.ndarray, full: tuple[int, int]) -> np.ndarray:
        """Return the gradient of sum(bar * K(x, x)) for x."""
        ...


class TileFunctions(NamedTuple):
    """The functions of a tile, for JAX to compile; see `_Compiled`."""

    forward: Callable[..., Any]
    pull_columns: Callable[..., Any]
    pull_both: Callable[..., Any]
    pull_diagonal: Callable[..., Any]


def tile_functions(kernel: Kernel, implementation: Implementation) -> TileFunctions:
    """Return the functions of a tile under a kernel, not jitted."""
    function = kernel_function(kernel, implementation)
    return TileFunctions(
        function,
        lambda x, z, bar: jax.vjp(partial(function, x), z)[1](bar)[0],
        lambda x, z, bar: jax.vjp(function, x, z)[1](bar),
        lambda x, bar: sum(jax.vjp(function, x, x)[1](bar)),
    )


class _Xla:
    """A kernel's function as XLA compiles it."""

    def __init__(self, kernel: Kernel, implementation: Implementation, target: str):
        self._forward, self._pull_columns, self._pull_both, self._pull_diagonal = (
            jax.jit(placed(function, target)) for function in tile_functions(kernel, implementation)
        )

    def forward(self, x, z, full):
        return np.asarray(self._forward(_pad(x, full[0]), _pad(z, full[1])))[: len(x), : len(z)]

    def forward_diagonal(self, x, full):
        return self.forward(x, x, full)

    def pull_columns(self, x, z, bar, full):
        return np.asarray(self._pull_columns(*_padded(x, z, bar, full)))[: len(z)]

    def pull_both(self, x, z, bar, full):
        to_x, to_z = self._pull_both(*_padded(x, z, bar, full))
        return np.asarray(to_x)[: len(x)], np.asarray(to_z)[: len(z)]

    def pull_diagonal(self, x, bar, full):
        _, x_full, bar = _padded(x, x, bar, full)
        return np.asarray(self._pull_diagonal(x_full, bar))[: len(x)]


class _Fused:
    """A network's kernel in the engine's form for CPUs, whose threads are its own."""

    def __init__(self, architecture: Architecture):
        from kip.kernels.fused.form import Form

        self._form = Form(architecture)

    def forward(self, x, z, full):
        return self._form.forward(np.asarray(x), np.asarray(z))

    def forward_diagonal(self, x, full):
        return self._form.forward_diagonal(np.asarray(x))

    def pull_columns(self, x, z, bar, full):
        return self._form.pull_columns(np.asarray(x), np.asarray(z), bar)

    def pull_both(self, x, z, bar, full):
        return self._form.pull_both(np.asarray(x), np.asarray(z), bar)

    def pull_diagonal(self, x, bar, full):
        return self._form.pull_diagonal(np.asarray(x), bar)


def _compiled_for(images: Images) -> _Compiled:
    # Where the images lie; NumPy arrays go wherever JAX puts them.
    devices = getattr(images.support, "devices", None)
    target = next(iter(devices())).platform if devices else platform()
    return _compiled(images.kernel, images.implementation, target)


@lru_cache(maxsize=64)
def _compiled(kernel: Kernel, implementation: Implementation, target: str) -> _Compiled:
    if isinstance(kernel, Architecture):
        if fused.supports(kernel) and (implementation == "numba" or (implementation == "auto" and target == "cpu")):
            return _Fused(kernel)
        if implementation == "numba":
            raise ConfigError(
                f"blocks.implementation of {kernel.label}",
                got="'numba'",
                expected="'auto', 'engine' or 'neural_tangents'",
                remedy="The form for CPUs computes convolutional networks.",
            )
    return _Xla(kernel, implementation, target)


def _sides(images: Images, tile: Tile):
    first = images.support if tile.matrix == "ss" else images.target
    rows, columns = tile.where
    return first[rows], images.support[columns], images.size.shape(tile)


def _padded(x, z, bar: np.ndarray, full: tuple[int, int]):
    padding = ((0, full[0] - len(x)), (0, full[1] - len(z)))
    return _pad(x, full[0]), _pad(z, full[1]), np.pad(bar, padding)


def _pad(images: np.ndarray | Array, count: int) -> np.ndarray | Array:
    if len(images) == count:
        return images
    return images[np.minimum(np.arange(count), len(images) - 1)]
