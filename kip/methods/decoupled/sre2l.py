"""SRe2L: images recovered from the statistics of one trained network, by Adam, a group of one image a class at a time.

Each of the `images_per_class` groups begins as noise and takes `iterations` steps of Adam on the loss of
`kip.methods.decoupled.recovery`, on images rolled by up to `roll` pixels; pixels stay within what an image can have.
The images after a group's last step are kept. A step of the run is one iteration of one group.

Labels are the classes; the paper's soft labels are those of the protocol `SRe2L`.

Reference: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel"; public code for small images.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.decoupled.base import Recovered
from kip.methods.decoupled.recovery import recovery_loss, rolled
from kip.networks.model import Model


@value
class SRe2L(Recovered):
    """Squeeze and recover: learn images from a trained network's statistics."""

    roll: Annotated[int, Field(ge=0)] = 4
    """Pixels by which images are rolled, at most, anew for every step."""
    name: Literal["sre2l"] = "sre2l"

    variance: ClassVar[float] = 1.0
    """The weight of variances against means; DWA has its own."""

    def seen(self, key: Array, images: Array, iteration: Any, *, mirror: bool) -> Array:
        """Return the images of a group, rolled."""
        return rolled(key, images, self.roll)

    def objective(self, model: Model, given: Any, images: Array, labels: Array, key: Array) -> tuple[Array, Any]:
        """Return the loss of the recovery."""
        loss, logits = recovery_loss(
            model, given, images, labels, strength=self.strength, variance=self.variance
        )  # fmt: skip
        return loss, (logits, ())
