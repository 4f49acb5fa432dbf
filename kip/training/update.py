"""One update of a network: the gradient of an objective, and the optimiser's step.

A training minimises an objective, a pure function of the network's variables, a batch and a key. All learned parameters
are under `variables["params"]`; the objective itself moves other variables, such as running statistics. The update
composes with `jax.jit`, `jax.vmap` and `jax.grad`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax import Array

Variables = dict[str, Any]
"""A network's parameters, under `params`, and its other variables."""


class Batch(NamedTuple):
    """The batch of an update.

    Attributes:
        images: (b, H, W, C), preprocessed; of a whole set that is not in memory, a `kip.storage.images.Lazy`.
        labels: (b, c); () where the objective needs none.
        extra: other inputs of the objective, such as a teacher's variables; a pytree.
    """

    images: Any
    labels: Any = ()
    extra: Any = ()


class Evaluated(NamedTuple):
    """The value of an objective.

    Attributes:
        loss: the value that is minimised, ().
        losses: the loss of each example, (b,); an objective that couples its examples gives `loss` for each of them.
        variables: with the new running statistics.
    """

    loss: Array
    losses: Array
    variables: Variables


Objective = Callable[[Variables, Batch, Any], Evaluated]
"""A function of (variables, batch, key) that returns `Evaluated`."""


class Learning(NamedTuple):
    """A network in training; all arrays, part of what a training saves.

    Attributes:
        variables: the network's.
        memory: its optimiser's state.
        average: the moving average of its variables; () where none is kept.
    """

    variables: Variables
    memory: Any
    average: Any = ()


def begin(chain: optax.GradientTransformation, variables: Variables, average: float = 0.0) -> Learning:
    """Return a network before its first update; its average begins as its first values, where one is kept."""
    return Learning(variables, chain.init(variables["params"]), variables if average else ())


def update(
    objective: Objective,
    chain: optax.GradientTransformation,
    learning: Learning,
    batch: Batch,
    key: Array | None,
    average: float = 0.0,
) -> tuple[Learning, Evaluated]:
    """Return the network after one update, and the objective before it.

    Args:
        objective: the objective that is minimised.
        chain: the optimiser, of `kip.training.recipe`.
        learning: the network before the update.
        batch: the batch that the update sees.
        key: the key of the objective's draws, such as augmentations; None for an objective that draws nothing.
        average: d of the moving average m <- d m + (1 - d) v of the variables v; 0 where none is kept.
    """
    params = learning.variables["params"]

    def loss(params: Any) -> tuple[Array, Evaluated]:
        evaluated = objective({**learning.variables, "params": params}, batch, key)
        return evaluated.loss, evaluated

    gradient, evaluated = jax.grad(loss, has_aux=True)(params)
    direction, memory = chain.update(gradient, learning.memory, params)
    moved = {**evaluated.variables, "params": optax.apply_updates(params, direction)}
    kept = jax.tree.map(lambda m, v: average * m + (1 - average) * v, learning.average, moved) if average else ()
    return Learning(moved, memory, kept), evaluated
