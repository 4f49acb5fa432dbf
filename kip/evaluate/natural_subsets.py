"""`kip natural`: KRR accuracy of random natural images, what any distilled set has to beat.

Reference: Nguyen et al. 2021, Table A1 (ConvNet kernel, standard preprocessing, twenty subsets of each size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from kip import data, krr
from kip.blocks import KernelBlocks
from kip.data import Dataset
from kip.errors import DataError
from kip.evaluate.prepared import natural
from kip.judges.judge import deviation
from kip.kernels import Kernel
from kip.preprocess import Apply


class SubsetAccuracy(NamedTuple):
    """Accuracy of random class-balanced subsets of one size."""

    per_class: int
    accuracies: tuple[float, ...]
    """The accuracy of each subset, in [0, 1]."""

    @property
    def mean(self) -> float:
        """Over the subsets."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Over the subsets: how far a single one lies from the mean; 0 for a single subset."""
        return deviation(self.accuracies)


def natural_subsets(
    dataset: Dataset,
    apply: Apply,
    blocks: KernelBlocks,
    kernel: Kernel,
    ridge: krr.Ridge,
    *,
    per_class: Sequence[int],
    subsets: int,
    targets: int | None,
    seed: int = 0,
    progress: Callable[[range], Iterable[int]] = lambda numbers: numbers,
) -> list[SubsetAccuracy]:
    """Return test accuracies of random natural subsets of the train split, for each size.

    A draw's smaller subsets are parts of its largest, whose kernel is computed once.

    Args:
        dataset: the data set.
        apply: its fitted preprocessing.
        blocks: computes kernels.
        kernel: the kernel.
        ridge: the regulariser.
        per_class: the sizes of the subsets, in images per class.
        subsets: how many subsets of each size are drawn.
        targets: test images, class-balanced and the same for all draws; None: the whole test split.
        seed: the seed of all draws.
        progress: wraps the draws' numbers, for a progress bar.

    Raises:
        DataError: if a class has fewer images than the largest subset takes, or there are fewer test images.
    """
    test, classes = dataset.test, dataset.num_classes
    if targets is None:
        chosen = np.arange(len(test.labels))
    else:
        if not 1 <= targets <= len(test.labels):
            raise DataError("targets", got=targets, expected=f"1 to {len(test.labels)} test images")
        chosen = data.class_balanced(test.labels, targets, num_classes=classes, seed=seed, purpose="natural targets")
    target_inputs, target_labels = apply(test.images[chosen]), test.labels[chosen]
    most = max(per_class)
    accuracies: dict[int, list[float]] = {size: [] for size in per_class}
    for draw in progress(range(subsets)):
        inputs, labels = natural(dataset, apply, most * classes, seed, draw)
        own = labels.argmax(1)
        place = np.array([np.sum(own[:i] == label) for i, label in enumerate(own)])  # within its class
        k_ss, k_ts = blocks.forward(kernel, inputs, target_inputs)
        for size in per_class:
            kept = place < size
            alpha = krr.fit(k_ss[np.ix_(kept, kept)], labels[kept], ridge)
            accuracies[size].append(float(np.mean((k_ts[:, kept] @ alpha).argmax(1) == target_labels)))
    return [SubsetAccuracy(size, tuple(scores)) for size, scores in accuracies.items()]
