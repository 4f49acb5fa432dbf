"""KRR: closed forms against JAX's derivatives, finite differences and NumPy's pseudo-inverse; every error."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import krr
from kip.errors import NonFiniteError, NotPositiveDefiniteError, ShapeError
from kip.precision import float64

RIDGES = [krr.Ridge(1e-6), krr.Ridge(1e-2), krr.Ridge(1e-3, "absolute"), krr.Ridge(0.0)]


def problem(rng, n=6, m=11, c=3):
    """A positive definite K_ss, K_ts of the same kernel, labels and targets."""
    x, t = rng.standard_normal((n, 9)), rng.standard_normal((m, 9))
    kernel = lambda a, b: np.exp(-0.1 * ((a[:, None] - b[None]) ** 2).sum(-1))  # noqa: E731
    return kernel(x, x), kernel(t, x), rng.standard_normal((n, c)), rng.standard_normal((m, c))


@pytest.mark.parametrize(("ridge", "reduction"), list(itertools.product(RIDGES, ["mean", "sum"])))
def test_cotangents_are_the_derivatives_of_the_plain_loss(rng, ridge, reduction):
    arrays = problem(rng)
    ours = krr.cotangents(*arrays, ridge, reduction)
    with float64():
        loss, (k_ss, k_ts, y_s) = jax.value_and_grad(krr.loss, argnums=(0, 1, 2))(
            *map(jnp.asarray, arrays), ridge, reduction
        )
        k_ss, k_ts, y_s = map(np.asarray, (k_ss, k_ts, y_s))
    np.testing.assert_allclose(ours.loss, loss, rtol=1e-12)
    # JAX differentiates a Cholesky that reads one triangle; both mean the same for symmetric perturbations.
    np.testing.assert_allclose(ours.k_ss, (k_ss + k_ss.T) / 2, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ours.k_ts, k_ts, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours.y_s, y_s, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("ridge", "reduction"), list(itertools.product(RIDGES, ["mean", "sum"])))
def test_cotangents_of_the_cross_entropy_are_the_derivatives_of_the_plain_loss(rng, ridge, reduction):
    arrays = problem(rng)
    ours = krr.cotangents(*arrays, ridge, reduction, 0.7)
    with float64():
        loss, derivatives = jax.value_and_grad(krr.loss, argnums=(0, 1, 2, 6))(
            *map(jnp.asarray, arrays), ridge, reduction, jnp.asarray(0.7)
        )
        k_ss, k_ts, y_s, scale = map(np.asarray, derivatives)
    np.testing.assert_allclose(ours.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(ours.k_ss, (k_ss + k_ss.T) / 2, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ours.k_ts, k_ts, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours.y_s, y_s, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours.scale, scale, rtol=1e-9)


def test_the_cross_entropy_is_of_the_scaled_predictions(rng):
    k_ss, k_ts, y_s, y_t = problem(rng)
    ridge = krr.Ridge(1e-3, "absolute")
    f = k_ts @ np.linalg.solve(k_ss + 1e-3 * np.eye(len(k_ss)), y_s)
    scaled = np.exp(0.3) * f
    chosen = scaled[np.arange(len(f)), y_t.argmax(1)]
    expected = np.mean(np.log(np.exp(scaled).sum(1)) - chosen)
    loss_and_derivatives = krr.cotangents(k_ss, k_ts, y_s, y_t, ridge, scale=0.3)
    np.testing.assert_allclose(loss_and_derivatives.loss, expected, rtol=1e-9)
    assert krr.cotangents(k_ss, k_ts, y_s, y_t, ridge).scale == 0


@pytest.mark.parametrize("ridge", RIDGES)
def test_cotangents_agree_with_finite_differences(rng, ridge):
    arrays = problem(rng)
    ours = krr.cotangents(*arrays, ridge)
    for index, bar in ((0, ours.k_ss), (1, ours.k_ts), (2, ours.y_s)):
        direction = rng.standard_normal(arrays[index].shape)
        if index == 0:
            direction = direction + direction.T
        step = 1e-6

        def moved(sign, index=index, direction=direction, step=step):
            changed = list(arrays)
            changed[index] = arrays[index] + sign * step * direction
            return krr.cotangents(*changed, ridge=ridge).loss

        slope = (moved(1) - moved(-1)) / (2 * step)
        np.testing.assert_allclose(np.vdot(bar, direction), slope, rtol=1e-6)


def test_loss_is_equation_1_by_hand(rng):
    k_ss, k_ts, y_s, y_t = problem(rng)
    lam = 1e-2 * np.trace(k_ss) / len(k_ss)
    prediction = k_ts @ np.linalg.inv(k_ss + lam * np.eye(len(k_ss))) @ y_s
    ours = krr.cotangents(k_ss, k_ts, y_s, y_t, krr.Ridge(1e-2), "sum")
    np.testing.assert_allclose(ours.predictions, prediction, rtol=1e-10)
    np.testing.assert_allclose(ours.loss, 0.5 * np.sum((y_t - prediction) ** 2), rtol=1e-10)
    mean = krr.cotangents(k_ss, k_ts, y_s, y_t, krr.Ridge(1e-2), "mean")
    np.testing.assert_allclose(mean.loss, ours.loss / y_t.size, rtol=1e-12)


def test_results_are_float64_whatever_comes_in(rng):
    arrays = [a.astype(np.float32) for a in problem(rng)]
    ours = krr.cotangents(*arrays, ridge=krr.Ridge())
    assert {ours.k_ss.dtype, ours.k_ts.dtype, ours.y_s.dtype} == {np.dtype(np.float64)}
    assert jnp.zeros(1).dtype == jnp.float32, "the global precision is left alone"


def test_fit_interpolates_without_a_ridge(rng):
    k_ss, _, y_s, _ = problem(rng)
    np.testing.assert_allclose(k_ss @ krr.fit(k_ss, y_s, krr.Ridge(0.0)), y_s, atol=1e-9)


def test_condition_number_is_close_to_the_true_one(rng):
    k_ss = problem(rng)[0]
    for ridge in RIDGES:
        with float64():
            a = np.asarray(krr.regularise(jnp.asarray(k_ss), ridge))
        true = np.linalg.cond(a, 1)
        assert true / 3 <= krr.condition_number(k_ss, ridge) <= true * 1.001  # LAPACK's is a lower bound


@pytest.mark.parametrize("scale", ["trace", "absolute"])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_label_solve_is_the_pseudo_inverse_for_any_split_of_the_rows(rng, scale, block):
    k_ss, k_ts, _, y_t = problem(rng, n=8, m=53)
    ridge = krr.Ridge(1e-3, scale)
    solver = krr.LabelSolver(k_ss, y_t.shape[1], ridge)
    for start in range(0, len(k_ts), block):
        solver.add(k_ts[start : start + block], y_t[start : start + block])
    lam = 1e-3 * (np.trace(k_ss) / len(k_ss) if scale == "trace" else 1)
    a = k_ss + lam * np.eye(len(k_ss))
    expected = np.linalg.pinv(k_ts @ np.linalg.inv(a)) @ y_t
    solved = solver.solve()
    np.testing.assert_allclose(solved.labels, expected, rtol=1e-7, atol=1e-9)
    residual = y_t - k_ts @ np.linalg.inv(a) @ expected
    np.testing.assert_allclose(solved.loss, 0.5 * np.mean(residual**2), rtol=1e-9)


def test_label_solve_gives_the_least_norm_where_the_kernel_is_rank_deficient(rng):
    k_ss, k_ts, _, y_t = problem(rng, n=6, m=30)
    k_ss[5], k_ss[:, 5], k_ts[:, 5] = k_ss[4], k_ss[:, 4], k_ts[:, 4]  # image 5 repeats image 4
    k_ss[5, 5] = k_ss[4, 5] = k_ss[5, 4] = k_ss[4, 4]
    ridge = krr.Ridge(1e-2)
    solver = krr.LabelSolver(k_ss, y_t.shape[1], ridge)
    solver.add(k_ts, y_t)
    a = k_ss + 1e-2 * np.trace(k_ss) / 6 * np.eye(6)
    expected = np.linalg.pinv(k_ts @ np.linalg.inv(a), rcond=1e-12) @ y_t
    np.testing.assert_allclose(solver.solve().labels, expected, rtol=1e-6, atol=1e-8)


def test_label_solve_does_not_square_the_condition_number():
    """A Vandermonde K_ts of condition 6e7 gives labels to 1e-7; normal equations (3e15) could not."""
    n, m = 8, 60
    k_ts = np.vander(np.linspace(0.5, 1.0, m), n)
    alpha = np.linspace(-1, 1, n)[:, None]
    assert np.linalg.cond(k_ts) > 1e7
    solver = krr.LabelSolver(np.eye(n), 1, krr.Ridge(0.0))
    solver.add(k_ts, k_ts @ alpha)
    np.testing.assert_allclose(solver.solve().labels, alpha, rtol=1e-7)
    normal = np.linalg.solve(k_ts.T @ k_ts, k_ts.T @ (k_ts @ alpha))
    assert np.abs(normal - alpha).max() > 10 * np.abs(solver.solve().labels - alpha).max()


@pytest.mark.parametrize(("n", "m", "c"), [(1, 1, 1), (1, 5, 2), (7, 2, 3)])
def test_shapes_follow_the_inputs(rng, n, m, c):
    arrays = problem(rng, n, m, c)
    ours = krr.cotangents(*arrays, krr.Ridge(1e-3))
    assert [ours.k_ss.shape, ours.k_ts.shape, ours.y_s.shape] == [a.shape for a in arrays[:3]]
    assert np.isfinite([ours.loss, ours.condition]).all()
    np.testing.assert_array_equal(ours.k_ss, ours.k_ss.T)


def test_indefinite_kernel_is_named_with_the_remedy(rng):
    k_ss, k_ts, y_s, y_t = problem(rng)
    k_ss = k_ss - 2 * np.eye(len(k_ss))
    for run in (
        lambda: krr.cotangents(k_ss, k_ts, y_s, y_t, krr.Ridge()),
        lambda: krr.fit(k_ss, y_s, krr.Ridge()),
        lambda: krr.condition_number(k_ss, krr.Ridge()),
    ):
        with pytest.raises(NotPositiveDefiniteError, match=r"eigenvalues from -.*Raise the ridge"):
            run()


@pytest.mark.parametrize("name", ["K_ss", "K_ts", "y_s", "y_t"])
def test_bad_arrays_are_refused_by_name(rng, name):
    index = ["K_ss", "K_ts", "y_s", "y_t"].index(name)
    broken = list(problem(rng))
    broken[index] = broken[index].copy()
    broken[index][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=name):
        krr.cotangents(*broken, ridge=krr.Ridge())
    misshapen = list(problem(rng))
    misshapen[index] = misshapen[index][:, :, None]
    with pytest.raises(ShapeError, match=name):
        krr.cotangents(*misshapen, ridge=krr.Ridge())


def test_label_solve_wants_more_targets_than_support(rng):
    k_ss, k_ts, _, y_t = problem(rng, n=8, m=5)
    solver = krr.LabelSolver(k_ss, y_t.shape[1], krr.Ridge())
    solver.add(k_ts, y_t)
    with pytest.raises(ShapeError, match="at least as many as support images"):
        solver.solve()
