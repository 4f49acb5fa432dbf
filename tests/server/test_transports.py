"""The contract of the distributed executors, and whole runs, with real processes of each transport there is."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kip
from helpers import processes
from helpers.waiting import wait_until
from kip.blocks import Blocks, KernelBlocks, LocalExecutor, plan
from kip.errors import ShapeError
from kip.kernels import RBF, Architecture
from kip.server.executor import RemoteExecutor
from kip.server.ray import share_of_actor

pytestmark = pytest.mark.slow
FC, CONV = Architecture("FC", 1), Architecture("ConvNet", 1)
LIBRARIES = {"zmq": "zmq", "launchpad": "launchpad", "ray": "ray"}
TRANSPORTS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed"),
    )
    for name, library in LIBRARIES.items()
]


def launchpad_executor(made, out, workers):
    from kip.server import launchpad

    return launchpad.executor(made, out, workers=workers, settings=processes.QUICK)


def ray_executor(made, out, workers):
    from kip.server import ray, service

    links, close = ray.links(workers)
    return RemoteExecutor(links, **service.introduction(made, None), settings=processes.QUICK, on_close=close)


def zmq_executor(made, out, workers):
    from kip.server import zmq

    return zmq.executor(made, out, workers=workers, settings=processes.QUICK)


MAKE = {"zmq": zmq_executor, "launchpad": launchpad_executor, "ray": ray_executor}


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request):
    return request.param


@pytest.fixture(scope="module")
def executor(transport, tmp_path_factory):
    """An executor with two worker processes."""
    with MAKE[transport](processes.experiment(), tmp_path_factory.mktemp("workers"), 2) as made:
        yield made


class SmallTasks(KernelBlocks):
    """Kernel blocks of many small tasks."""

    def _plan_of(self, kernel, support, num_target):
        return plan(len(support), num_target, 1, 9, task_columns=2)


def step(executor, kernel, dtype, n=5, m=9):
    rng = np.random.default_rng(0)
    support, target = (rng.standard_normal((count, 4, 4, 2)).astype(dtype) for count in (n, m))
    blocks = SmallTasks(Blocks(dtype=dtype), executor)
    values = blocks.forward(kernel, support, target)
    return (*values, blocks.backward(rng.standard_normal((n, n)), rng.standard_normal((m, n))))


@pytest.mark.parametrize(
    ("kernel", "dtype"), [(FC, "float32"), (RBF(), "float64"), (CONV, "float32")], ids=lambda each: str(each)[:20]
)
def test_values_and_gradients_are_the_local_executors_to_the_bit(executor, kernel, dtype):
    with LocalExecutor() as local:
        expected = step(local, kernel, dtype)
    for ours, theirs in zip(step(executor, kernel, dtype), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == dtype


def test_rows_are_the_local_executors_to_the_bit(executor, monkeypatch):
    monkeypatch.setattr("kip.blocks.assemble.ROWS_AT_A_TIME", 10)
    rng = np.random.default_rng(0)
    support, target = (rng.standard_normal((count, 4, 4, 2)).astype(np.float32) for count in (5, 33))

    def rows(executor):
        return np.concatenate([block for _, block in SmallTasks(Blocks(), executor).rows(FC, support, target)])

    with LocalExecutor() as local:
        np.testing.assert_array_equal(rows(executor), rows(local))


def test_a_misshapen_cotangent_raises_and_the_executor_lives_on(executor):
    blocks = SmallTasks(Blocks(), executor)
    images = np.ones((3, 4, 4, 2), np.float32)
    blocks.forward(FC, images, images)
    with pytest.raises(ShapeError, match="cotangent of Task"):
        list(executor.backward(plan(3, 3, 1, 9).ts, [np.zeros((5, 5))] * 4))
    assert blocks.forward(FC, images, images).k_ts.shape == (3, 3)


def test_nothing_listens_beyond_loopback(executor, transport):
    step(executor, FC, "float32")
    pids = [member.pid for member in executor.scheduler.members.values()]
    assert len(pids) == 2
    assert len({*pids, os.getpid()}) == 3
    assert set(processes.listening([os.getpid(), *pids])) <= processes.LOOPBACK
    if transport == "ray":  # and what Ray itself runs beside them
        ours = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if descends(pid, os.getpid())]
        assert len(ours) > 4
        addresses = processes.listening(ours)
        assert addresses
        assert set(addresses) <= processes.LOOPBACK


def descends(pid, ancestor):
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_a_worker_killed_with_minus_nine_in_the_middle_changes_no_bit(executor, transport):
    """The last of those that share the executor: launchpad does not start a worker again, ray does."""
    with LocalExecutor() as local:
        expected = step(local, FC, "float32", n=9, m=40)
    victims = iter([next(iter(executor.scheduler.members.values())).pid])
    take, before = executor.scheduler._take, executor.scheduler.done

    def killing(*event):
        take(*event)
        if executor.scheduler.done >= before + 3 and (victim := next(victims, None)):
            os.kill(victim, signal.SIGKILL)

    executor.scheduler._take = killing
    try:
        ours = step(executor, FC, "float32", n=9, m=40)
    finally:
        del executor.scheduler._take
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert next(victims, None) is None


def test_closing_twice_is_safe_and_ends_all_processes_soon(executor, transport):
    step(executor, FC, "float32")
    pids = [member.pid for member in executor.scheduler.members.values() if member.state == "live"]
    assert pids
    start = time.monotonic()
    executor.close()
    executor.close()
    assert time.monotonic() - start < 5
    assert all(processes.ended(pid) for pid in pids)


def distill(made, out, transport, workers):
    if transport == "launchpad":
        from kip.server import launchpad

        launchpad.distill(made, out, workers=workers)
    elif transport == "zmq":
        from kip.server import zmq

        zmq.distill(made, out, workers=workers, show_progress=False)
    else:
        from kip.server import ray

        ray.distill(made, out, workers=workers, show_progress=False)
    return (out / "distilled.npz").read_bytes()


def kip_command(*arguments):
    return [sys.executable, "-m", "kip.cli", *map(str, arguments)]


@pytest.mark.parametrize("kernel", [FC, CONV], ids=["FC1", "ConvNet1"])
def test_twenty_steps_give_the_same_set_to_the_bit_for_any_number_of_workers(transport, tmp_path, kernel):
    folder = os.environ.get("KIP_DATA_DIR")
    on_mnist = bool(folder) and (Path(folder) / "mnist.npz").exists()
    data = kip.Data("mnist", shrink=2 if kernel is CONV else 1) if on_mnist else kip.Data()
    target_batch = 150 if kernel is FC else 60
    made = processes.experiment(kernel=kernel, data=data, steps=20, target_batch=target_batch, columns=3)
    expected = processes.run_locally(made, tmp_path / "local")
    for count in (1, 2, 4) if kernel is FC else (2,):
        assert distill(made, tmp_path / str(count), transport, count) == expected, count


def write_config(path, steps):
    path.write_text(
        "import kip\n"
        f"method = kip.KIP(1, steps={steps}, target_batch=150, kernels=(kip.Architecture('FC', 1),))\n"
        "config = kip.Experiment(method, augment=kip.Augment('rotate_shift'), checkpoint_every=2)\n"
    )
    return path


def checkpoints(out):
    return len(list((out / "checkpoints").glob("*.npz")))


def descendants(pid):
    return [each for each in map(int, filter(str.isdigit, os.listdir("/proc"))) if descends(each, pid) and each != pid]


def test_a_server_killed_with_minus_nine_is_resumed_under_another_executor_to_the_same_bits(transport, tmp_path):
    config = write_config(tmp_path / "tiny.py", 12)
    expected = processes.run_locally(kip.load_experiment(str(config)), tmp_path / "local")
    out = tmp_path / "run"
    command = kip_command("distill", config, "--out", out, "--executor", transport, "--workers", 2)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: checkpoints(out) >= 2, process=process)
    left = descendants(process.pid)
    server = json.loads((out / "status.json").read_text())["pid"]
    os.kill(server, signal.SIGKILL)
    process.wait(60)
    assert process.returncode != 0
    # Ray's agents take a minute or so to notice that their driver is dead.
    patience = {"zmq": 10, "launchpad": 10, "ray": 120}[transport]
    assert all(processes.ended(pid, patience) for pid in left), "no process is left behind"
    done = subprocess.run(kip_command("distill", config, "--out", out, "--json"), capture_output=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 12
    assert (out / "distilled.npz").read_bytes() == expected


def test_ctrl_c_ends_everything_in_five_seconds_and_says_how_to_go_on(transport, tmp_path):
    config, out = write_config(tmp_path / "tiny.py", 100_000), tmp_path / "run"
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from kip.cli import main; "
    arguments = ["distill", config, "--out", out, "--executor", transport, "--workers", 2]
    command = [sys.executable, "-c", start + "sys.exit(main())", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: checkpoints(out) >= 2, process=process)
    left = descendants(process.pid)
    assert len(left) >= 2
    found = subprocess.run(kip_command("status", out, "--json"), capture_output=True, check=True, text=True)
    status = json.loads(found.stdout.splitlines()[-1])
    assert [worker["state"] for worker in status["workers"]] == ["live", "live"]
    assert 0 < status["step"] < status["steps"]
    assert "a second" in found.stdout
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert process.returncode == 130, said
    assert "the same command resumes" in said
    assert all(processes.ended(pid, 2) for pid in left), "no process is left behind"


@pytest.mark.parametrize(("gpus", "workers"), [(0, 3), (1, 1), (2, 3), (2, 4), (3, 10), (8, 2)])
def test_actors_on_any_number_of_gpus_all_fit(gpus, workers):
    share = share_of_actor(gpus, workers)
    if gpus == 0:
        assert share == {"num_cpus": 1}
        return
    assert gpus * int(1 / share["num_gpus"] + 1e-9) >= workers
    assert 0 < share["num_gpus"] <= 1
