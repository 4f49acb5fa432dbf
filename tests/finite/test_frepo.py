"""FRePo and what it is made of: KRR on features, the label margin, the pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import krr
from kip.errors import ConfigError
from kip.finite import feature_krr, frepo, pool, regression
from kip.finite.networks import Model, Network
from kip.finite.pool import Optimizer, Pool
from kip.krr import Ridge
from kip.precision import float64

MODEL = Model(Network("ConvNet-D3", width=4, norm="none"), 3)
SHAPE = (8, 8, 1)


def toy(rng, count=7, dtype=np.float32):
    return rng.standard_normal((count, *SHAPE)).astype(dtype), rng.standard_normal((count, 3)).astype(dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", ["trace", "trace_sum", "absolute"])
def test_the_gradient_of_krr_on_features_is_that_of_finite_differences(rng, bias, scale):
    """In float64. `trace_sum` holds the ridge constant, so its loss is taken with the ridge of the centre."""
    with float64():
        variables = MODEL.init(jax.random.key(0), SHAPE)
        (images, labels), (target, target_labels) = toy(rng, dtype=np.float64), toy(rng, 9, np.float64)
        ridge = Ridge(1e-2, scale)

        def at(images, labels, ridge):
            return feature_krr.gradient(
                MODEL, [variables], images, labels, target, target_labels, ridge=ridge, reduction="sum", bias=bias
            )

        found = at(images, labels, ridge)
        if scale == "trace_sum":
            features = feature_krr.side_by_side(MODEL, [variables], images, bias=bias)
            ridge = Ridge(1e-2 * float(np.sum(features**2)), "absolute")
            np.testing.assert_allclose(at(images, labels, ridge).loss, found.loss, rtol=1e-9)
        di, dl, step = rng.standard_normal(images.shape), rng.standard_normal(labels.shape), 1e-6
        plus, minus = (at(images + s * di, labels + s * dl, ridge).loss for s in (step, -step))
        slope = np.vdot(found.images, di) + np.vdot(found.labels, dl)
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


def test_the_margin_loss_stops_at_one_over_c():
    labels = jnp.asarray([[0.9, -0.5, -0.4], [0.2, 0.1, 0.0]])
    np.testing.assert_allclose(frepo.margin_loss(labels), -(1 / 3 + 0.1) / 2, rtol=1e-6)


def test_the_regression_loss_is_half_the_summed_square_of_an_image(rng):
    variables = MODEL.init(jax.random.key(0), SHAPE)
    images, labels = toy(rng)
    predicted = np.asarray(MODEL.apply(variables, images).logits)
    loss, _ = pool.regression_loss(MODEL, variables, images, labels)
    np.testing.assert_allclose(loss, 0.5 * np.sum((predicted - labels) ** 2) / len(images), rtol=1e-5)


def test_the_pool_starts_at_different_ages_and_its_networks_differ(rng):
    images, labels = toy(rng)
    slots = pool.start(Pool(4, max_updates=30), MODEL, images, labels, seed=0)
    ages = [int(slot.updates) for slot in slots]
    assert len(set(ages)) > 1
    assert all(1 <= age <= 30 for age in ages)
    kernels = [slot.variables["params"]["readout"]["kernel"] for slot in slots]
    assert not any(np.allclose(kernels[0], other) for other in kernels[1:])


@pytest.mark.parametrize(
    ("resets", "counts"), [("algorithm", [1, 2, 0, 1, 2, 0]), ("public_krr_st", [1, 2, 2, 2, 2, 2])]
)
def test_a_slot_is_replaced_after_its_updates(rng, resets, counts):
    """The algorithm counts from 0 again; the public code's counter stays, so that every later draw replaces."""
    images, labels = toy(rng)
    settings = Pool(1, max_updates=2, resets=resets)
    slot = pool.start(settings, MODEL, images, labels, seed=0)[0]
    slots = (slot._replace(updates=np.asarray(0), drawn=np.asarray(0)),)
    seen, drawn = [], []
    for _ in counts:
        slots = pool.advance(settings, MODEL, slots, 0, images, labels, seed=0)
        seen.append(int(slots[0].updates))
        drawn.append(int(slots[0].drawn))
    assert seen == counts
    assert drawn == ([0, 0, 1, 1, 1, 2] if resets == "algorithm" else [0, 0, 1, 2, 3, 4])


def test_learning_lowers_the_regression_loss(rng):
    images, labels = toy(rng)
    optimizer = Optimizer("sgd", learning_rate=0.1, momentum=0.9, weight_decay=1e-3)
    losses = []
    for steps in (0, 200):
        variables = regression.train(MODEL, optimizer, images, labels, steps, key=(0, "test", 0))
        losses.append(float(pool.regression_loss(MODEL, variables, images, labels)[0]))
    assert losses[1] < 0.7 * losses[0]


def test_weight_decay_shrinks_what_has_no_gradient(rng):
    images = np.zeros((2, *SHAPE), np.float32)
    variables, state = pool.fresh(MODEL, Optimizer("sgd", 0.1, weight_decay=0.5), SHAPE, key=(0, "test"))
    labels = np.asarray(MODEL.apply(variables, images).logits)
    moved, _ = pool.learn(
        variables, state, images, labels, model=MODEL, optimizer=Optimizer("sgd", 0.1, weight_decay=0.5)
    )
    before, after = (tree["params"]["readout"]["kernel"] for tree in (variables, moved))
    np.testing.assert_allclose(after, 0.95 * before, rtol=1e-5)


def test_momentum_with_adam_is_refused():
    with pytest.raises(ConfigError, match="momentum with adam"):
        Optimizer("adam", momentum=0.9)


def test_the_plain_loss_agrees_for_a_ridge_by_the_sum_of_the_diagonal(rng):
    """`krr.loss` by JAX and `krr.cotangents` by hand, for the ridge that takes no part in derivatives."""
    with float64():
        a = rng.standard_normal((5, 4))
        k_ss, k_ts, y_s, y_t = (
            a @ a.T,
            rng.standard_normal((6, 5)),
            rng.standard_normal((5, 2)),
            rng.standard_normal((6, 2)),
        )
        ridge = Ridge(0.1, "trace_sum")
        bars = krr.cotangents(k_ss, k_ts, y_s, y_t, ridge)
        plain, by_jax = jax.value_and_grad(lambda k: krr.loss(k, k_ts, y_s, y_t, ridge))(jnp.asarray(k_ss))
        plain, by_jax = np.asarray(plain), np.asarray(by_jax)
    np.testing.assert_allclose(bars.loss, plain, rtol=1e-10)
    np.testing.assert_allclose(bars.k_ss, (by_jax + by_jax.T) / 2, rtol=1e-8)
