"""One root seed, from which every purpose draws its own stream: no global random state anywhere.

A draw is a pure function of (seed, purpose, step, ...), so that a resumed run, a retried tile and a worker on another
machine all see the same numbers without any generator being saved or sent.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a fresh NumPy generator for (seed, purpose, counters).

    Args:
        seed: the experiment's root seed, >= 0.
        purpose: what the numbers are for, such as "target batch"; different purposes are independent.
        counters: step, image index and the like, each >= 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *counters])


def key(seed: int, purpose: str, *counters: int) -> jax.Array:
    """Return the JAX key of (seed, purpose, counters), (); a key is made nowhere else.

    Args:
        seed: the experiment's root seed, >= 0.
        purpose: what the key is for, such as "pool network"; see `generator`.
        counters: network, step and the like, each >= 0.
    """
    import jax  # here, because data sets are loaded without JAX

    return jax.random.key(int(generator(seed, purpose, *counters).integers(2**31)))
