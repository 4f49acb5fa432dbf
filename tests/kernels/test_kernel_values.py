"""Kernels of networks against neural-tangents assembled by hand, and against a NumPy recursion that owes it nothing."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest

from helpers import dense
from helpers.kinds import untyped
from kip import precision
from kip.errors import ShapeError
from kip.kernels import RBF, Architecture, Laplace, kernel_function
from kip.kernels.neural_tangents import network, stax

# The layers of each architecture spelled out, and images to try it on: small, square and odd.
NETWORKS = {
    ("FC", 1, "relu"): ("flatten dense act dense", [(4, 4, 2), (7, 5, 3)]),
    ("FC", 3, "erf"): ("flatten dense act dense act dense act dense", [(4, 4, 2)]),
    ("ConvVec", 1, "relu"): ("conv act flatten dense", [(4, 4, 2), (1, 3, 1)]),
    ("ConvVec", 3, "relu"): ("conv act conv act conv act flatten dense", [(7, 5, 2)]),
    ("ConvVec", 2, "erf"): ("conv act conv act flatten dense", [(4, 4, 1)]),
    ("ConvNet", 1, "relu"): ("conv act conv act pool flatten dense", [(4, 4, 2), (7, 5, 1), (9, 9, 1)]),
    ("ConvNet", 2, "erf"): ("conv act conv act pool conv act pool flatten dense", [(7, 5, 2)]),
    ("ConvNet", None, "relu"): (
        "conv act conv act pool conv act pool conv act pool flatten dense",
        [(8, 8, 1), (9, 9, 2)],
    ),
    ("ConvNet3", 1, "relu"): ("conv act pool flatten dense", [(6, 6, 2), (7, 5, 1)]),
    ("ConvNet3", None, "relu"): ("conv act pool conv act pool conv act pool flatten dense", [(9, 11, 1)]),
    ("Myrtle", None, "relu"): ("conv act conv act pool conv act pool conv act global dense", [(4, 4, 2), (7, 5, 1)]),
    ("Myrtle", 5, "erf"): ("conv act conv act pool conv act pool conv act global dense", [(6, 6, 1)]),
    ("Myrtle", 7, "relu"): (
        "conv act conv act pool conv act conv act pool conv act conv act global dense",
        [(7, 5, 2)],
    ),
    ("Myrtle", 10, "relu"): (
        "conv act conv act conv act pool conv act conv act conv act pool conv act conv act conv act global dense",
        [(4, 4, 2)],
    ),
}


def compiles_long(words):
    """Return whether there is a pooling after several layers, which compiles for some ten seconds."""
    return "pool" in words and words.count("act") > 1


CASES = [
    pytest.param(
        *name,
        words.split(),
        shape,
        implementation,
        id=f"{name[0]}{name[1] or ''}-{name[2]}-{'x'.join(map(str, shape))}-{implementation}",
        marks=[pytest.mark.slow] if compiles_long(words) or ("pool" in words and implementation != "engine") else [],
    )
    for name, (words, shapes) in NETWORKS.items()
    for shape in shapes
    for implementation in ("engine", "neural_tangents")
    # Small networks show that neural-tangents is given the right layers.
    if implementation == "engine" or not compiles_long(words)
]


@pytest.fixture(autouse=True)
def float64():
    """Run every test of this file with JAX's float64 enabled, without leaving it so."""
    with precision.float64():
        yield


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def by_hand(words, *, w_std, b_std, activation):
    """Assemble the network `words` in neural-tangents and return its kernel function."""
    layers = {
        "conv": lambda: stax.Conv(5, (3, 3), (1, 1), "SAME", W_std=w_std, b_std=b_std, parameterization="ntk"),
        "dense": lambda: stax.Dense(7, W_std=w_std, b_std=b_std, parameterization="ntk"),
        "act": {"relu": stax.Relu, "erf": stax.Erf}[activation],
        "pool": lambda: stax.AvgPool((2, 2), (2, 2), "VALID"),
        "global": stax.GlobalAvgPool,
        "flatten": stax.Flatten,
    }
    return stax.serial(*(layers[word]() for word in words))[2]


@pytest.mark.parametrize(("family", "depth", "activation", "words", "shape", "implementation"), CASES)
def test_network_kernels_agree_with_two_references(family, depth, activation, words, shape, implementation):
    scale: dict[str, Any] = {"w_std": 1.3, "b_std": 0.2}
    architectures = {
        get: Architecture(family=family, depth=depth, activation=activation, get=get, **scale)
        for get in ("ntk", "nngp")
    }
    ours = {get: kernel_function(architectures[get], implementation) for get in architectures}
    theirs = by_hand(words, activation=activation, **scale)
    x, z = images(3, shape, 0), images(2, shape, 1)
    z[1] = x[1]  # one pair of equal images

    @jax.jit  # one program: XLA compiles what the two have in common once
    def both(x, z):
        return {get: (ours[get](x, z), theirs(x, z, get)) for get in ours}

    plain = dict(zip(("ntk", "nngp"), dense.kernel(x, z, words, activation=activation, **scale), strict=True))
    for get, (value, reference) in both(x, z).items():
        assert value.dtype == np.float64
        assert value.shape == (3, 2)
        apart = np.ones((3, 2), bool)
        apart[1, 1] = False
        for expected in (np.asarray(reference), plain[get]):
            np.testing.assert_allclose(np.asarray(value)[apart], expected[apart], rtol=1e-11)
            # The angle of equal images is the arc cosine of 1 minus rounding: its error is the root of rounding, 1e-8.
            np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_fc1_is_the_arc_cosine_formula():
    x, z = images(4, (3, 3, 2), 0), images(5, (3, 3, 2), 1)
    flat_x, flat_z = x.reshape(4, -1), z.reshape(5, -1)
    size = flat_x.shape[1]
    # First layer, W_std^2 = 2 and b_std = 0.1: covariances 2 x.z/d + 0.01; then ReLU, and the readout likewise.
    cross = 2 * flat_x @ flat_z.T / size + 0.01
    norm_x = np.sqrt(2 * np.sum(flat_x**2, 1) / size + 0.01)[:, None]
    norm_z = np.sqrt(2 * np.sum(flat_z**2, 1) / size + 0.01)[None]
    angle = np.arccos(cross / (norm_x * norm_z))
    hidden = norm_x * norm_z * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    nngp = 2 * hidden + 0.01
    ntk = nngp + 2 * cross * (np.pi - angle) / (2 * np.pi)
    for kernel, expected in ((Architecture("FC", get="nngp"), nngp), (Architecture("FC", get="ntk"), ntk)):
        np.testing.assert_allclose(kernel_function(kernel)(x, z), expected, rtol=1e-12)


@pytest.mark.slow
def test_defaults_are_the_notebooks():
    x, z = images(2, (8, 8, 3), 0), images(2, (8, 8, 3), 1)
    words = NETWORKS["ConvNet", None, "relu"][0].split()
    ntk, _ = dense.kernel(x, z, words, w_std=math.sqrt(2), b_std=0.1, activation="relu")
    np.testing.assert_allclose(jax.jit(kernel_function(Architecture()))(x, z), ntk, rtol=1e-11)


@pytest.mark.parametrize("kernel", [Architecture(family="ConvVec", depth=1), RBF(), Laplace()], ids=lambda k: k.label)
def test_float32_images_give_a_float32_kernel_and_float64_images_a_float64_one(kernel):
    function = jax.jit(kernel_function(kernel))
    x, z = images(3, (4, 4, 2), 0), images(2, (4, 4, 2), 1)
    exact = function(x, z)
    single = function(x.astype(np.float32), z.astype(np.float32))
    with_x64_off = np.asarray(_without_x64(function, x.astype(np.float32), z.astype(np.float32)))
    assert (exact.dtype, single.dtype, with_x64_off.dtype) == (np.float64, np.float32, np.float32)
    np.testing.assert_allclose(single, exact, rtol=1e-5)
    np.testing.assert_allclose(with_x64_off, exact, rtol=1e-5)


def _without_x64(function, x, z):
    if hasattr(jax, "enable_x64"):
        with jax.enable_x64(False):
            return function(x, z)
    from jax import experimental

    with untyped(experimental).disable_x64():  # of older JAX
        return function(x, z)


def test_no_convolution_is_left_in_float64_where_xla_on_a_cpu_reads_outside_its_arrays():
    function = kernel_function(Architecture(family="ConvNet3", depth=1), "neural_tangents")
    x = np.zeros((3, 4, 4, 1))
    program = jax.make_jaxpr(lambda x, z: jax.vjp(function, x, z)[1](jax.numpy.ones((3, 3))))(x, x)
    assert "conv_general_dilated" not in str(program)


def test_equal_values_give_the_same_function_so_that_jit_compiles_once():
    assert kernel_function(Architecture(family="FC", depth=2)) is kernel_function(Architecture(family="FC", depth=2))
    assert kernel_function(RBF()) is not kernel_function(RBF(length_scale=2.0))
    assert network(Architecture(family="FC", depth=2)) is network(Architecture(family="FC", depth=2))


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (Architecture(), (7, 8, 1)),
        (Architecture(family="ConvNet3", depth=2), (3, 9, 1)),
        (Architecture(family="Myrtle", depth=10), (4, 3, 1)),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_images_too_small_for_the_poolings_are_refused(kernel, shape):
    with pytest.raises(ShapeError, match="too small"):
        kernel_function(kernel)(np.zeros((1, *shape)), np.zeros((1, *shape)))


@pytest.mark.parametrize(
    ("x", "z", "problem"),
    [
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 4, 1)), "N, H, W, C"),
        (np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 3)), "height, width or channels"),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4, 1)), "share a float type"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 1), np.uint8), "share a float type"),
    ],
)
@pytest.mark.parametrize("kernel", [Architecture(family="FC"), RBF()], ids=lambda k: k.label)
def test_batches_that_do_not_fit_are_refused(kernel, x, z, problem):
    with pytest.raises(ShapeError, match=problem):
        kernel_function(kernel)(x, z)
