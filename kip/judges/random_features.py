"""The judge of RFAD's sets: kernel ridge regression on the features of fresh random networks, side by side.

With F the features of all networks, d of each image, and the deviations w_std and b_std of the networks' weights and
biases,

    K(x, x') = w_std^2 / d F(x) . F(x') + b_std^2,

which is the NNGP kernel of the infinite network in expectation. w_std = sqrt(2) and b_std = 0.1 are RFAD's. With
b_std = 0 and a ridge relative to the trace, the factor has no effect.

Reference: Loo, Hasani, Amini, Rus 2022, "Efficient Dataset Distillation using Random Feature Approximation"; public
code, `distillation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import numpy as np
from pydantic import Field

from kip import krr
from kip.config import value
from kip.judges.judge import DrawingJudge, Question, Support, Tools, purpose
from kip.networks.model import Model, Network
from kip.progress import progress_bar
from kip.rng import generator
from kip.training.predict import ROWS, features


@value
class RandomFeatures(DrawingJudge):
    """KRR on the features of N fresh networks; each draw of N is one row of the result."""

    network: Network
    """The network whose features give the kernel. The infinite network's kernel is approached as width times `networks`
    grows."""
    networks: Annotated[int, Field(ge=1)] = 8
    """The number of networks of one draw, N."""
    ridge: krr.Ridge = krr.Ridge(5e-3)
    """The regulariser of the KRR. RFAD's public code takes 5e-3."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of draws that give the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of draws that give the accuracy on test images."""
    kind: Literal["random_features"] = "random_features"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images are classified right by each draw, (draws, m)."""
        model = Model(self.network, support.labels.shape[1])
        weight, bias = model.readout_variances
        results = []
        images = self.count(question) * self.networks * len(question.inputs)
        with progress_bar(images, self.label, shown=tools.show_progress, unit=" images") as bar:
            for counter in range(self.count(question)):
                networks = draw(model, self.networks, support.inputs.shape[1:], tools.seed, purpose(question), counter)
                support_features = side_by_side(model, networks, support.inputs)
                factor = weight / support_features.shape[1]
                k_ss = factor * (support_features @ support_features.T) + bias
                alpha = krr.fit(k_ss, support.labels, self.ridge)
                weights, offset = factor * (support_features.T @ alpha), bias * alpha.sum(axis=0)
                right = np.zeros(len(question.inputs), bool)
                for first in range(0, len(question.inputs), ROWS):
                    part = slice(first, first + ROWS)
                    inputs = question.inputs[part]
                    predictions = side_by_side(model, networks, inputs, on_images=bar.update) @ weights + offset
                    right[part] = predictions.argmax(axis=1) == question.classes[part]
                results.append(right)
        return np.stack(results)


def draw(model: Model, networks: int, image_shape: tuple[int, ...], seed: int, purpose: str, counter: int) -> list[Any]:
    """Return the variables of several random networks, a function of (seed, purpose, counter)."""
    numbers = generator(seed, purpose, counter)
    keys = [jax.random.key(int(numbers.integers(2**31))) for _ in range(networks)]
    return [_fresh(key, model=model, shape=image_shape) for key in keys]


def side_by_side(
    model: Model,
    networks: Sequence[Any],
    images: np.ndarray,
    *,
    on_images: Callable[[int], Any] = lambda count: None,
) -> np.ndarray:
    """Return the features of several networks, (N, networks d), float64 on the host.

    `on_images` is called with the number of images after each network.
    """
    parts = []
    for variables in networks:
        parts.append(features(model, variables, images))
        on_images(len(images))
    return np.concatenate(parts, axis=1)


@partial(jax.jit, static_argnames=("model", "shape"))
def _fresh(key: jax.Array, *, model: Model, shape: tuple[int, int, int]) -> Any:
    return model.init(key, shape)
