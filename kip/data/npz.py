"""Reading NAME.npz: x_train, y_train, x_test, y_test, and nothing that is not what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kip.archives import array_names, read_arrays, stored_arrays
from kip.errors import DataError, printable
from kip.lazy import Images, Lazy, in_memory_bytes

NAMES = ("x_train", "y_train", "x_test", "y_test")
IMAGES = ("x_train", "x_test")
Arrays = tuple[Images, np.ndarray, Images, np.ndarray]


def class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes that a file has in its array `class_names`; none where it has no such array.

    Characters that a terminal would obey are escaped, by `kip.errors.printable`.

    Raises:
        DataError: if there is such an array, and it is not one of strings, (C,).
    """
    if "class_names" not in array_names(path):
        return ()
    names = read_arrays(path, ["class_names"])["class_names"]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(
            f"{path}: class_names", got=f"{names.dtype} {names.shape}", expected="strings, one for each class"
        )
    return tuple(printable(str(name)) for name in names)


def read(path: Path) -> Arrays:
    """Read and check a data set file.

    Images that take more than `kip.lazy.in_memory_bytes()` stay in the file and are read from it by rows, if the file
    is not compressed.

    Args:
        path: a .npz archive. Its x_train and x_test are uint8 (N, H, W, C) with C = 1 or 3; its y_train and y_test are
            integers (N,) in 0..K-1, each class present in train. Other arrays in the file are ignored. Nothing is
            unpickled.

    Returns:
        x_train, y_train, x_test, y_test; images uint8, lazy where they stay in the file; labels int64.

    Raises:
        DataError: if the file cannot be read or an array is not so: the file, the array, what came, what was expected.
    """
    remedy = (
        "The file is damaged, cut short, incomplete or of another format: write it again with "
        "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
    )
    stored: dict[str, Images] = {}
    if path.is_file() and path.stat().st_size > in_memory_bytes():
        stored |= stored_arrays(path, IMAGES)
    read_whole = read_arrays(path, [name for name in NAMES if name not in stored], remedy=remedy)
    x_train, x_test = (stored[name] if name in stored else read_whole[name] for name in IMAGES)
    return check(str(path), x_train, read_whole["y_train"], x_test, read_whole["y_test"])


def check(source: str, x_train: Images, y_train: np.ndarray, x_test: Images, y_test: np.ndarray) -> Arrays:
    """Check x_train, y_train, x_test, y_test as `read` says, whatever `source` they came from."""
    for name, images in (("x_train", x_train), ("x_test", x_test)):
        _check_images(f"{source}: {name}", images)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{source}: train and test images differ in shape",
            got=f"{x_train.shape[1:]} and {x_test.shape[1:]}",
            remedy="Resize one of them.",
        )
    for name, labels, images in (("y_train", y_train, x_train), ("y_test", y_test, x_test)):
        _check_labels(f"{source}: {name}", labels, len(images))
    present = np.unique(y_train)
    classes = len(present)
    absent = np.flatnonzero(present != np.arange(classes))  # a label may be 10^9: nothing here is as long as a label
    if len(absent) or classes < 2:
        raise DataError(
            f"{source}: y_train does not hold the classes 0..C-1, C at least 2",
            got=f"no image of class {absent[0]}, and the label {present[-1]}"
            if len(absent)
            else f"the single class {present[0]}",
            remedy="Renumber the classes from 0 without a gap: np.unique(labels, return_inverse=True)[1].",
        )
    if y_test.max() >= classes:
        raise DataError(
            f"{source}: y_test holds a class that train lacks", got=int(y_test.max()), expected=f"0..{classes - 1}"
        )
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def _check_images(name: str, images: Images) -> None:
    if not isinstance(images, Lazy) and images.dtype.kind == "f" and not np.isfinite(images).all():
        kind = "NaN" if np.isnan(images).any() else "infinity"
        raise DataError(
            f"{name} holds {kind}", got=f"{images.dtype} with {kind}", expected="uint8", remedy="Clean the images."
        )
    if images.dtype != np.uint8:
        raise DataError(
            f"{name} has the wrong dtype",
            got=images.dtype,
            expected="uint8, 0..255",
            remedy="Store pixels, before any normalisation; for floats in [0, 1]: np.rint(x * 255).astype(np.uint8).",
        )
    if images.ndim != 4:
        raise DataError(
            f"{name} has the wrong rank",
            got=f"shape {images.shape}",
            expected="(N, H, W, C)",
            remedy="Give grey images a channel axis with x[..., None]; reshape flattened ones to (N, H, W, C).",
        )
    if images.shape[3] not in (1, 3):
        raise DataError(
            f"{name} has {images.shape[3]} channels",
            got=f"shape {images.shape}",
            expected="1 (grey) or 3 (RGB), on the last axis",
            remedy="For channels first use x.transpose(0, 2, 3, 1); drop an alpha channel with x[..., :3].",
        )
    if images.size == 0:
        raise DataError(f"{name} is empty", got=f"shape {images.shape}", expected="at least one image")


def _check_labels(name: str, labels: np.ndarray, images: int) -> None:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} has the wrong dtype",
            got=labels.dtype,
            expected="integers",
            remedy="Number the classes from 0: np.unique(labels, return_inverse=True)[1].",
        )
    if labels.ndim != 1:
        raise DataError(
            f"{name} has the wrong rank",
            got=f"shape {labels.shape}",
            expected="(N,)",
            remedy="Flatten a column with y[:, 0], or one-hot rows with y.argmax(1).",
        )
    if len(labels) != images:
        raise DataError(f"{name} has another length than its images", got=len(labels), expected=str(images))
    if labels.min() < 0:
        raise DataError(f"{name} holds a negative class", got=int(labels.min()), expected="0..C-1")
