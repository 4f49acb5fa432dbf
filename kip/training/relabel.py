"""Relabelling: teachers' logits for every view that a training will see, made once and stored (FKD).

The views of a training are a function of a key: update k of a recipe sees the images that `Batches` draws from it,
augmented and mixed by the k-th of the keys that it gives. A store holds, for each update, the mean of the teachers'
logits for its views as float16, and the key of its draws, by which anyone can make the views again. Networks that learn
from it see these views and no teacher; they differ in their initial parameters alone.

    CACHE/artefacts/labels-of-views-91ab....npz     some updates each: `logits` (images, c) float16, `keys` (updates, 2)

Parts are written one after the other; a kill loses the one that was being made. With n images in an epoch, c classes,
u updates and E epochs, a store takes E (2 n c + 8 u) bytes.

References: Shen and Xing 2022, "A Fast Knowledge Distillation Framework for Visual Recognition" (FKD); Yin, Xing, Shen
2023, "Squeeze, Recover and Relabel".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.config import to_dict
from kip.errors import DataError, NonFiniteError
from kip.networks import Model
from kip.storage.artefacts import Artefact, Store, digest, share_out
from kip.training.batches import Batches
from kip.training.recipe import Recipe
from kip.training.supervised import Labeller, Supervised

PARTS = 10
"""The number of parts of a store, if none of them is too large."""
PART_BYTES = 2**26
"""The largest size of a part's logits, in bytes; an epoch is never cut."""
KEY_NUMBERS = 2
"""Numbers of 32 bits that make a key."""


class StoredLabels:
    """Labels of the views of every update, in files; one part of them is in memory.

    Args:
        parts: the artefacts, each with the labels of `updates` updates; the last may have fewer.
        updates: the number of updates of a part.
        recipe: the training that the labels are for.
        count: images of the set.
        outputs: c.
    """

    def __init__(self, parts: Sequence[Artefact], updates: int, recipe: Recipe, count: int, outputs: int):
        self._parts, self._updates, self._recipe, self._outputs = parts, updates, recipe, outputs
        self._batches = Batches(count, recipe.batch, recipe.drawn)

    def like(self, part: int) -> dict[str, np.ndarray]:
        """Return arrays of the shapes and types of a part."""
        lengths = self._lengths(part)
        return {
            "logits": np.zeros((sum(lengths), self._outputs), np.float16),
            "keys": np.zeros((len(lengths), KEY_NUMBERS), np.uint32),
        }

    def reader(self) -> Callable[[int], Array]:
        """Return a function that gives the labels of an update, (b, c) float16; each training takes its own.

        Raises, from the function:
            DataError: if a part was removed or damaged since it was made.
        """
        held: list[Any] = [None, None, None]  # the part's number, its labels, where each update's begin

        def labels(step: int) -> Array:
            part, place = divmod(step, self._updates)
            if held[0] != part:
                loaded = self._parts[part].load(self.like(part))
                if loaded is None:
                    raise DataError(
                        f"stored labels {self._parts[part].path} cannot be read",
                        remedy="Run the same command again: they are made again.",
                    )
                held[:] = part, loaded["logits"], np.cumsum([0, *self._lengths(part)])
            return jnp.asarray(held[1][held[2][place] : held[2][place + 1]])

        return labels

    @property
    def num_bytes(self) -> int:
        """The size of all labels and keys, in bytes."""
        return sum(array.nbytes for part in range(len(self._parts)) for array in self.like(part).values())

    def _lengths(self, part: int) -> list[int]:
        """Return the number of images of each update of a part."""
        first = part * self._updates
        last = min(first + self._updates, self._recipe.steps)
        return [self._batches.length(step) for step in range(first, last)]


def relabel(
    teachers: Sequence[Labeller],
    recipe: Recipe,
    images: np.ndarray,
    views: Array,
    store: Store,
    *,
    what: str = "labels of views",
) -> StoredLabels:
    """Return the teachers' labels for all views of a training; parts that are not there yet are made.

    Args:
        teachers: networks in test mode, or with each batch's statistics if `batch_statistics`; their logits are
            averaged.
        recipe: the training: its batches, its length, and its augmentation.
        images: the set, (n, H, W, C), preprocessed.
        views: the key of the training's batches and augmentations.
        store: keeps the parts.
        what: the name of the labels, for the bar.

    Raises:
        NonFiniteError: if logits are not finite in float16.
    """
    batches = Batches(len(images), recipe.batch, recipe.drawn)
    outputs = teachers[0].model.num_outputs
    updates = _updates_of_part(recipe, batches, outputs)
    identity = {
        "images": digest(images),
        "views": jax.random.key_data(views).tolist(),
        "recipe": {name: getattr(recipe, name) for name in ("steps", "batch", "drawn", "augment", "mix")},
        "teachers": [
            {
                "network": to_dict(teacher.model.network),
                "outputs": outputs,
                "batch": teacher.batch_statistics,
                "variables": digest(*(np.asarray(leaf) for leaf in jax.tree.leaves(teacher.variables))),
            }
            for teacher in teachers
        ],
    }
    count = -(-recipe.steps // updates)
    parts = [store.artefact("labels-of-views", {**identity, "part": part, "updates": updates}) for part in range(count)]
    stored = StoredLabels(parts, updates, recipe, len(images), outputs)
    on_device = jnp.asarray(images)
    with store.progress(recipe.steps, what) as bar:
        for number in share_out(parts):
            part, like = parts[number], stored.like(number)
            steps = range(number * updates, number * updates + len(like["keys"]))
            if part.load(like) is None:
                part.save(_part(teachers, recipe, batches, on_device, views, steps, like))
            bar.update(len(steps))
    return stored


def stored_bytes(recipe: Recipe, count: int, outputs: int) -> int:
    """Return the bytes that stored labels take for a training on `count` images with `outputs` logits each."""
    batches = Batches(count, recipe.batch, recipe.drawn)
    of_epoch = sum(batches.length(step) for step in range(batches.of_epoch))
    epochs, rest = divmod(recipe.steps, batches.of_epoch)
    seen = epochs * of_epoch + sum(batches.length(step) for step in range(rest))
    return 2 * seen * outputs + 4 * KEY_NUMBERS * recipe.steps


def _updates_of_part(recipe: Recipe, batches: Batches, outputs: int) -> int:
    """Return the number of updates of a part: whole epochs, a tenth of all if they are small enough."""
    epochs = -(-recipe.steps // batches.of_epoch)
    epoch_bytes = 2 * outputs * sum(batches.length(step) for step in range(batches.of_epoch))
    return batches.of_epoch * max(1, min(-(-epochs // PARTS), PART_BYTES // epoch_bytes))


def _part(
    teachers: Sequence[Labeller],
    recipe: Recipe,
    batches: Batches,
    images: Array,
    views: Array,
    steps: range,
    like: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the labels and keys of some updates."""
    first = 0
    for place, step in enumerate(steps):
        length = batches.length(step)
        logits = [
            _logits(
                teacher.variables,
                images,
                views,
                step,
                model=teacher.model,
                batch_statistics=teacher.batch_statistics,
                recipe=recipe,
                batches=batches,
                length=length,
            )
            for teacher in teachers
        ]
        with np.errstate(over="ignore"):
            mean = np.mean([np.asarray(part, np.float32) for part in logits], axis=0).astype(np.float16)
        if not np.isfinite(mean).all():
            raise NonFiniteError(
                "a teacher's logits are NaN or too large for float16", remedy="Train it with a lower learning rate."
            )
        like["logits"][first : first + length] = mean
        like["keys"][place] = np.asarray(jax.random.key_data(of_update(views, step)))
        first += length
    return like


def of_update(views: Array, step: int | Array) -> Array:
    """Return the key of an update's augmentation, as `kip.training.loop` folds it."""
    return jax.random.fold_in(jax.random.fold_in(views, 2), step)


@partial(jax.jit, static_argnames=("model", "batch_statistics", "recipe", "batches", "length"))
def _logits(
    variables: Any,
    images: Array,
    views: Array,
    step: Array,
    *,
    model: Model,
    batch_statistics: bool,
    recipe: Recipe,
    batches: Batches,
    length: int,
) -> Array:
    """Return a teacher's logits for the views of an update, (length, c)."""
    objective = Supervised(model, recipe.loss, augment=recipe.augment, mix=recipe.mix)
    indices = batches.indices(jax.random.fold_in(views, 1), step, length)
    seen = objective.view(of_update(views, step), images[indices]).images
    return model.apply(variables, seen, train=batch_statistics).logits
