"""The dual of erf of sixteen image pairs, see `dual.py`: `kip.kernels.engine.erf` in vectors, with the same letters.

    K' = 4 / pi arctan(h)       h = 2 K / (s + sqrt D)      D = (s - 2 K) (s + 2 K)
    T' = K' + T S               S = 4 / (pi sqrt D)         s = sqrt(q q')

The point is t = 2 K / sqrt(D), by which the vjp needs no root. Of a variance v are kept r, the rounded root of
q = 1 + 2 v, and e = (r^2 - q) / 2. With them s - 2 K = (r r' - 2 K) - (e + e'), which is 1 but for one rounding for
equal images, and s + 2 K likewise; neither is below 1.

In float32 the arctangent is a polynomial of relative error 2e-8, whose even and odd powers are summed apart, as
the ReLU's are.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types
from numba.extending import overload

from kip.kernels.fused.compiled import inlined
from kip.kernels.fused.dual import Dual
from kip.kernels.fused.lanes import LANES, at, below, fma, lane, put, sqrt, with_lane

C0, C1, C2, C3, C4, C5, C6, C7, C8 = (
    1.27323953, -0.424409871, 0.254553936, -0.180846417, 0.135484575, -0.095547636, 0.0543565191, -0.0204592068,
    0.0036285904,
)  # fmt: skip
"""4 arctan(h) / (pi h), by powers of h^2 in [0, 1]."""
FOUR_BY_PI, ONE_BY_PI, HALF_PI = 4 / math.pi, 1 / math.pi, math.pi / 2


class Variances(NamedTuple):
    """The values that are kept of variances v: r, the root of q = 1 + 2 v; and (r^2 - q) / 2."""

    root: Any
    error: Any


def keep(v, values, i):
    """Keep what pairs need of a variance, and return that after erf with the rounding that pairs have."""
    twice = v + v
    root = sqrt(twice + 1.0)
    error = 0.5 * (fma(root, root, -twice) - 1.0)
    put(values.root, i, root)
    put(values.error, i, error)
    return angle(v, root, error, root, error)[1]


def rates(values, i):
    """Return dlog q/dv = 2 / q and the derivative of the variance after erf, 4 / (pi q sqrt(2 q - 1))."""
    root = at(values.root, i)
    q = root * root
    inverse = 1.0 / q
    return 2.0 * inverse, FOUR_BY_PI * inverse / sqrt(fma(q, 2.0, -1.0))


def forward(k, x, i, z, j):
    """Return t, K' and S."""
    return angle(k, at(x.root, i), at(x.error, i), at(z.root, j), at(z.error, j))


@inlined
def angle(k, r, e, r_z, e_z):
    """Return t, K' and S of covariances K."""
    twice, errors = k + k, e + e_z
    less = fma(r, r_z, -twice) - errors
    more = fma(r, r_z, twice) - errors
    less, more = below(less, 1.0, 1.0, less), below(more, 1.0, 1.0, more)
    root = sqrt(less * more)
    total = fma(r, r_z, root)
    # One quotient, 1 / (sqrt D (s + sqrt D)), for both that are needed.
    quotient = 1.0 / (root * total)
    inverse = quotient * total
    return twice * inverse, arc(twice * root * quotient), FOUR_BY_PI * inverse


def arc(h) -> Any:
    """Return 4 arctan(h) / pi."""
    raise NotImplementedError("for compiled functions")


@overload(arc)
def _arc(h):
    return _by_polynomial if h.element == types.float32 else _by_arctangent


def _by_polynomial(h):
    w = h * h
    w2 = w * w
    odd = fma(w2, fma(w2, fma(w2, C7, C5), C3), C1)
    even = fma(w2, fma(w2, fma(w2, fma(w2, C8, C6), C4), C2), C0)
    return h * fma(w, odd, even)


def _by_arctangent(h):
    for i in range(LANES):
        h = with_lane(h, i, math.atan(lane(h, i)))
    return h * FOUR_BY_PI


def pull(bar_k, bar_t, point, slope, t, x, i, z, j):
    """Return the cotangents of K, T and log q (or log q', the same) by those of K' and T'.

    With t = 2 K / sqrt(D), the point,

    dK'/dK = S                      dK'/dlog q = -t / pi
    dT'/dT = S                      dT'/dlog q = dK'/dlog q - T S (1 + t^2) / 2
    dT'/dK = S + T S^2 t pi / 2
    """
    bar = bar_k + bar_t
    steep = bar_t * t * slope
    to_k = fma(bar, slope, steep * slope * point * HALF_PI)
    to_log = fma(bar * point, -ONE_BY_PI, steep * fma(point, point, 1.0) * -0.5)
    return to_k, bar_t * slope, to_log


def pull_nngp(bar, point, slope, x, i, z, j):
    """Return the cotangents of K and of log q by that of K' alone."""
    return bar * slope, bar * point * -ONE_BY_PI


ERF = Dual(Variances, keep, rates, forward, pull, pull_nngp)
