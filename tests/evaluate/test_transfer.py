"""Transfer to finite networks: choices on validation only, one training against plain gradient descent, baselines."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import cli, data, export, train
from kip.distill import KIP
from kip.errors import ConfigError, ShapeError
from kip.evaluate import runs, training
from kip.evaluate.training import Recipe, Teacher, loss_value
from kip.evaluate.transfer import Transfer, transfer_set
from kip.experiment import Experiment
from kip.finite import Network, network
from kip.kernels.architecture import Architecture

FC = Network("FC1", width=32)
QUICK = Transfer(FC, factors=(1.0, 4.0), l2=(0.0, 0.01), steps=300, evaluations=3, seeds=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run of KIP on digits, with checkpoints."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    kernel = Architecture("FC", 1)
    method = KIP(images_per_class=1, target_batch=500, steps=60, kernels=(kernel,), learn_labels=False)
    train.run(Experiment(method=method, checkpoint_every=20), folder, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def distilled(run):
    return export.load(run / "distilled.npz")


def toy(rng, count=12):
    images = rng.normal(size=(count, 3, 3, 1)).astype(np.float32)
    classes = np.arange(count) % 3
    return images, np.eye(3, dtype=np.float32)[classes] - np.float32(1 / 3), classes


def trained(recipe, support, validation, *, rates=(0.1,), decays=(0.0,), model=None, teacher=None):
    model = model or network("FC1", 3, width=8)
    keys = jax.random.split(jax.random.key(3), len(rates))
    rates, decays = np.float32(rates), np.float32(decays)
    return training.train(model, recipe, keys, rates, decays, *support, validation, teacher=teacher)


@pytest.mark.parametrize("loss", ["mse", "xent", "kl"])
def test_training_is_plain_momentum_gradient_descent(rng, loss):
    images, labels, classes = toy(rng)
    recipe = Recipe(loss, temperature=2.0, steps=7, evaluations=2, keep="last")
    found = trained(recipe, (images, labels), (images, classes), rates=[0.3], decays=[0.05])
    model = network("FC1", 3, width=8)
    params = model.init(jax.random.fold_in(jax.random.split(jax.random.key(3), 1)[0], 0), (3, 3, 1))["params"]

    def objective(params):
        penalty = 0.5 * 0.05 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        logits = model.apply({"params": params}, images).logits
        if loss == "mse":
            return jnp.mean((logits - labels) ** 2) / 2 + penalty
        log_p = logits - jax.scipy.special.logsumexp(logits, axis=1, keepdims=True)
        if loss == "xent":
            return -log_p[np.arange(12), classes].mean() + penalty
        cool = logits / 2 - jax.scipy.special.logsumexp(logits / 2, axis=1, keepdims=True)
        target = jnp.exp(labels / 2) / jnp.exp(labels / 2).sum(1, keepdims=True)
        return (target * (jnp.log(target) - cool)).sum(1).mean() + penalty

    velocity = jax.tree.map(jnp.zeros_like, params)
    for step in range(7):
        gradient = jax.grad(objective)(params)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        rate = 0.3 * 0.5 * (1 + np.cos(np.pi * step / 7))
        params = jax.tree.map(lambda w, v, rate=rate: w - rate * v, params, velocity)
    for ours, plain in zip(jax.tree.leaves(found.variables[0]["params"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=2e-4, atol=1e-5)


def test_many_at_once_are_what_each_is_alone(rng):
    images, labels, classes = toy(rng, 30)
    recipe = Recipe(steps=20, batch=7, evaluations=4, augment="shift")
    rates, decays = [0.02, 0.1, 0.5], [0.0, 0.01, 0.0]
    together = trained(recipe, (images, labels), (images, classes), rates=rates, decays=decays)
    keys = jax.random.split(jax.random.key(3), 3)
    model = network("FC1", 3, width=8)
    for r in range(3):
        one = (np.float32([rates[r]]), np.float32([decays[r]]))
        alone = training.train(model, recipe, keys[r : r + 1], *one, images, labels, (images, classes))
        assert together.step[r] == alone.step[0]
        np.testing.assert_allclose(together.curve[r], alone.curve[0], atol=0.04)  # one image on a border
        for a, b in zip(jax.tree.leaves(together.variables[r]), jax.tree.leaves(alone.variables[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_early_stopping_keeps_the_best_on_validation_and_last_keeps_the_last(rng):
    images, labels, _ = toy(rng, 30)
    other, _, classes = toy(np.random.default_rng(1), 30)
    for keep in ("best", "last"):
        recipe = Recipe(steps=40, evaluations=8, keep=keep)
        found = trained(recipe, (images, labels), (other, classes), rates=[0.5])
        assert found.validation_accuracy[0] == (found.curve[0].max() if keep == "best" else found.curve[0, -1])
        again = training.accuracy(network("FC1", 3, width=8), found.variables[0], other, classes)
        assert again == pytest.approx(found.validation_accuracy[0])
        assert found.step[0] == 5 * (1 + (found.curve[0].argmax() if keep == "best" else 7))


def test_an_epoch_sees_every_image_once():
    seen = np.concatenate([training._batch(jax.random.key(0), jnp.asarray(step), 12, 4) for step in range(6)])
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert not np.array_equal(seen[:12], seen[12:])


def test_a_teacher_labels_the_views(rng):
    images, labels, _ = toy(rng, 30)
    model = network("FC1", 3, width=64)
    weights = jax.tree.map(lambda w: 3 * w, model.init(jax.random.key(9), (3, 3, 1)))
    answers = np.asarray(model.apply(weights, images).logits).argmax(1)
    recipe = Recipe("kl", steps=300, optimizer="adamw", evaluations=1, keep="last")
    wrong = np.roll(labels, 1, axis=1)
    found = trained(recipe, (images, wrong), (images, answers), rates=[0.02], teacher=Teacher(model, weights))
    assert found.validation_accuracy[0] > 0.9
    assert trained(recipe, (images, wrong), (images, answers), rates=[0.02]).validation_accuracy[0] < 0.7


def test_a_diverged_network_counts_no_image_as_right(rng):
    images, labels, classes = toy(rng)
    found = trained(Recipe(steps=60, evaluations=1), (images, labels), (images, classes), rates=[1e6])
    assert found.validation_accuracy[0] == 0


def test_the_loss_of_learned_labels_is_of_their_argmax(rng):
    logits, labels = jnp.asarray(rng.normal(size=(5, 4))), jnp.asarray(rng.normal(size=(5, 4)))
    one_hot = jnp.eye(4)[labels.argmax(1)]
    assert loss_value(Recipe("xent"), logits, labels) == loss_value(Recipe("xent"), logits, one_hot)
    assert loss_value(Recipe("mse"), logits, labels) != loss_value(Recipe("mse"), logits, one_hot)


def test_a_transfer_reports_all_it_did(distilled):
    result = transfer_set(distilled, QUICK)
    assert (result.trained_on, result.images, result.checkpoint) == ("distilled", 10, 60)
    assert len(result.choice.grid) == 4
    best = max(result.choice.grid, key=lambda point: point["validation_accuracy"])
    assert (best["factor"], best["l2"]) == (result.choice.factor, result.choice.l2)
    assert result.choice.learning_rate == result.choice.factor * result.choice.critical_learning_rate
    assert result.test_accuracy == pytest.approx(np.mean(result.test_accuracies))
    assert result.test_spread == pytest.approx(np.std(result.test_accuracies, ddof=1))
    assert len(set(result.test_accuracies)) == 2
    assert result.test_accuracy > 0.4
    assert set(result.stopped) <= {100, 200, 300}
    json.dumps(result.to_dict())


def test_nothing_is_chosen_on_test(distilled, monkeypatch):
    honest = transfer_set(distilled, QUICK)
    load = data.load

    def corrupted(*arguments):
        dataset = load(*arguments)
        noise = np.random.default_rng(0)
        images = noise.integers(0, 256, dataset.test.images.shape).astype(np.uint8)
        return dataset._replace(test=data.Split(images, noise.permutation(dataset.test.labels)))

    monkeypatch.setattr(data, "load", corrupted)
    blind = transfer_set(distilled, QUICK)
    assert blind.choice == honest.choice
    assert (blind.stopped, blind.curve) == (honest.stopped, honest.curve)
    assert blind.validation_accuracy == honest.validation_accuracy
    assert blind.test_accuracy < 0.3 < honest.test_accuracy


def test_the_natural_baseline_draws_anew_for_each_network_and_from_train_only(distilled, monkeypatch):
    seen = []
    plain = training.train
    monkeypatch.setattr(
        "kip.evaluate.transfer.train", lambda *args, **kwargs: seen.append(args[5:7]) or plain(*args, **kwargs)
    )
    result = transfer_set(distilled, dataclasses.replace(QUICK, vectorise=4), baseline="natural")
    assert (result.trained_on, result.images, len(seen)) == ("natural", 10, 3)  # one search of all points, two networks
    assert all(images.shape == distilled.images.shape for images, _ in seen)
    assert not np.array_equal(seen[1][0], seen[2][0])
    for _, labels in seen:
        assert sorted(labels.argmax(1)) == list(range(10))


@pytest.mark.slow
def test_the_full_baseline_takes_the_train_split_and_beats_ten_images(distilled):
    config = Transfer(FC, factors=(2.0,), l2=(0.0,), steps=1000, evaluations=2, seeds=1)
    full = transfer_set(distilled, config, baseline="full")
    assert full.images == len(data.load(distilled.experiment.data).train.labels)
    assert full.test_accuracy > transfer_set(distilled, config).test_accuracy
    assert full.test_spread == 0


def test_the_sets_of_a_runs_checkpoints_are_those_that_it_exported(run, distilled):
    first, last = runs.sets(run, [0, 60])
    assert (first.metadata["step"], last.metadata["step"]) == (0, 60)
    np.testing.assert_array_equal(last.images_preprocessed, distilled.images_preprocessed)
    assert not np.allclose(first.images_preprocessed, last.images_preprocessed)
    np.testing.assert_array_equal(runs.sets(run)[0].images, distilled.images)
    with pytest.raises(ConfigError, match="folder of a run"):
        runs.sets(run / "distilled.npz", [0])


def test_images_too_small_for_the_network_are_refused_before_training(distilled):
    with pytest.raises(ShapeError, match="ResNet10"):
        transfer_set(distilled, Transfer(Network("ResNet10", norm="instance")))


def test_the_command_trains_on_checkpoints_and_baselines(run, tmp_path, capsys):
    options = {"network": "FC1", "width": 8, "steps": 5, "factors": 1, "l2": 0, "seeds": 1, "evaluations": 1}
    words = [word for name, option in options.items() for word in (f"--{name}", str(option))] + ["--loss", "xent"]
    out = tmp_path / "transfer.json"
    arguments = ["transfer", str(run), "--checkpoints", "0", "60", *words, "--baseline", "natural"]
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert [result["trained_on"] for result in found["results"]] == ["distilled", "distilled", "natural"]
    assert {result["loss"] for result in found["results"]} == {"xent"}
    best = max(found["results"][:2], key=lambda result: result["validation_accuracy"])
    assert found["checkpoint"] == best["checkpoint"]
    assert json.loads(out.read_text()) == found
    assert lines[0].startswith("distilled step 0")
