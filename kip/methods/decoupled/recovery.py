"""Recovery: images that a squeezed network classifies right, with the statistics that it keeps.

    L(x) = CE(f(x), y) + strength * sum_l w_l ( variance * |var_l(x) - RV_l|_2 + |mean_l(x) - RM_l|_2 )

over the inputs of batch normalisations l, var_l and mean_l over a batch of one image of each class (variance divided by
its size), RV_l and RM_l the running statistics of its training, w_l = 10 for the first layer and 1 for the others; the
network is in test mode.

Reference: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel" (SRe2L), equation 6; public code for small images. Du et
al. 2024, "Diversity-Driven Synthesis" (DWA), for `variance`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kip.networks.model import Model
from kip.training.losses import per_example

FIRST_LAYER = 10.0
"""The weight of the first layer's statistics."""


def statistics_distance(model: Model, variables: Any, images: Array, *, variance: float = 1.0) -> Array:
    """Return the weighted distance of a batch's statistics from those that a network keeps, ().

    Args:
        model: a network with batch normalisation.
        variables: the network's, with its running statistics.
        images: (b, H, W, C).
        variance: the weight of variances against means.
    """
    moments, kept = model.moments(variables, images), variables["batch_stats"]
    names = sorted(kept, key=_number)
    total = jnp.zeros(())
    for place, name in enumerate(names):
        pairs = zip(_layers(moments[name]), _layers(kept[name]), strict=True)
        for ours, theirs in pairs:
            distance = variance * norm(ours["var"] - theirs["var"]) + norm(ours["mean"] - theirs["mean"])
            total = total + (1.0 if place else FIRST_LAYER) * distance
    return total


def recovery_loss(
    model: Model, variables: Any, images: Array, labels: Array, *, strength: float, variance: float = 1.0
) -> tuple[Array, Array]:
    """Return L, (), and the logits of the images, (b, c).

    Args:
        model: a network with batch normalisation.
        variables: the network's.
        images: (b, H, W, C).
        labels: one-hot (b, c).
        strength: the weight of the statistics.
        variance: see `statistics_distance`.
    """
    logits = model.apply(variables, images).logits
    loss = per_example("xent", logits, labels).mean()
    return loss + strength * statistics_distance(model, variables, images, variance=variance), logits


def roll_images(key: Array, images: Array, most: int) -> Array:
    """Return images shifted around their borders by one draw of up to `most` pixels along each axis."""
    down, right = jax.random.randint(key, (2,), -most, most + 1)
    return jnp.roll(images, (down, right), (1, 2))


def _number(name: str) -> int:
    """Return the number at the end of a layer's name: Flax counts layers of a kind in their order."""
    return int(name.rsplit("_", 1)[1])


def _layers(tree: Any) -> list[Any]:
    """Return the parts of a tree that have a mean and a variance."""
    if "mean" in tree:
        return [tree]
    return [layer for name in sorted(tree) for layer in _layers(tree[name])]


def norm(difference: Array) -> Array:
    """Return the Euclidean norm, whose derivative at zero is zero."""
    squares = jnp.sum(difference**2)
    return jnp.where(squares == 0, 0.0, jnp.sqrt(jnp.where(squares == 0, 1.0, squares)))
