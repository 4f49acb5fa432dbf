"""A pool of networks that learn from the distilled set while it is learned: fresh ones, trained ones, all between.

Each slot holds a network, its optimiser, and the updates t that the network has had. A step of a method draws a slot,
uses the network's features, and then lets it learn from the set for one step of the full batch, by

    L(theta) = 1/2 mean_n |f_theta(x_n) - y_n|^2               `loss` half_sum: FRePo
    L(theta) = mean_n mean_j (f_theta(x_n)_j - y_nj)^2         `loss` mean: KRR-ST's public code

until t reaches `max_updates`. What comes then differs, `resets`:

- `algorithm`: the network is drawn anew and t becomes 0 (KRR-ST's Algorithm 1, and FRePo).
- `public_krr_st`: the network is drawn anew and t stays: from then on each draw of the slot replaces its network. This
  is what KRR-ST's public code does, by omission; after a while, the features are those of random networks.

Reference: Zhou et al. 2022 (FRePo), section 3; Lee et al. 2024 (KRR-ST), Algorithm 1.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError
from kip.finite.networks import Model
from kip.rng import generator

Loss = Literal["half_sum", "mean"]


@value
class Optimizer:
    """How networks are optimised."""

    kind: Literal["adam", "sgd"] = "adam"
    """`adam`, or `sgd` with momentum."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Constant."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `sgd`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Times the parameters, added to the gradient."""

    def __post_init__(self) -> None:
        if self.kind == "adam" and self.momentum:
            raise ConfigError("momentum with adam", got=self.momentum, expected="0", remedy="Adam has its own.")

    def make(self) -> optax.GradientTransformation:
        """Return the transformation."""
        if self.kind == "adam":
            rule = optax.adam(self.learning_rate)
        else:
            rule = optax.sgd(self.learning_rate, momentum=self.momentum or None)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), rule)


@value
class Pool:
    """The pool: its size, and how long and by what each network learns."""

    size: Annotated[int, Field(ge=1)] = 10
    """Networks."""
    max_updates: Annotated[int, Field(ge=1)] = 100
    """Updates before a network is replaced. FRePo: 100; KRR-ST: 1000."""
    optimizer: Optimizer = Optimizer()
    """Of the networks. FRePo: Adam, 3e-4; KRR-ST: SGD, 0.1, momentum 0.9, weight decay 1e-3."""
    resets: Literal["algorithm", "public_krr_st"] = "algorithm"
    """What becomes of a slot's counter when its network is replaced."""
    loss: Loss = "half_sum"
    """What the networks minimise."""


class Slot(NamedTuple):
    """A network of the pool; all arrays, part of a checkpoint.

    Attributes:
        variables: the network's.
        optimizer: its optimiser's state.
        updates: t, int.
        drawn: networks that the slot has had before, int; selects the next random draw.
    """

    variables: Any
    optimizer: Any
    updates: np.ndarray
    drawn: np.ndarray


def start(pool: Pool, model: Model, images: np.ndarray, labels: np.ndarray, *, seed: int) -> tuple[Slot, ...]:
    """Return a pool whose networks have learned from the set for 1 to `max_updates` steps, drawn uniformly.

    Args:
        pool: its configuration.
        model: the network.
        images: X_s (n, H, W, C). labels: Y_s (n, c).
        seed: the root seed.
    """
    slots = []
    for index in range(pool.size):
        slot = _fresh(pool, model, images.shape[1:], index, 0, seed=seed)
        updates = 1 + int(generator(seed, "pool age", index).integers(pool.max_updates))
        for _ in range(updates):
            slot = _learn(pool, model, slot, images, labels)
        slots.append(jax.tree.map(np.asarray, slot))
    return tuple(slots)


def advance(
    pool: Pool, model: Model, slots: tuple[Slot, ...], index: int, images: np.ndarray, labels: np.ndarray, *, seed: int
) -> tuple[Slot, ...]:
    """Return the pool after slot `index` has learned from the set for a step, or has been given a fresh network."""
    slot = slots[index]
    if int(slot.updates) < pool.max_updates:
        slot = _learn(pool, model, slot, images, labels)
    else:
        kept = slot.updates
        slot = _fresh(pool, model, images.shape[1:], index, int(slot.drawn) + 1, seed=seed)
        if pool.resets == "public_krr_st":
            slot = slot._replace(updates=kept)
    return (*slots[:index], jax.tree.map(np.asarray, slot), *slots[index + 1 :])


def regression_loss(
    model: Model, variables: Any, images: Array, labels: Array, loss: Loss = "half_sum"
) -> tuple[Array, Any]:
    """Return L in training mode, and the variables with their statistics moved."""
    outputs = model.apply(variables, images, train=True)
    squares = (outputs.logits - labels) ** 2
    error = 0.5 * jnp.mean(jnp.sum(squares, axis=1)) if loss == "half_sum" else jnp.mean(squares)
    return error, outputs.variables


@partial(jax.jit, static_argnames=("model", "optimizer", "loss"))
def learn(
    variables: Any,
    state: Any,
    images: Array,
    labels: Array,
    *,
    model: Model,
    optimizer: Optimizer,
    loss: Loss = "half_sum",
) -> tuple[Any, Any]:
    """Return variables and optimiser's state after one step on `regression_loss`."""

    def error(parameters: Any) -> tuple[Array, Any]:
        return regression_loss(model, {**variables, "params": parameters}, images, labels, loss)

    gradient, moved = jax.grad(error, has_aux=True)(variables["params"])
    updates, state = optimizer.make().update(gradient, state, variables["params"])
    return {**moved, "params": optax.apply_updates(variables["params"], updates)}, state


def fresh(model: Model, optimizer: Optimizer, shape: tuple[int, ...], *, key: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return a random network's variables and its optimiser's state; `key` is as `kip.rng.generator` takes it."""
    variables = model.init(jax.random.key(int(generator(*key).integers(2**31))), shape)  # type: ignore[arg-type]
    return variables, optimizer.make().init(variables["params"])


def _fresh(pool: Pool, model: Model, shape: tuple[int, ...], index: int, drawn: int, *, seed: int) -> Slot:
    variables, state = fresh(model, pool.optimizer, shape, key=(seed, "pool network", index, drawn))
    return Slot(variables, state, np.asarray(0), np.asarray(drawn))


def _learn(pool: Pool, model: Model, slot: Slot, images: np.ndarray, labels: np.ndarray) -> Slot:
    variables, state = learn(
        slot.variables, slot.optimizer, images, labels, model=model, optimizer=pool.optimizer, loss=pool.loss
    )
    return slot._replace(variables=variables, optimizer=state, updates=slot.updates + 1)
