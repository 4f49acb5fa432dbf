"""Regularised ZCA whitening, in the four forms that the literature calls ZCA.

All are: images x (H, W, C) -> features f (d = H W C) -> f W, with

    W = U (S + reg * tr(C) / d)^(-1/2) U^T,   C = U S U^T            (`zca_kornia`: S + reg),

and differ in the features f, and in the features whose second moments make C. Over train, mu_j and sigma_j are the mean
and deviation of feature j, and z is x standardised by channel:

- `zca`: f = (x - mean(x)) / std(x), each image by itself (layer normalisation). C is the covariance of
  (x_j - mu_j) / sigma_j, each feature by itself: the correlation matrix, and so not the second moments of f.
- `zca_notebook`: f = (z - mean(z)) / |z - mean(z)|_2, each image by itself. C = (1/n) sum f^T f, uncentred. Features
  have length 1 instead of sqrt(d), which W makes up for.
- `zca_frepo`: f = z - mean of z over train, no image by itself, so that each keeps its contrast. C = (1/n) sum f^T f.
- `zca_kornia`: f = x - mean of x over train, pixels in [0, 1], no channel standardised. C = 1/(n-1) sum f^T f, and the
  regularisation is absolute: what kornia's ZCAWhitening(eps) is, in the experiments of MTT, TESLA, FTD and DATM.

Sources: `zca`: Nguyen et al. 2021, section A, equation 3. `zca_notebook`: the public nn_training notebook of that
paper. `zca_frepo`: the public code of Zhou et al. 2022 (FRePo), `normalize_zca`, whose rule for fewer images than
features (eigenvalues beyond the n-th count as 1) is left out: the regularisation bounds them already.

Everything is computed in float64; only the result of `apply` and `invert` is float32.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from kip.errors import DataError, ShapeError
from kip.preprocess import cache
from kip.preprocess.pixels import as_pixels, check_shape, chunks, moments
from kip.preprocess.standardise import channel_moments
from kip.storage.images import Images, Lazy, Made
from kip.storage.npz import memory_bytes

ROWS = 2048
"""Images in one matrix product: 50 MB of float64 for 32x32x3."""
MATRICES = 4
"""Matrices (d, d) of float64 that a fit holds at its largest: C, its eigenvectors, and LAPACK's workspace."""
FLAT = 1e-6
"""An image whose std or norm is at most this (1e-6 of full scale) is constant; it is centred and not scaled."""

CENTRED_BY_FEATURE = ("zca_frepo", "zca_kornia")
"""Kinds that normalise no image by itself."""


@dataclass(frozen=True, eq=False)
class ZCA:
    """A fitted whitening; see the module for the formula of each kind."""

    kind: str
    regularization: float
    shape: tuple[int, ...]
    """The shape (H, W, C) of the train images."""
    offset: np.ndarray
    """The mean that is subtracted from the flattened pixels first, float64 (d,)."""
    scale: np.ndarray
    """The scale that the remainder is divided by, float64 (d,)."""
    eigenvalues: np.ndarray
    """S + reg * tr(C) / d, or S + reg, float64 (d,)."""
    eigenvectors: np.ndarray
    """U, float64 (d, d)."""

    @functools.cached_property
    def whitening(self) -> np.ndarray:
        """W, float64 (d, d)."""
        return (self.eigenvectors * self.eigenvalues**-0.5) @ self.eigenvectors.T

    @functools.cached_property
    def colouring(self) -> np.ndarray:
        """The inverse of W, float64 (d, d)."""
        return (self.eigenvectors * self.eigenvalues**0.5) @ self.eigenvectors.T

    @overload
    def apply(self, images: np.ndarray) -> np.ndarray: ...

    @overload
    def apply(self, images: Lazy) -> Made: ...

    def apply(self, images: Images) -> Images:
        """Whiten; see `Transform.apply`. A constant image becomes zeros, never NaN.

        The last bit of a value may depend on how many images are whitened at once, as BLAS has it.
        """
        check_shape(images, self.shape)
        if isinstance(images, Lazy):
            return images.made(self.apply, shape=self.shape, dtype=np.float32)
        whitened = np.empty(images.shape, dtype=np.float32)
        for rows in chunks(len(images), ROWS):
            features = self._features(images[rows])[0]
            whitened[rows] = (features @ self.whitening).reshape(-1, *self.shape)
        return whitened

    def statistics(self, images: Images) -> np.ndarray:
        """Return the mean and scale that each image is normalised by; zeros and ones for kinds that do not."""
        return np.concatenate(
            [np.empty((0, 2))] + [self._features(images[rows])[1] for rows in chunks(len(images), ROWS)]
        )

    def invert(self, preprocessed: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        """Return pixels; see `Transform.invert` about `statistics`, float (N, 2) as `statistics` returns them.

        Raises:
            ShapeError: if `statistics` has not a row for each image.
        """
        if np.shape(statistics) != (len(preprocessed), 2):
            raise ShapeError(
                "statistics do not fit the images", got=np.shape(statistics), expected=f"({len(preprocessed)}, 2)"
            )
        pixels = np.empty(preprocessed.shape, dtype=np.float32)
        for rows in chunks(len(preprocessed), ROWS):
            features = as_pixels(preprocessed[rows], self.shape).reshape(-1, len(self.offset)) @ self.colouring
            mean, scale = np.hsplit(statistics[rows], 2)
            flat = (features * scale + mean) * self.scale + self.offset
            pixels[rows] = flat.reshape(-1, *self.shape)
        return pixels

    def describe(self) -> dict[str, Any]:
        """Return the kind, the regularisation, d, and the SHA-256 of W as float32, row by row."""
        return {
            "kind": self.kind,
            "regularization": self.regularization,
            "features": len(self.offset),
            "whitening_sha256": hashlib.sha256(self.whitening.astype("<f4").tobytes()).hexdigest(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what NumPy alone needs to treat new images alike: see `kip.preprocess.saved`."""
        scaled_by = {"zca": "deviation", "zca_notebook": "length"}.get(self.kind, "nothing")
        return {
            "offset": self.offset,
            "scale": self.scale,
            "whitening": self.whitening.astype("<f4"),
            "image_scale": np.array(scaled_by),
        }

    def _features(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the features that W is applied to, (N, d), and the statistics taken from them, (N, 2)."""
        flat = (as_pixels(images, self.shape).reshape(len(images), -1) - self.offset) / self.scale
        statistics = np.tile([0.0, 1.0], (len(flat), 1))
        if self.kind not in CENTRED_BY_FEATURE:
            statistics[:, 0] = flat.mean(1)
            centred = flat - statistics[:, :1]
            scale = centred.std(1) if self.kind == "zca" else np.linalg.norm(centred, axis=1)
            # A constant image has no direction: without this, 0/0, or rounding errors blown up to unit size.
            constant = scale <= FLAT
            statistics[:, 1] = np.where(constant, 1.0, scale)
            flat = np.where(constant[:, None], 0.0, centred / statistics[:, 1:])
        return flat, statistics


def _check_memory(kind: str, shape: tuple[int, ...]) -> None:
    features = math.prod(shape)
    if (wanted := MATRICES * 8 * features**2) > memory_bytes():
        raise DataError(
            f"{kind} of images of {'x'.join(map(str, shape))}",
            got=f"{features} features, whose covariance and its decomposition take {wanted / 2**30:.0f} GiB",
            expected=f"at most the machine's {memory_bytes() / 2**30:.0f} GiB",
            remedy="Use --preprocess.kind standardize, or smaller images (--data.shrink, --data.side).",
        )


def fit(images: Images, *, kind: str, regularization: float, cache_dir: Path | None = None) -> ZCA:
    """Fit one kind of ZCA to the train images.

    Args:
        images: uint8 (N, H, W, C), the train images alone.
        kind: `zca`, `zca_notebook`, `zca_frepo` or `zca_kornia`.
        regularization: reg >= 0, in units of the mean eigenvalue of C, or absolute (`zca_kornia`).
        cache_dir: see `kip.preprocess.fit`.

    Raises:
        DataError: if there is no image, C does not fit into memory, or C is singular and reg is 0.
    """
    shape, features = images.shape[1:], math.prod(images.shape[1:])
    _check_memory(kind, shape)
    mean, deviation = moments(images, features)
    if kind == "zca":
        offset, scale = np.zeros(features), np.ones(features)
    elif kind == "zca_kornia":
        offset, scale = mean, np.ones(features)
    else:
        channel_mean, channel_deviation = channel_moments(images)
        positions = features // shape[2]
        offset, scale = np.tile(channel_mean, positions), np.tile(channel_deviation, positions)
        if kind == "zca_frepo":
            offset = mean  # (x - mean_c) / std_c - mu_z = (x - mu) / std_c
    spectrum = cache.load(images, kind, cache_dir)
    if spectrum is None:
        if kind == "zca":
            # The form of zca_frepo with each feature's own deviation; a feature that never varies is zero in C.
            measure = ZCA("zca_frepo", 0.0, shape, mean, np.where(deviation > 0, deviation, 1.0), *_NOTHING)
        else:
            measure = ZCA(kind, 0.0, shape, offset, scale, *_NOTHING)
        spectrum = _decompose(_second_moments(images, measure))
        cache.store(images, kind, cache_dir, *spectrum)
    eigenvalues, eigenvectors = spectrum
    if kind == "zca_kornia":
        regularised = eigenvalues * (len(images) / max(1, len(images) - 1)) + regularization
    else:
        regularised = eigenvalues + regularization * eigenvalues.mean()
    if eigenvalues.max() <= 0:
        raise DataError(
            f"the covariance for {kind} is zero",
            got=f"{len(images)} images that are all the same",
            expected="images that differ",
            remedy="Look at the files: all black or all white ones may be of another depth, or transparent.",
        )
    if regularised.min() <= features * np.finfo(np.float64).eps * regularised.max():
        raise DataError(
            f"the covariance for {kind} is singular",
            got=f"regularization {regularization} and {len(images)} images of {features} features",
            expected="a positive smallest eigenvalue",
            remedy="Set regularization above 0, such as 0.1."
            if regularization == 0
            else "Set a larger regularization.",
        )
    return ZCA(kind, regularization, shape, offset, scale, regularised, eigenvectors)


_NOTHING = (np.empty(0), np.empty((0, 0)))


def _second_moments(images: Images, measure: ZCA) -> np.ndarray:
    """Return (1/n) sum f f^T over the features that `measure` takes from the images, lower triangle, float64 (d, d)."""
    from scipy.linalg.blas import dsyrk

    total = np.zeros((measure.offset.size,) * 2, order="F")
    for rows in chunks(len(images), ROWS):
        features = np.ascontiguousarray(measure._features(images[rows])[0])
        # A symmetric rank-k update is half the work of a product; the transpose of a C array is BLAS's own order.
        total = dsyrk(1.0, features.T, beta=1.0, c=total, lower=1, overwrite_c=1)
    return total / len(images)


def _decompose(lower: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues (rounding below zero removed) and eigenvectors of a symmetric lower triangle."""
    from scipy.linalg import eigh

    eigenvalues, eigenvectors = eigh(lower, lower=True, driver="evd", overwrite_a=True, check_finite=False)
    return np.maximum(eigenvalues, 0.0), eigenvectors
