"""Measures of a distilled set, from arrays: dimension, spectrum, robustness, neighbours, labels.

`kip.evaluate.analysis` puts them together for a set; kernel matrices are computed once, the rest is algebra on them.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", sections 4, A, C.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from kip import krr, rng
from kip.blocks import KernelBlocks
from kip.errors import NonFiniteError
from kip.evaluate.dimension import inner_products, linear_dimension, two_nn
from kip.evaluate.spectrum import eigensystem
from kip.kernels import Kernel
from kip.storage.images import Images, Lazy, slices

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class Dimensions(NamedTuple):
    """Dimensions of images, and of their NTK features."""

    intrinsic: float
    linear: int
    intrinsic_ntk: float
    linear_ntk: int


class Band(NamedTuple):
    """The contribution of a contiguous run of the kernel's eigenvalues, from the largest on."""

    first: int
    last: int
    """The band holds the eigenvalues first..last-1, of which 0 is the largest."""
    weight: float
    """The band's share of the trace."""
    accuracy: float
    """The test accuracy of the regression by these eigendirections alone."""


class Neighbours(NamedTuple):
    """The nearest natural train image of each distilled image, by Euclidean distance after preprocessing."""

    rows: np.ndarray
    """The row of each neighbour in the train split, (n,)."""
    distance: np.ndarray
    """The distance to each neighbour, (n,)."""
    own_class: float
    """The fraction of images whose neighbour is of the class that the image started from."""


def dimensions(images: np.ndarray, k_ss: np.ndarray) -> Dimensions:
    """Return the dimensions of images (n, H, W, C) and of their features, whose kernel is K_ss (n, n)."""
    gram = inner_products(images)
    return Dimensions(two_nn(gram), linear_dimension(gram), two_nn(k_ss), linear_dimension(k_ss))


def band_predictions(k_ss: np.ndarray, k_ts: np.ndarray, y_s: np.ndarray, bands: int = 5) -> list[tuple[slice, Any]]:
    """Return the predictions of the ridgeless regression, split by eigendirections of K_ss.

    With K_ss = V diag(lambda) V^T and V_b the eigenvectors of band b,

        f_b = K_ts V_b diag(1 / lambda_b) V_b^T y_s,        sum over b of f_b = K_ts K_ss^-1 y_s.

    Args:
        k_ss: K_ss, (n, n).
        k_ts: K_ts, (m, n).
        y_s: labels of the support, (n, c).
        bands: how many, of n / bands eigenvalues each.

    Returns:
        (which eigenvalues, f_b (m, c)) of each band, largest eigenvalues first.

    Raises:
        NonFiniteError: if an eigenvalue is not above zero, so that there is no inverse.
    """
    values, vectors = eigensystem(k_ss)
    if not values[-1] > 0:
        raise NonFiniteError(
            "K_ss without a ridge has no inverse",
            got=f"eigenvalues down to {values[-1]:.3g}",
            expected="all above zero",
            remedy="Compute the kernel in float64 (blocks.dtype), or look for support images that have become equal.",
        )
    coefficients = (vectors.T @ np.asarray(y_s, np.float64)) / values[:, None]
    ends = np.linspace(0, len(values), bands + 1).round().astype(int)
    parts = [slice(int(start), int(stop)) for start, stop in itertools.pairwise(ends) if stop > start]
    return [(part, np.asarray(k_ts, np.float64) @ (vectors[:, part] @ coefficients[part])) for part in parts]


def spectral_bands(
    k_ss: np.ndarray, k_ts: np.ndarray, y_s: np.ndarray, classes: np.ndarray, bands: int = 5
) -> list[Band]:
    """Return each band's share of the trace, and the accuracy of its predictions on images of `classes` (m,).

    Other arguments, and what is raised, as `band_predictions`.
    """
    values, _ = eigensystem(k_ss)
    shares = []
    for part, predictions in band_predictions(k_ss, k_ts, y_s, bands):
        weight = values[part].sum() / values.sum()
        accuracy = np.mean(predictions.argmax(1) == classes)
        shares.append(Band(part.start, part.stop, float(weight), float(accuracy)))
    return shares


def subsampled(
    k_ss: np.ndarray,
    k_ts: np.ndarray,
    y_s: np.ndarray,
    classes: np.ndarray,
    ridge: krr.Ridge,
    *,
    repeats: int = 20,
    seed: int = 0,
) -> dict[float, float]:
    """Return the mean accuracy of random subsets of the support, by the fraction that is kept (paper, figure A1).

    Args:
        k_ss: K_ss, (n, n).
        k_ts: K_ts, (m, n).
        y_s: labels of the support, (n, c).
        classes: classes of the targets, (m,).
        ridge: the regulariser of the regression.
        repeats: how many subsets of each fraction are drawn; the paper draws 100.
        seed: draws the subsets.
    """
    means = {}
    for fraction in FRACTIONS:
        count = max(1, round(fraction * len(k_ss)))
        accuracies = []
        for repeat in range(repeats if count < len(k_ss) else 1):
            draw = rng.generator(seed, "subsampling", count, repeat)
            kept = np.sort(draw.choice(len(k_ss), count, replace=False))
            alpha = krr.fit(k_ss[np.ix_(kept, kept)], y_s[kept], ridge)
            accuracies.append(np.mean((k_ts[:, kept] @ alpha).argmax(1) == classes))
        means[fraction] = float(np.mean(accuracies))
    return means


def nearest_natural(images: np.ndarray, class_index: np.ndarray, train: Images, classes: np.ndarray) -> Neighbours:
    """Return the nearest train image of each image.

    Args:
        images: distilled images (n, H, W, C), preprocessed.
        class_index: the class that each image started from, (n,).
        train: train images (N, H, W, C), preprocessed.
        classes: the classes of the train images, (N,).
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    index, distance = np.zeros(len(images), np.int64), np.full(len(images), np.inf)
    for part in slices(len(train), train) if isinstance(train, Lazy) else [slice(0, len(train))]:
        near = train[part]
        nearest, apart = pairwise_distances_argmin_min(images.reshape(len(images), -1), near.reshape(len(near), -1))
        nearer = apart < distance
        index[nearer], distance[nearer] = nearest[nearer] + part.start, apart[nearer]
    return Neighbours(index, distance, float(np.mean(classes[index] == class_index)))


def label_matrix(labels: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Return the mean label of each class, (c, c): row, the class that images started from; column, the label entry.

    Rows of classes without an image are zero.
    """
    matrix = np.zeros((labels.shape[1], labels.shape[1]))
    for row in np.unique(class_index):
        matrix[row] = labels[class_index == row].mean(0)
    return matrix


def kernel_matrices(
    blocks: KernelBlocks, kernel: Kernel, support: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return K_ss (n, n) and K_ts (m, n) for preprocessed images, float64."""
    k_ss, _ = blocks.forward(kernel, support, support[:0])
    rows = [block for _, block in blocks.rows(kernel, support, target)]
    return np.asarray(k_ss, np.float64), np.concatenate(rows).astype(np.float64)


def moments(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and covariance (d, d), divisor n - 1, of rows that come in parts (n_i, d)."""
    count, total, products = 0, np.zeros(()), np.zeros(())
    for part in parts:
        count, total, products = count + len(part), total + part.sum(0), products + part.T @ part
    mean = total / count
    return mean, (products - count * np.outer(mean, mean)) / (count - 1)
