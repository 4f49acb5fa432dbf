"""The accuracy of an exported set, on the data set that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kip import krr
from kip.blocks import KernelBlocks
from kip.data import Dataset
from kip.evaluate.prepared import check_classes, prepared
from kip.judges import Judge, KernelJudge, Question, RandomFeatures, Tools, by_class
from kip.judges.judge import deviation
from kip.kernels import Kernel
from kip.sets.distilled import DistilledSet
from kip.storage.images import Images


class Evaluation(NamedTuple):
    """Accuracy of a set, as fractions.

    Attributes:
        kernel: the kernel's name, or the network's.
        validation_accuracy: the accuracy on validation images; a mean where networks were trained.
        test_accuracy: the accuracy on test images; a mean where networks were trained.
        test_spread: the deviation (n - 1) over the networks, 0 for one; None under a kernel.
        class_test_accuracies: the accuracy on the test images of each class; None for a class without one.
    """

    kernel: str
    validation_accuracy: float
    test_accuracy: float
    test_spread: float | None = None
    class_test_accuracies: list[float | None] = []  # noqa: RUF012  # never changed


def evaluate_set(
    distilled: DistilledSet,
    blocks: KernelBlocks,
    *,
    kernels: Sequence[Kernel] = (),
    features: Sequence[RandomFeatures] = (),
    ridge: krr.Ridge | None = None,
    data_dir: Path | None = None,
    show_progress: bool = False,
) -> list[Evaluation]:
    """Return the accuracy of a distilled set on its data set: of KRR under each kernel, or of networks trained on it.

    Without kernels and features, the set is judged by what it was distilled for: its kernels, or its networks.

    Args:
        distilled: the set.
        blocks: computes kernels.
        kernels: other kernels to judge it under.
        features: random networks whose features give further kernels, which come after `kernels`.
        ridge: the regulariser under `kernels`; None: the set's own, if it was distilled for kernels, or the default.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether what takes longer than a moment shows a bar on stderr.

    Raises:
        ConfigError: if kernels are asked of a set whose labels are representations.
        DataError: if the data set differs from the one that the set was distilled from.
    """
    origin = distilled.origin
    dataset, apply = prepared(distilled, data_dir)
    splits = [(apply(split.images), split.labels) for split in (dataset.validation, dataset.test)]
    train = dataset.train
    tools = Tools(blocks, (train.images[:0], train.labels[:0]), origin.seed, dataset.mirror_keeps_class, show_progress)
    if not kernels and not features:
        tools = tools._replace(train=(apply(train.images), train.labels))
        return _judged(distilled, origin.judge, tools, splits, dataset)
    # From here on nothing looks at train images, whose preprocessing takes seconds.
    check_classes(distilled, "a kernel")
    if ridge is None:
        # A ridge of a method with networks is one of its features, and says nothing of kernels.
        ridge = origin.judge.ridge if isinstance(origin.judge, KernelJudge) else krr.Ridge()
    judges = [KernelJudge((kernel,), ridge) for kernel in kernels] + list(features)
    return [result for judge in judges for result in _judged(distilled, judge, tools, splits, dataset)]


def _judged(
    distilled: DistilledSet, judge: Judge, tools: Tools, splits: Sequence[tuple[Images, np.ndarray]], dataset: Dataset
) -> list[Evaluation]:
    """Judge the set as the loop does at the end of a run, on both splits."""
    validation, test = (
        judge.are_right(distilled.support, Question(inputs, classes, "test"), tools) for inputs, classes in splits
    )
    if isinstance(judge, KernelJudge):
        names = [kernel.label for kernel in judge.kernels]
        return [_evaluation(name, v[None], t[None], dataset) for name, v, t in zip(names, validation, test)]
    evaluation = _evaluation(judge.label, validation, test, dataset)
    return [evaluation._replace(test_spread=deviation(test.mean(axis=1)))]


def _evaluation(name: str, validation: np.ndarray, test: np.ndarray, dataset: Dataset) -> Evaluation:
    """Return the accuracies of what was classified right, (k, m) on each split."""
    classes = by_class(test, dataset.test.labels, dataset.num_classes)
    accuracy, test_accuracy = (float(right.mean(axis=1).mean()) for right in (validation, test))
    return Evaluation(name, accuracy, test_accuracy, class_test_accuracies=classes)
