"""A run's folder after bad luck or bad will: the run goes on, report and status are made, nothing is a traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.kinds import some
from helpers.links import ThreadLink
from kip import cli, sets
from kip.data import Data
from kip.errors import OutputError
from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.methods.kernel.kip import KIP
from kip.runs.loop import run
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.storage.files import atomic_write
from kip.storage.locks import NAME, sole_writer
from kip.workers.worker import Worker

JUNK = [b"5", b"null", b"{}", b'{"step": "x"}', b'{"step": 2, "lo', b"\xff\xfe\x00", b'{"step": 1, "loss": "low"}']


def tiny(steps):
    method = KIP(images_per_class=1, kernels=(Architecture("FC", 1),), target_batch=60, steps=steps)
    return Experiment(method, data=Data("digits"), checkpoint_every=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(tiny(6), out, show_progress=False)
    return out


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy of the whole run whose metrics hold every kind of bad line."""
    out = shutil.copytree(whole, tmp_path / "run")
    lines = (out / "metrics.jsonl").read_bytes().splitlines()
    (out / "metrics.jsonl").write_bytes(b"\n".join([JUNK[0], *lines[:2], *JUNK[1:], *lines[2:], b'{"step": 6']))
    return out


def steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_bad_lines_in_the_metrics_do_not_stop_a_run_and_are_gone_afterwards(damaged, caplog):
    """Each of them ended `kip distill` with a traceback, at every start."""
    run(tiny(8), damaged, show_progress=False)
    assert steps(damaged) == list(range(9))
    assert len([record for record in caplog.records if "no rows of metrics" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    "result",
    [
        b'{"steps": 6, "seco',
        b"\xff",
        *(pytest.param(r, marks=pytest.mark.slow) for r in (b"", b"null", b"[1]", b'{"steps": "six"}')),
    ],
)
def test_report_and_status_are_made_of_what_is_left(damaged, capsys, result):
    (damaged / "result.json").write_bytes(result)
    for name in (
        "status.json",
        "evaluation.json",
        "transfer.json",
        "comparison/comparison.json",
        "pretraining.json",
        "analysis.json",
    ):
        (damaged / name).parent.mkdir(exist_ok=True)
        (damaged / name).write_bytes(result)
    assert cli.main(["report", str(damaged)]) == 0
    page = (damaged / "report.html").read_text()
    assert "Learning curves" in page
    assert "lowest train loss" not in page
    assert cli.main(["status", str(damaged), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 6


@pytest.mark.parametrize("status", [{"workers": []}, {"time": 1}, {"time": "x"}, {"workers": [1]}, {"workers": [{}]}])
def test_a_status_file_of_another_content_counts_as_none(whole, tmp_path, status, capsys):
    out = shutil.copytree(whole, tmp_path / "run")
    numbers = dict.fromkeys(("tasks_done", "tasks_left", "tasks_per_second", "retries", "copies"), 0)
    (out / "status.json").write_text(json.dumps({**numbers, **status}))
    assert cli.main(["status", str(out)]) == 0
    assert "no workers" in capsys.readouterr().out


@pytest.fixture
def no_waiting():
    """Turn a wait for ever into an error."""

    def give_up(number, frame):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a name")
@pytest.mark.parametrize(
    ("name", "refusing"),
    [
        ("config.json", ("status", "report", "export")),
        *(
            pytest.param(name, (), marks=pytest.mark.slow)
            for name in ("metrics.jsonl", "result.json", "status.json", "analysis.json", "initial.npz")
        ),
        ("images.png", ()),
        ("distilled.npz", ("report", "export", "evaluate")),
        ("checkpoints/000006.npz", ("export",)),
        ("run.lock", ()),
    ],
)
def test_a_pipe_among_the_files_of_a_run_makes_nobody_wait(whole, tmp_path, capsys, no_waiting, name, refusing):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    evaluate = ["evaluate", str(out / "distilled.npz"), "--kernel", "RBF"]
    for command in (["status", str(out)], ["report", str(out)], ["export", str(out)], evaluate):
        assert cli.main(command) == (2 if command[0] in refusing else 0), (command, capsys.readouterr().err)
        (out / "report.html").unlink(missing_ok=True)
    complaints = capsys.readouterr().err
    assert complaints.count("kip: error: ") == len(refusing)
    assert "Traceback" not in complaints


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with a name")
@pytest.mark.parametrize("name", ["metrics.jsonl", "distilled.npz", "checkpoints/000006.npz", "config.json"])
def test_a_run_goes_on_beside_pipes(whole, tmp_path, no_waiting, name):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / name).unlink()
    os.mkfifo(out / name)
    assert run(tiny(6), out, show_progress=False).steps == 6
    assert (out / name).is_file()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="Windows opens links as any file")
def test_a_link_in_place_of_the_lock_is_not_written_through(whole, tmp_path):
    """The owner of the lock was written over the file that a stranger's run linked to."""
    out = shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "profile").write_text("the user's")
    (out / NAME).symlink_to(tmp_path / "profile")
    with pytest.raises(OutputError, match=r"run\.lock"):
        run(tiny(6), out, show_progress=False)
    assert (tmp_path / "profile").read_text() == "the user's"


def test_the_report_shows_no_picture_of_an_infinite_loss(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": Infinity}\n{"step": 8, "loss": NaN}\n{"step": 9, "loss": -1}\n')
    assert cli.main(["report", str(out)]) == 0


def test_the_report_shows_no_spread_that_is_no_number(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    (out / "result.json").write_text(json.dumps(result | {"paper_steps": [1, 2], "paper_test_spread": "wide"}))
    assert cli.main(["report", str(out)]) == 0


def test_natural_images_of_another_run_are_left_out_of_the_report(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    first = sets.load(out / "initial.npz")
    arrays = {name: getattr(first, name)[:4] for name in first._fields if name != "metadata"}
    sets.save(out / "initial.npz", first._replace(**arrays))
    assert cli.main(["report", str(out)]) == 0


def test_a_second_process_is_refused_before_it_touches_the_folder(whole, tmp_path):
    """Two processes in one folder wrote both."""
    out = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with sole_writer(out), pytest.raises(OutputError, match=f"another process writes to .*process {os.getpid()} on "):
        run(tiny(8), out, show_progress=False)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


DISTIL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_damaged_runs
test_damaged_runs.run(test_damaged_runs.tiny(5000), Path(sys.argv[1]), show_progress=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.slow
def test_a_killed_run_leaves_no_lock_and_its_temporary_files_go_at_the_next_start(tmp_path):
    command = [sys.executable, "-c", DISTIL, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("checkpoints/*2.npz")):
            assert process.poll() is None, some(process.stderr).read()
        with pytest.raises(OutputError, match=f"process {process.pid} on "):
            run(tiny(8), tmp_path, show_progress=False)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / NAME).exists()
    left = []
    for name in ("distilled.npz", "checkpoints/000002.npz", "artefacts/pool-1.npz"):
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / name, lambda file: left.append(Path(file.name)) or interrupt())
    for path in left:
        path.write_bytes(b"what a kill left")
        os.utime(path, (1e9, 1e9))
    reached = max(int(path.stem) for path in tmp_path.glob("checkpoints/*.npz"))
    run(tiny(reached), tmp_path, show_progress=False)
    assert not [path for path in left if path.exists()]
    assert not (tmp_path / NAME).exists()
    assert steps(tmp_path) == list(range(reached + 1))


def interrupt():
    raise KeyboardInterrupt


class PowerCutError(Exception):
    """Stands for the end of everything."""


def until(step, then):
    """Return KIP's step, and `then` called instead of the step after so many."""
    original = KIP.step

    def stepping(method, problem, prepared, state):
        if state.step == step:
            then()
        return original(method, problem, prepared, state)

    return stepping


def cut_off():
    raise PowerCutError


def test_files_cut_at_any_byte_after_the_last_sync_are_written_again(whole, tmp_path, monkeypatch):
    """A power cut keeps any part of what was not synced: of the metrics, and of files that had no name yet."""
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(KIP, "step", until(5, cut_off))
        with pytest.raises(PowerCutError):
            run(tiny(6), stopped, show_progress=False)
    metrics = (stopped / "metrics.jsonl").read_bytes()
    checkpoint = (stopped / "checkpoints" / "000004.npz").read_bytes()
    expected = (whole / "distilled.npz").read_bytes()
    for number, cut in enumerate(np.linspace(0, len(metrics) - 1, 6).astype(int)):
        out = shutil.copytree(stopped, tmp_path / str(number))
        (out / "metrics.jsonl").write_bytes(metrics[:cut])
        aside = out / "checkpoints" / f".000006.npz.{number:032x}.tmp"
        aside.write_bytes(checkpoint[: len(checkpoint) * number // 6])
        os.utime(aside, (1e9, 1e9))
        run(tiny(6), out, show_progress=False)
        assert (out / "distilled.npz").read_bytes() == expected, cut
        assert steps(out)[-2:] == [5, 6]
        assert not aside.exists()


def test_a_folder_that_is_removed_stops_the_run_in_words_and_the_same_command_begins_anew(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(KIP, "step", until(3, lambda: shutil.rmtree(out)))
        with pytest.raises(OutputError, match="Check that the folder is there"):
            run(tiny(6), out, show_progress=False)
    run(tiny(6), out, show_progress=False)
    assert (out / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()


@pytest.mark.parametrize("jump", [3600.0, -3600.0], ids=["forward", "back"])
def test_a_clock_that_is_set_by_an_hour_changes_nothing(whole, tmp_path, monkeypatch, jump):
    out, now = tmp_path / "run", time.time
    with monkeypatch.context() as patch:
        patch.setattr(KIP, "step", until(3, lambda: patch.setattr(time, "time", lambda: now() + jump)))
        run(tiny(6), out, show_progress=False)
    assert (out / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()
    seconds = [json.loads(line).get("seconds", 0) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 600


@pytest.mark.parametrize("jump", [3600.0, -3600.0], ids=["forward", "back"])
def test_workers_are_judged_by_a_clock_that_nobody_sets(tmp_path, monkeypatch, jump, capsys):
    """Deadlines, copies and the status are those of a run whose clock stands still."""
    made = tiny(6)
    run(made, tmp_path / "here", show_progress=False)
    out, now = tmp_path / "run", time.time
    links = [ThreadLink(name, Worker()) for name in "ab"]
    executor = RemoteExecutor(links, **service.introduction(made, None), on_tick=service.StatusFile(out))
    with monkeypatch.context() as patch:
        patch.setattr(KIP, "step", until(3, lambda: patch.setattr(time, "time", lambda: now() + jump)))
        service.run(made, out, executor, show_progress=False)
        scheduler = executor.scheduler
        assert (scheduler.retries, scheduler.copies, scheduler.sent_away) == (0, 0, {})
        monkeypatch.setattr(service, "EVERY", 0.0)
        service.StatusFile(out)(executor)
    assert (out / "distilled.npz").read_bytes() == (tmp_path / "here" / "distilled.npz").read_bytes()
    assert cli.main(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["age"] >= 0


ARRAYS = {
    "no images": lambda s: {name: getattr(s, name)[:0] for name in s._fields if name != "metadata"},
    "fewer labels": lambda s: {"labels": s.labels[:-1]},
    "flat labels": lambda s: {"labels": s.labels.ravel()},
    "labels of no entry": lambda s: {"labels": s.labels[:, :0]},
    "more classes": lambda s: {"class_index": np.arange(11)},
    "negative classes": lambda s: {"class_index": -1 - s.class_index},
    "classes with a fraction": lambda s: {"class_index": s.class_index + 0.5},
    "other pixels": lambda s: {"images": s.images[:, 1:]},
    "two channels": lambda s: {"images": np.tile(s.images, 2), "images_preprocessed": np.tile(s.images, 2)},
    "flat images": lambda s: {"images": s.images[..., 0], "images_preprocessed": s.images[..., 0]},
    "a pixel of NaN": lambda s: {"images": np.where(s.images > 0.9, np.nan, s.images)},
    "an infinite label": lambda s: {"labels": np.where(s.labels > 0, np.inf, s.labels)},
    "no statistics": lambda s: {"image_statistics": s.image_statistics[:, :1]},
    "text for labels": lambda s: {"labels": s.labels.astype(str)},
    "a class of a billion": lambda s: {"class_index": s.class_index + 10**9},
    "classes beyond all": lambda s: {"class_index": s.class_index.astype(np.uint64) + np.uint64(2**63)},
    "a million entries of labels": lambda s: {"labels": np.zeros((len(s.labels), 10**6), np.float16)},
}
METADATA = {
    "a step of text": {"step": "six"},
    "an accuracy of text": {"test_accuracy": "high"},
    "an experiment of text": {"experiment": "mine"},
    "an experiment of nothing": {"experiment": {}},
    "an unknown judge": {"method": {"label": "x", "labels_are": "classes", "judge": {"kind": "shell"}}},
    "no judge": {"method": {}},
    "a method of text": {"method": "kip"},
    "preprocessing of a list": {"preprocess": []},
    "steps of text": {"deployment_steps": "many"},
    "versions of a list": {"versions": ["kip", "jax"]},
    "an endless seed": {"experiment": {"seed": float("inf")}},
    "a seed of NaN": {"experiment": {"seed": float("nan")}},
    "a name of 300 letters": {"experiment": {"data": {"name": "x" * 300}}},
    "names of numbers": {"class_names": [1, 2]},
}


def changed(content, changes):
    """Return a dictionary with changes, also within those that it holds."""
    return content | {
        name: changed(content[name], change) if isinstance(change, dict) and change and name == "experiment" else change
        for name, change in changes.items()
    }


@pytest.mark.parametrize("fault", [*ARRAYS, *METADATA])
@pytest.mark.parametrize("command", ["show", "report", "evaluate"])
def test_a_set_that_is_not_what_it_says_is_refused_in_words(whole, tmp_path, capsys, command, fault):
    out = shutil.copytree(whole, tmp_path / "run")
    path = out / "distilled.npz"
    loaded = sets.load(path)
    changes = ARRAYS[fault](loaded) if fault in ARRAYS else {"metadata": changed(loaded.metadata, METADATA[fault])}
    sets.save(path, loaded._replace(**changes))
    assert cli.main([command, str(out if command == "report" else path)]) == 2
    complaint = capsys.readouterr().err
    assert str(path) in complaint
    assert "Traceback" not in complaint
