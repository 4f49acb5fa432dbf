"""The outputs of a trained network for many images, a chunk at a time: the one place that classifies.

Accelerators may round float32 products to fewer digits (TF32). Classes do not depend on these digits, so that `logits`
and `accuracy` leave the precision to JAX's setting. Features go into regressions with a ridge of 1e-6 of the trace,
which depend on float32's last digits, so that `features` asks for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.networks import Model
from kip.placement import platform
from kip.storage.images import Images, Lazy

ROWS = 2048
"""The largest number of images that an accelerator sees at once."""
CACHED = 2**20
"""The numbers in the largest layer of a chunk on a CPU, 4 MiB of float32. With 32 channels at 28x28, 512 images at once
take twice the time of 32 at once."""
IN_FLIGHT = 4
"""The number of chunks under way before the result of the first is waited for: enough to keep a device busy while the
host reads the next, and few enough to keep few images of a set on the disk in memory."""
CHUNK = 500
"""The number of images that are normalised together with `batch_statistics`."""


def rows_at_once(model: Model, images: Images | Array) -> int:
    """Return the number of images (N, H, W, C) that a network takes at once, so that its layers stay in the cache."""
    if platform() != "cpu":
        return ROWS
    largest = model.network.largest_layer(images.shape[1], images.shape[2])
    return int(np.clip(2 ** int(np.log2(max(1, CACHED // largest))), 8, ROWS))


def features(model: Model, variables: Any, images: Images) -> np.ndarray:
    """Return F (N, d), the inputs of the last dense layer, float64 on the host; batch normalisation is in test mode."""
    return np.asarray(device_features(model, variables, images), np.float64)


def device_features(model: Model, variables: Any, images: Images | Array) -> Array:
    """Return F (N, d) in the network's dtype, on JAX's default device; see `features`."""
    if isinstance(images, Lazy):
        size = rows_at_once(model, images)

        def of(part: slice) -> Array:
            return _features(variables, images[part], model=model)

        return jnp.asarray(np.concatenate(_in_turn(of, len(images), size)))
    return features_of_parts(model, variables, device_parts(model, images))


def device_parts(model: Model, images: np.ndarray | Array) -> list[Array]:
    """Return images (N, H, W, C) in the parts that a network sees at once, on JAX's default device."""
    size = rows_at_once(model, images)
    # Cut on the host, where a part is a view: each slice of a device's array costs as much as a small network.
    images = images if len(images) <= size else np.asarray(images)
    return [jnp.asarray(images[first : first + size]) for first in range(0, len(images), size)]


def features_of_parts(model: Model, variables: Any, parts: Sequence[Array]) -> Array:
    """Return F (N, d) of images in the parts of `device_parts`, which several networks may share."""
    features = [_features(variables, part, model=model) for part in parts]
    return features[0] if len(features) == 1 else jnp.concatenate(features)


def logits(model: Model, variables: Any, images: Images) -> np.ndarray:
    """Return the network's outputs for images (N, H, W, C), (N, c), in its dtype, on the host."""
    size = rows_at_once(model, images)
    return np.concatenate(_in_turn(lambda part: _logits(variables, images[part], model=model), len(images), size))


def accuracy(
    model: Model,
    variables: Any,
    images: Images | Array,
    classes: np.ndarray | Array,
    *,
    batch_statistics: bool = False,
    many: bool = False,
) -> np.ndarray:
    """Return the fraction of images that `are_right` counts as right."""
    right = are_right(model, variables, images, classes, batch_statistics=batch_statistics, many=many)
    return right.mean(axis=-1)


def are_right(
    model: Model,
    variables: Any,
    images: Images | Array,
    classes: np.ndarray | Array,
    *,
    batch_statistics: bool = False,
    many: bool = False,
) -> np.ndarray:
    """Return True for each of images (M, H, W, C) whose largest logit is at its class, (M,) bool; NaN is no class.

    Args:
        model: the network.
        variables: its variables.
        images: preprocessed.
        classes: integers.
        batch_statistics: normalise by those of each chunk of `CHUNK` images (batch normalisation only).
        many: `variables` have a leading axis (r,), and so has the result.
    """
    options = {"model": model, "batch_statistics": batch_statistics, "many": many}
    size = CHUNK if batch_statistics else rows_at_once(model, images)
    right = _in_turn(lambda part: _right(variables, images[part], classes[part], **options), len(images), size)
    return np.concatenate(right, axis=-1)


def _in_turn(call: Callable[[slice], Array], count: int, size: int) -> list[np.ndarray]:
    """Return the results of a compiled function for consecutive parts of range(count), on the host."""
    under_way: deque[Array] = deque()
    results = []
    for first in range(0, count, size):
        under_way.append(call(slice(first, first + size)))
        if len(under_way) == IN_FLIGHT:
            results.append(np.asarray(under_way.popleft()))
    return results + [np.asarray(part) for part in under_way]


def precise_features(model: Model, variables: Any, images: Array) -> Array:
    """Return F (N, d) with products in full float32; jit-composable."""
    with jax.default_matmul_precision("highest"):
        return model.apply(variables, images).features


@partial(jax.jit, static_argnames=("model",))
def _features(variables: Any, images: Array, *, model: Model) -> Array:
    return precise_features(model, variables, images)


@partial(jax.jit, static_argnames=("model",))
def _logits(variables: Any, images: Array, *, model: Model) -> Array:
    return model.apply(variables, images).logits


@partial(jax.jit, static_argnames=("model", "batch_statistics", "many"))
def _right(variables: Any, images: Array, classes: Array, *, model: Model, batch_statistics: bool, many: bool) -> Array:
    def right(variables: Any) -> Array:
        outputs = model.apply(variables, images, train=batch_statistics).logits
        return (outputs.argmax(1) == classes) & jnp.isfinite(outputs).all(1)

    return jax.vmap(right)(variables) if many else right(variables)
