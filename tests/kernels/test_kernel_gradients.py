"""The vjp of every kernel against central differences in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import precision
from kip.kernels import RBF, Architecture, Laplace, kernel_function

A = Architecture
KERNELS = [
    (RBF(length_scale=0.7), (3, 3, 2)),
    (Laplace(length_scale=0.7), (3, 3, 2)),
    (A(family="FC", depth=2), (3, 3, 2)),
    (A(family="FC", depth=2, get="nngp"), (3, 3, 2)),
    (A(family="FC", depth=2, activation="erf"), (3, 3, 2)),
    (A(family="ConvVec", depth=2), (4, 3, 2)),
    (A(family="ConvVec", depth=2, activation="erf"), (4, 3, 2)),
    (A(family="ConvNet3", depth=1), (5, 4, 2)),
    (A(family="ConvNet3", depth=1, get="nngp"), (5, 4, 2)),
]
SLOW_KERNELS = [
    (A(family="ConvNet", depth=1), (5, 4, 2)),
    (A(family="ConvNet3", depth=2), (5, 4, 2)),
    (A(family="ConvNet3", depth=2, get="nngp"), (5, 4, 2)),
    (A(family="Myrtle", depth=5), (4, 5, 2)),
    (A(family="ConvNet"), (8, 8, 1)),
    (A(family="Myrtle", depth=7), (4, 4, 1)),
    (A(family="Myrtle", depth=10), (4, 4, 1)),
]
CASES = [
    pytest.param(
        kernel,
        shape,
        implementation,
        id=f"{kernel.label}-{getattr(kernel, 'activation', '')}-{implementation}",
        marks=[pytest.mark.slow] if slow or ("ConvNet" in kernel.label and implementation != "auto") else [],
    )
    for kernels, slow in ((KERNELS, False), (SLOW_KERNELS, True))
    for kernel, shape in kernels
    for implementation in ("auto", "neural_tangents")
    # `auto` is the engine for networks; for other kernels the two would be the same test twice. The vjp of
    # neural-tangents is JAX's own.
    if implementation == "auto" or (isinstance(kernel, Architecture) and not slow)
]


@pytest.fixture(autouse=True)
def float64():
    """Run every test of this file with JAX's float64 enabled, without leaving it so."""
    with precision.float64():
        yield


def along(function, direction, step):
    """Return d/dt function(t direction) at 0 by the fourth-order central difference, error O(step^4) + noise / step."""
    near = function(step * direction) - function(-step * direction)
    far = function(2 * step * direction) - function(-2 * step * direction)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize(("kernel", "shape", "implementation"), CASES)
def test_vjp_is_the_central_difference(kernel, shape, implementation):
    function = kernel_function(kernel, implementation)
    rng = np.random.default_rng(7)
    x, z, u = (rng.standard_normal((3, *shape)) for _ in range(3))
    cotangent = rng.standard_normal((3, 3))

    @jax.jit  # one shape, so that every check below shares one program
    def value_and_vjp(x, z):
        block, vjp = jax.vjp(function, x, z)
        return jnp.vdot(cotangent, block), vjp(jnp.asarray(cotangent))

    def value(x, z):
        return float(value_and_vjp(x, z)[0])

    # Support against target: each argument alone.
    _, (dx, dz) = value_and_vjp(x, z)
    np.testing.assert_allclose(np.vdot(dx, u), along(lambda t: value(x + t, z), u, 1e-3), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(np.vdot(dz, u), along(lambda t: value(x, z + t), u, 1e-3), rtol=1e-7, atol=1e-8)

    # Support against itself: the total derivative of K(x, x), where the angle on the diagonal is 0 and its arc cosine
    # has no derivative. Rounding moves that angle by 1e-8, hence the difference quotient by 1e-8 / step = 1e-6.
    _, (dx, dz) = value_and_vjp(x, x)
    assert np.isfinite(dx).all()
    assert np.isfinite(dz).all()
    np.testing.assert_allclose(np.vdot(dx + dz, u), along(lambda t: value(x + t, x + t), u, 1e-2), rtol=1e-5, atol=1e-5)

    # A target that is a copy of a support image: the gradient is finite, and equal images push each other equally.
    _, (dx, dz) = value_and_vjp(x, np.stack([x[1], z[1], z[2]]))
    assert np.isfinite(dx).all()
    assert np.isfinite(dz).all()


@pytest.mark.parametrize(
    "kernel", [RBF(), Laplace(), A(family="FC"), A(family="ConvNet3", depth=1)], ids=lambda k: k.label
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_finite_for_equal_constant_and_black_images(kernel, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 4, 4, 1)).astype(dtype)
    x[1], x[2], x[3] = x[0], 1, 0
    gradients = jax.jit(lambda x, z: jax.vjp(kernel_function(kernel), x, z)[1](jnp.ones((4, 4), dtype)))
    for gradient in gradients(x, x):
        assert gradient.dtype == dtype
        assert np.isfinite(gradient).all()


def test_laplace_gradient_at_the_kink_is_zero():
    x = np.random.default_rng(0).standard_normal((1, 3, 3, 2))
    _, vjp = jax.vjp(kernel_function(Laplace()), x, x)
    for gradient in vjp(jnp.ones((1, 1))):
        np.testing.assert_array_equal(gradient, 0)
