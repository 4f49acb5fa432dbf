"""RFAD: its random features approach the NNGP kernel, its gradient is right, and its scale is learned with the set."""

import dataclasses

import jax
import numpy as np
import pytest

from helpers.kinds import untyped
from kip.judges import Question, RandomFeatures, Support, Tools
from kip.judges.random_features import draw, side_by_side
from kip.kernels import Architecture, kernel_function
from kip.krr import Ridge
from kip.methods.features import feature_krr
from kip.methods.features.rfad import RFAD, apply_map, pull_back
from kip.networks.model import Model, Network
from kip.precision import float64

SMALL = RFAD(1, network=Network("FC1", width=32), networks=3, steps=5, learning_rate=0.03, target_batch=100)


@pytest.mark.parametrize(
    ("name", "architecture", "tolerance"),
    [("FC1", ("FC", 1), 0.06), pytest.param("ConvNet", ("ConvNet",), 0.04, marks=pytest.mark.slow)],
)
def test_random_features_approach_the_nngp_kernel(rng, name, architecture, tolerance):
    """With its factor, and with the variance of the readout's bias."""
    images = rng.standard_normal((4, 8, 8, 1)).astype(np.float32)
    exact = np.asarray(kernel_function(Architecture(*architecture, get="nngp"))(images, images))
    errors = []
    for count in (4, 256):
        config = dataclasses.replace(SMALL, network=Network(name, width=64), networks=count)
        drawn = draw(Model(config.network, 10), config.networks, images.shape[1:], 0, "test", 0)
        features = side_by_side(Model(config.network, 10), drawn, images)
        weight, bias = Model(config.network, 10).readout_variances
        kernel = weight / features.shape[1] * (features @ features.T) + bias
        errors.append(np.linalg.norm(kernel - exact) / np.linalg.norm(exact))
    assert errors[1] < tolerance
    assert errors[1] < errors[0] / 2


def test_the_defaults_are_those_of_the_public_code():
    config = RFAD()
    assert Model(config.network, 10).readout_variances == pytest.approx((2, 0.01))
    assert (config.network.width, config.networks, config.target_batch) == (256, 8, 5120)
    assert (config.learning_rate, config.scale_rate, config.map_rate) == (1e-3, 1e-2, 5e-5)
    assert (config.ridge, config.judge.ridge) == (Ridge(5e-3), Ridge(5e-3))


def cross_entropy(predictions, classes, scale):
    logits = np.exp(scale) * predictions
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(classes)), classes])


def test_a_step_is_that_of_a_direct_computation(problem):
    """The loss in NumPy, with K = 2/d F F^T + 0.01 and a ridge relative to its trace, and the first steps of AdaBelief.

    AdaBelief's first step is rate g / (0.9 |g|), the sign of the gradient, which is taken by finite differences here.
    """
    network = Network("FC1", width=6, norm="none", b_std=0.1)
    config = RFAD(1, network=network, networks=2, target_batch=20, steps=3, map_rate=5e-5)
    model, state = Model(network, 10), config.init(problem, None)
    networks = draw(model, 2, state.inputs.shape[1:], problem.seed, "random features", 0)
    layers = [variables["params"]["Dense_0"] for variables in networks]
    target = problem.target_batch(20, step=0)

    def features(images):
        flat = images.reshape(len(images), -1).astype(np.float64)
        return np.concatenate(
            [np.maximum(flat @ np.float64(layer["kernel"]) + np.float64(layer["bias"]), 0) for layer in layers], axis=1
        )

    def loss(base, linear, labels, scale):
        f_s, f_t = features(base.reshape(10, -1) @ linear), features(target.images)
        k_ss, k_ts = 2 / 12 * f_s @ f_s.T + 0.01, 2 / 12 * f_t @ f_s.T + 0.01
        alpha = np.linalg.solve(k_ss + 5e-3 * np.trace(k_ss) / 10 * np.eye(10), labels)
        return cross_entropy(k_ts @ alpha, target.labels.argmax(axis=1), scale)

    at = [np.asarray(part, np.float64) for part in (state.inputs, np.eye(64), state.labels, 0.0)]
    moved, metrics = config.step(problem, None, state)
    assert metrics["loss"] == pytest.approx(loss(*at), rel=1e-5)
    owned = untyped(moved.owned)
    after = [owned["base"], owned["map"], moved.labels, owned["scale"]]
    np.testing.assert_allclose(
        moved.inputs.reshape(10, -1), np.reshape(after[0], (10, -1)) @ np.asarray(after[1]), rtol=1e-4, atol=1e-5
    )
    entries = [(3, 2, 4, 0), (20, 21), (4, 7), ()]  # an entry of the base, of the map, of the labels, and the scale
    for which, (entry, rate) in enumerate(zip(entries, (1e-3, 5e-5, 1e-3, 1e-2), strict=True)):
        slopes = []
        for sign in (1e-4, -1e-4):
            parts = [part.copy() for part in at]
            parts[which][entry] += sign
            slopes.append(loss(*parts))
        assert abs(slopes[0] - slopes[1]) > 1e-9
        change = np.asarray(after[which], np.float64)[entry] - at[which][entry]
        np.testing.assert_allclose(change, -np.sign(slopes[0] - slopes[1]) * rate / 0.9, rtol=5e-3)


@pytest.mark.parametrize("scale", [None, 0.4])
def test_the_gradient_by_several_networks_is_that_of_finite_differences(rng, scale):
    """With the factor and the offset of the NNGP, and through a linear map of the images."""
    with float64():
        model = Model(Network("ConvVec1", width=4, norm="none", b_std=0.1), 3)
        networks = [model.init(jax.random.key(seed), (8, 8, 1)) for seed in range(3)]
        base, target = (rng.standard_normal((count, 8, 8, 1)) for count in (5, 9))
        linear = np.eye(64) + 0.1 * rng.standard_normal((64, 64))
        labels, wanted = (rng.standard_normal((count, 3)) for count in (5, 9))
        weight, bias = model.readout_variances

        def at(base, linear, labels, scale):
            images = apply_map(base, linear)
            return feature_krr.gradient(
                model,
                networks,
                images,
                labels,
                target,
                wanted,
                ridge=Ridge(1e-2),
                bias=bias,
                weight=weight,
                scale=scale,
            )

        loss_and_grads = at(base, linear, labels, scale)
        to_base, to_map = pull_back(base, linear, loss_and_grads.images)
        db, dm, dl = (rng.standard_normal(part.shape) for part in (base, linear, labels))
        ds, step = 0.7, 1e-6
        plus, minus = (
            at(base + s * db, linear + s * dm, labels + s * dl, None if scale is None else scale + s * ds).loss
            for s in (step, -step)
        )
        slope = np.vdot(to_base, db) + np.vdot(to_map, dm) + np.vdot(loss_and_grads.labels, dl)
        slope += ds * loss_and_grads.scale
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


def test_the_judge_is_krr_under_the_nngp_of_its_networks(problem):
    judge = RandomFeatures(Network("FC1", width=6, b_std=0.5), networks=2, test_networks=1, ridge=Ridge(1e-2))
    support = Support(problem.inputs[:12], np.eye(10, dtype=np.float32)[problem.labels[:12]] - 0.1)
    question = Question(problem.inputs[12:200], problem.labels[12:200], "test")
    right = judge.are_right(support, question, Tools(problem.blocks, (problem.inputs, problem.labels), 3))
    networks = draw(Model(judge.network, 10), 2, problem.inputs.shape[1:], 3, "judged on test", 0)
    f_s, f_t = (
        side_by_side(Model(judge.network, 10), networks, part) for part in untyped((support.inputs, question.inputs))
    )
    k_ss, k_ts = 2 / 12 * f_s @ f_s.T + 0.25, 2 / 12 * f_t @ f_s.T + 0.25
    alpha = np.linalg.solve(k_ss + 1e-2 * np.trace(k_ss) / 12 * np.eye(12), support.labels)
    assert judge.network.width == 6
    np.testing.assert_array_equal(right[0], (k_ts @ alpha).argmax(axis=1) == question.classes)
    assert 0.2 < right.mean() < 1


def test_without_biases_the_judge_is_krr_on_the_inner_products_of_features(problem):
    """A ridge relative to the trace makes KRR blind to the factor of the NNGP."""
    judge = RandomFeatures(Network("FC1", width=6), networks=2, test_networks=1, ridge=Ridge(1e-2))
    support = Support(problem.inputs[:12], np.eye(10, dtype=np.float32)[problem.labels[:12]] - 0.1)
    model = Model(dataclasses.replace(judge.network, b_std=0.0), 10)
    networks = draw(model, 2, problem.inputs.shape[1:], 3, "judged on test", 0)
    f_s, f_t = (side_by_side(model, networks, part) for part in (support.inputs, problem.inputs[12:200]))
    k_ss = f_s @ f_s.T
    alpha = np.linalg.solve(k_ss + 1e-2 * np.trace(k_ss) / 12 * np.eye(12), support.labels)
    question = Question(problem.inputs[12:200], problem.labels[12:200], "test")
    right = dataclasses.replace(judge, network=model.network).are_right(
        support, question, Tools(problem.blocks, (problem.inputs, problem.labels), 3)
    )
    np.testing.assert_array_equal(right[0], (f_t @ f_s.T @ alpha).argmax(axis=1) == question.classes)


def test_a_set_is_judged_by_the_network_that_is_asked_for(problem):
    wide = Network("FC1", width=64, b_std=0.1)
    assert SMALL.judge.network == SMALL.network
    assert dataclasses.replace(SMALL, evaluation_network=wide).judge.network == wide


@pytest.mark.parametrize("loss", ["platt", "squared"])
def test_the_scale_is_learned_only_where_the_loss_has_one(problem, loss):
    config = dataclasses.replace(SMALL, loss=loss)
    state = config.init(problem, None)
    for _ in range(2):
        state, _ = config.step(problem, None, state)
    state, metrics = config.step(problem, None, state)
    assert (float(state.owned["scale"]) != 0) == (loss == "platt")
    assert 0 <= untyped(metrics["batch_accuracy"]) <= 1


def test_without_a_map_the_images_themselves_are_learned(problem):
    config = dataclasses.replace(SMALL, map_rate=None)
    state = config.init(problem, None)
    moved, _ = config.step(problem, None, state)
    assert set(moved.owned) == {"scale"}
    change = np.abs(moved.inputs - state.inputs).max()
    np.testing.assert_allclose(change, config.learning_rate / 0.9, rtol=1e-3)


def test_networks_are_fresh_at_each_step_and_the_same_for_the_same(problem):
    state = SMALL.init(problem, None)
    model = Model(SMALL.network, 10)
    first, again, second = (
        draw(model, SMALL.networks, state.inputs.shape[1:], 0, "random features", step) for step in (0, 0, 1)
    )
    weights = [[variables["params"]["Dense_0"]["kernel"] for variables in drawn] for drawn in (first, again, second)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.allclose(weights[0], weights[2])
    assert not np.allclose(weights[0][0], weights[0][1])


def test_learning_beats_natural_images(problem):
    config = dataclasses.replace(SMALL, target_batch=500, steps=150)
    state = config.init(problem, None)
    judge, question = config.judge, Question(problem.inputs, problem.labels, "test")
    tools = Tools(problem.blocks, (problem.inputs, problem.labels), 5)
    before = judge.accuracies(state.support, question, tools).mean()
    for _ in range(config.steps):
        state, _ = config.step(problem, None, state)
    assert judge.accuracies(state.support, question, tools).mean() > before + 0.1


def test_products_on_the_device_are_those_of_all_features_side_by_side_in_float64(rng, monkeypatch):
    monkeypatch.setattr(feature_krr, "ROWS", 4)
    features = [(rng.standard_normal((5, 30)), rng.standard_normal((9, 30))) for _ in range(3)]
    features = [tuple(part.astype(np.float32) for part in pair) for pair in features]
    ours, theirs = (np.concatenate([pair[i] for pair in features], axis=1).astype(np.float64) for i in (0, 1))
    products = sum(np.asarray(feature_krr.gram(jax.numpy.asarray(t), jax.numpy.asarray(s))) for s, t in features)
    np.testing.assert_allclose(products, theirs @ ours.T, rtol=1e-12, atol=1e-12)
    to_ss, to_ts = rng.standard_normal((5, 5)), rng.standard_normal((9, 5))
    parts = [feature_krr.feature_cotangent(to_ss, to_ts, *map(jax.numpy.asarray, pair)) for pair in features]
    direct = (to_ss @ ours + to_ts.T @ theirs).astype(np.float32)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), direct, rtol=2e-7)
