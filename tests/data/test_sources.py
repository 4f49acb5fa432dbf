import json

import numpy as np
import pytest

from helpers.interpreter import printed
from kip.config import from_json, to_dict
from kip.data import Data, load, sources, tfds
from kip.errors import ConfigError, DataError


def write_npz(folder, name="tiny", per_class=30, classes=3):
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(classes), per_class)
    # The index is written into the pixels, so that an image names itself after any split.
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    np.savez(
        folder / f"{name}.npz",
        x_train=images,
        y_train=labels,
        x_test=generator.integers(0, 256, (6, 4, 4, 1), dtype=np.uint8),
        y_test=np.arange(6) % classes,
    )
    return images, labels


def test_digits_are_whole_8x8_grey_images_in_three_parts_without_overlap():
    data = load(Data())
    assert data.name == "digits"
    assert data.num_classes == 10
    parts = [data.train, data.validation, data.test]
    assert sum(len(part.labels) for part in parts) == 1797
    assert len(data.test.labels) == 359
    assert len(data.validation.labels) == 143
    images = np.concatenate([part.images for part in parts])
    assert images.shape[1:] == (8, 8, 1)
    assert images.dtype == np.uint8
    assert images.min() == 0
    assert images.max() == 255

    from sklearn.datasets import load_digits

    def key(rows, labels):
        return sorted(map(tuple, np.column_stack([rows.reshape(len(rows), -1), labels]).tolist()))

    original = load_digits()
    got = key(np.rint(images * (16 / 255)).astype(int), np.concatenate([part.labels for part in parts]))
    assert got == key(original.images.astype(int), original.target)


def test_the_test_part_and_the_split_do_not_depend_on_validation_size_or_seed():
    first, second = load(Data()), load(Data(validation=50, split_seed=3))
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert len(second.validation.labels) == 50


def test_validation_and_train_are_disjoint_cover_train_and_are_balanced(tmp_path):
    _images, labels = write_npz(tmp_path)
    data = load(Data(name="tiny", validation=31), tmp_path)
    train, validation = data.train.images[:, 0, 0, 0], data.validation.images[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    np.testing.assert_array_equal(data.validation.labels, labels[validation])
    np.testing.assert_array_equal(data.train.labels, labels[train])
    assert sorted(np.bincount(data.validation.labels)) == [10, 10, 11]


def test_the_split_is_reproducible_and_follows_its_own_seed(tmp_path):
    write_npz(tmp_path)
    first, again, other = (load(Data(name="tiny", split_seed=seed), tmp_path).validation for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_validation_defaults_to_a_tenth_and_may_be_none_at_all(tmp_path):
    write_npz(tmp_path)
    assert len(load(Data(name="tiny"), tmp_path).validation.labels) == 9
    nothing = load(Data(name="tiny", validation=0), tmp_path)
    assert nothing.validation.images.shape == (0, 4, 4, 1)
    assert len(nothing.train.labels) == 90


def test_the_default_validation_is_capped_at_5000():
    labels = np.arange(120_000) % 10
    counts = []

    def read(name, data_dir):
        split = sources.Split(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)
        return sources.Source(split, split, 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_read", read)
        counts = np.bincount(load(Data(name="large")).validation.labels)
    assert counts.tolist() == [500] * 10


def test_a_small_class_gives_at_most_half_and_the_others_make_up_for_it():
    labels = np.repeat([0, 1, 2], [6, 100, 100])
    chosen = sources.held_out(labels, 43, num_classes=3, seed=0, purpose="p")
    assert np.bincount(labels[chosen]).tolist() == [3, 20, 20]
    with pytest.raises(DataError, match="at most 103"):
        sources.held_out(labels, 104, num_classes=3, seed=0, purpose="p")


def test_the_folder_comes_from_the_argument_before_the_environment(tmp_path, monkeypatch):
    for folder, classes in (("argument", 2), ("environment", 3)):
        (tmp_path / folder).mkdir()
        write_npz(tmp_path / folder, classes=classes)
    monkeypatch.setenv("KIP_DATA_DIR", str(tmp_path / "environment"))
    assert load(Data(name="tiny"), tmp_path / "argument").num_classes == 2
    assert load(Data(name="tiny")).num_classes == 3


def test_a_name_that_nothing_has_lists_where_it_was_looked_for(tmp_path, monkeypatch):
    asked = []

    def read(name):
        asked.append(name)
        raise tfds.UnknownName("no data set of that name")

    monkeypatch.setattr(tfds, "read", read)
    with pytest.raises(DataError) as caught:
        load(Data(name="nowhere"), tmp_path)
    text = str(caught.value)
    assert asked == ["nowhere"]
    for part in ("'nowhere'", "digits", str(tmp_path / "nowhere.npz"), "tensorflow-datasets", "--data-dir", "x_train"):
        assert part in text
    monkeypatch.delenv("KIP_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="KIP_DATA_DIR is unset"):
        load(Data(name="nowhere"))


def test_loading_digits_imports_neither_tensorflow_nor_jax():
    script = (
        "import sys, json, kip.data, kip.preprocess\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'jax', 'sklearn', 'scipy', 'PIL'}\n"
        "at_import = sorted(heavy & set(sys.modules))\n"
        "kip.data.load(kip.data.Data())\n"
        "print(json.dumps([at_import, sorted({'tensorflow', 'tensorflow_datasets', 'jax'} & set(sys.modules))]))"
    )
    assert json.loads(printed(script)) == [[], []]


def test_data_survives_json_and_refuses_a_negative_validation():
    data = Data(name="cifar10", validation=100, split_seed=2)
    assert from_json(Data, json.dumps(to_dict(data)), source="test") == data
    with pytest.raises(ConfigError, match="validation"):
        Data(validation=-1)


def test_shrink_averages_squares_of_pixels():
    images = np.arange(2 * 4 * 6 * 1).reshape(2, 4, 6, 1).astype(np.uint8)
    small = sources.shrunk(images, 2)
    assert small.shape == (2, 2, 3, 1)
    assert small[0, 0, 0, 0] == round((0 + 1 + 6 + 7) / 4)
    assert sources.shrunk(images, 1) is images
    assert load(Data("digits", shrink=2)).test.images.shape[1:] == (4, 4, 1)
    with pytest.raises(DataError, match="divisor of both sides"):
        load(Data("digits", shrink=3))


@pytest.mark.parametrize("name", ["digits", "tiny"])
def test_a_data_folder_that_does_not_exist_is_an_error_at_once(tmp_path, name):
    with pytest.raises(DataError, match=r"--data-dir; got .*nowhere; expected a folder of NAME.npz files that exists"):
        load(Data(name=name), tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "meant"), [("tinny", "tiny"), ("digit", "digits")])
def test_a_mistyped_data_set_is_answered_with_the_nearest_name(tmp_path, monkeypatch, name, meant):
    def read(name):
        raise tfds.UnknownName("no data set of that name")

    monkeypatch.setattr(tfds, "read", read)
    write_npz(tmp_path)
    with pytest.raises(DataError, match=f"Did you mean {meant}\\?"):
        load(Data(name=name), tmp_path)
