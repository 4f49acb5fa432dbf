"""RFAD, random feature approximation: KIP under the NNGP kernel of a network, estimated from random finite ones.

Each step draws N fresh networks. Their last layers' inputs F, d of all networks side by side, give the kernel

    K(x, x') = w_std^2 / d F(x) . F(x') + b_std^2       in expectation the NNGP kernel of infinitely many channels,

whose cost grows with the images, and not with their pairs; with the default's deviations, 2/d F F^T + 0.01. The set
follows the gradient of KRR under K by AdaBelief, with the cross-entropy of softmax(e^s f(X_t)), s learned with it
(Platt scaling), or with the squared error.

The images of the set are X_s = B M: base images B (n, D), D = H W C, that start as natural ones, and a linear map
M (D, D) of all of them, that starts as the identity. Both are learned,

    dL/dB = dL/dX_s M^T,   dL/dM = B^T dL/dX_s,

M at a rate of its own. The set that is judged and exported is X_s.

A set is judged by KRR under fresh random networks, N at a time.

The map and its rate are the public code's. Where that differs: it draws target batches without a look at classes, stops
where the loss of 16 networks on train images no longer falls, and tests under the infinite kernel.

Reference: Loo, Hasani, Amini, Rus 2022, "Efficient Dataset Distillation using Random Feature Approximation"; public
code, `distillation.py` and `run_distillation.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field
from typing_extensions import NotRequired, TypedDict, final

from kip import krr
from kip.config import value
from kip.judges import RandomFeatures
from kip.judges.random_features import draw
from kip.methods.contract import Metrics
from kip.methods.descent import Parameters, begin, descend
from kip.methods.features import feature_krr
from kip.methods.problem import Problem, State
from kip.methods.targets import TargetMethod
from kip.networks.model import Model, Network
from kip.precision import AnyArray
from kip.storage.artefacts import Store


class Owned(TypedDict):
    """The scale s, and base images and their map where they are learned."""

    scale: AnyArray
    base: NotRequired[AnyArray]
    map: NotRequired[AnyArray]


@final
@value
class RFAD(TargetMethod[None, Owned]):
    """KIP by random features: learn images and labels under KRR on the features of fresh random networks."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    learn_labels: bool = True
    """Learn labels with the images. Off keeps the labels of step 0."""
    network: Network = Network("ConvNet-D3", width=256, norm="none", b_std=0.1)
    """The network whose features give the kernel. The infinite network's kernel is approached as width times `networks`
    grows."""
    networks: Annotated[int, Field(ge=1)] = 8
    """The number of networks, N, which are drawn anew at each step."""
    loss: Literal["platt", "squared"] = "platt"
    """The loss: cross-entropy of scaled predictions, or the squared error."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The learning rate of AdaBelief for images and labels."""
    scale_rate: Annotated[float, Field(gt=0)] = 1e-2
    """The learning rate of s, the scale of the loss `platt`."""
    map_rate: Annotated[float, Field(gt=0)] | None = 5e-5
    """The learning rate of the linear map of the images, which has (H W C)^2 entries: 9.4 million for 32x32x3, which
    are 113 MB of a checkpoint with their optimiser. None learns the images without a map."""
    target_batch: Annotated[int, Field(ge=1)] | None = 5120
    """The number of target images of each step. None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge(5e-3)
    """The regulariser of the KRR."""
    evaluation_network: Network | None = None
    """The network whose features judge the set. None means `network`; the authors' is of width 256."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of draws of N networks for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of draws of N networks for the accuracy on test images."""
    name: Literal["rfad"] = "rfad"

    @property
    def judge(self) -> RandomFeatures:
        """The regression under fresh random networks."""
        return RandomFeatures(
            self.evaluation_network or self.network,
            self.networks,
            self.ridge,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
        )

    def prepare(self, problem: Problem, store: Store) -> None:
        """Make nothing."""

    def init(self, problem: Problem, prepared: None) -> State[Owned]:
        """Return step 0: class-balanced natural images, centred labels, s = 0, and M = I.

        Raises:
            ShapeError: if the images are too small for a network.
        """
        state = problem.natural_support(self.images_per_class)
        for network in (self.network, self.evaluation_network or self.network):
            Model(network, problem.num_classes).check_images(*state.inputs.shape[1:3])
        owned = Owned(scale=np.zeros((), np.float32))
        if self.map_rate is not None:
            owned["base"], owned["map"] = state.inputs, np.eye(state.inputs[0].size, dtype=np.float32)
        begun = state.with_owned(owned)
        return begun._replace(optimizer=begin(_optimizer, self, self._parameters(begun)))

    def step(self, problem: Problem, prepared: None, state: State[Owned]) -> tuple[State[Owned], Metrics]:
        """Return the state after one update of the set, with the loss before it.

        Raises:
            NonFiniteError, NotPositiveDefiniteError: as `kip.methods.features.feature_krr.gradient`.
        """
        model = Model(self.network, problem.num_classes)
        target = problem.target_batch(self.target_batch, step=state.step)
        weight, bias = model.readout_variances
        loss_and_grads = feature_krr.gradient(
            model,
            draw(model, self.networks, state.inputs.shape[1:], problem.seed, "random features", state.step),
            state.inputs,
            state.labels,
            target.images,
            target.labels,
            ridge=self.ridge,
            bias=bias,
            weight=weight,
            scale=float(state.owned["scale"]) if self.loss == "platt" else None,
        )
        gradient: Parameters = {
            "images": loss_and_grads.images,
            "labels": loss_and_grads.labels,
            "scale": np.asarray(loss_and_grads.scale, np.float32),
        }
        if "base" in state.owned and "map" in state.owned:
            gradient["base"], gradient["map"] = pull_back(
                state.owned["base"], state.owned["map"], loss_and_grads.images
            )
        before = self._parameters(state)
        wanted = {name: gradient[name] for name in before}
        learned, optimizer = descend(_optimizer, self, wanted, state.optimizer, before)
        metrics = {
            "loss": loss_and_grads.loss,
            "batch_accuracy": float(np.mean(loss_and_grads.predictions.argmax(axis=1) == target.labels.argmax(axis=1))),
            "condition": loss_and_grads.condition,
        }
        images = apply_map(learned["base"], learned["map"]) if self.map_rate is not None else learned["images"]
        owned = Owned(scale=learned.get("scale", state.owned["scale"]))
        if self.map_rate is not None:
            owned["base"], owned["map"] = learned["base"], learned["map"]
        labels = learned.get("labels", state.labels)
        step = state.step + 1
        return state._replace(step=step, inputs=images, labels=labels, optimizer=optimizer, owned=owned), metrics

    def _parameters(self, state: State[Owned]) -> Parameters:
        """Return the arrays that the optimiser moves: images or their base and map, labels, and the scale."""
        learned: Parameters = {}
        if "base" in state.owned and "map" in state.owned:
            learned |= {"base": state.owned["base"], "map": state.owned["map"]}
        else:
            learned["images"] = state.inputs
        if self.loss == "platt":
            learned["scale"] = state.owned["scale"]
        return {**learned, "labels": state.labels} if self.learn_labels else learned


@jax.jit
def apply_map(base: AnyArray, linear: AnyArray) -> Array:
    """Return base images (n, H, W, C) after a linear map (D, D), B M as images."""
    flat = base.reshape(len(base), -1)
    return jnp.matmul(flat, linear, precision="highest").reshape(base.shape)


@jax.jit
def pull_back(base: AnyArray, linear: AnyArray, images: Array) -> tuple[Array, Array]:
    """Return the gradients with respect to base images and map, given that with respect to the images."""
    pull = jax.vjp(apply_map, base, linear)[1]
    return pull(images)


def _optimizer(config: RFAD) -> optax.GradientTransformation:
    rates = {"scale": config.scale_rate, "map": config.map_rate or 0.0}

    def names(learned: Parameters) -> dict[str, str]:
        return {name: name if name in rates else "set" for name in learned}

    rules = {name: optax.adabelief(rate) for name, rate in {"set": config.learning_rate, **rates}.items()}
    return optax.multi_transform(rules, names)
