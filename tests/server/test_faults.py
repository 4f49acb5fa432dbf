"""Faults of real processes, over plain connections: the run ends with the local run's bits, and the log names them."""

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kip import train
from kip.server import service

_spec = importlib.util.spec_from_file_location("kip_tests_processes", Path(__file__).with_name("processes.py"))
processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(processes)

pytestmark = pytest.mark.slow
MADE = processes.experiment()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return processes.run_locally(MADE, tmp_path_factory.mktemp("local"))


def finish(workers, out, expected):
    """Run to the end, and return the log."""
    with service.log_file(out):
        train.run(MADE, out, executor=workers.executor, show_progress=False)
    assert (out / "distilled.npz").read_bytes() == expected
    return (out / "workers.log").read_text()


def test_a_worker_killed_in_the_middle_of_a_task(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start(), workers.start()
        workers.executor.after = 30
        workers.executor.then = lambda at_work: os.kill(at_work[0], signal.SIGKILL)
        log = finish(workers, tmp_path, expected)
    assert "is lost" in log


def test_all_workers_killed_and_others_started(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start(), workers.start()

        def kill_all(_):
            for process in workers.processes:
                process.kill()
            threading.Timer(1.0, workers.start).start()

        workers.executor.after, workers.executor.then = 30, kill_all
        log = finish(workers, tmp_path, expected)
    assert log.count("is lost") >= 2
    assert "no worker is there" in log
    assert log.count("joins") >= 3


def test_a_worker_frozen_past_the_deadline(tmp_path, expected):
    settings = processes.QUICK._replace(deadline=8.0, copy_after=60.0)
    with processes.Workers(MADE, settings=settings) as workers:
        workers.start(), workers.start("freezes")
        workers.wait_for(2)
        log = finish(workers, tmp_path, expected)
    assert "has not answered for" in log


def test_a_frozen_worker_is_overtaken_by_a_copy_before_the_deadline(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start(), workers.start("freezes")
        workers.wait_for(2)
        start = time.monotonic()
        log = finish(workers, tmp_path, expected)
        assert time.monotonic() - start < processes.QUICK.deadline
        assert workers.executor.scheduler.copies > 0
    assert "a copy goes to worker" in log
    assert "has not answered for" not in log


@pytest.mark.parametrize(
    ("how", "words"), [("nan", "NaN or infinity"), ("shape", "a task's result"), ("truncated", "another length")]
)
def test_a_worker_that_returns_rubbish(tmp_path, expected, how, words):
    with processes.Workers(MADE) as workers:
        workers.start(), workers.start(how)
        workers.wait_for(2)
        log = finish(workers, tmp_path, expected)
    assert "in quarantine" in log
    assert words in log


def test_a_worker_of_another_key_is_refused(tmp_path, expected, caplog):
    with processes.Workers(MADE) as workers:
        right = workers.environment["KIP_WORKERS_KEY"]
        workers.environment["KIP_WORKERS_KEY"] = "wrong"
        wrong = workers.start()
        workers.environment["KIP_WORKERS_KEY"] = right
        workers.start()
        finish(workers, tmp_path, expected)
        assert wrong.wait(20) == 2
    assert "was refused" in caplog.text


def test_workers_end_soon_after_the_last_step_and_listened_nowhere(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start(), workers.start()
        seen = []
        workers.executor.after = 30
        workers.executor.then = lambda _: seen.extend(
            [processes.listening([each.pid for each in workers.processes]), processes.listening([os.getpid()])]
        )
        finish(workers, tmp_path, expected)
        start = time.monotonic()
        workers.executor.close()
        for each in workers.processes:
            assert each.wait(5) == 0
        assert time.monotonic() - start < 5
    of_workers, of_server = seen
    assert of_workers == []
    assert of_server
    assert set(of_server) <= processes.LOOPBACK
