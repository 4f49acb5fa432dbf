"""Sets that are larger than what is held in memory: pictures decoded into the cache, and .npz files read in place."""

import json
import os
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from kip import data, preprocess
from kip.data import decoded, image_folder
from kip.errors import DataError, OutputError
from kip.preprocess import Preprocess
from kip.storage import npz as archives
from kip.storage.images import Chosen, Held, Lazy, Stored

NAMES = ("cat", "dog", "owl")
SPLITS = ("train", "validation", "test")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache folder; every set is too large for memory."""
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KIP_IN_MEMORY_MIB", "0")
    return tmp_path / "cache"


def draw(folder, counts=(9, 6, 7), mode="RGB", size=(8, 6)):
    rng = np.random.default_rng(0)
    for name, count in zip(NAMES, counts):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{index}.png")
    return folder


def load(folder, **options):
    return data.load(data.Data(folder.name, validation=3, **options), folder.parent)


def in_memory(folder, monkeypatch, **options):
    with monkeypatch.context() as patched:
        patched.delenv("KIP_IN_MEMORY_MIB")
        return load(folder, **options)


def assert_equal(ours, theirs):
    assert ours.class_names == theirs.class_names
    for name in SPLITS:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert isinstance(a.images, Lazy)
        assert isinstance(b.images, np.ndarray)
        np.testing.assert_array_equal(a.images[:], b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.digest() == b.digest()


def pixels_of(cache):
    (folder,) = cache.glob("pictures-*")
    return folder / decoded.PIXELS


@pytest.mark.parametrize("options", [{}, {"side": 4}, {"side": 4, "shrink": 2}, {"side": 4, "resize": "pad"}], ids=str)
@pytest.mark.parametrize("layout", ["classes", "parts"])
def test_a_folder_on_disk_is_the_folder_in_memory(tmp_path, monkeypatch, cache, layout, options):
    if layout == "parts":
        draw(tmp_path / "pets" / "train")
        draw(tmp_path / "pets" / "val", (1, 2, 1))
    else:
        draw(tmp_path / "pets")
    assert_equal(load(tmp_path / "pets", **options), in_memory(tmp_path / "pets", monkeypatch, **options))
    assert pixels_of(cache).exists()


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_picture_becomes_a_square_by_its_rule(tmp_path, resize):
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, :8], picture[:, 8:16], picture[:, 16:] = 50, 150, 250
    Image.fromarray(picture).save(tmp_path / "wide.png")
    square = image_folder.decoded(tmp_path / "wide.png", 3, image_folder.Look(12, resize))
    assert square.shape == (12, 12, 3)
    middle = square[6, :, 0].tolist()
    if resize == "crop":
        assert all(abs(value - 150) < 20 for value in middle)
    else:
        assert abs(middle[1] - 50) < 12
        assert abs(middle[6] - 150) < 12
        assert abs(middle[10] - 250) < 12
        assert (square[0] == 0).all() == (resize == "pad")


def test_preprocessing_fitted_and_applied_on_disk_has_the_same_bits(tmp_path, monkeypatch, cache):
    draw(tmp_path / "pets")
    ours, theirs = load(tmp_path / "pets"), in_memory(tmp_path / "pets", monkeypatch)
    monkeypatch.setattr("kip.storage.images.PART_BYTES", 300)
    for kind in ("none", "standardize", "zca", "zca_notebook", "zca_frepo", "zca_kornia"):
        a, b = (preprocess.fit(Preprocess(kind), of.train.images, cache_dir=tmp_path / kind) for of in (ours, theirs))
        assert a.describe() == b.describe()
        applied = a.apply(ours.test.images)
        assert isinstance(applied, Lazy)
        assert (applied.shape, applied.dtype) == (theirs.test.images.shape, np.float32)
        if kind in ("none", "standardize"):
            np.testing.assert_array_equal(applied[:], b.apply(theirs.test.images))
        else:  # a product of fewer rows may round differently in BLAS
            np.testing.assert_allclose(applied[:], b.apply(theirs.test.images), atol=1e-6)
        np.testing.assert_array_equal(a.statistics(ours.test.images), b.statistics(theirs.test.images))


def test_pictures_are_decoded_once(tmp_path, monkeypatch, cache):
    draw(tmp_path / "pets")
    first = load(tmp_path / "pets")
    written = pixels_of(cache).stat().st_mtime_ns
    monkeypatch.setattr(decoded, "_decode", None)
    again = load(tmp_path / "pets")
    assert again.train.digest() == first.train.digest()
    assert pixels_of(cache).stat().st_mtime_ns == written


def test_a_changed_picture_is_seen(tmp_path, monkeypatch, cache):
    draw(tmp_path / "pets")
    before = load(tmp_path / "pets")
    Image.fromarray(np.full((6, 8, 3), 77, np.uint8)).save(tmp_path / "pets" / "cat" / "0.png")
    assert_equal(load(tmp_path / "pets"), in_memory(tmp_path / "pets", monkeypatch))
    assert any((image == 77).all() for split in SPLITS for image in getattr(load(tmp_path / "pets"), split).images)
    assert not any((image == 77).all() for split in SPLITS for image in getattr(before, split).images)


@pytest.mark.parametrize("damage", ["a byte", "cut short", "no pixels", "no sums", "odd sums", "unreadable sums"])
def test_a_damaged_cache_is_mended(tmp_path, monkeypatch, cache, damage):
    monkeypatch.setattr(decoded, "CHUNK_BYTES", 5 * 8 * 6 * 3)
    draw(tmp_path / "pets")
    (tmp_path / "pets" / "dog" / "broken.png").write_bytes(b"no picture")
    first, pixels = load(tmp_path / "pets").train.digest(), pixels_of(cache)
    sums = pixels.with_name(decoded.CHUNKS)
    content = pixels.read_bytes()
    if damage == "a byte":
        pixels.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif damage == "cut short":
        pixels.write_bytes(content[:-100])
    elif damage == "no pixels":
        pixels.unlink()
    elif damage == "no sums":
        sums.unlink()
    elif damage == "odd sums":
        sums.write_text(json.dumps({"crc32": ["a", None], "unreadable": {"x": 3}}))
    else:
        sums.write_text("{")
    decoding = []
    decode = decoded._decode
    monkeypatch.setattr(decoded, "_decode", lambda *given: decoding.append(given[1]) or decode(*given))
    assert load(tmp_path / "pets").train.digest() == first
    assert pixels.read_bytes() == content
    if damage in ("a byte", "cut short"):
        assert len(decoding) == 1


def test_a_kill_in_the_middle_loses_one_chunk_and_leaves_the_same_bits(tmp_path, monkeypatch, cache):
    draw(tmp_path / "pets")
    whole = in_memory(tmp_path / "pets", monkeypatch)
    monkeypatch.setattr(decoded, "CHUNK_BYTES", 5 * 8 * 6 * 3)
    # A process that stops itself, as by kill -9, while it writes its third chunk.
    program = (
        "import os, signal, sys\n"
        "from kip import data\n"
        "from kip.data import decoded\n"
        "decoded.CHUNK_BYTES = 5 * 8 * 6 * 3\n"
        "write = decoded._Noted.write\n"
        "def dying(self, number, content, unreadable):\n"
        "    if number == 2:\n"
        "        with self.pixels.open('r+b') as file:\n"
        "            file.seek(10 * 8 * 6 * 3)\n"
        "            file.write(content.tobytes()[:100])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, number, content, unreadable)\n"
        "decoded._Noted.write = dying\n"
        f"data.load(data.Data('pets', validation=3), {str(tmp_path)!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, timeout=60)
    assert ended.returncode == -9, ended.stderr
    decoding = []
    decode = decoded._decode
    monkeypatch.setattr(decoded, "_decode", lambda *given: decoding.append(given[1].start) or decode(*given))
    assert_equal(load(tmp_path / "pets"), whole)
    assert decoding == [10, 15, 20]


def test_a_second_process_waits_for_the_first(tmp_path, monkeypatch, cache):
    """The one that holds the folder's lock decodes; whoever comes then finds the pictures there."""
    draw(tmp_path / "pets")
    digest = load(tmp_path / "pets").train.digest()
    pixels = pixels_of(cache)
    kept = pixels.with_name(decoded.CHUNKS).read_bytes()
    pixels.with_name(decoded.CHUNKS).unlink()
    looks = []

    def has_writer(folder):
        looks.append(time.monotonic())
        if len(looks) == 2:
            pixels.with_name(decoded.CHUNKS).write_bytes(kept)
        return len(looks) < 3

    monkeypatch.setattr(decoded, "has_writer", has_writer)
    monkeypatch.setattr(decoded, "LOOKS", 0.01)
    monkeypatch.setattr(decoded, "_decode", None)
    assert load(tmp_path / "pets").train.digest() == digest
    assert len(looks) == 3


def test_unreadable_pictures_are_named_at_every_start_and_left_out(tmp_path, monkeypatch, cache, caplog):
    draw(tmp_path / "pets")
    (tmp_path / "pets" / "dog" / "2.png").write_bytes(b"no picture")
    load(tmp_path / "pets")
    first = caplog.text
    caplog.clear()
    loaded = load(tmp_path / "pets")
    for text in (first, caplog.text):
        assert "1 of 22 images cannot be read and are left out" in text
        assert "2.png" in text
    assert_equal(loaded, in_memory(tmp_path / "pets", monkeypatch))
    assert sum(len(getattr(loaded, name).labels) for name in SPLITS) == 21


def test_pictures_of_several_sizes_are_refused_without_a_side(tmp_path, cache):
    draw(tmp_path / "pets")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "pets" / "owl" / "0.png")
    with pytest.raises(DataError, match=r"another size than the first; got 5x5.*--data\.side"):
        load(tmp_path / "pets")


def test_a_disk_without_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch, cache):
    draw(tmp_path / "pets")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    monkeypatch.setattr(decoded, "_decode", None)
    with pytest.raises(OutputError, match=r"no room for the decoded pictures.*KIP_CACHE_DIR"):
        load(tmp_path / "pets")


def arrays(count=40):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count + 10, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(count + 10) % 3
    return {"x_train": images[:count], "y_train": labels[:count], "x_test": images[count:], "y_test": labels[count:]}


@pytest.mark.parametrize("names", [[], ["no", "yes", "maybe"]])
def test_an_uncompressed_npz_is_read_where_it_lies(tmp_path, monkeypatch, cache, names):
    np.savez(tmp_path / "mine.npz", **arrays(), **({"class_names": names} if names else {}))
    ours = load(tmp_path / "mine")
    assert isinstance(ours.test.images, Stored)
    assert isinstance(ours.train.images, Chosen)
    assert_equal(ours, in_memory(tmp_path / "mine", monkeypatch))


def test_other_sources_are_held_as_bytes(tmp_path, monkeypatch, cache):
    np.savez_compressed(tmp_path / "mine.npz", **arrays())
    ours = load(tmp_path / "mine")
    assert isinstance(ours.test.images, Held)
    assert_equal(ours, in_memory(tmp_path / "mine", monkeypatch))
    np.savez(tmp_path / "mine.npz", **{**arrays(), "x_test": np.asfortranarray(arrays()["x_test"])})
    assert_equal(load(tmp_path / "mine"), in_memory(tmp_path / "mine", monkeypatch))


def test_an_archive_behind_other_bytes_and_with_extra_fields_is_read_where_it_lies(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.extra = struct.pack("<HH4s", 0x7777, 4, b"more")
        with archive.open(info, "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.arange(600).reshape(200, 3))
    (stored,) = archives.stored_arrays(path, ["x", "missing"]).values()
    np.testing.assert_array_equal(stored[190:], np.arange(600).reshape(200, 3)[190:])


def _written(path, header, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", np.lib.format.magic(1, 0) + struct.pack("<H", len(header)) + header + content)
    return path


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 9), }", "before 90 bytes"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (5, 9), }", "before 90 bytes"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (90,), }", "an object array"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-10, -9), }", "cannot be read"),
        ("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (90,), }", "cannot be read"),
        ("nonsense", "cannot be read"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path, header, words):
    path = _written(tmp_path / "x.npz", header.encode() + b"\n", bytes(90))
    with pytest.raises(DataError, match=words):
        archives.stored_arrays(path, ["x"])


def test_damaged_bytes_are_found_by_their_checksum(tmp_path, cache):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    content = bytearray(path.read_bytes())
    place = content.find(arrays()["x_train"][20].tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x_train cannot be read.*CRC"):
        load(path.with_suffix(""))


@pytest.mark.parametrize("cut", [1, 100, 2000])
def test_an_archive_that_is_cut_short_is_refused(tmp_path, cache, cut):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError):
        load(path.with_suffix(""))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x_train": np.zeros((40, 4, 4, 3), np.float32)}, "wrong dtype"),
        ({"x_train": np.zeros((40, 4, 4, 2), np.uint8)}, "2 channels"),
        ({"x_train": np.zeros((40, 48), np.uint8)}, "wrong rank"),
        ({"x_test": np.full((10, 5, 5, 3), 255, np.uint8)}, "differ in shape"),
        ({"y_train": np.zeros(39, int)}, "another length"),
    ],
)
def test_what_is_wrong_with_arrays_on_disk_is_said_as_ever(tmp_path, cache, changed, words):
    np.savez(tmp_path / "mine.npz", **{**arrays(), **changed})
    with pytest.raises(DataError, match=words):
        load(tmp_path / "mine")


def test_digits_are_held_too(monkeypatch, cache):
    ours = data.load(data.Data("digits"))
    monkeypatch.delenv("KIP_IN_MEMORY_MIB")
    theirs = data.load(data.Data("digits"))
    assert_equal(ours, theirs)
