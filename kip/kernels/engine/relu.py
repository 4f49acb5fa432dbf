"""The ReLU's dual, see `dual.py`: from the covariance of two Gaussians to that of their rectified values.

For (a, b) ~ N(0, [[v, K], [K, v']]), s = sqrt(v v'), theta = arccos(K / s), and the tangent kernel T:

    K' = E relu(a) relu(b) = s (sin theta + (pi - theta) cos theta) / 2 pi
    T' = K' + T E [a > 0] [b > 0] = K' + T (pi - theta) / 2 pi

Numerics. The angle comes from u = 1 - cos theta = ((v + v') / 2 - K - (sqrt v - sqrt v')^2 / 2) / s, which is exactly
zero for equal images and loses no more digits than v - K does for similar ones, where 1 - K / s would be the rounding
error of a quotient. With w = min(u, 2 - u) in [0, 1] and the angle a = arccos(1 - w), which is theta or, where u > 1,
pi - theta, all that is needed are a and sin a - a cos a. In float32 they are 2 pi sqrt(w) P(w) and 2 pi sqrt(w) w Q(w)
with two polynomials, so that one root and some twenty multiplications are all a pair costs.

sqrt(w), with a minus sign where u > 1, is called the *chord*: it is sqrt(2) sin(a / 2), and all else follows from it.
It is the point of this dual, whose q is v itself.

Reference: Cho and Saul 2009, "Kernel Methods for Deep Learning", equations 5 and 6. P and Q: our least-squares fits in
Chebyshev polynomials, relative errors 2e-8.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from kip.kernels.engine.dual import Dual, Variance, polynomial, variance

ANGLE = (0.225079076, 0.0187569413, 0.0042130955, 0.00131049867, 0.000227297403, 0.000543375123, -0.000325717739, 0.00019542939)  # fmt: skip  # noqa: E501
"""P: theta / (2 pi sqrt(u)), by powers of u = 1 - cos theta in [0, 1]."""
MOMENT = (0.150052721, 0.00750245376, 0.00120858561, 0.000263194426, 0.000119568584, -2.93373765e-05, 3.77542095e-05)
"""Q: (sin theta - theta cos theta) / (2 pi u sqrt(u)), likewise."""


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


def values(chord: Array, ntk: Array | None, v_x: Variance, v_z: Variance) -> tuple[Array, Array | None]:
    """Return K' and T'."""
    nngp = _scale(v_x, v_z) * moment(chord)
    return nngp, None if ntk is None else nngp + ntk * slope(chord)


def moment(chord: Array) -> Array:
    """Return K' / s = (sin theta + (pi - theta) cos theta) / 2 pi."""
    root, w = jnp.abs(chord), chord * chord
    if chord.dtype == jnp.float64:
        part = (root * jnp.sqrt(2 - w) - 2 * jnp.arcsin(root / math.sqrt(2)) * (1 - w)) / (2 * math.pi)
    else:
        part = root * w * polynomial(MOMENT, w)
    return jnp.where(chord < 0, part, part + (0.5 - 0.5 * w))


def slope(chord: Array) -> Array:
    """Return (pi - theta) / 2 pi, the derivative of K' with respect to K."""
    root = jnp.abs(chord)
    if chord.dtype == jnp.float64:
        angle = jnp.arcsin(root / math.sqrt(2)) / math.pi
    else:
        angle = root * polynomial(ANGLE, chord * chord)
    return jnp.where(chord < 0, angle, 0.5 - angle)


def pull(
    chord: Array, ntk: Array | None, v_x: Variance, v_z: Variance, nngp_bar: Array, ntk_bar: Array | None
) -> tuple[Array, Array | None, Array]:
    """Return the cotangents of K, T and log v by those of K' and T'.

        dK'/dK = (pi - theta) / 2 pi        v dK'/dv = s sin theta / 4 pi
        dT'/dT = (pi - theta) / 2 pi        v dT'/dv = v dK'/dv - T cos theta / (4 pi sin theta)
                                            dT'/dK = dK'/dK + T / (2 pi s sin theta)

    The last terms diverge at theta = 0, where they cancel: for x = z the contributions of K, v and v' sum to zero. They
    are taken as zero at angles of rounding errors.
    """
    if ntk_bar is not None:
        nngp_bar = nngp_bar + ntk_bar
    w = chord * chord
    square = w * (2 - w)  # of sin theta
    least = float(jnp.finfo(chord.dtype).eps) ** 0.75
    to_nngp = nngp_bar * slope(chord)
    to_both = nngp_bar * (_scale(v_x, v_z) * square)
    if ntk is not None and ntk_bar is not None:
        steep = jnp.where(square > least**2, ntk_bar * ntk, 0)
        # The same sine twice, by two roots: one root for both would be a pass over memory of its own.
        sine = jnp.maximum(jnp.abs(chord) * jnp.sqrt(2 - w), least)
        to_nngp = to_nngp + steep / (2 * math.pi * sine) * (v_x.inverse_root * v_z.inverse_root)
        to_both = to_both - steep * jnp.where(chord < 0, w - 1, 1 - w)
    # A quotient comes last, see `chord`: this is read for the sums over either image's positions.
    to_both = to_both / (4 * math.pi * jnp.maximum(jnp.sqrt(square), least))
    return to_nngp, None if ntk_bar is None else ntk_bar * slope(chord), to_both


def next_variance(value: Array) -> Array:
    """Return the variance after the ReLU, v / 2, with the rounding that K' has at equal images."""
    v = variance(RELU, value)
    root = v.value * v.inverse_root
    half = 0.5 * value
    return half + jax.lax.stop_gradient(root * root * 0.5 - half)


RELU = Dual(lambda v: v, 1.0, chord, values, pull, next_variance)
