"""The activations that the fused form computes, and their functions as compiled code calls them.

Numba asks for the body of each function below when it compiles a call, and gets that of the activation whose variances
the call is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.extending import overload

from kip.kernels.fused.dual import Dual
from kip.kernels.fused.erf import ERF
from kip.kernels.fused.relu import RELU

DUALS: dict[str, Dual] = {"relu": RELU, "erf": ERF}
"""`Architecture.activation` -> its dual."""
_BY_VARIANCES = {dual.variances: dual for dual in DUALS.values()}
_INTO_CALLER: Any = {"forceinline": True}


def keep(v, values, i) -> Any:
    """Keep what pairs need of a vector of variances; return the variances after the activation. See `Dual`."""
    raise NotImplementedError("for compiled functions")


def rates(values, i) -> Any:
    """Return dlog q/dv and the derivative of the variance after the activation."""
    raise NotImplementedError("for compiled functions")


def forward(k, x, i, z, j) -> Any:
    """Return the point, K' and S of covariances K."""
    raise NotImplementedError("for compiled functions")


def pull(bar_k, bar_t, point, slope, t, x, i, z, j) -> Any:
    """Return the cotangents of K, T and log q by those of K' and T'."""
    raise NotImplementedError("for compiled functions")


def pull_nngp(bar, point, slope, x, i, z, j) -> Any:
    """Return the cotangents of K and log q by that of K' alone."""
    raise NotImplementedError("for compiled functions")


def _dual(values: Any) -> Dual:
    return _BY_VARIANCES[values.instance_class]


def _overload(function: Any) -> Callable[..., Any]:
    return overload(function, jit_options=_INTO_CALLER)


@_overload(keep)
def _keep(v, values, i):
    return _dual(values).keep


@_overload(rates)
def _rates(values, i):
    return _dual(values).rates


@_overload(forward)
def _forward(k, x, i, z, j):
    return _dual(x).forward


@_overload(pull)
def _pull(bar_k, bar_t, point, slope, t, x, i, z, j):
    return _dual(x).pull


@_overload(pull_nngp)
def _pull_nngp(bar, point, slope, x, i, z, j):
    return _dual(x).pull_nngp
