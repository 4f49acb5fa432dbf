"""A network that learns from images with soft labels, a minibatch at a time, as label distillation deploys it.

It has one of two heads. `dense` is the network's own last layer, learned with the rest by Adam. `ridge` replaces it by
global weights w (d + 1, c), d features and a bias, which follow the ridge solution of each minibatch:

    Z = [f(x), 1],   w_local = Z^T (Z Z^T + lam I)^-1 y,   w <- (1 - rate) stop_gradient(w) + rate w_local

and the features learn by Adam on the cross-entropy of scale * Z w, with a calibration `scale` that Adam learns too and
that is left out when the network is used. Both are objectives of the trainer, `kip.training.loop`.

Reference: Bohdal et al. 2020, "Flexible Dataset Distillation: Learn Labels Instead of Images", algorithms 1 and 2.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip import krr, rng
from kip.config import value
from kip.errors import ConfigError
from kip.networks.model import Model, Network, fresh
from kip.progress import progress_bar
from kip.storage.images import Images
from kip.training.batches import Batches
from kip.training.devices import over_devices
from kip.training.loop import Rule, fit
from kip.training.losses import per_example
from kip.training.predict import rows_at_once
from kip.training.recipe import Optimizer
from kip.training.supervised import Supervised
from kip.training.update import Batch, Evaluated, Learning, update

CALIBRATION_RATE = 0.01
"""Adam's learning rate for the scale of the ridge head, as in the public code."""


@value
class Training:
    """The training of a network on a distilled set, in distillation and when the set is used."""

    head: Literal["dense", "ridge"] = "dense"
    """The training of the last layer: gradient descent (`dense`), or following the ridge solutions of minibatches
    (`ridge`)."""
    network: Network = Network("LeNet", w_std=3**-0.5)
    """The network, without batch normalisation. By default its weights have the deviation that PyTorch draws."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The learning rate of Adam for the network."""
    batch: Annotated[int, Field(ge=1)] = 50
    """The number of images of a minibatch, drawn without replacement. All are taken where the set has fewer."""
    ridge: krr.Ridge = krr.Ridge(1.0, "absolute")
    """The regulariser of the `ridge` head."""
    rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The fraction of the way that the global weights of the `ridge` head go towards a minibatch's own."""

    @property
    def label(self) -> str:
        """The network and its head, for titles."""
        return f"{self.network.label} ({self.head})"

    def model(self, num_classes: int) -> Model:
        """Return the network for c classes."""
        return Model(self.network, num_classes)

    def rule(self, num_classes: int, *, steps: int = 1, count: int = 1) -> Rule:
        """Return the rule of an update in a training of `steps` minibatches of a set of `count` images."""
        batches = Batches(count, self.batch, "draws")
        if self.head == "dense":
            objective = Supervised(self.model(num_classes), "soft_xent")
            return Rule(objective, Optimizer("adam", self.learning_rate), steps, batches)
        return Rule(RidgeHead(self, num_classes), TwoRates(self.learning_rate), steps, batches)


@dataclasses.dataclass(frozen=True)
class TwoRates:
    """Adam, with one rate for the network and CALIBRATION_RATE for the scale of the ridge head."""

    learning_rate: float
    scheduled: bool = False

    def chain(self, steps: int | None = None, *, restart_at: int | None = None) -> optax.GradientTransformation:
        """Return the transformation of {"network": ..., "scale": ...}; both rates are constant."""
        rules = {"network": optax.adam(self.learning_rate), "scale": optax.adam(CALIBRATION_RATE)}
        return optax.multi_transform(rules, {"network": "network", "scale": "scale"})  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class RidgeHead:
    """The objective of the `ridge` head.

    Its variables are the network's parameters and the calibration, under `params`, and w, under `weights`. A batch's
    `extra` are labels that the features learn, if they are not those that w follows; () takes the same.
    """

    training: Training
    num_classes: int

    def __call__(self, variables: dict[str, Any], batch: Batch, key: Any) -> Evaluated:
        """Return the cross-entropy of scale * Z w, and the variables with w moved."""
        params = variables["params"]
        network = {"params": params["network"]}
        # The ridge solution and the gradients through it need float32's last digits.
        with jax.default_matmul_precision("highest"):
            weights = move_weights(self.training, network, variables["weights"], batch.images, batch.labels)
            z = with_bias(self.training.model(self.num_classes).apply(network, batch.images).features)
            labels = batch.labels if isinstance(batch.extra, tuple) else batch.extra
            losses = per_example("soft_xent", params["scale"] * (z @ weights), labels)
        return Evaluated(losses.mean(), losses, {**variables, "weights": weights})


def start(training: Training, image_shape: tuple[int, ...], num_classes: int, *, key: tuple[int, str, int]) -> Learning:
    """Return a freshly drawn network.

    Args:
        training: its configuration.
        image_shape: (H, W, C).
        num_classes: c.
        key: seed, purpose and counter of the draw, as `kip.rng.key` takes them.

    Raises:
        ConfigError: if the network has batch normalisation.
        ShapeError: if the images are too small for the network.
    """
    model = training.model(num_classes)
    variables = fresh(model, rng.key(*key), image_shape)
    if "batch_stats" in variables:
        raise ConfigError(
            "training.network",
            got=training.network.label,
            expected="one without batch normalisation",
            remedy="Choose another norm, such as norm='instance'.",
        )
    if training.head == "ridge":
        features = jax.eval_shape(model.apply, variables, jnp.zeros((1, *image_shape))).features.shape[1]
        weights = jnp.zeros((features + 1, num_classes), jnp.result_type(float))
        variables = {"params": {"network": variables["params"], "scale": jnp.ones(())}, "weights": weights}
    return training.rule(num_classes).begin(variables)


def network_of(training: Training, learning: Learning) -> dict[str, Any]:
    """Return the network's own variables; with the `ridge` head its last layer stays as drawn."""
    variables = learning.variables
    return variables if training.head == "dense" else {"params": variables["params"]["network"]}


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return -1/N sum_n sum_c y_nc log softmax(logits)_nc; linear in y, which need not be normalised."""
    return per_example("soft_xent", logits, labels).mean()


def move_weights(training: Training, variables: Any, weights: Array, images: Array, labels: Array) -> Array:
    """Return the `ridge` head's w after a minibatch, (d + 1, c); differentiable in variables and labels, not in w."""
    z = with_bias(training.model(labels.shape[1]).apply(variables, images).features)
    local = z.T @ krr.solve(z @ z.T, labels, training.ridge)
    return (1 - training.rate) * jax.lax.stop_gradient(weights) + training.rate * local


def with_bias(features: Array) -> Array:
    """Return [f, 1], (N, d + 1)."""
    return jnp.concatenate([features, jnp.ones((len(features), 1), features.dtype)], axis=1)


def logits(training: Training, learning: Learning, images: Array, num_classes: int) -> Array:
    """Return the predictions of the network in use: with its head, without the calibration."""
    outputs = training.model(num_classes).apply(network_of(training, learning), images)
    return outputs.logits if training.head == "dense" else with_bias(outputs.features) @ learning.variables["weights"]


def learn(
    training: Training, learning: Learning, images: Array, labels: Array, *, labels_of_loss: Array | None = None
) -> Learning:
    """Return the network after one minibatch; jit-composable.

    Args:
        training: its configuration.
        learning: the network before.
        images: (b, H, W, C).
        labels: (b, c).
        labels_of_loss: labels that the `ridge` head's features learn; None: `labels`, which its w follows.
    """
    rule = training.rule(labels.shape[1])
    batch = Batch(images, labels, () if labels_of_loss is None else labels_of_loss)
    return update(rule.objective, rule.chain(), learning, batch, None)[0]


def minibatch(count: int, size: int, *, key: tuple[int, str, int], step: int) -> np.ndarray:
    """Return the indices of a step's minibatch out of `count`, without replacement, a function of (key, step)."""
    seed, purpose, counter = key
    return rng.generator(seed, f"{purpose} minibatch", counter, step).permutation(count)[:size]


def train(
    training: Training, images: np.ndarray, labels: np.ndarray, *, steps: int, key: tuple[int, str, int]
) -> Learning:
    """Return a fresh network after `steps` minibatches of a set.

    Args:
        training: its configuration.
        images: (n, H, W, C), preprocessed.
        labels: (n, c), probabilities.
        steps: updates.
        key: seed, purpose and counter; they determine initial values and minibatches.
    """
    rule = training.rule(labels.shape[1], steps=steps, count=len(images))
    learning = start(training, images.shape[1:], labels.shape[1], key=key)
    data = Batch(jnp.asarray(images), jnp.asarray(labels))
    return fit(rule, learning, data, rng.key(*key), may_diverge=True).learning


def accuracy(training: Training, learning: Learning, images: Images, classes: np.ndarray, num_classes: int) -> float:
    """Return the fraction of images (m, H, W, C) that the network classifies as their classes (m,)."""
    return float(_right(training, learning, images, classes, num_classes).mean())


def _right(training: Training, learning: Learning, images: Images, classes: np.ndarray, num_classes: int) -> np.ndarray:
    right = np.zeros(len(images), bool)
    size = rows_at_once(training.model(num_classes), images)
    for first in range(0, len(images), size):
        rows = slice(first, first + size)
        predicted = _logits(learning, images[rows], training=training, num_classes=num_classes)
        right[rows] = np.asarray(predicted).argmax(axis=1) == classes[rows]
    return right


def are_right(
    training: Training,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    inputs: Images,
    classes: np.ndarray,
    *,
    networks: int,
    seed: int,
    purpose: str,
    show_progress: bool = False,
) -> np.ndarray:
    """Return True for the `inputs` that each of several fresh networks, trained on a set, classifies right.

    The result is (networks, m) bool. The networks are functions of seed and purpose: two sets are compared on the same
    initial values and minibatches. They are trained on all devices of the machine.
    """

    def of_network(counter: int) -> np.ndarray:
        learning = train(training, images, labels, steps=steps, key=(seed, purpose, counter))
        return _right(training, learning, inputs, classes, labels.shape[1])

    with progress_bar(networks, "networks", shown=show_progress, unit=" networks") as bar:
        right = []
        for of_one in over_devices([partial(of_network, counter) for counter in range(networks)]):
            right.append(of_one)
            bar.update()
    return np.stack(right)


@partial(jax.jit, static_argnames=("training", "num_classes"))
def _logits(learning: Learning, images: Array, *, training: Training, num_classes: int) -> Array:
    return logits(training, learning, images, num_classes)
