"""Networks trained on a distilled set by squared error: how FRePo's sets are judged, and KRR-ST's used."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from kip.finite.networks import Model
from kip.finite.pool import Loss, Optimizer, fresh, learn
from kip.rng import generator

BATCH = 500
"""Images of a minibatch; smaller sets are taken whole."""
ROWS = 2048
"""Images classified at once."""


def train(
    model: Model,
    optimizer: Optimizer,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    *,
    key: tuple[int, str, int],
    loss: Loss = "half_sum",
) -> Any:
    """Return a fresh network's variables after `steps` updates on the squared error.

    Args:
        model: the network. optimizer: its optimiser.
        images: (n, H, W, C). labels: (n, c), any real targets.
        steps: updates, of the whole set, or of 500 images drawn without replacement.
        key: seed, purpose and counter; they determine initial values and minibatches.
        loss: how errors are summed; see `kip.finite.pool`.
    """
    seed, purpose, counter = key
    variables, state = fresh(model, optimizer, images.shape[1:], key=key)
    for step in range(steps):
        chosen: Any = slice(None)
        if len(images) > BATCH:
            chosen = generator(seed, f"{purpose} minibatch", counter, step).permutation(len(images))[:BATCH]
        variables, state = learn(
            variables, state, images[chosen], labels[chosen], model=model, optimizer=optimizer, loss=loss
        )
    return variables


def accuracies(
    model: Model,
    optimizer: Optimizer,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    inputs: np.ndarray,
    classes: np.ndarray,
    *,
    networks: int,
    seed: int,
) -> np.ndarray:
    """Return the accuracy on `inputs` (m, H, W, C) of each of several fresh networks trained on a set, (networks,)."""
    results = []
    for counter in range(networks):
        variables = train(model, optimizer, images, labels, steps, key=(seed, "deployed", counter))
        correct = 0
        for first in range(0, len(inputs), ROWS):
            predicted = np.asarray(_logits(variables, inputs[first : first + ROWS], model=model)).argmax(axis=1)
            correct += int(np.sum(predicted == classes[first : first + ROWS]))
        results.append(correct / len(inputs))
    return np.array(results)


@partial(jax.jit, static_argnames=("model",))
def _logits(variables: Any, images: Array, *, model: Model) -> Array:
    return model.apply(variables, images).logits
