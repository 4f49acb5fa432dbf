"""RFAD, random feature approximation: KIP under the NNGP kernel of a network, estimated from random finite ones.

Each step draws N fresh networks. Their last layers' inputs F, side by side, give the kernel

    K(x, x') = F(x) . F(x')        in expectation a multiple of the NNGP kernel of infinitely many channels,

whose cost grows with the images, and not with their pairs. The set follows the gradient of KRR under K by AdaBelief,
with the cross-entropy of softmax(e^s f(X_t)), s learned with it (Platt scaling), or with the squared error.

A set is judged by KRR under fresh random networks, N at a time. Widths, rates and the ridge of the default are this
project's; the method is the paper's.

Reference: Loo, Hasani, Amini, Rus 2022, "Efficient Dataset Distillation using Random Feature Approximation".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import optax
from pydantic import Field

from kip import krr
from kip.config import value
from kip.judges import RandomFeatures
from kip.judges.random_features import draw
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import begin, descended, of_regression
from kip.methods.features import feature_krr
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network


@value
class RFAD(Method):
    """KIP by random features: learn images and labels under KRR on the features of fresh random networks."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    learn_labels: bool = True
    """Whether labels are learned with the images."""
    network: Network = Network("ConvNet-D3", width=256, norm="none")
    """The network whose features give the kernel. The infinite network's kernel is approached as width times `networks`
    grows."""
    networks: Annotated[int, Field(ge=1)] = 8
    """N, the number of networks, which are drawn anew at each step."""
    loss: Literal["platt", "squared"] = "platt"
    """The loss: cross-entropy of scaled predictions, or the squared error."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """The learning rate of AdaBelief, for images, labels and s."""
    target_batch: Annotated[int, Field(ge=1)] | None = 5120
    """The number of target images of each step. None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge(1e-3)
    """The regulariser of the KRR."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """How many draws of N networks give the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """How many draws of N networks give the accuracy on test images."""
    name: Literal["rfad"] = "rfad"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes of natural images."""
        return "scores" if self.learn_labels else "classes"

    @property
    def judge(self) -> RandomFeatures:
        """The regression under fresh random networks."""
        return RandomFeatures(
            self.network, self.networks, self.ridge, validation_networks=self.validation_networks,
            test_networks=self.test_networks,
        )  # fmt: skip

    @property
    def needs(self) -> Needs:
        """The set takes images of each class."""
        return Needs(self.images_per_class, self.target_batch, whole_set=self.target_batch is None)

    def init(self, problem: Problem, prepared: Any) -> State:
        """Return step 0: class-balanced natural images, centred labels, s = 0.

        Raises:
            ShapeError: if the images are too small for the network.
        """
        state = problem.natural_support(self.images_per_class)
        Model(self.network, problem.num_classes).check_images(*state.images.shape[1:3])
        state = state._replace(owned={"scale": np.zeros((), np.float32)})
        return state._replace(optimizer=begin(_optimizer, self, of_regression(state, **self._learns)))

    def step(self, problem: Problem, prepared: Any, state: State) -> tuple[State, Metrics]:
        """Return the state after one update of the set, with the loss before it.

        Raises:
            NonFiniteError, NotPositiveDefiniteError: as `kip.methods.features.feature_krr.gradient`.
        """
        model = Model(self.network, problem.num_classes)
        target = problem.target_batch(self.target_batch, step=state.step)
        loss_and_grads = feature_krr.gradient(
            model,
            draw(model, self.networks, state.images.shape[1:], problem.seed, "random features", state.step),
            state.images,
            state.labels,
            target.images,
            target.labels,
            ridge=self.ridge,
            scale=float(state.owned["scale"]) if self.loss == "platt" else None,
        )
        gradient = {
            "images": loss_and_grads.images,
            "labels": loss_and_grads.labels,
            "scale": np.float32(loss_and_grads.scale),
        }
        metrics = {
            "loss": loss_and_grads.loss,
            "batch_accuracy": float(np.mean(loss_and_grads.predictions.argmax(axis=1) == target.labels.argmax(axis=1))),
            "condition": loss_and_grads.condition,
        }
        return descended(_optimizer, self, state, gradient, **self._learns), metrics

    @property
    def _learns(self) -> dict[str, bool]:
        return {"labels": self.learn_labels, "scale": self.loss == "platt"}


def _optimizer(config: RFAD) -> optax.GradientTransformation:
    return optax.adabelief(config.learning_rate)
