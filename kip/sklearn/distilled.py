"""A classifier that distils its train set, and classifies by the few images that are left."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from typing_extensions import final

from kip.data.sources import held_out
from kip.errors import ConfigError, DataError
from kip.judges import KernelJudge
from kip.methods.contract import Method, method_named
from kip.methods.kernel.kip import KIP
from kip.preprocess import Preprocess, fit
from kip.runs.arrays import distill
from kip.sklearn.validation import ImageShape, ahead, as_images, validated

HELD_OUT = 5000
"""The most train images that are held out by default."""


@final
class DistilledClassifier(ClassifierMixin, BaseEstimator):
    """Distil the train set by a method of kip's, and classify by kernel ridge regression on the distilled set.

    It keeps the distilled set alone, so that it is as small and as fast as `images_per_class` says. It stands for the
    methods whose sets are judged by kernel ridge regression, such as KIP and Label Solve, and has no `predict_proba`:
    the scores of a regression are no probabilities. `sklearn.calibration.CalibratedClassifierCV` makes some of them.

    Pixels have 256 levels in a distillation. X of type uint8 is taken as it is; all other numbers are mapped to these
    levels so that `pixel_range` becomes black and white. Vectors (n, d) are images of one row of d grey pixels.

    Args:
        method: a method, such as `kip.KIP(images_per_class=10)`, or its name; None means `kip.KIP()`, under ConvNet.
        preprocess: what the method sees; None standardises channels.
        image_shape: (H, W, C) that the rows of X are put into; None takes X as it is: vectors (n, d), grey images
            (n, H, W) or images (n, H, W, C).
        pixel_range: the numbers that are black and white; None means the least and the largest number of the train
            images. It has no effect on uint8.
        validation: how many train images are held out to choose the best checkpoint, class-balanced. None holds out a
            tenth, at least one a class and at most 5000; where no class has two images, the train images choose.
        random_state: the seed of the distillation, a generator that gives it, or None, which draws it.
        show_progress: whether bars are shown on stderr.

    Attributes:
        classes_: the classes, in the order of the set's label columns.
        distilled_: the set, a `kip.DistilledSet`.
        transform_: the fitted preprocessing.
        pixel_range_: the numbers that are black and white.

    >>> import kip
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 4 * (np.arange(60) % 2)[:, None]
    >>> fc = kip.KIP(kernels=(kip.Architecture("FC"),), steps=2)
    >>> bool(DistilledClassifier(fc).fit(x, np.arange(60) % 2).score(x, np.arange(60) % 2) > 0.9)
    True
    """

    def __init__(
        self,
        method: Method | str | None = None,
        *,
        preprocess: Preprocess | None = None,
        image_shape: ImageShape | None = None,
        pixel_range: tuple[float, float] | None = None,
        validation: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        show_progress: bool = False,
    ):
        self.method = method
        self.preprocess = preprocess
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.validation = validation
        self.random_state = random_state
        self.show_progress = show_progress

    def fit(self, X: Any, y: Any) -> DistilledClassifier:
        """Distil the train set.

        Args:
            X: (n, d), grey images (n, H, W), or images (n, H, W, C) with C 1 or 3.
            y: classes, (n,), of any type that NumPy sorts.

        Raises:
            ConfigError: if the method's sets are not judged by kernel ridge regression.
            ValueError: if X or y are no such arrays, or too few for the method.
        """
        method = _method(self.method)
        X, y = validated(self, X, y)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError("y of a DistilledClassifier", got="one class", expected="at least two classes")
        images = _images(X, self.image_shape)
        self.pixel_range_ = _pixel_range(images, self.pixel_range)
        pixels = _pixels(images, self.pixel_range_)
        held = _held_out(numbers, self.validation)
        kept = np.setdiff1d(np.arange(len(numbers)), held) if len(held) else np.arange(len(numbers))
        held = held if len(held) else kept
        preprocess = self.preprocess or Preprocess()
        self.transform_ = fit(preprocess, pixels[kept])
        self.distilled_ = distill(
            pixels[kept],
            numbers[kept],
            method=method,
            validation=(pixels[held], numbers[held]),
            preprocess=preprocess,
            seed=_seed(self.random_state),
            show_progress=self.show_progress,
        )
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores of the classes, float64 (m, classes); of two classes their difference, (m,).

        The difference is positive where the second class has the higher score.
        """
        return ahead(self._scores(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the class with the highest score, (m,)."""
        best = self._scores(X).argmax(axis=1)
        return self.classes_[best]

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        images = _images(validated(self, X), self.image_shape)
        low, high = self.pixel_range_
        scaled = (images.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        return self.distilled_.scores(scaled, transform=self.transform_)


def _method(given: Any) -> Method:
    """Return the method.

    Raises:
        ConfigError: if it is none, or its sets do not predict by themselves.
    """
    method: Any = KIP() if given is None else method_named(given)() if isinstance(given, str) else given  # type: ignore[call-arg]
    if not isinstance(method, Method):
        raise ConfigError("method", got=f"a {type(method).__name__}", expected="a method, such as kip.KIP()")
    if not isinstance(method.judge, KernelJudge):
        raise ConfigError(
            f"a DistilledClassifier by {method.name}",
            got=f"the judge: {method.judge.label}",
            expected="a method whose sets are judged by kernel ridge regression, such as kip.KIP()",
            remedy="Make the set with kip.distill, and train a network on it: kip.transfer_set(...).",
        )
    return method


def _seed(random_state: Any) -> int:
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _images(X: np.ndarray, shape: ImageShape | None) -> np.ndarray:
    """Return images (n, H, W, C)."""
    images = as_images(X, shape)
    if images.ndim == 2:
        return images.reshape(len(images), 1, -1, 1)
    return images[..., None] if images.ndim == 3 else images


def _pixel_range(images: np.ndarray, given: tuple[float, float] | None) -> tuple[float, float]:
    if images.dtype == np.uint8:
        return 0.0, 255.0
    low, high = (float(images.min()), float(images.max())) if given is None else map(float, given)
    if given is None and low == high:
        return low, low + 1.0
    if not low < high:
        raise ConfigError("pixel_range", got=given, expected="two numbers, the first smaller than the second")
    return low, high


def _pixels(images: np.ndarray, pixel_range: tuple[float, float]) -> np.ndarray:
    """Return images as bytes.

    Raises:
        DataError: if a number is outside the range.
    """
    if images.dtype == np.uint8:
        return images
    low, high = pixel_range
    if images.min() < low or images.max() > high:
        raise DataError(
            "X", got=f"numbers from {images.min():.4g} to {images.max():.4g}", expected=f"pixel_range, {pixel_range}"
        )
    return np.rint((images.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def _held_out(numbers: np.ndarray, count: int | None) -> np.ndarray:
    """Return the positions of train images that are held out; none where no class has two."""
    sizes = np.bincount(numbers)
    if count is None:
        count = int(min(max(len(numbers) // 10, len(sizes)), HELD_OUT, (sizes // 2).sum()))
    return held_out(numbers, count, num_classes=len(sizes), seed=0, purpose="validation split")
