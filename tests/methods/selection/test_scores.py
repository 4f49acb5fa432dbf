"""Each score against loops written out from its definition, on random logits."""

import math

import numpy as np
import pytest

from kip.methods.selection import dynamics, uncertainty
from kip.methods.selection.neighbours import nearest

SEEDS, EPOCHS, COUNT, CLASSES = 2, 6, 7, 4


@pytest.fixture
def logits(rng):
    return rng.normal(0, 2, (SEEDS, EPOCHS + 1, COUNT, CLASSES)).astype(np.float32)


@pytest.fixture
def classes(rng):
    return rng.integers(0, CLASSES, COUNT)


def softmax(row, temperature=1.0):
    exponentials = [math.exp(float(value) / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def error(p, label):
    return math.sqrt(sum((value - (place == label)) ** 2 for place, value in enumerate(p)))


def deviation(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def over_images(of_image):
    """Return the mean over seeds of a function of (seed, image), for all images."""
    return [mean(of_image(seed, image) for seed in range(SEEDS)) for image in range(COUNT)]


def test_el2n_is_the_length_of_the_error(logits, classes):
    expected = over_images(lambda s, i: error(softmax(logits[s, 3, i]), classes[i]))
    np.testing.assert_allclose(uncertainty.el2n(logits, classes, 3), expected, rtol=1e-6)


def test_entropy_least_confidence_and_margin_are_those_of_the_probabilities(logits):
    entropy = over_images(lambda s, i: -sum(p * math.log(p) for p in softmax(logits[s, 6, i])))
    np.testing.assert_allclose(uncertainty.entropy(logits, 6), entropy, rtol=1e-6)
    confidence = over_images(lambda s, i: 1 - max(softmax(logits[s, 6, i])))
    np.testing.assert_allclose(uncertainty.least_confidence(logits, 6), confidence, rtol=1e-6)
    ordered = over_images(lambda s, i: 1 - sorted(softmax(logits[s, 6, i]))[-1] + sorted(softmax(logits[s, 6, i]))[-2])
    np.testing.assert_allclose(uncertainty.margin(logits, 6), ordered, rtol=1e-6)


@pytest.mark.parametrize("score", ["cal", "cal_deepcore"])
def test_cal_is_the_divergence_from_neighbours(logits, rng, score):
    """The authors' KL is of the neighbour against the image; DeepCore's is symmetric."""
    near = nearest(rng.normal(size=(COUNT, 3)), 2).indices
    p = [softmax(row) for row in logits[0, -1]]

    def divergence(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b))

    def of_pair(i, j):
        of_neighbour = divergence(p[j], p[i])
        return of_neighbour if score == "cal" else (of_neighbour + divergence(p[i], p[j])) / 2

    expected = [mean(of_pair(i, j) for j in near[i]) for i in range(COUNT)]
    np.testing.assert_allclose(getattr(uncertainty, score)(logits[0, -1], near), expected, rtol=1e-5)


def test_an_image_unlike_its_neighbours_has_the_highest_cal():
    logits = np.array([[5.0, 0], [5, 0], [0, 5], [5, 0]])
    near = nearest(np.array([[0.0], [1], [2], [3]]), 2).indices
    assert uncertainty.cal(logits, near).argmax() == 2


def test_forgetting_counts_the_falls_of_a_history_and_never_learned_is_the_hardest():
    histories = np.array(
        [
            [0, 1, 1, 1, 1],  # learned once: never forgotten
            [1, 0, 1, 0, 1],  # forgotten twice
            [0, 0, 0, 0, 0],  # never learned
            [0, 0, 0, 0, 1],  # learned at the end
            [1, 1, 1, 1, 0],  # forgotten at the end
        ],
        bool,
    )
    np.testing.assert_array_equal(dynamics.forgotten(histories.T), [0, 2, 5, 0, 1])
    logits = np.zeros((1, 6, 5, 2))
    logits[0, 1:, :, 1] = np.where(histories.T, 1, -1)
    logits[0, 0, :, 1] = 1  # the fresh network's answers are no history
    np.testing.assert_array_equal(dynamics.forgetting(logits, np.ones(5, int)), [0, 2, 5, 0, 1])
    np.testing.assert_array_equal(dynamics.forgetting(logits, np.ones(5, int), last=2), [0, 1, 2, 2, 0])


def test_aum_is_the_mean_margin_of_logits_over_all_epochs(logits, classes):
    def margin(s, t, i):
        return logits[s, t, i, classes[i]] - max(f for place, f in enumerate(logits[s, t, i]) if place != classes[i])

    expected = over_images(lambda s, i: -mean(float(margin(s, t, i)) for t in range(1, EPOCHS + 1)))
    np.testing.assert_allclose(dynamics.aum(logits, classes), expected, rtol=1e-5)


def true_probabilities(logits, classes, s, i, epochs):
    return [softmax(logits[s, t, i])[classes[i]] for t in epochs]


@pytest.mark.parametrize("last", [None, 4])
def test_dyn_unc_and_dual_take_every_window(logits, classes, last):
    def windows(s, i):
        p = true_probabilities(logits, classes, s, i, range(1, (last or EPOCHS) + 1))
        return [p[first : first + 3] for first in range(len(p) - 2)]

    expected = over_images(lambda s, i: mean(deviation(window) for window in windows(s, i)))
    np.testing.assert_allclose(dynamics.dyn_unc(logits, classes, 3, last), expected, rtol=1e-5)
    expected = over_images(lambda s, i: mean(deviation(window) * (1 - mean(window)) for window in windows(s, i)))
    np.testing.assert_allclose(dynamics.dual(logits, classes, 3, last), expected, rtol=1e-5)


def test_el2n_sl_is_the_distance_from_a_teacher_s_soft_labels(logits, rng):
    teacher = rng.normal(0, 2, (3, COUNT, CLASSES))
    soft = np.mean([[softmax(row, 4.0) for row in logits] for logits in teacher], axis=0)

    def distance(s, i):
        return math.sqrt(sum((p - q) ** 2 for p, q in zip(softmax(logits[s, 2, i], 4.0), soft[i]))) / 4.0

    np.testing.assert_allclose(uncertainty.el2n_sl(logits, teacher, 4.0, 2), over_images(distance), rtol=1e-5)


@pytest.mark.parametrize(("epochs", "window", "windows"), [(6, 3, 2), (6, 4, 2), (5, 2, 1)])
@pytest.mark.parametrize("of", ["probability", "el2n"])
def test_cad_takes_the_windows_of_epochs_1_to_k_less_1(logits, classes, epochs, window, windows, of):
    """S is counted from after epoch 1, S_1, as the public reproduction's first row is; row 0 is the fresh network."""

    def s_t(s, t, i):
        p = softmax(logits[s, t, i])
        return error(p, classes[i]) if of == "el2n" else p[classes[i]]

    def u(s, k, i):
        return deviation([s_t(s, k + j, i) for j in range(window)])

    ks = range(epochs - window - windows + 1, epochs - window + 1)
    assert ks[-1] + window - 1 == epochs - 1
    expected = over_images(lambda s, i: mean(u(s, k, i) for k in ks))
    np.testing.assert_allclose(dynamics.cad(logits, classes, epochs, window, windows, of), expected, rtol=1e-5)


def test_cad_looks_at_neither_the_fresh_network_nor_epoch_k(logits, classes):
    score = dynamics.cad(logits, classes, EPOCHS, EPOCHS - 2, 2)
    for row in (0, EPOCHS):
        other = logits.copy()
        other[:, row] = 0
        np.testing.assert_array_equal(dynamics.cad(other, classes, EPOCHS, EPOCHS - 2, 2), score)
    other[:, 1] = 0
    assert not np.array_equal(dynamics.cad(other, classes, EPOCHS, EPOCHS - 2, 2), score)


def test_cad_s_epochs_are_as_much_work_as_the_small_set_gets():
    assert dynamics.aligned_epochs(50_000, 1000, 300) == 6  # paper 003: CIFAR-100, 10 images a class
    assert dynamics.aligned_epochs(50_000, 5000, 300) == 30
    assert dynamics.aligned_epochs(45_000, 100, 300) == pytest.approx(2 / 3)


def test_neighbours_are_those_of_all_distances(rng, monkeypatch):
    monkeypatch.setattr("kip.methods.selection.neighbours.ROWS", 4)
    vectors = rng.normal(size=(11, 3))
    near = nearest(vectors, 3)
    apart = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.testing.assert_array_equal(near.indices, np.argsort(apart, axis=1)[:, 1:4])
    np.testing.assert_allclose(near.distances, np.sort(apart, axis=1)[:, 1:4], atol=1e-7)
