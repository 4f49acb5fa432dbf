"""FRePo and what it is made of: KRR on features, the label margin, the pool."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kip import krr
from kip.errors import ConfigError
from kip.judges.random_features import side_by_side
from kip.krr import Ridge
from kip.methods.features import feature_krr, frepo, pool
from kip.methods.features.pool import Optimizer, Pool
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.rng import key
from kip.training.losses import per_example
from kip.training.several import train_on_set

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

        loss_and_grads = at(images, labels, ridge)
        if scale == "trace_sum":
            features = side_by_side(MODEL, [variables], images, bias=bias)
            ridge = Ridge(1e-2 * float(np.sum(features**2)), "absolute")
            np.testing.assert_allclose(at(images, labels, ridge).loss, loss_and_grads.loss, rtol=1e-9)
        di, dl, step = rng.standard_normal(images.shape), rng.standard_normal(labels.shape), 1e-6
        plus, minus = (at(images + s * di, labels + s * dl, ridge).loss for s in (step, -step))
        slope = np.vdot(loss_and_grads.images, di) + np.vdot(loss_and_grads.labels, dl)
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


def test_the_margin_loss_stops_at_one_over_c():
    labels = jnp.asarray([[0.9, -0.5, -0.4], [0.2, 0.1, 0.0]])
    np.testing.assert_allclose(frepo.margin_loss(labels), -(1 / 3 + 0.1) / 2, rtol=1e-6)


def test_the_pool_starts_at_different_ages_and_its_networks_differ(rng, store):
    images, labels = toy(rng)
    slots = pool.start(Pool(4, max_updates=30), MODEL, images, labels, seed=0, store=store)
    ages = [int(slot.updates) for slot in slots]
    assert len(set(ages)) > 1
    assert all(1 <= age <= 30 for age in ages)
    kernels = [slot.variables["params"]["readout"]["kernel"] for slot in slots]
    assert not any(np.allclose(kernels[0], other) for other in kernels[1:])


@pytest.mark.parametrize(
    ("resets", "counts"), [("algorithm", [1, 2, 0, 1, 2, 0]), ("public_krr_st", [1, 2, 2, 2, 2, 2])]
)
def test_a_slot_is_replaced_after_its_updates(rng, store, resets, counts):
    """The algorithm counts from 0 again; the public code's counter stays, so that every later draw replaces."""
    images, labels = toy(rng)
    settings = Pool(1, max_updates=2, resets=resets)
    slot = pool.start(settings, MODEL, images, labels, seed=0, store=store)[0]
    slots = (slot._replace(updates=np.asarray(0), drawn=np.asarray(0)),)
    seen, drawn = [], []
    for _ in counts:
        slots = pool.advance(settings, MODEL, slots, 0, images, labels, seed=0)
        seen.append(int(slots[0].updates))
        drawn.append(int(slots[0].drawn))
    assert seen == counts
    assert drawn == ([0, 0, 1, 1, 1, 2] if resets == "algorithm" else [0, 0, 1, 2, 3, 4])


@pytest.mark.parametrize("count", [7, 501])
def test_learning_a_set_lowers_its_loss(rng, count):
    """A set of more than 500 images is learned in batches, drawn anew for each update."""
    images, _ = toy(rng, count)
    labels = np.tanh(images.reshape(count, -1)[:, :3]) + 8 * images.mean((1, 2))
    keys = jnp.stack([key(0, "test", counter) for counter in range(2)])
    losses = []
    for steps in (1, 100):
        adam = Optimizer("adam", 0.01)
        networks = train_on_set(MODEL, adam, images, labels, steps=steps, loss="half_sum", keys=keys)
        outputs = [MODEL.apply(variables, images).logits for variables in networks]
        losses.append([float(per_example("half_sum", output, labels).mean()) for output in outputs])
    assert losses[0][0] != losses[0][1]
    assert max(losses[1]) < 0.5 * min(losses[0])


def test_a_network_of_the_pool_learns_as_optax_would_have_it(rng, store):
    images, labels = toy(rng)
    settings = Pool(1, max_updates=50, optimizer=Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.5), loss="mean")
    slots = pool.start(settings, MODEL, images, labels, seed=0, store=store)
    slots = (slots[0]._replace(updates=np.asarray(0)),)
    rule = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9))
    params = slots[0].variables["params"]
    trace = [leaf for leaf in jax.tree.leaves(slots[0].optimizer.inner_state) if leaf.ndim]
    state = rule.init(params)
    structure, leaves = jax.tree.structure(state), jax.tree.leaves(state)
    state = jax.tree.unflatten(structure, trace if len(trace) == len(leaves) else pytest.fail("another state"))
    loss = lambda params: jnp.mean((MODEL.apply({"params": params}, images).logits - labels) ** 2)  # noqa: E731
    updates, _ = rule.update(jax.grad(loss)(params), state, params)
    expected = optax.apply_updates(params, updates)
    moved = pool.advance(settings, MODEL, slots, 0, images, labels, seed=0)[0].variables["params"]
    for ours, plain in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)


def test_a_pool_has_no_end_that_a_schedule_could_fall_to():
    with pytest.raises(ConfigError, match="schedule of a pool"):
        Pool(optimizer=Optimizer(schedule="cosine"))


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
