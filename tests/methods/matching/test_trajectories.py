"""Experts: resumable, flat where asked, and what students and labels take from them."""

import dataclasses
import shutil

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.kinds import untyped
from kip.errors import ConfigError, DataError
from kip.methods.matching import experts as module
from kip.methods.matching.datm import DATM
from kip.methods.matching.dc import DC
from kip.methods.matching.experts import Experts, Flat, trajectories
from kip.methods.matching.mtt import MTT
from kip.methods.matching.trajectory_matching import batches_of_step
from kip.networks.model import Model, Network
from kip.training.loop import Hooks
from kip.training.predict import logits
from kip.training.supervised import Supervised
from kip.training.update import Batch

SMALL = Network("FC1", width=8)
MODEL = Model(SMALL, 10)
TWO = Experts(2, epochs=3, batch=300, learning_rate=0.1)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.slow
def test_a_killed_expert_loses_one_epoch_and_has_the_same_bits(problem, store, monkeypatch, tmp_path):
    whole = trajectories(TWO, MODEL, problem, store)
    expected = [jax.tree.map(np.array, whole[expert]) for expert in range(2)]
    shutil.rmtree(store._shared)
    saves, save = [], module.Store.artefact

    def counted(self, *arguments, **options):
        artefact = save(self, *arguments, **options)
        kept = artefact.save

        def dying(tree):
            saves.append(1)
            if len(saves) == 5:  # the second expert's second epoch
                raise Killed
            kept(tree)

        artefact.save = dying
        return artefact

    with monkeypatch.context() as patch:
        patch.setattr(module.Store, "artefact", counted)
        with pytest.raises(Killed):
            trajectories(TWO, MODEL, problem, store)
    updates, fit = [], module.fit

    def counting(rule, *arguments, **options):
        return fit(rule, *arguments, **{**options, "hooks": Hooks(on_update=lambda *seen: updates.append(seen[0]))})

    monkeypatch.setattr(module, "fit", counting)
    again = trajectories(TWO, MODEL, problem, store)
    per_epoch = -(-len(problem.inputs) // TWO.batch)
    assert len(updates) == 2 * per_epoch, "the second expert's second and third epoch, and nothing of the first"
    for expert in range(2):
        jax.tree.map(np.testing.assert_array_equal, again[expert], expected[expert])


@pytest.mark.slow
def test_snapshots_begin_fresh_and_move(problem, store):
    trajectory = trajectories(TWO, MODEL, problem, store)[0]
    for leaf in jax.tree.leaves(trajectory):
        assert len(leaf) == TWO.epochs + 1
    kernels = [leaf for leaf in jax.tree.leaves(trajectory) if leaf.ndim == 3]
    assert all(np.abs(leaf[epoch + 1] - leaf[epoch]).max() > 0 for leaf in kernels for epoch in range(TWO.epochs))


@pytest.mark.slow
def test_trajectories_that_are_gone_are_named(problem, store):
    made = trajectories(TWO, MODEL, problem, store)
    shutil.rmtree(store._shared)
    with pytest.raises(DataError, match="no trajectories at"):
        made[0]


@pytest.mark.slow
def test_the_flat_gradient_is_gsams_written_out(problem):
    objective = Supervised(MODEL, "xent")
    batch = Batch(jnp.asarray(problem.inputs[:20]), jnp.eye(10)[problem.labels[:20]])
    variables, key = MODEL.init(jax.random.key(0), (8, 8, 1)), jax.random.key(1)
    sharpness, balance = 0.05, 0.4
    flat = Flat(objective, sharpness, balance)
    ours = jax.grad(lambda params: flat({"params": params}, batch, key).loss)(variables["params"])

    def gradient(params):
        return jax.grad(lambda params: objective({"params": params}, batch, key).loss)(params)

    flatten = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])  # noqa: E731
    w, g0 = flatten(variables["params"]), flatten(gradient(variables["params"]))
    e = sharpness * w**2 * g0 / np.linalg.norm(np.abs(w) * g0)
    _, unflatten = jax.flatten_util.ravel_pytree(variables["params"])
    g = flatten(gradient(unflatten(jnp.asarray(w + e, jnp.float32))))
    cosine = g0 @ g / np.linalg.norm(g0) / np.linalg.norm(g)
    expected = g - balance * (g0 - cosine * np.linalg.norm(g0) * g / np.linalg.norm(g))
    np.testing.assert_allclose(flatten(ours), expected, rtol=2e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(flat(variables, batch, key).loss, objective(variables, batch, key).loss, rtol=1e-6)


def datm(**options):
    settings = {
        "network": SMALL,
        "experts": TWO,
        "expert_epochs": 1,
        "last_start": 3,
        "student_steps": 3,
        "learning_rate": 10.0,
        "student_rate": 0.1,
        "rate_learning_rate": 1e-4,
        **options,
    }
    return DATM(2, **settings)


@pytest.mark.slow
def test_soft_labels_are_the_mean_of_the_experts_that_are_right(problem, store, monkeypatch):
    method = datm()
    prepared = method.prepare(problem, store)
    both = np.random.default_rng(0).standard_normal((2, 20, 10)).astype(np.float32)
    state = problem.natural_support(2)
    both[0, 0], both[1, 0] = np.eye(10)[state.class_index[0]], -np.eye(10)[state.class_index[0]]  # one is right
    both[:, 1] = -np.eye(10)[state.class_index[1]]  # none is
    answers = iter(both)
    monkeypatch.setattr("kip.methods.matching.datm.logits", lambda *arguments: next(answers))
    labels = method._expert_labels(MODEL, prepared, state.inputs, state.class_index)
    np.testing.assert_allclose(labels[0], both[0, 0])
    np.testing.assert_allclose(labels[1], both[:, 1].mean(0))
    assert np.isfinite(labels).all()


@pytest.mark.slow
def test_learning_starts_from_images_that_an_expert_knows(problem, store):
    method = datm(experts=dataclasses.replace(TWO, batch=50, learning_rate=0.3))
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    last = jax.tree.map(lambda leaf: leaf[-1], prepared[0])
    assert (logits(MODEL, {"params": last}, np.asarray(state.inputs)).argmax(1) == state.class_index).all()
    assert np.bincount(state.class_index).tolist() == [2] * 10


@pytest.mark.slow
def test_the_window_grows_and_high_losses_change_nothing(problem, store):
    method = datm(start_before=1, window_steps=10)
    assert [method.end_of_window(step) for step in (0, 5, 10, 99)] == [1, 2, 3, 3]
    method = datm(threshold=1e-9)
    prepared = method.prepare(problem, store)
    before = method.init(problem, prepared)
    after, metrics = method.step(problem, prepared, before)
    assert untyped(metrics["loss"]) > 1e-9
    np.testing.assert_array_equal(after.inputs, before.inputs)
    assert after.step == 1


@pytest.mark.slow
def test_hard_labels_of_datm_are_the_classes(problem, store):
    method = datm(learn_labels=False)
    prepared = method.prepare(problem, store)
    state, _ = method.step(problem, prepared, method.init(problem, prepared))
    np.testing.assert_array_equal(np.asarray(state.labels).argmax(1), state.class_index)
    assert method.judge.protocol.loss == "xent"
    assert method.labels_are == "classes"


def test_batch_normalisation_and_impossible_windows_are_refused(problem, store):
    with pytest.raises(ConfigError, match="batch normalisation"):
        DC(network=Network("ConvNet-D3", norm="batch")).prepare(problem, store)
    with pytest.raises(ConfigError, match="first_start < last_start"):
        MTT(experts=TWO, expert_epochs=3, last_start=2)
    with pytest.raises(ConfigError, match="balance without sharpness"):
        dataclasses.replace(TWO, balance=0.3)


def test_every_image_is_in_one_batch_of_an_order(problem, store):
    method = MTT(2, network=SMALL, experts=TWO, expert_epochs=1)
    state = method.init(problem, method.prepare(problem, store))
    draws = batches_of_step(problem, state, 5, 8)
    assert len(draws) == 8
    for first in (0, 4):
        seen = np.concatenate([draw.indices for draw in draws[first : first + 4]])
        assert sorted(seen) == list(range(20))
    draws = batches_of_step(problem, state, 6, 8)
    assert [len(draw.indices) for draw in draws] == [2, 6, 6, 6] * 2, "what is left is no image's loss"
    assert sorted(np.concatenate([draw.indices for draw in draws[:4]])) == list(range(20))
