"""Published sets: their formats, their values, and files that would run code or take memory."""

import contextlib
import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers.kinds import untyped
from kip import data, preprocess, sets
from kip.blocks import KernelBlocks
from kip.data import Data, image_folder, pickle_machine, torch_file
from kip.data.published import scores_and_classes
from kip.errors import ConfigError, DataError, KipError, ShapeError
from kip.evaluate import evaluate_set
from kip.kernels import Architecture
from kip.preprocess import Preprocess
from kip.sets.importing import import_set

FC = Architecture("FC", 1)


class _Named:
    """Pickles as a call of `module.name`."""

    def __init__(self, module, name, arguments):
        self.module, self.name, self.arguments = module, name, arguments


class _Built:
    """Pickles as a value that is completed by a state."""

    def __init__(self, value, state):
        self.value, self.state = value, state


class _Writer(untyped(pickle)._Pickler):
    """Writes pickles that name functions without importing them, and storages by key, as torch does."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
            if obj.arguments is not None:
                self.save(obj.arguments)
                self.write(b"R")
            return
        if isinstance(obj, _Built):
            self.save(obj.value)
            self.save(obj.state)
            self.write(b"b")
            return
        super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj[1] if isinstance(obj, tuple) and obj and obj[0] == "PID" else None


def pt_file(path, structure, storages=(), compression=zipfile.ZIP_STORED):
    """Write a .pt file by hand: a structure with tensors, and the bytes of its storages."""
    out = io.BytesIO()
    _Writer(out, 2).dump(structure)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", out.getvalue())
        for key, array in enumerate(storages):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
    return path


def tensor(key, array, *, shape=None, strides=None, offset=0, kind="FloatStorage", count=None):
    count = array.size if count is None else count
    storage = ("PID", ("storage", _Named("torch", kind, None), str(key), "cpu", count))
    contiguous = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    shape, strides = array.shape if shape is None else shape, contiguous if strides is None else strides
    return _Named("torch._utils", "_rebuild_tensor_v2", (storage, offset, shape, strides, False, {}))


@pytest.fixture(scope="module")
def digits():
    return data.load(Data("digits"))


@pytest.fixture(scope="module")
def natural(digits):
    """Twenty train images in pixels, with their classes."""
    chosen = np.concatenate([np.flatnonzero(digits.train.labels == c)[:2] for c in range(10)])
    return digits.train.images[chosen] / np.float32(255), digits.train.labels[chosen]


def accuracy(distilled, data_dir=None):
    with KernelBlocks() as blocks:
        (score,) = evaluate_set(distilled, blocks, data_dir=data_dir)
    return score.test_accuracy


def test_a_set_of_every_format_is_the_same_set(natural, tmp_path):
    images, classes = natural
    channels_first = np.moveaxis(images, 3, 1)
    np.savez(tmp_path / "a.npz", images=images, classes=classes)
    np.save(tmp_path / "b.npy", channels_first)
    np.save(tmp_path / "b_labels.npy", classes)
    pair = [tensor(0, channels_first), tensor(1, classes, kind="LongStorage")]
    scalar = _Named("numpy.core.multiarray", "scalar", (_Named("numpy", "dtype", ("f8", False, True)), b"12345678"))
    pt_file(
        tmp_path / "c.pt", {"data": [pair, pair], "accs_all_exps": {"ConvNet": [scalar]}}, [channels_first, classes]
    )
    settings = {"name": "natural", "values": "pixels", "kernel": FC}
    imported = [
        import_set(tmp_path / "a.npz", Data("digits"), **settings),
        import_set(tmp_path / "b.npy", Data("digits"), labels=tmp_path / "b_labels.npy", **settings),
        import_set(tmp_path / "c.pt", Data("digits"), index=1, **settings),
    ]
    for other in imported[1:]:
        np.testing.assert_array_equal(other.images_preprocessed, imported[0].images_preprocessed)
        np.testing.assert_array_equal(other.labels, imported[0].labels)
    np.testing.assert_allclose(imported[0].images, images, atol=1e-6)
    sets.save(tmp_path / "set.npz", imported[0])
    assert accuracy(sets.load(tmp_path / "set.npz")) > 0.6


def test_normalised_and_preprocessed_values_come_back_to_the_same_set(natural, digits, tmp_path):
    images, classes = natural
    transform = preprocess.fit(Preprocess("zca"), digits.train.images)
    np.savez(tmp_path / "n.npz", images=(images - 0.3) / 0.2, classes=classes)
    np.savez(tmp_path / "p.npz", images=transform.apply(images), classes=classes)
    normalised = import_set(
        tmp_path / "n.npz",
        Data("digits"),
        name="x",
        values="normalised",
        mean=(0.3,),
        deviation=(0.2,),
        preprocessing=Preprocess("zca"),
        kernel=FC,
    )
    seen = import_set(
        tmp_path / "p.npz", Data("digits"), name="x", values="preprocessed", preprocessing=Preprocess("zca"), kernel=FC
    )
    np.testing.assert_allclose(normalised.images, images, atol=1e-5)
    np.testing.assert_allclose(seen.images_preprocessed, normalised.images_preprocessed, atol=1e-4)
    assert accuracy(seen) == pytest.approx(accuracy(normalised), abs=0.01)


@pytest.mark.parametrize("call", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("kip.cli", "main")])
def test_a_pt_file_that_names_code_is_refused_and_runs_nothing(tmp_path, call):
    marker = tmp_path / "ran"
    path = pt_file(tmp_path / "evil.pt", {"data": _Named(call[0], call[1], (f"touch {marker}",))})
    with pytest.raises(DataError, match=f"names code; got {call[0]}.{call[1]}"):
        torch_file.read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("shape", "strides"), [((9,), (1,)), ((10**9,), (0,)), ((2, 4), (8, 1)), ((2,), (-1,)), ((2, 2), (1,))]
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, shape, strides):
    array = np.arange(8, dtype=np.float32)
    path = pt_file(tmp_path / "wild.pt", [tensor(0, array, shape=shape, strides=strides)], [array])
    with pytest.raises(DataError, match="outside its storage"):
        torch_file.read(path)


def test_damaged_and_foreign_files_are_refused_in_words(tmp_path):
    array = np.arange(8, dtype=np.float32)
    path = pt_file(tmp_path / "set.pt", [tensor(0, array, count=80)], [array])
    with pytest.raises(DataError, match="storage that is cut"):
        torch_file.read(path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            torch_file.read(path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        mutated = bytearray(whole)
        mutated[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
        path.write_bytes(mutated)
        with contextlib.suppress(DataError):  # or the file is read, where the bit does not matter
            torch_file.read(path)
    (tmp_path / "old.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match="no zip archive"):
        torch_file.read(tmp_path / "old.pt")


def test_a_tensor_without_bytes_is_no_storage(tmp_path):
    """A tensor (n, 0) has length n and no bytes: as the storage of a second one it was read past its buffer."""
    array = np.arange(8, dtype=np.float32)
    hollow = tensor(0, array, shape=(10**6, 0), strides=(1, 1))
    second = _Named("torch._utils", "_rebuild_tensor_v2", (hollow, 0, (10**6,), (1,), False, {}))
    path = pt_file(tmp_path / "hollow.pt", [hollow, second], [array])
    with pytest.raises(DataError, match="a tensor without a storage; got ndarray"):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2,), (2**62,), 0), ((2**31, 2**31), (1, 1), 0), ((4,), (1,), 5), ((1,), (1,), 8), ((4,), (1,), -1),
        ((True, 2), (1, 1), 0), ((2.0,), (1,), 0), ("12", (1, 1), 0), ((2,), [1, 1], 0), ((1,) * 40, (1,) * 40, 0),
        ((2**40, 0), (1, 1), 0), ((10**30,), (1,), 0),
    ],
)  # fmt: skip
def test_a_view_is_held_against_the_bytes_of_its_storage(tmp_path, shape, strides, offset):
    array = np.arange(8, dtype=np.float32)
    path = pt_file(tmp_path / "wild.pt", [tensor(0, array, shape=shape, strides=strides, offset=offset)], [array])
    with pytest.raises(DataError, match="outside its storage"):
        torch_file.read(path)


def test_views_give_the_values_that_torch_would(tmp_path):
    array = np.arange(24, dtype=np.float32)
    structure = [
        tensor(0, array, shape=(3, 2), strides=(2, 7), offset=3),
        tensor(0, array, shape=(), strides=(), offset=23),
        tensor(0, array, shape=(2, 3, 4), strides=(12, 1, 3)),
        tensor(0, array, shape=(0, 5), strides=(5, 1)),
    ]
    steps, single, last, none = torch_file.read(pt_file(tmp_path / "views.pt", structure, [array]))
    np.testing.assert_array_equal(steps, [[3, 10], [5, 12], [7, 14]])
    assert single == 23
    np.testing.assert_array_equal(last, array.reshape(2, 4, 3).transpose(0, 2, 1))
    assert none.shape == (0, 5)


def test_a_structure_changes_no_object_of_ours(tmp_path):
    """BUILD set the attributes of whatever was on the stack, functions of this package among them."""
    functions = {
        name: (f.__defaults__, dict(vars(f)))
        for name, f in vars(torch_file).items()
        if callable(f) and hasattr(f, "__defaults__")
    }
    state = {"__defaults__": (1, 2, 3), "harm": True}
    for target in ("ctorch._utils\n_rebuild_tensor_v2\n", "ccollections\nOrderedDict\n", "cnumpy\ndtype\n"):
        out = io.BytesIO()
        out.write(b"\x80\x02" + target.encode())
        inner = pickle.dumps(state, 2)
        out.write(inner[2:-1] + b"b.")
        with zipfile.ZipFile(tmp_path / "build.pt", "w") as archive:
            archive.writestr("archive/data.pkl", out.getvalue())
        with pytest.raises(DataError, match="sets attributes of what has none"):
            torch_file.read(tmp_path / "build.pt")
    after = {
        name: (f.__defaults__, dict(vars(f)))
        for name, f in vars(torch_file).items()
        if callable(f) and hasattr(f, "__defaults__")
    }
    assert after == functions


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_views_of_one_storage_take_no_more_than_a_file_may(tmp_path, monkeypatch):
    """261 kB asked for 10 GiB: each strided view of one storage was copied."""
    monkeypatch.setenv("KIP_FILE_MIB", "4")
    array = np.zeros(200_000, np.float32)
    views = [tensor(0, array, shape=(2, 100_000), strides=(1, 2)) for _ in range(500)]
    path = tmp_path / "views.pt"
    pt_file(path, views, [array], compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000

    def read():
        with pytest.raises(DataError, match=r"its arrays take too much memory; expected at most 4 MiB.*KIP_FILE_MIB"):
            torch_file.read(path)

    assert peak_bytes(read) < 20 << 20
    monkeypatch.setenv("KIP_FILE_MIB", "1000")
    assert len(torch_file.read(path)) == 500


def test_a_storage_that_unpacks_to_more_than_a_file_may_take_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_FILE_MIB", "1")
    array = np.zeros(10**6, np.float32)
    path = pt_file(tmp_path / "zeros.pt", tensor(0, array), [array], compression=zipfile.ZIP_DEFLATED)

    def read():
        with pytest.raises(DataError, match="take too much memory"):
            torch_file.read(path)

    assert peak_bytes(read) < 2 << 20


def test_lists_that_hold_each_other_are_not_written_out(tmp_path):
    """200 bytes of nested lists were 10^10 numbers as soon as anything made an array, a text or a hash of them."""
    lists: object = [0.0] * 10
    for _ in range(9):
        lists = [lists] * 10
    held = pt_file(tmp_path / "lists.pt", {"images": lists, "labels": lists})
    assert held.stat().st_size < 1000

    def refused():
        with pytest.raises(DataError, match="got a list; expected an array of numbers"):
            import_set(held, Data("digits"), name="x", values="pixels", kernel=FC)

    assert peak_bytes(refused) < 50 << 20
    with zipfile.ZipFile(tmp_path / "keys.pt", "w") as archive:  # a key of 2^60 empty tuples
        archive.writestr("archive/data.pkl", b"\x80\x02})" + b"2\x86" * 60 + b"K\x02sX\x01\x00\x00\x00aK\x01s.")
    assert torch_file.read(tmp_path / "keys.pt") == {"a": 1}


@pytest.mark.parametrize("depth", [10, 100_000])
def test_containers_within_containers_end_in_words(tmp_path, depth):
    with zipfile.ZipFile(tmp_path / "deep.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")
    if depth == 10:
        assert torch_file.read(tmp_path / "deep.pt") == [[[[[[[[[[]]]]]]]]]]
        return
    with pytest.raises(DataError, match="containers lie too deep"):
        torch_file.read(tmp_path / "deep.pt")


@pytest.mark.parametrize("structure", [b"(", b"N", b"]q\x00h\x00a", b"r\xff\xff\xff\xff", b"Nr\xff\xff\xff\xff.", b""])
def test_long_and_broken_structures_cost_little(tmp_path, monkeypatch, structure):
    monkeypatch.setattr(pickle_machine, "OPERATIONS", 20_000)
    with zipfile.ZipFile(tmp_path / "long.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + structure * (4_000_000 // max(1, len(structure))))

    def read():
        with contextlib.suppress(DataError):
            torch_file.read(tmp_path / "long.pt")

    assert peak_bytes(read) < 20 << 20


def numpy_array(array):
    """Return an array as NumPy pickles it, by a call and its values."""
    kind = _Built(_Named("numpy", "dtype", (array.dtype.str[1:], False, True)), (3, "<", None, None, None, -1, -1, 0))
    content = _Named("_codecs", "encode", (array.tobytes().decode("latin1"), "latin1"))
    made = _Named("numpy._core.multiarray", "_reconstruct", (_Named("numpy", "ndarray", None), (0,), b"b"))
    return _Built(made, (1, array.shape, kind, False, content))


def test_what_lies_beside_arrays_is_read_or_left_out(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    namespace = _Built(_Named("argparse", "Namespace", ()), {"lr": 0.1})
    scalar = _Named(
        "numpy.core.multiarray", "scalar", (_Named("numpy", "dtype", ("f8", False, True)), np.float64(0.3).tobytes())
    )
    halves = (array.view(np.uint32) >> 16).astype(np.uint16)
    structure = {
        "images": tensor(0, array),
        "args": namespace,
        "accs": numpy_array(np.array([[1, 2], [3, 4]])),
        "best": scalar,
        "half": tensor(1, halves, kind="BFloat16Storage"),
        7: (1, "text", None),
        "parameter": _Named("torch._utils", "_rebuild_parameter", (tensor(0, array), True, {})),
        "device": _Named("torch", "device", ("cuda", 0)),
        "size": _Named("torch", "Size", ((2, 3),)),
    }
    held = torch_file.read(pt_file(tmp_path / "all.pt", structure, [array, halves]))
    np.testing.assert_array_equal(held["images"], array)
    np.testing.assert_array_equal(held["parameter"], array)
    np.testing.assert_array_equal(held["half"], array)  # small whole numbers need the upper half alone
    assert held["half"].dtype == np.float32
    np.testing.assert_array_equal(held["accs"], [[1, 2], [3, 4]])
    assert (held["best"], held["args"], held["device"], held["size"]) == (0.3, None, None, (2, 3))
    assert held[7] == (1, "text", None)


def test_unsigned_tensors_say_their_type_beside_their_bytes(tmp_path):
    array = np.arange(6, dtype=np.uint16)
    storage = ("PID", ("storage", _Named("torch.storage", "UntypedStorage", None), "0", "cpu", array.nbytes))
    kind = _Named("torch", "uint16", None)
    third = _Named("torch._utils", "_rebuild_tensor_v3", (storage, 1, (2, 2), (2, 1), False, {}, kind))
    np.testing.assert_array_equal(torch_file.read(pt_file(tmp_path / "u.pt", third, [array])), [[1, 2], [3, 4]])


def test_sets_of_every_structure_are_the_same_set(natural, tmp_path):
    images, classes = natural
    first = np.moveaxis(images, 3, 1)
    both = tensor(0, first), tensor(1, classes, kind="LongStorage")
    halves = [tensor(2, first[:10]), tensor(3, classes[:10], kind="LongStorage"), 0.02]
    others = [
        tensor(4, first[10:]),
        tensor(5, classes[10:], kind="LongStorage"),
        tensor(6, np.array([0.01], np.float32)),
    ]
    storages = [first, classes, first[:10], classes[:10], first[10:], classes[10:], np.array([0.01], np.float32)]
    structures = {
        "pair": (list(both), ()),
        "tuple": (both, ()),
        "rate": ((*both, 0.01), (0.01,)),
        "steps": ([halves, others], (0.02, 0.01)),
        "sets": ([list(both), list(both)], ()),
        "names": ({"syn_images": both[0], "syn_labels": both[1], "syn_lr": 0.01}, (0.01,)),
        "beside": ({"images": both[0], "labels": both[1], "args": _Named("argparse", "Namespace", ())}, ()),
        "list": ({"image_syn": both[0], "label_syn": classes.tolist(), 3: "text"}, ()),
        "numpy": ({"Images": both[0], "targets": numpy_array(classes)}, ()),
    }
    np.savez(tmp_path / "a.npz", images=images, classes=classes)
    wanted = import_set(tmp_path / "a.npz", Data("digits"), name="x", values="pixels", kernel=FC)
    for name, (structure, rates) in structures.items():
        path = pt_file(tmp_path / f"{name}.pt", structure, storages)
        made = import_set(path, Data("digits"), name="x", values="pixels", kernel=FC)
        np.testing.assert_array_equal(made.images_preprocessed, wanted.images_preprocessed, err_msg=name)
        np.testing.assert_array_equal(made.labels, wanted.labels, err_msg=name)
        assert tuple(made.metadata.get("learning_rates", ())) == pytest.approx(rates), name


def test_arrays_are_listed_and_taken_by_their_names(natural, tmp_path):
    images, classes = natural
    np.savez(tmp_path / "odd.npz", pictures=images, kinds=classes, notes=np.array(["a", "b"]))
    settings = {"name": "x", "values": "pixels", "kernel": FC}
    with pytest.raises(
        DataError, match=r"pictures float32 \(20, 8, 8, 1\), kinds int64 \(20,\), notes.*--arrays IMAGES LAB"
    ):
        import_set(tmp_path / "odd.npz", Data("digits"), **settings)
    made = import_set(tmp_path / "odd.npz", Data("digits"), arrays=("pictures", "kinds"), **settings)
    np.testing.assert_array_equal(made.class_index, classes)
    objects = np.empty(2, object)
    np.savez(tmp_path / "beside.npz", images=images, labels=classes, log=objects)
    import_set(tmp_path / "beside.npz", Data("digits"), **settings)
    structure = {"a": tensor(0, images), "b": tensor(1, classes, kind="LongStorage"), "epoch": 7}
    path = pt_file(tmp_path / "odd.pt", structure, [images, classes])
    with pytest.raises(DataError, match=r"a float32 \(20, 8, 8, 1\), b int64 \(20,\), epoch \(int\); expected images"):
        import_set(path, Data("digits"), **settings)
    made = import_set(path, Data("digits"), arrays=("a", "b"), **settings)
    np.testing.assert_array_equal(made.class_index, classes)
    with pytest.raises(DataError, match="arrays of"):
        import_set(path, Data("digits"), arrays=("a", "none"), **settings)


def test_images_without_labels_stand_in_the_order_of_the_classes(natural, tmp_path):
    images, classes = natural
    np.save(tmp_path / "images.npy", images)
    path = pt_file(tmp_path / "images_best.pt", tensor(0, np.moveaxis(images, 3, 1)), [np.moveaxis(images, 3, 1)])
    settings = {"name": "mtt", "values": "pixels", "kernel": FC}
    for file in (tmp_path / "images.npy", path):
        made = import_set(file, Data("digits"), per_class=2, **settings)
        np.testing.assert_array_equal(made.class_index, np.repeat(np.arange(10), 2))
        np.testing.assert_array_equal(made.class_index, classes)
        with pytest.raises(DataError, match="--per-class; got 3 images of each of 10 classes; expected 20"):
            import_set(file, Data("digits"), per_class=3, **settings)
        with pytest.raises(DataError, match=r"images and their labels.*--per-class"):
            import_set(file, Data("digits"), **settings)
    np.savez(tmp_path / "both.npz", images=images, labels=classes)
    with pytest.raises(DataError, match="--per-class; got labels as well"):
        import_set(tmp_path / "both.npz", Data("digits"), per_class=2, **settings)


def test_classes_are_whole_numbers_of_any_form():
    classes = np.array([2, 0, 1])
    for labels in (
        classes,
        classes[:, None],
        classes.astype(np.float32),
        classes.astype(np.uint8),
        np.eye(3, dtype=int)[classes],
        np.eye(3, dtype=bool)[classes],
    ):
        scores, found, learned = scores_and_classes(labels, 3, 3)
        np.testing.assert_allclose(scores, np.eye(3)[classes] - 1 / 3, atol=1e-7)
        np.testing.assert_array_equal(found, classes)
        assert not learned
    for wrong in (
        classes + 0.5,
        classes[:2],
        np.array(["a", "b", "c"]),
        np.array([0, 1, np.nan]),
        np.ones((3, 3), int),
    ):
        with pytest.raises(DataError, match="labels of the set"):
            scores_and_classes(wrong, 3, 3)
    for wild in ([0, 1, 3], [-1, 0, 1], [0, 1, 10**12]):
        with pytest.raises(DataError, match="out of range"):
            scores_and_classes(np.array(wild), 3, 3)


def test_learned_labels_are_what_they_are_said_to_be(caplog):
    logits = np.array([[1.0, 3.0], [1000.0, -1000.0], [0.0, 0.0]])
    made, classes, learned = scores_and_classes(logits, 3, 2, "logits")
    odds = np.exp(-2)
    np.testing.assert_allclose(made, [[odds / (1 + odds), 1 / (1 + odds)], [1, 0], [0.5, 0.5]], atol=1e-7)
    assert classes.tolist() == [1, 0, 0]
    assert learned
    assert not caplog.records
    kept, _, _ = scores_and_classes(logits, 3, 2)
    np.testing.assert_array_equal(kept, logits)
    assert "--labels-are logits" in caplog.text
    caplog.clear()
    for rows, kind in ((made, "probabilities"), (made, None), (made - 0.5, None), (logits, "scores")):
        scores_and_classes(rows, 3, 2, untyped(kind))
    assert not caplog.records
    with pytest.raises(DataError, match=r"rows from -1e\+03.*probabilities.*--labels-are logits"):
        scores_and_classes(logits, 3, 2, "probabilities")
    with pytest.raises(DataError, match="labels of the set"):
        scores_and_classes(np.array([0, 1, 1]), 3, 2, "logits")


@pytest.mark.parametrize(
    "structure",
    [
        {"data": [5]},
        {"data": 5},
        {1: 2, 3: "x"},
        {"images": [[1.0, 2.0], [1.0]], "labels": [0, 1]},
        {"images": "text", "labels": "text"},
        {"images": 5, "labels": 6},
        ["a", "b"],
        [],
        (),
        {},
        None,
        5,
        "text",
        [[1, 2], [3]],
        {"data": [[5, 6]]},
        {"data": [[]]},
        {"images": None, "labels": {}},
        [[], [], []],
        [[1, 2, 3]],
        {"images": [10**400], "labels": [1]},
        {"data": {"a": 1}},
        {"images": [True, None], "labels": [float("nan")]},
    ],
)
def test_structures_without_images_are_refused_in_words(tmp_path, structure):
    path = pt_file(tmp_path / "odd.pt", structure)
    with pytest.raises((DataError, ShapeError)) as caught:
        import_set(path, Data("digits"), name="x", values="pixels", kernel=FC)
    assert "Error:" not in str(caught.value)


def test_torch_reads_what_it_wrote_as_we_do(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed; the format is written by hand above")
    images, classes = torch.randn(10, 3, 8, 8), torch.arange(10)
    torch.save({"data": [[images, classes]], "accs": {"ConvNet": [np.float64(0.3)]}}, tmp_path / "vico.pt")
    ((ours, labels),) = torch_file.read(tmp_path / "vico.pt")["data"]
    np.testing.assert_array_equal(ours, images.numpy())
    np.testing.assert_array_equal(labels, classes.numpy())


def test_what_does_not_fit_the_data_set_is_named(natural, tmp_path):
    images, classes = natural
    settings = {"name": "x", "values": "pixels", "kernel": FC}
    np.savez(tmp_path / "side.npz", images=images[:, :7], classes=classes)
    with pytest.raises(ShapeError, match="channels first"):
        import_set(tmp_path / "side.npz", Data("digits"), **settings)
    np.savez(tmp_path / "labels.npz", images=images, classes=classes[:3])
    with pytest.raises(DataError, match="labels of the set"):
        import_set(tmp_path / "labels.npz", Data("digits"), **settings)
    np.savez(tmp_path / "alone.npz", images=images)
    with pytest.raises(DataError, match="--labels"):
        import_set(tmp_path / "alone.npz", Data("digits"), **settings)
    np.savez(tmp_path / "n.npz", images=images, classes=classes)
    with pytest.raises(DataError, match="one for each channel"):
        import_set(tmp_path / "n.npz", Data("digits"), name="x", values="normalised", kernel=FC)
    with pytest.raises(DataError, match="the file holds one set"):
        import_set(tmp_path / "n.npz", Data("digits"), index=2, **settings)


def test_a_published_set_keeps_its_classes(real_data, tmp_path):
    """The first DSA set of its authors, where it is at hand."""
    originals = os.environ.get("KIP_ORIGINALS_DIR")
    path = originals and os.path.join(originals, "released", "dsa_cifar10_ipc1.npz")
    if not path or not os.path.exists(path):
        pytest.skip("KIP_ORIGINALS_DIR has no released sets")
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    distilled = import_set(
        Path(path),
        Data("cifar10"),
        name="dsa",
        values="normalised",
        mean=mean,
        deviation=deviation,
        data_dir=real_data,
    )
    assert distilled.images.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(distilled.class_index, np.arange(10))


def folder_of_digits(folder, count=2):
    """Write the first digits of each class as pictures; return their pixels, (10 * count, 8, 8, 1)."""
    from PIL import Image

    train = data.load(Data("digits")).train
    kept = []
    for label in range(10):
        of_class = folder / f"class{label if label < 9 else '09'}"
        of_class.mkdir(parents=True)
        (of_class / ".hidden.png").write_text("no image")
        (of_class / "notes.txt").write_text("no image either")
        for number, place in enumerate(np.flatnonzero(train.labels == label)[:count]):
            kept.append(train.images[place])
            Image.fromarray(train.images[place][..., 0]).save(of_class / f"{9 + number}.png")
    return np.stack(kept)


def test_a_published_set_takes_the_rate_that_it_was_learned_with(natural, tmp_path):
    np.savez(tmp_path / "set.npz", images=natural[0], classes=natural[1])
    options = {"name": "mtt", "values": "pixels", "preprocessing": Preprocess("standardize")}
    given = import_set(tmp_path / "set.npz", Data("digits"), rate=0.034, **options)
    sets.save(tmp_path / "given.npz", given)
    assert sets.load(tmp_path / "given.npz").support.learning_rate == pytest.approx(0.034)
    assert import_set(tmp_path / "set.npz", Data("digits"), **options).support.learning_rate is None
    with pytest.raises(ConfigError, match="above 0"):
        import_set(tmp_path / "set.npz", Data("digits"), rate=0.0, **options)


def test_a_folder_of_images_becomes_a_set(tmp_path):
    pixels = folder_of_digits(tmp_path / "set")
    made = import_set(tmp_path / "set", Data("digits"), name="rded", values="pixels", kernel=FC)
    np.testing.assert_array_equal(made.class_index, np.repeat(np.arange(10), 2))
    np.testing.assert_allclose(made.images, pixels / 255.0, atol=1e-6)
    assert (made.origin.method, made.origin.labels_are) == ("rded", "classes")


def test_folders_that_do_not_fit_are_refused(tmp_path):
    from PIL import Image

    def refused(match, kind: type[KipError] = DataError, **options):
        with pytest.raises(kind, match=match):
            import_set(tmp_path / "set", Data("digits"), name="x", kernel=FC, **{"values": "pixels", **options})

    folder_of_digits(tmp_path / "set")
    refused("its folders are the classes", values="normalised")
    refused("its folders are the classes", index=1)
    (tmp_path / "set" / "class10").mkdir()
    refused("no image in it")
    Image.new("L", (8, 8)).save(tmp_path / "set" / "class10" / "0.png")
    refused("11 folders; expected 10")
    (tmp_path / "set" / "class10" / "0.png").unlink()
    (tmp_path / "set" / "class10").rmdir()
    Image.new("L", (9, 8)).save(tmp_path / "set" / "class3" / "0.png")
    refused("8x9 pixels; expected 8x8", ShapeError)
    (tmp_path / "set" / "class3" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    refused("cannot read the image")
    with pytest.raises(DataError, match="no folders in it"):
        image_folder.listing(tmp_path / "set" / "class0")
    with pytest.raises(DataError, match="cannot read the folder"):
        image_folder.listing(tmp_path / "none")


def test_transparency_lies_over_white_and_numbers_in_names_are_numbers(tmp_path):
    from PIL import Image

    Image.new("RGBA", (2, 3), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (2, 3), (200, 100, 50, 255)).save(tmp_path / "full.png")
    assert (image_folder.decoded(tmp_path / "clear.png", 3) == 255).all()
    np.testing.assert_array_equal(image_folder.decoded(tmp_path / "full.png", 3)[2, 1], [200, 100, 50])
    assert image_folder.decoded(tmp_path / "full.png", 1).shape == (3, 2, 1)
    for name in ("c10", "c9", "c09", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (1, 1)).save(tmp_path / "set" / name / "0.png")
    assert image_folder.listing(tmp_path / "set").names == ("b", "c09", "c9", "c10")


def test_an_image_that_claims_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    from PIL import Image

    Image.new("L", (1001, 1000)).save(tmp_path / "large.png")
    monkeypatch.setenv("KIP_PICTURE_MEGAPIXELS", "1")
    with pytest.raises(DataError, match=r"1001x1000 pixels; expected at most 1000000 pixels.*KIP_PICTURE_MEGAPIXELS"):
        image_folder.decoded(tmp_path / "large.png", 1)
    monkeypatch.setenv("KIP_PICTURE_MEGAPIXELS", "2")
    assert image_folder.decoded(tmp_path / "large.png", 1).shape == (1000, 1001, 1)


def animals(folder, classes=("zebra", "ant", "cat"), published=("ant", "cat", "zebra")):
    """Write a data set and a folder of some of its own images; return the images by class."""
    from PIL import Image

    generator = np.random.default_rng(0)
    labels = np.arange(30) % 3
    x = generator.integers(0, 90, (30, 8, 8, 3)).astype(np.uint8)
    x[np.arange(30), labels] += 150  # a bright row tells the classes apart
    np.savez(
        folder / "animals.npz",
        x_train=x,
        y_train=labels,
        x_test=x[:9] // 2,
        y_test=labels[:9],
        class_names=np.array(classes) if classes else np.array(["a", "b", "c"]),
    )
    for name, label in zip(published, (1, 2, 0)):
        (folder / "published" / name).mkdir(parents=True)
        for number, image in enumerate(x[labels == label][:2]):
            Image.fromarray(image).save(folder / "published" / name / f"{number}.png")
    return x, labels


def imported(folder, **options):
    settings = {"name": "x", "values": "pixels", "kernel": FC, "data_dir": folder, **options}
    return import_set(folder / "published", Data("animals"), **settings)


@pytest.mark.parametrize(
    ("classes", "published"),
    [
        (("zebra", "ant", "cat"), ("ant", "cat", "zebra")),
        (("Grevy's Zebra", "fire-ant", "Cat"), ("fire ant", "cat", "grevy's_zebra")),
        (("n02391049", "n02219486", "n02123045"), ("ant", "tabby cat", "zebra")),
        (("zebra", "ant, emmet", "tabby"), ("n02219486", "n02123045", "n02391049")),
        (("zebra", "ant", "cat"), ("1_ant", "2_cat", "0_zebra")),
        (("zebra", "ant", "cat"), ("00001", "00002", "00000")),
    ],
)
def test_a_folder_is_matched_to_the_classes_by_its_names(tmp_path, classes, published):
    x, labels = animals(tmp_path, classes, published)
    made = imported(tmp_path)
    for image, label in zip(made.images, made.class_index):
        twins = labels[(np.abs(x / 255 - image).max(axis=(1, 2, 3)) < 1e-5)]
        assert twins.tolist() == [label]
    assert sorted(made.class_index) == [0, 0, 1, 1, 2, 2]
    assert accuracy(made, tmp_path) == 1.0


def test_names_that_cannot_be_matched_are_refused_and_the_order_may_be_said(tmp_path):
    x, labels = animals(tmp_path, published=("first", "second", "third"))
    with pytest.raises(DataError, match=r"first, second, third; expected the names zebra, ant, cat.*--class-order"):
        imported(tmp_path)
    assert imported(tmp_path, classes=("sorted",)).class_index.tolist() == [0, 0, 1, 1, 2, 2]
    made = imported(tmp_path, classes=("third", "first", "second"))
    assert made.class_index.tolist() == [1, 1, 2, 2, 0, 0]
    np.testing.assert_allclose(made.images[0], x[labels == 1][0] / 255, atol=1e-6)
    (tmp_path / "order.txt").write_text("third\nfirst\n\nsecond\n")
    assert imported(tmp_path, classes=(str(tmp_path / "order.txt"),)).class_index.tolist() == [1, 1, 2, 2, 0, 0]
    with pytest.raises(DataError, match="3 names, fourth of no folder, and not second; expected each of the 3"):
        imported(tmp_path, classes=("third", "first", "fourth"))
    with pytest.raises(DataError, match=r"none\.txt.*expected sorted, a file"):
        imported(tmp_path, classes=(str(tmp_path / "none.txt"),))


def test_a_file_takes_no_order_of_folders(natural, tmp_path):
    images, classes = natural
    np.savez(tmp_path / "n.npz", images=images, classes=classes)
    with pytest.raises(DataError, match="--class-order; got the file"):
        import_set(tmp_path / "n.npz", Data("digits"), name="x", values="pixels", classes=("sorted",))


def refused_values(natural, tmp_path, change, match, **options):
    images, classes = natural
    np.savez(tmp_path / "n.npz", images=change(images), classes=classes)
    settings = {"name": "x", "values": "pixels", "kernel": FC, **options}
    with pytest.raises(DataError, match=match):
        import_set(tmp_path / "n.npz", Data("digits"), **settings)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: np.rint(255 * x).astype(np.uint8), "pixels from 0 to 255.*--values bytes"),
        (lambda x: (255 * x).astype(np.float32), "pixels from 0 to 255.*--values bytes"),
        (lambda x: 200 * x + 7.5, "pixels from 7.5 to 207.5.*--values bytes"),
        (lambda x: (x - 0.3) / 0.2, "pixels from -1.5 to 3.5.*--values normalised.*--values preprocessed"),
        (
            lambda x: np.where(x == x.max(), np.nan, x),
            "images of the set; got .* of 1280 values that are NaN",
        ),
        (lambda x: x + 1j, "got complex64 .*; expected an array of numbers"),
    ],
)
def test_values_of_another_range_are_refused_with_the_remedy(natural, tmp_path, change, match):
    refused_values(natural, tmp_path, change, match)


def test_each_kind_of_values_is_held_against_its_range(natural, tmp_path):
    def plain(x):
        return x

    refused_values(natural, tmp_path, plain, "values bytes; got values from 0 to 1; .*--values pixels", values="bytes")
    normal = {"values": "normalised", "mean": (0.3,), "deviation": (0.2,)}
    refused_values(natural, tmp_path, plain, "which is below 0 for dark pixels.*--values pixels", **normal)
    of_bytes = {"values": "normalised", "mean": (76.5,), "deviation": (51.0,)}
    refused_values(natural, tmp_path, lambda x: (x - 0.3) / 0.2, "pixels from 0 to 255.*divide ones", **of_bytes)
    seen = {"values": "preprocessed"}
    refused_values(natural, tmp_path, plain, "as natural images have them.*--values pixels", **seen)
    refused_values(natural, tmp_path, lambda x: 1e4 * (x - 0.3), "as natural images have them", **seen)


def test_learned_images_may_go_far_beyond_black_and_white(natural, tmp_path):
    images, classes = natural
    wild = images.mean() + 8 * (images - images.mean()) + 0.5 - images.mean()
    np.savez(tmp_path / "wild.npz", images=wild, classes=classes)
    settings = {"name": "x", "kernel": FC}
    plain = import_set(tmp_path / "wild.npz", Data("digits"), values="pixels", **settings)
    np.testing.assert_allclose(plain.images, wild, atol=1e-4)
    moved = wild - 0.5
    np.savez(tmp_path / "wild.npz", images=moved, classes=classes)
    with pytest.raises(DataError, match="means of 0 and deviations of 1"):
        import_set(tmp_path / "wild.npz", Data("digits"), values="pixels", **settings)
    said = import_set(
        tmp_path / "wild.npz", Data("digits"), values="normalised", mean=(0.0,), deviation=(1.0,), **settings
    )
    np.testing.assert_allclose(said.images, moved, atol=1e-4)


def test_bytes_are_the_pixels_and_labels_must_be_finite(natural, tmp_path):
    images, classes = natural
    np.savez(tmp_path / "u8.npz", images=np.rint(255 * images).astype(np.uint8), classes=classes)
    np.savez(tmp_path / "f.npz", images=images, classes=classes)
    of_bytes, plain = (
        import_set(tmp_path / f"{name}.npz", Data("digits"), name="x", values=untyped(values), kernel=FC)
        for name, values in (("u8", "bytes"), ("f", "pixels"))
    )
    np.testing.assert_allclose(of_bytes.images, plain.images, atol=1e-6)
    np.savez(tmp_path / "nan.npz", images=images, labels=np.full((20, 10), np.nan, np.float32))
    with pytest.raises(DataError, match="labels of the set; got 200 of 200 values that are NaN or infinite"):
        import_set(tmp_path / "nan.npz", Data("digits"), name="x", values="pixels", kernel=FC)
