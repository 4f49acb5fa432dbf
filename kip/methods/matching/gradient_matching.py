"""Gradient matching: images whose gradients are those of natural images. DC and DSA are its two methods.

In each step, for each class c, with natural images X_c, learned images S_c and a network theta,

    D_c = sum_layers sum_rows 1 - <g, g'> / (|g| |g'| + 1e-6),    g = grad_theta CE(theta; A(X_c)),  g' that of A(S_c),

and S follows the gradient of sum_c D_c by SGD with momentum. A is the identity (DC), or one augmentation for both sides
(DSA). Then the network learns from S for some epochs by SGD without momentum. After `outer_loop` steps a fresh network
takes its place; it learns nothing after the last of them. With one image a class, every step has a fresh network.

The public code of both methods keeps the sets of its last iteration, and the published figures are theirs. Here the
checkpoint is chosen on validation images. A step here is one update of the images; the papers' 1000 iterations are
1000 `outer_loop` steps.

Reference: Zhao, Mopuri, Bilen 2021, "Dataset Condensation with Gradient Matching", algorithm 1; public code, `main.py`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.judges import Students
from kip.methods.checks import check_finite
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import begin, descend
from kip.methods.generator import Latents
from kip.methods.matching.classes import by_image, over_classes, places, real_batches
from kip.methods.matching.distances import gradient_distance
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
from kip.training.batches import Batches
from kip.training.loop import Rule, fit
from kip.training.microbatches import gradient_in_parts, mean_loss
from kip.training.protocols import Protocol
from kip.training.recipe import Optimizer
from kip.training.supervised import Supervised
from kip.training.update import Batch

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""(outer, inner) of the public code, by images of each class."""


@value
class GradientMatching(Method[None, Variables]):
    """Base of methods that learn images whose gradients are those of natural images."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    network: Network = CONVNET
    """The networks that are matched, and those that judge the set. They have no batch normalisation."""
    protocol: Protocol = dataclasses.field(kw_only=True)
    """The protocol by which the judge's networks are trained."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    start: Start = dataclasses.field(kw_only=True)
    """The images at step 0: normal noise (`noise`), or natural images (`real`)."""
    latents: Latents | None = None
    """A generator of the user's own whose latents are learned in place of the images (GLaD). None learns the images."""
    outer_loop: Annotated[int, Field(ge=1)] | None = None
    """The number of steps with one network. None means the papers' for 1, 10, 20, 30, 40 and 50 images per class, and
    otherwise the number of images per class."""
    inner_loop: Annotated[int, Field(ge=1)] | None = None
    """The number of epochs that the network learns from the set between two steps. None means the papers' for 1, 10,
    20, 30, 40 and 50 images per class, and otherwise 500 // images_per_class."""
    real_batch: Annotated[int, Field(ge=1)] = 256
    """The number of natural images of each class in a step."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """The largest number of updates of the images. The papers take 1000 times `outer_loop`."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """The learning rate of SGD for the images."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The momentum of SGD for the images."""
    inner_learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate of SGD for the networks."""
    inner_batch: Annotated[int, Field(ge=1)] = 256
    """The number of learned images in an update of the networks."""

    siamese: ClassVar[bool]
    """Augment natural and learned images alike, and the images that networks learn from too."""

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

    @property
    def loops(self) -> tuple[int, int]:
        """The number of steps with one network, and of epochs between two of them."""
        ipc = self.images_per_class
        outer, inner = LOOPS.get(ipc, (ipc, max(1, 500 // ipc)))
        return self.outer_loop or outer, self.inner_loop or inner

    def prepare(self, problem: Problem, store: Store) -> None:
        """Check that the images fit the network, and a generator the images; nothing is made.

        Raises:
            ConfigError, ShapeError: as `kip.methods.matching.images.check_fits`.
        """
        check_fits(problem, self.network, self.latents, method=self.name)

    def step_images(self, num_classes: int) -> float:
        """Return the number of images whose gradients are matched, and of those that the network learns from."""
        outer, inner = self.loops
        learned = num_classes * self.images_per_class * (2 + inner * (outer - 1) / outer)
        return 3 * (num_classes * self.real_batch + learned)

    def init(self, problem: Problem, prepared: None) -> State[Variables]:
        """Return step 0: noise, or natural images, with their classes; and the first network."""
        state = first_images(problem, self.images_per_class, self.start, self.latents)
        optimizer = begin(_optimizer, self, parameters(state, self.latents))
        return state._replace(optimizer=optimizer).with_owned(self._network(problem, 0))

    def step(self, problem: Problem, prepared: None, state: State[Variables]) -> tuple[State[Variables], Metrics]:
        """Return the state after one update of the images, with the mean distance of a class before it.

        Raises:
            NonFiniteError: if the distance or the images are not finite.
        """
        model, (outer, _) = Model(self.network, problem.num_classes), self.loops
        number, position = divmod(state.step, outer)
        variables = state.owned if position else self._network(problem, number)
        where = places(state.class_index, problem.num_classes)
        images = np.asarray(state.inputs)
        match = ClassDistance(model, self._augmentation(problem))
        distances, gradients = over_classes(
            match,
            match.in_parts,
            [variables["params"]],
            [
                real_batches(problem, self.real_batch, step=state.step),
                [images[rows] for rows in where],
                list(range(problem.num_classes)),
                list(jax.random.split(key(problem.seed, "siamese", state.step), problem.num_classes)),
            ],
        )
        gradient = pull_back(problem, state, self.latents, by_image(gradients, where))
        after, optimizer = descend(_optimizer, self, gradient, state.optimizer, parameters(state, self.latents))
        after = render(problem, state, self.latents, after)
        loss = float(distances.mean())
        check_finite(loss, after)
        after_step = state._replace(
            step=state.step + 1, optimizer=optimizer, inputs=after["images"], latents=after.get("latents")
        )
        if position < outer - 1:
            variables = self._after_inner_loop(problem, variables, after_step)
        return after_step._replace(owned=variables), {"loss": loss}

    def natural(self, initial: State[Variables], exported: State[Variables]) -> State[Variables] | None:
        """Return the natural images that learning started from; None where it started from noise."""
        return natural_start(initial, exported, self.start)

    def _network(self, problem: Problem, number: int) -> Variables:
        model = Model(self.network, problem.num_classes)
        return fresh(model, key(problem.seed, "matched network", number), problem.inputs.shape[1:])

    def _augmentation(self, problem: Problem) -> Strategy | Literal["none"]:
        return strategy_for(problem.mirror_keeps_class) if self.siamese else "none"

    def _after_inner_loop(self, problem: Problem, variables: Variables, state: State[Variables]) -> Variables:
        """Return the network after it has learned from the set between two steps."""
        batches = Batches(len(state.inputs), self.inner_batch, "whole_epochs")
        model = Model(self.network, problem.num_classes)
        objective = Supervised(model, "xent", augment=self._augmentation(problem))
        rule = Rule(objective, Optimizer("sgd", self.inner_learning_rate), self.loops[1] * batches.of_epoch, batches)
        return fit(
            rule,
            rule.begin(variables),
            Batch(jnp.asarray(state.inputs), jnp.asarray(state.labels)),
            key(problem.seed, "inner loop", state.step),
            may_diverge=True,
        ).learning.variables


@dataclasses.dataclass(frozen=True)
class ClassDistance:
    """The distance of one class and its gradient with respect to the learned images; hashable.

    Attributes:
        model: the network.
        augmentation: of both sides; `none` or a strategy of DSA.
    """

    model: Model
    augmentation: Strategy | Literal["none"]

    def __call__(self, params: Variables, real: Array, learned: Array, label: Array, key: Array) -> tuple[Array, Array]:
        """Return D_c, (), and its gradient with respect to S_c.

        Args:
            params: theta.
            real: X_c (N, H, W, C).
            learned: S_c (n, H, W, C).
            label: c.
            key: of the augmentation.
        """
        wanted = jax.grad(self._loss)(params, self.augment(real, key), label)
        return self.to(wanted, params, learned, label, key)

    def in_parts(self, params: Variables, real: Array, learned: Array, label: int, key: Array) -> tuple[Array, Array]:
        """Return the same, the natural images' gradient taken in parts; see `kip.training.microbatches`."""
        views = real if self.augmentation == "none" else _augment(real, key, match=self)
        labels = np.eye(self.model.num_outputs, dtype=np.float32)[[label] * len(real)]
        _, wanted = gradient_in_parts(self.model, "xent", params, views, labels)
        return _to(wanted, params, learned, label, key, match=self)

    def to(
        self, wanted: Variables, params: Variables, learned: Array, label: Array | int, key: Array
    ) -> tuple[Array, Array]:
        """Return the distance to a known gradient, and its derivative with respect to S_c."""

        def loss(params: Variables, learned: Array) -> Array:
            return self._loss(params, self.augment(learned, key), label)

        return gradient_distance(loss, params, learned, wanted)

    def _loss(self, params: Variables, images: Array, label: Array | int) -> Array:
        labels = jax.nn.one_hot(jnp.full(len(images), label), self.model.num_outputs)
        return mean_loss(self.model, "xent", params, images, labels)[0]

    def augment(self, images: Array, key: Array) -> Array:
        """Return the images that the network sees."""
        return images if self.augmentation == "none" else augment_alike(self.augmentation, key, images)


@partial(jax.jit, static_argnames=("match",))
def _to(
    wanted: Variables, params: Variables, learned: Array, label: Array | int, key: Array, *, match: ClassDistance
) -> tuple[Array, Array]:
    return match.to(wanted, params, learned, label, key)


@partial(jax.jit, static_argnames=("match",))
def _augment(images: Array, key: Array, *, match: ClassDistance) -> Array:
    return match.augment(images, key)


def _optimizer(config: GradientMatching) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum)
