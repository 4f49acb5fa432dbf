"""The parts of a distributed run beside its transport: messages to workers, its log, and its status file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kip import config, data, preprocess
from kip.blocks import Images, Task
from kip.experiment import Experiment
from kip.kernels import Stax, own_function, permission
from kip.runs import folder
from kip.runs import loop as train
from kip.runs.loggers import LoggerName, loggers
from kip.server.checks import TaintedError
from kip.server.executor import RemoteExecutor
from kip.storage.files import atomic_write
from kip.storage.json_files import is_number, read_object, read_rows
from kip.storage.locks import has_writer
from kip.workers.targets import fingerprint

LOGGER = logging.getLogger(__name__)
STATUS = "status.json"
LOG = "workers.log"
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
"""JAX's variable that takes three quarters of a GPU at the start. The server needs little, beside a worker."""
_NUMBERS = ("time", "tasks_done", "tasks_left", "tasks_per_second", "retries", "copies")
"""The fields that `as_text` takes for granted in a status file."""
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
    """Return the user's own functions that the workers of this run may load.

    Raises:
        ConfigError: if the experiment comes from a .json file, and nobody permits one of them.
    """
    functions = tuple(kernel.function for kernel in experiment.method.needs.kernels if isinstance(kernel, Stax))
    for function in functions:
        permission.check(function)
    return functions


def ordered(experiment: str) -> Experiment:
    """Return the experiment of an order, JSON text from this run's launcher, which has checked its functions.

    Raises:
        ConfigError: if it is none.
    """
    loaded = config.from_json(Experiment, experiment, source="the program's experiment")
    permission.permit(*filter(None, map(own_function, loaded.method.needs.kernels)))
    return loaded


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
    LOGGER.info("the server begins, as process %d", os.getpid())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def run(
    experiment: Experiment,
    out: Path,
    executor: RemoteExecutor,
    *,
    data_dir: Path | None = None,
    log: Sequence[LoggerName] = (),
    show_progress: bool = True,
) -> train.Result:
    """Run an experiment to its end; where results turn out to be wrong, go back to a checkpoint from before them.

    Args:
        experiment: what to run.
        out: the run's folder.
        executor: where tiles are computed. Closed at the end.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        log: loggers that are told of the run, by name.
        show_progress: whether to draw a progress bar on stderr.

    Raises:
        KipError: as `kip.runs.loop.run`, and where no worker is there.
    """
    callbacks = loggers(log)
    executor.scheduler.keep_trust_in(out)
    with executor:
        while True:
            lasting = Lasting(executor, out / folder.CHECKPOINTS)
            try:
                return train.run(
                    experiment,
                    out,
                    data_dir=data_dir,
                    executor=lasting,
                    callbacks=callbacks,
                    show_progress=show_progress,
                )
            except TaintedError as error:  # each sends a key away for good, so that this ends
                lasting.go_back(error)


class Borrowed:
    """An executor that stays open for whoever lent it; keeps the protocol `kip.blocks.Executor`.

    Args:
        executor: does the work.
    """

    def __init__(self, executor: RemoteExecutor):
        self._executor = executor

    @property
    def places(self) -> int:
        """The number of workers that are there."""
        return self._executor.places

    def begin(self, images: Images) -> None:
        """Make images available to the tasks that follow."""
        self._executor.begin(images)

    def forward(self, tasks: Sequence[Task]) -> Iterator[np.ndarray]:
        """Yield each task's block."""
        return self._executor.forward(tasks)

    def backward(self, tasks: Sequence[Task], cotangents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield each task's gradient."""
        return self._executor.backward(tasks, cotangents)

    def close(self) -> None:
        """Leave the executor open."""

    def __enter__(self) -> Borrowed:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class Lasting(Borrowed):
    """An executor that outlives the loop, and goes back to an older checkpoint where results cannot be believed.

    Args:
        executor: does the work.
        folder: the folder of the checkpoints.
    """

    def __init__(self, executor: RemoteExecutor, folder: Path):
        super().__init__(executor)
        self._folder = folder

    def begin(self, images: Images) -> None:
        """Begin a step, on the ground of the newest checkpoint."""
        self._executor.scheduler.base = max(self._checkpoints(), default=-1)
        self._executor.begin(images)

    def go_back(self, error: TaintedError) -> None:
        """Set the checkpoints aside that hold what cannot be believed, under names that end in `.doubted`."""
        doubted = sorted(step for step in self._checkpoints() if step > error.base)
        for step in doubted:
            path = self._checkpoints()[step]
            path.replace(path.with_suffix(".doubted"))
        LOGGER.warning(
            "%s; the run goes back to %s, and the checkpoints of these steps are set aside as *.doubted: %s",
            error.problem,
            "its start" if error.base < 0 else f"step {error.base} or before",
            ", ".join(map(str, doubted)) or "none",
        )
        self._executor.scheduler.go_back(error.base)

    def _checkpoints(self) -> dict[int, Path]:
        """Return the files by step."""
        paths = self._folder.glob("*.npz")
        return {int(path.stem): path for path in paths if path.stem.isascii() and path.stem.isdecimal()}


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
            "checks": scheduler.checks.made,
            "sent_away": dict(scheduler.sent_away),
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

    The time left is the steps left at the pace of the last hundred. `age` is the seconds since the status was written,
    `running` says whether a process writes to the folder, and `signal` which signal stopped the last one.

    Raises:
        ConfigError: if `run` is no run's folder.
    """
    folder.check(run)
    method = (read_object(run / "config.json") or {}).get("method")
    steps = method.get("steps", 1) if isinstance(method, dict) else 1  # Label Solve's is fixed
    rows = read_rows(run / "metrics.jsonl")[-101:]
    timed = [(row["step"], row["seconds"]) for row in rows if "seconds" in row]
    step = rows[-1]["step"] if rows else 0
    seconds_left = None
    if len(timed) > 1 and timed[-1][0] > timed[0][0]:
        pace = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
        seconds_left = round(max(0.0, pace * (steps - step)), 1)
    progress: dict[str, Any] = {"step": step, "steps": steps, "seconds_left": seconds_left, "workers": []}
    progress["ended"] = (run / "result.json").is_file() and step >= steps
    progress["running"] = has_writer(run)
    stopped = {} if progress["running"] or progress["ended"] else read_object(run / folder.STOPPED) or {}
    progress["signal"] = stopped.get("signal") if isinstance(stopped.get("signal"), str) else None
    written = read_object(run / STATUS, _NUMBERS)
    if written is not None and _are_workers(written.get("workers")):
        age = max(0.0, time.time() - written["time"])  # the clock may have been set back
        progress.update(written, age=round(age, 1))
        if not progress["running"]:
            for worker in progress["workers"]:  # as they were when the run stopped; none is live after it
                worker["state"] = "ended" if worker["state"] == "live" else worker["state"]
    return progress


def _are_workers(given: Any) -> bool:
    """Return whether a status file's `workers` are what `StatusFile` writes."""
    return isinstance(given, list) and all(
        isinstance(worker, dict)
        and all(isinstance(worker.get(name), str) for name in ("name", "state"))
        and all(is_number(worker.get(name)) for name in ("tasks", "bytes_sent", "bytes_received"))
        for worker in given
    )


def as_text(progress: dict[str, Any]) -> str:
    """Return what `status` found, for people."""
    left = progress["seconds_left"]
    lines = [f"step {progress['step']} of {progress['steps']}" + ("" if left is None else f", about {left:.0f} s left")]
    if not progress["running"]:
        by = f" by a signal ({progress['signal']})" if progress["signal"] else ""
        lines = [f"stopped{by} at step {progress['step']} of {progress['steps']}; the same command goes on from there"]
    if progress["ended"]:
        lines = [f"ended after {progress['step']} steps"]
    if "tasks_done" not in progress:
        return "\n".join([*lines, "no workers: computed in one process"])
    lines.append(
        f"tasks {progress['tasks_done']} done, {progress['tasks_left']} left in this round, "
        f"{progress['tasks_per_second']:.1f} a second; {progress['retries']} retries, {progress['copies']} copies, "
        f"{progress.get('checks', 0)} computed twice; "
        f"written {progress['age']:.0f} s ago"
    )
    for worker in progress["workers"]:
        sent, received = (worker[name] / 1e6 for name in ("bytes_sent", "bytes_received"))
        lines.append(
            f"worker {worker['name']:24} {worker['state']:11} {worker['tasks']:8} tasks "
            f"{sent:9.1f} MB to it {received:9.1f} MB from it"
        )
    lines += [f"worker {name:24} sent away: {why}" for name, why in progress.get("sent_away", {}).items()]
    return "\n".join(lines)
