"""Measures of a set: manifolds of known dimension, a matrix of known rank, bands that sum to the whole."""

import numpy as np
import pytest

from kip import krr
from kip.errors import DataError, NonFiniteError
from kip.evaluate import measures
from kip.evaluate.dimension import inner_products, linear_dimension, two_nn
from kip.evaluate.spectrum import frechet_distance

RIDGE = krr.Ridge()


def on_manifold(rng, kind, dimension, count=1500, ambient=20):
    """Draw points of a manifold of known dimension, turned at random in a larger space."""
    if kind == "cube":
        points = rng.uniform(size=(count, dimension))
    elif kind == "sphere":
        points = rng.normal(size=(count, dimension + 1))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    else:  # a curved sheet: a swiss roll of a line, times a cube
        angle = rng.uniform(1.5 * np.pi, 4.5 * np.pi, count)
        roll = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
        points = np.concatenate([roll, rng.uniform(0, 20, (count, dimension - 1))], axis=1)
    rotation, _ = np.linalg.qr(rng.normal(size=(ambient, ambient)))
    return points @ rotation[: points.shape[1]] + rng.normal(size=ambient)


@pytest.mark.parametrize("kind", ["cube", "sphere", "roll"])
@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_finds_the_dimension_of_a_manifold(rng, kind, dimension):
    points = on_manifold(rng, kind, dimension)
    centred = points - points.mean(0)
    # The estimate's deviation is near d / sqrt(n) = 0.026 d; at 5 dimensions the border of the manifold biases it down.
    assert two_nn(centred @ centred.T) == pytest.approx(dimension, rel=0.15)


def test_two_nn_of_inner_products_is_that_of_distances_and_ignores_duplicates(rng):
    points = on_manifold(rng, "sphere", 2, count=300)
    alone = two_nn(points @ points.T)
    twice = np.concatenate([points, points[:40]])
    assert two_nn(twice @ twice.T) == pytest.approx(alone, rel=1e-6)
    distances = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)
    x = np.sort(np.log(distances[:, 2] / distances[:, 1]))[:270]
    y = -np.log(1 - np.arange(1, 271) / 301)
    assert alone == pytest.approx((x * y).sum() / (x * x).sum(), rel=1e-6)


def test_too_few_different_points_have_no_intrinsic_dimension():
    with pytest.raises(DataError, match="2 different"):
        two_nn(np.kron(np.eye(2), np.ones((3, 3))))


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_linear_dimension_is_the_rank_of_isotropic_data(rng, rank):
    orthonormal, _ = np.linalg.qr(rng.normal(size=(40, rank)))
    orthonormal -= orthonormal.mean(0)
    basis, _ = np.linalg.qr(orthonormal)  # columns of mean zero, all of one variance
    images = (basis @ np.linalg.qr(rng.normal(size=(50, rank)))[0].T + 3.0).reshape(40, 5, 10, 1)
    assert linear_dimension(inner_products(images), explained=0.999) == rank
    assert linear_dimension(inner_products(images), explained=0.9) == int(np.ceil(0.9 * rank))
    assert linear_dimension(np.ones((4, 4))) == 0


def test_the_linear_dimension_is_that_of_scikit_learns_pca(rng):
    from sklearn.decomposition import PCA

    images = (rng.normal(size=(60, 12)) * np.geomspace(5, 0.1, 12)).reshape(60, 3, 4, 1)
    assert (
        linear_dimension(inner_products(images))
        == PCA(0.9, svd_solver="full").fit(images.reshape(60, -1)).n_components_
    )


@pytest.fixture
def problem(rng):
    """A kernel regression that works: three blobs, an RBF kernel."""
    centres = rng.normal(size=(3, 6)) * 1.5
    draw = lambda count: centres[np.arange(count) % 3] + rng.normal(size=(count, 6))  # noqa: E731
    support, target = draw(21), draw(300)
    kernel = lambda x, z: np.exp(-((x[:, None] - z[None]) ** 2).sum(-1) / 12)  # noqa: E731
    labels = np.eye(3)[np.arange(21) % 3] - 1 / 3
    return kernel(support, support), kernel(target, support), labels, np.arange(300) % 3


@pytest.mark.parametrize("bands", [1, 2, 5, 21])
def test_the_bands_sum_to_the_whole(problem, bands):
    k_ss, k_ts, labels, classes = problem
    parts = measures.band_predictions(k_ss, k_ts, labels, bands)
    whole = k_ts @ np.linalg.solve(k_ss, labels)
    np.testing.assert_allclose(sum(predictions for _, predictions in parts), whole, rtol=1e-6, atol=1e-8)
    assert [index for part, _ in parts for index in range(21)[part]] == list(range(21))
    shares = measures.spectral_bands(k_ss, k_ts, labels, classes, bands)
    assert sum(band.weight for band in shares) == pytest.approx(1)
    assert shares[0].weight == max(band.weight for band in shares)
    if bands == 1:
        assert shares[0].accuracy == np.mean(whole.argmax(1) == classes)


def test_a_band_sees_its_own_directions_only(problem):
    k_ss, k_ts, _, _ = problem
    values, vectors = np.linalg.eigh(k_ss)
    labels = np.outer(vectors[:, -1], [1.0, -1.0])  # along the largest eigenvalue
    first, *rest = measures.band_predictions(k_ss, k_ts, labels, 3)
    np.testing.assert_allclose(first[1], k_ts @ labels / values[-1], atol=1e-8)
    assert all(np.abs(predictions).max() < 1e-8 for _, predictions in rest)


def test_a_singular_kernel_has_no_bands():
    with pytest.raises(NonFiniteError, match="float64"):
        measures.band_predictions(np.diag([1.0, -1e-9]), np.ones((3, 2)), np.ones((2, 2)))


def test_subsampling_costs_accuracy_and_the_whole_is_plain_krr(problem):
    k_ss, k_ts, labels, classes = problem
    means = measures.subsampled(k_ss, k_ts, labels, classes, RIDGE, repeats=30)
    assert means[1.0] == np.mean((k_ts @ krr.fit(k_ss, labels, RIDGE)).argmax(1) == classes)
    assert means[0.1] < means[0.5] < means[1.0]
    assert means == measures.subsampled(k_ss, k_ts, labels, classes, RIDGE, repeats=30)
    assert means != measures.subsampled(k_ss, k_ts, labels, classes, RIDGE, repeats=30, seed=1)


def test_the_nearest_natural_image_of_a_natural_image_is_itself(rng):
    train = rng.normal(size=(30, 4, 4, 1))
    classes = np.arange(30) % 3
    images = np.concatenate([train[[4, 17]], train[9:10] + 0.01])
    neighbours = measures.nearest_natural(images, np.array([1, 2, 1]), train, classes)
    np.testing.assert_array_equal(neighbours.rows, [4, 17, 9])
    np.testing.assert_allclose(neighbours.distance, [0, 0, 0.04], atol=1e-6)
    assert neighbours.own_class == pytest.approx(2 / 3)


def test_the_label_matrix_is_the_mean_by_class():
    labels = np.array([[1.0, 0.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    np.testing.assert_array_equal(measures.label_matrix(labels, np.array([0, 0, 2])), [[2, 1, 0], [0, 0, 0], [0, 0, 5]])


def test_the_frechet_distance_is_that_of_two_normal_distributions(rng):
    from scipy.linalg import sqrtm

    few, many = rng.normal(size=(7, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(50, 4)) + 1
    mean, covariance = measures.moments(np.array_split(many, 3))
    np.testing.assert_allclose(mean, many.mean(0))
    np.testing.assert_allclose(covariance, np.cov(many.T))
    of_few = np.cov(few.T)
    expected = np.square(few.mean(0) - mean).sum() + np.trace(of_few + covariance - 2 * sqrtm(of_few @ covariance).real)
    assert frechet_distance(few, mean, covariance) == pytest.approx(expected)
    assert frechet_distance(many, mean, covariance) == pytest.approx(
        0, abs=1e-5
    )  # roots of eigenvalues that are zero but for rounding
