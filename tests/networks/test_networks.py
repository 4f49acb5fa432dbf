"""Finite networks: every builder at every size, parameterisations, normalisation, what is refused."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.kinds import untyped
from kip import config
from kip.errors import ConfigError, ShapeError
from kip.judges import TrainedNetworks
from kip.networks import NETWORKS, Model, Network, layers, network
from kip.networks.layers import (
    Norm,
    Normalise,
    convolution,
    plain_convolution,
    product_of_patches,
    product_of_strips,
    shuffle_channels,
)
from kip.precision import float64

NAMES = [*NETWORKS, "FC1", "FC3", "ConvVec3", "ConvVec8"]
SHAPES = [(28, 28, 1), (32, 32, 3), (64, 64, 3)]
PARAMETERS = {
    "LeNet": 62_006,
    "ConvNet-D3": 320_010,
    "FRePo-D3": 3 * 9 * 128 + 128 * 9 * 256 + 256 * 9 * 512 + 128 + 256 + 512 + 2 * (128 + 256) + 16 * 512 * 10 + 10,
    "ResNet10": 4_903_242,
    "ResNet18": 11_173_962,
    "WRN-16-2": 691_674,
    "DenseNet121": 6_956_298,
    "MobileNet": 3_217_226,
    "MobileNetV2": 2_236_682,
    "ShuffleNetV2": 352_042,
    "FC2": 3072 * 1024 + 1024 + 1024 * 1024 + 1024 + 10_250,
    "ConvNet": 3 * 9 * 1024 + 1024 + 3 * (1024 * 9 * 1024 + 1024) + 16 * 1024 * 10 + 10,
}
"""At 32x32x3 and ten classes: figures known from the literature and public code, or written out."""
WITHOUT_BIAS = ("ResNet10", "ResNet18", "WRN-16-2", "DenseNet121", "MobileNet", "MobileNetV2", "ShuffleNetV2")
"""Public code has no bias in convolutions that are normalised; ours has, and it is not counted."""


def abstract(model, shape):
    """Return the shapes of variables and outputs, without computing any."""
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), shape))
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, train=True), variables, images)


def count(variables, *, without_bias=False):
    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    conv_biases = [leaf.size for path, leaf in paths if "Conv" in path[-2].key and path[-1].key == "bias"]
    return sum(leaf.size for _, leaf in paths) - (sum(conv_biases) if without_bias else 0)


@pytest.mark.parametrize("shape", [SHAPES[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SHAPES[1:])], ids=str)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "DenseNet121" else name for name in NAMES]
)
def test_every_network_takes_every_size(name, shape):
    variables, outputs = abstract(network(name, 7, width=12), shape)
    assert outputs.logits.shape == (2, 7)
    assert outputs.features.shape == (2, variables["params"]["readout"]["kernel"].shape[0])
    assert jax.tree.map(jnp.shape, outputs.variables) == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.slow
def test_the_number_of_parameters_is_the_known_one(name):
    variables, _ = abstract(network(name, 10), (32, 32, 3))
    assert count(variables, without_bias=name in WITHOUT_BIAS) == PARAMETERS[name]


def test_halves_of_shuffled_channels_hold_some_of_both():
    x = jnp.arange(12.0).reshape(1, 1, 2, 6)
    np.testing.assert_array_equal(shuffle_channels(x)[0, 0], [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]])


@functools.cache
def normalised(name, norm):
    """Return the shapes of a network's variables."""
    return abstract(network(name, 10, width=12, norm=norm), (32, 32, 3))[0]


@pytest.mark.parametrize("norm", ["none", "layer", "instance", "batch"])
@pytest.mark.parametrize("name", ["ConvVec3", "ConvNet-D3", "Myrtle5", "AlexNet", "ResNet10"])
def test_every_norm_makes_another_network(name, norm):
    variables = normalised(name, norm)
    assert (count(variables) == count(normalised(name, "none"))) == (norm == "none")
    assert ("batch_stats" in variables) == (norm == "batch")


@pytest.mark.slow
def test_both_parameterisations_are_one_function_at_the_start_with_other_gradients(rng):
    images = rng.normal(size=(3, 8, 8, 1))
    outputs, gradients = [], []
    with float64():
        for parameterization in ("standard", "ntk"):
            model = network("ConvNet", 4, width=6, parameterization=parameterization)
            variables = model.init(jax.random.key(1), (8, 8, 1))
            outputs.append(model.apply(variables, images).logits)
            total = jax.grad(lambda v, model=model: model.apply(v, images).logits.sum())(variables)
            gradients.append(np.asarray(total["params"]["Conv_1"]["kernel"]))
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-12)
    np.testing.assert_allclose(gradients[1], gradients[0] * np.sqrt(2 / (9 * 6)), rtol=1e-12)


@pytest.mark.slow
def test_the_empirical_kernel_of_a_wide_network_is_near_the_infinite_one(rng):
    from kip.kernels import kernel_function
    from kip.kernels.architecture import Architecture

    images = rng.normal(size=(3, 5, 5, 1)).astype(np.float32)
    model = network("FC1", 1, width=8192, parameterization="ntk")
    variables = model.init(jax.random.key(0), (5, 5, 1))
    jacobian = jax.jacrev(lambda v: model.apply(v, images).logits[:, 0])(variables)
    rows = np.concatenate([np.asarray(leaf).reshape(3, -1) for leaf in jax.tree.leaves(jacobian)], axis=1)
    infinite = kernel_function(Architecture("FC", 1))(images, images)
    np.testing.assert_allclose(rows @ rows.T, infinite, rtol=0.1)  # the deviation falls as 1 / sqrt(width) = 0.011


def test_layer_and_instance_norm_do_what_they_say(rng):
    images = jnp.asarray(rng.normal(3, 2, size=(4, 8, 8, 1)), jnp.float32)
    cases: tuple[tuple[Norm, tuple[int, ...]], ...] = (("layer", (1, 2, 3)), ("instance", (1, 2)), ("batch", (0, 1, 2)))
    for norm, axes in cases:
        module = Normalise(norm)
        x = jnp.tile(images, (1, 1, 1, 3)) * jnp.asarray([1.0, 2.0, 5.0])
        variables = module.init(jax.random.key(0), x, True)
        y, _ = module.apply(variables, x, True, mutable=["batch_stats", "moments"])
        np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(y.std(axes), 1, atol=1e-4)


@pytest.mark.slow
def test_training_moves_running_statistics_and_testing_uses_them(rng):
    images = jnp.asarray(rng.normal(size=(16, 8, 8, 1)), jnp.float32)
    model = network("ConvNet", 3, width=4, norm="batch")
    variables = model.init(jax.random.key(0), (8, 8, 1))
    same = model.apply(variables, images)
    assert same.variables is variables
    train = jax.jit(lambda v: model.apply(v, images, train=True))
    trained = train(variables)
    for _ in range(200):
        trained = train(trained.variables)
    assert not np.allclose(same.logits, trained.logits, atol=0.01)
    tested = model.apply(trained.variables, images)
    np.testing.assert_allclose(tested.logits, trained.logits, atol=1e-3)  # after 200 moves they are the batch's


@pytest.mark.slow
def test_batch_moments_are_those_of_what_batch_normalisation_sees(rng):
    images = jnp.asarray(rng.normal(size=(16, 8, 8, 1)), jnp.float32)
    model = network("ConvNet-D3", 3, width=4, norm="batch")
    variables = model.init(jax.random.key(0), (8, 8, 1))
    assert set(variables) == {"params", "batch_stats"}
    moments = model.moments(variables, images)
    assert moments.keys() == variables["batch_stats"].keys()
    kernel, bias = (variables["params"]["Conv_0"][name] for name in ("kernel", "bias"))
    convolved = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(moments["Normalise_0"]["mean"], (convolved + bias).mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(moments["Normalise_0"]["var"], convolved.var((0, 1, 2)), rtol=1e-4)
    plain = network("ConvNet-D3", 3, width=4, norm="none")
    assert plain.moments(plain.init(jax.random.key(0), (8, 8, 1)), images) == {}


def test_growth_widens_each_block():
    variables, outputs = abstract(network("ConvNet-D3", 10, width=8, growth=2), (32, 32, 3))
    assert [variables["params"][f"Conv_{i}"]["bias"].size for i in range(3)] == [8, 16, 32]
    assert outputs.features.shape == (2, 32 * 16)


def test_a_model_may_be_static_in_jit():
    forward = jax.jit(lambda model, v, x: model.apply(v, x).logits, static_argnums=0)
    for model in (network("FC1", 3, width=4), network("FC1", 3, width=4)):
        variables = model.init(jax.random.key(0), (4, 4, 1))
        forward(model, variables, jnp.zeros((2, 4, 4, 1)))
    assert untyped(forward)._cache_size() == 1


@pytest.mark.parametrize("name", ["ConvNet2", "FC", "FC0", "convnet", ""])
def test_an_unknown_network_is_refused_with_the_list(name):
    with pytest.raises(ConfigError, match="MobileNet"):
        Network(name)


@pytest.mark.parametrize(
    "options", [{"growth": 2}, {"name": "FC2", "norm": "instance"}, {"width": 0}, {"norm": "group"}], ids=str
)
def test_options_that_do_not_apply_are_refused(options):
    with pytest.raises(ConfigError):
        Network(**options)


@pytest.mark.parametrize(("name", "options"), [("ConvNet", {}), ("ResNet18", {"norm": "instance"}), ("Myrtle5", {})])
def test_images_that_are_too_small_are_refused(name, options):
    with pytest.raises(ShapeError, match="too small"):
        network(name, 10, **options).init(jax.random.key(0), (3, 3, 1))


def test_a_label_says_what_differs():
    assert Network().label == "ConvNet"
    assert Network("ResNet18", width=16, norm="none").label == "ResNet18 width=16 norm=none"


@pytest.mark.skipif(not layers.COMPILES_PRODUCTS, reason="this jaxlib compiles it wrongly, and networks do not take it")
@pytest.mark.parametrize(
    ("size", "channels", "padding"), [(3, 1, "SAME"), (5, 3, "VALID"), (1, 6, "SAME"), (3, 6, "VALID")]
)
def test_the_convolution_of_cpus_is_the_plain_one_with_its_derivatives(size, channels, padding, rng):
    """In float64, whose rounding is all that the tolerances allow: value, both modes, twice, and vectorised."""
    with float64():
        x, kernel, dx, dkernel = (
            jnp.asarray(rng.standard_normal(shape)) for shape in 2 * [(2, 7, 6, channels), (size, size, channels, 4)]
        )

        def results(convolve):
            def loss(x, kernel):
                return jnp.sum(jnp.sin(convolve(x, kernel, padding)))

            def slope(x, kernel):  # of the matching methods: a function of a gradient
                return sum(jnp.vdot(part, part) for part in jax.grad(loss, (0, 1))(x, kernel))

            def by_direction(x, kernel):  # of an unrolled student
                return jax.jvp(lambda kernel: loss(x, kernel), (kernel,), (dkernel,))[1]

            each = jax.vmap(jax.grad(lambda x, kernel: loss(x[None], kernel), (0, 1)), (0, None))
            many = jax.vmap(jax.grad(loss, (0, 1)), (None, 0))
            return (
                convolve(x, kernel, padding),
                jax.jvp(lambda *both: convolve(*both, padding), (x, kernel), (dx, dkernel)),
                jax.grad(loss, (0, 1))(x, kernel),
                jax.grad(slope, (0, 1))(x, kernel),
                jax.grad(by_direction, (0, 1))(x, kernel),
                each(x, kernel),
                many(x, jnp.stack([kernel, dkernel])),
            )

        ours, plain = jax.jit(lambda: (results(convolution), results(plain_convolution)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), ours, plain)


def test_the_products_of_a_convolution_are_the_convolution(rng):
    with float64():
        for channels in (1, 3, 5):
            x, kernel = (jnp.asarray(rng.standard_normal(s)) for s in ((2, 7, 6, channels), (3, 3, channels, 4)))
            for way in (product_of_patches, product_of_strips):
                np.testing.assert_allclose(way(x, kernel, "SAME"), plain_convolution(x, kernel, "SAME"), atol=1e-12)


def test_a_plain_model_is_the_same_network(rng):
    """In float32: sums of some hundred products in another order, 1e-7 of the largest each."""
    images = jnp.asarray(rng.standard_normal((3, 8, 8, 3)), jnp.float32)
    fast, plain = (Model(Network("ConvNet-D3", width=5), 3, plain=plain) for plain in (False, True))
    variables = fast.init(jax.random.key(0), (8, 8, 3))

    def results(model):
        return jax.value_and_grad(lambda params: jnp.sum(jnp.cos(model.apply({"params": params}, images).logits)))(
            variables["params"]
        )

    ours, theirs = jax.jit(lambda: (results(fast), results(plain)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
@pytest.mark.slow
def test_a_batch_in_pieces_gives_the_outputs_and_gradients_of_the_whole(norm, monkeypatch, rng):
    net = network("ConvNet-D3", 3, width=4, norm=norm)
    images = jnp.asarray(rng.standard_normal((11, 8, 8, 1)), jnp.float32)
    variables = net.init(jax.random.key(0), (8, 8, 1))

    def loss(params, images):
        outputs = net.apply({**variables, "params": params}, images, train=True)
        return jnp.sum(jnp.cos(outputs.logits)), outputs

    def results():
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], images)

    assert len(net._pieces(images)) == 1
    whole = results()
    monkeypatch.setattr("kip.networks.model.CACHED", 4 * 64 * 4)  # four images of the first layer
    assert [len(piece) for piece in net._pieces(images)] == [4, 4, 3]
    monkeypatch.setattr("kip.networks.model.MOST_PIECES", 2)
    assert [len(piece) for piece in net._pieces(images)] == [6, 5]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), results(), whole)
    if norm == "batch":  # whose statistics are those of all images: in training they are not parted
        jax.tree.map(np.testing.assert_array_equal, results(), whole)


@pytest.mark.slow
def test_frepo_normalises_before_every_convolution_but_the_first(rng):
    """By hand, in float64, in training: images of three channels keep their size, grey ones get two pixels of zeros."""
    with float64():
        for shape, sides in (((8, 8, 3), (8, 4)), ((12, 12, 1), (16, 8))):
            images = rng.normal(size=(4, *shape))
            model = network("FRePo-D3", 5, width=2, w_std=1.0)
            variables = model.init(jax.random.key(0), shape)
            x = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0))) if shape[-1] == 1 else images
            for index in range(3):
                if index:
                    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
                layer = variables["params"][f"Conv_{index}"]
                x = jax.lax.conv_general_dilated(
                    jnp.asarray(x), layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                assert x.shape[-1] == 2 << index
                x = np.maximum(np.asarray(x + layer["bias"]), 0)
                x = x.reshape(4, x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))
                assert index > 1 or x.shape[1] * 2 == sides[index]
            outputs = model.apply(variables, images, train=True)
            np.testing.assert_allclose(outputs.features, x.reshape(4, -1), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_frepo_keeps_a_tenth_of_its_running_statistics(rng):
    images = jnp.asarray(rng.normal(size=(6, 8, 8, 3)), jnp.float32)
    model = network("FRePo-D3", 3, width=4)
    variables = model.init(jax.random.key(0), (8, 8, 3))
    assert set(variables["batch_stats"]) == {"Normalise_0", "Normalise_1"}
    moments = model.moments(variables, images)["Normalise_0"]
    moved = model.apply(variables, images, train=True).variables["batch_stats"]["Normalise_0"]["batch"]
    np.testing.assert_allclose(moved["mean"], 0.9 * moments["mean"], rtol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.1 + 0.9 * moments["var"], rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["FC1", "ConvNet-D3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet10", "WRN-16-2"))]
)
def test_softplus_is_smooth_and_almost_relu(name, rng):
    images = jnp.asarray(rng.standard_normal((3, 8, 8, 1)), jnp.float32)
    relu, smooth = (network(name, 3, width=8, norm="none", activation=each) for each in ("relu", "softplus"))
    variables = relu.init(jax.random.key(0), (8, 8, 1))
    jax.tree.map(np.testing.assert_array_equal, variables, smooth.init(jax.random.key(0), (8, 8, 1)))
    ours, theirs = (net.apply(variables, images).logits for net in (smooth, relu))
    assert 0 < np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


def test_softplus_is_that_of_its_formula():
    x = np.array([-1.0, -0.01, 0.0, 0.02, 1.0])
    ours = network("FC1", 1, activation="softplus")._style.activate(jnp.asarray(x))
    np.testing.assert_allclose(ours, np.log1p(np.exp(60 * x)) / 60, rtol=1e-5)


def test_a_network_with_relu_is_written_as_before_there_was_a_choice():
    smooth = Network("ConvNet-D3", activation="softplus")
    assert "activation" not in config.to_dict(Network("ConvNet-D3"))
    assert smooth.label == "ConvNet-D3 activation=softplus"
    for each in (smooth, Network("ConvNet-D3")):
        assert config.from_json(Network, json.dumps(config.to_dict(each)), source="here") == each
    assert "activation" not in config.to_dict(TrainedNetworks(Network("FC1")))["network"]
    with pytest.raises(ConfigError, match="MobileNetV2"):
        Network("MobileNetV2", activation="softplus")
