"""The decoupled family: the statistics' distance and its gradient, adjusted weights, the choice of crops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import preprocess
from kip.errors import ConfigError, ShapeError
from kip.methods.decoupled import cda, crops, dwa, fadrm, groups, rded, recovery, sre2l
from kip.methods.decoupled.squeeze import squeeze_network
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.rng import key
from kip.training import devices as devices_of
from kip.training.augment import crop_randomly
from kip.training.predict import accuracy, logits
from kip.training.squeeze import Squeeze

NETWORK = Network("ConvVec2", width=4, norm="batch")
MODEL = Model(NETWORK, 10)
SQUEEZE = Squeeze(epochs=3, batch=100, learning_rate=0.05)


@pytest.fixture
def store(shared_store):
    return shared_store


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def variables(seed=0):
    made = MODEL.init(jax.random.key(seed), (6, 6, 1))
    return {**made, "batch_stats": jax.tree.map(lambda leaf: leaf + 0.3, made["batch_stats"])}


def test_the_statistics_are_those_of_the_layers_inputs_written_out():
    with float64():
        made, images = variables(), jnp.asarray(drawn(5, 6, 6, 1))
        params, kept = made["params"], made["batch_stats"]
        x, expected = images, 0.0
        for place in range(2):
            conv = params[f"Conv_{place}"]
            x = (
                jax.lax.conv_general_dilated(
                    x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                + conv["bias"]
            )
            known = kept[f"Normalise_{place}"]["batch"]
            flat = np.asarray(x).reshape(-1, 4)
            mean, var = flat.mean(0), ((flat - flat.mean(0)) ** 2).mean(0)
            distance = 11 * np.linalg.norm(var - known["var"]) + np.linalg.norm(mean - known["mean"])
            expected += (10 if place == 0 else 1) * distance
            scale = params[f"Normalise_{place}"]["batch"]
            x = (x - known["mean"]) / jnp.sqrt(known["var"] + 1e-5) * scale["scale"] + scale["bias"]
            x = jax.nn.relu(x)
        ours = recovery.statistics_distance(MODEL, made, images, variance=11.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_the_gradient_of_recovery_is_that_of_finite_differences():
    with float64():
        made, images, labels = variables(), jnp.asarray(drawn(5, 6, 6, 1)), jnp.eye(10)[jnp.arange(5)]

        @jax.jit
        def loss(images):
            return recovery.recovery_loss(MODEL, made, images, labels, strength=0.5, variance=3.0)[0]

        gradient, direction = jax.grad(loss)(images), jnp.asarray(drawn(5, 6, 6, 1, seed=1))
        slope = (loss(images + 1e-6 * direction) - loss(images - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-6)


def test_images_are_rolled_around_their_borders():
    images = drawn(2, 6, 6, 1).astype(np.float32)
    moved = np.asarray(recovery.roll_images(jax.random.key(3), jnp.asarray(images), 4))
    shifts = [(a, b) for a in range(-4, 5) for b in range(-4, 5) if np.allclose(np.roll(images, (a, b), (1, 2)), moved)]
    assert len(shifts) >= 1
    np.testing.assert_array_equal(recovery.roll_images(jax.random.key(0), jnp.asarray(images), 0), images)


@pytest.mark.slow
def test_a_squeezed_network_knows_the_images_and_is_found_again(problem, store, monkeypatch):
    model, made = squeeze_network(SQUEEZE, NETWORK, problem, store)
    assert accuracy(model, made, problem.inputs, problem.labels) > 0.5
    assert not np.allclose(made["batch_stats"]["Normalise_0"]["batch"]["mean"], 0)
    monkeypatch.setattr(
        "kip.training.loop.compiled_update", lambda *arguments: lambda *state: pytest.fail("it was trained again")
    )
    again = squeeze_network(SQUEEZE, NETWORK, problem, store)[1]
    jax.tree.map(np.testing.assert_array_equal, made, again)


def of(kind, **options):
    return kind(1, network=NETWORK, squeeze=SQUEEZE, evaluation_network=Network("FC1", width=8), **options)


def run(method, problem, store, steps):
    prepared = method.prepare(problem, store)
    state, rows = method.init(problem, prepared), []
    for _ in range(steps):
        state, metrics = method.step(problem, prepared, state)
        rows.append(metrics)
    return state, rows


@pytest.mark.slow
def test_recovered_images_are_taken_for_their_classes_and_stay_images(problem, store):
    method = of(sre2l.SRe2L, iterations=60, roll=0)
    state, rows = run(method, problem, store, 60)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["batch_accuracy"] > 0.9
    black, white = problem.pixel_range()
    assert (state.inputs >= black).all()
    assert (state.inputs <= white).all()


@pytest.mark.slow
def test_groups_are_recovered_one_after_the_other(problem, store):
    method = dataclasses.replace(of(sre2l.SRe2L, iterations=3), images_per_class=2)
    first, _ = run(method, problem, store, 3)
    second, _ = run(method, problem, store, 6)
    start = method.init(problem, method.prepare(problem, store))
    np.testing.assert_array_equal(first.inputs[10:], start.inputs[10:])
    np.testing.assert_array_equal(second.inputs[:10], first.inputs[:10])
    assert not np.array_equal(second.inputs[10:], first.inputs[10:])
    for group in (slice(0, 10), slice(10, 20)):
        assert sorted(start.class_index[group]) == list(range(10))


@pytest.mark.slow
@pytest.mark.skipif(jax.local_device_count() == 1, reason="tests have one device with this JAX")
def test_a_group_spread_over_devices_is_recovered_as_on_one(problem, store, monkeypatch):
    asked = []

    def spread(batch, devices):
        asked.append(devices)
        return devices_of.spread(batch, devices)

    monkeypatch.setattr(groups, "spread", spread)
    method = of(sre2l.SRe2L, iterations=4)
    one, _ = run(method, problem, store, 4)
    many, _ = run(dataclasses.replace(method, spread=True), problem, store, 4)
    assert asked == [1, jax.local_device_count()]
    np.testing.assert_allclose(one.inputs, many.inputs, rtol=2e-4, atol=2e-4)


@pytest.mark.slow
def test_adjusted_weights_raise_the_loss_and_differ_between_groups(problem, store):
    method = dataclasses.replace(of(dwa.DWA, iterations=2, radius=0.5), images_per_class=2)
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    group, classes = np.asarray(state.inputs)[:10], state.class_index[:10]

    def entropy(made):
        outputs = logits(MODEL, made, group)
        return -np.mean(jax.nn.log_softmax(outputs)[np.arange(10), classes])

    assert entropy({**prepared.variables[0], **state.owned}) > entropy(prepared.variables[0]) + 0.05
    leaves = zip(jax.tree.leaves(state.owned["params"]), jax.tree.leaves(prepared.variables[0]["params"]))
    distance = np.sqrt(sum(np.sum((np.asarray(a) - b) ** 2) for a, b in leaves))
    assert distance <= 0.5 + 1e-4
    state, _ = run(method, problem, store, 3)
    first, _ = run(method, problem, store, 2)
    assert not np.allclose(*(jax.tree.leaves(each.owned)[0] for each in (state, first)))


def test_networks_and_preprocessing_without_what_is_needed_are_refused(problem, store):
    with pytest.raises(ConfigError, match="norm=batch"):
        sre2l.SRe2L(network=Network("ConvNet-D3"))
    transform = preprocess.fit(preprocess.Preprocess("zca"), problem.pixels)
    with pytest.raises(ConfigError, match="leave each pixel a range"):
        of(sre2l.SRe2L).prepare(problem._replace(transform=transform), store)
    with pytest.raises(ShapeError, match=r"divisible by 3\. --data\.side 6 brings"):
        of(rded.RDED, crops=crops.Crops(factor=3)).prepare(problem, store)


@pytest.mark.parametrize("factor", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_crops_are_those_that_brute_force_picks(problem, store, factor):
    method = of(rded.RDED, crops=crops.Crops(20, 3, factor))
    prepared = method.prepare(problem, store)
    state, _ = method.step(problem, prepared, method.init(problem, prepared))
    side = 8 // factor
    label = 3
    images = problem.class_batch(label, 20, purpose="pool of crops", step=0)
    best = []
    for place in range(20):
        of_image = []
        for number in range(3):
            drawn_key = jax.random.fold_in(key(0, "crops", label), number)
            crop = np.asarray(crop_randomly(drawn_key, images, side=side))[place]
            pad = (8 - side) // 2
            padded = np.pad(crop, ((pad, 8 - side - pad), (pad, 8 - side - pad), (0, 0)))
            outputs = logits(MODEL, prepared, padded[None])[0]
            of_image.append((float(-jax.nn.log_softmax(outputs)[label]), crop))
        best.append(min(of_image, key=lambda scored: scored[0]))
    best.sort(key=lambda scored: scored[0])
    chosen = [crop for _, crop in best[: factor**2]]
    image = state.inputs[state.class_index == label][0]
    tiles = [image[r : r + side, c : c + side] for r in range(0, 8, side) for c in range(0, 8, side)]
    np.testing.assert_allclose(tiles, chosen, rtol=1e-5, atol=1e-5)


def test_crops_are_those_of_the_curriculum(problem):
    method = of(cda.CDA, iterations=100, milestone=0.5)
    areas = [float(cda.smallest_area(method, jnp.asarray(t))) for t in (0, 25, 50, 99)]
    np.testing.assert_allclose(areas, [1.0, 0.54, 0.08, 0.08], atol=1e-6)
    images = jnp.asarray(problem.inputs[:10])
    still = dataclasses.replace(method, roll=0)
    np.testing.assert_allclose(cda.view(still, key(0, "a"), images, jnp.asarray(0), False), images, atol=1e-5)
    flipped = np.asarray(cda.view(still, key(0, "a"), images, jnp.asarray(0), True))
    as_they_are = [np.allclose(ours, image, atol=1e-5) for ours, image in zip(flipped, images)]
    mirrored = [np.allclose(ours, image[:, ::-1], atol=1e-5) for ours, image in zip(flipped, images)]
    assert all(a or b for a, b in zip(as_they_are, mirrored))
    assert 0 < sum(mirrored) < 10
    assert not np.allclose(cda.view(still, key(0, "a"), images, jnp.asarray(60), False), images, atol=0.1)


def test_recovery_may_start_from_the_crops_that_rded_chooses(problem, store):
    choice = crops.Crops(20, count=2)
    method = dataclasses.replace(of(sre2l.SRe2L, start="patches", crops=choice), images_per_class=2)
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    chosen = dataclasses.replace(of(rded.RDED, crops=crops.Crops(20, 2)), images_per_class=2)
    expected, _ = chosen.step(problem, prepared.variables[0], chosen.init(problem, prepared.variables[0]))
    for label in range(10):
        np.testing.assert_array_equal(
            state.inputs[state.class_index == label], expected.inputs[expected.class_index == label]
        )
    assert method.natural(state, state) is None


def test_a_pool_smaller_than_the_crops_of_a_class_is_refused(problem, store):
    method = of(rded.RDED, crops=crops.Crops(pool=3, factor=2))
    prepared = method.prepare(problem, store)
    with pytest.raises(ConfigError, match="at least 4"):
        method.step(problem, prepared, method.init(problem, prepared))


def staged(**options):
    given = {"crops": crops.Crops(20, count=2), "iterations": 4, "stages": 2, "roll": 0, **options}
    return of(fadrm.FADRM, **given)


def test_stages_bring_back_the_crops_that_a_group_began_with(problem, store, monkeypatch):
    method = staged()
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    np.testing.assert_array_equal(state.inputs, prepared.patches)
    for _ in range(2):
        state, _ = method.step(problem, prepared, state)
    before, begun, original = np.asarray(state.inputs), [], fadrm.descend_within_range

    def descended(pace, problem, optimizer, images, gradient):
        begun.append((np.asarray(images), optimizer))
        return original(pace, problem, optimizer, images, gradient)

    monkeypatch.setattr(fadrm, "descend_within_range", descended)
    after, _ = method.step(problem, prepared, state)
    ((images, (moments, schedule)),) = begun
    np.testing.assert_allclose(images, 0.5 * before + 0.5 * np.asarray(prepared.patches), rtol=1e-6)
    assert int(moments.count) == 0
    assert not np.any(moments.mu["images"])
    assert int(schedule.count) == 2, "the rate's cosine goes on"
    assert int(after.optimizer[0].count) == 1
    assert not np.allclose(after.inputs, before, atol=1e-3)


@pytest.mark.slow
def test_stages_may_have_sides_of_their_own(problem, store):
    network = Network("Myrtle5", width=4, norm="batch")
    method = dataclasses.replace(staged(sides=(4, 8)), network=network)
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    states = [state]
    for _ in range(4):
        state, _ = method.step(problem, prepared, state)
        states.append(state)
    assert states[2].owned is not None
    small = jnp.asarray(states[2].owned["small"])[:, :4, :4]
    assert not np.any(np.asarray(states[2].owned["small"])[:, 4:])
    np.testing.assert_array_equal(states[2].inputs, fadrm.resize(small, 8))
    assert not np.array_equal(states[3].inputs, fadrm.resize(fadrm.resize(jnp.asarray(states[3].inputs), 4), 8)), (
        "of full side"
    )
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[4])
    for a, b in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[4])):
        assert np.shape(a) == np.shape(b)
    other = states[1]._replace(inputs=np.asarray(states[0].inputs))
    np.testing.assert_array_equal(method.inputs(other, slice(0, 10), 4), fadrm.resize(jnp.asarray(other.inputs), 4))


def test_stages_that_do_not_fit_are_refused(problem, store):
    with pytest.raises(ConfigError, match="divisor of iterations"):
        staged(stages=3)
    with pytest.raises(ConfigError, match="one for each of 2"):
        staged(sides=(8,))
    with pytest.raises(ShapeError, match="squares of side 16"):
        staged(sides=(8, 16)).prepare(problem, store)
    with pytest.raises(ConfigError, match="has learned"):
        staged(sides=(4, 8)).prepare(problem, store)
