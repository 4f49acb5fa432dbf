"""The input and output of estimators, in the forms of scikit-learn and of kip."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kip.errors import ShapeError

ImageShape = tuple[int, int, int]


def validated(estimator: Any, X: Any, *y: Any, **options: Any) -> Any:
    """Return X, and y where it is given, as arrays, checked as scikit-learn checks them.

    Args:
        estimator: takes note of the features of X where y is given, and compares X with them where it is not.
        X: anything that scikit-learn takes as an array of two dimensions or more.
        y: the targets, if any.
        options: of `sklearn.utils.validation.validate_data`.

    Raises:
        ValueError: scikit-learn's, where they are no such arrays, hold NaN, or do not fit.
    """
    options = {"allow_nd": True, "reset": bool(y), **options}
    if hasattr(estimator, "_validate_data"):  # scikit-learn before 1.6
        return estimator._validate_data(X, *y, **options)
    from sklearn.utils.validation import validate_data

    return validate_data(estimator, X, *y, **options)


def as_images(X: np.ndarray, shape: ImageShape | None) -> np.ndarray:
    """Return X with its rows in the shape of images, (n, H, W, C); where `shape` is None, X as it is.

    Raises:
        ShapeError: if a row has another number of values.
    """
    if shape is None:
        return X
    if math.prod(X.shape[1:]) != math.prod(shape):
        raise ShapeError(
            f"X cannot be images of image_shape {tuple(shape)}",
            got=f"rows of shape {X.shape[1:]}",
            expected=f"{math.prod(shape)} values in each row",
        )
    return X.reshape(len(X), *shape)


def ahead(scores: np.ndarray) -> np.ndarray:
    """Return scores (m, classes) in the form of a `decision_function`: of two classes, their difference (m,)."""
    return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores
