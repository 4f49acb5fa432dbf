"""How far results of several seeds lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """Return the sample standard deviation, sqrt(sum (v - mean)^2 / (n - 1)), in the values' units; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
