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

from functools import partial
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
from pydantic import Field

from kip import krr
from kip.config import value
from kip.distill.descent import begin, descend
from kip.distill.problem import Problem, State
from kip.finite import feature_krr
from kip.finite.networks import Model, Network
from kip.rng import generator


@value
class RFAD:
    """KIP by random features: learn images and labels under KRR on the features of fresh random networks."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """Images of each class."""
    learn_labels: bool = True
    """Whether labels are learned with the images."""
    network: Network = Network("ConvNet-D3", width=256, norm="none")
    """Whose features; its kernel is approached as width times `networks` grows."""
    networks: Annotated[int, Field(ge=1)] = 8
    """N, drawn anew at each step."""
    loss: Literal["platt", "squared"] = "platt"
    """Cross-entropy of scaled predictions, or the squared error."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """Updates at the most."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """AdaBelief's, of images, labels and s."""
    target_batch: Annotated[int, Field(ge=1)] | None = 5120
    """Target images of each step; None means the whole train set."""
    ridge: krr.Ridge = krr.Ridge(1e-3)
    """Regulariser of the KRR."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """Draws of N networks for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """Draws of N networks for the accuracy on test images."""
    name: Literal["rfad"] = "rfad"

    @property
    def kernels(self) -> tuple[()]:
        """None: the kernel is drawn, and is no function."""
        return ()

    @property
    def label(self) -> str:
        """The network, for titles."""
        return self.network.label


def init(config: RFAD, problem: Problem) -> State:
    """Return step 0: class-balanced natural images, centred labels, s = 0.

    Raises:
        ShapeError: if the images are too small for the network.
    """
    state = problem.natural_support(config.images_per_class)
    Model(config.network, problem.num_classes).check_images(*state.images.shape[1:3])
    owned = {"scale": np.zeros((), np.float32)}
    learned = _learned(config, state._replace(owned=owned))
    return state._replace(owned=owned, optimizer=begin(_optimizer, config, learned))


def step(config: RFAD, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """Return the state after one update of the set, with the loss before it.

    Raises:
        NonFiniteError, NotPositiveDefiniteError: as `kip.finite.feature_krr.gradient`.
    """
    model = Model(config.network, problem.num_classes)
    target = problem.target_batch(config.target_batch, step=state.step)
    found = feature_krr.gradient(
        model,
        _drawn(config, model, state.images, problem.seed, "random features", state.step),
        state.images,
        state.labels,
        target.images,
        target.labels,
        ridge=config.ridge,
        scale=float(state.owned["scale"]) if config.loss == "platt" else None,
    )
    gradient = {"images": found.images, "labels": found.labels, "scale": np.float32(found.scale)}
    before = _learned(config, state)
    gradient = {name: gradient[name] for name in before}
    learned, optimizer = descend(_optimizer, config, gradient, state.optimizer, before)
    owned = {"scale": learned.pop("scale", state.owned["scale"])}
    metrics = {
        "loss": found.loss,
        "batch_accuracy": float(np.mean(found.predictions.argmax(axis=1) == target.labels.argmax(axis=1))),
        "condition": found.condition,
    }
    return state._replace(step=state.step + 1, optimizer=optimizer, owned=owned, **learned), metrics


def accuracies(
    config: RFAD, support: State, inputs: np.ndarray, classes: np.ndarray, *, networks: int, seed: int, **_: Any
) -> np.ndarray:
    """Return the accuracy on `inputs` of KRR on the features of fresh networks, `config.networks` each, (networks,)."""
    model = Model(config.network, support.labels.shape[1])
    results = []
    for counter in range(networks):
        drawn = _drawn(config, model, support.images, seed, "deployed features", counter)
        ours = feature_krr.side_by_side(model, drawn, support.images)
        weights = ours.T @ krr.fit(ours @ ours.T, support.labels, config.ridge)
        right = 0
        for first in range(0, len(inputs), feature_krr.ROWS):
            part = slice(first, first + feature_krr.ROWS)
            predicted = feature_krr.side_by_side(model, drawn, inputs[part]) @ weights
            right += int(np.sum(predicted.argmax(axis=1) == classes[part]))
        results.append(right / len(inputs))
    return np.array(results)


def _drawn(config: RFAD, model: Model, images: np.ndarray, seed: int, purpose: str, counter: int) -> list[Any]:
    draw = generator(seed, purpose, counter)
    keys = [jax.random.key(int(draw.integers(2**31))) for _ in range(config.networks)]
    return [_fresh(key, model=model, shape=images.shape[1:]) for key in keys]


def _learned(config: RFAD, state: State) -> dict[str, np.ndarray]:
    learned = {"images": state.images}
    if config.learn_labels:
        learned["labels"] = state.labels
    if config.loss == "platt":
        learned["scale"] = state.owned["scale"]
    return learned


def _optimizer(config: RFAD) -> optax.GradientTransformation:
    return optax.adabelief(config.learning_rate)


@partial(jax.jit, static_argnames=("model", "shape"))
def _fresh(key: jax.Array, *, model: Model, shape: tuple[int, int, int]) -> Any:
    return model.init(key, shape)
