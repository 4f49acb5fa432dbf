"""Jobs: pieces of work whose results are files, computed by several processes of one machine or of a cluster.

A job is a function of a module and its arguments. What it makes lies in a folder that all processes share, under a name
that stands for the content: a run, a network, a cell of a table. So a job that is done again changes nothing, one whose
files are there ends at once, and whoever reads the files later finds what one process alone would have made.

A pool computes the jobs: `kip.runs.processes` has that of one machine, `kip.server.ray` that of a cluster. Both do a
job again elsewhere if its process is killed.

    OUT/jobs.json           what is done and what goes on, for `kip status`; it names the command by a token
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kip import config, data, experiment, preprocess
from kip.blocks import KernelBlocks
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.kernels import permission
from kip.progress import inner_stage, progress_bar, say
from kip.runs import folder, loop, stopping
from kip.runs.setup import check_data, fitted, problem_of
from kip.storage.artefacts import NotShared, Store
from kip.storage.files import atomic_write
from kip.storage.json_files import is_number, read_object
from kip.storage.locks import has_writer

LOGGER = logging.getLogger(__name__)
STATUS = "jobs.json"
EVERY = 1.0
"""Seconds between two writings of the status file."""


class Pool(Protocol):
    """Processes that compute. A job whose process is killed is computed by another one."""

    @property
    def size(self) -> int:
        """The number of jobs that are computed at the same time."""
        ...

    @property
    def workers(self) -> list[str]:
        """The processes or machines, for people."""
        ...

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Compute a function of a module; all arguments and the result are pickled."""
        ...

    def close(self) -> None:
        """Stop what goes on: a run saves its last whole step. Safe to call twice."""
        ...


class Job(NamedTuple):
    """A piece of work."""

    kind: str
    """The kind of its result: `run`, `teacher`, `cell`."""
    name: str
    """Its name, for people."""
    key: str
    """The name that it is known by: of two jobs with the same key one is computed."""
    function: Callable[..., Any]
    """A function of a module."""
    arguments: tuple[Any, ...]
    """Its arguments, which can be pickled."""
    after: tuple[str, ...] = ()
    """The keys of the jobs that come first."""
    folder: Path | None = None
    """The folder of a run, which says how far it is."""
    helper: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    """A function and its arguments that make a part of this job's work beside it, for processes without a job."""


class Command(NamedTuple):
    """The command that jobs belong to, as the processes need to know it."""

    token: str
    """The token in its status file, by which a process knows the command's folder."""
    out: Path
    """The folder of the command."""
    place: Path
    """The folder in which the command was started: paths of configurations may be relative."""
    permitted: tuple[str, ...]
    """The user's own functions that may be loaded."""


def work(command: Command, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Compute a job in a process of a pool.

    A signal that stops the process ends it, once a run has saved its last whole step.

    Raises:
        ConfigError: if the folder of the command is not there, as on a machine that does not share it.
    """
    with contextlib.suppress(OSError):
        os.chdir(command.place)
    if (read_object(command.out / STATUS) or {}).get("token") != command.token:
        raise ConfigError(
            f"the folder {command.out} on a worker's machine",
            got="another one than that of the command",
            expected="a folder that all machines share, at the same path",
            remedy="Name a folder on a shared disk with --out, and share the cache (KIP_CACHE_DIR) too.",
        )
    permission.permit(*command.permitted)
    try:
        with stopping.signals_stop():
            return function(*arguments)
    except stopping.Stopped as stop:
        os._exit(stop.status)  # the pool takes it as it takes a killed process


def compute(
    jobs: Iterable[Job],
    pool: Pool,
    out: Path,
    *,
    then: Callable[[Job], Iterable[Job]] = lambda job: (),
    show_progress: bool = False,
) -> None:
    """Compute jobs, as many at a time as the pool has processes; those that come first are begun first.

    Where a job fails, the others are computed all the same, but for those that come after it.

    Args:
        jobs: the jobs that are known at the beginning.
        pool: who computes them.
        out: the folder of the command, for the status file; all processes see it.
        then: called with each job that is done, and returns jobs that follow from it.
        show_progress: whether a bar is shown on stderr.

    Raises:
        KipError: the first that a job raised, after all others are done.
    """
    board = _Board(out, pool)
    command = Command(board.token, out, Path.cwd(), permission.permitted())
    waiting: dict[str, Job] = {}
    going_on: dict[Future[Any], Job] = {}
    helping: dict[Future[Any], str] = {}

    def add(more: Iterable[Job]) -> None:
        for job in more:
            if board.add(job):
                waiting[job.key] = job
        bar.expect(len(board.jobs))

    def begin() -> None:
        ready = [job for job in waiting.values() if board.done.issuperset(job.after)]
        free = pool.size - len(going_on) - len(helping)
        for job in ready[: max(0, free)]:
            del waiting[job.key]
            board.begun[job.key] = time.time()
            going_on[pool.submit(work, command, job.function, job.arguments)] = job
        for job in [job for job in going_on.values() if job.helper is not None] if not waiting else []:
            while len(going_on) + len(helping) < pool.size and board.helped.get(job.key, 0) < pool.size - 1:
                board.helped[job.key] = board.helped.get(job.key, 0) + 1
                assert job.helper is not None
                helping[pool.submit(work, command, *job.helper)] = job.key

    def end(future: Future[Any], job: Job) -> None:
        error = future.exception()
        board.begun.pop(job.key)
        if error is None:
            board.done.add(job.key)
            bar.update()
            add(then(job))
            return
        board.fail(job, getattr(error, "cause", None) or error)  # Ray's error has the job's own one as its cause
        while lost := [other for other in waiting.values() if board.failed.keys() & {*other.after}]:
            for other in lost:
                del waiting[other.key]
                board.fail(other, board.failed[job.key])

    with progress_bar(1, "jobs", shown=show_progress) as bar:
        add(jobs)
        board.write()
        while waiting or going_on:
            begin()
            assert going_on or helping, "jobs wait for others that nobody makes"
            wait([*going_on, *helping], timeout=EVERY, return_when=FIRST_COMPLETED)
            for future in [future for future in going_on if future.done()]:
                end(future, going_on.pop(future))
            for future in [future for future in helping if future.done()]:
                del helping[future]  # what it could not do, the job itself does, and says so
            bar.note(" | ".join(job.name for job in going_on.values()))
            board.write()
        board.write()
    if board.failed:
        raise next(iter(board.failed.values()))


class _Board:
    """The jobs that are done, that go on and that have failed; written into the status file."""

    def __init__(self, out: Path, pool: Pool):
        self.token = uuid.uuid4().hex
        self.jobs: dict[str, Job] = {}
        self.done: set[str] = set()
        self.begun: dict[str, float] = {}
        self.failed: dict[str, BaseException] = {}
        self.helped: dict[str, int] = {}
        self._path, self._pool, self._last = out / STATUS, pool, ""

    def add(self, job: Job) -> bool:
        """Add a job; return False if it is known."""
        is_new = job.key not in self.jobs
        self.jobs.setdefault(job.key, job)
        return is_new

    def fail(self, job: Job, error: BaseException) -> None:
        """Note that a job has failed, and say so at once: the others may take hours."""
        if error not in self.failed.values():
            say(f"kip: {job.kind} {job.name} failed: {error}")
        self.failed[job.key] = error

    def write(self) -> None:
        """Write the status file, if something has changed or a second has passed."""
        kinds = list(dict.fromkeys(job.kind for job in self.jobs.values()))
        jobs = self.jobs.values()
        content = {
            "token": self.token,
            "pid": os.getpid(),
            "time": int(time.time()),
            "kinds": [
                {
                    "kind": kind,
                    "done": sum(job.key in self.done for job in jobs if job.kind == kind),
                    "all": sum(job.kind == kind for job in jobs),
                }
                for kind in kinds
            ],
            "going_on": [
                {
                    "kind": self.jobs[key].kind,
                    "name": self.jobs[key].name,
                    "since": since,
                    "folder": None if self.jobs[key].folder is None else str(self.jobs[key].folder),
                }
                for key, since in self.begun.items()
            ],
            "failed": [{"name": self.jobs[key].name, "error": str(error)} for key, error in self.failed.items()],
            "workers": self._pool.workers,
        }
        text = json.dumps(content, indent=1) + "\n"
        if text != self._last:
            self._last = text
            atomic_write(self._path, lambda file: file.write(text.encode()))


_FIELDS: dict[str, tuple[str, ...]] = {
    "kinds": ("kind", "done", "all"),
    "going_on": ("kind", "name", "since"),
    "failed": ("name", "error"),
}
"""The lists of a status file, and the fields of their rows that `as_text` takes for granted."""


def status(out: Path) -> dict[str, Any] | None:
    """Return what the status file of a command's folder says, and whether the command goes on; None without one."""
    written = read_object(out / STATUS, ["time"])
    if written is None or not isinstance(written.get("workers"), list):
        return None
    for name, fields in _FIELDS.items():
        rows = written.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= {*fields} for row in rows):
            return None
    if not all(is_number(row["since"]) for row in written["going_on"]):
        return None
    running = has_writer(out)
    return {**written, "running": running, "going_on": written["going_on"] if running else []}


def as_text(progress: dict[str, Any]) -> str:
    """Return what `status` found, for people."""
    counts = ", ".join(f"{row['done']} of {row['all']} {row['kind']}s" for row in progress["kinds"])
    lines = [counts or "nothing to do"]
    if not progress["running"]:
        lines[0] += "; no process computes, and the same command goes on from there"
        if all(row["done"] == row["all"] for row in progress["kinds"]):
            lines[0] = f"ended: {counts}"
    for row in progress["going_on"]:
        lines.append(f"{row['kind']} {row['name']}, for {max(0.0, time.time() - row['since']):.0f} s")
    lines += [f"failed: {row['name']}: {row['error']}" for row in progress["failed"]]
    return "\n".join([*lines, *map(str, progress["workers"])])


class Order(NamedTuple):
    """An experiment to be run, as processes hand it to each other."""

    source: str
    """The name or file of its configuration."""
    text: str
    """The experiment with all changes, as JSON."""

    @classmethod
    def of(cls, source: str, wanted: Experiment) -> Order:
        """Return the order of an experiment."""
        return cls(source, json.dumps(wanted.to_dict()))

    def experiment(self) -> Experiment:
        """Return the experiment. The file of its configuration is loaded first: it may define the method's class."""
        if self.source.partition(":")[0].endswith(".py"):
            experiment.load(self.source)
        return config.from_json(Experiment, self.text, source=self.source)


def job_of_run(source: str, name: str, wanted: Experiment, out: Path, data_dir: Path | None) -> Job:
    """Return the job that runs an experiment to its end.

    Args:
        source: the name or file of the configuration.
        name: the run's name, for people.
        wanted: the experiment.
        out: the run's folder.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
    """
    order = Order.of(source, wanted)
    arguments = order, out, data_dir
    return Job("run", name, str(out), run, arguments, folder=out, helper=(prepare, (order, data_dir)))


def run(order: Order, out: Path, data_dir: Path | None) -> None:
    """Run an experiment to its end, if it was not yet; another process that runs it just now is waited for.

    Raises: as `kip.runs.loop.run`.
    """
    wanted = order.experiment()
    with inner_stage(f"waiting for another process that writes to {out}"):
        while has_writer(out):
            time.sleep(EVERY)
    if not folder.is_finished(out, wanted):
        loop.run(wanted, out, data_dir=data_dir)


def prepare(order: Order, data_dir: Path | None) -> None:
    """Make what runs share of an experiment's preparation, such as experts and recordings, and keep nothing else.

    Raises: as `kip.runs.loop.run`.
    """
    wanted = order.experiment()
    dataset = data.load(wanted.data, data_dir)
    wanted = fitted(wanted, dataset)
    check_data(wanted, dataset)
    transform = preprocess.fit(wanted.preprocess, dataset.train.images)
    with KernelBlocks(wanted.blocks) as blocks, tempfile.TemporaryDirectory() as own, contextlib.suppress(NotShared):
        problem = problem_of(wanted, dataset, transform, blocks, data_dir)
        wanted.method.prepare(problem, Store(Path(own), only_shared=True))


def short(source: str) -> str:
    """Return a configuration's name for a table: a file's without its folder and ending."""
    name, *changes = source.split(" ")
    return " ".join([Path(name).name.removesuffix(".py").removesuffix(".json"), *changes])


def file_name(source: str) -> str:
    """Return a folder's name for a configuration, without what some file systems refuse."""
    return "".join(letter if letter.isalnum() or letter in "-_.=+" else "-" for letter in short(source))
