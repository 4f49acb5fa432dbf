"""Whole kernel matrices whose blocks workers compute: `kip.functions.stored` over the executors of this package.

Their images are sent to the workers, and no worker needs the data set. Tasks are handed out in rounds, because the
results of a round come when all of its checks have; a mark is made after each, and where a key turns out to be
distrusted, the tasks from before the first of its results that nobody computed again stay, and no others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kip import config
from kip.blocks import Task
from kip.errors import ConfigError
from kip.functions import stored
from kip.functions.stored import Job, Outcome
from kip.kernels import own_function
from kip.server import service
from kip.server.checks import TaintedError
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.storage.locks import sole_writer
from kip.workers.codec import MAX_BODY

LOGGER = logging.getLogger(__name__)
TASKS_OF_WORKER = 8
"""Tasks of a round for each worker: few, so that a kill costs little, but enough that workers seldom wait."""
LEAST_TASKS = 16


def write(
    out: Path,
    job: Job,
    *,
    transport: str,
    workers: int,
    address: str | None = None,
    settings: Settings | None = None,
    show_progress: bool = True,
) -> Outcome:
    """Compute matrices into a folder, as `kip.functions.stored.write` does, on worker processes or Ray actors.

    Args:
        out: the folder.
        job: the matrices.
        transport: `zmq` or `ray`.
        workers: how many workers are started.
        address: with zmq, HOST:PORT to listen on for more; with ray, the address of a cluster; None: this machine's.
        settings: the scheduler's.
        show_progress: whether a forecast and a bar are shown on stderr.

    Raises:
        KipError: as `kip.functions.stored.write`, and where no worker is there.
        ConfigError: if the images are too large for a message to a worker.
    """
    stored.check(out, job)
    sent = sum(images.nbytes for images in (job.train, job.test) if images is not None)
    if sent > MAX_BODY:
        raise ConfigError(
            f"--executor {transport} with {sent / 2**30:.1f} GiB of images",
            expected=f"at most {MAX_BODY / 2**30:.0f} GiB, which a message to a worker holds",
            remedy="Take fewer images, or --executor local.",
        )
    with sole_writer(out):
        pass  # `stored.write` takes it; here it keeps the files of another process from harm
    with service.log_file(out):
        executor = _executor(out, job, transport, workers, address, settings)
        return fill(out, job, executor, max(LEAST_TASKS, TASKS_OF_WORKER * workers), show_progress=show_progress)


def fill(out: Path, job: Job, executor: RemoteExecutor, together: int, *, show_progress: bool = True) -> Outcome:
    """Compute matrices into a folder on an executor's workers; compute again what turns out not to be believed.

    Args:
        out: the folder.
        job: the matrices.
        executor: closed at the end.
        together: tasks of a round.
        show_progress: whether a forecast and a bar are shown on stderr.

    Raises:
        KipError: as `write`.
    """
    executor.scheduler.keep_trust_in(out)
    with executor:
        while True:
            counting = _Counting(executor, stored.tasks_done(out))
            try:
                return stored.write(out, job, counting, together=together, show_progress=show_progress)
            except TaintedError as error:  # each sends a key away for good, so that this ends
                LOGGER.warning("%s; the matrices go back to their first %d tasks", error.problem, max(0, error.base))
                stored.forget(out, error.base)
                executor.scheduler.go_back(error.base)


def _executor(
    out: Path, job: Job, transport: str, workers: int, address: str | None, settings: Settings | None
) -> RemoteExecutor:
    identity = json.dumps([config.to_dict(job.kernel), config.to_dict(job.config), job.about], sort_keys=True)
    introduction: dict[str, Any] = {"configuration": hashlib.sha256(identity.encode()).hexdigest()}
    function = own_function(job.kernel)
    stax = () if function is None else (function,)
    os.environ.setdefault(service.PREALLOCATE, "false")  # of this process alone: the workers have theirs
    if transport == "zmq":
        from kip.server import zmq
        from kip.workers.connect import parse_address

        listen = None if address is None else parse_address(address)
        return zmq.listening(introduction, out, workers=workers, stax=stax, listen=listen, settings=settings)
    from kip.server import ray

    links, close = ray.links(workers, stax=stax, address=address)
    return RemoteExecutor(links, **introduction, settings=settings, on_tick=service.StatusFile(out), on_close=close)


class _Counting(service.Borrowed):
    """An executor whose rounds begin on the ground of the tasks that were done before.

    Args:
        executor: does the work, and is left open.
        done: tasks that are done.
    """

    def __init__(self, executor: RemoteExecutor, done: int):
        super().__init__(executor)
        self._done = done

    def forward(self, tasks: Sequence[Task]) -> Iterator[np.ndarray]:
        """Yield each task's block."""
        self._executor.scheduler.base = self._done
        yield from super().forward(tasks)
        self._done += len(tasks)
