"""Reading NAME.npz: train and test images with their classes, and nothing that is not what it says.

| in the file | is taken as |
|---|---|
| x_train, y_train, x_test, y_test | themselves |
| train_images, train_labels, test_images, test_labels (MedMNIST), or other `SPELLINGS` | these four |
| grey images without an axis of channels, uint8 (N, H, W) (Keras' MNIST) | (N, H, W, 1) |
| a column of classes (N, 1) (Keras' CIFAR-10, MedMNIST) | (N,) |
| names of classes, strings (N,) | classes in the order of `class_names`, or of the names, whose numbers are numbers |
| truth values (N,) | classes 0 and 1 |
| val_images, val_labels and the like | nothing: validation images are taken out of train, with a word |
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kip.data.image_folder import natural
from kip.data.published import described
from kip.errors import DataError, printable
from kip.storage.images import Images, Lazy, in_memory_bytes
from kip.storage.npz import array_headers, array_names, read_arrays, stored_arrays

LOGGER = logging.getLogger(__name__)
NAMES = ("x_train", "y_train", "x_test", "y_test")
SPELLINGS = (
    NAMES,
    ("X_train", "y_train", "X_test", "y_test"),
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images_train", "labels_train", "images_test", "labels_test"),
    ("train_x", "train_y", "test_x", "test_y"),
    ("train_X", "train_y", "test_X", "test_y"),
    ("train_data", "train_labels", "test_data", "test_labels"),
)
"""Names of the four arrays; the first of which a file has all."""
LOOKED_AT = 1000
"""Images of each part whose range is looked at."""
WRITE = "np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)"
Arrays = tuple[Images, np.ndarray, Images, np.ndarray]


def class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes: the array `class_names`, or what the classes are called where they are strings.

    None come back where the file has neither.

    Characters that a terminal would obey are escaped, by `kip.errors.printable`.

    Raises:
        DataError: if there is such an array, and it is not one of strings, (C,).
    """
    held = array_names(path)
    if "class_names" in held:
        names = read_arrays(path, ["class_names"])["class_names"]
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataError(
                f"{path}: class_names", got=f"{names.dtype} {names.shape}", expected="strings, one for each class"
            )
        return tuple(printable(str(name)) for name in names)
    train = _spelling(held)[1]
    if train not in held or array_headers(path, [train])[train].dtype.kind != "U":
        return ()
    names = np.unique(read_arrays(path, [train])[train]).tolist()
    return tuple(printable(name) for name in sorted(names, key=natural))


def read(path: Path) -> Arrays:
    """Read and check a data set file.

    Images that take more than `kip.storage.images.in_memory_bytes()` stay in the file and are read from it by rows, if
    the file is not compressed.

    Args:
        path: a .npz archive. Its train and test images are uint8 (N, H, W, C) with C = 1 or 3; its classes are integers
            (N,) in 0..K-1, each present in train; other forms are in the table above. Other arrays in the file are
            ignored. Nothing is unpickled.

    Returns:
        x_train, y_train, x_test, y_test; images uint8, lazy where they stay in the file; labels int64.

    Raises:
        DataError: if the file cannot be read or an array is not so: the file, the array, what came, what was expected.
    """
    held = array_names(path)
    names = _spelling(held)
    if held and (lacking := [name for name in names if name not in held]):
        raise DataError(
            f"{path} lacks {', '.join(lacking)}",
            got=described(array_headers(path)),
            expected=", ".join(NAMES),
            remedy=f"Write the arrays under these names with {WRITE}, or under train_images, train_labels, "
            "test_images and test_labels.",
        )
    if left_out := [name for name in held if name.lower().startswith(("val", "x_val", "y_val"))]:
        LOGGER.warning(
            "%s: %s are left out; validation images are taken out of train (data.validation)", path, ", ".join(left_out)
        )
    remedy = f"The file is damaged, cut short or of another format: write it again with {WRITE}."
    stored: dict[str, Images] = {}
    if path.is_file() and path.stat().st_size > in_memory_bytes():
        stored |= stored_arrays(path, names[::2])
    read_whole = read_arrays(path, [name for name in names if name not in stored], remedy=remedy)
    x_train, x_test = (_with_channels(stored[name] if name in stored else read_whole[name]) for name in names[::2])
    y_train, y_test = (read_whole[name] for name in names[1::2])
    if y_train.dtype.kind == "U":
        known = class_names(path)
        y_train, y_test = (_numbered(f"{path}: {name}", read_whole[name], known) for name in names[1::2])
    return check(str(path), x_train, _column(y_train), x_test, _column(y_test), names)


def _spelling(held: list[str]) -> tuple[str, ...]:
    """Return the names of the four arrays in a file; ours where it has no four."""
    return next((names for names in SPELLINGS if set(names) <= set(held)), NAMES)


def _with_channels(images: Images) -> Images:
    """Return grey images (N, H, W) as (N, H, W, 1), and all others as they are."""
    if images.ndim != 3 or images.dtype != np.uint8:
        return images
    if isinstance(images, Lazy):
        return images.made(lambda rows: rows[..., None], shape=(*images.shape[1:], 1), dtype=np.uint8)
    return images[..., None]


def _column(labels: np.ndarray) -> np.ndarray:
    """Return classes (N, 1) as (N,), and truth values as numbers."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def _numbered(name: str, labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return the places of names of classes among all."""
    if labels.dtype.kind != "U":
        raise DataError(name, got=labels.dtype, expected="names of classes, as train has them")
    order = {known: number for number, known in enumerate(names)}
    unknown = [text for text in np.unique(labels).tolist() if text not in order]
    if unknown:
        raise DataError(f"{name} holds a class that has no name", got=repr(unknown[0])[:80], expected="a known class")
    return np.array([order[text] for text in labels.reshape(-1).tolist()], np.int64).reshape(labels.shape)


def check(
    source: str,
    x_train: Images,
    y_train: np.ndarray,
    x_test: Images,
    y_test: np.ndarray,
    names: tuple[str, ...] = NAMES,
) -> Arrays:
    """Check x_train, y_train, x_test, y_test as `read` says; `source` and `names` are for errors."""
    for name, images in ((names[0], x_train), (names[2], x_test)):
        _check_images(f"{source}: {name}", images)
    _check_values(source, x_train, x_test, names)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(
            f"{source}: train and test images differ in shape",
            got=f"{x_train.shape[1:]} and {x_test.shape[1:]}",
            remedy="Resize one of them.",
        )
    for name, labels, images in ((names[1], y_train, x_train), (names[3], y_test, x_test)):
        _check_labels(f"{source}: {name}", labels, len(images))
    present = np.unique(y_train)
    classes = len(present)
    absent = np.flatnonzero(present != np.arange(classes))  # a label may be 10^9: nothing here is as long as a label
    if len(absent) or classes < 2:
        raise DataError(
            f"{source}: {names[1]} does not hold the classes 0..C-1, C at least 2",
            got=f"no image of class {absent[0]}, and the label {present[-1]}"
            if len(absent)
            else f"the single class {present[0]}",
            remedy="Renumber the classes from 0 without a gap: np.unique(labels, return_inverse=True)[1].",
        )
    if y_test.max() >= classes:
        raise DataError(
            f"{source}: {names[3]} holds a class that train lacks", got=int(y_test.max()), expected=f"0..{classes - 1}"
        )
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def _check_values(source: str, x_train: Images, x_test: Images, names: tuple[str, ...]) -> None:
    """Look for images that were scaled to [0, 1] before they became bytes: some are looked at.

    Raises:
        DataError: if train and test images have such different ranges.
    """
    largest = [int(np.asarray(images[:LOOKED_AT]).max()) for images in (x_train, x_test)]
    remedy = "Bytes are 0..255: write np.rint(x * 255).astype(np.uint8) of images in [0, 1], before they become bytes."
    if min(largest) <= 1 and max(largest) > 127:
        raise DataError(
            f"{source}: train and test images differ in range",
            got=f"values up to {largest[0]} in {names[0]} and up to {largest[1]} in {names[2]}",
            expected="one range",
            remedy=remedy,
        )
    if largest[0] <= 1:
        LOGGER.warning("%s: %s has no value above %d of 255, which is black. %s", source, names[0], largest[0], remedy)


def _check_images(name: str, images: Images) -> None:
    if not isinstance(images, Lazy) and images.dtype.kind == "f" and not np.isfinite(images).all():
        kind = "NaN" if np.isnan(images).any() else "infinity"
        raise DataError(
            f"{name} holds {kind}", got=f"{images.dtype} with {kind}", expected="uint8", remedy="Clean the images."
        )
    if images.dtype != np.uint8:
        raise DataError(
            f"{name} has the wrong dtype", got=images.dtype, expected="uint8, 0..255", remedy=_as_bytes(images)
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


def _as_bytes(images: Images) -> str:
    """Return how images of another type become bytes."""
    if images.dtype.kind == "b":
        return "Write truth values as x.astype(np.uint8) * 255."
    if images.dtype.kind in "iu":
        low, high = (int(images.min()), int(images.max())) if images.size and not isinstance(images, Lazy) else (0, 0)
        if low >= 0 and 1 < high <= 255:
            return "The values fit: write x.astype(np.uint8)."
        return f"Values from {low} to {high} are no bytes: scale them to 0..255, such as 16 bits by x // 257."
    return "Store pixels, before any normalisation; for floats in [0, 1]: np.rint(x * 255).astype(np.uint8)."


def _check_labels(name: str, labels: np.ndarray, images: int) -> None:
    if labels.ndim != 1:
        is_row = labels.shape[:1] == (1,) and labels.size == images
        raise DataError(
            f"{name} has the wrong rank",
            got=f"shape {labels.shape}",
            expected="(N,)",
            remedy="Flatten a row with y[0]." if is_row else "Take the classes of one-hot rows by y.argmax(1).",
        )
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{name} has the wrong dtype",
            got=labels.dtype,
            expected="integers",
            remedy="Number the classes from 0: np.unique(labels, return_inverse=True)[1].",
        )
    if len(labels) != images:
        raise DataError(f"{name} has another length than its images", got=len(labels), expected=str(images))
    if labels.min() < 0:
        raise DataError(f"{name} holds a negative class", got=int(labels.min()), expected="0..C-1")
