"""Kernel ridge regression (KRR): the only place of kip that solves a ridge.

Letters, here and wherever kernels meet labels:

    n support images, m target images, c classes
    K_ss (n, n) = K(X_s, X_s),  K_ts (m, n) = K(X_t, X_s),  y_s (n, c),  y_t (m, c)
    A = K_ss + lam I,  alpha = A^-1 y_s,  f = K_ts alpha

Nothing here knows an image. `ridge_value`, `regularise`, `solve` and `loss` are pure functions of JAX arrays of any
float dtype. `cotangents` and `fit` compute in float64, because the condition number of A reaches 1e6 n and more: they
solve on JAX's default device and return NumPy arrays. `condition_number` and `LabelSolver` compute in float64 with
SciPy, on the CPU; the solver's A^-1 comes from `fit`.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", equations 1 and 2.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from numpy.typing import ArrayLike
from pydantic import Field

from kip.config import value
from kip.errors import NonFiniteError, NotPositiveDefiniteError, ShapeError
from kip.precision import float64

Reduction = Literal["mean", "sum"]


@value
class Ridge:
    """The regulariser lam of A = K_ss + lam I."""

    strength: Annotated[float, Field(ge=0)] = 1e-6
    """The strength lam_0, relative to the mean of the diagonal (`trace`) or to its sum (`trace_sum`), or lam itself
    (`absolute`)."""
    scale: Literal["trace", "trace_sum", "absolute"] = "trace"
    """The rule by which lam follows from lam_0. `trace`: lam = lam_0 tr(K_ss) / n (paper, section A). `absolute`: lam =
    lam_0 (the public Label Solve). `trace_sum`: lam = lam_0 tr(K_ss), n times as large, taken as a constant in
    derivatives (the public KRR-ST)."""


class Cotangents(NamedTuple):
    """The KRR loss and its derivatives, all float64.

    Attributes:
        loss: L.
        condition: the condition number of A in the 1-norm, as LAPACK estimates it from the Cholesky factor.
        predictions: f, (m, c).
        k_ss: dL/dK_ss, (n, n), every entry taken as independent; symmetric.
        k_ts: dL/dK_ts, (m, n).
        y_s: dL/dy_s, (n, c).
        scale: dL/ds of cross-entropy's scale s; 0 for the squared error.
    """

    loss: float
    condition: float
    predictions: np.ndarray
    k_ss: np.ndarray
    k_ts: np.ndarray
    y_s: np.ndarray
    scale: float


def ridge_value(k_ss: Array, ridge: Ridge) -> Array:
    """Return lam by `ridge.scale`: `strength * tr(K_ss) / n`, through which gradients flow; `strength * tr(K_ss)`,
    through which none do; or `strength`.
    """
    if ridge.scale == "absolute":
        return jnp.asarray(ridge.strength, k_ss.dtype)
    if ridge.scale == "trace_sum":
        return ridge.strength * jax.lax.stop_gradient(jnp.trace(k_ss))
    return ridge.strength * jnp.trace(k_ss) / k_ss.shape[0]


def regularise(k_ss: Array, ridge: Ridge) -> Array:
    """Return A = K_ss + lam I, (n, n)."""
    return k_ss + ridge_value(k_ss, ridge) * jnp.eye(k_ss.shape[0], dtype=k_ss.dtype)


def solve(k_ss: Array, y_s: Array, ridge: Ridge) -> Array:
    """Return alpha = A^-1 y_s, (n, c), by Cholesky; NaN where A is not positive definite."""
    return cho_solve(cho_factor(regularise(k_ss, ridge)), y_s)


def loss(
    k_ss: Array,
    k_ts: Array,
    y_s: Array,
    y_t: Array,
    ridge: Ridge,
    reduction: Reduction = "mean",
    scale: Array | float | None = None,
) -> Array:
    """Return L = 1/2 |y_t - K_ts A^-1 y_s|^2, differentiable by JAX: the plain path beside `cotangents`.

    Args:
        k_ss: K_ss, (n, n).
        k_ts: K_ts, (m, n).
        y_s: labels of the support, (n, c).
        y_t: labels of the target, (m, c).
        ridge: the regulariser.
        reduction: `sum` is equation 1 of the paper; `mean` divides by m c, as the authors' notebook does. Adam's steps
            are the same for both but for its epsilon.
        scale: s; given, L is the cross-entropy of softmax(e^s f) with the classes argmax y_t instead (Platt scaling),
            over m for `mean`.
    """
    return _of_predictions(k_ts @ solve(k_ss, y_s, ridge), y_t, reduction, scale)


def cotangents(
    k_ss: ArrayLike,
    k_ts: ArrayLike,
    y_s: ArrayLike,
    y_t: ArrayLike,
    ridge: Ridge,
    reduction: Reduction = "mean",
    scale: float | None = None,
) -> Cotangents:
    """Return the KRR loss with dL/dK_ss, dL/dK_ts and dL/dy_s, from one Cholesky factor.

    All is computed in float64 on JAX's default device, and comes back as NumPy arrays. The condition number is computed
    on the CPU, see `condition_number`.

    With r = dL/df, which is (f - y_t) / (1 or m c) for the squared error, v = K_ts^T r and w = A^-1 v:

        dL/dK_ts = r alpha^T
        dL/dy_s  = w
        dL/dA    = -(w alpha^T + alpha w^T) / 2
        dL/dK_ss = dL/dA + (strength / n) tr(dL/dA) I        (the last term only for `trace`)

    `scale` is as in `loss`.

    Raises:
        ShapeError: if the shapes do not fit each other.
        NonFiniteError: if a kernel or label is not finite.
        NotPositiveDefiniteError: if A has no Cholesky factor.
    """
    arrays = _checked(k_ss, k_ts, y_s, y_t)
    condition = condition_number(arrays[0], ridge)
    with float64():
        loss_and_derivatives = _cotangents(*arrays, scale=scale, ridge=ridge, reduction=reduction)
        loss, *rest, to_scale = map(np.asarray, loss_and_derivatives)
    return Cotangents(float(loss), condition, *rest, scale=float(to_scale))


def fit(k_ss: ArrayLike, y_s: ArrayLike, ridge: Ridge) -> np.ndarray:
    """Return alpha = A^-1 y_s, (n, c), with which predictions are `K_ts @ alpha`.

    It is solved for in float64 on JAX's default device, and comes back as a NumPy array.

    Raises: as `cotangents`.
    """
    k_ss, y_s = _checked(k_ss, None, y_s, None)
    condition_number(k_ss, ridge)  # raises where the solve below would give NaN
    with float64():
        return np.asarray(_solve(k_ss, y_s, ridge=ridge))


def condition_number(k_ss: ArrayLike, ridge: Ridge) -> float:
    """Return the condition number of A in the 1-norm, as LAPACK estimates it from the Cholesky factor.

    It is computed in float64 on the CPU.

    Raises:
        NotPositiveDefiniteError: if A has no Cholesky factor.
    """
    a = np.asarray(k_ss, np.float64)
    lam = ridge.strength * {"trace": np.trace(a) / len(a), "trace_sum": np.trace(a), "absolute": 1.0}[ridge.scale]
    a = a + lam * np.eye(len(a))
    factor, info = scipy.linalg.lapack.dpotrf(a, lower=True)
    reciprocal = 0.0 if info else scipy.linalg.lapack.dpocon(factor, np.abs(a).sum(0).max(), uplo="L")[0]
    if info or not reciprocal > 0:
        eigenvalues = scipy.linalg.eigvalsh(a)
        raise NotPositiveDefiniteError(
            "the regularised kernel matrix K_ss + lam I is not positive definite",
            got=f"eigenvalues from {eigenvalues[0]:.3g} to {eigenvalues[-1]:.3g} with lam = {lam:.3g}",
            expected="all above zero",
            remedy="Raise the ridge, compute the kernel in float64 (blocks.dtype), lower the learning rate, or look for"
            " support images that have become equal.",
        )
    return float(1.0 / reciprocal)


class SolvedLabels(NamedTuple):
    """The solution of Label Solve, in float64.

    Attributes:
        labels: y_s, (n, c).
        loss: 1/2 |y_t - f|^2 / (m c) over all target rows.
    """

    labels: np.ndarray
    loss: float


class LabelSolver:
    """Labels y_s = (K_ts A^-1)^+ y_t for a target set of any size, in memory that does not grow with it.

    All is computed in float64 on the CPU, except A^-1, which `fit` computes.

    A rolling QR factorisation takes K_ts and y_t a block of rows at a time,

        [K_ts | y_t] = Q [[R, z], [0, e]],    R (n, n), z = Q^T y_t (n, c),

    so that (K_ts A^-1)^+ y_t = (R A^-1)^+ z is left to one n x n problem. No normal equations are formed: the
    condition number is that of K_ts A^-1, and not its square as in the public notebook's Label Solve.

    Reference: equation 2 of the paper; the pseudo-inverse gives the least-norm minimiser.
    """

    def __init__(self, k_ss: ArrayLike, num_classes: int, ridge: Ridge):
        self._k_ss = np.asarray(k_ss, np.float64)
        self._ridge = ridge
        self._size = len(self._k_ss)
        self._num_classes = num_classes
        self._triangle = np.zeros((0, self._size + num_classes))
        self.num_targets = 0

    def add(self, k_ts: ArrayLike, y_t: ArrayLike) -> None:
        """Take the next rows of the target set: K_ts (b, n) and y_t (b, c), b >= 1.

        Raises:
            ShapeError, NonFiniteError: if the rows do not fit or are not finite.
        """
        _, k_ts, y_t = _checked(self._k_ss, k_ts, None, y_t)
        rows = np.concatenate([self._triangle, np.concatenate([k_ts, y_t], axis=1)])
        (self._triangle,) = scipy.linalg.qr(rows, mode="r", overwrite_a=True, check_finite=False)
        self._triangle = self._triangle[: self._size + self._num_classes]
        self.num_targets += len(k_ts)

    def solve(self) -> SolvedLabels:
        """Return the labels and the loss that they leave.

        Raises:
            ShapeError: if fewer target rows than support images were added.
            NotPositiveDefiniteError: if A has no Cholesky factor.
        """
        n = self._size
        if self.num_targets < n:
            raise ShapeError(
                "target images of Label Solve",
                got=self.num_targets,
                expected=f"at least as many as support images ({n})",
                remedy="Use fewer support images or a larger train set.",
            )
        reduced = self._triangle[:n, :n] @ fit(self._k_ss, np.eye(n), self._ridge)
        # What A^-1 adds in rounding is no singular value of the problem: equal images must not get opposite labels.
        cutoff = n * np.finfo(np.float64).eps * condition_number(self._k_ss, self._ridge)
        labels, *_ = scipy.linalg.lstsq(reduced, self._triangle[:n, n:], cond=cutoff)
        residual = np.concatenate([reduced @ labels - self._triangle[:n, n:], self._triangle[n:, n:]])
        return SolvedLabels(labels, float(0.5 * np.sum(residual**2) / (self.num_targets * self._num_classes)))


def _of_predictions(f: Array, y_t: Array, reduction: Reduction, scale: Array | float | None) -> Array:
    if scale is None:
        return 0.5 * jnp.sum((f - y_t) ** 2) / (f.size if reduction == "mean" else 1)
    right = jnp.take_along_axis(jax.nn.log_softmax(jnp.exp(scale) * f), y_t.argmax(1)[:, None], axis=1)
    return -jnp.sum(right) / (len(f) if reduction == "mean" else 1)


@partial(jax.jit, static_argnames=("ridge",))
def _solve(k_ss: Array, y_s: Array, *, ridge: Ridge) -> Array:
    return solve(k_ss, y_s, ridge)


@partial(jax.jit, static_argnames=("ridge", "reduction"))
def _cotangents(
    k_ss: Array, k_ts: Array, y_s: Array, y_t: Array, *, scale: Array | None, ridge: Ridge, reduction: Reduction
) -> tuple[Array, ...]:
    factor = cho_factor(regularise(k_ss, ridge))
    alpha = cho_solve(factor, y_s)
    predictions = k_ts @ alpha

    def of_predictions(f: Array, scale: Array | None) -> Array:
        return _of_predictions(f, y_t, reduction, scale)

    value, (to_f, to_scale) = jax.value_and_grad(of_predictions, argnums=(0, 1))(predictions, scale)
    w = cho_solve(factor, k_ts.T @ to_f)
    outer = w @ alpha.T
    to_a = -0.5 * (outer + outer.T)
    to_k_ss = to_a
    if ridge.scale == "trace":
        to_k_ss = to_a + ridge.strength / len(k_ss) * jnp.trace(to_a) * jnp.eye(len(k_ss), dtype=k_ss.dtype)
    return value, predictions, to_k_ss, to_f @ alpha.T, w, jnp.zeros(()) if to_scale is None else to_scale


def _checked(
    k_ss: ArrayLike, k_ts: ArrayLike | None, y_s: ArrayLike | None, y_t: ArrayLike | None
) -> tuple[np.ndarray, ...]:
    """Return the given arrays in float64, refusing shapes that disagree and values that are not finite."""
    n = np.shape(k_ss)[0] if np.ndim(k_ss) else 0
    m = np.shape(k_ts)[0] if k_ts is not None and np.ndim(k_ts) else 0
    wanted = {"K_ss": (k_ss, (n, n)), "K_ts": (k_ts, (m, n)), "y_s": (y_s, (n, None)), "y_t": (y_t, (m, None))}
    arrays = []
    for name, (given, shape) in wanted.items():
        if given is None:
            continue
        array = np.asarray(given, np.float64)
        if array.ndim != 2 or 0 in array.shape or any(e not in (None, g) for e, g in zip(shape, array.shape)):
            expected = ", ".join("c" if side is None else str(side) for side in shape)
            raise ShapeError(f"shape of {name}", got=array.shape, expected=f"({expected})")
        if not np.isfinite(array).all():
            raise NonFiniteError(
                f"{name} holds NaN or infinity",
                remedy="Lower the learning rate, compute the kernel in float64, or look for constant images.",
            )
        arrays.append(array)
    return tuple(arrays)
