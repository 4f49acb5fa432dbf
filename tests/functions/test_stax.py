"""Networks written with `kip.stax`: the architecture that they become, the kernel of neural-tangents, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kip
from kip import stax
from kip.errors import ConfigError, ShapeError
from kip.kernels import neural_tangents

SCALE: Any = {"W_std": 1.3, "b_std": 0.2}
VECTORS = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)


def built(module, words, **scale):
    """A network of either library from a letter for each layer."""
    scale = scale or SCALE
    layers = {
        "C": lambda: module.Conv(8, (3, 3), padding="SAME", **scale),
        "D": lambda: module.Dense(8, **scale),
        "A": module.Relu,
        "E": module.Erf,
        "P": lambda: module.AvgPool((2, 2), (2, 2)),
        "F": module.Flatten,
        "G": module.GlobalAvgPool,
    }
    return module.serial(*(layers[word]() for word in words))


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("DAD", "FC1"),
        ("FDADAD", "FC2"),
        ("CACAFD", "ConvVec2"),
        ("CACAPCAPFD", "ConvNet2"),
        ("CAPCAPCAPFD", "ConvNet3"),
        ("CACAPCAPCAGD", "Myrtle5"),
        ("CACAPCACAPCACAGD", "Myrtle7"),
    ],
)
def test_a_network_becomes_the_architecture_of_its_layers(words, label):
    value = built(stax, words).architecture
    assert value.label == label
    assert (value.w_std, value.b_std, value.activation) == (1.3, 0.2, "relu")


def test_the_defaults_are_neural_tangents():
    value = stax.serial(stax.Dense(1), stax.Erf(), stax.Dense(1)).architecture
    assert (value.w_std, value.b_std, value.activation) == (1.0, 0.0, "erf")


@pytest.mark.parametrize("words", ["DAD", pytest.param("DEDED", marks=pytest.mark.slow)])
def test_the_kernel_is_that_of_neural_tangents(words):
    for get in ("ntk", "nngp"):
        others = VECTORS[:2] + np.float32(0.1)  # float32's rounding is an angle of 3e-4 between equal vectors
        ours, theirs = (built(m, words)[2](VECTORS, others, get) for m in (stax, neural_tangents.stax))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_the_kernel_of_a_convolutional_network_is_that_of_neural_tangents():
    images = np.random.default_rng(0).standard_normal((4, 4, 4, 2)).astype(np.float32)
    for words in ("CAFD", "CACAPFD"):
        both = [built(m, words)[2](images, images[:3], ("ntk", "nngp")) for m in (stax, neural_tangents.stax)]
        for get in ("ntk", "nngp"):
            np.testing.assert_allclose(*(getattr(kernels, get) for kernels in both), rtol=1e-3)


@pytest.mark.slow
def test_the_program_of_a_user_of_neural_tangents_changes_one_import():
    """Ten lines as they are written for neural-tangents, run with its stax and with kip's; the predictions agree."""
    program = """
init_fn, apply_fn, kernel_fn = stax.serial(
    stax.Dense(512, W_std=1.5, b_std=0.05), stax.Relu(),
    stax.Dense(512, W_std=1.5, b_std=0.05), stax.Relu(),
    stax.Dense(1, W_std=1.5, b_std=0.05),
)
kernel_train = kernel_fn(x_train, None, "ntk")
both = kernel_fn(x_test, x_train, ("nngp", "ntk"))
predict_fn = nt.predict.gradient_descent_mse_ensemble(kernel_fn, x_train, y_train, diag_reg=1e-4)
mean = predict_fn(x_test=x_test, get="ntk")
"""
    from kip.kernels.neural_tangents import neural_tangents as nt

    x_train, x_test = VECTORS, VECTORS[:2] + np.float32(0.1)
    given = {"nt": nt, "x_train": x_train, "x_test": x_test, "y_train": x_train[:, :1]}
    results = []
    for module in (neural_tangents.stax, stax):
        names = {**given, "stax": module}
        exec(program, names)
        results.append(names)
    before, after = results
    # Equal vectors, on the diagonal, stand at an angle of float32's rounding, 3e-4, in neural-tangents.
    np.testing.assert_allclose(after["kernel_train"], before["kernel_train"], rtol=1e-3)
    np.testing.assert_allclose(after["both"].nngp, before["both"].nngp, rtol=1e-5)
    np.testing.assert_allclose(after["mean"], before["mean"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stax.LayerNorm, "LayerNorm"),
        (lambda: stax.Conv(8, (5, 5), padding="SAME"), "filter_shape of stax.Conv"),
        (lambda: stax.Conv(8, (3, 3)), "padding of stax.Conv"),
        (lambda: stax.Dense(8, parameterization="standard"), "parameterization of stax.Dense"),
        (lambda: stax.AvgPool((2, 2)), "strides of stax.AvgPool"),
        (lambda: stax.Erf(2.0), "stax.Erf"),
        (lambda: stax.Relu(do_stabilize=True), "stax.Relu"),
        (lambda: stax.serial(neural_tangents.stax.Relu()), "import stax from kip"),
        (lambda: built(stax, "CAPD").kernel_fn, "Conv, Relu, AvgPool, Dense"),
        (lambda: built(stax, "DADED").kernel_fn, "Erf and Relu"),
        (lambda: stax.serial(stax.Dense(1, 1.0), stax.Relu(), stax.Dense(1, 1.5))[2], "1.0 and 1.5"),
        (lambda: built(stax, "DAD")[0](0, (1, 2)), "init_fn"),
    ],
)
def test_what_the_engine_cannot_compute_is_refused_by_name(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_network_may_be_a_part_of_another():
    block = stax.serial(stax.Dense(1, **SCALE), stax.Relu())
    assert stax.serial(block, block, stax.Dense(1, **SCALE)).architecture.label == "FC2"


def test_images_are_flattened_by_flatten_alone():
    images = VECTORS.reshape(5, 2, 3, 1)
    with pytest.raises(ShapeError, match="Flatten"):
        built(stax, "DAD")[2](images, None, "ntk")
    np.testing.assert_array_equal(
        built(stax, "FDAD")[2](images, None, "ntk"), kip.kernel(VECTORS, kernel=kip.Architecture("FC", 1, 1.3, 0.2))
    )
