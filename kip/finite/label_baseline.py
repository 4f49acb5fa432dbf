"""The baselines of label distillation: true or smoothed labels under the same training and the same evaluation.

Nothing is learned. What LD gets from its restarts, the number of training steps, is chosen here on validation images: a
step of this method is `stride` more steps of training, each has a checkpoint, and the best on validation is exported.

Reference: Bohdal et al. 2020, the baselines `Baseline` and `Baseline LS` of its tables; 50 to 1000 steps, section D.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from kip.config import value
from kip.distill.problem import Problem, State
from kip.finite import learner
from kip.finite.learner import Training


@value
class LabelBaseline:
    """Natural images with their true labels, or smoothed ones."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """Images of each class."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """s in y = (1 - s) one-hot + s / C. The paper's `Baseline LS`: 0.1."""
    training: Training = Training()
    """How networks learn from the set."""
    steps: Annotated[int, Field(ge=1)] = 20
    """Numbers of training steps that are tried: stride, 2 stride, ..."""
    stride: Annotated[int, Field(ge=1)] = 50
    """Training steps between two that are tried."""
    validation_networks: Annotated[int, Field(ge=1)] = 3
    """Fresh networks trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """Fresh networks trained for the accuracy on test images."""
    name: Literal["label_baseline"] = "label_baseline"

    @property
    def kernels(self) -> tuple[()]:
        """None: the set is made for training networks."""
        return ()

    @property
    def label(self) -> str:
        """The network, for titles."""
        return self.training.label


def init(config: LabelBaseline, problem: Problem) -> State:
    """Return class-balanced natural images with their labels, and no training step.

    Raises:
        ConfigError, ShapeError: if the network does not fit; see `kip.finite.learner.start`.
    """
    learner.start(config.training, problem.inputs.shape[1:], problem.num_classes, key=(problem.seed, "network", 0))
    state = problem.natural_support(config.images_per_class)
    one_hot = np.eye(problem.num_classes, dtype=np.float32)[state.class_index]
    smoothed = (1 - config.smoothing) * one_hot + config.smoothing / problem.num_classes
    return state._replace(labels=smoothed.astype(np.float32), deployment_steps=0)


def step(config: LabelBaseline, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state with `stride` more training steps."""
    steps = (state.step + 1) * config.stride
    return state._replace(step=state.step + 1, deployment_steps=steps), {"deployment_steps": steps}


def accuracies(
    config: LabelBaseline,
    support: State,
    inputs: np.ndarray,
    classes: np.ndarray,
    *,
    networks: int,
    seed: int,
    **_: Any,
) -> np.ndarray:
    """Return the accuracy on `inputs` of fresh networks trained on a set for its deployment steps, (networks,)."""
    steps = int(support.deployment_steps)
    return learner.accuracies(
        config.training, support.images, support.labels, steps, inputs, classes, networks=networks, seed=seed
    )
