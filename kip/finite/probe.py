"""The linear probe: how good are a network's features for classification, with the network left as it is.

A ridge regression from the features f(x) of labelled images, and a constant, to centred one-hot labels, in its dual
form: that is KRR with the kernel of inner products, and so `kip.krr` solves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kip import krr
from kip.data import centred_one_hot, class_balanced
from kip.finite.feature_krr import features
from kip.finite.networks import Model

RIDGE = krr.Ridge(1e-1)
"""Regulariser of the probe, relative to the mean of the kernel's diagonal; the best of 1e-3, 1e-2, 0.1, 1 and 10 on
MNIST's validation images, for trained, pre-trained and random features alike, with 1000 labelled images."""


def linear_probe(
    model: Model,
    variables: Any,
    train_inputs: np.ndarray,
    train_classes: np.ndarray,
    inputs: np.ndarray,
    classes: np.ndarray,
    *,
    count: int,
    ridge: krr.Ridge = RIDGE,
    seed: int = 0,
) -> float:
    """Return the fraction of `inputs` that a linear classifier on the network's features puts into their classes.

    Args:
        model: the network. variables: its variables; batch normalisation is in test mode.
        train_inputs: labelled images (N, H, W, C), preprocessed. train_classes: their classes, (N,).
        inputs: images to classify, (m, H, W, C). classes: their classes, (m,).
        count: labelled images that the classifier learns from, class-balanced; the regression has this many unknowns.
        ridge: the regulariser, of features standardised over those images.
        seed: draws those images.
    """
    num_classes = int(train_classes.max()) + 1
    chosen = class_balanced(train_classes, count, num_classes=num_classes, seed=seed, purpose="linear probe")
    ours = features(model, variables, train_inputs[chosen])
    mean, deviation = ours.mean(axis=0), ours.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    ours, theirs = (
        np.concatenate([(part - mean) / scale, np.ones((len(part), 1))], axis=1)
        for part in (ours, features(model, variables, inputs))
    )
    alpha = krr.fit(ours @ ours.T, centred_one_hot(train_classes[chosen], num_classes), ridge)
    predicted = theirs @ (ours.T @ alpha)
    return float(np.mean(predicted.argmax(axis=1) == classes))
