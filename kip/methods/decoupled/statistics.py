"""Statistics of the inputs of a network's layers: of a batch, of a batch with a memory, and of all train images.

The statistics of the input x of a layer, (N, H, W, C), are

| part | over | shape |
|---|---|---|
| `mean`, `var` | images and positions | (C,) |
| `cell_mean`, `cell_var` | images, channels and the 4x4 positions of a cell; convolutions only | (cells,) |

Variances are divided by the number of values. Sides that are no multiples of 4 are brought to the next one by linear
interpolation before they are cut into cells.

The statistics of all train images are those of the images as they are, each counted once. The public code of G-VBSM
averages the variances within augmented batches of 64 instead.

References: Shao et al. 2024, "Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching"
(G-VBSM), section 3; Shao et al. 2024, "Elucidating the Design Space of Dataset Condensation" (EDC), for statistics of
each class; public code of both.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.config import to_dict
from kip.methods.problem import Problem
from kip.networks.model import Model, Variables
from kip.storage.artefacts import Store, digest
from kip.training.predict import rows_at_once

CELL = 4
"""Pixels of a side of a cell."""
SAVES = 10
"""The number of times that a pass over the train images is saved."""
Layers = dict[str, dict[str, Any]]
"""Arrays by layer and part."""


def of_batch(inputs: dict[str, Array]) -> Layers:
    """Return the statistics of a batch.

    Args:
        inputs: the input of each layer, of `Model.layer_inputs`.
    """
    made: Layers = {}
    for name, x in inputs.items():
        axes = tuple(range(x.ndim - 1))
        made[name] = {"mean": x.mean(axes), "var": x.var(axes)}
        if name.startswith("Conv"):
            within = cells(x)
            made[name] |= {"cell_mean": within.mean((0, 2)), "cell_var": within.var((0, 2))}
    return made


def of_images(inputs: dict[str, Array]) -> Layers:
    """Return the statistics of each image by itself, (N, size); a number of (N, d) is its own mean, its variance 0."""
    made: Layers = {}
    for name, x in inputs.items():
        axes = tuple(range(1, x.ndim - 1))
        made[name] = {"mean": x.mean(axes), "var": x.var(axes)}
        if name.startswith("Conv"):
            within = cells(x)
            made[name] |= {"cell_mean": within.mean(2), "cell_var": within.var(2)}
    return made


def cells(x: Array) -> Array:
    """Return the values of each cell of images, (N, cells, values): (N, H, W, C) cut into squares of 4x4 positions."""
    count, height, width, channels = x.shape
    height, width = (-(-side // CELL) * CELL for side in (height, width))
    if (height, width) != x.shape[1:3]:
        x = jax.image.resize(x, (count, height, width, channels), "linear")
    cut = x.reshape(count, height // CELL, CELL, width // CELL, CELL, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(count, -1, CELL * CELL * channels)


def empty(layers: Layers) -> Layers:
    """Return a memory before its first batch: zeros, and a count of batches for each layer."""
    return {
        name: {"count": jnp.zeros(()), **{part: jnp.zeros(like.shape, like.dtype) for part, like in parts.items()}}
        for name, parts in layers.items()
    }


def remember(
    memory: Layers, batch: Layers, momentum: float, *, corrected: bool, kept: dict[str, Array]
) -> tuple[Layers, Layers]:
    """Return a memory after a batch, and the statistics that are matched.

        e <- momentum e + (1 - momentum) s,       matched = stop(e / (1 - momentum^k)) + s - stop(s)

    for the statistics s of the k-th batch: the memory gives the value, and the batch the gradient.

    Args:
        memory: e, of `empty` or of the batch before.
        batch: s.
        momentum: the weight of the past.
        corrected: whether e is divided by 1 - momentum^k, the weight that it has of batches. Without it, e is too small
            at first, since it begins at zero.
        kept: layers that may be left out of a batch, each with whether it counts, (); the memory of one that does not
            stays as it is.
    """
    after: Layers = {}
    matched: Layers = {}
    for name, parts in batch.items():
        counts = kept.get(name, jnp.array(True))
        count = memory[name]["count"] + counts
        weight = 1 - momentum**count if corrected else jnp.ones(())
        after[name], matched[name] = {"count": count}, {}
        for part, ours in parts.items():
            old, value = memory[name][part], jax.lax.stop_gradient(ours)
            new = jnp.where(counts, momentum * old + (1 - momentum) * value, old)
            after[name][part] = new
            matched[name][part] = new / jnp.where(weight > 0, weight, 1.0) + ours - value
    return after, matched


def of_train_images(model: Model, variables: Variables, problem: Problem, store: Store, *, every: bool) -> Layers:
    """Return the mean over the images of each class of their own statistics, (classes, size), and of squared means.

    The squares are under `mean_square` and `cell_mean_square`: with them `pool_statistics` gives the statistics of all
    images. The pass is made once, and saved ten times on the way.

    Args:
        model: the network.
        variables: its own.
        problem: gives the train images.
        store: keeps the statistics.
        every: whether all layers are taken, or convolutions only.
    """
    rows = rows_at_once(model, problem.inputs)
    identity = {
        "network": to_dict(model.network),
        "rows": rows,
        "every": every,
        "variables": digest(*(np.asarray(leaf) for leaf in jax.tree.leaves(variables))),
        "set": digest(problem.inputs, problem.labels),
    }
    artefact = store.artefact("statistics", identity, shared=True)
    firsts = range(0, len(problem.inputs), rows)
    shapes = jax.eval_shape(partial(_of_some, model=model, every=every), variables, problem.inputs[:1])
    sums = jax.tree.map(lambda like: np.zeros((problem.num_classes, *like.shape[1:])), shapes)
    state: dict[str, Any] = {"done": np.asarray(0), "sums": sums}
    with artefact.made_once():
        if (saved := artefact.load(state)) is not None:
            state = saved
        with store.progress(len(firsts), f"statistics in {model.network.label}") as bar:
            bar.update(int(state["done"]))
            for number in range(int(state["done"]), len(firsts)):
                part = slice(firsts[number], firsts[number] + rows)
                of_part = _of_some(variables, problem.inputs[part], model=model, every=every)
                of_class = np.eye(problem.num_classes)[problem.labels[part]].T
                added = jax.tree.map(lambda x, of_class=of_class: of_class @ np.asarray(x, np.float64), of_part)
                state = {"done": np.asarray(number + 1), "sums": jax.tree.map(np.add, state["sums"], added)}
                if (number + 1) % -(-len(firsts) // SAVES) == 0 or number + 1 == len(firsts):
                    artefact.save(state)
                bar.update()
    counts = np.maximum(np.bincount(problem.labels, minlength=problem.num_classes), 1)[:, None]
    return jax.tree.map(lambda total: total / counts, state["sums"])


def pool_statistics(of_classes: Layers, counts: np.ndarray) -> Layers:
    """Return the statistics of all images from those of the images of each class.

        mean = E m,    var = E(v + m^2) - (E m)^2           of an image's own mean m and variance v

    Args:
        of_classes: of `of_train_images`.
        counts: images of each class, (classes,).
    """
    share = counts / counts.sum()
    made: Layers = {}
    for name, parts in of_classes.items():
        made[name] = {}
        for mean, var in (("mean", "var"), ("cell_mean", "cell_var")):
            if mean in parts:
                middle = share @ parts[mean]
                made[name][mean] = middle
                made[name][var] = share @ (parts[var] + parts[f"{mean}_square"]) - middle**2
    return jax.tree.map(lambda array: np.asarray(array, np.float32), made)


@partial(jax.jit, static_argnames=("model", "every"))
def _of_some(variables: Variables, images: Array, *, model: Model, every: bool) -> Layers:
    """Return the statistics of each of some images, and the squares of means, (N, size)."""
    _, inputs = model.observe(variables, images)
    made = of_images({name: x for name, x in inputs.items() if every or name.startswith("Conv")})
    for parts in made.values():
        parts |= {f"{name}_square": parts[name] ** 2 for name in ("mean", "cell_mean") if name in parts}
    return made
