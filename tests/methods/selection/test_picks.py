"""The pick of a published method on twelve images, against the method written out in loops."""

import dataclasses
import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kip.errors import ConfigError
from kip.krr import Ridge
from kip.methods.selection import budgets, greedy, rules, scores, task
from kip.methods.selection.points import Vectors
from kip.methods.selection.selection import Selection
from kip.networks import Network
from kip.rng import generator
from kip.training.protocols import PROTOCOLS
from kip.training.records import Recording, Records, compute_aligned

COUNT, CLASSES, EPOCHS = 12, 2, 6
LABELS = np.arange(COUNT) % CLASSES
EACH = 2


@pytest.fixture
def toy(monkeypatch):
    """Records of random logits and features in place of trained networks, and what was asked for them."""
    rng = np.random.default_rng(5)
    asked = []

    def made(purpose):
        logits = rng.normal(0, 2, (EPOCHS + 1, COUNT, CLASSES)).astype(np.float32)
        records = Records(None, [None], [logits], [], np.zeros((COUNT, 2, 2, 1), np.float32), LABELS)  # type: ignore
        records._features = rng.normal(size=(COUNT, 3)).astype(np.float32)
        return records

    of_purpose = {purpose: made(purpose) for purpose in ("record", "teacher")}

    def record(recording, *_, purpose="record", **__):
        asked.append((purpose, recording))
        return of_purpose[purpose]

    monkeypatch.setattr(task, "record", record)
    problem = SimpleNamespace(
        labels=LABELS, num_classes=CLASSES, inputs=np.zeros((COUNT, 2, 2, 1)), seed=0, mirror_keeps_class=True
    )
    return SimpleNamespace(problem=problem, asked=asked, **of_purpose)


def task_of(problem: Any, images_per_class: int, store: Any = None, **options: Any) -> task.Task:
    return Selection(images_per_class, **options).task(problem, store)


def chosen_by(problem, rule, store=None, **options):
    return rule.choose(task_of(problem, EACH, store, **options)).indices


def pick(toy, rule, **options):
    return sorted(chosen_by(toy.problem, rule, **options).tolist())


def softmax(row, temperature=1.0):
    exponentials = [math.exp(float(value) / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def highest_of_each_class(score, sign=1):
    """Return the images of each class whose score is the highest, or the lowest."""
    return sorted(
        place
        for label in range(CLASSES)
        for place in sorted(np.flatnonzero(label == LABELS), key=lambda i: -sign * score[i])[:EACH]
    )


def nearest_of(features, place, among, count):
    return sorted((i for i in among if i != place), key=lambda i: math.dist(features[place], features[i]))[:count]


def test_d2_drops_the_hardest_two_fifths_by_aum_and_then_sends_messages(toy):
    """The score of forgetting ties, and so the messages go over EL2N here."""
    logits, features = toy.record._logits[0], toy.record.features()
    margins = [np.mean([row[i][LABELS[i]] - row[i][1 - LABELS[i]] for row in logits[1:]]) for i in range(COUNT)]
    left = sorted(range(COUNT), key=lambda i: margins[i])[int(0.4 * COUNT) :]  # a low margin is a hard image
    error = [math.dist(softmax(logits[EPOCHS][i]), np.eye(CLASSES)[LABELS[i]]) for i in range(COUNT)]
    chosen = []
    for label in range(CLASSES):
        members = [i for i in left if LABELS[i] == label]
        near = {i: nearest_of(features, i, members, 2) for i in members}
        apart = {i: [math.dist(features[i], features[j]) for j in near[i]] for i in members}
        mean = np.mean([d for each in apart.values() for d in each])
        easiest = min(error[i] for i in members)
        start = {i: error[i] - easiest for i in members}
        score = {i: start[i] + sum(math.exp(-d / mean) * start[j] for d, j in zip(apart[i], near[i])) for i in members}
        for _ in range(EACH):
            best = max(score, key=lambda i: score[i])
            chosen.append(best)
            message = score.pop(best)
            for d, j in zip(apart[best], near[best]):
                if j in score:
                    score[j] -= math.exp(-0.1 * d / mean) * message
    d2 = rules.D2(scores.EL2N(Recording(epochs=EPOCHS)), drop=0.4, neighbours=2)
    assert pick(toy, d2) == sorted(chosen)
    assert pick(toy, dataclasses.replace(d2, drop=0.0)) != sorted(chosen)


def test_cad_prune_takes_what_varies_most_in_a_training_of_k_epochs(toy):
    """K is 6: 18 epochs of 4 chosen images are as much work as 6 of all 12. Windows of 4 begin at epochs 1 and 2."""
    logits = toy.record._logits[0]
    p = [[softmax(row[i])[LABELS[i]] for row in logits] for i in range(COUNT)]
    cad = [np.mean([np.std(p[i][k : k + 4], ddof=1) for k in (1, 2)]) for i in range(COUNT)]
    network = Network("FC1", width=8)
    protocol = dataclasses.replace(PROTOCOLS["HL"], epochs=18)
    rule = rules.Hardest(scores.CAD(network, seeds=2))
    assert pick(toy, rule, protocol=protocol) == highest_of_each_class(cad)
    assert toy.asked == [("record", compute_aligned(6, network=network, seeds=2))]


def test_cad_prune_is_refused_where_it_is_not_defined():
    """CIFAR-10 at 10 images of each class: 300 epochs of 100 images are two thirds of one epoch of 45 000."""
    labels = np.arange(45_000) % 10
    problem = SimpleNamespace(labels=labels, num_classes=10, inputs=np.zeros((45_000, 1, 1, 1)), seed=0)
    with pytest.raises(ConfigError, match=r"K of cad.*; got 0\.67: 300 epochs .*; expected at least 4, .*not defined"):
        rules.Hardest(scores.CAD()).choose(task_of(problem, 10))
    with pytest.raises(ConfigError, match=r"expected at least 8, for 2 windows of 6 epochs"):
        rules.Hardest(scores.CAD(window=6)).choose(task_of(problem, 100))


def test_el2n_sl_takes_the_distance_from_another_network_s_soft_labels(toy):
    own, teacher = toy.record._logits[0][3], toy.teacher._logits[0][-1]
    distance = [math.dist(softmax(own[i], 4.0), softmax(teacher[i], 4.0)) for i in range(COUNT)]
    recording, longer = Recording(epochs=EPOCHS), Recording(epochs=EPOCHS, batch=64)
    score = scores.EL2NSL(recording, longer, temperature=4.0, epoch=3)
    assert pick(toy, rules.Hardest(score)) == highest_of_each_class(distance)
    assert pick(toy, rules.Easiest(score)) == highest_of_each_class(distance, -1)
    assert toy.asked[:2] == [("record", recording), ("teacher", longer)]


def test_cal_takes_the_highest_divergence_from_neighbours_of_any_class(toy):
    logits, features = toy.record._logits[0][-1], toy.record.features()
    p = [softmax(row) for row in logits]
    cal = []
    for i in range(COUNT):
        near = nearest_of(features, i, range(COUNT), 3)
        cal.append(np.mean([sum(a * math.log(a / b) for a, b in zip(p[j], p[i])) for j in near]))
    assert pick(toy, rules.Hardest(scores.CAL(neighbours=3))) == highest_of_each_class(cal)


def test_cal_of_deepcore_takes_the_lowest_symmetric_divergence_from_the_class(toy):
    logits, features = toy.record._logits[0][-1], toy.record.features()
    p = [softmax(row) for row in logits]
    cal = []
    for i in range(COUNT):
        near = nearest_of(features, i, np.flatnonzero(LABELS[i] == LABELS), 3)
        cal.append(np.mean([sum((a - b) * (math.log(a) - math.log(b)) / 2 for a, b in zip(p[i], p[j])) for j in near]))
    assert pick(toy, rules.Easiest(scores.CALDeepCore(neighbours=3))) == highest_of_each_class(cal, -1)


@pytest.mark.parametrize(("on", "layer"), [("all", "zero"), ("all", "trained"), ("class", "trained")])
def test_glister_takes_gradients_that_lower_the_loss_of_all_images_or_of_their_class(toy, store, on, layer):
    """Gradients of the last layer are written out; the layer moves after each choice, by a step that has no unit."""
    logits, f = toy.record.last().astype(float) * (layer == "trained"), toy.record.features()
    extended = np.concatenate([f, np.ones((COUNT, 1))], 1)  # the bias is a weight of 1
    own = [np.outer(np.array(softmax(logits[i])) - np.eye(CLASSES)[LABELS[i]], extended[i]) for i in range(COUNT)]
    chosen = []
    for members in [np.arange(COUNT)] if on == "all" else [np.flatnonzero(label == LABELS) for label in range(CLASSES)]:
        eta = 0.7 / np.mean([row @ row for row in extended[members]])
        moved, left = np.zeros((CLASSES, 4)), dict.fromkeys(set(LABELS[members]), EACH)
        while any(left.values()):
            whole = np.zeros((CLASSES, 4))
            for i in members:
                p = np.array(softmax(logits[i] + moved @ extended[i]))
                whole += np.outer(p - np.eye(CLASSES)[LABELS[i]], extended[i]) / len(members)
            free = [i for i in members if left[LABELS[i]] and i not in chosen]
            best = max(free, key=lambda i: (own[i] * whole).sum())
            chosen.append(best)
            left[LABELS[best]] -= 1
            moved -= eta * own[best]
    rule = rules.GLISTER(on=on, last_layer=layer, step_size=0.7)
    assert sorted(chosen_by(toy.problem, rule, store)) == sorted(chosen)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (rules.Hardest, {}),
        (rules.Easiest, {}),
        (rules.Window, {}),
        (rules.CCS, {"drop": 0.0}),
        (rules.D2, {"drop": 0.0, "neighbours": 3}),
    ],
)
def test_images_that_are_equally_hard_are_chosen_by_the_seed(toy, kind, options):
    toy.record._logits[0][:] = 0
    rule = kind(scores.Forgetting(Recording(epochs=EPOCHS)), **options)
    kept = set()
    for seed in range(6):
        toy.problem.seed = seed
        kept.add(tuple(pick(toy, rule)))
    assert len(kept) > 3
    assert kept != {(0, 1, 2, 3)}


RECORDED = Recording(epochs=EPOCHS)
SCORES = {
    scores.EL2N(RECORDED, epoch=2): lambda p, f, y: math.dist(p[2], np.eye(CLASSES)[y]),
    scores.EL2N(RECORDED): lambda p, f, y: math.dist(p[EPOCHS], np.eye(CLASSES)[y]),
    scores.Entropy(RECORDED): lambda p, f, y: -sum(a * math.log(a) for a in p[EPOCHS]),
    scores.LeastConfidence(RECORDED, epoch=4): lambda p, f, y: 1 - max(p[4]),
    scores.Margin(RECORDED): lambda p, f, y: 1 - abs(p[EPOCHS][0] - p[EPOCHS][1]),
    scores.AUM(RECORDED): lambda p, f, y: -np.mean([row[y] - row[1 - y] for row in f[1:]]),
    scores.AUM(RECORDED, last_epoch=3): lambda p, f, y: -np.mean([row[y] - row[1 - y] for row in f[1:4]]),
    scores.DynUnc(RECORDED, window=4): lambda p, f, y: np.mean(
        [np.std([row[y] for row in p[k : k + 4]], ddof=1) for k in (1, 2, 3)]
    ),
    scores.DUALScore(RECORDED, window=4, last_epoch=5): lambda p, f, y: np.mean(
        [
            np.std([row[y] for row in p[k : k + 4]], ddof=1) * (1 - np.mean([row[y] for row in p[k : k + 4]]))
            for k in (1, 2)
        ]
    ),
    scores.EarlyCAD(RECORDED, epochs=5, window=2, windows=2): lambda p, f, y: np.mean(
        [np.std([row[y] for row in p[k : k + 2]], ddof=1) for k in (2, 3)]
    ),
    scores.EarlyCAD(RECORDED, epochs=5, varies="el2n"): lambda p, f, y: np.mean(
        [np.std([math.dist(row, np.eye(CLASSES)[y]) for row in p[k : k + 3]], ddof=1) for k in (1, 2)]
    ),
}


@pytest.mark.parametrize("score", SCORES, ids=lambda given: given.kind)
def test_a_score_is_its_formula_and_the_ends_and_the_window_of_its_order_are_taken(toy, score):
    f = toy.record._logits[0]
    hard = [SCORES[score]([softmax(row[i]) for row in f], [row[i] for row in f], LABELS[i]) for i in range(COUNT)]
    assert pick(toy, rules.Hardest(score)) == highest_of_each_class(hard)
    assert pick(toy, rules.Easiest(score)) == highest_of_each_class(hard, -1)
    ordered = [sorted(np.flatnonzero(label == LABELS), key=lambda i: -hard[i]) for label in range(CLASSES)]
    middle = sorted(i for members in ordered for i in members[2 : 2 + EACH])  # six images, of which two are taken
    assert pick(toy, rules.Window(score, start=0.5)) == middle
    hardest = sorted(sorted(range(COUNT), key=lambda i: -hard[i])[: EACH * CLASSES])
    assert pick(toy, rules.Hardest(score, balanced=False)) == hardest


def test_forgetting_counts_right_images_that_are_wrong_next_and_never_learned_ones_most(toy):
    right = toy.record._logits[0][1:].argmax(-1) == LABELS
    hard = [
        EPOCHS if not any(history) else sum(a and not b for a, b in itertools.pairwise(history)) for history in right.T
    ]
    given = task_of(toy.problem, EACH)
    difficulty = scores.Forgetting(RECORDED).of(given, given.groups()).difficulty
    np.testing.assert_array_equal(difficulty, hard)


def test_ccs_leaves_out_the_hardest_by_aum_and_takes_equal_shares_of_strata(toy, monkeypatch):
    """Of two strata by EL2N, the smaller first, with a budget of two: one image of each."""
    f, strata = toy.record._logits[0], budgets.strata
    monkeypatch.setattr(budgets, "strata", lambda *given: strata(*given, count=2))
    margins = [np.mean([row[i][LABELS[i]] - row[i][1 - LABELS[i]] for row in f[1:]]) for i in range(COUNT)]
    left = sorted(range(COUNT), key=lambda i: margins[i])[int(0.3 * COUNT) :]
    error = [math.dist(softmax(f[EPOCHS][i]), np.eye(CLASSES)[LABELS[i]]) for i in range(COUNT)]
    chosen = pick(toy, rules.CCS(scores.EL2N(RECORDED), drop=0.3))
    assert set(chosen) <= set(left)
    for label in range(CLASSES):
        members = [i for i in left if LABELS[i] == label]
        middle = (min(error[i] for i in members) + max(error[i] for i in members)) / 2
        assert sorted(error[i] >= middle for i in chosen if LABELS[i] == label) == [False, True]


def test_dual_draws_by_its_score_times_a_beta_density(toy):
    """Over many seeds images are drawn as often as the weights, written out, say."""
    score = scores.DUALScore(RECORDED, window=4)
    p = [[softmax(row[i])[LABELS[i]] for row in toy.record._logits[0][1:]] for i in range(COUNT)]
    windows = [[p[i][k : k + 4] for k in range(3)] for i in range(COUNT)]
    dual = [np.mean([np.std(w, ddof=1) * (1 - np.mean(w)) for w in windows[i]]) for i in range(COUNT)]
    mean = [np.mean(p[i]) for i in range(COUNT)]
    members = [i for i in range(COUNT) if LABELS[i] == 0]
    b = 15 * (1 - np.mean([mean[i] for i in members])) * (1 - (1 - 1 / 6) ** 4)  # there are six, and all are of the ten
    weights = np.array([dual[i] * mean[i] ** (15 - b) * (1 - mean[i]) ** (b - 1) for i in members])
    counts = np.zeros(len(members))
    for seed in range(400):
        toy.problem.seed = seed
        (first,) = [i for i in rules.DUAL(score).choose(task_of(toy.problem, 1)).indices if LABELS[i] == 0]
        counts[members.index(first)] += 1
    expected = weights / weights.sum()
    assert (np.abs(counts / 400 - expected) < 4 * np.sqrt(expected * (1 - expected) / 400) + 1e-9).all()


GEOMETRIC = {
    rules.Herding(): lambda points, label: greedy.herding(points, EACH),
    rules.KCenters(): lambda points, label: greedy.k_centers(points, EACH),
    rules.Medoids(): lambda points, label: greedy.medoids(
        points.vectors, EACH, int(generator(0, "k-means", label).integers(2**31))
    ),
    rules.FacilityLocation(): lambda points, label: greedy.facility_location(greedy.cosine_similarity(points), EACH),
    rules.GraphCut(trade_off=0.4): lambda points, label: greedy.graph_cut(greedy.cosine_similarity(points), EACH, 0.4),
    rules.CRAIG(): lambda points, label: greedy.facility_location(greedy.nearness(points), EACH),
    rules.Leverage(ridge=Ridge(0.1)): lambda points, label: greedy.leverage(
        points.gram(), EACH, Ridge(0.1), generator(0, "leverage", label)
    ),
    rules.Determinantal(): lambda points, label: greedy.determinantal(points, EACH),
}


@pytest.mark.parametrize("rule", GEOMETRIC, ids=lambda given: given.kind)
def test_a_geometric_rule_applies_its_function_to_each_class(toy, store, rule):
    """The functions are held against loops in `test_greedy.py`."""
    toy.problem.inputs = np.random.default_rng(1).normal(size=(COUNT, 2, 2, 1)).astype(np.float32)
    expected = []
    for label in range(CLASSES):
        members = np.flatnonzero(label == LABELS)
        expected += members[GEOMETRIC[rule](Vectors(toy.problem.inputs[members].reshape(-1, 4)), label)].tolist()
    assert chosen_by(toy.problem, rule, store).tolist() == expected


def test_grand_is_the_mean_over_networks_of_the_recorded_norms(toy, monkeypatch):
    norms = np.random.default_rng(2).normal(size=(2, 1, COUNT)) ** 2
    monkeypatch.setattr(Records, "gradient_norms", lambda self: norms)
    assert pick(toy, rules.Hardest(scores.GraNd(RECORDED))) == highest_of_each_class(norms.mean((0, 1)))
