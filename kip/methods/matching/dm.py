"""DM, distribution matching: learned images whose features have the mean of natural ones', in random networks.

Each step draws a fresh network and, with its features f (the last block, flattened), follows

    sum_c |mean of f(A(X_c)) - mean of f(A(S_c))|^2                            `reduction` sum: the public code
    that over the number of classes                                            `reduction` mean: the paper

by SGD with momentum; A is one augmentation of DSA, drawn for each class and step and the same for both sides. No
network is ever trained, so that a step is one pass over natural images, and one there and back over learned ones.

The public code keeps the set of the last iteration and reports it on test; here the checkpoint is chosen on validation
images.

Reference: Zhao and Bilen 2023, "Dataset Condensation with Distribution Matching"; public code, `main_DM.py`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.contract import Metrics
from kip.methods.descent import begin, descend
from kip.methods.matching.base import Matching, check_finite
from kip.methods.matching.classes import by_image, over_classes, places, real_batches
from kip.methods.problem import Problem, State
from kip.networks.model import Model, fresh
from kip.rng import key
from kip.training.augment import Strategy, augment_alike, strategy_for
from kip.training.predict import device_parts


@value
class DM(Matching):
    """Distribution matching: learn images whose features have the means of natural ones."""

    real_batch: Annotated[int, Field(ge=1)] = 256
    """Natural images of each class in a step."""
    reduction: Literal["sum", "mean"] = "sum"
    """Over classes: the public code's sum, or the paper's mean."""
    siamese: bool = True
    """Whether both sides are augmented alike, by one operation of DSA."""
    steps: Annotated[int, Field(ge=1)] = 20_000
    """Updates of the images at the most."""
    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    """SGD's. The public code: 1, and 10 from 100 images a class on, with `reduction` sum."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """SGD's."""
    name: Literal["dm"] = "dm"

    def init(self, problem: Problem, prepared: Any) -> State:
        """Return step 0: natural images, or noise, with their classes."""
        state = self.first_images(problem)
        return state._replace(optimizer=begin(_optimizer, self, self.learned(state)))

    def step(self, problem: Problem, prepared: Any, state: State) -> tuple[State, Metrics]:
        """Return the state after one update of the images, with the reduced distance before it.

        Raises:
            NonFiniteError: if the distance or the images are not finite.
        """
        model = self.model(problem)
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
        gradient = self.by_learned(problem, state, share * by_image(gradients, where))
        moved, optimizer = descend(_optimizer, self, gradient, state.optimizer, self.learned(state))
        learned = self.with_images(problem, state, moved)
        loss = share * float(distances.sum())
        check_finite(loss, learned)
        moved = state._replace(
            step=state.step + 1, optimizer=optimizer, inputs=learned["images"], latents=learned.get("latents")
        )
        return moved, {"loss": loss}


@dataclasses.dataclass(frozen=True)
class FeatureDistance:
    """The distance of one class and its gradient by the learned images; hashable.

    Attributes:
        model: the network.
        strategy: the augmentation of both sides; None: there is none.
    """

    model: Model
    strategy: Strategy | None

    def __call__(self, params: Any, real: Array, learned: Array, key: Array) -> tuple[Array, Array]:
        """Return |mean f(A(X_c)) - mean f(A(S_c))|^2, (), and its gradient by S_c.

        Args:
            params: the network's.
            real: X_c (N, H, W, C).
            learned: S_c (n, H, W, C).
            key: of the augmentation.
        """
        return self.to(self.features(params, self.seen(real, key)).mean(0), params, learned, key)

    def in_parts(self, params: Any, real: Array, learned: Array, key: Array) -> tuple[Array, Array]:
        """Return the same, the natural images' features taken in parts whose layers stay in a CPU's cache."""
        parts = device_parts(self.model, np.asarray(_seen(real, key, match=self)))
        wanted = sum(_sum_of_features(params, part, match=self) for part in parts) / len(real)
        return _to(wanted, params, learned, key, match=self)

    def to(self, wanted: Array, params: Any, learned: Array, key: Array) -> tuple[Array, Array]:
        """Return the squared distance to a mean that is known, and its gradient by S_c."""

        def distance(learned: Array) -> Array:
            return jnp.sum((wanted - self.features(params, self.seen(learned, key)).mean(0)) ** 2)

        return jax.value_and_grad(distance)(learned)

    def features(self, params: Any, images: Array) -> Array:
        """Return the last block's output, (N, d)."""
        return self.model.apply({"params": params}, images, train=True).features

    def seen(self, images: Array, key: Array) -> Array:
        """Return images as the network sees them."""
        return images if self.strategy is None else augment_alike(self.strategy, key, images)


@partial(jax.jit, static_argnames=("match",))
def _to(*arguments: Any, match: FeatureDistance) -> tuple[Array, Array]:
    return match.to(*arguments)


@partial(jax.jit, static_argnames=("match",))
def _seen(images: Array, key: Array, *, match: FeatureDistance) -> Array:
    return match.seen(images, key)


@partial(jax.jit, static_argnames=("match",))
def _sum_of_features(params: Any, images: Array, *, match: FeatureDistance) -> Array:
    return match.features(params, images).sum(0)


def _optimizer(config: DM) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum)
