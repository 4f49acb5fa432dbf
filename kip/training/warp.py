"""Images under a change of coordinates, by whole pixels or bilinear interpolation.

Pixels outside an image are zero, or the nearest ones at its edge.

An image's own coordinates run from -1 at the outer border of its first pixel to 1 at that of its last one, so that
pixel p of `side` has its middle at (2p + 1)/side - 1. This is PyTorch's `affine_grid` and `grid_sample` with
`align_corners=False` and `padding_mode="zeros"`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def nearest(images: Array, rows: Array, columns: Array) -> Array:
    """Return images (N, h, w, C) that show the given pixels of each image.

    Args:
        images: (N, H, W, C).
        rows: pixel rows, int (N or 1, h); those outside 0..H-1 show zero.
        columns: pixel columns, int (N or 1, w); those outside 0..W-1 show zero.
    """
    count, height, width, _ = images.shape
    rows, columns = (jnp.broadcast_to(part, (count, part.shape[1])) for part in (rows, columns))
    valid = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    which = jnp.arange(count)[:, None, None]
    shown = images[which, jnp.clip(rows, 0, height - 1)[:, :, None], jnp.clip(columns, 0, width - 1)[:, None, :]]
    return jnp.where(valid[..., None], shown, 0.0)


def bilinear(images: Array, matrices: Array, shifts: Array | None = None, *, edges: bool = False) -> Array:
    """Return images whose value at coordinates (y, x) is that of the input at M (y, x) + t, linearly interpolated.

    Args:
        images: (N, H, W, C).
        matrices: M, (N or 1, 2, 2), in coordinates of -1..1.
        shifts: t, (N or 1, 2), in the same coordinates; None: 0.
        edges: whether pixels outside an image are the nearest ones at its edge, and not zero.
    """
    count, height, width, _ = images.shape
    y, x = ((2 * jnp.arange(side, dtype=images.dtype) + 1) / side - 1 for side in (height, width))
    matrices = jnp.broadcast_to(matrices, (count, 2, 2))
    # Written out: a matrix product would be rounded to TF32 on some GPUs, which moves the pixels that are looked at.
    positions = [
        ((matrices[:, i, 0, None, None] * y[:, None] + matrices[:, i, 1, None, None] * x + 1) * side - 1) / 2
        for i, side in enumerate((height, width))
    ]
    if shifts is not None:
        steps = jnp.broadcast_to(shifts, (count, 2)) * jnp.array([height, width], images.dtype) / 2
        positions = [position + steps[:, i, None, None] for i, position in enumerate(positions)]
    firsts = [jnp.floor(position) for position in positions]
    weights = [position - first for position, first in zip(positions, firsts)]
    which = jnp.arange(count)[:, None, None]
    result = jnp.zeros_like(images)
    for down in (0, 1):
        for right in (0, 1):
            row, column = (first.astype(int) + step for first, step in zip(firsts, (down, right)))
            valid = edges | ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            weight = (weights[0] if down else 1 - weights[0]) * (weights[1] if right else 1 - weights[1])
            shown = images[which, jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
            result += jnp.where(valid, weight, 0.0)[..., None] * shown
    return result
