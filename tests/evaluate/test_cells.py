"""Protocols: what each trains on, the cells of a table, the average over networks, and K-centers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import ConfigError
from kip.evaluate import cells
from kip.evaluate.cells import Candidate, Cell, cross_architecture, judge, stored_bytes
from kip.methods.selection import greedy
from kip.methods.selection.points import Vectors
from kip.networks import Network, network
from kip.training.augment import UNFLIPPED, for_classes
from kip.training.batches import Batches
from kip.training.losses import per_example
from kip.training.protocols import PROTOCOLS, for_set
from kip.training.recipe import rate_fraction
from kip.training.supervised import Labeller, Trained

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


def test_a_judge_begins_with_room_for_its_programs(world, monkeypatch):
    candidate, test = world
    asked = []
    monkeypatch.setattr(cells.machine, "forget_programs_near_limit", lambda: asked.append("asked"))
    with pytest.raises(ConfigError):
        judge(candidate, FC, PROTOCOLS["SL+KD"], test=test, mirror_keeps_class=True)
    assert asked == ["asked"]


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
        assert protocol.label == name
        assert recipe.loss in (("kl", "mean") if protocol.needs_teacher else ("xent", "mse"))
        assert recipe.temperature == ({"SRe2L": 30}.get(name, 20) if recipe.loss == "kl" else 1)
        assert (recipe.mix, recipe.class_weight) == (protocol.mix, protocol.class_weight)


UPDATES = [
    ("HL", 100, 300), ("HL", 500, 600), ("HL", 1000, 1200), ("HL-plain", 1000, 1200), ("SL", 1000, 1200),
    ("SL+KD", 500, 600), ("FKD", 1000, 1200), ("OWN", 500, 600), ("DC", 500, 602), ("DSA", 500, 2002),
    ("DC-BENCH", 500, 2002), ("MTT", 500, 2002), ("SRe2L", 500, 1600), ("SRe2L", 100, 400), ("RDED", 1010, 3300),
    ("G-VBSM", 100, 2000), ("EDC", 100, 10_000), ("EDC", 15, 2000), ("FADRM", 100, 7000), ("HL-large", 120, 600),
    ("SL-large", 300, 600), ("SL+KD-large", 300, 600),
]  # fmt: skip
"""Updates of protocols on sets of a size: epochs times the batches that PyTorch's loader makes of it, the last one too;
the public loop of DC, DSA and MTT makes one pass more."""


@pytest.mark.parametrize(("name", "count", "updates"), UPDATES)
def test_an_epoch_is_the_whole_set(name, count, updates):
    recipe = PROTOCOLS[name].recipe(count, mirror_keeps_class=True)
    batches = Batches(count, recipe.batch, recipe.drawn)
    assert recipe.steps == updates
    assert sum(batches.length(step) for step in range(batches.of_epoch)) == count


@pytest.mark.parametrize(
    ("classes", "images_per_class", "student", "teacher", "expected"),
    [
        (10, 1, "ConvNet-D3", "ConvNet-D3", (10, 1e-3)),
        (10, 10, "ResNet18", "ResNet18", (50, 1e-3)),
        (10, 50, "ConvNet-D3", "ConvNet-D3", (100, 1e-3)),
        (100, 1, "ResNet18", "ResNet18", (20, 1e-3)),
        (100, 10, "ResNet18", "ResNet18", (100, 1e-3)),
        (100, 50, "ResNet18", "ResNet18", (200, 1e-3)),
        (100, 50, "ConvNet-D3", "ConvNet-D3", (25, 2e-3)),
        (100, 10, "ConvNet-D3", "ResNet18", (100, 1e-3)),
        (100, 10, "MobileNetV2", "ResNet18", (100, 2.5e-3)),
        (200, 10, "ConvNet-D4", "ConvNet-D4", (100, 1e-3)),
        (1000, 50, "ResNet18", "ResNet18", (200, 1e-3)),
    ],
)
def test_rded_trains_in_the_batches_of_its_public_code(classes, images_per_class, student, teacher, expected):
    networks = {"student": Network(student), "teacher": Network(teacher)}
    for name in ("RDED", "RDED-tiles"):
        fitted = for_set(PROTOCOLS[name], classes=classes, images_per_class=images_per_class, **networks)
        assert (fitted.batch, fitted.rate) == expected
        assert (f"batch={expected[0]}" in fitted.label) == (expected[0] != PROTOCOLS[name].batch)
    hard = for_set(
        PROTOCOLS["HL-large"], classes=classes, images_per_class=images_per_class, student=networks["student"]
    )
    assert hard.batch == {1: 50, 10: 50, 50: 128}[images_per_class]
    for name in ("HL", "SL", "SRe2L"):
        same = for_set(PROTOCOLS[name], classes=classes, images_per_class=images_per_class, **networks)
        assert same == PROTOCOLS[name]


def trained_with(monkeypatch, protocol, candidate, **options):
    """Return the recipe, the rates and the labels that a protocol trains networks with."""
    seen = {}

    def noted(model, recipe, keys, rates, decays, images, labels, validation, **more):
        seen.update(recipe=recipe, rates=rates, labels=labels)
        return Trained([model.init(jax.random.key(0), images.shape[1:])], *[np.zeros(1)] * 4)

    monkeypatch.setattr("kip.training.post_training.train_all", noted)
    options = {"test": (candidate.images, np.zeros(len(candidate.images), int)), "mirror_keeps_class": True, **options}
    judge(candidate, FC, protocol, seeds=1, **options)
    return seen


def test_mtt_trains_at_the_rate_of_the_set_and_others_at_their_own(world, monkeypatch):
    candidate, _ = world
    learned = candidate._replace(rate=0.034)
    assert trained_with(monkeypatch, PROTOCOLS["MTT"], learned)["rates"].tolist() == [0.034]
    assert trained_with(monkeypatch, PROTOCOLS["DSA"], learned)["rates"].tolist() == [0.01]
    mtt, dsa = (PROTOCOLS[name].recipe(500, mirror_keeps_class=True) for name in ("MTT", "DSA"))
    assert (mtt.steps, mtt.batch, mtt.restart_at, mtt.augment, mtt.optimizer.momentum, mtt.optimizer.weight_decay) == (
        dsa.steps,
        dsa.batch,
        dsa.restart_at,
        "dsa",
        0.9,
        5e-4,
    )
    with pytest.raises(ConfigError, match="--rate"):
        trained_with(monkeypatch, PROTOCOLS["MTT"], candidate)


def test_a_teachers_labels_are_compared_at_the_temperature(world, monkeypatch):
    candidate, _ = world
    seen = trained_with(monkeypatch, PROTOCOLS["SL"], candidate, teachers=[oracle(1)])
    given, outputs = np.asarray(seen["labels"], float), np.random.default_rng(0).normal(size=(12, 3))
    centres, pixels = np.random.default_rng(7).normal(size=(3, 16)), candidate.images.reshape(12, 16)
    scores = pixels @ centres.T - 0.5 * (centres**2).sum(1)
    np.testing.assert_allclose(given, 20 * np.roll(scores, 1, axis=1), rtol=1e-3, atol=1e-2)

    def soft(logits):
        grown = np.exp(logits / 20 - (logits / 20).max(1, keepdims=True))
        return grown / grown.sum(1, keepdims=True)

    target, ours = soft(given), soft(outputs)
    direct = (target * np.log(target / ours)).sum(1)
    recipe = seen["recipe"]
    losses = per_example(recipe.loss, jnp.asarray(outputs), jnp.asarray(given), temperature=recipe.temperature)
    np.testing.assert_allclose(losses, direct, rtol=1e-4)


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
    ours = [0.01 * float(rate_fraction("halfway", step, recipe.steps, recipe.restart_at)) for step in steps]
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
