"""Training by plain gradient descent, differentiable with respect to the images, their labels, and the learning rates.

A network takes steps on batches b_0, b_1, ... of a small set of images x with labels y,

    theta_{i+1} = theta_i - r_i g_i,      g_i = grad_theta L(theta_i; x[b_i], y[b_i]),

and any loss of theta_N is pulled back to x, y and r. With its gradient v_N with respect to theta_N, from the last step
to the first:

    s_i(theta, x, y) = v_{i+1} . grad_theta L(theta; x, y)          a number: the slope of L along v_{i+1}
    dr_i = -s_i,    dx = -r_i ds_i/dx,    dy = -r_i ds_i/dy,    v_i = v_{i+1} - r_i ds_i/dtheta

s_i is a forward derivative (`jax.jvp`) of L, and one reverse pass over it gives all of its gradients. No second
derivative is stored and nothing is differentiated twice in reverse.

Every step is a call of one compiled function and not a turn of a compiled loop: compiling takes as long for one step as
for a hundred, and XLA's loops on CPUs run convolutions 40 times slower (seen in JAX 0.10.2). Only theta_i is kept, the
memory that `jax.lax.scan` with `jax.checkpoint` would need too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kip.networks import Model
from kip.training.augment import Augmentation, augment_images
from kip.training.losses import Loss, per_example


class LearnedSet(NamedTuple):
    """The set that a network learns from; each part can be learned.

    Attributes:
        images: x (n, H, W, C).
        labels: y (n, c).
        rates: r (k,): the rate of each step, or one for all.
    """

    images: Any
    labels: Any
    rates: Any


class Draw(NamedTuple):
    """The draw of one step.

    Attributes:
        indices: those of its batch, (b,).
        key: the key of its augmentation.
        rate: the index of its rate, int.
    """

    indices: Any
    key: Any
    rate: Any = 0


@dataclasses.dataclass(frozen=True)
class Student:
    """The loss of a step; hashable, since it identifies a compiled step.

    Attributes:
        model: the network, without batch normalisation.
        loss: the name of the loss.
        augment: the augmentation of a step's images.
    """

    model: Model
    loss: Loss
    augment: Augmentation = "none"

    def __call__(self, params: Any, images: Array, labels: Array, key: Array) -> Array:
        """Return L of a batch, ()."""
        images = augment_images(self.augment, key, images)
        outputs = self.model.apply({"params": params}, images, train=True)
        return per_example(self.loss, outputs.logits, labels).mean()


def slope_and_gradients(
    loss: Callable[[Any, Any], Array], params: Any, learned: Any, direction: Any
) -> tuple[Array, tuple[Any, Any]]:
    """Return s = direction . grad_params loss(params, learned), and its gradients with respect to both.

    It is reverse over forward: about the time of one more gradient, and the memory of one.
    """

    def slope(params: Any, learned: Any) -> Array:
        return jax.jvp(lambda params: loss(params, learned), (params,), (direction,))[1]

    return jax.value_and_grad(slope, (0, 1))(params, learned)


def unroll(student: Student, params: Any, learned: LearnedSet, draws: Sequence[Draw]) -> list[Any]:
    """Return theta_0, ..., theta_N, pytrees of parameters."""
    trajectory = [params]
    for draw in draws:
        trajectory.append(_move(trajectory[-1], learned, draw, student=student))
    return trajectory


def pull_back_path(
    student: Student,
    trajectory: Sequence[Any],
    learned: LearnedSet,
    draws: Sequence[Draw],
    cotangent: Any,
    *,
    through_parameters: bool = True,
) -> LearnedSet:
    """Return the gradient of a loss of theta_N with respect to images, labels and rates.

    Args:
        student: the loss of a step.
        trajectory: the parameters of `unroll`.
        learned: images, labels and rates.
        draws: the draw of each step.
        cotangent: the gradient of the loss with respect to theta_N.
        through_parameters: whether the effect of a step on the parameters of later steps counts; without it,
            v_i = v_N, and the gradient is truncated.
    """
    gradient = jax.tree.map(jnp.zeros_like, learned)
    for params, draw in zip(trajectory[-2::-1], reversed(draws), strict=True):
        cotangent, gradient = _pull(
            params, learned, draw, cotangent, gradient, student=student, through=through_parameters
        )
    return gradient


@partial(jax.jit, static_argnames=("student",))
def _move(params: Any, learned: LearnedSet, draw: Draw, *, student: Student) -> Any:
    batch = learned.images[draw.indices], learned.labels[draw.indices]
    gradient = jax.grad(student)(params, *batch, draw.key)
    return jax.tree.map(lambda p, g: p - learned.rates[draw.rate] * g, params, gradient)


@partial(jax.jit, static_argnames=("student", "through"))
def _pull(
    params: Any,
    learned: LearnedSet,
    draw: Draw,
    cotangent: Any,
    gradient: LearnedSet,
    *,
    student: Student,
    through: bool,
) -> tuple[Any, LearnedSet]:
    rate, indices = learned.rates[draw.rate], draw.indices

    def loss(params: Any, batch: tuple[Array, Array]) -> Array:
        return student(params, *batch, draw.key)

    batch = learned.images[indices], learned.labels[indices]
    slope, (to_params, (to_images, to_labels)) = slope_and_gradients(loss, params, batch, cotangent)
    if through:
        cotangent = jax.tree.map(lambda v, g: v - rate * g, cotangent, to_params)
    return cotangent, LearnedSet(
        gradient.images.at[indices].add(-rate * to_images),
        gradient.labels.at[indices].add(-rate * to_labels),
        gradient.rates.at[draw.rate].add(-slope),
    )
