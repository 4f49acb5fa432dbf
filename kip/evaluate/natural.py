"""A set's data set, preprocessed as the set was, and natural images to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kip import data, preprocess
from kip.data import Dataset
from kip.evaluate.krr_accuracy import check_data
from kip.export import DistilledSet

Support = tuple[np.ndarray, np.ndarray]
"""Images (n, H, W, C), preprocessed, and labels (n, c)."""


def prepared(distilled: DistilledSet, data_dir: Path | None) -> tuple[Dataset, Callable[[np.ndarray], np.ndarray]]:
    """Return a set's data set, and the preprocessing of its images.

    Raises:
        DataError: if the data set differs from the one that the set was distilled from.
    """
    experiment = distilled.experiment
    dataset = data.load(experiment.data, data_dir)
    check_data(distilled, dataset)
    return dataset, preprocess.fit(experiment.preprocess, dataset.train.images).apply


def natural(dataset: Dataset, apply: Callable[[np.ndarray], np.ndarray], count: int, seed: int, draw: int) -> Support:
    """Return class-balanced natural train images, preprocessed, with centred one-hot labels."""
    chosen = data.class_balanced(
        dataset.train.labels, count, num_classes=dataset.num_classes, seed=seed, purpose="natural baseline", step=draw
    )
    labels = data.centred_one_hot(dataset.train.labels[chosen], dataset.num_classes)
    return apply(dataset.train.images[chosen]), labels
