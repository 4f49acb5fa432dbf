"""Checks that several stages share, made before any tracing: argument, what came, what was expected, remedy."""

from __future__ import annotations

import numpy as np

from kip.errors import ShapeError
from kip.lazy import Images


def check_image_batch(name: str, images: Images, *, dtype: type | None = None) -> None:
    """Refuse anything but a batch of images (N, H, W, C).

    Args:
        name: the argument's name, for the error.
        images: what came.
        dtype: the dtype it must have; None: any.

    Raises:
        ShapeError: if the rank is not 4, or the dtype differs.
    """
    shape, came = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4:
        raise ShapeError(
            f"{name} is not a batch of images",
            got=type(images).__name__ if shape is None else f"shape {tuple(shape)}",
            expected="an array (N, H, W, C)",
            remedy="A single image needs a leading axis, grey images a trailing one: images[..., None].",
        )
    if dtype is not None and came != np.dtype(dtype):
        raise ShapeError(f"{name} has the wrong dtype", got=came, expected=np.dtype(dtype).name)
