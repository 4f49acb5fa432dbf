"""EDC: few iterations from natural images, on statistics of which half are those of the classes.

The loss is that of `kip.methods.decoupled.running` with a class share of 1/2; networks see random resized crops of 0.08
to 1 of the area, with sides of 3:4 to 4:3, flipped where a mirror image keeps its class. The public code's option of a
flat minimum, by a moving average of the images, is left out.

Labels are the classes; the paper's soft labels are those of the protocol `EDC`.

Reference: Shao et al. 2024, "Elucidating the Design Space of Dataset Condensation"; public code for CIFAR-10.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.decoupled.running import Running
from kip.training.augment import STRETCH, cropped, flip


@value
class EDC(Running):
    """Matching of all images' and of classes' statistics: learn images from several networks' statistics."""

    start: Literal["noise", "real", "patches"] = "real"
    """What the images begin as: normal noise, natural images, or the crops of natural images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 75
    """Steps of Adam of each group of images."""
    class_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The weight of the statistics of classes against those of all images."""
    name: Literal["edc"] = "edc"

    @property
    def share_of_classes(self) -> float:
        """The weight of the statistics of classes against those of all images."""
        return self.class_share

    def seen(self, key: Array, images: Array, iteration: Any, *, mirror: bool) -> Array:
        """Return the images of a group, cropped and flipped."""
        of_crop, of_flip = jax.random.split(key)
        images = cropped(of_crop, images, stretch=STRETCH)
        return flip(of_flip, images, len(images)) if mirror else images
