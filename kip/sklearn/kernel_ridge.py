"""Kernel ridge regression and classification as estimators of scikit-learn.

    f(x) = K(x, X) alpha,    alpha = (K(X, X) + lam I)^-1 Y

K is computed by `kip.kernel`, and alpha in float64 by `kip.krr.fit`, whose regularisers these are.
Unlike `sklearn.kernel_ridge.KernelRidge`, whose regulariser is `absolute`, the default is relative to the kernel.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from typing_extensions import final

from kip import krr
from kip.data import centred_one_hot
from kip.errors import ConfigError
from kip.functions.kernel import KernelFn
from kip.functions.kernel import kernel as kernel_matrix
from kip.kernels import Kernel
from kip.sklearn.validation import ImageShape, ahead, as_images, validated

Dtype = Literal["float32", "float64"]
Scale = Literal["trace", "trace_sum", "absolute"]


@final
class KernelRidge(RegressorMixin, BaseEstimator):
    """Kernel ridge regression under a kernel of kip's.

    Args:
        kernel: a name such as `FC1`, `ConvNet` or `RBF`, or a value such as `kip.Architecture("ConvNet", 2)`; see
            `kip.kernel`.
        get: `ntk` or `nngp`; None means the value's own, and `ntk` for a name.
        ridge: the strength of the regulariser, at least 0.
        ridge_scale: the rule by which lam follows from the strength; see `kip.Ridge`.
        image_shape: (H, W, C), into which the values of each row of X are put, so that images can be rows of a matrix,
            as most of scikit-learn has them. None takes X as it is: vectors (n, d), for FC, RBF and Laplace, or images
            (n, H, W, C).
        dtype: the dtype of the kernel's computation. float32 is about twice as fast, and needs a larger ridge where
            there are many train images or some that are almost equal.
        memory_mib: the temporary memory of a block of the kernel, in MiB.
        show_progress: whether work of more than a moment shows a bar on stderr.

    Attributes:
        X_fit_: the train images or vectors.
        dual_coef_: alpha, float64, (n,) or (n, targets).

    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> bool(KernelRidge("FC1", ridge=1e-6).fit(x, x[:, 0] ** 2).score(x, x[:, 0] ** 2) > 0.99)
    True
    """

    def __init__(
        self,
        kernel: str | Kernel | KernelFn = "FC1",
        *,
        get: Literal["ntk", "nngp"] | None = None,
        ridge: float = 1e-6,
        ridge_scale: Scale = "trace",
        image_shape: ImageShape | None = None,
        dtype: Dtype = "float64",
        memory_mib: int = 1024,
        show_progress: bool = False,
    ):
        self.kernel = kernel
        self.get = get
        self.ridge = ridge
        self.ridge_scale = ridge_scale
        self.image_shape = image_shape
        self.dtype = dtype
        self.memory_mib = memory_mib
        self.show_progress = show_progress

    def fit(self, X: Any, y: Any) -> KernelRidge:
        """Solve for alpha.

        Args:
            X: (n, d) or images (n, H, W, C).
            y: targets, (n,) or (n, targets).

        Raises:
            ValueError: if they are no such arrays, do not fit the kernel, or there is no such kernel or regulariser.
            NotPositiveDefiniteError: if the ridge is too small for the kernel matrix.
        """
        X, y = validated(self, X, y, dtype=_dtype(self), multi_output=True, y_numeric=True)
        _solve(self, X, y.reshape(len(y), -1))
        self.dual_coef_ = self.dual_coef_.reshape(y.shape)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return f(X), float64, (m,) or (m, targets)."""
        return _predictions(self, X)

    def __sklearn_tags__(self) -> Any:
        """Say that there may be several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, bool]:  # scikit-learn before 1.6
        return {"multioutput": True}


@final
class KernelRidgeClassifier(ClassifierMixin, BaseEstimator):
    """Classification by kernel ridge regression on mean-centred one-hot labels, under a kernel of kip's.

    It is the classifier that judges sets of KIP. It has no `predict_proba`: its scores estimate labels by least
    squares, and are neither positive nor sum to one. `sklearn.calibration.CalibratedClassifierCV` makes probabilities
    of them.

    Args:
        kernel: a name or value, as of `KernelRidge`.
        get: `ntk` or `nngp`; None means the value's own, and `ntk` for a name.
        ridge: the strength of the regulariser, at least 0.
        ridge_scale: the rule by which lam follows from the strength; see `kip.Ridge`.
        image_shape: (H, W, C) of the images that are rows of X; None takes X as it is, as `KernelRidge` does.
        dtype: the dtype of the kernel's computation; see `KernelRidge`.
        memory_mib: the temporary memory of a block of the kernel, in MiB.
        show_progress: whether work of more than a moment shows a bar on stderr.

    Attributes:
        classes_: the classes, in the order of the columns of `dual_coef_`.
        X_fit_: the train images or vectors.
        dual_coef_: alpha, float64, (n, classes).

    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]])
    >>> KernelRidgeClassifier("FC1").fit(x, ["up", "up", "right", "right"]).predict([[0.2, 0.8]]).tolist()
    ['up']
    """

    def __init__(
        self,
        kernel: str | Kernel | KernelFn = "FC1",
        *,
        get: Literal["ntk", "nngp"] | None = None,
        ridge: float = 1e-6,
        ridge_scale: Scale = "trace",
        image_shape: ImageShape | None = None,
        dtype: Dtype = "float64",
        memory_mib: int = 1024,
        show_progress: bool = False,
    ):
        self.kernel = kernel
        self.get = get
        self.ridge = ridge
        self.ridge_scale = ridge_scale
        self.image_shape = image_shape
        self.dtype = dtype
        self.memory_mib = memory_mib
        self.show_progress = show_progress

    def fit(self, X: Any, y: Any) -> KernelRidgeClassifier:
        """Solve for alpha.

        Args:
            X: (n, d) or images (n, H, W, C).
            y: classes, (n,), of any type that NumPy sorts.

        Raises: as `KernelRidge.fit`.
        """
        X, y = validated(self, X, y, dtype=_dtype(self))
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        _solve(self, X, centred_one_hot(numbers, len(self.classes_)))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores of the classes, float64 (m, classes); of two classes their difference, (m,).

        The difference is positive where the second class has the higher score.
        """
        return ahead(_predictions(self, X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the class with the highest score, (m,)."""
        best = _predictions(self, X).argmax(axis=1)
        return self.classes_[best]


def _dtype(estimator: Any) -> np.dtype:
    """Return the dtype that X is taken in.

    Raises:
        ConfigError: if it is none of the two.
    """
    if estimator.dtype not in ("float32", "float64"):
        raise ConfigError("dtype of an estimator", got=repr(estimator.dtype), expected="'float32' or 'float64'")
    return np.dtype(estimator.dtype)


def _solve(estimator: Any, X: np.ndarray, targets: np.ndarray) -> None:
    ridge = krr.Ridge(float(estimator.ridge), estimator.ridge_scale)
    estimator.X_fit_ = as_images(X, estimator.image_shape)
    estimator.dual_coef_ = krr.fit(_kernel(estimator, estimator.X_fit_), targets, ridge)


def _predictions(estimator: Any, X: Any) -> np.ndarray:
    check_is_fitted(estimator)
    x = as_images(validated(estimator, X, dtype=estimator.X_fit_.dtype), estimator.image_shape)
    return _kernel(estimator, x, estimator.X_fit_) @ estimator.dual_coef_


def _kernel(estimator: Any, x: np.ndarray, z: np.ndarray | None = None) -> Any:
    options = {name: getattr(estimator, name) for name in ("kernel", "get", "memory_mib", "show_progress")}
    return kernel_matrix(x, z, **options)
