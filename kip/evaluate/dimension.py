"""The dimension of images, from their inner products alone: pixels, or features of an infinite network.

An inner product matrix G (n, n) is X X^T for images, and the NTK for gradients of an infinitely wide network, by

    |phi(x) - phi(z)|^2 = G(x, x) + G(z, z) - 2 G(x, z)                                        (paper, equations 4 to 6)

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", sections 4 and A;
Facco et al. 2017, "Estimating the intrinsic dimension of datasets by a minimal neighborhood information".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kip.errors import DataError
from kip.evaluate.spectrum import eigenvalues

KEPT = 0.9
"""The fraction of the points, of smallest mu, that Two-NN's line is fitted to, as in the code that the paper used."""


def two_nn(gram: ArrayLike) -> float:
    """Return the Two-NN intrinsic dimension.

    With mu the ratio of a point's distances to its second and its first neighbour, and F its empirical distribution,

        log(1 - F(mu)) = -d log(mu)

    and d is the slope, fitted through the origin to the points of smallest mu, a fraction `KEPT`: the tail is noise. Of
    points that are equal one is kept.

    Args:
        gram: G (n, n).

    Raises:
        DataError: if fewer than three different points are left.
    """
    gram = np.asarray(gram, np.float64)
    squares = np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram
    scale = max(np.abs(np.diag(gram)).max(), np.finfo(float).tiny)
    equal = np.tril(squares <= 1e-12 * scale, -1).any(1)  # distances of float64 inner products are exact to about this
    squares = np.maximum(squares[~equal][:, ~equal], 0)
    if len(squares) < 3:
        raise DataError("points of an intrinsic dimension", got=f"{len(squares)} different ones", expected="at least 3")
    np.fill_diagonal(squares, np.inf)
    nearest = np.sort(squares, axis=1)[:, :2]
    log_mu = np.sort(0.5 * np.log(nearest[:, 1] / nearest[:, 0]))
    used = slice(0, max(2, int(KEPT * len(log_mu))))
    survival = -np.log1p(-np.arange(1, len(log_mu) + 1)[used] / (len(log_mu) + 1))
    return float(log_mu[used] @ survival / (log_mu[used] @ log_mu[used]))


def linear_dimension(gram: ArrayLike, *, explained: float = 0.9) -> int:
    """Return the least number of principal components that explain a fraction of the variance.

    Args:
        gram: G (n, n); it is centred here.
        explained: the fraction.
    """
    gram = np.asarray(gram, np.float64)
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    variances = np.maximum(eigenvalues(centred)[::-1], 0)
    total = variances.sum()
    if total <= np.finfo(float).eps * np.abs(gram).max() * len(gram):
        return 0
    return int(np.searchsorted(np.cumsum(variances) / total, explained - 1e-12) + 1)


def inner_products(images: np.ndarray) -> np.ndarray:
    """Return X X^T of images (n, H, W, C), float64 (n, n)."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    return flat @ flat.T
