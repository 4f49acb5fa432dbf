"""The loop: one training against plain gradient descent, many against one, hooks, saving, resuming, divergence."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import NonFiniteError
from kip.networks import network
from kip.storage.images import Held
from kip.training.batches import Batches
from kip.training.ensembles import train_all
from kip.training.loop import Hooks
from kip.training.predict import accuracy
from kip.training.prefetch import AHEAD, gather_batches
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import Labeller, train, train_teacher

SGD = Optimizer("sgd", 0.1, momentum=0.9, schedule="cosine")
MODEL = network("FC1", 3, width=8)


class Drawer:
    """An artefact in memory, whose process dies at a save."""

    def __init__(self, dies_at=None):
        self.kept, self.saves, self.dies_at = None, 0, dies_at

    def load(self, like):
        if self.kept is not None:
            shapes = [np.shape(leaf) for leaf in jax.tree.leaves(like)]
            assert [np.shape(leaf) for leaf in jax.tree.leaves(self.kept)] == shapes
        return self.kept

    def save(self, tree):
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))
        self.kept = jax.tree.map(np.copy, tree)
        self.saves += 1
        if self.saves == self.dies_at:
            raise KeyboardInterrupt


def toy(rng, count=12):
    images = rng.normal(size=(count, 3, 3, 1)).astype(np.float32)
    classes = np.arange(count) % 3
    return images, np.eye(3, dtype=np.float32)[classes] - np.float32(1 / 3), classes


def trained(recipe, support, validation, *, rates=(0.1,), decays=(0.0,), model=MODEL, way=train, **options):
    keys = jax.random.split(jax.random.key(3), len(rates))
    return way(model, recipe, keys, np.float32(rates), np.float32(decays), *support, validation, **options)


def equal(ours, theirs):
    """Whether two pytrees have the same bits."""
    leaves = [jax.tree.leaves(tree) for tree in (ours, theirs)]
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize("loss", ["mse", "xent", "kl"])
@pytest.mark.slow
def test_training_is_plain_momentum_gradient_descent(rng, loss):
    images, labels, classes = toy(rng)
    recipe = Recipe(loss, temperature=2.0, optimizer=SGD, steps=7, evaluations=2, keep="last")
    result = trained(recipe, (images, labels), (images, classes), rates=[0.3], decays=[0.05])
    key = jax.random.split(jax.random.key(3), 1)[0]
    params = MODEL.init(jax.random.fold_in(key, 0), (3, 3, 1))["params"]

    def objective(params):
        penalty = 0.5 * 0.05 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        logits = MODEL.apply({"params": params}, images).logits
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
    for ours, plain in zip(jax.tree.leaves(result.variables[0]["params"]), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=2e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_many_at_once_are_what_each_is_alone(rng, kind):
    images, labels, classes = toy(rng, 30)
    optimizer = Optimizer(kind, momentum=0.9 if kind == "sgd" else 0.0, schedule="cosine")
    recipe = Recipe(optimizer=optimizer, steps=20, batch=7, evaluations=4, augment="shift")
    rates, decays = [0.02, 0.1, 0.5], [0.0, 0.01, 0.0]
    together = trained(recipe, (images, labels), (images, classes), rates=rates, decays=decays)
    keys = jax.random.split(jax.random.key(3), 3)
    for r in range(3):
        rate, decay = np.array([rates[r]], np.float32), np.array([decays[r]], np.float32)
        alone = train(MODEL, recipe, keys[r : r + 1], rate, decay, images, labels, (images, classes))
        np.testing.assert_allclose(together.curve[r], alone.curve[0], atol=0.04)  # one image on a border
        np.testing.assert_allclose(together.loss[r], alone.loss[0], rtol=1e-4)
        for a, b in zip(jax.tree.leaves(together.variables[r]), jax.tree.leaves(alone.variables[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(jax.local_device_count() == 1, reason="tests have one device with this JAX")
@pytest.mark.slow
def test_groups_on_several_devices_give_the_bits_of_each_alone_in_order(rng):
    images, labels, classes = toy(rng, 30)
    recipe = Recipe(optimizer=SGD, steps=6, batch=7, evaluations=1)
    rates, decays = [0.01 * (r + 1) for r in range(3)], [0.0] * 3
    support, validation = (images, labels), (images, classes)
    all_devices = trained(recipe, support, validation, rates=rates, decays=decays, way=train_all, at_once=1)
    keys = jax.random.split(jax.random.key(3), 3)
    for r in range(3):
        alone = train(
            MODEL, recipe, keys[r : r + 1], np.array([rates[r]], np.float32), np.zeros(1), *support, validation
        )
        assert equal(all_devices.variables[r], alone.variables[0])
        assert all_devices.curve[r] == alone.curve[0]


def test_early_stopping_keeps_the_best_on_validation_and_last_keeps_the_last(rng):
    images, labels, _ = toy(rng, 30)
    other, _, classes = toy(np.random.default_rng(1), 30)
    for keep in ("best", "last"):
        recipe = Recipe(optimizer=SGD, steps=40, evaluations=8, keep=keep)
        result = trained(recipe, (images, labels), (other, classes), rates=[0.5])
        assert result.validation_accuracy[0] == (result.curve[0].max() if keep == "best" else result.curve[0, -1])
        again = accuracy(MODEL, result.variables[0], other, classes)
        assert again == pytest.approx(result.validation_accuracy[0])
        assert result.step[0] == 5 * (1 + (result.curve[0].argmax() if keep == "best" else 7))


def test_more_evaluations_than_updates_all_have_a_value(rng):
    images, labels, classes = toy(rng)
    result = trained(Recipe(optimizer=SGD, steps=2, evaluations=5), (images, labels), (images, classes))
    assert (result.curve > 0).all()
    assert (result.loss > 0).all()


@pytest.mark.parametrize(("count", "lengths"), [(11, [4, 4, 3]), (12, [4, 4, 4]), (4, [4]), (3, [3])])
def test_an_epoch_sees_every_image_once(count, lengths):
    batches = Batches(count, 4)
    assert batches.of_epoch == len(lengths)
    epochs = []
    for epoch in range(2):
        steps = [epoch * len(lengths) + position for position in range(len(lengths))]
        assert [batches.length(step) for step in steps] == lengths
        parts = [batches.indices(jax.random.key(0), jnp.asarray(step), batches.length(step)) for step in steps]
        epochs.append(np.concatenate(parts))
        assert sorted(epochs[-1]) == list(range(count))
    assert np.array_equal(*epochs) == (count <= 4), "a set that is not larger than a batch is taken in its order"


def test_draws_are_without_replacement_and_new_each_time():
    batches = Batches(11, 4, "draws")
    seen = [
        np.asarray(batches.indices(jax.random.key(0), jnp.asarray(step), batches.length(step))) for step in range(40)
    ]
    assert all(len(set(indices)) == 4 for indices in seen)
    assert set(np.concatenate(seen)) == set(range(11))
    assert [Batches(3, 4, "draws").length(0), batches.of_epoch] == [3, 2]


def test_a_teacher_labels_the_views(rng):
    images, labels, _ = toy(rng, 30)
    model = network("FC1", 3, width=64)
    weights = jax.tree.map(lambda w: 3 * w, model.init(jax.random.key(9), (3, 3, 1)))
    answers = np.asarray(model.apply(weights, images).logits).argmax(1)
    recipe = Recipe("kl", steps=300, optimizer=Optimizer("adamw", schedule="cosine"), evaluations=1, keep="last")
    wrong = np.roll(labels, 1, axis=1)
    teacher = Labeller(model, weights)
    result = trained(recipe, (images, wrong), (images, answers), rates=[0.02], teacher=teacher)
    assert result.validation_accuracy[0] > 0.9
    assert trained(recipe, (images, wrong), (images, answers), rates=[0.02]).validation_accuracy[0] < 0.7


def test_hooks_see_each_batch_its_losses_and_the_network_after_each_epoch(rng):
    images, labels, classes = toy(rng)
    updates, epochs = {}, {}
    hooks = Hooks(
        lambda step, indices, losses: updates.update({step: (np.asarray(indices), np.asarray(losses))}),
        lambda epoch, variables: epochs.update({epoch: variables}),
    )
    recipe = Recipe(optimizer=SGD, steps=6, batch=4, evaluations=1, keep="last")
    result = trained(recipe, (images, labels), (images, classes), hooks=hooks)
    assert sorted(updates) == list(range(6))
    assert sorted(epochs) == [0, 1, 2]
    indices, losses = updates[3]  # the first update of the second epoch
    squares = (np.asarray(MODEL.apply(epochs[1], images[indices]).logits) - labels[indices]) ** 2
    np.testing.assert_allclose(losses, squares.mean(1) / 2, rtol=1e-5)
    assert sorted(np.concatenate([updates[step][0] for step in range(3)])) == list(range(12))
    assert equal(epochs[2], result.variables[0])
    np.testing.assert_allclose(result.loss[0, 0], np.mean([losses.mean() for _, losses in updates.values()]), rtol=1e-5)


def test_hooks_of_many_networks_have_a_leading_axis(rng):
    images, labels, classes = toy(rng)
    shapes = []
    hooks = Hooks(lambda step, indices, losses: shapes.append((indices.shape, losses.shape)))
    recipe = Recipe(optimizer=SGD, steps=1, batch=4, evaluations=1)
    trained(recipe, (images, labels), (images, classes), rates=[0.1, 0.2], decays=[0, 0], hooks=hooks)
    assert shapes == [((2, 4), (2, 4))]


@pytest.mark.parametrize("rates", [(0.3,), (0.3, 0.1)])
def test_the_average_of_the_variables_is_validated_and_kept_in_their_place(rng, rates):
    images, labels, classes = toy(rng)
    seen = []
    recipe = Recipe(optimizer=SGD, steps=6, average=0.8, evaluations=1, keep="last")
    hooks = Hooks(on_epoch=lambda epoch, variables: seen.append(jax.tree.map(np.asarray, variables)))
    options = {"rates": rates, "decays": [0.0] * len(rates)}
    result = trained(recipe, (images, labels), (images, classes), hooks=hooks, **options)
    expected = seen[0]
    for variables in seen[1:]:
        expected = jax.tree.map(lambda m, v: 0.8 * m + 0.2 * v, expected, variables)
    for place, variables in enumerate(result.variables):
        of_run = expected if len(rates) == 1 else jax.tree.map(lambda leaf, place=place: leaf[place], expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), variables, of_run)
        assert result.validation_accuracy[place] == accuracy(MODEL, variables, images, classes)


@pytest.mark.parametrize(("rates", "average"), [((0.3,), 0.0), ((0.3, 0.1), 0.9)])
def test_a_killed_training_goes_on_with_the_same_bits(rng, rates, average):
    images, labels, _ = toy(rng, 30)
    other, _, classes = toy(np.random.default_rng(1), 30)
    optimizer = Optimizer("sgd", momentum=0.9, schedule="halfway")
    recipe = Recipe(optimizer=optimizer, steps=40, batch=7, evaluations=4, augment="shift", average=average)
    arguments = (recipe, (images, labels), (other, classes))
    options = {"rates": rates, "decays": [0.01] * len(rates)}
    whole = trained(*arguments, **options)
    artefact, steps = Drawer(dies_at=3), []
    with pytest.raises(KeyboardInterrupt):
        trained(*arguments, **options, artefact=artefact, save_every=7)
    hooks = Hooks(lambda step, *_: steps.append(step))
    again = trained(*arguments, **options, artefact=artefact, save_every=7, hooks=hooks)
    assert steps == list(range(21, 40))
    assert equal(again, whole)
    finished = trained(*arguments, **options, artefact=artefact, hooks=Hooks(lambda *_: pytest.fail("trained twice")))
    assert equal(finished, whole)


def test_a_network_that_diverged_is_never_kept(rng):
    images, labels, classes = toy(rng)
    recipe = Recipe(optimizer=SGD, steps=60, evaluations=1)
    artefact = Drawer()
    with pytest.raises(NonFiniteError, match=r"diverged: after \d+ updates"):
        trained(recipe, (images, labels), (images, classes), rates=[1e6], artefact=artefact)
    assert artefact.kept is None or all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(artefact.kept.learning))
    with pytest.raises(NonFiniteError):
        train_teacher(MODEL.network, images, labels, (images, classes), steps=50, rate=1e30, artefact=artefact)


def test_a_search_scores_a_diverged_network_as_one_that_knows_nothing(rng):
    images, labels, classes = toy(rng)
    recipe = Recipe(optimizer=SGD, steps=60, evaluations=1)
    result = trained(recipe, (images, labels), (images, classes), rates=[1e6], may_diverge=True)
    assert result.validation_accuracy[0] == 0


def test_batch_normalisation_moves_its_statistics(rng):
    images, labels, classes = toy(rng)
    model = network("FC1", 3, width=8, norm="batch")
    recipe = Recipe(optimizer=SGD, steps=3, evaluations=1, keep="last")
    result = trained(recipe, (images, labels), (images, classes), model=model)
    moved = jax.tree.leaves(result.variables[0]["batch_stats"])
    fresh = jax.tree.leaves(model.init(jax.random.key(0), (3, 3, 1))["batch_stats"])
    assert not any(np.allclose(a, b) for a, b in zip(moved, fresh, strict=True))


def test_a_progress_bar_goes_to_stderr_when_asked_for(rng, capsys, monkeypatch):
    monkeypatch.setattr("kip.progress.DELAY_SECONDS", 0)
    images, labels, classes = toy(rng)
    recipe = Recipe(optimizer=SGD, steps=3, evaluations=1)
    trained(recipe, (images, labels), (images, classes))
    assert capsys.readouterr() == ("", "")
    trained(recipe, (images, labels), (images, classes), show_progress=True, what="a small network")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a small network" in err


@pytest.mark.parametrize("drawn", ["whole_epochs", "draws"])
@pytest.mark.parametrize(("size", "count"), [(7, 30), (30, 30)])
def test_batches_gathered_on_the_host_are_those_on_the_device(rng, drawn, size, count):
    images, labels, _ = toy(rng, count)
    batches = Batches(count, size, drawn)
    keys = jax.random.split(jax.random.key(1), 2)
    steps = range(3, 11)
    for given in (keys[0], keys):
        for step, batch in zip(
            steps, gather_batches(Held(images), (labels, Held(labels)), batches, given, steps), strict=True
        ):
            one = [batches.indices(key, jnp.asarray(step), batches.length(step)) for key in keys]
            expected = np.stack(one) if given.ndim else np.asarray(one[0])
            np.testing.assert_array_equal(batch.indices, expected)
            np.testing.assert_array_equal(batch.images, images[expected])
            for part in batch.labels:
                np.testing.assert_array_equal(part, labels[expected])


def test_no_more_batches_are_made_ahead_than_were_agreed(rng):
    class Counted(Held):
        taken = 0

        def take(self, indices):
            Counted.taken += 1
            return super().take(indices)

    images, labels, _ = toy(rng, 30)
    updates = gather_batches(Counted(images), labels, Batches(30, 3), jax.random.key(0), range(1000))
    for _ in range(3):
        next(updates)
    updates.close()
    assert Counted.taken <= 3 + AHEAD


@pytest.mark.parametrize(("rates", "drawn"), [([0.1], "draws"), ([0.05, 0.1], "whole_epochs")])
@pytest.mark.slow
def test_a_set_that_is_not_in_memory_trains_the_same_network(rng, rates, drawn):
    """The same batches and draws; the compiled updates differ, so that the last bits may."""
    images, labels, classes = toy(rng, 30)
    recipe = Recipe("xent", optimizer=SGD, steps=14, batch=7, drawn=drawn, augment="flip_shift", evaluations=2)
    seen = {True: {}, False: {}}
    results = []
    for lazy in (False, True):
        hooks = Hooks(lambda step, indices, losses, lazy=lazy: seen[lazy].update({step: np.asarray(indices)}))
        support = (Held(images), Held(labels)) if lazy else (images, labels)
        validation = Held(images) if lazy else images, classes
        decays = [0.0] * len(rates)
        results.append(trained(recipe, support, validation, rates=rates, decays=decays, hooks=hooks))
    plain, ours = results
    for step in range(14):
        np.testing.assert_array_equal(seen[True][step], seen[False][step])
    np.testing.assert_allclose(ours.loss, plain.loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(ours.variables), jax.tree.leaves(plain.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert (ours.curve == plain.curve).mean() > 0.7


def test_a_training_on_a_set_that_is_not_in_memory_goes_on_with_the_same_bits(rng):
    images, labels, _ = toy(rng, 30)
    recipe = Recipe("xent", optimizer=SGD, steps=20, batch=7, augment="shift", evaluations=1, keep="last")
    whole = trained(recipe, (Held(images), labels), None)
    drawer = Drawer(dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, (Held(images), labels), None, artefact=drawer)
    drawer.dies_at = None
    resumed = trained(recipe, (Held(images), labels), None, artefact=drawer)
    assert equal(whole.variables, resumed.variables)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("kip-batches")] == []
