"""Covariances of position pairs, and what convolution, pooling and readout do to them.

A *plane* holds the covariances of P image pairs for one shift s along y and all that is needed along x:

    band:  K[y, a, x, pair]    of positions (y, x) and (y + s, x + a - columns)
    all:   K[y, x, x', pair]   of positions (y, x) and (y + s, x')

Pairs are the minor axis, so that everything vectorises over them. A plane is the unit that a level's loop goes over: it
passes through all the level's convolutions and activations on its own (see `kip.kernels.levels`). Positions whose
partner lies outside the image hold finite rubbish, which `box` masks away.
"""

from __future__ import annotations

import functools
import operator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.kernels.levels import Level


def x_side(array: Array, level: Level) -> Array:
    """Lay out values of the first image's positions, (h, w, P), to broadcast against a plane."""
    return array[:, None] if level.columns is not None else array[:, :, None]


def z_side(array: Array, level: Level, fill: float) -> Array:
    """Lay out values of the second image's positions, (h, w, P), for all shifts: (h + 2 rows, a or 1, w, P).

    Rows [i, i + h) of it broadcast against the plane of shift i - rows; outside the image it holds `fill`.
    """
    side = level.columns or 0
    padded = jnp.pad(array, ((level.rows, level.rows), (side, side), (0, 0)), constant_values=fill)
    if level.columns is None:
        return padded[:, None]
    return jnp.stack([padded[:, a : a + level.width] for a in range(2 * side + 1)], axis=1)


def sum_x(plane: Array, level: Level) -> Array:
    """Sum a plane over the partners of each position of the first image, (h, w, P)."""
    return _sum(plane, 1 if level.columns is not None else 2)


def by_partner(plane: Array, level: Level) -> Array:
    """Move a plane's values to where their partners are: (h, a, w + 2 columns, P), or as they are without a band.

    Each shift's row moves by a: written with 2 columns + 1 zeros behind every row, and read back one number shorter.
    """
    if level.columns is None:
        return plane
    height, shifts, width, pairs = plane.shape
    long = jnp.pad(plane, ((0, 0), (0, 0), (0, shifts), (0, 0))).reshape(height, shifts * (width + shifts), pairs)
    short = width + shifts - 1
    return long[:, : shifts * short].reshape(height, shifts, short, pairs)


def sum_z(moved: Array) -> Array:
    """Sum a plane that `by_partner` has moved over the partners of each position of the second image's rows."""
    return _sum(moved, 1)


def _sum(plane: Array, axis: int) -> Array:
    """Return a plane's sum over an axis, term by term: XLA for CPUs leaves sums to one core."""
    terms = (jax.lax.index_in_dim(plane, i, axis, keepdims=False) for i in range(plane.shape[axis]))
    return functools.reduce(operator.add, terms)


def cut_z(total: Array, level: Level) -> Array:
    """Cut sums over all planes, (h + 2 rows, w + 2 columns, P), down to the second image, (h, w, P)."""
    side = level.columns or 0
    return total[level.rows : level.rows + level.height, side : side + level.width]


def inside(level: Level, dtype: np.dtype) -> np.ndarray:
    """Return, for each shift along y, 1 where a plane's positions have a partner in the image, else 0."""
    along_y = _inside(level.height, level.rows)
    along_x = np.ones((1, 1), bool) if level.columns is None else _inside(level.width, level.columns)
    return (along_y[:, :, None, None, None] & along_x[None, None, :, :, None]).astype(dtype)


def _inside(side: int, radius: int) -> np.ndarray:
    partner = np.arange(side) + np.arange(-radius, radius + 1)[:, None]
    return (partner >= 0) & (partner < side)


def box(plane: Array, mask: Array | np.ndarray, band: bool) -> Array:
    """Return the sum over the 3x3 window of shifts that move both positions alike, with zeros outside the image.

    Args:
        plane: K.
        mask: 1 where positions lie in the image, else 0, from `inside`.
        band: the layout of x.
    """
    return _box(plane, mask, band)  # type: ignore[return-value]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _box(plane: Array, mask: Array, band: bool) -> Array:
    return _window(plane * mask, band)


def _window(plane: Array, band: bool) -> Array:
    plane = jnp.pad(plane, ((1, 1), (0, 0) if band else (1, 1), (1, 1), (0, 0)))
    plane = plane[:-2] + plane[1:-1] + plane[2:]
    if band:
        return plane[:, :, :-2] + plane[:, :, 1:-1] + plane[:, :, 2:]
    return plane[:, :-2, :-2] + plane[:, 1:-1, 1:-1] + plane[:, 2:, 2:]


# The window is symmetric: its transpose is itself.
_box.defvjp(
    lambda plane, mask, band: (_box(plane, mask, band), mask),
    lambda band, mask, bar: (_window(bar, band) * mask, None),
)


def pool_columns(plane: Array, level: Level) -> Array:
    """Return the 2-average pool along x of a plane; an odd last column is dropped, as VALID padding does."""
    half = level.width // 2
    height, _, _, pairs = plane.shape
    if level.columns is None:
        return _pool_positions(plane[:, : 2 * half, : 2 * half].reshape(height, half, 2, half, 2, pairs))
    return _pool_shifts(plane[:, :, : 2 * half].reshape(height, -1, half, 2, pairs), 1)


def pool_rows(planes: Array, level: Level) -> Array:
    """Return the 2-average pool along y of all the planes of a level, (shifts, ...)."""
    half = level.height // 2
    return _pool_shifts(planes[:, : 2 * half].reshape(len(planes), half, 2, *planes.shape[2:]), 0)


# Both poolings bring their transposes, repetitions of what comes back: those of slices would be sums of padded arrays.


@jax.custom_vjp
def _pool_positions(cells: Array) -> Array:
    """Pool all pairs of positions along x, (h, w / 2, 2, w / 2, 2, P)."""
    # Stacked, and not one sum of four slices: XLA for CPUs would compute the cells in it, twice as slowly.
    rows = (jax.lax.index_in_dim(cells, i, 1, keepdims=False) for i in range(cells.shape[1]))
    return jnp.stack([0.25 * (r[:, 0, :, 0] + r[:, 0, :, 1] + r[:, 1, :, 0] + r[:, 1, :, 1]) for r in rows], 1)


def _spread_positions(_, bar: Array) -> tuple[Array]:
    height, half, _, pairs = bar.shape
    return (jnp.broadcast_to(0.25 * bar[:, :, None, :, None], (height, half, 2, half, 2, pairs)),)


_pool_positions.defvjp(lambda cells: (_pool_positions(cells), None), _spread_positions)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _pool_shifts(cells: Array, axis: int) -> Array:
    """Pool shifts -r .. r to -(r - 1) / 2 .. (r - 1) / 2; r is odd.

    Args:
        cells: (..., shifts, positions, 2, ...), even and odd positions apart.
        axis: the axis of the shifts.
    """
    even, odd = (jax.lax.index_in_dim(cells, parity, axis + 2, keepdims=False) for parity in (0, 1))

    def at(part: Array, i: int) -> Array:
        return jax.lax.index_in_dim(part, i, axis, keepdims=False)

    # Stacked, and not as slices with stride 2: XLA for CPUs would fuse those with all that computes the cells.
    return 0.25 * jnp.stack(
        [at(even, i) + at(odd, i) + at(even, i + 1) + at(odd, i - 1) for i in range(1, cells.shape[axis], 2)], axis
    )


def _spread_shifts(axis: int, _, bar: Array) -> tuple[Array]:
    count = 2 * bar.shape[axis] + 1
    padding = [(int(i == axis),) * 2 for i in range(bar.ndim)]
    twice = jnp.pad(jnp.repeat(0.25 * bar, 2, axis), padding)
    even, odd = (jax.lax.slice_in_dim(twice, start, start + count, 1, axis) for start in (0, 1))
    return (jnp.stack([even, odd], axis + 2),)


_pool_shifts.defvjp(lambda cells, axis: (_pool_shifts(cells, axis), None), _spread_shifts)


def read_out(plane: Array, mask: Array, level: Level) -> Array:
    """Return a plane's part of the mean over equal positions (`flatten`) or over all pairs (`mean`), (P,)."""
    positions = level.height * level.width
    if level.end == "mean":
        return total(plane * mask) / positions**2
    return total(plane[:, 0] if level.columns is not None else jnp.einsum("yaap->yap", plane)) / positions


def total(plane: Array) -> Array:
    """Return the sum over all but the last axis, as a product with ones: see `_sum`."""
    rows = plane.reshape(-1, plane.shape[-1])
    return jnp.matmul(jnp.ones((1, len(rows)), plane.dtype), rows, precision=jax.lax.Precision.HIGHEST)[0]


def equal_positions(planes: Array, level: Level) -> Array:
    """Return K(p, p), (h, w, P), from all the planes of a level."""
    plane = planes[level.rows]
    return plane[:, level.columns] if level.columns is not None else jnp.einsum("yxxp->yxp", plane)
