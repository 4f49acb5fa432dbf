"""All that can go wrong in one run, and the undisturbed run's bits at its end: real processes, on loopback."""

import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import kip
from kip.server.keyring import Keyring

_spec = importlib.util.spec_from_file_location("kip_tests_processes", Path(__file__).with_name("processes.py"))
processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(processes)

pytestmark = pytest.mark.slow
WORKERS, KILLS, STRANGERS, STEPS = 4, 10, 200, 48
SECONDS = 600  # many times what it takes on an idle machine


def write_config(path):
    path.write_text(
        "import kip\n"
        f"method = kip.KIP(1, steps={STEPS}, target_batch=150, kernels=(kip.Architecture('FC', 1),))\n"
        "config = kip.Experiment(\n"
        "    method, augment=kip.Augment('rotate_shift'), checkpoint_every=4, blocks=kip.Blocks(task_columns=1)\n"
        ")\n"
    )
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Chaos:
    """The server's process, workers that start again when they are killed, and what is done to all of them."""

    def __init__(self, folder):
        self.out, self.port = folder / "run", free_port()
        self.keyring = Keyring(self.out)
        self.config = write_config(folder / "tiny.py")
        self.environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self.all, self.honest, self.ends = [], [], threading.Event()
        self.random = random.Random(0)

    def popen(self, command, **environment):
        process = subprocess.Popen(command, env={**self.environment, **environment})
        self.all.append(process)
        return process

    def serve(self):
        command = [sys.executable, "-m", "kip.cli", "distill", str(self.config), "--out", str(self.out)]
        self.server = self.popen(
            [*command, "--executor", "zmq", "--workers", "0", "--address", f"127.0.0.1:{self.port}"]
        )

    def worker(self, name, how=None):
        key = str(self.keyring.add(name))
        command = [sys.executable, "-m", "kip.cli", "worker", f"127.0.0.1:{self.port}"]
        if how:
            command = [sys.executable, str(processes.HERE / "bad_worker.py"), "127.0.0.1", str(self.port), how]
        return self.popen(command, KIP_WORKER_KEY=key)

    def keep_workers(self):
        """Start each honest worker again when it has been killed."""
        self.honest = [self.worker(f"honest-{number}") for number in range(WORKERS)]

        def watch():
            while not self.ends.wait(0.2):
                for number, process in enumerate(self.honest):
                    if process.poll() == -signal.SIGKILL:
                        self.honest[number] = self.worker(f"honest-{number}")

        threading.Thread(target=watch, daemon=True).start()

    def step(self):
        with contextlib.suppress(OSError):
            return (self.out / "metrics.jsonl").read_bytes().count(b"\n")
        return 0

    def log(self):
        with contextlib.suppress(OSError):
            return (self.out / "workers.log").read_text()
        return ""

    def at_work(self):
        """Return the honest workers that have begun, as the status has them."""
        with contextlib.suppress(OSError, ValueError):
            status = json.loads((self.out / "status.json").read_text())
            pids = {worker["pid"] for worker in status["workers"] if worker["state"] == "live" and worker["tasks"]}
            return [process for process in self.honest if process.pid in pids and process.poll() is None]
        return []

    def wait_for(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline
            assert self.server.poll() is None, "the server ended before"
            time.sleep(0.02)

    def kill_one(self):
        self.wait_for(self.at_work)
        self.random.choice(self.at_work()).kill()

    def end(self):
        self.ends.set()
        for process in self.all:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 30
        for process in self.all:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_run_under_all_faults_ends_with_the_undisturbed_runs_bits(tmp_path):
    chaos = Chaos(tmp_path)
    expected = processes.run_locally(kip.load_experiment(str(chaos.config)), tmp_path / "undisturbed")
    began = time.monotonic()
    strangers = []
    try:
        chaos.serve()
        liar, old, frozen = (chaos.worker(how, how) for how in ("liar", "old", "freezes"))
        chaos.wait_for(lambda: "worker freezes joins" in chaos.log())  # its third task is then in its hands for sure
        chaos.keep_workers()
        chaos.wait_for(lambda: chaos.step() >= 2)
        for number in range(STRANGERS):
            strangers.append(socket.create_connection(("127.0.0.1", chaos.port), timeout=5))
            if number % 2:
                strangers[-1].sendall(b"\xff\x00")
        kills = 0
        for target in range(4, STEPS - 4, 4):
            chaos.wait_for(lambda target=target: chaos.step() >= target)
            if target == 8:
                frozen.send_signal(signal.SIGCONT)
            if target == 20:
                chaos.server.kill()
                chaos.server.wait()
                chaos.serve()
                continue
            if kills < KILLS:
                chaos.kill_one()
                kills += 1
        while kills < KILLS:
            chaos.kill_one()
            kills += 1
        assert chaos.server.wait(SECONDS) == 0
        seconds = time.monotonic() - began
        assert liar.wait(30) != 0
        assert old.wait(30) != 0
    finally:
        chaos.end()
        for stranger in strangers:
            stranger.close()
    print(f"\n{seconds:.0f} s: {kills} kills, 1 freeze, 1 server killed, {len(strangers)} strangers")
    assert (chaos.out / "distilled.npz").read_bytes() == expected
    log = chaos.log()
    assert log.count("the server begins") == 2
    assert log.count("is lost") >= KILLS - 1  # one may die with the server, which then names nothing
    assert "worker liar is sent away (distrusted)" in log
    assert log.count("sent away (dismissed)") == 1
    assert "server and worker have different versions" in log
    assert "a connection was refused: it says nothing, as too many others do" in log
    assert "a copy goes to worker" in log or "has not answered for" in log
    assert not list(chaos.out.rglob("*.tmp")), "no temporary file stays"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", chaos.port), timeout=5)
