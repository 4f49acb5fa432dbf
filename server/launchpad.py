"""Runs as launchpad programs: the paper's server and its workers, one process each. The only importer of launchpad.

    program(...)     a `launchpad.Program` with the groups `server` and `worker`, for any of launchpad's launch types
    distill(...)     that program as local processes, from its start to the run's result

The server node runs the loop of `kip.runs.loop`; worker nodes connect to it. Launchpad starts the processes and gives
the server its address. Bytes travel through `kip.server.router` and not through launchpad's Courier, whose server
(0.5.2) listens on every interface and asks nobody who they are.

Launchpad has wheels for CPython 3.10 and older only: `pip install 'kip-distillation[launchpad]'`.
"""

# pyright: reportAttributeAccessIssue=false
# It takes `import launchpad` for this file.

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kip import config
from kip.errors import KipError, MissingExtraError, WorkerError
from kip.experiment import Experiment
from kip.runs import loop as train
from kip.runs.loggers import LoggerName
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.server.keyring import Keyring
from kip.server.member import Settings
from kip.server.router import Router
from kip.workers.connect import parse_address, serve, watch
from kip.workers.keys import read_key
from kip.workers.worker import Worker

try:
    import launchpad as lp
    from absl import flags
    from launchpad.nodes import base
except ImportError as error:
    raise MissingExtraError(
        "launchpad is not installed",
        got=str(error),
        remedy="On CPython 3.10, run `pip install 'kip-distillation[launchpad]'`; elsewhere, use `--executor zmq`.",
    ) from error

NODES = "launchpad"
"""The folder of launchpad's pickles of the nodes while they run, in the run's folder."""
OUTCOME = "outcome.json"
"""The file, in the run's folder, in which the server node leaves what the launching process is to say."""


@dataclasses.dataclass(frozen=True)
class Order:
    """The settings that the nodes of a program need; they travel to them as launchpad's own pickle, and holds no
    secret.

    Attributes:
        experiment: `config.json`'s text.
        out: the run's folder.
        data_dir: where `NAME.npz` is, on every node; None: $KIP_DATA_DIR.
        key_files: the workers' keys, one for each, on every node; they are made before the nodes start.
        listen: the server's host and port; None: loopback, at the port that launchpad chose.
        launcher: the process that all nodes follow when it ends; None where it is on another machine.
        settings: the scheduler's.
        log: loggers that are told of the run, by name.
    """

    experiment: str
    out: str
    data_dir: str | None
    key_files: tuple[str, ...]
    listen: tuple[str, int] | None = None
    launcher: int | None = None
    settings: Settings | None = None
    log: tuple[LoggerName, ...] = ()

    @property
    def folder(self) -> Path | None:
        """The data folder."""
        return None if self.data_dir is None else Path(self.data_dir)


class _Server:
    """The server node: the loop."""

    def __init__(self, order: Order, address: lp.Address):
        self._order, self._address = order, address

    def run(self) -> None:
        order, out = self._order, Path(self._order.out)
        _own_output(out, "server")
        os.environ.setdefault(service.PREALLOCATE, "false")
        stop = threading.Event()
        watch(stop, order.launcher)
        lp.register_stop_handler(_leave)
        try:
            outcome: dict[str, Any] = {"result": self._distill()._asdict()}
        except KipError as error:
            outcome = {"error": str(error), "kind": type(error).__name__}
        stop.set()
        (out / OUTCOME).write_text(json.dumps(outcome))

    def _distill(self) -> train.Result:
        order, out = self._order, Path(self._order.out)
        experiment = service.ordered(order.experiment)
        host, port = order.listen or ("127.0.0.1", lp.get_port_from_address(self._address.resolve()))
        introduction = service.introduction(experiment, order.folder)
        with service.log_file(out):
            router = Router(Keyring(out), host, port)
            executor = RemoteExecutor(
                [], **introduction, settings=order.settings, on_tick=service.StatusFile(out), on_close=router.close
            )
            router.open(executor.scheduler.join, executor.scheduler.leave)
            return service.run(experiment, out, executor, data_dir=order.folder, log=order.log)


class _Worker:
    """A worker node: connects to the server and computes."""

    def __init__(self, order: Order, number: int, server: str):
        self._order, self._number, self._server = order, number, server

    def run(self) -> None:
        order = self._order
        _own_output(Path(order.out), f"worker-{self._number}")
        stop = threading.Event()
        watch(stop, order.launcher, exits=True)
        lp.register_stop_handler(lambda *signal: stop.set())
        experiment = service.ordered(order.experiment)
        worker = Worker(data_dir=order.folder, stax=service.stax_functions(experiment))
        address = parse_address(self._server)
        if order.listen:
            address = (address[0], order.listen[1])
        serve(worker, address, read_key(Path(order.key_files[self._number])), stop=stop)


class _ServerHandle(base.Handle):
    """The server's address, as `HOST:PORT`."""

    def __init__(self, address: lp.Address):
        self._address = address

    def dereference(self) -> str:
        return self._address.resolve()


class _ServerNode(lp.PyClassNode):
    """The node of `_Server`, which owns the program's one address."""

    def __init__(self, order: Order):
        self._server_address = lp.Address("kip")
        super().__init__(_Server, order, self._server_address)
        self.allocate_address(self._server_address)

    def create_handle(self) -> _ServerHandle:
        return self._track_handle(_ServerHandle(self._server_address))


def program(order: Order, workers: int) -> lp.Program:
    """Return the launchpad program of a run: the groups `server`, with one node, and `worker`.

    Args:
        order: what to run. For nodes on several machines: `listen` with an address that the workers can reach (a host
            of `0.0.0.0` listens on all), `launcher` None, and `out` and `data_dir` as every machine has them.
        workers: nodes in the group `worker`; others may join with `kip worker`.
    """
    made = lp.Program("kip")
    with made.group("server"):
        server = made.add_node(_ServerNode(order))
    _add_workers(made, order, workers, server)
    return made


def _add_workers(made: lp.Program, order: Order, workers: int, server: Any) -> None:
    if not workers:
        return  # launchpad has no empty groups
    with made.group("worker"):
        for number in range(workers):
            made.add_node(lp.PyClassNode(_Worker, order, number, server))


def executor(
    experiment: Experiment, out: Path, *, workers: int, data_dir: Path | None = None, settings: Settings | None = None
) -> RemoteExecutor:
    """Return an executor of this process, whose worker group launchpad starts as local processes.

    `distill` is the paper's shape, with the server as a node too; this is for programs of one's own.

    Args:
        experiment: what the workers take targets from, and which functions of `Stax` kernels they may load.
        out: where the workers' output goes, into `logs`.
        workers: worker processes.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        settings: the scheduler's.
    """
    out = Path(out).absolute()
    service.stax_functions(experiment)  # refuses those that nobody permits
    keyring = Keyring(out)
    router = Router(keyring)
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    key_files = tuple(map(str, keyring.local(workers)))
    order = Order(json.dumps(config.to_dict(experiment)), str(out), folder, key_files, launcher=os.getpid())
    made = lp.Program("kip-workers")
    _add_workers(made, order, workers, f"{router.address[0]}:{router.address[1]}")
    manager = _launch(made, out)

    def close() -> None:
        router.close()
        with contextlib.redirect_stdout(sys.stderr):
            manager.stop_and_wait()
        shutil.rmtree(out / NODES, ignore_errors=True)

    introduction = service.introduction(experiment, data_dir)
    remote = RemoteExecutor([], **introduction, settings=settings, on_close=close)
    router.open(remote.scheduler.join, remote.scheduler.leave)
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
) -> train.Result:
    """Run an experiment to its end, with a server and workers as processes of this machine.

    Args:
        experiment: what to run.
        out: the run's folder; the nodes' output goes to its `logs`.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        workers: worker processes.
        listen: host and port for further workers; None: loopback, any port.
        settings: the scheduler's.
        log: loggers that are told of the run, by name.

    Raises:
        KipError: what the server says; `WorkerError` if it died without a word.
        KeyboardInterrupt: after Ctrl-C, once all processes have ended.
    """
    out = Path(out).absolute()
    service.stax_functions(experiment)  # refuses those that nobody permits
    out.mkdir(parents=True, exist_ok=True)
    (out / OUTCOME).unlink(missing_ok=True)
    key_files = tuple(map(str, Keyring(out).local(workers)))
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    text = json.dumps(config.to_dict(experiment))
    order = Order(text, str(out), folder, key_files, listen, os.getpid(), settings or Settings(), tuple(log))
    manager = _launch(program(order, workers), out)
    with contextlib.redirect_stdout(sys.stderr):  # launchpad prints
        try:
            manager.wait(["server/0"])
            interrupted = manager.stop_event().is_set()
        finally:
            manager.stop_and_wait()
            shutil.rmtree(out / NODES, ignore_errors=True)
    try:
        outcome = json.loads((out / OUTCOME).read_text())
    except (OSError, json.JSONDecodeError):
        if interrupted:
            raise KeyboardInterrupt from None
        raise WorkerError(
            "server",
            "the server process ended without a result",
            remedy=f"{out / 'logs' / 'server.log'} says why. The same command resumes from the last checkpoint.",
        ) from None
    (out / OUTCOME).unlink()
    if "error" in outcome:
        raise _said(outcome)
    return train.Result(**outcome["result"])


def _launch(made: lp.Program, out: Path) -> Any:
    """Start a program's processes. Its pickles go into the run's folder: where this process is killed, launchpad leaves
    them, and the next start removes them.
    """
    shutil.rmtree(out / NODES, ignore_errors=True)
    (out / NODES).mkdir(mode=0o700, parents=True)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["kip"], known_only=True)
    before, tempfile.tempdir = tempfile.tempdir, str(out / NODES)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return lp.launch(made, launch_type=lp.LaunchType.LOCAL_MULTI_PROCESSING, terminal="current_terminal")
    finally:
        tempfile.tempdir = before


def _said(outcome: dict[str, Any]) -> KipError:
    """An error with the server's words, of the class that it had there."""
    from kip import errors

    kind = getattr(errors, outcome["kind"], KipError)
    words = outcome["error"].rstrip(".")
    return WorkerError("server", words) if kind is WorkerError else kind(words)


def _leave(*signal: Any) -> None:
    raise SystemExit(130)


def _own_output(out: Path, name: str) -> None:
    """Send this process's output to a file of the run; nodes share a terminal otherwise."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    log = os.open(out / "logs" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    logging.basicConfig(format="kip: %(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
