"""RDED: the most realistic crops of natural images, chosen by a trained network and put together.

For each class, of `pool` natural images, `crops` random square crops each (an area uniform in [0.08, 1] of the image,
resized to side / `factor`) are scored by the network's cross-entropy at the class, on the crop centred in zeros. Of
each image the crop with the lowest score stays, and of these the lowest images_per_class * factor^2; `factor`^2 of them
make one image. With `factor` 1, as at 32x32 pixels, an image is one crop.

Labels are the classes; the paper's soft labels are what `kip compare --protocols SL+KD` trains with, from a teacher.

Reference: Sun et al. 2024, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm"; public code.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip.artefacts import Store
from kip.config import value
from kip.errors import ShapeError
from kip.methods.contract import Metrics, Needs
from kip.methods.decoupled.squeeze import Squeeze, squeezed
from kip.methods.for_networks import ForNetworks
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.rng import key
from kip.training.losses import per_example
from kip.training.predict import logits

SMALLEST_AREA = 0.08
"""The least share of an image's area that a crop covers."""


@value
class RDED(ForNetworks):
    """Realistic crops: choose crops of natural images by a trained network."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """Images of each class."""
    network: Network = Network("ResNet18")
    """The network that scores crops."""
    squeeze: Squeeze = Squeeze()
    """How it is trained."""
    pool: Annotated[int, Field(ge=1)] = 300
    """Natural images of each class that are cropped."""
    crops: Annotated[int, Field(ge=1)] = 5
    """Crops of each."""
    factor: Annotated[int, Field(ge=1)] = 1
    """An image is made of factor^2 crops."""
    evaluation_network: Network = Network("ConvNet-D3")
    """What is trained on the set to judge it."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """Networks trained for the accuracy on test images."""
    name: Literal["rded"] = "rded"

    @property
    def steps(self) -> int:  # type: ignore[override]
        """One: the choice."""
        return 1

    @property
    def judging_network(self) -> Network:
        """What is trained on the set to judge it."""
        return self.evaluation_network

    @property
    def needs(self) -> Needs:
        """Enough images of each class for the crops of a set."""
        return Needs(self.images_per_class * self.factor**2, augmentation=False)

    def prepare(self, problem: Problem, store: Store) -> Variables:
        """Return the network that scores.

        Raises:
            ShapeError: if images cannot be cut into `factor` by `factor` crops.
        """
        height, width = problem.inputs.shape[1:3]
        if height != width or height % self.factor:
            raise ShapeError(
                "images of rded", got=f"{height}x{width}", expected=f"squares with a side divisible by {self.factor}"
            )
        return squeezed(self.squeeze, self.network, problem, store)[1]

    def init(self, problem: Problem, prepared: Variables) -> State:
        """Return step 0: natural images."""
        return problem.natural_support(self.images_per_class)

    def step(self, problem: Problem, prepared: Variables, state: State) -> tuple[State, Metrics]:
        """Return the chosen crops as images, with their mean cross-entropy."""
        model, chosen, classes, losses = Model(self.network, problem.num_classes), [], [], []
        for label in range(problem.num_classes):
            images = problem.class_batch(label, self.pool, purpose="pool of crops", step=0)
            crops, scores = best_crops(
                model, prepared, images, label, key(problem.seed, "crops", label), count=self.crops,
                side=images.shape[1] // self.factor,
            )  # fmt: skip
            order = np.argsort(scores, kind="stable")[: self.images_per_class * self.factor**2]
            losses.append(scores[order].mean())
            chosen.append(stitched(crops[order], self.factor))
            classes += [label] * len(chosen[-1])
        images, class_index = np.concatenate(chosen), np.array(classes, np.int64)
        one_hot = np.eye(problem.num_classes) - 1 / problem.num_classes
        order = np.argsort(state.class_index, kind="stable")  # whose statistics a class takes over
        moved = state._replace(
            step=1, images=images, labels=one_hot[class_index].astype(np.float32), class_index=class_index,
            statistics=state.statistics[order],
        )  # fmt: skip
        return moved, {"loss": float(np.mean(losses))}


def best_crops(
    model: Model, variables: Variables, images: np.ndarray, label: int, key: Array, *, count: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best of `count` random crops of each image, (N, side, side, C), and its cross-entropy, (N,).

    Args:
        model: the network that scores.
        variables: the network's.
        images: of one class, (N, H, H, C).
        label: the class.
        key: of the crops.
        count: crops of each image.
        side: pixels of a crop after it was resized.
    """
    pad = images.shape[1] - side
    pads = ((0, 0), *[(pad // 2, pad - pad // 2)] * 2, (0, 0))
    crops, scores = [], []
    for number in range(count):
        crops.append(np.asarray(cropped(jax.random.fold_in(key, number), images, side=side)))
        outputs = logits(model, variables, np.pad(crops[-1], pads))
        labels = np.eye(outputs.shape[1], dtype=np.float32)[np.full(len(images), label)]
        scores.append(np.asarray(per_example("xent", jnp.asarray(outputs), jnp.asarray(labels))))
    best = np.argmin(scores, axis=0)
    rows = np.arange(len(images))
    return np.stack(crops)[best, rows], np.stack(scores)[best, rows]


@partial(jax.jit, static_argnames=("side",))
def cropped(key: Array, images: Array, *, side: int) -> Array:
    """Return a random square crop of each image, resized by linear interpolation, (N, side, side, C)."""
    whole = images.shape[1]

    def one(key: Array, image: Array) -> Array:
        keys = jax.random.split(key)
        length = whole * jnp.sqrt(jax.random.uniform(keys[0], minval=SMALLEST_AREA, maxval=1.0))
        corner = jax.random.uniform(keys[1], (2,)) * (whole - length)
        scale = jnp.full(2, side / length)
        return jax.image.scale_and_translate(
            image, (side, side, image.shape[2]), (0, 1), scale, -corner * scale, "linear", antialias=False
        )

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def stitched(crops: np.ndarray, factor: int) -> np.ndarray:
    """Return images made of factor^2 crops each: (n factor^2, s, s, C) to (n, factor s, factor s, C)."""
    side, channels = crops.shape[1], crops.shape[3]
    grid = crops.reshape(-1, factor, factor, side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, factor * side, factor * side, channels)
