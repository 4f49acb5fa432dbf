"""The engine against neural-tangents: float32 as well as float64, values and gradients, near-equal images, training."""

import jax
import numpy as np
import pytest

from kip.errors import ConfigError
from kip.kernels import Architecture, engine, kernel_function
from kip.precision import float64

A = Architecture
CASES = [
    (A("ConvNet", 1), (6, 6, 3)),
    (A("ConvNet", 2, get="nngp"), (7, 5, 2)),
    (A("ConvNet3", 2, w_std=1.1, b_std=0.0), (6, 9, 1)),
    (A("Myrtle", 5, b_std=0.3), (6, 6, 2)),
]


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def value_and_gradients(architecture, implementation, x, z, bar):
    function = kernel_function(architecture, implementation)

    @jax.jit
    def run(x, z, bar):
        block, pull = jax.vjp(function, x, z)
        return (block, *pull(bar))

    return [np.asarray(part) for part in run(x, z, bar)]


@pytest.mark.parametrize(("architecture", "shape"), CASES, ids=lambda value: getattr(value, "label", None))
def test_engine_agrees_with_neural_tangents_in_both_precisions(architecture, shape):
    x, z, bar = images(4, shape, 0), images(3, shape, 1), np.random.default_rng(2).standard_normal((4, 3))
    z[0] = x[1]  # equal images
    z[1] = x[2] + 0.1 * images(1, shape, 3)[0]  # similar ones
    with float64():
        expected = value_and_gradients(architecture, "neural_tangents", x, z, bar)
        in_float64 = value_and_gradients(architecture, "engine", x, z, bar)
    in_float32 = value_and_gradients(architecture, "engine", *(a.astype(np.float32) for a in (x, z, bar)))
    for value, exact, close in zip(expected, in_float64, in_float32, strict=True):
        scale = np.abs(value).max()
        assert close.dtype == np.float32
        # Where images are equal the angle is the root of a rounding error, 1e-8 in float64 and 3e-4 in float32, and
        # every layer adds one.
        np.testing.assert_allclose(exact / scale, value / scale, atol=3e-7)
        np.testing.assert_allclose(close / scale, value / scale, atol=3e-4)


def test_different_images_agree_to_the_last_digits():
    architecture, shape = A("ConvNet", 2), (5, 7, 2)
    x, z, bar = images(4, shape, 0), images(3, shape, 1), np.ones((4, 3))
    with float64():
        expected = value_and_gradients(architecture, "neural_tangents", x, z, bar)
        in_float64 = value_and_gradients(architecture, "engine", x, z, bar)
    in_float32 = value_and_gradients(architecture, "engine", *(a.astype(np.float32) for a in (x, z, bar)))
    for value, exact, close in zip(expected, in_float64, in_float32, strict=True):
        scale = np.abs(value).max()
        np.testing.assert_allclose(exact / scale, value / scale, atol=1e-12)
        np.testing.assert_allclose(close / scale, value / scale, atol=5e-6)


def test_constant_and_black_images_give_finite_values_and_gradients():
    x = np.zeros((3, 8, 8, 1), np.float32)
    x[1], x[2] = 1.0, -1.0
    for b_std in (0.0, 0.1):
        for part in value_and_gradients(A("ConvNet", 2, b_std=b_std), "engine", x, x, np.ones((3, 3), np.float32)):
            assert np.isfinite(part).all()


def test_arccos_is_accurate_to_float32_over_its_whole_range():
    cos = np.concatenate([np.linspace(-1, 1, 100_001), 1 - np.logspace(-7, -1, 100)]).astype(np.float32)
    error = np.abs(np.asarray(engine._arccos(cos), np.float64) - np.arccos(cos.astype(np.float64)))
    assert error.max() < 5e-7  # two units in the last place of pi


def test_auto_is_the_engine_where_it_can_and_neural_tangents_elsewhere():
    assert engine.supports(A("ConvNet"))
    assert not engine.supports(A("FC"))
    assert not engine.supports(A("ConvNet", activation="erf"))
    x = images(2, (4, 4, 1), 0).astype(np.float32)
    auto, ours = (kernel_function(A("ConvNet", 1), name)(x, x) for name in ("auto", "engine"))
    np.testing.assert_array_equal(auto, ours)
    with pytest.raises(ConfigError, match=r"The engine computes ConvNet, ConvNet3 and Myrtle with relu"):
        kernel_function(A("FC"), "engine")
