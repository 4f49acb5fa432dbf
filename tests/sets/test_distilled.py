"""The distilled set as a file: NumPy alone reads it, it inverts the preprocessing, and equal runs give equal bytes."""

import dataclasses
import json
import math
import shutil
import time

import numpy as np
import pytest

from helpers.interpreter import printed
from helpers.kinds import untyped
from kip import data, preprocess, sets
from kip.errors import CheckpointError, ConfigError, DataError, OutputError
from kip.experiment import Experiment
from kip.kernels.architecture import Architecture
from kip.methods.kernel.kip import KIP
from kip.methods.problem import State
from kip.preprocess import Preprocess
from kip.runs import folder
from kip.runs import loop as train

TINY = Experiment(
    method=KIP(images_per_class=2, target_batch=50, steps=4, kernels=(Architecture("FC", 1),)), checkpoint_every=2
)
DTYPES = {
    "images": ("float32", (20, 8, 8, 1)),
    "images_preprocessed": ("float32", (20, 8, 8, 1)),
    "labels": ("float32", (20, 10)),
    "class_index": ("int64", (20,)),
    "image_statistics": ("float64", (20, 2)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny run that has ended; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    train.run(TINY, folder, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def digits():
    return data.load(data.Data("digits"))


def set_of(digits, kind):
    """Return the pixels of twelve train digits, and the set that holds them after preprocessing."""
    experiment = dataclasses.replace(TINY, preprocess=Preprocess(kind))
    transform = preprocess.fit(experiment.preprocess, digits.train.images)
    pixels, classes = digits.train.images[:12], digits.train.labels[:12]
    labels = np.eye(10, dtype=np.float32)[classes] - np.float32(0.1)
    state = State(3, transform.apply(pixels), labels, classes, transform.statistics(pixels))
    made = sets.distilled_set(
        sets.Origin.of(experiment),
        transform,
        state,
        train_digest=digits.train.digest(),
        validation_accuracy=0.5,
        test_accuracy=None,
    )
    return pixels, made


def test_numpy_alone_reads_the_file(run):
    with np.load(run / "distilled.npz", allow_pickle=False) as file:
        assert set(file.files) == {*DTYPES, "metadata"}
        for name, (dtype, shape) in DTYPES.items():
            assert (file[name].dtype.name, file[name].shape) == (dtype, shape), name
            assert np.isfinite(file[name]).all()
        metadata = json.loads(str(file["metadata"]))
        assert np.bincount(file["class_index"], minlength=10).tolist() == [2] * 10
    result = json.loads((run / "result.json").read_text())
    assert metadata["step"] == result["exported_step"]
    for name in ("test_accuracy", "validation_accuracy"):
        assert metadata[name] == result[name]
    assert metadata["experiment"] == TINY.to_dict()
    assert metadata["train_sha256"] == data.load(TINY.data).train.digest()
    assert metadata["preprocess"]["kind"] == "standardize"
    assert metadata["versions"]["numpy"] == np.__version__
    assert {"kip", "jax", "neural-tangents", "python"} <= metadata["versions"].keys()


def test_a_reader_without_kip_gets_the_images(run):
    code = (
        "import sys, json, numpy as np\n"
        "sys.modules['kip'] = None\n"
        "file = np.load(sys.argv[1], allow_pickle=False)\n"
        "print(file['images'].mean() + file['labels'].sum(), json.loads(str(file['metadata']))['format'])\n"
    )
    assert printed(code, run / "distilled.npz").split()[1] == "1"


def test_the_metadata_have_no_path_time_or_host(run):
    text = json.dumps(sets.load(run / "distilled.npz").metadata)
    assert "/" not in text
    for word in ("tmp", "time", "seconds", "host", "user", str(run), time.strftime("%Y-%m")):
        assert word not in text, word


def test_two_saves_of_one_set_give_the_same_bytes(digits, tmp_path):
    _, distilled = set_of(digits, "standardize")
    sets.save(tmp_path / "first.npz", distilled)
    time.sleep(2.1)  # zip archives hold times in units of two seconds
    sets.save(tmp_path / "second.npz", distilled)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


@pytest.mark.parametrize("kind", ["none", "standardize", "zca", "zca_notebook", "zca_frepo", "zca_kornia"])
def test_images_are_the_inverse_of_the_preprocessing(digits, tmp_path, kind):
    pixels, distilled = set_of(digits, kind)
    sets.save(tmp_path / "set.npz", distilled)
    loaded = sets.load(tmp_path / "set.npz")
    # Preprocessed images are float32: an ulp of theirs, times the largest scale that inverting puts back (a digit's
    # own contrast, and for ZCA the square root of the whitening's condition), stays below a hundredth of a grey level.
    np.testing.assert_allclose(loaded.images, pixels / 255, rtol=0, atol=0.01 / 255)
    transform = preprocess.fit(Preprocess(kind), digits.train.images)
    np.testing.assert_allclose(transform.apply(loaded.images), loaded.images_preprocessed, rtol=0, atol=1e-4)
    learned_alone = not np.array_equal(loaded.image_statistics, np.tile([0.0, 1.0], (12, 1)))
    assert learned_alone == (kind in ("zca", "zca_notebook"))


def test_what_is_loaded_is_what_was_saved(digits, tmp_path):
    _, distilled = set_of(digits, "zca")
    sets.save(tmp_path / "set.npz", distilled)
    loaded = sets.load(tmp_path / "set.npz")
    for name, ours, theirs in zip(loaded._fields, untyped(loaded), untyped(distilled), strict=True):
        if name == "metadata":
            assert ours == theirs
        else:
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


def test_the_experiment_comes_back_from_the_metadata(digits, tmp_path, run):
    assert sets.load(run / "distilled.npz").experiment == TINY
    _, distilled = set_of(digits, "zca_frepo")
    sets.save(tmp_path / "set.npz", distilled)
    assert sets.load(tmp_path / "set.npz").experiment == dataclasses.replace(TINY, preprocess=Preprocess("zca_frepo"))


def test_every_damaged_byte_is_noticed_or_without_effect(digits, tmp_path):
    _, distilled = set_of(digits, "standardize")
    path = tmp_path / "set.npz"
    sets.save(path, distilled)
    whole = path.read_bytes()
    noticed = 0
    for position in range(0, len(whole), 41):
        damaged = bytearray(whole)
        damaged[position] ^= 255
        path.write_bytes(damaged)
        try:
            loaded = sets.load(path)
        except DataError:
            noticed += 1
        else:  # the archive's dates and the like
            np.testing.assert_array_equal(loaded.images, distilled.images)
            assert loaded.metadata == distilled.metadata
    assert noticed > 0.8 * math.ceil(len(whole) / 41)


def test_load_refuses_a_later_format(digits, tmp_path):
    _, distilled = set_of(digits, "standardize")
    distilled.metadata["format"] = 2
    sets.save(tmp_path / "set.npz", distilled)
    with pytest.raises(DataError, match=r"format of .*set.npz; got 2; expected 1\. Use the kip that wrote it"):
        sets.load(tmp_path / "set.npz")


def test_load_names_the_arrays_that_are_missing(digits, tmp_path):
    _, distilled = set_of(digits, "standardize")
    np.savez(tmp_path / "set.npz", images=distilled.images, labels=distilled.labels, metadata="{}")
    with pytest.raises(DataError, match="lacks images_preprocessed, class_index, image_statistics"):
        sets.load(tmp_path / "set.npz")


@pytest.mark.parametrize("metadata", ["not json", "3", "[1, 2]"])
def test_load_refuses_metadata_that_is_no_json_object(digits, tmp_path, metadata):
    _, distilled = set_of(digits, "standardize")
    np.savez(tmp_path / "set.npz", **distilled._replace(metadata=metadata)._asdict())
    with pytest.raises(DataError, match=r"set.npz cannot be read"):
        sets.load(tmp_path / "set.npz")


def test_load_names_the_metadata_that_are_missing(digits, tmp_path):
    _, distilled = set_of(digits, "standardize")
    del distilled.metadata["experiment"], distilled.metadata["step"]
    sets.save(tmp_path / "set.npz", distilled)
    with pytest.raises(DataError, match=r"metadata of .*set.npz; got no experiment, step"):
        sets.load(tmp_path / "set.npz")


def test_load_unpickles_nothing(digits, tmp_path):
    _, distilled = set_of(digits, "standardize")
    objects = np.array([None] * 12, dtype=object)
    np.savez(tmp_path / "set.npz", **distilled._replace(labels=objects, metadata="{}")._asdict())
    with pytest.raises(DataError, match=r"labels cannot be read; got an object array.*never unpickled"):
        sets.load(tmp_path / "set.npz")


def test_save_refuses_a_folder_that_cannot_be_made(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="name another folder"):
        sets.save(tmp_path / "file" / "set.npz", set_of(digits, "standardize")[1])


def test_export_of_a_run_is_by_default_its_best_checkpoint_and_writes_the_same_file(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    written = (copy / "distilled.npz").read_bytes()
    result = folder.export_run(copy)
    assert result["out"] == str(copy / "distilled.npz")
    assert (copy / "distilled.npz").read_bytes() == written
    reached = json.loads((run / "result.json").read_text())
    assert (result["step"], result["images"]) == (reached["exported_step"], 20)
    assert (result["validation_accuracy"], result["test_accuracy"]) == (
        reached["validation_accuracy"],
        reached["test_accuracy"],
    )


def test_export_of_a_run_whose_set_was_lost_gives_its_arrays_again(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "distilled.npz").unlink()
    assert folder.export_run(copy)["test_accuracy"] is None  # known to the lost file alone
    again, before = sets.load(copy / "distilled.npz"), sets.load(run / "distilled.npz")
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))


@pytest.mark.parametrize("step", [0, 2, 4])
def test_export_of_a_step_is_the_state_of_its_checkpoint(run, tmp_path, step):
    copy = shutil.copytree(run, tmp_path / "run")
    result = folder.export_run(copy, step=step)
    assert result["out"] == str(copy / f"distilled_{step}.npz")
    loaded = sets.load(copy / f"distilled_{step}.npz")
    assert loaded.metadata["step"] == step
    with np.load(run / "checkpoints" / f"{step:06d}.npz") as checkpoint:
        np.testing.assert_array_equal(loaded.images_preprocessed, checkpoint[".inputs"])
        np.testing.assert_array_equal(loaded.labels, checkpoint[".labels"])
    if step == 0:
        starts = preprocess.fit(TINY.preprocess, data.load(TINY.data).train.images)
        assert loaded.images.min() >= -1e-6
        assert loaded.images.max() <= 1 + 1e-6
        assert loaded.metadata["preprocess"] == starts.describe()


def test_export_goes_where_it_is_told(run, tmp_path):
    result = folder.export_run(run, step=4, out=tmp_path / "new" / "set.npz")
    assert result["out"] == str(tmp_path / "new" / "set.npz")
    assert sets.load(tmp_path / "new" / "set.npz").metadata["step"] == 4
    assert not (run / "distilled_4.npz").exists()


def test_export_refuses_what_is_no_run_and_a_step_without_checkpoint(run, tmp_path):
    with pytest.raises(ConfigError, match=r"config.json"):
        folder.export_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"step 1 .* 0, 2, 4"):
        folder.export_run(run, step=1)


def test_a_set_describes_itself_in_one_line(digits):
    _, distilled = set_of(digits, "standardize")
    assert "\n" not in repr(distilled)
    assert f"{len(distilled.images)} images of 8x8x1" in repr(distilled)
    assert "not tested" in repr(distilled._replace(metadata={**distilled.metadata, "test_accuracy": None}))
