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
import numpy as np
from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.decoupled.base import Prepared
from kip.methods.decoupled.sre2l import SRe2L
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Variables
from kip.training.losses import per_example


@value
class DWA(SRe2L):
    """Squeeze and recover with adjusted weights: learn images from a trained network's statistics."""

    start: Literal["noise", "real", "patches"] = "real"
    """What the images begin as: normal noise, natural images, or the crops of natural images that RDED would choose."""
    ascents: Annotated[int, Field(ge=1)] = 12
    """K, steps up the cross-entropy before each group."""
    radius: Annotated[float, Field(ge=0)] = 0.015
    """How far the parameters go in all."""
    name: Literal["dwa"] = "dwa"  # type: ignore[assignment]

    variance: ClassVar[float] = 11.0
    """The weight of variances against means."""

    def begin_group(self, problem: Problem, prepared: Prepared, state: State) -> State:
        """Return the state with a new optimiser, and the parameters for the group that begins."""
        rows = self.rows(problem, state.step)
        variables = prepared.variables[0]
        params = variables["params"]
        for _ in range(self.ascents):
            params = _ascended(
                {**variables, "params": params}, jnp.asarray(np.asarray(state.inputs)[rows]),
                jnp.asarray(state.class_index[rows]), self.radius / self.ascents,
                model=Model(self.network, problem.num_classes),
            )  # fmt: skip
        return super().begin_group(problem, prepared, state)._replace(owned={"params": params})

    def given(self, prepared: Prepared, state: State, turn: int) -> Any:
        """Return the network's variables with the group's parameters."""
        return {**prepared.variables[turn], **state.owned}


@partial(jax.jit, static_argnames=("model",))
def _ascended(variables: Variables, images: Array, classes: Array, length: Array, *, model: Model) -> Any:
    """Return the parameters after a step of a given length up the cross-entropy."""

    def loss(params: Any) -> Array:
        logits = model.apply({**variables, "params": params}, images).logits
        return per_example("xent", logits, jax.nn.one_hot(classes, logits.shape[1])).mean()

    gradient = jax.grad(loss)(variables["params"])
    size = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient))) + 1e-12
    return jax.tree.map(lambda w, g: w + length * g / size, variables["params"], gradient)
