"""The self-supervised target model g of KRR-ST: a network trained without labels by Barlow Twins.

Two views of a batch, a and b, give embeddings z (N, e), standardised over the batch, and

    C = z_a^T z_b / N,    L = sum_i (1 - C_ii)^2 + trade_off * sum_{i != j} C_ij^2.

The representation g(x) is the input of the network's last layer; this layer is the projector and is left out
afterwards. (The paper's projector has three layers.) A view is a crop of the image padded by `pad` pixels, flipped with
p = 1/2 where `flip`, its contrast and brightness changed by up to `jitter`.

Training is a function of images, configuration and seed, and is kept in the cache folder, because a resumed run needs
the same teacher again.

Reference: Zbontar et al. 2021, "Barlow Twins", equation 1; Lee et al. 2024 (KRR-ST), section 4.1.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip import config
from kip.config import value
from kip.networks.model import Model, Network, fresh
from kip.rng import key
from kip.storage.artefacts import Store, digest
from kip.storage.images import Images
from kip.training.augment import flip
from kip.training.batches import Batches
from kip.training.loop import NO_HOOKS, Hooks, Rule, fit
from kip.training.losses import barlow_twins
from kip.training.predict import features
from kip.training.prefetch import on_device
from kip.training.recipe import Optimizer
from kip.training.update import Batch, Evaluated
from kip.training.warp import nearest

VERSION = 3
"""A number that is raised whenever the training would have other results."""


@value
class Teacher:
    """A network trained by Barlow Twins."""

    network: Network = Network("ResNet18")
    """The network; its features are the representation."""
    embedding: Annotated[int, Field(ge=2)] = 2048
    """The number of outputs of the projector, e."""
    steps: Annotated[int, Field(ge=1)] = 100_000
    """The number of updates."""
    batch: Annotated[int, Field(ge=2)] = 256
    """The number of images of an update, with two views of each."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The learning rate of Adam, which falls to 0 as a cosine."""
    trade_off: Annotated[float, Field(gt=0)] = 0.005
    """The weight of the entries of C off the diagonal."""
    pad: Annotated[int, Field(ge=0)] = 4
    """The largest shift of a view, in pixels."""
    flip: bool = True
    """Mirror views at random, which suits neither digits nor letters."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """The largest change of contrast, as a factor 1 +- jitter, and of brightness, in deviations of the train set."""


@dataclasses.dataclass(frozen=True)
class BarlowTwins:
    """The objective: Barlow Twins' loss of two views of each image of a batch."""

    model: Model
    teacher: Teacher

    def __call__(self, variables: Any, batch: Batch, key: Array) -> Evaluated:
        """Return the loss in training mode; the first view moves the running statistics before the second."""
        a, b = (view(key, batch.images, self.teacher) for key in jax.random.split(key))
        first = self.model.apply(variables, a, train=True)
        second = self.model.apply({**first.variables, "params": variables["params"]}, b, train=True)
        loss = barlow_twins(first.logits, second.logits, self.teacher.trade_off)
        return Evaluated(loss, jnp.full(len(batch.images), loss), second.variables)


def train(teacher: Teacher, images: Images, *, seed: int, store: Store, hooks: Hooks = NO_HOOKS) -> tuple[Model, Any]:
    """Return the network and its variables, trained, or found where it was trained before.

    Args:
        teacher: its configuration.
        images: (N, H, W, C), preprocessed.
        seed: the root seed.
        store: keeps the training's state at every tenth of its updates, and at last the network.
        hooks: called at each update and epoch.

    Raises:
        NonFiniteError: if a parameter is not finite. Nothing of such a training is kept.
    """
    model = Model(teacher.network, teacher.embedding)
    optimizer = Optimizer("adam", teacher.learning_rate, schedule="cosine")
    batches = Batches(len(images), teacher.batch, "draws")
    rule = Rule(BarlowTwins(model, teacher), optimizer, teacher.steps, batches)
    artefact = store.artefact("teacher", [VERSION, config.to_dict(teacher), seed, digest(images)], shared=True)
    with artefact.made_once():
        progress = fit(
            rule,
            rule.begin(fresh(model, key(seed, "teacher"), images.shape[1:])),
            Batch(on_device(images)),
            key(seed, "teacher batch"),
            artefact=artefact,
            hooks=hooks,
            show_progress=store.show_progress,
            what="teacher",
        )
    return model, progress.learning.variables


def represent(model: Model, variables: Any, images: np.ndarray) -> np.ndarray:
    """Return g(X), (N, d), float32, with running statistics."""
    return features(model, variables, images).astype(np.float32)


def view(key: Array, images: Array, teacher: Teacher) -> Array:
    """Return a random view of each image (N, H, W, C), of the same shape; uncovered pixels have the least value."""
    count, height, width, _ = images.shape
    pad = teacher.pad
    keys = jax.random.split(key, 3)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=images.min())
    offsets = jax.random.randint(keys[0], (count, 2), 0, 2 * pad + 1)
    cropped = nearest(padded, offsets[:, :1] + jnp.arange(height), offsets[:, 1:] + jnp.arange(width))
    if teacher.flip:
        cropped = flip(keys[1], cropped, count)
    changes = teacher.jitter * jax.random.uniform(keys[2], (2, count, 1, 1, 1), images.dtype, -1, 1)
    return cropped * (1 + changes[0]) + changes[1]
