"""The dual of an activation, as the fused form needs it; `kip.kernels.engine.dual` has the mathematics.

    K' = E f(a) f(b)        T' = K' + T S        S = E f'(a) f'(b) = dK'/dK

A `Dual` holds the functions of one activation f, each of sixteen image pairs. What is kept of an image's variances is a
type of its own for each activation, and by that type, when a function is compiled, the activation is chosen: see
`activations.py`. No compiled code asks at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Dual(NamedTuple):
    """The functions of an activation's dual; `kip.kernels.fused.activations` compiles them into their callers.

    `x` and `z` are `variances` of the first and of the second images, `i` and `j` the indices of a pair's in them. The
    *point* of a pair is one vector that, with S and T, is all that the vjp needs of the forward pass. The arguments of
    the functions have the names below, for Numba compares them.

    Attributes:
        variances: the type of what is kept of variances v, a NamedTuple of arrays.
        keep: (v, values, i) writes what is kept of a vector of v, and returns the variances after the activation, with
            the rounding that K' has at equal images.
        rates: (values, i) returns dlog q/dv and the derivative of the variance after the activation, where K' and S
            depend on v and v' through q q' alone.
        forward: (k, x, i, z, j) returns the point, K' and S.
        pull: (bar_k, bar_t, point, slope, t, x, i, z, j) returns the cotangents of K, T and log q by those of K'
            and T'.
        pull_nngp: (bar, point, slope, x, i, z, j) returns the cotangents of K and log q by that of K' alone.
    """

    variances: type
    keep: Callable[..., Any]
    rates: Callable[..., Any]
    forward: Callable[..., Any]
    pull: Callable[..., Any]
    pull_nngp: Callable[..., Any]
