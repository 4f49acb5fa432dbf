"""The restarts of the network of label distillation, and the number of steps that one is worth training.

The network that learns beside the labels overfits the few base examples. Its error on target batches, averaged over the
last `window` steps, falls, reaches its lowest, and rises; once it has not been lower for `window` steps more, the
network is replaced by a fresh one, and the step of the lowest average is noted. The mean of the last three such steps
is the number of steps for which a network is trained on the distilled set.

Reference: Bohdal et al. 2020, and the public code, `label_distillation_or2.py`, whose counters these are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

REMEMBERED = 3
"""The number of restarts whose counts are averaged."""


class Restarts(NamedTuple):
    """The counters, all arrays of constant shape; part of a checkpoint.

    Attributes:
        errors: the last `window` error rates of this network, a ring, float64 (window,).
        steps: updates of this network.
        lowest: the lowest sum of `window` errors in a row; infinite before the first.
        lowest_at: the `steps` at which it was.
        counts: steps of the last restarts, newest last; -1 where there were fewer, int64 (3,).
        number: restarts so far.
    """

    errors: np.ndarray
    steps: np.ndarray
    lowest: np.ndarray
    lowest_at: np.ndarray
    counts: np.ndarray
    number: np.ndarray

    @property
    def deployment_steps(self) -> int:
        """The number of steps of a training: the mean of the last three counts, or the steps so far."""
        known = self.counts[self.counts >= 0]
        return int(known.mean()) if len(known) else int(self.steps)


def start(window: int) -> Restarts:
    """Return the counters of a first network."""
    return Restarts(
        errors=np.zeros(window),
        steps=np.asarray(0),
        lowest=np.asarray(np.inf),
        lowest_at=np.asarray(0),
        counts=np.full(REMEMBERED, -1),
        number=np.asarray(0),
    )


def note(restarts: Restarts, error: float) -> tuple[Restarts, bool]:
    """Count one update and its error rate on the target batch; return the counters, and True for a restart.

    Args:
        restarts: the counters before.
        error: a fraction.
    """
    window = len(restarts.errors)
    errors = restarts.errors.copy()
    errors[int(restarts.steps) % window] = error
    steps = int(restarts.steps) + 1
    lowest, lowest_at = float(restarts.lowest), int(restarts.lowest_at)
    if steps >= window and errors.sum() < lowest:
        lowest, lowest_at = errors.sum(), steps
    if steps >= window and steps - lowest_at > window:
        counts = np.append(restarts.counts[1:], lowest_at)
        return start(window)._replace(counts=counts, number=restarts.number + 1), True
    counted = restarts._replace(
        errors=errors, steps=np.asarray(steps), lowest=np.asarray(lowest), lowest_at=np.asarray(lowest_at)
    )
    return counted, False
