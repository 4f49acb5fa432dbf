"""Whole kernel matrices in a folder: their bits, what a kill leaves, and every folder that is refused."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import kip
from helpers.kinds import some, untyped
from kip import cli
from kip.blocks import LocalExecutor
from kip.errors import ConfigError, DataError, OutputError, ShapeError
from kip.functions import inputs, stored
from kip.functions.stored import Job
from kip.kernels import Architecture

FC = Architecture("FC", 1)
SIDE = 8
"""Images on each side of a block, where a test makes blocks small."""
DIAGONAL_TASKS = 2
"""Those of the test images' diagonal."""


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 1)).astype(np.float32)


X, Z = images(30), images(11, 1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(importlib.import_module("kip.blocks.plan"), "WHOLE_SIDE", SIDE)


class Stops(LocalExecutor):
    """An executor that raises an error after so many tasks."""

    def __init__(self, after, error: type[BaseException] = RuntimeError):
        super().__init__()
        self.left, self.error, self.computed = after, error, 0

    def __enter__(self) -> Stops:
        return self

    def forward(self, tasks):
        for block in super().forward(tasks):
            if not self.left:
                raise self.error("stopped")
            self.left, self.computed = self.left - 1, self.computed + 1
            yield block


def job(**changes):
    given: dict[str, Any] = {"kernel": FC, "config": kip.Blocks(), "train": X, "test": Z, **changes}
    return Job(**given)


def kept(folder):
    return {name: (folder / name).read_bytes() for name in (stored.TRAIN, stored.TEST, stored.DIAGONAL)}


@pytest.fixture
def whole(tmp_path):
    kip.write_kernel(tmp_path / "whole", X, Z, kernel="FC1", show_progress=False)
    return tmp_path / "whole"


def test_the_files_hold_the_bits_of_the_kernel_as_a_function(whole):
    matrix = kip.load_kernel(whole)
    np.testing.assert_array_equal(matrix.train, kip.kernel(X, kernel="FC1"))
    np.testing.assert_array_equal(some(matrix.test), kip.kernel(Z, X, kernel="FC1"))
    np.testing.assert_array_equal(matrix.train, matrix.train.T)
    np.testing.assert_allclose(some(matrix.test_diagonal), np.diagonal(kip.kernel(Z, kernel="FC1")), rtol=1e-6)
    assert isinstance(matrix.train, np.memmap)
    assert not matrix.train.flags.writeable
    assert repr(matrix) == "StoredKernel(train 30x30, test 11x30, float32)"
    assert matrix.about["kernel"] == "FC1"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_alone_reads_the_files(tmp_path, dtype):
    kip.write_kernel(tmp_path, X, kernel="RBF", blocks=kip.Blocks(dtype=dtype), show_progress=False)
    read = np.load(tmp_path / stored.TRAIN)
    assert (read.dtype, read.shape) == (dtype, (30, 30))
    assert not (tmp_path / stored.TEST).exists()


@pytest.mark.parametrize("after", [0, 1, 5, 9, 12, 17])
def test_what_was_stopped_goes_on_with_the_next_task_to_the_same_bits(whole, tmp_path, after):
    out = tmp_path / "stopped"
    with Stops(after, KeyboardInterrupt) as place, pytest.raises(KeyboardInterrupt):
        stored.write(out, job(), place, show_progress=False)
    assert stored.tasks_done(out) == after
    with pytest.raises(DataError, match=r"(a part of its (train|test) matrix|no train\.npy)"):
        kip.load_kernel(out)
    with Stops(10**6) as place:
        outcome = stored.write(out, job(), place, show_progress=False)
        assert place.computed == outcome.tasks - after + DIAGONAL_TASKS
    assert outcome.resumed_tasks == after
    assert kept(out) == kept(whole)


def test_values_that_came_after_the_last_mark_are_computed_again(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "killed")
    stored.forget(out, 4)
    assert stored.tasks_done(out) == 4
    with open(out / stored.TRAIN, "r+b") as file:  # as a kill leaves them: what was written since may lack
        file.seek(-80, os.SEEK_END)
        file.write(bytes(80))
    kip.write_kernel(out, X, Z, kernel="FC1", show_progress=False)
    assert kept(out) == kept(whole)


def test_a_finished_matrix_is_not_computed_again_and_takes_a_test_matrix_later(whole, tmp_path):
    out = tmp_path / "later"
    with Stops(10**6) as place:
        stored.write(out, job(test=None), place, show_progress=False)
        first = place.computed
        stored.write(out, job(), place, show_progress=False)
        assert place.computed == first + 4 * 2 + DIAGONAL_TASKS
        stored.write(out, job(test=None), place, show_progress=False)
        assert place.computed == first + 4 * 2 + DIAGONAL_TASKS
    assert kept(out) == kept(whole)


def test_a_mark_is_written_after_the_values_have_reached_the_disk(tmp_path, monkeypatch):
    events = []
    sync = os.fsync
    monkeypatch.setattr(
        stored.os, "fsync", lambda number: (events.append(os.readlink(f"/proc/self/fd/{number}")), sync(number))
    )
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    with LocalExecutor() as place:
        stored.write(tmp_path, job(test=None), place, together=3, show_progress=False)
    ours = [name.rsplit("/", 1)[-1] for name in events if stored.TRAIN in name or stored.ABOUT in name]
    marks = [place for place, name in enumerate(ours) if stored.ABOUT in name][1:]  # the first says what will be there
    assert len(marks) == 4  # of ten tasks, three at a time
    assert all(ours[place - 1] == stored.TRAIN for place in marks)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": Architecture("FC", 2)}, "another kernel; got FC1; expected FC2"),
        ({"kernel": Architecture("FC", 1, w_std=2.0)}, "another value"),
        ({"config": kip.Blocks(dtype="float64")}, "another dtype; got float32; expected float64"),
        ({"config": kip.Blocks(memory_mib=7)}, "another memory_mib; got 1024; expected 7"),
        ({"train": images(30, 5)}, "a train matrix of other images"),
        ({"test": images(11, 5)}, "a test matrix of other images"),
    ],
)
def test_a_folder_with_a_matrix_of_something_else_is_refused(whole, changes, words):
    before = kept(whole)
    with LocalExecutor() as place, pytest.raises(OutputError, match=words) as refused:
        stored.write(whole, job(**changes), place, show_progress=False)
    assert "Name another folder with --out, or remove this one." in str(refused.value)
    assert kept(whole) == before


def test_an_unfinished_matrix_of_another_version_of_kip_is_refused_and_a_finished_one_is_not(whole):
    about = json.loads((whole / stored.ABOUT).read_text())
    about["of"]["kip"] = "0.0.1"
    (whole / stored.ABOUT).write_text(json.dumps(about))
    stored.check(whole, job())
    stored.forget(whole, 2)
    with pytest.raises(OutputError, match=r"another version of kip; got 0\.0\.1"):
        stored.check(whole, job())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "of": {}, "matrices": {"train": {"done": 9, "tasks": 1}}}']
)
def test_a_damaged_or_foreign_mark_is_refused(whole, text):
    (whole / stored.ABOUT).write_text(text)
    for read in (lambda: stored.check(whole, job()), lambda: kip.load_kernel(whole)):
        with pytest.raises(OutputError, match="damaged, or of another version"):
            read()


def test_files_that_are_not_what_the_mark_says_are_refused(whole, tmp_path):
    content = (whole / stored.TRAIN).read_bytes()
    (whole / stored.TRAIN).write_bytes(content.replace(b"(30, 30)", b"(20, 45)"))
    with pytest.raises(OutputError, match=r"expected a matrix of 30x30"):
        stored.check(whole, job())
    (whole / stored.TRAIN).write_bytes(b"short")
    with pytest.raises(OutputError, match=r"train.npy is not what matrix.json says; got 5 bytes"):
        stored.check(whole, job())
    (tmp_path / stored.TRAIN).write_bytes(b"somebody's")
    with pytest.raises(OutputError, match=r"is there already"):
        stored.check(tmp_path, job())


def test_a_disk_with_too_little_room_is_refused_before_the_first_task(tmp_path, monkeypatch, whole):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OutputError, match=r"too little room for the matrices.*--num-train"):
        stored.check(tmp_path / "new" / "folder", job())
    assert not (tmp_path / "new").exists()
    stored.check(whole, job())  # which has its room


def test_a_disk_that_fills_up_is_an_error_in_words_and_the_same_call_goes_on(whole, tmp_path, monkeypatch):
    put, left = stored._Matrix.put, [3]

    def full(file, where, block):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        put(file, where, block)

    monkeypatch.setattr(stored._Matrix, "put", full)
    out = tmp_path / "full"
    with pytest.raises(OutputError, match=r"No space left on device. Make room on the disk"):
        kip.write_kernel(out, X, Z, kernel="FC1", show_progress=False)
    monkeypatch.setattr(stored._Matrix, "put", put)
    kip.write_kernel(out, X, Z, kernel="FC1", show_progress=False)
    assert kept(out) == kept(whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": X[..., 0]}, "not a batch of images"),
        ({"train": X.astype(np.uint8)}, "expected at least one, float32 or float64"),
        ({"train": X[:0]}, "got 0 of float32"),
        ({"test": images(3)[:, :2]}, "shape of the"),
        ({"train_labels": np.zeros(29, int)}, "one integer for each image"),
        ({"kernel": Architecture("ConvNet", 3)}, "too small for the 3 poolings"),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path, changes, words):
    with pytest.raises(ShapeError, match=words):
        stored.check(tmp_path / "new", job(**changes))
    assert not (tmp_path / "new").exists()


def test_nothing_is_loaded_where_nothing_is(tmp_path):
    with pytest.raises(DataError, match="no kernel matrix in"):
        kip.load_kernel(tmp_path)


def test_the_first_images_of_a_file_or_a_balanced_draw_of_a_data_set_are_taken(tmp_path):
    drawn = inputs.of_data(kip.Data("digits"), preprocessing=kip.Preprocess(), num_train=40, num_test=20)
    assert np.bincount(some(drawn.train_labels)).tolist() == [4] * 10
    assert np.bincount(some(drawn.test_labels)).tolist() == [2] * 10
    assert len(inputs.of_data(kip.Data("digits"), preprocessing=kip.Preprocess()).train) == 1438  # none held out
    np.savez(tmp_path / "floats.npz", images=X, labels=np.arange(30))
    floats = inputs.of_file(tmp_path / "floats.npz", num_train=5)
    np.testing.assert_array_equal(floats.train, X[:5])
    assert (floats.test, some(floats.train_labels).tolist()) == (None, [0, 1, 2, 3, 4])
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "bytes.npz", x_train=pixels, x_test=pixels[:3])
    grey = inputs.of_file(tmp_path / "bytes.npz", num_test=2)
    expected = kip.fit_preprocess(kip.Preprocess(), pixels[..., None])
    np.testing.assert_array_equal(grey.train, expected.apply(pixels[..., None]))
    np.testing.assert_array_equal(some(grey.test), grey.train[:2])


def test_files_and_counts_that_do_not_fit_are_refused(tmp_path):
    np.savez(tmp_path / "floats.npz", images=X)
    np.savez(tmp_path / "other.npz", weights=X)
    np.savez(tmp_path / "flat.npz", images=X.reshape(30, -1))
    with pytest.raises(ConfigError, match=r"--preprocess\.kind; got zca, for floats\.npz"):
        inputs.of_file(tmp_path / "floats.npz", preprocessing=kip.Preprocess("zca"))
    with pytest.raises(ConfigError, match="--num-train; got 31; expected 1 to 30"):
        inputs.of_file(tmp_path / "floats.npz", num_train=31)
    with pytest.raises(DataError, match="holds no images; got weights"):
        inputs.of_file(tmp_path / "other.npz")
    with pytest.raises(DataError, match=r"the train images; got float32 \(30, 16\)"):
        inputs.of_file(tmp_path / "flat.npz")
    with pytest.raises(ConfigError, match="--num-test; got 360"):
        inputs.of_data(kip.Data(), preprocessing=kip.Preprocess(), num_test=360)
    assert untyped(inputs).PLAIN


def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(argument) for argument in ("kernel", *arguments)])
    return status, out.getvalue(), err.getvalue()


SMALL = ("digits", "--kernel", "FC1", "--num-train", 60, "--num-test", 20)


def test_the_command_says_what_it_will_take_and_what_it_has_made(tmp_path):
    status, out, err = command(*SMALL, "--out", tmp_path / "k", "--json")
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert (result["train"], result["test"], result["resumed_tasks"]) == ([60, 60], [20, 60], 0)
    assert result["entries"] == 60 * 61 // 2 + 20 * 60
    assert result["forecast_seconds"] > 0
    assert "entries of FC1 take about" in err
    matrix = kip.load_kernel(tmp_path / "k")
    assert (len(some(matrix.train_labels)), len(some(matrix.test_labels))) == (60, 20)
    again = json.loads(command(*SMALL, "--out", tmp_path / "k", "--json")[1].splitlines()[-1])
    assert (again["entries"], again["resumed_tasks"]) == (0, again["tasks"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", 2), "options of workers with --executor local; got --workers 2"),
        (("--wait-for-workers", 5), "options of workers with --executor local"),
        (("--executor", "zmq", "--check-share", 2), "--check-share"),
        (("--executor", "ray", "--workers", 0), "--workers"),
        (("--num-train", 10**6), "--num-train"),
        (("--kernel", "ConvNet9000"), "depth: got 9000"),
    ],
)
def test_the_command_refuses_options_in_words(tmp_path, options, words):
    status, out, err = command("digits", "--out", tmp_path / "k", *options)
    assert (status, out) == (2, "")
    assert words in err
    assert not (tmp_path / "k").exists()


def test_a_killed_command_goes_on_to_the_same_bits(tmp_path):
    """A kill that nothing can catch, at about half."""
    code = (
        "import sys, importlib; importlib.import_module('kip.blocks.plan').WHOLE_SIDE = 8; "
        "from kip.functions import stored; stored.MARK_SECONDS = 0.0; from kip import cli; cli.main(sys.argv[1:])"
    )
    arguments = ["kernel", *map(str, SMALL), "--out"]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, str(tmp_path / "killed")], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    with contextlib.suppress(OutputError):
        while child.poll() is None and stored.tasks_done(tmp_path / "killed") < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert stored.tasks_done(tmp_path / "killed") >= 5
    for name in ("killed", "whole"):
        assert command(*SMALL, "--out", tmp_path / name)[0] == 0
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
