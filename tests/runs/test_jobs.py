"""Jobs: their order, what fails, what is known of them; and the processes that compute them, which may be killed."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers import jobs as work
from helpers import processes as of_processes
from helpers.kinds import some
from helpers.threads import Threads
from kip import machine
from kip.errors import ConfigError, WorkersLostError
from kip.kernels import permission
from kip.runs import jobs
from kip.runs.jobs import Job
from kip.runs.processes import Processes, devices
from kip.storage.locks import sole_maker, sole_writer


def job(tmp_path, key, *, after=(), error=None, helper=None):
    return Job("run", key, key, work.note, (tmp_path / key, error), after, helper=helper)


def test_jobs_come_after_those_that_they_need_and_each_is_computed_once(tmp_path):
    made = []

    def then(done):
        made.append(done.key)
        return [job(tmp_path, "c", after=("a", "b"))]  # twice

    jobs.compute([job(tmp_path, "b", after=("a",)), job(tmp_path, "a")], Threads(2), tmp_path, then=then)
    assert made == ["a", "b", "c"]
    assert [(tmp_path / key).read_text() for key in made] == ["made\n"] * 3
    progress = some(jobs.status(tmp_path))
    assert progress["kinds"] == [{"kind": "run", "done": 3, "all": 3}]
    assert jobs.as_text(progress) == "ended: 3 of 3 runs\nthreads"


def test_a_job_that_fails_takes_those_that_need_it_along_and_no_other(tmp_path, capsys):
    given = [job(tmp_path, "a", error="no such thing"), job(tmp_path, "b", after=("a",)), job(tmp_path, "c")]
    with pytest.raises(ConfigError, match="no such thing"):
        jobs.compute([*given, job(tmp_path, "d", after=("b",))], Threads(1), tmp_path)
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "c").exists()
    assert capsys.readouterr().err.count("run a failed: no such thing") == 1
    with sole_writer(tmp_path):
        text = jobs.as_text(some(jobs.status(tmp_path)))
    assert "1 of 4 runs" in text
    assert "failed: a: no such thing" in text


def test_processes_without_a_job_help_with_those_that_go_on(tmp_path):
    helper = (work.note, (tmp_path / "helped",))
    long = Job("run", "a", "a", time.sleep, (0.3,), helper=helper)
    jobs.compute([long], Threads(3), tmp_path)
    assert (tmp_path / "helped").read_text() == "made\n" * 2
    jobs.compute([job(tmp_path, "b", helper=helper)], Threads(1), tmp_path)
    assert (tmp_path / "helped").read_text() == "made\n" * 2


def test_a_status_file_that_is_damaged_is_none(tmp_path):
    for text in ("", "[]", '{"time": 1}', '{"time": 1, "workers": [], "kinds": [3], "going_on": [], "failed": []}'):
        (tmp_path / jobs.STATUS).write_text(text)
        assert jobs.status(tmp_path) is None


def test_a_worker_without_the_commands_folder_says_so(tmp_path):
    command = jobs.Command("token", tmp_path, Path.cwd(), permission.permitted())
    with pytest.raises(ConfigError, match="a folder that all machines share"):
        jobs.work(command, work.double, (2,))


def test_the_work_of_a_killed_process_is_done_by_another_while_others_go_on(tmp_path):
    (tmp_path / "died").mkdir()
    (tmp_path / "dies").mkdir()
    with Processes([{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}], tmp_path / "logs") as pool:
        seen = {pool.submit(work.device).result() for _ in range(4)}
        assert {gpu for gpu, _ in seen} == {"0", "1"}
        assert {pid for _, pid in seen} == {*pool.pids}
        assert sorted(pool.workers) == sorted(f"process {pid} on GPU {gpu}" for gpu, pid in seen)
        begun = [pool.submit(work.die_once, tmp_path / "died"), pool.submit(work.double, 3)]
        assert [future.result() for future in begun] == [2, 6]
        with pytest.raises(WorkersLostError, match="3 processes that ended"):
            pool.submit(work.die_once, tmp_path / "dies", 10).result()
        assert pool.submit(work.double, 4).result() == 8


def test_processes_end_with_the_pool_also_in_the_midst_of_a_job(tmp_path):
    pool = Processes([{}], tmp_path / "logs")
    pool.submit(work.sleep, tmp_path)
    deadline = time.monotonic() + 60
    while not [path for path in tmp_path.iterdir() if path.name.isdecimal()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (pid,) = pool.pids
    pool.close()
    assert of_processes.has_ended(pid)


def test_jobs_that_fit_no_device_are_refused(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(machine, "gpus", lambda: ["4", "7"])
    assert [place["CUDA_VISIBLE_DEVICES"] for place in devices(2)] == ["4", "7"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in devices(3, 0.5)] == ["4", "7", "4"]
    assert devices(3, 0.5)[0]["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    with pytest.raises(ConfigError, match=r"--jobs; got 3; expected 1 to 2, for 2 GPUs .*--device-share"):
        devices(3)
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert devices(2) == [{}, {}]
    for count in (0, 3):
        with pytest.raises(ConfigError, match=f"--jobs; got {count}; expected 1 to 2, for 2 CPU cores"):
            devices(count)
    for share in (0, 1.5):
        with pytest.raises(ConfigError, match="--device-share"):
            devices(1, share)


def test_processes_share_out_artefacts_and_make_each_once(tmp_path):
    names = ["0", "1", "2", "3"]
    with ThreadPoolExecutor(1) as thread:
        with sole_maker(tmp_path / "1"):
            second = thread.submit(work.make_all, names, tmp_path)
            deadline = time.monotonic() + 60
            while not (tmp_path / "3").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert not (tmp_path / "1").exists()
        assert second.result() == ["0", "2", "3", "1"], "what another makes comes last"
    assert work.make_all(names, tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == names, "no lock is left"


def test_who_wants_an_artefact_that_another_makes_waits_for_it(tmp_path):
    path = tmp_path / "artefact"
    with ThreadPoolExecutor(1) as thread, sole_maker(path) as is_held:
        assert is_held
        with sole_maker(path, waits=False) as is_held_twice:
            assert not is_held_twice
        second = thread.submit(work.make_all, ["artefact"], tmp_path)
        time.sleep(0.1)
        path.write_text(str(os.getpid()))
    assert second.result() == []
