"""The judge of sets made for training networks: fresh networks learn the set by squared error, and classify."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from kip.config import value
from kip.judges.judge import DrawingJudge, Part, Question, Support, Tools, purpose
from kip.networks.model import Model, Network
from kip.rng import key
from kip.training.augment import Augmentation, are_mirrored, for_classes, with_mirrors
from kip.training.ensembles import FULL_BATCH, train_on_set
from kip.training.losses import Loss
from kip.training.predict import are_right
from kip.training.recipe import Optimizer

LEAST_UPDATES = 50
"""The shortest training that tells sets apart."""


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
    """The augmentation of the set's images at each update, without flips where a mirror image has another class."""
    mirror: bool = False
    """Let the networks learn the mirror images of the set too: of RGB images, and where a mirror image has the same
    class."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The decay of the moving average of the network's variables, which classifies in their place. 0 means that the
    variables of the last update classify."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    kind: Literal["networks"] = "networks"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    def trained_images(self, part: Part, size: int) -> int:
        """Return the number of images in all updates; see `Judge`."""
        return self.count_of(part) * self.steps * self._batch(size)

    def within(self, images: float, size: int) -> TrainedNetworks:
        """Return the judge with fewer networks and updates for validation, `LEAST_UPDATES` at least."""
        steps, networks = self.share_out(images, self._batch(size), least=LEAST_UPDATES, most=self.steps)
        return dataclasses.replace(self, steps=steps, validation_networks=networks)

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images each network classifies right, (networks, m)."""
        model = Model(self.network, support.labels.shape[1])
        images, labels = support.inputs, support.labels
        if self.mirror and are_mirrored(tools.mirror_keeps_class, images.shape[3]):
            images, labels = map(np.asarray, with_mirrors(images, labels))
        networks = train_on_set(
            model,
            self.optimizer,
            images,
            labels,
            steps=self.steps,
            loss=self.loss,
            keys=jnp.stack([key(tools.seed, purpose(question), i) for i in range(self.count(question))]),
            augment=for_classes(self.augment, tools.mirror_keeps_class),
            average=self.average,
            show_progress=tools.show_progress,
        )
        return np.stack([are_right(model, variables, question.inputs, question.classes) for variables in networks])

    def _batch(self, size: int) -> int:
        """Return the number of images of an update on a set of `size` images, whose mirrors count where they may be."""
        return min(2 * size if self.mirror else size, FULL_BATCH)
