"""Programs for accelerators that are not here: they lower, in the precision of kernels, with no call of the host.

`jax.export` lowers for a platform without its compiler. `kip.placement` lets what is traced be made for it.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from helpers.lowering import PLATFORMS, SOLVERS, calls, precisions
from kip import krr, placement
from kip.blocks.tile import TileFunctions, tile_functions
from kip.errors import ConfigError
from kip.kernels import Architecture, kernel_function
from kip.kernels.engine.chunks import most_pairs
from kip.methods.matching.gradient_matching import ClassDistance
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.training.batches import Batches
from kip.training.loop import Rule, compiled_update
from kip.training.predict import precise_features
from kip.training.recipe import Optimizer
from kip.training.supervised import Supervised
from kip.training.update import Batch

SIDE, BLOCK = (8, 8, 1), 4
ARCHITECTURES = [
    Architecture("FC", 2),
    Architecture("FC", 1, activation="erf"),
    Architecture("ConvVec", 1),
    Architecture("ConvNet", 1),
    Architecture("ConvNet3", 1, get="nngp"),
    pytest.param(Architecture("Myrtle"), marks=pytest.mark.slow),
]


def lowered(function, *arguments):
    """Return a program's text, made for accelerators."""
    made = placement.placed(function, "gpu")
    exported = export.export(jax.jit(made), platforms=PLATFORMS)(*arguments)
    return exported.mlir_module()


def floats(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("name", TileFunctions._fields)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.label)
def test_the_functions_of_a_tile_lower_in_full_float32(architecture, name):
    function = getattr(tile_functions(architecture, "engine"), name)
    images, cotangent = floats(BLOCK, *SIDE), floats(BLOCK, BLOCK)
    arguments = {
        "forward": (images, images),
        "pull_columns": (images, images, cotangent),
        "pull_both": (images, images, cotangent),
        "pull_diagonal": (images, cotangent),
    }[name]
    text = lowered(function, *arguments)
    assert precisions(text) <= {"HIGHEST"}
    assert "f64" not in text
    assert calls(text) == set()


def test_products_in_tf32_are_another_program():
    """The bench of GPUs compared a program with itself."""
    full, short = (kernel_function(Architecture("FC", 1), "engine", products) for products in ("float32", "tf32"))
    texts = [lowered(function, floats(BLOCK, *SIDE), floats(BLOCK, *SIDE)) for function in (full, short)]
    assert [precisions(text) for text in texts] == [{"HIGHEST"}, {"HIGH"}]


def test_kernel_ridge_regression_lowers_with_its_factorisations_alone():
    n, m, c = 6, 10, 3
    wide = functools.partial(floats, dtype=jnp.float64)
    cotangents = functools.partial(krr._cotangents, scale=None, ridge=krr.Ridge(), reduction="mean")
    solve = functools.partial(krr._solve, ridge=krr.Ridge())
    with float64():
        texts = [
            lowered(cotangents, wide(n, n), wide(m, n), wide(n, c), wide(m, c)),
            lowered(solve, wide(n, n), wide(n, c)),
        ]
    for text in texts:
        assert calls(text) <= SOLVERS
        assert precisions(text) <= {"HIGHEST", "DEFAULT"}  # of float64, of which there is one precision


NETWORK = Network("ConvNet-D3", width=8)


def variables_of(model, side):
    return jax.eval_shape(lambda key: model.init(key, side), jax.random.key(0))


def test_an_update_of_a_network_lowers():
    model, side = Model(NETWORK, 10), (16, 16, 3)
    data = Batch(floats(32, *side), floats(32, 10))
    rule = Rule(
        Supervised(model, "soft_xent", augment="dsa"), Optimizer("sgd", 0.01, momentum=0.9), 1, Batches(32, 8, "draws")
    )
    learning = jax.eval_shape(rule.begin, variables_of(model, side))
    update = functools.partial(inspect.unwrap(compiled_update(rule, False)), length=8)
    key, step = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), jnp.int32)
    arguments = (learning, floats(), data, key, step)
    text = lowered(update, *arguments)
    assert calls(text) == set()
    assert "f64" not in text
    assert precisions(text) == {"DEFAULT"}, "TF32 on current GPUs, as in PyTorch"
    with jax.default_matmul_precision("highest"):  # what JAX_DEFAULT_MATMUL_PRECISION says
        assert precisions(lowered(update, *arguments)) == {"HIGHEST"}


def test_gradients_of_a_class_lower_and_so_do_features():
    model, side = Model(NETWORK, 10), (16, 16, 3)
    variables, images = variables_of(model, side), floats(8, *side)
    key = jax.eval_shape(lambda: jax.random.key(0))
    distance = ClassDistance(model, "none")
    matching = lowered(
        distance, variables["params"], images, floats(1, *side), jax.ShapeDtypeStruct((), jnp.int32), key
    )

    def pulled(variables, images):
        features, pull = jax.vjp(lambda x: precise_features(model, variables, x), images)
        return features, pull(features)

    features = lowered(pulled, variables, images)
    for text in (matching, features):
        assert calls(text) == set()
        assert "f64" not in text
    assert precisions(features) == {"HIGHEST"}


def test_what_is_traced_follows_the_platform_that_it_is_made_for():
    """A machine with a GPU may compute on its CPU, and programs may be made for a device that is not there."""
    assert placement.platform() == "cpu"
    at_home = most_pairs(1024)
    with placement.made_for("cuda"):
        assert placement.platform() == "gpu"
        assert most_pairs(1024) > at_home
    assert placement.placed(placement.platform, "tpu")() == "tpu"
    assert most_pairs(1024) == at_home


@pytest.mark.slow
def test_a_program_for_an_accelerator_gives_the_values_of_the_cpus(rng):
    """Its chunks and its first layer are others."""
    x, z = (rng.normal(size=(5, 8, 8, 1)).astype(np.float32) for _ in range(2))
    kernel = kernel_function(Architecture("ConvNet", 1), "engine")
    np.testing.assert_allclose(jax.jit(placement.placed(kernel, "gpu"))(x, z), jax.jit(kernel)(x, z), rtol=1e-5)
    model = Model(NETWORK, 10)
    variables = model.init(jax.random.key(0), (16, 16, 3))
    images = jnp.asarray(rng.normal(size=(4, 16, 16, 3)), jnp.float32)

    def outputs(images):
        return model.apply(variables, images).logits

    elsewhere = jax.jit(placement.placed(outputs, "gpu"))(images)
    np.testing.assert_allclose(elsewhere, jax.jit(outputs)(images), rtol=1e-4, atol=1e-5)


def test_float64_on_a_tpu_is_refused_with_its_remedy():
    images = np.zeros((2, 8, 8, 1))
    with placement.made_for("tpu"), float64(), pytest.raises(ConfigError, match=r"Set blocks\.dtype to float32"):
        kernel_function(Architecture("FC", 1), "engine")(images, images)
