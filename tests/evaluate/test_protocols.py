"""Protocols: what each trains on, the cells of a table, the average over networks, and K-centers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import ConfigError
from kip.evaluate.protocols import Candidate, Cell, cross_architecture, judge, stored_bytes
from kip.methods.selection import greedy
from kip.methods.selection.points import Vectors
from kip.networks import Network, network
from kip.training.augment import UNFLIPPED, for_classes
from kip.training.batches import Batches
from kip.training.protocols import PROTOCOLS
from kip.training.recipe import scheduled
from kip.training.supervised import Labeller

FC = Network("FC1", width=16)


def blobs(rng, count):
    """Three classes of 4x4 images about random centres."""
    centres = np.random.default_rng(7).normal(size=(3, 4, 4, 1))
    classes = np.arange(count) % 3
    return (centres[classes] + rng.normal(0, 0.5, (count, 4, 4, 1))).astype(np.float32), classes


def short(name, **changes):
    return dataclasses.replace(PROTOCOLS[name], epochs=60, augment="none", **changes)


@pytest.fixture
def world(rng):
    images, classes = blobs(rng, 12)
    candidate = Candidate("set", images, np.eye(3, dtype=np.float32)[classes] - np.float32(1 / 3))
    test = blobs(rng, 90)
    return candidate, test


def oracle(shift):
    """A teacher that answers (class of the nearest centre + shift) mod 3, by one dense layer on the pixels."""
    centres = np.random.default_rng(7).normal(size=(3, 16))
    model = network("FC1", 3, width=16)
    body = {"kernel": jnp.eye(16), "bias": jnp.full(16, 10.0)}  # ReLU lets all pass
    order = np.roll(np.arange(3), shift)
    weights = centres[order].T
    bias = -0.5 * (centres[order] ** 2).sum(1) - 10 * weights.sum(0)
    readout = {"kernel": jnp.asarray(20 * weights), "bias": jnp.asarray(20 * bias)}
    return Labeller(model, {"params": {"Dense_0": body, "readout": readout}})


@pytest.mark.slow
def test_hard_labels_take_the_argmax_and_soft_labels_the_teachers(world):
    candidate, test = world
    chosen = [short("HL", rate=0.05), short("SL", rate=0.02), short("SL+KD", rate=0.02), short("OWN", rate=0.05)]
    shifted = (test[1] + 1) % 3
    for truth, expected in ((test[1], [True, False, False, True]), (shifted, [False, True, True, False])):
        cells = [
            judge(
                candidate, FC, protocol, test=(test[0], truth), mirror_keeps_class=True, teachers=[oracle(1)], seeds=2
            )
            for protocol in chosen
        ]
        assert [cell.protocol for cell in cells] == ["HL", "SL", "SL+KD", "OWN"]
        assert [cell.mean > 0.85 for cell in cells] == expected
        for cell in cells:
            assert cell.mean == pytest.approx(np.mean(cell.accuracies))
            assert cell.deviation == pytest.approx(np.std(cell.accuracies, ddof=1))


def test_soft_labels_without_a_teacher_are_refused(world):
    candidate, test = world
    with pytest.raises(ConfigError, match=r"teacher of SL\+KD"):
        judge(candidate, FC, PROTOCOLS["SL+KD"], test=test, mirror_keeps_class=True)


def test_the_bytes_of_a_set_are_those_of_its_images_and_of_the_labels_that_the_training_needs(world):
    candidate, _ = world  # 12 images of 4x4 pixels, 3 classes
    images = 12 * 16 * 4
    expected = {"HL": images + 12, "OWN": images + 12 * 3 * 4, "SL": images + 12 * 3 * 4}
    for name, count in expected.items():
        assert stored_bytes(candidate, PROTOCOLS[name]) == count
    assert stored_bytes(candidate, dataclasses.replace(PROTOCOLS["SL+KD"], epochs=5)) == images + 5 * 12 * 3 * 4
    many = Candidate("many", candidate.images, np.zeros((12, 300), np.float32))
    assert stored_bytes(many, PROTOCOLS["HL"]) == images + 2 * 12


def test_the_average_over_networks_can_leave_the_own_one_out():
    cells = [
        Cell("a", name, "HL", mean, 0.0, [mean], 0, 0.0)
        for name, mean in (("ConvNet", 0.9), ("FC1", 0.5), ("VGG11", 0.7))
    ]
    assert cross_architecture(cells) == {("a", "HL"): pytest.approx(0.7)}
    assert cross_architecture(cells, without="ConvNet") == {("a", "HL"): pytest.approx(0.6)}


def test_every_protocol_names_its_paper_and_makes_a_recipe():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.paper
        recipe = protocol.recipe(10, mirror_keeps_class=False)
        public = protocol.schedule == "dc"
        assert (recipe.keep, recipe.steps) == ("last", protocol.epochs + public)
        assert recipe.augment == for_classes(protocol.augment or "dsa", False)
        assert recipe.augment not in UNFLIPPED
        assert protocol.recipe(10, mirror_keeps_class=True).augment == (protocol.augment or "dsa")
        assert protocol.recipe(2 * protocol.batch, mirror_keeps_class=True).steps == 2 * (protocol.epochs + public)
        assert recipe.loss in (("kl", "mean") if protocol.needs_teacher else ("xent", "mse"))
        assert recipe.temperature == ({"SRe2L": 30}.get(name, 20) if recipe.loss == "kl" else 1)
        assert (recipe.mix, recipe.class_weight) == (protocol.mix, protocol.class_weight)


def test_what_a_protocol_would_ignore_is_refused():
    with pytest.raises(ConfigError, match="class_weight"):
        dataclasses.replace(PROTOCOLS["HL"], class_weight=0.1)
    with pytest.raises(ConfigError, match="mix"):
        dataclasses.replace(PROTOCOLS["SL"], mix="mixup")


@pytest.mark.parametrize(("name", "epochs"), [("DC", 300), ("DSA", 1000), ("DC-MNIST", 1000), ("DC-BENCH", 1000)])
def test_the_public_loop_of_dc_and_dsa_is_followed_to_the_pass(name, epochs):
    recipe = PROTOCOLS[name].recipe(500, mirror_keeps_class=True)
    batches = Batches(500, recipe.batch, recipe.drawn)
    rates, rate = [], 0.01  # as the public code: the passes of `range(epochs + 1)`, a new optimiser after one of them
    for epoch in range(epochs + 1):
        rates += [rate, rate]  # a batch of 256 and one of 244
        rate = 0.001 if epoch == epochs // 2 + 1 else rate
    assert [batches.length(step) for step in range(4)] == [256, 244, 256, 244]
    assert recipe.steps == len(rates)
    steps = range(recipe.steps)
    ours = [0.01 * float(scheduled("halfway", step, recipe.steps, recipe.restart_at)) for step in steps]
    np.testing.assert_allclose(ours, rates, rtol=1e-6)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay, recipe.loss) == (0.9, 5e-4, "xent")


def test_k_centers_takes_the_middle_and_then_the_farthest():
    line = np.array([0.0, 1, 2, 3, 10, 100, 101]).reshape(-1, 1, 1, 1)
    classes = np.array([0, 0, 0, 0, 0, 1, 1])

    def k_centers(label, per_class):
        members = np.flatnonzero(classes == label)
        return members[greedy.k_centers(Vectors(line[members].reshape(len(members), -1)), per_class)]

    np.testing.assert_array_equal(np.concatenate([k_centers(0, 2), k_centers(1, 2)]), [3, 4, 5, 6])
    assert set(k_centers(0, 3)) == {3, 4, 0}
