"""DWA, diversity-driven synthesis: SRe2L from natural images, with other weights of the network for every group.

Before a group is recovered, the squeezed network's parameters w take K = `ascents` steps up the cross-entropy of the
group's natural images,

    w <- w + (radius / K) grad CE(w) / |grad CE(w)|,

so that every group sees another network; they are never taken back within a group. The variance term of the statistics
has 11 times its weight.

Reference: Du et al. 2024, "Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight
Adjustment"; public code.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.contract import Metrics
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.groups import Group, Prepared, Start, recover
from kip.methods.decoupled.recovery import recovery_loss, roll_images
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.losses import per_example

VARIANCE = 11.0
"""The weight of the distance of variances, against that of means."""


@final
@value
class DWA(Decoupled[Prepared, Variables]):
    """Squeeze and recover with adjusted weights: learn images from a trained network's statistics."""

    start: Start = "real"
    """The images that recovery begins with: normal `noise`, `real` natural images, or `patches`, the crops of natural
    images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 1000
    """The number of steps of Adam for each group of images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.25
    """The learning rate of Adam at its highest; it falls to zero as a cosine within each group."""
    roll: Annotated[int, Field(ge=0)] = 4
    """The largest number of pixels by which images are rolled along each axis, anew for every step."""
    ascents: Annotated[int, Field(ge=1)] = 12
    """The number K of steps up the cross-entropy before each group."""
    radius: Annotated[float, Field(ge=0)] = 0.015
    """The distance that the parameters go in all K steps together."""
    name: Literal["dwa"] = "dwa"

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

    def init(self, problem: Problem, prepared: Prepared) -> State[Variables]:
        """Return step 0: groups of one image of every class, and the first group's optimiser and parameters."""
        state = self.first_state(problem, prepared)
        return state.with_owned(self._adjust_weights(problem, prepared, state, self.group_at(problem, 0)))

    def step(self, problem: Problem, prepared: Prepared, state: State[Variables]) -> tuple[State[Variables], Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        group, state = self.enter_group(problem, state)
        if group.is_new:
            state = state._replace(owned=self._adjust_weights(problem, prepared, state, group))
        variables = {**prepared.variables[0], **state.owned}
        after, _, metrics = recover(view, loss, self, problem, state, variables, group, self.network)
        return after, metrics

    def _adjust_weights(self, problem: Problem, prepared: Prepared, state: State[Any], group: Group) -> Variables:
        """Return the parameters for the group that begins."""
        images, classes = jnp.asarray(state.inputs[group.rows]), jnp.asarray(state.class_index[group.rows])
        variables, model = prepared.variables[0], Model(self.network, problem.num_classes)
        params = variables["params"]
        for _ in range(self.ascents):
            params = _ascend({**variables, "params": params}, images, classes, self.radius / self.ascents, model=model)
        return {"params": params}


def view(method: DWA, key: Array, images: Array, iteration: Array, mirror: bool) -> Array:
    """Return the images of a group as the network sees them: rolled."""
    return roll_images(key, images, method.roll)


def loss(
    method: DWA, model: Model, variables: Variables, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, None]]:
    """Return the loss of the recovery under the adjusted parameters, (), with the logits; it remembers nothing."""
    value, logits = recovery_loss(model, variables, images, labels, strength=method.strength, variance=VARIANCE)
    return value, (logits, None)


@partial(jax.jit, static_argnames=("model",))
def _ascend(variables: Variables, images: Array, classes: Array, length: Array, *, model: Model) -> Any:
    """Return the parameters after a step of a given length up the cross-entropy."""

    def loss(params: Any) -> Array:
        logits = model.apply({**variables, "params": params}, images).logits
        return per_example("xent", logits, jax.nn.one_hot(classes, logits.shape[1])).mean()

    gradient = jax.grad(loss)(variables["params"])
    size = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient))) + 1e-12
    return jax.tree.map(lambda w, g: w + length * g / size, variables["params"], gradient)
