"""The distance between two gradients of a network, and its derivative with respect to the images of one of them.

    D(a, b) = sum over layers, sum over output rows, of 1 - <a, b> / (|a| |b| + 1e-6)

A layer's gradient has one row for each output: a convolution's kernel is (rest, out), and parameters of one dimension
(biases, scales of a normalisation) count for nothing, as in the public code of DC.

Reference: Zhao, Mopuri, Bilen 2021, "Dataset Condensation with Gradient Matching", equation 8; public code,
`utils.match_loss`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from kip.networks.model import Variables
from kip.training.unrolled import slope_and_gradients

EPSILON = 1e-6
"""The term that is added to the product of two norms, as in the public code."""


def rows(a: Variables, b: Variables) -> Array:
    """Return the distance of two gradients of a network's parameters, pytrees of the same structure."""
    layers = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((_rows_of(x, y) for x, y in layers if x.ndim > 1), jnp.zeros(()))


def _rows_of(a: Array, b: Array) -> Array:
    a, b = (layer.reshape(-1, layer.shape[-1]) for layer in (a, b))
    return jnp.sum(1 - jnp.sum(a * b, 0) / (_norms(a) * _norms(b) + EPSILON))


def _norms(a: Array) -> Array:
    """Return the norm of each column, whose derivative at zero is zero."""
    squares = jnp.sum(a * a, 0)
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def gradient_distance(
    loss: Callable[[Variables, Array], Array], params: Variables, images: Array, wanted: Variables
) -> tuple[Array, Array]:
    """Return D(wanted, g), g = grad_params loss(params, images), and its gradient with respect to the images.

    With u = dD/dg, the gradient is that of the slope u . grad_params loss: reverse over forward, so that no gradient is
    differentiated in reverse twice. On two CPU cores, with ConvNet-D3 of width 128 at 28x28, this takes 84 ms
    for ten images where reverse over reverse takes 150 ms (for one image 12 and 14 ms), with the same memory.

    Args:
        loss: the loss of a network, a function of its parameters and of the images.
        params: the parameters, a pytree.
        images: the learned images.
        wanted: the gradient to be matched, of the structure of `params`.
    """
    gradient = jax.grad(loss)(params, images)
    distance, direction = jax.value_and_grad(rows, 1)(wanted, gradient)
    return distance, slope_and_gradients(loss, params, images, direction)[1][1]
