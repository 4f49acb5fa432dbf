"""A block of image pairs in chunks, so that memory does not grow with the block and a chunk's planes stay in cache.

A chunk pairs n first images with m second ones, P = n m on the minor axis, pair i m + j of images i and j. What belongs
to one image is laid out for its pairs once a chunk's row or column, by repetition: gathering it for each pair would
cost as much as the arithmetic where there is little of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.placement import platform

ELEMENTS = {"cpu": 1 << 18}
"""Position pairs of a plane times image pairs of a chunk, by platform: on a CPU, a plane of 1 MiB stays in cache."""
ELEMENTS_ELSEWHERE = 1 << 22
"""The same on accelerators: enough to fill them."""
LANES = 8
"""Values of float32 in a vector register."""
FEWEST, MOST = 2 * LANES, 128
"""Image pairs in a chunk on CPUs, however large or small the planes. XLA for CPUs unrolls loops over fewer and does not
vectorise them: 15 pairs take three times as long as 16. More than the most have not been faster."""
PER_CHUNK = 8
"""The cost of a chunk's loops by themselves, in pairs."""
KEPT = "kept"
"""The name of what a function of pairs wants kept for its vjp; all else is computed again."""


class Chunk(NamedTuple):
    """The numbers of first and second images that a chunk pairs."""

    first: int
    second: int


def most_pairs(plane_size: int) -> int:
    """Return how many image pairs to put into a chunk.

    Args:
        plane_size: position pairs in its largest plane.
    """
    elements = ELEMENTS.get(platform())
    if elements is None:
        return max(FEWEST, ELEMENTS_ELSEWHERE // plane_size)
    return min(max(FEWEST, elements // plane_size), MOST)


def chunk_of(first: int, second: int, most: int) -> Chunk:
    """Return the chunk, of at most so many pairs, that covers a block at the least cost.

    It fills whole vector registers, for what is left over by them takes as long as if it filled two more; to that end
    it may be larger than the block. Blocks of a few pairs stay as they are. Among equals it is the largest, and among
    those the one of the fewest first images, unless that leaves rows of a single chunk: XLA drops a loop of one turn,
    and then gathers for each pair what was laid out before the loop.

    Args:
        first: first images of the block.
        second: its second images.
        most: pairs in a chunk, at least `FEWEST`.
    """
    if first * second <= FEWEST // 4:
        return Chunk(first, second)

    def rank(chunk: Chunk) -> tuple[int, int, bool, int]:
        pairs = chunk.first * chunk.second
        chunks = -(-first // chunk.first) * -(-second // chunk.second)
        rows_of_one = chunk.first < first and chunk.second >= second
        return chunks * (pairs + PER_CHUNK), -pairs, rows_of_one, chunk.first

    sides = (
        (n, m)
        for m in range(1, min(max(second, FEWEST), most) + 1)
        for n in range(1, min(max(first, FEWEST), most // m) + 1)
    )
    return min((Chunk(n, m) for n, m in sides if n * m >= FEWEST and n * m % LANES == 0), key=rank)


def over_images(function: Callable[[Any], Any], images: Any, most: int) -> Any:
    """Apply a function of images to all of them in chunks.

    Args:
        function: a function of a tree of arrays (..., P), with P on the last axis of its results too.
        images: a tree of arrays (..., N).
        most: images in a chunk.

    Returns:
        The results, trees of arrays (..., N).
    """
    count = jax.tree.leaves(images)[0].shape[-1]
    chunk = chunk_of(1, count, most).second
    results = jax.lax.map(jax.checkpoint(function), _blocks(images, chunk))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :count], results)


def over_pairs(function: Callable[[Any, Any], Array], first: Any, second: Any, most: int) -> Array:
    """Apply a function of pairs to all pairs of images in chunks.

    Args:
        function: a function of two trees of arrays (..., P), the first and the second images of P pairs, that
            returns (P,).
        first: a tree of arrays (..., N).
        second: a tree of arrays (..., M).
        most: pairs in a chunk.

    Returns:
        (N, M).
    """
    rows, columns = (jax.tree.leaves(images)[0].shape[-1] for images in (first, second))
    n, m = chunk_of(rows, columns, most)
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
    pairs = jax.checkpoint(function, policy=policy)

    def row(first: Any, second: Any) -> Array:
        beside = jax.tree.map(lambda a: _repeat(a, m), first)
        return jax.lax.map(lambda block: pairs(beside, block), second)

    row = jax.checkpoint(row, policy=policy)
    beside = jax.tree.map(lambda a: _tile(a, n), _blocks(second, m))
    values = jax.lax.map(lambda block: row(block, beside), _blocks(first, n))
    values = values.reshape(*values.shape[:2], n, m).transpose(0, 2, 1, 3)
    return values.reshape(values.shape[0] * n, -1)[:rows, :columns]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _repeat(a: Array, m: int) -> Array:
    """Return images (..., n) as the first ones of pairs, (..., n m)."""
    return jnp.repeat(a, m, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _tile(a: Array, n: int) -> Array:
    """Return images (..., m) as the second ones of pairs, (..., n m)."""
    return jnp.concatenate([a] * n, axis=-1)


def _sum_by_image(bar: Array, n: int, second: bool) -> Array:
    """Sum what pairs (..., n m) give to their first images, or to their second ones."""
    pairs = bar.shape[-1]
    m = pairs // n
    if pairs > MOST:
        return bar.reshape(*bar.shape[:-1], n, m).sum(-2 if second else -1)
    # A product with zeros and ones: XLA for CPUs does not vectorise sums over parts of the minor axis.
    which = np.tile(np.eye(m), (n, 1)) if second else np.repeat(np.eye(n), m, axis=0)
    return jnp.matmul(bar, jnp.asarray(which, bar.dtype), precision=jax.lax.Precision.HIGHEST)


_repeat.defvjp(
    lambda a, m: (_repeat(a, m), None), lambda m, _, bar: (_sum_by_image(bar, bar.shape[-1] // m, second=False),)
)
_tile.defvjp(lambda a, n: (_tile(a, n), None), lambda n, _, bar: (_sum_by_image(bar, n, second=True),))


def _blocks(images: Any, size: int) -> Any:
    """Cut arrays (..., N) into blocks (K, ..., size); the last is filled with copies of the last image."""

    def cut(a: Array) -> Array:
        blocks = -(-a.shape[-1] // size)
        missing = blocks * size - a.shape[-1]
        a = jnp.concatenate([a, jnp.repeat(a[..., -1:], missing, axis=-1)], axis=-1) if missing else a
        return jnp.moveaxis(a.reshape(*a.shape[:-1], blocks, size), -2, 0)

    return jax.tree.map(cut, images)
