"""RFAD: its random features approach the NNGP kernel, its gradient is right, and its scale is learned with the set."""

import dataclasses

import jax
import numpy as np
import pytest

from kip.finite import feature_krr, rfad
from kip.finite.networks import Model, Network
from kip.finite.rfad import RFAD
from kip.kernels import Architecture, kernel_function
from kip.krr import Ridge
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
        drawn = rfad._drawn(config, Model(config.network, 10), images, 0, "test", 0)
        features = feature_krr.side_by_side(Model(config.network, 10), drawn, images)
        found = features @ features.T
        found, wanted = found / np.trace(found), exact / np.trace(exact)
        errors.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
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

        found = at(images, labels, scale)
        di, dl, ds, step = rng.standard_normal(images.shape), rng.standard_normal(labels.shape), 0.7, 1e-6
        plus, minus = (
            at(images + s * di, labels + s * dl, None if scale is None else scale + s * ds).loss for s in (step, -step)
        )
        slope = np.vdot(found.images, di) + np.vdot(found.labels, dl) + ds * found.scale
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("loss", ["platt", "squared"])
def test_the_scale_is_learned_only_where_the_loss_has_one(problem, loss):
    config = dataclasses.replace(SMALL, loss=loss)
    state = rfad.init(config, problem)
    for _ in range(3):
        state, metrics = rfad.step(config, problem, state)
    assert (float(state.owned["scale"]) != 0) == (loss == "platt")
    assert 0 <= metrics["batch_accuracy"] <= 1


def test_networks_are_fresh_at_each_step_and_the_same_for_the_same(problem):
    state = rfad.init(SMALL, problem)
    model = Model(SMALL.network, 10)
    first, again, second = (rfad._drawn(SMALL, model, state.images, 0, "random features", step) for step in (0, 0, 1))
    weights = [[one["params"]["Dense_0"]["kernel"] for one in drawn] for drawn in (first, again, second)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.allclose(weights[0], weights[2])
    assert not np.allclose(weights[0][0], weights[0][1])


def test_learning_beats_natural_images(problem):
    config = dataclasses.replace(SMALL, target_batch=500, steps=150)
    state = rfad.init(config, problem)
    settings = {"networks": 3, "seed": 5}
    before = rfad.accuracies(config, state, problem.inputs, problem.labels, **settings).mean()
    for _ in range(config.steps):
        state, _ = rfad.step(config, problem, state)
    assert rfad.accuracies(config, state, problem.inputs, problem.labels, **settings).mean() > before + 0.1
