"""The linear probe: the accuracy of a linear classifier on the features of a network that stays as it is.

A ridge regression from the features f(x) of labelled images, and a constant, to centred one-hot labels, in its dual
form: this is KRR with the kernel of inner products, and so `kip.krr` solves it.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip import krr
from kip.config import value
from kip.data import centred_one_hot, class_balanced
from kip.judges.judge import DrawingJudge, Part, Question, Support, Tools, purpose
from kip.networks.model import Model, Network
from kip.rng import key
from kip.storage.images import Images
from kip.training.ensembles import FULL_BATCH, train_on_set
from kip.training.losses import Loss
from kip.training.predict import features
from kip.training.recipe import Optimizer

LEAST_UPDATES = 50
"""The shortest pre-training that tells sets apart."""
RIDGE = krr.Ridge(1e-1)
"""The regulariser of the probe, relative to the mean of the kernel's diagonal; the best of 1e-3, 1e-2, 0.1, 1 and 10 on
MNIST's validation images, for trained, pre-trained and random features alike, with 1000 labelled images."""


@value
class Probe(DrawingJudge):
    """Fresh networks are pre-trained on the set; a linear classifier on their features answers."""

    network: Network
    """The network that is pre-trained."""
    optimizer: Optimizer
    """The optimiser of the pre-training."""
    steps: Annotated[int, Field(ge=1)] = 4000
    """The number of updates of the pre-training."""
    loss: Loss = "mean"
    """The loss of the pre-training; see `kip.training.losses`."""
    images: Annotated[int, Field(ge=1)] = 2000
    """The number of labelled train images that the linear classifier learns from."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are pre-trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """The number of networks that are pre-trained for the accuracy on test images."""
    kind: Literal["probe"] = "probe"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    def trained_images(self, part: Part, size: int) -> int:
        """Return the number of images in all updates; see `Judge`."""
        return self.count_of(part) * self.steps * min(size, FULL_BATCH)

    def within(self, images: float, size: int) -> Probe:
        """Return the judge with fewer networks and updates for validation, `LEAST_UPDATES` at least."""
        steps, networks = self.share_out(images, min(size, FULL_BATCH), least=LEAST_UPDATES, most=self.steps)
        return dataclasses.replace(self, steps=steps, validation_networks=networks)

    def pretrain(
        self, images: np.ndarray, labels: np.ndarray, *, keys: Array, show_progress: bool = False
    ) -> list[Any]:
        """Return the variables of fresh networks, one for each key, that have learned labels (n, d) of images."""
        model = Model(self.network, labels.shape[1])
        return train_on_set(
            model,
            self.optimizer,
            images,
            labels,
            steps=self.steps,
            loss=self.loss,
            keys=keys,
            show_progress=show_progress,
        )

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images the probe of each network classifies right, (networks, m)."""
        model = Model(self.network, support.labels.shape[1])
        results = []
        keys = jnp.stack([key(tools.seed, purpose(question), i) for i in range(self.count(question))])
        for variables in self.pretrain(support.inputs, support.labels, keys=keys, show_progress=tools.show_progress):
            results.append(
                probe_right(
                    model,
                    variables,
                    *tools.train,
                    question.inputs,
                    question.classes,
                    count=self.images,
                    seed=tools.seed,
                )
            )
        return np.stack(results)


def linear_probe(
    model: Model,
    variables: Any,
    train_inputs: Images,
    train_classes: np.ndarray,
    inputs: Images,
    classes: np.ndarray,
    *,
    count: int,
    ridge: krr.Ridge = RIDGE,
    seed: int = 0,
) -> float:
    """Return the fraction of `inputs` that `probe_right` counts as right."""
    right = probe_right(
        model, variables, train_inputs, train_classes, inputs, classes, count=count, ridge=ridge, seed=seed
    )
    return float(right.mean())


def probe_right(
    model: Model,
    variables: Any,
    train_inputs: Images,
    train_classes: np.ndarray,
    inputs: Images,
    classes: np.ndarray,
    *,
    count: int,
    ridge: krr.Ridge = RIDGE,
    seed: int = 0,
) -> np.ndarray:
    """Return which of `inputs` a linear classifier on the network's features puts into their classes, (m,) bool.

    Args:
        model: the network.
        variables: its variables; batch normalisation is in test mode.
        train_inputs: labelled images (N, H, W, C), preprocessed.
        train_classes: the classes of `train_inputs`, (N,).
        inputs: images to classify, (m, H, W, C).
        classes: the classes of `inputs`, (m,).
        count: labelled images that the classifier learns from, class-balanced, and unknowns of the regression.
        ridge: the regulariser, of features standardised over those images.
        seed: draws those images.
    """
    num_classes = int(train_classes.max()) + 1
    chosen = class_balanced(train_classes, count, num_classes=num_classes, seed=seed, purpose="linear probe")
    ours = features(model, variables, train_inputs[chosen])
    mean, deviation = ours.mean(axis=0), ours.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    ours, theirs = (
        np.concatenate([(part - mean) / scale, np.ones((len(part), 1))], axis=1)
        for part in (ours, features(model, variables, inputs))
    )
    alpha = krr.fit(ours @ ours.T, centred_one_hot(train_classes[chosen], num_classes), ridge)
    predicted = theirs @ (ours.T @ alpha)
    return predicted.argmax(axis=1) == classes
