"""What is kept of images whose difficulty is known: how many, which, and how often draws take whom."""

import numpy as np
import pytest

from kip.methods.selection import budgets
from kip.methods.selection.neighbours import Neighbours, nearest


def rules(difficulty, budget, generator):
    """Return what each rule keeps."""
    near = nearest(np.stack([difficulty, np.roll(difficulty, 3)], 1), 3)
    probability = 1 / (1 + np.exp(np.minimum(difficulty, 50)))
    return {
        "hardest": budgets.hardest(difficulty, budget),
        "easiest": budgets.easiest(difficulty, budget),
        "window": budgets.window(difficulty, budget, 0.37),
        "strata": budgets.strata(difficulty, budget, generator, drop=0.3),
        "few strata": budgets.strata(difficulty, budget, generator, drop=0.0, count=3),
        "beta": budgets.beta(np.abs(difficulty), probability, budget, generator),
        "graph": budgets.graph(difficulty, near, budget, drop=0.4),
    }


@pytest.mark.parametrize("count", [7, 60, 113])
@pytest.mark.parametrize("share", [0.02, 0.31, 0.9, 1.0])
@pytest.mark.parametrize("spread", ["normal", "skewed", "equal"])
def test_every_budget_is_exact_and_takes_no_image_twice(rng, count, share, spread):
    difficulty = {"normal": rng.normal(size=count), "skewed": rng.pareto(0.3, count), "equal": np.ones(count)}[spread]
    budget = max(1, int(share * count))
    for name, chosen in rules(difficulty, budget, rng).items():
        assert len(chosen) == budget, name
        assert len(set(chosen.tolist())) == budget, name
        assert ((chosen >= 0) & (chosen < count)).all(), name


def test_the_ends_and_the_window_follow_the_order(rng):
    difficulty = rng.permutation(10).astype(float)
    assert difficulty[budgets.hardest(difficulty, 3)].tolist() == [9, 8, 7]
    assert difficulty[budgets.easiest(difficulty, 3)].tolist() == [0, 1, 2]
    assert difficulty[budgets.window(difficulty, 3, 0.0)].tolist() == [9, 8, 7]
    assert difficulty[budgets.window(difficulty, 3, 1.0)].tolist() == [2, 1, 0]


def test_strata_leave_the_hardest_out_and_share_equally(rng):
    difficulty = np.concatenate([np.full(2, 0.0), np.full(50, 1.0), np.full(40, 2.0), np.full(8, 9.0)])
    chosen = budgets.strata(difficulty, 22, rng, drop=0.08, count=3)  # the 8 of difficulty 9 are left out
    assert np.bincount(difficulty[chosen].astype(int)).tolist() == [2, 10, 10]


def test_strata_drop_no_more_than_the_budget_allows(rng):
    assert sorted(budgets.strata(np.arange(10.0), 9, rng, drop=0.5)) == list(range(9))


def test_weighted_draws_take_the_first_in_proportion_to_the_weights(rng):
    weights = np.array([1.0, 2, 3, 4])
    first = np.array([budgets.weighted_draw(np.log(weights), 2, rng)[0] for _ in range(4000)])
    # Four standard deviations of a fraction near 0.4 of 4000 draws are 0.031.
    np.testing.assert_allclose(np.bincount(first) / 4000, weights / 10, atol=0.031)


def test_beta_draws_by_score_and_density(monkeypatch):
    """The weights against the formula, the draw replaced by an order."""
    monkeypatch.setattr(budgets, "weighted_draw", lambda log_weights, budget, generator: log_weights)
    score, p = np.linspace(0.1, 0.5, 20), np.linspace(0.05, 0.95, 20)
    log_weights = budgets.beta(score, p, 2, None)
    b = 15 * (1 - p[-10:].mean()) * (1 - 0.9**4)
    a = 16 - b
    np.testing.assert_allclose(np.exp(log_weights), score * p ** (a - 1) * (1 - p) ** (b - 1))


def test_the_more_is_pruned_the_easier_are_the_images_that_dual_draws(rng):
    p = np.linspace(0.01, 0.99, 4000)
    score = p * (1 - p)
    means = [p[budgets.beta(score, p, budget, rng)].mean() for budget in (3000, 400)]
    assert means[0] + 0.1 < means[1]


def test_graph_choices_lower_their_neighbours():
    """Written out for three points on a line, the first two of which are neighbours at half the mean distance."""
    near = Neighbours(np.array([[1], [0], [1]]), np.array([[1.0], [1.0], [4.0]]))
    apart = np.array([0.5, 0.5, 2.0])
    s = np.array([3.0, 2.9, 0.0])  # the lowest is 0
    spread = s + np.exp(-apart) * s[[1, 0, 1]]
    first = int(spread.argmax())
    assert first == 0
    spread[1] -= np.exp(-0.1 * apart[0]) * spread[0]
    assert spread[2] > spread[1]
    np.testing.assert_array_equal(budgets.graph(s + 7, near, 3), [0, 2, 1])
