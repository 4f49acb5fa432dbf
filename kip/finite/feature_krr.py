"""KRR on the features of finite networks: the loss of FRePo, KRR-ST and RFAD, and its gradient by the set.

With F_s = f(X_s) (n, d) and F_t = f(X_t) (m, d), those of several networks side by side, a column of ones appended
where asked,

    K_ss = F_s F_s^T,   K_ts = F_t F_s^T,   L = the loss of `kip.krr`,
    dL/dF_s = (Kbar_ss + Kbar_ss^T) F_s + Kbar_ts^T F_t,   dL/dX_s = (df/dX_s)^T dL/dF_s.

Features are the device's, in float32; the regression is `kip.krr`'s, on the host and in float64: with a ridge of 1e-6
of the trace, float32 has no digits left. No gradient goes through F_t. Batch normalisation is in test mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip import krr
from kip.errors import NonFiniteError
from kip.finite.networks import Model

ROWS = 2048
"""Target images whose features are computed at once."""


class Gradient(NamedTuple):
    """The loss of a set and its gradient.

    Attributes:
        loss: L.
        condition: of K_ss with its ridge.
        predictions: (m, c), float64.
        images: dL/dX_s, (n, H, W, C). labels: dL/dY_s, (n, c). Both float32.
        scale: dL/ds, see `kip.krr.loss`.
    """

    loss: float
    condition: float
    predictions: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    scale: float


def gradient(
    model: Model,
    networks: Sequence[Any],
    images: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    target_labels: np.ndarray,
    *,
    ridge: krr.Ridge,
    reduction: krr.Reduction = "mean",
    bias: bool = False,
    scale: float | None = None,
) -> Gradient:
    """Return the loss and its gradient with respect to the set.

    Args:
        model: the network. networks: the variables of one or several of it.
        images: X_s (n, H, W, C). labels: Y_s (n, c).
        target: X_t (m, H, W, C). target_labels: Y_t (m, c).
        ridge: the regulariser. reduction and scale: of the loss; see `kip.krr.loss`.
        bias: whether a feature that is 1 is appended.

    Raises:
        NonFiniteError, NotPositiveDefiniteError: as `kip.krr.cotangents`.
    """
    ours = side_by_side(model, networks, images, bias=bias)
    theirs = side_by_side(model, networks, target, bias=bias)
    bars = krr.cotangents(ours @ ours.T, theirs @ ours.T, labels, target_labels, ridge, reduction, scale)
    to_features = (bars.k_ss + bars.k_ss.T) @ ours + bars.k_ts.T @ theirs
    if bias:
        to_features = to_features[:, :-1]
    dtype = images.dtype
    to_each = np.split(to_features.astype(dtype), len(networks), axis=1)
    pulled = [_pull_back(variables, images, to_one, model=model) for variables, to_one in zip(networks, to_each)]
    to_images = np.sum(np.stack([np.asarray(part) for part in pulled]), axis=0)
    if not np.isfinite(to_images).all():
        raise NonFiniteError("the gradient of the images holds NaN or infinity", remedy="Lower the learning rate.")
    return Gradient(bars.loss, bars.condition, bars.predictions, to_images, bars.y_s.astype(dtype), bars.scale)


def side_by_side(model: Model, networks: Sequence[Any], images: np.ndarray, *, bias: bool = False) -> np.ndarray:
    """Return the features of several networks, (N, networks d), and a bias feature once; else as `features`."""
    parts = [features(model, variables, images) for variables in networks]
    return np.concatenate([*parts, np.ones((len(images), 1))] if bias else parts, axis=1)


def features(model: Model, variables: Any, images: np.ndarray) -> np.ndarray:
    """Return F (N, d), float64 on the host."""
    parts = [
        np.asarray(_features(variables, images[first : first + ROWS], model=model), np.float64)
        for first in range(0, len(images), ROWS)
    ]
    return np.concatenate(parts)


@partial(jax.jit, static_argnames=("model",))
def _features(variables: Any, images: Array, *, model: Model) -> Array:
    return model.apply(variables, images).features


@partial(jax.jit, static_argnames=("model",))
def _pull_back(variables: Any, images: Array, cotangent: Array, *, model: Model) -> Array:
    _, pull = jax.vjp(lambda images: model.apply(variables, images).features, images)
    return jnp.asarray(pull(cotangent)[0])
