"""Kernel ridge regression as estimators of scikit-learn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kip
from kip import krr
from kip.data import centred_one_hot
from kip.errors import ConfigError, NotPositiveDefiniteError, ShapeError
from kip.sklearn import KernelRidge, KernelRidgeClassifier


@parametrize_with_checks([KernelRidge("RBF"), KernelRidgeClassifier("RBF")])
def test_scikit_learn_finds_nothing_to_complain_of(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([KernelRidge("FC1"), KernelRidgeClassifier("FC1")])
def test_nor_under_an_infinite_network(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """300 digits as rows of 64 values, and their classes."""
    loaded = load_digits()
    return loaded.data[:300], loaded.target[:300]


def test_predictions_are_those_of_the_formula(rng):
    x, z, y = rng.normal(size=(12, 5)), rng.normal(size=(4, 5)), rng.normal(size=(12, 2))
    k, k_z = (kip.kernel(side, x, kernel="FC1", get="nngp") for side in (x, z))
    expected = k_z @ np.linalg.solve(k + 1e-3 * np.trace(k) / 12 * np.eye(12), y)
    estimator = KernelRidge("FC1", get="nngp", ridge=1e-3).fit(x, y)
    np.testing.assert_allclose(estimator.predict(z), expected, rtol=1e-9)
    np.testing.assert_allclose(
        KernelRidge("FC1", get="nngp", ridge=1e-3).fit(x, y[:, 0]).predict(z), expected[:, 0], rtol=1e-9
    )


def test_the_classifier_is_the_judge_of_sets(digits):
    x, labels = digits
    judged = krr.fit(kip.kernel(x[:50], kernel="RBF"), centred_one_hot(labels[:50], 10), krr.Ridge(1e-4))
    scores = kip.kernel(x[50:], x[:50], kernel="RBF") @ judged
    names = np.array([f"digit {number}" for number in range(10)])
    classifier = KernelRidgeClassifier("RBF", ridge=1e-4).fit(x[:50], names[labels[:50]])
    np.testing.assert_allclose(classifier.decision_function(x[50:]), scores)
    np.testing.assert_array_equal(classifier.predict(x[50:]), names[scores.argmax(1)])


def test_a_grid_search_over_ridge_and_kernel_in_a_pipeline(digits):
    x, labels = digits
    pipeline = make_pipeline(StandardScaler(), KernelRidgeClassifier())
    grid = {
        "kernelridgeclassifier__kernel": ["FC1", kip.RBF(0.1)],
        "kernelridgeclassifier__ridge": [1e-6, 1e-1],
    }
    search = GridSearchCV(pipeline, grid, cv=2).fit(x, labels)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_["kernelridgeclassifier__kernel"] == "FC1"
    assert search.best_score_ > 0.9
    assert np.ptp(search.cv_results_["mean_test_score"]) > 0.02  # the parameters have an effect


def test_images_are_rows_of_a_matrix_or_images(digits):
    x, labels = digits[0][:20], digits[1][:20]
    images = x.reshape(-1, 8, 8, 1)
    by_rows = KernelRidgeClassifier("FC1", image_shape=(8, 8, 1), dtype="float32").fit(x, labels)
    by_images = KernelRidgeClassifier("FC1", dtype="float32").fit(images, labels)
    assert by_rows.X_fit_.shape == images.shape
    assert by_rows.X_fit_.dtype == np.float32
    np.testing.assert_array_equal(by_rows.decision_function(x), by_images.decision_function(images))
    with pytest.raises(ShapeError, match="64 values in each row"):
        KernelRidgeClassifier("FC1", image_shape=(8, 8, 1)).fit(x[:, 1:], labels)
    with pytest.raises(ShapeError, match="Vectors are for FC, RBF and Laplace"):
        KernelRidgeClassifier("ConvVec1").fit(x, labels)


def test_parameters_are_checked_when_it_is_fitted(digits):
    x, labels = digits[0][:20], digits[1][:20]
    for parameters, message in (
        ({"kernel": "Convnet9x"}, "kernel; got 'Convnet9x'"),
        ({"ridge": -1.0}, "strength"),
        ({"ridge_scale": "none"}, "scale"),
        ({"get": "both", "kernel": "FC1"}, "get of a kernel"),
        ({"dtype": "float16"}, "dtype of an estimator"),
    ):
        with pytest.raises(ConfigError, match=message):
            KernelRidge("RBF").set_params(**parameters).fit(x, labels)
    with pytest.raises(NotPositiveDefiniteError, match="Raise the ridge"):
        KernelRidge("RBF", ridge=0.0).fit(np.ones((3, 2)), [1.0, 2.0, 3.0])


def test_it_is_cloned_pickled_and_calibrated(digits):
    x, labels = digits
    classifier = KernelRidgeClassifier(kip.RBF(0.3), ridge=1e-4)
    assert clone(classifier).get_params() == classifier.get_params()
    fitted = classifier.fit(x, labels)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(x[:9]), fitted.predict(x[:9]))
    assert not hasattr(fitted, "predict_proba")
    calibrated = CalibratedClassifierCV(classifier, cv=2).fit(x, labels)
    np.testing.assert_allclose(calibrated.predict_proba(x[:9]).sum(1), 1)
