"""The memory estimate against what XLA's compiler reports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from helpers.kinds import some
from kip.errors import ShapeError
from kip.kernels import RBF, Architecture, Laplace, Stax, entry_bytes, kernel_function
from kip.precision import float64

A = Architecture
CASES = [
    (A(family="FC"), (8, 8, 3), (128, 64)),
    (A(family="FC", depth=5, activation="erf"), (16, 16, 3), (128, 64)),
    (A(family="ConvVec", depth=4), (16, 16, 3), (32, 32)),
    (A(family="ConvNet", depth=1), (16, 16, 1), (32, 32)),
    pytest.param(A(), (8, 8, 1), (32, 32), marks=pytest.mark.slow),
    pytest.param(A(get="nngp"), (12, 9, 3), (32, 32), marks=pytest.mark.slow),
    (A(family="ConvNet3", depth=1, activation="erf"), (16, 16, 1), (32, 32)),
    pytest.param(A(family="Myrtle"), (8, 8, 1), (32, 32), marks=pytest.mark.slow),
    pytest.param(A(), (32, 32, 3), (16, 16), marks=pytest.mark.slow),
    (RBF(), (16, 16, 3), (128, 64)),
    (Laplace(), (8, 8, 1), (128, 64)),
]


def measured_bytes(kernel, shape, tile, implementation="auto"):
    function = kernel_function(kernel, implementation)

    def forward_and_vjp(x, z, cotangent):
        block, vjp = jax.vjp(function, x, z)
        return block, vjp(cotangent)

    shapes = [(tile[0], *shape), (tile[1], *shape), tile]
    compiled = jax.jit(forward_and_vjp).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()
    return some(compiled.memory_analysis()).temp_size_in_bytes / (tile[0] * tile[1])


@pytest.mark.parametrize(("kernel", "shape", "tile"), CASES, ids=lambda value: getattr(value, "label", None))
@pytest.mark.slow
def test_estimate_lies_above_what_xla_takes_and_not_far(kernel, shape, tile):
    measured = measured_bytes(kernel, shape, tile)
    # Entries are so small that a factor hardly matters, and XLA's releases differ in what they keep.
    assert measured <= entry_bytes(kernel, shape) <= 12 * measured


@pytest.mark.slow
def test_estimate_covers_neural_tangents():
    kernel, shape = A(family="ConvNet3", activation="erf"), (16, 16, 1)
    measured = measured_bytes(kernel, shape, (16, 8), "neural_tangents")
    assert measured <= entry_bytes(kernel, shape, implementation="neural_tangents") <= 3 * measured


@pytest.mark.slow
def test_estimate_covers_float64():
    kernel, function = A(family="ConvNet", depth=1), kernel_function(A(family="ConvNet", depth=1))
    with float64():
        images, block = (jax.ShapeDtypeStruct(s, jnp.float64) for s in ((32, 8, 8, 1), (32, 32)))
        program = jax.jit(lambda x, z, cotangent: jax.vjp(function, x, z)[1](cotangent))
        compiled = program.lower(images, images, block).compile()
    measured = some(compiled.memory_analysis()).temp_size_in_bytes / 1024
    assert measured <= entry_bytes(kernel, (8, 8, 1), itemsize=8) <= 12 * measured


def test_stax_kernels_bring_their_own_estimate():
    assert entry_bytes(Stax(function="module:name", entry_bytes=123), (8, 8, 1)) == 123


def test_estimate_refuses_images_that_are_too_small():
    with pytest.raises(ShapeError, match="too small"):
        entry_bytes(A(), (4, 4, 1))
