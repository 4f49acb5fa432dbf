"""The contract of a place in which a training saves itself, so that a kill loses only a part of it."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np

from kip.errors import NonFiniteError


class Artefact(Protocol):
    """A place that holds one pytree of arrays between processes."""

    def load(self, like: Any) -> Any | None:
        """Return the last saved tree, in the structure and shapes of `like`; None if there is nothing whole."""
        ...

    def save(self, tree: Any) -> None:
        """Keep a pytree of host arrays in place of the last one, or do nothing if the last time was just now."""
        ...


def check_finite(tree: Any, *, step: int, what: str) -> None:
    """Refuse a network that diverged, so that it is never kept.

    Args:
        tree: a pytree of arrays.
        step: updates made, for the error.
        what: the name of the training, for the error.

    Raises:
        NonFiniteError: if a number is NaN or infinite.
    """
    for leaf in jax.tree.leaves(tree):
        values = np.asarray(leaf)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise NonFiniteError(
                f"{what} diverged: after {step} updates its parameters hold NaN or infinity",
                remedy="Lower its learning rate.",
            )
