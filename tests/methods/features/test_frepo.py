"""FRePo and what it is made of: KRR on features, the label margin, the pool."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.kinds import untyped
from kip import krr, preprocess
from kip.data import ClassIndex
from kip.errors import ConfigError
from kip.judges import Question, Support, Tools, networks
from kip.judges.random_features import side_by_side
from kip.krr import Ridge
from kip.methods.features import feature_krr, frepo, pool
from kip.methods.features.pool import Optimizer, Pool
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.rng import key
from kip.training.augment import with_mirrors
from kip.training.ensembles import train_on_set
from kip.training.losses import per_example

MODEL = Model(Network("ConvNet-D3", width=4, norm="none"), 3)
SHAPE = (8, 8, 1)


def toy(rng, count=7, dtype: Any = np.float32):
    return rng.standard_normal((count, *SHAPE)).astype(dtype), rng.standard_normal((count, 3)).astype(dtype)


CASES = [
    (scale, bias, mirror)
    for scale in ("trace", "trace_sum", "absolute")
    for bias, mirror in ((False, False), (True, False), (False, True))
]


@pytest.mark.parametrize(
    ("scale", "bias", "mirror"),
    [case if place % 4 == 0 else pytest.param(*case, marks=pytest.mark.slow) for place, case in enumerate(CASES)],
)  # each scale and each form once in the short tests
def test_the_gradient_of_krr_on_features_is_that_of_finite_differences(rng, bias, mirror, scale):
    """In float64. `trace_sum` holds the ridge constant, so its loss is taken with the ridge of the centre."""
    with float64():
        variables = MODEL.init(jax.random.key(0), SHAPE)
        (images, labels), (target, target_labels) = toy(rng, dtype=np.float64), toy(rng, 9, np.float64)
        ridge = Ridge(1e-2, scale)

        def at(images, labels, ridge):
            return feature_krr.gradient(
                MODEL,
                [variables],
                images,
                labels,
                target,
                target_labels,
                ridge=ridge,
                reduction="sum",
                bias=bias,
                mirror=mirror,
            )

        loss_and_grads = at(images, labels, ridge)
        if scale == "trace_sum":
            both = with_mirrors(images, labels)[0] if mirror else images
            features = side_by_side(MODEL, [variables], np.asarray(both))
            ridge = Ridge(1e-2 * float(np.sum(features**2) + bias * len(features)), "absolute")
            np.testing.assert_allclose(at(images, labels, ridge).loss, loss_and_grads.loss, rtol=1e-9)
        di, dl, step = rng.standard_normal(images.shape), rng.standard_normal(labels.shape), 1e-6
        plus, minus = (at(images + s * di, labels + s * dl, ridge).loss for s in (step, -step))
        slope = np.vdot(loss_and_grads.images, di) + np.vdot(loss_and_grads.labels, dl)
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


def of_colours(problem, classes=10):
    """Return the digits as coloured images whose mirror images keep their class."""
    pixels = np.repeat(problem.pixels, 3, axis=-1)
    tinted = problem.inputs * np.array([1.0, 0.5, -0.5], np.float32)
    index = ClassIndex(problem.labels % classes, classes)
    return problem._replace(
        pixels=pixels,
        inputs=tinted,
        mirror_keeps_class=True,
        labels=problem.labels % classes,
        num_classes=classes,
        classes=index,
        transform=preprocess.fit(preprocess.Preprocess("standardize"), pixels),
    )


@pytest.mark.parametrize("mirror", [None, False])
def test_the_loss_is_that_of_a_direct_computation(problem, store, mirror):
    """In NumPy, on ten images and, by default, their mirror images; with five classes, targets are not scaled."""
    problem = of_colours(problem, 5)
    network = Network("FC1", width=6, norm="none")
    config = frepo.FRePo(
        2,
        mirror=mirror,
        network=network,
        evaluation_network=network,
        pool=Pool(1, max_updates=2),
        steps=3,
        target_batch=20,
        ridge=Ridge(1e-2),
    )
    state = config.init(problem, config.prepare(problem, store))
    labels = np.float64(state.labels)
    one_hot = np.eye(5)[state.class_index]
    np.testing.assert_allclose(labels, (one_hot - 1 / 5) / np.sqrt(5 / 10), rtol=1e-6)
    layer = state.owned[0].variables["params"]["Dense_0"]

    def features(images):
        flat = np.asarray(images, np.float64).reshape(len(images), -1)
        return np.maximum(flat @ np.float64(layer["kernel"]) + np.float64(layer["bias"]), 0)

    images, of_images = state.inputs, labels
    if mirror is None:
        images, of_images = np.concatenate([images, images[:, :, ::-1]]), np.concatenate([labels, labels])
    target = problem.target_batch(20, step=0)
    f_s, f_t = features(images), features(target.images)
    k_ss = f_s @ f_s.T
    alpha = np.linalg.solve(k_ss + 1e-2 * np.trace(k_ss) / len(k_ss) * np.eye(len(k_ss)), of_images)
    wanted = np.eye(5)[target.labels.argmax(axis=1)] - 1 / 5
    loss = 0.5 * np.mean(np.sum((wanted - f_t @ f_s.T @ alpha) ** 2, axis=1))
    largest = np.sort(labels, axis=1)
    loss -= np.mean(np.minimum(largest[:, -1] - largest[:, -2], 1 / 5))
    _, metrics = config.step(problem, untyped(None), state)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)


def test_mirror_images_are_seen_where_the_public_code_sees_them(problem):
    coloured = of_colours(problem)
    few, many = frepo.FRePo(50), frepo.FRePo(51)
    assert few._mirrors(coloured)
    assert not many._mirrors(coloured)
    assert not few._mirrors(coloured._replace(mirror_keeps_class=False))
    assert not few._mirrors(problem._replace(mirror_keeps_class=True))  # grey
    assert frepo.FRePo(51, mirror=True)._mirrors(coloured)


def test_mirror_images_of_another_class_are_refused(problem, store):
    with pytest.raises(ConfigError, match="mirror"):
        frepo.FRePo(1, mirror=True).prepare(problem, store)


def test_the_defaults_are_those_of_the_public_code():
    config = frepo.FRePo()
    assert (config.network, config.evaluation_network) == (
        Network("FRePo-D3", w_std=1.0),
        Network("FRePo-D3", norm="none", w_std=1.0),
    )
    assert config.network.batch_normalised
    assert (config.judge.augment, config.judge.average, config.judge.steps) == ("frepo", 0.995, 1000)
    assert (config.learning_rate, config.ridge, config.target_batch) == (3e-4, Ridge(1e-6), 1024)


@pytest.mark.slow
def test_the_average_of_a_network_is_that_of_what_its_updates_led_to(rng):
    """Without the initial values, whose weight in a plain moving average would be 0.6^3."""
    images, labels = toy(rng)
    adam = Optimizer("adam", 0.05)
    keys = jnp.stack([key(0, "test", counter) for counter in range(2)])

    def networks(steps, average=0.0):
        return train_on_set(MODEL, adam, images, labels, steps=steps, loss="half_sum", keys=keys, average=average)

    visited = [networks(steps) for steps in (1, 2, 3)]
    weights = np.array([0.6**2, 0.6, 1.0]) * 0.4 / (1 - 0.6**3)
    np.testing.assert_allclose(weights.sum(), 1)
    for run, averaged in enumerate(networks(3, 0.6)):
        wanted = jax.tree.map(lambda *parts: sum(w * p for w, p in zip(weights, parts)), *(v[run] for v in visited))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), averaged, wanted)


def test_the_judge_augments_without_flips_where_a_mirror_image_has_another_class(problem, monkeypatch):
    seen = []

    def train(*args, augment, average, keys, **options):
        seen.append((augment, average))
        return [MODEL.init(key, SHAPE) for key in keys]

    monkeypatch.setattr(networks, "train_on_set", train)
    judge = networks.TrainedNetworks(MODEL.network, augment="frepo", average=0.9, test_networks=1)
    support = Support(problem.inputs[:3], np.eye(3, dtype=np.float32))
    for keeps in (False, True):
        tools = Tools(problem.blocks, (problem.inputs, problem.labels), 0, keeps)
        judge.are_right(support, Question(problem.inputs[:5], problem.labels[:5], "test"), tools)
    assert seen == [("frepo_no_flip", 0.9), ("frepo", 0.9)]


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


@pytest.mark.slow
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


@pytest.mark.slow
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
