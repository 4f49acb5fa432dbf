"""FADRM, data residual matching: recovery in stages, each of which mixes in the natural crops that it began with.

Groups begin as the crops that RDED would choose. `iterations` are cut into stages of equal length; before each stage
but the first,

    x <- share x + (1 - share) patch,

and Adam begins anew while its rate's cosine goes on. A stage recovers images of the side that `sides` names, and the
last one those of the data set's; images and patches are brought from side to side by linear interpolation. A network
sees random resized crops of 0.08 to 1 of the area, with sides of 3:4 to 4:3, at the stage's side, flipped where a
mirror image keeps its class, and rolled. The loss is that of `kip.methods.decoupled.recovery`. With several networks,
which take turns, an iteration each, the paper calls it FADRM+.

Labels are the classes; the paper's soft labels are those of the protocol `FADRM`.

Reference: Cui et al. 2025, "FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation"; public code.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.errors import ConfigError, ShapeError
from kip.methods.contract import Metrics
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.groups import Prepared, descend_within_range, fresh_adam, slope_of
from kip.methods.decoupled.recovery import recovery_loss, roll_images
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.precision import AnyArray
from kip.storage.artefacts import Store
from kip.training.augment import STRETCH, crop_randomly, flip

Small = dict[str, AnyArray] | None
"""`small`, the images of the group at the side of its stage, in the first rows and columns of zeros (b, H, H, C); None
if all stages have the data set's side."""


@final
@value
class FADRM(Decoupled[Prepared, Small]):
    """Recovery in stages that return to natural crops: learn images from trained networks' statistics."""

    more_networks: tuple[Network, ...] = ()
    """The networks that follow the first one in turn, an iteration each."""
    iterations: Annotated[int, Field(ge=1)] = 2000
    """The number of steps of Adam for each group of images, over all stages."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.25
    """The learning rate of Adam at its highest; it falls to zero as a cosine within each group."""
    stages: Annotated[int, Field(ge=1)] = 4
    """The number of stages of a group; it divides the iterations."""
    sides: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The side of the images in each stage, in pixels; the last one is the data set's. An empty list takes the data
    set's side for all stages."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The fraction of the images that is kept between two stages; the rest comes from the crops."""
    roll: Annotated[int, Field(ge=0)] = 4
    """The largest number of pixels by which images are rolled along each axis, anew for every step."""
    start: Literal["patches"] = "patches"
    """The images that recovery begins with: the crops of natural images that RDED would choose."""
    name: Literal["fadrm"] = "fadrm"

    together: ClassVar[int] = 1
    """A group has one image of each class."""

    def __post_init__(self) -> None:
        self.check()
        if self.iterations % self.stages:
            raise ConfigError("stages", got=self.stages, expected=f"a divisor of iterations, {self.iterations}")
        if self.sides and len(self.sides) != self.stages:
            raise ConfigError("sides", got=f"{len(self.sides)} sides", expected=f"one for each of {self.stages} stages")

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, in their order."""
        return (self.network, *self.more_networks)

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed networks and the crops.

        Raises:
            ConfigError: if preprocessing mixes pixels, or a network takes images of one side only, and there are more.
            ShapeError: if `sides` do not fit the images.
        """
        height, width = problem.inputs.shape[1:3]
        if self.sides and (height != width or self.sides[-1] != height or max(self.sides) > height):
            raise ShapeError(
                f"images of {self.name}",
                got=f"{height}x{width}",
                expected=f"squares of side {max(self.sides)}",
                remedy="Give `sides` that end with the images' own, or none.",
            )
        prepared = self.prepare_networks(problem, store)
        for network, variables in zip(self.networks, prepared.variables):
            for side in set(self.sides):
                check_side(Model(network, problem.num_classes), variables, side, problem.inputs.shape[3])
        return prepared

    def init(self, problem: Problem, prepared: Prepared) -> State[Small]:
        """Return step 0: groups of one crop of every class, and room for images of other sides if there are any."""
        state = self.first_state(problem, prepared)
        shape = (problem.num_classes, *state.inputs.shape[1:])
        small: Small = {"small": np.zeros(shape, np.float32)} if self.sides else None
        return state.with_owned(small)

    def step(self, problem: Problem, prepared: Prepared, state: State[Small]) -> tuple[State[Small], Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        group, state = self.enter_group(problem, state)
        of_stage, whole = self.iterations // self.stages, problem.inputs.shape[1]
        side = self.side(group.iteration, whole)
        optimizer, turn = state.optimizer, state.step % len(self.networks)
        if group.iteration and group.iteration % of_stage == 0:
            before = self.inputs(state, group.rows, self.side(group.iteration - 1, whole))
            images = blend(before, jnp.asarray(prepared.patches)[group.rows], side, share=self.share)
            optimizer = (fresh_adam(self.pace, state.inputs[group.rows])[0], *optimizer[1:])  # the rate goes on
        else:
            images = self.inputs(state, group.rows, side)
        slope = slope_of(view, loss, self, problem, state, prepared.variables[turn], group, images, self.networks[turn])
        new_images, optimizer = descend_within_range(
            self.pace, problem, optimizer, place(images, whole), place(slope.gradient, whole)
        )
        new_images = new_images[:, :side, :side]
        recovered = np.array(state.inputs)
        recovered[group.rows] = resize(new_images, whole)
        owned = {"small": place(new_images, whole)} if self.sides else state.owned
        after = state._replace(step=state.step + 1, inputs=recovered, optimizer=optimizer, owned=owned)
        return after, {"loss": slope.loss, "batch_accuracy": slope.accuracy}

    def side(self, iteration: int, whole: int) -> int:
        """Return the side of the images in an iteration of a group; `whole` is that of the data set's."""
        return self.sides[iteration // (self.iterations // self.stages)] if self.sides else whole

    def inputs(self, state: State[Small], rows: slice, side: int) -> Array:
        """Return the images of a group at the side of their stage, (b, side, side, C).

        The images of the set are the truth. Where the kept ones do not give them, as at a group's beginning, or where
        a caller asks for the loss of other images, the images of the set are brought to the side.
        """
        whole = jnp.asarray(state.inputs[rows])
        if state.owned is None:
            return whole
        kept = jnp.asarray(state.owned["small"])[:, :side, :side]
        known = np.array_equal(resize(kept, whole.shape[1]), whole)
        return kept if known else resize(whole, side)


def view(method: FADRM, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as a network sees them: cropped, flipped and rolled."""
    of_crop, of_flip, of_roll = jax.random.split(key, 3)
    images = crop_randomly(of_crop, images, stretch=STRETCH)
    if mirror:
        images = flip(of_flip, images, len(images))
    return roll_images(of_roll, images, method.roll)


def loss(
    method: FADRM, model: Model, variables: Variables, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, None]]:
    """Return the loss of the recovery, (), with the logits; it remembers nothing."""
    value, logits = recovery_loss(model, variables, images, labels, strength=method.strength)
    return value, (logits, None)


def blend(images: Array, patches: Array, side: int, *, share: float) -> Array:
    """Return images mixed with the natural crops that they began as, at the side of the next stage.

    Args:
        images: at the end of a stage, (b, s, s, C).
        patches: the crops, (b, H, H, C).
        side: the side in the next stage, in pixels.
        share: the fraction of the images that is kept.
    """
    return share * resize(images, side) + (1 - share) * resize(patches, side)


def check_side(model: Model, variables: Variables, side: int, channels: int) -> None:
    """Refuse a side for which a network has no parameters.

    Raises:
        ConfigError: if the network takes images of another side alone.
    """
    small = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    try:
        jax.eval_shape(model.apply, variables, small)
    except Exception as error:  # Flax and JAX raise several kinds where shapes do not fit
        raise ConfigError(
            "sides",
            got=f"{side} pixels",
            expected=f"the side that {model.network.label} has learned",
            remedy="Take a network that averages over positions, such as ResNet18, or one side for all.",
        ) from error


def resize(images: Array, side: int) -> Array:
    """Return square images at another side, by linear interpolation; the same where they have it."""
    if images.shape[1] == side:
        return images
    return jax.image.resize(images, (len(images), side, side, images.shape[3]), "linear", antialias=False)


def place(images: Array, side: int) -> Array:
    """Return images (N, s, s, C) in the first rows and columns of zeros (N, side, side, C)."""
    pad = side - images.shape[1]
    return jnp.pad(images, ((0, 0), (0, pad), (0, pad), (0, 0)))
