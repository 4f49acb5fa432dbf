"""The dual of erf, see `dual.py`.

For q = 1 + 2 v, q' = 1 + 2 v', s = sqrt(q q') and D = s^2 - 4 K^2:

    K' = E erf(a) erf(b) = 2 / pi arcsin(2 K / s)
    T' = K' + T S       S = E erf'(a) erf'(b) = 4 / (pi sqrt(D))

It is the angle between (1, sqrt 2 a) and (1, sqrt 2 b) that the arcsine is of, and all follows from its tangent, the
point of this dual:

    t = 2 K / sqrt(D)       g = 1 + t^2 = s^2 / D
    S = 4 sqrt(g) / (pi s)  K' = 4 / pi arctan(t / (1 + sqrt g))

Numerics. D = (s - 2 K) (s + 2 K) with s - 2 K = 1 + (v + v' - 2 K) - (sqrt q - sqrt q')^2 / 2, which is exactly 1 for
equal images and loses no more digits than v - K does for similar ones. Neither factor is below 1, since |K| is at most
sqrt(v v'): nothing diverges, at no angle. The arctangent is of a number in [-1, 1]; in float32 it is h times a
polynomial of h^2, which keeps the relative error of small covariances.

Reference: Williams 1997, "Computing with Infinite Networks", equation 11. The polynomial: our fit in Chebyshev
polynomials, relative error 2e-8.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from kip.kernels.engine.dual import Dual, Variance, polynomial, variance

ARC = (1.27323953, -0.424409871, 0.254553936, -0.180846417, 0.135484575, -0.095547636, 0.0543565191, -0.0204592068, 0.0036285904)  # fmt: skip  # noqa: E501
"""4 arctan(h) / (pi h), by powers of h^2 in [0, 1]."""


def tangent(nngp: Array, v_x: Variance, v_z: Variance) -> Array:
    """Return 2 K / sqrt(D)."""
    r_x, r_z = _root(v_x), _root(v_z)
    half_gap = 0.5 * (r_x - r_z) ** 2
    both, twice = v_x.value + v_z.value, 2 * nngp
    below = jnp.maximum(1 + (both - twice) - half_gap, 1)
    above = jnp.maximum(1 + (both + twice) - half_gap, 1)
    return twice / jnp.sqrt(below * above)


def values(tangent: Array, ntk: Array | None, v_x: Variance, v_z: Variance) -> tuple[Array, Array | None]:
    """Return K' and T'."""
    secant = jnp.sqrt(1 + tangent * tangent)
    half = tangent / (1 + secant)
    nngp = 4 / math.pi * jnp.arctan(half) if tangent.dtype == jnp.float64 else half * polynomial(ARC, half * half)
    return nngp, None if ntk is None else nngp + ntk * _slope(secant, v_x, v_z)


def pull(
    tangent: Array, ntk: Array | None, v_x: Variance, v_z: Variance, nngp_bar: Array, ntk_bar: Array | None
) -> tuple[Array, Array | None, Array]:
    """Return the cotangents of K, T and log q by those of K' and T'.

    dK'/dK = S                      dK'/dlog q = -t / pi
    dT'/dT = S                      dT'/dlog q = dK'/dlog q - T S g / 2
    dT'/dK = S + T S^2 t pi / 2
    """
    secant = jnp.sqrt(1 + tangent * tangent)
    slope = _slope(secant, v_x, v_z)
    if ntk is None or ntk_bar is None:
        return nngp_bar * slope, None, nngp_bar * tangent / -math.pi
    bar = nngp_bar + ntk_bar
    steep = ntk_bar * ntk * slope
    to_nngp = slope * (bar + steep * tangent * (math.pi / 2))
    # A quotient comes last, as in `relu.chord`: this is read for the sums over either image's positions.
    to_log = (bar * tangent + steep * (secant * secant) * (math.pi / 2)) / -math.pi
    return to_nngp, ntk_bar * slope, to_log


def next_variance(value: Array) -> Array:
    """Return the variance after erf, 2 / pi arcsin(2 v / q), with the rounding that K' has at equal images.

    Its derivative is 4 / (pi q sqrt(1 + 4 v)).
    """
    v = variance(ERF, value)
    after = values(tangent(v.value, v, v), None, v, v)[0]
    rate = 4 / math.pi / (ERF.scale(v.value) * jnp.sqrt(1 + 4 * v.value))
    return jax.lax.stop_gradient(after) + jax.lax.stop_gradient(rate) * (value - v.value)


def _root(v: Variance) -> Array:
    """Return sqrt(q)."""
    return (1 + 2 * v.value) * v.inverse_root


def _slope(secant: Array, v_x: Variance, v_z: Variance) -> Array:
    """Return S."""
    return secant * (v_x.inverse_root * v_z.inverse_root) * (4 / math.pi)


ERF = Dual(lambda v: 1 + 2 * v, 2.0, tangent, values, pull, next_variance)
