"""Selection: natural images are chosen once by a rule, before the one step, and nothing is learned.

Step 0 is a random choice of as many images of each class, and the step puts the rule's choice in its place; a run's
report compares the two. The state's `indices` say where the chosen images are in the train split, and an exported set
has them in its metadata. Labels are mean-centred one-hot classes.

By default, a set is judged by fresh networks that are trained on it under the protocol HL of paper 003.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip.config import to_dict, value
from kip.data import centred_one_hot
from kip.errors import ConfigError
from kip.judges import Students
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.problem import Problem, State
from kip.methods.selection import rules
from kip.methods.selection.geometric import GLISTER, InSpace, Medoids, Random
from kip.methods.selection.task import Choice, Task, keep_choice, random_images, with_equal_weights
from kip.methods.students import students_under
from kip.networks.model import CONVNET, Model, Network
from kip.storage.artefacts import Store, digest
from kip.training.protocols import PROTOCOLS, Protocol


@final
@value
class Selection(Method[Choice, None]):
    """Choose natural images by a rule: at random, by their position in a space, or by their difficulty to networks."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    rule: rules.Rule = Random()
    """The rule by which images are chosen, with its own options."""
    pruned: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The fraction of each class that is left out, in place of `images_per_class`. None takes `images_per_class`."""
    network: Network = CONVNET
    """The network that judges the set."""
    protocol: Protocol = PROTOCOLS["HL"]
    """The protocol by which the judge's networks are trained."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    name: Literal["selection"] = "selection"

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol."""
        return students_under(self.protocol, self)

    def __post_init__(self) -> None:
        rule = self.rule
        if not isinstance(rule, (InSpace, Medoids, GLISTER)) or rule.candidates is None:
            return
        if self.pruned is not None:
            raise ConfigError("candidates", got=f"{rule.candidates} with pruned={self.pruned}", expected="one of them")
        if rule.candidates < self.images_per_class:
            raise ConfigError(
                "candidates", got=rule.candidates, expected=f"at least images_per_class, {self.images_per_class}"
            )

    @property
    def steps(self) -> int:
        """One: images are chosen once."""
        return 1

    @property
    def label(self) -> str:
        """The rule, and the network that judges."""
        return f"{rules.title(self.rule)} ({self.network.label})"

    @property
    def needs(self) -> Needs:
        """Images of each class, none of them augmented, and the demands of the rule's space."""
        of_space = self.rule.needs if isinstance(self.rule, (InSpace, Medoids)) else Needs()
        return of_space._replace(images_per_class=None if self.pruned else self.images_per_class, augmentation=False)

    def prepare(self, problem: Problem, store: Store) -> Choice:
        """Return the rule's choice, made or found.

        Raises:
            ShapeError: if the images are too small for a network.
            ConfigError: if the rule's options do not fit the images.
            NonFiniteError: if a network diverges.
            OutputError, DataError: if a recording cannot be kept or read.
        """
        Model(self.network, problem.num_classes).check_images(*problem.inputs.shape[1:3])
        task = self.task(problem, store)
        count = int(task.budgets.sum())
        return keep_choice(store.artefact("choice", task.identity), count, lambda: self.rule.choose(task))

    def init(self, problem: Problem, prepared: Choice) -> State[None]:
        """Return step 0: as many images of each class, drawn at random."""
        return _state(
            problem, with_equal_weights(random_images(problem, self._per_class, self.budgets(problem))), step=0
        )

    def step(self, problem: Problem, prepared: Choice, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the chosen images."""
        return _state(problem, prepared, step=1), {}

    def task(self, problem: Problem, store: Store) -> Task:
        """Return the task of the rule."""
        identity = {"method": to_dict(self), "seed": problem.seed, "set": digest(problem.inputs, problem.labels)}
        return Task(
            problem, store, self._per_class, self.budgets(problem), self.network, self.protocol.epochs, identity
        )

    def budgets(self, problem: Problem) -> np.ndarray:
        """Return the number of images of each class that are chosen, (C,)."""
        if self.pruned is None:
            return np.full(problem.num_classes, self.images_per_class)
        sizes = np.bincount(problem.labels, minlength=problem.num_classes)
        return np.maximum(1, np.rint((1 - self.pruned) * sizes).astype(int))

    @property
    def _per_class(self) -> int | None:
        return self.images_per_class if self.pruned is None else None


def _state(problem: Problem, choice: Choice, *, step: int) -> State[None]:
    """Return the state whose images are the chosen ones."""
    class_index = problem.labels[choice.indices]
    return State(
        step=step,
        inputs=problem.inputs[choice.indices],
        labels=centred_one_hot(class_index, problem.num_classes),
        class_index=class_index,
        statistics=problem.transform.statistics(problem.pixels[choice.indices]),
        indices=choice.indices,
        weights=choice.weights,
    )
