"""The contract of a judge: a value that says how a distilled set is scored, and scores it.

A judge sees a set's images and labels, images to classify, and tools. It knows no method: a method names its judge, and
an exported set carries it, so that a set is judged alike in its run and wherever it is loaded.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from kip.blocks import KernelBlocks, Source
from kip.storage.images import Images

Part = Literal["validation", "test"]


class Support(NamedTuple):
    """A distilled set, as a judge sees it.

    Attributes:
        inputs: X_s (n, H, W, C), preprocessed.
        labels: y_s (n, c).
        deployment_steps: updates after which a network trained on the set is used; None where the set does not say.
        learning_rates: that the set was learned for, (k,): one for all updates, or one for each; None where there are
            none.
    """

    inputs: np.ndarray
    labels: np.ndarray
    deployment_steps: int | None = None
    learning_rates: np.ndarray | None = None

    @property
    def learning_rate(self) -> float | None:
        """The rate of all updates, where the set was learned for one; None where it has none, or one for each."""
        rates = self.learning_rates
        return float(rates[0]) if rates is not None and len(rates) == 1 else None


class Question(NamedTuple):
    """Images to classify.

    Attributes:
        inputs: (m, H, W, C), preprocessed.
        classes: the classes of `inputs`, (m,) integers.
        part: the split that they are of. It selects how many networks are drawn, and is part of the purpose that they
            are drawn under: networks that chose a checkpoint on validation never score it on test.
        source: where the images come from, for executors whose workers hold the data set; None: not known.
    """

    inputs: Images
    classes: np.ndarray
    part: Part
    source: Source | None = None


class Tools(NamedTuple):
    """What judges work with.

    Attributes:
        blocks: computes kernels.
        train: the train split's images, preprocessed, and classes, for networks that need a classifier.
        seed: the root seed of networks' draws.
        mirror_keeps_class: whether networks that are trained may see images flipped.
        show_progress: whether what takes longer than a moment shows a bar on stderr.
    """

    blocks: KernelBlocks
    train: tuple[Images, np.ndarray]
    seed: int
    mirror_keeps_class: bool = False
    show_progress: bool = False


class Judge(abc.ABC):
    """How a set is scored. Subclasses are frozen configuration values (`kip.config.value`) with a literal `kind`."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The kernel or network, for tables."""

    @property
    @abc.abstractmethod
    def drawn(self) -> int | None:
        """Fresh networks whose accuracies make up a test result; None where nothing is drawn."""

    @abc.abstractmethod
    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images are classified right, (k, m) bool: a row for each kernel, or for each fresh network."""

    def accuracies(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return the fractions that are classified right, (k,): one for each kernel, or for each fresh network."""
        return self.are_right(support, question, tools).mean(axis=1)


class DrawingJudge(Judge):
    """A judge that scores a set by fresh networks: one accuracy for each network, or for each draw of several."""

    validation_networks: int
    """How many networks give the accuracy on validation images."""
    test_networks: int
    """How many networks give the accuracy on test images."""

    @property
    def drawn(self) -> int:
        """The number of networks of a test result."""
        return self.test_networks

    def count(self, question: Question) -> int:
        """Return how many networks are drawn for a question."""
        return self.validation_networks if question.part == "validation" else self.test_networks


def purpose(question: Question) -> str:
    """Return the purpose that a judge's networks are drawn under; see `kip.rng.generator`."""
    return f"judged on {question.part}"


def by_class(are_right: np.ndarray, classes: np.ndarray, num_classes: int) -> list[float | None]:
    """Return the accuracy for each class, a mean over kernels or networks; None for a class without an image.

    Args:
        are_right: (k, m) bool.
        classes: (m,) integers.
        num_classes: C.
    """
    return [float(are_right[:, classes == c].mean()) if np.any(classes == c) else None for c in range(num_classes)]


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """Return the sample standard deviation, sqrt(sum (v - mean)^2 / (n - 1)), in the values' units; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
