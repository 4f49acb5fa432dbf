"""Training several networks: some at once where that pays, on all devices of the machine, results in their order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.networks import Model
from kip.networks.model import Variables, fresh
from kip.storage.images import Images, Lazy
from kip.training.augment import Augmentation
from kip.training.devices import over_devices
from kip.training.losses import Loss
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import Trained, train

VECTORISED = 4
"""The largest number of networks that an accelerator trains at once: more would leave other devices idle."""

FULL_BATCH = 500
"""The number of images of a set up to which an update of `train_on_set` takes all of them."""


def train_all(
    model: Model,
    recipe: Recipe,
    keys: Array,
    rates: np.ndarray,
    decays: np.ndarray,
    images: Images,
    labels: np.ndarray | Lazy,
    validation: tuple[Images, np.ndarray] | None,
    *,
    at_once: int | None = None,
    **options: Any,
) -> Trained:
    """Train r networks, some at once, on all devices of the machine; results are in the order of the keys.

    Args:
        model: as for `train`, and so are the other arguments.
        recipe: the training.
        keys: (r,).
        rates: (r,).
        decays: (r,).
        images: (N, H, W, C).
        labels: (N, c).
        validation: images and classes.
        at_once: networks that one device trains at a time; None: see `runs_at_once`. It does not depend on the number
            of devices, and so neither do the results.
        options: those of `train`.
    """
    size = at_once or runs_at_once(model, recipe, images, len(keys))
    groups = [slice(first, first + size) for first in range(0, len(keys), size)]
    parts = list(
        over_devices(
            [
                functools.partial(
                    train,
                    model,
                    recipe,
                    keys[group],
                    rates[group],
                    decays[group],
                    images,
                    labels,
                    validation,
                    **options,
                )
                for group in groups
            ]
        )
    )
    variables = [variables for part in parts for variables in part.variables]
    return Trained(variables, *(np.concatenate(field) for field in list(zip(*parts))[1:]))


def train_on_set(
    model: Model,
    optimizer: Optimizer,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    loss: Loss,
    keys: Array,
    augment: Augmentation = "none",
    average: float = 0.0,
    show_progress: bool = False,
) -> list[Variables]:
    """Return r fresh networks that learned a distilled set, in updates of 500 images or of the whole set if smaller.

    With an average of decay d, the result after k updates is the mean of the variables v_1 ... v_k after each update,
    v_i with the weight d^(k-i) (1 - d) / (1 - d^k): the initial values have no part in it.

    Args:
        model: the network.
        optimizer: its optimiser; the rate is constant or falls over `steps`.
        images: (n, H, W, C), preprocessed.
        labels: (n, c), any real targets.
        steps: updates.
        loss: the loss that it minimises.
        keys: (r,), of initial values, batches and augmentations.
        augment: the augmentation of images.
        average: d; 0 returns the variables themselves.
        show_progress: whether each training shows a bar on stderr.
    """
    recipe = Recipe(
        loss,
        optimizer=optimizer,
        steps=steps,
        batch=FULL_BATCH,
        drawn="draws",
        augment=augment,
        average=average,
        evaluations=1,
        keep="last",
    )
    rates, decays = (np.full(len(keys), rate) for rate in (optimizer.learning_rate, optimizer.weight_decay))
    trained = train_all(
        model, recipe, keys, rates, decays, images, labels, None, may_diverge=True, show_progress=show_progress
    ).variables
    if not average:
        return trained
    of_initial = average**steps  # the training's average begins as the initial values, which keep this weight

    def without_initial(key: Array, averaged: Variables) -> Variables:
        initial = fresh(model, jax.random.fold_in(key, 0), images.shape[1:])
        return jax.tree.map(lambda m, v: (m - of_initial * v) / (1 - of_initial), averaged, initial)

    return [without_initial(key, averaged) for key, averaged in zip(keys, trained)]


def runs_at_once(model: Model, recipe: Recipe, images: Images, most: int) -> int:
    """Return the number of networks that fit into an accelerator's free memory, with their updates; 1 on a CPU.

    Args:
        model: the network.
        recipe: its training.
        images: the images that it is trained on, (N, H, W, C).
        most: the largest number.
    """
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit is None:
        return 1
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images.shape[1:]))  # type: ignore[arg-type]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
    batch = images[: recipe.batch]
    gradient = jax.jit(jax.grad(lambda v, x: model.apply(v, x, train=True).logits.sum()))
    temporary = gradient.lower(variables, jax.ShapeDtypeStruct(batch.shape, jnp.float32)).compile().memory_analysis()
    # Five copies of the parameters in float32: now, best, memory, gradient, new.
    bytes_per_network = 5 * 4 * parameters + (temporary.temp_size_in_bytes if temporary else 0)
    return int(np.clip(0.7 * limit / bytes_per_network, 1, min(most, VECTORISED)))
