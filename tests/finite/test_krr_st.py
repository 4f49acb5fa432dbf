"""KRR-ST and what it is made of: the teacher, its views and loss, the outer loss, the linear probe."""

import dataclasses

import jax
import numpy as np
import pytest

from kip.errors import NonFiniteError
from kip.finite import feature_krr, krr_st, probe, teacher
from kip.finite.krr_st import KRRST
from kip.finite.networks import Model, Network
from kip.finite.pool import Optimizer, Pool
from kip.finite.teacher import Teacher
from kip.krr import Ridge
from kip.precision import float64

SMALL = Network("FC1", width=16)
TEACHER = Teacher(SMALL, embedding=8, steps=30, batch=40, pad=1, flip=False, learning_rate=0.01)


@pytest.fixture
def config():
    return KRRST(
        20, teacher=TEACHER, network=SMALL, pool=Pool(2, max_updates=3, optimizer=Optimizer("sgd", 0.01), loss="mean"),
        steps=20, target_batch=50,
    )  # fmt: skip


def test_barlow_twins_of_equal_views_leaves_the_correlation_of_different_features(rng):
    z = rng.standard_normal((500, 3)).astype(np.float32)
    correlation = np.corrcoef(z.T)
    expected = 0.1 * 2 * sum(correlation[i, j] ** 2 for i in range(3) for j in range(i))
    np.testing.assert_allclose(teacher.barlow_twins(z, z, 0.1), expected, atol=1e-6)


def test_barlow_twins_of_independent_views_is_about_the_number_of_features(rng):
    a, b = (rng.standard_normal((20_000, 3)).astype(np.float32) for _ in range(2))
    np.testing.assert_allclose(teacher.barlow_twins(a, b, 0.1), 3, atol=0.1)


def test_a_view_is_a_shifted_image_of_changed_contrast():
    images = np.arange(2 * 5 * 5, dtype=np.float32).reshape(2, 5, 5, 1)
    plain = Teacher(pad=0, flip=False, jitter=0.0)
    np.testing.assert_array_equal(teacher.view(images, plain, np.random.default_rng(0)), images)
    shifted = teacher.view(images, dataclasses.replace(plain, pad=2), np.random.default_rng(0))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    crops = [padded[:, i : i + 5, j : j + 5] for i in range(5) for j in range(5)]
    for index in range(2):
        assert any(np.array_equal(shifted[index], crop[index]) for crop in crops)
    mirrored = teacher.view(images, dataclasses.replace(plain, flip=True), np.random.default_rng(0))
    for before, after in zip(images, mirrored, strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
    changed = teacher.view(images, dataclasses.replace(plain, jitter=0.4), np.random.default_rng(0))
    slope, offset = np.polyfit(images[0].ravel(), changed[0].ravel(), 1)
    assert 0.6 <= slope <= 1.4
    assert abs(offset) <= 0.4 + 1e-4


def test_the_teacher_is_trained_once_and_then_found(problem, monkeypatch, tmp_path):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path))
    model, first = teacher.train(TEACHER, problem.inputs, seed=0)
    monkeypatch.setattr(teacher, "_step", lambda *_, **__: pytest.fail("trained again"))
    _, again = teacher.train(TEACHER, problem.inputs, seed=0)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert teacher.represent(model, first, problem.inputs[:3]).shape == (3, 16)
    (path,) = tmp_path.glob("teacher-*.npz")
    path.write_bytes(path.read_bytes()[:100])
    monkeypatch.undo()
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path))
    _, repaired = teacher.train(TEACHER, problem.inputs, seed=0)
    np.testing.assert_array_equal(jax.tree.leaves(first)[0], jax.tree.leaves(repaired)[0])


def test_teaching_lowers_its_loss(problem, monkeypatch, tmp_path):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path))
    losses, original = [], teacher._step

    def noting(*arguments, **options):
        result = original(*arguments, **options)
        losses.append(float(result[2]))
        return result

    monkeypatch.setattr(teacher, "_step", noting)
    teacher.train(TEACHER, problem.inputs, seed=0)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_teacher_that_diverges_is_named(problem, monkeypatch, tmp_path):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path))
    diverging = dataclasses.replace(TEACHER, learning_rate=1e30, steps=100)
    with pytest.raises(NonFiniteError, match=r"teacher\.learning_rate"):
        teacher.train(diverging, problem.inputs, seed=0)
    assert not list(tmp_path.glob("*"))


def test_it_starts_from_random_images_and_what_the_teacher_makes_of_them(problem, config):
    state = krr_st.init(config, problem)
    model, variables = teacher.train(TEACHER, problem.inputs, seed=0)
    np.testing.assert_array_equal(state.labels, teacher.represent(model, variables, state.images))
    assert len(np.unique(np.bincount(state.class_index))) > 1, "drawn without a look at the classes"


def test_the_loss_of_a_step_is_the_public_one(problem, config):
    """mean (g(X_t) - K_ts (K_ss + 1e-6 tr(K_ss) I)^-1 Y_s)^2 with a constant feature, written out."""
    state = krr_st.init(config, problem)
    _, metrics = krr_st.step(config, problem, state)
    index = problem.draw("pool", 2, step=0)
    target = problem.target_batch(50, step=0)
    learner = Model(config.network, state.labels.shape[1])
    f_s, f_t = (
        feature_krr.side_by_side(learner, [state.owned["pool"][index].variables], images, bias=True)
        for images in (state.images, target.images)
    )
    k_ss = f_s @ f_s.T
    wanted = teacher.represent(Model(SMALL, 8), state.owned["teacher"], target.images)
    predicted = f_t @ f_s.T @ np.linalg.solve(k_ss + 1e-6 * np.trace(k_ss) * np.eye(20), state.labels)
    np.testing.assert_allclose(metrics["loss"], np.mean((predicted - wanted) ** 2), rtol=1e-4)


def test_the_gradient_of_a_step_is_that_of_finite_differences(problem, config):
    """AdamW's first moment after a step is a tenth of the gradient; the ridge is absolute, or it would not move."""
    with float64():
        config = dataclasses.replace(config, ridge=Ridge(0.1, "absolute"))
        state = krr_st.init(config, problem)
        model = Model(config.network, state.labels.shape[1])
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.owned["pool"][0].variables)
        images, labels = state.images.astype(np.float64), state.labels.astype(np.float64)
        target = problem.target_batch(50, step=0).images.astype(np.float64)
        wanted = np.random.default_rng(0).standard_normal((50, labels.shape[1]))

        def at(images, labels):
            return feature_krr.gradient(
                model, [variables], images, labels, target, wanted, ridge=config.ridge, bias=True
            )

        found, step = at(images, labels), 1e-6
        di, dl = (np.random.default_rng(1).standard_normal(part.shape) for part in (images, labels))
        plus, minus = (at(images + s * di, labels + s * dl).loss for s in (step, -step))
    slope = np.vdot(found.images, di) + np.vdot(found.labels, dl)
    np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-5)


def test_a_probe_of_good_features_classifies_and_of_none_does_not(problem):
    """An untrained network's features of digits suffice for most; one without weights has nothing to say."""
    model = Model(Network("FC1", width=256), 1)
    variables = model.init(jax.random.key(0), (8, 8, 1))
    silent = jax.tree.map(np.zeros_like, variables)
    split = problem.inputs[:800], problem.labels[:800], problem.inputs[800:], problem.labels[800:]
    good, none = (probe.linear_probe(model, v, *split, count=300) for v in (variables, silent))
    assert good > 0.85
    assert none < 0.2
