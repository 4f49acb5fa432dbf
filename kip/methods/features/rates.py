"""Learning rates that adapt to how descents go, and the search for the first ones, as in RCIG's public code.

Reference: Loo, Hasani, Lechner, Rus 2023, "Dataset Distillation with Convexified Implicit Gradients"; public code,
`algorithms.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kip.methods.features.hypergradient import Descent, Scalar

WATCHED = 50
"""The number of descents after which a learning rate is adapted."""
LARGEST_RATE = 1e3
"""The rate at which the search for a first rate ends at the latest."""


class Rate(NamedTuple):
    """A learning rate that adapts, and the descents since it last did; all arrays, part of a checkpoint.

    Attributes:
        value: the learning rate, float32.
        higher: descents that ended higher than they began, int.
        falling: descents that fell at every step, int.
        count: descents, int.
    """

    value: np.ndarray
    higher: np.ndarray
    falling: np.ndarray
    count: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]


def first(rate: Scalar) -> Rate:
    """Return a learning rate before its first descent."""
    zero = np.zeros((), np.int32)
    return Rate(np.asarray(rate, np.float32), zero, zero, zero)


def watch(rate: Rate, values: np.ndarray) -> Rate:
    """Return a learning rate after one more descent, adapted after every 50.

    It becomes 0.9 of itself where at least 29 % of the descents ended higher than they began, and otherwise 1.05 times
    itself where at least 70 % fell at every step.

    Args:
        rate: before.
        values: the value before each step of the descent, (k,).
    """
    count, higher = int(rate.count) + 1, int(rate.higher) + int(values[-1] > values[0])
    falling = int(rate.falling) + int(_falls(values))
    if count < WATCHED:
        return Rate(rate.value, *(np.asarray(number, np.int32) for number in (higher, falling, count)))
    factor = 0.9 if higher >= 0.29 * count else 1.05 if falling >= 0.7 * count else 1.0
    return first(np.float32(factor) * rate.value)


def find_rate(descent: Callable[[Scalar], Descent], start: float) -> float:
    """Return the first learning rate: 0.84 times the least of start, 1.2 start, ... at which a descent does not fall.

    Args:
        descent: the descent at a rate.
        start: the first rate that is tried.
    """
    rate = start
    while rate < LARGEST_RATE and _falls(np.stack(descent(np.float32(rate)).values)):
        rate *= 1.2
    return 0.84 * rate


def _falls(values: np.ndarray) -> bool:
    return bool(np.all(values[1:] < values[:-1]))
