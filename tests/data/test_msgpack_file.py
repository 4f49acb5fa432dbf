"""Checkpoints of Flax: what they hold, and what is refused."""

import msgpack
import numpy as np
import pytest
from flax import serialization

from helpers.kinds import untyped
from kip import data, preprocess
from kip.data import Data, msgpack_file
from kip.errors import DataError
from kip.preprocess import Preprocess
from kip.sets.importing import import_set


def checkpoint(path, **parts):
    """Write a checkpoint as Flax does, with what RCIG's public code keeps."""
    path.write_bytes(serialization.msgpack_serialize({"step": np.int64(3), "opt_state": {"0": {}}, **parts}))
    return path


def extension(shape, dtype, values):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, values), use_bin_type=True))


def raw(path, array):
    path.write_bytes(msgpack.packb({"ema_average": {"x_proto": array, "y_proto": array}}, use_bin_type=True))
    return path


def test_arrays_and_scalars_come_back_as_flax_reads_them(tmp_path, rng):
    given = {
        "a": rng.standard_normal((2, 3)),
        "b": {"c": np.arange(4, dtype=np.int32), "d": np.float32(2.5)},
        "e": "text",
        "f": np.array([True, False]),
        "g": np.array([[1.5]], np.float16),
        "h": np.zeros((0, 3), np.uint8),
        "i": 7,
        "j": None,
    }
    path = tmp_path / "x.msgpack"
    path.write_bytes(serialization.msgpack_serialize(given))
    ours, theirs = untyped(msgpack_file.read(path)), untyped(serialization.msgpack_restore(path.read_bytes()))
    assert ours.keys() == theirs.keys()
    for key in ("a", "f", "g", "h"):
        np.testing.assert_array_equal(ours[key], theirs[key])
        assert ours[key].dtype == theirs[key].dtype
    np.testing.assert_array_equal(ours["b"]["c"], np.arange(4))
    assert (ours["b"]["d"], ours["e"], ours["i"], ours["j"]) == (2.5, "text", 7, None)


def test_a_flood_of_empty_maps_is_refused_before_it_fills_the_memory(tmp_path):
    lists = b"\xdc\x00\x40"  # 64 entries
    row = lists + b"\x80" * 64
    block = lists + row * 64
    path = tmp_path / "flood.msgpack"
    path.write_bytes(lists + block * 64)  # 266 312 values, of a byte each
    with pytest.raises(DataError, match=f"at most {msgpack_file.MOST_VALUES} entries"):
        msgpack_file.read(path)
    path.write_bytes(block)
    assert len(msgpack_file.read(path)) == 64


def test_a_published_checkpoint_is_the_moving_average_in_whitened_space(tmp_path):
    digits = data.load(Data("digits"))
    chosen = np.concatenate([np.flatnonzero(digits.train.labels == c)[:1] for c in range(10)])
    whitening = Preprocess("zca_frepo")
    images = preprocess.fit(whitening, digits.train.images).apply(digits.train.images[chosen])
    labels = (np.eye(10) - 0.1).astype(np.float32)
    average = {"x_proto": images, "y_proto": labels, "log_temp": np.float32(0.1)}
    learned = {"x_proto": images + 1, "y_proto": labels, "log_temp": np.float32(0.1)}
    both = checkpoint(tmp_path / "checkpoint_15000", params=learned, ema_average=average)
    alone = checkpoint(tmp_path / "alone.msgpack", params=learned, ema_average=None)
    for path, wanted in ((both, images), (alone, images + 1)):
        ours = import_set(path, Data("digits"), name="RCIG", values="preprocessed", preprocessing=whitening)
        np.testing.assert_array_equal(ours.images_preprocessed, wanted)
        np.testing.assert_array_equal(ours.labels, labels)
        assert ours.origin.labels_are == "scores"
        np.testing.assert_array_equal(ours.class_index, digits.train.labels[chosen])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (extension((4, 4), "float32", bytes(60)), "60 bytes"),
        (extension((1 << 40, 1 << 40), "float32", bytes(4)), "bytes do not fill"),
        (extension((-1, 4), "float32", b""), "shape"),
        (extension((1,), "object", bytes(8)), "dtype 'object'"),
        (extension((1,), "V8", bytes(8)), "dtype 'V8'"),
        (extension((2,), "float32", np.array([1, np.nan], np.float32).tobytes()), "finite"),
        (extension((1,), "int32", bytes(4)), "finite floats"),
        (msgpack.ExtType(1, msgpack.packb([1, 2])), "another form"),
        (msgpack.ExtType(1, b"\xc1"), "cannot be read"),
        (msgpack.ExtType(2, msgpack.packb((1.0, 2.0))), "extension 2"),
        (msgpack.ExtType(77, b"os.system"), "extension 77"),
        ("text", "finite floats"),
        ([0] * 100, "cannot be read"),
    ],
)
def test_anything_but_finite_arrays_is_refused(array, words, tmp_path):
    with pytest.raises(DataError, match=words):
        msgpack_file.read_set(raw(tmp_path / "bad", array))


def test_damaged_and_foreign_files_are_refused(tmp_path, monkeypatch):
    good = checkpoint(tmp_path / "good", params={"x_proto": np.zeros((1, 2)), "y_proto": np.zeros((1, 2))})
    msgpack_file.read_set(good)
    for content in (good.read_bytes()[:-3], good.read_bytes() + b"more", b"", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            msgpack_file.read_set(tmp_path / "bad")
    for held in ({"params": {"w": np.zeros(3)}}, np.zeros(3), {"a": 1}):
        (tmp_path / "bad").write_bytes(serialization.msgpack_serialize(held))
        with pytest.raises(DataError, match="holds no set"):
            msgpack_file.read_set(tmp_path / "bad")
    with pytest.raises(DataError, match="no file"):
        msgpack_file.read_set(tmp_path / "none")
    monkeypatch.setattr(msgpack_file, "FILE_BYTES", 10)
    with pytest.raises(DataError, match="too large"):
        msgpack_file.read_set(good)
