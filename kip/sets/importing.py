"""`kip import`: a set that others have published, as a distilled set of kip's.

| file | what it holds |
|---|---|
| `.npz` | `images`, and `labels` (n, c) or `classes` (n,); or under other usual names |
| `.npy` | images; the labels are in a second file, or the classes' order |
| `.pt` | `data`, a list of [images, classes], one for each of the authors' runs (DC, DSA, DM) |
| `.pt` | [images, labels], a list of [images, labels, rate], a dictionary: see `kip.data.published` |
| `.pt` | images alone (MTT); the labels are in a second file, or the classes' order |
| `.msgpack`, or no suffix | a checkpoint of Flax (RCIG): its set as `ema_average`, or `params` |
| a folder | a folder of images for each class (RDED, SRe2L, generators), matched by `kip.data.class_order` |

Images may be channels last or first, and several sets may lie along a first axis. What their values are is said by
`values`, since no file says it:

- `pixels`: [0, 1]; those of a folder are pixels;
- `bytes`: 0 to 255;
- `normalised`: (pixel - mean) / deviation by channel, with constants that the authors name;
- `preprocessed`: what kip's own preprocessing of the data set gives, such as a KIP set after `zca`.

Values and labels that are not finite are refused, and so are values whose range is not that of `values`.

An imported set is judged by KRR under a kernel, `kip evaluate`; `kip compare` trains networks on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kip import config, data, preprocess
from kip.blocks import Blocks
from kip.data import Data, Dataset, class_order, decoded, image_folder, layout, msgpack_file, torch_file
from kip.data.published import (
    LabelsAre,
    Published,
    chosen,
    described,
    found,
    in_class_order,
    missing,
    scores_and_classes,
)
from kip.errors import ConfigError, DataError, ShapeError, printable
from kip.judges import KernelJudge
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.problem import State
from kip.preprocess import Preprocess
from kip.sets.distilled import DistilledSet, Origin, distilled_set
from kip.storage.npz import array_headers, array_names, read_array, read_arrays

LOGGER = logging.getLogger(__name__)
Values = Literal["pixels", "bytes", "normalised", "preprocessed"]
OUTSIDE, MIDDLE = 0.2, (0.25, 0.75)
"""The share of pixels that may lie further than 1/2 outside [0, 1] where the mean of all is not in the middle. Most
learned images have a thousandth outside. Those of KIP have 0.6, about a mean of 0.5; normalised and whitened values
have 0.25 or more, about 0."""
FURTHEST = 64.0
"""The largest value that learned images may have in pixels."""


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
    classes: Sequence[str] = (),
    preprocessing: Preprocess | None = None,
    kernel: Kernel | None = None,
    rate: float | None = None,
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
        classes: which folder is which class, as `kip.data.class_order.numbers` takes it; empty: names are matched.
        preprocessing: what networks and kernels see; None: `standardize`.
        kernel: what it is judged under; None: the ConvNet.
        rate: the learning rate that it was learned with, as MTT's sets are; None where it has none.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        ConfigError: if the rate is not above 0.
        DataError: if a file cannot be read, labels or folders do not fit the data set's classes, or values are not
            finite or not in the range of `values`.
        ShapeError: if images do not fit the data set's.
    """
    if rate is not None and not (np.isfinite(rate) and rate > 0):
        raise ConfigError("rate of the set", got=rate, expected="a finite number above 0")
    dataset = data.load(of, data_dir)
    if path.is_dir():
        _check_folder(path, values, labels, index)
        published = _of_folder(path, of, dataset, classes)
    else:
        if classes:
            raise DataError("--class-order", got=f"the file {path}", expected="a folder, whose folders are classes")
        published = _read(path, labels, index, arrays, per_class, dataset.num_classes)
    _check_finite(published)
    images = _channels_last(published.images, dataset)
    scores, class_index, learned = scores_and_classes(published.labels, len(images), dataset.num_classes, labels_are)
    preprocessing = preprocessing or Preprocess()
    transform = preprocess.fit(preprocessing, dataset.train.images)
    if values == "preprocessed":
        _check_preprocessed(images, transform.apply(dataset.train.images[:1000]))
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
    rates = np.array(published.rates if rate is None else [rate], np.float32)
    origin = Origin(experiment, judge.label, "scores" if learned else "classes", judge)
    return distilled_set(
        origin,
        transform,
        State(0, seen, scores, class_index, statistics, learning_rates=rates if len(rates) else None),
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
        order = in_class_order(parts.images.shape[-4], per_class, num_classes)
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


def _check_folder(path: Path, values: Values, labels: Path | None, index: int) -> None:
    """Refuse options that a folder has no use for."""
    if values != "pixels" or labels is not None or index:
        raise DataError(
            f"the folder {printable(str(path))}",
            got=f"values {values}, labels {labels}, index {index}",
            expected="--values pixels and no --labels or --index: its folders are the classes",
        )


def _of_folder(path: Path, of: Data, dataset: Dataset, classes: Sequence[str]) -> Published:
    """Return the images of a folder, in [0, 1], and their classes."""
    listing = image_folder.listing(path, recursive=of.recursive)
    if len(listing.names) != dataset.num_classes:
        raise DataError(
            f"the folder {printable(str(path))}",
            got=f"{len(listing.names)} folders",
            expected=f"{dataset.num_classes}, one for each class of {dataset.name}",
        )
    numbers = class_order.numbers(listing.names, dataset.class_names, dataset.num_classes, classes)
    look = decoded.with_depth(listing.paths, of.look._replace(side=None))
    height, width, channels = dataset.train.images.shape[1:]
    images = []
    for file in listing.paths:
        image = image_folder.decoded(file, channels, look)
        if image.shape[:2] != (height, width):
            raise ShapeError(
                f"the image {printable(str(file))}",
                got=f"{image.shape[0]}x{image.shape[1]} pixels",
                expected=f"{height}x{width}",
                remedy="Resize the images first, or name the data set with its `shrink`.",
            )
        images.append(image)
    if left_out := layout.describe_left_out(listing):
        LOGGER.warning("%s: %d images; left out: %s", printable(path.name), len(images), ", ".join(left_out))
    return Published(np.stack(images) / 255.0, numbers[listing.classes])


def _held(path: Path, arrays: Sequence[str]) -> Any:
    """Return the arrays of one file; of a `.npz`, those that are needed."""
    if path.suffix in (".pt", ".pth"):
        return torch_file.read(path)
    if path.suffix in (".msgpack", ""):  # Flax's own names have no suffix: checkpoint_15000
        return msgpack_file.read_set(path)
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


def _check_finite(published: Published) -> None:
    """Refuse images and labels that are no numbers, or not finite."""
    for name, array in (("images", published.images), ("labels", published.labels)):
        if array.dtype.kind not in "biuf":
            raise DataError(f"{name} of the set", got=f"dtype {array.dtype}", expected="numbers")
        if wrong := array.size - int(np.isfinite(array).sum()):
            raise DataError(
                f"{name} of the set",
                got=f"{wrong} of {array.size} values that are NaN or infinite",
                expected="finite numbers",
                remedy="The set is of a training that diverged, or its file is damaged.",
            )


def _check_pixels(pixels: np.ndarray, values: Values) -> None:
    """Refuse pixels that are not near [0, 1], 1 being white; learned images lie outside of it in part."""
    low, high = float(pixels.min()), float(pixels.max())
    outside = float(np.mean((pixels < -0.5) | (pixels > 1.5)))
    are_whole = high > 1 and bool((pixels == np.rint(pixels)).all())
    is_elsewhere = outside > OUTSIDE and not MIDDLE[0] <= pixels.mean() <= MIDDLE[1]
    if max(-low, high) <= FURTHEST and (values == "normalised" or not (are_whole or is_elsewhere)):
        return
    if values == "normalised":
        remedy = "--mean and --deviation are those of pixels in [0, 1]; divide ones of 0 to 255 by 255."
    elif low >= 0:
        remedy = "Values of 0 to 255 are imported by --values bytes."
    else:
        remedy = (
            "Normalised values are imported by --values normalised with --mean and --deviation, whitened ones by "
            "--values preprocessed with --preprocess.kind; learned images that go so far beyond black and white, by "
            "--values normalised with means of 0 and deviations of 1."
        )
    raise DataError(
        f"--values {values}",
        got=f"pixels from {low:.4g} to {high:.4g}, {100 * outside:.0f} % of them far outside [0, 1]",
        expected="pixels near [0, 1]",
        remedy=remedy,
    )


def _check_preprocessed(images: np.ndarray, natural: np.ndarray) -> None:
    """Refuse images that lie elsewhere than natural ones after the same preprocessing."""
    most, usual = float(np.abs(images).max()), float(np.abs(natural).max())
    are_pixels = float(images.min()) >= 0 and float(natural.min()) < 0
    if are_pixels or most > FURTHEST * usual:
        raise DataError(
            "--values preprocessed",
            got=f"values from {images.min():.4g} to {images.max():.4g}",
            expected=f"values as natural images have them, from {natural.min():.4g} to {natural.max():.4g}",
            remedy="Pixels in [0, 1] are imported by --values pixels, and those in 0 to 255 by --values bytes.",
        )


def _pixels(images: np.ndarray, values: Values, mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    """Return pixels, 1 being white, after their range was looked at."""
    if values == "pixels":
        pixels = images.astype(np.float64)
    elif values == "bytes":
        pixels = images / 255.0
        if float(images.max()) <= 1:
            raise DataError(
                "--values bytes",
                got=f"values from {images.min():.4g} to {images.max():.4g}",
                expected="0 to 255",
                remedy="Values in [0, 1] are imported by --values pixels.",
            )
    else:
        pixels = _denormalised(images, mean, deviation)
    _check_pixels(pixels, values)
    return pixels


def _denormalised(images: np.ndarray, mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    channels = images.shape[3]
    if not len(mean) == len(deviation) == channels:
        raise DataError(
            "mean and deviation of normalised images",
            got=f"{len(mean)} and {len(deviation)} numbers",
            expected=f"{channels} each, one for each channel",
        )
    if float(images.min()) >= 0 and min(mean) > 0:  # all images would be lighter than the mean everywhere
        raise DataError(
            "--values normalised",
            got=f"values from {images.min():.4g} to {images.max():.4g}",
            expected="(pixel - mean) / deviation, which is below 0 for dark pixels",
            remedy="Pixels in [0, 1] are imported by --values pixels, and those in 0 to 255 by --values bytes.",
        )
    return images.astype(np.float64) * np.asarray(deviation) + np.asarray(mean)
