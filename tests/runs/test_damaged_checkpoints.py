"""Checkpoints that are whole as files and not what the run wrote: each is refused, and the one before it used."""

import json

import numpy as np
import optax
import pytest

from helpers.kinds import some
from kip.errors import CheckpointError
from kip.methods.problem import State
from kip.runs import checkpoint
from kip.runs.checkpoint import Checkpoints, History, Record

IDENTITY = {"seed": 0}


def state_at(step):
    random = np.random.default_rng(step)
    images, labels = (random.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 2, 1), (3, 2)))
    optimizer = optax.adam(0.1).init({"images": images, "labels": labels})
    owned = {"pool": np.arange(4.0) + step, "ages": np.arange(2), "best": np.array(np.nan)}
    return State(step, images, labels, np.arange(3), np.ones((3, 2)), optimizer, owned=owned)


@pytest.fixture
def folder(tmp_path):
    """A folder with the complete checkpoints of steps 50 and 100."""
    saved, records = Checkpoints(tmp_path, IDENTITY), []
    for step in (50, 100):
        records.append(Record(step, 1.0, 0.5))
        saved.save(state_at(step), History(tuple(records), 1.0))
    return tmp_path


def rewrite(path, change):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)


def describe(**changes):
    """Return a change of what the checkpoint says of its run."""

    def change(arrays):
        arrays["meta"] = json.dumps({**json.loads(str(arrays["meta"])), **changes})

    return change


def put(name, make):
    return lambda arrays: arrays.update({name: make(arrays[name])})


def with_nan(array):
    array = array.copy()
    array.flat[0] = np.nan
    return array


LIGHT = {
    "no images": lambda arrays: arrays.pop(".inputs"),
    "no step": lambda arrays: arrays.pop(".step"),
    "another step": put(".step", lambda step: step + 1),
    "images of another rank": put(".inputs", lambda images: images[0]),
    "images with NaN": put(".inputs", with_nan),
    "labels with infinity": put(".labels", lambda labels: labels + np.float32(np.inf)),
    "fewer labels": put(".labels", lambda labels: labels[1:]),
    "text for classes": put(".class_index", lambda classes: classes.astype(str)),
    "no meta": lambda arrays: arrays.pop("meta"),
    "meta of text": lambda arrays: arrays.update(meta="no json"),
    "meta of a list": lambda arrays: arrays.update(meta="[]"),
    "no records": describe(records=[]),
    "records of text": describe(records="all"),
    "records of two": describe(records=[[50, 1.0]]),
    "a record of text": describe(records=[[50, 1.0, "good"]]),
    "seconds of text": describe(seconds="long"),
}
"""Faults that every reader notices, without knowing the method."""
COMPLETE = {
    "images of another size": put(".inputs", lambda images: np.tile(images, (1, 2, 2, 1))),
    "images of float64": put(".inputs", lambda images: images.astype(float)),
    "labels of more classes": put(".labels", lambda labels: np.tile(labels, 2)),
    "a part of the optimiser missing": lambda arrays: arrays.pop(".optimizer[0].mu['images']"),
    "the optimiser with NaN": put(".optimizer[0].nu['labels']", with_nan),
    "a smaller pool": put(".owned['pool']", lambda pool: pool[1:]),
    "a pool with NaN": put(".owned['pool']", with_nan),
    "ages with fractions": put(".owned['ages']", lambda ages: ages + 0.5),
}
"""Faults that a run notices when it goes on from the checkpoint."""


@pytest.mark.parametrize("fault", [*LIGHT, *COMPLETE])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(folder, caplog, fault):
    """A valid file with another content was a KeyError, or went on with NaN to the same error at every start."""
    path = folder / "000100.npz"
    rewrite(path, (LIGHT | COMPLETE)[fault])
    state, history = some(Checkpoints(folder, IDENTITY).latest(state_at(0)))
    assert state.step == 50
    np.testing.assert_array_equal(state.owned["pool"], state_at(50).owned["pool"])
    assert [record.step for record in history.records] == [50]
    assert str(path) in caplog.text
    assert "The checkpoint before it is used" in caplog.text
    assert not path.exists(), "it is out of the way"


@pytest.mark.parametrize("fault", LIGHT)
def test_export_refuses_a_damaged_checkpoint_in_words(folder, fault):
    path = folder / "000100.npz"
    rewrite(path, LIGHT[fault])
    with pytest.raises(CheckpointError, match=r"000100.npz (is damaged|cannot be read)"):
        checkpoint.read(folder, 100)
    with pytest.raises(CheckpointError, match=r"000100.npz (is damaged|cannot be read)"):
        Checkpoints(folder, IDENTITY).restore(100)


def test_nan_where_the_method_begins_with_it_is_no_damage(folder):
    state, _ = some(Checkpoints(folder, IDENTITY).latest(state_at(0)))
    assert state.step == 100
    assert np.isnan(state.owned["best"])


def test_a_light_checkpoint_is_passed_over_and_stays(folder, caplog):
    path = folder / "000100.npz"
    rewrite(path, lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith((".opt", ".owned"))])
    state, _ = some(Checkpoints(folder, IDENTITY).latest(state_at(0)))
    assert state.step == 50
    assert "is not complete" in caplog.text
    assert path.exists()
    assert checkpoint.read(folder, 100)[0].step == 100


@pytest.mark.parametrize("name", ["50.npz", "²³.npz", "٥٠.npz", "x.npz"])
def test_files_of_other_names_are_no_checkpoints(folder, name):
    (folder / name).write_bytes(b"rubbish")
    assert Checkpoints(folder, IDENTITY).steps() == [50, 100]
