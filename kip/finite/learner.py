"""A network that learns from images with soft labels, a minibatch at a time: what label distillation deploys.

It has one of two heads. `dense` is the network's own last layer, learned with the rest by Adam. `ridge` replaces it by
global weights w (d + 1, c), d features and a bias, which follow the ridge solution of each minibatch:

    Z = [f(x), 1],   w_local = Z^T (Z Z^T + lam I)^-1 y,   w <- (1 - rate) stop_gradient(w) + rate w_local

and the features learn by Adam on the cross-entropy of scale * Z w, with a calibration `scale` that Adam learns too and
that is left out when the network is used.

Reference: Bohdal et al. 2020, "Flexible Dataset Distillation: Learn Labels Instead of Images", algorithms 1 and 2.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip import krr
from kip.config import value
from kip.errors import ConfigError
from kip.finite.networks import Model, Network
from kip.rng import generator

CALIBRATION_RATE = 0.01
"""Adam's learning rate for the scale of the ridge head, as in the public code."""
ROWS = 2048
"""Images classified at once."""


@value
class Training:
    """How a network learns from a distilled set, in distillation and when the set is used."""

    head: Literal["dense", "ridge"] = "dense"
    """The last layer: learned by gradient descent, or following the ridge solutions of minibatches."""
    network: Network = Network("LeNet", w_std=3**-0.5)
    """The network, without batch normalisation; by default with the deviation of weights that PyTorch draws."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's, of the network."""
    batch: Annotated[int, Field(ge=1)] = 50
    """Images of a minibatch, drawn without replacement; all of them where the set has fewer."""
    ridge: krr.Ridge = krr.Ridge(1.0, "absolute")
    """Regulariser of the `ridge` head."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """How far the global weights of the `ridge` head go towards a minibatch's own."""

    @property
    def label(self) -> str:
        """The network and its head, for titles."""
        return f"{self.network.label} ({self.head})"

    def model(self, num_classes: int) -> Model:
        """Return the network for c classes."""
        return Model(self.network, num_classes)


class Learner(NamedTuple):
    """A network in training, a pytree of arrays.

    Attributes:
        variables: the network's; with the `ridge` head its own last layer stays as drawn.
        optimizer: Adam's state.
        weights: w of the `ridge` head, (d + 1, c); () with the `dense` head.
        scale: its calibration, (); () with the `dense` head. scale_optimizer: Adam's state of it.
    """

    variables: Any
    optimizer: Any
    weights: Any = ()
    scale: Any = ()
    scale_optimizer: Any = ()


def start(training: Training, image_shape: tuple[int, ...], num_classes: int, *, key: tuple[int, str, int]) -> Learner:
    """Return a freshly drawn network.

    Args:
        training: its configuration.
        image_shape: (H, W, C).
        num_classes: c.
        key: seed, purpose and counter of the draw, as `kip.rng.generator` takes them.

    Raises:
        ConfigError: if the network has batch normalisation.
        ShapeError: if the images are too small for the network.
    """
    model = training.model(num_classes)
    drawn = jax.random.key(int(generator(*key).integers(2**31)))
    variables = model.init(drawn, image_shape)  # type: ignore[arg-type]
    if "batch_stats" in variables:
        raise ConfigError(
            "training.network", got=training.network.label, expected="one without batch normalisation",
            remedy="Choose another norm, such as norm='instance'.",
        )  # fmt: skip
    learner = Learner(variables, optax.adam(training.learning_rate).init(variables))
    if training.head == "ridge":
        features = jax.eval_shape(model.apply, variables, jnp.zeros((1, *image_shape))).features.shape[1]
        dtype, scale = jnp.result_type(float), jnp.ones(())
        adjusting = optax.adam(CALIBRATION_RATE).init(scale)
        learner = learner._replace(
            weights=jnp.zeros((features + 1, num_classes), dtype), scale=scale, scale_optimizer=adjusting
        )
    return learner


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return -1/N sum_n sum_c y_nc log softmax(logits)_nc; linear in y, which need not be normalised."""
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1))


def moved_weights(training: Training, variables: Any, weights: Array, images: Array, labels: Array) -> Array:
    """Return the `ridge` head's w after a minibatch, (d + 1, c); differentiable in variables and labels, not in w."""
    z = with_bias(training.model(labels.shape[1]).apply(variables, images).features)
    local = z.T @ krr.solve(z @ z.T, labels, training.ridge)
    return (1 - training.rate) * jax.lax.stop_gradient(weights) + training.rate * local


def with_bias(features: Array) -> Array:
    """Return [f, 1], (N, d + 1)."""
    return jnp.concatenate([features, jnp.ones((len(features), 1), features.dtype)], axis=1)


def logits(training: Training, learner: Learner, images: Array, num_classes: int) -> Array:
    """Return the predictions of the network as it is used: with its head, without the calibration."""
    outputs = training.model(num_classes).apply(learner.variables, images)
    return outputs.logits if training.head == "dense" else with_bias(outputs.features) @ learner.weights


def update(
    training: Training, learner: Learner, images: Array, labels: Array, *, labels_of_loss: Array | None = None
) -> Learner:
    """Return the network after one minibatch.

    Args:
        training: its configuration.
        learner: before.
        images: (b, H, W, C). labels: (b, c).
        labels_of_loss: what the `ridge` head's features learn, if not `labels`, which its w follows.
    """
    if training.head == "dense":
        apply = training.model(labels.shape[1]).apply
        gradient = jax.grad(lambda variables: cross_entropy(apply(variables, images).logits, labels))(learner.variables)
        variables, optimizer = _adam(training.learning_rate, gradient, learner.optimizer, learner.variables)
        return learner._replace(variables=variables, optimizer=optimizer)

    def loss(variables: Any, scale: Array) -> tuple[Array, Array]:
        weights = moved_weights(training, variables, learner.weights, images, labels)
        z = with_bias(training.model(labels.shape[1]).apply(variables, images).features)
        return cross_entropy(scale * (z @ weights), labels if labels_of_loss is None else labels_of_loss), weights

    to_both, weights = jax.grad(loss, argnums=(0, 1), has_aux=True)(learner.variables, learner.scale)
    variables, optimizer = _adam(training.learning_rate, to_both[0], learner.optimizer, learner.variables)
    scale, scale_optimizer = _adam(CALIBRATION_RATE, to_both[1], learner.scale_optimizer, learner.scale)
    return Learner(variables, optimizer, weights, scale, scale_optimizer)


def train(
    training: Training, images: np.ndarray, labels: np.ndarray, *, steps: int, key: tuple[int, str, int]
) -> Learner:
    """Return a fresh network after `steps` minibatches of a set.

    Args:
        training: its configuration.
        images: (n, H, W, C), preprocessed. labels: (n, c), probabilities.
        steps: updates.
        key: seed, purpose and counter; they determine initial values and minibatches.
    """
    learner = start(training, images.shape[1:], labels.shape[1], key=key)
    for step in range(steps):
        chosen = minibatch(len(images), training.batch, key=key, step=step)
        learner = _update(learner, images[chosen], labels[chosen], training=training)
    return learner


def minibatch(count: int, size: int, *, key: tuple[int, str, int], step: int) -> np.ndarray:
    """Return the indices of a step's minibatch out of `count`, without replacement, a function of (key, step)."""
    seed, purpose, counter = key
    return generator(seed, f"{purpose} minibatch", counter, step).permutation(count)[:size]


def accuracy(training: Training, learner: Learner, images: np.ndarray, classes: np.ndarray, num_classes: int) -> float:
    """Return the fraction of images (m, H, W, C) that the network classifies as their classes (m,)."""
    correct = 0
    for first in range(0, len(images), ROWS):
        rows = slice(first, first + ROWS)
        predicted = _logits(learner, images[rows], training=training, num_classes=num_classes)
        correct += int(np.sum(np.asarray(predicted).argmax(axis=1) == classes[rows]))
    return correct / len(images)


def accuracies(
    training: Training,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    inputs: np.ndarray,
    classes: np.ndarray,
    *,
    networks: int,
    seed: int,
) -> np.ndarray:
    """Return the accuracy on `inputs` of each of several fresh networks, trained on a set for `steps`, (networks,).

    The networks are functions of the seed alone: two sets are compared on the same initial values and minibatches.
    """
    trained = (train(training, images, labels, steps=steps, key=(seed, "deployed", i)) for i in range(networks))
    return np.array([accuracy(training, learner, inputs, classes, labels.shape[1]) for learner in trained])


def _adam(learning_rate: float, gradient: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
    updates, state = optax.adam(learning_rate).update(gradient, state)
    return optax.apply_updates(parameters, updates), state


@partial(jax.jit, static_argnames=("training",))
def _update(learner: Learner, images: Array, labels: Array, *, training: Training) -> Learner:
    return update(training, learner, images, labels)


@partial(jax.jit, static_argnames=("training", "num_classes"))
def _logits(learner: Learner, images: Array, *, training: Training, num_classes: int) -> Array:
    return logits(training, learner, images, num_classes)
