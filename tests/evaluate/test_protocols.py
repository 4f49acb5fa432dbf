"""Protocols: what each trains on, the table, the average over networks, K-centers, and the command."""

import dataclasses
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from kip import cli, train
from kip.distill import KIP
from kip.errors import ConfigError
from kip.evaluate import augmentation, protocols
from kip.evaluate.protocols import PROTOCOLS, Candidate, cross_architecture, k_centers, table
from kip.evaluate.training import Teacher
from kip.experiment import Experiment
from kip.finite import Network, network
from kip.kernels.architecture import Architecture

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
    return Teacher(model, {"params": {"Dense_0": body, "readout": readout}})


@pytest.mark.slow
def test_hard_labels_take_the_argmax_and_soft_labels_the_teachers(world):
    candidate, test = world
    chosen = [short("HL", rate=0.05), short("SL", rate=0.02), short("SL+KD", rate=0.02), short("OWN", rate=0.05)]
    shifted = (test[1] + 1) % 3
    for truth, expected in ((test[1], [True, False, False, True]), (shifted, [False, True, True, False])):
        cells = table([candidate], [FC], chosen, validation=test, test=(test[0], truth), teacher=oracle(1), seeds=2)
        assert [cell.protocol for cell in cells] == ["HL", "SL", "SL+KD", "OWN"]
        assert [cell.mean > 0.85 for cell in cells] == expected
        for cell in cells:
            assert cell.mean == pytest.approx(np.mean(cell.accuracies))
            assert cell.deviation == pytest.approx(np.std(cell.accuracies, ddof=1))


def test_soft_labels_without_a_teacher_are_refused(world):
    candidate, test = world
    with pytest.raises(ConfigError, match=r"teacher of SL\+KD"):
        table([candidate], [FC], [PROTOCOLS["SL+KD"]], validation=test, test=test)


def test_the_average_over_networks_can_leave_the_own_one_out():
    cells = [
        protocols.Cell("a", name, "HL", mean, 0.0, [])
        for name, mean in (("ConvNet", 0.9), ("FC1", 0.5), ("VGG11", 0.7))
    ]
    assert cross_architecture(cells) == {("a", "HL"): pytest.approx(0.7)}
    assert cross_architecture(cells, without="ConvNet") == {("a", "HL"): pytest.approx(0.6)}


def test_every_protocol_names_its_paper_and_makes_a_recipe():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.paper
        recipe = protocol.recipe(100, 1)
        assert (recipe.keep, recipe.augment, recipe.steps) == ("last", "dsa_digits", protocol.epochs)
        assert protocol.recipe(500, 3).augment == "dsa"
        assert protocol.recipe(512, 3).steps == 2 * protocol.epochs
        assert (recipe.loss == "kl") == protocol.labels.startswith("teacher")
        assert recipe.temperature == (20 if recipe.loss == "kl" else 1)


def test_k_centers_takes_the_middle_and_then_the_farthest():
    line = np.array([0.0, 1, 2, 3, 10, 100, 101]).reshape(-1, 1, 1, 1)
    classes = np.array([0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(k_centers(line, classes, 2), [3, 4, 5, 6])
    assert set(k_centers(line[:5], classes[:5], 3)) == {3, 4, 0}


@pytest.mark.parametrize("kind", ["shift", "flip_shift", "dsa", "dsa_digits", "noise"])
def test_an_augmentation_changes_images_by_its_key_alone(rng, kind):
    import jax

    images = jnp.asarray(rng.normal(size=(6, 8, 8, 3)), jnp.float32)
    draws = [augmentation.augmented(kind, jax.random.key(seed), images) for seed in range(8)]
    again = augmentation.augmented(kind, jax.random.key(0), images)
    np.testing.assert_array_equal(draws[0], again)
    assert all(draw.shape == images.shape and np.isfinite(draw).all() for draw in draws)
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(draws))


def test_each_operation_does_what_it_says(rng):
    import jax

    key = jax.random.key(3)
    images = jnp.asarray(rng.normal(size=(20, 8, 8, 1)), jnp.float32)
    shifted = augmentation._shift(key, images)
    for image, moved in zip(images, shifted):
        candidates = [np.pad(image, ((1, 1), (1, 1), (0, 0)))[r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
        assert any(np.array_equal(moved, candidate) for candidate in candidates)
    flipped = augmentation._flip(key, images)
    sides = [np.array_equal(a, b) for a, b in zip(images, flipped)]
    assert 0 < sum(sides) < 20
    assert all(np.array_equal(a, b[:, ::-1]) for a, b, same in zip(images, flipped, sides) if not same)
    cut = np.asarray(augmentation._cutout(key, images))
    assert ((cut == 0) | (cut == np.asarray(images))).all()
    assert 1 <= (cut == 0).any((1, 3)).sum(1).max() <= 4
    identity = augmentation._affine(images[0], jnp.eye(2))
    np.testing.assert_allclose(identity, images[0], atol=1e-6)
    quarter = augmentation._affine(images[0], jnp.array([[0.0, 1.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(quarter[..., 0], np.rot90(images[0][..., 0], 1), atol=1e-5)


@pytest.mark.slow
def test_the_command_makes_the_table(tmp_path, capsys):
    method = KIP(images_per_class=1, target_batch=200, steps=2, kernels=(Architecture("FC", 1),))
    train.run(Experiment(method=method), tmp_path / "tiny", show_progress=False)
    options = "--protocol HL SL --network FC1 LeNet --width 6 --baseline random k-centers --epochs 2 --seeds 1"
    teacher = "--teacher FC1 --teacher-width 32 --teacher-steps 200"
    out = tmp_path / "tiny" / "protocols.json"
    arguments = ["protocols", str(tmp_path / "tiny" / "distilled.npz"), *options.split(), *teacher.split()]
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert len(found["cells"]) == 3 * 2 * 2
    assert {cell["candidate"] for cell in found["cells"]} == {"tiny", "random", "k-centers"}
    assert len(found["average"]) == 3 * 2
    assert found["teacher_validation_accuracy"] > 0.6
    assert found["epochs"] == [2, 2]
    assert json.loads(out.read_text()) == found
    assert cli.main(["protocols", str(tmp_path / "tiny"), "--protocol", "ZL"]) == 2
    assert "HL, SL, SL+KD" in capsys.readouterr().err
