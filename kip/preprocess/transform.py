"""The preprocessing value, and fit / apply / invert / describe whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, overload

import numpy as np
from pydantic import Field

from kip.config import value
from kip.errors import DataError
from kip.preprocess import standardise, zca
from kip.progress import inner_stage
from kip.storage.images import Images, Lazy, Made, check_image_batch


@value
class Preprocess:
    """The preprocessing of pixels before a kernel sees them, fitted on the train images only."""

    kind: Literal["none", "standardize", "zca", "zca_notebook", "zca_frepo", "zca_kornia"] = "standardize"
    """The kind of preprocessing. `none`: pixels stay in [0, 1]. `standardize`: every channel gets mean zero and
    deviation one. `zca*`: regularised whitening, of the paper, of the authors' notebook, of FRePo, of MTT;
    `kip.preprocess.zca` says how they differ."""
    regularization: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """The number that ZCA adds to every eigenvalue of the covariance, in units of their mean, or as it is
    (`zca_kornia`); other kinds ignore it. The paper takes 0.1 for CIFAR and 100 for SVHN."""


class Transform(Protocol):
    """A fitted preprocessing. Images are (N, H, W, C); pixels are uint8/255, or floats on that scale."""

    @overload
    def apply(self, images: np.ndarray) -> np.ndarray: ...

    @overload
    def apply(self, images: Lazy) -> Made: ...

    def apply(self, images: Images) -> Images:
        """Preprocess uint8 or float pixels; float32, the same shape.

        Images that are read when they are asked for (`kip.storage.images.Lazy`) are preprocessed then.

        Raises:
            ShapeError: if an image has another shape than those it was fitted on.
        """
        ...

    def statistics(self, images: Images) -> np.ndarray:
        """Return each image's mean and scale that layer normalisation removes, float64 (N, 2).

        Zeros and ones where the kind normalises no single image.
        """
        ...

    def invert(self, preprocessed: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        """Return pixels, float32, the inverse of `apply`.

        Layer normalisation (`zca`, `zca_notebook`) loses each image's own mean and scale: many images have the same
        preprocessed form. `statistics` says which of them to return. For an image that `apply` was given, its own
        statistics give it back. A learned image never was a pixel image; use those of the natural image that it
        started from, which an export therefore stores. Values may lie outside [0, 1]; they are not clipped.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the kind and its parameters, JSON-ready and small, for metadata."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are too large for metadata, for a file beside a set; none where metadata says all."""
        ...


class Apply(Protocol):
    """The kind of function that `Transform.apply` is."""

    @overload
    def __call__(self, images: np.ndarray, /) -> np.ndarray: ...

    @overload
    def __call__(self, images: Lazy, /) -> Made: ...


def fit(preprocess: Preprocess, images: Images, *, cache_dir: Path | None = None) -> Transform:
    """Fit a preprocessing to the train images.

    Args:
        preprocess: the kind and its parameter.
        images: the train images alone, uint8 (N, H, W, C).
        cache_dir: where the decompositions of ZCA are kept (75 MB for 32x32x3); None: $KIP_CACHE_DIR, else the
            platform's cache folder. The other kinds are not cached.

    Returns:
        The fitted transform.

    Raises:
        ShapeError: if `images` is not a uint8 batch.
        DataError: if there is no image, or the covariance is singular and `regularization` is 0.
    """
    check_image_batch("train images", images, dtype=np.uint8)
    if preprocess.kind in ("none", "standardize"):
        return standardise.fit(images, identity=preprocess.kind == "none")
    with inner_stage("whitening the train images"):
        return zca.fit(images, kind=preprocess.kind, regularization=preprocess.regularization, cache_dir=cache_dir)


def described(description: dict[str, Any], image_shape: tuple[int, ...]) -> Transform | None:
    """Return the transform that `Transform.describe` described, where that says all of it; None for a whitening.

    Args:
        description: the metadata of a set, which may come from elsewhere.
        image_shape: (H, W, C).

    Raises:
        DataError: if it is not such a description.
    """
    kind = description.get("kind")
    if kind not in ("none", "standardize"):
        return None
    parts = [np.asarray(description.get(name), object) for name in ("mean", "std")]
    try:
        mean, deviation = (np.asarray(part, np.float64) for part in parts)
    except (TypeError, ValueError):
        mean = deviation = np.zeros(0)
    channels = image_shape[-1:]
    if mean.shape != channels or deviation.shape != channels or not np.isfinite([*mean, *deviation]).all():
        raise DataError("preprocess of a set", got=f"a {kind} without the mean and std of {channels[0]} channels")
    if (deviation == 0).any():
        raise DataError("preprocess of a set", got="a std of 0", expected="positive deviations")
    return standardise.Standardise(kind, tuple(image_shape), mean, deviation)
