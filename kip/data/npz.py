"""Reading NAME.npz: x_train, y_train, x_test, y_test, and nothing that is not what it says."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from kip.errors import DataError

NAMES = ("x_train", "y_train", "x_test", "y_test")
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def read(path: Path) -> Arrays:
    """Read and check a data set file.

    Args:
        path: a .npz archive with x_train, x_test: uint8 (N, H, W, C) with C = 1 or 3; y_train, y_test: integers (N,)
            in 0..K-1, each class present in train. Other arrays in the file are ignored. Nothing is unpickled.

    Returns:
        x_train, y_train, x_test, y_test; images uint8, labels int64.

    Raises:
        DataError: if the file cannot be read or an array is not so: the file, the array, what came, what was expected.
    """
    # Opened here, because np.load leaves its own handle open when the archive turns out not to be one.
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single .npy array")
            missing = [name for name in NAMES if name not in archive.files]
            if missing:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}",
                    got=", ".join(archive.files) or "no array",
                    expected=", ".join(NAMES),
                    remedy="Write it with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...).",
                )
            arrays = {name: _member(path, archive, name) for name in NAMES}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read",
            got=str(error).rstrip("."),
            expected="a .npz archive",
            remedy="The file is damaged, cut short or of another format: write it again with np.savez.",
        ) from None
    return check(str(path), *(arrays[name] for name in NAMES))


def check(source: str, *arrays: np.ndarray) -> Arrays:
    """Check x_train, y_train, x_test, y_test as `read` says, whatever `source` they came from."""
    x_train, y_train, x_test, y_test = arrays
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
    classes = int(present[-1]) + 1
    if len(present) != classes or classes < 2:
        absent = np.setdiff1d(np.arange(classes), present)
        raise DataError(
            f"{source}: y_train does not hold the classes 0..C-1, C at least 2",
            got=f"no image of class {absent[0]}" if len(absent) else f"the single class {present[0]}",
            remedy="Renumber the classes from 0 without a gap: np.unique(labels, return_inverse=True)[1].",
        )
    if y_test.max() >= classes:
        raise DataError(
            f"{source}: y_test holds a class that train lacks", got=int(y_test.max()), expected=f"0..{classes - 1}"
        )
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)


def _member(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return archive[name]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        is_pickle = "allow_pickle" in str(error)
        raise DataError(
            f"{path}: {name} cannot be read",
            got="an object array" if is_pickle else str(error).rstrip("."),
            expected="a plain numeric array",
            remedy="Object arrays are never unpickled: stack the images into one uint8 array (N, H, W, C)."
            if is_pickle
            else "The file is damaged: write it again with np.savez.",
        ) from None


def _check_images(what: str, images: np.ndarray) -> None:
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        kind = "NaN" if np.isnan(images).any() else "infinity"
        raise DataError(
            f"{what} holds {kind}", got=f"{images.dtype} with {kind}", expected="uint8", remedy="Clean the images."
        )
    if images.dtype != np.uint8:
        raise DataError(
            f"{what} has the wrong dtype",
            got=images.dtype,
            expected="uint8, 0..255",
            remedy="Store pixels, before any normalisation; for floats in [0, 1]: np.rint(x * 255).astype(np.uint8).",
        )
    if images.ndim != 4:
        raise DataError(
            f"{what} has the wrong rank",
            got=f"shape {images.shape}",
            expected="(N, H, W, C)",
            remedy="Give grey images a channel axis with x[..., None]; reshape flattened ones to (N, H, W, C).",
        )
    if images.shape[3] not in (1, 3):
        raise DataError(
            f"{what} has {images.shape[3]} channels",
            got=f"shape {images.shape}",
            expected="1 (grey) or 3 (RGB), on the last axis",
            remedy="For channels first use x.transpose(0, 2, 3, 1); drop an alpha channel with x[..., :3].",
        )
    if images.size == 0:
        raise DataError(f"{what} is empty", got=f"shape {images.shape}", expected="at least one image")


def _check_labels(what: str, labels: np.ndarray, images: int) -> None:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{what} has the wrong dtype",
            got=labels.dtype,
            expected="integers",
            remedy="Number the classes from 0: np.unique(labels, return_inverse=True)[1].",
        )
    if labels.ndim != 1:
        raise DataError(
            f"{what} has the wrong rank",
            got=f"shape {labels.shape}",
            expected="(N,)",
            remedy="Flatten a column with y[:, 0], or one-hot rows with y.argmax(1).",
        )
    if len(labels) != images:
        raise DataError(f"{what} has another length than its images", got=len(labels), expected=str(images))
    if labels.min() < 0:
        raise DataError(f"{what} holds a negative class", got=int(labels.min()), expected="0..C-1")
