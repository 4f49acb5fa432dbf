"""A classifier that distils its train set, as an estimator of scikit-learn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import kip
from kip.errors import ConfigError, DataError
from kip.sklearn import DistilledClassifier

FC = kip.KIP(kernels=(kip.Architecture("FC", 1),), steps=15)


@pytest.mark.slow
@parametrize_with_checks([DistilledClassifier(kip.KIP(kernels=(kip.RBF(),), steps=40, learning_rate=0.1))])
def test_scikit_learn_finds_nothing_to_complain_of(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    """600 digits as rows of 64 numbers from 0 to 16, and their classes."""
    loaded = load_digits()
    return loaded.data[:600], loaded.target[:600]


@pytest.fixture(scope="module")
def fitted(digits):
    """A classifier of ten images, of 400 digits with names."""
    names = np.array([f"digit {number}" for number in range(10)])
    return DistilledClassifier(FC, image_shape=(8, 8, 1)).fit(digits[0][:400], names[digits[1][:400]])


def test_it_classifies_by_ten_images(fitted, digits):
    x, labels = digits[0][400:], digits[1][400:]
    assert fitted.distilled_.images.shape == (10, 8, 8, 1)
    assert fitted.pixel_range_ == (0.0, 16.0)
    assert fitted.score(x, [f"digit {number}" for number in labels]) > 0.7
    scores = fitted.decision_function(x)
    np.testing.assert_array_equal(fitted.predict(x), fitted.classes_[scores.argmax(1)])
    by_the_set = fitted.distilled_.scores(x.reshape(-1, 8, 8) / 16)
    np.testing.assert_allclose(scores, by_the_set, rtol=1e-5, atol=1e-6)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(x), fitted.predict(x))
    assert not hasattr(fitted, "predict_proba")


def test_bytes_are_taken_as_they_are_and_the_range_can_be_given(digits):
    x, labels = digits[0][:200].reshape(-1, 8, 8), digits[1][:200]
    bytes_of_x = np.rint(x * 15).astype(np.uint8)
    label_solve = kip.LabelSolve(kernel=kip.RBF())
    by_bytes = DistilledClassifier(label_solve).fit(bytes_of_x, labels)
    by_range = DistilledClassifier(label_solve, pixel_range=(0, 17)).fit(x, labels)
    np.testing.assert_array_equal(by_bytes.distilled_.images, by_range.distilled_.images)
    np.testing.assert_allclose(by_bytes.decision_function(bytes_of_x), by_range.decision_function(x), atol=1e-5)
    with pytest.raises(DataError, match="pixel_range"):
        DistilledClassifier(label_solve, pixel_range=(0, 15)).fit(x, labels)


def test_a_whitened_set_has_its_whitening(digits):
    x, labels = digits
    method = kip.LabelSolve(kernel=kip.Architecture("FC", 1), images_per_class=2)
    whitened = DistilledClassifier(method, preprocess=kip.Preprocess("zca"), image_shape=(8, 8, 1))
    assert whitened.fit(x[:400], labels[:400]).score(x[400:], labels[400:]) > 0.6


def test_a_grid_search_over_methods(digits):
    x, labels = digits[0][:300], digits[1][:300]
    methods = [kip.LabelSolve(kernel=kip.RBF(), images_per_class=count) for count in (1, 4)]
    search = GridSearchCV(DistilledClassifier(image_shape=(8, 8, 1)), {"method": methods}, cv=2).fit(x, labels)
    assert search.best_params_["method"].images_per_class == 4


def test_few_images_and_seeds(digits):
    x, labels = digits[0][:10], digits[1][:10]  # one image of each class
    alone = DistilledClassifier("label_solve", image_shape=(8, 8, 1)).set_params(
        method=kip.LabelSolve(kernel=kip.RBF()), random_state=np.random.RandomState(3)
    )
    assert alone.fit(x, labels).score(x, labels) == 1.0
    seeds = [alone.set_params(random_state=seed).fit(x, labels).distilled_.origin.seed for seed in (5, np.int64(5))]
    assert seeds == [5, 5]


def test_methods_whose_sets_do_not_predict_are_refused(digits):
    with pytest.raises(ConfigError, match=r"a DistilledClassifier by dm.*kip.transfer_set"):
        DistilledClassifier("dm").fit(*digits)
    with pytest.raises(ConfigError, match="such as kip"):
        DistilledClassifier(kip.RBF()).fit(*digits)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least two classes"):
        DistilledClassifier(FC).fit(digits[0][:5], np.zeros(5))
