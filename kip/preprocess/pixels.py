"""Pixels as every kind of preprocessing takes them, and moments of uint8 images."""

from __future__ import annotations

import numpy as np

from kip.errors import DataError, ShapeError
from kip.storage.images import Images, check_image_batch, parts


def as_pixels(images: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return float64 pixels: uint8 / 255, floats as they are.

    Args:
        images: uint8 or float (N, H, W, C).
        shape: the (H, W, C) they must have; None: any.

    Raises:
        ShapeError: if they are not such a batch.
    """
    check_image_batch("images", images)
    if shape is not None:
        check_shape(images, shape)
    if images.dtype == np.uint8:
        return images / 255.0
    if images.dtype.kind != "f":
        raise ShapeError("images have the wrong dtype", got=images.dtype, expected="uint8, or floats in [0, 1]")
    return images.astype(np.float64)


def check_shape(images: Images, shape: tuple[int, ...]) -> None:
    """Refuse images that are not of the shape (H, W, C) that a preprocessing was fitted on.

    Raises:
        ShapeError: if they are not.
    """
    check_image_batch("images", images)
    if images.shape[1:] != shape:
        raise ShapeError(
            "images differ from those that the preprocessing was fitted on", got=images.shape[1:], expected=str(shape)
        )


def moments(images: Images, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation (1/n) of each column, as pixels in [0, 1].

    From integer sums, so that the result is exact but for the last division and does not depend on any order.

    Args:
        images: uint8 (N, ...), whose values are read as rows of `columns`, n rows in all.
        columns: of a row: C for the moments of channels, H W C for those of positions.

    Returns:
        mean and deviation, float64 (columns,).

    Raises:
        DataError: if there is no row.
    """
    n = images.size // columns
    if n == 0:
        raise DataError("preprocessing cannot be fitted", got="no train image", expected="at least one")
    # Over images first and over positions then: NumPy adds long rows many times as fast as rows of three.
    total, squares = np.zeros((2, images.size // len(images)), np.int64)
    for part in parts(images):
        rows = part.reshape(len(part), -1)
        total += rows.sum(0, dtype=np.int64)
        squares += np.square(rows, dtype=np.uint16).sum(0, dtype=np.int64)
    total, squares = total.reshape(-1, columns).sum(0), squares.reshape(-1, columns).sum(0)
    # n * squares - total^2 cancels where the deviation is small: int64 holds it exactly up to 1e7 rows of 255^2.
    if n < 10**7:
        variance = (n * squares - total**2) / (255.0 * n) ** 2
    else:
        variance = np.maximum(squares / n - (total / n) ** 2, 0) / 255.0**2
    return total / (255.0 * n), np.sqrt(variance)


def chunks(count: int, size: int) -> list[slice]:
    """Split range(count) into slices of `size`, to bound the memory of an operation."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
