"""What a run tells its callbacks, and what the loggers make of it."""

import json
import sys
import types

import numpy as np
import pytest

import kip
from kip import cli, sets
from kip.errors import MissingExtraError
from kip.runs.loggers import grid, loggers


def tiny(steps=4):
    method = kip.KIP(images_per_class=1, kernels=(kip.Architecture("FC", 1),), target_batch=60, steps=steps)
    return kip.Experiment(method, checkpoint_every=2)


class Told(kip.Callback):
    def __init__(self):
        self.events = []

    def on_begin(self, experiment, out):
        self.events.append(("begin", experiment.method.steps, out.name))

    def on_row(self, row):
        self.events.append(("row", row["step"]))
        row.clear()  # it is the callback's own

    def on_export(self, distilled):
        self.events.append(("export", distilled.metadata["step"], distilled.metadata["validation_accuracy"]))

    def on_end(self, result):
        self.events.append(("end", result.steps))


def test_a_callback_is_told_of_every_row_every_new_best_and_the_result(tmp_path):
    first, second = Told(), Told()
    kip.run(tiny(), tmp_path / "run", callbacks=[first, second], show_progress=False)
    assert first.events == second.events
    assert first.events[0] == ("begin", 4, "run")
    assert first.events[-1] == ("end", 4)
    assert [event[1] for event in first.events if event[0] == "row"] == [0, 1, 2, 3, 4]
    bests = [event[2] for event in first.events if event[0] == "export"]
    assert bests == sorted(set(bests)), "each is better than the one before"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("loss" in row for row in rows[1:])


def test_a_resumed_run_tells_what_is_new(tmp_path):
    kip.run(tiny(2), tmp_path / "run", show_progress=False)
    told = Told()
    kip.run(tiny(4), tmp_path / "run", callbacks=[told], show_progress=False)
    assert [event[1] for event in told.events if event[0] == "row"] == [3, 4]


def test_a_callback_that_raises_ends_the_run_and_the_next_one_resumes(tmp_path):
    class Stops(kip.Callback):
        def on_row(self, row):
            if row["step"] == 3:
                raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        kip.run(tiny(), tmp_path / "run", callbacks=[Stops()], show_progress=False)
    kip.run(tiny(), tmp_path / "run", show_progress=False)
    kip.run(tiny(), tmp_path / "whole", show_progress=False)
    ours, theirs = ((tmp_path / name / "distilled.npz").read_bytes() for name in ("run", "whole"))
    assert ours == theirs


def test_a_grid_has_a_row_per_class(tmp_path):
    kip.run(tiny(), tmp_path / "run", show_progress=False)
    distilled = sets.load(tmp_path / "run" / "distilled.npz")
    picture = grid(distilled)
    assert picture.shape == (10 * 9 + 1, 10, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    np.testing.assert_array_equal(picture[0], 1.0)


class Tracked(types.ModuleType):
    """A stand-in for wandb and trackio: what they are called with."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def Image(self, pixels):
        assert pixels.dtype == np.uint8
        return pixels.shape

    def init(self, **options):
        self.calls.append(("init", options["project"], options["name"], options["config"]["method"]["name"]))

    def log(self, values, step):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_get_scalars_images_and_the_result(name, tmp_path, monkeypatch):
    module = Tracked(name)
    monkeypatch.setitem(sys.modules, name, module)
    result = kip.run(tiny(), tmp_path / "run", callbacks=loggers([name]), show_progress=False)
    assert module.calls[0] == ("init", "kip", "run", "kip")
    assert module.calls[-1] == ("finish",)
    logged = [call for call in module.calls if call[0] == "log"]
    assert {call[1] for call in logged if "loss" in call[2]} == {1, 2, 3, 4}
    assert any(call[2].get("distilled") == (91, 10, 3) for call in logged)
    assert logged[-1][2]["result/test_accuracy"] == result.test_accuracy
    steps = [call[1] for call in logged]
    assert steps == sorted(steps), "trackers refuse steps that go back"


def test_tensorboard_reads_what_the_command_logged(tmp_path):
    pytest.importorskip("tensorboardX")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = tmp_path / "tiny.py"
    config.write_text(
        "import kip\n"
        "method = kip.KIP(1, kernels=(kip.Architecture('FC', 1),), target_batch=60, steps=4)\n"
        "config = kip.Experiment(method, checkpoint_every=2)\n"
    )
    assert cli.main(["distill", str(config), "--out", str(tmp_path / "run"), "--log", "tensorboard"]) == 0
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert "distilled" in events.Tags()["images"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (accuracy,) = events.Scalars("result/test_accuracy")
    assert accuracy.value == pytest.approx(result["test_accuracy"])


def test_a_logger_that_is_not_installed_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"kip-distillation\[tensorboard\]"):
        loggers(["tensorboard"])
