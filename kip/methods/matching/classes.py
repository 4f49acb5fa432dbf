"""Class by class: the batches that matching methods take, and one function over all classes.

A CPU goes through classes one after the other, since XLA's vectorised convolutions, which are grouped ones, cost it
several times as much; an accelerator takes some at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.methods.problem import Problem
from kip.networks.model import Variables
from kip.placement import platform
from kip.precision import AnyArray

AT_ONCE = 10
"""Classes that an accelerator takes at once."""


def places(class_index: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the positions of the images of each class in a balanced set, (C, n / C)."""
    return np.argsort(class_index, kind="stable").reshape(num_classes, -1)


def real_batches(problem: Problem, count: int, *, step: int) -> list[np.ndarray]:
    """Return natural images of each class, (count, H, W, C) each; all of a class where it has fewer."""
    return [problem.class_batch(label, count, purpose="real batch", step=step) for label in range(problem.num_classes)]


def over_classes(
    function: Callable[..., tuple[Array, Array]],
    in_parts: Callable[..., tuple[Array, Array]],
    shared: Sequence[Variables],
    of_classes: Sequence[Sequence[AnyArray | int]],
) -> tuple[Array, Array]:
    """Return function(*shared, *of one class) for every class, stacked along a leading axis.

    Args:
        function: hashable, jit-composable; returns a distance and a gradient.
        in_parts: gives the same for one class in a way that suits a CPU; it compiles itself.
        shared: arguments that are the same for all classes, pytrees of arrays.
        of_classes: arguments with one entry for each class.
    """
    alike = all(len({np.shape(entry) for entry in argument}) == 1 for argument in of_classes)
    if platform() == "cpu" or not alike:
        results = [in_parts(*shared, *entries) for entries in zip(*of_classes, strict=True)]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *results)
    return _some(tuple(shared), tuple(jnp.stack(list(argument)) for argument in of_classes), function=function)


def by_image(per_class: Array, where: np.ndarray) -> Array:
    """Return an array by image, (n, ...), given by class and image, (C, n / C, ...), and the positions of `places`."""
    flat = per_class.reshape(-1, *per_class.shape[2:])
    return flat[np.argsort(where.reshape(-1))]


@partial(jax.jit, static_argnames=("function",))
def _some(
    shared: tuple[Variables, ...], of_classes: tuple[Array, ...], *, function: Callable[..., tuple[Array, Array]]
) -> tuple[Array, Array]:
    return jax.lax.map(lambda entries: function(*shared, *entries), of_classes, batch_size=AT_ONCE)
