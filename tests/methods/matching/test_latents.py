"""A generator of the user's own: its latents are learned in place of images, and data alone never loads it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.kinds import untyped
from kip import config, preprocess
from kip.errors import ConfigError, ShapeError
from kip.experiment import Experiment
from kip.kernels import permission
from kip.methods.generator import Latents
from kip.methods.matching.datm import DATM
from kip.methods.matching.dc import DC
from kip.methods.matching.dm import DM
from kip.methods.matching.dsa import DSA
from kip.methods.matching.experts import Experts
from kip.methods.matching.mtt import MTT
from kip.networks.model import Network
from kip.runs import loop
from kip.training.protocols import PROTOCOLS

SOURCE = '''
import jax
import jax.numpy as jnp


def images(latents, classes):
    """Return images that a random network draws of a latent and a class, between black and white."""
    weights = 0.5 * jax.random.normal(jax.random.key(3), (latents.shape[1] + 10, 64))
    drawn = jnp.concatenate([latents, jax.nn.one_hot(classes, 10)], axis=1) @ weights
    return jax.nn.sigmoid(drawn).reshape(-1, 8, 8, 1)


def of_another_size(latents, classes):
    return jnp.zeros((len(latents), 4, 4, 1))


number = 3
'''
SMALL = Network("FC1", width=16)
SHORT = dataclasses.replace(PROTOCOLS["DSA"], epochs=2)
QUICK = {"network": SMALL, "protocol": SHORT, "test_networks": 1, "start": "noise"}


@pytest.fixture
def latents(tmp_path, monkeypatch):
    (tmp_path / "my_generator.py").write_text(SOURCE)
    monkeypatch.setattr(permission, "_permitted", set())
    monkeypatch.setattr(permission, "_only_in_data", set())
    return Latents(f"{tmp_path}/my_generator.py:images", (5,))


def methods(latents):
    experts = Experts(1, epochs=2, batch=200, learning_rate=0.1)
    trajectory = {"experts": experts, "expert_epochs": 1, "student_steps": 3, "rate_learning_rate": 1e-4}
    return {
        "DM": DM(1, **QUICK, real_batch=20, learning_rate=5.0, latents=latents),
        "DC": DC(2, **QUICK, real_batch=20, outer_loop=2, inner_loop=1, learning_rate=3.0, latents=latents),
        "DSA": DSA(1, **QUICK, real_batch=20, learning_rate=1.0, latents=latents),
        "MTT": MTT(1, **QUICK, **trajectory, student_rate=0.1, learning_rate=10.0, latents=latents),
    }


@pytest.mark.parametrize("name", ["DM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DC", "DSA", "MTT"))])
def test_the_images_are_the_generators_and_the_loss_falls(name, latents, problem, store):
    method = methods(latents)[name]
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    first, losses = state, []
    for _ in range(40):  # of networks drawn anew, whose losses differ
        state, metrics = method.step(problem, prepared, state)
        losses.append(metrics["loss"])
        made = latents.images(problem, state.latents, state.class_index)
        np.testing.assert_allclose(state.inputs, made, rtol=1e-5, atol=1e-5)
    assert np.mean(losses[-15:]) < np.mean(losses[:15])
    assert not np.allclose(first.latents, state.latents, atol=1e-3)
    assert first.latents.shape == state.latents.shape == (len(state.inputs), 5)
    assert jax.tree.structure(first) == jax.tree.structure(state)
    assert method.natural(first, state) is None


def test_gradients_by_latents_are_those_of_finite_differences(latents, problem):
    drawn, classes = latents.draw(4, seed=0), np.arange(4)
    towards = np.random.default_rng(1).standard_normal((4, 8, 8, 1)).astype(np.float32)
    gradient = latents.pull_back(problem, drawn, classes, towards)
    direction = np.random.default_rng(2).standard_normal(drawn.shape).astype(np.float32)

    def value(z):
        return float(jnp.vdot(latents.images(problem, z, classes), towards))

    slope = (value(drawn + 1e-2 * direction) - value(drawn - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(float(jnp.vdot(gradient, direction)), slope, rtol=1e-2)


def test_a_run_exports_the_images_of_its_latents(latents, tmp_path):
    experiment = Experiment(dataclasses.replace(methods(latents)["DM"], steps=2), checkpoint_every=1)
    result = loop.run(experiment, tmp_path / "run", show_progress=False)
    arrays = np.load(tmp_path / "run" / "distilled.npz")
    assert arrays["images"].min() >= -1e-4
    assert arrays["images"].max() <= 1 + 1e-4
    assert "latents" not in arrays.files
    assert result.steps == 2


def test_a_generator_that_only_data_names_is_not_loaded(latents, problem, store, tmp_path, monkeypatch):
    text = json.dumps(config.to_dict(methods(latents)["DM"]))
    for name in ("_permitted", "_only_in_data"):
        monkeypatch.setattr(permission, name, set())
    named = config.from_json(DM, text, source="a file")
    with pytest.raises(ConfigError, match="the generator is a function of someone's own"):
        named.prepare(problem, store)
    permission.permit(latents.generator)
    named.prepare(problem, store)


def test_generators_that_do_not_fit_are_refused(latents, problem, store):
    file = latents.generator.partition(":")[0]
    with pytest.raises(ShapeError, match="of_another_size"):
        Latents(f"{file}:of_another_size", (5,)).check(problem)
    with pytest.raises(ConfigError, match="expected a function"):
        Latents(f"{file}:number", (5,)).check(problem)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Latents("missing.py:images", (5,)).check(problem)
    with pytest.raises(ConfigError, match=r"file\.py:name"):
        Latents("images", (5,))
    with pytest.raises(ConfigError, match="start with latents"):
        DM(1, start="real", latents=latents)
    with pytest.raises(ConfigError, match="unknown key 'latents'"):
        untyped(DATM)(1, latents=latents)
    whitened = problem._replace(transform=preprocess.fit(preprocess.Preprocess("zca"), problem.pixels))
    with pytest.raises(ConfigError, match="leave each pixel a range"):
        latents.check(whitened)
