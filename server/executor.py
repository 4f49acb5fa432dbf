"""The executor that runs tasks on workers; keeps the protocol `kip.blocks.Executor`.

Images travel once: X_s with the `begin` of each epoch, to each worker; targets never, where the workers hold the data
set and the caller says which images they are, and otherwise with `begin` too. A task is five numbers, and backward its
cotangent.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from kip import config
from kip.blocks import Images, LocalExecutor, Task
from kip.errors import ShapeError
from kip.server.member import Job, Link, Settings
from kip.server.scheduler import Scheduler
from kip.storage.artefacts import digest
from kip.workers.codec import Message, encode, encode_fields
from kip.workers.worker import versions


class RemoteExecutor:
    """Runs tasks on workers, through links that a transport made.

    Args:
        links: ways to the workers.
        configuration: the digest of what the run computes; a worker refuses tasks of another.
        recipe: what workers make target images from, as `kip.workers.targets.TargetRecipe` has it; None: they are sent.
        fingerprint: the fingerprint of the server's own data, which is compared with the workers'.
        settings: the scheduler's patience and limits.
        on_tick: called with this executor now and then while tasks run.
        on_close: ends what the transport started.
    """

    def __init__(
        self,
        links: Iterable[Link],
        *,
        configuration: str = "",
        recipe: dict[str, Any] | None = None,
        fingerprint: dict[str, Any] | None = None,
        settings: Settings | None = None,
        on_tick: Callable[[RemoteExecutor], None] = lambda executor: None,
        on_close: Callable[[], None] = lambda: None,
    ):
        self._run = uuid.uuid4().hex
        self._configuration = configuration
        self._recipe, self._fingerprint = recipe, fingerprint
        self._epochs = itertools.count(1)
        self.epoch = 0
        self._images: Images | None = None
        self._digests: dict[str, str] = {}
        self._kernel = ""
        """The step's kernel and sizes, in words."""
        self._shared = ""
        """The fields that all messages of the step's tasks have, encoded."""
        self._beginnings: dict[tuple[frozenset[str], bool], bytes] = {}
        """The step's encoded messages, by what they bring and whether the worker holds the data set."""
        self._on_close = on_close
        self._closed = False
        self.scheduler = Scheduler(links, self, settings=settings, on_tick=lambda: on_tick(self))

    @property
    def places(self) -> int:
        """The number of workers that are there, at least 1."""
        return max(1, sum(member.state == "live" for member in self.scheduler.members.values()))

    def begin(self, images: Images) -> None:
        """Note the step's images; workers get them when they get their first task."""
        self.epoch, self._images = next(self._epochs), images
        self._digests, self._beginnings, self._kernel, self._shared = {}, {}, "", ""

    def forward(self, tasks: Sequence[Task]) -> Iterator[np.ndarray]:
        """Yield each task's block of the kernel matrix, in order."""
        images = self._now()
        dtype, kind = images.support.dtype, self._kind("forward")
        jobs = (
            Job(
                lambda task=task: self._message("forward", task),
                task.shape,
                dtype,
                partial(_compute, images, task),
                (kind, task.shape),
            )
            for task in tasks
        )
        return self.scheduler.run(jobs, len(tasks))

    def backward(self, tasks: Sequence[Task], cotangents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield each task's gradient of its support columns, in order."""
        return self.scheduler.run(
            map(partial(self._backward_job, self._kind("backward")), tasks, cotangents), len(tasks)
        )

    def close(self) -> None:
        """Let go of the workers, and end those that the transport started."""
        if not self._closed:
            self._closed = True
            self.scheduler.close()
            self._on_close()

    def __enter__(self) -> RemoteExecutor:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def opening(self) -> bytes:
        """Return the message that opens the run on a worker."""
        fields = {
            "run": self._run,
            "configuration": self._configuration,
            "versions": versions(),
            "recipe": self._recipe,
            "fingerprint": self._fingerprint,
        }
        return encode(Message("open", fields))

    def beginning(self, held: frozenset[str], holds_data: bool) -> tuple[bytes, frozenset[str]]:
        """Return the message that begins the epoch, for a worker that holds these arrays, and what it holds after.

        It is encoded once for all workers that are told the same: with 256 of them, this was most of a step's time.
        """
        images, after = self._now(), {"support": self._digest("support")}
        if images.source is None or not holds_data:
            after["target"] = self._digest("target")
        lacks = frozenset(name for name, digest in after.items() if digest not in held)
        if (lacks, holds_data) not in self._beginnings:
            self._beginnings[lacks, holds_data] = encode(self._beginning(after, lacks))
        return self._beginnings[lacks, holds_data], frozenset(after.values())

    def _beginning(self, digests: dict[str, str], lacks: frozenset[str]) -> Message:
        """Return the message that names the arrays with these digests, and brings those that the worker lacks."""
        images = self._now()
        arrays = {name: np.asarray(getattr(images, name)) for name in sorted(lacks)}
        fields = {
            **self._names(),
            "kernel": config.to_dict(images.kernel),
            "dtype": images.support.dtype.name,
            "size": list(images.size),
            "implementation": images.implementation,
            **digests,
        }
        source = images.source
        if source is not None and "target" not in digests:
            rows = None if source.rows is None else list(source.rows)
            fields["source"] = {"split": source.split, "step": source.step, "rows": rows, "checksum": source.checksum}
            if source.indices is not None:
                arrays["indices"] = np.asarray(source.indices, np.int64)
        return Message("begin", fields, arrays)

    def _digest(self, name: str) -> str:
        """Return the digest of one of the step's arrays, taken once."""
        self._digests[name] = self._digests.get(name) or digest(np.asarray(getattr(self._now(), name)))
        return self._digests[name]

    def _names(self) -> dict[str, Any]:
        return {"run": self._run, "configuration": self._configuration, "epoch": self.epoch}

    def _message(self, kind: str, task: Task, **arrays: np.ndarray) -> bytes:
        self._shared = self._shared or encode_fields(self._names())
        (top, bottom), (left, right) = task.rows, task.columns
        numbers = f'{self._shared}, "task": ["{task.matrix}", {top}, {bottom}, {left}, {right}]'
        return encode(Message(kind, {}, arrays), shared=numbers)

    def _backward_job(self, kind: str, task: Task, cotangent: np.ndarray) -> Job:
        images = self._now()
        shape = (task.shape[1], *images.support.shape[1:])
        bar = np.asarray(cotangent, images.support.dtype)
        if bar.shape != task.shape:
            raise ShapeError(f"cotangent of {task}", got=bar.shape, expected=f"{task.shape}")
        return Job(
            lambda: self._message("backward", task, cotangent=bar),
            shape,
            images.support.dtype,
            partial(_compute, images, task, bar),
            (kind, task.shape),
        )

    def _kind(self, what: str) -> str:
        """Return what tasks of one shape have to share beside it to take about the same time."""
        if not self._kernel:
            images = self._now()
            self._kernel = f"{images.kernel} {images.support.shape} {images.support.dtype}"
        return f"{what} {self._kernel}"

    def _now(self) -> Images:
        if self._images is None:
            raise RuntimeError("tasks come after begin")
        return self._images


def _compute(images: Images, task: Task, *cotangent: np.ndarray) -> np.ndarray:
    """Compute a task here, to check what a worker made of it."""
    with LocalExecutor(jax.local_devices()[:1]) as local:
        local.begin(images)
        (result,) = local.backward([task], cotangent) if cotangent else local.forward([task])
    return np.asarray(result)
