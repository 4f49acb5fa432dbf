"""The judge of sets made for plain training: fresh networks are trained on the set under a named protocol."""

from __future__ import annotations

from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from kip.config import value
from kip.judges.judge import DrawingJudge, Question, Support, Tools, purpose
from kip.networks.model import Model, Network
from kip.rng import key
from kip.training.predict import are_right
from kip.training.protocols import Protocol
from kip.training.several import train_all


@value
class Students(DrawingJudge):
    """Fresh networks, trained under a protocol; each network is one row of the result.

    Where the set has a learning rate of its own, it takes the place of the protocol's. Nothing is chosen by the images
    that are classified.
    """

    network: Network
    """What is trained on the set."""
    protocol: Protocol
    """How; without a teacher."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """Networks that are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """Networks that are trained for the accuracy on test images."""
    kind: Literal["students"] = "students"

    @property
    def label(self) -> str:
        """The network and the protocol."""
        return f"{self.network.label} ({self.protocol.name})"

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images each network classifies right, (networks, m)."""
        model = Model(self.network, support.labels.shape[1])
        recipe = self.protocol.recipe(len(support.images), mirror_keeps_class=tools.mirror_keeps_class)
        rate = self.protocol.rate if support.learning_rates is None else float(support.learning_rates[0])
        count = self.count(question)
        trained = train_all(
            model, recipe, jnp.stack([key(tools.seed, purpose(question), i) for i in range(count)]),
            np.full(count, rate), np.full(count, self.protocol.decay), support.images, support.labels, None,
            may_diverge=True,
        )  # fmt: skip
        return np.stack([are_right(model, each, question.inputs, question.classes) for each in trained.variables])
