"""The images of an update: indices drawn on the device, each a function of a key and the update's number.

- `whole_epochs`: a random order of the set is cut into batches, anew for every epoch; the last batch is smaller where
  the size does not divide the set, as PyTorch's loader gives it. The loaders of all public evaluation codes that
  `kip.training.protocols` follows keep that batch.
- `draws`: each update draws its batch from the whole set, without replacement.

A set that is not larger than a batch is taken whole, in its order.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Drawn = Literal["whole_epochs", "draws"]


class Batches(NamedTuple):
    """The batches of a set.

    Attributes:
        count: images of the set.
        size: images of a batch.
        drawn: the way of drawing them, `whole_epochs` or `draws`.
    """

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    size: int
    drawn: Drawn = "whole_epochs"

    @property
    def of_epoch(self) -> int:
        """The number of updates of an epoch. With `draws`, they see about as many images as the set has."""
        full, rest = divmod(self.count, self.size)
        return max(1, full + (self.drawn == "whole_epochs" and rest > 0))

    def length(self, step: int) -> int:
        """Return the number of images of update `step`: the shape of its indices, known before it is compiled."""
        if self.count <= self.size:
            return self.count
        return min(self.size, self.count - self.size * (step % self.of_epoch)) if self.drawn != "draws" else self.size

    def indices(self, key: Array, step: Array, length: int) -> Array:
        """Return the indices of update `step`, int (length,); jit-composable.

        Args:
            key: the key of the whole training.
            step: updates before this one.
            length: `self.length(step)`.
        """
        if self.count <= self.size:
            return jnp.arange(self.count)
        if self.drawn == "draws":
            return self.order(key, step)[:length]
        epoch, position = jnp.divmod(step, self.of_epoch)
        return jax.lax.dynamic_slice(self.order(key, epoch), (position * self.size,), (length,))

    def order(self, key: Array, number: Array) -> Array:
        """Return the random order of the set in an epoch, or with `draws` in an update, int (N,); jit-composable.

        Args:
            key: the key of the whole training.
            number: epochs before this one, or updates.
        """
        return jax.random.permutation(jax.random.fold_in(key, number), self.count)
