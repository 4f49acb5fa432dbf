"""`kip import`: a set that others have published, as a distilled set of kip's.

| file | what it holds |
|---|---|
| `.npz` | `images`, and `labels` (n, c) or `classes` (n,) |
| `.npy` | images; the labels are in a second file |
| `.pt` | `data`, a list of [images, classes], one for each of the authors' runs (DC, DSA, DM) |
| `.pt` | images alone (MTT); the labels are in a second file |
| `.msgpack`, or no suffix | a checkpoint of Flax (RCIG): its set as `ema_average`, or `params` |
| a folder | a folder of images for each class, in the classes' order (RDED, SRe2L, generators); values are pixels |

Images may be channels last or first, and several sets may lie along a first axis. What their values are is said by
`values`, since no file says it:

- `pixels`: [0, 1];
- `normalised`: (pixel - mean) / deviation by channel, with constants that the authors name;
- `preprocessed`: what kip's own preprocessing of the data set gives, such as a KIP set after `zca`.

An imported set is judged by KRR under a kernel, `kip evaluate`; `kip compare` trains networks on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kip import config, data, preprocess
from kip.archives import read_array, read_arrays
from kip.blocks import Blocks
from kip.data import Data, Dataset, image_folder, msgpack_file, torch_file
from kip.errors import DataError, ShapeError
from kip.export import DistilledSet, Origin, distilled_set
from kip.judges import KernelJudge
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.problem import State
from kip.preprocess import Preprocess

Values = Literal["pixels", "normalised", "preprocessed"]


class Published(NamedTuple):
    """The arrays of a published file: images (n, H, W, C) or (n, C, H, W), and labels (n, c) or classes (n,)."""

    images: np.ndarray
    labels: np.ndarray


def import_set(
    path: Path,
    of: Data,
    *,
    name: str,
    values: Values,
    labels: Path | None = None,
    index: int = 0,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
    preprocessing: Preprocess | None = None,
    kernel: Kernel | None = None,
    data_dir: Path | None = None,
) -> DistilledSet:
    """Return a published set as a distilled set.

    Args:
        path: the file with the images, or the folder.
        of: the data set that it was distilled from.
        name: the name of the method, for tables.
        values: what the values of the images are; see above.
        labels: the file with the labels, where `path` holds images alone.
        index: which set, where the file holds several.
        mean: the means of `normalised` values, one for each channel.
        deviation: the deviations of `normalised` values, one for each channel.
        preprocessing: what networks and kernels see; None: `standardize`.
        kernel: what it is judged under; None: the ConvNet.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        DataError: if a file cannot be read, or labels do not fit the data set's classes.
        ShapeError: if images do not fit the data set's.
    """
    dataset = data.load(of, data_dir)
    published = _of_folder(path, dataset, values, labels, index) if path.is_dir() else _read(path, labels, index)
    images = _channels_last(published.images, dataset)
    scores, classes = _labels(published.labels, len(images), dataset.num_classes)
    preprocessing = preprocessing or Preprocess()
    transform = preprocess.fit(preprocessing, dataset.train.images)
    if values == "preprocessed":
        seen = images.astype(np.float32)
        # What layer normalisation took from each image is not in the file: the train images' mean stands for it.
        statistics = np.tile(transform.statistics(dataset.train.images[:5000]).mean(axis=0), (len(images), 1))
    else:
        pixels = _pixels(images, values, mean, deviation)
        seen, statistics = transform.apply(pixels), transform.statistics(pixels)
    judge = KernelJudge((kernel or Architecture("ConvNet"),))
    experiment = {
        "method": {"name": name},
        "data": config.to_dict(of),
        "preprocess": config.to_dict(preprocessing),
        "blocks": config.to_dict(Blocks()),
        "seed": 0,
        "reference": None,
    }
    learned = published.labels.ndim == 2
    origin = Origin(experiment, judge.label, "scores" if learned else "classes", judge)
    return distilled_set(
        origin,
        transform,
        State(0, seen, scores, classes, statistics),
        train_digest=dataset.train.digest(),
        validation_accuracy=None,
        test_accuracy=None,
        class_names=dataset.class_names,
    )


def _read(path: Path, labels: Path | None, index: int) -> Published:
    held: Any = _held(path)
    if labels is not None:
        held = {"images": held, "labels": _held(labels)}
    if isinstance(held, dict) and isinstance(held.get("data"), list):  # VICO's, one pair for each run
        pairs = held["data"]
        if not 0 <= index < len(pairs):
            raise DataError(f"set of {path}", got=index, expected=f"0 to {len(pairs) - 1}")
        held, index = dict(zip(("images", "labels"), pairs[index])), 0
    if not isinstance(held, dict) or "images" not in held or not {"labels", "classes"} & held.keys():
        raise DataError(
            f"arrays of {path}",
            got=", ".join(held) if isinstance(held, dict) else "images alone",
            expected="`images`, and `labels` or `classes`",
            remedy="Name the file of the labels with --labels.",
        )
    images, targets = (np.asarray(held[key]) for key in ("images", "labels" if "labels" in held else "classes"))
    if images.ndim == 5:
        if not 0 <= index < len(images):
            raise DataError(f"set of {path}", got=index, expected=f"0 to {len(images) - 1}")
        images, targets = images[index], targets[index]
    elif index:
        raise DataError(f"set of {path}", got=index, expected="0: the file holds one set")
    return Published(images, targets)


def _of_folder(path: Path, dataset: Dataset, values: Values, labels: Path | None, index: int) -> Published:
    """Return the images of a folder, in [0, 1], and their classes."""
    if values != "pixels" or labels is not None or index:
        raise DataError(
            f"the folder {path}", got=f"values {values}, labels {labels}, index {index}",
            expected="--values pixels and no --labels or --index: its folders are the classes",
        )  # fmt: skip
    found = image_folder.listing(path)
    if len(found.names) != dataset.num_classes:
        raise DataError(
            f"the folder {path}", got=f"{len(found.names)} folders",
            expected=f"{dataset.num_classes}, one for each class of {dataset.name}",
        )  # fmt: skip
    height, width, channels = dataset.train.images.shape[1:]
    images = []
    for file in found.paths:
        image = image_folder.decoded(file, channels)
        if image.shape[:2] != (height, width):
            raise ShapeError(
                f"the image {file}", got=f"{image.shape[0]}x{image.shape[1]} pixels", expected=f"{height}x{width}",
                remedy="Resize the images first, or name the data set with its `shrink`.",
            )  # fmt: skip
        images.append(image)
    return Published(np.stack(images) / 255.0, found.classes)


def _held(path: Path) -> Any:
    """Return the arrays of one file."""
    if path.suffix in (".pt", ".pth"):
        return torch_file.read(path)
    if path.suffix in (".msgpack", ""):  # Flax's own names have no suffix: checkpoint_15000
        return msgpack_file.read_set(path)
    return read_array(path) if path.suffix == ".npy" else read_arrays(path)


def _channels_last(images: np.ndarray, dataset: Dataset) -> np.ndarray:
    wanted = dataset.train.images.shape[1:]
    if images.ndim == 4 and images.shape[1:] == wanted:
        return images
    if images.ndim == 4 and images.shape[1:] == (wanted[2], *wanted[:2]):
        return np.moveaxis(images, 1, 3)
    raise ShapeError(
        f"images of the set for the data set {dataset.name!r}",
        got=f"shape {images.shape}",
        expected=f"(n, {', '.join(map(str, wanted))}), or channels first",
    )


def _labels(labels: np.ndarray, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n, c), float32, and the class of each image."""
    if len(labels) == count and labels.ndim == 2 and labels.shape[1] == classes and labels.dtype.kind == "f":
        return labels.astype(np.float32), labels.argmax(axis=1)
    if labels.shape == (count,) and labels.dtype.kind in "iu":
        return data.centred_one_hot(labels, classes), labels.astype(np.int64)
    raise DataError(
        "labels of the set",
        got=f"shape {labels.shape}, dtype {labels.dtype}",
        expected=f"({count}, {classes}) floats, or ({count},) integer classes",
    )


def _pixels(images: np.ndarray, values: Values, mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    if values == "pixels":
        return images.astype(np.float64)
    channels = images.shape[3]
    if not len(mean) == len(deviation) == channels:
        raise DataError(
            "mean and deviation of normalised images",
            got=f"{len(mean)} and {len(deviation)} numbers",
            expected=f"{channels} each, one for each channel",
        )
    return images.astype(np.float64) * np.asarray(deviation) + np.asarray(mean)
