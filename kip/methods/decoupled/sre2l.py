"""SRe2L: images recovered from the statistics of one trained network, by Adam, a group of one image a class at a time.

Each of the `images_per_class` groups begins as noise and takes `iterations` steps of Adam on the loss of
`kip.methods.decoupled.recovery`, on images rolled by up to `roll` pixels; pixels stay within what an image can have.
The images after a group's last step are kept. A step of the run is one iteration of one group.

Labels are the classes; the paper's soft labels are those of the protocol `SRe2L`.

Reference: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel"; public code for small images.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

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


@final
@value
class SRe2L(Decoupled[Prepared, None]):
    """Squeeze and recover: learn images from a trained network's statistics."""

    start: Start = "noise"
    """The images that recovery begins with: normal `noise`, `real` natural images, or `patches`, the crops of natural
    images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 1000
    """The number of steps of Adam for each group of images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.25
    """The learning rate of Adam at its highest; it falls to zero as a cosine within each group."""
    roll: Annotated[int, Field(ge=0)] = 4
    """The largest number of pixels by which images are rolled along each axis, anew for every step."""
    name: Literal["sre2l"] = "sre2l"

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


def view(method: SRe2L, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as the network sees them: rolled."""
    return roll_images(key, images, method.roll)


def loss(
    method: SRe2L, model: Model, variables: Variables, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, None]]:
    """Return the loss of the recovery, (), with the logits; it remembers nothing."""
    value, logits = recovery_loss(model, variables, images, labels, strength=method.strength)
    return value, (logits, None)
