"""Processes that compute the runs and cells of a command, by its options."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kip.errors import ConfigError
from kip.machine import keep_freed_memory
from kip.progress import say

if TYPE_CHECKING:
    from kip.runs.jobs import Pool

LOGS = "logs"


@contextlib.contextmanager
def opened(
    out: Path,
    *,
    jobs: int,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    device_share: float = 1.0,
) -> Generator[Pool | None, None, None]:
    """Give a command the processes that its options ask for; None where it computes everything itself.

    Args:
        out: the command's folder.
        jobs: the number of processes of this machine.
        executor: processes of this machine, or Ray's tasks.
        address: the address of a Ray cluster that runs.
        device_share: the part of a GPU that each job takes.

    Raises:
        ConfigError: if the options do not fit each other or the machine, before anything is computed.
    """
    from kip.runs.processes import PREALLOCATE, Processes, check_share, devices

    check_share(device_share)
    if executor == "ray":
        if jobs != 1:
            raise ConfigError(
                "--jobs with --executor ray",
                got=jobs,
                expected="one of the two",
                remedy="Ray computes as many jobs at a time as its cluster has devices.",
            )
        from kip.server import ray

        with ray.Tasks(address=address, device_share=device_share) as tasks:
            os.environ.setdefault(PREALLOCATE, "false")  # of this process alone: the tasks have theirs
            say(f"kip: `kip status {out}` says what goes on")
            yield tasks
        return
    if address is not None:
        raise ConfigError("--address with --executor local", got=address, expected="--executor ray")
    if jobs == 1:
        if device_share != 1:
            raise ConfigError(
                "--device-share of one job", got=device_share, expected="--jobs above 1, or --executor ray"
            )
        yield None
        return
    with Processes(devices(jobs, device_share), out / LOGS, begin) as processes:
        os.environ.setdefault(PREALLOCATE, "false")
        say(f"kip: the output of {jobs} processes goes to {out / LOGS}; `kip status {out}` says what goes on")
        yield processes


def begin() -> None:
    """Set up a process as the command line sets up its own."""
    logging.basicConfig(format="kip: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("kip.data").setLevel(logging.INFO)
    keep_freed_memory()
