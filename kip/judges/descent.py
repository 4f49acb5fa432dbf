"""The judge of sets that bring a learning rate for every step: fresh networks take exactly these steps."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from jax import Array
from pydantic import Field

from kip.config import value
from kip.errors import DataError
from kip.judges.judge import DrawingJudge, Question, Support, Tools, purpose
from kip.networks.model import Model, Network, fresh
from kip.progress import progress_bar
from kip.rng import key
from kip.training.losses import Loss
from kip.training.predict import are_right
from kip.training.unrolled import Draw, LearnedSet, Student, unroll


@value
class LearnedDescent(DrawingJudge):
    """Networks that take the set's own steps of gradient descent; each network is one row of the result."""

    network: Network
    """The network that is trained."""
    batches: Annotated[int, Field(ge=1)]
    """The number of batches of the set: a step takes the next one, and the first comes again after the last."""
    loss: Loss = "soft_xent"
    """The loss that a step minimises; see `kip.training.losses`."""
    initial: Literal["random", "fixed"] = "random"
    """The initial values of networks: drawn anew (`random`), or the ones that the set was learned for (`fixed`)."""
    validation_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """The number of networks for the accuracy on test images."""
    kind: Literal["descent"] = "descent"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    def count(self, question: Question) -> int:
        """Return the number of networks that are drawn: 1 for fixed initial values."""
        return 1 if self.initial == "fixed" else super().count(question)

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images each network classifies right, (networks, m).

        Raises:
            DataError: if the set has no learning rates.
        """
        if support.learning_rates is None:
            raise DataError("learning_rates of the set", got="none", expected="a learning rate for each step")
        model = Model(self.network, support.labels.shape[1])
        learned = LearnedSet(support.inputs, support.labels, support.learning_rates)
        draws = in_turn(len(support.inputs), self.batches, len(support.learning_rates))
        right = []
        initial = fixed_key(tools.seed) if self.initial == "fixed" else None
        with progress_bar(self.count(question), "networks", shown=tools.show_progress, unit=" networks") as bar:
            for number in range(self.count(question)):
                drawn = key(tools.seed, purpose(question), number) if initial is None else initial
                params = fresh(model, drawn, support.inputs.shape[1:])
                trained = unroll(Student(model, self.loss), params["params"], learned, draws)[-1]
                right.append(are_right(model, {"params": trained}, question.inputs, question.classes))
                bar.update()
        return np.stack(right)


def in_turn(count: int, batches: int, steps: int) -> list[Draw]:
    """Return the draw of each step: consecutive batches of a set, from the start again after the last.

    Args:
        count: images of the set, a multiple of `batches`.
        batches: the number of batches that the set is cut into, in its order.
        steps: the number of steps.
    """
    unused = key(0, "no augmentation")
    rows = np.arange(count).reshape(batches, -1)
    return [Draw(rows[step % len(rows)], unused, step) for step in range(steps)]


def fixed_key(seed: int) -> Array:
    """Return the key of the initial values that a set for `fixed` ones is learned for."""
    return key(seed, "fixed initial values")
