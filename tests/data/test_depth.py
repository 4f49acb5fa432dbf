"""Pictures of more than 8 bits, of floats and with transparency: the pixels of the plain picture, or a refusal."""

import logging

import numpy as np
import pytest
from PIL import Image

from kip import data
from kip.data import image_folder
from kip.data.image_folder import Look, ValuesError, decoded
from kip.errors import ConfigError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10)).astype(np.uint8)


def saved(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path, ending):
    path = saved(tmp_path / f"deep.{ending}", PIXELS.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decoded(path, 1)[..., 0], PIXELS)
    np.testing.assert_array_equal(decoded(path, 3), np.stack([PIXELS] * 3, axis=2))


def test_big_endian_integers_and_floats_give_the_same_pixels(tmp_path):
    big = tmp_path / "big.pgm"
    big.write_bytes(b"P5 10 12 65535\n" + (PIXELS.astype(">u2") * 257).tobytes())
    np.testing.assert_array_equal(decoded(big, 1)[..., 0], PIXELS)
    floats = saved(tmp_path / "floats.tif", PIXELS.astype(np.float32) / 255)
    np.testing.assert_array_equal(decoded(floats, 1)[..., 0], PIXELS)


def test_a_deep_picture_is_scaled_down_as_its_shallow_one(tmp_path):
    plain = saved(tmp_path / "plain.png", PIXELS)
    deep = saved(tmp_path / "deep.png", PIXELS.astype(np.uint16) * 257)
    for resize in ("crop", "pad", "stretch"):
        difference = decoded(deep, 1, Look(6, resize)).astype(int) - decoded(plain, 1, Look(6, resize))
        assert np.abs(difference).max() <= 2  # Pillow rounds and clips bytes after each of two passes


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (PIXELS.astype(np.float32), "floats from 0 to 255; expected floats in"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
        (PIXELS.astype(np.int32) - 1000, "values from -1000 to -7.*; expected 0 to 65535"),
        (PIXELS.astype(np.int32) * 1000, "values from 0 to 255000; expected 0 to 65535"),
    ],
)
def test_values_of_an_unknown_range_are_refused_by_name(tmp_path, array, words):
    path = saved(tmp_path / "set" / "a" / "odd.tif", array)
    with pytest.raises(ValuesError, match=rf"odd\.tif; got {words}"):
        decoded(path, 1)
    for label in "ab":
        for number in range(3):
            saved(tmp_path / "set" / label / f"{number}.tif", np.zeros(array.shape, array.dtype))
    with pytest.raises(DataError, match=r"odd\.tif"):  # and not left out as a file that cannot be read
        data.load(data.Data("set"), tmp_path)


def folder(path, depth, bits):
    """Write two classes of pictures of so many bits within 16."""
    generator = np.random.default_rng(0)
    for label in "ab":
        for number in range(5):
            values = generator.integers(0, 2**depth, (6, 6)).astype(np.uint16)
            values[0, 0] = 2**depth - 1
            saved(path / label / f"{number}.{bits}", values)
    return path


def load(path, **options):
    return data.load(data.Data(path.name, validation=2, **options), path.parent)


@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_the_depth_of_a_set_is_the_least_that_holds_its_largest_value(tmp_path, caplog, depth):
    caplog.set_level(logging.INFO, "kip.data")
    loaded = load(folder(tmp_path / "cells", depth, "tif"))
    assert [int(image[0, 0, 0]) for image in loaded.test.images] == [255, 255]
    first = np.asarray(Image.open(tmp_path / "cells" / "a" / "0.tif"))
    expected = np.rint(first * (255 / (2**depth - 1))).astype(np.uint8)
    whole = [*loaded.train.images, *loaded.validation.images, *loaded.test.images]
    assert any((image[..., 0] == expected).all() for image in whole)
    assert f"10 have values of {depth} bits (--data.depth)" in caplog.text


def test_the_depth_may_be_said_and_is_held_against_the_values(tmp_path):
    folder(tmp_path / "cells", 12, "png")
    loaded = load(tmp_path / "cells", depth=16)
    assert np.asarray(loaded.test.images).max() == round(4095 * 255 / 65535)
    with pytest.raises(DataError, match=r"expected 0 to 1023, which are 10 bits.*--data\.depth"):
        load(tmp_path / "cells", depth=10)


def test_transparency_lies_over_the_background_and_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "kip.data")
    icon = np.zeros((6, 6, 4), np.uint8)
    icon[2:4, 2:4, 3] = 255  # black on nothing
    for label in "ab":
        for number in range(5):
            saved(tmp_path / "icons" / label / f"{number}.png", icon)
    white = load(tmp_path / "icons").train.images
    assert white[0, 0, 0].tolist() == [255, 255, 255]
    assert white[0, 2, 2].tolist() == [0, 0, 0]
    assert caplog.text.count("10 have transparency, which is laid over white (--data.background)") == 1
    assert len(caplog.messages) == 1
    assert np.asarray(load(tmp_path / "icons", background="black").train.images).max() == 0
    coloured = load(tmp_path / "icons", background="#ff8000").train.images
    assert coloured[0, 0, 0].tolist() == [255, 128, 0]
    with pytest.raises(ConfigError, match="background"):
        data.Data("icons", background="octarine")


def test_every_kind_of_transparency_lies_over_white(tmp_path):
    clear = np.zeros((4, 4, 2), np.uint8)
    Image.fromarray(clear, "LA").save(tmp_path / "grey.png")
    Image.new("P", (4, 4), 0).save(tmp_path / "palette.png", transparency=0)
    Image.new("P", (4, 4), 0).save(tmp_path / "palette.gif", transparency=0)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "colour.webp", lossless=True)
    for name in ("grey.png", "palette.png", "palette.gif", "colour.webp"):
        assert image_folder.header(tmp_path / name).is_transparent
        assert (decoded(tmp_path / name, 3) == 255).all(), name
    assert (decoded(tmp_path / "grey.png", 1) == 255).all()


def test_another_background_decodes_anew_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KIP_IN_MEMORY_MIB", "0")
    for label in "ab":
        for number in range(5):
            saved(tmp_path / "icons" / label / f"{number}.png", np.zeros((6, 6, 4), np.uint8))
    assert load(tmp_path / "icons").train.images[:].min() == 255
    assert load(tmp_path / "icons", background="black").train.images[:].max() == 0
