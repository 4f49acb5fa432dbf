"""G-VBSM and EDC: statistics of layers, their memory, those of the train images, several networks in turn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import ConfigError
from kip.methods.decoupled import edc, gvbsm, statistics
from kip.methods.decoupled.running import Targets, Turn
from kip.networks.model import Model, Network
from kip.precision import float64
from kip.storage.artefacts import Artefact, Store
from kip.training.squeeze import Squeeze

FIRST, SECOND = Network("ConvVec2", width=4, norm="batch"), Network("ConvVec1", width=3, norm="batch")
MODEL = Model(FIRST, 10)
QUICK = {
    "network": FIRST,
    "more_networks": (SECOND,),
    "squeeze": Squeeze(epochs=1, batch=100),
    "evaluation_network": Network("FC1", width=8),
}


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def variables(model=MODEL, seed=0):
    return model.init(jax.random.key(seed), (6, 6, 1))


@pytest.mark.slow
def test_statistics_are_those_of_each_layers_input_written_out():
    images = drawn(5, 6, 6, 1)
    with float64():
        made = variables()
        _, inputs = MODEL.observe(made, jnp.asarray(images))
        ours = statistics.of_batch(inputs)
        assert sorted(ours) == ["Conv_0", "Conv_1", "Normalise_0", "Normalise_1"]
        np.testing.assert_allclose(ours["Conv_0"]["mean"], images.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(ours["Conv_0"]["var"], images.var((0, 1, 2)), rtol=1e-6)
        resized = np.asarray(jax.image.resize(images, (5, 8, 8, 1), "linear"))
        squares = [resized[:, r : r + 4, c : c + 4] for r in (0, 4) for c in (0, 4)]
        np.testing.assert_allclose(ours["Conv_0"]["cell_mean"], [s.mean() for s in squares], rtol=1e-6)
        np.testing.assert_allclose(ours["Conv_0"]["cell_var"], [s.var() for s in squares], rtol=1e-6)
        kept = MODEL.moments(made, jnp.asarray(images))
        for name in ("Normalise_0", "Normalise_1"):
            for part in ("mean", "var"):
                np.testing.assert_allclose(ours[name][part], kept[name][part], rtol=1e-12)


@pytest.mark.parametrize("every", [False, True])
def test_statistics_of_the_train_images_are_those_of_one_large_batch(problem, store, every):
    some = problem._replace(inputs=problem.inputs[:300], labels=problem.labels[:300])
    made = MODEL.init(jax.random.key(0), (8, 8, 1))
    of_classes = statistics.of_train_images(MODEL, made, some, store, every=every)
    ours = statistics.pool_statistics(of_classes, np.bincount(some.labels))
    whole = statistics.of_batch(MODEL.observe(made, some.inputs)[1])
    assert ours.keys() == {name for name in whole if every or name.startswith("Conv")}
    for name, parts in ours.items():
        assert parts.keys() == whole[name].keys()
        for part in parts:
            np.testing.assert_allclose(parts[part], whole[name][part], rtol=1e-4, atol=1e-5)
    threes = some.inputs[some.labels == 3]
    np.testing.assert_allclose(of_classes["Conv_0"]["var"][3], threes.var((1, 2)).mean(0), rtol=1e-5)


class Killed(BaseException):
    """Stands for a kill."""


def test_killed_during_the_pass_it_goes_on_and_the_bits_are_the_same(problem, store, tmp_path, monkeypatch):
    made, saves, rows = MODEL.init(jax.random.key(0), (8, 8, 1)), [], []
    real_save, real_pass = Artefact.save, statistics._of_some
    monkeypatch.setattr(statistics, "rows_at_once", lambda model, images: 64)

    def dying(self, tree):
        real_save(self, tree)
        saves.append(self.path)
        if len(saves) == 2:
            raise Killed

    def counted(variables, images, **options):
        rows.append(len(images))
        return real_pass(variables, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Artefact, "save", dying)
        with pytest.raises(Killed):
            statistics.of_train_images(MODEL, made, problem, store, every=False)
    monkeypatch.setattr(statistics, "_of_some", counted)
    resumed = statistics.of_train_images(MODEL, made, problem, store, every=False)
    assert 0 < sum(rows) < len(problem.inputs)
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "other"))
    whole = statistics.of_train_images(MODEL, made, problem, Store(show_progress=False), every=False)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def batch(seed):
    return {
        "Conv_0": {"mean": jnp.asarray(drawn(3, seed=seed) + 5), "var": jnp.asarray(drawn(3, seed=seed) ** 2)},
        "Normalise_0": {"mean": jnp.asarray(drawn(4, seed=seed) - 5)},
    }


def test_running_statistics_are_right_from_the_first_batch_on():
    memory = statistics.empty(batch(0))
    memory, matched = statistics.remember(memory, batch(0), 0.8, corrected=True, kept={})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), matched, batch(0))
    memory, matched = statistics.remember(memory, batch(1), 0.8, corrected=True, kept={})
    expected = jax.tree.map(lambda a, b: (0.8 * a + b) / 1.8, batch(0), batch(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), matched, expected)


def test_the_public_memory_begins_at_zero_and_is_too_small():
    _, matched = statistics.remember(statistics.empty(batch(0)), batch(0), 0.8, corrected=False, kept={})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.2 * b, rtol=1e-4, atol=1e-6), matched, batch(0))


def test_a_layer_that_is_left_out_keeps_its_memory():
    before, _ = statistics.remember(statistics.empty(batch(0)), batch(0), 0.8, corrected=True, kept={})
    out = {"Conv_0": jnp.array(False)}
    after, _ = statistics.remember(before, batch(1), 0.8, corrected=True, kept=out)
    jax.tree.map(np.testing.assert_array_equal, after["Conv_0"], before["Conv_0"])
    assert after["Normalise_0"]["count"] == 2
    fresh, matched = statistics.remember(statistics.empty(batch(0)), batch(1), 0.8, corrected=True, kept=out)
    assert fresh["Conv_0"]["count"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(matched))


def given(method, share, seed=0):
    made = variables()
    kept = {name: dict(layer["batch"]) for name, layer in made["batch_stats"].items()}
    like = statistics.of_batch(MODEL.observe(made, jnp.zeros((5, 6, 6, 1)))[1])
    wanted = {name: {part: jnp.asarray(drawn(*x.shape, seed=7)) for part, x in like[name].items()} for name in like}
    tables = {
        name: {part: jnp.asarray(drawn(10, *x.shape, seed=8)) for part, x in parts.items()}
        for name, parts in like.items()
    }
    return Turn(made, Targets(wanted | kept, tables if share else {}), statistics.empty(like))


@pytest.mark.parametrize("kind", ["G-VBSM", "EDC"])
@pytest.mark.slow
def test_the_loss_of_the_first_batch_is_that_written_out_and_its_gradient_that_of_differences(kind):
    method, loss_of, share = {
        "G-VBSM": (gvbsm.GVBSM(1, **QUICK, strength=0.5, drop=0.0), gvbsm.loss, 0.0),
        "EDC": (edc.EDC(1, **QUICK, strength=0.5, class_share=0.3), edc.loss, 0.3),
    }[kind]
    classes = jnp.array([0, 1, 2, 3, 3])
    with float64():
        of, images, labels = given(method, share), jnp.asarray(drawn(5, 6, 6, 1)), jax.nn.one_hot(classes, 10)

        @jax.jit
        def loss(images):
            return loss_of(method, MODEL, of, images, labels, jax.random.key(0))[0]

        outputs, inputs = MODEL.observe(of.variables, images)
        expected = float(-jnp.mean(jax.nn.log_softmax(outputs.logits)[jnp.arange(5), classes]))
        for name, parts in statistics.of_batch(inputs).items():
            for part, ours in parts.items():
                away = (1 - share) * np.linalg.norm(np.asarray(ours - of.targets.all[name][part]))
                if share:
                    of_classes = np.asarray(of.targets.classes[name][part])[np.asarray(classes)].mean(0)
                    away += share * np.linalg.norm(np.asarray(ours) - of_classes)
                expected += 0.5 * (10 if name == "Conv_0" else 1) * away
        np.testing.assert_allclose(loss(images), expected, rtol=1e-6)
        gradient, direction = jax.grad(loss)(images), jnp.asarray(drawn(5, 6, 6, 1, seed=1))
        # Away from the first batch what is remembered has the value, and only the batch has a gradient.
        slope = (loss(images + 1e-6 * direction) - loss(images - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-6)


def test_the_divergence_of_eigenvalues_is_that_written_out():
    rows = drawn(2, 3, 12) * 0.4
    expected = 0.0
    for of_class in rows:
        values = np.linalg.eigvalsh(of_class @ of_class.T)
        target, ours = (np.exp(v - v.max()) / np.exp(v - v.max()).sum() for v in (values / 4, values))
        expected += np.sum(target * np.log(target / ours))
    with float64():
        np.testing.assert_allclose(gvbsm.divergence(jnp.asarray(rows)), expected, rtol=1e-6)


@pytest.mark.slow
def test_networks_take_turns_and_each_remembers_what_it_saw(problem, store):
    method = gvbsm.GVBSM(2, **QUICK, together=2, iterations=4)
    prepared = method.prepare(problem, store)
    state = method.init(problem, prepared)
    assert method.steps == 4
    assert [int(memory["Normalise_0"]["count"]) for memory in state.owned] == [0, 0]
    assert sorted(state.class_index) == sorted([*range(10)] * 2)
    assert state.class_index.tolist() == np.repeat(np.arange(10), 2).tolist(), "the images of a class stand together"
    counts = []
    for _ in range(3):
        state, _ = method.step(problem, prepared, state)
        counts.append([int(memory["Normalise_0"]["count"]) for memory in state.owned])
    assert counts == [[1, 0], [1, 1], [2, 1]]
    with pytest.raises(ConfigError, match="together"):
        gvbsm.GVBSM(3, **QUICK, together=2)
    with pytest.raises(ConfigError, match="norm=batch"):
        gvbsm.GVBSM(2, **{**QUICK, "more_networks": (Network("ConvNet-D3"),)})


@pytest.mark.slow
def test_the_options_of_the_memory_change_what_is_learned(problem, store):
    results = []
    for options in ({}, {"running": "public"}, {"momentum": 0.5}, {"drop": 0.0}, {"diversity": 0.0}, {"roll": 0}):
        method = gvbsm.GVBSM(2, **{**QUICK, "more_networks": ()}, together=2, iterations=4)
        method = dataclasses.replace(method, **options)
        prepared = method.prepare(problem, store)
        state = method.init(problem, prepared)
        for _ in range(2):
            state, _ = method.step(problem, prepared, state)
        results.append(np.asarray(state.inputs))
    for other in results[1:]:
        assert not np.array_equal(results[0], other)
