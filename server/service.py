"""What every distributed run has beside its transport: what workers are told of it, its log, and its status file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kip import config, data, preprocess
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.experiment import load as load_experiment
from kip.files import atomic_write
from kip.kernels import Stax
from kip.server.executor import RemoteExecutor
from kip.workers.targets import fingerprint

STATUS = "status.json"
LOG = "workers.log"
KEY = "workers.key"
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
"""JAX's variable that takes three quarters of a GPU at the start. The server needs little, beside a worker."""
EVERY = 1.0
"""Seconds between writings of the status file."""


def introduction(experiment: Experiment, data_dir: Path | None) -> dict[str, Any]:
    """Return what a `RemoteExecutor` tells workers of a run: configuration, recipe of the targets, and fingerprint."""
    dataset = data.load(experiment.data, data_dir)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    identity = json.dumps(experiment.identity(), sort_keys=True)
    parts = {name: config.to_dict(getattr(experiment, name)) for name in ("data", "preprocess", "augment")}
    return {
        "configuration": hashlib.sha256(identity.encode()).hexdigest(),
        "recipe": {**parts, "seed": experiment.seed},
        "fingerprint": fingerprint(dataset, transform.apply(dataset.train.images)),
    }


def stax_functions(experiment: Experiment) -> tuple[str, ...]:
    """Return the user's own functions that the workers of this run may load."""
    return tuple(kernel.function for kernel in experiment.method.kernels if isinstance(kernel, Stax))


@contextlib.contextmanager
def log_file(out: Path) -> Iterator[None]:
    """Write what happens to workers into the run's `workers.log`, for as long as the context lasts."""
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("kip.server")
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


class StatusFile:
    """Writes the state of a run's workers into its `status.json`, once a second while tasks run.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path):
        self._path = out / STATUS
        self._written = 0.0
        self._before = (time.monotonic(), 0)

    def __call__(self, executor: RemoteExecutor) -> None:
        """Write it, if a second has passed."""
        now = time.monotonic()
        if now - self._written < EVERY:
            return
        scheduler = executor.scheduler
        (then, done), self._before = self._before, (now, scheduler.done)
        self._written = now
        content = {
            "pid": os.getpid(),
            "time": time.time(),
            "tasks_done": scheduler.done,
            "tasks_left": scheduler.left,
            "tasks_per_second": round((scheduler.done - done) / max(now - then, 1e-9), 3),
            "retries": scheduler.retries,
            "copies": scheduler.copies,
            "workers": [
                {
                    "name": member.name,
                    "pid": member.pid,
                    "state": member.state,
                    "tasks": member.tasks,
                    "bytes_sent": member.bytes_sent,
                    "bytes_received": member.bytes_received,
                    "holds_data": member.holds_data,
                }
                for member in list(scheduler.members.values())
            ],
        }
        text = json.dumps(content, indent=1) + "\n"
        atomic_write(self._path, lambda file: file.write(text.encode()))


def status(run: Path) -> dict[str, Any]:
    """Return where a run stands: its step, the time left, and what `StatusFile` wrote last.

    The time left is the steps left at the pace of the last hundred. `age` is the seconds since the status was written.

    Raises:
        ConfigError: if `run` is no run's folder.
    """
    if not (run / "config.json").is_file():
        raise ConfigError(f"{run} is not a run's folder", got="no config.json", remedy="`kip distill` makes one.")
    steps = load_experiment(str(run / "config.json")).method.steps
    rows = []
    with contextlib.suppress(OSError):
        for line in (run / "metrics.jsonl").read_text().splitlines()[-101:]:
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    timed = [(row["step"], row["seconds"]) for row in rows if "seconds" in row]
    step = rows[-1]["step"] if rows else 0
    seconds_left = None
    if len(timed) > 1 and timed[-1][0] > timed[0][0]:
        pace = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
        seconds_left = round(max(0.0, pace * (steps - step)), 1)
    found: dict[str, Any] = {"step": step, "steps": steps, "seconds_left": seconds_left, "workers": []}
    found["ended"] = (run / "result.json").is_file() and step >= steps
    with contextlib.suppress(OSError, json.JSONDecodeError):
        written = json.loads((run / STATUS).read_text())
        found.update(written, age=round(time.time() - written["time"], 1))
    return found


def as_text(found: dict[str, Any]) -> str:
    """Return what `status` found, for people."""
    left = found["seconds_left"]
    lines = [f"step {found['step']} of {found['steps']}" + ("" if left is None else f", about {left:.0f} s left")]
    if found["ended"]:
        lines = [f"ended after {found['step']} steps"]
    if "tasks_done" not in found:
        return "\n".join([*lines, "no workers: computed in one process"])
    lines.append(
        f"tasks {found['tasks_done']} done, {found['tasks_left']} left in this round, "
        f"{found['tasks_per_second']:.1f} a second; {found['retries']} retries, {found['copies']} copies; "
        f"written {found['age']:.0f} s ago"
    )
    for worker in found["workers"]:
        sent, received = (worker[name] / 1e6 for name in ("bytes_sent", "bytes_received"))
        lines.append(
            f"worker {worker['name']:24} {worker['state']:11} {worker['tasks']:8} tasks "
            f"{sent:9.1f} MB to it {received:9.1f} MB from it"
        )
    return "\n".join(lines)
