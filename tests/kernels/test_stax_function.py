"""Kernel functions that a user brings, by `Stax("file.py:name")` or `Stax("module:name")`."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from kip.errors import ConfigError, ShapeError
from kip.kernels import Architecture, Stax, kernel_function

NETWORK = """
    from neural_tangents import stax

    scale = {"W_std": 2**0.5, "b_std": 0.1}
    layers = stax.serial(stax.Flatten(), stax.Dense(1, **scale), stax.Relu(), stax.Dense(1, **scale))
    kernel = layers[2]
    number = 3

    def sums(x, z, get):
        return x.sum((1, 2, 3))[:, None] * z.sum((1, 2, 3))

    def wrong_shape(x, z, get):
        return x
"""
X, Z = (np.random.default_rng(seed).standard_normal((4 - seed, 4, 4, 2)).astype(np.float32) for seed in (0, 1))


@pytest.fixture
def network_file(tmp_path):
    """Return the path of a file with kernel functions in it."""
    path = tmp_path / "my_network.py"
    path.write_text(textwrap.dedent(NETWORK))
    return path


@pytest.mark.parametrize("get", ["ntk", "nngp"])
@pytest.mark.slow
def test_a_network_in_a_file_gives_the_kernel_of_the_same_architecture(network_file, get):
    value = kernel_function(Stax(function=f"{network_file}:kernel", get=get))(X, Z)
    np.testing.assert_allclose(value, kernel_function(Architecture(family="FC", get=get))(X, Z), rtol=1e-6)


def test_a_relative_path_is_taken_from_the_current_folder(network_file, monkeypatch):
    monkeypatch.chdir(network_file.parent)
    value = kernel_function(Stax(function="my_network.py:sums"))(X, Z)
    np.testing.assert_allclose(value, np.outer(X.sum((1, 2, 3)), Z.sum((1, 2, 3))), rtol=1e-6)


def test_a_function_of_an_installed_module_is_found(tmp_path, monkeypatch):
    (tmp_path / "kip_test_module.py").write_text(
        "def ones(x, z, get):\n    return x[:, 0, 0, :1] * 0 + z[:, 0, 0, 0] * 0 + 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    np.testing.assert_array_equal(kernel_function(Stax(function="kip_test_module:ones"))(X, Z), np.ones((4, 3)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{folder}/absent.py:kernel", "no file"),
        ("{folder}/my_network.py:absent", "nothing of that name"),
        ("{folder}/my_network.py:number", "a int"),
        ("no_such_module_of_kip:kernel", "No module named"),
        ("{folder}/broken.py:kernel", "ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_a_configuration_error(network_file, name, says):
    (network_file.parent / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=says):
        kernel_function(Stax(function=name.format(folder=network_file.parent)))


def test_a_function_that_returns_another_shape_is_refused(network_file):
    with pytest.raises(ShapeError, match="result of kernel wrong_shape"):
        kernel_function(Stax(function=f"{network_file}:wrong_shape"))(X, Z)
