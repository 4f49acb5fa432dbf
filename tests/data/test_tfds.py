import gzip
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.interpreter import printed
from helpers.kinds import some
from kip.data import tfds
from kip.errors import DataError, MissingExtraError

ORIGINALS = os.environ.get("KIP_ORIGINALS_DIR")


def original(name, part, kind):
    """Return an array of MNIST's own files: images (N, 28, 28, 1) or labels (N,)."""
    rank = 3 if kind == "images" else 1
    raw = gzip.decompress((Path(some(ORIGINALS)) / name / f"{part}-{kind}-idx{rank}-ubyte.gz").read_bytes())
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    return values.reshape(-1, 28, 28, 1) if rank == 3 else values


def sorted_rows(images, labels):
    rows = np.column_stack([labels.astype(np.uint8), images.reshape(len(images), -1)])
    return rows[np.lexsort(rows.T[::-1])]


def fill_download_cache(name, data_dir):
    """Put the original files where tensorflow-datasets looks for what it has downloaded before."""
    import tensorflow_datasets
    from tensorflow_datasets.core.download import resource

    folder = data_dir / "downloads" / name
    folder.mkdir(parents=True)
    for url, info in tensorflow_datasets.builder(name, data_dir=data_dir).url_infos.items():
        path = folder / resource.get_dl_fname(url, info.checksum)
        shutil.copy(Path(some(ORIGINALS)) / name / info.filename, path)
        note = {"urls": [url], "dataset_names": [name], "original_fname": info.filename, "url_info": info.asdict()}
        Path(f"{path}.INFO").write_text(json.dumps(note))


@pytest.mark.slow
@pytest.mark.skipif(ORIGINALS is None, reason="KIP_ORIGINALS_DIR (a folder with mnist/*.gz) is not set")
def test_the_real_builder_gives_every_original_image_with_its_label(tmp_path):
    fill_download_cache("fashion_mnist", tmp_path)
    (x_train, y_train, x_test, y_test), names = tfds.read("fashion_mnist", tmp_path)
    assert len(names) == 10
    for images, labels, part in ((x_train, y_train, "train"), (x_test, y_test, "t10k")):
        expected = sorted_rows(original("fashion_mnist", part, "images"), original("fashion_mnist", part, "labels"))
        np.testing.assert_array_equal(sorted_rows(images, labels), expected)
    again, _ = tfds.read("fashion_mnist", tmp_path)
    np.testing.assert_array_equal(again[0], x_train)  # the order is fixed, and so is the validation split


def test_an_unknown_name_is_refused_before_tensorflow_is_loaded(tmp_path, monkeypatch):
    """The good error came after 13 seconds and 9 kB of TensorFlow's log."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        pytest.skip("tensorflow-datasets is not installed")
    monkeypatch.delitem(sys.modules, "tensorflow_datasets", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # its import fails
    with pytest.raises(tfds.UnknownName, match="no_such_set_anywhere"):
        tfds.read("no_such_set_anywhere", tmp_path)
    for known in ("mnist", "cifar10", "coco/2017", "somebody:their_set"):
        with pytest.raises(MissingExtraError):
            tfds.read(known, tmp_path)
    (tmp_path / "of_my_own").mkdir()  # it was prepared before
    with pytest.raises(MissingExtraError):
        tfds.read("of_my_own", tmp_path)


def test_what_libraries_log_at_their_start_is_dropped_and_later_words_are_not(capfd):
    with tfds._without_chatter():
        os.write(2, b"E0000 cuda_platform.cc:52] failed call to cuInit\n")
    os.write(2, b"kip: error\n")
    assert capfd.readouterr().err == "kip: error\n"


@pytest.mark.slow
def test_every_set_of_the_library_is_found_in_its_files():
    library = pytest.importorskip("tensorflow_datasets")
    known = tfds._names(Path(library.__file__).parent)
    assert not [name for name in library.list_builders(with_community_datasets=False) if name not in known]


@pytest.mark.slow
def test_an_unknown_name_is_told_apart_from_a_failed_download(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(tfds.UnknownName):
        tfds.read("no_such_set_anywhere", tmp_path)


@pytest.mark.slow
def test_a_set_without_image_and_label_is_refused_before_any_download(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(DataError, match="expected image and label"):
        tfds.read("coco/2017", tmp_path)


def test_without_the_library_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"NAME\.npz"):
        tfds.read("mnist")


def test_only_one_file_of_the_package_imports_tensorflow_datasets():
    root = Path(tfds.__file__).parents[1]
    importers = [
        path for path in root.rglob("*.py") if "import tensorflow_datasets" in path.read_text(encoding="utf-8")
    ]
    assert importers == [Path(tfds.__file__)]


def test_the_module_itself_loads_nothing():
    printed("import sys, kip.data.tfds; sys.exit('tensorflow' in sys.modules or 'tensorflow_datasets' in sys.modules)")
