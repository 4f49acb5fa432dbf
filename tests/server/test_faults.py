"""Faults of real processes, over plain connections: the run ends with the local run's bits, and the log names them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from helpers import processes
from kip.errors import WorkersLostError
from kip.runs import loop as train
from kip.server import service, zmq

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
        workers.start()
        workers.start()
        workers.executor.after = 30
        workers.executor.then = lambda at_work: os.kill(at_work[0], signal.SIGKILL)
        log = finish(workers, tmp_path, expected)
    assert "is lost" in log


def test_all_workers_killed_and_others_started(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start()
        workers.start()

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
        workers.start()
        workers.start("freezes")
        workers.wait_for(2)
        log = finish(workers, tmp_path, expected)
    assert "has not answered for" in log


def test_what_a_frozen_worker_holds_runs_elsewhere_before_the_deadline(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start()
        workers.start("freezes")
        workers.wait_for(2)
        start = time.monotonic()
        log = finish(workers, tmp_path, expected)
        assert time.monotonic() - start < processes.QUICK.deadline
        assert workers.executor.scheduler.copies + workers.executor.scheduler.retries > 0
    assert "a copy goes to worker" in log or "is late" in log
    assert "has not answered for" not in log


@pytest.mark.parametrize(
    ("how", "words"), [("nan", "NaN or infinity"), ("shape", "a task's result"), ("truncated", "another length")]
)
def test_a_worker_that_returns_rubbish(tmp_path, expected, how, words):
    with processes.Workers(MADE) as workers:
        workers.start()
        workers.start(how)
        workers.wait_for(2)
        log = finish(workers, tmp_path, expected)
    assert "in quarantine" in log
    assert words in log


def test_workers_end_soon_after_the_last_step_and_listened_nowhere(tmp_path, expected):
    with processes.Workers(MADE) as workers:
        workers.start()
        workers.start()
        seen = []
        workers.executor.after = 30
        workers.executor.then = lambda _: seen.extend(
            [processes.listening([worker.pid for worker in workers.processes]), processes.listening([os.getpid()])]
        )
        finish(workers, tmp_path, expected)
        start = time.monotonic()
        workers.executor.close()
        for worker in workers.processes:
            assert worker.wait(5) == 0
        assert time.monotonic() - start < 5
    of_workers, of_server = seen
    assert of_workers == []
    assert of_server
    assert set(of_server) <= processes.LOOPBACK


def test_a_run_whose_own_workers_are_all_refused_for_good_ends_at_once_and_says_where_to_look(tmp_path, monkeypatch):
    """It waited ten minutes for a worker that could not come."""

    def refused(self, place, workers):
        command = [sys.executable, "-c", f"raise SystemExit({zmq.REFUSED})"]
        self._processes[place] = subprocess.Popen(command, start_new_session=True)

    monkeypatch.setattr(zmq.LocalWorkers, "_start", refused)
    begun = time.monotonic()
    with pytest.raises(WorkersLostError, match=r"no worker is left; got 2 .* ended for good.*See why in .*logs"):
        zmq.distill(MADE, tmp_path / "run", workers=2, show_progress=False)
    assert time.monotonic() - begun < 60  # a tenth of the patience
