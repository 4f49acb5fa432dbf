"""The pick of a published method on twelve images, against the method written out in loops."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from kip.errors import ConfigError
from kip.methods.selection import geometric, pruning
from kip.methods.selection.geometric import Geometric
from kip.methods.selection.pruning import Pruning
from kip.networks import Network
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

    for module in (pruning, geometric):
        monkeypatch.setattr(module, "record", record)
    problem = SimpleNamespace(
        labels=LABELS, num_classes=CLASSES, inputs=np.zeros((COUNT, 2, 2, 1)), seed=0, mirror_keeps_class=True
    )
    return SimpleNamespace(problem=problem, asked=asked, **of_purpose)


def pick(toy, method):
    return sorted(method.choose(toy.problem, None).indices.tolist())


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
    d2 = Pruning(EACH, score="el2n", keep="graph", drop=0.4, neighbours=2, recording=Recording(epochs=EPOCHS))
    assert pick(toy, d2) == sorted(chosen)
    assert pick(toy, dataclasses.replace(d2, drop=0.0)) != sorted(chosen)


def test_cad_prune_takes_what_varies_most_in_a_training_of_k_epochs(toy):
    """K is 6: 18 epochs of 4 chosen images are as much work as 6 of all 12. Windows of 4 begin at epochs 1 and 2."""
    logits = toy.record._logits[0]
    p = [[softmax(row[i])[LABELS[i]] for row in logits] for i in range(COUNT)]
    cad = [np.mean([np.std(p[i][k : k + 4], ddof=1) for k in (1, 2)]) for i in range(COUNT)]
    network = Network("FC1", width=8)
    protocol = dataclasses.replace(PROTOCOLS["HL"], epochs=18)
    method = Pruning(EACH, score="cad", protocol=protocol, recording=Recording(network, seeds=2))
    assert pick(toy, method) == highest_of_each_class(cad)
    assert toy.asked == [("record", compute_aligned(6, network=network, seeds=2))]


def test_cad_prune_is_refused_where_it_is_not_defined():
    """CIFAR-10 at 10 images of each class: 300 epochs of 100 images are two thirds of one epoch of 45 000."""
    labels = np.arange(45_000) % 10
    problem = SimpleNamespace(labels=labels, num_classes=10)
    with pytest.raises(ConfigError, match=r"K of cad.*; got 0\.67: 300 epochs .*; expected at least 4, .*not defined"):
        Pruning(10, score="cad").choose(problem, None)
    with pytest.raises(ConfigError, match=r"expected at least 8, for 2 windows of 6 epochs"):
        Pruning(100, score="cad", window=6).choose(problem, None)


def test_el2n_sl_takes_the_distance_from_another_network_s_soft_labels(toy):
    own, teacher = toy.record._logits[0][3], toy.teacher._logits[0][-1]
    distance = [math.dist(softmax(own[i], 4.0), softmax(teacher[i], 4.0)) for i in range(COUNT)]
    recording, longer = Recording(epochs=EPOCHS), Recording(epochs=EPOCHS, batch=64)
    method = Pruning(EACH, score="el2n_sl", epoch=3, temperature=4.0, recording=recording, teacher=longer)
    assert pick(toy, method) == highest_of_each_class(distance)
    assert pick(toy, dataclasses.replace(method, keep="easiest")) == highest_of_each_class(distance, -1)
    assert toy.asked[:2] == [("record", recording), ("teacher", longer)]


def test_cal_takes_the_highest_divergence_from_neighbours_of_any_class(toy):
    logits, features = toy.record._logits[0][-1], toy.record.features()
    p = [softmax(row) for row in logits]
    cal = []
    for i in range(COUNT):
        near = nearest_of(features, i, range(COUNT), 3)
        cal.append(np.mean([sum(a * math.log(a / b) for a, b in zip(p[j], p[i])) for j in near]))
    assert pick(toy, Pruning(EACH, score="cal", neighbours=3)) == highest_of_each_class(cal)


def test_cal_of_deepcore_takes_the_lowest_symmetric_divergence_from_the_class(toy):
    logits, features = toy.record._logits[0][-1], toy.record.features()
    p = [softmax(row) for row in logits]
    cal = []
    for i in range(COUNT):
        near = nearest_of(features, i, np.flatnonzero(LABELS[i] == LABELS), 3)
        cal.append(np.mean([sum((a - b) * (math.log(a) - math.log(b)) / 2 for a, b in zip(p[i], p[j])) for j in near]))
    method = Pruning(EACH, score="cal_deepcore", keep="easiest", neighbours=3)
    assert pick(toy, method) == highest_of_each_class(cal, -1)


@pytest.mark.parametrize("on", ["all", "class"])
def test_glister_takes_gradients_that_lower_the_loss_of_all_images_or_of_their_class(toy, on):
    """Gradients of the last layer are written out; the layer moves after each choice, by a step that has no unit."""
    logits, f = toy.record.last().astype(float), toy.record.features()
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
    method = Geometric(EACH, by="glister", space="gradients", glister_on=on, step_size=0.7)
    if on == "all":
        assert pick(toy, method) == sorted(chosen)
    else:
        positions = [method._of_class(toy.problem, toy.record, np.flatnonzero(c == LABELS), EACH, c) for c in (0, 1)]
        assert sorted(np.concatenate([choice.indices for choice in positions])) == sorted(chosen)


@pytest.mark.parametrize("keep", ["hardest", "easiest", "window", "strata", "graph"])
def test_images_that_are_equally_hard_are_chosen_by_the_seed(toy, keep):
    toy.record._logits[0][:] = 0
    method = Pruning(EACH, score="forgetting", keep=keep, neighbours=3, recording=Recording(epochs=EPOCHS))
    kept = set()
    for seed in range(6):
        toy.problem.seed = seed
        kept.add(tuple(pick(toy, method)))
    assert len(kept) > 3
    assert kept != {(0, 1, 2, 3)}
