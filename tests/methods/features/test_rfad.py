"""RFAD: its random features approach the NNGP kernel, its gradient is right, and its scale is learned with the set."""

import dataclasses

import jax
import numpy as np
import pytest

from kip.judges import Question, Tools
from kip.judges.random_features import draw, side_by_side
from kip.kernels import Architecture, kernel_function
from kip.krr import Ridge
from kip.methods.features import feature_krr
from kip.methods.features.rfad import RFAD
from kip.networks.model import Model, Network
from kip.precision import float64

SMALL = RFAD(1, network=Network("FC1", width=32), networks=3, steps=5, learning_rate=0.03, target_batch=100)


@pytest.mark.parametrize(
    ("name", "architecture", "tolerance"), [("FC1", ("FC", 1), 0.04), ("ConvNet", ("ConvNet",), 0.005)]
)
def test_random_features_approach_the_nngp_kernel(rng, name, architecture, tolerance):
    """Up to a factor, to which KRR with a relative ridge is blind, and the variance of the readout's bias, 0.01."""
    images = rng.standard_normal((4, 8, 8, 1)).astype(np.float32)
    exact = np.asarray(kernel_function(Architecture(*architecture, get="nngp"))(images, images)) - 0.01
    errors = []
    for count in (4, 256):
        config = dataclasses.replace(SMALL, network=Network(name, width=64), networks=count)
        drawn = draw(Model(config.network, 10), config.networks, images.shape[1:], 0, "test", 0)
        features = side_by_side(Model(config.network, 10), drawn, images)
        kernel = features @ features.T
        kernel, wanted = kernel / np.trace(kernel), exact / np.trace(exact)
        errors.append(np.linalg.norm(kernel - wanted) / np.linalg.norm(wanted))
    assert errors[1] < tolerance
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("scale", [None, 0.4])
def test_the_gradient_by_several_networks_is_that_of_finite_differences(rng, scale):
    with float64():
        model = Model(Network("ConvNet-D3", width=4, norm="none"), 3)
        networks = [model.init(jax.random.key(seed), (8, 8, 1)) for seed in range(3)]
        images, target = (rng.standard_normal((count, 8, 8, 1)) for count in (5, 9))
        labels, wanted = (rng.standard_normal((count, 3)) for count in (5, 9))

        def at(images, labels, scale):
            return feature_krr.gradient(
                model, networks, images, labels, target, wanted, ridge=Ridge(1e-2), bias=True, scale=scale
            )

        loss_and_grads = at(images, labels, scale)
        di, dl, ds, step = rng.standard_normal(images.shape), rng.standard_normal(labels.shape), 0.7, 1e-6
        plus, minus = (
            at(images + s * di, labels + s * dl, None if scale is None else scale + s * ds).loss for s in (step, -step)
        )
        slope = np.vdot(loss_and_grads.images, di) + np.vdot(loss_and_grads.labels, dl) + ds * loss_and_grads.scale
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("loss", ["platt", "squared"])
def test_the_scale_is_learned_only_where_the_loss_has_one(problem, loss):
    config = dataclasses.replace(SMALL, loss=loss)
    state = config.init(problem, ())
    for _ in range(3):
        state, metrics = config.step(problem, (), state)
    assert (float(state.owned["scale"]) != 0) == (loss == "platt")
    assert 0 <= metrics["batch_accuracy"] <= 1


def test_networks_are_fresh_at_each_step_and_the_same_for_the_same(problem):
    state = SMALL.init(problem, ())
    model = Model(SMALL.network, 10)
    first, again, second = (
        draw(model, SMALL.networks, state.images.shape[1:], 0, "random features", step) for step in (0, 0, 1)
    )
    weights = [[variables["params"]["Dense_0"]["kernel"] for variables in drawn] for drawn in (first, again, second)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.allclose(weights[0], weights[2])
    assert not np.allclose(weights[0][0], weights[0][1])


def test_learning_beats_natural_images(problem):
    config = dataclasses.replace(SMALL, target_batch=500, steps=150)
    state = config.init(problem, ())
    judge, question = config.judge, Question(problem.inputs, problem.labels, "test")
    tools = Tools(problem.blocks, (problem.inputs, problem.labels), 5)
    before = judge.accuracies(state.support, question, tools).mean()
    for _ in range(config.steps):
        state, _ = config.step(problem, (), state)
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
