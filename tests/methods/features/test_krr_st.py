"""KRR-ST and what it is made of: the teacher, its views and loss, the outer loss, the linear probe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import NonFiniteError
from kip.judges import probe
from kip.judges.random_features import side_by_side
from kip.krr import Ridge
from kip.methods.features import feature_krr
from kip.methods.features.krr_st import KRRST
from kip.methods.features.pool import Optimizer, Pool
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.storage.artefacts import Store
from kip.training import self_supervised as teacher
from kip.training.loop import Hooks
from kip.training.losses import barlow_twins
from kip.training.self_supervised import Teacher

SMALL = Network("FC1", width=16)
TEACHER = Teacher(SMALL, embedding=8, steps=30, batch=40, pad=1, flip=False, learning_rate=0.01)


@pytest.fixture
def config():
    return KRRST(
        20,
        teacher=TEACHER,
        network=SMALL,
        pool=Pool(2, max_updates=3, optimizer=Optimizer("sgd", 0.01), loss="mean"),
        steps=20,
        target_batch=50,
    )


def test_barlow_twins_of_equal_views_leaves_the_correlation_of_different_features(rng):
    z = rng.standard_normal((500, 3)).astype(np.float32)
    correlation = np.corrcoef(z.T)
    expected = 0.1 * 2 * sum(correlation[i, j] ** 2 for i in range(3) for j in range(i))
    np.testing.assert_allclose(barlow_twins(z, z, 0.1), expected, atol=1e-6)


def test_barlow_twins_of_independent_views_is_about_the_number_of_features(rng):
    a, b = (rng.standard_normal((20_000, 3)).astype(np.float32) for _ in range(2))
    np.testing.assert_allclose(barlow_twins(a, b, 0.1), 3, atol=0.1)


@pytest.mark.slow
def test_a_view_is_a_shifted_image_of_changed_contrast():
    images = jnp.arange(2 * 5 * 5, dtype=jnp.float32).reshape(2, 5, 5, 1)
    plain = Teacher(pad=0, flip=False, jitter=0.0)
    key = jax.random.key(0)
    np.testing.assert_array_equal(teacher.view(key, images, plain), images)
    shifted = teacher.view(key, images, dataclasses.replace(plain, pad=2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    crops = [padded[:, i : i + 5, j : j + 5] for i in range(5) for j in range(5)]
    for index in range(2):
        assert any(np.array_equal(shifted[index], crop[index]) for crop in crops)
    mirrored = teacher.view(key, images, dataclasses.replace(plain, flip=True))
    for before, after in zip(images, mirrored, strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
    changed = teacher.view(key, images, dataclasses.replace(plain, jitter=0.4))
    slope, offset = np.polyfit(images[0].ravel(), changed[0].ravel(), 1)
    assert 0.6 <= slope <= 1.4
    assert abs(offset) <= 0.4 + 1e-4


def test_the_teacher_is_trained_once_and_then_found(problem, store, tmp_path):
    model, first = teacher.train(TEACHER, problem.inputs, seed=0, store=store)
    never = Hooks(lambda *_: pytest.fail("trained again"))
    _, again = teacher.train(TEACHER, problem.inputs, seed=0, store=store, hooks=never)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert teacher.represent(model, first, problem.inputs[:3]).shape == (3, 16)
    (path,) = tmp_path.rglob("teacher-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    _, repaired = teacher.train(TEACHER, problem.inputs, seed=0, store=store)
    np.testing.assert_array_equal(jax.tree.leaves(first)[0], jax.tree.leaves(repaired)[0])


def test_a_teacher_killed_at_half_goes_on_from_there_to_the_same_bits(problem, monkeypatch, store, tmp_path):
    """The second start does less than two thirds of the updates."""
    updates = []

    def counting(step, indices, losses):
        updates.append(step)
        if len(updates) == TEACHER.steps // 2 + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teacher.train(TEACHER, problem.inputs, seed=0, store=store, hooks=Hooks(counting))
    _, resumed = teacher.train(TEACHER, problem.inputs, seed=0, store=store, hooks=Hooks(counting))
    assert len(updates) - (TEACHER.steps // 2 + 3) < 2 / 3 * TEACHER.steps
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "another"))
    _, whole = teacher.train(TEACHER, problem.inputs, seed=0, store=Store(tmp_path / "run", show_progress=False))
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_teaching_lowers_its_loss(problem, store):
    losses = []
    hooks = Hooks(lambda step, indices, of_images: losses.append(float(of_images.mean())))
    teacher.train(TEACHER, problem.inputs, seed=0, store=store, hooks=hooks)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("steps", [7, 100])
def test_a_teacher_that_diverges_is_named_at_every_start_and_never_kept(problem, store, steps):
    diverging = dataclasses.replace(TEACHER, learning_rate=1e30, steps=steps)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"teacher diverged: after \d+ updates"):
            teacher.train(diverging, problem.inputs, seed=0, store=store)


def test_it_starts_from_random_images_and_what_the_teacher_makes_of_them(problem, config, store):
    prepared = config.prepare(problem, store)
    state = config.init(problem, prepared)
    model, variables = teacher.train(TEACHER, problem.inputs, seed=0, store=store)
    np.testing.assert_array_equal(state.labels, teacher.represent(model, variables, state.inputs))
    assert len(np.unique(np.bincount(state.class_index))) > 1, "drawn without a look at the classes"


def test_the_loss_of_a_step_is_the_public_one(problem, config, store):
    """mean (g(X_t) - K_ts (K_ss + 1e-6 tr(K_ss) I)^-1 Y_s)^2 with a constant feature, written out."""
    prepared = config.prepare(problem, store)
    state = config.init(problem, prepared)
    _, metrics = config.step(problem, prepared, state)
    index = problem.draw("pool", 2, step=0)
    target = problem.target_batch(50, step=0, balanced=False)
    learner = Model(config.network, state.labels.shape[1])
    f_s, f_t = (
        np.pad(side_by_side(learner, [state.owned[index].variables], images), ((0, 0), (0, 1)), constant_values=1.0)
        for images in (state.inputs, target.images)
    )
    k_ss = f_s @ f_s.T
    wanted = teacher.represent(Model(SMALL, 8), prepared.teacher, target.images)
    predicted = f_t @ f_s.T @ np.linalg.solve(k_ss + 1e-6 * np.trace(k_ss) * np.eye(20), state.labels)
    np.testing.assert_allclose(metrics["loss"], np.mean((predicted - wanted) ** 2), rtol=1e-4)


@pytest.mark.slow
def test_the_gradient_of_a_step_is_that_of_finite_differences(problem, config, store):
    """AdamW's first moment after a step is a tenth of the gradient; the ridge is absolute, or it would not move."""
    with float64():
        config = dataclasses.replace(config, ridge=Ridge(0.1, "absolute"))
        state = config.init(problem, config.prepare(problem, store))
        model = Model(config.network, state.labels.shape[1])
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.owned[0].variables)
        images, labels = state.inputs.astype(np.float64), state.labels.astype(np.float64)
        target = problem.target_batch(50, step=0).images.astype(np.float64)
        wanted = np.random.default_rng(0).standard_normal((50, labels.shape[1]))

        def at(images, labels):
            return feature_krr.gradient(
                model, [variables], images, labels, target, wanted, ridge=config.ridge, bias=True
            )

        loss_and_grads, step = at(images, labels), 1e-6
        di, dl = (np.random.default_rng(1).standard_normal(part.shape) for part in (images, labels))
        plus, minus = (at(images + s * di, labels + s * dl).loss for s in (step, -step))
    slope = np.vdot(loss_and_grads.images, di) + np.vdot(loss_and_grads.labels, dl)
    np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


@pytest.mark.slow
def test_a_probe_of_good_features_classifies_and_of_none_does_not(problem):
    """An untrained network's features of digits suffice for most; one without weights has nothing to say."""
    model = Model(Network("FC1", width=256), 1)
    variables = model.init(jax.random.key(0), (8, 8, 1))
    silent = jax.tree.map(np.zeros_like, variables)
    split = problem.inputs[:800], problem.labels[:800], problem.inputs[800:], problem.labels[800:]
    good, none = (probe.linear_probe(model, v, *split, count=300) for v in (variables, silent))
    assert good > 0.85
    assert none < 0.2
