"""Arrays of NumPy and JAX, and float64 in JAX without touching the global setting of the process that imports kip."""

from __future__ import annotations

import contextlib
from typing import Any, Union

import jax
import numpy as np

AnyArray = Union[np.ndarray, jax.Array]
"""An array of NumPy's on the host, or of JAX's on a device."""


def float64() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which JAX keeps float64; it is local to the thread that enters it."""
    if hasattr(jax, "enable_x64"):  # JAX >= 0.8
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]

    return enable_x64()
