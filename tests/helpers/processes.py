"""Executors whose workers are real processes, and what tests do to those."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kip
from kip.blocks import LocalExecutor
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.server.keyring import Keyring
from kip.server.member import Settings
from kip.server.router import Router

QUICK = Settings(deadline=60.0, copy_after=0.5, ping_every=0.1, quarantine=0.2, patience=120.0)
HERE = Path(__file__).parent


def experiment(*, kernel=None, data=None, steps=6, target_batch=150, policy: Any = "rotate_shift", columns=2):
    """A small real run; some target images are augmented, and tasks are narrow, so that there are many."""
    return kip.Experiment(
        kip.KIP(1, steps=steps, target_batch=target_batch, kernels=(kernel or kip.Architecture("FC", 1),)),
        data=data or kip.Data(),
        augment=kip.Augment(policy, fraction=0.3),
        blocks=kip.Blocks(task_columns=columns),
        checkpoint_every=max(1, steps // 2),
    )


class Watched(RemoteExecutor):
    """Calls `then` once, when so many results have come in and a worker is at work, with the pids of those that are."""

    after: int = 0
    then: Callable[[list[int]], Any] | None = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        take = self.scheduler._take

        def watched(*event):
            take(*event)
            if self.then and self.scheduler.done >= self.after:
                at_work = [member.pid for member in self.scheduler.members.values() if member.tasks_in_flight]
                if at_work:
                    then, self.then = self.then, None
                    then(at_work)

        self.scheduler._take = watched


class Workers:
    """A server in this process, and `kip worker` processes that can be killed, frozen and started."""

    def __init__(self, made, *, settings=QUICK, data_dir=None):
        self.folder = tempfile.TemporaryDirectory()
        self.keyring = Keyring(Path(self.folder.name))
        self.router = Router(self.keyring)
        self.processes = []
        self.executor = Watched([], **service.introduction(made, data_dir), settings=settings)
        self.router.open(self.executor.scheduler.join, self.executor.scheduler.leave)
        self.key_file = self.keyring.add("worker")
        self.environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start(self, how=None, key_file=None):
        host, port = self.router.address
        self.environment["KIP_WORKER_KEY"] = str(key_file or self.key_file)
        command = [sys.executable, "-m", "kip.cli", "worker", f"{host}:{port}"]
        if how:
            command = [sys.executable, str(HERE / "bad_worker.py"), host, str(port), how]
        process = subprocess.Popen(command, env=self.environment)
        self.processes.append(process)
        return process

    def wait_for(self, count):
        """Wait until so many have connected, so that all are there when the run begins."""
        while len(self.executor.scheduler.members) < count:
            self.executor.scheduler._wait()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.send_signal(signal.SIGCONT)  # one that froze could not end
        self.executor.close()
        self.router.close()
        deadline = time.monotonic() + 20
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.folder.cleanup()


def run_locally(made, out, data_dir=None):
    kip.run(made, out, data_dir=data_dir, executor=LocalExecutor(), show_progress=False)
    return (out / "distilled.npz").read_bytes()


def has_ended(pid):
    """Whether a process has ended. A zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def ended(pid, seconds=5.0):
    """Whether a process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while not has_ended(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def listening(pids):
    """Return the addresses on which these processes listen, as `/proc` has them."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    addresses = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:
                addresses.append(parts[1].rpartition(":")[0])
    return addresses


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1, as `/proc/net/tcp` writes them."""
