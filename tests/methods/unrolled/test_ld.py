"""Label distillation: its gradients, the constraint on labels, restarts, other base examples, the baselines."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import data
from kip.data import Split
from kip.errors import ConfigError, DataError, NonFiniteError, ShapeError
from kip.judges import Question, Tools
from kip.krr import Ridge
from kip.methods.unrolled import ld as method
from kip.methods.unrolled import restarts
from kip.methods.unrolled.label_baseline import LabelBaseline
from kip.methods.unrolled.ld import LD
from kip.networks.model import Network
from kip.precision import float64
from kip.runs import loop as train
from kip.training import learner
from kip.training.learner import Training

SMALL = Network("FC1", width=16)
HEADS = ("dense", "ridge")


def config(head: Literal["dense", "ridge"] = "dense", **options: Any):
    settings: dict[str, Any] = {
        "images_per_class": 2,
        "steps": 50,
        "learning_rate": 0.02,
        "target_batch": 60,
        **options,
    }
    training = Training(head=head, network=SMALL, learning_rate=0.01, batch=8, ridge=Ridge(1.0, "absolute"), rate=0.1)
    return LD(training=training, **settings)


def run(settings, problem, steps):
    state = settings.init(problem, None)
    rows = []
    for _ in range(steps):
        state, metrics = settings.step(problem, None, state)
        rows.append(metrics)
    return state, rows


def test_the_label_gradient_of_one_sigmoid_layer_is_the_closed_form():
    """lr (sigma(theta'^T x) - y) x^T x~: the paper's section B."""
    rng = np.random.default_rng(0)
    with float64():
        for _ in range(5):
            theta: Any
            theta, x, base = (jnp.asarray(rng.standard_normal(7)) for _ in range(3))
            y, soft, rate = float(rng.integers(2)), jnp.asarray(rng.random()), 0.3

            def entropy(logit, label):
                return -label * jax.nn.log_sigmoid(logit) - (1 - label) * jax.nn.log_sigmoid(-logit)

            def outer(weights, x=x, y=y):
                return entropy(weights @ x, y), weights @ x

            def inner(weights, label, base=base):
                return entropy(weights @ base, label)

            _, gradient = method.through_update(inner, outer, theta, soft, rate)
            moved = theta - rate * (jax.nn.sigmoid(theta @ base) - soft) * base
            closed = rate * (jax.nn.sigmoid(moved @ x) - y) * (x @ base)
            np.testing.assert_allclose(gradient, closed, rtol=1e-6, atol=0)
            np.testing.assert_allclose(gradient, closed, rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("head", "learn"),
    [
        ("ridge", "images"),
        pytest.param("dense", "labels", marks=pytest.mark.slow),
        pytest.param("dense", "images", marks=pytest.mark.slow),
        pytest.param("ridge", "labels", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_that_of_finite_differences(head, learn, problem):
    settings = config(head, learn=learn)
    rng = np.random.default_rng(1)
    with float64():
        network = learner.start(settings.training, (8, 8, 1), 10, key=(0, "network", 0))
        if head == "ridge":  # weights of zero would hide the decay
            weights = jnp.asarray(rng.standard_normal(network.variables["weights"].shape))
            network = network._replace(variables={**network.variables, "weights": weights})
        images, target = (jnp.asarray(problem.inputs[rows], jnp.float64) for rows in (slice(8), slice(100, 140)))
        examples = method.Examples(images, jnp.asarray(rng.random((8, 10))))
        at = getattr(examples, learn)
        direction = rng.standard_normal(at.shape)

        def loss(learned):
            moved = examples._replace(**{learn: learned})
            return method.learned_gradient(settings, network, moved, target, problem.labels[100:140])

        _, gradient = loss(at)
        step = 1e-6
        slope = (loss(at + step * direction)[0][0] - loss(at - step * direction)[0][0]) / (2 * step)
        np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-5)
        assert np.abs(slope) > 1e-7


@pytest.mark.parametrize("head", HEADS)
def test_images_are_learned_with_one_hot_labels_and_the_target_loss_falls(head, problem):
    settings = config(head, learn="images", learning_rate=0.05)
    start = settings.init(problem, None)
    state, rows = run(settings, problem, 60)
    np.testing.assert_array_equal(state.labels, np.eye(10)[start.class_index])
    assert np.abs(state.inputs - start.inputs).max() > 0.1
    early, late = (np.mean([row["loss"] for row in part]) for part in (rows[:10], rows[-10:]))
    assert late < early - 0.1


def test_images_of_another_data_set_cannot_be_learned(problem):
    with pytest.raises(ConfigError, match="have no class here"):
        config(learn="images", base="digits").init(problem, None)


@pytest.mark.parametrize("head", HEADS)
def test_labels_stay_probabilities_and_the_target_loss_falls(head, problem):
    state, rows = run(config(head), problem, 60)
    np.testing.assert_allclose(state.labels.sum(axis=1), 1, atol=1e-5)
    assert state.labels.min() >= 0
    assert state.labels.max() > 0.3, "labels have left their uniform start"
    early, late = (np.mean([row["loss"] for row in part]) for part in (rows[:10], rows[-10:]))
    assert late < early - 0.1


def test_a_row_of_labels_that_is_clipped_to_zero_becomes_uniform():
    labels = method.constrain(jnp.asarray([[-1.0, -2.0], [0.5, 1.5], [0.2, 0.6]]))
    np.testing.assert_allclose(labels, [[0.5, 0.5], [1 / 3, 2 / 3], [0.25, 0.75]], rtol=1e-6)


def test_the_ridge_weights_are_the_primal_ridge_solution(problem):
    """Z^T (Z Z^T + I)^-1 y = (Z^T Z + I)^-1 Z^T y, mixed into what was there."""
    training = dataclasses.replace(config("ridge").training, rate=0.25)
    rng = np.random.default_rng(2)
    with float64():
        network = learner.start(training, (8, 8, 1), 10, key=(0, "network", 0))
        before = rng.standard_normal(network.variables["weights"].shape)
        variables = learner.network_of(training, network)
        images, labels = jnp.asarray(problem.inputs[:8], jnp.float64), rng.random((8, 10))
        after = learner.move_weights(training, variables, before, images, jnp.asarray(labels))
        z = np.asarray(learner.with_bias(training.model(10).apply(variables, images).features))
    primal = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ labels)
    np.testing.assert_allclose(after, 0.75 * before + 0.25 * primal, rtol=1e-9)


def test_a_network_restarts_when_its_average_error_stops_falling():
    counters, window, step = restarts.start(5), 5, 0
    for step in range(1, 100):  # the error falls to step 20, then rises
        counters, again = restarts.note(counters, abs(step - 20) / 100)
        if again:
            break
    # The window's average is lowest when it is centred on step 20: after step 22. The wait is `window` steps and one.
    assert counters.counts.tolist() == [-1, -1, 22]
    assert step == 22 + window + 1
    assert counters.deployment_steps == 22
    assert (int(counters.number), int(counters.steps)) == (1, 0)


def test_deployment_steps_are_the_mean_of_the_last_three_restarts():
    counters = restarts.start(5)._replace(counts=np.array([10, 20, 33]), steps=np.asarray(7))
    assert counters.deployment_steps == 21
    assert restarts.start(5)._replace(steps=np.asarray(7)).deployment_steps == 7


def test_a_restart_draws_another_network_and_forgets_its_optimiser(problem):
    settings = config(window=1, learning_rate=1e-12)
    state = settings.init(problem, None)
    first, before, number = state.owned["learner"], state, 0
    for _ in range(30):
        before = state
        state, metrics = settings.step(problem, None, state)
        if number := metrics["restarts"]:
            break
    assert number == 1
    fresh = state.owned["learner"]
    assert int(fresh.memory.count) == 0 < int(before.owned["learner"].memory.count)
    kernel = [leaf.variables["params"]["readout"]["kernel"] for leaf in (first, fresh)]
    assert not np.allclose(*kernel)


def test_base_examples_of_another_data_set_are_drawn_without_their_classes(problem):
    other = Split(problem.pixels[:500][::-1], np.arange(500) % 26)
    state = config(base="letters").init(problem._replace(base=other), None)
    assert state.labels.shape == (20, 10)
    np.testing.assert_array_equal(state.labels, np.float32(0.1))
    assert state.class_index.max() > 9
    for image, pixels in zip(state.inputs, problem.transform.invert(state.inputs, state.statistics), strict=True):
        assert (problem.inputs == image).all(axis=(1, 2, 3)).any(), "preprocessed as the target is"
        assert pixels.max() <= 1
    with pytest.raises(DataError, match="got 500; expected at least 510"):
        config(base="letters", images_per_class=51).init(problem._replace(base=other), None)
    with pytest.raises(ShapeError):
        config(base="letters").init(problem._replace(base=Split(other.images[:, :7], other.labels)), None)


def test_equal_seeds_give_equal_networks_in_evaluation_and_others_do_not(problem):
    settings = config()
    state, _ = run(settings, problem, 3)
    support = state._replace(deployment_steps=5).support
    question = Question(problem.inputs[:200], problem.labels[:200], "test")
    judge = dataclasses.replace(settings.judge, test_networks=2)
    first, again, other = (
        judge.accuracies(support, question, Tools(problem.blocks, (problem.inputs, problem.labels), seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2,)
    assert not np.array_equal(first, other)
    assert first[0] != first[1]


def test_baselines_have_true_or_smoothed_labels_and_count_training_steps(problem):
    true = LabelBaseline(images_per_class=1, training=config().training, stride=7)
    smooth = dataclasses.replace(true, smoothing=0.1)
    one_hot = np.eye(10)
    np.testing.assert_allclose(true.init(problem, None).labels, one_hot)
    np.testing.assert_allclose(smooth.init(problem, None).labels, 0.9 * one_hot + 0.01, atol=1e-7)
    state, _ = true.step(problem, None, true.init(problem, None))
    state, _ = true.step(problem, None, state)
    assert (state.step, state.deployment_steps) == (2, 14)


def test_more_training_steps_on_true_labels_classify_better(problem):
    training = Training(network=SMALL, batch=20)
    images, labels = problem.inputs[:200], np.eye(10, dtype=np.float32)[problem.labels[:200]]
    given = training, images, labels
    few, many = (
        learner.are_right(
            *given, steps, problem.inputs[500:], problem.labels[500:], networks=2, seed=0, purpose="test"
        ).mean()
        for steps in (0, 100)
    )
    assert many > few + 0.3


def test_a_network_with_batch_normalisation_is_refused(problem):
    settings = LD(training=Training(network=Network("ConvNet-D3", width=4, norm="batch")))
    with pytest.raises(ConfigError, match=r"training\.network.*batch normalisation"):
        settings.init(problem, None)


def test_a_loss_that_is_not_finite_stops_the_run(problem):
    settings = config()
    state = settings.init(problem, None)
    broken = jax.tree.map(lambda leaf: leaf * np.nan if leaf.dtype.kind == "f" else leaf, state.owned["learner"])
    with pytest.raises(NonFiniteError, match="Lower the learning rates"):
        settings.step(problem, None, state._replace(owned={**state.owned, "learner": broken}))


def test_a_base_data_set_is_loaded_by_name(tmp_path):
    dataset = data.load(data.Data("digits"))
    np.savez(
        tmp_path / "letters.npz",
        x_train=dataset.train.images[:300, ::-1],
        y_train=np.arange(300) % 26,
        x_test=dataset.test.images[:26],
        y_test=np.arange(26),
    )
    experiment = train.Experiment(config(base="letters", steps=2, test_networks=2), checkpoint_every=1)
    result = train.run(experiment, tmp_path / "out", data_dir=tmp_path, show_progress=False)
    assert result.steps == 2
    assert (tmp_path / "out" / "images.png").exists()
