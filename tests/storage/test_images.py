"""Images that are read when they are asked for: the array's rows, never the whole, and nothing of a changed file."""

import os

import numpy as np
import pytest

from kip.errors import ConfigError, DataError
from kip.storage.artefacts import digest
from kip.storage.images import Chosen, Held, Lazy, Stored, chosen, in_memory_bytes, parts

ARRAY = np.random.default_rng(0).integers(0, 256, (23, 3, 4, 1)).astype(np.uint8)
KEYS = [
    3, -1, slice(2, 9), slice(None, None, -2), slice(5, 5), np.array([5, 2, 2, 22]), np.array([4, 5, 6, 1, 2]),
    [7, -3], np.zeros(0, int), np.arange(23) % 3 == 0,
]  # fmt: skip


@pytest.fixture(params=["stored", "held", "chosen", "made"])
def lazy(request, tmp_path) -> Lazy:
    path = tmp_path / "array"
    path.write_bytes(b"before" + ARRAY.tobytes() + b"behind")
    stored = Stored(path, 6, ARRAY.shape, ARRAY.dtype)
    order = np.random.default_rng(1).permutation(23)
    return {
        "stored": stored,
        "held": Held(ARRAY),
        "chosen": Chosen(Chosen(stored, order), np.argsort(order)),
        "made": Held(ARRAY.astype(np.int64) * 2).made(lambda rows: rows // 2, shape=(3, 4, 1), dtype=np.uint8),
    }[request.param]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_rows_are_those_of_the_array(lazy, key):
    ours = lazy[key]
    np.testing.assert_array_equal(ours, ARRAY[key])
    assert ours.dtype == ARRAY.dtype
    ours[...] = 0  # a new array, which is its owner's
    np.testing.assert_array_equal(lazy[key], ARRAY[key])


def test_it_says_what_the_array_says_and_comes_in_parts(lazy, monkeypatch):
    for name in ("shape", "dtype", "ndim", "size", "nbytes"):
        assert getattr(lazy, name) == getattr(ARRAY, name)
    assert len(lazy) == 23
    monkeypatch.setattr("kip.storage.images.PART_BYTES", 60)
    of_five = list(parts(lazy))
    assert [len(part) for part in of_five] == [5, 5, 5, 5, 3]
    np.testing.assert_array_equal(np.concatenate(of_five), ARRAY)
    np.testing.assert_array_equal(np.stack(list(lazy)), ARRAY)


def test_it_has_the_digest_of_the_array_and_is_read_once_for_it(lazy, monkeypatch):
    labels = np.arange(23)
    assert digest(lazy, labels) == digest(ARRAY, labels)
    assert digest(labels, lazy) == digest(labels, ARRAY)
    monkeypatch.setattr(type(lazy), "take", None)
    assert digest(lazy, labels, labels) == digest(ARRAY, labels, labels)


def test_the_whole_as_an_array_is_refused_with_a_remedy(lazy):
    for take in (np.asarray, np.ascontiguousarray, lambda rows: np.add(rows, 1)):
        with pytest.raises(DataError, match=r"whole data set at once.*23x3x4x1 uint8.*KIP_IN_MEMORY_MIB"):
            take(lazy)


@pytest.mark.parametrize("key", [23, -24, np.array([0, 23])], ids=str)
def test_an_index_outside_is_refused(lazy, key):
    with pytest.raises(IndexError, match="outside of the 23 rows"):
        lazy[key]


@pytest.mark.parametrize("key", [(0, 1), np.zeros((2, 2), int), np.array([0.5]), "a", np.ones(4, bool)], ids=str)
def test_what_is_no_choice_of_rows_is_refused(lazy, key):
    with pytest.raises(TypeError, match="an index, a slice or an array"):
        lazy[key]


def test_some_images_of_an_array_are_a_copy_and_of_a_lazy_one_lazy():
    assert isinstance(chosen(ARRAY, np.array([3, 1])), np.ndarray)
    assert isinstance(chosen(Held(ARRAY), np.array([3, 1])), Chosen)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "array"
    path.write_bytes(ARRAY.tobytes())
    stored = Stored(path, 0, ARRAY.shape, ARRAY.dtype)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="was changed while it was being read"):
        stored[0]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        stored[0]
    with pytest.raises(DataError, match="cannot be read"):
        Stored(path, 0, ARRAY.shape, ARRAY.dtype)


def test_a_file_that_is_too_short_is_refused(tmp_path):
    path = tmp_path / "array"
    path.write_bytes(ARRAY.tobytes()[:-1])
    stored = Stored(path, 0, ARRAY.shape, ARRAY.dtype)
    np.testing.assert_array_equal(stored[:22], ARRAY[:22])
    with pytest.raises(DataError, match="ends too early"):
        stored[22]


def test_how_much_is_held_in_memory_is_a_whole_number_of_mib(monkeypatch):
    monkeypatch.delenv("KIP_IN_MEMORY_MIB", raising=False)
    assert in_memory_bytes() == 2**28
    monkeypatch.setenv("KIP_IN_MEMORY_MIB", "3")
    assert in_memory_bytes() == 3 * 2**20
    monkeypatch.setenv("KIP_IN_MEMORY_MIB", "much")
    with pytest.raises(ConfigError, match="KIP_IN_MEMORY_MIB"):
        in_memory_bytes()
