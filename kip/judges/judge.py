"""The contract of a judge: a value that scores distilled sets.

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
TRAINING = 3
"""Passes of an image that an update of a network counts as: one forward, and two for the gradient."""


class Support(NamedTuple):
    """A distilled set in the form that judges take.

    Attributes:
        inputs: X_s (n, H, W, C), preprocessed.
        labels: y_s (n, c).
        deployment_steps: updates after which a network trained on the set is used; None where the set does not say.
        learning_rates: the rates that the set was learned for, (k,): one for all updates, or one for each; None where
            there are none.
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
        part: the split of the images. It selects the number of networks and the purpose of their draw: networks that
            chose a checkpoint on validation never score it on test.
        source: the source of the images, for executors whose workers hold the data set; None: not known.
    """

    inputs: Images
    classes: np.ndarray
    part: Part
    source: Source | None = None


class Tools(NamedTuple):
    """The tools of judges.

    Attributes:
        blocks: computes kernels.
        train: the train split's images, preprocessed, and classes, for networks that need a classifier.
        seed: the root seed of networks' draws.
        mirror_keeps_class: whether networks that are trained may see images flipped.
        show_progress: whether work that takes longer than a moment shows a bar on stderr.
    """

    blocks: KernelBlocks
    train: tuple[Images, np.ndarray]
    seed: int
    mirror_keeps_class: bool = False
    show_progress: bool = False


class Judge(abc.ABC):
    """A way of scoring a set. Subclasses are frozen configuration values (`kip.config.value`) with a literal `kind`."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The kernel or network, for tables."""

    @property
    @abc.abstractmethod
    def drawn(self) -> int | None:
        """The number of fresh networks whose accuracies make up a test result; None where nothing is drawn."""

    @abc.abstractmethod
    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images are classified right, (k, m) bool: a row for each kernel, or for each fresh network."""

    def trained_images(self, part: Part, size: int) -> int:
        """Return the number of images of a set that pass through networks in the trainings for an accuracy.

        It is 0 where nothing is trained, and where the set determines the length of the training.

        Args:
            part: the split of the accuracy.
            size: images of the set.
        """
        return 0

    def within(self, images: float, size: int) -> Judge:
        """Return the judge with a shorter training for validation, or itself if that is short enough or cannot be cut.

        Args:
            images: the most that may pass through networks, a pass forward and back counted as three.
            size: images of the set.
        """
        return self

    def accuracies(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return the fractions that are classified right, (k,): one for each kernel, or for each fresh network."""
        return self.are_right(support, question, tools).mean(axis=1)


class DrawingJudge(Judge):
    """A judge that scores a set by fresh networks: one accuracy for each network, or for each draw of several."""

    validation_networks: int
    """The number of networks that give the accuracy on validation images."""
    test_networks: int
    """The number of networks that give the accuracy on test images."""

    @property
    def drawn(self) -> int:
        """The number of networks of a test result."""
        return self.test_networks

    def count(self, question: Question) -> int:
        """Return the number of networks that are drawn for a question."""
        return self.count_of(question.part)

    def count_of(self, part: Part) -> int:
        """Return the number of networks that are drawn for a split."""
        return self.validation_networks if part == "validation" else self.test_networks

    def share_out(self, images: float, of_one: int, *, least: int, most: int) -> tuple[int, int]:
        """Return the length of a training and the number of networks for validation that fit into some work.

        Fewer networks are trained before a training becomes shorter than its least.

        Args:
            images: as for `within`.
            of_one: images of one unit of the length, such as an epoch.
            least: the shortest training, in units.
            most: the training of the judge, in units.
        """
        units, least = images / (TRAINING * of_one), min(least, most)
        networks = max(1, min(self.validation_networks, int(units // least)))
        return max(least, min(most, int(units // networks))), networks


def purpose(question: Question) -> str:
    """Return the purpose of the draw of a judge's networks; see `kip.rng.generator`."""
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
