"""The task that a rule of selection is given, and the choice that it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kip.methods.problem import Problem
from kip.networks.model import Network
from kip.rng import generator
from kip.storage.artefacts import Artefact, Store
from kip.training.records import Purpose, Recording, Records, record


class Choice(NamedTuple):
    """The images that a rule chose.

    Attributes:
        indices: into the train split, (n,) int64, by class.
        weights: of the images, (n,) float32; 1 where the rule gives none.
    """

    indices: np.ndarray
    weights: np.ndarray


Group = tuple[np.ndarray, int]
"""Images that are chosen from together, (m,) indices, and the number of them that is chosen."""


class Task(NamedTuple):
    """The train images, and the number of them that a rule is to choose.

    Attributes:
        problem: the train set.
        store: keeps recordings, and the choices of classes as they are made.
        per_class: images of each class that are chosen; None: a fraction of each class, so that `budgets` may differ.
        budgets: images of each class that are chosen, (C,); a rule that is not balanced takes their sum.
        network: the network that judges the set, for recordings that name none.
        epochs: the epochs of a training on the chosen images by the judge's protocol.
        identity: the identity of the choice in the store, JSON-ready.
    """

    problem: Problem
    store: Store
    per_class: int | None
    budgets: np.ndarray
    network: Network
    epochs: int
    identity: dict[str, Any]

    def groups(self, *, balanced: bool = True) -> list[Group]:
        """Return the images of each class, or of all classes in one group, with the budget of each group."""
        labels = self.problem.labels
        if not balanced:
            return [(np.arange(len(labels)), int(self.budgets.sum()))]
        return [(np.flatnonzero(labels == label), int(budget)) for label, budget in enumerate(self.budgets)]

    def records_of(
        self, recording: Recording, *, gradients_after: tuple[int, ...] = (), purpose: Purpose = "record"
    ) -> Records:
        """Return a recording of the train set, made or found; see `kip.training.records.record`."""
        problem = self.problem
        return record(
            recording,
            self.network,
            problem.inputs,
            problem.labels,
            problem.num_classes,
            seed=problem.seed,
            mirror_keeps_class=problem.mirror_keeps_class,
            store=self.store,
            gradients_after=gradients_after,
            purpose=purpose,
        )


def with_equal_weights(indices: np.ndarray) -> Choice:
    """Return a choice whose images all have the weight 1."""
    return Choice(indices, np.ones(len(indices), np.float32))


def by_class(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return indices in the order of their classes, and within a class as they were."""
    return indices[np.argsort(labels[indices], kind="stable")].astype(np.int64)


def random_images(problem: Problem, per_class: int | None, budgets: np.ndarray) -> np.ndarray:
    """Return indices that are drawn at random from each class, (n,) int64, by class.

    Args:
        problem: the train set, and the seed.
        per_class: images of each class, to draw the images that learning methods begin with; None: as `budgets` says.
        budgets: images of each class, (C,).
    """
    if per_class is not None:
        return problem.classes.sample(per_class * problem.num_classes, seed=problem.seed, purpose="support")
    draw = generator(problem.seed, "random choice")
    members = (np.flatnonzero(problem.labels == label) for label in range(problem.num_classes))
    return np.concatenate([draw.choice(some, budget, replace=False) for some, budget in zip(members, budgets)])


def keep_choice(artefact: Artefact, count: int, choose: Callable[[], Choice]) -> Choice:
    """Return the choice of `count` images that an artefact holds; a choice that is not there yet is made and saved."""
    saved = artefact.load(Choice(np.zeros(count, np.int64), np.zeros(count, np.float32)))
    if saved is None:
        saved = choose()
        artefact.save(saved)
    return saved
