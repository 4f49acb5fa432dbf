"""Scores of how unsure or wrong networks are at one epoch. A high score is a hard image.

Functions take logits (seeds, rows, m, c), row k after k epochs, and give (m,) float64, the mean over seeds; p is the
softmax of row `epoch`, y the one-hot class.

| score | definition | source |
|---|---|---|
| `el2n` | |p - y|_2, early in training | Paul et al. 2021, "Deep Learning on a Data Diet" |
| `entropy` | -sum_j p_j log p_j | Coleman et al. 2020, "Selection via Proxy" |
| `least_confidence` | 1 - max_j p_j | the same |
| `margin` | 1 - (largest p_j - second largest p_j) | the same |
| `cal` | mean over neighbours i' of (KL(p_i || p_i') + KL(p_i' || p_i)) / 2 | Margatina et al. 2021 |

DeepCore takes the largest logit for `least_confidence`, the lowest scores for `cal`, and the most certain images of all
where it does not balance classes; here the largest probability, the highest scores and the least certain, always.
"""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the softmax over the last axis, float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def el2n(logits: np.ndarray, classes: np.ndarray, epoch: int) -> np.ndarray:
    """Return |p - y|_2 after `epoch` epochs.

    >>> el2n(np.zeros((1, 1, 1, 2)), np.array([0]), 0).round(3)
    array([0.707])
    """
    return errors(softmax(logits[:, epoch]), classes).mean(0)


def errors(p: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return |p - y|_2 of probabilities (..., m, c), (..., m)."""
    return np.sqrt(np.square(p - np.eye(p.shape[-1])[classes]).sum(-1))


def entropy(logits: np.ndarray, epoch: int) -> np.ndarray:
    """Return the entropy of p after `epoch` epochs, in nats."""
    p = softmax(logits[:, epoch])
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1).mean(0)


def least_confidence(logits: np.ndarray, epoch: int) -> np.ndarray:
    """Return 1 - max p after `epoch` epochs."""
    return 1 - softmax(logits[:, epoch]).max(-1).mean(0)


def margin(logits: np.ndarray, epoch: int) -> np.ndarray:
    """Return 1 less the distance of the two largest p after `epoch` epochs."""
    ordered = np.sort(softmax(logits[:, epoch]), -1)
    return 1 - (ordered[..., -1] - ordered[..., -2]).mean(0)


def cal(logits: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Return how far predictions are from those of the neighbours, mean symmetric KL divergence, (m,).

    Args:
        logits: of one network, (m, c).
        neighbours: of each image, (m, k), of `kip.methods.selection.neighbours`.
    """
    scaled = np.asarray(logits, np.float64)
    scaled = scaled - scaled.max(-1, keepdims=True)
    log_p = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    p = np.exp(log_p)
    total = np.zeros(len(p))
    for others in neighbours.T:  # KL(p||q) + KL(q||p) = sum (p - q)(log p - log q)
        total += 0.5 * ((p - p[others]) * (log_p - log_p[others])).sum(-1)
    return total / neighbours.shape[1]
