"""RBF and Laplace against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from kip.kernels import RBF, Laplace, kernel_function


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (28, 28, 1)])
@pytest.mark.parametrize("length_scale", [0.5, 1.0, 3.0])
def test_rbf_is_scikit_learns(shape, length_scale):
    x, z = images(7, shape, 0), images(5, shape, 1)
    flat_x, flat_z = (a.reshape(len(a), -1).astype(np.float64) for a in (x, z))
    expected = rbf_kernel(flat_x, flat_z, gamma=1 / (2 * length_scale**2 * flat_x.shape[1]))
    value = kernel_function(RBF(length_scale=length_scale))(x, z)
    # The relative error of an exponential is the absolute error of its exponent, here below 20.
    np.testing.assert_allclose(value, expected, rtol=3e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (28, 28, 1)])
@pytest.mark.parametrize("length_scale", [0.5, 1.0, 3.0])
def test_laplace_is_the_exponential_of_scipys_distance(shape, length_scale):
    x, z = images(7, shape, 0), images(5, shape, 1)
    flat_x, flat_z = (a.reshape(len(a), -1).astype(np.float64) for a in (x, z))
    expected = np.exp(-cdist(flat_x, flat_z) / (length_scale * np.sqrt(flat_x.shape[1])))
    value = kernel_function(Laplace(length_scale=length_scale))(x, z)
    np.testing.assert_allclose(value, expected, rtol=3e-5)


@pytest.mark.parametrize("kernel", [RBF(length_scale=0.1), Laplace(length_scale=0.1)], ids=lambda k: k.label)
def test_the_diagonal_is_exactly_one_in_float32(kernel):
    x = 100 * images(6, (8, 8, 3), 0)
    block = np.asarray(kernel_function(kernel)(x, x))
    np.testing.assert_array_equal(np.diag(block), 1)
    np.testing.assert_array_equal(block, block.T)


def test_near_duplicates_keep_their_distance_in_float32():
    x = images(3, (8, 8, 3), 0)
    z = x + np.float32(1e-3) * images(3, (8, 8, 3), 1)
    flat_x, flat_z = (a.reshape(len(a), -1).astype(np.float64) for a in (x, z))
    length_scale = 1e-3
    expected = np.exp(-cdist(flat_x, flat_z) / (length_scale * np.sqrt(flat_x.shape[1])))
    value = np.asarray(kernel_function(Laplace(length_scale=length_scale))(x, z))
    np.testing.assert_allclose(np.diag(value), np.diag(expected), rtol=1e-4)
