"""Squeezing: a network is trained on the natural images; batch normalisation keeps their statistics.

Images are recovered from this network, and it is the teacher that labels their views. It is made once for a data set
and configuration, resumable, and shared between runs.

Teachers of other protocols are trained likewise, under the augmentation of the views that they will label, and with the
rate of the public code of DC and DSA (`teacher_recipe`): a network that never saw such views has no answer to them.

References: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel" (SRe2L), section 3, and its public code for small
images, whose loader keeps the last batch of an epoch; Zhao and Bilen 2021, "Dataset Condensation with Differentiable
Siamese Augmentation", for training on the whole data set.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from kip.config import to_dict, value
from kip.data import one_hot
from kip.networks.model import Model, Network, Variables
from kip.rng import key
from kip.storage.artefacts import Store, digest
from kip.storage.images import Images
from kip.training.augment import Augmentation, for_classes
from kip.training.batches import Batches
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import train


@value
class Squeeze:
    """The training of a squeezed network."""

    epochs: Annotated[int, Field(ge=1)] = 200
    """The number of passes over the train images."""
    batch: Annotated[int, Field(ge=1)] = 128
    """The number of images of an update."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """The learning rate of SGD at its highest; it falls to zero as a cosine. The momentum is 0.9."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """The weight decay of SGD."""
    spread: bool = False
    """Spread the images of an update over the devices of the machine, as many as divide their number. Results differ
    from those of one device in their last digits."""


def teacher_recipe(epochs: int) -> Squeeze:
    """Return the training of a teacher: SGD at 0.01, momentum 0.9, decay 5e-4, batches of 128, cosine.

    The rate, the momentum and the decay are those by which the public code of DC and DSA trains ConvNet-D3 on whole
    data sets, in batches of 256 and with a step in the middle. They suit networks without normalisation too.

    Args:
        epochs: passes over the train images.
    """
    return Squeeze(epochs=epochs, learning_rate=0.01)


def squeeze(
    config: Squeeze,
    network: Network,
    inputs: Images,
    classes: np.ndarray,
    num_classes: int,
    *,
    seed: int,
    mirror_keeps_class: bool,
    store: Store,
    augment: Augmentation = "flip_shift",
) -> tuple[Model, Variables]:
    """Return the trained network, made or found.

    Args:
        config: its training.
        network: its architecture.
        inputs: train images, (N, H, W, C), preprocessed.
        classes: their classes, (N,) integers.
        num_classes: c.
        seed: the root seed.
        mirror_keeps_class: whether a mirror image keeps its class.
        store: keeps it, shared between runs.
        augment: the augmentation of images, without flips where a mirror image has another class.

    Raises:
        ShapeError: if the images are too small for the network.
        NonFiniteError: if it diverges.
    """
    model = Model(network, num_classes)
    model.check_images(*inputs.shape[1:3])
    augment = for_classes(augment, mirror_keeps_class)
    optimizer = Optimizer(
        "sgd", config.learning_rate, momentum=0.9, weight_decay=config.weight_decay, schedule="cosine"
    )
    batches = Batches(len(inputs), config.batch)
    recipe = Recipe(
        "xent",
        optimizer=optimizer,
        steps=config.epochs * batches.of_epoch,
        batch=config.batch,
        drawn=batches.drawn,
        augment=augment,
        spread=config.spread,
        evaluations=1,
        keep="last",
    )
    identity = {
        "squeeze": to_dict(config),
        "network": to_dict(network),
        "seed": seed,
        "augment": augment,
        "drawn": batches.drawn,
        "set": digest(inputs, classes),
    }
    artefact = store.artefact("squeezed", identity, shared=True)
    with artefact.made_once():
        trained = train(
            model,
            recipe,
            key(seed, "squeezed network", 0)[None],
            np.array([config.learning_rate]),
            np.array([config.weight_decay]),
            inputs,
            one_hot(classes, num_classes, inputs),
            None,
            artefact=artefact,
            save_every=batches.of_epoch,
            show_progress=store.show_progress,
            what=f"squeezed {network.label}",
        )
    return model, trained.variables[0]
