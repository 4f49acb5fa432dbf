"""Augmentation of target images, as a pure function of (seed, step, dataset index)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kip import rng
from kip.config import value
from kip.data.policies import MEAN_COLOUR, POLICIES, operators
from kip.errors import DataError
from kip.storage.images import check_image_batch

MAX_ROTATION = 10.0
"""Largest rotation of grey images, degrees."""
MAX_SHIFT = 0.1
"""Largest shift of grey images, as a fraction of the side."""


@value
class Augment:
    """The variation of target images at each step."""

    policy: Literal["none", "autoaugment_cifar", "autoaugment_svhn", "rotate_shift"] = "none"
    """The policy. The paper takes an AutoAugment policy for RGB sets, and `rotate_shift` for grey ones."""
    fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The chance of each image to be augmented at a step. The paper takes 1, and also 0.25 and 0.5 (section 3.1)."""


def augment(images: np.ndarray, config: Augment, *, seed: int, step: int, indices: np.ndarray) -> np.ndarray:
    """Augment the images of a batch, each by its own draw.

    - `autoaugment_*`: one of 25 sub-policies, drawn uniformly, then a horizontal flip with p = 1/2. The paper flips
      every RGB set; for SVHN's digits that is questionable, and it is done here too because its figures were made so.
    - `rotate_shift`: a rotation uniform in +-10 degrees about the centre and shifts uniform in +-0.1 of the height and
      of the width, in one linear interpolation; outside the image its nearest pixel continues, as in Keras'
      ImageDataGenerator, which the paper used.

    Everything about an image is drawn from (seed, step, its own index), `fraction` included: each image is augmented
    with that probability, rather than an exact number of each batch, so that a worker that holds any part of the batch
    produces the same bytes with the same library versions.

    Args:
        images: uint8 (N, H, W, C); C = 3 for AutoAugment.
        config: the policy and the fraction.
        seed: the experiment's root seed.
        step: the training step.
        indices: each image's index in the data set, int (N,).

    Returns:
        uint8 (N, H, W, C), a new array; `images` itself where nothing is to be done.

    Raises:
        ShapeError: if `images` is not a uint8 batch.
        DataError: if an AutoAugment policy is given grey images.

    Reference: Nguyen et al. 2021, section A, "Augmentations".
    """
    check_image_batch("images", images, dtype=np.uint8)
    if config.policy == "none" or config.fraction == 0:
        return images
    vary = _rotate_shift if config.policy == "rotate_shift" else _autoaugment(config.policy, images.shape[3])
    varied = images.copy()
    for place, index in enumerate(indices):
        draws = rng.generator(seed, "augment", step, int(index)).random(7)
        if draws[0] < config.fraction:
            varied[place] = vary(images[place], draws[1:])
    return varied


def _autoaugment(policy: str, channels: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function of (image, six uniform draws) that applies a sub-policy and a flip."""
    if channels != 3:
        raise DataError(
            f"augmentation {policy!r} needs RGB images",
            got=f"{channels} channel{'s' * (channels != 1)}",
            expected="3 channels",
            remedy="Use policy='rotate_shift' for grey images.",
        )
    from PIL import Image

    sub_policies, apply = POLICIES[policy], operators(MEAN_COLOUR[policy])

    def vary(pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels)
        for step, chance, sign in zip(sub_policies[int(draws[0] * 25)], draws[1:3], draws[3:5], strict=True):
            if chance < step.probability:
                image = apply[step.operation](image, step.magnitude, 1 if sign < 0.5 else -1)
        result = np.asarray(image)
        return result[:, ::-1] if draws[5] < 0.5 else result

    return vary


def _rotate_shift(pixels: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Rotate and shift one image (H, W, C): output position p shows input position R (p - centre) + centre - shift."""
    from scipy.ndimage import affine_transform

    angle, *shift = (2 * draws[:3] - 1) * (np.deg2rad(MAX_ROTATION), MAX_SHIFT, MAX_SHIFT)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    size = np.array(pixels.shape[:2])
    centre = (size - 1) / 2
    offset = centre - rotation @ centre - np.array(shift) * size
    planes = [
        affine_transform(plane, rotation, offset, output=np.float32, order=1, mode="nearest")
        for plane in np.moveaxis(pixels, -1, 0)
    ]
    return np.rint(np.stack(planes, axis=-1)).astype(np.uint8)
