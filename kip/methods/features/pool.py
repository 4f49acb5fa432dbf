"""A pool of networks that learn from the distilled set while it is learned: fresh, trained, and all between.

Each slot holds a network, its optimiser, and the updates t that the network has had. A step of a method draws a slot,
uses the network's features, and then lets it learn from the set for one step of the full batch, by

    L(theta) = 1/2 mean_n |f_theta(x_n) - y_n|^2               `loss` half_sum: FRePo
    L(theta) = mean_n mean_j (f_theta(x_n)_j - y_nj)^2         `loss` mean: KRR-ST's public code

until t reaches `max_updates`. `resets` chooses what follows:

- `algorithm`: the network is drawn anew and t becomes 0 (KRR-ST's Algorithm 1, and FRePo).
- `public_krr_st`: the network is drawn anew and t stays: from then on each draw of the slot replaces its network. This
  is what KRR-ST's public code does, by omission; after a while, the features are those of random networks.

Reference: Zhou et al. 2022 (FRePo), section 3; Lee et al. 2024 (KRR-ST), Algorithm 1.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
import optax
from pydantic import Field

from kip.config import to_dict, value
from kip.errors import ConfigError
from kip.networks.model import Model, Variables, fresh
from kip.precision import AnyArray
from kip.rng import generator, key
from kip.storage.artefacts import Store, digest
from kip.training.loop import compiled_learning
from kip.training.losses import Loss
from kip.training.recipe import Optimizer
from kip.training.supervised import Supervised
from kip.training.update import Batch, Learning, begin


@value
class Pool:
    """The pool: its size, and the training of its networks."""

    size: Annotated[int, Field(ge=1)] = 10
    """The number of networks in the pool."""
    max_updates: Annotated[int, Field(ge=1)] = 100
    """The largest number of updates before a network is replaced. FRePo takes 100, KRR-ST 1000."""
    optimizer: Optimizer = Optimizer()
    """The optimiser of the networks. FRePo takes Adam, 3e-4; KRR-ST takes SGD, 0.1, momentum 0.9, weight decay 1e-3."""
    resets: Literal["algorithm", "public_krr_st"] = "algorithm"
    """The counter of updates when a network is replaced: it begins anew (`algorithm`), or stays where it is
    (`public_krr_st`), so that from then on each draw replaces the network, as in KRR-ST's public code."""
    loss: Loss = "half_sum"
    """The loss that the networks minimise."""

    def __post_init__(self) -> None:
        if self.optimizer.scheduled:
            raise ConfigError("the schedule of a pool's optimiser", got=self.optimizer.schedule, expected="constant")


class Slot(NamedTuple):
    """A network of the pool; all arrays, part of a checkpoint.

    Attributes:
        variables: the network's.
        optimizer: its optimiser's state.
        updates: t, int.
        drawn: networks that the slot has had before, int; selects the next random draw.
    """

    variables: Variables
    optimizer: optax.OptState
    updates: np.ndarray
    drawn: np.ndarray


Slots = tuple[Slot, ...]
"""A pool."""


def start(pool: Pool, model: Model, images: AnyArray, labels: AnyArray, *, seed: int, store: Store) -> Slots:
    """Return a pool whose networks have learned from the set for 1 to `max_updates` steps, drawn uniformly.

    Args:
        pool: its configuration.
        model: the network.
        images: X_s (n, H, W, C).
        labels: Y_s (n, c).
        seed: the root seed.
        store: keeps each network as soon as it has learned.
    """
    identity = {
        "pool": to_dict(pool),
        "network": to_dict(model.network),
        "set": digest(np.asarray(images), np.asarray(labels)),
        "seed": seed,
    }
    slots = []
    with store.progress(pool.size, "pool") as bar:
        for index in range(pool.size):
            slot = _fresh(pool, model, images.shape[1:], index, 0, seed=seed)
            artefact = store.artefact(f"pool-{index}", {**identity, "index": index})
            kept = artefact.load(slot)
            if kept is None:
                updates = 1 + int(generator(seed, "pool age", index).integers(pool.max_updates))
                for _ in range(updates):
                    slot = _learn(pool, model, slot, images, labels)
                artefact.save(slot)
            slots.append(slot if kept is None else kept)
            bar.update()
    return tuple(slots)


def advance(
    pool: Pool, model: Model, slots: Slots, index: int, images: AnyArray, labels: AnyArray, *, seed: int
) -> Slots:
    """Return the pool after slot `index` has learned from the set for a step, or has been given a fresh network.

    Networks and their optimisers stay on the device.
    """
    slot = slots[index]
    if int(slot.updates) < pool.max_updates:
        slot = _learn(pool, model, slot, images, labels)
    else:
        updates = slot.updates
        slot = _fresh(pool, model, images.shape[1:], index, int(slot.drawn) + 1, seed=seed)
        if pool.resets == "public_krr_st":
            slot = slot._replace(updates=updates)
    return (*slots[:index], slot, *slots[index + 1 :])


def _fresh(pool: Pool, model: Model, shape: tuple[int, ...], index: int, drawn: int, *, seed: int) -> Slot:
    variables = fresh(model, key(seed, "pool network", index, drawn), shape)
    learning = begin(pool.optimizer.chain(), variables)
    return Slot(learning.variables, learning.memory, np.asarray(0), np.asarray(drawn))


def _learn(pool: Pool, model: Model, slot: Slot, images: AnyArray, labels: AnyArray) -> Slot:
    learn = compiled_learning(Supervised(model, pool.loss), pool.optimizer)
    after = learn(Learning(slot.variables, slot.optimizer), Batch(images, labels))
    return slot._replace(variables=after.variables, optimizer=after.memory, updates=np.asarray(slot.updates + 1))
