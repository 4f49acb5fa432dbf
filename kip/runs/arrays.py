"""A data set in memory, distilled without a folder unless one is asked for."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kip.data import Data, Dataset, Split
from kip.data.mirror import mirror_keeps_class
from kip.data.sources import held_out
from kip.errors import ConfigError, DataError
from kip.experiment import Experiment
from kip.methods.contract import Method, method_named
from kip.methods.kernel.kip import KIP
from kip.preprocess import Preprocess
from kip.runs.callbacks import Callback
from kip.runs.loop import run_on
from kip.sets.distilled import DistilledSet

Pair = tuple[Any, Any]
"""Images and labels."""


def distill(
    images: Any,
    labels: Any,
    *,
    method: Method | str | None = None,
    validation: Pair | int | None = None,
    test: Pair | None = None,
    preprocess: Preprocess | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    show_progress: bool = True,
) -> DistilledSet:
    """Distil arrays into a few images: the best set on validation images, by any method.

    It is the run that `kip distill` makes, with its checkpoints in a folder of its own that is deleted at the end, or
    in `out`, where the same call resumes it.

    Args:
        images: train images (N, H, W, C) or grey (N, H, W); uint8, or floats in [0, 1], which are rounded to the 256
            levels of bytes.
        labels: their classes (N,), integers or strings. The set's label columns are the classes in sorted order, which
            are its `class_names` unless they are 0 .. C - 1.
        method: a method, such as `kip.KIP(images_per_class=10)`, or its name; None means `kip.KIP()`.
        validation: images and labels that choose the checkpoint, or how many of train are held out for that,
            class-balanced; None holds out a tenth, at most 5000.
        test: images and labels that the set is tested on, once, at the end; None: it is not tested.
        preprocess: what the method sees; None standardises channels.
        seed: the root seed of every draw.
        out: the run's folder; None keeps none.
        callbacks: are told of rows of metrics and new best sets; see `kip.Callback`.
        show_progress: whether bars are shown on stderr.

    Raises:
        DataError: if images and labels do not fit each other, or a part has a class that train has not.
        ConfigError, ShapeError, CheckpointError, OutputError: as `kip.run`.

    >>> import kip
    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> labels = np.arange(40) % 2
    >>> images = (generator.random((40, 4, 4)) + labels[:, None, None]) / 2
    >>> fc = kip.KIP(kernels=(kip.Architecture("FC"),), target_batch=20, steps=2)
    >>> distill(images, labels, method=fc, show_progress=False).labels.shape
    (2, 2)
    """
    dataset, data = _dataset(images, labels, validation, test)
    if isinstance(method, str):
        method = method_named(method)()  # type: ignore[call-arg]  # methods have a default for every option, or say so
    experiment = Experiment(method or KIP(), data, preprocess or Preprocess(), seed=seed)
    own = contextlib.nullcontext(out) if out is not None else tempfile.TemporaryDirectory(prefix="kip-")
    with own as folder:
        return run_on(
            dataset,
            experiment,
            Path(folder),
            callbacks=callbacks,
            show_progress=show_progress,
            has_pictures=out is not None,
        )


def _dataset(images: Any, labels: Any, validation: Pair | int | None, test: Pair | None) -> tuple[Dataset, Data]:
    """Return the data set, and the configuration that tells it from others by what it holds."""
    classes, numbers = np.unique(_labels("labels", labels), return_inverse=True)
    if len(classes) < 2:
        raise DataError("labels", got=f"{len(classes)} class", expected="at least two")
    is_plain = classes.dtype.kind in "iu" and np.array_equal(classes, np.arange(len(classes)))
    train = Split(_pixels("images", images), numbers.astype(np.int64))
    _check_lengths("images", train)
    count = 0
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
    data = Data(f"arrays-{digest[:16]}", validation=count)
    keeps = mirror_keeps_class(data.name, channels=train.images.shape[3])
    names = () if is_plain else tuple(map(str, classes))
    return Dataset(data.name, train, held, tested, len(classes), keeps, names), data


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
