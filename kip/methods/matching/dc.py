"""DC, dataset condensation with gradient matching: images whose gradients are those of natural images.

In each step, for each class c, with natural images X_c, learned images S_c and a network theta,

    D_c = sum_layers sum_rows 1 - <g, g'> / (|g| |g'| + 1e-6),    g = grad_theta CE(theta; X_c),  g' that of S_c,

and S follows the gradient of sum_c D_c by SGD with momentum. Then the network learns from S for some epochs by SGD
without momentum, and after `outer_loop` steps, the last of which no learning follows, a fresh one takes its place. With
one image a class, every step has a fresh network.

`kip.methods.matching.dsa` augments both sides alike. Learning starts from noise here, as in the paper; the public code
of both keeps the sets of its last iteration, and the published figures are theirs. Here the checkpoint is chosen on
validation images.

A step here is one update of the images; the papers' 1000 iterations are 1000 `outer_loop` steps.

Reference: Zhao, Mopuri, Bilen 2021, "Dataset Condensation with Gradient Matching", algorithm 1; public code, `main.py`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

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
from kip.methods.matching.distances import gradient_distance
from kip.methods.problem import Problem, State
from kip.networks.model import Model, fresh
from kip.rng import key
from kip.training.augment import Augmentation, Strategy, augment_alike, strategy_for
from kip.training.batches import Batches
from kip.training.loop import Rule, fit
from kip.training.microbatches import gradient_in_parts, mean_loss
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.recipe import Optimizer
from kip.training.supervised import Supervised
from kip.training.update import Batch

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""(outer, inner) of the public code, by images of each class."""


@value
class DC(Matching):
    """Gradient matching: learn images whose gradients are those of natural images."""

    outer_loop: Annotated[int, Field(ge=1)] | None = None
    """Steps with one network; None: the papers' for this number of images (1, 10, 20, ... 50), else that number."""
    inner_loop: Annotated[int, Field(ge=1)] | None = None
    """Epochs that the network learns from the set between two steps; None: likewise, else 500 over `outer_loop`."""
    real_batch: Annotated[int, Field(ge=1)] = 256
    """Natural images of each class in a step."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """Updates of the images at the most. The papers: 1000 times `outer_loop`."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """SGD's, for the images."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """SGD's, for the images."""
    inner_learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """SGD's, for the networks."""
    inner_batch: Annotated[int, Field(ge=1)] = 256
    """Learned images of an update of the networks."""
    start: Literal["noise", "real"] = "noise"
    """What the images begin as: normal noise, or natural images."""
    protocol: Protocol = PROTOCOLS["DC"]
    """How networks are trained that judge the set. The paper: `DC`, and `DC-MNIST` for digits."""
    name: Literal["dc"] = "dc"

    siamese: ClassVar[bool] = False
    """Whether natural and learned images are augmented alike."""

    @property
    def loops(self) -> tuple[int, int]:
        """Steps with one network, and epochs between two of them."""
        ipc = self.images_per_class
        outer, inner = LOOPS.get(ipc, (ipc, max(1, 500 // ipc)))
        return self.outer_loop or outer, self.inner_loop or inner

    def init(self, problem: Problem, prepared: Any) -> State:
        """Return step 0: noise, or natural images, with their classes; and the first network."""
        state = self.first_images(problem)
        return state._replace(optimizer=begin(_optimizer, self, self.learned(state)), owned=self._network(problem, 0))

    def step(self, problem: Problem, prepared: Any, state: State) -> tuple[State, Metrics]:
        """Return the state after one update of the images, with the mean distance of a class before it.

        Raises:
            NonFiniteError: if the distance or the images are not finite.
        """
        model, (outer, _) = self.model(problem), self.loops
        number, position = divmod(state.step, outer)
        variables = state.owned if position else self._network(problem, number)
        where = places(state.class_index, problem.num_classes)
        images = np.asarray(state.inputs)
        match = ClassDistance(model, self._augmentation(problem))  # type: ignore[arg-type]
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
        gradient = self.by_learned(problem, state, by_image(gradients, where))
        after, optimizer = descend(_optimizer, self, gradient, state.optimizer, self.learned(state))
        learned = self.with_images(problem, state, after)
        loss = float(distances.mean())
        check_finite(loss, learned)
        moved = state._replace(
            step=state.step + 1, optimizer=optimizer, inputs=learned["images"], latents=learned.get("latents")
        )
        if position < outer - 1:
            variables = self._after_inner_loop(problem, variables, moved)
        return moved._replace(owned=variables), {"loss": loss}

    def _network(self, problem: Problem, number: int) -> Any:
        return fresh(self.model(problem), key(problem.seed, "matched network", number), problem.inputs.shape[1:])

    def _augmentation(self, problem: Problem) -> Augmentation:
        return strategy_for(problem.mirror_keeps_class) if self.siamese else "none"

    def _after_inner_loop(self, problem: Problem, variables: Any, state: State) -> Any:
        """Return the network after it has learned from the set between two steps."""
        batches = Batches(len(state.inputs), self.inner_batch, "whole_epochs")
        objective = Supervised(self.model(problem), "xent", augment=self._augmentation(problem))
        rule = Rule(objective, Optimizer("sgd", self.inner_learning_rate), self.loops[1] * batches.of_epoch, batches)
        return fit(
            rule, rule.begin(variables), Batch(jnp.asarray(state.inputs), jnp.asarray(state.labels)),
            key(problem.seed, "inner loop", state.step), may_diverge=True,
        ).learning.variables  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassDistance:
    """The distance of one class and its gradient by the learned images; hashable.

    Attributes:
        model: the network.
        augmentation: of both sides; `none` or a strategy of DSA.
    """

    model: Model
    augmentation: Strategy | Literal["none"]

    def __call__(self, params: Any, real: Array, learned: Array, label: Array, key: Array) -> tuple[Array, Array]:
        """Return D_c, (), and its gradient by S_c.

        Args:
            params: theta.
            real: X_c (N, H, W, C).
            learned: S_c (n, H, W, C).
            label: c.
            key: of the augmentation.
        """
        wanted = jax.grad(self._loss)(params, self._seen(real, key), label)
        return self.to(wanted, params, learned, label, key)

    def in_parts(self, params: Any, real: Array, learned: Array, label: Any, key: Array) -> tuple[Array, Array]:
        """Return the same, the natural images' gradient taken in parts; see `kip.training.microbatches`."""
        seen = real if self.augmentation == "none" else _seen(real, key, match=self)
        labels = np.eye(self.model.num_outputs, dtype=np.float32)[[label] * len(real)]
        _, wanted = gradient_in_parts(self.model, "xent", params, seen, labels)
        return _to(wanted, params, learned, label, key, match=self)

    def to(self, wanted: Any, params: Any, learned: Array, label: Array, key: Array) -> tuple[Array, Array]:
        """Return the distance to a gradient that is known, and its gradient by S_c."""

        def loss(params: Any, learned: Array) -> Array:
            return self._loss(params, self._seen(learned, key), label)

        return gradient_distance(loss, params, learned, wanted)

    def _loss(self, params: Any, images: Array, label: Array) -> Array:
        labels = jax.nn.one_hot(jnp.full(len(images), label), self.model.num_outputs)
        return mean_loss(self.model, "xent", params, images, labels)[0]

    def _seen(self, images: Array, key: Array) -> Array:
        return images if self.augmentation == "none" else augment_alike(self.augmentation, key, images)


@partial(jax.jit, static_argnames=("match",))
def _to(*arguments: Any, match: ClassDistance) -> tuple[Array, Array]:
    return match.to(*arguments)


@partial(jax.jit, static_argnames=("match",))
def _seen(images: Array, key: Array, *, match: ClassDistance) -> Array:
    return match._seen(images, key)


def _optimizer(config: DC) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum)
