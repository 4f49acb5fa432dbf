"""Published sets: their formats, their values, and files that would run code or take memory."""

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kip import data, export, preprocess
from kip.blocks import KernelBlocks
from kip.data import Data, image_folder, torch_file
from kip.errors import ConfigError, DataError, ShapeError
from kip.evaluate import evaluate_set
from kip.importing import import_set
from kip.kernels import Architecture
from kip.preprocess import Preprocess

FC = Architecture("FC", 1)


class _Named:
    """Pickles as a call of `module.name`."""

    def __init__(self, module, name, arguments):
        self.module, self.name, self.arguments = module, name, arguments


class _Writer(pickle._Pickler):
    """Writes pickles that name functions without importing them, and storages by key, as torch does."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
            if obj.arguments is not None:
                self.save(obj.arguments)
                self.write(b"R")
            return
        super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj[1] if isinstance(obj, tuple) and obj and obj[0] == "PID" else None


def pt_file(path, structure, storages=()):
    """Write a .pt file by hand: a structure with tensors, and the bytes of its storages."""
    out = io.BytesIO()
    _Writer(out, 2).dump(structure)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", out.getvalue())
        for key, array in enumerate(storages):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
    return path


def tensor(key, array, *, shape=None, strides=None, kind="FloatStorage", count=None):
    count = array.size if count is None else count
    storage = ("PID", ("storage", _Named("torch", kind, None), str(key), "cpu", count))
    contiguous = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    shape, strides = shape or array.shape, strides or contiguous
    return _Named("torch._utils", "_rebuild_tensor_v2", (storage, 0, shape, strides, False, {}))


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
    sets = [
        import_set(tmp_path / "a.npz", Data("digits"), **settings),
        import_set(tmp_path / "b.npy", Data("digits"), labels=tmp_path / "b_labels.npy", **settings),
        import_set(tmp_path / "c.pt", Data("digits"), index=1, **settings),
    ]
    for other in sets[1:]:
        np.testing.assert_array_equal(other.images_preprocessed, sets[0].images_preprocessed)
        np.testing.assert_array_equal(other.labels, sets[0].labels)
    np.testing.assert_allclose(sets[0].images, images, atol=1e-6)
    export.save(tmp_path / "set.npz", sets[0])
    assert accuracy(export.load(tmp_path / "set.npz")) > 0.6


def test_normalised_and_preprocessed_values_come_back_to_the_same_set(natural, digits, tmp_path):
    images, classes = natural
    transform = preprocess.fit(Preprocess("zca"), digits.train.images)
    np.savez(tmp_path / "n.npz", images=(images - 0.3) / 0.2, classes=classes)
    np.savez(tmp_path / "p.npz", images=transform.apply(images), classes=classes)
    normalised = import_set(
        tmp_path / "n.npz", Data("digits"), name="x", values="normalised", mean=(0.3,), deviation=(0.2,),
        preprocessing=Preprocess("zca"), kernel=FC,
    )  # fmt: skip
    seen = import_set(
        tmp_path / "p.npz", Data("digits"), name="x", values="preprocessed", preprocessing=Preprocess("zca"), kernel=FC
    )
    np.testing.assert_allclose(normalised.images, images, atol=1e-5)
    np.testing.assert_allclose(seen.images_preprocessed, normalised.images_preprocessed, atol=1e-4)
    assert accuracy(seen) == pytest.approx(accuracy(normalised), abs=0.01)


@pytest.mark.parametrize("call", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("kip.cli", "main")])
def test_a_pt_file_that_names_code_is_refused_and_runs_nothing(tmp_path, call):
    marker = tmp_path / "ran"
    path = pt_file(tmp_path / "evil.pt", {"data": _Named(*call, (f"touch {marker}",))})
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
        Path(path), Data("cifar10"), name="dsa", values="normalised", mean=mean, deviation=deviation,
        data_dir=real_data,
    )  # fmt: skip
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
    export.save(tmp_path / "given.npz", given)
    assert export.load(tmp_path / "given.npz").support.learning_rate == pytest.approx(0.034)
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

    def refused(match, kind=DataError, **options):
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

    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(image_folder, "MOST_PIXELS", 1000)
    with pytest.raises(DataError, match="40x40 pixels"):
        image_folder.decoded(tmp_path / "large.png", 1)


def animals(folder, classes=("zebra", "ant", "cat"), published=("ant", "cat", "zebra")):
    """Write a data set and a folder of some of its own images; return the images by class."""
    from PIL import Image

    generator = np.random.default_rng(0)
    labels = np.arange(30) % 3
    x = generator.integers(0, 90, (30, 8, 8, 3)).astype(np.uint8)
    x[np.arange(30), labels] += 150  # a bright row tells the classes apart
    np.savez(
        folder / "animals.npz", x_train=x, y_train=labels, x_test=x[:9] // 2, y_test=labels[:9],
        class_names=np.array(classes) if classes else np.array(["a", "b", "c"]),
    )  # fmt: skip
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
        (lambda x: x + 1j, "images of the set; got dtype complex64"),
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
        import_set(tmp_path / f"{name}.npz", Data("digits"), name="x", values=values, kernel=FC)
        for name, values in (("u8", "bytes"), ("f", "pixels"))
    )
    np.testing.assert_allclose(of_bytes.images, plain.images, atol=1e-6)
    np.savez(tmp_path / "nan.npz", images=images, labels=np.full((20, 10), np.nan, np.float32))
    with pytest.raises(DataError, match="labels of the set; got 200 of 200 values that are NaN or infinite"):
        import_set(tmp_path / "nan.npz", Data("digits"), name="x", values="pixels", kernel=FC)
