"""Arrays in, a distilled set out: the run of `kip distill`, without a folder unless one is asked for."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

import kip
from kip import config
from kip.errors import CheckpointError, ConfigError, DataError

METHOD = kip.KIP(kernels=(kip.Architecture("FC", 1),), target_batch=40, steps=3)


def blobs(count, seed=0):
    """Grey images of two classes, dark and bright with noise, and their classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = (generator.random((count, 4, 4, 1)) + labels[:, None, None, None]) / 2
    return np.rint(255 * images).astype(np.uint8), labels


def distill(*arrays, **options):
    return kip.distill(*arrays, **{"method": METHOD, "show_progress": False, **options})


def test_arrays_give_a_set_and_leave_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images, labels = blobs(60)
    distilled = distill(images, labels)
    assert list(tmp_path.iterdir()) == []
    assert distilled.images.shape == (2, 4, 4, 1)
    assert distilled.metadata["test_accuracy"] is None
    assert distilled.class_names == []


def test_the_set_predicts_by_the_regression_that_judges_it():
    images, labels = blobs(60)
    test_images, test_labels = blobs(40, 1)
    distilled = distill(images, labels, test=(test_images, test_labels))
    predicted = distilled.predict(test_images)
    assert float((predicted == test_labels).mean()) == distilled.metadata["test_accuracy"] > 0.9
    scores = distilled.scores(test_images)
    assert scores.shape == (40, 2)
    np.testing.assert_array_equal(scores.argmax(1), predicted)
    np.testing.assert_allclose(distilled.scores(test_images / 255.0), scores, rtol=1e-4, atol=1e-5)


def test_a_folder_is_a_run_that_is_resumed_and_knows_its_arrays(tmp_path):
    images, labels = blobs(60)
    first = distill(images, labels, out=tmp_path / "run", validation=10)
    again = distill(images, labels, out=tmp_path / "run", validation=10)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.images, kip.load_set(tmp_path / "run" / "distilled.npz").images)
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    with pytest.raises(CheckpointError):
        distill(changed, labels, out=tmp_path / "run", validation=10)


def test_classes_may_have_names_and_parts_are_given():
    images, labels = blobs(60)
    names = np.array(["dark", "bright"])[labels]
    part = images[:20], names[:20]
    distilled = distill(images[20:, :, :, 0] / np.float32(255), names[20:], validation=part, test=part)
    assert distilled.class_names == ["bright", "dark"]
    assert distilled.metadata["validation_accuracy"] is not None
    assert np.array(distilled.class_names)[distilled.predict(part[0])].tolist() == names[:20].tolist()


@pytest.mark.parametrize(
    ("arrays", "options", "error", "words"),
    [
        (lambda x, y: (x, y[:-1]), {}, DataError, "59 labels"),
        (lambda x, y: (x.astype(np.float32), y), {}, DataError, "floats in"),
        (lambda x, y: (x[:, 0, 0], y), {}, DataError, "shape"),
        (lambda x, y: (x, y / 2), {}, DataError, "integers or strings"),
        (lambda x, y: (x, 0 * y), {}, DataError, "two"),
        (lambda x, y: (x, y), {"validation": 0}, ConfigError, "validation"),
        (lambda x, y: (x, y), {"method": "kipp"}, ConfigError, "kip"),
        (lambda x, y: (x, y), {"test": (blobs(4)[0], np.full(4, 7))}, DataError, "no train image has"),
        (lambda x, y: (x, y), {"test": (blobs(4)[0][:, :2], blobs(4)[1])}, DataError, "shape of train"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(arrays, options, error, words):
    with pytest.raises(error, match=words):
        distill(*arrays(*blobs(60)), **options)


def test_a_set_that_no_regression_judges_predicts_nothing():
    images, labels = blobs(60)
    distilled = distill(images, labels)
    about = {**distilled.metadata["method"], "judge": config.to_dict(kip.DM().judge)}
    other = distilled._replace(metadata={**distilled.metadata, "method": about})
    with pytest.raises(ConfigError, match="transfer_set"):
        other.predict(images)


def test_a_whitened_set_is_given_its_whitening():
    images, labels = blobs(60)
    preprocess = kip.Preprocess("zca")
    distilled = distill(images, labels, preprocess=preprocess)
    with pytest.raises(ConfigError, match="fit_preprocess"):
        distilled.predict(images)
    transform = kip.fit_preprocess(preprocess, images)
    assert (distilled.predict(images, transform=transform) == labels).mean() > 0.5


def test_a_data_set_of_arrays_is_split_as_a_run_of_them_is():
    generator = np.random.default_rng(0)
    images, labels = generator.random((60, 4, 4)), np.array(["ant", "bee", "cat"] * 20)
    dataset = kip.data_from_arrays(images, labels, validation=6, test=(images[:5], labels[:5]))
    assert [len(split.labels) for split in (dataset.train, dataset.validation, dataset.test)] == [54, 6, 5]
    assert np.bincount(dataset.validation.labels).tolist() == [2, 2, 2]
    assert dataset.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(dataset.test.images[..., 0], np.rint(255 * images[:5]))
    method = kip.KIP(1, kernels=(kip.Architecture("FC", 1),), target_batch=30, steps=1)
    made = kip.distill(images, labels, method=method, validation=6, test=(images[:5], labels[:5]), show_progress=False)
    assert made.metadata["train_sha256"] == dataset.train.digest()
