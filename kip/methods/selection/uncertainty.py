"""Scores of the uncertainty or error of networks at one epoch. A high score is a hard image.

Functions take logits (seeds, rows, m, c), row k after k epochs, and return (m,) float64, the mean over seeds; p is the
softmax of row `epoch`, y the one-hot class, i' one of the k neighbours of image i.

| score | definition | source |
|---|---|---|
| `el2n` | |p - y|_2, early in training | Paul et al. 2021, "Deep Learning on a Data Diet" |
| `el2n_sl` | |softmax(f / T) - q|_2 / T, q the soft label of a separate teacher at the temperature T | 003, EL2N-SL |
| `entropy` | -sum_j p_j log p_j | Coleman et al. 2020, "Selection via Proxy" |
| `least_confidence` | 1 - max_j p_j | the same |
| `margin` | 1 - (largest p_j - second largest p_j) | the same |
| `cal` | mean over neighbours of KL(p_i' || p_i); the highest are chosen | Margatina et al. 2021, and their code |
| `cal_deepcore` | mean over neighbours of (KL(p_i || p_i') + KL(p_i' || p_i)) / 2; the lowest are | Guo et al. 2022 |

DeepCore takes the largest logit for `least_confidence`, and the most certain images of all where it does not balance
classes; here the largest probability and the least certain, always. CAL was made for choosing images to label: its
neighbours are labelled images in the space of the network itself. DeepCore's are images of the same class in the space
of another network, which learned ImageNet.
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


def el2n_sl(logits: np.ndarray, teacher: np.ndarray, temperature: float, epoch: int) -> np.ndarray:
    """Return |softmax(f / T) - q|_2 / T after `epoch` epochs, q = softmax(teacher / T).

    It is the length of the gradient of KL(q || softmax(f / T)) with respect to the logits f (paper 003, supplement,
    Lemma 1), so that T divides it; q is the target that images have under soft labels.

    Args:
        logits: f (seeds, rows, m, c).
        teacher: the logits of other networks, (teachers, m, c); q is the mean of their probabilities.
        temperature: T.
        epoch: early in training, as for EL2N.
    """
    q = softmax(teacher, temperature).mean(0)
    return np.sqrt(np.square(softmax(logits[:, epoch], temperature) - q).sum(-1)).mean(0) / temperature


def cal(logits: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Return the distance of the neighbours' predictions from an image's own, mean KL(p_neighbour || p), (m,).

    Args:
        logits: of one network, (m, c).
        neighbours: of each image, (m, k), of `kip.methods.selection.neighbours`.
    """
    p, log_p = _probabilities(logits)
    return sum((p[others] * (log_p[others] - log_p)).sum(-1) for others in neighbours.T) / neighbours.shape[1]


def cal_deepcore(logits: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Return the mean symmetric divergence between an image's predictions and its neighbours', (m,); see `cal`."""
    p, log_p = _probabilities(logits)  # KL(p || q) + KL(q || p) = sum (p - q)(log p - log q)
    terms = (0.5 * ((p - p[others]) * (log_p - log_p[others])).sum(-1) for others in neighbours.T)
    return sum(terms) / neighbours.shape[1]


def _probabilities(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and their finite logarithms, float64."""
    scaled = np.asarray(logits, np.float64)
    scaled = scaled - scaled.max(-1, keepdims=True)
    log_p = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    return np.exp(log_p), log_p
