"""The kernels of erf networks: digits of small, large and nearly equal images."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from kip.kernels import Architecture, kernel_function
from kip.kernels.engine import dual, erf
from kip.precision import float64

def network(family, depth, **options):
    return Architecture(family, depth, activation="erf", **options)


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def test_arctangent_of_float32_keeps_its_relative_error():
    with float64():
        h = np.concatenate([np.linspace(0, 1, 100_001)[1:], np.logspace(-30, -1, 100)]).astype(np.float32)
        value = h * np.asarray(dual.polynomial(erf.ARC, jax.numpy.asarray(h * h)))
        np.testing.assert_allclose(value, 4 / np.pi * np.arctan(h.astype(float)), rtol=3e-7)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 10.0])
@pytest.mark.parametrize("get", ["ntk", "nngp"])
def test_small_large_and_nearly_equal_images_keep_their_digits_in_float32(scale, get):
    # Images of 1e-4 without biases have covariances of 1e-8. Those of equal images of 10 are 200, where rounding moves
    # D by 1e-7 x 200.
    x = (scale * images(4, (4, 4, 1), 0)).astype(np.float32)
    kernel = kernel_function(network("FC", 2, b_std=0.0, get=get))
    for distance in (1.0, 1e-2, 1e-4, 0):
        z = (x + scale * distance * images(4, (4, 4, 1), 1)).astype(np.float32)
        with float64():
            exact = np.asarray(kernel(x.astype(float), z.astype(float)))
        np.testing.assert_allclose(kernel(x, z), exact, rtol=2e-4, atol=1e-6 * np.abs(exact).max())


def test_variance_after_erf_is_the_covariance_of_equal_images_and_has_its_derivative():
    v = np.array([0, 1e-3, 0.5, 2.0, 1e3])
    with float64():
        after, rate = jax.vmap(jax.value_and_grad(erf.next_variance))(v)
        np.testing.assert_allclose(after, 2 / np.pi * np.arcsin(2 * v / (1 + 2 * v)), rtol=1e-12)
        np.testing.assert_allclose(rate, 4 / np.pi / ((1 + 2 * v) * np.sqrt(1 + 4 * v)), rtol=1e-12)
