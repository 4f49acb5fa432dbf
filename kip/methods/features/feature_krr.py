"""KRR on the features of finite networks: the loss of FRePo, KRR-ST and RFAD, and its gradient.

With F_s = f(X_s) (n, d) and F_t = f(X_t) (m, d), those of several networks side by side, and with a factor g and an
offset b of the caller,

    K_ss = g F_s F_s^T + b,   K_ts = g F_t F_s^T + b,   L = the loss of `kip.krr`,
    dL/dF_s = g ((Kbar_ss + Kbar_ss^T) F_s + Kbar_ts^T F_t),   dL/dX_s = (df/dX_s)^T dL/dF_s.

g = 1 and b = 0 are FRePo's; b = 1, a feature that is 1, is KRR-ST's. With g = w_std^2 / d and b = b_std^2, the
variances of a last layer's weights and biases, K is RFAD's estimate of the NNGP kernel.

The set may stand beside its mirror images, X_s = [X, X mirrored] and Y_s = [Y, Y] (`with_mirrors`), as in FRePo; the
gradient of the set is then the sum of both parts (`of_both`).

Features stay on the device, in float32, one array for each network: K is the sum of the networks' own products, and so
they are never put side by side. Products are summed in float64 on the device, and the regression is `kip.krr`'s, in
float64: with a ridge of 1e-6 of the trace, float32 has no digits left. Only K_ss and K_ts travel to the host. No
gradient goes through F_t. Batch normalisation is in test mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip import krr
from kip.errors import NonFiniteError
from kip.networks.model import Model, Variables
from kip.precision import AnyArray, float64
from kip.training.augment import with_mirrors
from kip.training.predict import device_features, device_parts, features_of_parts, precise_features

ROWS = 1024
"""Rows of F_t that are taken in float64 at once."""
Pull = Callable[[Array], tuple[Array]]
"""The function that pulls a cotangent of features back to images; a pytree."""


class Gradient(NamedTuple):
    """The loss of a set and its gradient.

    Attributes:
        loss: L.
        condition: the condition number of K_ss with its ridge.
        predictions: (m, c), float64.
        images: dL/dX_s, (n, H, W, C), float32, on the device.
        labels: dL/dY_s, (n, c), float32.
        scale: dL/ds, see `kip.krr.loss`.
    """

    loss: float
    condition: float
    predictions: np.ndarray
    images: Array
    labels: np.ndarray
    scale: float


def gradient(
    model: Model,
    networks: Sequence[Variables],
    images: AnyArray,
    labels: AnyArray,
    target: np.ndarray,
    target_labels: np.ndarray,
    *,
    ridge: krr.Ridge,
    reduction: krr.Reduction = "mean",
    bias: float = 0.0,
    weight: float | None = None,
    mirror: bool = False,
    scale: float | None = None,
) -> Gradient:
    """Return the loss and its gradient with respect to the set.

    Args:
        model: the network.
        networks: the variables of one or several such networks.
        images: X_s (n, H, W, C).
        labels: Y_s (n, c).
        target: X_t (m, H, W, C).
        target_labels: Y_t (m, c).
        ridge: the regulariser.
        reduction: the reduction of the loss; see `kip.krr.loss`.
        bias: b, which is added to every entry of K.
        weight: the variance w of a last layer's weights, g = w / d, d the features of all networks; None: g = 1.
        mirror: whether the set stands beside its mirror images in the regression; the gradient is of the set alone.
        scale: the scale of the loss; see `kip.krr.loss`.

    Raises:
        NonFiniteError, NotPositiveDefiniteError: as `kip.krr.cotangents`.
    """
    if mirror:
        images, labels = with_mirrors(images, labels)
    images = jnp.asarray(images)
    parts = device_parts(model, target)
    # What the pull-back needs is kept for one network only: for several at once it would fill the memory.
    kept = _features_and_pull(networks[0], images, model=model) if len(networks) == 1 else None
    pairs = [
        (kept[0] if kept else device_features(model, variables, images), features_of_parts(model, variables, parts))
        for variables in networks
    ]
    factor = 1.0 if weight is None else weight / sum(support.shape[1] for support, _ in pairs)
    k_ss = bias + factor * sum(np.asarray(gram(support, support)) for support, _ in pairs)
    k_ts = bias + factor * sum(np.asarray(gram(features, support)) for support, features in pairs)
    bars = krr.cotangents(k_ss, k_ts, np.asarray(labels), target_labels, ridge, reduction, scale)
    to_ss, to_ts = factor * (bars.k_ss + bars.k_ss.T), factor * bars.k_ts
    to_images: Any = 0.0
    for variables, (support, features) in zip(networks, pairs):
        to_features = feature_cotangent(to_ss, to_ts, support, features)
        to_images = to_images + (
            _pull(kept[1], to_features) if kept else _pull_back(variables, images, to_features, model=model)
        )
    if not np.isfinite(np.asarray(to_images)).all():
        raise NonFiniteError("the gradient of the images holds NaN or infinity", remedy="Lower the learning rate.")
    to_labels = bars.y_s.astype(np.asarray(labels).dtype)
    if mirror:
        to_images, to_labels = of_both(to_images, to_labels)
    return Gradient(bars.loss, bars.condition, bars.predictions, to_images, to_labels, bars.scale)


def of_both(images: Array, labels: np.ndarray) -> tuple[Array, np.ndarray]:
    """Return the gradient with respect to a set, given that with respect to `with_mirrors` of it.

    Args:
        images: (2n, H, W, C).
        labels: (2n, c).
    """
    n = len(images) // 2
    return images[:n] + images[n:, :, ::-1], labels[:n] + labels[n:]


def gram(rows: Array, columns: Array) -> Array:
    """Return the inner products of float32 features (m, d) and (n, d), (m, n), summed in float64 on their device."""
    with float64():
        parts = [_gram(rows[first : first + ROWS], columns) for first in range(0, len(rows), ROWS)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def feature_cotangent(to_ss: np.ndarray, to_ts: np.ndarray, support: Array, target: Array) -> Array:
    """Return to_ss F_s + to_ts^T F_t, (n, d), summed in float64 and in the features' dtype, on their device."""
    with float64():
        total = _product(to_ss, support)
        for first in range(0, len(target), ROWS):
            part = slice(first, first + ROWS)
            total = _add(total, to_ts[part], target[part])
        return total.astype(support.dtype)


@jax.jit
def _gram(rows: Array, columns: Array) -> Array:
    return rows.astype(float) @ columns.astype(float).T


@jax.jit
def _product(weights: Array, features: Array) -> Array:
    return weights @ features.astype(float)


@jax.jit
def _add(total: Array, weights: Array, features: Array) -> Array:
    return total + weights.T @ features.astype(float)


@partial(jax.jit, static_argnames=("model",))
def _features_and_pull(variables: Variables, images: Array, *, model: Model) -> tuple[Array, Pull]:
    return jax.vjp(lambda images: precise_features(model, variables, images), images)


@jax.jit
def _pull(pull: Pull, cotangent: Array) -> Array:
    return pull(cotangent)[0]


@partial(jax.jit, static_argnames=("model",))
def _pull_back(variables: Variables, images: Array, cotangent: Array, *, model: Model) -> Array:
    return _pull(_features_and_pull(variables, images, model=model)[1], cotangent)
