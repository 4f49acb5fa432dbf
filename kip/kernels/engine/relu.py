"""The ReLU's dual: from the covariance of two Gaussians to that of their rectified values, and to its slope.

For (a, b) ~ N(0, [[v, K], [K, v']]), s = sqrt(v v'), theta = arccos(K / s), and the tangent kernel T:

    K' = E relu(a) relu(b) = s (sin theta + (pi - theta) cos theta) / 2 pi
    T' = T E [a > 0] [b > 0] = T (pi - theta) / 2 pi

Numerics. The angle comes from u = 1 - cos theta = ((v + v') / 2 - K - (sqrt v - sqrt v')^2 / 2) / s, which is exactly
zero for equal images and loses no more digits than v - K does for similar ones, where 1 - K / s would be the rounding
error of a quotient. In float32, with w = min(u, 2 - u) in [0, 1], polynomials give theta (for u > 1, pi - theta) =
2 pi sqrt(w) P(w) and sin theta - theta cos theta = 2 pi sqrt(w) w Q(w), so that one root and some twenty
multiplications are all a pair costs.

Reference: Cho and Saul 2009, "Kernel Methods for Deep Learning", equations 5 and 6. P and Q: our least-squares fits in
Chebyshev polynomials, relative errors 2e-8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

ANGLE = (0.225079076, 0.0187569413, 0.0042130955, 0.00131049867, 0.000227297403, 0.000543375123, -0.000325717739, 0.00019542939)  # fmt: skip  # noqa: E501
"""P: theta / (2 pi sqrt(u)), by powers of u = 1 - cos theta in [0, 1]."""
MOMENT = (0.150052721, 0.00750245376, 0.00120858561, 0.000263194426, 0.000119568584, -2.93373765e-05, 3.77542095e-05)
"""Q: (sin theta - theta cos theta) / (2 pi u sqrt(u)), likewise."""


class Variance(NamedTuple):
    """A variance v and 1 / sqrt(v), 0 where v = 0; broadcasts against the covariances."""

    value: Array
    inverse_root: Array


def variance(value: Array) -> Variance:
    """Return a variance with its inverse root, of which no gradient is taken: see `relu`."""
    value = jax.lax.stop_gradient(value)
    return Variance(value, jnp.where(value > 0, 1 / jnp.sqrt(jnp.where(value > 0, value, 1)), 0))


def rectified(value: Array) -> Array:
    """Return the variance after the ReLU, v / 2, with the rounding that `relu` has at equal images."""
    v = variance(value)
    root = v.value * v.inverse_root
    half = 0.5 * value
    return half + jax.lax.stop_gradient(root * root * 0.5 - half)


def logarithm(value: Array) -> Array:
    """Return zeros whose gradient with respect to a variance is that of its logarithm, 1 / v; 0 where v = 0."""
    fixed = jax.lax.stop_gradient(value)
    return jnp.where(fixed > 0, value / jnp.where(fixed > 0, fixed, 1) - 1, 0)


@jax.custom_vjp
def relu(nngp: Array, ntk: Array | None, v_x: Variance, v_z: Variance, log_v: Array):
    """Return (K', T') of covariances K and T.

    Args:
        nngp: K.
        ntk: T; None computes K' alone.
        v_x: variances v of the first image's positions; they get no gradient.
        v_z: v' of the second's; likewise.
        log_v: zeros, of the shape of K. The result depends on v and v' through their product, but for K, so that one
            array can carry the gradient of both: what it gets is dL/dlog v = v dL/dv = v' dL/dv'.

    Returns:
        K' and T' (None without T).
    """
    u, scale = _versine(nngp, v_x, v_z)
    mean, half = _dual(u)
    return scale * mean, None if ntk is None else ntk * half


def _versine(nngp: Array, v_x: Variance, v_z: Variance) -> tuple[Array, Array]:
    """Return u = 1 - cos theta in [0, 2], and s = sqrt(v v')."""
    root_x, root_z = v_x.value * v_x.inverse_root, v_z.value * v_z.inverse_root
    gap = root_x - root_z
    deficit = (0.5 * v_x.value + 0.5 * v_z.value - nngp) - 0.5 * gap * gap
    return jnp.clip(deficit * (v_x.inverse_root * v_z.inverse_root), 0, 2), root_x * root_z


def _dual(u: Array) -> tuple[Array, Array]:
    """Return K' / s, and (pi - theta) / 2 pi."""
    if u.dtype == jnp.float64:
        theta = 2 * jnp.arcsin(jnp.sqrt(u / 2))
        half = (math.pi - theta) / (2 * math.pi)
        return jnp.sqrt(u * (2 - u)) / (2 * math.pi) + half * (1 - u), half
    w = jnp.minimum(u, 2 - u)
    root = jnp.sqrt(w)
    angle = root * _polynomial(ANGLE, w)
    mean = jnp.maximum(0.5 - 0.5 * u, 0) + root * w * _polynomial(MOMENT, w)
    return mean, jnp.where(u < 1, 0.5 - angle, angle)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _relu_forward(*arguments):
    return relu(*arguments), arguments


def _relu_backward(saved, bars):
    """Pull cotangents back through the ReLU.

        dK'/dK = (pi - theta) / 2 pi        v dK'/dv = s sin theta / 4 pi
        dT'/dT = (pi - theta) / 2 pi        v dT'/dv = -T cos theta / (4 pi sin theta)
                                            dT'/dK = T / (2 pi s sin theta)

    The last two diverge at theta = 0, where they cancel: for x = z the contributions of K, v and v' sum to zero. They
    are taken as zero at angles of rounding errors.
    """
    nngp, ntk, v_x, v_z, _ = saved
    nngp_bar, ntk_bar = bars
    u, scale = _versine(nngp, v_x, v_z)
    _, half = _dual(u)
    square = u * (2 - u)  # of sin theta
    least = float(jnp.finfo(nngp.dtype).eps) ** 1.5
    inverse_sine = jnp.where(square > least, jax.lax.rsqrt(jnp.maximum(square, least)), 0)
    to_both = nngp_bar * (scale * (square * inverse_sine) * (1 / (4 * math.pi)))
    to_nngp = nngp_bar * half
    if ntk is None:
        return to_nngp, None, None, None, to_both
    slope = inverse_sine * (ntk_bar * ntk) * (1 / (2 * math.pi))
    to_nngp = to_nngp + slope * (v_x.inverse_root * v_z.inverse_root)
    to_both = to_both - slope * (0.5 - 0.5 * u)
    return to_nngp, ntk_bar * half, None, None, to_both


relu.defvjp(_relu_forward, _relu_backward)
