"""Images as points x_i of a space, known by their inner products: vectors, or a Gram matrix where there are none.

A kernel's feature space has no vectors that could be written down, and a network's gradients are too long; greedy
choices need inner products alone.
"""

from __future__ import annotations

import abc

import numpy as np
from typing_extensions import final

from kip.storage.images import slices


class Points(abc.ABC):
    """m points; all arrays are float64."""

    squares: np.ndarray
    """|x_i|^2, (m,)."""
    with_mean: np.ndarray
    """<x_i, mean>, (m,)."""

    def __len__(self) -> int:
        return len(self.squares)

    @abc.abstractmethod
    def products(self, index: int) -> np.ndarray:
        """Return <x_i, x_index>, (m,)."""

    @abc.abstractmethod
    def gram(self) -> np.ndarray:
        """Return all inner products, (m, m)."""

    @abc.abstractmethod
    def distances(self, index: int) -> np.ndarray:
        """Return |x_i - x_index|^2, (m,)."""

    @abc.abstractmethod
    def from_mean(self) -> np.ndarray:
        """Return |x_i - mean|^2, (m,)."""


@final
class Vectors(Points):
    """Points that are vectors.

    Args:
        vectors: (m, d).
    """

    def __init__(self, vectors: np.ndarray):
        self.vectors = np.asarray(vectors, np.float64)
        self.squares = np.einsum("md,md->m", self.vectors, self.vectors)
        self.with_mean = self.vectors @ self.vectors.mean(0)

    def products(self, index: int) -> np.ndarray:
        """Return <x_i, x_index>, (m,)."""
        return self.vectors @ self.vectors[index]

    def gram(self) -> np.ndarray:
        """Return all inner products, (m, m)."""
        return self.vectors @ self.vectors.T

    def distances(self, index: int) -> np.ndarray:
        """Return |x_i - x_index|^2, (m,), without cancellation."""
        return self._distances(self.vectors[index])

    def from_mean(self) -> np.ndarray:
        """Return |x_i - mean|^2, (m,), without cancellation."""
        return self._distances(self.vectors.mean(0))

    def _distances(self, point: np.ndarray) -> np.ndarray:
        # Some at a time: the differences of all would take as much memory as the vectors.
        parts = (self.vectors[part] for part in slices(len(self.vectors), self.vectors))
        return np.concatenate([np.square(part - point).sum(1) for part in parts])


@final
class Gram(Points):
    """Points that are known by their inner products.

    Args:
        matrix: (m, m), symmetric and positive semi-definite.
    """

    def __init__(self, matrix: np.ndarray):
        self._matrix = np.asarray(matrix, np.float64)
        self.squares = np.diagonal(self._matrix).copy()
        self.with_mean = self._matrix.mean(1)

    def products(self, index: int) -> np.ndarray:
        """Return <x_i, x_index>, (m,)."""
        return self._matrix[index]

    def gram(self) -> np.ndarray:
        """Return all inner products, (m, m)."""
        return self._matrix

    def distances(self, index: int) -> np.ndarray:
        """Return |x_i - x_index|^2, (m,), at least 0 in spite of rounding."""
        return np.maximum(self.squares + self.squares[index] - 2 * self.products(index), 0)

    def from_mean(self) -> np.ndarray:
        """Return |x_i - mean|^2, (m,)."""
        return self.squares - 2 * self.with_mean + self.with_mean.mean()


def last_layer_gradients(features: np.ndarray, residuals: np.ndarray) -> Gram:
    """Return each image's gradient of cross-entropy with respect to the last dense layer, as points.

    With the features f and r = softmax(logits) - y they are (r, r f^T), for bias and weights, so that

        <g_i, g_j> = <r_i, r_j> (1 + <f_i, f_j>),

    which needs no gradient itself.

    Args:
        features: (m, d).
        residuals: (m, c).
    """
    return Gram((residuals @ residuals.T) * (1 + features @ features.T))
