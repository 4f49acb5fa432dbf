"""The accuracy of an exported set, on the data set that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip import data, krr, preprocess
from kip.blocks import KernelBlocks
from kip.distill import State
from kip.evaluate.krr_accuracy import check_data, krr_accuracy
from kip.evaluate.set_accuracy import set_accuracies, trains_networks
from kip.export import DistilledSet
from kip.kernels import Kernel


class Evaluation(NamedTuple):
    """Accuracy of a set, as fractions.

    Attributes:
        kernel: the kernel's name, or the network's.
        validation_accuracy: on validation images. test_accuracy: on test images; means where networks were trained.
        test_spread: the deviation over the networks; None under a kernel.
    """

    kernel: str
    validation_accuracy: float
    test_accuracy: float
    test_spread: float | None = None


def evaluate_set(
    distilled: DistilledSet,
    blocks: KernelBlocks,
    *,
    kernels: Sequence[Kernel] | None = None,
    data_dir: Path | None = None,
) -> list[Evaluation]:
    """Return the accuracy of a distilled set on its data set: of KRR under each kernel, or of networks trained on it.

    Args:
        distilled: the set.
        blocks: computes kernels.
        kernels: None means what the set was distilled for: its kernels, or its networks.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        DataError: if the data set differs from the one that the set was distilled from.
    """
    experiment = distilled.experiment
    dataset = data.load(experiment.data, data_dir)
    check_data(distilled, dataset)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    splits = [(transform.apply(split.images), split.labels) for split in (dataset.validation, dataset.test)]
    if kernels is None:
        return _as_in_its_run(distilled, blocks, splits, (transform.apply(dataset.train.images), dataset.train.labels))
    # A ridge of a method with networks is one of its features, and says nothing of kernels.
    method: Any = experiment.method
    ridge = krr.Ridge() if trains_networks(experiment) else method.ridge
    results = []
    for kernel in kernels:
        accuracy = [
            krr_accuracy(blocks, kernel, ridge, distilled.images_preprocessed, distilled.labels, inputs, labels)
            for inputs, labels in splits
        ]
        results.append(Evaluation(kernel.label, *accuracy))
    return results


def _as_in_its_run(
    distilled: DistilledSet,
    blocks: KernelBlocks,
    splits: list[tuple[np.ndarray, np.ndarray]],
    train: tuple[np.ndarray, np.ndarray],
) -> list[Evaluation]:
    """Judge the set as the loop does at the end of its run, on both splits."""
    experiment = distilled.experiment
    support = State(
        step=distilled.metadata["step"],
        images=distilled.images_preprocessed,
        labels=distilled.labels,
        class_index=distilled.class_index,
        statistics=distilled.image_statistics,
        deployment_steps=distilled.metadata.get("deployment_steps", ()),
    )
    validation, test = (
        set_accuracies(experiment, blocks, support, inputs, labels, part="test", train=train)
        for inputs, labels in splits
    )
    if trains_networks(experiment):
        return [Evaluation(experiment.method.label, float(validation.mean()), float(test.mean()), float(test.std()))]
    names = [kernel.label for kernel in experiment.method.kernels]
    return [Evaluation(name, float(v), float(t)) for name, v, t in zip(names, validation, test)]
