"""The kernel of an encoder's features, K(x, z) = phi(x) . phi(z) / d, with phi computed once an image.

`kernel` is it inside a JAX program. `Encoder` computes features of arrays on the host and pulls gradients back to the
images, a batch at a time; `kip.blocks.encoded` makes kernel matrices of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.errors import NonFiniteError, ShapeError
from kip.kernels import permission, user_function
from kip.kernels.architecture import Features
from kip.precision import float64


@functools.lru_cache(maxsize=16)
def encode(kernel: Features) -> Callable[[Array], Array]:
    """Return phi, which gives features (N, d) of images (N, H, W, C), in their dtype; it is not jitted.

    It raises `ShapeError` where the encoder returns something else.

    Raises:
        ConfigError: if nobody permits the encoder, it cannot be loaded, or its file is another one.
    """
    permission.check(kernel.function, of="encoder")
    user_function.check_source(kernel.function, kernel.source, of="encoder")
    function = user_function.load_function(
        kernel.function,
        of="a Features kernel",
        signature="of images (N, H, W, C) to features (N, d)",
        example="def NAME(images): ...",
    )

    def phi(images: Array) -> Array:
        # In the three digits of TF32, products of features would not bear a small ridge; see `kernel_function`.
        with jax.default_matmul_precision("highest"):
            features = function(images)
        shape, dtype = getattr(features, "shape", ()), getattr(features, "dtype", np.dtype(object))
        if len(shape) != 2 or shape[0] != len(images) or not shape[1] or not jnp.issubdtype(dtype, jnp.floating):
            raise ShapeError(
                f"the result of the encoder {kernel.function!r}",
                got=f"shape {shape}, {dtype}" if shape else f"a {type(features).__name__}",
                expected=f"features ({len(images)}, d), floats",
                remedy="Flatten what it returns: features.reshape(len(images), -1).",
            )
        return features.astype(images.dtype)

    return phi


def kernel(kernel: Features) -> Callable[[Array, Array], Array]:
    """Return K(x, z) as a function of images, for JAX programs; where z is x, features are computed once."""
    phi = encode(kernel)

    def evaluate(x: Array, z: Array) -> Array:
        of_x = _in_batches(phi, x, kernel.batch)
        of_z = of_x if z is x else _in_batches(phi, z, kernel.batch)
        return of_x @ of_z.T / of_x.shape[1]

    return evaluate


class Encoder:
    """An encoder's features of arrays on the host, and their vjp. The encoder runs on JAX's default device.

    Args:
        kernel: names the encoder.
    """

    def __init__(self, kernel: Features):
        phi = encode(kernel)
        self._kernel = kernel
        self._phi = jax.jit(phi)
        self._pull = jax.jit(lambda images, bar: jax.vjp(phi, images)[1](bar)[0])

    def features(self, images: np.ndarray, on_images: Callable[[int], Any] | None = None) -> np.ndarray:
        """Return phi of images (N, H, W, C), N >= 1, as (N, d), float64.

        Args:
            images: float32 or float64, the dtype of the computation.
            on_images: is told how many images have been encoded, each time that some have.

        Raises:
            NonFiniteError: if a feature is NaN or infinite.
            ShapeError: if the encoder returns something else than features.
        """
        parts = []
        with _precision(images):
            for part, filled in _batches(images, self._kernel.batch):
                parts.append(np.asarray(self._phi(filled), np.float64)[: len(part)])
                if on_images is not None:
                    on_images(len(part))
        features = np.concatenate(parts)
        if not np.isfinite(features).all():
            raise NonFiniteError(
                f"features of the encoder {self._kernel.function!r} hold NaN or infinity",
                remedy="Look at its parameters, and whether it wants other preprocessing, or lower the learning rate.",
            )
        return features

    def pull(self, images: np.ndarray, bar: np.ndarray) -> np.ndarray:
        """Return the gradient of sum(bar * phi(images)) for the images, in their dtype.

        Args:
            images: (N, H, W, C).
            bar: (N, d).
        """
        bar, parts, start = bar.astype(images.dtype), [], 0
        with _precision(images):
            for part, filled in _batches(images, self._kernel.batch):
                of_part = bar[start : start + len(part)]
                of_filled = np.pad(of_part, ((0, len(filled) - len(part)), (0, 0)))
                parts.append(np.asarray(self._pull(filled, of_filled))[: len(part)])
                start += len(part)
        return np.concatenate(parts)


@functools.lru_cache(maxsize=16)
def encoder(kernel: Features) -> Encoder:
    """Return the encoder of a kernel, the same for equal kernels, so that it compiles once."""
    return Encoder(kernel)


def _size(count: int, most: int) -> int:
    """Return the size of even batches of at most `most`."""
    return -(-count // -(-count // most))


def _batches(images: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (images of a batch, the same filled up to the size of all batches with copies of the last)."""
    size = _size(len(images), most)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield part, part if len(part) == size else part[np.minimum(np.arange(size), len(part) - 1)]


def _in_batches(phi: Callable[[Array], Array], images: Array, most: int) -> Array:
    """Return the features of images inside a JAX program, whose vjp computes each batch again."""
    if len(images) <= most:
        return phi(images)
    size = _size(len(images), most)
    count = -(-len(images) // size)
    filled = jnp.concatenate([images, jnp.repeat(images[-1:], count * size - len(images), axis=0)])
    parts = jax.lax.map(jax.checkpoint(phi), filled.reshape(count, size, *images.shape[1:]))
    return parts.reshape(count * size, -1)[: len(images)]


def _precision(images: np.ndarray) -> contextlib.AbstractContextManager[Any]:
    return float64() if images.dtype == np.float64 else contextlib.nullcontext()
