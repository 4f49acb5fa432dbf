"""LD, label distillation: soft labels for natural images, such that a network that trains on them knows the target set.

A network learns on minibatches of base examples x~ with labels y~, and at each step the labels follow the gradient of
the loss on a target batch (x, y) through that step:

    second order (head `dense`)      theta' = theta - lr grad_theta L(f_theta(x~), y~),
                                     y~ <- y~ - Adam(dL(f_theta'(x), y) / dy~)
    ridge regression (head `ridge`)  w' = (1 - rate) w + rate w_local(x~, y~),
                                     y~ <- y~ - Adam(dL(w' f_theta(x), y) / dy~)

then are clipped to [0, 1] and each row is divided by its sum. Then the network moves, by Adam (`kip.finite.learner`).
It starts anew whenever its error stops falling (`kip.finite.restarts`).

Where sources differ: the network's step of the second-order form takes the labels from before their update, that of the
ridge form those from after it, both as in the public code. The base examples are of the train split alone; the public
code draws them from the validation images too.

Reference: Bohdal, Yang, Hospedales 2020, "Flexible Dataset Distillation: Learn Labels Instead of Images".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.distill.problem import Problem, State
from kip.errors import NonFiniteError
from kip.finite import learner, restarts
from kip.finite.learner import Learner, Training, cross_entropy


@value
class LD:
    """Label distillation: learn the labels of fixed natural images."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """Base examples for each class of the target set."""
    base: Annotated[str, Field(min_length=1)] | None = None
    """The data set of the base examples, drawn without a look at classes; None: the target set, class-balanced."""
    training: Training = Training()
    """How networks learn from the set; its `head` selects the form, second order or ridge regression."""
    steps: Annotated[int, Field(ge=1)] = 20000
    """Updates at the most. The paper: 400 epochs of 50 000 images."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's, for the labels."""
    inner_learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """lr of the step that the second-order gradient goes through; head `dense` only."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """Target images of each step; None means the whole train set."""
    window: Annotated[int, Field(ge=1)] = 50
    """Steps of the moving average of the error, and of the wait for a lower one, before a restart."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """Fresh networks trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """Fresh networks trained for the accuracy on test images."""
    name: Literal["ld"] = "ld"

    @property
    def kernels(self) -> tuple[()]:
        """None: the set is made for training networks."""
        return ()

    @property
    def label(self) -> str:
        """The network, for titles."""
        return self.training.label


def init(config: LD, problem: Problem) -> State:
    """Return step 0: natural images with uniform labels, fresh optimisers and a fresh network.

    Raises:
        ConfigError, ShapeError: if the network does not fit; see `kip.finite.learner.start`.
        DataError: if there are not enough base examples.
    """
    count = config.images_per_class * problem.num_classes
    state = problem.base_support(count) if config.base else problem.natural_support(config.images_per_class)
    labels = np.full((count, problem.num_classes), 1 / problem.num_classes, np.float32)
    network = _network(config, problem, 0)
    return state._replace(
        labels=labels,
        optimizer=_host(optax.adam(config.learning_rate).init(jnp.asarray(labels))),
        deployment_steps=0,
        owned={"learner": network, "restarts": restarts.start(config.window)},
    )


def step(config: LD, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state after one update of the labels and one of the network.

    Raises:
        NonFiniteError: if the loss or a label is not finite.
    """
    target = problem.target_batch(config.target_batch, step=state.step)
    chosen = learner.minibatch(
        len(state.images), config.training.batch, key=(problem.seed, "base examples", 0), step=state.step
    )
    moved = _step(
        state.owned["learner"], state.labels, state.optimizer, state.images[chosen], chosen,
        target.images, target.labels.argmax(axis=1), config=config,
    )  # fmt: skip
    network, labels, optimizer, loss, accuracy = _host(moved)
    if not (np.isfinite(loss) and np.isfinite(labels).all()):
        raise NonFiniteError("the loss or a label holds NaN or infinity", remedy="Lower the learning rates.")
    counters, again = restarts.note(state.owned["restarts"], 1 - float(accuracy))
    if again:
        network = _network(config, problem, int(counters.number))
    metrics = {"loss": float(loss), "batch_accuracy": float(accuracy), "restarts": int(counters.number)}
    return state._replace(
        step=state.step + 1,
        labels=labels,
        optimizer=optimizer,
        deployment_steps=counters.deployment_steps,
        owned={"learner": network, "restarts": counters},
    ), metrics


def accuracies(
    config: LD, support: State, inputs: np.ndarray, classes: np.ndarray, *, networks: int, seed: int, **_: Any
) -> np.ndarray:
    """Return the accuracy on `inputs` of fresh networks trained on a set for its deployment steps, (networks,)."""
    steps = int(support.deployment_steps)
    return learner.accuracies(
        config.training, support.images, support.labels, steps, inputs, classes, networks=networks, seed=seed
    )


def through_update(
    inner: Callable[[Any, Array], Array],
    outer: Callable[[Any], tuple[Array, Array]],
    parameters: Any,
    labels: Array,
    learning_rate: float,
) -> tuple[tuple[Array, Array], Array]:
    """Return outer(theta') with its second result, and its derivative by the labels, (n, c), through

        theta' = theta - lr grad_theta inner(theta, y~).

    Args:
        inner: the loss on base examples, a function of (theta, y~).
        outer: the loss on target images at theta', and anything else.
        parameters: theta, a pytree. labels: y~.
        learning_rate: lr.
    """

    def loss(labels: Array) -> tuple[Array, Array]:
        gradient = jax.grad(inner)(parameters, labels)
        return outer(jax.tree.map(lambda p, g: p - learning_rate * g, parameters, gradient))

    return jax.value_and_grad(loss, has_aux=True)(labels)


def label_gradient(
    config: LD, network: Learner, labels: Array, images: Array, target: Array, classes: Array
) -> tuple[tuple[Array, Array], Array]:
    """Return the loss on a target batch after the inner update, its logits (m, c), and dloss/dy~ (b, c).

    Args:
        config: the method.
        network: before the update.
        labels: y~ of the minibatch, (b, c). images: x~, (b, H, W, C).
        target: x, (m, H, W, C). classes: their classes, (m,).
    """
    training = config.training
    model = training.model(labels.shape[1])

    def loss(logits: Array) -> tuple[Array, Array]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean(), logits

    if training.head == "dense":
        return through_update(
            lambda variables, labels: cross_entropy(model.apply(variables, images).logits, labels),
            lambda variables: loss(model.apply(variables, target).logits),
            network.variables,
            labels,
            config.inner_learning_rate,
        )
    z = learner.with_bias(model.apply(network.variables, target).features)

    def ridge(labels: Array) -> tuple[Array, Array]:
        weights = learner.moved_weights(training, network.variables, network.weights, images, labels)
        return loss(network.scale * (z @ weights))

    return jax.value_and_grad(ridge, has_aux=True)(labels)


def constrained(labels: Array) -> Array:
    """Return labels clipped to [0, 1], each row divided by its sum; a row of zeros becomes uniform."""
    clipped = jnp.clip(labels, 0, 1)
    total = clipped.sum(axis=1, keepdims=True)
    return jnp.where(total > 0, clipped / jnp.where(total > 0, total, 1), 1 / labels.shape[1])


@partial(jax.jit, static_argnames=("config",))
def _step(
    network: Learner,
    labels: Array,
    optimizer: Any,
    images: Array,
    chosen: Array,
    target: Array,
    classes: Array,
    *,
    config: LD,
) -> tuple[Learner, Array, Any, Array, Array]:
    """One update on the device: the network, labels and optimiser after it, loss and accuracy on the target batch."""
    before = labels[chosen]
    (loss, logits), to_chosen = label_gradient(config, network, before, images, target, classes)
    gradient = jnp.zeros_like(labels).at[chosen].set(to_chosen)
    updates, optimizer = optax.adam(config.learning_rate).update(gradient, optimizer)
    labels = constrained(labels + updates)
    network = learner.update(config.training, network, images, before, labels_of_loss=labels[chosen])
    return network, labels, optimizer, loss, jnp.mean(logits.argmax(axis=1) == classes)


def _network(config: LD, problem: Problem, number: int) -> Learner:
    """The network after `number` restarts, on the host."""
    shape = problem.inputs.shape[1:]
    return _host(learner.start(config.training, shape, problem.num_classes, key=(problem.seed, "network", number)))


def _host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
