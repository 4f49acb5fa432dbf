"""Augmentation of training batches inside a compiled training step: every draw is a function of its key.

Images are preprocessed, so that zero is the mean of the data, and what comes in from outside an image is zero.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.ndimage import map_coordinates

Augmentation = Literal["none", "shift", "flip_shift", "dsa", "dsa_digits", "noise"]
"""`shift`: up to an eighth of the side, each axis. `flip_shift`: and mirrored at random. `dsa`: of differentiable
siamese augmentation, one operation a batch: colour, shift, cutout, flip, scale, rotation. `dsa_digits`: no flip.
`noise`: standard normal noise in place of the images, for comparison."""


def augmented(kind: Augmentation, key: Array, images: Array) -> Array:
    """Return images (N, H, W, C), augmented; each image has a draw of its own."""
    if kind == "none":
        return images
    if kind == "noise":
        return jax.random.normal(key, images.shape, images.dtype)
    keys = jax.random.split(key, 3)
    if kind in ("shift", "flip_shift"):
        shifted = _shift(keys[0], images)
        return _flip(keys[1], shifted) if kind == "flip_shift" else shifted
    operations = [_colour, _shift, _cutout, _scale, _rotate] + [_flip] * (kind == "dsa")
    return jax.lax.switch(jax.random.randint(keys[2], (), 0, len(operations)), operations, keys[0], images)


def _shift(key: Array, images: Array) -> Array:
    reach = max(1, images.shape[1] // 8)
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)
    take = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:])  # noqa: E731
    return jax.vmap(take)(padded, offsets)


def _flip(key: Array, images: Array) -> Array:
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def _colour(key: Array, images: Array) -> Array:
    """Change brightness by up to 1/2, saturation by a factor up to 2, contrast by 1/2 to 3/2."""
    keys = jax.random.split(key, 3)
    shape = (len(images), 1, 1, 1)
    images = images + jax.random.uniform(keys[0], shape, minval=-0.5, maxval=0.5)
    grey = images.mean(3, keepdims=True)
    images = grey + (images - grey) * jax.random.uniform(keys[1], shape, maxval=2.0)
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (images - mean) * jax.random.uniform(keys[2], shape, minval=0.5, maxval=1.5)


def _cutout(key: Array, images: Array) -> Array:
    """Set a square of half the side to zero."""
    height, width = images.shape[1:3]
    keys = jax.random.split(key)
    rows, columns = (
        jax.random.randint(one, (len(images), 1), 0, side) for one, side in zip(keys, (height, width), strict=True)
    )
    near_row = jnp.abs(jnp.arange(height) - rows) < height // 4
    near_column = jnp.abs(jnp.arange(width) - columns) < width // 4
    return jnp.where((near_row[:, :, None] & near_column[:, None, :])[..., None], 0.0, images)


def _scale(key: Array, images: Array) -> Array:
    """Stretch each axis by 1/1.2 to 1.2."""
    factors = jnp.exp(jax.random.uniform(key, (len(images), 2), minval=-1.0, maxval=1.0) * jnp.log(1.2))
    return jax.vmap(_affine)(images, jax.vmap(jnp.diag)(factors))


def _rotate(key: Array, images: Array) -> Array:
    """Turn by up to 15 degrees."""
    angle = jax.random.uniform(key, (len(images),), minval=-1.0, maxval=1.0) * jnp.deg2rad(15.0)
    matrices = jnp.stack([jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle)], axis=1)
    return jax.vmap(_affine)(images, matrices.reshape(-1, 2, 2))


def _affine(image: Array, matrix: Array) -> Array:
    """Return the image whose value at x is the given one's at M x, about the centre, linearly interpolated."""
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), axis=-1) - centre
    where = list(jnp.moveaxis(grid @ matrix.T + centre, -1, 0))
    sample = partial(map_coordinates, coordinates=where, order=1, mode="constant")
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)
