"""Whole kernel matrices by workers: the bits of one process, with one worker, two, and one that lies for a while."""

import importlib
import threading

import numpy as np
import pytest

import kip
from helpers import links, processes
from helpers.kinds import some
from kip.blocks import LocalExecutor
from kip.errors import ConfigError
from kip.functions import stored
from kip.functions.stored import Job
from kip.kernels import Architecture
from kip.server import matrices, service
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.worker import Worker


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(importlib.import_module("kip.blocks.plan"), "WHOLE_SIDE", 6)


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 1)).astype(np.float32)


FIRST_TASKS = 10
"""The tasks of the first matrix of JOB."""
JOB = Job(Architecture("FC", 1), kip.Blocks(), images(20), images(7, 1))


def kept(folder):
    return [(folder / name).read_bytes() for name in (stored.TRAIN, stored.TEST, stored.DIAGONAL)]


@pytest.fixture
def expected(tmp_path):
    with LocalExecutor() as local:
        stored.write(tmp_path / "local", JOB, local, show_progress=False)
    return kept(tmp_path / "local")


@pytest.mark.parametrize("count", [1, 2])
def test_workers_compute_the_bits_of_this_process(tmp_path, expected, count):
    workers = [links.ThreadLink(f"worker-{number}", Worker()) for number in range(count)]
    executor = RemoteExecutor(workers, settings=processes.QUICK)
    outcome = matrices.fill(tmp_path / "out", JOB, executor, 3, show_progress=False)
    assert kept(tmp_path / "out") == expected
    assert outcome.resumed_tasks == 0
    assert sum(worker.tasks for worker in workers) >= outcome.tasks


def test_results_of_a_worker_that_lied_for_a_while_are_computed_again(tmp_path, expected):
    """It computes wrongly from the second round on; nothing of it is checked before the second matrix."""
    out = tmp_path / "out"
    answers = {round_: threading.Event() for round_ in ("first", "lies", "checked")}  # of the one that lies

    def current_round():
        done = stored.tasks_done(out) if out.exists() else 0
        return "first" if done < 3 else "lies" if done < FIRST_TASKS else "checked"

    def later(number, payload, answer):
        round_ = current_round()
        if round_ == "checked":
            executor.scheduler.checks._share = 1.0
        answers[round_].set()
        return answer if round_ == "first" else wrong(number, payload, answer)

    def good(number, payload, answer):
        """Leave a task of each round to the other, however slow its thread is."""
        assert answers[current_round()].wait(60)
        return answer

    wrong = links.with_result(lambda result: result * np.float32(1.01))
    workers = [links.ThreadLink("good", Worker(), good), links.ThreadLink("later", Worker(), later)]
    executor = RemoteExecutor(workers, settings=Settings(check_share=1e-9, copy_after=60.0))
    with service.log_file(out):
        matrices.fill(out, JOB, executor, 3, show_progress=False)
    assert some(stored._about(out))["matrices"]["train"]["tasks"] == FIRST_TASKS
    assert kept(out) == expected
    log = (out / service.LOG).read_text()
    assert "worker later is sent away (distrusted)" in log
    assert "the matrices go back to their first" in log


def test_images_that_no_message_holds_are_refused_before_a_worker_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "MAX_BODY", 1000)
    with pytest.raises(ConfigError, match=r"--executor zmq with .* of images"):
        matrices.write(tmp_path / "out", JOB, transport="zmq", workers=1, show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_compute_the_bits_of_this_process(tmp_path, expected, workers):
    out = tmp_path / "out"
    matrices.write(out, JOB, transport="zmq", workers=workers, settings=processes.QUICK, show_progress=False)
    assert kept(out) == expected
