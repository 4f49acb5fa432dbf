"""One writer for each folder: who comes second is told who is first, and a lock ends with its process."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from helpers.kinds import some
from kip.errors import KipError, OutputError
from kip.storage import locks
from kip.storage.locks import NAME, has_writer, sole_writer

HOLDER = """
import sys, time
from kip.storage.locks import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder, until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert some(process.stdout).readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_of_the_first(tmp_path, holder):
    with pytest.raises(OutputError, match="another process writes to") as caught, sole_writer(tmp_path):
        pytest.fail("two writers")
    assert isinstance(caught.value, KipError)
    assert f"process {holder.pid} on " in str(caught.value)
    assert "--out" in str(caught.value)


def test_the_lock_ends_with_the_process_that_held_it(tmp_path, holder):
    holder.communicate()
    with sole_writer(tmp_path):
        pass


def test_a_reader_sees_whether_somebody_writes_and_leaves_no_trace(tmp_path, holder):
    assert has_writer(tmp_path)
    holder.communicate()
    assert not has_writer(tmp_path)
    assert not has_writer(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    with sole_writer(tmp_path):
        assert has_writer(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_kill_9_leaves_a_file_and_no_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / NAME).exists()
    with sole_writer(tmp_path) as lock:
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert not (tmp_path / NAME).exists()


def test_two_threads_are_two_writers_and_the_folder_is_free_after_an_error(tmp_path):
    refusal = pytest.raises(OutputError, match=f"process {os.getpid()} on ")
    with sole_writer(tmp_path), refusal, sole_writer(tmp_path):
        pytest.fail("two writers")
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with sole_writer(tmp_path):
        pass


def test_programs_that_the_holder_starts_do_not_hold_the_lock(tmp_path):
    with sole_writer(tmp_path):
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    try:
        with sole_writer(tmp_path):
            assert worker.poll() is None
    finally:
        worker.communicate("\n")


def _wait(started, end):
    started.set()
    end.wait(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_forked_children_do_not_hold_the_lock_and_do_not_end_it(tmp_path):
    fork = multiprocessing.get_context("fork")
    started, end = fork.Event(), fork.Event()
    with sole_writer(tmp_path):
        child = fork.Process(target=_wait, args=(started, end))
        child.start()
        assert started.wait(60)
    try:
        with sole_writer(tmp_path):
            end.set()
            child.join()
            with pytest.raises(OutputError), sole_writer(tmp_path):
                pytest.fail("the child has ended its parent's lock")
    finally:
        end.set()
        child.join()


def test_of_many_that_come_at_once_one_at_a_time_is_in(tmp_path):
    """The lock file is removed at each end; nobody gets the lock of a file that is gone."""
    inside, most, turns = [], [], []

    def visit():
        while len(turns) < 200:
            try:
                with sole_writer(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    turns.append(1)
                    inside.pop()
            except OutputError:
                pass

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


@pytest.mark.parametrize("text", ["", "null", "{}", "rubbish", '{"pid": 1}'])
def test_an_owner_that_cannot_be_read_is_another_process(tmp_path, text):
    with sole_writer(tmp_path) as lock:
        lock.path.write_text(text)
        with pytest.raises(OutputError, match="got another process"), sole_writer(tmp_path):
            pytest.fail("two writers")


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def unsupported(descriptor):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks, "_lock", unsupported)
    with sole_writer(tmp_path):
        assert "cannot be locked" in caplog.text


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), sole_writer(tmp_path / "file"):
        pytest.fail("a file is no folder")
