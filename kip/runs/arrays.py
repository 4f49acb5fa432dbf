"""A data set in memory, distilled without a folder unless one is asked for."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kip.data import Data
from kip.data.arrays import Pair, from_arrays
from kip.experiment import Experiment
from kip.methods.contract import Method, method_named
from kip.methods.kernel.kip import KIP
from kip.preprocess import Preprocess
from kip.runs.callbacks import Callback
from kip.runs.loop import run_on
from kip.sets.distilled import DistilledSet


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
    dataset = from_arrays(images, labels, validation=validation, test=test)
    held = 0 if isinstance(validation, tuple) else len(dataset.validation.labels)
    data = Data(dataset.name, validation=held)
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
