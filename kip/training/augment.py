"""Augmentation of training batches inside a compiled training step: every draw is a function of its key.

Images are preprocessed, so that zero is the mean of the data. Pixels from outside an image are zero.

Differentiable siamese augmentation (DSA) applies one operation to a batch, drawn uniformly from its strategy:

| operation | effect, u uniform in [0, 1) |
|---|---|
| colour | in turn x + (u - 1/2); m + 2u (x - m), m the mean over channels; m + (u + 1/2)(x - m), m the image's mean |
| crop | a shift of each axis by a whole number of pixels in +-int(0.125 side + 0.5) |
| cutout | zeros in a square of int(side/2 + 0.5), its centre anywhere, the border right after the image included |
| flip | mirrored left and right with p = 1/2 |
| scale | each axis stretched by a factor of its own, uniform in [1/1.2, 1.2], about the centre; bilinear |
| rotate | turned by an angle uniform in +-15 degrees about the centre; bilinear |

FRePo's augmentation applies one operation to a batch in the same way, uniformly from its own strategy. Pixels from
outside an image are the nearest ones at its edge:

| operation | effect, u uniform in [-1, 1) |
|---|---|
| colour | in turn x + u/4; m + e^(u/4) (x - m), m the image's mean; m + e^(u/4) (x - m), m the mean over channels |
| zoom | stretched by z = 1.25^u, and shifted by up to abs(z - 1) half sides; bilinear |
| rotate | turned by 15 u degrees about the centre; bilinear |
| translate | shifted by u/8 of each side; bilinear |
| cutout | zeros in a square of side // 4, anywhere inside the image |
| flip | mirrored left and right with p = 1/2 |

Each image has parameters of its own in training (`augment_images`). In the siamese mode (`augment_alike`), one draw
serves all images of two batches, so that gradients on real and on learned images are of the same view.

A random resized crop (`crop_randomly`) shows a part of an image, of a drawn area and at a drawn place, at the size of
the image.

References: Zhao and Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation", and its public code,
`DiffAugment`; Zhao, Mopuri, Bilen 2021, "Dataset Condensation with Gradient Matching", for `dc`; Zhou, Nezhadarya, Ba
2022, "Dataset Distillation using Neural Feature Regression", public code, `get_aug_by_name`, for `frepo`; torchvision's
`RandomResizedCrop`; Sun et al. 2024, "On the Diversity and Realism of Distilled Dataset" (RDED), for `tiles`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from kip.precision import AnyArray
from kip.training.warp import bilinear, nearest

Augmentation = Literal[
    "none",
    "flip",
    "shift",
    "flip_shift",
    "resized",
    "flip_resized",
    "tiles",
    "flip_tiles",
    "dsa",
    "dsa_no_flip",
    "dc",
    "noise",
    "frepo",
    "frepo_no_flip",
]
"""`shift`: the crop of DSA alone, as a crop of the image padded by 4 pixels at 32x32. `resized`: a random resized crop
of 0.08 to 1 of the area and of sides 3:4 to 4:3. `tiles`: the left and the right half in a random order, the upper and
the lower half too, then such a crop of 0.5 to 1 of the area; for images that are made of four. `flip`: the flip;
`flip_` before another name adds it. `dsa`: one of six operations a batch. `dsa_no_flip`: one of five, for images whose
mirror image has another class. `dc`: DC's own, of MNIST. `frepo`, `frepo_no_flip`: FRePo's operations, one a batch,
with and without its flip. `noise`: standard normal noise in place of the images, for comparison."""
Strategy = Literal["dsa", "dsa_no_flip"]
UNFLIPPED: dict[Augmentation, Augmentation] = {
    "flip": "none",
    "flip_shift": "shift",
    "flip_resized": "resized",
    "flip_tiles": "tiles",
    "dsa": "dsa_no_flip",
    "frepo": "frepo_no_flip",
}
"""The replacement of each augmentation with flips, for images whose mirror image has another class."""

SCALE = 1.2
"""The largest factor of DSA's scale."""
DEGREES = 15.0
"""The largest angle of DSA's rotation, and of FRePo's."""
JITTER = 0.25
"""The largest change of FRePo's brightness, and of the logarithm of its contrast and saturation."""
ZOOM = 1.25
"""The largest factor of FRePo's zoom."""
SHIFT = 0.125
"""The longest shift of FRePo's translation, in sides."""
SMALLEST_AREA = 0.08
"""The least share of an image's area that a random resized crop shows by default."""
STRETCH = 4 / 3
"""The largest ratio of the sides of a crop to those of the image, in `resized` and `tiles`."""


def augment_images(kind: Augmentation, key: Array, images: Array) -> Array:
    """Return images (N, H, W, C), augmented; each image has a draw of its own."""
    if kind == "none":
        return images
    if kind == "noise":
        return jax.random.normal(key, images.shape, images.dtype)
    if kind == "dc":
        return dc(key, images)
    parameters, operation = jax.random.split(key)
    if kind in STRATEGIES:
        return _one_operation(kind, operation, parameters, images, len(images))
    if kind.endswith("shift"):
        images = crop(parameters, images, len(images))
    elif kind.endswith("resized"):
        images = crop_randomly(parameters, images, stretch=STRETCH)
    elif kind.endswith("tiles"):
        halves, parameters = jax.random.split(parameters)
        images = crop_randomly(parameters, shuffle_halves(halves, images), smallest=0.5, stretch=STRETCH)
    return flip(operation, images, len(images)) if kind.startswith("flip") else images


def for_classes(kind: Augmentation, mirror_keeps_class: bool) -> Augmentation:
    """Return an augmentation, without its flips where a mirror image has another class."""
    return kind if mirror_keeps_class else UNFLIPPED.get(kind, kind)


def strategy_for(mirror_keeps_class: bool) -> Strategy:
    """Return DSA's strategy for a data set: with flips where a mirror image has the same class."""
    return "dsa" if mirror_keeps_class else "dsa_no_flip"


def augment_alike(strategy: Strategy, key: Array, images: Array) -> Array:
    """Return images (N, H, W, C) after one operation with one draw of its parameters, a function of the key alone.

    Batches of any size with the same key are seen alike, and it is differentiable in the images. The public code
    repeats its seed for both batches and takes the parameters of each batch's first image; here they are drawn once.
    """
    parameters, operation = jax.random.split(key)
    return _one_operation(strategy, operation, parameters, images, 1)


def _one_operation(strategy: Augmentation, operation: Array, parameters: Array, images: Array, draws: int) -> Array:
    branches = [lambda key, images, apply=apply: apply(key, images, draws) for apply in STRATEGIES[strategy]]
    return jax.lax.switch(jax.random.randint(operation, (), 0, len(branches)), branches, parameters, images)


def colour(key: Array, images: Array, draws: int) -> Array:
    """Change brightness, saturation and contrast; `draws` is N for parameters of each image, 1 for one of all."""
    u = jax.random.uniform(key, (3, draws, 1, 1, 1), images.dtype)
    images = images + (u[0] - 0.5)
    grey = images.mean(3, keepdims=True)
    images = (images - grey) * (2.0 * u[1]) + grey
    mean = images.mean((1, 2, 3), keepdims=True)
    return (images - mean) * (u[2] + 0.5) + mean


def crop(key: Array, images: Array, draws: int) -> Array:
    """Shift by whole pixels; see `colour` for `draws`."""
    sides = images.shape[1:3]
    reach = jnp.array([int(0.125 * side + 0.5) for side in sides])
    offsets = jax.random.randint(key, (draws, 2), -reach, reach + 1)
    rows, columns = (jnp.arange(side) + offsets[:, axis, None] for axis, side in enumerate(sides))
    return nearest(images, rows, columns)


def cutout(key: Array, images: Array, draws: int) -> Array:
    """Set a square of half the side to zero; see `colour` for `draws`."""
    inside = []
    for axis, side in enumerate(images.shape[1:3]):
        length = int(0.5 * side + 0.5)
        centre = jax.random.randint(jax.random.fold_in(key, axis), (draws, 1), 0, side + 1 - length % 2)
        first = centre - length // 2
        inside.append((jnp.arange(side) >= first) & (jnp.arange(side) < first + length))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(hole[..., None], 0.0, images)


def are_mirrored(mirror_keeps_class: bool, channels: int) -> bool:
    """Return whether methods put a set beside its mirror images: colour images whose mirror image keeps its class."""
    return mirror_keeps_class and channels > 1


def with_mirrors(images: AnyArray, labels: AnyArray) -> tuple[Array, Array]:
    """Return images (2n, H, W, C) and labels (2n, c): the set, and then its images mirrored left and right.

    >>> images, labels = with_mirrors(jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.ones((1, 3)))
    >>> images[1, :, :, 0].tolist(), labels.shape
    ([[1.0, 0.0], [3.0, 2.0]], (2, 3))
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    return jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([labels, labels])


def flip(key: Array, images: Array, draws: int) -> Array:
    """Mirror left and right at random; see `colour` for `draws`."""
    return jnp.where(jax.random.uniform(key, (draws, 1, 1, 1)) < 0.5, images[:, :, ::-1], images)


def scale(key: Array, images: Array, draws: int) -> Array:
    """Stretch each axis; a factor above 1 shows more than the image; see `colour` for `draws`."""
    factors = jax.random.uniform(key, (draws, 2), images.dtype, 1 / SCALE, SCALE)
    return bilinear(images, jax.vmap(jnp.diag)(factors))


def rotate(key: Array, images: Array, draws: int) -> Array:
    """Turn about the centre; see `colour` for `draws`."""
    angle = jnp.deg2rad(jax.random.uniform(key, (draws,), images.dtype, -DEGREES, DEGREES))
    return bilinear(images, _turning(angle))


@partial(jax.jit, static_argnames=("side", "stretch"))
def crop_randomly(
    key: Array, images: Array, *, side: int | None = None, smallest: Any = SMALLEST_AREA, stretch: float = 1.0
) -> Array:
    """Return a random part of each image, resized by linear interpolation, (N, h, w, C).

    Its share a of the area is uniform in [smallest, 1] and its place uniform. Height and width are sqrt(a / r) and
    sqrt(a r) of the image's, log r uniform among the values in +-log stretch that fit into the image; torchvision
    draws the area again too where the first does not fit.

    Args:
        key: of all draws.
        images: (N, H, W, C).
        side: h and w; None: H and W.
        smallest: a number, or an array () that may change from call to call.
        stretch: 1 keeps the image's ratio of sides.
    """
    whole = jnp.array(images.shape[1:3], images.dtype)
    shape = images.shape[1:3] if side is None else (side, side)

    def one(key: Array, image: Array) -> Array:
        keys = jax.random.split(key)
        area = jax.random.uniform(keys[0], (), images.dtype, minval=smallest, maxval=1.0)
        lengths = whole * jnp.sqrt(area)
        if stretch != 1:
            most = jnp.minimum(jnp.log(jnp.asarray(stretch, images.dtype)), -jnp.log(area))
            log = most * jax.random.uniform(jax.random.fold_in(key, 2), (), images.dtype, minval=-1.0, maxval=1.0)
            lengths = lengths * jnp.exp(jnp.stack([-log, log]) / 2)
        corner = jax.random.uniform(keys[1], (2,), images.dtype) * (whole - lengths)
        scale = jnp.array(shape, images.dtype) / lengths
        return jax.image.scale_and_translate(
            image, (*shape, image.shape[2]), (0, 1), scale, -corner * scale, "linear", antialias=False
        )

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def shuffle_halves(key: Array, images: Array) -> Array:
    """Return images (N, H, W, C), each rolled by half its side with p = 1/2, along each axis: halves change places."""
    swapped = jax.random.bernoulli(key, 0.5, (2, len(images), 1, 1, 1))
    for axis in (1, 2):
        half = images.shape[axis] // 2
        images = jnp.where(swapped[axis - 1], jnp.roll(images, half, axis), images)
    return images


def jitter(key: Array, images: Array, draws: int) -> Array:
    """Change brightness, contrast and saturation as FRePo does; see `colour` for `draws`."""
    u = JITTER * jax.random.uniform(key, (3, draws, 1, 1, 1), images.dtype, -1.0, 1.0)
    images = images + u[0]
    mean = images.mean((1, 2, 3), keepdims=True)
    images = (images - mean) * jnp.exp(u[1]) + mean
    grey = images.mean(3, keepdims=True)
    return (images - grey) * jnp.exp(u[2]) + grey


def zoom(key: Array, images: Array, draws: int) -> Array:
    """Show a part of each image, or more than it, at another size; see `colour` for `draws`."""
    keys = jax.random.split(key)
    factors = ZOOM ** jax.random.uniform(keys[0], (draws, 1), images.dtype, -1.0, 1.0)
    centres = jnp.abs(factors - 1) * jax.random.uniform(keys[1], (draws, 2), images.dtype, -1.0, 1.0)
    return bilinear(images, jnp.eye(2, dtype=images.dtype) / factors[:, :, None], centres / factors, edges=True)


def turn(key: Array, images: Array, draws: int) -> Array:
    """Turn about the centre, with the edges outside; see `colour` for `draws`."""
    angle = jnp.deg2rad(jax.random.uniform(key, (draws,), images.dtype, -DEGREES, DEGREES))
    return bilinear(images, _turning(angle), edges=True)


def translate(key: Array, images: Array, draws: int) -> Array:
    """Shift by fractions of a pixel; see `colour` for `draws`."""
    shifts = 2 * SHIFT * jax.random.uniform(key, (draws, 2), images.dtype, -1.0, 1.0)
    return bilinear(images, jnp.eye(2, dtype=images.dtype)[None], shifts, edges=True)


def small_cutout(key: Array, images: Array, draws: int) -> Array:
    """Set a square of a quarter of the side, which is inside the image, to zero; see `colour` for `draws`."""
    inside = []
    for axis, side in enumerate(images.shape[1:3]):
        first = jax.random.randint(jax.random.fold_in(key, axis), (draws, 1), 0, side - side // 4 + 1)
        inside.append((jnp.arange(side) >= first) & (jnp.arange(side) < first + side // 4))
    return jnp.where((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0.0, images)


def _turning(angle: Array) -> Array:
    rows = [jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1), jnp.stack([-jnp.sin(angle), jnp.cos(angle)], -1)]
    return jnp.stack(rows, axis=1)


OPERATIONS = (colour, crop, cutout, scale, rotate, flip)
"""DSA's operations; the flip is the last, so that a strategy may leave it out."""
OF_FREPO = (jitter, zoom, turn, translate, small_cutout, flip)
"""FRePo's operations; the flip is the last here too."""
STRATEGIES: dict[str, tuple[Callable[[Array, Array, int], Array], ...]] = {
    "dsa": OPERATIONS,
    "dsa_no_flip": OPERATIONS[:-1],
    "frepo": OF_FREPO,
    "frepo_no_flip": OF_FREPO[:-1],
}
"""The augmentations that apply one of several operations to a batch."""


def dc(key: Array, images: Array) -> Array:
    """Return images (N, H, W, C), each after one operation of its own: DC's augmentation of MNIST.

    A crop of the image padded by 4 pixels of the batch's mean, each channel's own, shifted by -4 to 3 pixels; a scale
    of each axis by a factor uniform in [0.8, 1.2], to a whole number of pixels, nearest neighbours, in zeros; or a
    rotation by whole degrees, -45 to 44, in the mean. The public code rotates by cubic splines, here it is bilinear.
    """
    count, height, width, _ = images.shape
    keys = jax.random.split(key, 4)
    mean = images.mean((0, 1, 2))
    offsets = jax.random.randint(keys[0], (count, 2), -4, 4)
    rows, columns = jnp.arange(height) + offsets[:, :1], jnp.arange(width) + offsets[:, 1:]
    cropped = nearest(images - mean, rows, columns) + mean
    # As the public code, both lengths are fractions of the height.
    lengths = jnp.floor(jax.random.uniform(keys[1], (count, 2), minval=0.8, maxval=1.2) * height).astype(int)
    canvas = jnp.maximum(lengths.max(1), max(height, width))
    scaled_rows, scaled_columns = (
        _source_pixels(jnp.arange(side), side, lengths[:, axis, None], canvas[:, None])
        for axis, side in enumerate((height, width))
    )
    scaled = nearest(images, scaled_rows, scaled_columns)
    angle = jnp.deg2rad(jax.random.randint(keys[2], (count,), -45, 45).astype(images.dtype))
    fill = mean.mean()
    turned = bilinear(images - fill, _turning(angle)) + fill
    choice = jax.random.randint(keys[3], (count, 1, 1, 1), 0, 3)
    return jnp.where(choice == 0, cropped, jnp.where(choice == 1, scaled, turned))


def _source_pixels(positions: Array, side: int, length: Array, canvas: Array) -> Array:
    """Return the pixel of an image of `side` at each position, after it was resized to `length` and centred.

    -1 stands for none.
    """
    shown = positions + (canvas - side) // 2 - (canvas - length) // 2
    return jnp.where((shown >= 0) & (shown < length), shown * side // length, -1)
