"""CDA, curriculum data augmentation: SRe2L on random resized crops, which get smaller as a group is recovered.

In iteration t of N, a network sees of each image a part of m(t) to 1 of its area, with sides of 3:4 to 4:3, at the
image's size, flipped at random where a mirror image keeps its class, then rolled:

    m(t) = 0.08 + 0.92 (1 + cos(pi t / (milestone N))) / 2,      0.08 from t = milestone N on.

The public code has no configuration for 32x32 pixels; for Tiny-ImageNet it takes a learning rate of 0.4 and a strength
of 0.05.

Reference: Yin and Shen 2023, "Dataset Distillation in Large Data Era"; public code.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.contract import Metrics
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.groups import Prepared, Start, recover
from kip.methods.decoupled.recovery import recovery_loss, roll_images
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.augment import SMALLEST_AREA, STRETCH, crop_randomly, flip


@final
@value
class CDA(Decoupled[Prepared, None]):
    """Squeeze and recover on crops that get smaller: learn images from a trained network's statistics."""

    start: Start = "noise"
    """The images that recovery begins with: normal `noise`, `real` natural images, or `patches`, the crops of natural
    images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 1000
    """The number of steps of Adam for each group of images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.25
    """The learning rate of Adam at its highest; it falls to zero as a cosine within each group."""
    roll: Annotated[int, Field(ge=0)] = 4
    """The largest number of pixels by which images are rolled along each axis, anew for every step."""
    milestone: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The fraction of a group's iterations after which crops are as small as they get."""
    name: Literal["cda"] = "cda"

    together: ClassVar[int] = 1
    """A group has one image of each class."""

    def __post_init__(self) -> None:
        self.check()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The squeezed network."""
        return (self.network,)

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed network, and crops if recovery starts from them.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        return self.prepare_networks(problem, store)

    def init(self, problem: Problem, prepared: Prepared) -> State[None]:
        """Return step 0: groups of one image of every class, and the first group's optimiser."""
        return self.first_state(problem, prepared)

    def step(self, problem: Problem, prepared: Prepared, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        group, state = self.enter_group(problem, state)
        after, _, metrics = recover(view, loss, self, problem, state, prepared.variables[0], group, self.network)
        return after, metrics


def view(method: CDA, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as the network sees them: cropped, flipped and rolled."""
    of_crop, of_flip, of_roll = jax.random.split(key, 3)
    images = crop_randomly(of_crop, images, smallest=smallest_area(method, iteration), stretch=STRETCH)
    if mirror:
        images = flip(of_flip, images, len(images))
    return roll_images(of_roll, images, method.roll)


def smallest_area(method: CDA, iteration: Array) -> Array:
    """Return m(t), the smallest fraction of the area that is seen in an iteration."""
    done = jnp.minimum(iteration / (method.milestone * method.iterations), 1.0)
    return SMALLEST_AREA + (1 - SMALLEST_AREA) * 0.5 * (1 + jnp.cos(jnp.pi * done))


def loss(
    method: CDA, model: Model, variables: Variables, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, None]]:
    """Return the loss of the recovery, (), with the logits; it remembers nothing."""
    value, logits = recovery_loss(model, variables, images, labels, strength=method.strength)
    return value, (logits, None)
