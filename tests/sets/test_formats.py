"""The other formats of a set, each read back by what it is made for."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kip import cli, sets
from kip.data import Data
from kip.errors import OutputError
from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.methods.kernel.kip import KIP
from kip.runs.loop import run
from kip.sets import formats
from kip.sets.importing import import_set


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("formats") / "run"
    method = KIP(images_per_class=2, kernels=(Architecture("FC", 1),), target_batch=60, steps=3, learn_labels=True)
    run(Experiment(method), out, show_progress=False)
    return out


@pytest.fixture(scope="module")
def distilled(finished):
    named = sets.load(finished / "distilled.npz")
    named.metadata["class_names"] = ["zero", "o/ne", *map(str, range(2, 10))]
    return named


def test_a_folder_has_a_picture_for_each_image_and_every_label(distilled, tmp_path):
    formats.write(distilled, tmp_path / "set", "folder")
    with open(tmp_path / "set" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(distilled.images)
    assert {Path(row["file"]).parent.name for row in rows} == {"0_zero", "1_o_ne", *map(str, range(2, 10))}
    for row, image, label in zip(rows, distilled.images, distilled.labels, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "set" / row["file"])) / 255
        np.testing.assert_allclose(pixels, np.clip(image[..., 0], 0, 1), atol=0.5 / 255 + 1e-6)
        names = [column for column in row if column.startswith("label of ")]
        np.testing.assert_array_equal(np.array([row[name] for name in names], np.float32), label)
    assert json.loads((tmp_path / "set" / "metadata.json").read_text())["step"] == distilled.metadata["step"]


def test_kip_imports_the_folder_that_it_exported(distilled, tmp_path):
    formats.write(distilled, tmp_path / "set", "folder")
    again = import_set(tmp_path / "set", Data("digits"), name="again", values="pixels")
    order = np.argsort(distilled.class_index, kind="stable")
    np.testing.assert_array_equal(again.class_index, distilled.class_index[order])
    np.testing.assert_allclose(again.images, np.clip(distilled.images[order], 0, 1), atol=0.5 / 255 + 1e-5)


def test_names_of_any_length_and_writing_give_a_whole_folder(distilled, tmp_path):
    names = ["x" * 300, "\N{CJK UNIFIED IDEOGRAPH-732B}" * 300, "a/../../b", "", "..", *["same"] * 5]
    named = distilled._replace(metadata={**distilled.metadata, "class_names": names})
    formats.write(named, tmp_path / "set", "folder")
    folders = sorted(path.name for path in (tmp_path / "set").iterdir() if path.is_dir())
    assert [int(name.partition("_")[0]) for name in folders] == list(range(10))
    assert max(len(name.encode()) for name in folders) <= 102
    assert len(list((tmp_path / "set").rglob("*.png"))) == len(distilled.images)
    with open(tmp_path / "set" / "labels.csv", newline="", encoding="utf-8") as file:
        assert {row["class"] for row in csv.DictReader(file)} == set(names)


def test_an_export_that_fails_leaves_nothing(distilled, tmp_path, monkeypatch):
    count = []

    def full(path, image):
        count.append(path)
        if len(count) == 7:
            raise OutputError("no room")
        save(path, image)

    save = formats._save_picture
    monkeypatch.setattr(formats, "_save_picture", full)
    with pytest.raises(OutputError, match="no room"):
        formats.write(distilled, tmp_path / "set", "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_as_it_is(distilled, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for form in ("folder", "huggingface"):
        if form == "huggingface":
            pytest.importorskip("datasets")
        with pytest.raises(OutputError, match="expected a new or an empty folder"):
            formats.write(distilled, tmp_path, form)
    assert (tmp_path / "mine").read_text() == "precious"


def test_torch_reads_the_tensors_and_runs_no_code(distilled, tmp_path):
    torch = pytest.importorskip("torch")
    formats.write(distilled, tmp_path / "set.pt", "torch")
    tensors = torch.load(tmp_path / "set.pt", weights_only=True)
    np.testing.assert_array_equal(tensors["images"].numpy(), distilled.images.transpose(0, 3, 1, 2))
    seen = tensors["images_preprocessed"].numpy()
    np.testing.assert_array_equal(seen, distilled.images_preprocessed.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(tensors["labels"].numpy(), distilled.labels)
    np.testing.assert_array_equal(tensors["class_index"].numpy(), distilled.class_index)
    assert tensors["class_names"] == distilled.class_names
    assert json.loads(tensors["metadata"]) == distilled.metadata


def test_hugging_face_loads_the_folder_with_its_card(distilled, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    formats.write(distilled, tmp_path / "set", "huggingface")
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == distilled.class_names
    assert loaded["label"] == distilled.class_index.tolist()
    np.testing.assert_array_equal(np.array(loaded["soft_label"], np.float32), distilled.labels)
    np.testing.assert_array_equal(np.array(loaded["preprocessed"], np.float32), distilled.images_preprocessed)
    assert loaded[0]["image"].size == distilled.images.shape[1:3]
    card = (tmp_path / "set" / "README.md").read_text()
    assert "digits, distilled to 20 images" in card
    assert f"{100 * distilled.metadata['test_accuracy']:.1f} %" in card


def test_the_command_writes_beside_the_run_or_the_file(finished, tmp_path, capsys):
    assert cli.main(["export", str(finished), "--format", "folder"]) == 0
    assert (finished / "distilled_pictures" / "labels.csv").exists()
    alone = tmp_path / "alone.npz"
    alone.write_bytes((finished / "distilled.npz").read_bytes())
    assert cli.main(["export", str(alone), "--format", "folder"]) == 0
    assert (tmp_path / "alone_pictures" / "labels.csv").exists()
    assert cli.main(["export", str(alone)]) == 2
    assert "Name another --format" in capsys.readouterr().err
    assert cli.main(["export", str(alone), "--step", "1", "--format", "folder"]) == 2
    assert "a run's folder, which has checkpoints" in capsys.readouterr().err
