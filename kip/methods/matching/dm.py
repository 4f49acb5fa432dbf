"""DM, distribution matching: learned images whose features have the mean of natural ones', in random networks.

Each step draws a fresh network and, with its features f (the last block, flattened), follows

    sum_c |mean of f(A(X_c)) - mean of f(A(S_c))|^2                            `reduction` sum: the public code
    that over the number of classes                                            `reduction` mean: the paper

by SGD with momentum; A is one augmentation of DSA, drawn for each class and step and the same for both sides. No
network is ever trained: a step is a forward pass over natural images, and one there and back over learned ones.

The public code keeps the set of the last iteration and reports it on test; here the checkpoint is chosen on validation
images.

Reference: Zhao and Bilen 2023, "Dataset Condensation with Distribution Matching"; public code, `main_DM.py`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.judges import Students
from kip.methods.checks import check_finite
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import begin, descend
from kip.methods.generator import Latents
from kip.methods.matching.classes import by_image, over_classes, places, real_batches
from kip.methods.matching.images import (
    Start,
    check_fits,
    check_start,
    first_images,
    natural_start,
    parameters,
    pull_back,
    render,
)
from kip.methods.problem import Problem, State
from kip.methods.students import students_under
from kip.networks.model import CONVNET, Model, Network, Variables, fresh
from kip.rng import key
from kip.storage.artefacts import Store
from kip.training.augment import Strategy, augment_alike, strategy_for
from kip.training.predict import device_parts
from kip.training.protocols import PROTOCOLS, Protocol


@final
@value
class DM(Method[None, None]):
    """Distribution matching: learn images whose features have the means of natural ones."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    network: Network = CONVNET
    """The networks that are matched, and those that judge the set. They have no batch normalisation."""
    protocol: Protocol = PROTOCOLS["DSA"]
    """The protocol by which the judge's networks are trained."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    start: Start = "real"
    """The images at step 0: normal noise (`noise`), or natural images (`real`)."""
    latents: Latents | None = None
    """A generator of the user's own whose latents are learned in place of the images (GLaD). None learns the images."""
    real_batch: Annotated[int, Field(ge=1)] = 256
    """The number of natural images of each class in a step."""
    reduction: Literal["sum", "mean"] = "sum"
    """The reduction over classes: the public code's sum, or the paper's mean."""
    siamese: bool = True
    """Augment natural and learned images alike, by one operation of DSA."""
    steps: Annotated[int, Field(ge=1)] = 20_000
    """The largest number of updates of the images."""
    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    """The learning rate of SGD. The public code takes 1, and 10 from 100 images per class on, with `reduction` sum."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The momentum of SGD."""
    name: Literal["dm"] = "dm"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol."""
        return students_under(self.protocol, self)

    @property
    def needs(self) -> Needs:
        """Images of each class; natural batches are the method's own, and never augmented by the experiment."""
        return Needs(self.images_per_class, augmentation=False)

    def __post_init__(self) -> None:
        check_start(self.start, self.latents)

    def step_images(self, num_classes: int) -> float:
        """Return the number of natural images, forward, and of learned ones, forward and back."""
        return num_classes * (self.real_batch + 3 * self.images_per_class)

    def prepare(self, problem: Problem, store: Store) -> None:
        """Check that the images fit the network, and a generator the images; nothing is made.

        Raises:
            ConfigError, ShapeError: as `kip.methods.matching.images.check_fits`.
        """
        check_fits(problem, self.network, self.latents, method=self.name)

    def init(self, problem: Problem, prepared: None) -> State[None]:
        """Return step 0: natural images, or noise, with their classes."""
        state = first_images(problem, self.images_per_class, self.start, self.latents)
        return state._replace(optimizer=begin(_optimizer, self, parameters(state, self.latents)))

    def step(self, problem: Problem, prepared: None, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the state after one update of the images, with the reduced distance before it.

        Raises:
            NonFiniteError: if the distance or the images are not finite.
        """
        model = Model(self.network, problem.num_classes)
        variables = fresh(model, key(problem.seed, "embedding", state.step), problem.inputs.shape[1:])
        strategy = strategy_for(problem.mirror_keeps_class) if self.siamese else None
        where, images = places(state.class_index, problem.num_classes), np.asarray(state.inputs)
        match = FeatureDistance(model, strategy)
        distances, gradients = over_classes(
            match,
            match.in_parts,
            [variables["params"]],
            [
                real_batches(problem, self.real_batch, step=state.step),
                [images[rows] for rows in where],
                list(jax.random.split(key(problem.seed, "siamese", state.step), problem.num_classes)),
            ],
        )
        share = 1.0 if self.reduction == "sum" else 1 / problem.num_classes
        gradient = pull_back(problem, state, self.latents, share * by_image(gradients, where))
        after, optimizer = descend(_optimizer, self, gradient, state.optimizer, parameters(state, self.latents))
        after = render(problem, state, self.latents, after)
        loss = share * float(distances.sum())
        check_finite(loss, after)
        after_step = state._replace(
            step=state.step + 1, optimizer=optimizer, inputs=after["images"], latents=after.get("latents")
        )
        return after_step, {"loss": loss}

    def natural(self, initial: State[None], exported: State[None]) -> State[None] | None:
        """Return the natural images that learning started from; None where it started from noise."""
        return natural_start(initial, exported, self.start)


@dataclasses.dataclass(frozen=True)
class FeatureDistance:
    """The distance of one class and its gradient with respect to the learned images; hashable.

    Attributes:
        model: the network.
        strategy: the augmentation of both sides; None: there is none.
    """

    model: Model
    strategy: Strategy | None

    def __call__(self, params: Variables, real: Array, learned: Array, key: Array) -> tuple[Array, Array]:
        """Return |mean f(A(X_c)) - mean f(A(S_c))|^2, (), and its gradient with respect to S_c.

        Args:
            params: the parameters of the network.
            real: X_c (N, H, W, C).
            learned: S_c (n, H, W, C).
            key: of the augmentation.
        """
        return self.to(self.features(params, self.augment(real, key)).mean(0), params, learned, key)

    def in_parts(self, params: Variables, real: Array, learned: Array, key: Array) -> tuple[Array, Array]:
        """Return the same, the natural images' features taken in parts whose layers stay in a CPU's cache."""
        parts = device_parts(self.model, np.asarray(_augment(real, key, match=self)))
        wanted = sum(_sum_of_features(params, part, match=self) for part in parts) / len(real)
        return _to(wanted, params, learned, key, match=self)

    def to(self, wanted: Array, params: Variables, learned: Array, key: Array) -> tuple[Array, Array]:
        """Return the squared distance to a known mean, and its gradient with respect to S_c."""

        def distance(learned: Array) -> Array:
            return jnp.sum((wanted - self.features(params, self.augment(learned, key)).mean(0)) ** 2)

        return jax.value_and_grad(distance)(learned)

    def features(self, params: Variables, images: Array) -> Array:
        """Return the last block's output, (N, d)."""
        return self.model.apply({"params": params}, images, train=True).features

    def augment(self, images: Array, key: Array) -> Array:
        """Return the images that the network sees."""
        return images if self.strategy is None else augment_alike(self.strategy, key, images)


@partial(jax.jit, static_argnames=("match",))
def _to(wanted: Array, params: Variables, learned: Array, key: Array, *, match: FeatureDistance) -> tuple[Array, Array]:
    return match.to(wanted, params, learned, key)


@partial(jax.jit, static_argnames=("match",))
def _augment(images: Array, key: Array, *, match: FeatureDistance) -> Array:
    return match.augment(images, key)


@partial(jax.jit, static_argnames=("match",))
def _sum_of_features(params: Variables, images: Array, *, match: FeatureDistance) -> Array:
    return match.features(params, images).sum(0)


def _optimizer(config: DM) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum)
