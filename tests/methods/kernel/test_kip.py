"""The contract of every method: a step lowers its loss, is a pure function, and follows its configuration."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from kip import krr
from kip.blocks import Blocks, KernelBlocks
from kip.data import Augment, ClassIndex, centred_one_hot
from kip.errors import ConfigError, DataError
from kip.kernels import RBF, Architecture
from kip.methods.ahead import Ahead
from kip.methods.kernel.kip import KIP
from kip.methods.kernel.label_solve import LabelSolve
from kip.methods.problem import Problem
from kip.preprocess import Preprocess, fit
from kip.rng import generator

FC = Architecture("FC", 1)
CLASSES = 3
METHOD_VALUES = {
    "KIP": KIP(2, kernels=(FC,), target_batch=30, learning_rate=0.02),
    "KIP, fixed labels": KIP(2, kernels=(FC,), learn_labels=False, target_batch=30, learning_rate=0.02),
    "KIP, Platt": KIP(2, kernels=(FC,), loss="platt", target_batch=30, learning_rate=0.02),
    "KIP, two kernels": KIP(2, kernels=(FC, RBF()), target_batch=None, learning_rate=0.02),
    "Label Solve": LabelSolve(2, kernel=FC),
}


def toy_problem(blocks=None, *, augment=None, seed=0, count=60):
    """Three classes of noisy 4x4 patterns."""
    rng = np.random.default_rng(1)
    patterns = rng.integers(40, 216, (CLASSES, 4, 4, 1))
    labels = np.arange(count) % CLASSES
    pixels = np.clip(patterns[labels] + rng.normal(0, 25, (count, 4, 4, 1)), 0, 255).astype(np.uint8)
    transform = fit(Preprocess("standardize"), pixels)
    return Problem(
        pixels=pixels,
        inputs=transform.apply(pixels),
        labels=labels,
        num_classes=CLASSES,
        classes=ClassIndex(labels, CLASSES),
        transform=transform,
        augment=augment or Augment("none"),
        blocks=blocks or KernelBlocks(),
        seed=seed,
    )


@pytest.fixture(params=METHOD_VALUES)
def method(request):
    return METHOD_VALUES[request.param]


def run(method, problem, steps):
    state, losses = method.init(problem, None), []
    for _ in range(min(steps, method.steps)):
        state, metrics = method.step(problem, None, state)
        losses.append(metrics["loss"])
    return state, losses


def full_loss(method, problem, state):
    """The KRR loss over the whole train set, averaged over the method's kernels."""
    y_t = centred_one_hot(problem.labels, CLASSES)
    losses = []
    for kernel in method.needs.kernels:
        k_ss, k_ts = problem.blocks.forward(kernel, state.inputs, problem.inputs)
        scale = float(state.owned["scale"]) if state.owned else None
        losses.append(krr.cotangents(k_ss, k_ts, state.labels, y_t, method.ridge, scale=scale).loss)
    return np.mean(losses)


def test_starts_from_balanced_natural_images_with_centred_labels(method):
    problem = toy_problem()
    state, _ = run(method, problem, 0)
    assert state.step == 0
    np.testing.assert_array_equal(state.class_index, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(state.labels, centred_one_hot(state.class_index, CLASSES))
    np.testing.assert_allclose(state.labels.sum(1), 0, atol=1e-6)
    for image in state.inputs:
        assert (problem.inputs == image).all(axis=(1, 2, 3)).any(), "not a train image"


@pytest.mark.slow
def test_steps_lower_the_loss_over_the_train_set(method):
    problem = toy_problem()
    before = full_loss(method, problem, run(method, problem, 0)[0])
    after = full_loss(method, problem, run(method, problem, 15)[0])
    assert after < 0.9 * before


def test_equal_seeds_give_equal_bits_and_others_do_not(method):
    first, again, other = (run(method, toy_problem(seed=seed), 4)[0] for seed in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.inputs, other.inputs)


def test_states_are_float32_arrays_of_constant_shape(method):
    before, after = (run(method, toy_problem(), steps)[0] for steps in (0, 3))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
    assert after.inputs.dtype == after.labels.dtype == np.float32


def test_what_is_fixed_stays_fixed():
    problem = toy_problem()
    fixed = METHOD_VALUES["KIP, fixed labels"]
    before, after = (run(fixed, problem, steps)[0] for steps in (0, 3))
    np.testing.assert_array_equal(before.labels, after.labels)
    assert not np.array_equal(before.inputs, after.inputs)
    solve = METHOD_VALUES["Label Solve"]
    before, after = (run(solve, problem, steps)[0] for steps in (0, 1))
    np.testing.assert_array_equal(before.inputs, after.inputs)
    assert not np.array_equal(before.labels, after.labels)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_kip_gradient_is_the_derivative_of_its_loss(scale):
    """Image, label and scale gradients as `step` composes them, against finite differences in float64."""
    method = KIP(2, kernels=(RBF(),), target_batch=None, ridge=krr.Ridge(1e-3))
    problem = toy_problem(KernelBlocks(Blocks(dtype="float64")))
    state = method.init(problem, None)
    y_t = centred_one_hot(problem.labels, CLASSES)

    def loss(images, labels, scale):
        k_ss, k_ts = problem.blocks.forward(RBF(), images, np.asarray(problem.inputs))
        return krr.cotangents(k_ss, k_ts, labels, y_t, method.ridge, scale=scale)

    images, labels = state.inputs.astype(np.float64), state.labels.astype(np.float64)
    bars = loss(images, labels, scale)
    to_images = problem.blocks.backward(bars.k_ss, bars.k_ts)
    rng, step = np.random.default_rng(3), 1e-5
    for _ in range(3):
        di, dl = rng.standard_normal(images.shape), rng.standard_normal(labels.shape)
        plus, minus = (
            loss(images + by * di, labels + by * dl, None if scale is None else scale + by).loss for by in (step, -step)
        )
        expected = np.vdot(to_images, di) + np.vdot(bars.y_s, dl) + bars.scale
        np.testing.assert_allclose(expected, (plus - minus) / (2 * step), rtol=1e-6)


def test_platt_scaling_learns_its_scale_and_the_squared_error_has_none():
    platt, squared = (run(METHOD_VALUES[name], toy_problem(), 3)[0] for name in ("KIP, Platt", "KIP"))
    assert 0 < float(platt.owned["scale"]) < 3 * 0.021  # Adam's first steps are about its rate
    assert squared.owned is None


def test_kip_moves_down_the_gradient_by_the_learning_rate():
    """Adam's first step is the learning rate against the gradient's sign."""
    method = METHOD_VALUES["KIP, fixed labels"]
    problem = toy_problem()
    (before, _), (after, _) = run(method, problem, 0), run(method, problem, 1)
    moved = np.abs(after.inputs - before.inputs)
    # Adam's epsilon of 1e-8 shortens the step of the pixels whose gradient is of its size.
    np.testing.assert_allclose(np.median(moved), method.learning_rate, rtol=1e-2)


def test_cosine_schedule_ends_at_rest():
    method = dataclasses.replace(METHOD_VALUES["KIP, fixed labels"], schedule="cosine", steps=5)
    problem = toy_problem()
    state, moved = method.init(problem, None), []
    for _ in range(6):
        before = state.inputs
        state, _ = method.step(problem, None, state)
        moved.append(np.abs(state.inputs - before).max())
    assert moved[5] == 0
    assert moved[1:] == sorted(moved[1:], reverse=True)


def test_sampling_kip_draws_every_kernel():
    method, problem = METHOD_VALUES["KIP, two kernels"], toy_problem()
    state, drawn = method.init(problem, None), []
    for _ in range(10):
        state, metrics = method.step(problem, None, state)
        drawn.append(metrics["kernel"])
    assert set(drawn) == {"FC1", "RBF"}


def test_label_solve_reaches_the_least_loss():
    method, problem = METHOD_VALUES["Label Solve"], toy_problem()
    state, losses = run(method, problem, 1)
    best = full_loss(method, problem, state)
    np.testing.assert_allclose(losses[0], best, rtol=1e-4)  # labels are stored in float32
    rng = np.random.default_rng(0)
    for _ in range(5):
        other = state._replace(labels=state.labels + 0.05 * rng.standard_normal(state.labels.shape))
        assert full_loss(method, problem, other) > best


def test_target_batches_are_balanced_different_and_repeatable():
    problem = toy_problem()
    batches = [problem.target_batch(9, step=step) for step in (0, 1, 0)]
    np.testing.assert_array_equal(batches[0].images, batches[2].images)
    assert not np.array_equal(batches[0].images, batches[1].images)
    np.testing.assert_array_equal(batches[0].labels.argmax(1), [0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_augmentation_changes_the_given_fraction_of_the_targets():
    plain = toy_problem(count=300)
    half = toy_problem(augment=Augment("rotate_shift", fraction=0.5), count=300)
    before, after = (problem.target_batch(240, step=3).images for problem in (plain, half))
    changed = (before != after).any(axis=(1, 2, 3)).mean()
    assert 0.3 < changed < 0.7
    again = half.target_batch(240, step=3).images
    np.testing.assert_array_equal(after, again)


def test_a_batch_made_ahead_is_the_same_batch():
    problem = toy_problem(augment=Augment("rotate_shift"), count=300)
    ahead = problem._replace(ahead=Ahead())
    for count, step in ((30, 0), (30, 1), (30, 2), (30, 7), (60, 8), (60, 9), (60, 9)):  # in turn, and not
        ours, plain = (drawer.target_batch(count, step=step) for drawer in (ahead, problem))
        np.testing.assert_array_equal(ours.images, plain.images)
        np.testing.assert_array_equal(ours.source.indices, plain.source.indices)
        assert ours.source.step == step


def test_what_is_made_ahead_is_made_once_elsewhere_and_its_error_reaches_who_asks():
    made = []

    def make(*, step):
        made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 2:
            raise ValueError("step 2")
        return step

    ahead = Ahead()
    assert [ahead(make, step=0), ahead(make, step=1)] == [0, 1]
    with pytest.raises(ValueError, match="step 2"):
        ahead(make, step=2)
    assert made == [(0, True), (1, False), (2, False)]


def test_support_larger_than_a_class_is_refused():
    with pytest.raises(DataError, match="too few images"):
        run(KIP(100, kernels=(FC,)), toy_problem(), 0)


def test_the_same_kernel_twice_is_refused():
    with pytest.raises(ConfigError, match="same kernel twice"):
        KIP(kernels=(FC, FC))


@pytest.mark.slow
def test_no_setting_of_a_method_is_ignored():
    """Every field changes the outcome of a short run (fields that only bound it or name the method aside)."""
    problem = toy_problem()
    base = KIP(1, kernels=(FC,), target_batch=30, learning_rate=0.02)
    base = dataclasses.replace(base, steps=4)
    reference = run(base, problem, 2)[0]
    changes = {
        "images_per_class": 2,
        "learn_labels": False,
        "learning_rate": 0.03,
        "schedule": "cosine",
        "target_batch": 27,
        "balanced_targets": False,
        "kernels": (RBF(),),
        "ridge": krr.Ridge(1e-1),
        "loss": "platt",
        "reduction": "sum",
    }
    assert set(changes) | {"steps", "name"} == {field.name for field in dataclasses.fields(base)}
    for name, setting in changes.items():
        other = run(dataclasses.replace(base, **{name: setting}), problem, 2)[0]
        same = other.inputs.shape == reference.inputs.shape and all(
            np.array_equal(a, b) for a, b in zip((other.inputs, other.labels), (reference.inputs, reference.labels))
        )
        assert not same, f"{name} is ignored"


def test_draws_of_different_purposes_are_independent():
    draws = {purpose: generator(0, purpose, 1).integers(1 << 60) for purpose in ("support", "target batch", "kernel")}
    assert len(set(draws.values())) == 3
    assert draws["kernel"] == generator(0, "kernel", 1).integers(1 << 60)
    assert draws["kernel"] != generator(0, "kernel", 2).integers(1 << 60)
