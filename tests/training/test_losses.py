"""Losses against NumPy, example by example."""

import jax.numpy as jnp
import numpy as np
import pytest

from kip.training.losses import barlow_twins, per_example


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


DIRECT = {
    "mse": lambda f, y: np.mean((f - y) ** 2) / 2,
    "half_sum": lambda f, y: np.sum((f - y) ** 2) / 2,
    "mean": lambda f, y: np.mean((f - y) ** 2),
    "xent": lambda f, y: -np.log(softmax(f)[np.argmax(y)]),
    "soft_xent": lambda f, y: -np.sum(y * np.log(softmax(f))),
    "kl": lambda f, y: np.sum(softmax(y / 2) * np.log(softmax(y / 2) / softmax(f / 2))),
}


@pytest.mark.parametrize("loss", DIRECT)
def test_the_loss_of_each_example_is_its_formula(loss, rng):
    outputs, labels = rng.normal(size=(2, 5, 4))
    ours = per_example(loss, jnp.asarray(outputs), jnp.asarray(labels), temperature=2.0)
    direct = [DIRECT[loss](f, y) for f, y in zip(outputs, labels)]
    np.testing.assert_allclose(ours, direct, rtol=1e-4, atol=1e-6)


def test_hard_cross_entropy_takes_the_argmax_of_learned_labels(rng):
    outputs, labels = (jnp.asarray(part) for part in rng.normal(size=(2, 5, 4)))
    one_hot = jnp.eye(4)[labels.argmax(1)]
    np.testing.assert_array_equal(per_example("xent", outputs, labels), per_example("xent", outputs, one_hot))
    np.testing.assert_allclose(per_example("xent", outputs, labels), per_example("soft_xent", outputs, one_hot), 1e-5)


def test_barlow_twins_wants_equal_views_and_independent_dimensions(rng):
    z_a, z_b = rng.normal(size=(2, 50, 3)).astype(np.float32)
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z_a, z_b))
    c = a.T @ b / 50
    direct = sum((1 - c[i, j]) ** 2 if i == j else 0.1 * c[i, j] ** 2 for i in range(3) for j in range(3))
    assert float(barlow_twins(jnp.asarray(z_a), jnp.asarray(z_b), 0.1)) == pytest.approx(direct, rel=1e-4)
    assert barlow_twins(jnp.asarray(z_a), jnp.asarray(z_a), 0.1) < barlow_twins(jnp.asarray(z_a), jnp.asarray(z_b), 0.1)
