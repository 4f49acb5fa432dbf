"""Eigenvalues and eigenvectors of symmetric matrices, in float64: the one place that evaluation takes them."""

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
