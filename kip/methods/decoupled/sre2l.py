"""SRe2L: images recovered from the statistics of one trained network, by Adam, a group of one image a class at a time.

Each of the `images_per_class` groups begins as noise and takes `iterations` steps of Adam on the loss of
`kip.methods.decoupled.recovery`, on images rolled by up to `roll` pixels; pixels stay within what an image can have.
The images after a group's last step are kept. A step of the run is one iteration of one group.

Labels are the classes; the paper's soft labels are those of the protocol `SRe2L`.

Reference: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel"; public code for small images.
"""

from __future__ import annotations

from typing import Annotated, Literal

from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.contract import Metrics, Needs
from kip.methods.decoupled import groups
from kip.methods.decoupled.groups import Prepared, Start, first_inputs, fresh_adam, group_of, recover
from kip.methods.decoupled.recovery import recovery_loss, rolled
from kip.methods.decoupled.squeeze import Decoupled, needs_of
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
    strength: Annotated[float, Field(ge=0)] = 0.01
    """The weight of the statistics' distance, beside the cross-entropy."""
    spread: bool = False
    """Spread the images of a group over the devices of the machine, as many as divide their number. Results differ from
    those of one device in their last digits."""
    roll: Annotated[int, Field(ge=0)] = 4
    """The largest number of pixels by which images are rolled along each axis, anew for every step."""
    name: Literal["sre2l"] = "sre2l"

    def __post_init__(self) -> None:
        groups.check(self.networks, self.images_per_class)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The squeezed network."""
        return (self.network,)

    @property
    def needs(self) -> Needs:
        """Images of each class: for the set, or for the crops that it begins as."""
        return needs_of(self.images_per_class, self.crops if self.start == "patches" else None)

    @property
    def steps(self) -> int:
        """Iterations of all groups."""
        return self.images_per_class * self.iterations

    @property
    def schedule_ends(self) -> bool:
        """The cosine ends with each group, wherever the run ends."""
        return True

    @property
    def pace(self) -> groups.Pace:
        """The steps of a group."""
        return groups.Pace(self.learning_rate, self.iterations)

    def natural(self, initial: State[None], exported: State[None]) -> State[None] | None:
        """Return the natural images that recovery started from; None if it started from noise or crops."""
        return initial if self.start == "real" else None

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed network, and crops if recovery starts from them.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        crops = self.crops if self.start == "patches" else None
        return groups.prepare(
            self.squeeze, self.networks, crops, problem, store, images_per_class=self.images_per_class
        )

    def init(self, problem: Problem, prepared: Prepared) -> State[None]:
        """Return step 0: groups of one image of every class, and the first group's optimiser."""
        state = first_inputs(problem, self.start, prepared.patches, images_per_class=self.images_per_class)
        return state._replace(optimizer=fresh_adam(self.pace, state.inputs[: problem.num_classes]))

    def step(self, problem: Problem, prepared: Prepared, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        group = group_of(state.step, problem.num_classes, iterations=self.iterations)
        if state.step and group.iteration == 0:
            state = state._replace(optimizer=fresh_adam(self.pace, state.inputs[group.rows]))
        after, _, metrics = recover(
            view, loss, self, problem, state, prepared.variables[0], group, self.pace, network=self.network,
            spread=self.spread,
        )  # fmt: skip
        return after, metrics


def view(method: SRe2L, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as the network sees them: rolled."""
    return rolled(key, images, method.roll)


def loss(
    method: SRe2L, model: Model, variables: Variables, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, None]]:
    """Return the loss of the recovery, (), with the logits; it remembers nothing."""
    value, logits = recovery_loss(model, variables, images, labels, strength=method.strength)
    return value, (logits, None)
