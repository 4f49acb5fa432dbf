"""Checkpoints: whole or absent, of one configuration, and few."""

import numpy as np
import optax
import pytest

from kip.errors import CheckpointError
from kip.methods.problem import State
from kip.runs import checkpoint
from kip.runs.checkpoint import Checkpoints, History, Record

IDENTITY = {"seed": 0, "method": {"name": "kip", "learning_rate": 0.1}}


def state_at(step, seed=0):
    rng = np.random.default_rng([seed, step])
    images, labels = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2, 2, 1), (3, 2)))
    optimizer = optax.adam(0.1).init({"images": images, "labels": labels})
    return State(step, images, labels, np.arange(3), np.ones((3, 2)), optimizer)


def leaves(state):
    return {name: np.asarray(leaf) for name, leaf in checkpoint._leaves(state)}


def assert_equal(ours, theirs):
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.fixture
def run(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", IDENTITY)


def save_all(run, losses, accuracies):
    history = History()
    for step, (loss, accuracy) in enumerate(zip(losses, accuracies)):
        history = history._replace(records=(*history.records, Record(step * 50, loss, accuracy)))
        run.save(state_at(step * 50), history)
    return history


def test_round_trip_gives_the_same_bits(run):
    history = History((Record(0, None, 0.1), Record(50, 0.25, 0.2)), 12.5)
    run.save(state_at(50), history)
    state, restored = run.latest(state_at(0))
    assert_equal(state, state_at(50))
    judged, _ = run.restore(50)
    np.testing.assert_array_equal(judged.inputs, state.inputs)
    assert judged.optimizer is None
    assert restored == history
    assert isinstance(state.step, int)


def test_a_checkpoint_that_calls_the_inputs_images_is_read(run, tmp_path):
    """As those of an older kip do."""
    run.save(state_at(50), History((Record(0, None, 0.1), Record(50, 0.25, 0.2)), 12.5))
    (path,) = (tmp_path / "checkpoints").glob("*.npz")
    arrays = dict(np.load(path))
    np.savez(path, **{".images": arrays.pop(".inputs"), **arrays})
    assert_equal(run.latest(state_at(0))[0], state_at(50))
    np.testing.assert_array_equal(run.restore(50)[0].inputs, state_at(50).inputs)


def test_nothing_saved_means_nothing_to_resume(run):
    assert run.latest(state_at(0)) is None


def test_latest_is_the_newest(run):
    save_all(run, [None, 3.0, 2.0], [0.1, 0.2, 0.3])
    assert_equal(run.latest(state_at(0))[0], state_at(100))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(run, tmp_path, caplog, damage):
    save_all(run, [None, 3.0, 2.0], [0.1, 0.2, 0.3])
    path = tmp_path / "checkpoints" / "000100.npz"
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        middle = raw.index(b"\x93NUMPY") + 140
        raw[middle] ^= 0xFF
    path.write_bytes({"truncate": raw[: len(raw) // 2], "flip": raw, "empty": b""}[damage])
    state, history = run.latest(state_at(0))
    assert_equal(state, state_at(50))
    assert history.records[-1].step == 50
    assert "000100.npz cannot be read" in caplog.text
    assert "The checkpoint before it is used" in caplog.text
    assert run.steps() == [0, 50], "the damaged file is out of the way"


def test_another_configuration_is_refused_and_says_what_differs(run, tmp_path):
    save_all(run, [None, 3.0], [0.1, 0.2])
    other = {"seed": 1, "method": {"name": "kip", "learning_rate": 0.2}}
    with pytest.raises(CheckpointError, match=r"method.learning_rate was 0.1 and is now 0.2; seed was 0 and is now 1"):
        Checkpoints(tmp_path / "checkpoints", other).latest(state_at(0))


def test_kept_are_the_last_two_the_best_the_first_and_five_of_lowest_loss(run):
    losses = [None, 9.0, 1.0, 8.0, 1.1, 7.0, 1.2, 6.0, 1.3, 5.0, 1.4, 4.0, 3.0]
    accuracies = [0.1, 0.2, 0.3, 0.9, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    history = save_all(run, losses, accuracies)
    assert history.best.step == 150
    assert [record.step for record in history.lowest_loss()] == [100, 200, 300, 400, 500]
    assert run.steps() == [0, 100, 150, 200, 300, 400, 500, 550, 600]


def test_step_zero_is_best_only_when_alone():
    first, worse = Record(0, None, 0.9), Record(50, 1.0, 0.1)
    assert History((first,)).best == first
    assert History((first, worse)).best == worse


def test_of_equal_accuracies_the_earliest_is_best_and_the_rest_are_stale():
    history = History((Record(0, None, 0.1), Record(50, 2.0, 0.5), Record(100, 1.0, 0.5), Record(150, 0.5, 0.4)))
    assert history.best.step == 50
    assert history.stale() == 2


def test_damaged_candidates_leave_the_choice(run, tmp_path, caplog):
    history = save_all(run, [None, 3.0, 2.0, 1.0], [0.1, 0.9, 0.3, 0.4])
    (tmp_path / "checkpoints" / "000050.npz").write_bytes(b"rubbish")
    left = run.without_damaged(history)
    assert [record.step for record in left.records] == [0, 100, 150]
    assert left.best.step == 150
    assert "left out of the choice" in caplog.text


def test_read_needs_no_method(run, tmp_path):
    save_all(run, [None, 3.0, 2.0], [0.1, 0.9, 0.3])
    state, history = checkpoint.read(tmp_path / "checkpoints")
    assert state.step == history.best.step == 50
    np.testing.assert_array_equal(state.inputs, state_at(50).inputs)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 75.*0, 50, 100"):
        checkpoint.read(tmp_path / "checkpoints", 75)


def test_a_failed_write_leaves_the_checkpoints_before_it(run, tmp_path, monkeypatch):
    save_all(run, [None, 3.0], [0.1, 0.2])

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        run.save(state_at(100), History((Record(100, 1.0, 0.3),)))
    assert run.steps() == [0, 50]
    assert_equal(run.latest(state_at(0))[0], state_at(50))
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.suffix != ".npz"]


def test_only_the_two_newest_checkpoints_are_complete(run, tmp_path):
    """The others keep what judging and export need: a run goes on from none of them."""
    save_all(run, [None, 5.0, 4.0, 3.0, 2.0], [0.1, 0.2, 0.3, 0.4, 0.5])
    names = {step: set(np.load(tmp_path / "checkpoints" / f"{step:06d}.npz").files) for step in run.steps()}
    heavy = {step: any(name.startswith((".optimizer", ".owned")) for name in held) for step, held in names.items()}
    assert heavy == {0: False, 50: False, 100: False, 150: True, 200: True}
    np.testing.assert_array_equal(run.restore(50)[0].inputs, state_at(50).inputs)
    for step in (150, 200):
        (tmp_path / "checkpoints" / f"{step:06d}.npz").unlink()
    assert run.latest(state_at(0)) is None


def test_a_checkpoint_from_before_a_field_of_the_data_existed_has_its_default(tmp_path):
    older = {**IDENTITY, "data": {"name": "mine", "validation": None}}
    Checkpoints(tmp_path / "checkpoints", older).save(state_at(50), History((Record(50, 0.25, 0.2),)))
    now = {**older, "data": {**older["data"], "background": "white", "recursive": False}}
    Checkpoints(tmp_path / "checkpoints", now).check_identity()
    other = {**older, "data": {**now["data"], "background": "black"}}
    with pytest.raises(CheckpointError, match=r"data\.background was 'white' and is now 'black'"):
        Checkpoints(tmp_path / "checkpoints", other).check_identity()


def test_a_run_is_not_continued_in_another_form_of_the_engine(tmp_path):
    """Their results differ in the last bits; see `kip.blocks.choice`."""
    begun = Checkpoints(tmp_path, {**IDENTITY, "forms": {"ConvNet": "pallas"}})
    begun.save(state_at(0), History((Record(0, None, 0.1),)))
    with pytest.raises(CheckpointError, match=r"forms\.ConvNet"):
        Checkpoints(tmp_path, {**IDENTITY, "forms": {"ConvNet": "engine"}}).check_identity()
    with pytest.raises(CheckpointError, match=r"Resume with --blocks\.implementation auto on a device like the first"):
        Checkpoints(tmp_path, IDENTITY).check_identity()
    assert begun.forms() == {"ConvNet": "pallas"}
    assert Checkpoints(tmp_path / "none", IDENTITY).forms() == {}
