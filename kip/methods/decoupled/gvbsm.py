"""G-VBSM, generalised matching of various backbones and statistics: several networks, also their convolutions.

Groups begin as noise. The networks take turns, an iteration each; they see the images shifted by up to 4 pixels in 32,
flipped where a mirror image keeps its class, and rolled. To the loss of `kip.methods.decoupled.running` comes, for the
`together` images of each class,

    diversity * sum_classes KL(softmax(l / 4) || softmax(l)),     l the eigenvalues of X X^T, rows of X the images;

the left side is constant. One image a class has none of it. The public code recovers 100 images together, all of a
class where it has 10.

Labels are the classes; the paper's soft labels are those of the protocol `G-VBSM`, the mean of all networks' logits.

Reference: Shao et al. 2024, "Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching";
public code for CIFAR-100.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.contract import Metrics
from kip.methods.decoupled import running
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.groups import Start
from kip.methods.decoupled.recovery import roll_images
from kip.methods.decoupled.running import OTHERS, Matching, Memories, Prepared, Turn, running_loss
from kip.methods.decoupled.statistics import Layers
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network
from kip.storage.artefacts import Store
from kip.training.augment import augment_images, for_classes

TEMPERATURE = 4.0
"""The divisor of eigenvalues on the constant side."""


@final
@value
class GVBSM(Decoupled[Prepared, Memories]):
    """Matching of various backbones and statistics: learn images from several networks' statistics."""

    start: Start = "noise"
    """The images that recovery begins with: normal `noise`, `real` natural images, or `patches`, the crops of natural
    images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 4000
    """The number of steps of Adam for each group of images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """The learning rate of Adam at its highest; it falls to zero as a cosine within each group."""
    more_networks: tuple[Network, ...] = OTHERS
    """The networks that follow the first one in turn, an iteration each."""
    together: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class that are recovered together; it divides `images_per_class`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """The weight of the past in the running statistics of the images."""
    running: Literal["corrected", "public"] = "corrected"
    """The beginning of the running statistics: right from the first batch on (`corrected`), or at zero (`public`), as
    in the public code."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """The probability of a convolution to be left out of a step."""
    roll: Annotated[int, Field(ge=0)] = 32
    """The largest number of pixels by which images are rolled along each axis, anew for every step."""
    diversity: Annotated[float, Field(ge=0)] = 1.0
    """The weight of the eigenvalues' divergence."""
    name: Literal["gvbsm"] = "gvbsm"

    def __post_init__(self) -> None:
        self.check()

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, in their order."""
        return (self.network, *self.more_networks)

    @property
    def matching(self) -> Matching:
        """The weights of the running statistics, and the memory of those of the images."""
        return Matching(self.strength, self.momentum, self.running == "corrected", self.drop, 0.0)

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed networks, the statistics of the train images in each, and crops if it starts from them.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        return running.prepare(self, problem, store, of_classes=False)

    def init(self, problem: Problem, prepared: Prepared) -> State[Memories]:
        """Return step 0: groups of images, the first group's optimiser, and empty memories of their statistics."""
        return running.first_state(self, problem, prepared)

    def step(self, problem: Problem, prepared: Prepared, state: State[Memories]) -> tuple[State[Memories], Metrics]:
        """Return the state after one iteration of one group by the network whose turn it is, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        return running.take_turn(view, loss, self, problem, prepared, state)


def view(method: GVBSM, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as a network sees them: shifted, flipped and rolled."""
    of_crop, of_roll = jax.random.split(key)
    return roll_images(of_roll, augment_images(for_classes("flip_shift", mirror), of_crop, images), method.roll)


def loss(
    method: GVBSM, model: Model, turn: Turn, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, Layers]]:
    """Return the loss and the divergence of the classes' eigenvalues, (), with the logits and the memory."""
    value, (logits, memory) = running_loss(method.matching, model, turn, images, labels, key)
    if method.together > 1:
        value = value + method.diversity * divergence(images.reshape(-1, method.together, images[0].size))
    return value, (logits, memory)


def divergence(rows: Array) -> Array:
    """Return sum_classes KL(softmax(l / 4) || softmax(l)), () from the images of each class, (classes, n, pixels)."""
    gram = jnp.einsum("cip,cjp->cij", rows, rows, precision="highest")
    eigenvalues = jnp.linalg.eigvalsh(gram)
    target = jax.lax.stop_gradient(jax.nn.softmax(eigenvalues / TEMPERATURE))
    log_ratio = jnp.log(jnp.maximum(target, 1e-30)) - jax.nn.log_softmax(eigenvalues)
    return jnp.sum(target * log_ratio)
