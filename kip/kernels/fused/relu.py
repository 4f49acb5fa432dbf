"""The ReLU's dual of sixteen image pairs, see `dual.py`: `kip.kernels.engine.relu` in vectors, with the same letters.

    K' = s M            M = (sin theta + (pi - theta) cos theta) / 2 pi     s = sqrt(v v')
    T' = K' + T S       S = (pi - theta) / 2 pi

by u = 1 - cos theta and w = min(u, 2 - u). Of a variance v are kept r, the rounded root of it, e = (r^2 - v) / 2, and
1 / r. With them u = ((r r' - K) - (e + e')) / (r r'), which is exactly zero for equal images: r r - K is computed with
one rounding, and is then 2 e. It is the formula of `relu.py`, (v + v') / 2 - K - (r - r')^2 / 2, in fewer operations.

In float32 the angle and its moment are polynomials times sqrt(w), of relative errors below 1.3e-7, fitted to be least;
their even and odd powers are summed apart, because the processor would wait for a longer chain. In float64 the angle
comes from the arcsine. The point is w.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from kip.kernels.fused.compiled import inlined
from kip.kernels.fused.dual import Dual
from kip.kernels.fused.lanes import LANES, at, below, fma, lane, put, sqrt, with_lane

A0, A1, A2, A3, A4, A5, A6 = (
    0.225079102, 0.0187544491, 0.00425231502, 0.00107827965, 0.000883624206, -0.000410577772, 0.000362781851,
)  # fmt: skip
"""theta / (2 pi sqrt(u)), by powers of u in [0, 1]."""
M0, M1, M2, M3, M4, M5 = 0.150052701, 0.00750386465, 0.00119242769, 0.000331156637, -1.00220104e-05, 8.479566e-05
"""(sin theta - theta cos theta) / (2 pi u sqrt(u)), likewise."""
ROOT_HALF, ONE_BY_PI, ONE_BY_2PI = math.sqrt(0.5), 1 / math.pi, 1 / (2 * math.pi)
LEAST_32, LEAST_64 = float(2.0**-23) ** 1.5, float(2.0**-52) ** 1.5
"""Squares of the sine of an angle that is a rounding error."""


class Variances(NamedTuple):
    """The values that are kept of variances v: r, the root of v; (r^2 - v) / 2; and 1 / r, 0 where v = 0."""

    root: Any
    error: Any
    inverse: Any


def keep(v, values, i):
    """Keep what pairs need of a variance, and return v / 2 with the rounding that pairs have."""
    root = sqrt(v)
    put(values.root, i, root)
    put(values.error, i, 0.5 * fma(root, root, -v))
    put(values.inverse, i, below(0.0, v, 1.0 / below(0.0, v, root, 1.0), 0.0))
    return root * root * 0.5


def rates(values, i):
    """Return dlog v/dv = 1 / v and d(v / 2)/dv."""
    inverse = at(values.inverse, i)
    return inverse * inverse, 0.5


def forward(k, x, i, z, j):
    """Return w, K' and S."""
    r, r_z = at(x.root, i), at(z.root, j)
    u, beyond, w = versine(k, r, at(x.error, i), at(x.inverse, i), r_z, at(z.error, j), at(z.inverse, j))
    moment, slope = moment_and_slope(u, beyond, w)
    return w, r * r_z * moment, slope


@inlined
def versine(k, r, e, inverse, r_z, e_z, inverse_z):
    """Return (u, 2 - u, w) of covariances K."""
    deficit = fma(r, r_z, -k) - (e + e_z)
    scale = inverse * inverse_z
    u = deficit * scale
    beyond = fma(-deficit, scale, 2.0)
    w = below(u, beyond, u, beyond)
    return u, beyond, below(w, 0.0, 0.0, w)


def moment_and_slope(u, beyond, w) -> Any:
    """Return (M, S) by u, 2 - u and w."""
    raise NotImplementedError("for compiled functions")


@overload(moment_and_slope)
def _moment_and_slope(u, beyond, w):
    return _by_polynomials if u.element == types.float32 else _by_arcsine


def _by_polynomials(u, beyond, w):
    root = sqrt(w)
    half = below(u, beyond, 0.5, 0.0)
    signed = below(u, beyond, -root, root)
    w2 = w * w
    angle = fma(w, fma(w2, fma(w2, A5, A3), A1), fma(w2, fma(w2, fma(w2, A6, A4), A2), A0))
    moment = fma(w, fma(w2, fma(w2, M5, M3), M1), fma(w2, fma(w2, M4, M2), M0))
    return fma(moment, root * w, fma(-half, w, half)), fma(angle, signed, half)


def _by_arcsine(u, beyond, w):
    root = sqrt(w)
    angle = root * ROOT_HALF
    for i in range(LANES):
        angle = with_lane(angle, i, math.asin(lane(angle, i)))
    angle = angle * ONE_BY_PI
    part = fma(root * sqrt(2.0 - w), ONE_BY_2PI, -(angle * (1.0 - w)))
    return below(u, beyond, part + fma(w, -0.5, 0.5), part), below(u, beyond, 0.5 - angle, angle)


def least_square(w) -> Any:
    """Return the square of the sine below which an angle is taken as zero."""
    raise NotImplementedError("for compiled functions")


@overload(least_square)
def _least_square(w):
    least = LEAST_32 if w.element == types.float32 else LEAST_64
    return lambda w: least


def pull(bar_k, bar_t, point, slope, t, x, i, z, j):
    """Return the cotangents of K, T and log v (or log v', the same) by those of K' and T'.

        dK'/dK = S        v dK'/dv = s sin theta / 4 pi
        dT'/dT = S        v dT'/dv = v dK'/dv - T cos theta / (4 pi sin theta)
                          dT'/dK = S + T / (2 pi s sin theta)

    The last terms of T' diverge at theta = 0, where they cancel; they are taken as zero at angles of rounding errors.
    """
    w, scale, inverse_scale = point, at(x.root, i) * at(z.root, j), at(x.inverse, i) * at(z.inverse, j)
    bar = bar_k + bar_t
    square = w * (2.0 - w)
    least = least_square(w)
    steep = below(least, square, bar_t * t, 0.0)
    inverse_sine = ONE_BY_2PI / sqrt(below(square, least, least, square))
    cosine = below(slope, 0.25, w - 1.0, 1.0 - w)
    to_k = fma(bar, slope, steep * inverse_sine * inverse_scale)
    to_log = fma(bar * scale, square, -(steep * cosine)) * (0.5 * inverse_sine)
    return to_k, bar_t * slope, to_log


def pull_nngp(bar, point, slope, x, i, z, j):
    """Return the cotangents of K and of log v by that of K' alone."""
    w, scale = point, at(x.root, i) * at(z.root, j)
    square = w * (2.0 - w)
    least = least_square(w)
    root = sqrt(below(square, least, least, square))
    return bar * slope, bar * scale * square * (0.5 * ONE_BY_2PI) / root


RELU = Dual(Variances, keep, rates, forward, pull, pull_nngp)
