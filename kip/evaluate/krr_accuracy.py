"""Accuracy of kernel ridge regression on a support set, over a test set of any size in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kip import data, krr, preprocess
from kip.blocks import KernelBlocks, Source
from kip.errors import DataError
from kip.export import DistilledSet
from kip.kernels import Kernel


class Evaluation(NamedTuple):
    """KRR accuracy of a set under one kernel, as fractions."""

    kernel: str
    validation_accuracy: float
    test_accuracy: float


def krr_accuracy(
    blocks: KernelBlocks,
    kernel: Kernel,
    ridge: krr.Ridge,
    support: np.ndarray,
    support_labels: np.ndarray,
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    source: Source | None = None,
) -> float:
    """Return the fraction of `inputs` whose largest prediction K_ts A^-1 y_s is at their class.

    Args:
        blocks: computes kernels.
        kernel: the kernel.
        ridge: the regulariser.
        support: X_s (n, H, W, C), preprocessed. support_labels: y_s (n, c).
        inputs: images to classify (m, H, W, C), preprocessed, m >= 1. labels: their classes, (m,).
        source: where `inputs` come from, for executors whose workers hold the data set; None: not known.

    Raises:
        DataError: if there is no image to classify.
    """
    if len(inputs) == 0:
        raise DataError(
            "no image to classify", expected="at least one", remedy="Hold out some: data.validation is at least 1."
        )
    k_ss, _ = blocks.forward(kernel, support, support[:0])
    alpha = krr.fit(k_ss, support_labels, ridge)
    correct = 0
    for rows, k_ts in blocks.rows(kernel, support, inputs, source=source):
        correct += int(np.sum((k_ts @ alpha).argmax(axis=1) == labels[rows]))
    return correct / len(inputs)


def evaluate_set(
    distilled: DistilledSet,
    blocks: KernelBlocks,
    *,
    kernels: Sequence[Kernel] | None = None,
    data_dir: Path | None = None,
) -> list[Evaluation]:
    """Return the KRR accuracy of a distilled set on its data set, under each kernel.

    Args:
        distilled: the set.
        blocks: computes kernels.
        kernels: None means those that the set was distilled with.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        DataError: if the data set differs from the one that the set was distilled from.
    """
    experiment = distilled.experiment
    dataset = data.load(experiment.data, data_dir)
    check_data(distilled, dataset)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    splits = [(transform.apply(split.images), split.labels) for split in (dataset.validation, dataset.test)]
    ridge = experiment.method.ridge
    results = []
    for kernel in kernels or experiment.method.kernels:
        accuracy = [
            krr_accuracy(blocks, kernel, ridge, distilled.images_preprocessed, distilled.labels, inputs, labels)
            for inputs, labels in splits
        ]
        results.append(Evaluation(kernel.label, *accuracy))
    return results


def check_data(distilled: DistilledSet, dataset: data.Dataset) -> None:
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
