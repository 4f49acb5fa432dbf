"""The loop: what it leaves behind, resuming to the same bits, stopping early, and killing it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from helpers.kinds import of_kind, some
from kip import sets
from kip.blocks import Blocks
from kip.data import Augment, Data
from kip.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from kip.experiment import Experiment
from kip.kernels import RBF, Architecture
from kip.krr import Ridge
from kip.methods.kernel.kip import KIP
from kip.methods.kernel.label_solve import LabelSolve
from kip.methods.problem import Problem
from kip.pictures.curves import save_curves
from kip.pictures.images import save_images
from kip.runs import loop as train
from kip.runs.checkpoint import Checkpoints
from kip.runs.loop import Result, run

FC = Architecture("FC", 1)


def tiny(*, steps=6, every=2, seed=0, patience=None, **method):
    settings = {"images_per_class": 1, "kernels": (FC,), "target_batch": 60, "learning_rate": 0.05, **method}
    return Experiment(
        KIP(steps=steps, **settings),
        data=Data("digits"),
        augment=Augment("rotate_shift", fraction=0.3),
        checkpoint_every=every,
        seed=seed,
        patience=patience,
    )


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def go(experiment, out) -> Result:
    return run(experiment, out, show_progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of the tiny experiment."""
    out = tmp_path_factory.mktemp("run") / "whole"
    return out, go(tiny(), out)


def test_a_run_leaves_a_complete_folder(finished):
    out, result = finished
    left = {path.name for path in out.iterdir()}
    assert left - {"data.json"} == {  # which says where $KIP_DATA_DIR was, where that is set
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "initial.npz",
        "distilled.npz",
        "images.png",
        "curves.png",
        "result.json",
    }
    assert json.loads((out / "result.json").read_text()) == result._asdict()
    assert [row["step"] for row in rows(out)] == list(range(7))
    assert [row["step"] for row in rows(out) if "validation_accuracy" in row] == [0, 2, 4, 6]
    distilled = sets.load(out / "distilled.npz")
    assert distilled.metadata["step"] == result.exported_step
    assert distilled.metadata["test_accuracy"] == result.test_accuracy
    assert distilled.experiment == tiny()


def test_the_exported_set_is_the_best_on_validation(finished):
    out, result = finished
    validated = {row["step"]: row["validation_accuracy"] for row in rows(out) if row.get("validation_accuracy")}
    trained = {step: accuracy for step, accuracy in validated.items() if step > 0}
    assert result.validation_accuracy == max(trained.values()) == validated[result.exported_step]


def test_learning_beats_the_natural_images_it_started_from(tmp_path):
    result = go(tiny(steps=40, every=20), tmp_path)
    assert result.test_accuracy > some(result.initial_test_accuracy) + 0.1


def test_a_longer_run_continues_a_shorter_one_to_the_same_bits(finished, tmp_path):
    whole, _ = finished
    go(tiny(steps=4), tmp_path / "parts")
    go(tiny(steps=6), tmp_path / "parts")
    ours, theirs = (sets.load(out / "distilled.npz") for out in (tmp_path / "parts", whole))
    np.testing.assert_array_equal(ours.images_preprocessed, theirs.images_preprocessed)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert (tmp_path / "parts" / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("moment", ["step", "metrics", "checkpoint", "export"])
def test_dying_anywhere_and_running_again_gives_the_same_bits(finished, tmp_path, monkeypatch, moment):
    whole, _ = finished
    places = {
        "step": (KIP, "step"),
        "metrics": (train._Metrics, "add"),
        "checkpoint": (Checkpoints, "save"),
        "export": (sets, "save"),
    }
    owner, name = places[moment]
    original, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            go(tiny(), tmp_path)
    go(tiny(), tmp_path)
    assert (tmp_path / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()
    assert [row["step"] for row in rows(tmp_path)] == list(range(7)), "each step is written once"
    for ours, theirs in zip(rows(tmp_path), rows(whole), strict=True):
        assert ours.get("loss") == theirs.get("loss")


def test_a_line_cut_short_by_a_kill_is_written_again(finished, tmp_path):
    go(tiny(steps=4), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    go(tiny(), tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == list(range(7))


def test_another_configuration_is_refused_and_nothing_is_overwritten(tmp_path):
    go(tiny(steps=2), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match="seed was 0 and is now 1"):
        go(tiny(steps=2, seed=1), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_a_run_begins_with_room_for_its_programs(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train.machine, "forget_programs_near_limit", lambda: asked.append("asked"))
    with pytest.raises(DataError):
        go(dataclasses.replace(tiny(), data=Data("no_such_set")), tmp_path)
    assert asked == ["asked"]


def test_patience_stops_a_run_that_no_longer_improves(tmp_path):
    # A learning rate at which nothing moves: the first trained checkpoint stays the best.
    result = go(tiny(steps=40, every=2, patience=3, learning_rate=1e-12, learn_labels=False), tmp_path)
    assert result.steps == 8
    assert result.exported_step == 2
    again = go(tiny(steps=40, every=2, patience=3, learning_rate=1e-12, learn_labels=False), tmp_path)
    assert again.steps == 8, "a stopped run stays stopped"


def test_the_paper_report_takes_the_checkpoints_of_lowest_train_loss(tmp_path):
    result = go(tiny(steps=7, every=1), tmp_path)
    losses = {row["step"]: row["loss"] for row in rows(tmp_path) if row["step"] > 0}
    assert result.paper_steps == sorted(sorted(losses, key=lambda step: losses[step])[:5])
    assert some(result.paper_test_spread) >= 0


def test_label_solve_runs_in_the_same_loop(tmp_path):
    result = go(Experiment(LabelSolve(5, kernel=FC)), tmp_path)
    assert result.steps == result.exported_step == 1
    assert result.test_accuracy > some(result.initial_test_accuracy)


def test_several_kernels_are_scored_by_their_mean(tmp_path):
    result = go(tiny(steps=2, kernels=(FC, RBF())), tmp_path)
    distilled = sets.load(tmp_path / "distilled.npz")
    assert 0 < result.test_accuracy <= 1
    assert len(of_kind(distilled.experiment.method, KIP).kernels) == 2


def test_the_test_split_is_touched_only_at_the_end(tmp_path, monkeypatch):
    """Corrupted test images and labels change the test accuracy and nothing else."""
    original = train.data.load

    def corrupted(*args, **kwargs):
        dataset = original(*args, **kwargs)
        test = dataset.test._replace(images=255 - dataset.test.images[::-1])
        return dataset._replace(test=test)

    clean = go(tiny(), tmp_path / "clean")
    monkeypatch.setattr(train.data, "load", corrupted)
    dirty = go(tiny(), tmp_path / "dirty")
    assert dirty.test_accuracy != clean.test_accuracy
    assert (dirty.exported_step, dirty.validation_accuracy) == (clean.exported_step, clean.validation_accuracy)
    assert dirty.paper_steps == clean.paper_steps
    for array in ("images_preprocessed", "labels"):
        ours, theirs = (getattr(sets.load(tmp_path / name / "distilled.npz"), array) for name in ("clean", "dirty"))
        np.testing.assert_array_equal(ours, theirs)


def test_a_diverging_run_stops_with_the_step_and_keeps_its_checkpoints(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step \d+: .* holds NaN.*ower the learning rate"):
        go(tiny(steps=20, every=1, learning_rate=1e30), tmp_path)
    assert (tmp_path / "distilled.npz").exists()
    assert Checkpoints(tmp_path / "checkpoints", {}).steps()


def test_states_are_saved_between_checkpoints_when_steps_are_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    go(tiny(steps=5, every=4), tmp_path / "often")
    monkeypatch.setattr(train, "SAVE_SECONDS", 300.0)
    go(tiny(steps=5, every=4), tmp_path / "seldom")
    often, seldom = ((tmp_path / name / "distilled.npz").read_bytes() for name in ("often", "seldom"))
    assert often == seldom, "saving more often changes nothing"


def test_tile_size_comes_from_the_memory_and_changes_values_only_by_rounding(tmp_path):
    import dataclasses

    base = tiny(steps=3, kernels=(Architecture("ConvVec", 1),), target_batch=30)
    small = dataclasses.replace(base, blocks=Blocks(memory_mib=1))
    exported = []
    for name, experiment in (("base", base), ("small", small)):
        go(experiment, tmp_path / name)
        exported.append(sets.load(tmp_path / name / "distilled.npz"))
    np.testing.assert_allclose(exported[0].images_preprocessed, exported[1].images_preprocessed, atol=1e-2)


SCRIPT = """
import sys
from pathlib import Path
from kip.data import Augment, Data
from kip.methods.kernel.kip import KIP
from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.runs.loop import run
experiment = Experiment(
    KIP(2, kernels=(Architecture("FC", 1),), target_batch=200, steps=500),
    data=Data("digits"), augment=Augment("rotate_shift", fraction=0.5), checkpoint_every=5,
)
run(experiment, Path(sys.argv[1]), show_progress=False)
"""


@pytest.mark.slow
def test_killed_three_times_at_random_it_finishes_with_the_same_bits(tmp_path):
    start = lambda out: subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], env=os.environ)  # noqa: E731
    assert start(tmp_path / "whole").wait() == 0
    killed, rng = tmp_path / "killed", np.random.default_rng()
    for _ in range(3):
        before = Checkpoints(killed / "checkpoints", {}).steps()
        process = start(killed)
        deadline = time.monotonic() + 120
        # Wait for a step of this life, then for a random while: the kill falls on steps, saves and drawings alike.
        while Checkpoints(killed / "checkpoints", {}).steps() == before and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, "the run ended before it could be killed: make it longer"
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (killed / "distilled.npz").exists():
            sets.load(killed / "distilled.npz")  # readable after a kill at any moment
    assert start(killed).wait() == 0
    assert (killed / "distilled.npz").read_bytes() == (tmp_path / "whole" / "distilled.npz").read_bytes()


def test_ridge_is_used_in_evaluation_too(tmp_path):
    results = [go(tiny(steps=1, ridge=Ridge(strength)), tmp_path / str(strength)) for strength in (1e-6, 10.0)]
    assert results[0].initial_test_accuracy != results[1].initial_test_accuracy


@pytest.mark.slow
def test_a_default_batch_shrinks_to_what_the_classes_have_and_one_that_was_written_does_not(tmp_path, caplog):
    """FRePo asked for 342 images a class of a user who had written no number."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [30, 20, 10])
    images = (60 * classes[:, None, None, None] + rng.integers(0, 60, (60, 8, 8, 1))).astype(np.uint8)
    np.savez(tmp_path / "small.npz", x_train=images, y_train=classes, x_test=images, y_test=classes)
    made = Experiment(KIP(1, kernels=(FC,), steps=2), data=Data("small", validation=6), checkpoint_every=2)
    run(made, tmp_path / "run", data_dir=tmp_path, show_progress=False)
    assert "method.target_batch is 24 instead of 5000" in caplog.text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"]["target_batch"] == 24
    run(made, tmp_path / "run", data_dir=tmp_path, show_progress=False)  # and it is the same run
    written = dataclasses.replace(made, method=dataclasses.replace(of_kind(made.method, KIP), target_batch=4999))
    with pytest.raises(
        ConfigError, match=r"larger than a class: the class 2 of 'small' has 8.*--method\.target-batch 24"
    ):
        run(written, tmp_path / "other", data_dir=tmp_path, show_progress=False)


@pytest.mark.slow
def test_targets_of_natural_frequency_have_the_shares_of_the_train_set(tmp_path):
    """A run of unbalanced classes may take more targets than its smallest class would allow."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [300, 60, 12])
    images = (60 * classes[:, None, None, None] + rng.integers(0, 60, (372, 8, 8, 1))).astype(np.uint8)
    np.savez(tmp_path / "uneven.npz", x_train=images, y_train=classes, x_test=images, y_test=classes)
    method = KIP(1, kernels=(FC,), steps=2, target_batch=200, balanced_targets=False)
    made = Experiment(method, data=Data("uneven", validation=12), checkpoint_every=2)
    drawn = []
    take = Problem.target_batch

    def noting(problem, *arguments, **options):
        batch = take(problem, *arguments, **options)
        drawn.append(np.bincount(batch.labels.argmax(1), minlength=3))
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "target_batch", noting)
        run(made, tmp_path / "run", data_dir=tmp_path, show_progress=False)
    for counts in drawn:
        assert counts.sum() == 200
        assert counts[0] > counts[1] > counts[2]
    balanced = dataclasses.replace(made, method=dataclasses.replace(method, balanced_targets=True))
    with pytest.raises(ConfigError, match="larger than a class"):
        run(balanced, tmp_path / "balanced", data_dir=tmp_path, show_progress=False)
    many = dataclasses.replace(made, method=dataclasses.replace(method, target_batch=400))
    with pytest.raises(ConfigError, match="larger than the train set"):
        run(many, tmp_path / "many", data_dir=tmp_path, show_progress=False)


def test_a_run_draws_its_set_and_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "save_images", save_images)
    monkeypatch.setattr(train, "save_curves", save_curves)
    go(tiny(steps=1, every=1), tmp_path)
    for name in ("images.png", "curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100


def test_a_new_run_shows_its_first_picture_with_its_first_checkpoint(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("kip.runs.loop._Run._draw", lambda run: drawn.append(run.state.step))
    with monkeypatch.context() as patch:
        patch.setattr("kip.runs.loop.PICTURE_SECONDS", 1e9)
        run(tiny(), tmp_path / "run", show_progress=False)
    assert drawn[0] == 0


def test_a_resumed_run_computes_in_the_form_that_its_checkpoints_name(tmp_path, monkeypatch):
    """The run of a GPU begins in one form; a later measurement would choose the other one."""
    kernels, computed = (Architecture("ConvVec", 1),), []
    experiment = tiny(kernels=kernels)
    measured = {"form": "engine"}

    def settled(config, kernel, image_shape, before=None):
        form = (before or {}).get(kernel.label, measured["form"]) if config.implementation == "auto" else "engine"
        computed.append(form)
        return "engine"  # which every device computes

    def of_run(config, kernels, image_shape, before=None):
        settled(config, kernels[0], image_shape, before)
        return {"forms": {kernels[0].label: computed[-1]}} if config.implementation == "auto" else {}

    monkeypatch.setattr("kip.blocks.choice.settled", settled)
    monkeypatch.setattr("kip.blocks.assemble.settled", settled)
    monkeypatch.setattr(train.choice, "of_run", of_run)
    go(tiny(steps=2, kernels=kernels), tmp_path)
    assert set(computed) == {"engine"}
    computed.clear()
    measured["form"] = "pallas"
    go(experiment, tmp_path)
    assert set(computed) == {"engine"}, "and not the one that is measured now"
    explicit = dataclasses.replace(experiment, blocks=Blocks(implementation="engine"))
    with pytest.raises(CheckpointError, match=r"Resume with --blocks\.implementation auto"):
        go(explicit, tmp_path)
