"""`kip import`: a set that others have published, as a distilled set of kip's.

| file | what it holds |
|---|---|
| `.npz` | `images`, and `labels` (n, c) or `classes` (n,); or under other usual names |
| `.npy` | images; the labels are in a second file, or the classes' order |
| `.pt` | `data`, a list of [images, classes], one for each of the authors' runs (DC, DSA, DM) |
| `.pt` | [images, labels], a list of [images, labels, rate], a dictionary: see `kip.data.published` |
| `.pt` | images alone (MTT); the labels are in a second file, or the classes' order |
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
from typing import Any, Literal

import numpy as np

from kip import config, data, preprocess
from kip.archives import array_headers, array_names, read_array, read_arrays
from kip.blocks import Blocks
from kip.data import Data, Dataset, image_folder, torch_file
from kip.data.published import LabelsAre, Published, chosen, class_order, described, found, missing, scores_and_classes
from kip.errors import DataError, ShapeError
from kip.export import DistilledSet, Origin, distilled_set
from kip.judges import KernelJudge
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.problem import State
from kip.preprocess import Preprocess

Values = Literal["pixels", "normalised", "preprocessed"]


def import_set(
    path: Path,
    of: Data,
    *,
    name: str,
    values: Values,
    labels: Path | None = None,
    labels_are: LabelsAre | None = None,
    arrays: Sequence[str] = (),
    per_class: int | None = None,
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
        labels_are: what learned labels (n, c) are; None: scores, with a warning where they might be logits.
        arrays: the names of the images and the labels in the file, or of the images alone; none: the usual names, of
            which `kip.data.published` has a list.
        per_class: how many images each class has, where the file has no labels and they stand in the classes' order.
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
    if path.is_dir():
        published = _of_folder(path, dataset, values, labels, index)
    else:
        published = _read(path, labels, index, arrays, per_class, dataset.num_classes)
    images = _channels_last(published.images, dataset)
    scores, classes, learned = scores_and_classes(published.labels, len(images), dataset.num_classes, labels_are)
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
    origin = Origin(experiment, judge.label, "scores" if learned else "classes", judge)
    return distilled_set(
        origin,
        transform,
        State(0, seen, scores, classes, statistics, learning_rates=np.array(published.rates, np.float32)),
        train_digest=dataset.train.digest(),
        validation_accuracy=None,
        test_accuracy=None,
        class_names=dataset.class_names,
    )


def _read(
    path: Path, labels: Path | None, index: int, arrays: Sequence[str], per_class: int | None, num_classes: int
) -> Published:
    """Return the images and labels of a file, or of two."""
    held = _held(path, arrays)
    parts, index = found(path, held, index=index, arrays=arrays)
    if per_class is not None:
        if labels is not None or parts.labels is not None:
            raise DataError("--per-class", got="labels as well", expected="a file of images alone, and no --labels")
        sets = parts.images.shape[:-4] or (1,)
        order = class_order(parts.images.shape[-4], per_class, num_classes)
        return parts.with_labels(order if parts.images.ndim == 4 else np.tile(order, (*sets, 1)), path, index)
    targets = parts.labels if labels is None else _alone(labels)
    if targets is None:
        raise missing(path, held)
    return parts.with_labels(targets, path, index)


def _alone(path: Path) -> np.ndarray:
    """Return the labels of a file of labels."""
    held = _held(path, ())
    if isinstance(held, dict):
        name = chosen(held)[1]
        held = held[name] if name is not None else next(iter(held.values())) if len(held) == 1 else held
    if not isinstance(held, np.ndarray):
        raise DataError(f"labels of {path}", got=described(held), expected="one array")
    return held


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


def _held(path: Path, arrays: Sequence[str]) -> Any:
    """Return the arrays of one file; of a `.npz`, those that are needed."""
    if path.suffix in (".pt", ".pth"):
        return torch_file.read(path)
    if path.suffix == ".npy":
        return read_array(path)
    names = array_names(path)
    needed = [name for name in chosen(names, arrays) if name is not None]
    if not needed and names:
        if len(names) > 1:
            raise missing(path, array_headers(path))
        needed = names
    return read_arrays(path, needed or None)


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
