"""Greedy choices of k points out of m, as pure functions: each returns different positions, int64 (k,), in their order.

| function | takes next | source |
|---|---|---|
| `herding` | what brings the chosen ones' mean nearest to that of all: argmin |(i + 1) mean - sum - x| | Welling 2009 |
| `k_centers` | the farthest from all that are chosen; first the nearest to the mean | Sener and Savarese 2018 |
| `medoids` | the nearest to each centre of k-means, not greedy | |
| `facility_location` | what raises sum_i max_{j chosen} s_ij most | Wolsey 1982; Nemhauser et al. 1978 |
| `graph_cut` | what raises sum_{i, j chosen} s_ij - lambda sum_{i, j both chosen} s_ij most | Iyer et al. 2021 |
| `glister` | the gradient most along that of the whole loss, taken again after a step | Killamsetty et al. 2021 |
| `determinantal` | what raises the determinant of the chosen ones' Gram matrix most | Chen et al. 2018 |
| `leverage` | a draw in proportion to ridge leverage scores, not greedy | Alaoui and Mahoney 2015 |

CRAIG (Mirzasoleiman et al. 2020) is `facility_location` of the greatest distance less the distance, and `cluster_sizes`
are its weights. The greedy value of facility location is at least 1 - 1/e of the best one.

DeepCore's herding takes the farthest by an argmax, its log-determinant keeps the subtracted term only, its GLISTER
never takes the validation gradient again, and its CRAIG adds 1 to the weights; none of it here. GLISTER-online chooses
anew every few epochs of the training that it serves; here, as in DeepCore, it chooses once.
"""

from __future__ import annotations

import numpy as np

from kip import krr
from kip.methods.selection.budgets import weighted_draw
from kip.methods.selection.points import Points
from kip.methods.selection.uncertainty import softmax


def herding(points: Points, count: int) -> np.ndarray:
    """Return the points whose running mean follows the mean of all; each is taken once."""
    chosen = np.empty(count, np.int64)
    total = np.zeros(len(points))  # <x, the sum of the chosen>
    free = np.ones(len(points), bool)
    for place in range(count):
        apart = points.squares - 2 * ((place + 1) * points.with_mean - total)
        pick = int(np.where(free, apart, np.inf).argmin())
        chosen[place], free[pick] = pick, False
        total += points.products(pick)
    return chosen


def k_centers(points: Points, count: int, first: int | None = None) -> np.ndarray:
    """Return points that are far from each other; each is taken once.

    Args:
        points: the points.
        count: k.
        first: the first point; None: the one nearest to the mean.
    """
    chosen = np.empty(count, np.int64)
    apart = np.full(len(points), np.inf)
    pick = int(points.from_mean().argmin()) if first is None else first
    for place in range(count):
        chosen[place] = pick
        apart = np.minimum(apart, points.distances(pick))
        apart[pick] = -np.inf
        pick = int(apart.argmax())
    return chosen


def medoids(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the vectors nearest to the centres of k-means, each of its own cluster.

    Args:
        vectors: (m, d), of which at least `count` differ.
        count: k.
        seed: of the first centres, below 2^32.
    """
    from sklearn.cluster import KMeans  # here, because it takes a second

    found = KMeans(count, n_init=1, random_state=seed).fit(vectors)
    apart = np.square(vectors - found.cluster_centers_[found.labels_]).sum(1)
    order = np.lexsort((apart, found.labels_))
    clusters, first = np.unique(found.labels_[order], return_index=True)
    chosen = order[first]
    if len(clusters) < count:  # k-means found fewer different vectors
        rest = np.setdiff1d(np.arange(len(vectors)), chosen)
        chosen = np.concatenate([chosen, rest[: count - len(chosen)]])
    return chosen.astype(np.int64)


def cosine_similarity(points: Points) -> np.ndarray:
    """Return s = 1/2 + 1/2 cos, (m, m), in [0, 1]; a point at 0 has the cosine 0 to all."""
    lengths = np.sqrt(np.maximum(points.squares, 1e-300))
    return 0.5 + 0.5 * points.gram() / lengths / lengths[:, None]


def nearness(points: Points) -> np.ndarray:
    """Return the greatest distance less the distance, (m, m)."""
    apart = points.squares + points.squares[:, None] - 2 * points.gram()
    apart = np.sqrt(np.maximum(apart, 0))
    return apart.max() - apart


def facility_location(similarity: np.ndarray, count: int) -> np.ndarray:
    """Return the greedy maximum of sum_i max_{j chosen} s_ij.

    Gains only fall as more is chosen, so that an old gain is an upper bound, and few are computed again.

    Args:
        similarity: s (m, m), symmetric, not negative.
        count: k.
    """
    covered = np.zeros(len(similarity))
    bounds = similarity.sum(0)
    chosen = np.empty(count, np.int64)
    for place in range(count):
        while True:
            pick = int(bounds.argmax())
            bounds[pick] = np.maximum(similarity[pick] - covered, 0).sum()
            if bounds[pick] >= bounds.max():
                break
        chosen[place] = pick
        covered = np.maximum(covered, similarity[pick])
        bounds[pick] = -np.inf
    return chosen


def cluster_sizes(similarity: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the number of points to which each chosen one is the most similar, itself included, float32 (k,)."""
    nearest = similarity[chosen].argmax(0)
    nearest[chosen] = np.arange(len(chosen))
    return np.bincount(nearest, minlength=len(chosen)).astype(np.float32)


def graph_cut(similarity: np.ndarray, count: int, weight: float) -> np.ndarray:
    """Return the greedy maximum of sum_{i, j chosen} s_ij - weight sum_{i chosen, j chosen} s_ij.

    A point's gain is sum_i s_i - 2 weight sum_{j chosen} s_j, and - weight s_jj for itself, which is the same for all
    where s is a cosine.

    Args:
        similarity: s (m, m), symmetric.
        count: k.
        weight: lambda.
    """
    gains = similarity.sum(0) - weight * np.diagonal(similarity)
    chosen = np.empty(count, np.int64)
    for place in range(count):
        pick = int(gains.argmax())
        chosen[place] = pick
        gains = gains - 2 * weight * similarity[pick]
        gains[pick] = -np.inf
    return chosen


def glister(
    features: np.ndarray, logits: np.ndarray, classes: np.ndarray, budgets: np.ndarray, step: float
) -> np.ndarray:
    """Return the images whose gradients of the last layer lead downhill on the loss of all images.

    The gain of image i is <g_i, G>, g_i its gradient of cross-entropy and G that of the mean over all m images, both
    with respect to the last dense layer. The image with the highest gain among the classes with budget left comes next.
    Then the layer moves by -eta g_i, and G is taken again at the moved layer; the g_i stay.

        eta = step / mean_i (1 + |f_i|^2),

    so that image i's own logits move by about -step (softmax - y)_i, however long features are. Where the paper has
    validation images, the images that are chosen from take their place: validation images choose nothing here. With
    images of all classes G is the gradient of the whole task; with those of a single class it says little more than
    that the logit of this class has to rise.

    Args:
        features: f (m, d), before the last layer.
        logits: those of the layer at its beginning, (m, c); 0 for a layer that is 0.
        classes: (m,).
        budgets: images of each class, (c,).
        step: see above, in units of logits.
    """
    one_hot = np.eye(logits.shape[1])[classes]
    residuals = softmax(logits) - one_hot
    current = np.asarray(logits, np.float64)
    eta = step / (1 + np.einsum("md,md->m", features, features).mean())
    left = budgets.astype(int)
    chosen = np.empty(int(left.sum()), np.int64)
    free = np.ones(len(features), bool)
    for place in range(len(chosen)):
        error = (softmax(current) - one_hot) / len(current)
        gains = (residuals * (features @ (features.T @ error) + error.sum(0))).sum(1)
        pick = int(np.where(free & (left[classes] > 0), gains, -np.inf).argmax())
        chosen[place], free[pick] = pick, False
        left[classes[pick]] -= 1
        current = current - eta * (1 + features @ features[pick])[:, None] * residuals[pick]
    return chosen


def determinantal(points: Points, count: int) -> np.ndarray:
    """Return the greedy maximum of det G(chosen): each time the point farthest from the span of the chosen ones.

    It is a Cholesky decomposition with pivots that computes only the chosen columns. Where all points are in the span,
    the rounding errors of their lengths decide.
    """
    chosen = np.empty(count, np.int64)
    columns = np.zeros((count, len(points)))
    left = points.squares.copy()
    free = np.ones(len(points), bool)
    for place in range(count):
        pick = int(np.where(free, left, -np.inf).argmax())
        chosen[place], free[pick] = pick, False
        if left[pick] > 1e-12 * points.squares[pick]:
            column = points.products(pick) - columns[:place].T @ columns[:place, pick]
            columns[place] = column / np.sqrt(left[pick])
            left = left - columns[place] ** 2
    return chosen


def leverage_scores(gram: np.ndarray, ridge: krr.Ridge) -> np.ndarray:
    """Return l_i = [K (K + lam I)^-1]_ii, (m,), in [0, 1]; their sum is the effective dimension.

    Args:
        gram: K (m, m).
        ridge: lam; see `kip.krr.ridge_value`.
    """
    return np.clip(np.diagonal(krr.fit(gram, gram, ridge)), 0, 1)


def leverage(gram: np.ndarray, count: int, ridge: krr.Ridge, generator: np.random.Generator) -> np.ndarray:
    """Draw without replacement in proportion to leverage scores."""
    return weighted_draw(np.log(np.maximum(leverage_scores(gram, ridge), 1e-300)), count, generator)
