"""KIP, kernel inducing points: support images (and labels) learned by gradient descent on the KRR loss.

Each step draws a target batch and a kernel, computes K_ss and K_ts in tiles, takes the cotangents of the KRR loss with
respect to both, pulls them back tile by tile, and lets Adam move the images and, where asked, the labels.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", equation 1 and
section A.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import optax
from pydantic import Field

from kip import krr
from kip.config import value
from kip.distill.descent import begin, descend
from kip.distill.problem import Problem, State
from kip.errors import ConfigError
from kip.kernels.architecture import Architecture, Kernel


@value
class KIP:
    """Kernel inducing points: learn images, and optionally labels, under one kernel or several."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """Support images of each class."""
    learn_labels: bool = True
    """Whether labels are learned with the images, or stay mean-centred one-hot."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """Updates at the most."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.04
    """Adam's, for images and labels. The paper: 0.04 for CIFAR, 0.01 for the rest."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate: the paper's `constant`, or `cosine` to 0 at `steps`, which suits short runs."""
    target_batch: Annotated[int, Field(ge=1)] | None = 5000
    """Target images of each step, class-balanced, without replacement; None means the whole train set."""
    kernels: Annotated[tuple[Kernel, ...], Field(min_length=1)] = (Architecture(),)
    """The kernel; or several, of which each step draws one (sampling KIP, section 3.2)."""
    ridge: krr.Ridge = krr.Ridge()
    """Regulariser of the KRR, in the loss and in evaluation."""
    reduction: krr.Reduction = "mean"
    """Of the loss: `mean` over batch and classes (the authors' notebook), or `sum` (equation 1)."""
    name: Literal["kip"] = "kip"

    def __post_init__(self) -> None:
        if len(set(self.kernels)) < len(self.kernels):
            raise ConfigError("kernels", got="the same kernel twice", expected="different kernels")

    @property
    def label(self) -> str:
        """The first kernel, for titles."""
        return self.kernels[0].label


def init(config: KIP, problem: Problem) -> State:
    """Return step 0: class-balanced natural images, centred one-hot labels, a fresh optimiser."""
    state = problem.natural_support(config.images_per_class)
    return state._replace(optimizer=begin(_optimizer, config, _learned(config, state)))


def step(config: KIP, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state after one update, with the loss, batch accuracy and condition number before it.

    Raises:
        NonFiniteError: if a kernel, the loss or the gradient is not finite.
        NotPositiveDefiniteError: if K_ss plus its ridge has no Cholesky factor.
    """
    kernel = config.kernels[problem.draw("kernel", len(config.kernels), step=state.step)]
    target = problem.target_batch(config.target_batch, step=state.step)
    k_ss, k_ts = problem.blocks.forward(kernel, state.images, target.images, source=target.source)
    bars = krr.cotangents(k_ss, k_ts, state.labels, target.labels, config.ridge, config.reduction)
    gradient = {"images": problem.blocks.backward(bars.k_ss, bars.k_ts).astype(np.float32)}
    if config.learn_labels:
        gradient["labels"] = bars.y_s.astype(np.float32)
    learned, optimizer = descend(_optimizer, config, gradient, state.optimizer, _learned(config, state))
    metrics: dict[str, Any] = {
        "loss": bars.loss,
        "batch_accuracy": float(np.mean(bars.predictions.argmax(1) == target.labels.argmax(1))),
        "condition": bars.condition,
    }
    if len(config.kernels) > 1:
        metrics["kernel"] = kernel.label
    return state._replace(step=state.step + 1, optimizer=optimizer, **learned), metrics


def _learned(config: KIP, state: State) -> dict[str, np.ndarray]:
    return {"images": state.images, "labels": state.labels} if config.learn_labels else {"images": state.images}


def _optimizer(config: KIP) -> optax.GradientTransformation:
    if config.schedule == "constant":
        return optax.adam(config.learning_rate)
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
