"""The kernels of erf networks: digits of small, large and equal images; the fused form against the engine and NumPy."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import dense
from kip.blocks import tile
from kip.errors import ConfigError
from kip.kernels import Architecture, fused, kernel_function
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
@pytest.mark.slow
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


@pytest.fixture(scope="module")
def form():
    from kip.kernels.fused.form import Form

    return Form


def test_blocks_of_convolutional_networks_on_cpus_take_the_fused_form(form):
    assert fused.supports(network("ConvNet", 1))
    assert not fused.supports(network("FC", 1))
    for implementation in ("auto", "numba"):
        assert isinstance(tile._compiled(network("ConvNet", 1), implementation, "cpu"), tile._Fused)
    assert isinstance(tile._compiled(network("ConvNet", 1), "auto", "gpu"), tile._Xla)
    assert isinstance(tile._compiled(network("FC", 1), "auto", "cpu"), tile._Xla)
    with pytest.raises(ConfigError, match="convolutional networks"):
        tile._compiled(network("FC", 1), "numba", "cpu")


@pytest.mark.slow
def test_fused_values_are_those_of_the_recursion_over_all_positions(form):
    x, z = images(3, (6, 6, 3), 0), images(18, (6, 6, 3), 1)
    z[1] = x[1]
    words = ["conv", "act", "conv", "act", "pool", "flatten", "dense"]
    expected = dense.kernel(x, z, words, w_std=2**0.5, b_std=0.1, activation="erf")[1]
    block = form(network("ConvNet", 1, get="nngp")).forward(x.astype(np.float32), z.astype(np.float32))
    np.testing.assert_allclose(block, expected, rtol=3e-6)


# Each type of numbers and each kernel is compiled for up to a minute.
@pytest.mark.slow
@pytest.mark.parametrize(("get", "dtype"), [("ntk", np.float32), ("nngp", np.float64)])
def test_fused_values_and_gradients_are_those_of_the_engine_and_the_central_difference(form, get, dtype):
    for architecture, shape in (
        (network("ConvNet", 1, get=get), (6, 6, 3)),
        (network("Myrtle", 5, get=get), (4, 5, 1)),
        (network("ConvVec", 2, get=get), (8, 8, 1)),
    ):
        x, z, bar = images(3, shape, 0), images(18, shape, 1), images(3, (18,), 2)
        z[1] = x[1]
        ours = form(architecture).value_and_pull(*(part.astype(dtype) for part in (x, z, bar)), True, True)
        with float64():
            value, pull = jax.vjp(jax.jit(kernel_function(architecture, "engine")), x, z)
            expected = value, *pull(bar)
        for part, reference in zip(ours, map(np.asarray, expected), strict=True):
            scale = np.abs(reference).max()
            assert part.dtype == dtype
            np.testing.assert_allclose(part / scale, reference / scale, atol=1e-5 if dtype == np.float32 else 1e-12)
        if dtype == np.float64:
            step, along = 1e-4, images(3, shape, 3)
            above, below = (form(architecture).forward(x + s * along, z) for s in (step, -step))
            np.testing.assert_allclose(np.vdot(bar, above - below) / (2 * step), np.vdot(ours.x, along), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("get", ["ntk", "nngp"])
def test_equal_constant_black_and_large_images_give_finite_values_and_gradients(form, get):
    x = images(6, (8, 8, 1), 0).astype(np.float32)
    x[1], x[2], x[3], x[4], x[5] = x[0], 1, -1, 0, 1e4 * x[0]
    for b_std in (0.0, 0.1):
        ours = form(network("ConvNet", 2, b_std=b_std, get=get))
        for part in (*ours.value_and_pull(x, x, np.ones((6, 6), np.float32), True, True), ours.forward_diagonal(x)):
            assert np.isfinite(part).all()
