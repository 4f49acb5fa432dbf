"""Greedy choices against the definitions written out, and against the best of all subsets."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.krr import Ridge
from kip.methods.selection import greedy
from kip.methods.selection.points import Gram, Vectors, last_layer_gradients


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(12, 3)) + 0.5


@pytest.fixture(params=["vectors", "gram"])
def points(request, vectors):
    return Vectors(vectors) if request.param == "vectors" else Gram(vectors @ vectors.T)


def test_herding_follows_the_mean(points, vectors):
    chosen, total, mean = [], np.zeros(3), vectors.mean(0)
    for step in range(5):
        apart = np.linalg.norm((step + 1) * mean - total - vectors, axis=1)
        apart[chosen] = np.inf
        chosen.append(int(np.argmin(apart)))
        total = total + vectors[chosen[-1]]
    np.testing.assert_array_equal(greedy.herding(points, 5), chosen)
    random = np.linalg.norm(vectors[:5].mean(0) - mean)
    assert np.linalg.norm(vectors[chosen].mean(0) - mean) < random


def test_k_centers_takes_the_middle_and_then_the_farthest(points, vectors):
    chosen = [int(np.linalg.norm(vectors - vectors.mean(0), axis=1).argmin())]
    for _ in range(4):
        apart = [min(np.linalg.norm(x - vectors[c]) for c in chosen) for x in vectors]
        chosen.append(int(np.argmax(apart)))
    np.testing.assert_array_equal(greedy.k_centers(points, 5), chosen)


def test_k_centers_takes_equal_points_once_each():
    assert sorted(greedy.k_centers(Vectors(np.ones((4, 2))), 4)) == [0, 1, 2, 3]


def test_medoids_are_one_of_each_cluster(rng):
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    vectors = np.concatenate([centre + rng.normal(0, 0.5, (6, 2)) for centre in centres])
    chosen = greedy.medoids(vectors, 3, seed=0)
    assert sorted(chosen // 6) == [0, 1, 2]
    for place in chosen:
        cluster = vectors[6 * (place // 6) :][:6]
        assert np.linalg.norm(cluster - cluster.mean(0), axis=1).argmin() == place % 6


def test_facility_location_is_greedy_and_near_the_best_of_all_subsets(points):
    similarity = greedy.cosine_similarity(points)

    def value(chosen):
        return similarity[list(chosen)].max(0).sum()

    for count in (1, 2, 3, 4):
        chosen = greedy.facility_location(similarity, count)
        plain = []
        for _ in range(count):  # every gain computed anew
            rest = [place for place in range(12) if place not in plain]
            plain.append(max(rest, key=lambda place: value([*plain, place])))
        assert value(chosen) == pytest.approx(value(plain))
        best = max(value(subset) for subset in itertools.combinations(range(12), count))
        assert value(chosen) >= (1 - 1 / math.e) * best


def test_facility_location_is_far_from_what_is_not_greedy():
    """Two tight clusters: one point of each is chosen, though all of the first are more similar to more points."""
    angles = np.radians([0, 1, 2, 3, 4, 90, 91])
    similarity = greedy.cosine_similarity(Vectors(np.stack([np.cos(angles), np.sin(angles)], 1)))
    assert sorted(place >= 5 for place in greedy.facility_location(similarity, 2)) == [False, True]


def test_graph_cut_is_greedy(points):
    similarity, weight = greedy.cosine_similarity(points), 0.7

    def value(chosen):
        return similarity[chosen].sum() - weight * similarity[np.ix_(chosen, chosen)].sum()

    chosen = []
    for _ in range(4):
        rest = [place for place in range(12) if place not in chosen]
        chosen.append(max(rest, key=lambda place: value([*chosen, place])))
    np.testing.assert_array_equal(greedy.graph_cut(similarity, 4, weight), chosen)


def test_craig_s_weights_are_the_sizes_of_its_clusters(points, vectors):
    nearness = greedy.nearness(points)
    apart = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.testing.assert_allclose(nearness, apart.max() - apart, atol=1e-6)
    chosen = greedy.facility_location(nearness, 3)
    sizes = np.bincount(apart[:, chosen].argmin(1), minlength=3)
    np.testing.assert_array_equal(greedy.cluster_sizes(nearness, chosen), sizes)
    assert greedy.cluster_sizes(np.ones((4, 4)), np.array([1, 3])).tolist() == [3, 1], "each is in its own cluster"


def test_last_layer_gradients_have_the_inner_products_of_gradients(rng):
    features, logits = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    residuals = np.asarray(jax.nn.softmax(logits)) - np.eye(3)[[0, 1, 2, 0, 1]]
    gradients = np.array([np.append(r, np.outer(r, f)) for r, f in zip(residuals, features)])
    np.testing.assert_allclose(last_layer_gradients(features, residuals).gram(), gradients @ gradients.T)


@pytest.mark.parametrize("budgets", [(2, 2, 2), (0, 1, 3)])
def test_glister_follows_the_gradient_at_the_moved_layer(rng, budgets):
    """Against JAX's gradients of the whole loss by the layer's weights, which move after every choice."""
    features, weights, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((12, 4), (4, 3), (3,)))
    classes, step = np.arange(12) % 3, 0.5

    def loss(layer, rows):
        log_p = jax.nn.log_softmax(jnp.asarray(features)[rows] @ layer[0] + layer[1])
        return -jnp.mean(log_p[jnp.arange(len(rows)), jnp.asarray(classes)[rows]])

    start = layer = (weights, bias)
    gradient = jax.jit(jax.grad(loss))
    own = [gradient(start, np.array([place])) for place in range(12)]
    eta = step / np.mean([1 + row @ row for row in features])
    chosen, left = [], list(budgets)
    for _ in range(sum(budgets)):
        whole = gradient(layer, np.arange(12))
        gains = [sum(float(jnp.vdot(a, b)) for a, b in zip(one, whole)) for one in own]
        free = [place for place in range(12) if place not in chosen and left[classes[place]]]
        chosen.append(max(free, key=lambda place: gains[place]))
        left[classes[chosen[-1]]] -= 1
        layer = tuple(part - eta * moved for part, moved in zip(layer, own[chosen[-1]]))
    ours = greedy.glister(features, features @ weights + bias, classes, np.array(budgets), step)
    np.testing.assert_array_equal(ours, chosen)


def test_glister_chooses_the_same_at_any_length_of_the_features(rng):
    """The logits stay, and the weights are as much smaller as the features are longer."""
    features, logits, classes = rng.normal(size=(30, 4)), rng.normal(size=(30, 3)), np.arange(30) % 3
    chosen = [greedy.glister(scale * features, logits, classes, np.full(3, 4), 1.0) for scale in (100, 1e4)]
    np.testing.assert_array_equal(chosen[0], chosen[1])


def test_glister_takes_no_mislabelled_images_from_a_layer_of_0_and_more_than_by_chance_from_a_trained_one(rng):
    """Where a layer has learned the very images, their mean gradient is near 0, and the longest gradients are taken."""
    from sklearn.linear_model import LogisticRegression

    classes, centres = np.arange(300) % 3, 3 * np.eye(3)
    features = centres[classes] + rng.normal(0, 0.7, (300, 3))
    wrong = np.arange(300) < 30
    labels = np.where(wrong, (classes + 1) % 3, classes)
    learned = LogisticRegression(C=10).fit(features, labels)
    logits = {"trained": learned.decision_function(features), "zero": np.zeros((300, 3))}
    mislabelled = {
        layer: wrong[greedy.glister(features, start, labels, np.full(3, 5), 0.2)].mean()
        for layer, start in logits.items()
    }
    assert mislabelled["zero"] == 0
    assert mislabelled["trained"] > 2 * wrong.mean()


def test_determinantal_is_the_greedy_maximum_of_the_determinant(rng):
    vectors = rng.normal(size=(10, 6))
    gram, chosen = vectors @ vectors.T, []
    for _ in range(5):
        rest = [place for place in range(10) if place not in chosen]
        chosen.append(max(rest, key=lambda place: np.linalg.det(gram[np.ix_([*chosen, place], [*chosen, place])])))
    np.testing.assert_array_equal(greedy.determinantal(Gram(gram), 5), chosen)


def test_determinantal_goes_on_where_all_is_in_the_span(rng):
    vectors = rng.normal(size=(6, 2))
    assert sorted(greedy.determinantal(Vectors(vectors), 6)) == list(range(6))


def test_leverage_scores_are_those_of_the_spectrum(rng):
    vectors = rng.normal(size=(8, 3))
    gram = vectors @ vectors.T
    values, u = np.linalg.eigh(gram)
    expected = (u**2 * (values / (values + 0.3))).sum(1)
    np.testing.assert_allclose(greedy.leverage_scores(gram, Ridge(0.3, "absolute")), expected, atol=1e-9)


def test_leverage_draws_what_stands_out(rng):
    vectors = np.concatenate([np.tile([[1.0, 0.0]], (50, 1)), [[0.0, 1.0]]])
    gram, ridge = vectors @ vectors.T, Ridge(1e-3, "absolute")
    drawn = [50 in greedy.leverage(gram, 2, ridge, np.random.default_rng(seed)) for seed in range(20)]
    assert sum(drawn) >= 10, "half of all draws would take it first, and most of the others next"
