"""The judge of distilled labels: fresh networks learn the set by its own training, for its deployment steps."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kip.config import value
from kip.errors import DataError
from kip.judges.judge import DrawingJudge, Question, Support, Tools, purpose
from kip.training import learner
from kip.training.learner import Training


@value
class Learners(DrawingJudge):
    """Fresh networks, trained on the set for its deployment steps; each network is one row of the result.

    The networks are functions of the seed and the split alone: two sets are compared on the same initial values and
    minibatches.
    """

    training: Training = Training()
    """The training by which networks learn from the set."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """The number of networks that are trained for the accuracy on test images."""
    kind: Literal["learners"] = "learners"

    @property
    def label(self) -> str:
        """The network and its head."""
        return self.training.label

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images each network classifies right, (networks, m).

        Raises:
            DataError: if the set has no deployment steps.
        """
        return learner.are_right(
            self.training,
            support.inputs,
            support.labels,
            steps_of(support),
            question.inputs,
            question.classes,
            networks=self.count(question),
            seed=tools.seed,
            purpose=purpose(question),
            show_progress=tools.show_progress,
        )


def steps_of(support: Support) -> int:
    """Return a set's deployment steps.

    Raises:
        DataError: if it has none.
    """
    if support.deployment_steps is None:
        raise DataError("deployment_steps of the set", got="none", expected="how long to train a network on it")
    return support.deployment_steps
