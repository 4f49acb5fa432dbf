"""Expert trajectories: networks that learned the natural images, with all their parameters after every epoch.

They are made once for a data set and configuration, and shared between runs. Each group of experts is one artefact,
saved after every epoch, so that a kill loses one epoch of one group at the most. An accelerator trains some experts at
once, a CPU one after the other. Runs that need the same experts at the same time share them out between their
processes.

With `sharpness`, the gradient of an update is that of GSAM, as in FTD: with g_0 the gradient at w and

    e = sharpness * w^2 g_0 / | |w| g_0 |,    g = the gradient at w + e,
    the update takes g - balance (g_0 - cos(g_0, g) |g_0| g / |g|).

Reference: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories", public code, `buffer.py`;
Du et al. 2023, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", public code,
`buffer/gsam`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip.config import to_dict, value
from kip.data import one_hot
from kip.errors import ConfigError, DataError
from kip.methods.problem import Problem
from kip.networks.model import Model, Variables, fresh
from kip.precision import AnyArray
from kip.rng import key
from kip.storage.artefacts import Artefact, Store, digest, share_out
from kip.training.augment import strategy_for
from kip.training.batches import Batches
from kip.training.ensembles import runs_at_once
from kip.training.loop import Progress, Rule, fit
from kip.training.prefetch import on_device
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import Supervised
from kip.training.update import Batch, Evaluated

LOGGER = logging.getLogger(__name__)
KEPT_BYTES = 2**31
"""The size of the trajectories that stay in memory, in bytes; others are read again when they are needed."""


@value
class Experts:
    """The experts: their number and their training."""

    count: Annotated[int, Field(ge=1)] = 100
    """The number of experts."""
    epochs: Annotated[int, Field(ge=1)] = 50
    """The number of epochs of each expert. A trajectory has one set of parameters more."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate of SGD, which has no momentum."""
    batch: Annotated[int, Field(ge=1)] = 256
    """The number of images in an update."""
    augment: bool = True
    """Augment training images by DSA."""
    sharpness: Annotated[float, Field(ge=0)] = 0.0
    """The distance that GSAM looks ahead, relative to the parameters. 0 is plain SGD. FTD's script takes 0.01."""
    balance: Annotated[float, Field(ge=0)] = 0.0
    """The weight of GSAM's surrogate gap. FTD takes 0.3, and 1 for 50 images per class."""

    def __post_init__(self) -> None:
        if self.balance and not self.sharpness:
            raise ConfigError("balance without sharpness", got=self.balance, expected="0, or a sharpness above 0")


class Trajectories:
    """The experts' parameters: `trajectories[expert]` is a pytree with a leading axis of epochs + 1."""

    def __init__(self, groups: list[Artefact], size: int, like: Progress):
        self._groups, self._size, self._like = groups, size, like
        one = sum(leaf.nbytes for leaf in jax.tree.leaves(like))
        self._read = functools.lru_cache(max(1, KEPT_BYTES // max(1, one)))(self._read_group)

    def _read_group(self, group: int) -> Variables:
        progress = self._groups[group].load(self._like)
        if progress is None:
            raise DataError(
                f"no trajectories at {self._groups[group].path}",
                remedy="Free some disk space, or set KIP_CACHE_DIR to another folder, and run the same command again.",
            )
        return progress.owned

    def __getitem__(self, expert: int) -> Variables:
        group, place = divmod(expert, self._size)
        return jax.tree.map(lambda leaf: leaf[:, place], self._read(group))


def trajectories(config: Experts, model: Model, problem: Problem, store: Store) -> Trajectories:
    """Return the experts' trajectories; those that are not there yet are made first.

    Args:
        config: the experts.
        model: their network, without batch normalisation.
        problem: gives the train images.
        store: keeps them, shared between runs.

    Raises:
        NonFiniteError: if an expert diverges.
        DataError: if trajectories cannot be kept, so that a step could not read them.
    """
    recipe = Recipe(batch=config.batch)
    size = runs_at_once(model, recipe, problem.inputs, config.count)
    size = max(divisor for divisor in range(1, size + 1) if config.count % divisor == 0)
    identity = {
        "experts": {**to_dict(config), "count": None},
        "network": to_dict(model.network),
        "seed": problem.seed,
        "set": digest(problem.inputs, problem.labels),
        "mirror": problem.mirror_keeps_class,
        "at_once": size,
    }
    firsts = range(0, config.count, size)
    groups = [store.artefact(f"experts-{first}", {**identity, "first": first}, shared=True) for first in firsts]
    like = None
    with store.progress(config.count, "experts") as bar:
        for place in share_out(groups):
            like = _train(config, model, problem, firsts[place], size, groups[place], store.show_progress)
            bar.update(size)
    assert like is not None  # there is at least one group
    return Trajectories(groups, size, like)


def _train(
    config: Experts, model: Model, problem: Problem, first: int, size: int, artefact: Artefact, show_progress: bool
) -> Progress:
    """Train a group of experts, going on where a killed process stopped; return its state on the host."""
    keys = jnp.stack([key(problem.seed, "expert", first + place) for place in range(size)])
    objective: Supervised | Flat = Supervised(
        model, "xent", augment=strategy_for(problem.mirror_keeps_class) if config.augment else "none"
    )
    if config.sharpness:
        objective = Flat(objective, config.sharpness, config.balance)
    batches = Batches(len(problem.inputs), config.batch, "whole_epochs")
    rule = Rule(objective, Optimizer("sgd", config.learning_rate), config.epochs * batches.of_epoch, batches)
    variables = fresh(model, jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys), problem.inputs.shape[1:])
    many = size > 1
    if not many:
        variables, keys = jax.tree.map(lambda leaf: leaf[0], variables), keys[0]
    learning = rule.begin(variables, many=many)
    grouped = jax.tree.map(lambda leaf: np.asarray(leaf if many else leaf[None]), variables["params"])
    snapshots = jax.tree.map(lambda leaf: np.stack([leaf] + [np.zeros_like(leaf)] * config.epochs), grouped)

    def with_snapshot(progress: Progress) -> Variables:
        epoch = int(progress.step) // batches.of_epoch

        def put(kept: np.ndarray, leaf: AnyArray) -> np.ndarray:
            kept = kept.copy()
            kept[epoch] = leaf if many else leaf[None]
            return kept

        return jax.tree.map(put, progress.owned, progress.learning.variables["params"])

    data = Batch(on_device(problem.inputs), one_hot(problem.labels, problem.num_classes, problem.inputs))
    return fit(
        rule,
        learning,
        data,
        keys,
        marks=frozenset(batches.of_epoch * (epoch + 1) for epoch in range(config.epochs)),
        at_mark=with_snapshot,
        owned=snapshots,
        artefact=artefact,
        save_every=batches.of_epoch,
        show_progress=show_progress,
        what=f"expert {first}" if size == 1 else f"experts {first} to {first + size - 1}",
    )


@dataclasses.dataclass(frozen=True)
class Flat:
    """An objective whose gradient is GSAM's of another one, as the head of this file has it.

    Attributes:
        objective: the other one.
        sharpness: the distance that it looks ahead, relative to the parameters.
        balance: the weight of the surrogate gap.
    """

    objective: Supervised
    sharpness: float
    balance: float

    def __call__(self, variables: Variables, batch: Batch, key: Array) -> Evaluated:
        """Return the objective at w, with the gradient of GSAM."""
        fixed = jax.lax.stop_gradient(variables["params"])

        def loss(params: Variables) -> tuple[Array, Evaluated]:
            evaluated = self.objective({**variables, "params": params}, batch, key)
            return evaluated.loss, evaluated

        at, evaluated = jax.grad(loss, has_aux=True)(fixed)
        size = _norm(jax.tree.map(lambda w, g: jnp.abs(w) * g, fixed, at)) + 1e-12
        shifted = jax.tree.map(lambda w, g: w + self.sharpness * w**2 * g / size, fixed, at)
        beside = jax.grad(lambda params: loss(params)[0])(shifted)
        product = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(at), jax.tree.leaves(beside)))
        along = product / (_norm(beside) ** 2 + 1e-12)  # cos(g_0, g) |g_0| / |g|
        gradient = jax.tree.map(lambda a, b: b - self.balance * (a - along * b), at, beside)
        # The value of the loss, and a linear function of the parameters that has this gradient.
        slope = sum(
            jnp.vdot(jax.lax.stop_gradient(g), w - w0)
            for g, w, w0 in zip(*(jax.tree.leaves(tree) for tree in (gradient, variables["params"], fixed)))
        )
        return evaluated._replace(loss=jax.lax.stop_gradient(evaluated.loss) + slope)


def _norm(tree: Variables) -> Array:
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))
