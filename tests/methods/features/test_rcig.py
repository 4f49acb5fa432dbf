"""RCIG: its student is a linearised network that is solved, and its gradient is that of the solved student."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from kip.errors import NonFiniteError
from kip.judges import Question, Tools
from kip.krr import Ridge
from kip.methods.features import hypergradient as solver
from kip.methods.features import rates
from kip.methods.features.hypergradient import Student
from kip.methods.features.pool import Optimizer, Pool
from kip.methods.features.rcig import RCIG
from kip.networks.model import READOUT, Model, Network
from kip.precision import float64

TINY = Network("FC1", width=5, activation="softplus")
SMALL = RCIG(
    1,
    network=Network("FC1", width=16, activation="softplus"),
    pool=Pool(3, max_updates=4, loss="mean"),
    pool_updates=3,
    target_batch=60,
    evaluation_network=Network("FC1", width=16),
    evaluation_steps=50,
    inner_rate=0.01,
    solver_rate=0.1,
)


class Case:
    """A student of a few images, all in float64."""

    def __init__(self, rng, mirror=False, count=5):
        self.student = Student(Model(TINY, 3), Ridge(2.0, "absolute"), mirror)
        self.base = self.student.model.init(jax.random.key(1), (3, 3, 1))
        self.set = {
            "images": jnp.asarray(rng.standard_normal((count, 3, 3, 1))),
            "labels": jnp.asarray(rng.standard_normal((count, 3))),
            "scale": jnp.asarray(0.3),
        }
        self.target = jnp.asarray(rng.standard_normal((10, 3, 3, 1)))
        self.target_labels = jnp.asarray(np.eye(3)[rng.integers(3, size=10)])
        self.start, self.unravel = ravel_pytree(solver.tangent_parameters(self.base["params"]))
        self.start = jnp.zeros_like(self.start)

    def inner(self, flat, set_):
        images, labels = self.student.see(set_["images"], set_["labels"])
        return solver.inner_loss(self.student, self.base, images, labels, self.unravel(flat))

    def outer(self, flat, set_):
        return solver.outer_loss(self.student, self.base, set_, self.unravel(flat), self.target, self.target_labels)

    def solved(self, set_):
        """The tangents at which the inner loss is least, by its dense Hessian."""
        hessian, slope = (make(self.inner)(self.start, set_) for make in (jax.hessian, jax.grad))
        return -jnp.linalg.solve(hessian, slope)


@pytest.fixture
def case(rng):
    with float64():
        yield Case(rng)


@pytest.mark.slow
def test_the_student_s_outputs_are_the_derivative_of_the_network_and_its_features_the_network_s(case, rng):
    flat = jnp.asarray(rng.standard_normal(len(case.start)))
    tangents, model = case.unravel(flat), case.student.model
    features, push = case.student.linearise(case.base, case.target)
    np.testing.assert_allclose(features, model.apply(case.base, case.target).features, rtol=1e-12)
    kernel = jnp.zeros_like(case.base["params"][READOUT]["kernel"])
    whole = {**tangents, READOUT: {**tangents[READOUT], "kernel": kernel}}

    def logits(params):
        return model.apply({**case.base, "params": params}, case.target).logits

    direct = jax.jvp(logits, (case.base["params"],), (whole,))[1]
    np.testing.assert_allclose(push(tangents), direct, rtol=1e-12)
    plus = jax.tree.map(lambda w, t: w + 1e-6 * t, case.base["params"], whole)
    minus = jax.tree.map(lambda w, t: w - 1e-6 * t, case.base["params"], whole)
    np.testing.assert_allclose(push(tangents), (logits(plus) - logits(minus)) / 2e-6, rtol=1e-5, atol=1e-8)


def test_the_inner_loss_is_the_least_over_the_last_layer_of_the_ridge_regression(case, rng):
    flat = jnp.asarray(rng.standard_normal(len(case.start)))
    features, push = case.student.linearise(case.base, case.set["images"])
    lam, rest = case.student.ridge.strength, case.set["labels"] - push(case.unravel(flat))
    weights = jnp.linalg.solve(features.T @ features + lam * jnp.eye(features.shape[1]), features.T @ rest)
    squares = jnp.sum((rest - features @ weights) ** 2) + lam * (jnp.sum(weights**2) + jnp.sum(flat**2))
    np.testing.assert_allclose(case.inner(flat, case.set), squares / (2 * rest.size), rtol=1e-10)


def test_the_outer_loss_is_that_of_the_regression_written_out(case, rng):
    flat = jnp.asarray(rng.standard_normal(len(case.start)))
    (features, push), (of_target, push_target) = (
        case.student.linearise(case.base, images) for images in (case.set["images"], case.target)
    )
    lam, rest = case.student.ridge.strength, case.set["labels"] - push(case.unravel(flat))
    weights = jnp.linalg.solve(features.T @ features + lam * jnp.eye(features.shape[1]), features.T @ rest)
    predictions = push_target(case.unravel(flat)) + of_target @ weights
    entropy = optax.softmax_cross_entropy(jnp.exp(0.3) * predictions, case.target_labels).mean()
    ordered = np.sort(case.set["labels"], axis=1)
    margin = np.minimum(ordered[:, -1] - ordered[:, -2], 1 / 6).mean()
    np.testing.assert_allclose(case.outer(flat, case.set), entropy - margin, rtol=1e-10)


@pytest.mark.slow
def test_the_descents_are_adam_on_the_quadratics_of_the_dense_hessian(case):
    images, labels = case.student.see(case.set["images"], case.set["labels"])
    hessian = jax.hessian(case.inner)(case.start, case.set)
    gradient = jax.grad(case.outer)(case.solved(case.set), case.set)
    quadratics = {
        "learned": lambda t: (
            case.inner(case.start, case.set) + jax.grad(case.inner)(case.start, case.set) @ t + t @ hessian @ t / 2
        ),
        "product": lambda v: v @ hessian @ v / 2 - gradient @ v,
    }
    descents = {
        "learned": lambda steps, rate: solver.learn(case.student, case.base, images, labels, rate, steps=steps),
        "product": lambda steps, rate: solver.inverse_product(
            case.student, case.base, images, case.unravel(gradient), 3, rate, steps=steps
        ),
    }
    for name, quadratic in quadratics.items():
        at, adam, values = case.start, optax.adam(0.02), []
        memory = adam.init(at)
        for _ in range(5):
            before, slope = jax.value_and_grad(quadratic)(at)
            values.append(before)
            updates, memory = adam.update(slope, memory)
            at = optax.apply_updates(at, updates)
        descent = descents[name](5, 0.02)
        np.testing.assert_allclose(descent.values, values, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(ravel_pytree(descent.at)[0], at, rtol=1e-6, atol=1e-9)
    product = ravel_pytree(descents["product"](500, 0.1).at)[0]
    np.testing.assert_allclose(product, np.linalg.solve(hessian, gradient), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mirror", [False, True])
def test_the_implicit_gradient_is_that_of_the_dense_hessian(rng, mirror):
    with float64():
        case: Any = Case(rng, mirror)
        at = case.solved(case.set)
        gradient = jax.grad(case.outer)(at, case.set)
        product = jnp.linalg.solve(jax.hessian(case.inner)(at, case.set), gradient)
        ours = solver.implicit_gradient(case.student, case.base, case.set, case.unravel(at), case.unravel(product))
        mixed = jax.jacrev(lambda set_: jax.grad(case.inner)(at, set_))(case.set)
        for name, part in mixed.items():
            np.testing.assert_allclose(ours[name], -jnp.tensordot(product, part, 1), rtol=1e-9, atol=1e-12)
        assert not np.any(ours["scale"])


@pytest.mark.slow
@pytest.mark.parametrize("mirror", [False, True])
def test_the_hypergradient_is_that_of_finite_differences_through_the_solved_student(rng, mirror):
    """With exact t and v to 1e-6, which central differences with steps of 2e-6 leave; by 500 steps of Adam to 1e-3."""
    with float64():
        case: Any = Case(rng, mirror)
        at = case.solved(case.set)
        direct, gradient = jax.grad(case.outer, argnums=(1, 0))(at, case.set)
        product = jnp.linalg.solve(jax.hessian(case.inner)(at, case.set), gradient)
        implicit = solver.implicit_gradient(case.student, case.base, case.set, case.unravel(at), case.unravel(product))
        by_descents = solver.hypergradient(
            case.student,
            case.base,
            case.set,
            case.target,
            case.target_labels,
            0.1,
            0.1,
            inner_steps=500,
            solver_steps=500,
            clip=False,
        )
        for name in case.set:
            direction = jnp.asarray(rng.standard_normal(case.set[name].shape))
            plus, minus = ({**case.set, name: case.set[name] + s * direction} for s in (2e-6, -2e-6))
            slope = (case.outer(case.solved(plus), plus) - case.outer(case.solved(minus), minus)) / 4e-6
            exact = jnp.vdot(direct[name] + implicit[name], direction)
            np.testing.assert_allclose(exact, slope, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(jnp.vdot(by_descents.gradient[name], direction), slope, rtol=1e-3, atol=1e-5)
            if name != "scale":
                assert abs(jnp.vdot(direct[name], direction) - slope) > 0.02 * abs(slope), "the implicit part matters"


def test_the_gradient_by_parts_of_the_target_is_that_of_the_plain_outer_loss(case, monkeypatch):
    options = {"inner_steps": 3, "solver_steps": 3, "clip": False}
    arguments: Any = (case.student, case.base, case.set, case.target, case.target_labels, 0.02, 0.02)
    whole = solver.hypergradient(*arguments, **options)
    monkeypatch.setattr("kip.training.predict.rows_at_once", lambda model, images: 4)  # parts of 4, 4 and 2 images
    parts = solver.hypergradient(*arguments, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), parts, whole)
    images, labels = case.student.see(case.set["images"], case.set["labels"])
    at = solver.learn(case.student, case.base, images, labels, 0.02, steps=3).at
    loss, (direct, gradient) = jax.value_and_grad(case.outer, argnums=(1, 0))(ravel_pytree(at)[0], case.set)
    product = solver.inverse_product(case.student, case.base, images, case.unravel(gradient), 3, 0.02, steps=3)
    implicit = solver.implicit_gradient(case.student, case.base, case.set, at, product.at)
    np.testing.assert_allclose(parts.loss, loss, rtol=1e-12)
    for name, ours in parts.gradient.items():
        np.testing.assert_allclose(ours, direct[name] + implicit[name], rtol=1e-9, atol=1e-12)


def test_the_implicit_gradient_is_clipped_to_the_length_of_the_direct_one(case):
    at = case.solved(case.set)
    options = {"inner_steps": 50, "solver_steps": 50}
    arguments: Any = (case.student, case.base, case.set, case.target, case.target_labels, 0.02, 10.0)
    clipped, whole = (solver.hypergradient(*arguments, **options, clip=clip).gradient for clip in (True, False))
    images, labels = case.student.see(case.set["images"], case.set["labels"])
    at = solver.learn(case.student, case.base, images, labels, 0.02, steps=50).at
    direct = jax.grad(case.outer, argnums=1)(ravel_pytree(at)[0], case.set)
    for name in ("images", "labels"):
        implicit, shorter = whole[name] - direct[name], clipped[name] - direct[name]
        longest = np.linalg.norm(direct[name])
        assert np.linalg.norm(implicit) > longest, "the rate is so high that the product is far too long"
        np.testing.assert_allclose(shorter, implicit * longest / np.linalg.norm(implicit), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(clipped["scale"], direct["scale"])


FALLING, HIGHER, NEITHER = [3.0, 2.0, 1.0], [1.0, 0.5, 2.0], [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("history", "factor"),
    [
        ([FALLING] * 35 + [NEITHER] * 15, 1.05),
        ([FALLING] * 34 + [NEITHER] * 16, 1.0),
        ([FALLING] * 35 + [HIGHER] * 15, 0.9),
        ([HIGHER] * 14 + [NEITHER] * 36, 1.0),
    ],
)
def test_a_rate_adapts_after_fifty_descents(history, factor):
    rate = rates.first(2.0)
    for values in history[:-1]:
        rate = rates.watch(rate, np.asarray(values))
        assert rate.value == 2.0
    after = rates.watch(rate, np.asarray(history[-1]))
    assert after.value == pytest.approx(2.0 * factor)
    assert (after.higher, after.falling, after.count) == (0, 0, 0)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, rate)


def test_the_first_rate_is_below_the_least_at_which_a_descent_does_not_fall():
    tried = []

    def descent(rate):
        tried.append(rate)
        return solver.Descent({}, tuple(map(jnp.asarray, FALLING if rate < 0.0015 else HIGHER)))

    assert rates.find_rate(descent, 1e-3) == pytest.approx(0.84 * 1e-3 * 1.2**3)
    np.testing.assert_allclose(tried, [1e-3, 1.2e-3, 1.44e-3, 1.728e-3], rtol=1e-6)


@pytest.mark.slow
def test_networks_learn_up_to_so_many_updates_a_step_and_are_renewed(problem, store):
    prepared = SMALL.prepare(problem, store)
    state, learned, renewed = SMALL.init(problem, prepared), set(), 0
    for _ in range(30):
        before = state.owned["pool"]
        state, _ = SMALL.step(problem, prepared, state)
        for old, new in zip(before, state.owned["pool"]):
            assert int(new.updates) < SMALL.pool.max_updates
            if int(new.drawn) > int(old.drawn):
                assert int(new.updates) == 0
                renewed += 1
            elif old is not new:
                learned.add(int(new.updates) - int(old.updates))
    assert learned == {1, 2, 3}
    assert renewed


@pytest.mark.slow
def test_the_set_is_the_moving_average_of_what_is_learned(problem, store):
    config = dataclasses.replace(SMALL, average=0.9)
    prepared = config.prepare(problem, store)
    state, images, labels = config.init(problem, prepared), [], []
    for _ in range(4):
        state, _ = config.step(problem, prepared, state)
        images.append(state.owned["images"])
        labels.append(state.owned["labels"])
    weights = 0.9 ** np.arange(3, -1, -1)
    for average, parts in ((state.inputs, images), (state.labels, labels)):
        wanted = np.tensordot(weights / weights.sum(), np.stack(parts), 1)
        np.testing.assert_allclose(average, wanted, rtol=1e-5, atol=1e-6)


def test_only_images_and_the_scale_are_learned_where_labels_are_not(problem, store):
    config = dataclasses.replace(SMALL, learn_labels=False)
    prepared = config.prepare(problem, store)
    before = config.init(problem, prepared)
    after, _ = config.step(problem, prepared, before)
    np.testing.assert_array_equal(after.labels, before.labels)
    assert np.any(np.asarray(after.inputs) != before.inputs)
    assert float(after.owned["scale"]) != 0


def test_mirror_images_are_learned_where_images_are_rgb_and_a_mirror_keeps_the_class(problem):
    rgb = problem._replace(inputs=np.repeat(problem.inputs, 3, axis=3), mirror_keeps_class=True)
    assert SMALL._student(rgb).mirror
    assert not SMALL._student(rgb._replace(mirror_keeps_class=False)).mirror
    assert not SMALL._student(problem._replace(mirror_keeps_class=True)).mirror
    images, labels = SMALL._student(rgb).see(rgb.inputs[:2], np.eye(2))
    np.testing.assert_array_equal(images[2:], rgb.inputs[:2, :, ::-1])
    np.testing.assert_array_equal(labels[2:], np.eye(2))


def test_a_student_that_diverges_is_said_so(problem, store):
    config = dataclasses.replace(SMALL, inner_rate=1e30)
    prepared = config.prepare(problem, store)
    with pytest.raises(NonFiniteError, match="inner_rate"):
        config.step(problem, prepared, config.init(problem, prepared))


@pytest.mark.slow
def test_learning_beats_natural_images(problem, store):
    network = Network("FC1", width=64, activation="softplus")
    config = dataclasses.replace(
        SMALL,
        network=network,
        evaluation_network=Network("FC1", width=64),
        evaluation_steps=300,
        evaluation_optimizer=Optimizer(learning_rate=1e-2),
        target_batch=500,
        learning_rate=0.02,
        inner_rate=None,
        solver_rate=None,
        test_networks=3,
    )
    prepared = config.prepare(problem, store)
    state = config.init(problem, prepared)
    judge, question = config.judge, Question(problem.inputs, problem.labels, "test")
    tools = Tools(problem.blocks, (problem.inputs, problem.labels), 5)
    before = judge.accuracies(state.support, question, tools).mean()
    for _ in range(150):
        state, _ = config.step(problem, prepared, state)
    assert judge.accuracies(state.support, question, tools).mean() > before + 0.1
