"""The gradients of matching methods against finite differences in float64, and their fast forms against plain ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.methods.matching import classes, distances, trajectory_matching
from kip.methods.matching.dm import FeatureDistance
from kip.methods.matching.gradient_matching import ClassDistance
from kip.methods.unrolled import dd
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.training import microbatches as parts
from kip.training.augment import Augmentation, augment_alike
from kip.training.unrolled import Draw, LearnedSet, Student, pull_back_path, slope_and_gradients, unroll

SHAPE, CLASSES = (6, 6, 1), 3
MODEL = Model(Network("ConvVec1", width=4, norm="instance"), CLASSES)
"""Of one convolution, since compiling takes most of the time of these tests."""
DENSE = Model(Network("FC1", width=4), CLASSES)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def params(model=MODEL, seed=0, shape=SHAPE):
    return model.init(jax.random.key(seed), shape)["params"]


def differences(function, at, count=3, step=3e-7):
    """Return central differences of a function of one array in some random directions, and these directions."""
    directions = [drawn(*at.shape, seed=100 + number) for number in range(count)]
    return [
        (float(function(at + step * d)) - float(function(at - step * d))) / (2 * step) for d in directions
    ], directions


def check(function, at, gradient, rtol=1e-5):
    numeric, directions = differences(function, at)
    scale = max(abs(value) for value in numeric)
    assert scale > 0
    analytic = [float(jnp.vdot(gradient, direction)) for direction in directions]
    np.testing.assert_allclose(analytic, numeric, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("augmentation", ["none", pytest.param("dsa", marks=pytest.mark.slow)])
def test_gradient_matching_is_that_of_finite_differences(augmentation):
    with float64():
        real, learned, theta = drawn(6, *SHAPE), drawn(2, *SHAPE, seed=1), params()
        match = jax.jit(ClassDistance(MODEL, augmentation).__call__)
        for seed in range(1 if augmentation == "none" else 3):  # of the operation
            key = jax.random.key(seed)
            distance, gradient = match(theta, real, learned, 1, key)
            assert distance > 0
            check(lambda images, key=key: match(theta, real, images, 1, key)[0], learned, gradient)


@pytest.mark.parametrize("strategy", [None, "dsa"])
@pytest.mark.slow
def test_distribution_matching_is_that_of_finite_differences(strategy):
    with float64():
        real, learned, theta = drawn(6, *SHAPE), drawn(2, *SHAPE, seed=1), params()
        match, key = jax.jit(FeatureDistance(MODEL, strategy).__call__), jax.random.key(2)
        _, gradient = match(theta, real, learned, key)
        check(lambda images: match(theta, real, images, key)[0], learned, gradient)


def test_the_distance_is_the_published_one_written_out():
    a, b = ({"conv": drawn(3, 3, 2, 5, seed=s), "bias": drawn(5, seed=s), "dense": drawn(7, 4, seed=s)} for s in (0, 1))
    expected = 0.0
    for name, rows in (("conv", 5), ("dense", 4)):
        for row in range(rows):
            x, y = np.ravel(a[name][..., row]), np.ravel(b[name][..., row])
            expected += 1 - x @ y / (np.linalg.norm(x) * np.linalg.norm(y) + 1e-6)
    np.testing.assert_allclose(distances.rows(a, b), expected, rtol=1e-6)


def test_a_row_of_zeros_has_a_distance_and_a_gradient():
    a, b = drawn(4, 3), jnp.zeros((4, 3))
    value, gradient = jax.value_and_grad(distances.rows, 1)(a, b)
    assert value == 3
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("augmentation", ["none", pytest.param("dsa", marks=pytest.mark.slow)])
def test_gradients_in_parts_are_those_of_the_whole(augmentation, monkeypatch):
    monkeypatch.setattr(parts, "rows_at_once", lambda model, images: 4)
    real, learned, theta, key = drawn(10, *SHAPE), drawn(2, *SHAPE, seed=1), params(DENSE), jax.random.key(0)
    match = ClassDistance(DENSE, augmentation)
    for ours, plain in zip(
        match.in_parts(theta, real, learned, 1, key), jax.jit(match.__call__)(theta, real, learned, 1, key), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())
    features = FeatureDistance(DENSE, None if augmentation == "none" else augmentation)
    for ours, plain in zip(
        features.in_parts(theta, real, learned, key), jax.jit(features.__call__)(theta, real, learned, key), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())


def test_reverse_over_forward_is_reverse_over_reverse():
    with float64():
        theta, direction, images = params(), params(seed=1), drawn(4, *SHAPE)
        student, labels = Student(MODEL, "soft_xent"), jnp.eye(CLASSES)[jnp.array([0, 1, 2, 0])]

        def loss(theta, images):
            return student(theta, images, labels, jax.random.key(0))

        def product(theta, images):
            gradient = jax.grad(loss)(theta, images)
            return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(direction), jax.tree.leaves(gradient)))

        ours = jax.jit(lambda theta, images: slope_and_gradients(loss, theta, images, direction))(theta, images)
        plain = jax.jit(jax.value_and_grad(product, (0, 1)))(theta, images)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_both_sides_of_a_siamese_augmentation_are_alike():
    images = drawn(1, *SHAPE)
    augment = jax.jit(augment_alike, static_argnums=0)
    for seed in range(12):
        real, learned = (augment("dsa", jax.random.key(seed), each) for each in (jnp.repeat(images, 5, 0), images))
        for image in real:
            np.testing.assert_allclose(image, learned[0], rtol=1e-6)


def setting(steps=4, labels="classes", augment: Augmentation = "none"):
    """A student, what it learns, what it sees, where it begins and where it should go."""
    student = Student(MODEL, "soft_xent" if labels == "classes" else "kl", augment)
    one_hot = jnp.eye(CLASSES)[jnp.arange(6) % CLASSES]
    learned = LearnedSet(drawn(6, *SHAPE), one_hot if labels == "classes" else drawn(6, CLASSES), jnp.array([0.05]))
    draws = [Draw(np.roll(np.arange(6), step)[:4], jax.random.key(step)) for step in range(steps)]
    return student, learned, draws, params(), params(seed=1)


@pytest.mark.parametrize(
    ("labels", "augment"), [("classes", "none"), pytest.param("logits", "dsa", marks=pytest.mark.slow)]
)
def test_trajectory_matching_is_that_of_finite_differences(labels, augment):
    with float64():
        student, learned, draws, begins, wanted = setting(labels=labels, augment=augment)
        loss, gradient = trajectory_matching.match_trajectory(student, learned, draws, begins, wanted, exact=True)
        assert loss > 0
        for name in LearnedSet._fields:

            def value(part, name=name):
                changed = learned._replace(**{name: part})
                return trajectory_matching.match_trajectory(student, changed, draws, begins, wanted, exact=True)[0]

            check(value, getattr(learned, name), getattr(gradient, name))


def test_the_unrolled_gradient_is_that_of_a_scan():
    with float64():
        student, learned, draws, begins, wanted = setting(steps=5)
        indices = jnp.stack([draw.indices for draw in draws])

        def loss(learned):
            @jax.checkpoint
            def step(theta, rows):
                gradient = jax.grad(student)(theta, learned.images[rows], learned.labels[rows], jax.random.key(0))
                return jax.tree.map(lambda p, g: p - learned.rates[0] * g, theta, gradient), None

            end = jax.lax.scan(step, begins, indices)[0]
            return trajectory_matching._distance(end, begins, wanted)[0]

        plain_loss, plain = jax.jit(jax.value_and_grad(loss))(learned)
        ours_loss, ours = trajectory_matching.match_trajectory(student, learned, draws, begins, wanted, exact=True)
        np.testing.assert_allclose(ours_loss, plain_loss, rtol=1e-10)
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-12)


@pytest.mark.slow
def test_the_truncated_gradient_is_teslas_and_exact_for_the_last_step_alone():
    """TESLA's formula, written out; then how far it is from the exact gradient, image by image."""
    with float64():
        student, learned, draws, begins, wanted = setting()
        draws = [draw._replace(indices=np.array([step])) for step, draw in enumerate(draws)]  # an image a step
        exact, truncated = (
            trajectory_matching.match_trajectory(student, learned, draws, begins, wanted, exact=which)[1]
            for which in (True, False)
        )
        path, rate = unroll(student, begins, learned, draws), learned.rates[0]
        squares = sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(begins), jax.tree.leaves(wanted)))
        gradient_of = jax.jit(jax.grad(student))
        gradients = [
            gradient_of(theta, learned.images[draw.indices], learned.labels[draw.indices], draw.key)
            for theta, draw in zip(path, draws)
        ]
        total = jax.tree.map(lambda *parts: sum(parts), *gradients)
        weight = jax.tree.map(lambda a, b, g: rate * (a - b) + rate**2 * g, wanted, begins, total)
        for step, (theta, draw) in enumerate(zip(path, draws)):

            def term(image, theta=theta, draw=draw):
                gradient = jax.grad(student)(theta, image[None], learned.labels[draw.indices], draw.key)
                return (
                    2
                    / squares
                    * sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(weight), jax.tree.leaves(gradient)))
                )

            expected = jax.jit(jax.grad(term))(learned.images[step])
            np.testing.assert_allclose(truncated.images[step], expected, rtol=1e-7, atol=1e-14)
        errors = [
            float(jnp.linalg.norm(exact.images[step] - truncated.images[step]) / jnp.linalg.norm(exact.images[step]))
            for step in range(len(draws))
        ]
    print("relative errors of the truncated gradient, by step:", errors)
    assert errors[-1] < 1e-10
    assert min(errors[:-1]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("network", ["ConvVec1", "LeNet"])
def test_the_original_distillation_is_that_of_finite_differences(network):
    with float64():
        model = Model(Network(network), CLASSES)
        student, theta = Student(model, "soft_xent"), params(model)
        learned = LearnedSet(drawn(6, *SHAPE), jnp.eye(CLASSES)[jnp.arange(6) % 3] + 0.1, jnp.full(4, -2.0))
        target, classes = np.asarray(drawn(9, *SHAPE, seed=5)), np.arange(9) % CLASSES

        def whole(learned):
            return dd.gradient_through_training(student, theta, learned, 2, target, classes)

        _, _, gradient = whole(learned)
        for name in LearnedSet._fields:

            def value(part, name=name):
                return whole(learned._replace(**{name: part}))[0]

            check(value, getattr(learned, name), getattr(gradient, name), rtol=1e-4)


@pytest.mark.slow
def test_a_gradient_without_cotangent_is_zero():
    student, learned, draws, begins, _ = setting()
    nothing = jax.tree.map(jnp.zeros_like, begins)
    gradient = pull_back_path(student, unroll(student, begins, learned, draws), learned, draws, nothing)
    assert all(not np.any(part) for part in gradient)


def test_matching_objects_are_known_by_their_values():
    assert hash(ClassDistance(MODEL, "dsa")) == hash(ClassDistance(MODEL, "dsa"))
    assert ClassDistance(MODEL, "dsa") != ClassDistance(MODEL, "none")
    assert dataclasses.replace(FeatureDistance(MODEL, None), strategy="dsa") == FeatureDistance(MODEL, "dsa")


@pytest.mark.slow
def test_classes_at_once_are_classes_in_turn(monkeypatch):
    """What an accelerator does, on the CPU of the tests."""
    theta, keys = params(), list(jax.random.split(jax.random.key(0), CLASSES))
    real = [np.asarray(drawn(5, *SHAPE, seed=label), np.float32) for label in range(CLASSES)]
    learned = [np.asarray(drawn(2, *SHAPE, seed=10 + label), np.float32) for label in range(CLASSES)]
    match = FeatureDistance(MODEL, "dsa")
    in_turn = classes.over_classes(match, match.in_parts, [theta], [real, learned, keys])
    monkeypatch.setattr(classes.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(classes, "AT_ONCE", 2)
    at_once = classes.over_classes(match, match.in_parts, [theta], [real, learned, keys])
    for a, b in zip(in_turn, at_once, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_gradients_find_their_images_again():
    class_index = np.array([2, 0, 1, 0, 2, 1])
    where = classes.places(class_index, 3)
    np.testing.assert_array_equal(class_index[where], [[0, 0], [1, 1], [2, 2]])
    values = np.arange(6.0)
    np.testing.assert_array_equal(classes.by_image(jnp.asarray(values[where]), where), values)
