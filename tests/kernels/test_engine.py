"""The engine against neural-tangents: float32 and float64, values and gradients, equal images, chunks, real data."""

import os

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from helpers.compiling import AS_USERS
from helpers.kinds import some, untyped
from kip import data, krr, preprocess
from kip.blocks import Blocks, KernelBlocks, LocalExecutor
from kip.kernels import Architecture, engine, fused, kernel_function
from kip.kernels.engine import chunks, dual, relu
from kip.kernels.fused.form import Form
from kip.precision import float64

A = Architecture


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def value_and_gradients(architecture, implementation, x, z, bar):
    if implementation == "numba":
        return list(Form(architecture).value_and_pull(x, z, bar, True, True))
    function = kernel_function(architecture, implementation)

    @jax.jit
    def run(x, z, bar):
        block, pull = jax.vjp(function, x, z)
        return (block, *pull(bar))

    return [np.asarray(part) for part in run(x, z, bar)]


def compare(architecture, x, z, *, exact, close, seed=2):
    """Compare with neural-tangents in float64, relative to the largest number of each result."""
    bar = np.random.default_rng(seed).standard_normal((len(x), len(z)))
    with float64():
        expected = value_and_gradients(architecture, "neural_tangents", x, z, bar)
    for form in ("engine", "numba") if fused.supports(architecture) else ("engine",):
        with float64():
            in_float64 = value_and_gradients(architecture, form, x, z, bar)
        in_float32 = value_and_gradients(architecture, form, *(a.astype(np.float32) for a in (x, z, bar)))
        for value, double, single in zip(
            map(some, expected), map(some, in_float64), map(some, in_float32), strict=True
        ):
            scale = np.abs(value).max()
            assert single.dtype == np.float32
            np.testing.assert_allclose(double / scale, value / scale, rtol=0, atol=exact, err_msg=form)
            np.testing.assert_allclose(single / scale, value / scale, rtol=0, atol=close, err_msg=form)


@st.composite
def architectures_and_shapes(draw):
    family = draw(st.sampled_from(["FC", "ConvVec", "ConvNet", "ConvNet3", "Myrtle"]))
    depth = 5 if family == "Myrtle" else draw(st.integers(1, 2))
    least = {"ConvNet": 2**depth, "ConvNet3": 2**depth, "Myrtle": 4}.get(family, 1)
    height, width = draw(st.integers(max(2, least), 6)), draw(st.integers(max(2, least), 6))
    architecture = A(
        family,
        depth,
        w_std=draw(st.floats(0.5, 2)),
        b_std=draw(st.sampled_from([0.0, 0.1, 1.0])),
        get=draw(st.sampled_from(["ntk", "nngp"])),
    )
    return architecture, (height, width, draw(st.integers(1, 3)))


# neural-tangents compiles for seconds, hence few examples; each has its own sizes, scales and images.
@pytest.mark.slow
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=untyped(list(HealthCheck)),
)
@given(architectures_and_shapes(), st.integers(0, 99))
def test_any_architecture_agrees_with_neural_tangents(case, seed):
    architecture, shape = case
    compare(architecture, images(3, shape, seed), images(2, shape, seed + 100), exact=1e-12, close=1e-5)


# A band along x wants wider images than hypothesis may take its time for.
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        pytest.param(A("ConvNet", 2), (7, 11, 2), marks=pytest.mark.slow),
        pytest.param(A("ConvNet3", 2, get="nngp"), (4, 9, 1), marks=pytest.mark.slow),
        pytest.param(A("ConvNet3", 1), (4, 9, 1), marks=pytest.mark.slow),
        pytest.param(A("ConvVec", 2), (5, 6, 3), marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_bands_agree_with_neural_tangents(architecture, shape):
    assert engine.pairs.levels(architecture, *shape[:2])[0].columns is not None
    compare(architecture, images(4, shape, 0), images(3, shape, 1), exact=1e-12, close=1e-5)


@pytest.mark.parametrize(
    "architecture", [pytest.param(A("ConvNet", 1), marks=pytest.mark.slow), A("FC", 2)], ids=lambda a: a.label
)
def test_similar_and_equal_images_agree_with_neural_tangents(architecture):
    shape = (5, 9, 2)
    x, z = images(4, shape, 0), images(3, shape, 1)
    z[0] = x[2] + 0.1 * images(1, shape, 3)[0]
    # At an angle theta rounding is amplified by 1 / theta in values and 1 / theta^2 in gradients, here by 100.
    compare(architecture, x, z, exact=1e-12, close=1e-5)
    z[1] = x[1]
    # Of equal images neural-tangents' own angle is the root of a rounding error: 1e-8 in float64.
    compare(architecture, x, z, exact=1e-7, close=1e-5)


@pytest.mark.parametrize("get", ["ntk", "nngp"])
def test_a_fully_connected_networks_diagonal_keeps_its_digits_in_float32(get):
    x = images(60, (28, 28, 3), 0)
    function = kernel_function(A("FC", 2, get=get))
    single = np.diag(jax.jit(function)(x.astype(np.float32), x.astype(np.float32)))
    with float64():
        double = np.diag(jax.jit(function)(x, x))
    np.testing.assert_allclose(single, double, rtol=2e-6)


@pytest.mark.slow
def test_values_of_nearly_equal_images_keep_their_digits_in_float32():
    architecture, shape = A("ConvNet", 2), (8, 16, 3)
    x = images(4, shape, 0)
    x = x.astype(np.float32)
    kernel = jax.jit(kernel_function(architecture))
    for distance in (1e-1, 1e-2, 1e-3, 1e-4, 0):
        z = (x + distance * images(4, shape, 1)).astype(np.float32)
        with float64():
            exact = np.asarray(kernel(x.astype(float), z.astype(float)))
        np.testing.assert_allclose(kernel(x, z), exact, rtol=3e-5)


@pytest.mark.slow
def test_equal_images_lose_nothing_in_float32():
    architecture, shape = A("ConvNet", 2), (8, 16, 3)
    x = images(4, shape, 0).astype(np.float32)
    kernel = jax.jit(kernel_function(architecture), compiler_options=AS_USERS)
    block = np.asarray(kernel(x, x))
    with float64():
        exact = np.asarray(kernel(x.astype(float), x.astype(float)))
    np.testing.assert_allclose(np.diag(block), np.diag(exact), rtol=1e-5)


@pytest.mark.parametrize(
    "architecture", [pytest.param(A("ConvNet", 2), marks=pytest.mark.slow), A("FC", 1)], ids=lambda a: a.label
)
@pytest.mark.parametrize("b_std", [0.0, 0.1])
def test_constant_and_black_images_give_finite_values_and_gradients(architecture, b_std):
    x = np.zeros((3, 8, 8, 1), np.float32)
    x[1], x[2] = 1.0, -1.0
    architecture = A(architecture.family, architecture.depth, b_std=b_std)
    for part in value_and_gradients(architecture, "engine", x, x, np.ones((3, 3), np.float32)):
        assert np.isfinite(some(part)).all()


@pytest.mark.parametrize("most", [16, 22, 128, 4096])
@pytest.mark.parametrize("block", [(1, 7), (3, 3), (4, 4), (10, 10), (3, 17), (2, 600), (10, 34)])
def test_chunks_are_within_bounds_and_fill_vector_registers(block: tuple[int, int], most):
    chunk = chunks.chunk_of(*block, most)
    pairs = chunk.first * chunk.second
    assert chunks.FEWEST <= pairs <= most
    assert pairs % chunks.LANES == 0
    if block[0] * block[1] <= most and block[0] * block[1] % chunks.LANES == 0:
        assert chunk == block


@pytest.mark.parametrize("block", [(1, 1), (1, 3), (2, 2)])
def test_a_few_pairs_are_one_chunk(block: tuple[int, int]):
    assert chunks.chunk_of(*block, 16) == block


def test_rows_of_a_single_chunk_are_avoided():
    assert chunks.chunk_of(16, 16, 128) == (16, 8)


@pytest.mark.parametrize("many", [False, True], ids=["as a product", "as a sum"])
def test_images_get_the_cotangents_of_their_pairs(monkeypatch, many):
    monkeypatch.setattr(chunks, "MOST", 1 if many else 128)
    n, m = 3, 4
    bar = jax.numpy.asarray(np.random.default_rng(0).standard_normal((2, n * m)), "float32")
    expected = np.asarray(bar).reshape(2, n, m)
    for layout, times, images, axis in ((chunks._repeat, m, n, 2), (chunks._tile, n, m, 1)):
        _, pull = jax.vjp(lambda a, layout=layout, times=times: layout(a, times), jax.numpy.zeros((2, images)))
        np.testing.assert_allclose(pull(bar)[0], expected.sum(axis), rtol=1e-6)


@pytest.fixture(scope="module")
def in_chunks():
    """An architecture and its arguments, and what they give in the chunks that the engine chooses."""
    architecture, shape = A("ConvNet", 1), (4, 9, 2)
    arguments = images(5, shape, 0), images(3, shape, 1), images(5, (3,), 2)
    with float64():
        return architecture, arguments, value_and_gradients(architecture, "engine", *arguments)


SLOW_CHUNKS = [pytest.param(chunk, marks=pytest.mark.slow) for chunk in ((1, 1), (3, 2), (1, 16))]


@pytest.mark.parametrize("chunk", [(2, 3), (8, 8), *SLOW_CHUNKS])
@pytest.mark.slow
def test_results_do_not_depend_on_the_chunks(monkeypatch, chunk, in_chunks):
    architecture, arguments, expected = in_chunks
    monkeypatch.setattr(chunks, "chunk_of", lambda first, second, most: chunks.Chunk(*chunk))
    with float64():
        for ours, theirs in zip(value_and_gradients(architecture, "engine", *arguments), expected, strict=True):
            np.testing.assert_allclose(some(ours), some(theirs), rtol=1e-12, atol=1e-12)


def test_angle_polynomials_are_accurate_to_float32():
    chord = np.concatenate([np.linspace(-1, 1, 100_001), np.logspace(-15, -1, 100)]).astype(np.float32)
    for function in (relu.moment, relu.slope):
        with float64():
            exact = np.asarray(function(jax.numpy.asarray(chord, "float64")))
        assert np.abs(function(jax.numpy.asarray(chord)) - exact).max() < 1.2e-7  # units in the last place of 1/2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_chords_tell_every_angle_apart(dtype):
    angle = np.array([0, 1e-3, 1, np.pi / 2, 2, np.pi - 1e-3, np.pi])
    with float64():
        ones = dual.variance(relu.RELU, jax.numpy.ones(len(angle), dtype))
        chord = relu.chord(jax.numpy.asarray(np.cos(angle), dtype), ones, ones)
        np.testing.assert_allclose(
            2 * np.pi * relu.slope(chord), np.pi - angle, atol=1e-3 if dtype == "float32" else 1e-9
        )
        moment = np.sin(angle) + (np.pi - angle) * np.cos(angle)
        np.testing.assert_allclose(2 * np.pi * relu.moment(chord), moment, atol=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_auto_is_the_engine(activation):
    x = images(2, (4, 4, 1), 0).astype(np.float32)
    auto, ours = (kernel_function(A("FC", activation=activation), name)(x, x) for name in ("auto", "engine"))
    np.testing.assert_array_equal(auto, ours)


@pytest.mark.slow
@pytest.mark.skipif("KIP_DATA_DIR" not in os.environ, reason="needs real data in $KIP_DATA_DIR")
def test_kernel_of_real_images_is_positive_definite_at_the_papers_ridge():
    train = data.load(data.Data("mnist")).train
    inputs = preprocess.fit(preprocess.Preprocess("standardize"), train.images).apply(train.images[:60])
    with LocalExecutor(jax.devices()[:1]) as executor:
        k_ss = KernelBlocks(Blocks(), executor).forward(A("ConvNet"), inputs, inputs[:0]).k_ss
    labels = data.centred_one_hot(train.labels[:60], 10)
    assert np.isfinite(krr.fit(k_ss, labels, krr.Ridge())).all()  # raises NotPositiveDefiniteError if it is not
