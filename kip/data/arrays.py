"""A data set from arrays in memory."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from kip.data.mirror import mirror_keeps_class
from kip.data.sources import Dataset, Split, held_out
from kip.errors import ConfigError, DataError

Pair = tuple[Any, Any]
"""Images and labels."""


def from_arrays(images: Any, labels: Any, *, validation: Pair | int | None = None, test: Pair | None = None) -> Dataset:
    """Return a data set of arrays, as `kip.load_data` returns one by its name; `kip.distill` takes the same arrays.

    Args:
        images: train images (N, H, W, C) or grey (N, H, W); uint8, or floats in [0, 1], which are rounded to the 256
            levels of bytes.
        labels: their classes (N,), integers or strings; the classes are numbered in sorted order.
        validation: images and labels, or how many of train are held out, class-balanced; None holds out a tenth, at
            most 5000.
        test: images and labels; None: no test images.

    Returns:
        Train, validation and test, under a name that tells their content from others'.

    Raises:
        DataError: if images and labels do not fit each other, or a part has a class that train has not.
        ConfigError: if a part is no pair of arrays.

    >>> import numpy as np
    >>> dataset = from_arrays(np.zeros((40, 4, 4), np.uint8), ["cat", "dog"] * 20, validation=8)
    >>> dataset.train.images.shape, dataset.class_names
    ((32, 4, 4, 1), ('cat', 'dog'))
    """
    classes, numbers = np.unique(_labels("labels", labels), return_inverse=True)
    if len(classes) < 2:
        raise DataError("labels", got=f"{len(classes)} class", expected="at least two")
    is_plain = classes.dtype.kind in "iu" and np.array_equal(classes, np.arange(len(classes)))
    train = Split(_pixels("images", images), numbers.astype(np.int64))
    _check_lengths("images", train)
    if isinstance(validation, tuple):
        held = _part("validation", validation, classes, train.images.shape[1:])
    else:
        count = min(len(train.labels) // 10, 5000) if validation is None else validation
        chosen = held_out(train.labels, count, num_classes=len(classes), seed=0, purpose="validation split")
        kept = np.setdiff1d(np.arange(len(train.labels)), chosen)
        held = Split(train.images[chosen], train.labels[chosen])
        train = Split(train.images[kept], train.labels[kept])
    tested = Split(train.images[:0], train.labels[:0])
    if test is not None:
        tested = _part("test", test, classes, train.images.shape[1:])
    digest = hashlib.sha256("".join(part.digest() for part in (train, held, tested)).encode()).hexdigest()
    name = f"arrays-{digest[:16]}"
    keeps = mirror_keeps_class(name, channels=train.images.shape[3])
    names = () if is_plain else tuple(map(str, classes))
    return Dataset(name, train, held, tested, len(classes), keeps, names)


def _part(name: str, given: Pair, classes: np.ndarray, shape: tuple[int, ...]) -> Split:
    if len(given) != 2:
        raise ConfigError(name, got=f"{len(given)} arrays", expected="(images, labels)")
    labels = _labels(f"labels of {name}", given[1])
    numbers = np.searchsorted(classes, labels)
    if not np.isin(labels, classes).all():
        raise DataError(f"labels of {name}", got="a class that no train image has", expected="classes of train")
    split = Split(_pixels(f"images of {name}", given[0]), numbers.astype(np.int64))
    _check_lengths(name, split)
    if split.images.shape[1:] != shape:
        raise DataError(f"images of {name}", got=split.images.shape[1:], expected=f"{shape}, the shape of train images")
    return split


def _labels(name: str, given: Any) -> np.ndarray:
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iubUS":
        raise DataError(name, got=f"{labels.dtype} {labels.shape}", expected="integers or strings (N,), a class each")
    return labels


def _pixels(name: str, given: Any) -> np.ndarray:
    images = np.asarray(given)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(name, got=f"shape {images.shape}", expected="(N, H, W, C) with C 1 or 3, or (N, H, W)")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f" or not images.size or not (images.min() >= 0 and images.max() <= 1):
        got = f"{images.dtype} from {images.min():.4g} to {images.max():.4g}" if images.size else "no image"
        raise DataError(
            name,
            got=got,
            expected="uint8, or floats in [0, 1]",
            remedy="Give pixels as they are: `preprocess` standardises or whitens them.",
        )
    return np.rint(255 * images).astype(np.uint8)


def _check_lengths(name: str, split: Split) -> None:
    if len(split.images) != len(split.labels):
        raise DataError(name, got=f"{len(split.images)} images and {len(split.labels)} labels", expected="as many")
