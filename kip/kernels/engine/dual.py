"""The dual of an activation, as the engine needs it: from the covariance of two Gaussians to that of their activations.

For an activation f, (a, b) ~ N(0, [[v, K], [K, v']]) and the tangent kernel T,

    K' = E f(a) f(b)
    T' = K' + T S       S = E f'(a) f'(b) = dK'/dK

T' has K' in it, since whatever layer of weights follows adds as much: T and K then go through it alike.

A `Dual` holds the functions of one activation. They may take it that K' and S depend on v and v' through q q' alone,
the product of two affine functions of them, q = v for the ReLU and q = 1 + 2 v for erf. Then one array carries the
gradient of both: dL/dlog q = dL/dlog q'.

What a pair needs comes from one number, its *point*. It is computed first and kept, so that K', T' and their cotangents
each are one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Variance(NamedTuple):
    """A variance v and 1 / sqrt(q), 0 where q = 0; broadcasts against the covariances."""

    value: Array
    inverse_root: Array


class Dual(NamedTuple):
    """The functions of an activation's dual; all take and return arrays of one shape, up to broadcasting.

    Attributes:
        scale: q of a variance v.
        rate: dq/dv.
        point: the number by which all else of a pair follows, from K and both variances.
        values: K' and T' from the point, T and both variances; T and T' are None for the NNGP.
        pull: the cotangents of K, T and log q, from the point, T, both variances and the cotangents of K' and T'.
        next_variance: the variance after the activation, differentiable, with the rounding that K' has at equal images.
    """

    scale: Callable[[Array], Array]
    rate: float
    point: Callable[[Array, Variance, Variance], Array]
    values: Callable[[Array, Array | None, Variance, Variance], tuple[Array, Array | None]]
    pull: Callable[[Array, Array | None, Variance, Variance, Array, Array | None], tuple[Array, Array | None, Array]]
    next_variance: Callable[[Array], Array]


def variance(dual: Dual, value: Array) -> Variance:
    """Return a variance with its inverse root, of which no gradient is taken: see `activate`."""
    value = jax.lax.stop_gradient(value)
    q = dual.scale(value)
    return Variance(value, jnp.where(q > 0, 1 / jnp.sqrt(jnp.where(q > 0, q, 1)), 0))


def logarithm(dual: Dual, value: Array) -> Array:
    """Return zeros whose gradient with respect to a variance is that of log q, (dq/dv) / q; 0 where q = 0."""
    q = dual.scale(value)
    fixed = jax.lax.stop_gradient(q)
    return jnp.where(fixed > 0, q / jnp.where(fixed > 0, fixed, 1) - 1, 0)


def activate(
    dual: Dual, nngp: Array, ntk: Array | None, v_x: Variance, v_z: Variance, log_q: Array
) -> tuple[Array, Array | None]:
    """Return (K', T') of covariances K and T.

    Args:
        dual: the activation's.
        nngp: K.
        ntk: T; None computes K' alone.
        v_x: variances v of the first image's positions; they get no gradient.
        v_z: variances v' of the second image's positions; they get no gradient.
        log_q: zeros, of the shape of K, that get dL/dlog q = dL/dlog q'.

    Returns:
        K' and T' (None without T).
    """
    return _activate(dual, nngp, ntk, v_x, v_z, log_q)  # type: ignore[return-value]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _activate(dual, nngp, ntk, v_x, v_z, log_q):
    return dual.values(dual.point(nngp, v_x, v_z), ntk, v_x, v_z)


def _forward(dual, nngp, ntk, v_x, v_z, log_q):
    point = dual.point(nngp, v_x, v_z)
    return dual.values(point, ntk, v_x, v_z), (point, ntk, v_x, v_z)


def _backward(dual, saved, bars):
    to_nngp, to_ntk, to_log = dual.pull(*saved, *bars)
    return to_nngp, to_ntk, None, None, to_log


_activate.defvjp(_forward, _backward)


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Return a polynomial of x, whose coefficients begin with that of x^0."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
