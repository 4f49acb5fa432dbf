"""A set's data set, preprocessed as the set was, and natural images to compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kip import data, preprocess
from kip.data import Dataset
from kip.errors import ConfigError, DataError
from kip.preprocess import Apply
from kip.sets.distilled import DistilledSet

Support = tuple[np.ndarray, np.ndarray]
"""Images (n, H, W, C), preprocessed, and labels (n, c)."""


def prepared(distilled: DistilledSet, data_dir: Path | None) -> tuple[Dataset, Apply]:
    """Return a set's data set, and the preprocessing of its images.

    Raises:
        DataError: if the data set differs from the one that the set was distilled from.
    """
    origin = distilled.origin
    dataset = data.load(origin.data, data_dir)
    check_data(distilled, dataset)
    return dataset, preprocess.fit(origin.preprocess, dataset.train.images).apply


def check_classes(distilled: DistilledSet, reader: str) -> None:
    """Refuse a set whose labels are representations, where a reader takes label entries for classes.

    Args:
        distilled: the set.
        reader: who reads its labels, for the error.

    Raises:
        ConfigError: if it is such a set.
    """
    origin = distilled.origin
    if origin.labels_are == "representations":
        raise ConfigError(
            f"a set of {origin.method} for {reader}",
            got="labels that are representations",
            expected="labels with one entry for each class",
            remedy="`kip evaluate SET` judges it by a linear probe, and `kip pretraining SET` on a second data set.",
        )


def natural(dataset: Dataset, apply: Apply, count: int, seed: int, draw: int) -> Support:
    """Return class-balanced natural train images, preprocessed, with centred one-hot labels."""
    chosen = data.class_balanced(
        dataset.train.labels, count, num_classes=dataset.num_classes, seed=seed, purpose="natural baseline", step=draw
    )
    labels = data.centred_one_hot(dataset.train.labels[chosen], dataset.num_classes)
    return apply(dataset.train.images[chosen]), labels


def check_data(distilled: DistilledSet, dataset: Dataset) -> None:
    """Refuse a data set that is not the one that the set was distilled from.

    Raises:
        DataError: if the digest of its train split differs.
    """
    digest = dataset.train.digest()
    if digest != distilled.metadata["train_sha256"]:
        raise DataError(
            f"the data set {dataset.name!r} is not the one that this set was distilled from",
            got=f"a train split of SHA-256 {digest[:12]}...",
            expected=f"{distilled.metadata['train_sha256'][:12]}...",
            remedy="Point --data-dir to the original data.",
        )
