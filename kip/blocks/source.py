"""The source of target images: whoever holds the data set need not be sent them.

A target batch is a pure function of (split, indices, seed, step): the loop and a worker call the same `select`, and get
the same bytes with the same library versions; a checksum shows where they do not.
"""

from __future__ import annotations

import zlib
from typing import Literal, NamedTuple

import numpy as np

from kip.data import Augment, augment
from kip.preprocess import Transform
from kip.storage.images import Images, parts

SplitName = Literal["train", "validation", "test"]


class Source(NamedTuple):
    """Target images by name.

    Attributes:
        split: the split of the experiment's data set.
        indices: positions in the split, (m,) int; None means all, in its order.
        step: the step for which they are augmented; None means as they are.
        rows: (start, stop), the part of these images that is meant; None means all of them.
        checksum: CRC-32 of all of these images, float32, to be compared with; None: not known.
    """

    split: SplitName
    indices: np.ndarray | None = None
    step: int | None = None
    rows: tuple[int, int] | None = None
    checksum: int | None = None


def select(
    pixels: Images,
    inputs: Images,
    indices: np.ndarray,
    *,
    transform: Transform,
    policy: Augment,
    seed: int,
    step: int,
) -> np.ndarray:
    """Return preprocessed images (m, H, W, C), float32, augmented as the policy says.

    Args:
        pixels: a split's images, (N, H, W, C), uint8.
        inputs: the same preprocessed, float32.
        indices: which of them, (m,).
        transform: the fitted preprocessing, for the images that augmentation changes.
        policy: how they are augmented.
        seed: the experiment's root seed.
        step: the step that they are for.
    """
    images = inputs[indices]
    if policy.policy != "none":
        before = pixels[indices]
        after = augment(before, policy, seed=seed, step=step, indices=indices)
        changed = (after != before).any(axis=(1, 2, 3))
        if changed.any():
            images[changed] = transform.apply(after[changed])
    return images


def checksum(images: Images) -> int:
    """Return the CRC-32 of an array's bytes, which tells whether a worker made the same images."""
    total = 0
    for part in parts(images):
        total = zlib.crc32(np.ascontiguousarray(part).data, total)
    return total
