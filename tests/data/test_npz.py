import tracemalloc
from typing import Any

import numpy as np
import pytest

from kip.data import Data, load, npz
from kip.errors import DataError


def good():
    return {
        "x_train": np.full((20, 4, 5, 3), 7, np.uint8),
        "y_train": np.arange(20, dtype=np.uint8) % 2,
        "x_test": np.zeros((4, 4, 5, 3), np.uint8),
        "y_test": np.arange(4, dtype=np.int32) % 2,
    }


def load_with(tmp_path, **arrays):
    kept = {name: array for name, array in {**good(), **arrays}.items() if array is not None}
    np.savez(tmp_path / "set.npz", **kept)
    return load(Data(name="set", validation=0), tmp_path)


def test_a_good_file_gives_its_arrays_with_int64_labels(tmp_path):
    data = load_with(tmp_path, extra=np.ones(3))
    assert data.num_classes == 2
    assert data.train.labels.dtype == data.test.labels.dtype == np.int64
    np.testing.assert_array_equal(data.train.images, good()["x_train"])
    np.testing.assert_array_equal(data.test.labels, good()["y_test"])


NAN = np.zeros((20, 4, 5, 3), np.float32)
NAN[3, 0, 0, 0] = np.nan
OBJECTS = np.empty(20, object)
OBJECTS[:] = [np.zeros((4, 5, 3))] * 20

BAD = {
    "missing array": ({"y_test": None}, "lacks y_test", "np.savez"),
    "objects": ({"x_train": OBJECTS}, "x_train cannot be read; got an object array", "never unpickled"),
    "NaN": ({"x_train": NAN}, "x_train holds NaN", "Clean"),
    "infinity": ({"x_test": np.full((4, 4, 5, 3), np.inf)}, "x_test holds infinity", "Clean"),
    "floats": ({"x_train": np.zeros((20, 4, 5, 3))}, "wrong dtype; got float64; expected uint8", "np.rint"),
    "signed": ({"x_train": np.zeros((20, 4, 5, 3), np.int16)}, "wrong dtype; got int16", "uint8"),
    "rank 5": (
        {"x_train": np.zeros((20, 1, 4, 5, 3), np.uint8)},
        r"rank; got shape \(20, 1, 4, 5, 3\)",
        r"x\[\.\.\., None\]",
    ),
    "flat": ({"x_train": np.zeros((20, 60), np.uint8)}, r"expected \(N, H, W, C\)", "reshape"),
    "channels first": ({"x_train": np.zeros((20, 3, 4, 5), np.uint8)}, "5 channels", "transpose"),
    "no image": (
        {"x_test": np.zeros((0, 4, 5, 3), np.uint8), "y_test": np.zeros(0, int)},
        "x_test is empty",
        "at least one",
    ),
    "two sizes": ({"x_test": np.zeros((4, 5, 5, 3), np.uint8)}, "differ in shape", "Resize"),
    "float labels": ({"y_train": np.zeros(20)}, "y_train has the wrong dtype; got float64", "return_inverse"),
    "one-hot labels": ({"y_train": np.eye(2, dtype=int)[good()["y_train"]]}, "y_train has the wrong rank", "argmax"),
    "short labels": ({"y_test": np.zeros(3, int)}, "y_test has another length than its images; got 3", "expected 4"),
    "negative label": ({"y_train": np.arange(20) % 2 - 1}, "y_train holds a negative class; got -1", "expected 0"),
    "a label of a billion": (
        {"y_train": np.arange(20) % 2 * 10**9},
        "no image of class 1, and the label 1000000000",
        "Ren",
    ),
    "a label beyond int64": (
        {"y_train": np.arange(20, dtype=np.uint64) % 2 * (2**64 - 1)},
        "no image of class 1",
        "Renum",
    ),
    "a test label beyond int64": ({"y_test": np.full(4, 2**64 - 1, np.uint64)}, "lacks; got 18446744073709551615", "1"),
    "gap in classes": ({"y_train": np.arange(20) % 2 * 2}, "got no image of class 1", "Renumber"),
    "one class": ({"y_train": np.zeros(20, int)}, "got the single class 0", "at least 2"),
    "class only in test": ({"y_test": np.array([0, 1, 2, 0])}, "class that train lacks; got 2", r"0\.\.1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_array_is_refused_with_file_array_and_remedy(tmp_path, case):
    arrays, problem, remedy = BAD[case]
    with pytest.raises(DataError, match=problem) as caught:
        load_with(tmp_path, **arrays)
    assert str(tmp_path / "set.npz") in str(caught.value)
    caught.match(remedy)


def as_published(count, *, seed):
    """Return grey images without channels, and a class for each, in a column."""
    images = np.random.default_rng(seed).integers(0, 255, (count, 6, 5)).astype(np.uint8)
    return images, (np.arange(count) % 3).astype(np.uint8)[:, None]


@pytest.mark.parametrize("names", npz.SPELLINGS)
@pytest.mark.parametrize("limit", ["256", "0"])
def test_sets_as_they_are_published_are_read_as_they_are(tmp_path, caplog, monkeypatch, names, limit):
    """MedMNIST's names, Keras' grey images without channels and columns of classes."""
    monkeypatch.setenv("KIP_IN_MEMORY_MIB", limit)
    train, test = as_published(12, seed=0), as_published(6, seed=1)
    arrays: dict[str, Any] = dict(zip(names, (*train, *test)))
    np.savez(tmp_path / "set.npz", **arrays, val_images=test[0])
    data = load(Data("set", validation=0), tmp_path)
    np.testing.assert_array_equal(data.train.images[:], train[0][..., None])
    np.testing.assert_array_equal(data.test.images[:], test[0][..., None])
    np.testing.assert_array_equal(data.train.labels, train[1][:, 0])
    assert "val_images are left out" in caplog.text


def test_names_and_truth_values_are_classes(tmp_path):
    names = np.array(["cat", "ant", "bee"])
    data = load_with(tmp_path, y_train=names[np.arange(20) % 3], y_test=names[:1].repeat(4))
    assert data.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(data.train.labels[:3], [2, 0, 1])
    np.testing.assert_array_equal(data.test.labels, [2] * 4)
    data = load_with(tmp_path, y_train=names[np.arange(20) % 3], y_test=names[:1].repeat(4), class_names=names)
    assert data.class_names == ("cat", "ant", "bee")
    np.testing.assert_array_equal(data.train.labels[:3], [0, 1, 2])
    with pytest.raises(DataError, match="y_test holds a class that has no name; got 'dog'"):
        load_with(tmp_path, y_train=names[np.arange(20) % 3], y_test=np.array(["dog"] * 4))
    with pytest.raises(DataError, match="y_test; got int32; expected names of classes"):
        load_with(tmp_path, y_train=names[np.arange(20) % 3])
    data = load_with(tmp_path, y_train=np.arange(20) % 2 == 1, y_test=np.arange(4) % 2 == 0)
    np.testing.assert_array_equal(data.test.labels, [1, 0, 1, 0])


def test_other_names_are_listed_with_their_shapes(tmp_path):
    np.savez(tmp_path / "set.npz", pictures=np.zeros((3, 4, 5), np.uint8), kinds=np.zeros(3, int))
    with pytest.raises(DataError, match=r"lacks x_train.*pictures uint8 \(3, 4, 5\), kinds int64 \(3,\)") as caught:
        load(Data("set"), tmp_path)
    assert "damaged" not in str(caught.value)


def damage(path, how):
    whole = path.read_bytes()
    if how == "not a zip":
        path.write_bytes(b"hello " * 100)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "a flipped byte":
        middle = whole.index(bytes([7] * 50)) + 20
        path.write_bytes(whole[:middle] + b"\x08" + whole[middle + 1 :])
    else:
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))


@pytest.mark.parametrize("how", ["not a zip", "empty", "truncated", "a flipped byte", "a single array"])
def test_a_damaged_file_is_refused(tmp_path, how):
    np.savez(tmp_path / "set.npz", **good())
    damage(tmp_path / "set.npz", how)
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(Data(name="set"), tmp_path)
    assert str(tmp_path / "set.npz") in str(caught.value)
    assert "np.savez" in str(caught.value)


@pytest.mark.parametrize("label", [10**9, 2**62])
def test_a_wild_label_costs_no_memory(tmp_path, label):
    """It cost 8 bytes for each class up to it: 7.8 GB at 10^9."""
    labels = np.arange(20) % 2 * label
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="no image of class 1"):
            load_with(tmp_path, y_train=labels)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_text_file_is_refused_without_the_advice_to_unpickle_it(tmp_path):
    (tmp_path / "set.npz").write_text("x_train,y_train\n1,2\n")
    with pytest.raises(
        DataError, match=r"set.npz cannot be read; got something else; expected a .npz archive"
    ) as caught:
        load(Data(name="set"), tmp_path)
    assert "pickle" not in str(caught.value)
