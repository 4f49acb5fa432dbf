"""EDC: few iterations from natural images, on statistics of which half are those of the classes.

The loss is that of `kip.methods.decoupled.running` with a class share of 1/2; networks see random resized crops of 0.08
to 1 of the area, with sides of 3:4 to 4:3, flipped where a mirror image keeps its class. The public code's option of a
flat minimum, by a moving average of the images, is left out.

Labels are the classes; the paper's soft labels are those of the protocol `EDC`.

Reference: Shao et al. 2024, "Elucidating the Design Space of Dataset Condensation"; public code for CIFAR-10.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.contract import Metrics
from kip.methods.decoupled import running
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.groups import Start
from kip.methods.decoupled.running import OTHERS, Matching, Memories, Prepared, Turn, running_loss
from kip.methods.decoupled.statistics import Layers
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network
from kip.storage.artefacts import Store
from kip.training.augment import STRETCH, crop_randomly, flip


@final
@value
class EDC(Decoupled[Prepared, Memories]):
    """Matching of all images' and of classes' statistics: learn images from several networks' statistics."""

    start: Start = "real"
    """The images that recovery begins with: normal `noise`, `real` natural images, or `patches`, the crops of natural
    images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 75
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
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The probability of a convolution to be left out of a step."""
    class_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The weight of the statistics of classes, against those of all images."""
    name: Literal["edc"] = "edc"

    def __post_init__(self) -> None:
        self.check()

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, in their order."""
        return (self.network, *self.more_networks)

    @property
    def matching(self) -> Matching:
        """The weights of the running statistics, and the memory of those of the images."""
        return Matching(self.strength, self.momentum, self.running == "corrected", self.drop, self.class_share)

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed networks, the statistics of the train images in each, and crops if it starts from them.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        return running.prepare(self, problem, store, of_classes=self.class_share > 0)

    def init(self, problem: Problem, prepared: Prepared) -> State[Memories]:
        """Return step 0: groups of images, the first group's optimiser, and empty memories of their statistics."""
        return running.first_state(self, problem, prepared)

    def step(self, problem: Problem, prepared: Prepared, state: State[Memories]) -> tuple[State[Memories], Metrics]:
        """Return the state after one iteration of one group by the network whose turn it is, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        return running.take_turn(view, loss, self, problem, prepared, state)


def view(method: EDC, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as a network sees them: cropped and flipped."""
    of_crop, of_flip = jax.random.split(key)
    images = crop_randomly(of_crop, images, stretch=STRETCH)
    return flip(of_flip, images, len(images)) if mirror else images


def loss(
    method: EDC, model: Model, turn: Turn, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, Layers]]:
    """Return the loss, (), with the logits and the memory after these images."""
    return running_loss(method.matching, model, turn, images, labels, key)
