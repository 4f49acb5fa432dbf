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
        "hardest": budgets.hardest(difficulty, budget, generator),
        "easiest": budgets.easiest(difficulty, budget, generator),
        "window": budgets.window(difficulty, budget, generator, start=0.37),
        "strata": budgets.strata(difficulty, budget, generator),
        "few strata": budgets.strata(difficulty, budget, generator, count=3),
        "beta": budgets.beta(np.abs(difficulty), probability, budget, generator),
        "graph": budgets.graph(difficulty, near, budget, generator),
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
    assert difficulty[budgets.hardest(difficulty, 3, rng)].tolist() == [9, 8, 7]
    assert difficulty[budgets.easiest(difficulty, 3, rng)].tolist() == [0, 1, 2]
    assert difficulty[budgets.window(difficulty, 3, rng, start=0.0)].tolist() == [9, 8, 7]
    assert difficulty[budgets.window(difficulty, 3, rng, start=1.0)].tolist() == [2, 1, 0]


def by_seed(difficulty, rule):
    """Return what a rule of `rules` keeps of 8 images, for ten seeds."""
    return [tuple(rules(difficulty, 8, np.random.default_rng(seed))[rule]) for seed in range(10)]


@pytest.mark.parametrize("rule", ["hardest", "easiest", "window", "strata", "beta", "graph"])
def test_equal_difficulties_are_broken_by_the_seed_and_not_by_the_order_of_the_file(rule):
    """Forty images of two difficulties: more of each than any rule keeps."""
    difficulty = np.repeat([1.0, 2.0], 20)
    kept = by_seed(difficulty, rule)
    assert len(set(kept)) == 10
    assert tuple(rules(difficulty, 8, np.random.default_rng(3))[rule]) == kept[3], "a seed draws the same order again"
    assert np.ptp([np.mean(np.array(each) % 20) for each in kept]) > 1, "places in the file come as they are drawn"
    if rule in ("hardest", "easiest"):
        assert set(difficulty[np.concatenate(kept).astype(int)]) == {2.0 if rule == "hardest" else 1.0}


@pytest.mark.parametrize("rule", ["hardest", "easiest", "window", "graph"])
def test_different_difficulties_are_chosen_from_in_the_same_way_by_every_seed(rule, rng):
    assert len(set(by_seed(rng.normal(size=40), rule))) == 1


def test_strata_share_equally(rng):
    difficulty = np.concatenate([np.full(2, 0.0), np.full(50, 1.0), np.full(40, 2.0)])
    assert np.bincount(difficulty[budgets.strata(difficulty, 22, rng, count=3)].astype(int)).tolist() == [2, 10, 10]


def test_the_hardest_of_all_groups_are_left_out_as_far_as_each_budget_allows(rng):
    """Of ten images the four hardest are 9, 8, 7, 6; the second group needs two of these and keeps its easiest."""
    groups = [(np.array([0, 2, 4, 9]), 2), (np.array([6, 7, 8]), 2), (np.array([1, 3, 5]), 1)]
    kept = budgets.without_hardest(np.arange(10.0), groups, rng, drop=0.4)
    assert [(members.tolist(), budget) for members, budget in kept] == [([0, 2, 4], 2), ([6, 7], 2), ([1, 3, 5], 1)]
    whole = budgets.without_hardest(np.arange(10.0), groups, rng, drop=0.0)
    assert [members.tolist() for members, _ in whole] == [members.tolist() for members, _ in groups]


def test_which_of_equals_are_left_out_is_drawn():
    groups = [(np.arange(40), 4)]
    kept = {
        tuple(budgets.without_hardest(np.ones(40), groups, np.random.default_rng(s), drop=0.5)[0][0]) for s in range(5)
    }
    assert len(kept) == 5
    assert {len(members) for members in kept} == {20}


def test_weighted_draws_take_the_first_in_proportion_to_the_weights(rng):
    weights = np.array([1.0, 2, 3, 4])
    first = np.array([budgets.weighted_draw(np.log(weights), 2, rng)[0] for _ in range(4000)])
    # Four standard deviations of a fraction near 0.4 of 4000 draws are 0.031.
    np.testing.assert_allclose(np.bincount(first) / 4000, weights / 10, atol=0.031)


def test_beta_draws_by_score_and_density(monkeypatch):
    """The weights against the formula, the draw replaced by an order."""
    monkeypatch.setattr(budgets, "weighted_draw", lambda log_weights, budget, generator: log_weights)
    score, p = np.linspace(0.1, 0.5, 20), np.linspace(0.05, 0.95, 20)
    log_weights = budgets.beta(score, p, 2, np.random.default_rng(0))
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
    np.testing.assert_array_equal(budgets.graph(s + 7, near, 3, np.random.default_rng(0)), [0, 2, 1])
