"""The form for GPUs, interpreted, against the XLA form: values, gradients, equal bits; and lowered for a GPU."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.compiling import AS_USERS
from kip.blocks.tile import tile_functions
from kip.errors import ConfigError
from kip.kernels import Architecture, entry_bytes, kernel_function, pallas, tile_memory
from kip.kernels.memory import LANES
from kip.kernels.pallas import form, program
from kip.placement import made_for, placed
from kip.precision import float64

A = Architecture
CASES = [
    (A("ConvVec", 1, activation="erf", get="nngp"), (3, 5, 1), (3, 1)),
    (A("ConvNet3", 1), (5, 4, 3), (2, 3)),
    (A("ConvNet", 1), (5, 4, 2), (2, 2)),
    (A("ConvVec", 2, activation="erf"), (3, 7, 3), (2, 2)),
    (A("ConvNet3", 2, get="nngp"), (5, 5, 1), (1, 2)),  # odd sides: a pool leaves out rows that hold partners
    (A("Myrtle", 5), (5, 6, 1), (1, 2)),
]
QUICKLY = {**AS_USERS, "xla_backend_optimization_level": 0}
"""Options of the compiler: interpreted kernels are large programs of small loops, and run a few times."""


@pytest.fixture(autouse=True)
def narrow_strips(monkeypatch):
    """Strips of a few columns: the program of an interpreted kernel grows with them, and small images have several."""
    monkeypatch.setattr(program, "STRIPS", (2,))


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def value_and_gradients(function, x, z, bar, options=None):
    @functools.partial(jax.jit, compiler_options=options)
    def run(x, z, bar):
        block, pull = jax.vjp(function, x, z)
        return (block, *pull(bar))

    return run, [np.asarray(part) for part in run(x, z, bar)]


def exact(architecture, *arrays):
    """The reference: value and gradients by XLA in float64."""
    with float64():
        function = kernel_function(architecture, "engine")
        return value_and_gradients(function, *(array.astype(float) for array in arrays))[1]


def close(ours, theirs, tolerance):
    assert ours.dtype == np.float32
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "shape", "block"), CASES, ids=lambda value: getattr(value, "label", None))
def test_values_and_gradients_are_those_of_the_xla_form_and_repeat_to_the_bit(architecture, shape, block):
    x, z, bar = images(block[0], shape, 0), images(block[1], shape, 1), images(block[0], block[1:], 2)
    z[0] = x[0]
    run, ours = value_and_gradients(functools.partial(form.kernel, architecture), x, z, bar, QUICKLY)
    for got, expected, tolerance in zip(ours, exact(architecture, x, z, bar), (1e-5, 1e-4, 1e-4), strict=True):
        close(got, expected, tolerance)
    for first, second in zip(ours, run(x, z, bar), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_values_of_random_architectures_are_those_of_the_xla_form(data):
    family = data.draw(st.sampled_from(["ConvNet", "ConvNet3", "ConvVec", "Myrtle"]))
    architecture = A(
        family,
        5 if family == "Myrtle" else data.draw(st.integers(1, 2)),
        activation=data.draw(st.sampled_from(["relu", "erf"])),
        get=data.draw(st.sampled_from(["ntk", "nngp"])),
    )
    least = 2**architecture.poolings
    sides = [data.draw(st.integers(least, least + 4)) for _ in range(2)]
    shape = (*sides, data.draw(st.integers(1, 3)))
    x, z = images(data.draw(st.integers(1, 4)), shape, 0), images(data.draw(st.integers(1, 4)), shape, 1)
    function = jax.jit(functools.partial(form.kernel, architecture), compiler_options=QUICKLY)
    bar = np.zeros((len(x), len(z)), np.float32)
    close(np.asarray(function(x, z)), exact(architecture, x, z, bar)[0], 1e-5)


@pytest.mark.slow
def test_values_of_nearly_equal_images_keep_their_digits():
    architecture, shape = A("ConvNet", 1), (4, 6, 3)
    x, noise = images(3, shape, 0), images(3, shape, 1)
    function = jax.jit(functools.partial(form.kernel, architecture), compiler_options=QUICKLY)
    for distance in (1e-1, 1e-2, 1e-3, 1e-4, 0):
        z = (x + distance * noise).astype(np.float32)
        expected = exact(architecture, x, z, np.zeros((3, 3), np.float32))[0]
        np.testing.assert_allclose(function(x, z), expected, rtol=3e-5)


@pytest.mark.slow
def test_gradients_of_nearly_equal_images_are_as_exact_as_those_of_the_xla_form():
    """Float32 loses their digits in either form: the angle of two images 0.1 % apart is little more than rounding."""
    architecture, shape = A("ConvNet3", 1), (4, 4, 1)
    x, noise, bar = images(3, shape, 0), images(3, shape, 1), images(3, (3,), 2)
    ours, _ = value_and_gradients(functools.partial(form.kernel, architecture), x, x, bar, QUICKLY)
    theirs, _ = value_and_gradients(kernel_function(architecture, "engine"), x, x, bar)
    for distance in (1e-1, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4):
        z = (x + np.float32(distance) * noise).astype(np.float32)
        truth = exact(architecture, x, z, bar)[1:]
        errors = [
            [np.abs(part - true).max() / np.abs(true).max() for part, true in zip(run(x, z, bar)[1:], truth)]
            for run in (ours, theirs)
        ]
        for got, of_xla in zip(*errors):
            assert got <= 1.5 * of_xla + 1e-5, distance


@pytest.mark.slow
def test_strips_of_any_width_give_the_same_values(monkeypatch):
    architecture, x, z = A("ConvNet3", 1), images(2, (4, 9, 1), 0), images(3, (4, 9, 1), 1)
    results = []
    for strips in ((2,), (4,), (8,)):
        monkeypatch.setattr(program, "STRIPS", strips)
        function = jax.jit(functools.partial(form.kernel, architecture), compiler_options=QUICKLY)
        results.append(np.asarray(function(x, z)))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-6)


@pytest.mark.slow
def test_equal_constant_and_black_images_give_finite_values_and_gradients():
    x = images(5, (4, 4, 1), 0)
    x[1], x[2], x[3], x[4] = x[0], 1, -1, 0
    architecture, bar = A("ConvNet3", 1, b_std=0.0), np.ones((5, 5), np.float32)
    _, ours = value_and_gradients(functools.partial(form.kernel, architecture), x, x, bar, QUICKLY)
    for got, expected in zip(ours, exact(architecture, x, x, bar), strict=True):
        assert np.isfinite(got).all()
        close(got, expected, 1e-4)


def lowered(function, *arguments):
    from jax import export

    from kip import placement

    calls = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    exported = export.export(jax.jit(placement.placed(function, "gpu")), platforms=["cuda"], disabled_checks=[calls])
    with on_a_gpu_that_is_not_here():
        return exported(*arguments).mlir_module()


def on_a_gpu_that_is_not_here():
    """Newer versions of JAX ask which GPU kernels are lowered for."""
    if not hasattr(jax.sharding, "AbstractDevice"):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def test_it_lowers_for_a_gpu_to_kernels_of_its_own_without_float64():
    function = kernel_function(A("ConvVec", 1), "pallas")
    text = lowered(function, *(jax.ShapeDtypeStruct((count, 4, 6, 3), jnp.float32) for count in (3, 40)))
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 2  # the variances, and the pairs
    assert "f64" not in text
    assert "callback" not in text


def test_a_tile_of_the_most_entries_is_pulled_back():
    """The gradient for its targets, whose lanes would be filled up to twice as many pairs, is not traced."""
    architecture, image = A("Myrtle", 5), (32, 32, 3)
    with made_for("gpu"):
        most = tile_memory(architecture, image, implementation="pallas").most
    assert most is not None
    columns = most // LANES
    assert columns < LANES, "lanes to fill up"
    shapes = (LANES, *image), (columns, *image), (LANES, columns)
    pull = placed(tile_functions(architecture, "pallas").pull_columns, "gpu")
    assert jax.eval_shape(pull, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).shape == shapes[1]


def test_what_it_does_not_compute_is_refused_with_the_remedy():
    x = np.zeros((2, 4, 4, 1), np.float32)
    with pytest.raises(ConfigError, match="on a CPU"):
        kernel_function(A("ConvVec", 1), "pallas")(x, x)
    with pytest.raises(ConfigError, match="convolutional"):
        kernel_function(A("FC"), "pallas")
    assert not pallas.supports(A("FC"))


def test_the_memory_of_an_entry_is_that_of_its_planes():
    """K and T between the first level's two convolutions, their cotangents, and less than a plane that is pooled."""
    plane = 15 * 15 * 32 * 32 * 4
    assert 4 * plane <= entry_bytes(A("ConvNet"), (32, 32, 3), implementation="pallas") <= 6 * plane
    assert entry_bytes(A("ConvNet3"), (32, 32, 3), implementation="pallas") <= 2 * plane
