"""Files as people bring them: each is read as it is meant, or refused with what to do; none is wrong in silence."""

import logging
import struct
import unicodedata
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from kip import data
from kip.data import Data
from kip.errors import DataError
from kip.sets.importing import import_set


def fill(folder, write, *, names=("ant", "bee"), count=5, ending="png"):
    """Write pictures of each class by `write(path, class, index)`."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            write(folder / name / f"{index}.{ending}", number, index)


def plain(path, number, index):
    Image.fromarray(np.full((4, 4, 3), 20 * number + index, np.uint8)).save(path)


def load(folder, caplog=None, **options):
    if caplog is not None:
        caplog.set_level(logging.INFO, "kip.data")
    return data.load(Data(folder.name, validation=2, **options), folder.parent)


def pixels(folder, caplog=None):
    """Return the first picture of a folder of equal ones."""
    return np.asarray(load(folder, caplog).train.images)[0]


def arrays(path, **changes):
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3)).astype(np.uint8)
    classes = np.arange(24) % 3
    held = {"x_train": images, "y_train": classes, "x_test": images[:6], "y_test": classes[:6]}
    np.savez(path / "mine.npz", **{**held, **changes})
    return data.load(Data("mine", validation=3), path)


def test_colours_for_print_are_those_that_are_seen(tmp_path):
    """CMYK in a JPEG by Photoshop's convention, whose values are turned, and in a TIFF as they are."""
    red = Image.new("RGB", (8, 8), (200, 40, 40)).convert("CMYK")
    for ending in ("jpg", "tif"):
        fill(tmp_path / ending, lambda path, *_: red.save(path), ending=ending)
        np.testing.assert_allclose(pixels(tmp_path / ending)[4, 4].astype(int), (200, 40, 40), atol=3)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_camera_that_was_turned_gives_upright_pictures(tmp_path, orientation, turns):
    """Of 8 pixels high and 6 wide, with a bright lower half; orientations 6 and 8 are quarter turns."""
    values = np.zeros((8, 6, 3), np.uint8)
    values[4:] = 250
    exif = Image.Exif()
    exif[274] = orientation
    fill(tmp_path / "photos", lambda path, *_: Image.fromarray(values).save(path, exif=exif))
    np.testing.assert_array_equal(pixels(tmp_path / "photos"), np.rot90(values, turns))


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path, caplog, ending):
    if ending == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    frames = [Image.new("RGB", (4, 4), (value,) * 3) for value in (30, 120, 240)]
    options: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    fill(
        tmp_path / "films",
        lambda path, *_: frames[0].save(path, save_all=True, append_images=frames[1:], **options),
        ending=ending,
    )
    assert pixels(tmp_path / "films", caplog).max() == 30
    assert "10 have several frames or pages, of which the first is taken" in caplog.text


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_palette_with_a_transparent_colour_lies_over_the_background(tmp_path, transparency):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([200, 10, 20, 0, 0, 0])
    picture.putpixel((3, 3), 1)
    fill(tmp_path / "icons", lambda path, *_: picture.save(path, transparency=transparency))
    seen = pixels(tmp_path / "icons")
    assert seen[0, 0].tolist() == [200, 10, 20]
    assert seen[3, 3].tolist() == [255, 255, 255]


def tiff(path, values, photometric):
    """Write a grey TIFF as scanners do, by hand: Pillow would turn the values itself."""
    height, width = values.shape
    bits = 8 * values.dtype.itemsize
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    entries[279] = values.nbytes
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + struct.pack("<H", len(entries)) + fields + b"\0" * 4
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("photometric", "expected"), [(0, 155), (1, 100)])
def test_a_scan_whose_white_is_zero_is_not_its_own_negative(tmp_path, dtype, photometric, expected):
    """X-ray pictures and scans often say PhotometricInterpretation 0; 16 bits of them came as negatives."""
    values = np.full((4, 4), 100 if dtype == np.uint8 else 100 * 257, dtype)
    values[0, 0] = np.iinfo(dtype).max
    fill(tmp_path / "scans", lambda path, *_: tiff(path, values, photometric), ending="tif")
    seen = pixels(tmp_path / "scans")
    assert seen[2, 2, 0] == expected
    assert seen[0, 0, 0] == (0 if photometric == 0 else 255)


def test_classes_that_are_numbers_stand_in_the_order_of_numbers(tmp_path):
    """Of folders and of strings in a file alike: 10 follows 9, and not 1."""
    names = tuple(str(number) for number in range(12))
    fill(tmp_path / "pets", plain, names=names)
    assert load(tmp_path / "pets").class_names == names
    texts = np.array(names)
    loaded = arrays(tmp_path, y_train=texts[np.arange(24) % 12], y_test=texts[:6])
    assert loaded.class_names == names
    np.testing.assert_array_equal(loaded.test.labels, np.arange(6))


def test_parts_whose_classes_differ_in_case_or_code_are_matched(tmp_path, caplog):
    """A folder from a Mac has é as two codes; `Sports Car` is `sports_car`."""
    composed, taken_apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    fill(tmp_path / "pets" / "train", plain, names=("Sports Car", composed))
    fill(tmp_path / "pets" / "test", plain, names=("sports_car", taken_apart), count=3)
    loaded = load(tmp_path / "pets", caplog)
    assert loaded.class_names == ("Sports Car", composed)
    np.testing.assert_array_equal(np.asarray(loaded.test.images)[:, 0, 0, 0] // 20, loaded.test.labels)
    assert "'sports_car' as 'Sports Car' of train" in caplog.text


def test_classes_that_differ_in_case_alone_are_said(tmp_path, caplog):
    fill(tmp_path / "pets", plain, names=("Cat", "cat", "dog"))
    assert load(tmp_path / "pets", caplog).num_classes == 3
    assert "'Cat' and 'cat' are taken as different classes" in caplog.text


def test_classes_without_a_test_picture_are_said(tmp_path, caplog):
    fill(tmp_path / "pets" / "train", plain, names=("ant", "bee", "cat"))
    fill(tmp_path / "pets" / "test", plain, names=("ant", "bee"))
    load(tmp_path / "pets", caplog)
    assert "10 for testing (test), none of 1 classes (cat)" in caplog.text


def test_an_empty_folder_of_a_class_is_refused_with_what_to_do(tmp_path):
    fill(tmp_path / "pets", plain)
    (tmp_path / "pets" / "cat").mkdir()
    with pytest.raises(DataError, match=r"pets/cat; got no image in it.*Put pictures into it, or move it"):
        load(tmp_path / "pets")


def test_images_that_were_scaled_before_they_became_bytes_are_said(tmp_path, caplog):
    """The usual slip: `(x / 255).astype(np.uint8)` is black."""
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3))
    black = (images / 256).astype(np.uint8)
    arrays(tmp_path, x_train=black, x_test=black[:6])
    assert "x_train has no value above 0 of 255, which is black. Bytes are 0..255" in caplog.text
    with pytest.raises(DataError, match=r"differ in range; got values up to 255 in x_train and up to 1 in x_test"):
        arrays(tmp_path, x_test=(images[:6] > 127).astype(np.uint8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_train": np.eye(3)[np.arange(24) % 3]}, r"rank; got shape \(24, 3\).*y.argmax\(1\)"),
        ({"y_train": np.eye(3, dtype=int)[np.arange(24) % 3]}, r"y.argmax\(1\)"),
        ({"y_train": (np.arange(24) % 3)[None]}, r"Flatten a row with y\[0\]"),
        ({"y_train": np.arange(24) % 3 + 1, "y_test": np.arange(6) % 3 + 1}, "no image of class 0, and the label 3"),
        ({"y_train": np.arange(24) % 3.0}, "got float64; expected integers. Number the classes from 0"),
        ({"x_train": np.full((24, 4, 4, 3), 200)}, r"got int64.*The values fit: write x.astype\(np.uint8\)"),
        ({"x_train": np.full((24, 4, 4, 3), 51400, np.uint16)}, r"Values from 51400 to 51400 are no bytes.*x // 257"),
        ({"x_train": np.ones((24, 4, 4, 3), bool)}, r"astype\(np.uint8\) \* 255"),
        ({"x_train": np.full((24, 3, 4, 4), 9, np.uint8)}, r"x.transpose\(0, 2, 3, 1\)"),
    ],
)
def test_arrays_of_another_form_are_refused_with_the_line_that_mends_them(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        arrays(tmp_path, **changes)


def test_numbers_of_another_machine_are_the_same_numbers(tmp_path):
    """Big-endian arrays, as old formats and other machines have them, of a data set and of a set that is imported."""
    loaded = arrays(tmp_path, y_train=(np.arange(24) % 3).astype(">i4"), y_test=(np.arange(6) % 3).astype(">i8"))
    np.testing.assert_array_equal(loaded.test.labels, np.arange(6) % 3)
    images = np.random.default_rng(0).random((10, 8, 8, 1)).astype(np.float32)
    sets = []
    for order in ("<", ">"):
        np.savez(tmp_path / "set.npz", images=images.astype(f"{order}f4"), labels=np.arange(10).astype(f"{order}i2"))
        sets.append(import_set(tmp_path / "set.npz", Data("digits"), name="mine", values="pixels"))
    np.testing.assert_array_equal(sets[0].images_preprocessed, sets[1].images_preprocessed)
    np.testing.assert_array_equal(sets[0].class_index, sets[1].class_index)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("birds", "birds.zip lies in the data folder: unpack it into a folder birds"),
        ("fish.h5", "fish.h5 lies in the data folder: write its arrays into fish.npz"),
        ("PETZ", "Did you mean pets?"),
        ("mine.npz", r"Did you mean mine\? Put mine.npz with"),
    ],
)
def test_a_name_that_is_nearly_there_is_answered_with_what_lies_there(tmp_path, name, words):
    fill(tmp_path / "pets", plain)
    arrays(tmp_path)
    for file in ("birds.zip", "fish.h5"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(DataError, match=words):
        data.load(Data(name), tmp_path)
