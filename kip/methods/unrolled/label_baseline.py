"""The baselines of label distillation: true or smoothed labels under the same training and the same evaluation.

Nothing is learned. The number of training steps, which LD gets from its restarts, is chosen here on validation images:
a step of this method is `stride` more steps of training, each has a checkpoint, and the best on validation is exported.

Reference: Bohdal et al. 2020, the baselines `Baseline` and `Baseline LS` of its tables; 50 to 1000 steps, section D.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.judges import Learners
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.problem import Problem, State
from kip.storage.artefacts import Store
from kip.training import learner
from kip.training.learner import Training


@final
@value
class LabelBaseline(Method[None, None]):
    """Natural images with their true labels, or smoothed ones."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """The number of images of each class."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The smoothing s of labels, y = (1 - s) one-hot + s / C. The paper's `Baseline LS` takes 0.1."""
    training: Training = Training()
    """The training by which networks learn from the set."""
    steps: Annotated[int, Field(ge=1)] = 20
    """The count of numbers of training steps that are tried: stride, 2 stride, ..."""
    stride: Annotated[int, Field(ge=1)] = 50
    """The distance between two numbers of training steps that are tried."""
    validation_networks: Annotated[int, Field(ge=1)] = 3
    """The number of fresh networks that are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """The number of fresh networks that are trained for the accuracy on test images."""
    name: Literal["label_baseline"] = "label_baseline"

    @property
    def label(self) -> str:
        """The network and its head."""
        return self.training.label

    @property
    def labels_are(self) -> LabelsAre:
        """The classes of natural images; smoothed, scores."""
        return "scores" if self.smoothing else "classes"

    @property
    def judge(self) -> Learners:
        """Fresh networks, trained on the set for its deployment steps."""
        return Learners(self.training, validation_networks=self.validation_networks, test_networks=self.test_networks)

    @property
    def needs(self) -> Needs:
        """The set takes images of each class."""
        return Needs(self.images_per_class)

    def prepare(self, problem: Problem, store: Store) -> None:
        """Make nothing."""

    def init(self, problem: Problem, prepared: None) -> State[None]:
        """Return class-balanced natural images with their labels, and no training step.

        Raises:
            ConfigError, ShapeError: if the network does not fit; see `kip.training.learner.start`.
        """
        learner.start(self.training, problem.inputs.shape[1:], problem.num_classes, key=(problem.seed, "network", 0))
        state = problem.natural_support(self.images_per_class)
        one_hot = np.eye(problem.num_classes, dtype=np.float32)[state.class_index]
        smoothed = (1 - self.smoothing) * one_hot + self.smoothing / problem.num_classes
        return state._replace(labels=smoothed.astype(np.float32), deployment_steps=0)

    def step(self, problem: Problem, prepared: None, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the state with `stride` more training steps."""
        steps = (state.step + 1) * self.stride
        return state._replace(step=state.step + 1, deployment_steps=steps), {"deployment_steps": steps}

    def natural(self, initial: State[None], exported: State[None]) -> State[None]:
        """Return the exported set: its images are natural, and its labels true or smoothed."""
        return exported
