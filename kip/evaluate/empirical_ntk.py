"""The empirical neural tangent kernel of a finite network, and the critical learning rate that follows from it.

    Theta = J J^T,    J (n c, P): the derivative of the c logits of n images with respect to all P parameters

Rows of J come from vjps, as many at a time as the memory allows, so that the network may be of any width. Products are
in full float32, since the small eigenvalues of Theta lie below the digits of TF32.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", section A; Lee et al.
2019, "Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from kip.errors import NonFiniteError
from kip.evaluate.spectrum import eigenvalues
from kip.networks import Model
from kip.networks.model import Variables

POINTS = 64
"""The most training images that the kernel is taken on."""


def empirical_ntk(model: Model, variables: Variables, images: np.ndarray, *, memory_mib: int = 1024) -> np.ndarray:
    """Return Theta (n c, n c), rows ordered by image, then by logit, in the dtype of the parameters.

    Args:
        model: the network; batch normalisation works by its running statistics.
        variables: its parameters.
        images: (n, H, W, C), preprocessed.
        memory_mib: what two blocks of rows of J may take.
    """
    params = variables["params"]
    size, itemsize = sum(leaf.size for leaf in jax.tree.leaves(params)), jax.tree.leaves(params)[0].dtype.itemsize
    per_image = size * model.num_outputs * itemsize
    images_at_a_time = max(1, (memory_mib << 19) // per_image)
    parts = [jnp.asarray(images[start : start + images_at_a_time]) for start in range(0, len(images), images_at_a_time)]
    blocks: list[list[Any]] = [[None] * len(parts) for _ in parts]
    for i, rows in enumerate(parts):
        jacobian = _jacobian(model, variables, rows)
        blocks[i][i] = np.asarray(_products(jacobian, jacobian))
        for j in range(i):
            blocks[i][j] = np.asarray(_products(jacobian, _jacobian(model, variables, parts[j])))
            blocks[j][i] = blocks[i][j].T
    return np.block(blocks)


def critical_learning_rate(model: Model, variables: Variables, images: np.ndarray, *, divisor: float) -> float:
    """Return eta_critical = 2 divisor / (lambda_min + lambda_max), with the extreme eigenvalues of Theta on `images`.

    Gradient descent on 1/2 |f - y|^2 / divisor converges, while the network stays near its linearisation, for learning
    rates below about this. neural-tangents' helper gives 2 (1 + momentum) divisor / lambda_max instead; this is the
    paper's.

    Args:
        model: the network.
        variables: its parameters, at the start of training.
        images: (n, H, W, C), training images, preprocessed; the paper takes min(64, all).
        divisor: n for a loss that is a mean over images, n c for one over images and classes.

    Raises:
        NonFiniteError: if the kernel is not finite.
    """
    theta = empirical_ntk(model, variables, images)
    if not np.isfinite(theta).all():
        raise NonFiniteError(f"the empirical NTK of {model.network.label} holds NaN or infinity")
    spectrum = eigenvalues(theta)
    return float(2 * divisor / (spectrum[0] + spectrum[-1]))


def _jacobian(model: Model, variables: Variables, images: Array) -> Array:
    """Return J for some images, (b c, P)."""
    # Not lax.map: see `kip.training.loop`.
    return jnp.concatenate([_rows(model, variables, image[None]) for image in images])


@partial(jax.jit, static_argnames=("model",))
def _rows(model: Model, variables: Variables, image: Array) -> Array:
    flat, unravel = ravel_pytree(variables["params"])
    with jax.default_matmul_precision("highest"):
        logits, pull = jax.vjp(lambda p: model.apply({**variables, "params": unravel(p)}, image).logits[0], flat)
        return jax.vmap(lambda bar: pull(bar)[0])(jnp.eye(len(logits), dtype=logits.dtype))


def _products(rows: Array, columns: Array) -> Array:
    return jnp.matmul(rows, columns.T, precision="highest")
