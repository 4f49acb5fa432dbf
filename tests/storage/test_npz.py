"""Archives from anywhere: what their headers claim is held against what they hold."""

import contextlib
import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from helpers.kinds import some
from kip.errors import DataError
from kip.preprocess import cache
from kip.storage import npz as archives
from kip.storage.artefacts import Artefact
from kip.storage.npz import read_array, read_arrays


def npy(shape, data=b"", dtype="|u1"):
    """Return a .npy file whose header claims `shape`, whatever `data` it has."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_whole_archives_give_their_arrays(tmp_path, save):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.eye(3, dtype=np.uint8)),
        "c": np.array("text"),
    }
    save(tmp_path / "set.npz", **arrays)
    for name, array in read_arrays(tmp_path / "set.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype
    assert list(read_arrays(tmp_path / "set.npz", ("c", "a"))) == ["c", "a"]


@pytest.mark.parametrize("shape", [(10**11,), (10**6, 10**6, 10**6), (10**30,), (-1, 3), (-2, -2)])
def test_a_header_that_claims_what_the_archive_has_not_is_refused_and_nothing_is_allocated(tmp_path, shape):
    """NumPy allocated the 100 GB that a header claimed: a MemoryError with a traceback, or a machine that swaps."""
    path = archive(tmp_path / "set.npz", a=npy(shape, b"\0" * 64))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a cannot be read; got a header of uint8 .* before 64 bytes"):
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_an_honest_header_beyond_the_machines_memory_is_refused(tmp_path, monkeypatch):
    path = archive(
        tmp_path / "set.npz", zipfile.ZIP_DEFLATED, a=npy((3000,), b"\0" * 3000), b=npy((3000,), b"\0" * 3000)
    )
    monkeypatch.setattr(archives, "memory_bytes", lambda: 5000)
    assert len(read_arrays(path, ["a"])["a"]) == 3000
    with pytest.raises(DataError, match="b does not fit into this machine's memory"):
        read_arrays(path)


def test_this_machine_has_memory():
    assert archives.memory_bytes() > 1 << 28


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"a,b\n1,2\n", "something else"),
        (b"\x80\x04K\x01.", "something else"),
        (npy((2,), b"12"), r"a single \.npy array"),
        (b"PK\x03\x04 and no more", "cut short or damaged"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path, content, reason):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=f"set.npz cannot be read; got .*{reason}; expected a .npz archive") as caught:
        read_arrays(tmp_path / "set.npz")
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x93NUMPY", b"\x93NUMPY\x09\x00", npy((2,), b"12", "O"[:1])])
def test_a_damaged_member_is_named(tmp_path, content):
    with pytest.raises(DataError, match="a cannot be read"):
        read_arrays(archive(tmp_path / "set.npz", a=content))


def test_a_missing_file_and_a_missing_array_are_named(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_arrays(tmp_path / "none.npz")
    path = archive(tmp_path / "set.npz", a=npy((2,), b"12"))
    with pytest.raises(DataError, match="lacks b, c; got a; expected a, b, c"):
        read_arrays(path, ("a", "b", "c"))


def test_archives_damaged_anywhere_are_refused_in_words_or_read_whole(tmp_path):
    """Whatever byte a disk or an attacker changes, the outcome is the arrays or a DataError."""
    path = tmp_path / "set.npz"
    np.savez_compressed(path, a=np.arange(50), b=np.ones((2, 3), np.float32))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        raw = bytearray(whole)
        for place in random.integers(0, len(raw), random.integers(1, 4)):
            raw[place] = random.integers(0, 256)
        path.write_bytes(raw[: random.integers(1, len(raw))] if random.random() < 0.2 else raw)
        with contextlib.suppress(DataError):
            arrays = read_arrays(path)
            assert all(isinstance(array, np.ndarray) for array in arrays.values())


def test_a_single_array_is_read_as_carefully(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(read_array(path), np.arange(6.0).reshape(2, 3))
    for content, reason in (
        (npy((10**11,), b"12"), "a header of uint8"),
        (npy((1,), b"", "O"), "an object array"),
        (b"a,b", "cannot be read"),
        (b"", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"images.npy.*{reason}"):
            read_array(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_array(tmp_path / "none.npy")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a name")
def test_a_pipe_in_the_place_of_an_archive_makes_nobody_wait(tmp_path, caplog):
    """It waited for a writer for ever, in the cache too. A run that hangs here has failed."""
    path = tmp_path / "pipe.npz"
    os.mkfifo(path)
    for read in (read_arrays, read_array):
        with pytest.raises(DataError, match="not a regular file"):
            read(path)
    assert archives.array_names(path) == []
    assert archives.stored_arrays(path, ["images"]) == {}
    kept = Artefact(path)
    assert kept.load({"a": np.zeros(2)}) is None
    assert "It is made again" in caplog.text
    kept.save({"a": np.ones(2)})
    assert some(kept.load({"a": np.zeros(2)}))["a"].tolist() == [1, 1]

    images = np.zeros((2, 2, 2, 1), np.uint8)
    os.mkfifo(cache._path(images, "zca", tmp_path))
    assert cache.load(images, "zca", tmp_path) is None
    assert "computing it again" in caplog.text


def test_a_small_file_takes_no_memory_beyond_its_bound(tmp_path, monkeypatch):
    """Zeros are compressed to a thousandth: a label array of 40 x 2^27 took 4.9 GiB and a minute."""
    monkeypatch.setenv("KIP_FILE_MIB", "1")
    path = archive(tmp_path / "set.npz", zipfile.ZIP_DEFLATED, a=npy((3, 2**20), b"\0" * 3 * 2**20), b=npy((2,), b"12"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a takes more memory.*got 3 MiB.*expected at most 1 MiB.*KIP_FILE_MIB"):
            read_arrays(path)
        assert read_arrays(path, ["b"])["b"].tolist() == [49, 50]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setenv("KIP_FILE_MIB", "3")
    with pytest.raises(DataError, match=r"b takes more memory.*with the arrays before it"):
        read_arrays(path)
    monkeypatch.setenv("KIP_FILE_MIB", "4")
    assert read_arrays(path)["a"].shape == (3, 2**20)


def test_an_archive_as_large_as_its_arrays_needs_no_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_FILE_MIB", "0")
    np.savez(tmp_path / "set.npz", a=np.arange(10**5))
    assert len(read_arrays(tmp_path / "set.npz")["a"]) == 10**5


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    """NumPy read a header of the length that it claims before it looked at it."""
    long = b"\x93NUMPY\x02\x00" + (2**26).to_bytes(4, "little") + b" " * 2**26
    path = archive(tmp_path / "set.npz", zipfile.ZIP_DEFLATED, a=long)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="a cannot be read"):
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path, compression):
    with pytest.raises(DataError, match="which NumPy does not write"):
        read_arrays(archive(tmp_path / "set.npz", compression, a=npy((2,), b"12")))


def test_bfloat16_as_numpy_saves_it_is_named(tmp_path):
    np.savez(tmp_path / "set.npz", a=np.zeros(3, "V2"))
    with pytest.raises(DataError, match=r"array of \|V2; expected a plain numeric array.*bfloat16.*float32"):
        read_arrays(tmp_path / "set.npz")
