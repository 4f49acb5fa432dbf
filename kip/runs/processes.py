"""A pool of processes of this machine, one device each, for `kip.runs.jobs`.

Each process is a `ProcessPoolExecutor` of one worker, so that the end of one does not end the others, as it would in an
executor of several. A process that is killed is begun again, and its job with it. Processes end with the one that
began them, however it ends.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from kip import machine
from kip.errors import ConfigError, WorkersLostError

LOGGER = logging.getLogger(__name__)
ATTEMPTS = 3
"""The number of processes that may end while they compute the same job."""
ENDING = 20.0
"""The seconds that a process has to save what it does, once it is asked to end."""
VISIBLE, PREALLOCATE = "CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE"
"""The variable by which CUDA shows a process some GPUs, and JAX's that takes three quarters of one at the start."""


def devices(jobs: int, share: float = 1.0) -> list[dict[str, str]]:
    """Return the environment of each of some processes of this machine: its GPU, if there are any.

    Args:
        jobs: the number of processes.
        share: the part of a GPU that each one takes; 0.5 lets two of them have one.

    Raises:
        ConfigError: if `jobs` is below 1, or there are fewer devices; CPU cores, where there is no GPU.
    """
    check_share(share)
    gpus = [] if os.environ.get("JAX_PLATFORMS") == "cpu" else machine.gpus()
    places = [gpu for _ in range(int(1 / share + 1e-9)) for gpu in gpus] or [""] * machine.cores()
    if not 1 <= jobs <= len(places):
        kind = f"GPUs of which each job takes {share:g}" if gpus else "CPU cores"
        raise ConfigError(
            "--jobs",
            got=jobs,
            expected=f"1 to {len(places)}, for {len(gpus or places)} {kind}",
            remedy="--device-share 0.5 lets two jobs share a GPU." if gpus and jobs > 0 else None,
        )
    if not gpus:
        return [{} for _ in range(jobs)]
    preallocate = os.environ.get(PREALLOCATE, "false" if share < 1 else "true")
    return [{VISIBLE: place, PREALLOCATE: preallocate} for place in places[:jobs]]


def check_share(share: float) -> None:
    """Refuse a part of a device that is none.

    Raises:
        ConfigError: if it is not above 0, or above 1.
    """
    if not 0 < share <= 1:
        raise ConfigError("--device-share", got=share, expected="a number above 0, and at most 1")


class Processes:
    """Processes of this machine that compute; keeps the protocol `kip.runs.jobs.Pool`.

    Args:
        environments: variables of each process, as `devices` returns them.
        logs: the folder for their output.
        begin: called in each process before anything else; a function of a module.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], logs: Path, begin: Callable[[], Any] | None = None):
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._processes = [
            _Process(dict(environment), logs / f"job-{number}.log", begin)
            for number, environment in enumerate(environments)
        ]
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._processes:
            self._free.put(process)
        self._threads = ThreadPoolExecutor(len(self._processes), thread_name_prefix="kip-jobs")
        self._closing = False

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self._processes)

    @property
    def workers(self) -> list[str]:
        """The processes that have begun, each with its GPU."""
        return [process.label for process in self._processes if process.pid is not None]

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that have begun."""
        return [process.pid for process in self._processes if process.pid is not None]

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Compute a function of a module in a process that is free, and in another one if that one is killed."""
        return self._threads.submit(self._compute, function, arguments)

    def close(self) -> None:
        """End the processes. Those that compute are asked to stop, and ended by force where they take too long."""
        self._closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.stop()
        late = threading.Timer(ENDING, lambda: [process.kill() for process in self._processes])
        late.start()
        try:
            for process in self._processes:
                process.close()
        finally:
            late.cancel()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _compute(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._free.get()
        try:
            for _ in range(ATTEMPTS):
                try:
                    return process.call(function, arguments)
                except BrokenProcessPool:
                    if self._closing:
                        raise
                    LOGGER.warning("%s ended while it computed; its work begins again", process.label)
                    process.renew()
            raise WorkersLostError(
                "a job",
                got=f"{ATTEMPTS} processes that ended while they computed it",
                expected="one that lives to its end",
                remedy=f"See why in {self._logs}; the memory may be too small for so many jobs.",
            )
        finally:
            self._free.put(process)


class _Process:
    """One process, begun with its first job."""

    def __init__(self, environment: dict[str, str], log: Path, begin: Callable[[], Any] | None):
        self._arguments = environment, log, begin
        self.pid: int | None = None
        self._is_busy = self._is_stopped = False
        self.renew()

    @property
    def label(self) -> str:
        """Its id, and its GPU."""
        gpu = self._arguments[0].get(VISIBLE)
        return f"process {self.pid}" + ("" if gpu is None else f" on GPU {gpu}")

    def renew(self) -> None:
        """Take a new process in place of one that has ended."""
        self.pid = None
        self._executor = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=self._arguments
        )

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Compute in the process, and wait for it."""
        self._is_busy = True
        try:
            if self.pid is None:
                self.pid = self._executor.submit(os.getpid).result()
            if self._is_stopped:
                raise BrokenProcessPool("stopped before it began")
            return self._executor.submit(function, *arguments).result()
        finally:
            self._is_busy = False

    def stop(self) -> None:
        """Ask a process that computes to end; it gets no more work."""
        self._is_stopped = True
        if self._is_busy and self.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        if self.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        """Wait until the process has ended."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def _begin(environment: dict[str, str], log: Path, begin: Callable[[], Any] | None) -> None:
    """Set up a process: its device, its output, and its end with the process that began it."""
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which then stops them
    threading.Thread(target=_follow, name="kip-follow", daemon=True).start()
    if begin is not None:
        begin()


def _follow() -> None:
    """End this process soon after the one that began it; a run saves its last whole step."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is one of its processes
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ENDING)
    os._exit(1)
