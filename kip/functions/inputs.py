"""The images of a whole kernel matrix: of a data set by its name, or of a file that holds images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip import config, data, preprocess
from kip.data import Data
from kip.data.npz import NAMES, SPELLINGS
from kip.data.sampling import class_balanced
from kip.errors import ConfigError, DataError
from kip.preprocess import Preprocess
from kip.storage.images import Images, chosen
from kip.storage.npz import array_names, memory_bytes, read_arrays

FLOATS = ("float32", "float64")
"""The dtypes of images that a kernel takes as they are."""
PLAIN = (
    ("images_preprocessed", None, "class_index", None),
    ("x_train", "x_test", "y_train", "y_test"),
    ("images", "test_images", "labels", "test_labels"),
)
"""Names of train and test images and of their classes in a file that is no data set; the first counts that a file has:
those of a distilled set, and two usual ones. All but the first of a row may be lacking."""


class Inputs(NamedTuple):
    """Preprocessed images and what is known of them.

    Attributes:
        train: X (n, H, W, C), float32 or float64.
        test: Z (m, H, W, C); None: none.
        train_labels: their classes, int64 (n,); None: not known.
        test_labels: likewise (m,).
        about: what they are, JSON-ready.
    """

    train: np.ndarray
    test: np.ndarray | None
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    about: dict[str, Any]


def of_data(
    wanted: Data,
    *,
    preprocessing: Preprocess,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
) -> Inputs:
    """Return images of a data set, preprocessed as an experiment's are; the preprocessing is fitted on all of train.

    No train images are held out for validation, unless `wanted` says so.

    Args:
        wanted: the data set.
        preprocessing: what the kernel sees.
        num_train: how many train images, class-balanced; None: all.
        num_test: how many test images, class-balanced; 0: none; None: all.
        seed: draws both, through `kip.rng`.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        DataError: if there is no such data set, or a class is too small.
        ConfigError: if it has fewer images than are asked for.
    """
    if wanted.validation is None:
        wanted = dataclasses.replace(wanted, validation=0)
    about = {"data": config.label(wanted), "preprocess": config.to_dict(preprocessing), "seed": seed}
    dataset = data.load(wanted, data_dir)
    transform = preprocess.fit(preprocessing, dataset.train.images)
    parts = []
    for name, split, count in (("train", dataset.train, num_train), ("test", dataset.test, num_test)):
        indices = _drawn(name, split.labels, count, dataset.num_classes, seed)
        parts.append((_whole(transform.apply(chosen(split.images, indices))), split.labels[indices]))
    (train, labels), (test, test_labels) = parts
    about |= {"num_train": len(train), "num_test": len(test)}
    return Inputs(train, test, labels, test_labels, about) if len(test) else Inputs(train, None, labels, None, about)


def of_file(
    path: Path,
    *,
    preprocessing: Preprocess | None = None,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
) -> Inputs:
    """Return images of an .npz file: of a data set's, as `of_data` does, or of one that holds images without classes.

    Such a file holds `x_train` and perhaps `x_test`, or `images` and perhaps `test_images`, or is a distilled set,
    whose preprocessed images are taken. Bytes are preprocessed; floats are taken as the kernel is to see them. The
    first `num_train` and `num_test` are taken, in the order of the file.

    Args:
        path: the file.
        preprocessing: what becomes of bytes; None standardises channels.
        num_train: how many train images; None: all.
        num_test: how many test images; 0: none; None: all.
        seed: draws the images of a data set.

    Raises:
        DataError: if the file cannot be read, or holds no images.
        ConfigError: if it has fewer than are asked for, or floats are to be preprocessed.
    """
    held = set(array_names(path))
    if any(held.issuperset(names) for names in SPELLINGS):
        return of_data(
            Data(path.stem),
            preprocessing=preprocessing or Preprocess(),
            num_train=num_train,
            num_test=num_test,
            seed=seed,
            data_dir=path.parent,
        )
    names = next((names for names in PLAIN if names[0] in held), None)
    if names is None:
        raise DataError(
            f"{path} holds no images",
            got=", ".join(sorted(held)) or "no .npz archive",
            expected=f"{', '.join(NAMES)}; or x_train alone; or images",
            remedy="np.savez(path, images=...) writes such a file.",
        )
    arrays = read_arrays(path, [name for name in names if name in held])
    train, test, labels, test_labels = (None if name is None else arrays.get(name) for name in names)
    assert train is not None
    given = {"train": train, "test": test}
    for name, images in given.items():
        if images is not None and (images.ndim not in (3, 4) or images.dtype.name not in ("uint8", *FLOATS)):
            raise DataError(
                f"{path}: the {name} images",
                got=f"{images.dtype} {images.shape}",
                expected="uint8, float32 or float64, (N, H, W, C) or grey (N, H, W)",
            )
    train, test = (
        None if images is None else images[..., None] if images.ndim == 3 else images for images in given.values()
    )
    assert train is not None
    about: dict[str, Any] = {"data": path.name}
    if train.dtype == np.uint8:
        kind = preprocessing or Preprocess()
        transform = preprocess.fit(kind, train)
        about["preprocess"] = config.to_dict(kind)
        train = transform.apply(train)
        test = None if test is None else transform.apply(test)
    elif preprocessing is not None:
        raise ConfigError(
            "--preprocess.kind",
            got=f"{preprocessing.kind}, for {path.name}, whose images are {train.dtype}",
            expected="no option: floats are taken as the kernel is to see them",
            remedy="Leave it out, or write the images as uint8, 0 to 255.",
        )
    train, labels = _first("train", train, labels, num_train)
    about["num_train"] = len(train)
    if test is None or num_test == 0:
        return Inputs(train, None, labels, None, {**about, "num_test": 0})
    test, test_labels = _first("test", test, test_labels, num_test)
    return Inputs(train, test, labels, test_labels, {**about, "num_test": len(test)})


def _drawn(name: str, labels: np.ndarray, count: int | None, num_classes: int, seed: int) -> np.ndarray:
    """Return the places of the images that are taken, ascending."""
    _check_count(name, count, len(labels))
    if count is None or count == len(labels):
        return np.arange(len(labels))
    return np.sort(class_balanced(labels, count, num_classes=num_classes, seed=seed, purpose=f"kernel {name} images"))


def _first(
    name: str, images: np.ndarray, labels: np.ndarray | None, count: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    _check_count(name, count, len(images))
    return images[:count], None if labels is None else labels[:count]


def _check_count(name: str, count: int | None, most: int) -> None:
    least = 1 if name == "train" else 0
    if count is not None and not least <= count <= most:
        raise ConfigError(f"--num-{name}", got=count, expected=f"{least} to {most}, the {name} images that there are")


def _whole(images: Images) -> np.ndarray:
    """Return images in memory.

    Raises:
        DataError: if they do not fit there.
    """
    if images.nbytes > memory_bytes():
        raise DataError(
            "the images of a kernel matrix do not fit into memory",
            got=f"{images.nbytes / 2**30:.1f} GiB",
            expected=f"at most the machine's {memory_bytes() / 2**30:.1f} GiB",
            remedy="Take fewer (--num-train, --num-test), or smaller ones (shrink).",
        )
    return images[np.arange(len(images))]
