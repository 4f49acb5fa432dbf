"""The parts of a folder of pictures, under the names that people give them; what is left out is said in one line."""

import logging

import numpy as np
import pytest
from PIL import Image, features

from kip import data
from kip.errors import DataError

NAMES = ("cat", "dog", "owl")


def fill(folder, count, *, names=NAMES, ending="png", first=0, within=""):
    """Write so many pictures of each class; a pixel's value is the number of the picture."""
    for name in names:
        (folder / name / within).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            pixels = np.full((4, 4), index, np.uint8)
            Image.fromarray(pixels).save(folder / name / within / f"{index}.{ending}", lossless=True)


def load(folder, caplog=None, **options):
    if caplog is not None:
        caplog.set_level(logging.INFO, "kip.data")
    return data.load(data.Data(folder.name, **options), folder.parent)


def values(split):
    return sorted({int(image[0, 0, 0]) for image in np.asarray(split.images)})


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "valid"),
        ("train", "val"),
        ("train", "validation"),
        ("Training", "Testing"),
        ("Train", "Test"),
        ("training_set", "test_set"),
        ("TRAIN", "VALID"),
    ],
)
def test_the_second_part_is_the_test_part_whatever_it_is_called(tmp_path, caplog, train, test):
    fill(tmp_path / "pets" / train, 6)
    fill(tmp_path / "pets" / test, 2, first=50)
    loaded = load(tmp_path / "pets", caplog, validation=3)
    assert values(loaded.test) == [50, 51]
    assert len(loaded.train.labels) + len(loaded.validation.labels) == 18
    assert caplog.messages == [f"pets: 24 pictures of 3 classes: 18 to learn from, 6 for testing ({test})"]


def test_valid_beside_test_is_the_validation_part_unless_a_number_is_asked_for(tmp_path, caplog):
    for number, part in enumerate(("train", "valid", "test")):
        fill(tmp_path / "pets" / part, 4, first=50 * number)
    loaded = load(tmp_path / "pets", caplog)
    assert values(loaded.validation) == [50, 51, 52, 53]
    assert values(loaded.test) == [100, 101, 102, 103]
    assert len(loaded.train.labels) == 12
    assert "12 to learn from, 12 for testing (test), 12 for validation (valid)" in caplog.text
    caplog.clear()
    loaded = load(tmp_path / "pets", validation=3)
    assert values(loaded.validation) == sorted(set(values(loaded.validation)) & {0, 1, 2, 3})
    assert "left out: valid, because --data.validation holds out train images" in caplog.text


def test_a_flat_test_folder_is_named_and_a_fifth_of_train_is_kept(tmp_path, caplog):
    fill(tmp_path / "pets" / "train", 10)
    fill(tmp_path / "pets", 7, names=("test",), first=50)
    loaded = load(tmp_path / "pets", caplog, validation=3)
    assert max(values(loaded.test)) < 10
    assert "a fixed fifth of each class for testing; left out: test, 7 pictures without classes" in caplog.text


def test_tiny_imagenet_is_read_as_it_is_downloaded(tmp_path, caplog):
    ids = ("n01443537", "n01629819", "n01641577")
    root = tmp_path / "tiny-imagenet-200"
    fill(root / "train", 6, names=ids, within="images")
    for name in ids:
        (root / "train" / name / f"{name}_boxes.txt").write_text("x")
    fill(root / "val", 5, names=("images",), first=50)
    lines = [f"{50 + row}.png\t{ids[(2 * row) % 3]}\t0\t0\t1\t1\n" for row in range(5)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    fill(root / "test", 2, names=("images",), first=90)
    loaded = load(root, caplog, validation=3)
    assert loaded.class_names == ids
    assert [int(image[0, 0, 0]) for image in loaded.test.images] == [50, 51, 52, 53, 54]
    assert loaded.test.labels.tolist() == [0, 2, 1, 0, 2]
    assert len(loaded.train.labels) + len(loaded.validation.labels) == 18
    assert "left out: test, 2 pictures without classes, 3 .txt" in caplog.text
    (root / "val" / "val_annotations.txt").write_text("50.png\tn99999999\t0\n")
    with pytest.raises(DataError, match="the class 'n99999999'; expected classes of train"):
        load(root)


def test_pictures_in_folders_within_a_class_are_counted_and_taken_if_wanted(tmp_path, caplog):
    fill(tmp_path / "pets", 5)
    fill(tmp_path / "pets", 2, first=50, within="more/deep")
    (tmp_path / "pets" / "cat" / "notes.heic").write_text("no picture that is decoded")
    loaded = load(tmp_path / "pets", caplog, validation=3)
    assert len(loaded.train.labels) + len(loaded.validation.labels) + len(loaded.test.labels) == 15
    assert "left out: 6 in folders within a class (--data.recursive True takes them), 1 .heic" in caplog.text
    whole = load(tmp_path / "pets", validation=3, recursive=True)
    parts = [whole.train, whole.validation, whole.test]
    assert sum(len(part.labels) for part in parts) == 21
    assert set().union(*map(values, parts)) == {0, 1, 2, 3, 4, 50, 51}


def test_a_class_with_pictures_in_its_folders_alone_names_the_option(tmp_path):
    fill(tmp_path / "pets", 5, within="images")
    with pytest.raises(DataError, match=r"no image in it, and 5 in folders within it.*--data\.recursive True"):
        load(tmp_path / "pets")


def test_jfif_and_avif_are_pictures(tmp_path):
    fill(tmp_path / "pets", 5)
    picture = Image.fromarray(np.full((4, 4), 200, np.uint8))
    picture.save(tmp_path / "pets" / "cat" / "a.jfif", format="JPEG")
    picture.save(tmp_path / "pets" / "cat" / "b.jpe", format="JPEG")
    if features.check("avif"):
        picture.save(tmp_path / "pets" / "cat" / "c.avif")
    loaded = load(tmp_path / "pets", validation=2)
    parts = [loaded.train, loaded.validation, loaded.test]
    assert sum(len(part.labels) for part in parts) == 17 + bool(features.check("avif"))


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "vehicles", 5, names=("bus", "car", "train"))
    assert load(tmp_path / "vehicles", validation=3).class_names == ("bus", "car", "train")


def test_what_lies_beside_classes_and_parts_is_named(tmp_path, caplog):
    fill(tmp_path / "pets" / "train", 5)
    fill(tmp_path / "pets" / "extra", 5)
    (tmp_path / "pets" / "__MACOSX" / "train").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "pets" / "cover.png")
    load(tmp_path / "pets", caplog, validation=3)
    assert "left out: 1 pictures in no class's folder, the folder extra" in caplog.text
    assert "MACOSX" not in caplog.text


@pytest.mark.parametrize(
    ("parts", "flat", "words"),
    [
        (("train", "Training"), (), "got Training and train; expected one of them"),
        (("valid",), (), "got valid, and no other folder; expected `train` with a folder"),
        ((), ("train", "test"), "got train, test, and no other folder"),
        ((), ("cat", "dog", "test"), "got test, and 2 other folders.*Move the classes' folders into .*train"),
    ],
)
def test_parts_that_are_not_clear_are_refused(tmp_path, parts, flat, words):
    for part in parts:
        fill(tmp_path / "pets" / part, 4)
    fill(tmp_path / "pets", 4, names=flat)
    with pytest.raises(DataError, match=words):
        load(tmp_path / "pets")


def test_a_folder_around_the_set_is_named(tmp_path):
    fill(tmp_path / "archive" / "pets", 4, names=("cat", "dog"))
    with pytest.raises(DataError, match="no image in it, and 8 in folders within it"):
        load(tmp_path / "archive")


def test_names_that_a_terminal_would_obey_are_escaped_where_they_enter(tmp_path, caplog):
    names = ("a\x1b[2Jb", "c\nd", "e\u202ef")
    fill(tmp_path / "pets", 5, names=names)
    (tmp_path / "pets" / names[0] / "broken.png").write_bytes(b"no picture")
    loaded = load(tmp_path / "pets", caplog, validation=3)
    assert loaded.class_names == (r"a\x1b[2Jb", r"c\nd", r"e\u202ef")
    assert "broken.png" in caplog.text
    assert "\x1b" not in caplog.text
    (tmp_path / "pets" / "g\x1bh").mkdir()
    with pytest.raises(DataError) as caught:
        load(tmp_path / "pets")
    assert r"g\x1bh" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_folders_whose_names_are_not_utf8_are_classes(tmp_path):
    import os

    fill(tmp_path / "pets", 5, names=("dog",))
    name = os.fsencode(tmp_path / "pets") + b"/caf\xe9"
    try:
        os.mkdir(name)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    for index in range(5):
        Image.fromarray(np.full((4, 4), index, np.uint8)).save(os.fsdecode(name + b"/%d.png" % index))
    loaded = load(tmp_path / "pets", validation=2)
    assert loaded.class_names == (r"caf\xe9", "dog")
    assert len(loaded.train.labels) == 6
