"""Workers as Ray actors, and jobs as Ray tasks, one for each GPU: on this machine, or on a cluster that runs.

This is the only importer of ray. Ray starts the processes, starts them anew where they die, and moves the bytes. Its
own messages, around ours, are pickled: open a cluster's ports to nobody who may not run code there.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kip.errors import ConfigError, MissingExtraError
from kip.experiment import Experiment
from kip.runs import loop as train
from kip.runs.loggers import LoggerName
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.codec import MOST
from kip.workers.worker import Worker

LOGGER = logging.getLogger(__name__)

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable that makes a cluster live on 127.0.0.1: its default on Windows and macOS, to be asked for on Linux.
Ray reads it when it is imported; it turns `ray.init(_node_ip_address="127.0.0.1")` into the machine's outer address."""
AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
"""Ray's variables (2.52 and later; older versions ignore them) that have every process of a cluster show a token."""
MESSAGES = 4
"""Messages that an actor handles at a time."""
RETRIES = 3
"""The number of times that a task is computed again after its process or machine has died."""
ENDING = 10.0
"""The seconds that tasks have to save what they do, once they are interrupted."""


class RayLink:
    """One actor. It is no machine that comes back in the run's next life, so that its key is of this life alone."""

    def __init__(self, name: str, actor: Any):
        self.name, self.key = name, f"{name}-{uuid.uuid4().hex[:8]}"
        self.actor = actor

    def send(self, payload: bytes, *, most: int = MOST) -> Future[bytes]:
        """Send a message; the future fails if the actor dies, and Ray starts it anew."""
        return self.actor.handle.remote(payload).future()

    def close(self, why: str = "") -> None:
        """End the actor."""
        with contextlib.suppress(Exception):
            importlib.import_module("ray").kill(self.actor)


class _Actor:
    """The worker's process."""

    def __init__(self, data_dir: str | None, stax: tuple[str, ...]):
        self._worker = Worker(data_dir=None if data_dir is None else Path(data_dir), stax=stax)

    def handle(self, payload: bytes) -> bytes:
        return self._worker.handle(payload)

    def pid(self) -> int:
        return os.getpid()


def links(
    workers: int, *, data_dir: Path | None = None, stax: tuple[str, ...] = (), address: str | None = None
) -> tuple[list[RayLink], Callable[[], None]]:
    """Start actors, and return links to them and the function that lets go of Ray.

    Args:
        workers: how many actors. Each takes one GPU; where the cluster has fewer GPUs than that, an equal share
            of one; and where it has none, one CPU.
        data_dir: where `NAME.npz` is on the actors' machines; None: $KIP_DATA_DIR.
        stax: the user's own functions that the workers may load.
        address: the address of a cluster that runs (`auto`, `HOST:6379`, `ray://HOST:10001`); None starts one on this
            machine, on loopback, which ends with the run.

    Raises:
        ConfigError: if there is no such cluster.
    """
    ray = _ray(loopback=address is None)
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, workers, address)
    share = share_of_actor(int(ray.cluster_resources().get("GPU", 0)), workers)
    shared = 0 < share.get("num_gpus", 0) < 1
    if shared:
        LOGGER.warning("%d workers share the cluster's GPUs, %s of one each", workers, share["num_gpus"])
    kind = ray.remote(_Actor).options(
        max_restarts=-1,
        max_task_retries=0,  # the scheduler sends a task elsewhere
        max_concurrency=MESSAGES,
        runtime_env={"env_vars": _environment(shared)},
        **share,
    )
    folder = None if data_dir is None else str(Path(data_dir).absolute())
    made = [RayLink(f"actor-{number}", kind.remote(folder, stax)) for number in range(workers)]
    return made, ray.shutdown if begun else lambda: None


def _environment(shared: bool) -> dict[str, str]:
    """Return the variables of Ray's processes that compute.

    Args:
        shared: whether several of them have one GPU.
    """
    return {
        # Ray sets this to the process's share of CPUs, and then NumPy's products may differ in their last bits.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)),
        service.PREALLOCATE: os.environ.get(service.PREALLOCATE, "false" if shared else "true"),
        **{name: os.environ[name] for name in ("KIP_DATA_DIR", "KIP_CACHE_DIR") if name in os.environ},
    }


class Tasks:
    """Jobs as Ray tasks, one device each; keeps the protocol `kip.runs.jobs.Pool`.

    Ray computes a task again elsewhere if its process or its machine dies.

    Args:
        address: the address of a cluster that runs; None starts one on this machine, which ends with `close`.
        device_share: the part of a GPU that each task takes; where the cluster has no GPU, each takes one CPU.

    Raises:
        ConfigError: if there is no such cluster.
        MissingExtraError: if ray is not installed.
    """

    def __init__(self, *, address: str | None = None, device_share: float = 1.0):
        self._ray = _ray(loopback=address is None)
        self._begun = not self._ray.is_initialized()
        if self._begun:
            _connect(self._ray, 1, address)
        self._share = device_share
        has_gpus = self._resource("GPU") > 0
        of_task = {"num_gpus": device_share, "num_cpus": 0} if has_gpus else {"num_cpus": 1}
        self._remote = self._ray.remote(_call).options(
            max_retries=RETRIES,
            runtime_env={"env_vars": _environment(has_gpus and device_share < 1)},
            **of_task,
        )
        self._going_on: list[Any] = []

    @property
    def size(self) -> int:
        """The number of tasks that the cluster has devices for now, at least 1; machines may come and go."""
        gpus = self._resource("GPU")
        return max(1, int(gpus) * int(1 / self._share + 1e-9) if gpus else int(self._resource("CPU")))

    @property
    def workers(self) -> list[str]:
        """The machines of the cluster, each with its devices."""
        lines = []
        for node in self._ray.nodes():
            if node["Alive"]:
                counts = {kind: int(node["Resources"].get(kind, 0)) for kind in ("GPU", "CPU")}
                devices = ", ".join(f"{kind}s: {count}" for kind, count in counts.items() if count)
                lines.append(f"machine {node['NodeManagerAddress']}, {devices or 'without a device'}")
        return lines

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        """Compute a function of a module in a process of the cluster."""
        task = self._remote.remote(function, arguments)
        self._going_on = [*(other for other in self._going_on if not _is_done(self._ray, other)), task]
        return task.future()

    def close(self) -> None:
        """Interrupt the tasks, of which a run saves its last whole step, and let go of Ray. Safe to call twice."""
        left, self._going_on = [task for task in self._going_on if not _is_done(self._ray, task)], []
        for task in left:
            self._ray.cancel(task)
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=ENDING)
        if self._begun:
            self._begun = False
            self._ray.shutdown()

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _resource(self, name: str) -> float:
        return float(self._ray.cluster_resources().get(name, 0))


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _is_done(ray: Any, task: Any) -> bool:
    return bool(ray.wait([task], timeout=0)[0])


def share_of_actor(gpus: int, workers: int) -> dict[str, float]:
    """Return what Ray is asked for each actor, so that all of them run at the same time.

    Args:
        gpus: in the cluster.
        workers: how many actors.

    >>> share_of_actor(0, 2), share_of_actor(8, 2), share_of_actor(2, 4)
    ({'num_cpus': 1}, {'num_gpus': 1, 'num_cpus': 0}, {'num_gpus': 0.5, 'num_cpus': 0})
    """
    if gpus == 0:
        return {"num_cpus": 1}
    actors_of_a_gpu = -(-workers // gpus)
    return {"num_gpus": 1 if actors_of_a_gpu == 1 else 1 / actors_of_a_gpu, "num_cpus": 0}


def distill(
    experiment: Experiment,
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int = 1,
    address: str | None = None,
    settings: Settings | None = None,
    log: Sequence[LoggerName] = (),
    show_progress: bool = True,
) -> train.Result:
    """Run an experiment to its end, with its tasks on Ray actors.

    Args:
        experiment: what to run.
        out: the run's folder.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        workers: how many actors.
        address: the address of a cluster that runs; None starts one on this machine.
        settings: the scheduler's.
        log: loggers that are told of the run, by name.
        show_progress: whether to draw a progress bar on stderr.

    Raises:
        KipError: as `kip.runs.loop.run`, and where no worker is there.
    """
    out = Path(out)
    introduction = service.introduction(experiment, data_dir)
    made, close = links(workers, data_dir=data_dir, stax=service.stax_functions(experiment), address=address)
    os.environ.setdefault(service.PREALLOCATE, "false")  # of this process alone: the actors have theirs
    with service.log_file(out):
        executor = RemoteExecutor(
            made, **introduction, settings=settings, on_tick=service.StatusFile(out), on_close=close
        )
        return service.run(experiment, out, executor, data_dir=data_dir, log=log, show_progress=show_progress)


def _ray(*, loopback: bool) -> Any:
    """Import ray; where it is the first to, so that a cluster of its own listens on loopback only."""
    if loopback and "ray" not in sys.modules:
        os.environ[LOOPBACK_ONLY] = "0"  # stays: Ray's own processes read it too
        if AUTH_MODE not in os.environ:  # for the cluster that this process starts, and no other
            os.environ[AUTH_MODE] = "token"
            os.environ.setdefault(AUTH_TOKEN, secrets.token_hex(32))
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError(
            "ray is not installed", got=str(error), remedy="Run `pip install 'kip-distillation[ray]'`."
        ) from error


def _connect(ray: Any, workers: int, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": f"kip-{uuid.uuid4().hex}"}
    try:
        if address is None:
            # `local`, because Ray would else look for the last cluster that was started on this machine.
            cpus = max(workers, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster at {address or 'this machine'}",
            got=str(error)[:200],
            remedy="`ray start --head` starts one; without --address, kip starts its own.",
        ) from error
