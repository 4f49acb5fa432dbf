"""G-VBSM, generalised matching of various backbones and statistics: several networks, also their convolutions.

Groups begin as noise. The networks take turns, an iteration each; they see the images shifted by up to 4 pixels in 32,
flipped where a mirror image keeps its class, and rolled. To the loss of `kip.methods.decoupled.running` comes, for the
`together` images of each class,

    diversity * sum_classes KL(softmax(l / 4) || softmax(l)),     l the eigenvalues of X X^T, rows of X the images;

the left side is constant. One image a class has none of it. The public code recovers 100 images together, all of a
class where it has 10.

Labels are the classes; the paper's soft labels are those of the protocol `G-VBSM`, the mean of all networks' logits.

Reference: Shao et al. 2024, "Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching";
public code for CIFAR-100.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.decoupled.recovery import rolled
from kip.methods.decoupled.running import Running
from kip.training.augment import augmented, for_classes

TEMPERATURE = 4.0
"""What eigenvalues are divided by on the constant side."""


@value
class GVBSM(Running):
    """Matching of various backbones and statistics: learn images from several networks' statistics."""

    iterations: Annotated[int, Field(ge=1)] = 4000
    """Steps of Adam of each group of images."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """The probability of a convolution to be left out of a step."""
    roll: Annotated[int, Field(ge=0)] = 32
    """Pixels by which images are rolled, at most, anew for every step."""
    diversity: Annotated[float, Field(ge=0)] = 1.0
    """The weight of the eigenvalues' divergence."""
    name: Literal["gvbsm"] = "gvbsm"

    def seen(self, key: Array, images: Array, iteration: Any, *, mirror: bool) -> Array:
        """Return the images of a group, shifted, flipped and rolled."""
        of_crop, of_roll = jax.random.split(key)
        return rolled(of_roll, augmented(for_classes("flip_shift", mirror), of_crop, images), self.roll)

    def more_loss(self, images: Array) -> Array:
        """Return the weighted divergence of the classes' eigenvalues."""
        if self.group == 1:
            return jnp.zeros(())
        return self.diversity * divergence(images.reshape(-1, self.group, images[0].size))


def divergence(rows: Array) -> Array:
    """Return sum_classes KL(softmax(l / 4) || softmax(l)), () from the images of each class, (classes, n, pixels)."""
    gram = jnp.einsum("cip,cjp->cij", rows, rows, precision="highest")
    eigenvalues = jnp.linalg.eigvalsh(gram)
    target = jax.lax.stop_gradient(jax.nn.softmax(eigenvalues / TEMPERATURE))
    log_ratio = jnp.log(jnp.maximum(target, 1e-30)) - jax.nn.log_softmax(eigenvalues)
    return jnp.sum(target * log_ratio)
