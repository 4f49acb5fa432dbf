"""Class labels as regression targets."""

from __future__ import annotations

import numpy as np

from kip.errors import DataError
from kip.storage.images import Held, Images, Lazy


def one_hot(labels: np.ndarray, num_classes: int, like: Images) -> np.ndarray | Lazy:
    """Return e_label, float32 (N, C), for networks; made when it is asked for where `like`, the images, are lazy.

    >>> one_hot(np.array([1]), 3, np.zeros((1, 2, 2, 1)))
    array([[0., 1., 0.]], dtype=float32)
    """
    rows = np.eye(num_classes, dtype=np.float32)
    if isinstance(like, Lazy):
        return Held(np.asarray(labels)).made(rows.__getitem__, shape=(num_classes,), dtype=np.float32)
    return rows[labels]


def centred_one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return y = e_label - 1/C, the target of kernel ridge regression.

    Each row sums to zero, so that a regression without a bias predicts "no class" far from the data. C is whatever the
    data set has; the authors' notebook writes 0.1, which is right for ten classes only.

    Args:
        labels: integers in 0..C-1, (N,).
        num_classes: C.

    Returns:
        float32 (N, C).

    Raises:
        DataError: if a label is not in 0..C-1.

    Reference: Nguyen et al. 2021, section A, "mean-centered one-hot labels".

    >>> centred_one_hot(np.array([1]), 4)
    array([[-0.25,  0.75, -0.25, -0.25]], dtype=float32)
    """
    labels = np.asarray(labels)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(
            "labels are out of range", got=f"{labels.min()}..{labels.max()}", expected=f"0..{num_classes - 1}"
        )
    return np.eye(num_classes, dtype=np.float32)[labels] - np.float32(1 / num_classes)
