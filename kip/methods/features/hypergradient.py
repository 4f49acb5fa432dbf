"""The student of RCIG, a linearised network that is solved, and the gradient through its solution.

The mathematics are those of `kip.methods.features.rcig`, whose letters these are.

Reference: Loo, Hasani, Lechner, Rus 2023, "Dataset Distillation with Convexified Implicit Gradients"; public code,
`algorithms.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from kip import krr
from kip.methods.descent import Parameters
from kip.networks.model import READOUT, Model, Variables
from kip.precision import AnyArray
from kip.training.augment import with_mirrors
from kip.training.predict import device_parts

Tangents = Variables
"""A pytree of arrays in the structure of `tangent_parameters(parameters)`."""
Scalar = Union[float, np.floating, AnyArray]
"""A number, or an array of one."""
Pull = Callable[[Array], tuple[Tangents]]
"""The function that pulls a cotangent of outputs back to tangents; a pytree."""


class Student(NamedTuple):
    """A student; hashable, since it is static in compiled functions.

    Attributes:
        model: the network that is linearised.
        ridge: lam.
        mirror: whether it learns the mirror images of the set too.
    """

    model: Model
    ridge: krr.Ridge
    mirror: bool = False

    def see(self, images: AnyArray, labels: AnyArray) -> tuple[Array, Array]:
        """Return the images and labels that the student learns: the set, followed by its mirror images if `mirror`."""
        return with_mirrors(images, labels) if self.mirror else (jnp.asarray(images), jnp.asarray(labels))

    def linearise(self, base: Variables, images: Array) -> tuple[Array, Callable[[Tangents], Array]]:
        """Return the features h (N, d) of images, and the function that takes tangents t to outputs o (N, c).

        Args:
            base: the variables w of the network.
            images: (N, H, W, C).
        """
        kernel = base["params"][READOUT]["kernel"]

        def outputs(parameters: Variables) -> tuple[Array, Array]:
            readout = {**parameters[READOUT], "kernel": kernel}
            result = self.model.apply({**base, "params": {**parameters, READOUT: readout}}, images)
            return result.logits, result.features

        (_, features), push = jax.linearize(outputs, tangent_parameters(base["params"]))
        return features, lambda tangents: push(tangents)[0]


def tangent_parameters(parameters: Variables) -> Tangents:
    """Return the parameters that have tangents: all but the last layer's kernel."""
    readout = {name: leaf for name, leaf in parameters[READOUT].items() if name != "kernel"}
    return {**parameters, READOUT: readout}


def inner_loss(student: Student, base: Variables, images: Array, labels: Array, tangents: Tangents) -> Array:
    """Return l(t, S) of the images that the student learns (`Student.see`)."""
    features, push = student.linearise(base, images)
    residual = labels - push(tangents)
    alpha = krr.solve(features @ features.T, residual, student.ridge)
    return student.ridge.strength / (2 * residual.size) * (jnp.sum(residual * alpha) + _dot(tangents, tangents))


def outer_loss(
    student: Student, base: Variables, set_: Parameters, tangents: Tangents, target: Array, target_labels: AnyArray
) -> Array:
    """Return L(t, S): the plain path beside `hypergradient`.

    Args:
        student: the student.
        base: the variables of its network.
        set_: `images` (n, H, W, C), `labels` (n, c) and `scale`, s, ().
        tangents: t.
        target: X_t (m, H, W, C).
        target_labels: Y_t (m, c); their largest entry is the class.
    """
    features, push = student.linearise(base, target)
    return _of_features(student, base, set_, tangents, features, push(tangents), target_labels)[0]


class Descent(NamedTuple):
    """The end of a descent, and the value before each of its steps, a tuple of scalars on the device."""

    at: Tangents
    values: tuple[Array, ...]


def learn(student: Student, base: Variables, images: Array, labels: Array, rate: Scalar, *, steps: int) -> Descent:
    """Return the tangents that a student learns, from 0, by Adam on its inner loss.

    Args:
        student: the student.
        base: the variables of its network.
        images: the images that it learns, of `Student.see`.
        labels: their labels.
        rate: the learning rate.
        steps: the number of steps.
    """
    nothing = jax.tree.map(jnp.zeros_like, tangent_parameters(base["params"]))
    return _descend(student, base, images, labels, nothing, rate, steps)


def inverse_product(
    student: Student, base: Variables, images: Array, gradient: Tangents, num_classes: int, rate: Scalar, *, steps: int
) -> Descent:
    """Return v, near H^-1 g, from 0, by Adam on 1/2 v.Hv - g.v, where g is `gradient`; otherwise as `learn`."""
    return _descend(student, base, images, jnp.zeros((len(images), num_classes), images.dtype), gradient, rate, steps)


class Outer(NamedTuple):
    """The outer loss, and its gradients.

    Attributes:
        loss: L.
        are_right: which target images are classified right, (m,) bool.
        k_ss: K, (n, n), of the images that the student learns.
        direct: the gradient with respect to the set at fixed tangents: `images`, `labels` and `scale`.
        tangents: g, the gradient with respect to the tangents.
        outputs: the gradient with respect to the outputs o of the target images alone, (m, c).
    """

    loss: Array
    are_right: Array
    k_ss: Array
    direct: Parameters
    tangents: Tangents
    outputs: Array


def outer_gradients(
    student: Student, base: Variables, set_: Parameters, tangents: Tangents, target: AnyArray, target_labels: AnyArray
) -> Outer:
    """Return `outer_loss` and its gradients; arguments are the same. A network sees some target images at a time."""
    parts = device_parts(student.model, target)
    features, outputs = map(
        jnp.concatenate, zip(*(_features_and_outputs(student, base, tangents, part) for part in parts))
    )
    outer = _head(student, base, set_, tangents, features, outputs, target_labels)
    gradient, first = outer.tangents, 0
    for part in parts:
        gradient = _pull_to_tangents(student, base, part, outer.outputs[first : first + len(part)], gradient)
        first += len(part)
    return outer._replace(tangents=gradient)


def implicit_gradient(
    student: Student, base: Variables, set_: Parameters, tangents: Tangents, product: Tangents
) -> Parameters:
    """Return -(d2l/dS dt) v for images, labels and scale, with v = H^-1 g; that of the scale is 0."""

    def along(set_: Parameters) -> Array:
        lesson = student.see(set_["images"], set_["labels"])
        slope = jax.jvp(lambda tangents: inner_loss(student, base, *lesson, tangents), (tangents,), (product,))[1]
        return -slope

    return jax.grad(along)(set_)


class Hypergradient(NamedTuple):
    """The outer loss of a set, and its gradient.

    Attributes:
        loss: L.
        gradient: with respect to `images`, `labels` and `scale`.
        are_right: which target images are classified right, (m,) bool.
        k_ss: K, (n, n), of the images that the student learns.
        inner_losses: the inner loss before each step of the tangents, (inner steps,), on the host.
        solver_losses: 1/2 v.Hv - g.v before each step of v, likewise.
    """

    loss: Array
    gradient: Parameters
    are_right: Array
    k_ss: Array
    inner_losses: np.ndarray
    solver_losses: np.ndarray


def hypergradient(
    student: Student,
    base: Variables,
    set_: Parameters,
    target: AnyArray,
    target_labels: AnyArray,
    inner_rate: Scalar,
    solver_rate: Scalar,
    *,
    inner_steps: int,
    solver_steps: int,
    clip: bool,
) -> Hypergradient:
    """Return the outer loss of a set at the student that learns it, and its gradient with respect to the set.

    Args:
        student: the student.
        base: the variables of its network.
        set_: `images`, `labels` and `scale`; see `outer_loss`.
        target: X_t (m, H, W, C).
        target_labels: Y_t (m, c).
        inner_rate: the learning rate of the tangents.
        solver_rate: the learning rate of H^-1 g.
        inner_steps: the number of steps of the tangents.
        solver_steps: the number of steps of H^-1 g.
        clip: whether each part of the implicit gradient is at most as long as that of the direct one.
    """
    # Features go into a regression that float32's last digits decide.
    with jax.default_matmul_precision("highest"):
        lesson = student.see(set_["images"], set_["labels"])
        tangents, inner_losses = learn(student, base, *lesson, inner_rate, steps=inner_steps)
        outer = outer_gradients(student, base, set_, tangents, target, target_labels)
        product, values = inverse_product(
            student, base, lesson[0], outer.tangents, lesson[1].shape[1], solver_rate, steps=solver_steps
        )
        whole = _add_implicit(student, base, set_, tangents, product, outer.direct, clip)
    return Hypergradient(outer.loss, whole, outer.are_right, outer.k_ss, np.stack(inner_losses), np.stack(values))


def _of_features(
    student: Student,
    base: Variables,
    set_: Parameters,
    tangents: Tangents,
    features: Array,
    outputs: Array,
    target_labels: AnyArray,
) -> tuple[Array, tuple[Array, Array]]:
    """Return L, given the features and outputs o of the target images, with the predictions and K."""
    images, labels = student.see(set_["images"], set_["labels"])
    support, push = student.linearise(base, images)
    k_ss = support @ support.T
    alpha = krr.solve(k_ss, labels - push(tangents), student.ridge)
    predictions = outputs + features @ (support.T @ alpha)
    wrong = optax.softmax_cross_entropy_with_integer_labels(
        jnp.exp(set_["scale"]) * predictions, target_labels.argmax(axis=1)
    )
    largest = jax.lax.top_k(set_["labels"], 2)[0]
    margin = jnp.minimum(largest[:, 0] - largest[:, 1], 1 / (2 * labels.shape[1]))
    return jnp.mean(wrong) - jnp.mean(margin), (predictions, k_ss)


@partial(jax.jit, static_argnames=("student",))
def _head(
    student: Student,
    base: Variables,
    set_: Parameters,
    tangents: Tangents,
    features: Array,
    outputs: Array,
    target_labels: AnyArray,
) -> Outer:
    """Return L and its gradients: of the set, of the tangents through the set alone, and of the targets' outputs."""
    (loss, (predictions, k_ss)), gradients = jax.value_and_grad(_of_features, argnums=(2, 3, 5), has_aux=True)(
        student, base, set_, tangents, features, outputs, target_labels
    )
    return Outer(loss, predictions.argmax(axis=1) == target_labels.argmax(axis=1), k_ss, *gradients)


@partial(jax.jit, static_argnames=("student",))
def _features_and_outputs(student: Student, base: Variables, tangents: Tangents, images: Array) -> tuple[Array, Array]:
    features, push = student.linearise(base, images)
    return features, push(tangents)


@partial(jax.jit, static_argnames=("student",))
def _pull_to_tangents(
    student: Student, base: Variables, images: Array, to_outputs: Array, gradient: Tangents
) -> Tangents:
    """Return a gradient of the tangents with the part through the outputs of some target images added."""
    (more,) = jax.linear_transpose(student.linearise(base, images)[1], gradient)(to_outputs)
    return jax.tree.map(jnp.add, gradient, more)


@partial(jax.jit, static_argnames=("student", "clip"))
def _add_implicit(
    student: Student,
    base: Variables,
    set_: Parameters,
    tangents: Tangents,
    product: Tangents,
    direct: Parameters,
    clip: bool,
) -> Parameters:
    implicit = implicit_gradient(student, base, set_, tangents, product)
    if clip:
        implicit = jax.tree.map(_at_most_as_long, implicit, direct)
    return jax.tree.map(jnp.add, direct, implicit)


def _descend(
    student: Student, base: Variables, images: Array, labels: Array, gradient: Tangents, rate: Scalar, steps: int
) -> Descent:
    # A compiled step at a time: within a compiled loop, XLA's convolutions take six times as long on CPUs.
    k_ss, pull = _kernel_and_pull(student, base, images)
    at, values = jax.tree.map(jnp.zeros_like, gradient), []
    memory = optax.scale_by_adam().init(at)
    for _ in range(steps):
        at, memory, before = _adam(student.ridge, k_ss, pull, labels, gradient, rate, at, memory)
        values.append(before)
    return Descent(at, tuple(values))


@partial(jax.jit, static_argnames=("student",))
def _kernel_and_pull(student: Student, base: Variables, images: Array) -> tuple[Array, Pull]:
    """Return K, and the function that pulls a cotangent of outputs o back to tangents, a pytree."""
    features, push = student.linearise(base, images)
    _, pull = jax.vjp(push, jax.tree.map(jnp.zeros_like, tangent_parameters(base["params"])))
    return features @ features.T, pull


@partial(jax.jit, static_argnames=("ridge",))
def _adam(
    ridge: krr.Ridge,
    k_ss: Array,
    pull: Pull,
    labels: Array,
    gradient: Tangents,
    rate: Scalar,
    at: Tangents,
    memory: optax.OptState,
) -> tuple[Tangents, optax.OptState, Array]:
    """Return tangents after one step of Adam on l(t, S) - g.t, the optimiser's state, and the value before.

    The outputs are o = J t, J^T is `pull`, and dl/dt = (lam t - J^T lam alpha) / (n c).
    """
    (outputs,) = jax.linear_transpose(lambda cotangent: pull(cotangent)[0], labels)(at)
    residual = labels - outputs
    alpha = krr.solve(k_ss, residual, ridge)
    weight = ridge.strength / residual.size
    before = weight / 2 * (jnp.sum(residual * alpha) + _dot(at, at)) - _dot(gradient, at)
    slope = jax.tree.map(lambda t, pulled, g: weight * (t - pulled) - g, at, pull(alpha)[0], gradient)
    updates, memory = optax.scale_by_adam().update(slope, memory)
    return jax.tree.map(lambda leaf, update: leaf - rate * update, at, updates), memory, before


def _dot(a: Tangents, b: Tangents) -> Array:
    return reduce(jnp.add, map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))


def _at_most_as_long(part: Array, longest: Array) -> Array:
    length = jnp.linalg.norm(part)
    return part * jnp.minimum(1.0, jnp.linalg.norm(longest) / jnp.where(length > 0, length, 1.0))
