"""The nearest neighbours of each image in a space of vectors, a chunk of rows at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ROWS = 1000
"""Rows of the matrix of distances that are in memory at a time."""


class Neighbours(NamedTuple):
    """The nearest first: indices (m, k) int64, and distances (m, k), Euclidean."""

    indices: np.ndarray
    distances: np.ndarray


def nearest(vectors: np.ndarray, count: int) -> Neighbours:
    """Return the neighbours of each vector; no vector is its own.

    Args:
        vectors: (m, d), float64.
        count: k, below m.
    """
    squares = np.einsum("md,md->m", vectors, vectors)
    indices, distances = [], []
    for first in range(0, len(vectors), ROWS):
        part = vectors[first : first + ROWS]
        rows = np.arange(len(part))
        apart = squares[first : first + ROWS, None] + squares - 2 * part @ vectors.T
        apart[rows, first + rows] = np.inf
        near = np.argpartition(apart, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(apart, near, 1), axis=1, kind="stable")
        indices.append(np.take_along_axis(near, order, 1))
        distances.append(np.sqrt(np.maximum(np.take_along_axis(apart, indices[-1], 1), 0)))
    return Neighbours(np.concatenate(indices), np.concatenate(distances))
