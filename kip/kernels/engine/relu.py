"""The ReLU's dual: from the covariance of two Gaussians to that of their rectified values, and to its slope.

For (a, b) ~ N(0, [[v, K], [K, v']]), s = sqrt(v v'), theta = arccos(K / s), and the tangent kernel T:

    K' = E relu(a) relu(b) = s (sin theta + (pi - theta) cos theta) / 2 pi
    T' = K' + T E [a > 0] [b > 0] = K' + T (pi - theta) / 2 pi

T' has K' in it, since whatever layer of weights follows adds as much: T and K then go through it alike.

Numerics. The angle comes from u = 1 - cos theta = ((v + v') / 2 - K - (sqrt v - sqrt v')^2 / 2) / s, which is exactly
zero for equal images and loses no more digits than v - K does for similar ones, where 1 - K / s would be the rounding
error of a quotient. With w = min(u, 2 - u) in [0, 1] and the angle a = arccos(1 - w), which is theta or, where u > 1,
pi - theta, all that is needed are a and sin a - a cos a. In float32 they are 2 pi sqrt(w) P(w) and 2 pi sqrt(w) w Q(w)
with two polynomials, so that one root and some twenty multiplications are all a pair costs.

sqrt(w), with a minus sign where u > 1, is called the *chord*: it is sqrt(2) sin(a / 2), and all else follows from it.
It is computed first and kept, so that K', T' and their cotangents each are one pass over memory.

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
        v_z: variances v' of the second image's positions; they get no gradient.
        log_v: zeros, of the shape of K. The result depends on v and v' through their product, but for K, so that one
            array can carry the gradient of both: what it gets is dL/dlog v = v dL/dv = v' dL/dv'.

    Returns:
        K' and T' (None without T).
    """
    return _dual(chord(nngp, v_x, v_z), ntk, _scale(v_x, v_z))


def chord(nngp: Array, v_x: Variance, v_z: Variance) -> Array:
    """Return sqrt(u) for u = 1 - cos theta up to 1, and -sqrt(2 - u) beyond."""
    gap = v_x.value * v_x.inverse_root - v_z.value * v_z.inverse_root
    deficit = (0.5 * v_x.value + 0.5 * v_z.value - nngp) - 0.5 * gap * gap
    u = jnp.clip(deficit * (v_x.inverse_root * v_z.inverse_root), 0, 2)
    # Opposite images, u = 2, must not look like equal ones: their chord is a negative number whose square is no zero.
    tiny = float(jnp.finfo(u.dtype).tiny)
    square = jnp.where(u < 1, u, jnp.minimum(u - 2, -tiny))
    # A quotient, because XLA for CPUs computes one once, and all of a sum or a product again for each that needs it.
    return square / jnp.maximum(jnp.sqrt(jnp.abs(square)), tiny**0.5)


def _scale(v_x: Variance, v_z: Variance) -> Array:
    """Return s = sqrt(v v')."""
    return (v_x.value * v_x.inverse_root) * (v_z.value * v_z.inverse_root)


def _dual(chord: Array, ntk: Array | None, scale: Array) -> tuple[Array, Array | None]:
    """Return K' and T' by the chord, T and s."""
    nngp = scale * moment(chord)
    return nngp, None if ntk is None else nngp + ntk * slope(chord)


def moment(chord: Array) -> Array:
    """Return K' / s = (sin theta + (pi - theta) cos theta) / 2 pi."""
    root, w = jnp.abs(chord), chord * chord
    if chord.dtype == jnp.float64:
        part = (root * jnp.sqrt(2 - w) - 2 * jnp.arcsin(root / math.sqrt(2)) * (1 - w)) / (2 * math.pi)
    else:
        part = root * w * _polynomial(MOMENT, w)
    return jnp.where(chord < 0, part, part + (0.5 - 0.5 * w))


def slope(chord: Array) -> Array:
    """Return (pi - theta) / 2 pi, the derivative of K' with respect to K."""
    root = jnp.abs(chord)
    if chord.dtype == jnp.float64:
        angle = jnp.arcsin(root / math.sqrt(2)) / math.pi
    else:
        angle = root * _polynomial(ANGLE, chord * chord)
    return jnp.where(chord < 0, angle, 0.5 - angle)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _relu_forward(nngp, ntk, v_x, v_z, log_v):
    at = chord(nngp, v_x, v_z)
    return _dual(at, ntk, _scale(v_x, v_z)), (at, ntk, v_x, v_z)


def _relu_backward(saved, bars):
    """Pull cotangents back through the ReLU.

        dK'/dK = (pi - theta) / 2 pi        v dK'/dv = s sin theta / 4 pi
        dT'/dT = (pi - theta) / 2 pi        v dT'/dv = v dK'/dv - T cos theta / (4 pi sin theta)
                                            dT'/dK = dK'/dK + T / (2 pi s sin theta)

    The last terms diverge at theta = 0, where they cancel: for x = z the contributions of K, v and v' sum to zero. They
    are taken as zero at angles of rounding errors.
    """
    at, ntk, v_x, v_z = saved
    nngp_bar, ntk_bar = bars
    if ntk is not None:
        nngp_bar = nngp_bar + ntk_bar
    w = at * at
    square = w * (2 - w)  # of sin theta
    least = float(jnp.finfo(at.dtype).eps) ** 0.75
    to_nngp = nngp_bar * slope(at)
    to_both = nngp_bar * (_scale(v_x, v_z) * square)
    if ntk is not None:
        steep = jnp.where(square > least**2, ntk_bar * ntk, 0)
        # The same sine twice, by two roots: one root for both would be a pass over memory of its own.
        sine = jnp.maximum(jnp.abs(at) * jnp.sqrt(2 - w), least)
        to_nngp = to_nngp + steep / (2 * math.pi * sine) * (v_x.inverse_root * v_z.inverse_root)
        to_both = to_both - steep * jnp.where(at < 0, w - 1, 1 - w)
    # A quotient comes last, see `chord`: this is read for the sums over either image's positions.
    to_both = to_both / (4 * math.pi * jnp.maximum(jnp.sqrt(square), least))
    return to_nngp, None if ntk is None else ntk_bar * slope(at), None, None, to_both


relu.defvjp(_relu_forward, _relu_backward)
