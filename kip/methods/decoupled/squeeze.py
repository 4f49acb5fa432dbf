"""Squeezing: a network with batch normalisation is trained on the natural images, and keeps their statistics.

It is made once for a data set and configuration, resumable, and shared between runs.

Reference: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel" (SRe2L), section 3.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from kip.artefacts import Store, digest
from kip.config import to_dict, value
from kip.data import one_hot
from kip.methods.problem import Problem
from kip.networks.model import Model, Network, Variables
from kip.rng import key
from kip.training.augment import Augmentation
from kip.training.batches import Batches
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import train


@value
class Squeeze:
    """How the network is trained."""

    epochs: Annotated[int, Field(ge=1)] = 200
    """Passes over the train images."""
    batch: Annotated[int, Field(ge=1)] = 128
    """Images of an update."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """SGD's at its highest, with momentum 0.9, falling to zero as a cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Weight decay."""


def squeezed(config: Squeeze, network: Network, problem: Problem, store: Store) -> tuple[Model, Variables]:
    """Return the trained network, made or found.

    Args:
        config: how it is trained.
        network: its architecture.
        problem: its train images are learned, shifted, and flipped where a mirror image keeps its class.
        store: keeps it, shared between runs.

    Raises:
        ShapeError: if the images are too small for the network.
        NonFiniteError: if it diverges.
    """
    model = Model(network, problem.num_classes)
    model.check_images(*problem.inputs.shape[1:3])
    augment: Augmentation = "flip_shift" if problem.mirror_keeps_class else "shift"
    optimizer = Optimizer(
        "sgd", config.learning_rate, momentum=0.9, weight_decay=config.weight_decay, schedule="cosine"
    )
    batches = Batches(len(problem.inputs), config.batch)
    recipe = Recipe(
        "xent", optimizer=optimizer, steps=config.epochs * batches.of_epoch, batch=config.batch, augment=augment,
        evaluations=1, keep="last",
    )  # fmt: skip
    identity = {
        "squeeze": to_dict(config), "network": to_dict(network), "seed": problem.seed, "augment": augment,
        "set": digest(problem.inputs, problem.labels),
    }  # fmt: skip
    trained = train(
        model, recipe, key(problem.seed, "squeezed network", 0)[None], np.array([config.learning_rate]),
        np.array([config.weight_decay]), problem.inputs, one_hot(problem.labels, problem.num_classes, problem.inputs),
        None, artefact=store.artefact("squeezed", identity, shared=True), save_every=batches.of_epoch,
        show_progress=store.show_progress, what=f"squeezed {network.label}",
    )  # fmt: skip
    return model, trained.variables[0]
