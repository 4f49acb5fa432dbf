"""The judge of sets made for training networks: fresh networks learn the set by squared error, and classify."""

from __future__ import annotations

from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from kip.config import value
from kip.judges.judge import DrawingJudge, Question, Support, Tools, purpose
from kip.networks.model import Model, Network
from kip.rng import key
from kip.training.augment import Augmentation, for_classes
from kip.training.ensembles import train_on_set
from kip.training.losses import Loss
from kip.training.predict import are_right
from kip.training.recipe import Optimizer


@value
class TrainedNetworks(DrawingJudge):
    """Fresh networks that learn the set; each network is one row of the result."""

    network: Network
    """The network that is trained on the set."""
    optimizer: Optimizer = Optimizer()
    """The optimiser of the network."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """The number of updates, in full batches up to 500 images."""
    loss: Loss = "half_sum"
    """The loss that the network minimises; see `kip.training.losses`."""
    augment: Augmentation = "none"
    """How the images of the set are varied at each update. There are no flips where a mirror image has another
    class."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The decay of the moving average of the network's variables, which classifies in their place. 0 means that the
    variables of the last update classify."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """How many networks are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """How many networks are trained for the accuracy on test images."""
    kind: Literal["networks"] = "networks"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images each network classifies right, (networks, m)."""
        model = Model(self.network, support.labels.shape[1])
        networks = train_on_set(
            model, self.optimizer, support.inputs, support.labels, steps=self.steps, loss=self.loss,
            keys=jnp.stack([key(tools.seed, purpose(question), i) for i in range(self.count(question))]),
            augment=for_classes(self.augment, tools.mirror_keeps_class), average=self.average,
            show_progress=tools.show_progress,
        )  # fmt: skip
        return np.stack([are_right(model, variables, question.inputs, question.classes) for variables in networks])
