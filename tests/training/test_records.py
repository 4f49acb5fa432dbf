"""Training records: what a file holds, that a kill loses nothing, and gradients of single images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import ConfigError, DataError
from kip.networks import Network
from kip.networks.model import Model
from kip.storage.artefacts import Store
from kip.training import records
from kip.training.losses import per_example
from kip.training.predict import logits
from kip.training.protocols import PROTOCOLS
from kip.training.records import Recording, Rows, compute_aligned, gradient_norms, record

SMALL = Network("FC1", width=8)
RECORDING = Recording(SMALL, epochs=4, seeds=2, batch=25, augment="none")


@pytest.fixture
def images(rng):
    return rng.normal(size=(60, 4, 4, 1)).astype(np.float32), rng.integers(0, 3, 60)


def make(images, store, gradients_after=(1,), recording=RECORDING, **options):
    pixels, classes = images
    return record(
        recording,
        SMALL,
        pixels,
        classes,
        3,
        seed=0,
        mirror_keeps_class=False,
        store=store,
        gradients_after=gradients_after,
        **options,
    )


def files(records):
    return [np.array(rows) for rows in (*records._logits, *records._norms)]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.slow
def test_the_last_row_is_what_the_trained_network_gives(images, store):
    made = make(images, store)
    assert made.epochs == 4
    for seed, variables in enumerate(made.variables):
        np.testing.assert_array_equal(made.columns(slice(None))[seed, -1], logits(made.model, variables, images[0]))
    columns = made.columns(np.array([3, 9]))
    assert columns.shape == (2, 5, 2, 3)
    assert not np.array_equal(columns[0], columns[1]), "each seed is a network of its own"
    one_hot = jnp.eye(3)[images[1]]
    losses = [per_example("xent", made.columns(slice(None))[0, row], one_hot).mean() for row in (0, -1)]
    assert losses[1] < losses[0], "it has learned"


def test_a_compute_aligned_recording_is_a_whole_training_by_the_recipe_of_hl():
    """The optimiser, schedule, batches and augmentation are those of the protocol, at the length of the recording."""
    recording = compute_aligned(7, network=SMALL, seeds=3)
    assert (recording.network, recording.epochs, recording.seeds) == (SMALL, 7, 3)
    for keeps in (True, False):
        ours = recording.recipe(1000, mirror_keeps_class=keeps)
        protocol = PROTOCOLS["HL"].recipe(1000, mirror_keeps_class=keeps)
        assert (ours.steps, ours.drawn) == (7 * 4, "whole_epochs"), "the last batch of an epoch is what is left of it"
        assert ours == dataclasses.replace(protocol, steps=ours.steps, drawn=ours.drawn)


@pytest.mark.slow
def test_a_schedule_changes_all_epochs_and_not_the_end_alone(images, store):
    """The first epochs of a longer training are not a shorter training, where the rate falls as a cosine."""
    short, long = (make(images, store, (), dataclasses.replace(RECORDING, epochs=n, seeds=1)) for n in (2, 4))
    np.testing.assert_array_equal(short.columns(slice(None))[:, 0], long.columns(slice(None))[:, 0])
    assert not np.allclose(short.columns(slice(None))[:, 2], long.columns(slice(None))[:, 2], atol=1e-3)
    halved = make(images, store, (), dataclasses.replace(RECORDING, epochs=4, seeds=1, schedule="halfway"))
    assert not np.allclose(halved.columns(slice(None))[:, 4], long.columns(slice(None))[:, 4], atol=1e-3)


def test_flips_are_left_out_where_a_mirror_image_has_another_class():
    for augment, expected in ((None, ("flip_shift", "shift")), ("dsa", ("dsa", "dsa_no_flip"))):
        recording = dataclasses.replace(RECORDING, augment=augment)
        assert tuple(recording.recipe(60, mirror_keeps_class=keeps).augment for keeps in (True, False)) == expected


def test_a_teacher_is_another_network_and_its_last_logits_come_beside_the_scored_ones(images, store, monkeypatch):
    made, teacher = make(images, store, ()), make(images, store, (), purpose="teacher")
    np.testing.assert_array_equal(teacher.final(), teacher.columns(slice(None))[:, -1])
    assert not np.allclose(made.columns(slice(None))[:, 0], teacher.columns(slice(None))[:, 0], atol=1e-3)
    monkeypatch.setattr(records, "COLUMN_BYTES", 7 * 4 * 2 * 5 * 3)
    beside = made.scores(lambda logits, classes, other: (logits[:, -1] * other).sum((0, 2)), teacher)
    np.testing.assert_allclose(beside, (made.final() * teacher.final()).sum((0, 2)), rtol=1e-5)


def test_columns_read_in_parts_are_all_columns(images, store, monkeypatch):
    made = make(images, store)
    whole = made.columns(slice(None)).sum((0, 1, 3))
    monkeypatch.setattr(records, "COLUMN_BYTES", 7 * 4 * 2 * 5 * 3)
    sizes = []
    parts = made.scores(lambda logits, classes: sizes.append(len(classes)) or logits.sum((0, 1, 3)))
    assert set(sizes) == {7, 4}
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_recording_resumes_to_the_same_bits(at, images, store, tmp_path, monkeypatch):
    """It is killed while the row of some epoch is written, of the first network or the second."""
    whole = files(make(images, store))
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "killed"))
    written, original = [], Rows.write

    def dying(self, row, values):
        if values.ndim == 2:
            written.append(row)
            if len(written) == at:
                original(self, row, values * 0.5)  # a part of a row may be on the disk
                raise Killed
        original(self, row, values)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "write", dying)
        with pytest.raises(Killed):
            make(images, Store(show_progress=False))
    written.clear()
    counted = lambda self, row, values: written.append(row) or original(self, row, values)  # noqa: E731
    monkeypatch.setattr(Rows, "write", counted)
    again = files(make(images, Store(show_progress=False)))
    for ours, theirs in zip(again, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(written) <= 12 - (at - 1) + 2, "epochs that were saved are not recorded again"


def test_a_recording_that_is_there_is_not_made_again(images, store, monkeypatch):
    whole = files(make(images, store))
    monkeypatch.setattr(Rows, "write", None)
    for ours, theirs in zip(files(make(images, store)), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:500])])
def test_rows_that_are_lost_are_recorded_again(images, store, tmp_path, damage):
    whole = files(make(images, store))
    for path in (tmp_path / "cache" / "artefacts").glob("record-0-*.logits.npy"):
        damage(path)
    for ours, theirs in zip(files(make(images, store)), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_row_that_was_never_written_is_refused(tmp_path):
    rows = Rows(tmp_path / "rows.npy", (2, 3))
    rows.write(0, np.ones(3))
    with pytest.raises(DataError, match="lacks a row"):
        rows.read()
    rows.write(1, np.arange(3))
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), [[1, 1, 1], [0, 1, 2]])


def test_gradients_after_an_epoch_that_is_not_recorded_are_refused(images, store):
    with pytest.raises(ConfigError, match=r"epoch of the gradients; got 5; expected at most recording\.epochs, 4"):
        make(images, store, gradients_after=(5,))


@pytest.mark.slow
def test_gradient_norms_are_those_of_a_loop_over_images(images, monkeypatch):
    model = Model(Network("ConvVec1", width=2, norm="layer"), 3)
    inputs, labels = images[0][:6], np.eye(3, dtype=np.float32)[images[1][:6]]
    variables = model.init(jax.random.key(0), inputs.shape[1:])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
    monkeypatch.setattr(records, "GRADIENT_NUMBERS", 4 * parameters)  # four images at a time, and then two

    def loss(params, image, label):
        return per_example("xent", model.apply({"params": params}, image[None]).logits, label[None])[0]

    gradient, expected = jax.jit(jax.grad(loss)), []
    for image, label in zip(inputs, labels):
        leaves = jax.tree.leaves(gradient(variables["params"], image, label))
        expected.append(np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in leaves])))
    np.testing.assert_allclose(gradient_norms(model, variables, inputs, labels), expected, rtol=1e-5)
