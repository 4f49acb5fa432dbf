"""KIP, kernel inducing points: support images (and labels) learned by gradient descent on the KRR loss.

Each step draws a target batch and a kernel, computes K_ss and K_ts in tiles, takes the cotangents of the KRR loss with
respect to both, and pulls them back tile by tile. Adam moves the images and, where asked, the labels.

The loss is the paper's squared error, or the cross-entropy of softmax(e^s f) with the classes, f the predictions and s
a learned scale (Platt scaling): wrong predictions then weigh more than right ones that are not exactly one.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", equation 1 and
section A; Loo et al. 2022, "Efficient Dataset Distillation Using Random Feature Approximation", for Platt scaling.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import optax
from pydantic import Field
from typing_extensions import TypedDict, final

from kip import krr
from kip.config import value
from kip.errors import ConfigError
from kip.judges import KernelJudge
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import Parameters, begin, descend
from kip.methods.problem import Problem, State
from kip.precision import AnyArray
from kip.storage.artefacts import Store


class Owned(TypedDict):
    """The scale s of the loss `platt`."""

    scale: AnyArray


@final
@value
class KIP(Method[None, Owned | None]):
    """Kernel inducing points: learn images, and optionally labels, under one kernel or several."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of support images of each class."""
    learn_labels: bool = True
    """Learn labels with the images. Off keeps mean-centred one-hot labels."""
    steps: Annotated[int, Field(ge=1)] = 1000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.04
    """The learning rate of Adam, for images and labels. The paper takes 0.04 for CIFAR and 0.01 for the rest."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The schedule of the learning rate: `constant`, as in the paper, or a `cosine` that falls to 0 at `steps`, which
    suits short runs."""
    target_batch: Annotated[int, Field(ge=1)] | None = 5000
    """The number of target images of each step, class-balanced and without replacement. None means the whole train
    set."""
    kernels: Annotated[tuple[Kernel, ...], Field(min_length=1)] = (Architecture(),)
    """The kernel, or several; each step draws one of them (sampling KIP, section 3.2)."""
    ridge: krr.Ridge = krr.Ridge()
    """The regulariser of the KRR, in the loss and in evaluation."""
    loss: Literal["squared", "platt"] = "squared"
    """The loss: the squared error (equation 1), or the cross-entropy of scaled predictions."""
    reduction: krr.Reduction = "mean"
    """The reduction of the loss: its `mean` over the batch, and of the squared error over classes too (the authors'
    notebook), or its `sum` (equation 1)."""
    balanced_targets: bool = True
    """Draw an equal share of each class for target batches. Off draws the shares of the train set, which suits data
    whose classes differ in size, in the test split too."""
    name: Literal["kip"] = "kip"

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes of natural images."""
        return "scores" if self.learn_labels else "classes"

    def __post_init__(self) -> None:
        if len(set(self.kernels)) < len(self.kernels):
            raise ConfigError("kernels", got="the same kernel twice", expected="different kernels")

    @property
    def label(self) -> str:
        """The first kernel."""
        return self.kernels[0].label

    @property
    def judge(self) -> KernelJudge:
        """The regression of the loss."""
        return KernelJudge(self.kernels, self.ridge)

    @property
    def needs(self) -> Needs:
        """The set takes images of each class, which fit the kernels."""
        return Needs(
            self.images_per_class,
            self.target_batch,
            kernels=self.kernels,
            balanced=self.balanced_targets,
            whole_set=self.target_batch is None,
        )

    @property
    def schedule_ends(self) -> bool:
        """A cosine ends at `steps`."""
        return self.schedule == "cosine"

    def prepare(self, problem: Problem, store: Store) -> None:
        """Make nothing."""

    def init(self, problem: Problem, prepared: None) -> State[Owned | None]:
        """Return step 0: class-balanced natural images, centred one-hot labels, s = 0, a fresh optimiser."""
        scale = Owned(scale=np.zeros((), np.float32)) if self.loss == "platt" else None
        state = problem.natural_support(self.images_per_class).with_owned(scale)
        return state._replace(optimizer=begin(_optimizer, self, self._parameters(state)))

    def step(self, problem: Problem, prepared: None, state: State[Owned | None]) -> tuple[State[Owned | None], Metrics]:
        """Return the state after one update, with the loss, batch accuracy and condition number before it.

        Raises:
            NonFiniteError: if a kernel, the loss or the gradient is not finite.
            NotPositiveDefiniteError: if K_ss plus its ridge has no Cholesky factor.
        """
        kernel = self.kernels[problem.draw("kernel", len(self.kernels), step=state.step)]
        target = problem.target_batch(self.target_batch, step=state.step, balanced=self.balanced_targets)
        k_ss, k_ts = problem.blocks.forward(kernel, np.asarray(state.inputs), target.images, source=target.source)
        bars = krr.cotangents(
            k_ss,
            k_ts,
            np.asarray(state.labels),
            target.labels,
            self.ridge,
            self.reduction,
            None if state.owned is None else float(state.owned["scale"]),
        )
        gradient: Parameters = {
            "images": problem.blocks.backward(bars.k_ss, bars.k_ts).astype(np.float32),
            "labels": bars.y_s.astype(np.float32),
            "scale": np.asarray(bars.scale, np.float32),
        }
        metrics: dict[str, float | str] = {
            "loss": bars.loss,
            "batch_accuracy": float(np.mean(bars.predictions.argmax(1) == target.labels.argmax(1))),
            "condition": bars.condition,
        }
        if len(self.kernels) > 1:
            metrics["kernel"] = kernel.label
        before = self._parameters(state)
        after, optimizer = descend(_optimizer, self, {name: gradient[name] for name in before}, state.optimizer, before)
        return state._replace(
            step=state.step + 1,
            inputs=after["images"],
            labels=after.get("labels", state.labels),
            optimizer=optimizer,
            owned=Owned(scale=after["scale"]) if "scale" in after else None,
        ), metrics

    def _parameters(self, state: State[Owned | None]) -> Parameters:
        """Return the arrays that the optimiser moves, by name."""
        parameters: Parameters = {"images": state.inputs}
        if self.learn_labels:
            parameters["labels"] = state.labels
        if state.owned is not None:
            parameters["scale"] = state.owned["scale"]
        return parameters


def _optimizer(config: KIP) -> optax.GradientTransformation:
    if config.schedule == "constant":
        return optax.adam(config.learning_rate)
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
