"""The accuracy that a method's sets are judged by: in the loop, on validation images and at last on test images.

A set made under a kernel is judged by kernel ridge regression. A set made for training networks is judged by networks
trained on it: its method's module has a function

    accuracies(config, support, inputs, classes, *, networks, seed, train) -> one accuracy for each fresh network

and its configuration says how many: `validation_networks` at each checkpoint, `test_networks` at the end.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from kip.blocks import KernelBlocks, Source
from kip.distill import State
from kip.evaluate.krr_accuracy import krr_accuracy
from kip.experiment import Experiment


def trains_networks(experiment: Experiment) -> bool:
    """Return whether the method's sets are judged by training networks on them."""
    return hasattr(experiment.module, "accuracies")


def set_accuracies(
    experiment: Experiment,
    blocks: KernelBlocks,
    support: State,
    inputs: np.ndarray,
    classes: np.ndarray,
    *,
    part: Literal["validation", "test"],
    train: tuple[np.ndarray, np.ndarray],
    source: Source | None = None,
) -> np.ndarray:
    """Return the accuracy on `inputs` under each of the method's kernels, or of each network trained on the set.

    Args:
        experiment: what the set came from.
        blocks: computes kernels.
        support: the set; its images, labels and, for networks, deployment steps count.
        inputs: images to classify (m, H, W, C), preprocessed. classes: their classes, (m,).
        part: which they are; selects the number of networks.
        train: the train split's images, preprocessed, and classes, for methods whose networks need a classifier.
        source: where `inputs` come from, see `krr_accuracy`.

    Returns:
        Fractions, (kernels,) or (networks,).
    """
    method: Any = experiment.method
    if trains_networks(experiment):
        networks = getattr(method, f"{part}_networks")
        return experiment.module.accuracies(
            method, support, inputs, classes, networks=networks, seed=experiment.seed, train=train
        )
    each = [
        krr_accuracy(blocks, kernel, method.ridge, support.images, support.labels, inputs, classes, source=source)
        for kernel in method.kernels
    ]
    return np.array(each)
