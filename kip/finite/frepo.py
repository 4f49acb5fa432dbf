"""FRePo, neural feature regression with pooling: images and labels learned under KRR on features of trained networks.

Each step draws a network of the pool, and the set follows, by LAMB, the gradient of

    L = 1/(2m) |Y_t - K_ts (K_ss + lam I)^-1 Y_s|^2  -  mean_n min(y_n(1) - y_n(2), 1/C),

K the inner products of the network's features, lam = 1e-6 tr(K_ss)/n, and y(1), y(2) the largest and second largest
entry of a label: the last term asks of each label a margin of 1/C. Then the network learns from the set for a step
(`kip.finite.pool`).

Labels start at (one-hot - 1/C) / sqrt(C/10), and targets are made alike. A set is judged by fresh networks trained on
it by Adam on the squared error; the public code also averages their weights and augments CIFAR's images, which is left
out here.

Reference: Zhou, Nezhadarya, Ba 2022, "Dataset Distillation using Neural Feature Regression"; public code, `frepo.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip import krr
from kip.config import value
from kip.distill.descent import begin, descend
from kip.distill.problem import Problem, State
from kip.finite import feature_krr, pool, regression
from kip.finite.networks import Model, Network
from kip.finite.pool import Optimizer, Pool


@value
class FRePo:
    """Neural feature regression with pooling: learn images and labels."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """Images of each class."""
    learn_labels: bool = True
    """Whether labels are learned with the images."""
    network: Network = Network("ConvNet-D3", norm="batch", w_std=1.0, growth=2)
    """The pool's networks; by default with the deviation of weights that Flax draws, as the public code."""
    pool: Pool = Pool()
    """The pool."""
    steps: Annotated[int, Field(ge=1)] = 500_000
    """Updates at the most."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """LAMB's: the change of the images in a step, relative to their norm."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Of the learning rate; `cosine` falls to a tenth at `steps`."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """Target images of each step; None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge()
    """Regulariser of the KRR."""
    evaluation_network: Network = Network("ConvNet-D3", norm="none", w_std=1.0, growth=2)
    """What is trained on the set to judge it; without batch normalisation in the paper."""
    evaluation_optimizer: Optimizer = Optimizer()
    """Its optimiser."""
    evaluation_steps: Annotated[int, Field(ge=1)] = 1000
    """Its updates, of the full batch up to 500 images."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """Networks trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """Networks trained for the accuracy on test images."""
    name: Literal["frepo"] = "frepo"

    @property
    def kernels(self) -> tuple[()]:
        """None: the set is made for training networks."""
        return ()

    @property
    def label(self) -> str:
        """The pool's network, for titles."""
        return self.network.label


def init(config: FRePo, problem: Problem) -> State:
    """Return step 0: class-balanced natural images, centred labels, and a pool that has learned from them.

    Raises:
        ShapeError: if the images are too small for a network.
    """
    state = problem.natural_support(config.images_per_class)
    labels = (state.labels / _scale(problem)).astype(np.float32)
    Model(config.evaluation_network, problem.num_classes).check_images(*state.images.shape[1:3])
    slots = pool.start(config.pool, _model(config, problem), state.images, labels, seed=problem.seed)
    learned = _learned(config, state.images, labels)
    return state._replace(
        labels=labels,
        optimizer=begin(_optimizer, config, learned),
        owned=slots,
    )


def step(config: FRePo, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state after one update of the set and one of a network, with the loss before it.

    Raises:
        NonFiniteError, NotPositiveDefiniteError: as `kip.finite.feature_krr.gradient`.
    """
    model = _model(config, problem)
    index = problem.draw("pool", config.pool.size, step=state.step)
    target = problem.target_batch(config.target_batch, step=state.step)
    found = feature_krr.gradient(
        model, [state.owned[index].variables], state.images, state.labels,
        target.images, target.labels / _scale(problem), ridge=config.ridge, reduction="sum",
    )  # fmt: skip
    count = len(target.images)
    gradient = {"images": found.images / count}
    margin, to_margin = _margin(state.labels)
    if config.learn_labels:
        gradient["labels"] = found.labels / count + np.asarray(to_margin)
    before = _learned(config, state.images, state.labels)
    learned, optimizer = descend(_optimizer, config, gradient, state.optimizer, before)
    moved = state._replace(step=state.step + 1, optimizer=optimizer, **learned)
    slots = pool.advance(config.pool, model, state.owned, index, moved.images, moved.labels, seed=problem.seed)
    metrics = {
        "loss": found.loss / count + (float(margin) if config.learn_labels else 0.0),
        "batch_accuracy": float(np.mean(found.predictions.argmax(axis=1) == target.labels.argmax(axis=1))),
        "condition": found.condition,
    }
    return moved._replace(owned=slots), metrics


def accuracies(
    config: FRePo, support: State, inputs: np.ndarray, classes: np.ndarray, *, networks: int, seed: int, **_: Any
) -> np.ndarray:
    """Return the accuracy on `inputs` of fresh networks trained on a set, (networks,)."""
    return regression.accuracies(
        Model(config.evaluation_network, support.labels.shape[1]), config.evaluation_optimizer,
        support.images, support.labels, config.evaluation_steps, inputs, classes, networks=networks, seed=seed,
    )  # fmt: skip


def margin_loss(labels: Array) -> Array:
    """Return -mean_n min(y_n(1) - y_n(2), 1/C) of labels (n, C)."""
    largest = jax.lax.top_k(labels, 2)[0]
    return -jnp.mean(jnp.minimum(largest[:, 0] - largest[:, 1], 1 / labels.shape[1]))


_margin = jax.jit(jax.value_and_grad(margin_loss))


def _scale(problem: Problem) -> float:
    return (problem.num_classes / 10) ** 0.5


def _model(config: FRePo, problem: Problem) -> Model:
    return Model(config.network, problem.num_classes)


def _learned(config: FRePo, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"images": images, "labels": labels} if config.learn_labels else {"images": images}


def _optimizer(config: FRePo) -> optax.GradientTransformation:
    if config.schedule == "constant":
        return optax.lamb(config.learning_rate)
    return optax.lamb(optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=0.1))
