"""Channel-wise standardisation, and its trivial case: pixels as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from kip.preprocess.pixels import as_pixels, check_shape, moments
from kip.storage.images import Images, Lazy, Made, slices


@dataclass(frozen=True, eq=False)
class Standardise:
    """x -> (x - mean_c) / deviation_c, c the channel; mean 0 and deviation 1 for the kind `none`.

    Reference: Nguyen et al. 2021, section A, "standard preprocessing".
    """

    kind: str
    shape: tuple[int, ...]
    """The shape (H, W, C) of the train images."""
    mean: np.ndarray
    """The mean of each channel, float64 (C,)."""
    deviation: np.ndarray
    """The deviation of each channel, float64 (C,); 1 for a channel that is constant over train, which is then only
    centred."""

    @overload
    def apply(self, images: np.ndarray) -> np.ndarray: ...

    @overload
    def apply(self, images: Lazy) -> Made: ...

    def apply(self, images: Images) -> Images:
        """Standardise; see `Transform.apply`."""
        check_shape(images, self.shape)
        if isinstance(images, Lazy):
            return images.made(self.apply, shape=self.shape, dtype=np.float32)
        standardised = np.empty(images.shape, np.float32)
        for part in slices(len(images), images):  # so that the float64 copies stay small
            standardised[part] = (as_pixels(images[part]) - self.mean) / self.deviation
        return standardised

    def statistics(self, images: Images) -> np.ndarray:
        """Return zeros and ones: no image is normalised by itself."""
        return np.tile([0.0, 1.0], (len(images), 1))

    def invert(self, preprocessed: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        """Return preprocessed * deviation + mean; `statistics` plays no part in this kind."""
        return (as_pixels(preprocessed, self.shape) * self.deviation + self.mean).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Return the kind, the channel means and deviations."""
        return {"kind": self.kind, "mean": self.mean.tolist(), "std": self.deviation.tolist()}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return nothing: `describe` says all."""
        return {}


def fit(images: Images, *, identity: bool = False) -> Standardise:
    """Take the channel moments over all train pixels.

    Args:
        images: uint8 (N, H, W, C).
        identity: leave pixels in [0, 1] as they are (the kind `none`).
    """
    shape, channels = images.shape[1:], images.shape[3]
    if identity:
        return Standardise("none", shape, np.zeros(channels), np.ones(channels))
    mean, deviation = channel_moments(images)
    return Standardise("standardize", shape, mean, deviation)


def channel_moments(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each channel over all train pixels, (C,); 1 for the deviation of a constant one."""
    mean, deviation = moments(images, images.shape[3])
    return mean, np.where(deviation > 0, deviation, 1.0)
