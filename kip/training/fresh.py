"""Fresh networks: the variables of a model, drawn by one compiled function."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from jax import Array

from kip.networks import Model
from kip.networks.model import Variables


def fresh(model: Model, key: Array, image_shape: tuple[int, ...]) -> Variables:
    """Return the variables that a key draws for images (H, W, C); for keys (r,), stacked along a leading axis.

    Raises:
        ShapeError: if the images are too small for the network.
    """
    return _compiled(model, tuple(image_shape), key.ndim > 0)(key)


@functools.lru_cache(maxsize=64)
def _compiled(model: Model, shape: tuple[int, int, int], many: bool) -> Callable[[Array], Variables]:
    draw = lambda key: model.init(key, shape)  # noqa: E731
    return jax.jit(jax.vmap(draw) if many else draw)
