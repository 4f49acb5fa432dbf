"""Runs with many workers, on every Python: the paper's server and its workers, which connect to it through libzmq.

The loop of `kip.runs.loop` runs in this process. Workers are processes of this machine, which this starts, and starts
again where they die; and any others that join with `kip worker` and a key that the run knows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kip import machine
from kip.errors import WorkersLostError
from kip.experiment import Experiment
from kip.runs import loop as train
from kip.runs.loggers import LoggerName
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.server.keyring import Keyring
from kip.server.member import Settings
from kip.server.router import Router

LOGGER = logging.getLogger(__name__)
REFUSED = 2
"""The exit status of a worker that was refused, and would be again."""
SOON = 10.0
"""A worker that lives for fewer seconds is not started again at once."""
LONGEST_WAIT = 30.0
"""The most seconds before a worker that dies whenever it is started is started again."""
ENDING = 1.0
"""Seconds that workers have to end by themselves."""


def executor(
    experiment: Experiment,
    out: Path,
    *,
    workers: int,
    data_dir: Path | None = None,
    listen: tuple[str, int] | None = None,
    settings: Settings | None = None,
) -> RemoteExecutor:
    """Return an executor that listens for workers, and starts some as processes of this machine.

    Args:
        experiment: what workers take targets from, and which functions of `Stax` kernels they may load.
        out: the run's folder, for its keys and the workers' output.
        workers: processes to start; 0 waits for others to join.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        listen: host and port for further workers; None: loopback, any port.
        settings: the scheduler's.

    Raises:
        ConfigError: if the address cannot be listened on.
    """
    return listening(
        service.introduction(experiment, data_dir),
        out,
        workers=workers,
        stax=service.stax_functions(experiment),
        data_dir=data_dir,
        listen=listen,
        settings=settings,
    )


def listening(
    introduction: dict[str, Any],
    out: Path,
    *,
    workers: int,
    stax: Sequence[str] = (),
    data_dir: Path | None = None,
    listen: tuple[str, int] | None = None,
    settings: Settings | None = None,
) -> RemoteExecutor:
    """Return an executor as `executor` does, for work of any kind.

    Args:
        introduction: what workers are told of the work: the arguments of `RemoteExecutor`.
        out: the folder of the work, for its keys and the workers' output.
        workers: processes to start; 0 waits for others to join.
        stax: the functions of `Stax` kernels that the workers may load.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        listen: host and port for further workers; None: loopback, any port.
        settings: the scheduler's.

    Raises:
        ConfigError: if the address cannot be listened on.
    """
    keyring = Keyring(out)
    router = Router(keyring, *(listen or ("127.0.0.1", 0)))
    processes = LocalWorkers(router.address, keyring.local(workers), Path(out) / "logs", data_dir, stax)

    def close() -> None:
        router.close()
        processes.close()

    status = service.StatusFile(Path(out))

    def tick(remote: RemoteExecutor) -> None:
        status(remote)
        if listen is None and remote.scheduler.alone and processes.ended_for_good:
            raise WorkersLostError(
                "no worker is left",
                got=f"{workers} that were started here and ended for good",
                expected="at least one that computes as the others do",
                remedy=f"See why in {processes.logs}, and in {out / service.LOG}.",
            )

    remote = RemoteExecutor([], **introduction, settings=settings, on_tick=tick, on_close=close)
    router.open(remote.scheduler.join, remote.scheduler.leave)
    processes.start(workers)
    return remote


def distill(
    experiment: Experiment,
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int = 1,
    listen: tuple[str, int] | None = None,
    settings: Settings | None = None,
    log: Sequence[LoggerName] = (),
    show_progress: bool = True,
) -> train.Result:
    """Run an experiment to its end, with its tasks on worker processes.

    Args:
        experiment: what to run.
        out: the run's folder.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        workers: processes to start; others may join.
        listen: host and port for further workers; None: loopback, any port.
        settings: the scheduler's.
        log: loggers that are told of the run, by name.
        show_progress: whether to draw a progress bar on stderr.

    Raises:
        KipError: as `kip.runs.loop.run`, and where no worker is there: at once, if those of this machine have ended for
            good and no other can come.
    """
    with service.log_file(Path(out)):
        made = executor(experiment, out, workers=workers, data_dir=data_dir, listen=listen, settings=settings)
        os.environ.setdefault(service.PREALLOCATE, "false")  # of this process alone: the workers have theirs
        return service.run(experiment, Path(out), made, data_dir=data_dir, log=log, show_progress=show_progress)


class LocalWorkers:
    """Worker processes of this machine, one for each GPU where there are as many; they end when this process does.

    Args:
        address: the server's host and port.
        key_files: the keys that they show, one for each.
        logs: the folder for their output.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        stax: the functions of `Stax` kernels that they may load.
    """

    def __init__(
        self,
        address: tuple[str, int],
        key_files: Sequence[Path],
        logs: Path,
        data_dir: Path | None,
        stax: Sequence[str] = (),
    ):
        host, port = address
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        where = f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
        self._command = [sys.executable, "-m", "kip.cli", "worker", where, "--follow", str(os.getpid())]
        self._key_files = [str(path) for path in key_files]
        if data_dir is not None:
            self._command += ["--data-dir", str(data_dir)]
        if stax:
            self._command += ["--stax", *stax]
        self.logs = logs
        self._environment = dict(os.environ)
        self._processes: dict[int, subprocess.Popen] = {}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def pids(self) -> list[int]:
        """The ids of the processes."""
        return [process.pid for process in self._processes.values()]

    @property
    def ended_for_good(self) -> bool:
        """True if there were processes, and all were refused, so that none is started again."""
        return bool(self._processes) and all(process.poll() == REFUSED for process in self._processes.values())

    def start(self, workers: int) -> None:
        """Start so many, and watch over them."""
        if workers:
            self.logs.mkdir(parents=True, exist_ok=True)
            for place in range(workers):
                self._start(place, workers)
            self._thread = threading.Thread(target=self._watch, args=(workers,), name="kip-local-workers", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End them, by force those that do not end by themselves; safe to call twice."""
        self._closing.set()
        if self._thread:
            self._thread.join()
        deadline = time.monotonic() + ENDING
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def _start(self, place: int, workers: int) -> None:
        environment = dict(self._environment)
        gpus = machine.gpus()
        if len(gpus) >= workers > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[place]
        with open(self.logs / f"worker-{place}.log", "ab") as log:
            self._processes[place] = subprocess.Popen(
                [*self._command, "--key-file", self._key_files[place]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the server, which then tells them
            )

    def _watch(self, workers: int) -> None:
        """Start again those that die; one that dies at once, after a wait that doubles each time."""
        born = dict.fromkeys(self._processes, time.monotonic())
        wait = dict.fromkeys(self._processes, 0.5)
        due: dict[int, float] = {}
        while not self._closing.wait(0.2):
            now = time.monotonic()
            for place, process in list(self._processes.items()):
                if process.poll() is None:
                    continue
                if process.returncode == REFUSED:
                    if place not in due:
                        LOGGER.warning("worker process %d ended for good: see its log in %s", process.pid, self.logs)
                        due[place] = float("inf")
                elif place not in due:
                    wait[place] = min(LONGEST_WAIT, 2 * wait[place]) if now - born[place] < SOON else 0.5
                    due[place] = now + wait[place]
                    LOGGER.warning(
                        "worker process %d ended (%d); another starts in %.1f s",
                        process.pid,
                        process.returncode,
                        wait[place],
                    )
                elif now >= due[place]:
                    del due[place]
                    born[place] = now
                    self._start(place, workers)
