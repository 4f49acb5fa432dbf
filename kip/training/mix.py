"""Mixing the images of a batch with each other inside a compiled training step: mixup and CutMix.

With partners from a random order of the batch and one share s for all of it,

    mixup      s x + (1 - s) x'                                        s ~ Beta(0.8, 0.8)
    cutmix     x, with x' in a rectangle of the share 1 - s            s ~ uniform in [0, 1)

CutMix' rectangle has sqrt(1 - s) of each side, its centre is uniform, and the part beyond the border is cut off: s is
the share that is left of x. Labels that belong to images become s y + (1 - s) y'; a teacher sees the mixed images.

References: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Yun et al. 2019, "CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features"; the parameter of mixup is that of SRe2L's public code.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Mix = Literal["none", "mixup", "cutmix"]
MIXUP = 0.8
"""The parameter of mixup's Beta distribution."""


class Mixture(NamedTuple):
    """Mixed images, with their shares and partners.

    Attributes:
        images: (N, H, W, C).
        share: s, ().
        partners: the index of the partner of each image, int (N,).
    """

    images: Array
    share: Any
    partners: Any

    def labels(self, labels: Array) -> Array:
        """Return the labels (N, c) of the mixed images."""
        return self.share * labels + (1 - self.share) * labels[self.partners]


def mix_images(kind: Mix, key: Array, images: Array) -> Mixture:
    """Return the images of a batch (N, H, W, C), mixed with each other; a function of the key.

    Args:
        kind: the kind of mixing; `none` changes nothing.
        key: of all draws.
        images: after they were augmented.
    """
    count, height, width, _ = images.shape
    if kind == "none":
        return Mixture(images, jnp.ones((), images.dtype), jnp.arange(count))
    of_share, of_order, of_place = jax.random.split(key, 3)
    partners = jax.random.permutation(of_order, count)
    if kind == "mixup":
        share = jax.random.beta(of_share, MIXUP, MIXUP, dtype=images.dtype)
        return Mixture(share * images + (1 - share) * images[partners], share, partners)
    side = jnp.sqrt(jax.random.uniform(of_share, (), images.dtype))  # of the rectangle, as a share of the image's
    sides = jnp.array([height, width])
    lengths = (side * sides).astype(int)
    centre = jnp.floor(jax.random.uniform(of_place, (2,)) * sides).astype(int)
    first = jnp.maximum(centre - lengths // 2, 0)
    last = jnp.minimum(centre + lengths // 2, sides)
    inside = [(jnp.arange(n) >= first[axis]) & (jnp.arange(n) < last[axis]) for axis, n in enumerate((height, width))]
    hole = inside[0][:, None] & inside[1][None, :]
    share = 1 - hole.mean(dtype=images.dtype)
    return Mixture(jnp.where(hole[..., None], images[partners], images), share, partners)
