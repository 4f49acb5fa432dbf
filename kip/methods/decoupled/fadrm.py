"""FADRM, data residual matching: recovery in stages, of which each brings back some of the natural crops it began with.

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

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError, ShapeError
from kip.methods.contract import Metrics
from kip.methods.decoupled.base import Prepared, Recovered, adam
from kip.methods.decoupled.recovery import rolled
from kip.methods.descent import begin
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network
from kip.storage.artefacts import Store
from kip.training.augment import STRETCH, cropped, flip


@value
class FADRM(Recovered):
    """Recovery in stages that return to natural crops: learn images from trained networks' statistics."""

    start: Literal["patches"] = "patches"  # type: ignore[assignment]
    """What the images begin as: the crops of natural images that RDED would choose."""
    more_networks: tuple[Network, ...] = ()
    """Networks that follow the first in turn, an iteration each."""
    iterations: Annotated[int, Field(ge=1)] = 2000
    """Steps of Adam of each group of images, over all stages."""
    stages: Annotated[int, Field(ge=1)] = 4
    """Stages of a group; they divide the iterations."""
    sides: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The side of the images of each stage, in pixels, the last one the data set's. None given takes the data set's for
    all."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """What stays of the images between two stages; the rest comes from the crops."""
    roll: Annotated[int, Field(ge=0)] = 4
    """Pixels by which images are rolled, at most, anew for every step."""
    name: Literal["fadrm"] = "fadrm"

    def __post_init__(self) -> None:
        super().__post_init__()
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
                f"images of {self.name}", got=f"{height}x{width}", expected=f"squares of side {max(self.sides)}",
                remedy="Give `sides` that end with the images' own, or none.",
            )  # fmt: skip
        prepared = super().prepare(problem, store)
        for network, variables in zip(self.networks, prepared.variables):
            for side in set(self.sides):
                small = jax.ShapeDtypeStruct((1, side, side, problem.inputs.shape[3]), jnp.float32)
                try:
                    jax.eval_shape(Model(network, problem.num_classes).apply, variables, small)
                except Exception as error:  # Flax and JAX raise several kinds where shapes do not fit
                    raise ConfigError(
                        "sides", got=f"{side} pixels", expected=f"the side that {network.label} has learned",
                        remedy="Take a network that averages over positions, such as ResNet18, or one side for all.",
                    ) from error  # fmt: skip
        return prepared

    def side(self, step: int, whole: int) -> int:
        """Return the side of the images that are recovered in a step of the run, `whole` that of the data set's."""
        return self.sides[step % self.iterations // (self.iterations // self.stages)] if self.sides else whole

    def init(self, problem: Problem, prepared: Prepared) -> State:
        """Return step 0, with room for images of other sides where there are any."""
        state = super().init(problem, prepared)
        if self.sides:
            state = state._replace(owned={"small": np.zeros(state.inputs[self.rows(problem, 0)].shape, np.float32)})
        return state

    def step(self, problem: Problem, prepared: Prepared, state: State) -> tuple[State, Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        iteration, rows = state.step % self.iterations, self.rows(problem, state.step)
        if iteration and iteration % (self.iterations // self.stages) == 0:
            state = self._next_stage(problem, prepared, state, rows)
        return super().step(problem, prepared, state)

    def _next_stage(self, problem: Problem, prepared: Prepared, state: State, rows: slice) -> State:
        """Return the state with crops in the images, at the new side, and a new Adam whose rate goes on."""
        whole = problem.inputs.shape[1]
        before = resized(self._small(state._replace(step=state.step - 1), rows), self.side(state.step, whole))
        patches = resized(jnp.asarray(prepared.patches[rows]), self.side(state.step, whole))
        state = self._with_small(state, rows, self.share * before + (1 - self.share) * patches)
        fresh = begin(adam, self, self.learned(state, rows))
        return state._replace(optimizer=(fresh[0], *state.optimizer[1:]))

    def learned(self, state: State, rows: slice) -> dict[str, Any]:
        """Return what Adam moves: the images, in the first rows and columns of the whole side."""
        if not self.sides:
            return super().learned(state, rows)
        return {"images": placed(self._small(state, rows), state.inputs.shape[1])}

    def shown(self, state: State, images: Array) -> Array:
        """Return the images at the step's side."""
        side = self.side(state.step, images.shape[1])
        return images[:, :side, :side]

    def of_learned(self, gradient: Array, learned: dict[str, Any]) -> dict[str, Any]:
        """Return the gradient, zero outside of the images."""
        return {"images": placed(gradient, learned["images"].shape[1])}

    def moved(self, state: State, rows: slice, images: Array, turn: int, owned: Any) -> State:
        """Return the state with the moved images, those of the set brought to their side."""
        return self._with_small(state, rows, self.shown(state, images))

    def _small(self, state: State, rows: slice) -> Array:
        """Return the images that are recovered in a step, at its side, (b, side, side, C).

        Those of the set are the truth: where they are not what the kept ones give, as at a group's beginning, or where
        someone asks for the loss of other images, they are brought to the step's side.
        """
        whole = jnp.asarray(state.inputs[rows])
        side = self.side(state.step, whole.shape[1])
        if not self.sides:
            return whole
        kept = jnp.asarray(state.owned["small"])[:, :side, :side]
        known = np.array_equal(resized(kept, whole.shape[1]), whole)
        return kept if known else resized(whole, side)

    def _with_small(self, state: State, rows: slice, images: Array) -> State:
        """Return the state with images of a step's side in the set."""
        recovered = np.array(state.inputs)
        recovered[rows] = resized(images, recovered.shape[1])
        owned = {"small": placed(images, recovered.shape[1])} if self.sides else state.owned
        return state._replace(inputs=recovered, owned=owned)

    def seen(self, key: Array, images: Array, iteration: Any, *, mirror: bool) -> Array:
        """Return the images of a group, cropped, flipped and rolled."""
        of_crop, of_flip, of_roll = jax.random.split(key, 3)
        images = cropped(of_crop, images, stretch=STRETCH)
        if mirror:
            images = flip(of_flip, images, len(images))
        return rolled(of_roll, images, self.roll)


def resized(images: Array, side: int) -> Array:
    """Return square images at another side, by linear interpolation; the same where they have it."""
    if images.shape[1] == side:
        return images
    return jax.image.resize(images, (len(images), side, side, images.shape[3]), "linear", antialias=False)


def placed(images: Array, side: int) -> Array:
    """Return images (N, s, s, C) in the first rows and columns of zeros (N, side, side, C)."""
    pad = side - images.shape[1]
    return jnp.pad(images, ((0, 0), (0, pad), (0, pad), (0, 0)))
