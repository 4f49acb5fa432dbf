"""CDA, curriculum data augmentation: SRe2L on random resized crops, which get smaller as a group is recovered.

In iteration t of N, a network sees of each image a part of m(t) to 1 of its area, with sides of 3:4 to 4:3, at the
image's size, flipped at random where a mirror image keeps its class, then rolled:

    m(t) = 0.08 + 0.92 (1 + cos(pi t / (milestone N))) / 2,      0.08 from t = milestone N on.

The public code has no configuration for 32x32 pixels; for Tiny-ImageNet it takes a learning rate of 0.4 and a strength
of 0.05.

Reference: Yin and Shen 2023, "Dataset Distillation in Large Data Era"; public code.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.decoupled.recovery import rolled
from kip.methods.decoupled.sre2l import SRe2L
from kip.training.augment import SMALLEST_AREA, STRETCH, cropped, flip


@value
class CDA(SRe2L):
    """Squeeze and recover on crops that get smaller: learn images from a trained network's statistics."""

    milestone: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of a group's iterations after which crops are as small as they get."""
    name: Literal["cda"] = "cda"  # type: ignore[assignment]

    def seen(self, key: Array, images: Array, iteration: Any, *, mirror: bool) -> Array:
        """Return the images of a group, cropped, flipped and rolled."""
        of_crop, of_flip, of_roll = jax.random.split(key, 3)
        images = cropped(of_crop, images, smallest=self.smallest(iteration), stretch=STRETCH)
        if mirror:
            images = flip(of_flip, images, len(images))
        return rolled(of_roll, images, self.roll)

    def smallest(self, iteration: Any) -> Array:
        """Return m, the least share of the area that is seen in an iteration."""
        done = jnp.minimum(iteration / (self.milestone * self.iterations), 1.0)
        return SMALLEST_AREA + (1 - SMALLEST_AREA) * 0.5 * (1 + jnp.cos(jnp.pi * done))
