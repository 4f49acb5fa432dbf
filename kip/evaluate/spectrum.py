"""Spectra of symmetric matrices, in float64: the one place that evaluation takes them; and FID, which needs one."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike


def eigenvalues(matrix: ArrayLike) -> np.ndarray:
    """Return the eigenvalues of a symmetric matrix (n, n), ascending, float64 (n,)."""
    return scipy.linalg.eigvalsh(np.asarray(matrix, np.float64))


def eigensystem(matrix: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues (n,), descending, and eigenvectors, the columns of (n, n), of a symmetric matrix, float64."""
    values, vectors = scipy.linalg.eigh(np.asarray(matrix, np.float64))
    return values[::-1], vectors[:, ::-1]


def frechet_distance(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """Return |m - mean|^2 + tr(S + covariance - 2 (S covariance)^(1/2)), m and S those of the features of a set: FID.

    With X the centred features over sqrt(n - 1), S = X^T X, and the trace of the root is the sum of the roots of the
    eigenvalues of X covariance X^T, (n, n): sets are small, and features have thousands of dimensions.

    Args:
        features: of the set, (n, d); n at least 2.
        mean: of natural images' features, (d,).
        covariance: of natural images' features, (d, d).

    Reference: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule", equation 6. Its features are those of
    Inception, so that values under other networks can be compared with each other alone.
    """
    middle = features.mean(0)
    centred = (features - middle) / np.sqrt(len(features) - 1)
    roots = np.sqrt(np.clip(eigenvalues(centred @ covariance @ centred.T), 0, None))
    spread = np.square(centred).sum() + np.trace(covariance) - 2 * roots.sum()
    return float(np.square(middle - mean).sum() + spread)
