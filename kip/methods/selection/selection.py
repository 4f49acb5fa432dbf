"""What the selection methods share: natural images are chosen once, before the one step, and nothing is learned.

Step 0 is a random choice of as many images, and the step puts the method's own choice in its place; a run's report
compares the two. The state's `indices` say where the chosen images are in the train split, and an exported set has them
in its metadata. Labels are mean-centred one-hot classes.

A set is judged by fresh networks that are trained on it under the protocol HL of paper 003, if nothing else is said.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from kip.config import to_dict, value
from kip.data import centred_one_hot
from kip.methods.contract import Metrics, Needs
from kip.methods.for_networks import ForNetworks
from kip.methods.problem import Problem, State
from kip.networks.model import CONVNET, Model, Network
from kip.rng import generator
from kip.storage.artefacts import Artefact, Store, digest


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        indices: into the train split, (n,) int64, by class.
        weights: of the images, (n,) float32; 1 where the method gives none.
    """

    indices: np.ndarray
    weights: np.ndarray


Group = tuple[np.ndarray, int]
"""Images that are chosen from together, (m,) indices, and how many of them are chosen."""


@value
class Selection(ForNetworks):
    """Base of methods that choose natural images."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """Images of each class."""
    pruned: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The fraction of each class that is left out; given, it takes the place of `images_per_class`."""
    balanced: bool = True
    """Whether each class is chosen from on its own; else as many images are chosen from all, whatever their class."""
    network: Network = CONVNET
    """The networks that judge the set."""

    @property
    def steps(self) -> int:  # type: ignore[override]
        """One: images are chosen once."""
        return 1

    @property
    def needs(self) -> Needs:
        """Images of each class, of which none is augmented."""
        return Needs(None if self.pruned else self.images_per_class, augmentation=False)

    @abc.abstractmethod
    def choose(self, problem: Problem, store: Store) -> Choice:
        """Return the choice; a function of the train split and the seed."""

    def prepare(self, problem: Problem, store: Store) -> Choice:
        """Return the choice, made or found.

        Raises:
            ShapeError: if the images are too small for a network.
            Whatever `choose` raises.
        """
        Model(self.network, problem.num_classes).check_images(*problem.inputs.shape[1:3])
        identity = {"method": to_dict(self), "seed": problem.seed, "set": digest(problem.inputs, problem.labels)}
        count = int(self.budgets(problem).sum())
        return kept(store.artefact("choice", identity), count, lambda: self.choose(problem, store))

    def init(self, problem: Problem, prepared: Choice) -> State:
        """Return step 0: as many images, drawn at random."""
        indices = self.random(problem)
        return self._chosen(problem, Choice(indices, np.ones(len(indices), np.float32)))

    def step(self, problem: Problem, prepared: Choice, state: State) -> tuple[State, Metrics]:
        """Return the chosen images."""
        return self._chosen(problem, prepared)._replace(step=1), {}

    def budgets(self, problem: Problem) -> np.ndarray:
        """Return how many images of each class are chosen, (C,); with `balanced` off only their sum counts."""
        if self.pruned is None:
            return np.full(problem.num_classes, self.images_per_class)
        sizes = np.bincount(problem.labels, minlength=problem.num_classes)
        return np.maximum(1, np.rint((1 - self.pruned) * sizes).astype(int))

    def groups(self, problem: Problem) -> list[Group]:
        """Return the images that are chosen from together, (m,) indices, and how many of each group are chosen."""
        budgets = self.budgets(problem)
        if not self.balanced:
            return [(np.arange(len(problem.labels)), int(budgets.sum()))]
        return [(np.flatnonzero(problem.labels == label), int(budget)) for label, budget in enumerate(budgets)]

    def random(self, problem: Problem) -> np.ndarray:
        """Return a random choice; where classes are balanced, the images that learning methods begin with."""
        if self.balanced and self.pruned is None:
            count = self.images_per_class * problem.num_classes
            return problem.classes.sample(count, seed=problem.seed, purpose="support")
        draw = generator(problem.seed, "random choice")
        drawn = [draw.choice(members, budget, replace=False) for members, budget in self.groups(problem)]
        return by_class(np.concatenate(drawn), problem.labels)

    def _chosen(self, problem: Problem, choice: Choice) -> State:
        indices = choice.indices
        class_index = problem.labels[indices]
        return State(
            step=0,
            inputs=problem.inputs[indices],
            labels=centred_one_hot(class_index, problem.num_classes),
            class_index=class_index,
            statistics=problem.transform.statistics(problem.pixels[indices]),
            indices=indices,
            weights=choice.weights,
        )


def kept(artefact: Artefact, count: int, choose: Callable[[], Choice]) -> Choice:
    """Return the choice of `count` images that an artefact holds; one that is not there yet is made and saved first."""
    saved = artefact.load(Choice(np.zeros(count, np.int64), np.zeros(count, np.float32)))
    if saved is None:
        saved = choose()
        artefact.save(saved)
    return saved


def by_class(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return indices in the order of their classes, and within a class as they were."""
    return indices[np.argsort(labels[indices], kind="stable")].astype(np.int64)
