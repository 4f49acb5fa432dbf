"""The empirical NTK and the critical learning rate: against plain Jacobians and a direct eigenvalue computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import NonFiniteError
from kip.evaluate.empirical_ntk import critical_learning_rate, empirical_ntk
from kip.networks import network
from kip.precision import float64


def direct(model, variables, images):
    """Return Theta from central differences of every logit in every parameter: no autodiff, no vjp."""
    leaves, tree = jax.tree.flatten(variables["params"])
    columns = []
    for index, leaf in enumerate(leaves):
        for position in np.ndindex(leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(other) for other in leaves]
                moved[index][position] += sign * 1e-5
                ends.append(np.asarray(forward(model, {"params": jax.tree.unflatten(tree, moved)}, images)).ravel())
            columns.append((ends[0] - ends[1]) / 2e-5)
    jacobian = np.stack(columns, axis=1)
    return jacobian @ jacobian.T


forward = jax.jit(lambda model, v, x: model.apply(v, x).logits, static_argnums=0)


@pytest.mark.parametrize("name", ["FC1", "ConvVec1"])
@pytest.mark.slow
def test_the_kernel_is_that_of_finite_differences(name, rng):
    model = network(name, 2, width=2)
    with float64():
        images = rng.normal(size=(4, 3, 3, 1))
        variables = model.init(jax.random.key(0), (3, 3, 1))
        theta = direct(model, variables, images)
        np.testing.assert_allclose(empirical_ntk(model, variables, images), theta, rtol=1e-6, atol=1e-8)
        spectrum = np.linalg.eigvals(theta).real  # the general solver, not the symmetric one that kip uses
        expected = 2 * 8 / (spectrum.min() + spectrum.max())
        rate = critical_learning_rate(model, variables, images, divisor=8)
    assert rate == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_blocks_in_little_memory_give_the_whole(rng):
    model = network("ConvNet", 3, width=32)
    images = rng.normal(size=(5, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), (8, 8, 1))
    whole = empirical_ntk(model, variables, images)
    assert whole.shape == (15, 15)
    np.testing.assert_allclose(empirical_ntk(model, variables, images, memory_mib=1), whole, rtol=1e-4)


def test_gradient_descent_of_a_linear_model_converges_below_the_stable_rate_and_diverges_above(rng):
    model = network("FC1", 1, width=64, parameterization="ntk")
    images = rng.normal(size=(6, 3, 3, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), (3, 3, 1))
    theta = empirical_ntk(model, variables, images)
    critical = critical_learning_rate(model, variables, images, divisor=6)
    labels = rng.normal(size=6)
    for factor, converges in ((0.9, True), (1.5, False)):
        residual = labels.copy()
        for _ in range(400):
            residual -= factor * critical / 6 * theta @ residual
        assert (np.linalg.norm(residual) < np.linalg.norm(labels)) == converges


def test_a_kernel_that_is_not_finite_is_refused():
    model = network("FC1", 1, width=4)
    variables = jax.tree.map(lambda w: w * jnp.inf, model.init(jax.random.key(0), (2, 2, 1)))
    with pytest.raises(NonFiniteError, match="FC1"):
        critical_learning_rate(model, variables, np.ones((2, 2, 2, 1), np.float32), divisor=2)
