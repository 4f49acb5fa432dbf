"""Scores of the changes of predictions while networks learn. A high score is a hard image by default.

Functions take logits (seeds, rows, m, c), row k after k epochs, and classes (m,), and return (m,) float64, the mean
over seeds. Row 0, the fresh network, never counts. p_t is the probability of the true class after t epochs, T the last
epoch that counts.

| score | definition | source |
|---|---|---|
| `forgetting` | epochs at which a right image is wrong after the next; T for one that is never right | Toneva 2019 |
| `aum` | -mean_t (true logit - largest other logit): an area under the margin, its sign turned | Pleiss et al. 2020 |
| `dyn_unc` | mean over windows of J epochs of the deviation of p_t in the window | He et al. 2024, Dyn-Unc |
| `dual` | mean over windows of J epochs of the deviation times (1 - the mean of p_t) | Cho et al. 2025, DUAL |
| `cad` | mean over W windows, the last of which ends at K - 1, of the deviation of S_t in J epochs | 003, CAD-Prune |

Deviations have the divisor J - 1. The public code of Dyn-Unc and DUAL multiplies them by 10, which orders nothing.
The public libraries differ from these definitions: DeepCore and CCS give 0 to images that are never learned, as to
those that are never forgotten; CCS takes AUM's margins of probabilities; DUAL's AUM keeps the last epoch only;
Dyn-Unc's leaves out the last window. Their records are made from batches as they are trained on, ours after each epoch
from the images as they are.

CAD-Prune is of the main part of paper 003, which we have from a public reproduction, andriotis/ca2d. A network is
trained for exactly K epochs by the recipe of HL (`kip.training.records.compute_aligned`), K of `aligned_epochs`. S_t is
measured after each epoch t from 1 on, U_k is the deviation of S after epochs k to k + J - 1, and the score is the mean
of U_k for k from K - J - W + 1 to K - J: with J = K - W, which it takes, epochs 1 to K - 1. S is the probability of the
true class by one source and EL2N by the reproduction; both are here. W is 2, and J is 6 on ImageNet-1K. Where K is
below W + 2, no window of two epochs fits, and the score is not defined.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from kip.methods.selection.uncertainty import errors, softmax

ThatVaries = Literal["probability", "el2n"]


def forgetting(logits: np.ndarray, classes: np.ndarray, last: int | None = None) -> np.ndarray:
    """Return the number of times that an image is forgotten, or T where it is never learned."""
    right = logits[:, 1 : _stop(last)].argmax(-1) == classes
    return forgotten(right).mean(0)


def forgotten(right: np.ndarray) -> np.ndarray:
    """Return the events of forgetting in histories of right and wrong, (..., T, m) to (..., m).

    >>> forgotten(np.array([[1, 0], [0, 0], [1, 0]], bool))
    array([1., 3.])
    """
    events = (right[..., :-1, :] & ~right[..., 1:, :]).sum(-2)
    return np.where(right.any(-2), events, right.shape[-2]).astype(np.float64)


def aum(logits: np.ndarray, classes: np.ndarray, last: int | None = None) -> np.ndarray:
    """Return minus the mean margin of logits."""
    counted = np.asarray(logits[:, 1 : _stop(last)], np.float64)
    own = np.eye(logits.shape[-1], dtype=bool)[classes]
    true = counted[..., own]
    other = np.where(own, -np.inf, counted).max(-1)
    return -(true - other).mean((0, 1))


def dyn_unc(logits: np.ndarray, classes: np.ndarray, window: int, last: int | None = None) -> np.ndarray:
    """Return the mean over windows of the deviation of p_t."""
    return _windows(_probability(logits, classes, last), window).std(-1, ddof=1).mean((0, 1))


def dual(logits: np.ndarray, classes: np.ndarray, window: int, last: int | None = None) -> np.ndarray:
    """Return the mean over windows of the deviation of p_t times 1 less its mean."""
    windows = _windows(_probability(logits, classes, last), window)
    return (windows.std(-1, ddof=1) * (1 - windows.mean(-1))).mean((0, 1))


def mean_probability(logits: np.ndarray, classes: np.ndarray, last: int | None = None) -> np.ndarray:
    """Return the mean of p_t over epochs, by which DUAL draws."""
    return _probability(logits, classes, last).mean((0, 1))


def cad(
    logits: np.ndarray, classes: np.ndarray, epochs: int, window: int, windows: int, of: ThatVaries = "probability"
) -> np.ndarray:
    """Return the mean deviation of S in the last W windows of epochs 1 to K - 1.

    Args:
        logits: (seeds, rows, m, c).
        classes: (m,).
        epochs: K, of `aligned_epochs`, at most the rows less 1.
        window: J.
        windows: W; J + W is at most K.
        of: S.
    """
    p = softmax(logits[:, epochs - window - windows + 1 : epochs])
    s = errors(p, classes) if of == "el2n" else np.take_along_axis(p, classes[None, None, :, None], -1)[..., 0]
    return _windows(s, window).std(-1, ddof=1).mean((0, 1))


def aligned_epochs(count: int, chosen: int, epochs: int) -> float:
    """Return K of CAD-Prune, of which K N = epochs |S|: as much work as a training on the chosen images; not rounded.

    Args:
        count: N, the images that the recorded networks are trained on: without the validation images.
        chosen: |S|.
        epochs: of a training on the chosen images.

    >>> aligned_epochs(50_000, 1000, 300), aligned_epochs(50_000, 5000, 300)
    (6.0, 30.0)
    >>> round(aligned_epochs(45_000, 1000, 300)), round(aligned_epochs(45_000, 5000, 300))
    (7, 33)
    """
    return epochs * chosen / count


def _stop(last: int | None) -> int | None:
    return None if last is None else last + 1


def _probability(logits: np.ndarray, classes: np.ndarray, last: int | None) -> np.ndarray:
    """Return p_1 to p_T, (seeds, T, m)."""
    p = softmax(logits[:, 1 : _stop(last)])
    return np.take_along_axis(p, classes[None, None, :, None], -1)[..., 0]


def _windows(series: np.ndarray, length: int) -> np.ndarray:
    """Return all windows of (seeds, T, m), (seeds, T - J + 1, m, J)."""
    return np.lib.stride_tricks.sliding_window_view(series, length, axis=1)
